"""Which format a file has, and its rows."""

import re
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from knownas.transfer import TransferError, adapty, csv_files, json_lines, revenuecat
from knownas.transfer.parquet_files import ParquetFile
from knownas.transfer.rows import IgnoredNames, Record
from knownas.transfer.unpacking import Lines

IMPORTS: Final = ("csv", "jsonl", "parquet", "adapty-events", "revenuecat")
"""What can be read."""

_PARQUET: Final = b"PAR1"
_JSON_NAME: Final = re.compile(r"\.(?:jsonl|ndjson)(?:\.gz|\.zst)?\Z")


class Source(NamedTuple):
    """A file that is open for import."""

    path: str
    format: str
    records: Iterator[Record]
    ignored: IgnoredNames
    """Filled while the rows are read."""
    done: Callable[[], int]
    """How far it was read, in the unit of `size`."""
    size: int
    close: Callable[[], None]


def open_source(path: str, file_format: str | None) -> Source:
    """Open a file of a format, or of that which its content has. Raises TransferError.

    One that has nothing is what its name says.
    """
    lines = Lines(path)
    if file_format is None and not lines.start and _JSON_NAME.search(path):
        file_format = "jsonl"
    if file_format == "parquet" or (file_format is None and lines.start == _PARQUET):
        lines.close()
        ignored = IgnoredNames()
        file = ParquetFile(path)
        records = file.records(ignored)
        return Source(path, "parquet", records, ignored, file.done, file.size, file.close)
    try:
        return _of_lines(lines, file_format)
    except TransferError:
        lines.close()
        raise


def _of_lines(lines: Lines, file_format: str | None) -> Source:
    ignored = IgnoredNames()
    if file_format == "jsonl" or (file_format is None and lines.start.lstrip()[:1] == b"{"):
        file_format, records = "jsonl", json_lines.records(lines, ignored)
    else:
        table = csv_files.Table(lines)
        file_format = file_format or _kind_of_table(table)
        if file_format == "adapty-events":
            records = adapty.records(table, ignored)
        elif file_format == "revenuecat":
            records = revenuecat.records(table)
        else:
            records = csv_files.records(table, ignored)
    return Source(lines.path, file_format, records, ignored, lines.done, lines.size, lines.close)


def _kind_of_table(table: csv_files.Table) -> str:
    if adapty.EXPORT_COLUMN in table.columns:
        return "adapty-events"
    return "revenuecat" if revenuecat.ORIGINAL in table.columns else "csv"
