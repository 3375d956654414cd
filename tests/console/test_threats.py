"""What the console withstands: rows 21 and 22 of the threat table, in a browser and without."""

import contextlib
import re
from collections.abc import Callable, Iterator
from urllib.parse import quote

import httpx2
import pytest
from playwright.sync_api import Page, expect

from conftest import PROFILE_PATH, Server, ask, make_profile
from console.conftest import PASSWORD, People, Watched
from knownas.console.attempts import Attempts
from knownas.errors import RateLimited

DATABASES = ("sqlite", "postgresql")

pytestmark = pytest.mark.browser

APP = "/console/apps/default/"
SCRIPTS = (
    "<script>document.title='taken'</script>",
    '"><img src=x onerror="document.title=\'taken\'">',
    "'-document.title='taken'-'{{7*7}}",
    "javascript:document.title='taken'",
)


@pytest.fixture
def new_client(console: Server) -> Iterator[Callable[[], httpx2.Client]]:
    """Give what makes a client that sends what a browser does of itself."""
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(
            httpx2.Client(base_url=console.url, headers={"Origin": console.url})
        )


def token_of(answer: httpx2.Response) -> str:
    """Return the token in the first form of a page."""
    found = re.search(r'name="token" value="([0-9a-f]{64})"', answer.text)
    assert found is not None
    return found[1]


@pytest.fixture
def client(new_client: Callable[[], httpx2.Client]) -> httpx2.Client:
    """Give a client with the session of an admin."""
    return signed_in(new_client(), "admin")


def signed_in(client: httpx2.Client, role: str) -> httpx2.Client:
    """Return the client, with a session."""
    token = token_of(client.get("/console/sign-in"))
    form = {"token": token, "name": role, "password": PASSWORD}
    assert client.post("/console/sign-in", data=form).status_code == 303
    return client


@pytest.mark.parametrize("text", SCRIPTS)
def test_row_21_stored_scripts_are_shown_as_text(
    console: Server, enter: Callable[..., Page], text: str
) -> None:
    """A script in a customer id, an identifier or an attribute runs on no page, also revealed."""
    values = {"branch_id": text, "mixpanel_user_id": text}
    profile = make_profile(console, text, **values)["profile_id"]
    other = make_profile(console, f"{text}2", **values)["profile_id"]
    attributes = {"custom_attributes": [{"key": "k", "value": text[:50]}]}
    assert ask(console, "PATCH", PROFILE_PATH, body=attributes, profile=profile).is_success
    page = enter("admin")
    for address in (
        f"{APP}profiles/{profile}/merge?source={other}",
        f"{APP}conflicts",
        f"{APP}changes?after=first",
        "/console/audit",
        f"{APP}profiles/{profile}",
    ):
        page.goto(address)
        assert "knownas" in page.title()
    page.get_by_role("button", name="Reveal").click()
    expect(page.get_by_role("row", name="branch_id").locator(".revealed")).to_have_text(text)
    page.goto(APP)
    page.get_by_label("An identifier").fill(text)
    page.get_by_role("button", name="Search").click()
    assert "knownas" in page.title()
    page.goto(f"{APP}keys")
    page.get_by_label("What it is for").first.fill(text)
    page.get_by_role("button", name="Make the key").click()
    expect(page.get_by_role("cell", name=text).first).to_be_visible()
    assert "knownas" in page.title()
    for one in (profile, other):
        assert ask(console, "DELETE", PROFILE_PATH, profile=one).status_code == 204


def test_row_21_policy_refuses_inline_scripts(enter: Callable[..., Page], watched: Watched) -> None:
    """Were a script to get into a page, the browser would not run it, and tell."""
    page = enter("viewer")
    inserted = page.evaluate(
        """() => new Promise(resolve => {
            const told = event => resolve(event.violatedDirective);
            document.addEventListener("securitypolicyviolation", told);
            const script = document.createElement("script");
            script.textContent = "document.title = 'taken'";
            document.body.append(script);
        })"""
    )
    assert inserted == "script-src-elem"
    assert "knownas" in page.title()
    assert "Content Security Policy" in watched.wrong.pop()


def test_row_22_forms_need_a_token_and_the_own_origin(
    console: Server, people: People, client: httpx2.Client, new_client: Callable[[], httpx2.Client]
) -> None:
    """Without the token of the session, or from another site, nothing is done."""
    address = f"{APP}profiles/{people.ann}"
    token = token_of(client.get(address))
    other = token_of(signed_in(new_client(), "support").get(address))
    form = {"field": "branch_id", "sure": "yes"}
    for given in ("", "0" * 64, other, token_of(new_client().get("/console/sign-in"))):
        answer = client.post(f"{address}/clear", data={**form, "token": given})
        assert answer.status_code == 403
    for origin in ("https://evil.example", "null", "", f"{console.url}.evil.example"):
        answer = client.post(
            f"{address}/clear", data={**form, "token": token}, headers={"Origin": origin}
        )
        assert answer.status_code == 403
    body = httpx2.post(f"{console.url}{address}/clear", data={**form, "token": token})
    assert body.status_code == 303
    assert body.headers["location"] == "/console/sign-in"
    shown = ask(console, "GET", "/api/v1/profile/", profile=people.ann).json()["data"]
    assert shown["identifiers"]["branch_id"] == "9876543210"
    assert client.post(f"{address}/clear", data={**form, "token": token}).status_code == 303


