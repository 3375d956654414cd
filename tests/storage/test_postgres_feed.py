"""The feed of PostgreSQL: nothing that commits late is missed, and nothing comes out of order.

What is the same on SQLite stands in the contract suite and in `test_state_machine.py`.
"""

import asyncio
import random
import subprocess
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Final

import asyncpg
import msgspec
import pytest

import postgres
from knownas.errors import CursorExpired, KnownasError
from knownas.history import Change, Source
from knownas.model import (
    NO_IDENTIFIERS,
    App,
    Profile,
    ProfileId,
    ProfileRef,
    merge_identifiers,
)
from knownas.storage import Storage, migrate
from knownas.storage.postgres import PostgresStorage
from postgres import Cluster, psql

pytestmark = pytest.mark.anyio

IDS: Final = [ProfileId(f"00000000-0000-4000-8000-{number:012}") for number in range(400)]
PATIENCE_SECONDS: Final = 20
SERVERS: Final = 2
ROUNDS: Final = 60
CROWD: Final = 12
NUMBER: Final = "SELECT pg_current_xact_id()::text::bigint"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Give a server of these tests' own: the feed waits for whoever writes on it."""
    with postgres.cluster() as made:
        yield made


@pytest.fixture
def url(cluster: Cluster) -> Iterator[str]:
    """Give the URL of a fresh database."""
    made = postgres.new_database(cluster.url)
    yield made
    postgres.drop_database(cluster.url, made)


@pytest.fixture
async def storage(url: str) -> AsyncIterator[PostgresStorage]:
    """Give a storage."""
    opened = PostgresStorage(url)
    yield opened
    await opened.close()


@pytest.fixture
async def second(storage: PostgresStorage, url: str) -> AsyncIterator[PostgresStorage]:
    """Give what another server has on the same database."""
    assert storage.migrated
    opened = PostgresStorage(url)
    yield opened
    await opened.close()


@pytest.fixture
async def app(storage: PostgresStorage) -> App:
    """Give an app."""
    return await storage.create_app("uuid", "one", now=1)


@pytest.fixture
async def by_hand(url: str) -> AsyncIterator[asyncpg.Connection]:
    """Give a connection for what is held open."""
    connection = await asyncpg.connect(url)
    yield connection
    await connection.close()


class Follower:
    """Whoever reads the feed from its beginning, and makes the profiles of it."""

    def __init__(self, storage: Storage, app: App, limit: int = 1000) -> None:
        """Read so many changes at once."""
        self._storage = storage
        self._app = app
        self._limit = limit
        self.cursor: str | None = None
        self.told: list[Change] = []
        self.profiles: dict[ProfileId, Profile] = {}
        self._revisions: dict[ProfileId, int] = defaultdict(int)

    async def read(self) -> list[Change]:
        """Read all that can be told by now; each profile's changes must come in their order."""
        new: list[Change] = []
        while True:
            page = await self._storage.changes(self._app.id, self.cursor, self._limit)
            self.cursor = page.cursor
            for change in page.changes:
                self._revisions[change.profile_id] += 1
                assert change.revision == self._revisions[change.profile_id]
                before = self.profiles.pop(change.profile_id, None)
                after = change.after(before)
                assert change.before(after) == before
                if after is not None:
                    self.profiles[change.profile_id] = after
            new += page.changes
            if len(page.changes) < self._limit:
                self.told += new
                return new

    async def has_all(self) -> None:
        """Return when what was made of the feed is what the database has."""
        end = time.monotonic() + PATIENCE_SECONDS
        while True:
            await self.read()
            stored = await self._storage.profiles_after(self._app.id, None, 10_000)
            if [self.profiles[key] for key in sorted(self.profiles)] == stored:
                return
            assert time.monotonic() < end
            await asyncio.sleep(0.02)


def profile(number: int, customer: str | None = None, **values: str) -> Profile:
    """Return a profile as it is added."""
    identifiers = merge_identifiers(NO_IDENTIFIERS, values)
    return Profile(IDS[number], customer, identifiers, (), 1, 1)


