"""The pictures of docs/console.md: made anew by each run, among its artefacts, for copying."""

import asyncio
import random
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest
from playwright.sync_api import Page

from conftest import Server
from console.conftest import ARTEFACTS, NARROW
from knownas import bootstrap, demo
from knownas.history import DAY_MS, Source
from knownas.model import KIND_NUMBER, NO_IDENTIFIERS, AppId, ProfileRef
from knownas.registry import Registry, system_clock

DATABASES = ("sqlite",)

pytestmark = pytest.mark.browser

DAYS: Final = 60
PICTURES: Final = Path(__file__).parent.parent.parent / "docs" / "console"
APP: Final = "/console/apps/default/"


async def live_for_a_while(database: str) -> str:
    """Have an app grow for some days, and return the id of a profile with a history."""
    dice = random.Random(7)  # noqa: S311 - pictures that are alike
    clock = [system_clock() - DAYS * DAY_MS]
    registry = Registry(bootstrap.open_storage(database), clock=lambda: clock[0])
    app = (await registry.app("default")).id
    start = 0
    for day in range(DAYS):
        count = 20 + dice.randrange(10) + day // 3
        made = demo.profiles(seed=7, start=start, count=count, now=clock[0])
        # A kind that the app learned of on the way.
        late = KIND_NUMBER["one_signal_subscription_id"]
        kept = [
            profile
            if day > DAYS // 3
            else type(profile)(
                profile.profile_id,
                profile.customer_user_id,
                tuple(None if kind == late else it for kind, it in enumerate(profile.identifiers)),
                profile.attributes,
                profile.created_at,
                profile.updated_at,
            )
            for profile in made
        ]
        await registry.storage.add_profiles(app, kept, now=clock[0], by=Source("demo"))
        start += count
        clock[0] += DAY_MS
    profile = await one_with_a_history(registry, app, clock)
    await registry.close()
    return profile


async def one_with_a_history(registry: Registry, app: AppId, clock: list[int]) -> str:
    """Make a profile in some steps, and another one with one of its identifiers."""
    ref = ProfileRef("customer-48151623")
    clock[0] -= 20 * DAY_MS
    made = await registry.put_profile(app, ref, {"plan": "yearly"}, by=Source("api"))
    found = await registry.app("default")
    for via, values in (
        ("sdk", {"appsflyer_id": "1741933337626-3179568"}),
        ("sdk", {"mixpanel_user_id": "33w6yv5DPqAbCdEfGhIj", "amplitude_user_id": "905114235"}),
        ("webhook", {"one_signal_subscription_id": str(uuid.UUID(int=7 << 90))}),
        ("api", {"amplitude_user_id": "905117788"}),
    ):
        clock[0] += 4 * DAY_MS + 5_025_000
        await registry.set_identifiers(found, ref, values, by=Source(via))  # type: ignore[arg-type] # of the loop
    other = await registry.put_profile(app, ProfileRef("customer-23420000"), {}, by=Source("api"))
    assert other.identifiers == NO_IDENTIFIERS
    shared = {"appsflyer_id": "1741933337626-3179568"}
    ref = ProfileRef(profile_id=other.profile_id)
    await registry.set_identifiers(found, ref, shared, by=Source("sdk"))
    return made.profile_id


def test_pictures_of_the_documentation(console: Server, enter: Callable[..., Page]) -> None:
    """Each picture that the page shows is made here; the coverage has a step for each day."""
    with ThreadPoolExecutor(1) as thread:  # Playwright has the event loop of this one
        profile = thread.submit(asyncio.run, live_for_a_while(console.database)).result()
    folder = ARTEFACTS / "docs"
    folder.mkdir(parents=True, exist_ok=True)
    for name, address, options in (
        ("profile", f"{APP}profiles/{profile}", {"color_scheme": "light"}),
        ("coverage", f"{APP}coverage", {"color_scheme": "dark"}),
        ("profile-narrow", f"{APP}profiles/{profile}", {"size": NARROW}),
    ):
        page = enter("support", **options)
        page.goto(address)
        page.screenshot(path=folder / f"{name}.png")
    assert {file.name for file in folder.iterdir()} == {file.name for file in PICTURES.iterdir()}
    page = enter("viewer")
    page.goto(f"{APP}coverage")
    steps = page.locator(".plot .line").first.get_attribute("points")
    assert steps is not None
    assert len(steps.split()) >= 2 * DAYS
