"""What erasing needs from a database: the part of `Storage` that is about persons."""

from collections.abc import Callable, Sequence
from typing import Protocol

from knownas.erasing import Erasure, Person, Record, Tombstone, Wait, Whom
from knownas.history import SERVER, Source
from knownas.model import AppId


class Erasures(Protocol):
    """Persons, tombstones, and what is kept of erasures; raises as `Storage` does."""

    waits: Sequence[Wait]
    """What an erasure waits for here after the deletion, this server's own part first."""

    ledger_beside: str | None
    """Where the ledger stands if no setting says so; None: nowhere."""

    async def person(self, app: AppId, whom: Whom) -> Person:
        """Return all that there is of a person, as long as that may be.

        Raises ProfileNotFound; IdentifierShared where a value leads to several profiles;
        ProfileConflict as `ProfileRef.settle`.
        """
        ...

    async def erase(
        self,
        app: AppId,
        whom: Whom,
        record: Callable[[Person], Record],
        *,
        now: int,
        by: Source = SERVER,
    ) -> Person:
        """Delete a person from all tables in one transaction, and return who it was.

        `record` says what is written in its place. It is called before the first deletion, in
        another thread, and again where the transaction is begun anew; what it raises is raised
        here, and nothing is written. Of the feed only one entry tells it, with the id of the
        record. What the histories of others have of the person is replaced. Raises as `person`.
        """
        ...

    async def keys(self, app: AppId) -> list[bytes]:
        """Return an app's keys for subjects, sealed; none where nobody was erased yet."""
        ...

    async def put_key(self, app: AppId, key_id: bytes, sealed: bytes) -> None:
        """Keep a key under an id, unless it is kept. Raises Unauthorized without the app."""
        ...

    async def get(self, app: AppId, erasure_id: str) -> Erasure | None:
        """Return an erasure by its UUID."""
        ...

    async def page(self, app: AppId, before: tuple[int, str] | None, limit: int) -> list[Erasure]:
        """Return an app's erasures before a time and id, newest first."""
        ...

    async def put(self, app: AppId, erasures: Sequence[Erasure]) -> None:
        """Keep erasures that were made elsewhere; one that is known stays as it is."""
        ...

    async def tombstones(self, app: AppId, subjects: Sequence[bytes]) -> list[Tombstone]:
        """Return the tombstones of these subjects, revived or not."""
        ...

    async def tombstones_after(self, app: AppId, subject: bytes, limit: int) -> list[Tombstone]:
        """Return an app's next tombstones in the order of their subjects; b"" begins."""
        ...

    async def put_tombstones(self, app: AppId, tombstones: Sequence[Tombstone]) -> None:
        """Keep tombstones that were made elsewhere, in the place of older ones.

        Raises Unauthorized without the app.
        """
        ...

    async def names_among(
        self, app: AppId, pick: Callable[[Sequence[str]], list[str]]
    ) -> list[str]:
        """Return what `pick` returns of all names that an app has, of profiles and in histories.

        It reads them all, and calls `pick` for many at a time in another thread.
        """
        ...

    async def waiting_since(self) -> int | None:
        """Return when the oldest erasure was made that is not complete; None where all are."""
        ...

    def holds_up_writes(self) -> bool:
        """Tell whether `finish` holds up writes for longer than a moment."""
        ...

    async def finish(self, clock: Callable[[], int]) -> None:
        """Do what erasures wait for from this server, and note when they were complete.

        Raises ServiceUnavailable where that has to be tried again later.
        """
        ...

    async def secret(self, name: str) -> bytes | None:
        """Return a secret of the database itself, sealed."""
        ...

    async def put_secret(self, name: str, sealed: bytes) -> bytes:
        """Keep a secret, unless there is one of that name, and return that which is kept."""
        ...
