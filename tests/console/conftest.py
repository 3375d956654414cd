"""What the tests of the console share: a browser, and a server with operators in it.

The browser is Debian's chromium, driven by Playwright. While it runs, this thread has an event loop
of Playwright's own: what a test needs of the registry, it gets from commands and over HTTP.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from conftest import Server, ask, free_port, knownas, make_profile, start, stop

CHROMIUM: Final = Path("/usr/bin/chromium")
ARTEFACTS: Final = Path(__file__).parent / "artefacts"
"""Where the screenshots of a run are."""

PASSWORD: Final = "correct horse battery staple"  # noqa: S105 - a test's own
ROLES: Final = ("viewer", "support", "admin")
"""Each is the name of the operator who has the role, too."""

WIDE: Final = (1280, 900)
NARROW: Final = (390, 844)

SHARED: Final = "1741933337626-3179568"


class People(NamedTuple):
    """The profiles that are there."""

    ann: str
    """Of the customer `ann-42`, with a history of three revisions."""
    bob: str
    """Has the same AppsFlyer id as ann."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Give the browser. No other module may meet its loop, which runs in this thread."""
    if not CHROMIUM.exists():
        pytest.skip("chromium is not installed: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def console(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Give a running server with an operator of each role, and a master key."""
    folder = tmp_path_factory.mktemp("console")
    knownas("master-key", "create", str(folder / "key"), database=database)
    port = free_port()
    process = start(
        database,
        port,
        KNOWNAS_MASTER_KEY_FILE=str(folder / "key"),
        KNOWNAS_ERASURE_LEDGER=str(folder / "ledger"),
        KNOWNAS_WEBHOOK_NETWORKS="127.0.0.1",
        KNOWNAS_TRUSTED_PROXIES="127.0.0.1",
    )
    for role in ROLES:
        options = ("--role", role, "--password-stdin")
        knownas("operator", "create", role, *options, database=database, stdin=f"{PASSWORD}\n")
    key = knownas("key", "create", database=database).strip()
    yield Server(f"http://127.0.0.1:{port}", key, "", database)
    assert stop(process) == 0


@pytest.fixture
def people(console: Server, request: pytest.FixtureRequest) -> Iterator[People]:
    """Give two profiles, gone after the test."""
    name = request.node.name.partition("[")[0]
    ann = make_profile(console, f"ann-42 {name}", appsflyer_id=SHARED)["profile_id"]
    for values in ({"mixpanel_user_id": "33w6yv5DPqAbCdEfGhIj"}, {"branch_id": "9876543210"}):
        path = "/api/v2/server-side-api/integration/profile/set/integration-identifiers/"
        assert ask(console, "POST", path, body=values, profile=ann).is_success
    bob = make_profile(console, f"bob {name}", appsflyer_id=SHARED, branch_id="111222333444")
    yield People(ann, bob["profile_id"])
    for profile in (ann, bob["profile_id"]):
        ask(console, "DELETE", "/api/v2/server-side-api/profile/", profile=profile)


class Watched(NamedTuple):
    """What was seen on pages that a browser must not do."""

    wrong: list[str]

    def watch(self, page: Page, own: str) -> None:
        """Note what a page tells its console, and whom else it asks."""
        page.on("console", lambda said: self.said(said.type, said.text))
        page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        page.on("request", lambda request: self._asked(request.url, own))

    def said(self, kind: str, text: str) -> None:
        """Note what a page tells its console, where that is wrong."""
        # Chromium tells of each answer that is an error, and the tests ask for such answers.
        if kind in {"error", "warning"} and "Failed to load resource" not in text:
            self.wrong.append(f"{kind}: {text}")

    def _asked(self, url: str, own: str) -> None:
        if not url.startswith((f"{own}/", "data:")):
            self.wrong.append(f"asked {url}")


@pytest.fixture
def watched() -> Iterator[Watched]:
    """Give what is noted of all pages of a test; at its end that is to be nothing."""
    watched = Watched([])
    yield watched
    assert watched.wrong == []


@pytest.fixture
def open_page(browser: Browser, console: Server, watched: Watched) -> Iterator[Callable[..., Page]]:
    """Give what opens a page in a browser of its own, as wide as asked."""
    contexts: list[BrowserContext] = []

    def open_it(size: tuple[int, int] = WIDE, **options: Any) -> Page:  # noqa: ANN401 - Playwright's
        viewport: Any = dict(zip(("width", "height"), size, strict=True))
        context = browser.new_context(base_url=console.url, viewport=viewport, **options)
        context.set_default_timeout(10_000)
        contexts.append(context)
        page = context.new_page()
        watched.watch(page, console.url)
        return page

    yield open_it
    for context in contexts:
        context.close()


@pytest.fixture
def enter(open_page: Callable[..., Page]) -> Callable[..., Page]:
    """Give what opens a page and signs in as the operator of a role."""

    def sign_in(role: str = "admin", size: tuple[int, int] = WIDE, **options: Any) -> Page:  # noqa: ANN401 - Playwright's
        page = open_page(size, **options)
        page.goto("/console/sign-in")
        fill_in(page, role)
        return page

    return sign_in


def fill_in(page: Page, name: str, password: str = PASSWORD) -> None:
    """Fill the form for signing in, and send it."""
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()
