"""What operators do in the console, in a real browser."""

import re
import time
from collections.abc import Callable

import httpx2
import pytest
from playwright.sync_api import Page, expect

from conftest import IDENTIFIERS_PATH, NATIVE_PATH, Server, ask, free_port, knownas, stored
from console.conftest import PASSWORD, SHARED, People, fill_in

DATABASES = ("sqlite", "postgresql")

pytestmark = pytest.mark.browser

APP = "/console/apps/default/"
MIXPANEL = "33w6yv5DPqAbCdEfGhIj"


def profile_page(people: People) -> str:
    """Return the address of ann's page."""
    return f"{APP}profiles/{people.ann}"


def look_for(page: Page, text: str) -> None:
    """Search for a text."""
    page.goto(APP)
    page.get_by_label("An identifier of any vendor").fill(text)
    page.get_by_role("button", name="Search").click()


def audit(console: Server, enter: Callable[..., Page]) -> str:
    """Return what the newest page of the audit log says."""
    assert console.url
    page = enter("admin")
    page.goto("/console/audit")
    return page.inner_text("main")


# --- Signing in -----------------------------------------------------------------------------------


def test_operator_signs_in_and_out(open_page: Callable[..., Page]) -> None:
    """Nothing is shown before; a wrong password is refused; after signing out nothing is again."""
    page = open_page()
    page.goto(f"{APP}coverage")
    expect(page).to_have_url(re.compile("/console/sign-in$"))
    fill_in(page, "viewer", "wrong wrong wrong")
    expect(page.get_by_role("alert")).to_have_text("Name and password do not go together.")
    fill_in(page, "viewer")
    expect(page.get_by_role("heading", level=1)).to_have_text("Which user is this?")
    page.get_by_role("button", name="Sign out").click()
    page.goto(f"{APP}coverage")
    expect(page).to_have_url(re.compile("/console/sign-in$"))


def test_admin_makes_and_removes_an_operator(
    enter: Callable[..., Page], open_page: Callable[..., Page]
) -> None:
    """Who was made signs in, changes the password, and is signed out when removed."""
    page = enter("admin")
    page.goto("/console/operators")
    page.get_by_label("Name").fill("new.one")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Make the operator").click()
    other = open_page()
    other.goto("/console/sign-in")
    fill_in(other, "new.one")
    other.get_by_role("link", name="new.one").click()
    other.get_by_label("Password now").fill(PASSWORD)
    other.get_by_label("New password, 12").fill(f"{PASSWORD}!")
    other.get_by_label("New password again").fill(f"{PASSWORD}!")
    other.get_by_role("button", name="Change the password").click()
    fill_in(other, "new.one", f"{PASSWORD}!")
    expect(other.get_by_role("heading", level=1)).to_have_text("Which user is this?")
    page.goto("/console/operators")
    page.get_by_role("row", name="new.one").get_by_text("Remove…").click()
    page.get_by_role("button", name="Remove new.one").click()
    expect(page.get_by_role("row", name="new.one")).to_have_count(0)
    other.goto(APP)
    expect(other).to_have_url(re.compile("/console/sign-in$"))


# --- Finding --------------------------------------------------------------------------------------


def test_search_finds_by_whatever_names_a_profile(
    people: People, enter: Callable[..., Page]
) -> None:
    """An identifier, a customer id and a profile id lead to the page of the one who has it."""
    page = enter("viewer")
    for text in (MIXPANEL, f"  {MIXPANEL} ", people.ann, people.ann.upper()):
        look_for(page, text)
        expect(page).to_have_url(re.compile(f"/profiles/{people.ann}$"))
    look_for(page, SHARED)
    expect(page.get_by_role("heading", level=2)).to_have_text("2 profiles have it")
    page.get_by_role("link", name=people.bob).click()
    expect(page).to_have_url(re.compile(f"/profiles/{people.bob}$"))
    look_for(page, "nobody has this")
    expect(page.get_by_role("status")).to_contain_text("No profile has this.")


def test_pages_work_without_javascript(people: People, enter: Callable[..., Page]) -> None:
    """Search, the slider and the changes are forms and links."""
    page = enter("support", java_script_enabled=False)
    look_for(page, MIXPANEL)
    page.locator("#revision").press("Home")
    page.get_by_role("button", name="Show", exact=True).click()
    expect(page.get_by_text("This is how it was at revision 1")).to_be_visible()
    page.goto(f"{APP}changes?after=first")
    expect(page.get_by_role("link", name=people.ann).first).to_be_visible()


# --- A profile ------------------------------------------------------------------------------------


