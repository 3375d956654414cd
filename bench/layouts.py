"""How a profile's identifiers stand in a row: what each way costs, without a server.

The measurement behind the first paragraphs of `docs/decisions.md`. Each layout gets the same
profiles and the same table of customers; the reverse index, which is the same for all, is left
out. A look-up is the hot GET's: by customer, in one statement, 256 to a read transaction.
"""

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import apsw
import msgspec

from bench.results import Layout, spread
from knownas import demo
from knownas.http.wire import identifiers_body
from knownas.model import KINDS, NO_IDENTIFIERS, Identifiers, Profile

_SEED: Final = 1
_LOOKUPS: Final = 50_000
_READS_A_TURN: Final = 256
_PRAGMAS: Final = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = OFF;
PRAGMA mmap_size = 0x1000000000000;
"""

_json = msgspec.json.Encoder()
_msgpack = msgspec.msgpack.Encoder()
_list_of_json = msgspec.json.Decoder(tuple[str | None, ...]).decode
_list_of_msgpack = msgspec.msgpack.Decoder(tuple[str | None, ...]).decode
_object_of_json = msgspec.json.Decoder(dict[str, str]).decode

_COLUMNS: Final = ", ".join(kind.name for kind in KINDS)
_BY_NUMBER: Final = """
CREATE TABLE profiles (
  number INTEGER PRIMARY KEY, app_id INTEGER NOT NULL, profile_id BLOB NOT NULL,
  customer_user_id TEXT, created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL, {columns},
  UNIQUE (app_id, profile_id)) STRICT;
CREATE TABLE customers (
  app_id INTEGER NOT NULL, customer_user_id TEXT NOT NULL, profile INTEGER NOT NULL,
  PRIMARY KEY (app_id, customer_user_id)) STRICT, WITHOUT ROWID;
"""
_BY_PROFILE_ID: Final = """
CREATE TABLE profiles (
  app_id INTEGER NOT NULL, profile_id BLOB NOT NULL,
  customer_user_id TEXT, created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL, {columns},
  PRIMARY KEY (app_id, profile_id)) STRICT, WITHOUT ROWID;
CREATE TABLE customers (
  app_id INTEGER NOT NULL, customer_user_id TEXT NOT NULL, profile BLOB NOT NULL,
  PRIMARY KEY (app_id, customer_user_id)) STRICT, WITHOUT ROWID;
