"""Webhooks that are sent, and those that others send: how they fare, and what is tried again."""

import re
from typing import Final

from starlette.responses import Response

from knownas.console.visits import Refused, Visit
from knownas.errors import DeadLetterNotFound, FeatureNotConfigured
from knownas.events import TYPES
from knownas.model import clean_profile_id

_PAGE: Final = 100
_is_letter: Final = re.compile(r"ltr_[0-9a-f]{16}").fullmatch


async def show(visit: Visit, secret: str = "") -> Response:
    """List the webhooks, and the dead letters of those that others send."""
    app = visit.its_app.id
    problem = ""
    try:
        sent = await visit.registry.webhooks.all(app)
    except FeatureNotConfigured as error:
        sent, problem = [], error.fields[0].message
    return visit.page(
        "webhooks.html",
        sent=sent,
        problem=problem,
        senders=await visit.registry.reception.state(app),
        letters=await visit.registry.reception.letters(app, None, _PAGE),
        types=TYPES,
        secret=secret,
    )


async def add(visit: Visit) -> Response:
    """Make a webhook, and show its secret this once."""
    visit.require("admin")
    types = tuple(one for one in TYPES if one in visit.form.get("type", ()))
    await visit.note("create webhook")
    _, secret = await visit.registry.webhooks.add(
        visit.its_app.id, visit.text("url").strip(), types or None
    )
    return await show(visit, secret)


async def one(visit: Visit, outcome: str = "") -> Response:
    """Show one webhook, with what waits and what was given up."""
    app, webhook_id = visit.its_app.id, visit.place["webhook"]
    return visit.page(
        "webhook.html",
        state=await visit.registry.webhooks.one(app, webhook_id),
        dead=await visit.registry.webhooks.deliveries(app, webhook_id, "dead", None, _PAGE),
        pending=await visit.registry.webhooks.deliveries(app, webhook_id, "pending", None, _PAGE),
        outcome=outcome,
    )


async def change(visit: Visit) -> Response:
    """Enable, disable, try or delete a webhook."""
    visit.require("admin")
    app, webhook_id, action = visit.its_app.id, visit.place["webhook"], visit.text("do")
    if action not in {"enable", "disable", "test", "delete"}:
        raise Refused(400, "There is no such thing to do.")
    await visit.note(f"{action} webhook", detail=webhook_id)
    hooks = visit.registry.webhooks
    if action == "delete":
        await hooks.delete(app, webhook_id)
        return visit.go("webhooks")
    if action == "test":
        outcome = await hooks.test(app, webhook_id)
        status = "" if outcome.status is None else f", status {outcome.status}"
        return await one(visit, f"The test: {outcome.result}{status}. {outcome.reason}")
    await hooks.change(app, webhook_id, enabled=action == "enable")
    return visit.go(f"webhooks/{webhook_id}")


async def replay(visit: Visit) -> Response:
    """Have what was given up tried again: all of it, or one."""
    webhook_id = visit.place["webhook"]
    only = None
    if visit.text("profile"):
        revision = visit.number(visit.text("revision"), "revision") or 0
        only = (clean_profile_id(visit.text("profile"), source="profile"), revision)
    await visit.note("replay webhook", about=["" if only is None else only[0]], detail=webhook_id)
    await visit.registry.webhooks.replay(visit.its_app.id, webhook_id, only)
    return visit.go(f"webhooks/{webhook_id}")


async def handle_letters(visit: Visit) -> Response:
    """Try dead letters again, or delete them: one, or all."""
    letter_id, action = visit.text("letter") or None, visit.text("do")
    if letter_id is not None and not _is_letter(letter_id):
        raise DeadLetterNotFound
    if action == "replay":
        await visit.note("replay dead letter", detail=letter_id or "all")
        await visit.registry.reception.replay(visit.its_app, letter_id)
    elif action == "delete":
        visit.require("admin")
        await visit.note("delete dead letter", detail=letter_id or "all")
        await visit.registry.reception.discard(visit.its_app.id, letter_id)
    else:
        raise Refused(400, "There is no such thing to do.")
    return visit.go("webhooks")
