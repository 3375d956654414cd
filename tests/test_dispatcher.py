"""Delivering webhooks: real databases, real sockets; only the time between attempts is shorter."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from ipaddress import ip_network
from pathlib import Path
from typing import Final

import msgspec
import pytest

from knownas import bootstrap, vault
from knownas.deliveries import Attempt, WebhookState
from knownas.errors import FeatureNotConfigured
from knownas.model import App, ProfileId, ProfileRef
from knownas.registry import Registry, system_clock
from knownas.vault import Vault
from knownas.webhooks import rounds, signatures
from knownas.webhooks.dispatcher import Dispatcher
from knownas.webhooks.outbound import Sender
from knownas.webhooks.posting import Posting
from knownas.webhooks.rounds import Pace
from receivers import NO_CONTENT, Received, Receiver, receiving

pytestmark = pytest.mark.anyio

DATABASES = ("sqlite", "postgresql")

LOOPBACK: Final = ip_network("127.0.0.1/32")
SECONDS: Final = 20.0
"""How long something may take that is waited for."""

IDS: Final = [ProfileId(f"00000000-0000-4000-8000-{number:012}") for number in range(100)]


def soon(attempt: int, now: int, _retry_after: int | None) -> int | None:
    """Try again at once, five times."""
    return now + 10 if attempt < 5 else None


QUICK: Final = Pace(look=0.02, lease=5.0, probe=0.1, rest=0.05, retry_at=soon)


class Team:
    """An app, what writes to it, and what delivers for it."""

    def __init__(self, database: str, key_file: Path) -> None:
        """Open the database."""
        self.database = database
        self.key_file = key_file
        self.registry = self.open()
        self.app: App
        self.errors: list[Exception] = []
        self.attempts: list[Attempt] = []

    def open(self) -> Registry:
        """Open the database anew."""
        return Registry(
            bootstrap.open_storage(self.database),
            vault=Vault.open(str(self.key_file)),
            open_sender=lambda: Sender([LOOPBACK], seconds=5),
        )

    async def hook(self, receiver: Receiver, *types: str) -> tuple[str, str]:
        """Make a webhook to a receiver and return its id and secret."""
        url = f"http://127.0.0.1:{receiver.port}/hook"
        state, secret = await self.registry.webhooks.add(self.app.id, url, types or None)
        return state.webhook.id, secret

    async def write(self, profile_id: ProfileId, times: int = 1) -> None:
        """Make changes of a profile, each of them one revision."""
        for _ in range(times):
            await self.registry.put_profile(
                self.app.id, ProfileRef(profile_id=profile_id), {"at": uuid.uuid4().hex}
            )

    async def state(self) -> WebhookState:
        """Return the state of the one webhook."""
        [state] = await self.registry.webhooks.all(self.app.id)
        return state

    async def waiting(self, state: str | None = None) -> dict[tuple[ProfileId, int], int]:
        """Return how often each delivery was tried that was not taken."""
        webhook_id = (await self.state()).webhook.id
        found = await self.registry.webhooks.deliveries(
            self.app.id,
            webhook_id,
            state,  # type: ignore[arg-type] # one of the two
            None,
            10_000,
        )
        return {one.key: one.attempts for one in found}

    @asynccontextmanager
    async def delivering(
        self,
        pace: Pace = QUICK,
        *,
        registry: Registry | None = None,
        sender: Sender | None = None,
        clock: Callable[[], int] = system_clock,
    ) -> AsyncIterator[asyncio.Event]:
        """Deliver meanwhile; the event stops it."""
        registry = registry or self.registry
        means = (
            registry.storage, registry.vault, sender or registry.webhooks.sender(), clock
        )  # fmt: skip
        dispatcher = Dispatcher(
            registry.storage,
            lambda app, webhook: Posting(*means, app, webhook),
            clock=clock,
            tell=self.errors.append,
            pace=pace,
        )
        dispatcher.tell_attempts_to(self.attempts.append)
        stopping = asyncio.Event()
        task = asyncio.create_task(dispatcher.run(stopping))
        try:
            yield stopping
        finally:
            stopping.set()
            await asyncio.wait_for(task, SECONDS)


@pytest.fixture
async def team(database: str, tmp_path: Path) -> AsyncIterator[Team]:
    """Give an app of its own, which is gone at the end."""
    vault.create(str(tmp_path / "master.key"))
    team = Team(database, tmp_path / "master.key")
    team.app = await team.registry.create_app(f"app-{uuid.uuid4()}")
    yield team
    await team.registry.delete_app(team.app.id)
    await team.registry.close()
    assert team.errors == []


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """Give a receiver that takes everything."""
    async with receiving(answer=NO_CONTENT, keeps=True) as made:
        yield made


async def until(is_so: Callable[[], bool]) -> None:
    """Return when something is so."""
    deadline = time.monotonic() + SECONDS
    while not is_so():
        assert time.monotonic() < deadline, "It did not come."
        await asyncio.sleep(0.01)


async def until_state(team: Team, is_so: Callable[[WebhookState], object]) -> WebhookState:
    """Return the webhook's state when something is so of it."""
    deadline = time.monotonic() + SECONDS
    while True:
        state = await team.state()
        if is_so(state):
            return state
        assert time.monotonic() < deadline, state
        await asyncio.sleep(0.01)