async def put(
    storage: Storage, app: App, ref: ProfileRef, value: str, *, create_as: ProfileId | None = None
) -> Profile:
    """Set an identifier."""

    def change(before: Profile) -> Profile:
        identifiers = merge_identifiers(before.identifiers, {"branch_id": value})
        return msgspec.structs.replace(before, identifiers=identifiers)

    return await storage.change_profile(app.id, ref, change, now=2, create_as=create_as)


def by_id(number: int) -> ProfileRef:
    """Return the reference to a profile by its id."""
    return ProfileRef(profile_id=IDS[number])


async def waiting(connection: asyncpg.Connection) -> None:
    """Return when somebody waits for a lock."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


def whose(changes: Sequence[Change]) -> list[tuple[ProfileId, int]]:
    """Return the ids and revisions of changes."""
    return [(one.profile_id, one.revision) for one in changes]


# --- What commits late --------------------------------------------------------------------------


async def test_transaction_that_commits_late_is_not_missed(
    storage: PostgresStorage, app: App, by_hand: asyncpg.Connection
) -> None:
    """What committed before it, with a later number, is told together with it, and after it."""
    await storage.add_profiles(app.id, [profile(1), profile(2)], now=1)
    follower = Follower(storage, app)
    assert whose(await follower.read()) == [(IDS[1], 1), (IDS[2], 1)]
    late = by_hand.transaction()
    await late.start()
    number = await by_hand.fetchval(NUMBER)
    cursors = [follower.cursor]
    for value in ("a", "b"):
        await put(storage, app, by_id(1), value)
        assert await follower.read() == []
        cursors += [follower.cursor, await storage.end_of_changes()]
    await by_hand.execute(
        "INSERT INTO changes VALUES ($1, 2, 2, $2, $3, 'cli', '{\"u\":[1,2]}')",
        number, app.id, IDS[2],
    )  # fmt: skip
    await by_hand.execute(
        "UPDATE profiles SET revision = 2, updated_at = 2 WHERE profile_id = $1", IDS[2]
    )
    assert await follower.read() == []
    await late.commit()
    expected = [(IDS[2], 2), (IDS[1], 2), (IDS[1], 3)]
    assert whose(await follower.read()) == expected
    for cursor in cursors:
        assert whose((await storage.changes(app.id, cursor, 1000)).changes) == expected
    await follower.has_all()


async def test_transaction_that_comes_to_nothing_holds_nothing_up(
    storage: PostgresStorage, app: App, by_hand: asyncpg.Connection
) -> None:
    """Once it is taken back, what committed meanwhile is told."""
    late = by_hand.transaction()
    await late.start()
    await by_hand.fetchval(NUMBER)
    await put(storage, app, by_id(1), "a", create_as=IDS[1])
    follower = Follower(storage, app)
    assert await follower.read() == []
    await late.rollback()
    assert whose(await follower.read()) == [(IDS[1], 1)]


async def test_change_that_waited_for_a_later_transaction_comes_after_it(
    storage: PostgresStorage, second: PostgresStorage, app: App, by_hand: asyncpg.Connection
) -> None:
    """A profile's changes are told in the order of its revisions, whoever had a number first."""
    await storage.add_profiles(app.id, [profile(1), profile(2)], now=1)
    follower = Follower(storage, app)
    await follower.read()
    claim = by_hand.transaction()
    await claim.start()
    await by_hand.execute(
        "INSERT INTO customers (app_id, customer_user_id, profile_id) VALUES ($1, 'new', $2)",
        app.id, IDS[9],
    )  # fmt: skip
    # One transaction. It has its number, from the first customer, when it waits for the second.
    first = asyncio.gather(
        put(storage, app, ProfileRef("a"), "x", create_as=IDS[3]),
        put(storage, app, ProfileRef("new"), "x", create_as=IDS[4]),
        put(storage, app, by_id(1), "first"),
    )
    await waiting(by_hand)
    await put(second, app, by_id(1), "second")
    assert await follower.read() == []
    await claim.rollback()
    assert [one.revision for one in await first] == [1, 1, 3]
    told = whose(await follower.read())
    assert told == [(IDS[3], 1), (IDS[4], 1), (IDS[1], 2), (IDS[1], 3)]
    await put(second, app, by_id(1), "third")
    assert whose(await follower.read()) == [(IDS[1], 4)]
    await follower.has_all()
    assert await storage.check() == []


