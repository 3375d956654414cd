"""Headers: request ids, doubles, who and with what key, media types, HEAD, and what comes first.

The wire contract, sections 1, 2 and 4, and threat rows 2, 12 and, for Content-Encoding, 41. What
a parser does not let through is in `test_threats.py`, rows 6 and 8.
"""

import re

import httpx2
import pytest

from conftest import (
    IDENTIFIERS_PATH,
    PROFILE_PATH,
    SDK_PATH,
    RawHeaders,
    Server,
    Who,
    ask,
    error_code,
    exchange,
    raw_request,
    sources,
)

DATABASES = ("sqlite", "postgresql")

CUSTOMER, PROFILE, SDK_PROFILE = (
    "adapty-customer-user-id",
    "adapty-profile-id",
    "adapty-sdk-profile-id",
)
ID, OTHER_ID = (f"0000000{digit}-aaaa-4bbb-8ccc-000000000000" for digit in "12")
JSON, FORM = "application/json", "application/x-www-form-urlencoded"
TOO_LARGE = b"x" * (64 * 1024 + 1)
NEW_ID = re.compile("[0-9a-f]{32}")


@pytest.fixture(scope="module")
def known(server: Server) -> Server:
    """Give the server with one profile."""
    assert ask(server, "POST", PROFILE_PATH, customer="c", profile=ID).status_code == 200
    return server


def without_key(server: Server) -> Server:
    """Return the server as one asks it without a key."""
    return server._replace(key="")


# --- Request-Id ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([("X-Request-Id", "x")], "x"),
        ([("Request-Id", "r")], "r"),
        ([("X-Request-Id", "x"), ("Request-Id", "r")], "x"),
        ([("Request-Id", "r"), ("X-Request-Id", "x")], "x"),
        ([("X-Request-Id", "x y"), ("Request-Id", "r")], "r"),
        ([("X-REQUEST-ID", "AZaz09._:-")], "AZaz09._:-"),
        ([("X-Request-Id", "x" * 128)], "x" * 128),
        ([("X-Request-Id", "  padded\t")], "padded"),
    ],
)
def test_own_request_id_is_used(known: Server, headers: RawHeaders, expected: str) -> None:
    """A usable id of the request's own names it; X-Request-Id wins."""
    for path, status in ((PROFILE_PATH, 200), ("/nowhere", 404)):
        answer = ask(known, "GET", path, headers, customer="c")
        found = answer.headers.get_list("request-id")
        assert (answer.status_code, found) == (status, [expected])


@pytest.mark.parametrize(
    "unusable", ["", "x" * 129, "x y", "x/y", "x,y", "\u00e9", "x\ty", "x;y", '"x"', "{x}"]
)
def test_unusable_request_id_is_replaced(known: Server, unusable: str) -> None:
    """Whatever else is sent as an id, the answer's own is 32 hex digits, each time others."""
    headers = [("X-Request-Id", unusable), ("Request-Id", unusable)]
    ids = [
        answer.headers["request-id"]
        for answer in (
            ask(known, "GET", PROFILE_PATH, headers, customer="c"),
            ask(known, "GET", PROFILE_PATH, customer="c"),
        )
    ]
    assert all(NEW_ID.fullmatch(one) for one in ids)
    assert ids[0] != ids[1]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", PROFILE_PATH, None, 200),
        ("HEAD", PROFILE_PATH, None, 200),
        ("POST", IDENTIFIERS_PATH, {"branch_id": "b"}, 200),
        ("POST", IDENTIFIERS_PATH, b"", 400),
        ("POST", IDENTIFIERS_PATH, TOO_LARGE, 413),
        ("PUT", PROFILE_PATH, None, 405),
        ("GET", "/nowhere", None, 404),
        ("GET", "/healthz", None, 200),
        ("GET", "/metrics", None, 401),
        ("DELETE", PROFILE_PATH, None, 404),
    ],
)
def test_every_answer_has_one_request_id(
    known: Server, method: str, path: str, body: object, status: int
) -> None:
    """Whatever is answered on whatever path, the id stands in it once."""
    who: Who = {"customer": "nobody" if method == "DELETE" else "c"}
    answer = ask(known, method, path, [("X-Request-Id", "mine")], body, **who)
    assert (answer.status_code, answer.headers.get_list("request-id")) == (status, ["mine"])


