"""Erasing persons and answering for it: every use case of erasure and access, one method each."""

import asyncio
import contextlib
import uuid
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from knownas import access, ledger, receipts, replaying, signing
from knownas.access import Export
from knownas.erasing import (
    LOCKED,
    Erasure,
    Person,
    Record,
    Subjects,
    Tombstone,
    Whom,
)
from knownas.errors import ErasureNotFound, FeatureNotConfigured
from knownas.history import SERVER, Source
from knownas.ledger import Entry
from knownas.model import App, ProfileRef
from knownas.receipts import Receipt
from knownas.replaying import Replayed
from knownas.storage import Storage
from knownas.vault import Vault, VaultError

HOUR_MS: Final = 3_600_000

_NO_LEDGER: Final = (
    "Erasing needs a ledger outside the database, and the server has none: its operator sets "
    "KNOWNAS_ERASURE_LEDGER to the path of a file."
)


class Signed(NamedTuple):
    """A receipt as it is now."""

    receipt: Receipt
    text: str
    """The receipt and its signature; see `knownas.receipts`."""


class Erased(NamedTuple):
    """One person, who is gone."""

    person: Person
    """Kept nowhere but here."""
    signed: Signed


class Checked(NamedTuple):
    """A name that was erased."""

    name: str
    erased_at: int
    revived_at: int | None