async def test_id_that_comes_back_goes_on_where_it_ended(
    storage: PostgresStorage, second: PostgresStorage, app: App, by_hand: asyncpg.Connection
) -> None:
    """So is what is made after a deletion with a later number, and by an id that was not named."""
    await storage.add_profiles(app.id, [profile(1), profile(2)], now=1)
    follower = Follower(storage, app)
    claim = by_hand.transaction()
    await claim.start()
    await by_hand.execute(
        "INSERT INTO customers (app_id, customer_user_id, profile_id) VALUES ($1, 'new', $2)",
        app.id, IDS[9],
    )  # fmt: skip
    first = asyncio.gather(
        put(storage, app, ProfileRef("a"), "x", create_as=IDS[3]),
        put(storage, app, ProfileRef("new"), "x", create_as=IDS[4]),
        put(storage, app, by_id(1), "again", create_as=IDS[1]),
    )
    await waiting(by_hand)
    await second.delete_profile(app.id, by_id(1), now=2)
    await claim.rollback()
    assert [one.revision for one in await first] == [1, 1, 3]
    assert whose(await follower.read())[2:] == [
        (IDS[3], 1),
        (IDS[4], 1),
        (IDS[1], 2),
        (IDS[1], 3),
    ]
    await storage.delete_profile(app.id, by_id(1), now=3)
    unnamed = await put(storage, app, ProfileRef("other"), "y", create_as=IDS[1])
    assert unnamed.revision == 5
    await storage.delete_profile(app.id, by_id(1), now=3)
    assert await storage.add_profiles(app.id, [profile(1)], now=3) == 1
    assert await storage.replace_profiles(app.id, [IDS[1]], [profile(1, "c")], now=3) == 1
    assert await storage.replace_profiles(app.id, [IDS[1]], [], now=3) == 0
    assert await storage.replace_profiles(app.id, [], [profile(1)], now=3) == 1
    await follower.has_all()
    assert [one.revision for one in follower.told if one.profile_id == IDS[1]] == [*range(1, 11)]
    assert await storage.check() == []


async def test_profile_that_others_make_meanwhile_is_not_taken_for_none(
    storage: PostgresStorage, second: PostgresStorage, app: App, by_hand: asyncpg.Connection
) -> None:
    """Not even by a group at the end of which it is gone again."""
    await storage.add_profiles(app.id, [profile(2)], now=1)
    lock = by_hand.transaction()
    await lock.start()
    await by_hand.execute("SELECT 1 FROM profiles FOR UPDATE")
    group = asyncio.gather(
        put(storage, app, by_id(1), "first", create_as=IDS[1]),
        storage.delete_profile(app.id, by_id(1), now=3),
        put(storage, app, by_id(2), "first"),
    )
    await waiting(by_hand)  # it has looked for profile 1, and found none
    await put(second, app, by_id(1), "second", create_as=IDS[1])
    await lock.rollback()
    await group
    follower = Follower(storage, app)
    await follower.has_all()
    assert [one.action for one in follower.told if one.profile_id == IDS[1]] == [
        "created",
        "changed",
        "deleted",
    ]
    assert await storage.check() == []


async def test_crash_takes_no_change_away_from_who_was_at_the_end(cluster: Cluster) -> None:
    """Numbers that came to nothing before it are given out again, and are after every cursor."""
    url = postgres.new_database(cluster.url)
    storage = await asyncio.to_thread(PostgresStorage, url)
    app = await storage.create_app("uuid", "one", now=1)
    await put(storage, app, by_id(1), "before", create_as=IDS[1])
    by_hand = await asyncpg.connect(url)
    for _ in range(200):
        await by_hand.execute(f"BEGIN; {NUMBER}; ROLLBACK")
    page = await storage.changes(app.id, None, 1000)
    cursors = [page.cursor, await storage.end_of_changes()]
    await asyncio.to_thread(cluster.kill)
    await asyncio.to_thread(cluster.start)
    await asyncio.sleep(0.2)
    await put(storage, app, by_id(1), "after")
    for cursor in cursors:
        assert whose((await storage.changes(app.id, cursor, 10)).changes) == [(IDS[1], 2)]
    await storage.close()
    by_hand.terminate()
    postgres.drop_database(cluster.url, url)