# --- Doubles ------------------------------------------------------------------------------------

SAME = [
    [(CUSTOMER, "c"), (CUSTOMER, "c")],
    [(CUSTOMER, "c"), (CUSTOMER, "  c\t"), (CUSTOMER.upper(), "c")],
    [(CUSTOMER, "c"), (CUSTOMER, "")],
    [(CUSTOMER, " "), (CUSTOMER, "c")],
    [(PROFILE, ID), (PROFILE, ID)],
    [(CUSTOMER, "c"), ("Content-Type", JSON), ("Content-Type", JSON)],
    [(CUSTOMER, "c"), ("Accept", "a/b"), ("Accept", "c/d"), ("Cookie", "a=b"), ("Cookie", "c=d")],
    [(CUSTOMER, "c"), ("User-Agent", "a"), ("User-Agent", "b"), ("X-Any", "1"), ("X-Any", "2")],
]


@pytest.mark.parametrize("headers", SAME)
def test_row_02_header_twice_with_one_value_is_served(known: Server, headers: RawHeaders) -> None:
    """Doubles that agree, and doubles of what this server does not read, are no matter."""
    assert ask(known, "GET", IDENTIFIERS_PATH, headers).status_code == 200
    assert ask(known, "POST", IDENTIFIERS_PATH, headers, b'{"branch_id":"b"}').status_code == 200


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("path", [IDENTIFIERS_PATH, PROFILE_PATH])
@pytest.mark.parametrize(
    ("name", "values"),
    [
        (CUSTOMER, ["c", "d"]),
        (CUSTOMER, ["c", "C"]),
        (CUSTOMER, ["c", "d", "c"]),
        (PROFILE, [ID, OTHER_ID]),
        (PROFILE, [ID, "x"]),
        (SDK_PROFILE, [ID, OTHER_ID]),
        ("Content-Type", [JSON, "text/plain"]),
        ("Content-Type", [JSON, f"{JSON}; charset=utf-8"]),
    ],
)
def test_row_02_header_twice_with_two_values_is_refused(
    known: Server, method: str, path: str, name: str, values: list[str]
) -> None:
    """Of two values of a header that decides something neither is picked."""
    headers = [(name, value) for value in values]
    who: Who = {} if name in {CUSTOMER, PROFILE} else {"customer": "c"}
    answer = ask(known, method, path, headers, b'{"branch_id":"b"}', **who)
    assert error_code(answer) == (400, "validation_error")
    assert sources(answer) == [name.lower()]


@pytest.mark.parametrize("second", ["same", "Api-Key other", "Bearer x", ""])
def test_row_02_two_authorizations_are_none(known: Server, second: str) -> None:
    """Whatever the second is, and wherever it stands, the answer is that to no key."""
    good = f"Api-Key {known.key}"
    for values in ([good, second], [second, good]):
        headers = [("Authorization", good if value == "same" else value) for value in values]
        answer = ask(without_key(known), "GET", PROFILE_PATH, headers, customer="c")
        assert answer.status_code == 401
        assert answer.content == ask(without_key(known), "GET", PROFILE_PATH).content


# --- The key ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form",
    ["Api-Key {}", "api-key {}", "API-KEY {}", "aPI-kEY {}", "Api-Key    {}", " Api-Key {} \t"],
)
def test_form_of_the_key_header(known: Server, form: str) -> None:
    """The scheme is compared without case; one or more spaces follow it."""
    headers = [("AUTHORIZATION", form.format(known.key))]
    assert ask(without_key(known), "GET", PROFILE_PATH, headers, customer="c").status_code == 200


@pytest.mark.parametrize(
    "form",
    [
        *("{}", "Api-Key", "Api-Key ", "Api-Key{}", "Api-Key:{}", "Api-Key={}", "ApiKey {}"),
        *("Bearer {}", "Basic {}", "Token {}", 'Api-Key "{}"', "Api-Key {},", "Api-Key {} {}"),
    ],
)
def test_other_forms_are_no_key(known: Server, form: str) -> None:
    """Another scheme, and a key with anything around it, is 401."""
    headers = [("Authorization", form.format(known.key, known.key))]
    answer = ask(without_key(known), "GET", PROFILE_PATH, headers, customer="c")
    assert error_code(answer) == (401, "unauthorized")


