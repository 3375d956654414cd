"""Commands of `knownas` run within the tests' own process, on one database."""

from pathlib import Path
from typing import Any

import apsw
import msgspec
from click.testing import CliRunner, Result

from knownas.cli import cli


class Shell:
    """Runs commands on one database."""

    def __init__(self, database: Path) -> None:
        """Name the file; it need not be there."""
        self.database = database
        self._runner = CliRunner(env={"KNOWNAS_DATABASE": f"sqlite:///{database}"})

    def run(self, *arguments: str, stdin: str | bytes = "") -> Result:
        """Run a command and return how it ended."""
        return self._runner.invoke(cli, arguments, input=stdin, catch_exceptions=False)

    def __call__(self, *arguments: str, stdin: str | bytes = "") -> str:
        """Return what a command prints that succeeds."""
        ended = self.run(*arguments, stdin=stdin)
        assert ended.exit_code == 0, ended.output
        return ended.stdout

    def json(self, *arguments: str, stdin: str = "") -> Any:  # noqa: ANN401 - any JSON
        """Return what a command prints as JSON, all of it on one line."""
        printed = self(*arguments, "--json", stdin=stdin)
        assert printed.count("\n") == 1
        return msgspec.json.decode(printed)

    def fails(self, *arguments: str, stdin: str | bytes = "") -> str:
        """Return the one line that a failing command says."""
        ended = self.run(*arguments, stdin=stdin)
        assert (ended.exit_code, ended.stdout) == (1, "")
        assert ended.stderr.startswith("knownas: ")
        assert ended.stderr.count("\n") == 1
        return ended.stderr.removeprefix("knownas: ").rstrip("\n")

    def rows(self, statement: str) -> list[tuple[object, ...]]:
        """Run a statement on the database behind the program's back, and return its rows."""
        connection = apsw.Connection(str(self.database))
        found = connection.execute(statement).fetchall()
        connection.close()
        return found
