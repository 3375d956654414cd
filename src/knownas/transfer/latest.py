"""Of many rows of one person the latest of each value, in constant memory.

Exports of events have a row for each event, in no order that could be relied on. They are gathered
in a temporary database on disk, and come out as one row a person, each value with its time. Of two
values of one time the greater counts, as it does where events are stored (`webhooks/applying.py`).
"""

import sqlite3
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final, NamedTuple

import msgspec

from knownas.model import NO_IDENTIFIERS, Identifiers, ProfileId, ProfileRef
from knownas.transfer.rows import Bad, Record, Row

_BATCH: Final = 5_000

# The empty name is a temporary file, which SQLite makes and removes.
_TEMPORARY: Final = ""
_PREPARE: Final = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA cache_size = -65536;
CREATE TABLE persons (name TEXT PRIMARY KEY, newest INTEGER NOT NULL, line INTEGER NOT NULL,
  person BLOB NOT NULL) WITHOUT ROWID;
"""
_FIND: Final = "SELECT person FROM persons WHERE name = ?"
_PUT: Final = "INSERT OR REPLACE INTO persons VALUES (?, ?, ?, ?)"
# Those that have an id first: then their customers are theirs, and not those of new profiles.
_ALL: Final = "SELECT person FROM persons ORDER BY substr(name, 1, 1) DESC, newest, line"


class Event(NamedTuple):
    """What a row says, and when it was so."""

    line: int
    ref: ProfileRef
    at: int
    """When the customer was this, in milliseconds since 1970."""
    identifiers: Identifiers
    times: tuple[int, ...] = ()
    """Of each identifier, if they have times of their own."""


class _Person(msgspec.Struct, array_like=True):
    line: int
    profile_id: ProfileId | None
    customer: str | None
    customer_at: int
    values: list[str | None]
    times: list[int]

    def take(self, event: Event) -> None:
        """Have what is newer of an event; of two customers of one time the later row's."""
        if event.ref.customer_user_id is not None and event.at >= self.customer_at:
            self.customer, self.customer_at = event.ref.customer_user_id, event.at
        for kind, value in enumerate(event.identifiers):
            if value is not None:
                at = event.times[kind] if event.times else event.at
                if (at, value) > (self.times[kind], self.values[kind] or ""):
                    self.values[kind], self.times[kind] = value, at

    def row(self) -> Row:
        """Return it as a row, at the line where it was first."""
        ref = ProfileRef(self.customer, self.profile_id)
        return Row(self.line, ref, tuple(self.values), times=tuple(self.times))


def latest(events: Iterable[Event | Bad]) -> Iterator[Record]:
    """Yield what is wrong with some rows, then a row for each person: who changed last is last.

    Those without an id of a profile come after all others.
    """
    decoder = msgspec.msgpack.Decoder(_Person)
    database = sqlite3.connect(
        _TEMPORARY,
        isolation_level=None,
        check_same_thread=False,  # whoever takes the next rows may be another thread
    )
    try:
        database.executescript(_PREPARE)
        given = iter(events)
        while batch := list(islice(given, _BATCH)):
            yield from (one for one in batch if isinstance(one, Bad))
            _gather(database, [one for one in batch if isinstance(one, Event)], decoder)
        for (packed,) in database.execute(_ALL):
            yield decoder.decode(packed).row()
    finally:
        database.close()


def _gather(
    database: sqlite3.Connection,
    events: list[Event],
    decoder: "msgspec.msgpack.Decoder[_Person]",
) -> None:
    """Add events to what is known of their persons."""
    persons: dict[str, _Person] = {}
    for event in events:
        name = _name(event.ref)
        person = persons.get(name)
        if person is None:
            found = database.execute(_FIND, (name,)).fetchone()
            person = persons[name] = decoder.decode(found[0]) if found else _new(event)
        person.take(event)
    database.execute("BEGIN")
    database.executemany(
        _PUT,
        (
            (name, max(one.customer_at, *one.times), one.line, msgspec.msgpack.encode(one))
            for name, one in sorted(persons.items())
        ),
    )
    database.execute("COMMIT")


def _name(ref: ProfileRef) -> str:
    return f"c:{ref.customer_user_id}" if ref.profile_id is None else f"p:{ref.profile_id}"


def _new(event: Event) -> _Person:
    none = list(NO_IDENTIFIERS)
    return _Person(event.line, event.ref.profile_id, None, -1, none, [-1] * len(none))
