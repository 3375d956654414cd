"""JSON lines: a profile a line, as our export and our API write it, or with the kinds beside it."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from knownas.errors import FieldError
from knownas.model import KIND_NUMBER
from knownas.transfer.rows import COLUMNS, Bad, IgnoredNames, Record, RowMaker
from knownas.transfer.unpacking import MAX_LINE, TOO_LONG, Lines

_COUNTED_HERE: Final = frozenset({"identifiers", "updated_at", "revision"})
_KNOWN: Final = frozenset({*COLUMNS, *_COUNTED_HERE})


def records(lines: Lines, ignored: IgnoredNames) -> Iterator[Record]:
    """Yield the rows of a file of JSON lines, of which blank ones do not count."""
    maker = RowMaker(COLUMNS)
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    for line in lines:
        if line is TOO_LONG:
            yield _bad(lines, f"Is longer than {MAX_LINE:,} bytes.")
            continue
        if line.isspace():
            continue
        try:
            given = decode(line)
        except UnicodeDecodeError as error:
            yield _bad(lines, f"Is not UTF-8 at byte {error.start + 1}.")
            continue
        except RecursionError:
            yield _bad(lines, "Is nested too deep.")
            continue
        except msgspec.MsgspecError as error:
            yield _bad(lines, f"Is no JSON object: {error}.")
            continue
        yield _record(lines, given, maker, ignored)


def _record(lines: Lines, given: dict[str, Any], maker: RowMaker, ignored: IgnoredNames) -> Record:
    if given.keys() == {"profile"} and isinstance(given["profile"], dict):
        given = given["profile"]  # an item of an answer to a batch
    values: Mapping[str, Any] = given
    if not given.keys() <= _KNOWN:
        ignored.add(name for name in given if name not in _KNOWN)
    if (identifiers := given.get("identifiers")) is not None:
        if not isinstance(identifiers, dict):
            return _bad(lines, "Must be an object.", "identifiers")
        if not identifiers.keys() <= KIND_NUMBER.keys():
            ignored.add(
                (name for name in identifiers if name not in KIND_NUMBER), tuple(KIND_NUMBER)
            )
        values = {**given, **identifiers, **{name: given.get(name, "") for name in _APART}}
    return maker.row(lines.number, [values.get(name, "") for name in COLUMNS])


_APART: Final = tuple(name for name in COLUMNS if name not in KIND_NUMBER)
"""What cannot stand among the identifiers."""


def _bad(lines: Lines, message: str, source: str | None = None) -> Bad:
    return Bad(lines.number, (FieldError(source, message),))
