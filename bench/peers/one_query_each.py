"""Our server over PostgreSQL, but with a query for each request, over a pool of connections.

Everything else is the same, so the difference is what gathering gains.
"""

from typing import Final
from unittest import mock

from knownas import cli
from knownas.storage import postgres, postgres_gather

POOL: Final = 10
"""Connections for reads, and as many for writes: the size of asyncpg's own pool."""

if __name__ == "__main__":
    with (
        mock.patch.object(postgres_gather, "MOST_AT_ONCE", 1),
        mock.patch.multiple(postgres, READERS=POOL, WRITERS=POOL),
    ):
        cli.main()
