"""Conditional requests: a reader is spared what it has, a writer changes only what it has read.

Threat-style rows stand at the end: whatever a client sends as a tag, the answer is one of the
contract's.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple
from uuid import uuid4

import httpx2
import pytest

from conftest import (
    IDENTIFIERS_PATH,
    PROFILE_PATH,
    SDK_PATH,
    RawHeaders,
    Server,
    ask,
    error_code,
    exchange,
    free_port,
    raw_request,
    sources,
    start,
    stop,
)
from knownas.http import wire

DATABASES = ("sqlite", "postgresql")

CROWD: Final = 64
OTHER: Final = '"0123456789abcdef"'
NO_TAG: Final = '"-"'
"""What a client sends that has no tag yet."""
RACERS: Final = 16
"""Connections that write at the same time."""


class Write(NamedTuple):
    """A write that takes If-Match."""

    method: str
    path: str
    status: int
    body: object = None


SET = Write("POST", IDENTIFIERS_PATH, 200, {"branch_id": "new"})
PUT = Write("POST", PROFILE_PATH, 200, {"custom_attributes": [{"key": "k", "value": "new"}]})
UPDATE = Write("PATCH", PROFILE_PATH, 200, PUT.body)
DELETE = Write("DELETE", PROFILE_PATH, 204)
WRITES: Final = (SET, PUT, UPDATE, DELETE)
NAMES: Final = ("set", "put", "update", "delete")


@pytest.fixture
def customer(server: Server) -> str:
    """Give a customer that has a profile with an identifier and an attribute."""
    name = f"user-{uuid4()}"
    attributes = {"custom_attributes": [{"key": "k", "value": "old"}]}
    assert ask(server, "POST", PROFILE_PATH, body=attributes, customer=name).status_code == 200
    identifiers = {"branch_id": "old"}
    assert ask(server, "POST", IDENTIFIERS_PATH, body=identifiers, customer=name).status_code == 200
    return name


def read(server: Server, path: str, customer: str, *tags: str) -> httpx2.Response:
    """Ask for what is at a path, saying which tags are known."""
    return ask(server, "GET", path, [("If-None-Match", tag) for tag in tags], customer=customer)


def tag_of(server: Server, path: str, customer: str) -> str:
    """Return the tag of what is at a path."""
    answer = read(server, path, customer, NO_TAG)
    assert answer.status_code == 200
    tag: str = answer.headers["etag"]
    return tag


def write(server: Server, one: Write, customer: str, *tags: str) -> httpx2.Response:
    """Make a write that is to be made only where one of the tags is that of what is there."""
    headers = [("If-Match", tag) for tag in tags]
    return ask(server, one.method, one.path, headers, one.body, customer=customer)


def state(server: Server, customer: str) -> tuple[object, object]:
    """Return what is stored of a customer."""
    profile = ask(server, "GET", PROFILE_PATH, customer=customer).json()
    if "data" in profile:
        del profile["data"]["timestamp"]
    return profile, ask(server, "GET", IDENTIFIERS_PATH, customer=customer).json()


# --- Reading ------------------------------------------------------------------------------------


def test_identifiers_have_a_tag_for_who_asks_for_it(server: Server, customer: str) -> None:
    """A GET without a condition has none; with any tag it has that of the body."""
    plain = ask(server, "GET", IDENTIFIERS_PATH, customer=customer)
    assert "etag" not in plain.headers
    asked = read(server, IDENTIFIERS_PATH, customer, NO_TAG)
    assert (asked.status_code, asked.content) == (200, plain.content)
    assert asked.headers["content-type"] == "application/json"
    assert asked.headers["etag"] == wire.etag(plain.content)


def test_every_answer_with_a_profile_has_its_tag(server: Server, customer: str) -> None:
    """GET, POST and PATCH of a profile say the same tag until it changes, whatever the time is."""
    tags = [
        ask(server, method, PROFILE_PATH, body=body, customer=customer).headers["etag"]
        for method, body in (("GET", None), ("GET", None), ("POST", {}), ("PATCH", {}))
    ]
    changed = ask(server, "PATCH", PROFILE_PATH, body=UPDATE.body, customer=customer)
    assert len(set(tags)) == 1
    assert changed.headers["etag"] not in tags
    assert changed.headers["etag"] == tag_of(server, PROFILE_PATH, customer)


@pytest.mark.parametrize("path", [IDENTIFIERS_PATH, PROFILE_PATH])
@pytest.mark.parametrize(
    "form",
    [
        ("{}",),
        ("W/{}",),
        ("*",),
        (OTHER + ", {}",),
        ("{}," + OTHER,),
        (" ,, W/" + OTHER + " , {} ,",),
        ('"a,b", {}',),
        (OTHER, "{}"),
        ("{}", OTHER),
        ("{}", "{}"),
        ("", "{}"),
    ],
)
def test_known_content_is_not_sent_again(
    server: Server, customer: str, path: str, form: tuple[str, ...]
) -> None:
    """Where a known tag matches, weak or not, the answer is 304: its tag, its id, no body."""
    tag = tag_of(server, path, customer)
    answer = read(server, path, customer, *(one.format(tag) for one in form))
    assert (answer.status_code, answer.content) == (304, b"")
    assert answer.headers["etag"] == tag
    assert answer.headers["request-id"]
    assert not {"content-type", "content-length", "transfer-encoding"} & {*answer.headers}


@pytest.mark.parametrize("path", [IDENTIFIERS_PATH, PROFILE_PATH])
@pytest.mark.parametrize("tags", [(OTHER,), (f"W/{OTHER}", NO_TAG), ('""',), ('"\u00e9"',)])
def test_unknown_content_is_sent(
    server: Server, customer: str, path: str, tags: tuple[str, ...]
) -> None:
    """Where none of the tags matches, the answer is whole, with its tag."""
    answer = read(server, path, customer, *tags)
    assert answer.status_code == 200
    assert answer.headers["etag"] == tag_of(server, path, customer)
    assert answer.json()


@pytest.mark.parametrize("path", [IDENTIFIERS_PATH, PROFILE_PATH])
def test_blank_condition_counts_as_absent(server: Server, customer: str, path: str) -> None:
    """A blank If-None-Match is none."""
    plain = ask(server, "GET", path, customer=customer)
    blank = read(server, path, customer, " \t")
    assert blank.status_code == 200
    assert blank.headers.get("etag") == plain.headers.get("etag")


@pytest.mark.parametrize("path", [IDENTIFIERS_PATH, PROFILE_PATH])
def test_head_answers_conditions_as_get(server: Server, customer: str, path: str) -> None:
    """HEAD has the tag, and 304 where it is known."""
    tag = tag_of(server, path, customer)
    for known, status in ((NO_TAG, 200), (tag, 304)):
        answer = ask(server, "HEAD", path, [("If-None-Match", known)], customer=customer)
        assert (answer.status_code, answer.headers["etag"], answer.content) == (status, tag, b"")


def test_tag_is_that_of_the_profile_however_it_is_named(server: Server, customer: str) -> None:
    """By customer and by profile id it is the same."""
    profile = ask(server, "GET", PROFILE_PATH, customer=customer)
    profile_id = profile.json()["data"]["profile_id"]
    for path in (IDENTIFIERS_PATH, PROFILE_PATH):
        known = [("If-None-Match", tag_of(server, path, customer))]
        assert ask(server, "GET", path, known, profile=profile_id).status_code == 304


def test_tag_changes_with_the_content_and_comes_back_with_it(server: Server, customer: str) -> None:
    """A change makes another tag; the same content again has the same tag again."""
    before = tag_of(server, IDENTIFIERS_PATH, customer)
    assert write(server, SET, customer).status_code == 200
    between = read(server, IDENTIFIERS_PATH, customer, before)
    assert (between.status_code, between.json()["branch_id"]) == (200, "new")
    back = SET._replace(body={"branch_id": "old"})
    assert write(server, back, customer, between.headers["etag"]).status_code == 200
    assert tag_of(server, IDENTIFIERS_PATH, customer) == before


def test_absent_profile_is_not_found_under_any_condition(server: Server) -> None:
    """Where there is nothing to compare with, a GET is the 404 that it is without a condition."""
    for path in (IDENTIFIERS_PATH, PROFILE_PATH):
        for tag in ("*", OTHER):
            answer = read(server, path, f"nobody-{uuid4()}", tag)
            assert error_code(answer) == (404, "profile_not_found")
            assert "etag" not in answer.headers


# --- Writing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("one", WRITES, ids=NAMES)
@pytest.mark.parametrize("form", [("{}",), ("*",), (OTHER + ",{}",), (OTHER, "{}"), (" ",), ()])
def test_write_is_made_where_a_tag_matches(
    server: Server, customer: str, one: Write, form: tuple[str, ...]
) -> None:
    """With the tag of what is there, with `*`, and without a tag the write is made."""
    before = state(server, customer)
    tags = [text.format(tag_of(server, one.path, customer)) for text in form]
    assert write(server, one, customer, *tags).status_code == one.status
    assert state(server, customer) != before


@pytest.mark.parametrize("one", WRITES, ids=NAMES)
@pytest.mark.parametrize("form", [OTHER, "W/{}", f"W/{{}}, {OTHER}", '""'])
def test_write_is_refused_where_no_tag_matches(
    server: Server, customer: str, one: Write, form: str
) -> None:
    """With another tag, or a weak one, the answer is 412 and nothing is changed."""
    before = state(server, customer)
    answer = write(server, one, customer, form.format(tag_of(server, one.path, customer)))
    assert error_code(answer) == (412, "precondition_failed")
    assert "If-Match" in answer.json()["errors"][0]["errors"][0]
    assert state(server, customer) == before


@pytest.mark.parametrize("one", WRITES, ids=NAMES)
def test_tag_is_good_for_one_change(server: Server, customer: str, one: Write) -> None:
    """After the change that it allowed the tag allows no other."""
    tag = tag_of(server, one.path, customer)
    assert write(server, one, customer, tag).status_code == one.status
    again = error_code(write(server, one, customer, tag))
    assert again == ((404, "profile_not_found") if one is DELETE else (412, "precondition_failed"))


def test_tag_of_one_thing_is_not_that_of_another(server: Server, customer: str) -> None:
    """A profile's tag allows no change of its identifiers, nor the other way round."""
    tags = {path: tag_of(server, path, customer) for path in (IDENTIFIERS_PATH, PROFILE_PATH)}
    assert write(server, SET, customer, tags[PROFILE_PATH]).status_code == 412
    assert write(server, UPDATE, customer, tags[IDENTIFIERS_PATH]).status_code == 412


