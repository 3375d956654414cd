"""The databases that are measured, made by `knownas demo`, and whom to ask for in them."""

import asyncio
import hashlib
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import apsw
import msgspec

from bench.results import Disk
from knownas import demo
from knownas.model import KINDS, NO_IDENTIFIERS, Profile
from knownas.storage import migrate
from knownas.storage.sqlite import SqliteStorage
from knownas.storage.sqlite_file import PAGE_BYTES

MAX_TARGETS: Final = 100_000
"""Profiles that a load asks for, at most; drawn evenly from all."""

_SEED: Final = 1
_MANY: Final = 1_000_000
"""Profiles that `knownas demo` makes in a minute or two."""
_CHUNK: Final = 500_000


class Target(NamedTuple):
    """A profile to ask for."""

    customer: str
    profile_id: str
    identifier: tuple[str, str] | None
    """Kind and value of its first identifier that is set."""


class Database(NamedTuple):
    """A database with demo profiles and a key to it."""

    path: Path
    key: str
    profiles: int

    def copy(self, path: Path) -> "Database":
        """Copy it, for a server that writes."""
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        shutil.copyfile(self.path, path)
        return self._replace(path=path)

    def targets(self) -> list[Target]:
        """Return customers drawn evenly from all, always the same ones."""
        by_number = """
        SELECT customer_user_id, profile_id, identifiers FROM profiles WHERE number = ?
        """
        count = min(self.profiles, MAX_TARGETS)
        numbers = random.Random(_SEED).sample(range(1, self.profiles + 1), count)
        connection = apsw.Connection(str(self.path), flags=apsw.SQLITE_OPEN_READONLY)
        found = []
        for number in numbers:
            for customer, blob, identifiers in connection.execute(by_number, (number,)):
                if customer is not None:
                    values: list[str | None] = json.loads(identifiers)
                    given = zip(KINDS, values, strict=False)  # the nulls at its end are left out
                    first = next(((kind.name, value) for kind, value in given if value), None)
                    found.append(Target(customer, _to_text(blob), first))
        connection.close()
        return found


def made(folder: Path, profiles: int) -> Database:
    """Return a database with so many demo profiles, made now or in an earlier run."""
    path = folder / f"{profiles}.db"
    note = folder / f"{profiles}.json"
    fingerprint = _fingerprint()
    if path.exists() and note.exists():
        known = json.loads(note.read_text())
        if known["fingerprint"] == fingerprint:
            return Database(path, known["key"], profiles)
    _remove(path)
    began = time.monotonic()
    environment = {name: v for name, v in os.environ.items() if not name.startswith("KNOWNAS_")}
    environment["KNOWNAS_DATABASE"] = f"sqlite:///{path}"

    def knownas(*arguments: str) -> str:
        command = [sys.executable, "-m", "knownas", *arguments]
        return subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, text=True, check=True
        ).stdout

    if profiles <= _MANY:
        knownas("app", "create", "default")
        knownas("demo", str(profiles), "--seed", str(_SEED))
    else:
        print(f"Making {profiles:,} profiles takes long.", flush=True)
        now = time.time_ns() // 1_000_000
        asyncio.run(_fill(path, demo.profiles(seed=_SEED, start=0, count=profiles, now=now)))
    key = json.loads(knownas("key", "create", "--json"))["key"]
    _checkpoint(path)
    note.write_text(json.dumps({"fingerprint": fingerprint, "key": key}))
    rate = profiles / (time.monotonic() - began)
    print(f"Made {profiles:,} profiles, {rate:,.0f} a second.", flush=True)
    return Database(path, key, profiles)


def disk(folder: Path, *, profiles: int, identifiers: int) -> Disk:
    """Measure what profiles with just so many identifiers each take on disk."""
    path = folder / "disk.db"
    _remove(path)

    asyncio.run(_fill(path, itertools.islice(_with_just(identifiers), profiles)))
    _checkpoint(path)
    connection = apsw.Connection(str(path))
    parts = connection.execute("SELECT name, sum(pgsize) FROM dbstat GROUP BY name ORDER BY 2 DESC")
    found = Disk(
        profiles=profiles,
        identifiers=identifiers,
        file_bytes=path.stat().st_size,
        parts={name: size for name, size in parts if size > profiles},
    )
    connection.close()
    _remove(path)
    return found


async def _fill(path: Path, profiles: Iterator[Profile]) -> None:
    """Make a database with these profiles as `knownas demo` does, in larger transactions.

    Sorted, they touch the pages of the index of ids in order: what is large is then written once.
    """
    storage = SqliteStorage(str(path))
    app = await storage.create_app(str(uuid.UUID(int=_SEED, version=4)), "default", now=0)
    while chunk := list(itertools.islice(profiles, _CHUNK)):
        await storage.add_profiles(app.id, sorted(chunk, key=lambda one: one.profile_id), now=1)
    await storage.close()


def _with_just(identifiers: int) -> Iterator[Profile]:
    """Yield demo profiles that have enough identifiers, with some of them left out at random."""
    rng = random.Random(_SEED)
    now = time.time_ns() // 1_000_000
    for profile in demo.profiles(seed=_SEED, start=0, count=sys.maxsize, now=now):
        given = [kind for kind, value in enumerate(profile.identifiers) if value is not None]
        if len(given) >= identifiers:
            kept = list(NO_IDENTIFIERS)
            for kind in rng.sample(given, identifiers):
                kept[kind] = profile.identifiers[kind]
            yield msgspec.structs.replace(profile, identifiers=tuple(kept))


def _checkpoint(path: Path) -> None:
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    connection.close()


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-reserve"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _fingerprint() -> str:
    """Return a digest of what decides how a database is made."""
    digest = hashlib.sha256(Path(demo.__file__).read_bytes())
    digest.update(b"%d" % PAGE_BYTES)
    for step in migrate.available("sqlite"):
        digest.update(step.sql.encode())
    return digest.hexdigest()


def _to_text(blob: bytes) -> str:
    digits = blob.hex()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
