"""What the tests of import and export share: an app on either database, and files."""

import json
import sys
from pathlib import Path
from typing import Any, Final, NamedTuple

from click.testing import Result

from shell import Shell

FILES: Final = Path(__file__).parent / "files"

ID: Final = "0000000{}-aaaa-4bbb-8ccc-000000000000"


class Known(NamedTuple):
    """A database with the app `default`, and commands on it."""

    shell: Shell
    url: str

    @property
    def arguments(self) -> list[str]:
        """Return how to run `knownas` in a process of its own."""
        return [sys.executable, "-m", "knownas"]

    def run(self, *arguments: str) -> Result:
        """Run a command and return how it ended."""
        return self.shell.run(*arguments, "--database", self.url)

    def __call__(self, *arguments: str) -> str:
        """Return what a command prints that succeeds."""
        return self.shell(*arguments, "--database", self.url)

    def fails(self, *arguments: str) -> str:
        """Return the one line that a failing command says."""
        return self.shell.fails(*arguments, "--database", self.url)

    def imports(self, path: Path | str, *arguments: str) -> dict[str, Any]:
        """Import a file and return the report, whatever came of it."""
        ended = self.run("import", str(path), "--json", *arguments)
        assert ended.stdout.count("\n") == 1, ended.output
        report: dict[str, Any] = json.loads(ended.stdout)
        assert ended.exit_code == (1 if report["bad"] or report["conflicts"] else 0)
        return report

    def profiles(self) -> list[dict[str, Any]]:
        """Return all profiles as an export has them."""
        text = self("export", "--output", "-", "--format", "jsonl")
        return [json.loads(line) for line in text.splitlines()]

    def by_customer(self) -> dict[str | None, dict[str, str]]:
        """Return the identifiers of each customer."""
        return {one["customer_user_id"]: one["identifiers"] for one in self.profiles()}


def counts(report: dict[str, Any]) -> dict[str, int]:
    """Return what became of the rows, without what is 0."""
    names = ("rows", "new", "changed", "same", "bad", "conflicts", "erased")
    return {name: report[name] for name in names if report[name]}


def problems(report: dict[str, Any]) -> list[tuple[int, str, str | None]]:
    """Return the lines that were not imported, why, and which columns are to blame."""
    return [
        (one["line"], one["what"], error["source"])
        for one in report["problems"]
        for error in one["errors"]
    ]
