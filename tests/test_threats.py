"""What the server withstands: the rows of the threat table, each by name, over plain HTTP.

Rows that stand elsewhere, because they need more than a request, or belong to more than a row:

    2        test_headers.py     doubles of a header
    3        test_errors.py      key guessing
    4        test_keys.py        what a look-up costs; the timings themselves are in bench/
    12, 41   test_headers.py     media types and content encodings
    21, 22   console/test_threats.py
    23       test_export.py      formulas in spreadsheets
    25       test_outbound.py    where webhooks may go; addresses: test_webhook_addresses.py
    26       test_webhook_signatures.py
    28, 29   test_errors.py      logs, metrics and the database file
    30       test_import.py      bombs, broken rows, the wrong encoding
    34, 40   test_processes.py   kill -9, and reads after writes
    36       test_keys.py        the clock
    37       storage/test_contract.py

Rows 5, 7 and 24 stand in `storage/test_contract.py` too, for the storage alone.
"""

import asyncio
import re
import uuid
from collections.abc import Iterator

import pytest

from conftest import (
    IDENTIFIERS_PATH,
    INJECTIONS,
    LOOKALIKES,
    PROFILE_PATH,
    SDK_PATH,
    Server,
    Who,
    ask,
    error_code,
    exchange,
    knownas,
    raw_request,
    sealed,
    sources,
)
from knownas import bootstrap
from knownas.http.app import ROUTES
from knownas.model import KINDS
from knownas.registry import Registry

DATABASES = ("sqlite", "postgresql")

ID, ABSENT_ID = (f"0000000{digit}-aaaa-4bbb-8ccc-000000000000" for digit in "19")
SDK_BODY = {"data": {"profile_id": ID, "branch_id": "changed"}}
ATTRIBUTES = {"custom_attributes": [{"key": "k", "value": "changed"}]}
USES: list[tuple[str, str, object]] = [
    ("GET", IDENTIFIERS_PATH, None),
    ("POST", IDENTIFIERS_PATH, {"branch_id": "changed"}),
    ("GET", PROFILE_PATH, None),
    ("PATCH", PROFILE_PATH, ATTRIBUTES),
    ("DELETE", PROFILE_PATH, None),
]
TAKE_A_BODY = [
    ("POST", IDENTIFIERS_PATH),
    ("POST", SDK_PATH),
    ("POST", PROFILE_PATH),
    ("PATCH", PROFILE_PATH),
]
of_each_body = pytest.mark.parametrize(("method", "path"), TAKE_A_BODY)
UNAUTHORIZED = (
    b'{"errors":[{"source":null,"errors":["Invalid API key"]}],'
    b'"error_code":"unauthorized","status_code":401}'
)
CONTROLS = [chr(code) for code in (*range(0x20), *range(0x7F, 0xA0))]


@pytest.fixture(scope="module")
def known(server: Server) -> Server:
    """Give the server with the customer c, who has an identifier and an attribute."""
    attributes = {"custom_attributes": [{"key": "k", "value": "kept"}]}
    who = Who(customer="c", profile=ID)
    assert ask(server, "POST", PROFILE_PATH, body=attributes, **who).status_code == 200
    kept = {"branch_id": "kept"}
    assert ask(server, "POST", IDENTIFIERS_PATH, body=kept, **who).status_code == 200
    return server


@pytest.fixture
def unchanged(known: Server) -> Iterator[Server]:
    """Give the server, and check afterwards that the customer c is as before."""

    def state() -> tuple[str, object]:
        profile = ask(known, "GET", PROFILE_PATH, customer="c").json()["data"]
        return ask(known, "GET", IDENTIFIERS_PATH, customer="c").text, profile["custom_attributes"]

    before = state()
    assert "kept" in before[0]
    yield known
    assert state() == before


# --- Keys ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ended_keys(server: Server) -> dict[str, str]:
    """Give keys that were good once: a revoked and an expired one, and one of a deleted app."""

    async def end() -> dict[str, str]:
        registry = Registry(bootstrap.open_storage(server.database))
        app, deleted = await registry.app("default"), await registry.create_app("deleted")
        revoked, its_key = await registry.keyring.create(app, "secret")
        await registry.keyring.revoke(app.id, its_key.id)
        expired, _ = await registry.keyring.create(app, "secret", expires_at=1)
        of_deleted, _ = await registry.keyring.create(deleted, "secret")
        await registry.delete_app(deleted.id)
        await registry.close()
        return {"revoked": revoked, "expired": expired, "of a deleted app": of_deleted}

    return asyncio.run(end())


