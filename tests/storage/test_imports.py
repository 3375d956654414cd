"""Uploaded imports in both databases, by the test's own clock: leases, what is given up, files."""

import asyncio
import contextlib
import itertools
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from knownas import bootstrap
from knownas.erasing import Subjects
from knownas.errors import InsufficientStorage, UploadConflict
from knownas.imports import Import, Plan
from knownas.model import App
from knownas.storage import Storage, sqlite_imports
from knownas.transfer.uploaded import LEASE_MS, Worker
from knownas.uploads import KEPT_MS, UPLOAD_MS, Uploads
from knownas.vault import Vault
from storage.conftest import BACKENDS, Open

numbers = itertools.count(1)


def rows(count: int) -> bytes:
    """Return a CSV file of customers."""
    lines = [f"u-{number},b-{number}" for number in range(count)]
    return "\n".join(["customer_user_id,branch_id", *lines, ""]).encode()


class Case:
    """An app, its uploads and a worker, at a time that the test sets."""

    def __init__(self, storage: Storage, app: App) -> None:
        """Begin at 1."""
        self.storage = storage
        self.app = app
        self.now = 1
        self.uploads = Uploads(
            storage, most_bytes=1_000, clock=lambda: self.now, new_uuid=uuid.uuid4
        )
        self.worker = Worker(storage, Subjects(Vault("", {})), lambda: self.now)

    async def uploaded(self, content: bytes) -> Import:
        """Return an import whose file is here."""
        new = await self.uploads.begin(self.app.id, "", Plan(), None)
        return await self.uploads.append(self.app.id, new.id, 0, content, is_last=True)

    async def get(self, import_id: str) -> Import:
        """Return an import."""
        return await self.uploads.get(self.app.id, import_id)


Run = Callable[[Callable[[Case], Awaitable[None]]], None]
"""Runs a test."""


@pytest.fixture(params=BACKENDS)
def run(request: pytest.FixtureRequest) -> Run:
    """Run a test with a case on a database of each kind."""
    opens: Open = BACKENDS[request.param](request)

    def run_with(test: Callable[[Case], Awaitable[None]]) -> None:
        async def running() -> None:
            storage = await opens()
            try:
                name = f"app-{next(numbers)}"
                await test(Case(storage, await storage.create_app(name, name, now=1)))
            finally:
                await storage.close()

        asyncio.run(running())

    return run_with


def test_leases(run: Run) -> None:
    """What one imports no other does, until its lease has run out."""

    async def test(case: Case) -> None:
        found = await case.uploaded(rows(3))
        held = msgspec.structs.replace(found, state="running", lease="x", lease_until=case.now + 5)
        await case.storage.imports.change(case.app.id, found.id, lambda _: held)
        assert not await case.worker.is_wanted()
        assert not await case.worker.work()
        case.now += LEASE_MS
        assert await case.worker.is_wanted()
        assert await case.worker.work()
        after = await case.get(found.id)
        assert (after.state, after.lease, after.report and after.report["new"]) == ("done", "", 3)
        assert not await case.worker.work()

    run(test)


def test_cancelled_meanwhile(run: Run) -> None:
    """An import that is cancelled while it goes on stops, and its file is gone."""

    async def test(case: Case) -> None:
        worker = case.worker._replace(renew_seconds=0.01)
        case.uploads.most_bytes = 10_000_000
        found = await case.uploaded(rows(60_000))
        working = asyncio.create_task(worker.work())
        while (await case.get(found.id)).state != "running":
            await asyncio.wait({working}, timeout=0.01)
        await case.uploads.cancel(case.app.id, found.id)
        assert await working
        assert (await case.get(found.id)).state == "cancelled"
        assert await case.storage.count_profiles(case.app.id) < 60_000
        with contextlib.suppress(FileNotFoundError):
            async with case.storage.imports.file(case.app.id, found.id):
                pytest.fail("the file is there")

    run(test)


def test_given_up_and_forgotten(run: Run) -> None:
    """An upload that rests for a day is given up; what came of an import is known for a month."""

    async def test(case: Case) -> None:
        new = await case.uploads.begin(case.app.id, "", Plan(), None)
        await case.uploads.append(case.app.id, new.id, 0, b"half", is_last=False)
        case.now += UPLOAD_MS - 1
        await case.worker.keep_up()
        assert (await case.get(new.id)).state == "uploading"
        case.now += 1
        await case.worker.keep_up()
        given_up = await case.get(new.id)
        assert (given_up.state, given_up.failure) == (
            "failed",
            "The rest of its file did not come within a day.",
        )
        case.now += KEPT_MS + 1
        await case.worker.keep_up()
        assert await case.uploads.all(case.app.id) == []

    run(test)


def test_two_send_the_same_piece(run: Run) -> None:
    """Of two that append at one place, one is refused, and the file has the other's piece."""

    async def test(case: Case) -> None:
        new = await case.uploads.begin(case.app.id, "", Plan(), None)
        answers = await asyncio.gather(
            *(
                case.uploads.append(case.app.id, new.id, 0, piece, is_last=False)
                for piece in (b"a" * 10, b"b" * 20)
            ),
            return_exceptions=True,
        )
        [taken] = [one for one in answers if isinstance(one, Import)]
        [refused] = [one for one in answers if isinstance(one, UploadConflict)]
        assert refused.offset in {0, taken.received}
        # A writer that has died is waited for no longer.
        held = msgspec.structs.replace(taken, lease="x", lease_until=case.now + 5)
        await case.storage.imports.change(case.app.id, new.id, lambda _: held)
        with pytest.raises(UploadConflict):
            await case.uploads.append(case.app.id, new.id, taken.received, b"c", is_last=False)
        case.now += 6
        last = await case.uploads.append(case.app.id, new.id, taken.received, b"", is_last=True)
        assert (last.state, last.size) == ("waiting", taken.received)

    run(test)


def test_deleted_app_leaves_no_file(run: Run) -> None:
    """With an app go its imports, and what was uploaded for it."""

    async def test(case: Case) -> None:
        found = await case.uploaded(rows(3))
        await case.storage.delete_app(case.app.id)
        assert not await case.worker.work()
        with contextlib.suppress(FileNotFoundError):
            async with case.storage.imports.file(case.app.id, found.id):
                pytest.fail("the file is there")

    run(test)


def test_full_disk_takes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no space for a piece beside the database, nothing of it stays."""

    async def test() -> None:
        storage = bootstrap.open_storage(f"sqlite:///{tmp_path}/knownas.db")
        case = Case(storage, await storage.create_app("full", "full", now=1))
        new = await case.uploads.begin(case.app.id, "", Plan(), None)
        await case.uploads.append(case.app.id, new.id, 0, b"half", is_last=False)
        with monkeypatch.context() as patch:
            patch.setattr(sqlite_imports, "RESERVE_BYTES", 2**62)
            with pytest.raises(InsufficientStorage):
                await case.uploads.append(case.app.id, new.id, 4, b"rest", is_last=True)
        [file] = (tmp_path / "knownas.db-imports").iterdir()
        assert file.read_bytes() == b"half"
        assert file.stat().st_mode & 0o777 == 0o600
        last = await case.uploads.append(case.app.id, new.id, 4, b"rest", is_last=True)
        assert last.state == "waiting"
        await storage.close()

    asyncio.run(test())
