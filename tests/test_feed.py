"""The change feed: pages, long polls and streams of server-sent events at `/changes/`."""

import asyncio
import socket
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import httpx2
import msgspec
import pytest

from conftest import (
    IDENTIFIERS_PATH,
    PLAIN,
    PROFILE_PATH,
    Server,
    ask,
    counted,
    error_code,
    exchange,
    free_port,
    make_profile,
    raw_request,
    sources,
    start,
    stop,
)
from knownas import bootstrap

DATABASES = ("sqlite", "postgresql")

CHANGES = "/api/v1/changes/"
EVENT_STREAM = "text/event-stream"
SOON: Final = 5
"""Seconds within which a follower has what was written; it looks four times a second."""


class Event(NamedTuple):
    """A server-sent event; one without data is none, and only moves the id."""

    id: str
    type: str | None
    data: dict[str, Any] | None


class Stream:
    """Reads server-sent events."""

    def __init__(self, response: httpx2.Response) -> None:
        """Read from a response that is still coming."""
        self.response = response
        self._lines = response.iter_lines()

    def __iter__(self) -> Iterator[Event]:
        """Yield whatever comes, until the stream ends."""
        fields: dict[str, str] = {}
        for line in self._lines:
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
            else:
                data = msgspec.json.decode(fields["data"]) if "data" in fields else None
                yield Event(fields["id"], fields.get("event"), data)
                fields = {}

    def changes(self, count: int) -> list[Event]:
        """Return the next events that are changes."""
        found: list[Event] = []
        for event in self:
            if event.data is not None:
                found.append(event)
            if len(found) == count:
                break
        return found


