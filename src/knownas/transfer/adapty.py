"""Adapty's files: the export of events to S3 and GCS, and the columns of the import.

Source: the wire contract, section 7. The export has a row for each event; `integration_ids` is a
dictionary as Python prints it, with single quotes, and `profile_id` may be empty.
"""

import re
from collections.abc import Iterator
from typing import Final

from knownas.errors import FieldError, ValidationError, noting
from knownas.model import KIND_NUMBER, NO_IDENTIFIERS, Identifiers, ProfileRef, clean_profile_id
from knownas.transfer import TransferError
from knownas.transfer.csv_files import Table
from knownas.transfer.latest import Event, latest
from knownas.transfer.rows import (
    Bad,
    IgnoredNames,
    Record,
    customer_of,
    identifiers_of,
    nobody,
)
from knownas.webhooks.adapty import time_of

EXPORT_COLUMN: Final = "integration_ids"
"""The column that tells the export of events from other tables."""

IMPORT_COLUMNS: Final = (
    "user_id",
    "amplitude_user_id",
    "amplitude_device_id",
    "mixpanel_user_id",
    "appmetrica_profile_id",
    "appmetrica_device_id",
    "appsflyer_id",
    "adjust_device_id",
    "facebook_anonymous_id",
    "branch_id",
)
"""Of those that Adapty's import takes the ones that are ours."""

_NAMED: Final = ("profile_id", "customer_user_id", "event_datetime", EXPORT_COLUMN)
_STRING: Final = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
_PAIR: Final = re.compile(rf"\s*({_STRING})\s*:\s*({_STRING}|None|null)\s*", re.DOTALL)
_ESCAPE: Final = re.compile(
    r"\\(?:([\\'\"/])|x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))", re.DOTALL
)
_LAST_CHARACTER: Final = 0x10FFFF
_NO_DICTIONARY: Final = "Must be a dictionary of texts, as {'appsflyer_id': '…'}."


def records(table: Table, ignored: IgnoredNames) -> Iterator[Record]:
    """Yield one row a person of an export of events. Raises TransferError."""
    return latest(_events(table, ignored))


def _events(table: Table, ignored: IgnoredNames) -> Iterator[Event | Bad]:
    at = {name: position for position, name in enumerate(table.columns)}
    if missing := [name for name in _NAMED if name not in at]:
        raise TransferError(f"{table.path}: has no column {missing[0]}, as Adapty's export has.")
    profile_at, customer_at, time_at, dictionary_at = (at[name] for name in _NAMED)
    for record in table:
        if isinstance(record, Bad):
            yield record
            continue
        line, values = record
        problems: list[FieldError] = []
        profile_id = None
        if values[profile_at].strip():
            with noting(problems):
                profile_id = clean_profile_id(values[profile_at].strip(), source="profile_id")
        customer = customer_of(values[customer_at], problems)
        happened = 0
        try:
            happened = time_of(values[time_at].strip(), source="event_datetime")
        except ValidationError as error:
            problems += error.fields
        identifiers = _identifiers(values[dictionary_at], problems, ignored)
        if problems:
            yield Bad(line, tuple(problems))
        elif profile_id is None and customer is None:
            yield nobody(line)
        else:
            yield Event(line, ProfileRef(customer, profile_id), happened, identifiers)


def _identifiers(text: str, problems: list[FieldError], ignored: IgnoredNames) -> Identifiers:
    try:
        given = dictionary(text)
    except ValidationError as error:
        problems += error.fields
        return NO_IDENTIFIERS
    if not given.keys() <= KIND_NUMBER.keys():
        ignored.add((name for name in given if name not in KIND_NUMBER), tuple(KIND_NUMBER))
    return identifiers_of(given, problems)


def dictionary(text: str) -> dict[str, str]:
    """Return a dictionary of texts as Python prints it, without what is None; "" is empty.

    Raises ValidationError for anything else: it is read, never evaluated.
    """
    text = text.strip()
    if text in {"", "None", "null", "{}"}:
        return {}
    if not (text.startswith("{") and text.endswith("}")):
        raise ValidationError(_NO_DICTIONARY, source=EXPORT_COLUMN)
    found: dict[str, str] = {}
    at, end = 1, len(text) - 1
    while True:
        pair = _PAIR.match(text, at, end)
        if pair is None:
            raise ValidationError(_NO_DICTIONARY, source=EXPORT_COLUMN)
        name, value = _unquoted(pair[1]), pair[2]
        if name in found:
            raise ValidationError("Has a key twice.", source=EXPORT_COLUMN)
        if value not in {"None", "null"}:
            found[name] = _unquoted(value)
        at = pair.end() + 1
        if at > end:
            return found
        if text[at - 1] != ",":
            raise ValidationError(_NO_DICTIONARY, source=EXPORT_COLUMN)


def _unquoted(literal: str) -> str:
    text = literal[1:-1]
    return _ESCAPE.sub(_escaped, text) if "\\" in text else text


def _escaped(found: re.Match[str]) -> str:
    plain, *codes, other = found.groups()
    if plain is not None:
        return str(plain)
    for code in codes:
        if code is not None and int(code, 16) <= _LAST_CHARACTER:
            return chr(int(code, 16))
    known = {"n": "\n", "r": "\r", "t": "\t"}.get(other or "")
    if known is None:
        raise ValidationError("Has an escape that is none.", source=EXPORT_COLUMN)
    return known