# --- Several servers ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("limit", [7, 1000])
async def test_follower_rebuilds_what_several_servers_write(
    storage: PostgresStorage, second: PostgresStorage, app: App, limit: int
) -> None:
    """It misses nothing, whichever way and in whatever order they write, and stays up to date."""
    chance = random.Random(limit)  # noqa: S311 - it must repeat
    follower = Follower(storage, app, limit)
    done = asyncio.Event()

    def ref() -> ProfileRef:
        number = chance.randrange(CROWD)
        return chance.choice([by_id(number), ProfileRef(f"c{number}")])

    async def write(server: Storage, round_number: int) -> None:
        made = [ProfileId(str(uuid.UUID(int=chance.getrandbits(128)))) for _ in range(CROWD)]
        many = chance.sample(range(20, 40), 5)
        what = chance.random()
        if what < 0.1:
            new = [profile(number, branch_id=f"{chance.randrange(9)}") for number in many]
            await server.add_profiles(app.id, new, now=round_number)
        elif what < 0.2:
            gone = [IDS[number] for number in many]
            new = [profile(number, f"c{number}", branch_id="b") for number in many[:3]]
            await server.replace_profiles(app.id, gone, new, now=round_number)
        else:
            await asyncio.gather(
                *(put(server, app, ref(), f"{chance.randrange(9)}", create_as=one) for one in made),
                *(server.delete_profile(app.id, ref(), now=round_number) for _ in range(2)),
                return_exceptions=True,
            )

    async def serve(server: Storage) -> None:
        for round_number in range(ROUNDS):
            await write(server, round_number)

    async def follow() -> None:
        while not done.is_set():
            await follower.read()

    following = asyncio.ensure_future(follow())
    await asyncio.gather(serve(storage), serve(second))
    done.set()
    await following
    await follower.has_all()
    assert len(follower.told) > ROUNDS * SERVERS
    assert await storage.check() == []


async def test_two_servers_on_one_profile_keep_its_order(
    storage: PostgresStorage, second: PostgresStorage, app: App
) -> None:
    """Each change has a revision of its own, as the feed and the history tell, and none fails."""
    await storage.add_profiles(app.id, [profile(1)], now=1)
    follower = Follower(storage, app)

    async def write(server: Storage, who: int) -> list[int]:
        return [
            (await put(server, app, by_id(1), f"{number}-{who}")).revision
            for number in range(ROUNDS)
        ]

    made = await asyncio.gather(*(write((storage, second)[who % 2], who) for who in range(4)))
    revisions = [revision for of_one in made for revision in of_one]
    assert sorted(revisions) == list(range(2, 2 + 4 * ROUNDS))
    await follower.has_all()
    changes = await storage.history(app.id, IDS[1], before=None, limit=1000)
    assert changes[::-1] == follower.told


async def test_two_servers_count_a_value_that_is_shared(
    storage: PostgresStorage, second: PostgresStorage, app: App
) -> None:
    """Once it is, both count it right, and it is no more once one profile is left with it."""
    await storage.add_profiles(app.id, [profile(n, branch_id="x") for n in range(2)], now=1)
    await asyncio.gather(
        *(
            put(server, app, by_id(2 + 20 * at + n), "x", create_as=IDS[2 + 20 * at + n])
            for n in range(20)
            for at, server in enumerate((storage, second))
        )
    )
    assert [tuple(one) for one in await storage.shared(app.id, None, 9)] == [(12, "x", 42)]
    assert await storage.count_shared(app.id) == {12: 1}
    await asyncio.gather(*(put((storage, second)[n % 2], app, by_id(n), f"{n}") for n in range(41)))
    assert await storage.shared(app.id, None, 9) == []
    assert await storage.count_shared(app.id) == {}
    assert await storage.check() == []