async def until_done(team: Team) -> WebhookState:
    """Return the webhook's state when there is nothing more to do for it."""
    deadline = time.monotonic() + SECONDS
    while True:
        state = await team.state()
        page = await team.registry.changes(team.app.id, state.cursor, 1)
        if not page.changes and not state.pending:
            return state
        assert time.monotonic() < deadline, state
        await asyncio.sleep(0.01)


def told(request: Received) -> tuple[ProfileId, int]:
    """Return the profile and the revision that a request is about."""
    data = msgspec.json.decode(request.body)["data"]
    return data["profile_id"], data["revision"]


def answered(receiver: Receiver, decide: Callable[[Received], int]) -> list[tuple[ProfileId, int]]:
    """Have a receiver answer as is decided; return what will have been taken, as it comes."""
    taken: list[tuple[ProfileId, int]] = []

    async def answer(request: Received) -> int:
        status = decide(request)
        if status == 204:
            taken.append(told(request))
        return status

    receiver.decide = answer
    return taken


def of(profile_id: ProfileId, taken: list[tuple[ProfileId, int]]) -> list[int]:
    """Return the revisions of a profile, in the order in which they were taken."""
    return [revision for one, revision in taken if one == profile_id]


# --- What is delivered --------------------------------------------------------------------------


async def test_row_26_each_change_is_one_signed_message(team: Team, receiver: Receiver) -> None:
    """A message is the feed's event with its type and time, under an id and a signature."""
    _, secret = await team.hook(receiver)
    await team.write(IDS[0], 2)
    await team.registry.delete_profile(team.app.id, ProfileRef(profile_id=IDS[0]))
    async with team.delivering():
        await until_done(team)
    feed = (await team.registry.changes(team.app.id, None, 10)).changes
    assert [told(one) for one in receiver.requests] == [(IDS[0], 1), (IDS[0], 2), (IDS[0], 3)]
    types = ["profile.created", "profile.changed", "profile.deleted"]
    for request, change, event_type in zip(receiver.requests, feed, types, strict=True):
        assert request.line == "POST /hook HTTP/1.1"
        assert signatures.verify([secret], request.headers, request.body, now=time.time())
        assert not signatures.verify(
            [signatures.new_secret()], request.headers, request.body, now=time.time()
        )
        assert request.headers["webhook-id"] == f"msg_{change.cursor}"
        body = msgspec.json.decode(request.body)
        assert body["type"] == body["data"]["type"] == event_type
        assert body["data"]["cursor"] == change.cursor
        assert body["timestamp"].endswith("Z")
        at = datetime.fromisoformat(body["timestamp"])
        assert round(at.timestamp() * 1_000) == body["data"]["at"] == change.at


async def test_what_is_taken_leaves_no_row(team: Team, receiver: Receiver) -> None:
    """After delivery the cursor stands at the end of the feed, and nothing else is kept."""
    await team.hook(receiver)
    for profile_id in IDS[:20]:
        await team.write(profile_id)
    async with team.delivering():
        state = await until_done(team)
    assert state.cursor == await team.registry.end_of_changes()
    assert (state.pending, state.dead, state.last_failure) == (0, 0, None)
    assert sorted(told(one) for one in receiver.requests) == [(one, 1) for one in IDS[:20]]


