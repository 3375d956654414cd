"""How every page looks: screenshots as artefacts, and what axe-core finds wrong with each."""

from collections.abc import Callable
from importlib import resources
from typing import Final

import pytest
from playwright.sync_api import Page

from conftest import Server, ask
from console.conftest import ARTEFACTS, NARROW, WIDE, People

DATABASES = ("sqlite", "postgresql")

APP = "/console/apps/default/"
AXE: Final = (resources.files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")


def addresses(people: People) -> dict[str, str]:
    """Return every page that there is, by a short name."""
    profile = f"{APP}profiles/{people.ann}"
    return {
        "search": APP,
        "profile": profile,
        "profile-as-of": f"{profile}?revision=2",
        "merge": f"{profile}/merge?source={people.bob}",
        "erase": f"{profile}/erase",
        "changes": f"{APP}changes?after=first",
        "coverage": f"{APP}coverage",
        "conflicts": f"{APP}conflicts",
        "webhooks": f"{APP}webhooks",
        "keys": f"{APP}keys",
        "erasures": f"{APP}erasures",
        "operators": "/console/operators",
        "audit": "/console/audit",
        "password": "/console/password",
        "missing": f"{APP}nowhere",
    }


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_have_no_violations(
    console: Server,
    people: People,
    enter: Callable[..., Page],
    size: tuple[int, int],
    scheme: str,
) -> None:
    """axe-core finds nothing on any page, in both colour schemes, at both widths."""
    ask(console, "POST", "/api/v1/webhooks/", body={"url": "http://127.0.0.1:9/hook"})
    page = enter("admin", size, color_scheme=scheme)
    folder = ARTEFACTS / console.database.partition(":")[0]
    folder.mkdir(parents=True, exist_ok=True)
    wrong: dict[str, list[str]] = {}
    for name, address in addresses(people).items():
        page.goto(address)
        page.screenshot(path=folder / f"{name}-{size[0]}-{scheme}.png", full_page=True)
        wide = page.evaluate("document.documentElement.scrollWidth")
        if wide > size[0]:
            wrong[f"{name} is {wide} pixels wide"] = []
        page.evaluate(AXE)
        for violation in page.evaluate("axe.run()")["violations"]:
            nodes = [node["html"] for node in violation["nodes"]]
            wrong[f"{name}: {violation['help']}"] = nodes
    assert wrong == {}