@pytest.mark.parametrize("path", [IDENTIFIERS_PATH, PROFILE_PATH])
def test_read_is_refused_where_no_tag_matches(server: Server, customer: str, path: str) -> None:
    """A GET with If-Match is answered, or 412; that comes before If-None-Match."""
    tag = tag_of(server, path, customer)
    for given, known, status in (
        (tag, None, 200),
        ("*", None, 200),
        (OTHER, None, 412),
        (f"W/{tag}", None, 412),
        (tag, tag, 304),
        (OTHER, tag, 412),
        (tag, OTHER, 200),
    ):
        headers = [("If-Match", given)] + ([("If-None-Match", known)] if known else [])
        answer = ask(server, "GET", path, headers, customer=customer)
        assert answer.status_code == status
        assert status == 412 or answer.headers["etag"] == tag


@pytest.mark.parametrize("one", WRITES, ids=NAMES)
@pytest.mark.parametrize("form", ["*", "{}", "W/{}", f"{OTHER}, {{}}"])
def test_write_is_refused_where_a_tag_is_excluded(
    server: Server, customer: str, one: Write, form: str
) -> None:
    """With If-None-Match it is made only where none of the tags, weak or not, is that."""
    before = state(server, customer)
    excluded = [("If-None-Match", form.format(tag_of(server, one.path, customer)))]
    answer = ask(server, one.method, one.path, excluded, one.body, customer=customer)
    assert error_code(answer) == (412, "precondition_failed")
    assert state(server, customer) == before
    other = [("If-None-Match", OTHER)]
    answer = ask(server, one.method, one.path, other, one.body, customer=customer)
    assert answer.status_code == one.status
    assert state(server, customer) != before


