"""Our server, but with a writer that gives each write a transaction of its own.

Everything else is the same, so the difference is what group commit gains.
"""

import contextlib
from unittest import mock

from knownas import cli
from knownas.storage import sqlite, sqlite_writer


class SingleCommit(sqlite_writer.GroupCommit):
    """Commits and answers each write before it takes the next."""

    def _run(self) -> None:
        while (turn := self._inbox.get()) is not None:
            for write in turn:
                answers = list(zip([write], self._commit([write]), strict=True))
                with contextlib.suppress(RuntimeError):  # the loop is gone, and whoever waited
                    write.future.get_loop().call_soon_threadsafe(self._settle, answers)
                self._checkpoints.between_groups()


if __name__ == "__main__":
    with mock.patch.object(sqlite, "GroupCommit", SingleCommit):
        cli.main()
