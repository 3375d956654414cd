"""Signing in to the console at an issuer, by OpenID Connect: who gets in, and who does not."""

import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from joserfc.jwk import OctKey

from conftest import PLAIN, Server, free_port, knownas, start, stop
from issuing import (
    CLIENT,
    EC,
    RSA,
    SECRET,
    STRANGER,
    Issuing,
    Sign,
    issuing,
    settings_for,
    signed,
    signed_by_public_key,
    unsigned,
)

ANN: Final = {"email": "Ann@Example.com", "email_verified": True}
PASSWORD: Final = "correct horse battery staple"  # noqa: S105 - a test's own

addresses: Final = count(1)


@pytest.fixture(scope="module")
def one_issuer() -> Iterator[Issuing]:
    """Give the issuer of the module."""
    with issuing() as issuer:
        yield issuer


@pytest.fixture
def issuer(one_issuer: Issuing) -> Issuing:
    """Give the issuer, which does everything right."""
    one_issuer.begin()
    return one_issuer


@pytest.fixture(scope="module")
def server(
    database: str, one_issuer: Issuing, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Give a server whose operators are ann, by e-mail, and bob, by subject and password."""
    port = free_port()
    process = start(database, port, **settings_for(tmp_path_factory.mktemp("oidc"), one_issuer.url))
    knownas("operator", "create", "ann", "--oidc", "ann@example.com", database=database)
    create = ("operator", "create", "bob", "--role", "admin", "--password-stdin")
    knownas(*create, database=database, stdin=f"{PASSWORD}\n")
    knownas("operator", "oidc", "bob", "sub:bob-1", database=database)
    yield Server(f"http://127.0.0.1:{port}", "", "", database)
    assert stop(process) == 0


@pytest.fixture
def browser(server: Server) -> Iterator[httpx2.Client]:
    """Give what keeps cookies, from an address of its own, so that attempts are counted anew."""
    headers = {"X-Forwarded-For": f"10.0.{next(addresses)}.1", "Origin": server.url}
    with httpx2.Client(base_url=server.url, headers=headers, verify=False) as client:
        yield client


def returned(browser: httpx2.Client) -> str:
    """Go to the issuer and sign in there; return the address that the issuer leads to."""
    begun = browser.get("/console/oidc")
    assert begun.status_code == 303, begun.text
    there = PLAIN.get(begun.headers["location"])
    assert there.status_code == 303
    address: str = there.headers["location"]
    assert address.startswith(f"{browser.base_url}/console/oidc/back?code=")
    return address


def who(browser: httpx2.Client) -> str:
    """Return the name of the operator who is signed in, "" for nobody."""
    page = browser.get("/console/password")
    found = re.search(r'<a href="/console/password">(.*?)</a>', page.text)
    return found[1] if found else ""


def token_on(browser: httpx2.Client, path: str) -> str:
    """Return the token of the forms on a page."""
    found = re.search(r'name="token" value="([0-9a-f]{64})"', browser.get(path).text)
    assert found is not None
    return found[1]


def told(page: httpx2.Response) -> str:
    """Return what a page says was wrong."""
    found = re.search(r'role="alert">(.*?)</p>', page.text)
    assert found is not None, page.text
    return found[1]


@pytest.mark.parametrize("algorithm", ["RS256", "PS384", "ES256"])
def test_verified_address_signs_in(issuer: Issuing, browser: httpx2.Client, algorithm: str) -> None:
    """In any case of its letters, by a key of either kind; the session is like any other."""
    issuer.claims = ANN
    issuer.sign = signed(EC if algorithm == "ES256" else RSA, algorithm)
    page = browser.get(returned(browser))
    assert page.status_code == 200
    assert '<meta http-equiv="refresh" content="0; url=/console/">' in page.text
    assert who(browser) == "ann"
    token = token_on(browser, "/console/password")
    assert browser.post("/console/sign-out", data={"token": token}).status_code == 303
    assert who(browser) == ""


def test_subject_signs_in(issuer: Issuing, browser: httpx2.Client) -> None:
    """Without any address, and before one; who has both ways keeps the password."""
    issuer.claims = {"sub": "bob-1", **ANN}
    assert browser.get(returned(browser)).status_code == 200
    assert who(browser) == "bob"
    browser.cookies.clear()
    token = token_on(browser, "/console/sign-in")
    form = {"token": token, "name": "bob", "password": PASSWORD}
    assert browser.post("/console/sign-in", data=form).status_code == 303
    assert who(browser) == "bob"
    log = browser.get("/console/audit").text
    assert "OpenID Connect" in log


def test_who_has_no_password_needs_the_issuer(browser: httpx2.Client) -> None:
    """No password fits, nor does an empty one."""
    for password in ("", PASSWORD):
        token = token_on(browser, "/console/sign-in")
        form = {"token": token, "name": "ann", "password": password}
        assert browser.post("/console/sign-in", data=form).status_code == 403
    assert who(browser) == ""


def test_admin_says_who_is_who(issuer: Issuing, browser: httpx2.Client) -> None:
    """The page Operators has a field for it, and a column; what is no identity is told."""
    issuer.claims = {"sub": "bob-1"}
    assert browser.get(returned(browser)).status_code == 200
    token = token_on(browser, "/console/operators")
    form = {"token": token, "name": "cy", "role": "viewer", "password": ""}
    refused = browser.post("/console/operators", data={**form, "oidc": "cy"})
    assert (refused.status_code, "oidc: Must be" in told(refused)) == (400, True)
    assert browser.post("/console/operators", data={**form, "oidc": ""}).status_code == 400
    made = browser.post("/console/operators", data={**form, "oidc": "Cy@Example.com"})
    assert made.status_code == 303
    assert "cy@example.com" in browser.get("/console/operators").text
    browser.cookies.clear()
    issuer.claims = {"email": "cy@example.com", "email_verified": True}
    assert browser.get(returned(browser)).status_code == 200
    assert who(browser) == "cy"


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"email": "ann@example.com"},
        {"email": "ann@example.com", "email_verified": False},
        {"email": "ann@example.com", "email_verified": "true"},
        {"email": "ann@example.com", "email_verified": 1},
        {"email": "eve@example.com", "email_verified": True},
        {"email": "an\uff4e@example.com", "email_verified": True},
        {"email": "sub:bob-1", "email_verified": True},
        {"email": None, "email_verified": True},
        {"sub": "ann@example.com"},
        {"sub": "BOB-1"},
        {"sub": "<script>", "email": "", "email_verified": True},
    ],
)
def test_who_is_no_operator_stays_out(
    issuer: Issuing, browser: httpx2.Client, claims: dict[str, Any]
) -> None:
    """To be known to the issuer lets nobody in, nor does an address that it has not verified."""
    issuer.claims = claims
    page = browser.get(returned(browser))
    assert page.status_code == 403
    assert "No operator has" in told(page)
    assert "<script>" not in page.text
    assert who(browser) == ""


@pytest.mark.parametrize(
    ("claims", "sign"),
    [
        ({}, signed(STRANGER, "RS256")),
        ({}, signed(OctKey.import_key(SECRET, {"kid": "rsa"}), "HS256")),
        ({}, signed_by_public_key),
        ({}, unsigned),
        ({}, lambda _: "not.a.token"),
        ({}, lambda _: ""),
        ({"iss": "https://other.example"}, None),
        ({"iss": None}, None),
        ({"aud": "another"}, None),
        ({"aud": [CLIENT, "another"]}, None),
        ({"aud": [CLIENT], "azp": "another"}, None),
        ({"nonce": "another"}, None),
        ({"nonce": None}, None),
        ({"exp": 1_000}, None),
        ({"exp": None}, None),
        ({"exp": "soon"}, None),
        ({"iat": 2**40}, None),
        ({"sub": None}, None),
        ({"sub": {"a": 1}}, None),
        ({"email": ["ann@example.com"]}, None),
    ],
    ids=range(20),
)
def test_wrong_token_signs_nobody_in(
    issuer: Issuing, browser: httpx2.Client, claims: dict[str, Any], sign: Sign | None
) -> None:
    """A wrong signature, issuer, client, nonce or time: a page says so, and there is no session."""
    issuer.claims, issuer.sign = {**ANN, **claims}, sign or issuer.sign
    page = browser.get(returned(browser))
    assert page.status_code == 503
    assert "(ID token)" in told(page)
    assert who(browser) == ""


def test_several_clients_of_one_token(issuer: Issuing, browser: httpx2.Client) -> None:
    """A token for others, too, signs in where it says that it was made for this one."""
    issuer.claims = {**ANN, "aud": ["another", CLIENT], "azp": CLIENT}
    assert browser.get(returned(browser)).status_code == 200
    assert who(browser) == "ann"


def test_return_is_good_once_and_in_one_browser(
    server: Server, issuer: Issuing, browser: httpx2.Client
) -> None:
    """Another browser, another state and a repetition: nobody is signed in as somebody else."""
    issuer.claims = ANN
    address = returned(browser)
    tokens = issuer.asked.count("/token")
    headers = {"X-Forwarded-For": "10.1.1.1"}
    with httpx2.Client(base_url=server.url, headers=headers, verify=False) as other:
        assert other.get(address).status_code == 403  # it began nothing
        returned(other)
        assert other.get(address).status_code == 403  # it began something else
        assert who(other) == ""
    assert issuer.asked.count("/token") == tokens
    assert browser.get(address).status_code == 200
    browser.cookies.clear()
    again = browser.get(address)
    assert (again.status_code, who(browser)) == (403, "")


def test_stolen_ticket_does_not_repeat_a_code(issuer: Issuing, browser: httpx2.Client) -> None:
    """The issuer takes a code once, also of the browser that it is of."""
    issuer.claims = ANN
    address = returned(browser)
    kept = dict(browser.cookies)
    assert browser.get(address).status_code == 200
    browser.cookies.clear()
    browser.cookies.update(kept)
    page = browser.get(address)
    assert (page.status_code, who(browser)) == (403, "")
    assert "(token)" in told(page)


@pytest.mark.parametrize(
    "query",
    ["", "code=x", "state=x", "code=x&state=", "error=access_denied", "state=%ff&code=%00"],
)
def test_made_up_return_asks_nobody(issuer: Issuing, browser: httpx2.Client, query: str) -> None:
    """Without the state that this browser was given, nothing is looked at further."""
    assert browser.get("/console/oidc").status_code == 303
    page = browser.get(f"/console/oidc/back?{query}")
    assert page.status_code == 403
    assert "not begun" in told(page)
    assert "/token" not in issuer.asked


def test_answers_of_the_issuer_to_the_browser(issuer: Issuing, browser: httpx2.Client) -> None:
    """An error is told without the issuer's words; a return from another issuer is refused."""
    state = parse_qs(urlsplit(browser.get("/console/oidc").headers["location"]).query)["state"][0]
    page = browser.get("/console/oidc/back", params={"state": state, "error": "<b>denied</b>"})
    assert page.status_code == 403
    assert "did not sign you in" in told(page)
    assert "denied" not in page.text
    issuer.claims = ANN
    address = returned(browser).partition("&iss=")[0]
    page = browser.get(f"{address}&iss=https%3A%2F%2Fother.example")
    assert page.status_code == 403
    assert "/token" not in issuer.asked


def test_first_request_leads_to_the_issuer_and_nowhere_else(
    issuer: Issuing, browser: httpx2.Client
) -> None:
    """It has PKCE, and a ticket that comes back with it; no other site begins it for somebody."""
    assert issuer.url.removeprefix("http://") in browser.get("/console/sign-in").text
    begun = browser.get("/console/oidc", params={"next": "https://other.example", "iss": "x"})
    address = urlsplit(begun.headers["location"])
    asked = {name: values[0] for name, values in parse_qs(address.query).items()}
    assert f"{address.scheme}://{address.netloc}" == issuer.url
    assert asked.pop("tenant") == "1"
    assert asked["redirect_uri"] == f"{browser.base_url}/console/oidc/back"
    assert len({asked["state"], asked["nonce"], asked["code_challenge"]}) == 3
    cookie = begun.headers["set-cookie"]
    assert re.search(r"knownas-ticket=[\w-]{43}; HttpOnly; Max-Age=600; .*SameSite=lax", cookie)
    assert browser.cookies["knownas-ticket"] not in begun.headers["location"]
    for site in ("cross-site", "same-site"):
        away = browser.get("/console/oidc", headers={"Sec-Fetch-Site": site})
        assert away.headers["location"] == "/console/sign-in"
    by_tls = browser.get("/console/oidc", headers={"X-Forwarded-Proto": "https"})
    assert re.search(r"__Host-knownas-ticket=.*Path=/;.*Secure", by_tls.headers["set-cookie"])
    assert parse_qs(by_tls.headers["location"])["redirect_uri"][0].startswith("https://")


def test_attempts_are_counted(issuer: Issuing, browser: httpx2.Client) -> None:
    """Whoever comes back too often without getting in waits a minute."""
    issuer.claims = {"sub": "eve"}
    statuses = [browser.get(returned(browser)).status_code for _ in range(6)]
    assert statuses == [403] * 5 + [429]


def test_issuer_that_is_down_is_told(tmp_path: Path) -> None:
    """The page says which step failed, the log why, neither has a secret; passwords still work."""
    database = f"sqlite:///{tmp_path}/knownas.db"
    port = free_port()
    process = start(database, port, **settings_for(tmp_path, f"http://127.0.0.1:{free_port()}"))
    page = PLAIN.get(f"http://127.0.0.1:{port}/console/oidc")
    assert page.status_code == 503
    assert "(discovery)" in told(page)
    assert 'name="password"' in page.text
    assert stop(process) == 0
    log = (tmp_path / "knownas.log").read_text(encoding="utf-8")
    assert "oidc_failed" in log
    assert "ConnectError" in log
    assert SECRET not in log + page.text


def test_console_without_an_issuer_has_no_such_page(tmp_path: Path) -> None:
    """Both pages are not there, and signing in is as ever."""
    port = free_port()
    process = start(f"sqlite:///{tmp_path}/knownas.db", port)
    for path in ("/console/oidc", "/console/oidc/back?code=x&state=y"):
        assert PLAIN.get(f"http://127.0.0.1:{port}{path}").status_code == 404
    assert "/console/oidc" not in PLAIN.get(f"http://127.0.0.1:{port}/console/sign-in").text
    assert stop(process) == 0
