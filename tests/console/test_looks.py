"""How every page looks: screenshots as artefacts, and what axe-core finds wrong with each."""

from collections.abc import Callable
from importlib import resources
from typing import Final

import pytest
from playwright.sync_api import Page

from conftest import Server, ask, knownas
from console.conftest import ARTEFACTS, NARROW, SHARED, WIDE, People, fill_in

DATABASES = ("sqlite", "postgresql")

pytestmark = pytest.mark.browser

APP = "/console/apps/default/"
AXE: Final = (resources.files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")


def addresses(people: People, hook: str) -> dict[str, str]:
    """Return every page that there is, by a short name, in an order in which they can be seen."""
    profile = f"{APP}profiles/{people.ann}"
    return {
        "sign-in": "/console/",
        "search": "/console/sign-in",
        "found": APP,
        "profile": profile,
        "revealed": profile,
        "profile-as-of": f"{profile}?revision=2",
        "merge": f"{profile}/merge?source={people.bob}",
        "erase": f"{profile}/erase",
        "changes": f"{APP}changes?after=first",
        "coverage": f"{APP}coverage",
        "conflicts": f"{APP}conflicts",
        "imports": f"{APP}imports",
        "webhooks": f"{APP}webhooks",
        "webhook": f"{APP}webhooks/{hook}",
        "keys": f"{APP}keys",
        "receipt": f"{APP}profiles/{people.bob}/erase",
        "erasures": f"{APP}erasures",
        "operators": "/console/operators",
        "audit": "/console/audit",
        "password": "/console/password",
        "missing": f"{APP}nowhere",
    }


@pytest.mark.slow
@pytest.mark.timeout(
    400
)  # twenty pages, each drawn whole and looked through, on a machine that may be busy
@pytest.mark.parametrize(
    ("size", "scheme"),
    [(WIDE, "light"), (NARROW, "dark")],
    ids=["wide and light", "narrow and dark"],
)
def test_pages_have_no_violations(
    console: Server,
    people: People,
    open_page: Callable[..., Page],
    size: tuple[int, int],
    scheme: str,
) -> None:
    """axe-core finds nothing on any page, in either colour scheme, at either width."""
    body = {"url": "http://127.0.0.1:9/hook"}
    hook = ask(console, "POST", "/api/v1/webhooks/", body=body).json()["data"]["id"]
    ask(console, "PUT", "/api/v1/policies/", body={"branch_id": "reject"})
    upload = {"name": "users-2026-11.csv.gz", "size": 104_857_600}
    ask(console, "POST", "/api/v1/imports/", body=upload)
    knownas("webhook-in", "create", "adapty", database=console.database)
    page = open_page(size, color_scheme=scheme)
    folder = ARTEFACTS / console.database.partition(":")[0]
    folder.mkdir(parents=True, exist_ok=True)
    wrong: dict[str, list[str]] = {}
    for name, address in addresses(people, hook).items():
        page.goto(address)
        if name == "search":
            fill_in(page, "admin")
        elif name == "revealed":
            page.get_by_role("button", name="Reveal").click()
        elif name == "found":
            page.get_by_label("An identifier").fill(SHARED)
            page.get_by_role("button", name="Search").click()
        elif name == "receipt":
            page.get_by_label("To go on").fill(people.bob[:8])
            page.get_by_role("button", name="Erase").click()
        page.screenshot(path=folder / f"{name}-{size[0]}-{scheme}.png", full_page=True)
        wide = page.evaluate("document.documentElement.scrollWidth")
        if wide > size[0]:
            wrong[f"{name} is {wide} pixels wide"] = []
        page.evaluate(AXE)
        for violation in page.evaluate("axe.run()")["violations"]:
            nodes = [node["html"] for node in violation["nodes"]]
            wrong[f"{name}: {violation['help']}"] = nodes
    assert wrong == {}
