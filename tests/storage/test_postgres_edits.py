"""Edits and merged names on PostgreSQL: who waits for whom, and by how many ways to the database.

What is the same on SQLite stands in `test_edits.py` and `test_merging.py`.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Final

import asyncpg
import msgspec
import pytest

import postgres
from knownas import merging, writes
from knownas.editing import Answer, Edit, Needs
from knownas.errors import KnownasError, ProfileNotFound, ServiceUnavailable
from knownas.model import (
    NO_IDENTIFIERS,
    App,
    Policies,
    Profile,
    ProfileId,
    ProfileRef,
    merge_identifiers,
)
from knownas.storage.postgres import PostgresStorage
from knownas.storage.postgres_link import Link, Row
from knownas.writes import Setting
from postgres import psql

pytestmark = pytest.mark.anyio

IDS: Final = [ProfileId(f"{number:08x}-0000-4000-8000-{number:012}") for number in range(400)]
REJECT: Final[Policies] = {"branch_id": "reject"}
SECONDS: Final = 1.0
MOMENT: Final = 0.3
"""Long enough for what waits for nobody."""


@pytest.fixture
def url(postgres_url: str) -> Iterator[str]:
    """Give the URL of a fresh database."""
    made = postgres.new_database(postgres_url)
    yield made
    postgres.drop_database(postgres_url, made)


@pytest.fixture
async def storage(url: str) -> AsyncIterator[PostgresStorage]:
    """Give a storage."""
    opened = PostgresStorage(url)
    yield opened
    await opened.close()


@pytest.fixture
async def app(storage: PostgresStorage) -> App:
    """Give an app with the profiles 1 to 4, of which 4 was merged into 1."""
    made = await storage.create_app("uuid", "one", now=1)
    profiles = [
        Profile(IDS[number], f"u{number}", NO_IDENTIFIERS, (), 1, 1) for number in (1, 2, 3, 4)
    ]
    await storage.add_profiles(made.id, profiles, now=1)
    await storage.edit(made.id, merge_of(1, 4), now=2)
    return made


def by_id(number: int) -> ProfileRef:
    """Return a reference by profile id."""
    return ProfileRef(profile_id=IDS[number])


def merge_of(survivor: int, source: int) -> Callable[[Edit], object]:
    """Return the edit that merges one profile into another."""
    return lambda edit: merging.merge(
        edit,
        by_id(survivor),
        by_id(source),
        rules={},
        default="survivor",
        policies={},
        now=2,
        dry_run=False,
    )


def setting(value: str) -> Callable[[Profile], Profile]:
    """Return the change that sets one identifier."""
    return lambda one: msgspec.structs.replace(
        one, identifiers=merge_identifiers(one.identifiers, {"branch_id": value})
    )


@asynccontextmanager
async def holding(url: str, *numbers: int) -> AsyncIterator[asyncpg.Connection]:
    """Lock profiles, one after the other, in a transaction of another server."""
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            for number in numbers:
                await lock(connection, number)
            yield connection
    finally:
        await connection.close()


async def lock(connection: asyncpg.Connection, number: int) -> None:
    """Lock one profile more."""
    locked = await connection.fetch(
        "SELECT 1 FROM profiles WHERE profile_id = $1 FOR UPDATE", IDS[number]
    )
    assert len(locked) == 1


def deadlocks(url: str) -> str:
    """Return how often the server had to end a deadlock in the database."""
    return psql(
        url,
        "SELECT pg_stat_force_next_flush()",
        "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()",
    )


# --- Who waits for whom -------------------------------------------------------------------------


async def test_late_lock_is_not_waited_for(storage: PostgresStorage, app: App, url: str) -> None:
    """Who turns out to need a profile that another has lets go of its own, and begins with both.

    So the other, which takes them in the order of all, is never kept waiting for ever.
    """

    def work(edit: Edit) -> None:
        for number in (2, 1):  # the second is not among what it needs at first
            found = edit.find(by_id(number))[1]
            assert found is not None
            edit.put(found, setting("x")(found))

    async with holding(url, 1) as other:
        writing = asyncio.ensure_future(storage.edit(app.id, work, now=3, needs=Needs([by_id(2)])))
        await asyncio.sleep(MOMENT)
        await lock(other, 2)
        await asyncio.sleep(MOMENT)
    await writing
    assert deadlocks(url) == "0"
    for number in (1, 2):
        assert (await storage.profile(app.id, by_id(number))).revision == 2


async def test_survivor_that_is_busy_is_waited_for_in_turn(
    storage: PostgresStorage, app: App, url: str
) -> None:
    """A group of plain writes, some by a merged name, does as an edit does."""
    async with holding(url, 1) as other:
        writings = [
            asyncio.ensure_future(storage.change_profile(app.id, ref, setting("x"), now=3))
            for ref in (by_id(2), by_id(4), ProfileRef("u4"))
        ]
        await asyncio.sleep(MOMENT)
        await lock(other, 2)
        await asyncio.sleep(MOMENT)
    kept = await asyncio.gather(*writings)
    assert deadlocks(url) == "0"
    assert [one.profile_id for one in kept] == [IDS[2], IDS[1], IDS[1]]


async def test_edit_has_a_deadline(url: str, storage: PostgresStorage, app: App) -> None:
    """What waits too long for another server is refused, and has done nothing; the next is done."""
    hurried = PostgresStorage(url, seconds=SECONDS)

    def work(edit: Edit) -> None:
        found = edit.find(by_id(2))[1]
        assert found is not None
        edit.put(found, setting("x")(found))
        edit.keep_answer("key", Answer(b"1", "[]", 9))

    async with holding(url, 2):
        with pytest.raises(ServiceUnavailable):
            await hurried.edit(app.id, work, now=3)
    assert (await storage.profile(app.id, by_id(2))).revision == 1
    assert await storage.edit(app.id, lambda edit: edit.answer("key"), now=3) is None
    await hurried.edit(app.id, work, now=3)
    assert (await storage.profile(app.id, by_id(2))).revision == 2
    await hurried.close()


async def test_edit_that_the_database_refuses_fails_alone(
    storage: PostgresStorage, app: App
) -> None:
    """Its neighbours in the group are done, each once."""

    def work(number: int, value: str) -> Callable[[Edit], Profile]:
        def put(edit: Edit) -> Profile:
            found = edit.find(by_id(number))[1]
            assert found is not None
            return edit.put(found, setting(value)(found))

        return put

    outcomes = await asyncio.gather(
        storage.edit(app.id, work(1, "x"), now=3),
        storage.edit(app.id, work(2, "no text: \x00"), now=3),
        storage.edit(app.id, work(3, "x"), now=3),
        return_exceptions=True,
    )
    assert isinstance(outcomes[1], asyncpg.DataError)
    assert [(await storage.profile(app.id, by_id(number))).revision for number in (1, 2, 3)] == [
        2,
        1,
        2,
    ]


# --- What is sent -------------------------------------------------------------------------------


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Give the first words of each statement that is sent from now on."""
    said: list[str] = []
    fetch = Link.fetch

    async def noted(link: Link, statement: str, *values: object) -> list[Row]:
        said.append(statement)
        return await fetch(link, statement, *values)

    monkeypatch.setattr(Link, "fetch", noted)
    return said