async def test_only_wanted_types_are_sent(team: Team, receiver: Receiver) -> None:
    """What is not wanted is passed over."""
    await team.hook(receiver, "profile.created")
    await team.write(IDS[0], 3)
    await team.write(IDS[1])
    async with team.delivering():
        await until_done(team)
    assert [told(one) for one in receiver.requests] == [(IDS[0], 1), (IDS[1], 1)]


async def test_each_webhook_follows_by_itself(team: Team, receiver: Receiver) -> None:
    """Two webhooks both get everything, also where one of the receivers takes nothing."""
    async with receiving(answer=b"HTTP/1.1 500 S\r\nContent-Length: 0\r\n\r\n") as broken:
        await team.hook(receiver)
        await team.hook(broken)
        await team.write(IDS[0], 3)
        async with team.delivering():
            await until(lambda: len(receiver.requests) == 3 and len(broken.requests) >= 15)
    assert [told(one) for one in receiver.requests] == [(IDS[0], number) for number in (1, 2, 3)]


async def test_row_25_nothing_is_sent_to_where_it_may_not_go(
    team: Team, receiver: Receiver
) -> None:
    """A sender without the operator's networks refuses the address, and the state says why."""
    await team.hook(receiver)
    await team.write(IDS[0])
    sender = Sender()
    async with team.delivering(sender=sender):
        state = await until_state(team, lambda it: it.dead)
    await sender.close()
    assert state.last_failure is not None
    assert state.last_failure.status is None
    assert receiver.connections == 0


# --- Order and attempts -------------------------------------------------------------------------


async def test_failing_profile_keeps_its_order_and_holds_up_no_other(
    team: Team, receiver: Receiver
) -> None:
    """What follows a failure of its profile waits for it; the others are delivered meanwhile."""
    tries: dict[tuple[ProfileId, int], int] = {}
    others = asyncio.Event()

    def decide(request: Received) -> int:
        key = told(request)
        tries[key] = tries.get(key, 0) + 1
        if key[0] != IDS[0]:
            return 204
        if not others.is_set():
            return 503
        return 204 if key[1] % 2 or tries[key] > 2 else 500

    await team.hook(receiver)
    taken = answered(receiver, decide)
    forever = QUICK._replace(retry_at=lambda _attempt, now, _after: now + 10)
    async with team.delivering(forever):
        for _ in range(5):
            for profile_id in IDS[:4]:
                await team.write(profile_id)
        await until(lambda: sum(key[0] != IDS[0] for key in taken) == 15)
        assert of(IDS[0], taken) == []
        others.set()
        await until_done(team)
    for profile_id in IDS[:4]:
        assert of(profile_id, taken) == [1, 2, 3, 4, 5]
    ids = {request.headers["webhook-id"] for request in receiver.requests}
    assert len(ids) == 20


async def test_message_is_the_same_at_each_attempt(team: Team, receiver: Receiver) -> None:
    """Only the time of the attempt, and so the signature, differ."""
    await team.hook(receiver)
    await team.write(IDS[0])
    taken = answered(receiver, lambda _: 204 if len(receiver.requests) == 3 else 500)
    async with team.delivering():
        await until_done(team)
    assert taken == [(IDS[0], 1)]
    assert len({(one.headers["webhook-id"], one.body) for one in receiver.requests}) == 1


async def test_given_up_delivery_lets_the_later_ones_go_on(team: Team, receiver: Receiver) -> None:
    """After the last attempt it is dead, with the reason; replayed, it is tried as often again."""
    webhook_id, _ = await team.hook(receiver)
    await team.write(IDS[0], 3)
    is_mended = False
    taken = answered(receiver, lambda one: 204 if told(one)[1] != 2 or is_mended else 422)
    async with team.delivering():
        state = await until_done(team)
        assert taken == [(IDS[0], 1), (IDS[0], 3)]
        assert await team.waiting("dead") == {(IDS[0], 2): 5}
        vain = [(it.is_first, it.result) for it in team.attempts if it.result != "delivered"]
        assert vain == [(True, "failed"), *[(False, "failed")] * 3, (False, "dead")]
        assert {it.target for it in team.attempts} == {"webhook"}
        assert all(it.elapsed_ns > 0 for it in team.attempts)
        assert state.last_failure is not None
        assert (state.dead, state.last_failure.status) == (1, 422)
        assert await team.registry.webhooks.replay(team.app.id, webhook_id) == (1, 0)
        await until_state(team, lambda it: it.dead)
        is_mended = True
        only = (IDS[0], 2)
        assert await team.registry.webhooks.replay(team.app.id, webhook_id, only) == (1, 0)
        await until_done(team)
    assert taken == [(IDS[0], 1), (IDS[0], 3), (IDS[0], 2)]
    assert sum(told(one)[1] == 2 for one in receiver.requests) == 11


