"""Reads from a standby, which is paused, behind, gone or promoted: a client sees its own writes."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Final

import msgspec
import pytest

import postgres
from knownas import merging
from knownas.condition import Replica
from knownas.errors import ProfileNotFound, ServiceUnavailable
from knownas.model import App, LogPosition, Profile, ProfileId, ProfileRef, merge_identifiers
from knownas.storage import postgres_replica
from knownas.storage.postgres_replica import ANSWER_SECONDS, WAIT_SECONDS, ReplicatedStorage
from postgres import Cluster, psql

SECONDS: Final = 2.0
SLACK_SECONDS: Final = 1.0
CUSTOMER: Final = ProfileRef("c")
BRANCH_ID: Final = 12
PATIENCE_SECONDS: Final = 20

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def primary() -> Iterator[Cluster]:
    """Give a primary."""
    with postgres.cluster() as made:
        yield made


@pytest.fixture(scope="module")
def standby(primary: Cluster) -> Iterator[Cluster]:
    """Give its standby."""
    with postgres.cluster(primary=primary) as made:
        yield made


@pytest.fixture
def urls(primary: Cluster, standby: Cluster) -> Iterator[tuple[str, str]]:
    """Give the URLs of a fresh database at both."""
    made = postgres.new_database(primary.url)
    yield made, postgres.same_database(standby.url, made)
    postgres.drop_database(primary.url, made)


@pytest.fixture(params=["never", "allow"], ids=["strict", "stale reads allowed"])
def stale_reads(request: pytest.FixtureRequest) -> bool:
    """Tell whether stale reads are allowed."""
    return bool(request.param == "allow")


@pytest.fixture
async def storage(urls: tuple[str, str], *, stale_reads: bool) -> AsyncIterator[ReplicatedStorage]:
    """Give a storage over both."""
    opened = ReplicatedStorage(urls[0], standby=urls[1], stale_reads=stale_reads, seconds=SECONDS)
    yield opened
    await opened.close()


@pytest.fixture
async def app(storage: ReplicatedStorage, urls: tuple[str, str]) -> App:
    """Give an app, with a profile of the customer `c` that the standby has, too."""
    made = await storage.create_app("uuid", "one", now=1)
    await put(storage, made, "before")
    await caught_up(storage, urls[1])
    return made


async def put(storage: ReplicatedStorage, app: App, value: str) -> LogPosition:
    """Set an identifier of the customer, and return where the log was then."""

    def change(profile: Profile) -> Profile:
        identifiers = merge_identifiers(profile.identifiers, {"branch_id": value})
        return msgspec.structs.replace(profile, identifiers=identifiers)

    new_id = ProfileId("00000000-0000-4000-8000-000000000001")
    await storage.change_profile(app.id, CUSTOMER, change, now=2, create_as=new_id)
    assert storage.log_position is not None
    return storage.log_position


async def seen(storage: ReplicatedStorage, app: App, position: LogPosition | None) -> str | None:
    """Return the identifier as a client sees it that knows this position."""
    if position is None:
        return (await storage.identifiers(app.id, CUSTOMER))[BRANCH_ID]
    return (await storage.identifiers_after(app.id, CUSTOMER, position))[BRANCH_ID]


async def caught_up(storage: ReplicatedStorage, standby_url: str) -> None:
    """Return when the standby has all that was written."""
    position = storage.log_position
    assert position is not None
    asked = f"SELECT pg_last_wal_replay_lsn() - '0/0' >= {position.place}"
    end = time.monotonic() + PATIENCE_SECONDS
    while psql(standby_url.rpartition("/")[0] + "/postgres", asked) != "t":
        assert time.monotonic() < end
        await asyncio.sleep(0.02)


@contextmanager
def behind(standby: Cluster) -> Iterator[None]:
    """Have the standby take no more of the log."""
    psql(standby.url, "SELECT pg_wal_replay_pause()")
    end = time.monotonic() + PATIENCE_SECONDS
    while psql(standby.url, "SELECT pg_get_wal_replay_pause_state()") != "paused":
        assert time.monotonic() < end
        time.sleep(0.02)
    try:
        yield
    finally:
        psql(standby.url, "SELECT pg_wal_replay_resume()")


async def test_standby_answers_what_it_has(
    storage: ReplicatedStorage, app: App, urls: tuple[str, str], primary: Cluster
) -> None:
    """The primary hangs meanwhile, so nobody else can have answered."""
    position = await put(storage, app, "after")
    await caught_up(storage, urls[1])
    with primary.paused():
        assert await seen(storage, app, position) == "after"
        with pytest.raises(ProfileNotFound):
            await storage.identifiers_after(app.id, ProfileRef("nobody"), position)


async def test_lag_of_the_standby_is_told(
    storage: ReplicatedStorage, app: App, urls: tuple[str, str], standby: Cluster
) -> None:
    """None when it has all, some when it is behind, and that it is away when it hangs."""
    await put(storage, app, "before")
    await caught_up(storage, urls[1])
    now = round(time.time() * 1_000)
    end = time.monotonic() + PATIENCE_SECONDS
    while (await storage.condition(now=now)).replica != Replica(is_up=True):
        assert time.monotonic() < end
        await asyncio.sleep(0.02)
    with behind(standby):
        await put(storage, app, "after")
        found = (await storage.condition(now=now + 60_000)).replica
        assert found is not None
        assert found.is_up
        assert found.lag_bytes > 0
        assert 50_000 < found.lag < 120_000
    with standby.paused():
        assert (await storage.condition(now=now)).replica == Replica(is_up=False)


async def test_standby_knows_who_was_merged(
    storage: ReplicatedStorage, app: App, urls: tuple[str, str], primary: Cluster
) -> None:
    """An edit tells where the log was after it; from there on the standby follows its aliases."""
    source = ProfileRef(profile_id=ProfileId("00000000-0000-4000-8000-000000000002"))
    await storage.change_profile(
        app.id, source, lambda one: one, now=2, create_as=source.profile_id
    )
    before = storage.log_position
    await storage.edit(
        app.id,
        lambda edit: merging.merge(
            edit, CUSTOMER, source, rules={}, default="survivor", policies={}, now=3, dry_run=False
        ),
        now=3,
    )
    position = storage.log_position
    assert position is not None
    assert before is not None
    assert position > before
    await caught_up(storage, urls[1])
    with primary.paused():
        found = await storage.identifiers_after(app.id, source, position)
    assert found[BRANCH_ID] == "before"


async def test_standby_that_is_behind_hides_no_own_write(
    storage: ReplicatedStorage, app: App, standby: Cluster
) -> None:
    """It is waited for, in vain, and then the primary answers; all of a crowd at once."""
    with behind(standby):
        position = await put(storage, app, "after")
        began = time.monotonic()
        answers = await asyncio.gather(*(seen(storage, app, position) for _ in range(50)))
        assert set(answers) == {"after"}
        assert WAIT_SECONDS <= time.monotonic() - began < WAIT_SECONDS + SLACK_SECONDS


async def test_who_names_no_position(
    storage: ReplicatedStorage, app: App, standby: Cluster, *, stale_reads: bool
) -> None:
    """Gets what the primary has, or where that is allowed, what the standby has."""
    with behind(standby):
        await put(storage, app, "after")
        assert await seen(storage, app, None) == ("before" if stale_reads else "after")


async def test_position_of_a_later_timeline_is_not_believed_of_an_earlier_one(
    storage: ReplicatedStorage, app: App, urls: tuple[str, str], primary: Cluster
) -> None:
    """A standby may follow a primary that was replaced: its log is long, and another one."""
    position = await put(storage, app, "after")
    await caught_up(storage, urls[1])
    later = LogPosition(position.timeline + 1, 0)
    assert await seen(storage, app, later) == "after"
    with primary.paused(), pytest.raises(ServiceUnavailable):
        await seen(storage, app, later)


async def test_both_ids_are_read_from_the_primary(storage: ReplicatedStorage, app: App) -> None:
    """Since a profile may have been bound to another customer."""
    position = await put(storage, app, "after")
    profile = await storage.profile(app.id, CUSTOMER)
    both = ProfileRef("c", profile.profile_id)
    assert (await storage.identifiers_after(app.id, both, position))[BRANCH_ID] == "after"


async def test_standby_that_hangs_or_is_gone_takes_no_answer_with_it(
    urls: tuple[str, str], primary: Cluster
) -> None:
    """The first request waits for it a moment, the next ones do not; the primary answers all."""
    with postgres.cluster(primary=primary) as another:
        at_another = postgres.same_database(another.url, urls[0])
        storage = ReplicatedStorage(urls[0], standby=at_another, seconds=SECONDS)
        app = await storage.create_app("uuid", "one", now=1)
        position = await put(storage, app, "after")
        with another.paused():
            began = time.monotonic()
            assert await seen(storage, app, position) == "after"
            assert time.monotonic() - began < ANSWER_SECONDS + SLACK_SECONDS
            began = time.monotonic()
            assert await seen(storage, app, position) == "after"
            assert time.monotonic() - began < ANSWER_SECONDS
        another.kill()
        assert await seen(storage, app, position) == "after"
        another.start()
        another.promote()
        await asyncio.sleep(1.1)  # until it is asked again: now it is no standby
        newer = await put(storage, app, "newer")
        assert await seen(storage, app, newer) == "newer"
        await storage.close()


async def test_standby_that_answers_errors_takes_no_answer_with_it(
    urls: tuple[str, str], standby: Cluster
) -> None:
    """It has another database, without our tables: the primary answers."""
    storage = ReplicatedStorage(urls[0], standby=standby.url, seconds=SECONDS)
    app = await storage.create_app("uuid", "one", now=1)
    position = await put(storage, app, "after")
    for _ in range(3):
        assert await seen(storage, app, LogPosition(position.timeline, 0)) == "after"
    await storage.close()


async def test_write_whose_position_is_unknown_is_no_success(
    storage: ReplicatedStorage, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who was not told would read with an older position. It is not written twice meanwhile."""
    monkeypatch.setattr(postgres_replica, "_WRITTEN_UP_TO", "SELECT 1 / 0")
    with pytest.raises(ServiceUnavailable):
        await put(storage, app, "after")
    assert (await storage.profile(app.id, CUSTOMER)).identifiers[BRANCH_ID] == "after"
    with pytest.raises(ServiceUnavailable):
        await storage.delete_profile(app.id, CUSTOMER, now=1)  # a second time it would not be found
    with pytest.raises(ProfileNotFound):
        await storage.profile(app.id, CUSTOMER)