def test_row_01_bad_keys_get_the_same_bytes(unchanged: Server, ended_keys: dict[str, str]) -> None:
    """However a key is bad, every use of every path answers the same 401."""
    mistyped = unchanged.key[:-1] + ("0" if unchanged.key[-1] != "0" else "1")
    authorizations = [
        None,
        "",
        "Api-Key",
        f"Bearer {unchanged.key}",
        "Api-Key unknown",
        f"Api-Key {sealed('secret_live_ka_' + 'x' * 30)}",
        f"Api-Key {mistyped}",
        *(f"Api-Key {key}" for key in ended_keys.values()),
    ]
    nobody = unchanged._replace(key="")
    for authorization in authorizations:
        headers = [] if authorization is None else [("Authorization", authorization)]
        for method, path, body in [
            *USES,
            ("POST", PROFILE_PATH, ATTRIBUTES),
            ("POST", SDK_PATH, SDK_BODY),
        ]:
            answer = ask(nobody, method, path, headers, body, customer="c")
            assert (answer.status_code, answer.content) == (401, UNAUTHORIZED), (
                authorization,
                method,
                path,
            )


def test_row_04_near_miss_is_answered_as_any_unknown_key(unchanged: Server) -> None:
    """A key of valid form that differs from a stored one in one character gets no other bytes."""
    body = unchanged.key[:-6]
    near_miss = sealed(body[:-1] + ("0" if body[-1] != "0" else "1"))
    assert sealed(body) == unchanged.key
    answers = [
        ask(unchanged._replace(key=key), "GET", IDENTIFIERS_PATH, customer="c")
        for key in (near_miss, sealed("secret_live_ka_" + "y" * 30))
    ]
    assert answers[0].status_code == answers[1].status_code == 401
    assert answers[0].content == answers[1].content


@pytest.mark.parametrize(("method", "path", "body"), [*USES, ("POST", SDK_PATH, SDK_BODY)])
def test_row_05_another_apps_profile_is_absent(
    unchanged: Server, other: Server, method: str, path: str, body: object
) -> None:
    """Through another app's key every use answers the bytes of a profile that nobody has."""
    public = other._replace(key=other.public_key)
    by_name: list[Who] = [{"customer": "c"}, {"profile": ID}, {"customer": "c", "profile": ID}]
    for caller in [other, public] if path == SDK_PATH else [other]:
        absent = {"data": {"profile_id": ABSENT_ID, "branch_id": "changed"}}
        of_nobody = absent if path == SDK_PATH else body
        expected = ask(caller, method, path, body=of_nobody, profile=ABSENT_ID)
        assert error_code(expected) == (404, "profile_not_found")
        for who in by_name:
            answer = ask(caller, method, path, body=body, **who)
            assert (answer.status_code, answer.content) == (404, expected.content)
            assert set(answer.headers) == set(expected.headers)
    assert ask(unchanged, "GET", PROFILE_PATH, customer="c", profile=ID).status_code == 200


# --- The request's bytes ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        (b": c\r\n", b": c\x00\r\n"),
        (b": c\r\n", b": \x00c\r\n"),
        (b": c\r\n", b": c\rx\r\n"),
        (b": c\r\n", b": c\r\r\n"),
        (b": c\r\n", b": c\nx\r\n"),
        (b": c\r\n", b": c\n"),
        (b": c\r\n", b": c\nX-Smuggled: x\r\n"),
        (b": c\r\n", b":\r\n c\r\n"),
        (b": c\r\n", b": c\r\n\tfolded\r\n"),
        (b"-id: c", b"-id\x00: c"),
        (b"-id: c", b"-id\r: c"),
        (b"-id: c", b"-id : c"),
        (b"-id: c", b"-id c"),
        (b" HTTP/1.1", b"\x00 HTTP/1.1"),
        (b" HTTP/1.1", b"?\r HTTP/1.1"),
        (b" HTTP/1.1", b" x HTTP/1.1"),
        (b" HTTP/1.1\r\n", b" HTTP/1.1\n"),
        (b"\r\n", b"\n"),
        (b"\r\n\r\n", b"\r\n\n"),
    ],
)
def test_row_06_broken_lines_are_refused(unchanged: Server, good: bytes, bad: bytes) -> None:
    """NUL, CR, LF and folded headers are a 400; the request is served without them."""
    request = raw_request(unchanged, "GET", IDENTIFIERS_PATH, customer="c")
    assert good in request
    assert exchange(unchanged, request).status_code == 200
    assert exchange(unchanged, request.replace(good, bad)).status_code == 400


