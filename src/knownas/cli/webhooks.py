"""`knownas webhook …`: where an app's changes are sent, and what of that was not taken."""

from typing import Any, Final

import click

from knownas.cli.options import app_option, database_option, json_option
from knownas.cli.printing import emit, utc
from knownas.cli.running import on_registry
from knownas.deliveries import Delivery, DeliveryKey, WebhookState
from knownas.errors import ValidationError
from knownas.model import clean_profile_id
from knownas.registry import Registry
from knownas.webhooks.endpoints import MAX_OVERLAP_SECONDS, OVERLAP_SECONDS, clean_types

_PAGE: Final = 1_000


@click.group("webhook")
def webhook_group() -> None:
    """Have an app's changes sent to a URL; needs KNOWNAS_MASTER_KEY_FILE."""


@webhook_group.command("add")
@click.argument("url")
@click.option(
    "--type", "types", multiple=True, metavar="TYPE", help="Only these events; may be repeated."
)
@app_option
@json_option
@database_option
@on_registry
async def webhook_add(
    registry: Registry, url: str, *, types: tuple[str, ...], app_name: str, as_json: bool
) -> None:
    """Send what changes from now on to URL; show the secret, this once."""
    app = await registry.app(app_name)
    state, secret = await registry.webhooks.add(app.id, url, clean_types(list(types) or None))
    emit(
        {**_data(state), "secret": secret},
        as_json,
        f"Made {state.webhook.id}. Its secret, shown only this once:\n{secret}",
    )


@webhook_group.command("list")
@app_option
@json_option
@database_option
@on_registry
async def webhook_list(registry: Registry, *, app_name: str, as_json: bool) -> None:
    """List the webhooks of an app, and how each fares."""
    app = await registry.app(app_name)
    states = await registry.webhooks.all(app.id)
    text = "\n".join(map(_line, states)) or "There is no webhook."
    emit(list(map(_data, states)), as_json, text)


@webhook_group.command("enable")
@click.argument("webhook_id")
@app_option
@json_option
@database_option
@on_registry
async def webhook_enable(
    registry: Registry, webhook_id: str, *, app_name: str, as_json: bool
) -> None:
    """Send again, from where it was disabled."""
    state = await _switch(registry, app_name, webhook_id, enabled=True)
    emit(_data(state), as_json, f"Enabled {webhook_id}.")


@webhook_group.command("disable")
@click.argument("webhook_id")
@app_option
@json_option
@database_option
@on_registry
async def webhook_disable(
    registry: Registry, webhook_id: str, *, app_name: str, as_json: bool
) -> None:
    """Send nothing until it is enabled again."""
    state = await _switch(registry, app_name, webhook_id, enabled=False)
    emit(_data(state), as_json, f"Disabled {webhook_id}.")


async def _switch(
    registry: Registry, app_name: str, webhook_id: str, *, enabled: bool
) -> WebhookState:
    app = await registry.app(app_name)
    return await registry.webhooks.change(app.id, webhook_id, enabled=enabled)


@webhook_group.command("delete")
@click.argument("webhook_id")
@app_option
@json_option
@database_option
@on_registry
async def webhook_delete(
    registry: Registry, webhook_id: str, *, app_name: str, as_json: bool
) -> None:
    """Delete a webhook with all that was still to be delivered."""
    app = await registry.app(app_name)
    await registry.webhooks.delete(app.id, webhook_id)
    emit({"id": webhook_id, "deleted": True}, as_json, f"Deleted {webhook_id}.")


@webhook_group.command("rotate")
@click.argument("webhook_id")
@click.option(
    "--overlap",
    type=click.IntRange(0, MAX_OVERLAP_SECONDS),
    default=OVERLAP_SECONDS,
    show_default=True,
    help="Seconds for which both sign.",
)
@app_option
@json_option
@database_option
@on_registry
async def webhook_rotate(
    registry: Registry, webhook_id: str, *, overlap: int, app_name: str, as_json: bool
) -> None:
    """Give a webhook another secret and show it, this once."""
    app = await registry.app(app_name)
    state, secret = await registry.webhooks.rotate(app.id, webhook_id, overlap_seconds=overlap)
    emit({**_data(state), "secret": secret}, as_json, secret)


@webhook_group.command("dead")
@click.argument("webhook_id")
@app_option
@json_option
@database_option
@on_registry
async def webhook_dead(
    registry: Registry, webhook_id: str, *, app_name: str, as_json: bool
) -> None:
    """List what was given up after the last attempt."""
    app = await registry.app(app_name)
    found: list[Delivery] = []
    after = None
    while True:
        page = await registry.webhooks.deliveries(app.id, webhook_id, "dead", after, _PAGE)
        found += page
        if len(page) < _PAGE:
            break
        after = page[-1].key
    lines = [
        f"{one.profile_id}  {one.revision}  {one.failure.reason if one.failure else ''}"
        for one in found
    ]
    emit(list(map(_delivery_data, found)), as_json, "\n".join(lines) or "Nothing was given up.")


@webhook_group.command("replay")
@click.argument("webhook_id")
@click.option("--profile", "profile_id", metavar="UUID", help="Only what is of this profile…")
@click.option("--revision", type=click.IntRange(1), help="…and this revision.")
@app_option
@json_option
@database_option
@on_registry
async def webhook_replay(  # noqa: PLR0913 - the options of the command
    registry: Registry,
    webhook_id: str,
    *,
    profile_id: str | None,
    revision: int | None,
    app_name: str,
    as_json: bool,
) -> None:
    """Have what was given up tried again: all of it, or one."""
    app = await registry.app(app_name)
    only: DeliveryKey | None = None
    if profile_id is not None and revision is not None:
        only = clean_profile_id(profile_id, source="profile"), revision
    elif (profile_id, revision) != (None, None):
        raise ValidationError("Give both --profile and --revision, or neither.")
    replayed, left = await registry.webhooks.replay(app.id, webhook_id, only)
    while left and only is None:
        more, left = await registry.webhooks.replay(app.id, webhook_id)
        if not more:
            break
        replayed += more
    emit(
        {"id": webhook_id, "replayed": replayed, "dead": left},
        as_json,
        f"{replayed} are tried again.",
    )


def _line(state: WebhookState) -> str:
    webhook = state.webhook
    failure = state.last_failure
    words = [
        webhook.id,
        "enabled" if webhook.disabled_at is None else "disabled",
        f"{state.pending} pending",
        f"{state.dead} dead",
        webhook.url,
    ]
    if webhook.disabled_because is not None:
        words.append(webhook.disabled_because)
    elif failure is not None:
        words.append(f"last failure {utc(failure.at)}: {failure.reason}")
    return "  ".join(words)


def _data(state: WebhookState) -> dict[str, Any]:
    shown = state.webhook._asdict()
    del shown["secrets"]
    shown |= {"cursor": state.cursor, "pending": state.pending, "dead": state.dead}
    failure = state.last_failure
    return shown | {"last_failure": None if failure is None else failure._asdict()}


def _delivery_data(delivery: Delivery) -> dict[str, Any]:
    failure = delivery.failure
    return {**delivery._asdict(), "failure": None if failure is None else failure._asdict()}