@contextmanager
def stream(server: Server, query: str = "", **headers: str) -> Iterator[Stream]:
    """Open a stream; it fails when nothing comes for long."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    with PLAIN.stream(
        "GET",
        f"{server.url}{CHANGES}?{query}",
        headers={"Authorization": f"Api-Key {server.key}", "Accept": EVENT_STREAM, **named},
        timeout=20,
    ) as response:
        yield Stream(response)


def page(server: Server, **parameters: object) -> dict[str, Any]:
    """Return a page of changes; the parameters are encoded."""
    query = "&".join(f"{name}={quote(str(value))}" for name, value in parameters.items())
    answer = ask(server, "GET", f"{CHANGES}?{query}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def end(server: Server) -> str:
    """Return the cursor after which comes what is still to come."""
    found = page(server, after="now")
    assert found["data"] == []
    cursor: str = found["next"]
    return cursor


def set_value(server: Server, customer: str, value: str) -> None:
    """Set an identifier of a profile that there is."""
    answer = ask(server, "POST", IDENTIFIERS_PATH, body={"branch_id": value}, customer=customer)
    assert answer.status_code == 200, answer.text


def new_values(changes: list[dict[str, Any]]) -> list[str | None]:
    """Return what `set_value` set."""
    return [it["changes"]["identifiers"]["branch_id"]["new"] for it in changes]


# --- Pages ------------------------------------------------------------------------------------


def test_feed_has_every_change_oldest_first(server: Server) -> None:
    """What is made, changed and deleted comes in that order, each with its cursor."""
    after = end(server)
    made = make_profile(server, "told", branch_id="1")
    assert ask(server, "DELETE", PROFILE_PATH, customer="told").status_code == 204
    found = page(server, after=after)
    assert [it["type"] for it in found["data"]] == [
        "profile.created",
        "profile.changed",
        "profile.deleted",
    ]
    assert [it["revision"] for it in found["data"]] == [1, 2, 3]
    assert {it["profile_id"] for it in found["data"]} == {made["profile_id"]}
    assert len({it["cursor"] for it in found["data"]}) == 3
    assert page(server, after=found["next"])["data"] == []
    # A change's own cursor is a place, too.
    assert page(server, after=found["data"][0]["cursor"])["data"] == found["data"][1:]
    newest_first = ask(
        server, "GET", "/api/v1/profile/history/", profile=made["profile_id"]
    ).json()["data"]
    assert [it | {"cursor": ""} for it in newest_first[::-1]] == [
        it | {"cursor": ""} for it in found["data"]
    ]


def test_feed_is_had_by_pages(server: Server) -> None:
    """Each `next` leads on from where the page ended, to the same changes whatever the limit."""
    make_profile(server, "paged")
    after = end(server)
    values = [str(number) for number in range(7)]
    for value in values:
        set_value(server, "paged", value)
    for limit in (1, 3, 7, 1_000):
        seen: list[dict[str, Any]] = []
        cursor = after
        while len(seen) < len(values):
            found = page(server, after=cursor, limit=limit)
            assert len(found["data"]) == min(limit, len(values) - len(seen))
            seen += found["data"]
            cursor = found["next"]
        assert new_values(seen) == values
        assert page(server, after=cursor, limit=limit)["data"] == []


def test_feed_begins_with_the_oldest_change(server: Server) -> None:
    """Without a cursor the first page is the oldest, and it is a hundred changes at most."""
    make_profile(server, "many")
    for number in range(110):
        set_value(server, "many", f"many-{number}")
    first = page(server)
    assert first["data"][0]["revision"] == 1
    assert len(first["data"]) == 100
    assert first["next"] == first["data"][-1]["cursor"]


def test_head_answers_as_get_and_never_streams(server: Server) -> None:
    """HEAD is a page without its body, whatever is accepted."""
    headers = [("Accept", EVENT_STREAM)]
    for path in (CHANGES, CHANGES[:-1]):
        head = ask(server, "HEAD", path, headers)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-type"] == "application/json"
        assert head.headers["content-length"] == str(len(ask(server, "GET", path).content))


def test_shared_identifier_is_told(server: Server) -> None:
    """The change that makes an identifier one of several profiles says so."""
    make_profile(server, "first", branch_id="both", appsflyer_id="one")
    make_profile(server, "second")
    after = end(server)
    body = {"branch_id": "both", "appsflyer_id": "two"}
    assert ask(server, "POST", IDENTIFIERS_PATH, body=body, customer="second").is_success
    assert [it["shared"] for it in page(server, after=after)["data"]] == [["branch_id"]]


# --- Waiting ----------------------------------------------------------------------------------


def test_waiting_finds_nothing_when_the_time_is_over(server: Server) -> None:
    """A call that waits in vain is answered an empty page, whose cursor leads on."""
    make_profile(server, "quiet")
    began = time.monotonic()
    found = page(server, after="now", wait=1)
    assert found["data"] == []
    assert time.monotonic() - began >= 1
    set_value(server, "quiet", "late")
    assert new_values(page(server, after=found["next"])["data"]) == ["late"]


def test_waiting_does_not_hold_back_what_is_there(server: Server) -> None:
    """A call with something to tell answers at once."""
    make_profile(server, "there")
    after = end(server)
    set_value(server, "there", "x")
    began = time.monotonic()
    assert new_values(page(server, after=after, wait=60)["data"]) == ["x"]
    assert time.monotonic() - began < SOON


@pytest.mark.parametrize("writer", ["server", "second"])
def test_waiting_is_ended_by_a_write_of_any_process(
    request: pytest.FixtureRequest, server: Server, second: Server, writer: str
) -> None:
    """Who waits is answered soon after a change, whichever process made it."""
    del second
    make_profile(server, "awaited")
    after = end(server)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(page, server, after=after, wait=60)
        time.sleep(0.5)
        assert not waiting.done()
        set_value(request.getfixturevalue(writer), "awaited", f"by-{writer}")
        assert new_values(waiting.result(SOON)["data"]) == [f"by-{writer}"]


def test_waiting_is_not_ended_by_another_app(server: Server, other: Server) -> None:
    """What another app writes answers nobody of this one."""
    make_profile(server, "patient")
    after = end(server)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(page, server, after=after, wait=60)
        for number in range(4):
            make_profile(other, f"noise-{number}")
            time.sleep(0.2)
        assert not waiting.done()
        set_value(server, "patient", "own")
        assert new_values(waiting.result(SOON)["data"]) == ["own"]


def test_who_is_gone_is_waited_for_no_more(server: Server) -> None:
    """A call whose client has cut off the connection ends long before its time.

    One that has only closed it may still read, as far as the server can know.
    """

    def answered() -> float:
        return counted(server.url, "GET", CHANGES, 200)

    before = answered()
    url = httpx2.URL(server.url)
    with socket.create_connection((url.host, url.port)) as connection:
        connection.sendall(raw_request(server, "GET", f"{CHANGES}?after=now&wait=60"))
        time.sleep(1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert answered() == before
    deadline = time.monotonic() + 20
    while answered() == before:
        assert time.monotonic() < deadline
        time.sleep(0.2)


# --- Streams ----------------------------------------------------------------------------------


def test_stream_sends_what_was_and_what_comes(server: Server, second: Server) -> None:
    """Each change is an event with its cursor, its type, and what a page has of it."""
    make_profile(server, "streamed")
    after = end(server)
    set_value(server, "streamed", "was")
    with stream(server, f"after={after}") as events:
        headers = events.response.headers
        assert events.response.status_code == 200
        assert headers["content-type"].partition(";")[0] == EVENT_STREAM
        assert (headers["cache-control"], headers["x-accel-buffering"]) == ("no-store", "no")
        assert "request-id" in headers
        seen = events.changes(1)
        set_value(server, "streamed", "comes")
        set_value(second, "streamed", "elsewhere")
        seen += events.changes(2)
    data = [it.data for it in seen if it.data is not None]
    assert data == page(server, after=after)["data"]
    assert new_values(data) == ["was", "comes", "elsewhere"]
    assert [(it.id, it.type) for it in seen] == [(it["cursor"], it["type"]) for it in data]


def test_stream_from_now_can_be_resumed_before_its_first_event(server: Server) -> None:
    """It begins with an id, after which comes all that is written since."""
    make_profile(server, "early")
    with stream(server, "after=now") as events:
        first = next(iter(events))
        assert (first.type, first.data) == (None, None)
    set_value(server, "early", "between")
    with stream(server, "after=now", Last_Event_ID=first.id) as events:
        (event,) = events.changes(1)
    assert new_values([event.data or {}]) == ["between"]


@pytest.mark.parametrize("limit", [1, 3, 100])
def test_stream_is_resumed_without_a_gap(server: Server, limit: int) -> None:
    """Who reads any number of events and opens the stream again gets the rest, each once.

    The address stays that of the first time, as a browser sends it.
    """
    make_profile(server, "resumed")
    after = end(server)
    values = [f"{limit}-{number}" for number in range(9)]
    for value in values:
        set_value(server, "resumed", value)
    seen: list[dict[str, Any]] = []
    headers: dict[str, str] = {}
    while len(seen) < len(values):
        with stream(server, f"after={after}&limit={limit}", **headers) as events:
            for event in events.changes(min(2, len(values) - len(seen))):
                seen.append(event.data or {})
                headers = {"Last_Event_ID": event.id}
    assert new_values(seen) == values


def test_stream_begins_at_the_beginning_without_a_cursor(server: Server) -> None:
    """A blank Last-Event-ID counts as none."""
    make_profile(server, "beginning")
    with stream(server, Last_Event_ID="") as events:
        (event,) = events.changes(1)
    assert event.data == page(server, limit=1)["data"][0]


def test_no_change_is_missed_under_load(server: Server, second: Server) -> None:
    """Two processes write at once; a reader that comes back again and again has each change once.

    Those of one profile come in the order of its revisions.
    """
    customers = [f"busy-{number}" for number in range(4)]
    for customer in customers:
        make_profile(server, customer)
    after = end(server)
    rounds = 25
    begun = threading.Barrier(2 * len(customers))

    def write(writer: Server, customer: str) -> None:
        begun.wait()
        for number in range(rounds):
            set_value(writer, customer, f"{writer.url}-{number}")

    seen: list[dict[str, Any]] = []
    cursor = after
    with ThreadPoolExecutor(2 * len(customers)) as pool:
        writing = [pool.submit(write, it, who) for it in (server, second) for who in customers]
        while len(seen) < 2 * rounds * len(customers):
            reader = (server, second)[len(seen) % 2]
            with stream(reader, "limit=10", Last_Event_ID=cursor) as events:
                left = 2 * rounds * len(customers) - len(seen)
                for event in events.changes(min(17, left)):
                    seen.append(event.data or {})
                    cursor = event.id
        for one in writing:
            one.result()
    revisions: dict[str, list[int]] = defaultdict(list)
    for change in seen:
        revisions[change["profile_id"]].append(change["revision"])
    assert list(revisions.values()) == [list(range(2, 2 + 2 * rounds))] * len(customers)
    assert seen == page(server, after=after, limit=1_000)["data"]


def test_rows_18_and_20_who_waits_is_let_go_when_the_server_stops(server: Server) -> None:
    """On SIGTERM long polls are answered, streams are ended as they should, and it ends in time."""
    port = free_port()
    process = start(server.database, port)
    url = f"http://127.0.0.1:{port}"
    stopping = server._replace(url=url)
    after = end(stopping)
    opened = threading.Barrier(21)
    with ThreadPoolExecutor(40) as pool:

        def follow() -> list[Event]:
            with stream(stopping, f"after={after}") as events:
                first = next(iter(events))
                opened.wait()
                return [first, *events]

        polls = [
            pool.submit(ask, stopping, "GET", f"{CHANGES}?after={after}&wait=60") for _ in range(20)
        ]
        streams = [pool.submit(follow) for _ in range(20)]
        opened.wait(60)
        time.sleep(1)
        began = time.monotonic()
        assert stop(process) == 0
        assert time.monotonic() - began < 15
        for poll in polls:
            answer = poll.result(1)
            assert (answer.status_code, answer.json()) == (200, {"data": [], "next": after})
            assert answer.headers["connection"] == "close"
        for followed in streams:
            # It would have raised where the last chunk did not come.
            assert {it.id for it in followed.result(1)} == {after}


def test_row_18_who_waits_is_under_no_limit_of_time(server: Server) -> None:
    """Limits on slow requests and idle connections are not for those who wait."""
    port = free_port()
    limits = dict.fromkeys(("REQUEST", "KEEP_ALIVE", "STALL"), "1")
    settings = {f"KNOWNAS_{name}_SECONDS": value for name, value in limits.items()}
    process = start(server.database, port, **settings)
    strict = server._replace(url=f"http://127.0.0.1:{port}")
    make_profile(server, "slow")
    after = end(strict)
    try:
        with ThreadPoolExecutor() as pool, stream(strict, f"after={after}") as events:
            waiting = pool.submit(page, strict, after=after, wait=60)
            time.sleep(4)
            assert not waiting.done()
            set_value(server, "slow", "at last")
            assert new_values(waiting.result(SOON)["data"]) == ["at last"]
            (event,) = events.changes(1)
            assert new_values([event.data or {}]) == ["at last"]
    finally:
        assert stop(process) == 0


# --- What is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("after=", ["after"]),
        ("after=" + "x" * 201, ["after"]),
        ("after=now&after=now", ["after"]),
        ("after=%E9", ["after"]),
        *((f"limit={limit}", ["limit"]) for limit in ("", "0", "1001", "-1", "1e1", "07", "x")),
        *((f"wait={wait}", ["wait"]) for wait in ("", "61", "-1", "0.5", "00", "x")),
        ("since=now", ["since"]),
        ("cursor=x&limit=1&limit=2", ["cursor", "limit"]),
    ],
)
@pytest.mark.parametrize("accept", ["application/json", EVENT_STREAM])
def test_bad_parameter_is_named(
    server: Server, query: str, expected: list[str], accept: str
) -> None:
    """A parameter that is unknown, doubled, or not within its bounds is a 400."""
    answer = ask(server, "GET", f"{CHANGES}?{query}", [("Accept", accept)])
    assert error_code(answer) == (400, "validation_error")
    assert sources(answer) == expected


def test_bad_last_event_id_is_named(server: Server) -> None:
    """One that no stream ever sent is a 400 or a 410; where nothing is streamed it says nothing."""
    headers = [("Accept", EVENT_STREAM), ("Last-Event-ID", "x" * 201)]
    answer = ask(server, "GET", CHANGES, headers)
    assert (error_code(answer), sources(answer)) == ((400, "validation_error"), ["last-event-id"])
    for cursor in (b"x", "\u00e9\u2028".encode(), b"\xff"):
        sent = [("Accept", EVENT_STREAM.encode()), ("Last-Event-ID", cursor)]
        assert error_code(ask(server, "GET", CHANGES, sent)) == (410, "cursor_expired")
    assert ask(server, "GET", CHANGES, [("Last-Event-ID", "x" * 201)]).status_code == 200


@pytest.mark.parametrize(
    "cursor",
    ["x", "-", "0", "NOW", "000000000000-1", "%00", "a%00b", "%F0%9F%98%80-1", "' OR 1=1 --"]
    + [f"{{name}}-{place}" for place in ("", "x", "-1", "1.5", "%D9%A1", "1-2", " 1", "0x1")],
)
def test_cursor_of_another_feed_is_expired(server: Server, cursor: str) -> None:
    """What is no place of this feed is a 410 that says how to go on, waited for or not."""
    name = end(server).partition("-")[0]
    asked = quote(cursor.format(name=name), safe="%")
    for query in (f"after={asked}", f"after={asked}&wait=60"):
        answer = ask(server, "GET", f"{CHANGES}?{query}")
        assert error_code(answer) == (410, "cursor_expired")
    answer = ask(server, "GET", f"{CHANGES}?after={asked}", [("Accept", EVENT_STREAM)])
    assert error_code(answer) == (410, "cursor_expired")
    assert "follow from a new cursor" in answer.text


def test_cursor_expires_with_the_history_after_it(database: str, server: Server) -> None:
    """A cursor from before what was pruned is a 410; one from after it, or none, goes on."""
    make_profile(server, "pruned")
    after = end(server)
    set_value(server, "pruned", "1")

    async def prune() -> None:
        storage = bootstrap.open_storage(database)
        now = time.time_ns() // 1_000_000
        while await storage.prune(now=now, before=now + 1, limit=1_000):
            pass
        await storage.close()

    asyncio.run(prune())
    rests = end(server)
    assert error_code(ask(server, "GET", f"{CHANGES}?after={after}")) == (410, "cursor_expired")
    set_value(server, "pruned", "2")
    assert new_values(page(server, after=rests)["data"]) == ["2"]
    assert new_values(page(server)["data"]) == ["2"]


def test_row_05_another_apps_changes_are_not_told(server: Server, other: Server) -> None:
    """Whatever cursor one app has, from it come the changes of that app alone."""
    before = end(server)
    make_profile(server, "of-one", branch_id="secret")
    (cursor, *_) = [it["cursor"] for it in page(server, after=before)["data"]]
    theirs = make_profile(other, "of-other")
    for after in (before, cursor):
        found = page(other, after=after)["data"]
        assert {it["profile_id"] for it in found} == {theirs["profile_id"]}
        with stream(other, f"after={after}") as events:
            (event,) = events.changes(1)
        assert event.data == found[0]
    assert {it["profile_id"] for it in page(other)["data"]}.isdisjoint(
        {it["profile_id"] for it in page(server, limit=1_000)["data"]}
    )


@pytest.mark.parametrize("accept", ["application/json", EVENT_STREAM])
def test_only_a_secret_key_is_served(server: Server, accept: str) -> None:
    """Without a key, with an unknown or a public one, the answer is 401, whatever is asked."""
    for key in ("", "unknown", server.public_key):
        for query in ("", "bad", "after=now&wait=60"):
            request = raw_request(
                server._replace(key=key), "GET", f"{CHANGES}?{query}", [("Accept", accept)]
            )
            assert error_code(exchange(server, request)) == (401, "unauthorized")
