"""What one row of a file says of one profile, and what is wrong with a row that says nothing.

Whatever the format, a row goes through the `clean_…` functions of `knownas.model`. What a row does
not give stays as it is; a file clears nothing.
"""

import difflib
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from knownas.errors import FieldError, ValidationError, noting
from knownas.model import (
    KIND_NUMBER,
    KINDS,
    MAX_VALUE_LENGTH,
    NO_IDENTIFIERS,
    Identifiers,
    Profile,
    ProfileRef,
    clean_attributes,
    clean_customer_text,
    clean_profile_id,
    clean_value,
    merge_attributes,
)

OWN_COLUMNS: Final = (
    "profile_id",
    "customer_user_id",
    *KIND_NUMBER,
    "custom_attributes",
    "created_at",
)
"""What files of our own have: all of a profile but what its database counts for itself."""

TIME_COLUMN: Final = "identifiers_at"
"""The column that says of which time a row's identifiers are."""

COLUMNS: Final = (*OWN_COLUMNS, TIME_COLUMN)
"""What can be read."""

_TEXTS: Final = ("profile_id", "customer_user_id", *KIND_NUMBER)
_MAX_TIME: Final = 2**53
_DIGITS: Final = re.compile(r"[0-9]{1,16}")
_NOT_IN_NAMES: Final = re.compile(r"[^a-z0-9]")
_ABSENT: Final = (None, "")
_MAX_NAMED: Final = 100
"""Names of ignored columns or keys that are kept, so that a hostile file fills no memory."""


class Row(NamedTuple):
    """What a row says."""

    line: int
    """Where it begins in the file, from 1; of a Parquet file the number of the row."""
    ref: ProfileRef
    identifiers: Identifiers = NO_IDENTIFIERS
    """None where the row does not give one."""
    attributes: Mapping[str, str | float | None] | None = None
    created_at: int | None = None
    times: tuple[int, ...] | None = None
    """Since when each identifier is so, in milliseconds since 1970; None where that is now."""

    def applied(self, profile: Profile, *, is_new: bool) -> Profile:
        """Return a profile with this set; a new one is no younger than the row says.

        Raises ValidationError past the number of custom attributes that are allowed.
        """
        changes: dict[str, Any] = {}
        if profile.identifiers is NO_IDENTIFIERS:
            changes["identifiers"] = self.identifiers
        elif self.identifiers != profile.identifiers:
            pairs = zip(self.identifiers, profile.identifiers, strict=True)
            changes["identifiers"] = tuple([old if new is None else new for new, old in pairs])
        if self.attributes:
            changes["attributes"] = merge_attributes(profile.attributes, self.attributes)
        if is_new and self.created_at is not None:
            changes["created_at"] = min(self.created_at, profile.created_at)
        return msgspec.structs.replace(profile, **changes) if changes else profile

    def values(self) -> dict[str, str]:
        """Return the identifiers that it gives, by name of the kind."""
        pairs = zip(KINDS, self.identifiers, strict=True)
        return {kind.name: value for kind, value in pairs if value is not None}


class Bad(NamedTuple):
    """A row that cannot be understood."""

    line: int
    problems: tuple[FieldError, ...]


Record = Row | Bad


class Ignored(NamedTuple):
    """A column or key that is none of ours."""

    name: str
    near: str | None
    """What it may have meant."""


class IgnoredNames:
    """The columns and keys of a file that are none of ours, each once."""

    def __init__(self) -> None:
        """Begin with none."""
        self.named: list[Ignored] = []
        self._seen: set[str] = set()

    def add(self, names: Iterable[str], known: Sequence[str] = COLUMNS) -> None:
        """Note names that are not `known`; of very many the first ones only."""
        for name in names:
            if name not in self._seen and len(self._seen) < _MAX_NAMED:
                self._seen.add(name)
                self.named.append(Ignored(name[:MAX_VALUE_LENGTH], nearest_name(name, known)))


def nearest_name(name: str, known: Sequence[str]) -> str | None:
    """Return the known name that `name` most likely means: same letters first, then close ones."""
    name = name[:MAX_VALUE_LENGTH].lower()
    plain = _NOT_IN_NAMES.sub("", name)
    for one in known:
        if _NOT_IN_NAMES.sub("", one) == plain:
            return one
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
    return near[0] if near else None