def test_row_22_every_form_is_guarded(people: People, client: httpx2.Client) -> None:
    """There is no path that takes a POST without a token."""
    for path in (
        "sign-in",
        "sign-out",
        "password",
        "operators",
        "operators/remove",
        "apps/default/",
        *(
            f"apps/default/profiles/{people.ann}/{action}"
            for action in ("reveal", "clear", "merge", "undo-merge", "erase")
        ),
        "apps/default/webhooks",
        "apps/default/webhooks/whk_0000000000000000",
        "apps/default/webhooks/whk_0000000000000000/replay",
        "apps/default/letters",
        "apps/default/keys",
        "apps/default/keys/adopt",
        "apps/default/keys/change",
        "apps/default/senders",
        "apps/default/senders/revoke",
        "apps/default/imports/imp_0000000000000000",
    ):
        assert client.post(f"/console/{path}", data={"token": "x"}).status_code == 403, path


def test_row_22_session_is_new_at_sign_in(
    console: Server, new_client: Callable[[], httpx2.Client]
) -> None:
    """A token that was there before signs nobody in; the old session ends with the new one."""
    client = new_client()
    client.cookies.set("knownas-session", "chosen-by-somebody-else", domain="127.0.0.1")
    token = token_of(client.get("/console/sign-in"))
    form = {"name": "admin", "password": PASSWORD}
    answer = client.post("/console/sign-in", data={**form, "token": token})
    [cookie] = [
        one for one in answer.headers.get_list("set-cookie") if one.startswith("knownas-session=")
    ]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "chosen-by-somebody-else" not in cookie
    fixed = httpx2.get(
        f"{console.url}{APP}", headers={"Cookie": "knownas-session=chosen-by-somebody-else"}
    )
    assert fixed.status_code == 303


def test_row_22_cookie_is_bound_to_the_host_behind_tls(
    console: Server, new_client: Callable[[], httpx2.Client]
) -> None:
    """Where a trusted proxy says that the browser came by https, the cookies are of that only."""
    client = new_client()
    client.headers.update(
        {"X-Forwarded-Proto": "https", "Origin": console.url.replace("http", "https")}
    )
    asked = client.get("/console/sign-in")
    visitor = asked.headers["set-cookie"].partition(";")[0]
    form = {"token": token_of(asked), "name": "admin", "password": PASSWORD}
    answer = client.post("/console/sign-in", data=form, headers={"Cookie": visitor})
    assert answer.status_code == 303
    for cookie in (asked.headers["set-cookie"], answer.headers.get_list("set-cookie")[0]):
        assert cookie.startswith("__Host-knownas-")
        assert "; Path=/;" in cookie
        assert "; Secure" in cookie


def test_row_22_no_page_is_shown_in_a_frame(client: httpx2.Client) -> None:
    """Every answer forbids it, and no page is kept by a browser or a proxy."""
    for path in (APP, "/console/sign-in", "/console/nowhere", "/console/static/console.js"):
        headers = client.get(path).headers
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-frame-options"] == "DENY"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == (
            "max-age=31536000, immutable" if "static" in path else "no-store"
        )


def test_guessing_passwords_is_limited(new_client: Callable[[], httpx2.Client]) -> None:
    """After five attempts for one name in a minute no password is looked at."""
    client = new_client()
    token = token_of(client.get("/console/sign-in"))
    form = {"token": token, "name": "nobody", "password": "wrong"}
    answers = [client.post("/console/sign-in", data=form) for _ in range(11)]
    # Another minute may have begun among them, once.
    assert {answer.status_code for answer in answers[:5]} == {403}
    [*_, refused] = [answer for answer in answers if answer.status_code == 429]
    assert refused.headers["retry-after"].isdecimal()