@pytest.mark.parametrize("key", [None, "once"])
def test_profile_is_made_only_if_there_is_none(server: Server, key: str | None) -> None:
    """Of many who send `If-None-Match: *` one makes the profile, and the others change nothing."""
    name = f"user-{uuid4()}"

    def make(number: int) -> int:
        headers = [("If-None-Match", "*")]
        headers += [("Idempotency-Key", f"{key}-{name}-{number}")] if key else []
        body = {"custom_attributes": [{"key": "k", "value": number}]}
        return ask(server, "POST", PROFILE_PATH, headers, body, customer=name).status_code

    with ThreadPoolExecutor(RACERS) as racers:
        statuses = list(racers.map(make, range(CROWD)))
    assert sorted(statuses) == [200] + [412] * (CROWD - 1)
    made = ask(server, "GET", PROFILE_PATH, customer=name).json()["data"]["custom_attributes"]
    assert made == [{"key": "k", "value": statuses.index(200)}]


def test_excluded_tag_binds_no_customer_to_who_is_there(server: Server) -> None:
    """An anonymous profile that would get the customer is there: `*` excludes it."""
    profile_id, nobody = str(uuid4()), f"nobody-{uuid4()}"
    assert ask(server, "POST", PROFILE_PATH, profile=profile_id).is_success
    nothing = [("If-None-Match", "*")]
    both = ask(server, "POST", PROFILE_PATH, nothing, customer=nobody, profile=profile_id)
    assert error_code(both) == (412, "precondition_failed")
    assert ask(server, "GET", PROFILE_PATH, customer=nobody).status_code == 404


