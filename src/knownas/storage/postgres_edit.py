"""An edit on PostgreSQL."""

from typing import Final

from knownas.storage.postgres_link import Link

_PRUNE_ANSWERS: Final = "DELETE FROM answers WHERE expires_at <= $1"


async def prune_answers(link: Link, now: int) -> None:
    """Delete the answers that nobody gets any more."""
    async with link.transaction():
        await link.fetch(_PRUNE_ANSWERS, now)