def test_identifiers_are_masked_until_revealed(
    console: Server, people: People, enter: Callable[..., Page]
) -> None:
    """The page has no value in it; what is revealed is that which was chosen, and is noted."""
    page = enter("support")
    page.goto(profile_page(people))
    for value in (MIXPANEL, SHARED, "9876543210", "ann-42"):
        assert value not in page.content()
    page.get_by_label("Choose mixpanel_user_id").check()
    page.get_by_role("button", name="Reveal").click()
    expect(page.locator(".revealed")).to_have_text([MIXPANEL])
    assert SHARED not in page.content()
    page.goto(profile_page(people))
    assert MIXPANEL not in page.content()
    page.get_by_role("button", name="Reveal").click()
    expect(page.locator(".revealed")).to_have_count(4)
    told = audit(console, enter)
    assert re.search(rf"support\s+reveal\s+default\s+{people.ann}\s+mixpanel_user_id\n", told)
    for value in (MIXPANEL, SHARED, "9876543210", "ann-42"):
        assert value not in told


def test_viewer_reveals_nothing_and_changes_nothing(
    people: People, enter: Callable[..., Page]
) -> None:
    """A viewer has no button for it, and is refused without one."""
    page = enter("viewer")
    page.goto(profile_page(people))
    assert page.get_by_role("button").all_inner_texts() == ["Sign out", "Show"]
    token = page.locator("input[name=token]").first.get_attribute("value")
    for action in ("reveal", "clear", "merge", "undo-merge", "erase"):
        answer = page.request.post(
            f"{profile_page(people)}/{action}",
            form={"token": token or ""},
            headers={"Origin": page.url.partition("/console")[0]},
        )
        assert answer.status == 403, action
    for path in ("/console/audit", "/console/operators", f"{APP}keys"):
        assert page.request.get(path).status == 403, path


def test_profile_is_shown_as_it_was(people: People, enter: Callable[..., Page]) -> None:
    """The slider goes back by revisions, each of which the history names."""
    page = enter("viewer")
    page.goto(profile_page(people))
    expect(page.locator(".timeline > li")).to_have_count(4)
    page.locator("#revision").press("ArrowLeft")
    expect(page.locator("#revision-shown")).to_have_text("3")
    page.get_by_role("button", name="Show", exact=True).click()
    expect(page.get_by_text("This is how it was at revision 3")).to_be_visible()
    assert "branch_id" not in page.locator(".fields").inner_text()
    page.get_by_role("link", name="See it as it is now").click()
    assert "branch_id" in page.locator(".fields").inner_text()


def test_identifiers_are_cleared(
    console: Server, people: People, enter: Callable[..., Page]
) -> None:
    """What was chosen is cleared once that was confirmed, and the history has it."""
    page = enter("support")
    page.goto(profile_page(people))
    page.get_by_label("Choose branch_id").check()
    page.get_by_role("button", name="Clear…").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Clear 1 identifier?")
    page.get_by_role("button", name="Clear").click()
    expect(page.locator(".done")).to_have_text("The identifiers were cleared.")
    values = ask(console, "GET", IDENTIFIERS_PATH, profile=people.ann).json()
    assert (values["branch_id"], values["appsflyer_id"]) == (None, SHARED)
    assert "changed by console" in page.locator(".timeline > li").first.inner_text()


def test_profiles_are_merged_and_parted_again(
    console: Server, people: People, enter: Callable[..., Page]
) -> None:
    """First it is shown what would come of it; the merge has the chosen sides; it is undone."""
    page = enter("support")
    page.goto(profile_page(people))
    page.get_by_role("link", name="Merge it into this one").click()
    expect(page.locator("tr.clash")).to_have_count(2)
    assert ask(console, "GET", NATIVE_PATH, profile=people.bob).json()["data"]["revision"] == 2
    row = page.get_by_role("row", name="branch_id")
    row.get_by_role("radio").nth(1).check()
    page.get_by_role("button", name="Merge", exact=True).click()
    expect(page.get_by_text("It was merged into")).to_be_visible()
    merged = ask(console, "GET", NATIVE_PATH, profile=people.bob).json()["data"]
    assert merged["profile_id"] == people.ann
    assert merged["identifiers"]["branch_id"] == "111222333444"
    page.get_by_role("button", name="Undo the merge").click()
    expect(page.locator(".done")).to_contain_text("The merge was undone")
    again = ask(console, "GET", NATIVE_PATH, profile=people.bob).json()["data"]
    assert again["profile_id"] == people.bob