class Eraser:
    """All that there is to do about persons who are to be erased, over one storage."""

    def __init__(  # noqa: PLR0913 - what it works with
        self,
        storage: Storage,
        vault: Vault,
        *,
        ledger_path: str,
        hours: int,
        clock: Callable[[], int],
        new_uuid: Callable[[], uuid.UUID],
    ) -> None:
        """Erase from `storage`; "" as the ledger's path stands for that which the storage names.

        What is the server's to do after an erasure is done within so many hours.
        """
        self._storage = storage
        self._vault = vault
        self._subjects = Subjects(vault)
        self.ledger_path = ledger_path or storage.erasures.ledger_beside or ""
        self._hours = hours
        self._clock = clock
        self._new_uuid = new_uuid
        self._signing_key: bytes | None = None
        self._is_wanted = asyncio.Event()

    # --- one person ---------------------------------------------------------------------------

    async def person(self, app: App, whom: Whom) -> Person:
        """Return all that there is of a person.

        Raises ProfileNotFound, ProfileConflict, and IdentifierShared.
        """
        return await self._storage.erasures.person(app.id, whom)

    async def export(self, app: App, ref: ProfileRef) -> Export:
        """Return all that is kept of a person, for them to see. Raises as `person`."""
        return await access.export(self._storage, app, ref, self._clock())

    async def erase(self, app: App, whom: Whom, *, by: Source = SERVER) -> Erased:
        """Erase a person, and return who it was with the receipt.

        The ledger has it before the database. Raises as `person`, and FeatureNotConfigured without
        a ledger or a master key.
        """
        if not self.ledger_path:
            raise FeatureNotConfigured(_NO_LEDGER)
        await self._key()
        sealed = await self._subjects_key(app)
        erasure_id = str(self._new_uuid())
        now = self._clock()
        noted: list[Entry] = []

        def record(person: Person) -> Record:
            began = 0 if person.profile is None else person.profile.created_at
            erased_at = max(now, began + 1)  # whoever is there then is another one
            subjects = self._subjects.of(app.uuid, [sealed], person.names)
            erasure = Erasure(erasure_id, erased_at, receipts.counted(person))
            entry = Entry(
                id=erasure_id,
                app=app.uuid,
                erased_at=erased_at,
                key=sealed,
                subjects=[subject.hex() for subject in subjects],
                receipt=erasure.receipt,
            )
            if entry not in noted:
                ledger.append(self.ledger_path, entry)
                noted.append(entry)
            return Record(erasure_id, entry.tombstones, erasure)

        person = await self._storage.erasures.erase(app.id, whom, record, now=now, by=by)
        self._is_wanted.set()
        return Erased(person, await self.receipt(app, erasure_id))

    async def _subjects_key(self, app: App) -> bytes:
        """Return the app's key for tombstones, sealed; its first erasure makes it."""
        keys = await self._storage.erasures.keys(app.id)
        if not keys:
            sealed = self._subjects.new_key(app.uuid)
            key_id = self._subjects.key_id(app.uuid, sealed)
            await self._storage.erasures.put_key(app.id, key_id, sealed)
            keys = [sealed]
        return keys[0]

    # --- receipts -----------------------------------------------------------------------------

    async def receipt(self, app: App, erasure_id: str) -> Signed:
        """Return a receipt as it is now. Raises ErasureNotFound, and FeatureNotConfigured."""
        erasure = await self._storage.erasures.get(app.id, erasure_id)
        if erasure is None:
            raise ErasureNotFound
        content = self._receipt(app, erasure)
        return Signed(content, receipts.signed(content, await self._key()))

    async def receipts(self, app: App, before: tuple[int, str] | None, limit: int) -> list[Receipt]:
        """Return an app's receipts before a time and id, newest first."""
        page = await self._storage.erasures.page(app.id, before, limit)
        return [self._receipt(app, erasure) for erasure in page]

    async def public_key(self) -> str:
        """Return the key by which receipts can be checked. Raises FeatureNotConfigured."""
        return receipts.public_text(await self._key())

    def _receipt(self, app: App, erasure: Erasure) -> Receipt:
        waits = self._storage.erasures.waits
        return receipts.receipt(app.uuid, erasure, waits, self._hours * HOUR_MS)

    async def _key(self) -> bytes:
        """Return the key that signs receipts; the first use makes it."""
        if self._signing_key is None:
            context = f"server/{receipts.KEY_NAME}"
            sealed = await self._storage.erasures.secret(receipts.KEY_NAME)
            if sealed is None:
                made = self._vault.seal(signing.new_signing_key(), context=context)
                sealed = await self._storage.erasures.put_secret(receipts.KEY_NAME, made)
            try:
                self._signing_key = self._vault.unseal(sealed, context=context)
            except VaultError:
                raise FeatureNotConfigured(LOCKED) from None
        return self._signing_key

    # --- who is erased ------------------------------------------------------------------------

    async def check(self, app: App, names: Sequence[str]) -> list[Checked]:
        """Return those of these names, as `knownas.erasing` makes them, that were erased.

        Raises FeatureNotConfigured where somebody was erased and the key cannot be opened.
        """
        keys = await self._storage.erasures.keys(app.id)
        subjects = self._subjects.of(app.uuid, keys, names)
        stones: dict[bytes, Tombstone] = {
            stone.subject: stone
            for stone in await self._storage.erasures.tombstones(app.id, subjects)
        }
        found = {
            name: stones[subject]
            for name, subject in zip([*names] * len(keys), subjects, strict=True)
            if subject in stones
        }
        return [Checked(name, stone.erased_at, stone.revived_at) for name, stone in found.items()]

    async def replay(self, paths: Sequence[str] = ()) -> list[Replayed]:
        """Make the erasures of ledgers that the database does not have; return what came of it.

        Without paths it is the server's own ledger. Raises LedgerError, and FeatureNotConfigured.
        """
        entries = ledger.read(paths or ([self.ledger_path] if self.ledger_path else []))
        done = await replaying.replay(self._storage, self._subjects, entries, self._clock)
        if any(one.persons for one in done):
            self._is_wanted.set()
        return done

    # --- what is left to do -------------------------------------------------------------------

    async def finish(self) -> None:
        """Do now what erasures wait for from this server. Raises ServiceUnavailable."""
        await self._storage.erasures.finish(self._clock)

    async def finish_if_due(self) -> None:
        """Do so where it holds up nobody, or an erasure has waited for half of its time."""
        since = await self._storage.erasures.waiting_since()
        if since is None:
            return
        due = since + self._hours * HOUR_MS // 2
        if self._clock() >= due or not self._storage.erasures.holds_up_writes():
            await self.finish()

    async def wait(self, seconds: float) -> None:
        """Return when something was erased here, or that many seconds are over."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._is_wanted.wait(), seconds)
        self._is_wanted.clear()