async def test_attempts_follow_the_schedule(team: Team) -> None:
    """The first failure is followed after five seconds, or when the receiver asks for it."""
    headers = "HTTP/1.1 503 S\r\nContent-Length: 0\r\nRetry-After: 7200\r\n\r\n"
    pace = QUICK._replace(retry_at=rounds.retry_at)
    for answer, least in ((headers.encode(), 7_200_000), (b"HTTP/1.1 500 S\r\n\r\n", 5_000)):
        async with receiving(answer=answer) as receiver:
            webhook_id, _ = await team.hook(receiver)
            await team.write(IDS[0])
            async with team.delivering(pace):
                await until_state(team, lambda it: it.pending)
        [one] = await team.registry.webhooks.deliveries(team.app.id, webhook_id, None, None, 9)
        assert one.failure is not None
        assert one.next_at is not None
        assert least <= one.next_at - one.failure.at <= least * 1.2
        await team.registry.webhooks.delete(team.app.id, webhook_id)


async def test_receiver_that_is_gone_disables_the_webhook(team: Team, receiver: Receiver) -> None:
    """After a 410 nothing is sent; once enabled, it goes on from there, in order."""
    webhook_id, _ = await team.hook(receiver)
    is_back = False
    taken = answered(receiver, lambda one: 204 if told(one)[1] == 1 or is_back else 410)
    await team.write(IDS[0], 3)
    async with team.delivering():
        state = await until_state(team, lambda it: it.webhook.disabled_at)
        assert state.webhook.disabled_because is not None
        assert "410" in state.webhook.disabled_because
        await team.write(IDS[0], 2)
        await asyncio.sleep(0.1)
        assert len(receiver.requests) == 2
        is_back = True
        await team.registry.webhooks.change(team.app.id, webhook_id, enabled=True)
        await until_done(team)
    assert taken == [(IDS[0], number) for number in (1, 2, 3, 4, 5)]


async def test_disabled_webhook_keeps_its_place(team: Team, receiver: Receiver) -> None:
    """What happens meanwhile is sent when it is enabled again."""
    webhook_id, _ = await team.hook(receiver)
    await team.registry.webhooks.change(team.app.id, webhook_id, enabled=False)
    async with team.delivering():
        await team.write(IDS[0], 2)
        await asyncio.sleep(0.1)
        assert receiver.requests == []
        await team.registry.webhooks.change(team.app.id, webhook_id, enabled=True)
        await until_done(team)
    assert [told(one) for one in receiver.requests] == [(IDS[0], 1), (IDS[0], 2)]


async def test_change_that_is_not_kept_is_not_delivered(team: Team, receiver: Receiver) -> None:
    """What waits for another attempt is dropped when its change is pruned."""
    await team.hook(receiver)
    await team.write(IDS[0], 2)
    taken = answered(receiver, lambda _: 500)
    async with team.delivering(QUICK._replace(retry_at=lambda _attempt, now, _after: now + 500)):
        await until(lambda: bool(receiver.requests))
        await until_state(team, lambda it: it.pending == 2)
        now = system_clock() + 1
        await team.registry.storage.prune(now=now, before=now, limit=100_000)
        state = await until_done(team)
    assert (taken, state.dead, state.webhook.lost_at) == ([], 0, None)


# --- Receivers that are slow or down ------------------------------------------------------------


async def test_what_a_round_has_no_time_for_follows_in_the_next(
    team: Team, receiver: Receiver
) -> None:
    """A slow receiver gets each event once, in the order of each profile."""

    async def slowly(request: Received) -> int:
        await asyncio.sleep(0.02)
        taken.append(told(request))
        return 204

    taken: list[tuple[ProfileId, int]] = []
    await team.hook(receiver)
    receiver.decide = slowly
    for _ in range(4):
        for profile_id in IDS[:30]:
            await team.write(profile_id)
    async with team.delivering(QUICK._replace(round=0.05)):
        await until_done(team)
    assert sorted(taken) == [(one, number) for one in IDS[:30] for number in (1, 2, 3, 4)]
    for profile_id in IDS[:30]:
        assert of(profile_id, taken) == [1, 2, 3, 4]