async def test_group_notes_each_of_its_changes(storage: PostgresStorage, app: App) -> None:
    """In the order in which they were made; what fails leaves no trace."""
    new = ProfileRef("new")
    outcomes = await asyncio.gather(
        put(storage, app, new, "a", create_as=IDS[1]),
        put(storage, app, by_id(2), "a", create_as=IDS[2]),
        put(storage, app, new, "b"),
        put(storage, app, ProfileRef("nobody"), "x"),
        storage.delete_profile(app.id, new, now=1, by=Source("cli")),
        put(storage, app, new, "a", create_as=IDS[1]),
        put(storage, app, new, "\ud800"),
        return_exceptions=True,
    )
    assert [isinstance(one, Exception) for one in outcomes] == [0, 0, 0, 1, 0, 0, 1]
    told = (await storage.changes(app.id, None, 100)).changes
    assert [
        (one.revision, one.action, one.by.via, one.difference.shared)
        for one in told
        if one.profile_id == IDS[1]
    ] == [
        (1, "created", "server", ()),
        (2, "changed", "server", ()),
        (3, "deleted", "cli", ()),
        (4, "created", "server", (12,)),
    ]
    assert [(one.kind, one.profiles) for one in await storage.shared(app.id, None, 9)] == [(12, 2)]
    assert await storage.check() == []


async def test_nothing_is_noted_in_an_app_that_is_gone(storage: PostgresStorage, app: App) -> None:
    """Not even what is made and deleted again in one group."""
    await put(storage, app, by_id(1), "a", create_as=IDS[1])
    await storage.delete_app(app.id)
    outcomes = await asyncio.gather(
        put(storage, app, by_id(2), "a", create_as=IDS[2]),
        storage.delete_profile(app.id, by_id(2), now=1),
        return_exceptions=True,
    )
    assert all(isinstance(one, KnownasError) for one in outcomes)
    assert (await storage.changes(app.id, None, 10)).changes == []
    assert await storage.coverage(app.id) == []
    assert await storage.check() == []


# --- Cursors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "{0}",
        "x{0}-{1}-{2}-{3}",
        "{0}-{1}-{2}-{3}-1",
        "{0}-{1}-{2}-{3}\n",
        "{0}-{1}-{2}",
        "{0}-{2}-{3}",
        "{0}--{2}-{3}",
        "{0}-\u0661{1}-{2}-{3}",
        "{0}-9{1}-{2}-{3}",
        "{0}-{1}99999999999999999999-{2}-{3}",
        "{0}-{1}-{2}-99999999999999999999",
        "000000000000-{1}-{2}-{3}",
    ],
)
async def test_cursor_that_was_not_given_here_is_refused(
    storage: PostgresStorage, app: App, text: str
) -> None:
    """Another form, another feed's, or one from ahead of all that there is."""
    await put(storage, app, by_id(1), "a", create_as=IDS[1])
    for cursor in (await storage.end_of_changes(), (await storage.changes(app.id, None, 1)).cursor):
        assert (await storage.changes(app.id, cursor, 10)).changes == []
        with pytest.raises(CursorExpired):
            await storage.changes(app.id, text.format(*cursor.split("-")), 10)


async def test_history_gives_cursors_that_miss_nothing(
    storage: PostgresStorage, app: App, by_hand: asyncpg.Connection
) -> None:
    """A change that cannot be told in the feed yet has one after which it will be."""
    await put(storage, app, by_id(1), "a", create_as=IDS[1])
    async with by_hand.transaction():
        await by_hand.fetchval(NUMBER)
        await put(storage, app, by_id(1), "b")
        untold, told = await storage.history(app.id, IDS[1], before=None, limit=9)
    assert whose((await storage.changes(app.id, untold.cursor, 9)).changes) == [(IDS[1], 2)]
    assert whose((await storage.changes(app.id, told.cursor, 9)).changes) == [(IDS[1], 2)]
    now_told, _ = await storage.history(app.id, IDS[1], before=None, limit=9)
    assert (await storage.changes(app.id, now_told.cursor, 9)).changes == []
    assert await storage.history(app.id, IDS[1], before=2, limit=9) == [told]
    assert await storage.history(app.id, IDS[1], before=1, limit=9) == []
    assert await storage.history(app.id, IDS[2], before=None, limit=9) == []