@pytest.mark.parametrize("path", [IDENTIFIERS_PATH, SDK_PATH, PROFILE_PATH])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PATCH", "PUT"])
@pytest.mark.parametrize("has_key", [True, False])
def test_row_13_last_slash_is_optional(
    unchanged: Server, path: str, method: str, *, has_key: bool
) -> None:
    """Without its last slash a path answers the same, and never redirects."""
    caller = unchanged if has_key else unchanged._replace(key="")
    kept = {"branch_id": "kept"}
    answers = [
        ask(
            caller,
            method,
            spelling,
            [("X-Request-Id", "mine")],
            {**kept, "data": {"profile_id": ID, **kept}},
            customer="c",
        )
        for spelling in (path, path.rstrip("/"))
    ]
    for answer in answers:
        del answer.headers["date"]
    with_it, without = answers
    assert not with_it.is_redirect
    assert (without.status_code, without.headers) == (with_it.status_code, with_it.headers)
    assert without_time(without.content) == without_time(with_it.content)


def without_time(content: bytes) -> bytes:
    """Return a profile's body without the time of the answer."""
    return re.sub(rb'"timestamp":\d+', b"", content)


@pytest.mark.parametrize("path", [resource.path for resource in ROUTES])
def test_row_14_other_spellings_are_other_paths(known: Server, path: str) -> None:
    """Encoded, doubled and dotted slashes, another case, and more or fewer parts: 404."""
    spellings = [
        f"/{path}",
        f"{path}/" if path.endswith("/") else f"{path}//",
        f"/.{path}",
        f"/x/..{path}",
        f"/%2e%2e{path}",
        f"/%2f{path[1:]}",
        f"/%{ord(path[1]):02x}{path[2:]}",
        f"/api{path}",
        path.upper(),
        # A letter less may be the singular, which is served, and what is a name may be any.
        "/" if path.endswith("}/") else path.rstrip("/")[:-2],
        *(f"{path}{end}" for end in ("x", ";", "%00", "%20", "%2f", "./", "../")),
    ]
    for spelling in spellings:
        answer = ask(known, "GET", spelling, customer="c")
        is_import = re.fullmatch(r"/api/v1/imports/[^/]+/?", spelling)
        code = "import_not_found" if is_import else "not_found"
        assert error_code(answer) == (404, code), spelling


# --- Texts --------------------------------------------------------------------------------------


def test_row_07_customers_that_look_alike_are_distinct(server: Server) -> None:
    """Each has a profile of its own, and id and identifiers come back byte for byte."""
    profiles = set()
    for text in LOOKALIKES:
        assert ask(server, "GET", PROFILE_PATH, customer=text).status_code == 404
        made = ask(server, "POST", PROFILE_PATH, customer=text).json()["data"]
        profiles.add(made["profile_id"])
        body = {"branch_id": f"-{text}-"}
        assert ask(server, "POST", IDENTIFIERS_PATH, body=body, customer=text).status_code == 200
    assert len(profiles) == len(LOOKALIKES)
    for text in LOOKALIKES:
        found = ask(server, "GET", PROFILE_PATH, customer=text).json()["data"]
        assert found["customer_user_id"] == text
        identifiers = ask(server, "GET", IDENTIFIERS_PATH, customer=text)
        assert f'"branch_id":"-{text}-"'.encode() in identifiers.content