async def test_feed_keeps_what_a_receiver_that_is_down_cannot_take(
    team: Team, receiver: Receiver
) -> None:
    """Only so many deliveries wait; when one of them is taken, all come, each profile in order."""
    await team.hook(receiver)
    is_up = False
    taken = answered(receiver, lambda _: 204 if is_up else 503)
    pace = QUICK._replace(most_pending=10, retry_at=lambda _attempt, now, _after: now + 1_000_000)
    for _ in range(3):
        for profile_id in IDS:
            await team.write(profile_id)
    async with team.delivering(pace):
        await until_state(team, lambda it: it.pending >= 10)
        await asyncio.sleep(0.3)
        assert (await team.state()).pending <= 10 + 100
        assert set((await team.waiting()).values()) <= {0, 1}
        is_up = True
        await until_done(team)
    assert sorted(taken) == sorted((one, number) for one in IDS for number in (1, 2, 3))
    for profile_id in IDS:
        assert of(profile_id, taken) == [1, 2, 3]


async def test_stopping_finishes_what_is_under_way(team: Team, receiver: Receiver) -> None:
    """A delivery that was begun is waited for; what was not begun is sent by the next process."""

    async def slowly(_request: Received) -> int:
        await asyncio.sleep(0.3)
        return 204

    await team.hook(receiver)
    receiver.decide = slowly
    await team.write(IDS[0], 4)
    async with team.delivering() as stopping:
        await until(lambda: bool(receiver.requests))
        stopping.set()
    assert [told(one) for one in receiver.requests] == [(IDS[0], 1)]
    assert await team.waiting() == {(IDS[0], number): 0 for number in (2, 3, 4)}
    receiver.decide = None
    async with team.delivering():
        await until_done(team)
    assert [told(one) for one in receiver.requests] == [(IDS[0], number) for number in (1, 2, 3, 4)]


# --- Several processes --------------------------------------------------------------------------


async def test_two_that_deliver_send_each_event_once(team: Team, receiver: Receiver) -> None:
    """While nothing fails, leases keep them apart, and each profile's events come in order."""
    other = team.open()
    await team.hook(receiver)
    async with team.delivering(), team.delivering(registry=other):
        for _ in range(10):
            await asyncio.gather(*map(team.write, IDS[:25]))
        await until_done(team)
    await other.close()
    taken = [told(one) for one in receiver.requests]
    assert sorted(taken) == [(one, number) for one in IDS[:25] for number in range(1, 11)]
    for profile_id in IDS[:25]:
        assert of(profile_id, taken) == list(range(1, 11))


async def test_one_that_hangs_is_followed_by_another(team: Team, receiver: Receiver) -> None:
    """Who loses the lease while it waits writes nothing; the other has sent all of it by then."""
    hangs, other = asyncio.Event(), team.open()

    async def hang(request: Received) -> int:
        if request is receiver.requests[0]:
            await hangs.wait()
        return 204

    await team.hook(receiver)
    receiver.decide = hang
    await team.write(IDS[0], 3)
    async with team.delivering(QUICK._replace(lease=0.2)):
        await until(lambda: bool(receiver.requests))
        async with team.delivering(registry=other):
            await until(lambda: len(receiver.requests) == 4)
            state = await until_done(team)
        hangs.set()
        await asyncio.sleep(0.1)
    await other.close()
    assert (await team.state()) == state
    taken = [told(one) for one in receiver.requests]
    assert taken[:4] == [(IDS[0], 1), (IDS[0], 1), (IDS[0], 2), (IDS[0], 3)]


async def test_events_of_late_commits_arrive(team: Team, receiver: Receiver) -> None:
    """Writers over several connections at once: a follower that delivers meanwhile misses none."""
    others = [team.open() for _ in range(3)]
    await team.hook(receiver)

    async def write(registry: Registry, offset: int) -> None:
        for number in range(30):
            profile_id = IDS[(number * 7 + offset) % 12]
            await registry.put_profile(
                team.app.id, ProfileRef(profile_id=profile_id), {"at": uuid.uuid4().hex}
            )

    async with team.delivering():
        await asyncio.gather(*(write(one, number) for number, one in enumerate(others)))
        await until_done(team)
    for one in others:
        await one.close()
    feed = (await team.registry.changes(team.app.id, None, 1_000)).changes
    taken = [told(one) for one in receiver.requests]
    assert sorted(taken) == sorted((one.profile_id, one.revision) for one in feed)
    for profile_id in IDS[:12]:
        assert of(profile_id, taken) == sorted(of(profile_id, taken))


