"""Parquet, by pyarrow, which is an extra: it is larger than all the rest together."""

import importlib
from collections.abc import Iterable, Iterator
from typing import Any, Final

from knownas.transfer import TransferError
from knownas.transfer.rows import COLUMNS, IgnoredNames, Record, RowMaker
from knownas.transfer.unpacking import MAX_RATIO

ROWS: Final = 2_000
"""Rows that are read at once, and written as one batch."""

_GROUP: Final = 100_000
"""Rows to a row group of a file that is written: about 30 MiB."""

_SLACK: Final = 64 * 1024 * 1024
_BUFFER: Final = 1024 * 1024


def _pyarrow() -> Any:  # noqa: ANN401 - it comes without types
    try:
        pa = importlib.import_module("pyarrow")
        importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise TransferError(
            "Parquet needs pyarrow, which is not installed: pip install 'knownas[parquet]'."
        ) from None
    return pa


class ParquetFile:
    """A Parquet file that is read."""

    def __init__(self, path: str) -> None:
        """Open a file. Raises TransferError."""
        pa = _pyarrow()
        try:
            self._file = pa.parquet.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False)
        except (OSError, pa.ArrowException) as error:
            raise TransferError(f"{path}: is no Parquet file: {_first_line(error)}.") from None
        self.path = path
        self.columns: list[str] = self._file.schema_arrow.names
        self.size: int = self._file.metadata.num_rows
        self._errors = (OSError, pa.ArrowException)
        self._done = 0
        self._refuse_bomb()

    def _refuse_bomb(self) -> None:
        metadata = self._file.metadata
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            chunks = [group.column(at) for at in range(group.num_columns)]
            packed = sum(chunk.total_compressed_size for chunk in chunks)
            if group.total_byte_size > _SLACK and group.total_byte_size > MAX_RATIO * packed:
                raise TransferError(
                    f"{self.path}: unpacks to more than {MAX_RATIO} times its size, as no table "
                    "does."
                )

    def records(self, ignored: IgnoredNames) -> Iterator[Record]:
        """Yield the rows. Raises TransferError where no column names a profile."""
        ignored.add(name for name in self.columns if name not in COLUMNS)
        columns = [name for name in self.columns if name in COLUMNS]
        if not {"profile_id", "customer_user_id"} & set(columns):
            raise TransferError(f"{self.path}: has no column profile_id or customer_user_id.")
        maker = RowMaker(columns)
        try:
            for batch in self._file.iter_batches(batch_size=ROWS, columns=columns):
                lists = [column.to_pylist() for column in batch.columns]
                for values in zip(*lists, strict=True):
                    self._done += 1
                    yield maker.row(self._done, values)
        except self._errors as error:
            raise TransferError(
                f"{self.path}: is damaged after row {self._done}: {_first_line(error)}."
            ) from None

    def done(self) -> int:
        """Return how many rows were read."""
        return self._done

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


class ParquetWriter:
    """A Parquet file that is written, in row groups."""

    def __init__(self, file: Any, columns: Iterable[str]) -> None:  # noqa: ANN401 - an open file
        """Begin; all columns are texts but `created_at`. Raises TransferError."""
        self._pa = _pyarrow()
        self._schema = self._pa.schema(
            [
                (name, self._pa.int64() if name == "created_at" else self._pa.string())
                for name in columns
            ]
        )
        self._writer = self._pa.parquet.ParquetWriter(file, self._schema, compression="zstd")
        self._group: list[tuple[Any, ...]] = []

    def write(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """Write rows, of which some stay in memory until there are enough for a group."""
        self._group += rows
        if len(self._group) >= _GROUP:
            self._write_group()

    def close(self) -> None:
        """Write the rest."""
        if self._group:
            self._write_group()
        self._writer.close()

    def _write_group(self) -> None:
        arrays = [
            self._pa.array(column, type=field.type)
            for column, field in zip(zip(*self._group, strict=True), self._schema, strict=True)
        ]
        self._writer.write_table(self._pa.table(arrays, schema=self._schema))
        self._group.clear()


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0].rstrip(".")