@pytest.mark.parametrize("kind", [kind.name for kind in KINDS])
def test_row_08_identifier_has_at_most_255_characters(server: Server, kind: str) -> None:
    """255 characters of any size are kept, one more is refused and changes nothing."""
    customer = f"row-8-{kind}"
    assert ask(server, "POST", PROFILE_PATH, customer=customer).status_code == 200
    for character in ("x", "\U0001f600"):
        kept, too_long = character * 255, character * 256
        body = {kind: f" \t\n{kept} "}
        assert ask(server, "POST", IDENTIFIERS_PATH, body=body, customer=customer).is_success
        refused = ask(server, "POST", IDENTIFIERS_PATH, body={kind: too_long}, customer=customer)
        assert sources(refused) == [kind]
        found = ask(server, "GET", IDENTIFIERS_PATH, customer=customer).json()
        assert found[kind] == kept


@pytest.mark.parametrize("control", CONTROLS, ids=ascii)
def test_row_08_control_characters_are_refused(unchanged: Server, control: str) -> None:
    """In an identifier, an attribute or a customer id a control character is a 400."""
    text = f"a{control}b"
    body = {"branch_id": text, "appsflyer_id": "x"}
    assert sources(ask(unchanged, "POST", IDENTIFIERS_PATH, body=body, customer="c")) == [
        "branch_id"
    ]
    attribute = {"custom_attributes": [{"key": "k", "value": text}]}
    answer = ask(unchanged, "PATCH", PROFILE_PATH, body=attribute, customer="c")
    assert sources(answer) == ["custom_attributes[0]"]
    for method in ("GET", "POST"):
        assert ask(unchanged, method, PROFILE_PATH, customer=text).status_code == 400


@pytest.mark.parametrize(
    "text", [b"\\ud800", b"\\udfff", b"\\ude00\\ud83d", b"x\\ud83dx", b"\xed\xa0\x80", b"\xff"]
)
def test_row_08_lone_surrogates_are_refused(unchanged: Server, text: bytes) -> None:
    """What is no text in UTF-8 is a 400, whether it is a value, a key or of an unknown key."""
    for body in (b'{"branch_id":"%s"}', b'{"branch_id":"x","%s":1}', b'{"branch_id":"x","z":"%s"}'):
        answer = ask(unchanged, "POST", IDENTIFIERS_PATH, body=body % text, customer="c")
        assert error_code(answer) == (400, "parse_error")


def test_row_24_sql_is_stored_and_served_as_text(server: Server) -> None:
    """As customer, identifier, attribute or query, SQL is a text like any other."""
    for text in INJECTIONS:
        who = Who(customer=text)
        value = {"custom_attributes": [{"key": "k", "value": text}]}
        assert ask(server, "GET", IDENTIFIERS_PATH, **who).status_code == 404
        assert ask(server, "POST", PROFILE_PATH, body=value, **who).status_code == 200
        body = dict.fromkeys((kind.name for kind in KINDS), text)
        assert ask(server, "POST", IDENTIFIERS_PATH, body=body, **who).status_code == 200
    for text in INJECTIONS:
        who = Who(customer=text)
        data = ask(server, "GET", PROFILE_PATH, **who).json()["data"]
        assert data["customer_user_id"] == text
        assert data["custom_attributes"] == [{"key": "k", "value": text}]
        assert set(ask(server, "GET", IDENTIFIERS_PATH, **who).json().values()) == {text}
        bad_id = Who(customer="c", profile=text)
        assert sources(ask(server, "GET", PROFILE_PATH, **bad_id)) == ["adapty-profile-id"]
        assert ask(server, "DELETE", PROFILE_PATH, **who).status_code == 204
    assert knownas("check", database=server.database) == "All is well.\n"


# --- Bodies -------------------------------------------------------------------------------------