# --- Secrets ------------------------------------------------------------------------------------


async def test_both_secrets_sign_until_the_overlap_ends(team: Team, receiver: Receiver) -> None:
    """A receiver believes a delivery with either of them, then with the new one alone."""
    webhook_id, old = await team.hook(receiver)
    later = 0
    async with team.delivering(clock=lambda: system_clock() + later):
        _, new = await team.registry.webhooks.rotate(team.app.id, webhook_id, overlap_seconds=60)
        await team.write(IDS[0])
        await until_done(team)
        later = 61_000
        await team.write(IDS[0])
        await until_done(team)
    both, one = receiver.requests
    now = time.time()
    assert [signatures.verify([it], both.headers, both.body, now=now) for it in (old, new)] == [
        True,
        True,
    ]
    assert [signatures.verify([it], one.headers, one.body, now=now) for it in (old, new)] == [
        False,
        True,
    ]


async def test_rotation_without_overlap_ends_the_old_secret(team: Team, receiver: Receiver) -> None:
    """The next delivery is signed with the new secret alone."""
    webhook_id, old = await team.hook(receiver)
    _, new = await team.registry.webhooks.rotate(team.app.id, webhook_id, overlap_seconds=0)
    await team.write(IDS[0])
    async with team.delivering():
        await until_done(team)
    [request] = receiver.requests
    assert len(request.headers["webhook-signature"].split()) == 1
    assert signatures.verify([new], request.headers, request.body, now=time.time())
    assert old != new


async def test_at_most_three_secrets_sign(team: Team, receiver: Receiver) -> None:
    """Who rotates again and again within the overlap ends the oldest."""
    webhook_id, first = await team.hook(receiver)
    made = [first]
    for _ in range(3):
        _, secret = await team.registry.webhooks.rotate(team.app.id, webhook_id, overlap_seconds=60)
        made.append(secret)
    await team.write(IDS[0])
    async with team.delivering():
        await until_done(team)
    [request] = receiver.requests
    believed = [
        signatures.verify([it], request.headers, request.body, now=time.time()) for it in made
    ]
    assert believed == [False, True, True, True]


async def test_secrets_are_sealed_anew_after_a_rotation_of_the_master_key(
    team: Team, receiver: Receiver
) -> None:
    """A delivery leaves them under the newest key, so that the older one can be taken away."""
    _, secret = await team.hook(receiver)
    vault.rotate(str(team.key_file))
    newer = team.open()
    await team.write(IDS[0])
    async with team.delivering(registry=newer):
        await until_done(team)
    sealed = (await team.state()).webhook.secrets
    assert not newer.vault.needs_resealing(sealed)
    await newer.close()
    [request] = receiver.requests
    assert signatures.verify([secret], request.headers, request.body, now=time.time())


async def test_webhook_whose_secrets_do_not_open_holds_up_no_other(
    team: Team, receiver: Receiver, tmp_path: Path
) -> None:
    """It is told of, nothing is sent unsigned, and it goes on when the right key is back."""
    await team.hook(receiver)
    await team.write(IDS[0])
    vault.create(str(tmp_path / "other.key"))
    elsewhere = Team(team.database, tmp_path / "other.key")
    elsewhere.app = team.app
    async with receiving(answer=NO_CONTENT) as its_receiver:
        await elsewhere.hook(its_receiver)
        await team.write(IDS[1])
        async with elsewhere.delivering():
            await until(lambda: bool(its_receiver.requests and elsewhere.errors))
        assert receiver.requests == []
        assert {type(error) for error in elsewhere.errors} == {FeatureNotConfigured}
        async with team.delivering():
            await until(lambda: len(receiver.requests) == 2)
    await elsewhere.registry.close()
    assert {type(error) for error in team.errors} <= {FeatureNotConfigured}
    team.errors.clear()  # it met the other's webhook, too
