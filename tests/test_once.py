"""A write with an Idempotency-Key is done once, however often it is sent."""

import asyncio
import secrets
import time
from typing import Any, NamedTuple, Unpack

import httpx2
import pytest

from conftest import (
    IDENTIFIERS_PATH,
    NATIVE_PATH,
    PROFILE_PATH,
    SDK_PATH,
    Server,
    Who,
    ask,
    error_code,
    make_profile,
    sources,
    stored,
)
from knownas import bootstrap
from knownas.writes import ANSWER_KEPT_MS

DATABASES = ("sqlite", "postgresql")

CLEAR = "/api/v1/profile/clear/"
CUSTOMER = "/api/v1/profile/customer/"
MERGE = "/api/v1/merge/"
UNDO = "/api/v1/merge/undo/"
BATCH = "/api/v1/batch/write/"
HISTORY = "/api/v1/profile/history/"


def once(
    server: Server, key: str, method: str, path: str, body: object = None, **who: Unpack[Who]
) -> httpx2.Response:
    """Send a request under an Idempotency-Key."""
    return ask(server, method, path, [("Idempotency-Key", key)], body, **who)


def new_key() -> str:
    """Return an Idempotency-Key that was not used before."""
    return secrets.token_hex(8)


def same(answer: httpx2.Response) -> tuple[int, object, object]:
    """Return what has to be the same of an answer that is given again."""
    body = answer.json() if answer.content else None
    if isinstance(body, dict) and "timestamp" in body.get("data", {}):
        del body["data"]["timestamp"]  # the time of each answer
    return answer.status_code, body, answer.headers.get("knownas-ignored")


def changes(server: Server) -> list[dict[str, Any]]:
    """Return the whole feed."""
    found: list[dict[str, Any]] = []
    cursor = ""
    while page := ask(server, "GET", f"/api/v1/changes/?limit=1000{cursor}").json():
        found += page["data"]
        cursor = f"&after={page['next']}"
        if not page["data"]:
            break
    return found


class Use(NamedTuple):
    """A write: how it is sent, and by whom; what is in braces is the profile's id."""

    method: str
    path: str
    body: Any
    by_profile: bool = False
    public: bool = False


ATTRIBUTES = {"custom_attributes": [{"key": "k", "value": "v"}], "email": "x"}
PAIR = {"survivor": {"customer_user_id": "{customer}"}, "source": {"customer_user_id": "{second}"}}
USES = {
    "set": Use("POST", IDENTIFIERS_PATH, {"branch_id": "set", "unknown": 1}),
    "sdk": Use("POST", SDK_PATH, {"data": {"profile_id": "{id}", "branch_id": "sdk"}}, public=True),
    "create": Use("POST", PROFILE_PATH, ATTRIBUTES),
    "update": Use("PATCH", PROFILE_PATH, ATTRIBUTES),
    "delete": Use("DELETE", PROFILE_PATH, None),
    "clear": Use("POST", CLEAR, {"kinds": ["branch_id"]}),
    "bind": Use("POST", CUSTOMER, {"customer_user_id": None}, by_profile=True),
    "merge": Use("POST", MERGE, {**PAIR, "default": "source"}),
    "undo": Use("POST", UNDO, {"source": "{merged}"}),
    "batch": Use(
        "POST",
        BATCH,
        {
            "items": [
                {"customer_user_id": "{customer}", "identifiers": {"branch_id": "batch"}},
                {"customer_user_id": "nobody", "clear": "all"},
                {"x": 1},
            ]
        },
    ),
    "atomic batch": Use(
        "POST",
        f"{BATCH}?atomic=true&create=true",
        {"items": [{"customer_user_id": "{customer}", "identifiers": {"branch_id": "batch"}}]},
    ),
}


class Person(NamedTuple):
    """A customer of the app, made for one test, with a second one, and one that was merged."""

    server: Server
    customer: str
    id: str
    merged: str

    def do(self, use: Use, key: str, **more: object) -> httpx2.Response:
        """Do what `use` says to this person."""
        texts = {
            "{id}": self.id,
            "{customer}": self.customer,
            "{second}": f"{self.customer}-2",
            "{merged}": self.merged,
        }

        def filled(part: Any) -> Any:  # noqa: ANN401 - any JSON
            if isinstance(part, dict):
                return {name: filled(it) for name, it in part.items()}
            if isinstance(part, list):
                return [filled(it) for it in part]
            return texts.get(part, part) if isinstance(part, str) else part

        server = self.server._replace(key=self.server.public_key) if use.public else self.server
        who = Who(profile=self.id) if use.by_profile else Who(customer=self.customer)
        body = filled(use.body)
        if more:
            body = {**(body or {}), **more}
        return once(server, key, use.method, use.path, body, **who)