# --- Pruning ------------------------------------------------------------------------------------


async def test_pruned_history_ends_the_cursors_before_it(
    storage: PostgresStorage, app: App
) -> None:
    """A cursor whose next change is gone is refused; one at the place that was pruned is not."""
    other = await storage.create_app("uuid2", "two", now=1)
    for number in range(1, 6):
        await put(storage, app, by_id(number), "a", create_as=IDS[number])
    await put(storage, other, by_id(1), "a", create_as=IDS[1])
    cursors: list[str] = []
    for _ in range(5):
        page = await storage.changes(app.id, cursors[-1] if cursors else None, 1)
        cursors.append(page.cursor)
    at_rest = (await storage.changes(other.id, None, 10)).cursor
    assert await storage.prune(now=0, before=2, limit=100) == 0
    assert await storage.prune(now=0, before=3, limit=2) == 2
    with pytest.raises(CursorExpired):
        await storage.changes(app.id, cursors[0], 10)
    assert len((await storage.changes(app.id, cursors[1], 10)).changes) == 3
    assert len((await storage.changes(app.id, None, 10)).changes) == 3
    assert await storage.check() == []
    assert await storage.prune(now=0, before=3, limit=100) == 4
    assert await storage.prune(now=0, before=3, limit=100) == 0
    with pytest.raises(CursorExpired):
        await storage.changes(app.id, cursors[3], 10)
    assert (await storage.changes(other.id, at_rest, 10)).changes == []
    await put(storage, other, by_id(1), "b")
    for cursor in (at_rest, (await storage.changes(app.id, None, 10)).cursor):
        await storage.changes(other.id, cursor, 10)
    assert whose((await storage.changes(other.id, at_rest, 10)).changes) == [(IDS[1], 2)]
    assert await storage.check() == []


async def test_resting_follower_does_not_expire(storage: PostgresStorage, app: App) -> None:
    """Its app has no changes, while those of another are made and pruned."""
    other = await storage.create_app("uuid2", "two", now=1)
    follower = Follower(storage, app)
    for number in range(1, 6):
        await put(storage, other, by_id(number), "a", create_as=IDS[number])
        assert await follower.read() == []
        assert await storage.prune(now=0, before=3, limit=100) == 1
        assert await follower.read() == []
    await storage.delete_app(other.id)
    assert await follower.read() == []
    await put(storage, app, by_id(1), "a", create_as=IDS[1])
    assert whose(await follower.read()) == [(IDS[1], 1)]


async def test_transaction_is_pruned_at_once_where_it_can_be(
    storage: PostgresStorage, app: App
) -> None:
    """One that is larger than a lot is pruned in parts; nobody goes on in the middle of it."""
    await storage.add_profiles(app.id, [profile(n) for n in range(3)], now=1)
    await storage.add_profiles(app.id, [profile(n) for n in range(3, 13)], now=1)
    middle = (await storage.changes(app.id, None, 5)).cursor
    last = (await storage.changes(app.id, middle, 8)).cursor
    at_rest = (await storage.changes(app.id, last, 8)).cursor
    assert await storage.prune(now=0, before=2, limit=4) == 3
    assert len((await storage.changes(app.id, middle, 100)).changes) == 8
    assert await storage.prune(now=0, before=2, limit=4) == 4
    for cursor in (middle, last):
        with pytest.raises(CursorExpired):
            await storage.changes(app.id, cursor, 100)
    assert (await storage.changes(app.id, at_rest, 100)).changes == []
    assert await storage.check() == []
    assert [await storage.prune(now=0, before=2, limit=4) for _ in range(3)] == [4, 2, 0]
    assert (await storage.changes(app.id, at_rest, 100)).changes == []
    assert await storage.check() == []


