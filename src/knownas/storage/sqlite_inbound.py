"""What is kept of webhooks that others send, in SQLite."""

from collections.abc import Collection
from typing import Any, Final

import apsw

from knownas.errors import ValidationError
from knownas.model import AppId
from knownas.receiving import (
    LETTERS_KEPT_MS,
    DeadLetter,
    Door,
    InboundSecret,
    Refusals,
    tells_of,
)
from knownas.storage.rows import APP_COLUMNS, INBOUND_COLUMNS, LETTER_COLUMNS, to_app
from knownas.storage.sqlite_beside import ReaderBeside
from knownas.storage.sqlite_tombstones import require_app
from knownas.storage.sqlite_writer import GroupCommit

_APP: Final = f"SELECT {APP_COLUMNS} FROM apps a WHERE a.name = ?"  # noqa: S608 - the columns are a constant
_DIGESTS: Final = "SELECT digest FROM inbound_secrets WHERE app_id = ? AND sender = ?"
_ADD_SECRET: Final = (
    f"INSERT INTO inbound_secrets (app_id, {INBOUND_COLUMNS}) VALUES (?, ?, ?, ?, ?)"  # noqa: S608 - the columns are a constant
)
_SECRETS: Final = f"""
SELECT {INBOUND_COLUMNS} FROM inbound_secrets WHERE app_id = ? ORDER BY created_at, id
"""  # noqa: S608 - the columns are a constant
_REVOKE: Final = "DELETE FROM inbound_secrets WHERE app_id = ? AND id = ?"
_REFUSED: Final = """
INSERT INTO inbound_refusals (app_id, sender, refused, last_at) SELECT ?1, ?2, ?3, ?4
WHERE EXISTS (SELECT 1 FROM apps WHERE id = ?1)
ON CONFLICT (app_id, sender) DO UPDATE SET
  refused = refused + excluded.refused, last_at = max(last_at, excluded.last_at)
"""
_REFUSALS: Final = """
SELECT sender, refused, last_at FROM inbound_refusals WHERE app_id = ? ORDER BY sender
"""
_PUT_LETTER: Final = f"""
INSERT INTO dead_letters (app_id, {LETTER_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (app_id, id) DO UPDATE SET at = excluded.at, reason = excluded.reason
"""  # noqa: S608 - the columns are a constant
_EVICT: Final = """
DELETE FROM dead_letters WHERE app_id = ?1 AND id IN (
  SELECT id FROM dead_letters WHERE app_id = ?1 ORDER BY at DESC, id DESC LIMIT -1 OFFSET ?2)
"""
_LETTERS: Final = f"""
SELECT {LETTER_COLUMNS} FROM dead_letters WHERE app_id = ? AND (at, id) < (?, ?)
ORDER BY at DESC, id DESC LIMIT ?
"""  # noqa: S608 - the columns are a constant
_LETTER: Final = f"SELECT {LETTER_COLUMNS} FROM dead_letters WHERE app_id = ? AND id = ?"  # noqa: S608 - the columns are a constant
_DELETE_LETTERS: Final = "DELETE FROM dead_letters WHERE app_id = ?1 AND (?2 IS NULL OR id = ?2)"
_BODIES: Final = "SELECT id, body FROM dead_letters WHERE app_id = ?"
_PRUNE: Final = "DELETE FROM dead_letters WHERE at < ?"
_LATEST: Final = (2**62, "")


class SqliteInbound:
    """`knownas.receiving.Inbound` over one SQLite file."""

    def __init__(self, writer: GroupCommit, beside: ReaderBeside) -> None:
        """Write by `writer` and read beside the loop."""
        self._writer = writer
        self._beside = beside

    async def door(self, name: str, sender: str) -> Door | None:
        """See `Inbound.door`."""

        def read(connection: apsw.Connection) -> Door | None:
            row = connection.execute(_APP, (name,)).fetchone()
            if row is None:
                return None
            app = to_app(row)
            return Door(app, [one for (one,) in connection.execute(_DIGESTS, (app.id, sender))])

        return await self._beside.read(read)

    async def add_secret(self, app: AppId, secret: InboundSecret, *, most: int) -> None:
        """See `Inbound.add_secret`."""

        def work(connection: apsw.Connection) -> None:
            require_app(connection, app)
            digests = [row[0] for row in connection.execute(_DIGESTS, (app, secret.sender))]
            if secret.digest in digests:
                raise ValidationError("The sender has this secret here already.", source="secret")
            if len(digests) >= most:
                raise ValidationError(
                    f"A sender has at most {most} secrets; revoke one first.", source="secret"
                )
            connection.execute(_ADD_SECRET, (app, *secret))

        await self._writer.run(work)

    async def secrets(self, app: AppId) -> list[InboundSecret]:
        """See `Inbound.secrets`."""
        return await self._beside.read(
            lambda read: [InboundSecret(*row) for row in read.execute(_SECRETS, (app,))]
        )

    async def delete_secret(self, app: AppId, secret_id: str) -> bool:
        """See `Inbound.delete_secret`."""

        def work(connection: apsw.Connection) -> bool:
            connection.execute(_REVOKE, (app, secret_id))
            return connection.changes() > 0

        return await self._writer.run(work, erases=True)

    async def note_refusals(self, app: AppId, refusals: Refusals) -> None:
        """See `Inbound.note_refusals`."""
        await self._writer.run(lambda write: write.execute(_REFUSED, (app, *refusals)).get)

    async def refusals(self, app: AppId) -> list[Refusals]:
        """See `Inbound.refusals`."""
        return await self._beside.read(
            lambda read: [Refusals(*row) for row in read.execute(_REFUSALS, (app,))]
        )

    async def add_letter(self, app: AppId, letter: DeadLetter, *, most: int) -> None:
        """See `Inbound.add_letter`."""

        def work(connection: apsw.Connection) -> None:
            require_app(connection, app)
            connection.execute(_PUT_LETTER, (app, *letter))
            connection.execute(_EVICT, (app, most))

        await self._writer.run(work)

    async def letters(
        self, app: AppId, before: tuple[int, str] | None, limit: int
    ) -> list[DeadLetter]:
        """See `Inbound.letters`."""
        asked = (app, *(before or _LATEST), limit)
        return await self._beside.read(
            lambda read: [DeadLetter(*row) for row in read.execute(_LETTERS, asked)]
        )

    async def letter(self, app: AppId, letter_id: str) -> DeadLetter | None:
        """See `Inbound.letter`."""
        row: Any = await self._beside.read(
            lambda read: read.execute(_LETTER, (app, letter_id)).fetchone()
        )
        return None if row is None else DeadLetter(*row)

    async def delete_letters(self, app: AppId, letter_id: str | None) -> int:
        """See `Inbound.delete_letters`."""

        def work(connection: apsw.Connection) -> int:
            connection.execute(_DELETE_LETTERS, (app, letter_id))
            return connection.changes()

        return await self._writer.run(work, erases=True)


def forget(connection: apsw.Connection, app: AppId, words: Collection[str]) -> None:
    """Delete the dead letters that may tell of a person."""
    letters: list[Any] = connection.execute(_BODIES, (app,)).fetchall()
    for letter_id, body in letters:
        if tells_of(body, words):
            connection.execute(_DELETE_LETTERS, (app, letter_id))


def prune(connection: apsw.Connection, now: int) -> None:
    """Delete the dead letters that were kept for long enough."""
    connection.execute(_PRUNE, (now - LETTERS_KEPT_MS,))