@pytest.fixture
def person(server: Server) -> Person:
    """Give somebody with identifiers, who was merged with somebody else."""
    customer = f"person-{secrets.token_hex(4)}"
    made = make_profile(server, customer, branch_id=f"b-{customer}")
    make_profile(server, f"{customer}-2", branch_id=f"b2-{customer}", appsflyer_id="a")
    merged = make_profile(server, f"{customer}-3", adjust_device_id=f"d-{customer}")
    body = {
        "survivor": {"customer_user_id": customer},
        "source": {"customer_user_id": f"{customer}-3"},
    }
    assert ask(server, "POST", MERGE, body=body).status_code == 200
    return Person(server, customer, made["profile_id"], merged["profile_id"])


uses = pytest.mark.parametrize("use", USES.values(), ids=list(USES))


# --- Once -------------------------------------------------------------------------------------


@uses
def test_write_is_done_once_and_answered_each_time(
    person: Person, second: Server, use: Use
) -> None:
    """The second and third time nothing is changed, and the answer is that of the first time.

    It does not matter which server of the database is asked, nor what was written since.
    """
    key = new_key()
    first = person.do(use, key)
    assert first.is_success, first.text
    after_first = changes(person.server)
    again = person.do(use, key)
    assert same(again) == same(first)
    assert changes(person.server) == after_first
    # Whatever became of the profile since, the answer stays.
    attributes = {"custom_attributes": [{"key": "later", "value": 1}]}
    who = Who(customer=f"{person.customer}-2" if use is USES["merge"] else person.customer)
    assert ask(person.server, "POST", PROFILE_PATH, body=attributes, **who).is_success
    body = {"branch_id": "later", "appsflyer_id": "later"}
    assert ask(person.server, "POST", IDENTIFIERS_PATH, body=body, **who).is_success
    since = changes(person.server)
    elsewhere = person._replace(server=second)
    assert same(elsewhere.do(use, key)) == same(first)
    assert ask(person.server, "DELETE", PROFILE_PATH, **who).is_success
    assert same(person.do(use, key)) == same(first)
    assert changes(person.server)[: len(since)] == since
    assert len(changes(person.server)) == len(since) + 1


@uses
def test_key_serves_no_other_request(person: Person, use: Use) -> None:
    """Under a key that was used a request that differs in anything is a 422; nothing is done."""
    key = new_key()
    assert person.do(use, key).is_success
    before = changes(person.server)
    somebody = make_profile(person.server, f"{person.customer}-else")
    before += changes(person.server)[len(before) :]
    others = [
        once(
            person.server,
            key,
            "POST",
            IDENTIFIERS_PATH,
            {"branch_id": "x"},
            customer=person.customer,
        ),
        once(person.server, key, "POST", CLEAR, {"kinds": "all"}, customer=person.customer),
        once(person.server, key, "DELETE", PROFILE_PATH, profile=somebody["profile_id"]),
        once(
            person.server, key, "PATCH", PROFILE_PATH, {"custom_attributes": []}, profile=person.id
        ),
    ]
    for answer in others:
        assert error_code(answer) == (422, "idempotency_conflict")
        assert answer.json()["errors"][0]["source"] == "idempotency-key"
    assert changes(person.server) == before


@pytest.mark.parametrize(
    ("method", "path", "body", "other_body"),
    [
        ("POST", IDENTIFIERS_PATH, {"branch_id": "1"}, {"branch_id": "2"}),
        ("POST", IDENTIFIERS_PATH, {"branch_id": "1"}, {"branch_id": "1", "unknown": 1}),
        (
            "POST",
            IDENTIFIERS_PATH,
            {"branch_id": "1", "unknown": 2**70},
            {"branch_id": "1", "unknown": 2**70 + 1},
        ),
        ("PATCH", PROFILE_PATH, ATTRIBUTES, {**ATTRIBUTES, "email": "y"}),
        ("POST", CLEAR, {"kinds": ["branch_id"]}, {"kinds": "all"}),
        (
            "POST",
            BATCH,
            {"items": [{"customer_user_id": "x", "clear": "all"}]},
            {"items": [{"customer_user_id": "y", "clear": "all"}]},
        ),
    ],
)
def test_another_body_is_another_request(
    person: Person, method: str, path: str, body: object, other_body: object
) -> None:
    """The same path with the same key and another body is a 422; the same body is not."""
    key = new_key()
    first = once(person.server, key, method, path, body, customer=person.customer)
    assert first.is_success, first.text
    answer = once(person.server, key, method, path, other_body, customer=person.customer)
    assert error_code(answer) == (422, "idempotency_conflict")
    again = once(person.server, key, method, path, body, customer=person.customer)
    assert same(again) == same(first)


