"""An app's profiles into a file: page by page, in constant memory."""

import contextlib
import csv
import gzip
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

import msgspec

from knownas.model import KIND_NUMBER, KINDS, App, Profile
from knownas.storage import Storage
from knownas.transfer import TransferError, adapty, parquet_files
from knownas.transfer.rows import OWN_COLUMNS
from knownas.transfer.zstd import zstd

FORMATS: Final = ("csv", "jsonl", "parquet", "adapty")
"""What can be written."""

STANDARD_OUTPUT: Final = "-"

MAX_LEFT_OUT: Final = 100
"""What was left out is counted; so many of them are named."""

_PAGE: Final = 5_000
_OWNER_ONLY: Final = 0o600
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
_NEEDS_QUOTES: Final = frozenset(',"\r\n')


class LeftOut(NamedTuple):
    """What Adapty's import cannot take."""

    profile_id: str
    source: str
    """The column; `user_id` where the whole profile is left out."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What came of an export."""

    file: str
    format: str
    profiles: int
    left_out: int
    """Profiles and values that the format cannot have."""
    left_out_first: list[LeftOut]


class Options(NamedTuple):
    """What to write, and how."""

    format: str
    spreadsheet: bool = False
    """Whether a cell that a spreadsheet would take for a formula gets an apostrophe."""
    overwrite: bool = False


async def run(
    storage: Storage,
    app: App,
    path: str,
    options: Options,
    *,
    progress: Callable[[int, int], None],
) -> Report:
    """Write all profiles of an app to a file, or to standard output for `-`.

    A file has its name when it is whole, and can be read by its owner only; one whose name ends in
    .gz or .zst is packed. Raises TransferError.
    """
    total = await storage.count_profiles(app.id)
    left_out = _LeftOut()
    count = 0
    with (
        _output(path, overwrite=options.overwrite) as file,
        _WRITERS[options.format](file, options, left_out) as write,
    ):
        after = None
        while True:
            page = await storage.profiles_after(app.id, after, _PAGE)
            write(page)
            count += len(page)
            progress(count, max(total, count))
            if len(page) < _PAGE:
                break
            after = page[-1].profile_id
    return Report(
        file=path,
        format=options.format,
        profiles=count,
        left_out=left_out.count,
        left_out_first=left_out.first,
    )


class _LeftOut:
    """What a format cannot have."""

    def __init__(self) -> None:
        self.count = 0
        self.first: list[LeftOut] = []

    def add(self, profile: Profile, source: str) -> None:
        """Note that something of a profile was left out."""
        self.count += 1
        if len(self.first) < MAX_LEFT_OUT:
            self.first.append(LeftOut(profile.profile_id, source))


# --- where it goes -------------------------------------------------------------------------------


@contextlib.contextmanager
def _output(path: str, *, overwrite: bool) -> Iterator[BinaryIO]:
    """Open a file to write, packed as its name says; it has the name when all is in it."""
    if path == STANDARD_OUTPUT:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    if not overwrite and Path(path).exists():
        raise TransferError(f"{path}: is there already; --overwrite replaces it.")
    part = f"{path}.part"
    try:
        with contextlib.ExitStack() as stack:
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _OWNER_ONLY)
            os.fchmod(descriptor, _OWNER_ONLY)
            file: Any = stack.enter_context(os.fdopen(descriptor, "wb"))
            stack.callback(os.fsync, descriptor)
            if path.endswith(".gz"):
                file = stack.enter_context(gzip.GzipFile(fileobj=file, mode="wb", filename=""))
            elif path.endswith(".zst"):
                file = stack.enter_context(zstd().ZstdFile(file, "wb"))
            yield file
        Path(part).replace(path)
    except OSError as error:
        raise TransferError(f"{path}: {error.strerror or error}.") from None
    finally:
        Path(part).unlink(missing_ok=True)


# --- what is written -----------------------------------------------------------------------------

_Write = Callable[[list[Profile]], None]


@contextlib.contextmanager
def _csv(file: BinaryIO, options: Options, _left_out: _LeftOut) -> Iterator[_Write]:
    guard = _guarded if options.spreadsheet else tuple
    with _text(file) as text:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(OWN_COLUMNS)
        yield lambda page: writer.writerows(guard(_values(one)) for one in page)


@contextlib.contextmanager
def _jsonl(file: BinaryIO, _options: Options, _left_out: _LeftOut) -> Iterator[_Write]:
    encode = msgspec.json.Encoder().encode_lines
    yield lambda page: _done(file.write(encode([_shown(one) for one in page])))


@contextlib.contextmanager
def _parquet(file: BinaryIO, _options: Options, _left_out: _LeftOut) -> Iterator[_Write]:
    writer = parquet_files.ParquetWriter(file, OWN_COLUMNS)
    yield lambda page: writer.write([_values(one) for one in page])
    writer.close()


@contextlib.contextmanager
def _adapty(file: BinaryIO, _options: Options, left_out: _LeftOut) -> Iterator[_Write]:
    """Write what Adapty's import takes: no quotes, so nothing that would need them."""
    kinds = [(name, KIND_NUMBER[name]) for name in adapty.IMPORT_COLUMNS[1:]]
    with _text(file) as text:
        text.write(",".join(adapty.IMPORT_COLUMNS) + "\n")

        def line(profile: Profile) -> Iterator[str]:
            customer = profile.customer_user_id
            if customer is None or not _NEEDS_QUOTES.isdisjoint(customer):
                left_out.add(profile, "user_id")
                return
            cells = [customer]
            for name, kind in kinds:
                value = profile.identifiers[kind] or ""
                if not _NEEDS_QUOTES.isdisjoint(value):
                    left_out.add(profile, name)
                    value = ""
                cells.append(value)
            yield ",".join(cells) + "\n"

        yield lambda page: text.writelines(it for one in page for it in line(one))


_WRITERS: Final = {"csv": _csv, "jsonl": _jsonl, "parquet": _parquet, "adapty": _adapty}


@contextlib.contextmanager
def _text(file: BinaryIO) -> Iterator[io.TextIOWrapper]:
    """Write UTF-8 to a file, which stays open."""
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=False)
    try:
        yield text
        text.flush()
    finally:
        text.detach()


def _values(profile: Profile) -> tuple[Any, ...]:
    """Return a profile in the order of `OWN_COLUMNS`."""
    attributes = None
    if profile.attributes:
        attributes = msgspec.json.encode(_attributes(profile)).decode()
    return (
        profile.profile_id,
        profile.customer_user_id,
        *profile.identifiers,
        attributes,
        profile.created_at,
    )


def _shown(profile: Profile) -> dict[str, Any]:
    """Return a profile as this server's own API shows it."""
    pairs = zip(KINDS, profile.identifiers, strict=True)
    return {
        "profile_id": profile.profile_id,
        "customer_user_id": profile.customer_user_id,
        "identifiers": {kind.name: value for kind, value in pairs if value is not None},
        "custom_attributes": _attributes(profile),
        "created_at": profile.created_at,
        "updated_at": profile.updated_at,
        "revision": profile.revision,
    }


def _attributes(profile: Profile) -> list[dict[str, str | float]]:
    return [{"key": key, "value": value} for key, value in profile.attributes]


def _guarded(values: Iterable[Any]) -> list[Any]:
    """Return cells of which a spreadsheet takes none for a formula."""
    return [
        f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
        for value in values
    ]


def _done(_written: int) -> None:
    """Take what a write returns."""
