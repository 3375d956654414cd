"""Our server, but with the usual writer: a transaction for each write, SQLite's own checkpoints.

Everything else is the same, so the difference is what group commit and the background
checkpoints gain.
"""

import contextlib
from typing import Any, Final
from unittest import mock

import apsw

from knownas import cli
from knownas.storage import sqlite, sqlite_writer

SQLITES_OWN_PAGES: Final = 1_000
"""After so many pages SQLite makes a checkpoint of itself, where nobody says otherwise."""


class SingleCommit(sqlite_writer.GroupCommit):
    """Commits and answers each write before it takes the next."""

    def __init__(self, connection: apsw.Connection, *others: Any) -> None:  # noqa: ANN401 - whatever it takes
        """Take over the writer's connection."""
        super().__init__(connection, *others)
        connection.set_wal_hook(None)
        connection.execute(f"PRAGMA wal_autocheckpoint = {SQLITES_OWN_PAGES}").fetchall()

    def _run(self) -> None:
        while (turn := self._inbox.get()) is not None:
            for write in turn:
                answers = list(zip([write], self._commit([write]), strict=True))
                with contextlib.suppress(RuntimeError):  # the loop is gone, and whoever waited
                    write.future.get_loop().call_soon_threadsafe(self._settle, answers)


if __name__ == "__main__":
    with mock.patch.object(sqlite, "GroupCommit", SingleCommit):
        cli.main()