class RowMaker:
    """Makes rows of values that stand in columns."""

    def __init__(self, columns: Sequence[str]) -> None:
        """Take the columns by their names, of which those that are not ours are passed over."""
        at = {name: position for position, name in enumerate(columns)}
        self._profile_id = at.get("profile_id")
        self._customer = at.get("customer_user_id")
        texts = [at[name] for name in _TEXTS if name in at]
        self._texts = operator.itemgetter(*texts) if len(texts) > 1 else None
        self._attributes = at.get("custom_attributes")
        self._created_at = at.get("created_at")
        self._times = at.get(TIME_COLUMN)
        self._has_more = bool({"custom_attributes", "created_at", TIME_COLUMN} & at.keys())
        self._kinds = [
            (position, KIND_NUMBER[name], name)
            for name, position in at.items()
            if name in KIND_NUMBER
        ]

    def row(self, line: int, values: Sequence[Any]) -> Record:
        """Return what the values of one row say; None and an empty text are not given."""
        problems: list[FieldError] = []
        customer = profile_id = None
        if self._texts is not None and _are_clean(self._texts(values)):
            identifiers: list[str | None] = list(NO_IDENTIFIERS)
            for position, kind, _ in self._kinds:
                identifiers[kind] = values[position] or None
            if self._customer is not None:
                customer = values[self._customer] or None
        else:
            identifiers, customer = self._cleaned(values, problems)
        if self._profile_id is not None and (value := values[self._profile_id]) not in _ABSENT:
            try:  # not `noting`, which takes as long as all of this: most rows have one
                profile_id = clean_profile_id(text_of(value, "profile_id"), source="profile_id")
            except ValidationError as error:
                problems += error.fields
        more = self._more(values, problems) if self._has_more else ()
        if problems:
            return Bad(line, tuple(problems))
        if customer is None and profile_id is None:
            return nobody(line)
        ref = ProfileRef(customer, profile_id)
        return Row(line, ref, tuple(identifiers), *more)

    def _cleaned(
        self, values: Sequence[Any], problems: list[FieldError]
    ) -> tuple[list[str | None], str | None]:
        """Return identifiers and customer, each looked at by itself."""
        identifiers: list[str | None] = list(NO_IDENTIFIERS)
        for position, kind, name in self._kinds:
            if (value := values[position]) not in _ABSENT:
                identifiers[kind] = _identifier(value, name, problems)
        customer = None
        if self._customer is not None and (value := values[self._customer]) not in _ABSENT:
            customer = customer_of(value, problems)
        return identifiers, customer

    def _more(self, values: Sequence[Any], problems: list[FieldError]) -> tuple[Any, ...]:
        """Return attributes, beginning, and the time of the identifiers, where they are given."""
        attributes = created_at = times = None
        if self._attributes is not None and (value := values[self._attributes]) not in _ABSENT:
            with noting(problems):
                attributes = _attributes(value)
        if self._created_at is not None and (value := values[self._created_at]) not in _ABSENT:
            created_at = _time(value, "created_at", problems)
        if self._times is not None and (value := values[self._times]) not in _ABSENT:
            times = (_time(value, TIME_COLUMN, problems) or 0,) * len(NO_IDENTIFIERS)
        return attributes, created_at, times


def nobody(line: int) -> Bad:
    """Return what is wrong with a row that names no profile."""
    return Bad(line, (FieldError(None, "Names nobody by profile_id or customer_user_id."),))


def text_of(value: object, source: str) -> str:
    """Return a value that is a text. Raises ValidationError."""
    if not isinstance(value, str):
        raise ValidationError("Must be a string.", source=source)
    return value


def customer_of(value: object, problems: list[FieldError]) -> str | None:
    """Return a customer's id; None where there is none, or what is wrong is in `problems`."""
    if isinstance(value, str) and _is_usual(trimmed := value.strip(" \t")):
        return trimmed or None
    try:
        return clean_customer_text(text_of(value, "customer_user_id"), source="customer_user_id")
    except ValidationError as error:
        problems += error.fields
        return None


def _identifier(value: object, name: str, problems: list[FieldError]) -> str | None:
    """Return an identifier; None where it is blank, or what is wrong is in `problems`."""
    if isinstance(value, str) and _is_usual(trimmed := value.strip()):
        return trimmed or None
    try:
        return clean_value(text_of(value, name), source=name)
    except ValidationError as error:
        problems += error.fields
        return None


def _is_usual(text: str) -> bool:
    """Tell whether nothing can be wrong with a text, but for blanks around it."""
    return not text or (len(text) <= MAX_VALUE_LENGTH and text.isprintable())


def _are_clean(texts: Sequence[Any]) -> bool:
    """Tell whether nothing can be wrong with any text, nor any blank be around it.

    This is asked of every row, so it is asked of all of them at once.
    """
    try:
        joined = "".join(texts)
    except TypeError:
        return False
    # The blank is the one space that is printable.
    return (
        joined.isprintable()
        and " " not in joined
        and (len(joined) <= MAX_VALUE_LENGTH or max(map(len, texts)) <= MAX_VALUE_LENGTH)
    )


def identifiers_of(given: Mapping[str, Any], problems: list[FieldError]) -> Identifiers:
    """Return the identifiers of an object by name, of which unknown names are passed over."""
    identifiers: list[str | None] = list(NO_IDENTIFIERS)
    for name, value in given.items():
        if value not in _ABSENT and name in KIND_NUMBER:
            identifiers[KIND_NUMBER[name]] = _identifier(value, name, problems)
    return tuple(identifiers)


def _attributes(value: object) -> dict[str, str | float | None]:
    """Return custom attributes, as JSON text or as a list. Raises ValidationError."""
    if isinstance(value, str):
        try:
            value = msgspec.json.decode(value)
        except (msgspec.DecodeError, UnicodeError):
            raise ValidationError("Must be JSON.", source="custom_attributes") from None
        except RecursionError:
            raise ValidationError("Is nested too deep.", source="custom_attributes") from None
    return clean_attributes(value)


def _time(value: object, source: str, problems: list[FieldError]) -> int | None:
    if isinstance(value, str) and _DIGITS.fullmatch(value.strip()):
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_TIME:
        return value
    problems.append(FieldError(source, "Must be milliseconds since 1970."))
    return None