@of_each_body
@pytest.mark.parametrize(
    "body",
    [
        *(b"{", b'{"a"', b'{"a":1', b"}", b'{"a":1]', b'{"a":1,}', b'{"a" 1}', b"{a:1}", b" "),
        *(b"{'a':1}", b'{"a":1}//', b'{"a":01}', b'{"a":1.}', b'{"a":+1}', b'{"a":0x1}'),
        *(b'{"a":NaN}', b'{"a":Infinity}', b'{"a":-Infinity}', b'{"a":1e999}', b'{"a":undefined}'),
        *(b'{"a":1}x', b'{"a":1}{}', b'{"a":1}\x00', b'\xef\xbb\xbf{"a":1}', b'{"a":"\n"}'),
        *(b'{"a":"\xff"}', b'{"\xc0\xaf":1}', b'{"a":"\xed\xa0\x80"}', b'{"a":"\\x41"}', b"nul"),
        *('{"a":1}'.encode(coding) for coding in ("utf-16", "utf-16-le", "utf-32", "utf-32-be")),
        *(b'{"a":1,"a":1}', b'{"a":1,"\\u0061":2}', b'{"z":{"a":1,"a":2}}', b'{"z":[{"":1,"":2}]}'),
        b'{"a":' + b"9" * 5_000 + b"}",
        b'{"a":-' + b"9" * 5_000 + b"}",
        b'{"a":' + b"[" * 32 + b"]" * 32 + b"}",
        b'{"a":' * 33 + b"1" + b"}" * 33,
        b"[" * 33 + b"]" * 33,
        b'[{"a":' * 10_000,
        b"[" * 65_536,
    ],
    ids=lambda body: f"{body[:20]!r}-{len(body)}",
)
def test_row_10_what_is_no_json_is_refused(
    unchanged: Server, method: str, path: str, body: bytes
) -> None:
    """Whatever lenient parsers let through is a 400, never a 500, and stores nothing."""
    answer = ask(unchanged, method, path, [("adapty-sdk-profile-id", ID)], body, customer="c")
    assert error_code(answer) == (400, "parse_error")


@pytest.mark.parametrize("depth", [31, 32])
def test_row_10_nesting_of_32_is_taken(known: Server, depth: int) -> None:
    """An unknown key may hold anything that is nested no deeper."""
    nested: object = []
    for _ in range(depth - 2):
        nested = [nested]
    body = {"branch_id": "kept", "z": nested}
    assert ask(known, "POST", IDENTIFIERS_PATH, body=body, customer="c").status_code == 200


def test_row_10_no_depth_is_too_deep_for_an_answer(unchanged: Server) -> None:
    """At no depth does one parser give up where another did not: always 400, with twins too."""
    for depth in (*range(33, 64), *range(850, 1_050), 5_000, 30_000):
        nested = b"[" * depth + b"]" * depth
        for body in (b'{"a":%s}', b'{"a":%s,"a":1}', b'{"a":{"b":%s},"c":"\\u0041"}'):
            answer = ask(unchanged, "POST", IDENTIFIERS_PATH, body=body % nested, customer="c")
            assert error_code(answer) == (400, "parse_error"), depth


@of_each_body
@pytest.mark.parametrize("body", [b"[]", b"null", b"true", b"1", b'"x"', b"[{}]", b"1.5e3"])
def test_row_11_what_is_no_object_is_refused(
    unchanged: Server, method: str, path: str, body: bytes
) -> None:
    """JSON that is no object is a 400."""
    answer = ask(unchanged, method, path, [("adapty-sdk-profile-id", ID)], body, customer="c")
    assert error_code(answer) == (400, "validation_error")


@pytest.mark.parametrize("on_sdk_path", [False, True])
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, [None]),
        (dict.fromkeys(kind.name for kind in KINDS), [None]),
        *(({kind.name: 1, "adjust_device_id": "x"}, [kind.name]) for kind in KINDS[:3]),
        *(({"branch_id": value}, ["branch_id"]) for value in (True, False, 0, 1.5, "", " \n\t")),
        *(({"branch_id": value}, ["branch_id"]) for value in ([], ["x"], {}, {"x": "y"})),
        (
            {"branch_id": [], "appsflyer_id": "x", "pushwoosh_hwid": 1},
            ["branch_id", "pushwoosh_hwid"],
        ),
        ({"app_id": "x"}, ["app_id"]),
        ({"customer_user_id": "x"}, ["customer_user_id"]),
        ({"Branch_Id": "x", "branch_id ": "x"}, ["Branch_Id", "branch_id "]),
        ({"z": None, "y": {}, "": 1}, ["z", "y", ""]),
    ],
)
def test_row_11_bad_fields_are_named_and_nothing_is_stored(
    unchanged: Server, body: dict[str, object], expected: list[str | None], *, on_sdk_path: bool
) -> None:
    """One entry a bad field; of a body with a bad field nothing is stored."""
    path = SDK_PATH if on_sdk_path else IDENTIFIERS_PATH
    sent = {"data": {"profile_id": ID, **body}} if on_sdk_path else body
    assert sources(ask(unchanged, "POST", path, body=sent, customer="c")) == expected


