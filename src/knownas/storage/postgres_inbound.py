"""What is kept of webhooks that others send, in PostgreSQL."""

from collections.abc import Collection
from typing import Final

from knownas.errors import Unauthorized, ValidationError
from knownas.model import AppId
from knownas.receiving import (
    LETTERS_KEPT_MS,
    DeadLetter,
    Door,
    InboundSecret,
    Refusals,
    tells_of,
)
from knownas.storage.postgres_apps import refuse_deleted
from knownas.storage.postgres_link import Link
from knownas.storage.postgres_webhooks import LOCK_APP, Runs
from knownas.storage.rows import APP_COLUMNS, INBOUND_COLUMNS, LETTER_COLUMNS, to_app

_DOOR: Final = f"""
SELECT ARRAY(
  SELECT s.digest FROM inbound_secrets s WHERE s.app_id = a.id AND s.sender = $2), {APP_COLUMNS}
FROM apps a WHERE a.name = $1
"""  # noqa: S608 - the columns are a constant
_DIGESTS: Final = "SELECT digest FROM inbound_secrets WHERE app_id = $1 AND sender = $2"
_ADD_SECRET: Final = f"""
INSERT INTO inbound_secrets (app_id, {INBOUND_COLUMNS}) VALUES ($1, $2, $3, $4, $5)
"""  # noqa: S608 - the columns are a constant
_SECRETS: Final = f"""
SELECT {INBOUND_COLUMNS} FROM inbound_secrets WHERE app_id = $1 ORDER BY created_at, id
"""  # noqa: S608 - the columns are a constant
_REVOKE: Final = "DELETE FROM inbound_secrets WHERE app_id = $1 AND id = $2 RETURNING id"
_REFUSED: Final = """
INSERT INTO inbound_refusals AS r (app_id, sender, refused, last_at) VALUES ($1, $2, $3, $4)
ON CONFLICT (app_id, sender) DO UPDATE SET
  refused = r.refused + excluded.refused, last_at = greatest(r.last_at, excluded.last_at)
"""
_REFUSALS: Final = """
SELECT sender, refused, last_at FROM inbound_refusals WHERE app_id = $1 ORDER BY sender
"""
_PUT_LETTER: Final = f"""
INSERT INTO dead_letters (app_id, {LETTER_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (app_id, id) DO UPDATE SET at = excluded.at, reason = excluded.reason
"""  # noqa: S608 - the columns are a constant
_EVICT: Final = """
DELETE FROM dead_letters WHERE app_id = $1 AND id IN (
  SELECT id FROM dead_letters WHERE app_id = $1 ORDER BY at DESC, id DESC OFFSET $2)
"""
_LETTERS: Final = f"""
SELECT {LETTER_COLUMNS} FROM dead_letters WHERE app_id = $1 AND (at, id) < ($2, $3)
ORDER BY at DESC, id DESC LIMIT $4
"""  # noqa: S608 - the columns are a constant
_LETTER: Final = f"SELECT {LETTER_COLUMNS} FROM dead_letters WHERE app_id = $1 AND id = $2"  # noqa: S608 - the columns are a constant
_DELETE_LETTERS: Final = """
DELETE FROM dead_letters WHERE app_id = $1 AND ($2::text IS NULL OR id = $2) RETURNING id
"""
_BODIES: Final = "SELECT id, body FROM dead_letters WHERE app_id = $1"
_FORGET: Final = "DELETE FROM dead_letters WHERE app_id = $1 AND id = any($2::text[])"
_PRUNE: Final = "DELETE FROM dead_letters WHERE at < $1"
_LATEST: Final = (2**62, "")