def test_spelling_makes_no_other_request(person: Person) -> None:
    """Blanks in the body, and the path without its last slash, are the same request."""
    key = new_key()
    first = once(person.server, key, "POST", CLEAR, b'{"kinds": "all"}', customer=person.customer)
    for path, body in ((CLEAR, b'{ "kinds" :"all"}\n'), (CLEAR[:-1], b'{"kinds":"all"}')):
        assert same(once(person.server, key, "POST", path, body, customer=person.customer)) == same(
            first
        )


def test_without_a_key_each_request_is_done(person: Person) -> None:
    """A blank Idempotency-Key counts as absent."""
    for number in range(2):
        body = {"branch_id": str(number)}
        answer = once(person.server, " ", "POST", IDENTIFIERS_PATH, body, customer=person.customer)
        assert answer.status_code == 200
    found = ask(person.server, "GET", IDENTIFIERS_PATH, customer=person.customer).json()
    assert found["branch_id"] == "1"


@pytest.mark.parametrize("key", ["x" * 256, "a b", "\u00e9".encode(), b"a\tb", "a\u00a0b".encode()])
@uses
def test_bad_key_is_named(person: Person, use: Use, key: str | bytes) -> None:
    """What is not 1 to 255 visible ASCII characters is a 400, and nothing is done."""
    before = changes(person.server)
    answer = person.do(use, key)  # type: ignore[arg-type] # a header may be of bytes
    assert error_code(answer) == (400, "validation_error")
    assert sources(answer) == ["idempotency-key"]
    assert changes(person.server) == before


def test_two_keys_in_one_request_are_refused(person: Person) -> None:
    """Two that differ are a 400; the same one twice is one."""
    headers = [("Idempotency-Key", new_key()), ("Idempotency-Key", new_key())]
    body = {"branch_id": "two"}
    answer = ask(person.server, "POST", IDENTIFIERS_PATH, headers, body, customer=person.customer)
    assert sources(answer) == ["idempotency-key"]
    answer = ask(
        person.server, "POST", IDENTIFIERS_PATH, headers[:1] * 2, body, customer=person.customer
    )
    assert answer.status_code == 200


@pytest.mark.parametrize("length", [1, 255])
def test_key_of_any_visible_characters_is_taken(person: Person, length: int) -> None:
    """Keys that look like code, or differ in case alone, are keys, each its own."""
    keys = ("~" * length, "'" * length, "A" * length, "a" * length, '"' * length)
    for number, key in enumerate(keys):
        body = {"branch_id": f"{length}-{number}"}
        for _ in range(2):
            answer = once(
                person.server, key, "POST", IDENTIFIERS_PATH, body, customer=person.customer
            )
            assert answer.status_code == 200
    found = ask(person.server, "GET", IDENTIFIERS_PATH, customer=person.customer).json()
    assert found["branch_id"] == f"{length}-{len(keys) - 1}"


# --- At once ----------------------------------------------------------------------------------


@pytest.mark.parametrize("use", [USES[it] for it in ("set", "create", "batch", "merge", "delete")])
def test_64_simultaneous_requests_are_done_once(person: Person, second: Server, use: Use) -> None:
    """Of 64 of one key, sent at once to two servers, one is done; all have the same answer."""
    key = new_key()
    before = len(changes(person.server))

    async def all_at_once() -> list[httpx2.Response]:
        people = [person, person._replace(server=second)]
        loop = asyncio.get_running_loop()
        return await asyncio.gather(
            *(loop.run_in_executor(None, people[n % 2].do, use, key) for n in range(64))
        )

    answers = asyncio.run(all_at_once())
    assert answers[0].is_success, answers[0].text
    assert [same(it) for it in answers] == [same(answers[0])] * 64
    assert len(changes(person.server)) == before + (2 if use is USES["merge"] else 1)


def test_of_simultaneous_requests_under_one_key_one_is_done(person: Person, second: Server) -> None:
    """32 that differ, at once under one key: one is done, the others are refused."""
    key = new_key()

    async def all_at_once() -> list[int]:
        async with httpx2.AsyncClient() as http:
            answers = await asyncio.gather(
                *(
                    http.post(
                        (person.server, second)[number % 2].url + IDENTIFIERS_PATH,
                        headers={
                            "Authorization": f"Api-Key {person.server.key}",
                            "adapty-customer-user-id": person.customer,
                            "Idempotency-Key": key,
                        },
                        json={"branch_id": f"differs-{number}"},
                    )
                    for number in range(32)
                )
            )
        return sorted(it.status_code for it in answers)

    assert asyncio.run(all_at_once()) == [200] + [422] * 31
    assert ask(person.server, "GET", HISTORY, customer=person.customer).json()["data"][0][
        "changes"
    ].keys() == {"identifiers"}


# --- What is kept -----------------------------------------------------------------------------