async def test_what_cannot_be_told_yet_is_not_pruned(
    storage: PostgresStorage, app: App, by_hand: asyncpg.Connection
) -> None:
    """Nor is what two prune at once counted twice."""
    async with by_hand.transaction():
        await by_hand.fetchval(NUMBER)
        await put(storage, app, by_id(1), "a", create_as=IDS[1])
        assert await storage.prune(now=0, before=9, limit=100) == 0
    pruned = await asyncio.gather(*(storage.prune(now=0, before=9, limit=100) for _ in range(2)))
    assert sum(pruned) == 1


# --- Another database ---------------------------------------------------------------------------


async def reopened(storage: PostgresStorage, url: str) -> PostgresStorage:
    """Close a storage and open another at the same or another URL."""
    await storage.close()
    return await asyncio.to_thread(PostgresStorage, url)


async def test_opening_again_changes_nothing(storage: PostgresStorage, app: App, url: str) -> None:
    """A cursor outlives every server."""
    await put(storage, app, by_id(1), "a", create_as=IDS[1])
    cursor = (await storage.changes(app.id, None, 10)).cursor
    again = await reopened(storage, url)
    assert (await again.changes(app.id, cursor, 10)).changes == []
    assert await again.end_of_changes() == cursor
    await again.close()


@pytest.fixture(params=["another database", "the same one"])
def target(request: pytest.FixtureRequest, cluster: Cluster, url: str) -> Iterator[str]:
    """Give the URL of the database that a dump is restored to."""
    if request.param == "the same one":
        yield url
        return
    made = postgres.new_database(cluster.url)
    yield made
    postgres.drop_database(cluster.url, made)


def restore(url: str, target: str, dump: Path) -> None:
    """Dump a database into a file, and restore it; what is at the target is replaced."""
    options = ["--clean"] if target == url else []
    for program, *arguments in (
        ["pg_dump", "--format=custom", f"--file={dump}", url],
        ["pg_restore", *options, "--exit-on-error", f"--dbname={target}", str(dump)],
    ):
        subprocess.run([postgres.programs() / program, *arguments], check=True)


async def test_restored_database_has_another_feed(
    storage: PostgresStorage, app: App, url: str, target: str, tmp_path: Path
) -> None:
    """No cursor of before is good in it; what it brought is told, then what comes."""
    await put(storage, app, by_id(1), "a", create_as=IDS[1])
    cursor = (await storage.changes(app.id, None, 10)).cursor
    await storage.close()
    restore(url, target, tmp_path / "dump")
    restored = await reopened(storage, target)
    with pytest.raises(CursorExpired):
        await restored.changes(app.id, cursor, 10)
    follower = Follower(restored, app)
    assert whose(await follower.read()) == [(IDS[1], 1)]
    await put(restored, app, by_id(1), "b")
    assert whose(await follower.read()) == [(IDS[1], 2)]
    assert await restored.check() == []
    await restored.close()


async def test_numbers_of_the_future_are_followed_by_those_that_come(
    storage: PostgresStorage, app: App, url: str
) -> None:
    """As in a database from a server that had come further: the order of what it brought stays."""
    for number in (3, 1, 2):
        await put(storage, app, by_id(number), "a", create_as=IDS[number])
    cursor = (await storage.changes(app.id, None, 10)).cursor
    far = 10**12
    psql(
        url,
        f"UPDATE changes SET tx = tx + {far}",  # noqa: S608 - a number
        f"UPDATE profiles SET changed_in = changed_in + {far}",  # noqa: S608 - a number
    )
    again = await reopened(storage, url)
    with pytest.raises(CursorExpired):
        await again.changes(app.id, cursor, 10)
    follower = Follower(again, app)
    assert whose(await follower.read()) == [(IDS[3], 1), (IDS[1], 1), (IDS[2], 1)]
    await put(again, app, by_id(1), "b")
    await again.replace_profiles(app.id, [IDS[2]], [profile(2)], now=3)
    assert whose(await follower.read()) == [(IDS[1], 2), (IDS[2], 2)]
    name = (await again.end_of_changes()).partition("-")[0]
    assert await again.check() == []
    once_more = await reopened(again, url)
    assert (await once_more.end_of_changes()).partition("-")[0] == name
    await put(once_more, app, by_id(1), "c")
    page = await once_more.changes(app.id, follower.cursor, 10)
    assert whose(page.changes) == [(IDS[1], 3)]
    await once_more.close()