def test_person_is_erased_with_a_receipt(
    console: Server, people: People, enter: Callable[..., Page]
) -> None:
    """Nobody is erased by a slip; afterwards there is a receipt, and no id, in the log either."""
    page = enter("admin")
    page.goto(profile_page(people))
    page.get_by_role("link", name="Erase this person").click()
    page.get_by_label("To go on, type").fill("nothing")
    page.get_by_role("button", name="Erase").click()
    expect(page.get_by_role("alert")).to_contain_text("Type the first 8 characters")
    page.get_by_label("To go on, type").fill(people.ann[:8])
    page.get_by_role("button", name="Erase").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Receipt of an erasure")
    assert "AppsFlyer" in page.inner_text("main")
    assert ask(console, "GET", IDENTIFIERS_PATH, profile=people.ann).status_code == 404
    told = audit(console, enter)
    assert people.ann not in told
    assert re.search(r"admin\s+erase\s+default\s", told)
    if not console.database.startswith("sqlite"):  # of SQLite pages are freed first
        assert people.ann.encode() not in stored(console.database)
    page.goto(f"{APP}erasures")
    page.locator("main a.id").first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Receipt of an erasure")


# --- The app --------------------------------------------------------------------------------------


def test_key_is_made_used_and_revoked(console: Server, enter: Callable[..., Page]) -> None:
    """It is shown once, opens the app, and does not after it was revoked."""
    page = enter("admin")
    page.goto(f"{APP}keys")
    page.locator("form[action$=keys]").get_by_label("What it is for").fill("the tests")
    page.get_by_role("button", name="Make the key").click()
    key = page.locator("#made").inner_text()
    assert key.startswith("secret_live_ka_")
    made = console._replace(key=key)
    assert ask(made, "GET", "/api/v1/coverage/").status_code == 200
    page.goto(f"{APP}keys")
    assert key not in page.content()
    row = page.get_by_role("row", name="the tests")
    row.get_by_text("Change…").click()
    row.get_by_role("button", name="Revoke").click()
    expect(page.get_by_role("row", name="the tests")).to_contain_text("ended")
    deadline = time.monotonic() + 2
    while ask(made, "GET", "/api/v1/coverage/").status_code != 401:
        assert time.monotonic() < deadline
    assert key not in audit(console, enter)


def test_key_is_adopted_limited_and_rotated(console: Server, enter: Callable[..., Page]) -> None:
    """The team's own key opens the app, is held to its rate, and makes way for a successor."""
    page = enter("admin")
    page.goto(f"{APP}keys")
    page.get_by_text("Adopt a key").click()
    form = page.locator("form[action$=adopt]")
    form.get_by_label("The key").fill("the-teams-own-key-of-long-ago")
    form.get_by_label("What it is for").fill("since ever")
    form.get_by_role("button", name="Adopt it").click()
    adopted = console._replace(key="the-teams-own-key-of-long-ago")
    assert ask(adopted, "GET", "/api/v1/coverage/").status_code == 200
    row = page.get_by_role("row", name="since ever")
    row.get_by_text("Change…").click()
    row.get_by_label("Rate").fill("7/minute")
    row.get_by_role("button", name="Limit it").click()
    expect(row).to_contain_text("7/minute")
    row.get_by_text("Change…").click()
    row.get_by_role("button", name="Make a successor").click()
    made = console._replace(key=page.locator("#made").inner_text())
    assert ask(made, "GET", "/api/v1/coverage/").status_code == 200
    expect(page.get_by_role("row", name="since ever")).to_have_count(2)


def test_changes_appear_by_themselves(
    console: Server, people: People, enter: Callable[..., Page]
) -> None:
    """A change that is made while the page is open gets a row, without its value."""
    page = enter("viewer")
    page.goto(f"{APP}changes")
    expect(page.locator("#live")).to_have_text("Live")
    body = {"adjust_device_id": "appears-by-itself"}
    assert ask(console, "POST", IDENTIFIERS_PATH, body=body, profile=people.bob).is_success
    row = page.get_by_role("row", name=re.compile(people.bob))
    expect(row).to_contain_text("adjust_device_id set")
    assert "appears-by-itself" not in page.content()


def test_conflicts_lead_to_the_profiles(people: People, enter: Callable[..., Page]) -> None:
    """Each shared identifier stands there masked, by kind, with some who have it."""
    page = enter("viewer")
    page.goto(f"{APP}conflicts")
    page.get_by_role("link", name="appsflyer_id").click()
    assert SHARED not in page.content()
    page.get_by_role("link", name=people.bob).click()
    expect(page.get_by_text("is also that of")).to_be_visible()


@pytest.mark.usefixtures("people")
def test_coverage_is_plotted_and_told(enter: Callable[..., Page]) -> None:
    """There is a plot for each kind that says what it shows, and the same as a table."""
    page = enter("viewer")
    page.goto(f"{APP}coverage")
    expect(page.get_by_role("img")).to_have_count(17)
    expect(page.get_by_role("img", name="appsflyer_id")).to_have_count(1)
    page.get_by_text("The same as a table").click()
    expect(page.get_by_role("columnheader", name="appsflyer_id")).to_be_visible()