def test_error_is_not_kept(server: Server) -> None:
    """After an error the same request may be sent again under its key, and is then done."""
    key, customer = new_key(), f"late-{secrets.token_hex(4)}"
    body = {"branch_id": "late"}
    for _ in range(2):
        answer = once(server, key, "POST", IDENTIFIERS_PATH, body, customer=customer)
        assert error_code(answer) == (404, "profile_not_found")
    make_profile(server, customer)
    assert once(server, key, "POST", IDENTIFIERS_PATH, body, customer=customer).status_code == 200
    # And also under another body, since none was done.
    failed = new_key()
    assert once(server, failed, "POST", CLEAR, {"kinds": []}, customer=customer).status_code == 400
    answer = once(server, failed, "POST", CLEAR, {"kinds": "all"}, customer=customer)
    assert answer.status_code == 200


def test_dry_run_uses_no_key_up(person: Person) -> None:
    """A merge that was tried dry is done under the same key."""
    key = new_key()
    dry = person.do(USES["merge"], key, dry_run=True).json()["data"]
    wet = person.do(USES["merge"], key).json()["data"]
    assert (dry["dry_run"], wet["dry_run"]) == (True, False)
    assert wet["conflicts"] == dry["conflicts"]
    assert person.do(USES["merge"], key).json()["data"] == wet


def test_answer_is_kept_for_a_day(database: str, person: Person) -> None:
    """It is there for at least 24 hours, and then the key is as new."""
    assert ANSWER_KEPT_MS >= 24 * 3_600_000
    key = new_key()
    who = Who(customer=person.customer)
    assert once(person.server, key, "POST", IDENTIFIERS_PATH, {"branch_id": "1"}, **who).is_success

    async def prune(in_ms: int) -> None:
        storage = bootstrap.open_storage(database)
        await storage.prune(now=time.time_ns() // 1_000_000 + in_ms, before=0, limit=1)
        await storage.close()

    body = {"branch_id": "2"}
    asyncio.run(prune(ANSWER_KEPT_MS - 60_000))
    answer = once(person.server, key, "POST", IDENTIFIERS_PATH, body, **who)
    assert error_code(answer) == (422, "idempotency_conflict")
    asyncio.run(prune(ANSWER_KEPT_MS + 60_000))
    assert once(person.server, key, "POST", IDENTIFIERS_PATH, body, **who).status_code == 200


def test_answer_is_given_where_the_history_is_gone(database: str, person: Person) -> None:
    """A repeated request is then answered the profile as it is, and still not done again."""
    key = new_key()
    first = person.do(USES["clear"], key)
    assert ask(
        person.server, "POST", IDENTIFIERS_PATH, body={"branch_id": "now"}, customer=person.customer
    ).is_success

    async def forget() -> None:
        storage = bootstrap.open_storage(database)
        now = time.time_ns() // 1_000_000
        while await storage.prune(now=now, before=now + 1, limit=1_000):
            pass
        await storage.close()

    asyncio.run(forget())
    again = person.do(USES["clear"], key)
    assert again.status_code == first.status_code == 200
    assert again.json() == ask(person.server, "GET", NATIVE_PATH, customer=person.customer).json()


def test_nothing_of_a_person_is_kept_for_a_key(server: Server) -> None:
    """What is kept to answer again has ids and revisions: no value, no customer, no attribute."""
    canary = f"canary-{secrets.token_hex(8)}"
    make_profile(server, canary)
    key = new_key()
    body = {
        "items": [
            {"customer_user_id": canary, "identifiers": {"branch_id": canary}},
            {"customer_user_id": canary, "identifiers": {"brunch_id": canary}},
        ]
    }
    assert once(server, key, "POST", BATCH, body).is_success

    async def kept() -> str:
        storage = bootstrap.open_storage(server.database)
        found: list[str] = []
        for app in await storage.apps():
            answer = await storage.edit(app.id, lambda edit: edit.answer(key), now=0)
            found += [] if answer is None else [answer.answer]
        await storage.close()
        (only,) = found
        return only

    assert canary.encode() in stored(server.database)  # else the search would prove nothing
    assert canary not in asyncio.run(kept())


def test_row_05_a_key_of_one_app_is_none_of_another(server: Server, other: Server) -> None:
    """Two apps may use one Idempotency-Key, each for its own request."""
    key, customer = new_key(), f"app-{secrets.token_hex(4)}"
    for app in (server, other):
        make_profile(app, customer)
        body = {"branch_id": app.key[-8:]}
        assert once(app, key, "POST", IDENTIFIERS_PATH, body, customer=customer).status_code == 200
    for app in (server, other):
        found = ask(app, "GET", IDENTIFIERS_PATH, customer=customer).json()
        assert found["branch_id"] == app.key[-8:]