async def test_servers_that_open_a_restored_database_at_once_agree(
    storage: PostgresStorage, app: App, url: str
) -> None:
    """One of them names the feed."""
    await put(storage, app, by_id(1), "a", create_as=IDS[1])
    psql(url, "UPDATE feed SET home = 'elsewhere'")
    opened = await asyncio.gather(*(asyncio.to_thread(PostgresStorage, url) for _ in range(8)))
    assert len({await one.end_of_changes() for one in opened}) == 1
    for one in opened:
        await one.close()


# --- What was there before ----------------------------------------------------------------------


async def test_profiles_of_before_are_counted(url: str) -> None:
    """The step that brings the counts counts what there is; its profiles begin with revision 1."""
    first = migrate.available("postgres")[0]
    psql(
        url,
        first.sql,
        "CREATE TABLE schema_version (version int, name text, checksum text, applied_at bigint)",
        f"INSERT INTO schema_version SELECT 1, 'initial', '{first.checksum}', 1",
        "INSERT INTO apps (uuid, name, created_at) VALUES ('u', 'one', 1)",
        "INSERT INTO profiles SELECT 1, 1, 1, ('00000000-0000-4000-8000-00000000000' || n)::uuid,"
        " NULL, '[\"x\"]' FROM generate_series(1, 3) n",
        "INSERT INTO identifiers SELECT app_id, 0, profile_id, 'x' FROM profiles",
    )
    storage = await asyncio.to_thread(PostgresStorage, url)
    assert storage.migrated[0] == "0002_history"
    (app,) = await storage.apps()
    assert [tuple(one) for one in await storage.coverage(app.id)] == [(0, -1, 3), (0, 0, 3)]
    assert [tuple(one) for one in await storage.shared(app.id, None, 9)] == [(0, "x", 3)]
    assert (await storage.changes(app.id, None, 10)).changes == []
    assert await storage.check() == []
    assert (await put(storage, app, by_id(1), "a")).revision == 2
    (change,) = (await storage.changes(app.id, None, 10)).changes
    assert (change.revision, change.action) == (2, "changed")
    assert await storage.check() == []
    await storage.close()


# --- What damage is found -----------------------------------------------------------------------


LAST: Final = "last changes of the profiles and of the history"
DIFFER: Final = f"the {LAST} do not agree: 1 against"


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (
            "UPDATE coverage SET change = change + 1 WHERE kind = 12",
            ["1 kinds whose coverage is not that of the profiles"],
        ),
        ("DELETE FROM coverage", ["2 kinds whose coverage is not that of the profiles"]),
        ("DELETE FROM changes WHERE revision = 2", [f"{DIFFER} 2"]),
        ("UPDATE changes SET revision = 7 WHERE revision = 2", [f"{DIFFER} 1"]),
        ("UPDATE profiles SET revision = 1", [f"{DIFFER} 1"]),
        (
            "UPDATE changes SET difference = 'no JSON'",
            [f"cannot compare the {LAST}: one that is stored is damaged"],
        ),
        ("UPDATE feed SET pruned_tx = (SELECT max(tx) FROM changes)", []),
    ],
)  # fmt: skip
async def test_damaged_history_is_found(
    storage: PostgresStorage, app: App, url: str, damage: str, found: list[str]
) -> None:
    """A count that is not that of the profiles, or a last change that is not."""
    await put(storage, app, by_id(1), "a", create_as=IDS[1])
    await put(storage, app, by_id(1), "b")
    await put(storage, app, by_id(2), "b", create_as=IDS[2])
    await storage.delete_profile(app.id, by_id(2), now=3)
    assert await storage.check() == []
    psql(url, damage)
    assert await storage.check() == found
