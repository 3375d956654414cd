"""Numbered SQL files, applied once each, in order.

A file `0001_initial.sql` in `migrations/<dialect>/` is one step. The database remembers each
step with the SHA-256 of its text, so that a step edited after it was applied is noticed, and
so is a database that a newer version of the program has been at.
"""

import hashlib
from collections.abc import Mapping
from importlib import resources
from typing import NamedTuple

from knownas.storage import StorageError


class Migration(NamedTuple):
    """One step: its number, its name, its SQL, and the digest of that SQL."""

    version: int
    name: str
    sql: str
    checksum: str

    @property
    def full_name(self) -> str:
        """The name of its file, without the ending."""
        return f"{self.version:04}_{self.name}"


def available(dialect: str) -> list[Migration]:
    """Return all steps that this program knows for a dialect, in order."""
    folder = resources.files("knownas.storage") / "migrations" / dialect
    steps = []
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        if file.name.endswith(".sql"):
            number, _, name = file.name.removesuffix(".sql").partition("_")
            sql = file.read_text(encoding="utf-8")
            steps.append(
                Migration(int(number), name, sql, hashlib.sha256(sql.encode()).hexdigest())
            )
    return steps


def pending(steps: list[Migration], applied: Mapping[int, str]) -> list[Migration]:
    """Return the steps that are still to do; `applied` maps version to checksum.

    Raises StorageError when an applied step is unknown here or was edited since.
    """
    known = {step.version: step for step in steps}
    for version, checksum in sorted(applied.items()):
        if version not in known:
            raise StorageError(
                f"The database has schema version {version}, this program knows only "
                f"{max(known)}: it was used by a newer version of knownas. Run that version."
            )
        if known[version].checksum != checksum:
            raise StorageError(
                f"Migration {version:04} ({known[version].name}) was edited after it was "
                "applied to this database; restore the file as it was released."
            )
    return [step for step in steps if step.version not in applied]
