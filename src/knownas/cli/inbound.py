"""`knownas webhook-in …`: webhooks that Adapty and others send here."""

from typing import Any

import click

from knownas.cli.options import app_option, database_option, json_option, secret_given
from knownas.cli.printing import emit, utc
from knownas.cli.running import on_registry
from knownas.errors import ValidationError
from knownas.receiving import DeadLetter, InboundSecret
from knownas.registry import Registry
from knownas.webhooks.inbound import SenderState
from knownas.webhooks.senders import SENDERS

_PAGE = 100

_sender_argument = click.argument("sender", type=click.Choice(list(SENDERS)))


@click.group("webhook-in")
def webhook_in_group() -> None:
    """Take the webhooks of Adapty and RevenueCat: their secrets, and what of them failed."""


@webhook_in_group.command("create")
@_sender_argument
@app_option
@json_option
@database_option
@on_registry
async def webhook_in_create(
    registry: Registry, sender: str, *, app_name: str, as_json: bool
) -> None:
    """Make a secret for SENDER and show it, this once."""
    app = await registry.app(app_name)
    text, secret = await registry.reception.create_secret(app, sender)
    emit(
        {"secret": text, "path": _path(sender, app_name), **_secret_data(secret)},
        as_json,
        f"Have {sender} send to {_path(sender, app_name)} with this as its Authorization header, "
        f"shown only this once:\n{text}",
    )


@webhook_in_group.command("adopt")
@_sender_argument
@click.option(
    "--stdin", is_flag=True, help="Read the secret from standard input; else it is asked."
)
@app_option
@json_option
@database_option
@on_registry
async def webhook_in_adopt(
    registry: Registry, sender: str, *, stdin: bool, app_name: str, as_json: bool
) -> None:
    """Accept what SENDER sends as its Authorization header already."""
    app = await registry.app(app_name)
    text = secret_given("Secret", stdin=stdin)
    secret = await registry.reception.adopt_secret(app, sender, text)
    emit(
        {"path": _path(sender, app_name), **_secret_data(secret)},
        as_json,
        f"Adopted as {secret.id}.",
    )


@webhook_in_group.command("list")
@app_option
@json_option
@database_option
@on_registry
async def webhook_in_list(registry: Registry, *, app_name: str, as_json: bool) -> None:
    """List the secrets of an app, and who came with a wrong one."""
    app = await registry.app(app_name)
    states = await registry.reception.state(app.id)
    lines = [line for state in states for line in _lines(state)]
    emit(
        [_state_data(state, app_name) for state in states],
        as_json,
        "\n".join(lines) or "There is no secret, and nobody was refused.",
    )


@webhook_in_group.command("revoke")
@click.argument("secret_id")
@app_option
@json_option
@database_option
@on_registry
async def webhook_in_revoke(
    registry: Registry, secret_id: str, *, app_name: str, as_json: bool
) -> None:
    """End a secret at once."""
    app = await registry.app(app_name)
    await registry.reception.revoke_secret(app.id, secret_id)
    emit({"id": secret_id, "revoked": True}, as_json, f"Revoked {secret_id}.")


@webhook_in_group.command("dead")
@app_option
@json_option
@database_option
@on_registry
async def webhook_in_dead(registry: Registry, *, app_name: str, as_json: bool) -> None:
    """List the events of which something could not be stored."""
    app = await registry.app(app_name)
    found: list[DeadLetter] = []
    before = None
    while True:
        page = await registry.reception.letters(app.id, before, _PAGE)
        found += page
        if len(page) < _PAGE:
            break
        before = page[-1].place
    lines = [f"{one.id}  {utc(one.at)}  {one.sender}  {one.reason}" for one in found]
    emit(list(map(_letter_data, found)), as_json, "\n".join(lines) or "There is no dead letter.")


@webhook_in_group.command("replay")
@click.argument("letter_id", required=False)
@app_option
@json_option
@database_option
@on_registry
async def webhook_in_replay(
    registry: Registry, letter_id: str | None, *, app_name: str, as_json: bool
) -> None:
    """Take dead letters as if they came now: one, or up to 100 of the newest."""
    app = await registry.app(app_name)
    stored, failed = await registry.reception.replay(app, letter_id)
    emit(
        {"stored": stored, "failed": failed},
        as_json,
        f"{stored} are stored, {failed} stay dead letters.",
    )


@webhook_in_group.command("discard")
@click.argument("letter_id", required=False)
@click.option("--all", "everything", is_flag=True, help="All dead letters of the app.")
@app_option
@json_option
@database_option
@on_registry
async def webhook_in_discard(
    registry: Registry, letter_id: str | None, *, everything: bool, app_name: str, as_json: bool
) -> None:
    """Delete dead letters: one, or all."""
    if everything == (letter_id is not None):
        raise ValidationError("Give either the id of a dead letter, or --all.")
    app = await registry.app(app_name)
    deleted = await registry.reception.discard(app.id, letter_id)
    emit({"deleted": deleted}, as_json, f"Deleted {deleted}.")


def _path(sender: str, app_name: str) -> str:
    return f"/webhooks/{sender}/{app_name}"


def _secret_data(secret: InboundSecret) -> dict[str, Any]:
    return {"id": secret.id, "sender": secret.sender, "created_at": secret.created_at}


def _state_data(state: SenderState, app_name: str) -> dict[str, Any]:
    return {
        "sender": state.sender,
        "path": _path(state.sender, app_name),
        "secrets": list(map(_secret_data, state.secrets)),
        "refused": state.refusals.times,
        "refused_at": state.refusals.last_at or None,
    }


def _letter_data(letter: DeadLetter) -> dict[str, Any]:
    shown = letter._asdict()
    return {**shown, "body": letter.body.decode(errors="replace"), "whole": letter.is_whole}


def _lines(state: SenderState) -> list[str]:
    lines = [f"{one.id}  {one.sender}  {utc(one.created_at)}" for one in state.secrets]
    times, last_at = state.refusals.times, state.refusals.last_at
    if times:
        lines.append(f"{state.sender} was refused {times} times, the last time {utc(last_at)}.")
    return lines
