"""Webhooks that are sent, and those that others send: how they fare, and what is tried again."""

import re
from typing import Final

from starlette.responses import Response

from knownas.console.visits import Refused, Visit
from knownas.errors import DeadLetterNotFound, FeatureNotConfigured
from knownas.events import TYPES
from knownas.model import clean_profile_id
from knownas.webhooks.endpoints import OVERLAP_SECONDS
from knownas.webhooks.senders import SENDERS

_PAGE: Final = 100
_is_secret: Final = re.compile(r"whs_[0-9a-f]{16}").fullmatch
_is_letter: Final = re.compile(r"ltr_[0-9a-f]{16}").fullmatch


async def show(visit: Visit, secret: str = "", let_in: str = "") -> Response:
    """List the webhooks, and the secrets and dead letters of those that others send.

    `secret` is one just made to sign with, `let_in` one just made for a sender.
    """
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
        let_in=let_in,
        names=list(SENDERS),
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


async def one(visit: Visit, outcome: str = "", secret: str = "") -> Response:
    """Show one webhook, with what waits and what was given up, and a secret just made."""
    app, webhook_id = visit.its_app.id, visit.place["webhook"]
    return visit.page(
        "webhook.html",
        state=await visit.registry.webhooks.one(app, webhook_id),
        dead=await visit.registry.webhooks.deliveries(app, webhook_id, "dead", None, _PAGE),
        pending=await visit.registry.webhooks.deliveries(app, webhook_id, "pending", None, _PAGE),
        outcome=outcome,
        secret=secret,
    )


async def change(visit: Visit) -> Response:
    """Enable, disable, try or delete a webhook, or give it another secret."""
    visit.require("admin")
    app, webhook_id, action = visit.its_app.id, visit.place["webhook"], visit.text("do")
    if action not in {"enable", "disable", "test", "rotate", "delete"}:
        raise Refused(400, "There is no such thing to do.")
    await visit.note(f"{action} webhook", detail=webhook_id)
    hooks = visit.registry.webhooks
    if action == "delete":
        await hooks.delete(app, webhook_id)
        return visit.go("webhooks")
    if action == "rotate":
        _, secret = await hooks.rotate(app, webhook_id, overlap_seconds=OVERLAP_SECONDS)
        return await one(visit, secret=secret)
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


async def let_in(visit: Visit) -> Response:
    """Make a secret for a sender and show it this once, or adopt what it sends already."""
    sender, text = visit.text("sender"), visit.text("secret").strip()
    if sender not in SENDERS:
        raise Refused(400, "There is no such sender.")
    await visit.note("adopt sender's secret" if text else "create sender's secret", detail=sender)
    if text:
        await visit.registry.reception.adopt_secret(visit.its_app, sender, text)
        return visit.go("webhooks")
    made, _ = await visit.registry.reception.create_secret(visit.its_app, sender)
    return await show(visit, let_in=made)


async def revoke_secret(visit: Visit) -> Response:
    """End a secret of a sender at once."""
    secret_id = visit.text("secret")
    if not _is_secret(secret_id):
        raise Refused(400, "There is no such secret.")
    await visit.note("revoke sender's secret", detail=secret_id)
    await visit.registry.reception.revoke_secret(visit.its_app.id, secret_id)
    return visit.go("webhooks")


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