@pytest.mark.parametrize("tag", ["*", OTHER])
def test_condition_on_an_absent_profile(server: Server, tag: str) -> None:
    """What would be 404 stays so; POST of a profile, which would create it, is 412."""
    nobody = f"nobody-{uuid4()}"
    for one in (SET, UPDATE, DELETE):
        assert error_code(write(server, one, nobody, tag)) == (404, "profile_not_found")
    assert error_code(write(server, PUT, nobody, tag)) == (412, "precondition_failed")
    assert ask(server, "GET", PROFILE_PATH, customer=nobody).status_code == 404


def test_conditional_write_binds_no_customer(server: Server) -> None:
    """Both headers name no profile before the binding, so no tag can be that of one."""
    profile_id, nobody = str(uuid4()), f"nobody-{uuid4()}"
    tag = ask(server, "POST", PROFILE_PATH, profile=profile_id).headers["etag"]
    for given in (tag, "*"):
        condition = [("If-Match", given)]
        both = ask(server, "POST", PROFILE_PATH, condition, customer=nobody, profile=profile_id)
        assert error_code(both) == (412, "precondition_failed")
    assert ask(server, "GET", PROFILE_PATH, customer=nobody).status_code == 404
    assert ask(server, "POST", PROFILE_PATH, customer=nobody, profile=profile_id).is_success


def test_other_errors_come_before_the_condition(server: Server, customer: str) -> None:
    """A wrong key is 401 and a wrong body 400, whatever the tag is."""
    no_key = write(server._replace(key="wrong"), SET, customer, OTHER)
    assert error_code(no_key) == (401, "unauthorized")
    wrong_body = SET._replace(body={"branch_id": 1})
    assert sources(write(server, wrong_body, customer, OTHER)) == ["branch_id"]


@pytest.mark.parametrize("one", WRITES, ids=NAMES)
def test_one_of_many_conditional_writes_is_made(server: Server, customer: str, one: Write) -> None:
    """Of 64 simultaneous writes with one tag exactly one is made, and that one is kept."""
    tag = tag_of(server, one.path, customer)

    def body(number: int) -> object:
        if one is DELETE:
            return None
        if one is SET:
            return {"branch_id": f"b{number}"}
        return {"custom_attributes": [{"key": "k", "value": number}]}

    with ThreadPoolExecutor(RACERS) as racers:
        writes = [one._replace(body=body(number)) for number in range(CROWD)]
        answers = list(racers.map(lambda it: write(server, it, customer, tag), writes))
    statuses = [answer.status_code for answer in answers]
    refusal = 404 if one is DELETE else 412
    assert sorted(statuses) == sorted([one.status] + [refusal] * (CROWD - 1))
    if one is not DELETE:
        # A write that changes nothing has the tag of what is there, so it is the one that was made.
        now = tag_of(server, one.path, customer)
        assert write(server, writes[statuses.index(one.status)], customer, now).status_code == 200
        assert tag_of(server, one.path, customer) == now != tag


