"""CSV: records of a table, each with the line on which it begins, and what is wrong with others."""

import csv
from collections.abc import Iterator
from typing import Final

from knownas.errors import FieldError
from knownas.transfer import TransferError
from knownas.transfer.rows import COLUMNS, Bad, IgnoredNames, Record, RowMaker
from knownas.transfer.unpacking import MAX_LINE, TOO_LONG, Lines

_DELIMITERS: Final = ",;\t"

_TOO_LONG: Final = f"Is longer than {MAX_LINE:,} characters; is a quotation mark not closed?"


class Table:
    """A CSV file: its header, and then its records."""

    def __init__(self, lines: Lines) -> None:
        """Read the header. Raises TransferError where there is none."""
        self.path = lines.path
        self._lines = lines
        self._problems: list[FieldError] = []
        texts = self._texts()
        try:
            header = next(texts)
            # The comma, but for exports that are known for others.
            delimiter = max(_DELIMITERS, key=header.count)
            self.columns = [
                name.strip() for name in next(csv.reader([header], delimiter=delimiter))
            ]
        except (StopIteration, csv.Error):
            raise TransferError(f"{self.path}: has no header in its first line.") from None
        if self._problems:
            raise TransferError(f"{self.path}: line 1: {self._problems[0].message}")
        if not any(self.columns):
            raise TransferError(f"{self.path}: has no header in its first line.")
        if twice := {name for name in self.columns if self.columns.count(name) > 1}:
            raise TransferError(f"{self.path}: has the column {min(twice)!r} twice.")
        self._reader = csv.reader(texts, delimiter=delimiter, strict=True)

    def __iter__(self) -> Iterator[tuple[int, list[str]] | Bad]:
        """Yield the first line and the values of each record, or what is wrong with it."""
        width = len(self.columns)
        while True:
            line = self._lines.number + 1
            try:
                record = next(self._reader)
            except StopIteration:
                return
            except csv.Error as error:
                told = _TOO_LONG if "field limit" in str(error) else f"Is no CSV: {error}."
                self._problems.append(FieldError(None, told))
                record = []
            if self._problems:
                yield Bad(line, tuple(self._problems[:1]))
                self._problems.clear()
            elif len(record) == width:
                yield line, record
            elif record:
                told = f"Has {len(record)} values; the header has {width} columns."
                yield Bad(line, (FieldError(None, told),))

    def _texts(self) -> Iterator[str]:
        for line in self._lines:
            if line is TOO_LONG:
                self._problems.append(FieldError(None, _TOO_LONG))
                yield "\n"
                continue
            try:
                yield line.decode()
            except UnicodeDecodeError as error:
                told = f"Line {self._lines.number} is not UTF-8 at byte {error.start + 1}."
                self._problems.append(FieldError(None, told))
                yield line.decode(errors="replace")


def records(table: Table, ignored: IgnoredNames) -> Iterator[Record]:
    """Yield the rows of a table with our columns, or those of Adapty's import.

    Raises TransferError where no column names a profile.
    """
    columns = table.columns
    if "customer_user_id" not in columns:
        # So it is called in the file that Adapty imports.
        columns = ["customer_user_id" if name == "user_id" else name for name in columns]
    ignored.add(name for name in columns if name not in COLUMNS)
    if not {"profile_id", "customer_user_id"} & set(columns):
        near = [f"{one.name} is near {one.near}" for one in ignored.named if one.near]
        raise TransferError(
            f"{table.path}: has no column profile_id or customer_user_id"
            f"{''.join(f'; {hint}' for hint in near)}."
        )
    maker = RowMaker(columns)
    for record in table:
        yield record if isinstance(record, Bad) else maker.row(*record)