@pytest.mark.parametrize(
    ("ref", "found", "merged", "nobody"),
    [(by_id, 1, 3, 2), (lambda number: ProfileRef(f"u{number}"), 2, 3, 2)],
    ids=["by id", "by customer"],
)
async def test_names_are_asked_only_after_a_miss(  # noqa: PLR0913, PLR0917 - a table
    storage: PostgresStorage,
    app: App,
    sent: list[str],
    ref: Callable[[int], ProfileRef],
    found: int,
    merged: int,
    nobody: int,
) -> None:
    """Who is found costs a read what it did; one statement more says that nobody was merged."""
    for number, statements in ((1, found), (4, merged), (9, nobody)):
        for read in (storage.identifiers, storage.profile):
            del sent[:]
            try:
                await read(app.id, ref(number))
            except ProfileNotFound:
                assert number == 9
            assert len(sent) == statements, sent
            assert (number == 1) == (not any("aliases" in one for one in sent))


async def test_write_asks_for_names_only_after_a_miss(
    storage: PostgresStorage, app: App, sent: list[str]
) -> None:
    """A group that finds all whom it names reads no alias."""
    await asyncio.gather(
        *(storage.change_profile(app.id, ref, setting("x"), now=3) for ref in (by_id(1), by_id(2)))
    )
    assert not any("aliases" in one for one in sent)
    with pytest.raises(ProfileNotFound):
        await storage.change_profile(app.id, by_id(9), setting("x"), now=3)
    assert sum("aliases" in one for one in sent) == 1


async def test_edits_of_one_turn_share_a_transaction(
    storage: PostgresStorage, app: App, sent: list[str]
) -> None:
    """A hundred edits take as many statements as one; a long one has its own transaction."""
    profiles = [Profile(IDS[number], None, NO_IDENTIFIERS, (), 1, 1) for number in range(100, 200)]
    await storage.add_profiles(app.id, profiles, now=1)

    async def claim(number: int) -> Profile:
        one = Setting(by_id(number), {"branch_id": str(number)})
        return await storage.edit(
            app.id,
            lambda edit: writes.set_identifiers(edit, one, REJECT, 3),
            now=3,
            needs=writes.needs_of([one], REJECT),
        )

    del sent[:]
    await claim(100)
    alone = len(sent)
    del sent[:]
    await asyncio.gather(*map(claim, range(101, 200)))
    assert len(sent) == alone