def test_key_is_compared_whole_and_with_case(known: Server) -> None:
    """Nothing that only resembles the key opens anything."""
    key = known.key
    for other in (key.swapcase(), key.upper(), key[:-1], key[1:], f"{key}0", f"{key}\u00e9"):
        answer = ask(known._replace(key=other), "GET", PROFILE_PATH, customer="c")
        assert error_code(answer) == (401, "unauthorized")


# --- Whom the headers name ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (" \t padded \t ", "padded"),
        ("two  words", "two  words"),
        ("\u00a0no-break\u00a0", "\u00a0no-break\u00a0"),
        ("\u2003em\u3000", "\u2003em\u3000"),
        ("a,b;c=d", "a,b;c=d"),
        ('"quoted"', '"quoted"'),
        ("%41", "%41"),
        ("=?utf-8?q?x?=", "=?utf-8?q?x?="),
        ("\u2028\u202e\u200d", "\u2028\u202e\u200d"),
        ("null", "null"),
        ("x" * 255, "x" * 255),
        ("\U0001f600" * 255, "\U0001f600" * 255),
    ],
)
def test_customer_id_is_kept_as_it_was_sent(server: Server, sent: str, kept: str) -> None:
    """Only the spaces and tabs around it go; what is in it is not read as anything."""
    for method in ("POST", "GET"):
        answer = ask(server, method, PROFILE_PATH, customer=sent)
        assert answer.json()["data"]["customer_user_id"] == kept
    again = ask(server, "GET", PROFILE_PATH, customer=kept)
    assert again.json()["data"]["profile_id"] == answer.json()["data"]["profile_id"]


