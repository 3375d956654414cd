"""Imports that are uploaded: what is kept of each, and of its file until that is imported."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Literal, NamedTuple, Protocol

import msgspec

from knownas.model import App, AppId

State = Literal["uploading", "waiting", "running", "done", "failed", "cancelled"]
"""`uploading`: its file is not here in whole yet. `waiting`: it is, and nobody imports it yet.
`failed`: it could not be read to its end, or nobody went on with it."""

ENDED: Final[frozenset[State]] = frozenset({"done", "failed", "cancelled"})
"""States after which nothing comes."""


class Plan(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a file is to be imported."""

    format: str | None = None
    """None: what its content says."""
    dry_run: bool = False
    atomic: bool = False
    on_error: Literal["skip", "stop"] = "skip"


class Progress(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far an import has come."""

    done: int = 0
    of: int = 0
    """What there is to do, in the unit of `done`: bytes, or rows of a Parquet file."""
    rows: int = 0
    """Rows that were done since `since`."""
    since: int = 0


class Import(msgspec.Struct, frozen=True, omit_defaults=True):
    """One import."""

    id: str
    created_at: int
    name: str = ""
    """Of the file, as whoever sends it has it."""
    plan: Plan = Plan()
    state: State = "uploading"
    size: int | None = None
    """Bytes of the whole file, where that is known."""
    received: int = 0
    """Bytes that are here."""
    changed_at: int = 0
    progress: Progress = Progress()
    report: dict[str, Any] | None = None
    """What came of it, once it has ended."""
    failure: str | None = None
    lease: str = ""
    """Who appends to it, or imports it, until `lease_until`."""
    lease_until: int = 0

    @property
    def rows_per_second(self) -> int:
        """How fast rows were imported, up to when it was changed last; 0 where none were."""
        seconds = max(self.changed_at - self.progress.since, 1) / 1_000
        return round(self.progress.rows / seconds)

    def let_go(self, lease: str) -> "Import":
        """Return it without its lease, if it is that one: others may go on at once."""
        if self.lease != lease:
            return self
        return msgspec.structs.replace(self, lease="", lease_until=0)


class OfApp(NamedTuple):
    """An import with its app."""

    app: App
    found: Import


class Imports(Protocol):
    """The part of `knownas.storage.Storage` that is about uploaded imports."""

    async def add(self, app: AppId, new: Import, *, most: int) -> None:
        """Keep a new import.

        Raises TooManyImports where the app has `most` that have not ended, and Unauthorized where
        it was deleted.
        """
        ...

    async def get(self, app: AppId, import_id: str) -> Import | None:
        """Return an import of an app."""
        ...

    async def all(self, app: AppId, limit: int) -> list[Import]:
        """Return an app's imports, the newest first."""
        ...

    async def change(
        self, app: AppId, import_id: str, change: Callable[[Import], Import]
    ) -> Import | None:
        """Replace an import by `change(import)` in one transaction; return what is kept.

        None: there is no such import. `change` is pure and quick, and may run in another thread,
        and more than once; what it raises is raised here, and nothing is written.
        """
        ...

    async def delete(self, app: AppId, import_id: str) -> None:
        """Forget an import, and its file. Deleting none is a no-op."""
        ...

    async def unended(self) -> list[OfApp]:
        """Return the imports of all apps that have not ended, the oldest first."""
        ...

    async def put_piece(self, app: AppId, import_id: str, start: int, piece: bytes) -> None:
        """Keep a piece of a file, in the place of all that is there from `start` on.

        Raises InsufficientStorage where there is no space for it beside the database.
        """
        ...

    async def drop_file(self, app: AppId, import_id: str) -> None:
        """Delete what is here of a file."""
        ...

    def file(self, app: AppId, import_id: str) -> AbstractAsyncContextManager[str]:
        """Give the path of a whole file on this machine, as long as the context lasts.

        Raises FileNotFoundError where it is gone.
        """
        ...

    async def prune(self, *, before: int) -> None:
        """Delete imports that have ended before a time, and files that belong to none."""
        ...