def test_webhook_is_made_watched_and_replayed(
    console: Server, people: People, enter: Callable[..., Page]
) -> None:
    """Its secret is shown once; what failed is listed; a test tells how it ended."""
    page = enter("admin")
    page.goto(f"{APP}webhooks")
    page.get_by_text("Make a webhook").click()
    page.get_by_label("URL").fill(f"http://127.0.0.1:{free_port()}/hook")
    page.get_by_role("button", name="Make it").click()
    expect(page.get_by_label("New secret")).to_contain_text("whsec_")
    body = {"adjust_device_id": "for-the-webhook"}
    assert ask(console, "POST", IDENTIFIERS_PATH, body=body, profile=people.bob).is_success
    page.locator("main a.id").first.click()
    page.get_by_role("button", name="Send a test").click()
    expect(page.get_by_role("status")).to_contain_text("The test:")
    deadline = time.monotonic() + 20
    while not page.get_by_role("link", name=people.bob).count():
        assert time.monotonic() < deadline
        page.reload()
    page.get_by_text("Give it another secret").click()
    page.get_by_role("button", name="Make another secret").click()
    expect(page.get_by_label("New secret")).to_contain_text("whsec_")
    page.get_by_text("Delete it").click()
    page.get_by_role("button", name="Delete").click()
    expect(page.get_by_text("There is none.").first).to_be_visible()


def test_import_is_watched(console: Server, enter: Callable[..., Page]) -> None:
    """Its progress is there while the file comes, and by itself what came of it, and forgotten."""
    lines = [f"imported-{number},branch-{number}" for number in range(500)]
    content = "\n".join(["customer_user_id,branch_id", *lines, "a,b,c,d", ""]).encode()
    half = len(content) // 2
    body = {"name": "users.csv", "size": len(content)}
    place = ask(console, "POST", "/api/v1/imports/", body=body).headers["location"]

    def send(start: int, end: int, complete: str) -> None:
        headers = [("Upload-Offset", str(start)), ("Upload-Complete", complete)]
        headers.append(("Content-Type", "application/partial-upload"))
        answer = ask(console, "PATCH", place, headers, content[start:end])
        assert answer.status_code == 204, answer.text

    send(0, half, "?0")
    page = enter("admin")
    page.goto(f"{APP}imports")
    row = page.get_by_role("row", name="users.csv")
    expect(row.get_by_role("progressbar")).to_be_visible()
    expect(row).to_contain_text("uploading")
    send(half, len(content), "?1")
    expect(row).to_contain_text("500 new, 1 bad", timeout=30_000)
    row.get_by_text("Problems").click()
    expect(row).to_contain_text("Line 502")
    row.get_by_role("button", name="Forget").click()
    expect(page.get_by_text("There is none.")).to_be_visible()
    assert re.search(r"admin\s+cancel import\s+default", audit(console, enter))


def test_sender_is_let_in_and_shut_out(console: Server, enter: Callable[..., Page]) -> None:
    """Its secret is shown once and is good until it is revoked."""
    page = enter("admin")
    page.goto(f"{APP}webhooks")
    page.get_by_text("Let a sender in").click()
    page.get_by_label("Sender").select_option("revenuecat")
    page.get_by_role("button", name="Let it in").click()
    secret = page.get_by_label("New secret").inner_text()
    url = f"{console.url}/webhooks/revenuecat/default/"

    def status() -> int:
        return httpx2.post(url, headers={"Authorization": secret}, content=b"{}").status_code

    assert status() != 503
    page.goto(f"{APP}webhooks")
    assert secret not in page.content()
    row = page.get_by_role("row", name="revenuecat")
    row.get_by_text("Revoke…").click()
    row.get_by_role("button", name="Revoke").click()
    expect(page.get_by_text("/webhooks/revenuecat/default/")).to_have_count(0)
    assert status() == 503


def test_dead_letter_is_shown_without_its_values(
    console: Server, enter: Callable[..., Page]
) -> None:
    """An event that could not be read is listed with the reason, tried again, and deleted."""
    secret = knownas("webhook-in", "create", "adapty", database=console.database)
    secret = re.search(r"knownas_in_\S+", secret)[0]  # type: ignore[index] # else the test fails
    answer = httpx2.post(
        f"{console.url}/webhooks/adapty/default/",
        headers={"Authorization": secret},
        content=b'{"event_type": 1, "profile_id": "canary-value"}',
    )
    page = enter("admin")
    page.goto(f"{APP}webhooks")
    assert "canary-value" not in page.content(), answer.text
    page.get_by_role("button", name="Try again", exact=True).click()
    page.get_by_role("button", name="Delete").click()
    expect(page.get_by_role("button", name="Delete")).to_have_count(0)