@pytest.mark.parametrize(
    "sent",
    [
        "x" * 256,
        "\U0001f600" * 256,
        "a\tb",
        "a\u0085b",
        "a\u0080",
        "\u009f",
        b"\xff",
        b"caf\xe9",
        b"a\xc3",
        b"\xc0\xaf",
        b"\xe0\x80\xaf",
        b"\xed\xa0\x80",
        b"\xed\xa0\xbd\xed\xb8\x80",
        b"\xf4\x90\x80\x80",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_customer_id_that_is_refused(server: Server, method: str, sent: str | bytes) -> None:
    """Over 255 characters, a control character, or bytes that are no strict UTF-8: 400."""
    answer = ask(server, method, PROFILE_PATH, customer=sent)
    assert error_code(answer) == (400, "validation_error")
    assert sources(answer) == [CUSTOMER]


@pytest.mark.parametrize("blank", ["", " ", "\t", " \t "])
def test_blank_header_is_absent(known: Server, blank: str) -> None:
    """A blank header names nobody, and leaves the other alone."""
    for who in (Who(customer=blank, profile=ID), Who(customer="c", profile=blank)):
        assert ask(known, "GET", PROFILE_PATH, **who).status_code == 200
    for who in (Who(), Who(customer=blank), Who(profile=blank), Who(customer=blank, profile=blank)):
        answer = ask(known, "GET", PROFILE_PATH, **who)
        assert error_code(answer) == (400, "validation_error")


def test_names_of_headers_have_no_case(known: Server) -> None:
    """A header is known in any letter case, and only under its own name."""
    upper = [(CUSTOMER.upper(), "c")]
    assert ask(known, "GET", PROFILE_PATH, upper).status_code == 200
    for name in (CUSTOMER.replace("-", "_"), f"x-{CUSTOMER}", "customer-user-id"):
        assert ask(known, "GET", PROFILE_PATH, [(name, "c")]).status_code == 400


@pytest.mark.parametrize("query", ["?", "?a=b", "?adapty-customer-user-id=d", "?%ff&&=", "?a?b/"])
def test_query_is_ignored(known: Server, query: str) -> None:
    """With any query string the answer is that without."""
    for path in (IDENTIFIERS_PATH, IDENTIFIERS_PATH.rstrip("/")):
        plain = ask(known, "GET", path, customer="c")
        assert ask(known, "GET", path + query, customer="c").content == plain.content
    assert ask(known, "GET", f"/nowhere{query}", customer="c").status_code == 404


# --- HEAD ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [IDENTIFIERS_PATH, PROFILE_PATH, "/healthz", "/readyz", "/docs"])
@pytest.mark.parametrize("customer", ["c", "nobody", ""])
@pytest.mark.parametrize("has_key", [True, False])
def test_head_is_get_without_the_body(
    known: Server, path: str, customer: str, *, has_key: bool
) -> None:
    """HEAD has the status and headers of GET, its length too, and no body."""
    caller = known if has_key else without_key(known)
    headers = [("X-Request-Id", "mine")]
    get = ask(caller, "GET", path, headers, customer=customer)
    head = ask(caller, "HEAD", path, headers, customer=customer)
    for answer in (get, head):
        del answer.headers["date"]
    assert (head.status_code, head.headers) == (get.status_code, get.headers)
    assert int(head.headers["content-length"]) == len(get.content)
    assert head.content == b""


def test_head_where_there_is_no_get(known: Server) -> None:
    """A path that only takes POST refuses HEAD like any other method, without a body."""
    answer = ask(known, "HEAD", SDK_PATH)
    assert (answer.status_code, answer.headers["allow"], answer.content) == (405, "POST", b"")


# --- The body's type ----------------------------------------------------------------------------

BODIES = [
    ("POST", IDENTIFIERS_PATH, b'{"branch_id":"b"}'),
    ("POST", PROFILE_PATH, b'{"custom_attributes":[]}'),
    ("PATCH", PROFILE_PATH, b"{}"),
    ("POST", SDK_PATH, f'{{"data":{{"profile_id":"{ID}","branch_id":"b"}}}}'.encode()),
]
of_each_body = pytest.mark.parametrize(("method", "path", "body"), BODIES)


@of_each_body
@pytest.mark.parametrize(
    "media_type",
    [
        *(None, "", JSON, "APPLICATION/JSON", "Application/Json", f" {JSON} ", f"{JSON};"),
        *(f"{JSON}; charset=utf-8", f"{JSON};charset=UTF-8", f"{JSON} ; any=thing", f"{JSON};;"),
    ],
)
def test_row_12_json_is_taken(
    known: Server, method: str, path: str, body: bytes, media_type: str | None
) -> None:
    """JSON in any spelling of its name, with any parameters, or with no type at all."""
    headers = [] if media_type is None else [("Content-Type", media_type)]
    answer = ask(known, method, path, headers, body, customer="c")
    assert answer.status_code == 200, answer.text


@of_each_body
@pytest.mark.parametrize(
    "header",
    [
        *(("Content-Type", it) for it in ("text/json", "text/plain", FORM, "application/xml")),
        *(("Content-Type", it) for it in (f"{JSON}l", "application/problem+json", "json", "*/*")),
        *(("Content-Type", it) for it in (f"{JSON}, {FORM}", "application/ json", ";", "\u00e9")),
        *(("Content-Encoding", it) for it in ("gzip", "br", "identity", "gzip, br", "x")),
    ],
)
def test_rows_12_and_41_other_types_are_refused(
    known: Server, method: str, path: str, body: bytes, header: tuple[str, str]
) -> None:
    """Any other media type, and any content encoding, is a 415 that names the header."""
    answer = ask(known, method, path, [header], body, customer="c")
    assert error_code(answer) == (415, "unsupported_media_type")
    assert answer.json()["errors"][0]["source"] == header[0].lower()


@pytest.mark.parametrize(
    "headers",
    [[], [("Content-Type", FORM)], [("Content-Type", FORM), ("Content-Encoding", "gzip")]],
)
@pytest.mark.parametrize("body", [None, b""])
def test_post_without_a_body_says_to_use_get(
    known: Server, headers: RawHeaders, body: bytes | None
) -> None:
    """What Adapty's own cURL sample sends to read is told how to read, whatever its type."""
    answer = ask(known, "POST", IDENTIFIERS_PATH, headers, body, customer="c")
    assert error_code(answer) == (400, "validation_error")
    assert "GET" in answer.json()["errors"][0]["errors"][0]


# --- What comes first ---------------------------------------------------------------------------

# Each request is also wrong in every way that stands below it.
WRONG: list[tuple[tuple[int, str], str, bool, RawHeaders, bytes]] = [
    ((405, "method_not_allowed"), "PUT", False, [], TOO_LARGE),
    ((401, "unauthorized"), "", False, [], TOO_LARGE),
    ((400, "validation_error"), "", True, [(PROFILE, "x"), (SDK_PROFILE, "x")], TOO_LARGE),
    ((413, "payload_too_large"), "", True, [], TOO_LARGE),
    ((400, "validation_error"), "", True, [], b""),
    ((415, "unsupported_media_type"), "", True, [], b"{"),
]


@pytest.mark.parametrize(("expected", "method", "has_key", "who", "body"), WRONG)
@pytest.mark.parametrize(
    ("usual_method", "path"),
    [("POST", IDENTIFIERS_PATH), ("POST", SDK_PATH), ("PATCH", PROFILE_PATH)],
)
def test_checks_before_the_body_come_in_order(  # noqa: PLR0913 - a table of two sides
    known: Server,
    *,
    usual_method: str,
    path: str,
    expected: tuple[int, str],
    method: str,
    has_key: bool,
    who: RawHeaders,
    body: bytes,
) -> None:
    """Method, key, who, size, emptiness, type: the first that is wrong is what is told."""
    if path == PROFILE_PATH and not body:  # nothing to change is no error
        expected = (404, "profile_not_found")
    caller = known if has_key else without_key(known)
    wrong = [("Content-Type", FORM), ("Content-Encoding", "gzip")]
    answer = ask(
        caller, method or usual_method, path, [*(who or [(PROFILE, OTHER_ID)]), *wrong], body
    )
    assert error_code(answer) == expected


def test_path_is_checked_first(known: Server) -> None:
    """An unknown path is 404 to any method, with or without a key."""
    for method in ("GET", "PUT", "POST", "DELETE"):
        answer = ask(without_key(known), method, "/nowhere", body=TOO_LARGE)
        assert error_code(answer) == (404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "template"),
    [
        ("POST", IDENTIFIERS_PATH, b'{"branch_id":%s}'),
        ("PATCH", PROFILE_PATH, b'{"gender":%s}'),
        ("POST", SDK_PATH, b'{"data":{"profile_id":"' + OTHER_ID.encode() + b'","branch_id":%s}}'),
    ],
)
def test_checks_of_the_body_come_in_order(
    known: Server, method: str, path: str, template: bytes
) -> None:
    """Syntax, then fields, then the profile."""
    for body, expected in (
        (template % b"1]", (400, "parse_error")),
        (template % b"1", (400, "validation_error")),
        (template % b'"f"', (404, "profile_not_found")),
    ):
        assert error_code(ask(known, method, path, body=body, profile=OTHER_ID)) == expected


# --- The connection -----------------------------------------------------------------------------


def test_old_and_absolute_requests_are_served(known: Server) -> None:
    """HTTP/1.0, and a target with scheme and host as proxies send it, are the same request."""
    plain = raw_request(known, "GET", IDENTIFIERS_PATH, customer="c")
    expected = exchange(known, plain).content
    old = plain.replace(b"HTTP/1.1", b"HTTP/1.0", 1)
    absolute = raw_request(known, "GET", f"http://localhost{IDENTIFIERS_PATH}", customer="c")
    for request in (old, absolute):
        answer = exchange(known, request)
        assert (answer.status_code, answer.content) == (200, expected)


def test_requests_share_a_connection(known: Server) -> None:
    """One connection carries requests of several customers, errors among them, one by one."""
    with httpx2.Client(base_url=known.url) as http:
        for customer, status in (("c", 200), ("nobody", 404), ("c", 200), ("x" * 256, 400)):
            headers = {"Authorization": f"Api-Key {known.key}", CUSTOMER: customer}
            for path in (IDENTIFIERS_PATH, PROFILE_PATH):
                answer = http.get(path, headers=headers)
                assert answer.status_code == status
                assert answer.headers["content-type"] == "application/json"