def test_row_11_ids_in_the_body_assign_nothing(unchanged: Server) -> None:
    """Beside a known key an id is an unknown key like any other: named, and of no effect."""
    somebody = str(uuid.uuid4())
    body = {
        "profile_id": somebody,
        "customer_user_id": "z",
        "app_id": somebody,
        "branch_id": "kept",
    }
    answer = ask(unchanged, "POST", IDENTIFIERS_PATH, body=body, customer="c")
    assert answer.headers["knownas-ignored"] == "profile_id, customer_user_id, app_id"
    for who in (Who(profile=somebody), Who(customer="z")):
        assert ask(unchanged, "GET", PROFILE_PATH, **who).status_code == 404
    assert ask(unchanged, "GET", PROFILE_PATH, customer="c", profile=ID).status_code == 200


# --- Unknown keys -------------------------------------------------------------------------------

GOOD_NAMES = [f"name-{number}" for number in range(12)]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["azAZ09_.-"], "azAZ09_.-"),
        (["x" * 64], "x" * 64),
        (["x" * 65], "+1"),
        (["", " ", "a b", "a,b", "a:b", "\u00e9", "\uff41", '"', "<b>"], "+9"),
        (["x\r\nSet-Cookie: a=b", "x\ny", "x\x00y", "\r\n\r\n", "x\ny: z"], "+5"),
        (["a", "b\r\n", "c"], "a, c, +1"),
        (GOOD_NAMES[:10], ", ".join(GOOD_NAMES[:10])),
        (GOOD_NAMES, ", ".join([*GOOD_NAMES[:10], "+2"])),
        (["\n", *GOOD_NAMES], ", ".join([*GOOD_NAMES[:10], "+3"])),
        (
            [f"k{number}" for number in range(3_000)],
            ", ".join([*(f"k{n}" for n in range(10)), "+2990"]),
        ),
    ],
    ids=lambda value: f"{ascii(value)[:20]}-{len(value)}",
)
def test_row_41_unknown_keys_are_named_safely(
    unchanged: Server, names: list[str], expected: str
) -> None:
    """At most ten plain names stand in one header, the rest is a number; nothing is injected."""
    plain = ask(unchanged, "POST", IDENTIFIERS_PATH, body={"branch_id": "kept"}, customer="c")
    before = ignored_count(unchanged)
    body = {"branch_id": "kept", **{name: [{}] for name in names}}
    answer = ask(unchanged, "POST", IDENTIFIERS_PATH, body=body, customer="c")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers.get_list("knownas-ignored") == [expected]
    assert set(answer.headers) - set(plain.headers) == {"knownas-ignored"}
    assert ignored_count(unchanged) == before + len(names)


def ignored_count(server: Server) -> float:
    """Return the counter of unknown keys, which has no label."""
    headers = [("Authorization", "Bearer metrics-token")]
    text = ask(server._replace(key=""), "GET", "/metrics", headers).text
    (count,) = re.findall(r"^knownas_ignored_keys_total (\S+)$", text, re.MULTILINE)
    return float(count)


@pytest.mark.parametrize(
    "name", ["x\r\nSet-Cookie: a=b", "\x00", "\u00e9", '"', "\u2028", "x" * 60_000]
)
def test_row_41_odd_unknown_key_alone_is_a_400(unchanged: Server, name: str) -> None:
    """The error names the key as it was sent, in JSON, and in no header."""
    answer = ask(unchanged, "POST", IDENTIFIERS_PATH, body={name: 1}, customer="c")
    assert sources(answer) == [name]
    assert not {"knownas-ignored", "set-cookie"} & set(answer.headers)
