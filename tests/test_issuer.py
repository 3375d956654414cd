"""The issuer at which operators may sign in: what it may answer, and which settings it needs."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import pytest

from conftest import PLAIN
from issuing import CLIENT, EC, SECRET, Issuing, issuing, settings_for, signed
from knownas import serving
from knownas.console.issuer import Issuer, Person, is_safe
from knownas.console.tickets import IssuerError, Ticket
from knownas.registry import system_clock
from knownas.settings import SettingsError, load

BACK: Final = "http://127.0.0.1:8080/console/oidc/back"


@pytest.fixture
def issuer() -> Iterator[Issuing]:
    """Give an issuer, which does everything right."""
    with issuing() as issuer:
        yield issuer


def asking(issuer: Issuing, seconds: float = 10.0) -> Issuer:
    """Return what asks the issuer."""
    return Issuer(issuer.url, CLIENT, SECRET, system_clock, seconds=seconds)


async def signs_in(issuer: Issuing, asked: Issuer) -> Person:
    """Sign in at the issuer, and return who that is."""
    ticket = Ticket.new()
    there = PLAIN.get(await asked.address(ticket, BACK))
    query = parse_qs(urlsplit(there.headers["location"]).query)
    return await asked.person(ticket, BACK, query["code"][0], issuer.url)


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/.well-known/openid-configuration", "/token", "/keys"])
@pytest.mark.parametrize(
    "answer",
    [
        (500, b"{}"),
        (302, b"https://other.example/"),
        (200, b""),
        (200, b"\xff"),
        (200, b"[]"),
        (200, b'{"keys": [1], "id_token": 1}'),
        (200, b"[" * 100_000),
        (200, b" " * 300_000),
    ],
    ids=range(8),
)
async def test_whatever_the_issuer_answers(
    issuer: Issuing, path: str, answer: tuple[int, bytes]
) -> None:
    """Errors, redirects, and what cannot be read or is too long end in an error of its step."""
    issuer.answers = {path: answer}
    with pytest.raises(IssuerError):
        await signs_in(issuer, asking(issuer))


@pytest.mark.anyio
async def test_silent_issuer_has_a_deadline(issuer: Issuing) -> None:
    """Whoever signs in waits for a while, and not for ever; nothing is kept of it."""
    asked = asking(issuer, seconds=0.2)
    issuer.is_silent = True
    begun = time.monotonic()
    with pytest.raises(IssuerError, match="took more than"):
        await asked.address(Ticket.new(), BACK)
    assert time.monotonic() - begun < 5
    issuer.is_silent = False
    issuer.claims = {"email": "Ann@Example.com", "email_verified": True}
    assert await signs_in(issuer, asking(issuer)) == Person("248289761001", "Ann@Example.com")


@pytest.mark.anyio
@pytest.mark.parametrize(
    "told",
    [
        {"issuer": "https://other.example"},
        {"authorization_endpoint": "http://other.example/authorize"},
        {"authorization_endpoint": "javascript:alert(1)"},
        {"token_endpoint": "http://other.example/token"},
        {"jwks_uri": "http://other.example/keys"},
        {"jwks_uri": None},
    ],
)
async def test_discovery_leads_to_no_unsafe_place(issuer: Issuing, told: dict[str, Any]) -> None:
    """A document of another issuer, or with an endpoint without TLS elsewhere, is not followed."""
    issuer.told = told
    with pytest.raises(IssuerError):
        await signs_in(issuer, asking(issuer))


@pytest.mark.anyio
async def test_secret_is_sent_as_the_issuer_takes_it(issuer: Issuing) -> None:
    """In the form where it takes no other way; a wrong one is refused, and told as that."""
    issuer.told = {"token_endpoint_auth_methods_supported": ["client_secret_post"]}
    await signs_in(issuer, asking(issuer))
    issuer.told = {}
    wrong = Issuer(issuer.url, CLIENT, "wrong", system_clock)
    with pytest.raises(IssuerError, match="it answered 401: invalid_client"):
        await signs_in(issuer, wrong)


@pytest.mark.anyio
async def test_issuer_may_want_its_name_told(issuer: Issuing) -> None:
    """Where it says that it names itself to the browser, a return without its name is refused."""
    issuer.told = {"authorization_response_iss_parameter_supported": True}
    asked, ticket = asking(issuer), Ticket.new()
    await asked.address(ticket, BACK)
    with pytest.raises(IssuerError, match="another issuer"):
        await asked.person(ticket, BACK, "code", "")


@pytest.mark.anyio
async def test_keys_are_read_anew_and_the_rest_is_kept(issuer: Issuing) -> None:
    """An issuer that signs by another key from now on needs no restart of ours."""
    asked = asking(issuer)
    await signs_in(issuer, asked)
    issuer.sign = signed(EC, "ES256")
    await signs_in(issuer, asked)
    assert issuer.asked.count("/.well-known/openid-configuration") == 1
    assert issuer.asked.count("/keys") == 2


@pytest.mark.parametrize(
    ("url", "safe"),
    [
        ("https://id.example.com/realms/one", True),
        ("http://localhost:8080", True),
        ("http://[::1]:1/", True),
        ("http://id.example.com", False),
        ("http://127.0.0.1.example.com", False),
        ("https://user@id.example.com", False),
        ("https://id.example.com/#x", False),
        ("https://id.example.com/\r\nSet-Cookie: a=b", False),
        ("https://", False),
        ("https://x:port", False),
        ("https://[", False),
        ("file:///etc/passwd", False),
    ],
)
def test_only_safe_addresses_are_asked(url: str, safe: bool) -> None:  # noqa: FBT001 - a table
    """By TLS, or on this very machine."""
    assert is_safe(url) is safe


def test_settings_go_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of them, an unsafe URL, a missing file or library stop the start with one line."""
    right = settings_for(tmp_path, "https://id.example.com")

    def open_it(**changed: str) -> Issuer | None:
        registry: Any = type("Clock", (), {"now": staticmethod(system_clock)})
        return serving.open_issuer(load({**right, **changed}), registry)

    assert open_it() is not None
    none = {name: "" for name in right if "OIDC" in name}
    assert open_it(**none) is None
    wrong: list[tuple[dict[str, str], str]] = [
        ({"KNOWNAS_OIDC_CLIENT_ID": ""}, "set together"),
        ({"KNOWNAS_OIDC_ISSUER": "http://id.example.com"}, "must be an https:// URL"),
        ({"KNOWNAS_OIDC_CLIENT_SECRET_FILE": str(tmp_path / "none")}, "No such file"),
        ({"KNOWNAS_OIDC_CLIENT_SECRET_FILE": "/dev/null"}, "is empty"),
    ]
    for changed, said in wrong:
        with pytest.raises(SettingsError, match=said):
            open_it(**changed)
    monkeypatch.delitem(sys.modules, "knownas.console.issuer")
    monkeypatch.setitem(sys.modules, "joserfc", None)
    with pytest.raises(SettingsError, match=r"pip install 'knownas\[oidc\]'"):
        open_it()
