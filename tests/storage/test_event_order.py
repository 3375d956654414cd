"""Events come in any order and any number of times, and the end is always the same."""

import asyncio
import hashlib
import itertools
import uuid
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import TIMES
from knownas.model import KIND_NUMBER, App, ProfileRef
from knownas.storage import Storage
from knownas.webhooks.inbound import Reception
from storage.conftest import BACKENDS, Open
from storage.test_contract import IDS

END: Final = 1_767_225_600_000
"""When all has happened."""

PERSONS: Final = {IDS[1]: "one", IDS[2]: "two", IDS[3]: None}
"""The profiles that events are about, each with its customer."""

CUSTOMERS: Final = ("one", "two", "three")
"""Whom RevenueCat's events are about; two of them have a profile of Adapty's."""

STEP: Final = 10
NAMES: Final = ("branch_id", "adjust_device_id", "appsflyer_id")
ATTRIBUTES: Final = {
    "branch_id": "$branchId",
    "adjust_device_id": "$adjustId",
    "appsflyer_id": "$appsflyerId",
}

app_names = (f"app-{number}" for number in itertools.count())


class Sent(NamedTuple):
    """A request of a sender."""

    sender: str
    body: bytes


def _name(event: object) -> str:
    return hashlib.sha256(msgspec.json.encode(event)).hexdigest()


@st.composite
def adapty(draw: st.DrawFn) -> Sent:
    """Return an event of Adapty."""
    profile_id = draw(st.sampled_from(sorted(PERSONS)))
    # A profile without its customer is what it was before that was known.
    customer = draw(st.sampled_from([PERSONS[profile_id], None]))
    seconds = draw(st.integers(0, 6))
    others = draw(st.lists(st.sampled_from(sorted(PERSONS)), max_size=2))
    body: dict[str, Any] = {
        "profile_id": profile_id,
        "customer_user_id": customer,
        "event_datetime": f"2025-12-31T00:00:0{seconds}.000000+0000",
        "integration_ids": draw(
            st.dictionaries(st.sampled_from(NAMES), st.sampled_from("ab"), max_size=3)
        ),
        "profiles_sharing_access_level": [
            {"profile_id": one, "customer_user_id": PERSONS[one]} for one in others
        ],
    }
    # Two events are of one id where they are one event.
    body["event_properties"] = {"profile_event_id": _name(body)}
    return Sent("adapty", msgspec.json.encode(body))


@st.composite
def revenuecat(draw: st.DrawFn) -> Sent:
    """Return an event of RevenueCat, each attribute with a time of its own."""
    attributes = draw(
        st.dictionaries(
            st.sampled_from(NAMES),
            st.tuples(st.sampled_from("ab"), st.integers(0, 6)),
            max_size=3,
        )
    )
    event: dict[str, Any] = {
        "app_user_id": draw(st.sampled_from(CUSTOMERS)),
        "subscriber_attributes": {
            ATTRIBUTES[name]: {"value": value, "updated_at_ms": END - 86_400_000 + at * 1_000}
            for name, (value, at) in attributes.items()
        },
    }
    event["id"] = _name(event)
    return Sent("revenuecat", msgspec.json.encode({"event": event}))


def opened(request: pytest.FixtureRequest, backend: str) -> Open:
    """Return what opens a database that all examples of a test share."""
    return BACKENDS[backend](request)


async def told(storage: Storage, sent: Iterable[Sent]) -> App:
    """Return an app to which all was sent, one after the other."""
    app = await storage.create_app(str(uuid.uuid4()), next(app_names), now=1)
    reception = Reception(storage, clock=lambda: END, new_uuid=uuid.uuid4)
    for one in sent:
        taken = await reception.receive(app, one.sender, one.body)
        assert taken.outcome in {"applied", "repeated"}, taken
    return app


async def state(storage: Storage, app: App) -> set[tuple[object, ...]]:
    """Return what is stored, without the times and the ids that are made up here."""
    return {
        (
            one.profile_id if one.profile_id in PERSONS else None,
            one.customer_user_id,
            one.identifiers,
        )
        for one in await storage.profiles_after(app.id, None, 1_000)
    }


def same_end(open_storage: Open, orders: Sequence[Sequence[Sent]]) -> None:
    """Check that it ends the same in whichever order it is sent."""

    async def ends() -> list[set[tuple[object, ...]]]:
        storage = await open_storage()
        try:
            return [await state(storage, await told(storage, order)) for order in orders]
        finally:
            await storage.close()

    first, *others = asyncio.run(ends())
    assert all(other == first for other in others)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("event", [adapty(), revenuecat()], ids=["adapty", "revenuecat"])
