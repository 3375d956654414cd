"""Signing in at an issuer with a real browser, which decides which cookies go along."""

import contextlib
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from conftest import free_port, knownas, start, stop
from console.conftest import Watched
from issuing import issuing, settings_for

pytestmark = pytest.mark.browser


def test_strict_session_outlasts_the_way_back(browser: Browser, tmp_path: Path) -> None:
    """From the issuer, another site, the browser comes back into a session, and stays in it."""
    database = f"sqlite:///{tmp_path}/knownas.db"
    port = free_port()
    # For a browser `localhost` is another site than `127.0.0.1`.
    with issuing("localhost") as issuer, contextlib.ExitStack() as stack:
        issuer.shows_page = True
        issuer.claims = {"email": "ann@example.com", "email_verified": True}
        process = start(
            database,
            port,
            **settings_for(tmp_path, issuer.url),
        )
        stack.callback(stop, process)
        create = ("operator", "create", "ann", "--role", "admin", "--oidc", "ann@example.com")
        knownas(*create, database=database)
        context = browser.new_context(base_url=f"http://127.0.0.1:{port}")
        stack.callback(context.close)
        watched = Watched([])
        page = context.new_page()
        page.on("console", lambda said: watched.said(said.type, said.text))
        page.goto("/console/sign-in")
        page.get_by_role("link", name="Sign in at localhost").click()
        page.get_by_role("link", name="I am Ann").click()
        expect(page.get_by_role("link", name="ann", exact=True)).to_be_visible()
        cookies = {one["name"]: one["sameSite"] for one in context.cookies()}
        assert cookies["knownas-session"] == "Strict"
        assert "knownas-ticket" not in cookies
        page.goto("/console/operators")
        expect(page.get_by_role("cell", name="ann@example.com")).to_be_visible()
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_role("link", name="Sign in at localhost")).to_be_visible()
        assert watched.wrong == []