def test_sdk_knows_no_condition(server: Server, customer: str) -> None:
    """A public key, which may not read, learns nothing from a condition: it is as if not sent."""
    profile_id = ask(server, "GET", PROFILE_PATH, customer=customer).json()["data"]["profile_id"]
    public = server._replace(key=server.public_key)
    body = {"data": {"profile_id": profile_id, "branch_id": "sdk"}}
    for tag in (tag_of(server, IDENTIFIERS_PATH, customer), OTHER, "no tag"):
        for name in ("If-Match", "If-None-Match"):
            assert ask(public, "POST", SDK_PATH, [(name, tag)], body).status_code == 200


@pytest.fixture
def creating(server: Server) -> Iterator[Server]:
    """Give a second process on the same database that creates unknown profiles."""
    port = free_port()
    process = start(server.database, port, KNOWNAS_AUTO_CREATE_PROFILES="on")
    yield server._replace(url=f"http://127.0.0.1:{port}")
    assert stop(process) == 0


def test_conditional_write_creates_no_profile_of_its_own(creating: Server, customer: str) -> None:
    """With `auto_create_profiles` an absent profile is 412, and a present one is checked.

    With If-None-Match the absent one is made.
    """
    nobody = f"nobody-{uuid4()}"
    assert error_code(write(creating, SET, nobody, "*")) == (412, "precondition_failed")
    assert ask(creating, "GET", PROFILE_PATH, customer=nobody).status_code == 404
    assert write(creating, SET, nobody).status_code == 200
    tag = tag_of(creating, IDENTIFIERS_PATH, customer)
    assert write(creating, SET, customer, OTHER).status_code == 412
    assert write(creating, SET, customer, tag).status_code == 200
    nothing, nobody = [("If-None-Match", "*")], f"nobody-{uuid4()}"
    for status in (200, 412):
        made = ask(creating, "POST", IDENTIFIERS_PATH, nothing, SET.body, customer=nobody)
        assert made.status_code == status


# --- What is no condition -----------------------------------------------------------------------

NO_TAGS: Final = (
    "x",
    '"',
    '"a',
    'a"',
    "'a'",
    "**",
    "*, *",
    '*, "a"',
    '"a", *',
    ",",
    ", ,",
    '"a" "b"',
    '"a";"b"',
    'w/"a"',
    "W/",
    'W/ "a"',
    "W/*",
    '"a b"',
    '"a\tb"',
    '"a"b"',
    "5f0c6d2e9b7a4f13",
    "\u00e9",
    "%22a%22",
    "'; DROP TABLE profiles; --",
)


@pytest.mark.parametrize("text", NO_TAGS)
def test_what_is_no_list_of_tags_is_refused(server: Server, customer: str, text: str) -> None:
    """The header is named, on every route that takes it, and nothing is changed."""
    before = state(server, customer)
    for path in (IDENTIFIERS_PATH, PROFILE_PATH):
        assert sources(read(server, path, customer, text)) == ["if-none-match"]
    for one in WRITES:
        assert sources(write(server, one, customer, text)) == ["if-match"]
    assert state(server, customer) == before


@pytest.mark.parametrize(
    "text", ['"a",' * 3_500, "W/" * 7_000, '"' * 14_000, "," * 14_000, '"a"' + "\t" * 14_000 + "b"]
)
def test_long_condition_is_answered(server: Server, customer: str, text: str) -> None:
    """As long as headers may be: it is compared or refused, never a 500, and soon."""
    for answer in (
        read(server, IDENTIFIERS_PATH, customer, text),
        write(server, SET, customer, text),
    ):
        assert answer.status_code in {200, 400, 412}


@pytest.mark.parametrize("byte", [b"\x00", b"\x01", b"\x7f", b"\xff", b"\x80"])
def test_odd_bytes_in_a_tag(server: Server, customer: str, byte: bytes) -> None:
    """A control character is 400; other bytes may be in a tag, and match nothing."""
    headers: RawHeaders = [("If-Match", b'"' + byte + b'"')]
    request = raw_request(server, "PATCH", PROFILE_PATH, headers, {}, customer=customer)
    answer = exchange(server, request)
    assert answer.status_code == (412 if byte >= b"\x80" else 400)