def test_any_order_and_repetition_ends_the_same(
    request: pytest.FixtureRequest, backend: str, event: st.SearchStrategy[Sent]
) -> None:
    """Whatever order events come in, and however often, the profiles are the same at the end."""
    open_storage = opened(request, backend)

    @settings(max_examples=(40 if backend == "sqlite" else 15) * TIMES, deadline=None)
    @given(data=st.data(), events=st.lists(event, min_size=1, max_size=6))
    def any_order(data: st.DataObject, events: list[Sent]) -> None:
        repeated = [*events, *data.draw(st.lists(st.sampled_from(events), max_size=3))]
        same_end(open_storage, [events, data.draw(st.permutations(repeated))])

    any_order()


class Step(NamedTuple):
    """Something that happens to one profile: an event that is told later, or a write."""

    happened: int
    came: int
    values: dict[str, str | None]
    is_event: bool


@st.composite
def steps(draw: st.DrawFn) -> list[Step]:
    """Return steps in the order in which they come; no two have happened at one time."""
    times = draw(st.lists(st.integers(1, 50), min_size=1, max_size=8, unique=True))
    made = []
    for happened in times:
        is_event = draw(st.booleans())
        value = st.sampled_from("abc") if is_event else st.sampled_from(["a", "b", "c", None])
        made.append(
            Step(
                happened,
                happened + (draw(st.integers(0, 60)) if is_event else 0),
                draw(st.dictionaries(st.sampled_from(NAMES), value, min_size=1, max_size=2)),
                is_event,
            )
        )
    return sorted(made, key=lambda one: (one.came, one.happened))


async def happens(storage: Storage, app: App, step: Step) -> None:
    """Have one step come, at its time."""
    if step.is_event:
        reception = Reception(storage, clock=lambda: step.came * STEP, new_uuid=uuid.uuid4)
        event = {
            "id": str(uuid.uuid4()),
            "app_user_id": "c",
            "subscriber_attributes": {
                ATTRIBUTES[name]: {"value": value, "updated_at_ms": step.happened * STEP}
                for name, value in step.values.items()
            },
        }
        body = msgspec.json.encode({"event": event})
        assert (await reception.receive(app, "revenuecat", body)).outcome == "applied"
        return

    def change(profile: Any) -> Any:  # noqa: ANN401 - a profile, before and after
        identifiers = list(profile.identifiers)
        for name, value in step.values.items():
            identifiers[KIND_NUMBER[name]] = value
        return msgspec.structs.replace(profile, identifiers=tuple(identifiers))

    await storage.change_profile(
        app.id, ProfileRef("c"), change, now=step.happened * STEP, create_as=IDS[0]
    )


def expected(given_steps: Sequence[Step]) -> dict[str, str | None]:
    """Return what each kind is in the end: what was said last, by when it happened.

    A write that changed nothing leaves no trace, so it does not count.
    """
    now: dict[str, tuple[int, str | None]] = {}
    for step in given_steps:
        for name, value in step.values.items():
            at, there = now.get(name, (0, None))
            if step.is_event:
                if step.happened > at:
                    now[name] = (step.happened, value)
            elif value != there:
                now[name] = (step.happened, value)
    return {name: value for name, (_, value) in now.items() if value is not None}


@pytest.mark.parametrize("backend", BACKENDS)
def test_events_between_writes_count_by_their_time(
    request: pytest.FixtureRequest, backend: str
) -> None:
    """A write counts at once, and an event that comes later only if it happened later."""
    open_storage = opened(request, backend)

    @settings(max_examples=(50 if backend == "sqlite" else 15) * TIMES, deadline=None)
    @given(given_steps=steps())
    def between(given_steps: list[Step]) -> None:
        async def run() -> dict[str, str | None]:
            storage = await open_storage()
            try:
                app = await storage.create_app(str(uuid.uuid4()), next(app_names), now=1)
                for step in given_steps:
                    await happens(storage, app, step)
                [profile] = await storage.profiles_after(app.id, None, 9)
            finally:
                await storage.close()
            return {
                name: profile.identifiers[KIND_NUMBER[name]]
                for name in NAMES
                if profile.identifiers[KIND_NUMBER[name]] is not None
            }

        assert asyncio.run(run()) == expected(given_steps)

    between()