# --- What stands in the tables ------------------------------------------------------------------


async def test_deleted_app_leaves_no_name_and_no_answer(
    storage: PostgresStorage, app: App, url: str
) -> None:
    """Both tables are empty afterwards."""
    await storage.edit(app.id, lambda edit: edit.keep_answer("key", Answer(b"1", "[]", 9)), now=1)
    counted = "SELECT (SELECT count(*) FROM aliases), (SELECT count(*) FROM answers)"
    assert psql(url, counted) == "2|1"
    await storage.delete_app(app.id)
    assert psql(url, counted) == "0|0"


async def test_claim_stands_in_the_row_of_the_identifier(
    storage: PostgresStorage, app: App, url: str
) -> None:
    """Only what was set under a policy is marked, and the mark goes with the row."""
    marked = "SELECT value FROM identifiers WHERE exclusive ORDER BY value"
    one = Setting(by_id(2), {"branch_id": "b", "adjust_device_id": "a"})
    await storage.edit(app.id, lambda edit: writes.set_identifiers(edit, one, REJECT, 3), now=3)
    await storage.change_profile(app.id, by_id(3), setting("c"), now=3)
    assert psql(url, marked) == "b"
    await storage.change_profile(app.id, by_id(2), setting("d"), now=3)
    assert psql(url, marked) == ""
    assert await storage.check() == []


async def test_random_edits_of_two_servers_leave_all_sound(
    storage: PostgresStorage, app: App, url: str
) -> None:
    """Claims, moves, creates, deletions, merges over a few names: each done whole or refused."""
    second = PostgresStorage(url)
    policies: Policies = {"branch_id": "reject", "adjust_device_id": "move"}

    def job(number: int) -> Awaitable[object]:
        where = (storage, second)[number % 2]
        ref = [by_id(number % 7), ProfileRef(f"u{number % 5}")][number % 3 % 2]
        if number % 11 == 0:
            return where.delete_profile(app.id, ref, now=3)
        if number % 7 == 0:
            return where.edit(app.id, merge_of(number % 5, number % 6), now=3)
        if number % 5 == 0:
            return where.change_profile(
                app.id, ref, setting(str(number)), now=3, create_as=IDS[number]
            )
        one = Setting(
            ref,
            {"branch_id": f"b{number % 4}", "adjust_device_id": f"a{number % 3}"},
            create_as=IDS[number],
        )
        return where.edit(
            app.id, lambda edit: writes.set_identifiers(edit, one, policies, 3), now=3,
            needs=writes.needs_of([one], policies) if number % 2 else None,
        )  # fmt: skip

    outcomes = await asyncio.gather(*map(job, range(300)), return_exceptions=True)
    failures = [it for it in outcomes if isinstance(it, BaseException)]
    assert all(isinstance(it, KnownasError) for it in failures), failures
    assert not any(isinstance(it, ServiceUnavailable) for it in failures)
    twice = (
        "SELECT kind, value FROM identifiers WHERE kind = 13 GROUP BY app_id, kind, value"
        " HAVING count(*) > 1"
    )
    assert psql(url, twice) == ""
    assert await storage.check() == []
    await second.close()


async def test_edit_of_many_has_no_deadline(url: str, storage: PostgresStorage, app: App) -> None:
    """An edit of more than a batch waits as long as it takes, and what raises in it is told."""
    hasty = PostgresStorage(url, seconds=MOMENT)
    refs = [ProfileRef(f"many-{number}") for number in range(1_001)]

    def make(edit: Edit) -> int:
        for number, ref in enumerate(refs):
            assert edit.find(ref) == (None, None)
            made = ProfileId(f"{number:08x}-0000-4000-9000-{number:012}")
            values = merge_identifiers(NO_IDENTIFIERS, {"branch_id": f"b-{number}"})
            edit.put(None, Profile(made, ref.customer_user_id, values, (), 1, 1))
        return len(refs)

    other = await asyncpg.connect(url)
    try:
        await other.execute("BEGIN")
        await other.execute("LOCK profiles IN EXCLUSIVE MODE")
        making = asyncio.ensure_future(hasty.edit(app.id, make, now=3, needs=Needs(refs)))
        await asyncio.sleep(3 * MOMENT)
        assert not making.done()
    finally:
        await other.close()
    assert await making == len(refs)
    assert await storage.count_profiles(app.id) == 3 + len(refs)
    assert await storage.check() == []

    def fail(_edit: Edit) -> None:
        raise ProfileNotFound

    with pytest.raises(ProfileNotFound):
        await hasty.edit(app.id, fail, now=4, needs=Needs(refs))
    await hasty.close()