class PostgresInbound:
    """`knownas.receiving.Inbound` over a PostgreSQL database."""

    def __init__(self, read: Runs, write: Runs) -> None:
        """Take what runs reads, and what runs transactions."""
        self._read = read
        self._write = write

    async def door(self, name: str, sender: str) -> Door | None:
        """See `Inbound.door`."""

        async def job(link: Link) -> Door | None:
            found = await link.fetch(_DOOR, name, sender)
            if not found:
                return None
            digests, *app = found[0]
            return Door(to_app(app), digests)

        return await self._read(job)

    async def add_secret(self, app: AppId, secret: InboundSecret, *, most: int) -> None:
        """See `Inbound.add_secret`."""

        async def job(link: Link) -> None:
            async with link.transaction():
                if not await link.fetch(LOCK_APP, app):
                    raise Unauthorized
                digests = [row[0] for row in await link.fetch(_DIGESTS, app, secret.sender)]
                if secret.digest in digests:
                    raise ValidationError(
                        "The sender has this secret here already.", source="secret"
                    )
                if len(digests) >= most:
                    raise ValidationError(
                        f"A sender has at most {most} secrets; revoke one first.", source="secret"
                    )
                await link.fetch(_ADD_SECRET, app, *secret)

        await self._write(job)

    async def secrets(self, app: AppId) -> list[InboundSecret]:
        """See `Inbound.secrets`."""

        async def job(link: Link) -> list[InboundSecret]:
            return [InboundSecret(*row) for row in await link.fetch(_SECRETS, app)]

        return await self._read(job)

    async def delete_secret(self, app: AppId, secret_id: str) -> bool:
        """See `Inbound.delete_secret`."""

        async def job(link: Link) -> bool:
            async with link.transaction():
                return bool(await link.fetch(_REVOKE, app, secret_id))

        return await self._write(job)

    async def note_refusals(self, app: AppId, refusals: Refusals) -> None:
        """See `Inbound.note_refusals`."""

        async def job(link: Link) -> None:
            async with link.transaction():
                if await link.fetch(LOCK_APP, app):
                    await link.fetch(_REFUSED, app, *refusals)

        await self._write(job)

    async def refusals(self, app: AppId) -> list[Refusals]:
        """See `Inbound.refusals`."""

        async def job(link: Link) -> list[Refusals]:
            return [Refusals(*row) for row in await link.fetch(_REFUSALS, app)]

        return await self._read(job)

    async def add_letter(self, app: AppId, letter: DeadLetter, *, most: int) -> None:
        """See `Inbound.add_letter`."""

        async def job(link: Link) -> None:
            async with link.transaction():
                await refuse_deleted(link, app)
                await link.fetch(_PUT_LETTER, app, *letter)
                await link.fetch(_EVICT, app, most)

        await self._write(job)

    async def letters(
        self, app: AppId, before: tuple[int, str] | None, limit: int
    ) -> list[DeadLetter]:
        """See `Inbound.letters`."""

        async def job(link: Link) -> list[DeadLetter]:
            found = await link.fetch(_LETTERS, app, *(before or _LATEST), limit)
            return [DeadLetter(*row) for row in found]

        return await self._read(job)

    async def letter(self, app: AppId, letter_id: str) -> DeadLetter | None:
        """See `Inbound.letter`."""

        async def job(link: Link) -> DeadLetter | None:
            found = await link.fetch(_LETTER, app, letter_id)
            return DeadLetter(*found[0]) if found else None

        return await self._read(job)

    async def delete_letters(self, app: AppId, letter_id: str | None) -> int:
        """See `Inbound.delete_letters`."""

        async def job(link: Link) -> int:
            async with link.transaction():
                return len(await link.fetch(_DELETE_LETTERS, app, letter_id))

        return await self._write(job)


async def forget(link: Link, app: AppId, words: Collection[str]) -> None:
    """Delete the dead letters that may tell of a person."""
    letters = await link.fetch(_BODIES, app)
    told = sorted(letter_id for letter_id, body in letters if tells_of(body, words))
    if told:
        await link.fetch(_FORGET, app, told)


async def prune(link: Link, now: int) -> None:
    """Delete the dead letters that were kept for long enough."""
    await link.fetch(_PRUNE, now - LETTERS_KEPT_MS)