def test_attempts_are_counted_by_name_and_address() -> None:
    """Neither another name nor another address of one network helps; a right password does."""
    now = 0.0
    attempts = Attempts(lambda: now)

    def is_allowed(host: str, name: str) -> bool:
        try:
            attempts.count(host, name)
        except RateLimited:
            return False
        return True

    assert [is_allowed("10.0.0.1", "ann") for _ in range(6)] == [True] * 5 + [False]
    assert is_allowed("10.0.0.2", "ann")
    attempts.forget("10.0.0.1", "ann")
    assert is_allowed("10.0.0.1", "ann")
    assert sum(is_allowed("10.0.0.1", f"name{number}") for number in range(30)) == 14
    assert sum(is_allowed(f"2001:db8::{number}", f"name{number}") for number in range(30)) == 20
    now = 60.0
    assert is_allowed("10.0.0.1", "ann")


@pytest.mark.parametrize(
    "path",
    ["nowhere", "apps/none/", "apps/default/profiles/x", "static/app.py", "apps/%2e/"],
)
def test_unknown_pages_are_not_there(client: httpx2.Client, path: str) -> None:
    """What is no page, no app, no file of ours is 404, as a page."""
    answer = client.get(f"/console/{path}")
    assert answer.status_code == 404
    assert answer.headers["content-type"].startswith("text/html")


@pytest.mark.parametrize("odd", ["\0", "\x1f\r\nX: y", "'; DROP TABLE audit; --", "٣", "x" * 2_000])
def test_odd_texts_in_forms_are_no_failure(people: People, client: httpx2.Client, odd: str) -> None:
    """Whatever stands in a field, the answer is a page, and never a failure of the server."""
    token = token_of(client.get(APP))
    profile = f"apps/default/profiles/{people.ann}"
    fields = (
        *("name", "role", "password", "new", "again", "q", "field", "revision", "source", "typed"),
        *(
            "url",
            "type",
            "do",
            "profile",
            "letter",
            "label",
            "days",
            "rate",
            "hours",
            "key",
            "sender",
            "secret",
            "rule-branch_id",
        ),
    )
    for path in (
        *("operators", "operators/remove", "apps/default/"),
        *(f"{profile}/{one}" for one in ("reveal", "clear", "merge", "undo-merge", "erase")),
        *("apps/default/webhooks", "apps/default/webhooks/whk_0000000000000000"),
        "apps/default/webhooks/whk_0000000000000000/replay",
        *("apps/default/letters", "apps/default/senders", "apps/default/senders/revoke"),
        "apps/default/imports/imp_0000000000000000",
        *("apps/default/keys", "apps/default/keys/adopt", "apps/default/keys/change"),
    ):
        for do in (odd, "replay", "delete") if path.endswith(("0", "letters")) else (odd,):
            form = dict.fromkeys(fields, odd) | {"token": token, "do": do}
            answer = client.post(f"/console/{path}", data=form)
            assert answer.status_code in {200, 303, 400, 403, 404}, (path, answer.text)
    for path in ("audit?before=1&id=", f"{APP[9:]}changes?after=", f"{APP[9:]}changes/rows?after="):
        answer = client.get("/console/" + path + quote(odd))
        assert answer.status_code in {200, 400, 410}, (path, answer.text)


def test_odd_names_are_refused(
    client: httpx2.Client, new_client: Callable[[], httpx2.Client]
) -> None:
    """A name that nobody can have, and a password that is too long, are wrong ones."""
    visitor = new_client()
    token = token_of(visitor.get("/console/sign-in"))
    for name, password in (("\0", "\0"), ("admin", "x" * 2_000)):
        form = {"token": token, "name": name, "password": password}
        assert visitor.post("/console/sign-in", data=form).status_code == 403
    form = {"token": token_of(client.get(APP)), "password": "\0", "new": "\0", "again": "\0"}
    assert client.post("/console/password", data=form).status_code == 400


def test_odd_forms_are_refused(console: Server, client: httpx2.Client) -> None:
    """A form in another encoding, too large, or of another type is refused, never a 500."""
    token = token_of(client.get(APP))
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    for content, headers, status in (
        (b"token=%ff", form, 400),
        (b"a=" + b"x" * 70_000, form, 413),
        (b"&".join(b"a=1" for _ in range(300)), form, 400),
        (b"{}", {"Content-Type": "application/json"}, 415),
        (f"token={token}&q=%00".encode(), form, 400),
        (f"token={token}&q=%ed%a0%80".encode(), form, 400),
        (f"token={token}&q={'x' * 300}".encode(), form, 400),
    ):
        answer = client.post(APP, content=content, headers=headers)
        assert answer.status_code == status, content[:40]
    for method, allow in (("DELETE", "GET, HEAD, POST"), ("PUT", "GET, HEAD, POST")):
        answer = client.request(method, APP)
        assert (answer.status_code, answer.headers["allow"]) == (405, allow)
    for query in ("revision=x", "revision=0", "before=99999999999999999999999", "revision=٣"):
        profile = make_profile(console, "odd")["profile_id"]
        answer = client.get(f"{APP}profiles/{profile}?{query}")
        assert answer.status_code == 400, query