"""
_READ_BY_NUMBER: Final = """
SELECT {columns} FROM customers c CROSS JOIN profiles p ON p.number = c.profile
WHERE c.app_id = ? AND c.customer_user_id = ?
"""
_READ_BY_PROFILE_ID: Final = """
SELECT {columns} FROM customers c
CROSS JOIN profiles p ON p.app_id = c.app_id AND p.profile_id = c.profile
WHERE c.app_id = ? AND c.customer_user_id = ?
"""


class _Way(NamedTuple):
    name: str
    to_row: Callable[[Identifiers], tuple[Any, ...]]
    from_row: Callable[[Any], Identifiers]
    """Of one column, its value; of several, the row."""
    columns: str = "identifiers"
    column_type: str = "TEXT"
    by_number: bool = True


def _trimmed(identifiers: Identifiers) -> Identifiers:
    set_count = len(identifiers)
    while set_count and identifiers[set_count - 1] is None:
        set_count -= 1
    return identifiers[:set_count]


def _padded(identifiers: Identifiers) -> Identifiers:
    return identifiers + NO_IDENTIFIERS[len(identifiers) :]


def _to_object(identifiers: Identifiers) -> str:
    given = zip(KINDS, identifiers, strict=True)
    return _json.encode({kind.name: value for kind, value in given if value}).decode()


def _from_object(text: str) -> Identifiers:
    given = _object_of_json(text)
    return tuple(given.get(kind.name) for kind in KINDS)


_JSON_LIST: Final = _Way(
    "JSON list by position",
    lambda identifiers: (_json.encode(_trimmed(identifiers)).decode(),),
    lambda text: _padded(_list_of_json(text)),
)
_WAYS: Final = (
    _JSON_LIST,
    _JSON_LIST._replace(name=f"{_JSON_LIST.name}, keyed by profile id", by_number=False),
    _Way(
        "msgpack list by position",
        lambda identifiers: (_msgpack.encode(_trimmed(identifiers)),),
        lambda packed: _padded(_list_of_msgpack(packed)),
        column_type="BLOB",
    ),
    _Way("JSON object by name", lambda identifiers: (_to_object(identifiers),), _from_object),
    _Way(
        "a column for each kind", lambda identifiers: identifiers, lambda row: row, columns=_COLUMNS
    ),
)


def measure(folder: Path, *, profiles: int, repeat: int) -> list[Layout]:
    """Measure every layout, one after another in each round."""
    databases = [
        _made(folder / f"layout-{index}.db", way, profiles) for index, way in enumerate(_WAYS)
    ]
    reads: list[list[float]] = [[] for _ in _WAYS]
    answers: list[list[float]] = [[] for _ in _WAYS]
    rng = random.Random(_SEED)
    customers = [f"user-{rng.randrange(profiles)}" for _ in range(_LOOKUPS)]
    for _ in range(repeat):
        for index, (way, (connection, _)) in enumerate(zip(_WAYS, databases, strict=True)):
            reads[index].append(_time(connection, way, customers, lambda _: None))
            answers[index].append(_time(connection, way, customers, _answer(way)))
    for connection, _ in databases:
        connection.close()
    for path in folder.glob("layout-*.db*"):
        path.unlink()
    return [
        Layout(
            name=way.name,
            profiles=profiles,
            read_us=spread(reads[index]),
            answer_us=spread(answers[index]),
            bytes_a_profile=databases[index][1] / profiles,
        )
        for index, way in enumerate(_WAYS)
    ]


def _answer(way: _Way) -> Callable[[Any], object]:
    return lambda row: identifiers_body(way.from_row(row))


def _time(
    connection: apsw.Connection,
    way: _Way,
    customers: list[str],
    use: Callable[[Any], object],
) -> float:
    """Return the microseconds of one look-up and of what is made of it."""
    statement = _READ_BY_NUMBER if way.by_number else _READ_BY_PROFILE_ID
    sql = statement.format(columns=way.columns)
    execute = connection.cursor().execute
    began = time.perf_counter()
    for start in range(0, len(customers), _READS_A_TURN):
        execute("BEGIN")
        for customer in customers[start : start + _READS_A_TURN]:
            found = execute(sql, (1, customer)).get
            if found is not None:
                use(found)
        execute("COMMIT")
    return (time.perf_counter() - began) / len(customers) * 1e6


def _made(path: Path, way: _Way, profiles: int) -> tuple[apsw.Connection, int]:
    """Return a database with the profiles in this layout, and its size."""
    for old in path.parent.glob(f"{path.name}*"):
        old.unlink()
    connection = apsw.Connection(str(path))
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)  # as the storage does, for its reasons
    connection.execute(_PRAGMAS).fetchall()
    columns = [f"{name} {way.column_type}" for name in way.columns.split(", ")]
    schema = _BY_NUMBER if way.by_number else _BY_PROFILE_ID
    connection.execute(schema.format(columns=", ".join(columns)))
    key = "last_insert_rowid()" if way.by_number else "?3"
    marks = ", ".join("?" * (5 + len(columns)))
    insert = (
        "INSERT INTO profiles (app_id, profile_id, customer_user_id, created_at, updated_at,"
        f" {way.columns}) VALUES ({marks})"
    )
    bind = f"INSERT INTO customers VALUES (?1, ?2, {key})"
    with connection:
        for profile in _profiles(profiles):
            blob = bytes.fromhex(profile.profile_id.replace("-", ""))
            customer = profile.customer_user_id
            times = (profile.created_at, profile.updated_at)
            row = (1, blob, customer, *times, *way.to_row(profile.identifiers))
            connection.execute(insert, row)
            if customer is not None:
                connection.execute(bind, (1, customer) if way.by_number else (1, customer, blob))
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return connection, path.stat().st_size


def _profiles(count: int) -> Iterator[Profile]:
    return demo.profiles(seed=_SEED, start=0, count=count, now=time.time_ns() // 1_000_000)
