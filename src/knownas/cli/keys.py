"""`knownas key …`: make, adopt, list, limit, revoke and rotate API keys."""

import time
from collections.abc import Callable
from typing import Any

import click

from knownas.cli.options import app_option, database_option, json_option, secret_given
from knownas.cli.printing import emit, utc
from knownas.cli.running import on_registry
from knownas.keys import KeyType
from knownas.model import NO_RATE, ApiKey, clean_rate
from knownas.registry import Registry


@click.group("key")
def key_group() -> None:
    """Make, adopt, list, limit, revoke and rotate API keys."""


def _new_key_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option(
            "--type", "key_type", type=click.Choice(["secret", "public"]), default="secret"
        ),
        click.option("--label", default="", help="What it is for."),
        click.option("--days", type=click.IntRange(1), help="Days until it expires."),
        click.option(
            "--rate",
            default="default",
            show_default=True,
            help="How many requests it may make, as 600/minute; none: any number; "
            "default: KNOWNAS_KEY_RATE.",
        ),
    ):
        command = option(command)
    return command


def _expiry(days: int | None) -> int | None:
    return None if days is None else time.time_ns() // 1_000_000 + days * 86_400_000


@key_group.command("create")
@_new_key_options
@app_option
@json_option
@database_option
@on_registry
async def key_create(  # noqa: PLR0913 - the options of the command
    registry: Registry,
    *,
    app_name: str,
    key_type: KeyType,
    label: str,
    days: int | None,
    rate: str,
    as_json: bool,
) -> None:
    """Make a key and show it, this once."""
    app = await registry.app(app_name)
    text, key = await registry.keyring.create(
        app, key_type, label=label, expires_at=_expiry(days), rate=_rate(rate)
    )
    emit({"key": text, **_key_data(key)}, as_json, text)


@key_group.command("adopt")
@click.option("--stdin", is_flag=True, help="Read the key from standard input; else it is asked.")
@_new_key_options
@app_option
@json_option
@database_option
@on_registry
async def key_adopt(  # noqa: PLR0913 - the options of the command
    registry: Registry,
    *,
    stdin: bool,
    app_name: str,
    key_type: KeyType,
    label: str,
    days: int | None,
    rate: str,
    as_json: bool,
) -> None:
    """Accept a key that the team uses already, such as an Adapty key."""
    app = await registry.app(app_name)
    kept_rate = _rate(rate)
    text = secret_given("Key", stdin=stdin)
    key = await registry.keyring.adopt(
        app, text, key_type, label=label, expires_at=_expiry(days), rate=kept_rate
    )
    emit(_key_data(key), as_json, f"Adopted as {key.id}.")


@key_group.command("list")
@app_option
@json_option
@database_option
@on_registry
async def key_list(registry: Registry, *, app_name: str, as_json: bool) -> None:
    """List the keys of an app; the keys themselves are not stored."""
    app = await registry.app(app_name)
    keys = await registry.keyring.of_app(app.id)
    now = time.time_ns() // 1_000_000
    lines = [
        f"{key.id}  {key.type}  {'live' if key.is_live(now) else 'ended'}  "
        f"{utc(key.created_at)}  {_use(key)}  "
        f"{key.label}{f'  (rate {key.rate})' if key.rate else ''}"
        for key in keys
    ]
    emit([_key_data(key) for key in keys], as_json, "\n".join(lines) or "There is no key.")


@key_group.command("revoke")
@click.argument("key_id")
@app_option
@json_option
@database_option
@on_registry
async def key_revoke(registry: Registry, key_id: str, *, app_name: str, as_json: bool) -> None:
    """Revoke a key: every server process refuses it within a second."""
    app = await registry.app(app_name)
    await registry.keyring.revoke(app.id, key_id)
    emit({"id": key_id, "revoked": True}, as_json, f"Revoked {key_id}.")


@key_group.command("rotate")
@click.argument("key_id")
@click.option(
    "--overlap",
    type=click.IntRange(0),
    default=3_600,
    show_default=True,
    help="Seconds for which both are good.",
)
@app_option
@json_option
@database_option
@on_registry
async def key_rotate(
    registry: Registry, key_id: str, *, overlap: int, app_name: str, as_json: bool
) -> None:
    """Make a successor of a key and show it; the old one ends after the overlap."""
    app = await registry.app(app_name)
    text, key = await registry.keyring.rotate(app, key_id, overlap_seconds=overlap)
    emit({"key": text, **_key_data(key)}, as_json, text)


@key_group.command("limit")
@click.argument("key_id")
@click.argument("rate")
@app_option
@json_option
@database_option
@on_registry
async def key_limit(
    registry: Registry, key_id: str, rate: str, *, app_name: str, as_json: bool
) -> None:
    """Let a key make RATE requests: as 600/minute, none: any number, default: KNOWNAS_KEY_RATE."""
    app = await registry.app(app_name)
    kept = _rate(rate)
    await registry.keyring.limit(app.id, key_id, kept)
    emit({"id": key_id, "rate": kept}, as_json, f"The rate of {key_id} is {rate}.")


def _rate(text: str) -> str | None:
    """Return an option's rate as it is kept."""
    if text == "default":
        return None
    return NO_RATE if text == NO_RATE else clean_rate(text, source="rate")


def _use(key: ApiKey) -> str:
    return "never used" if key.last_used_at is None else f"used {utc(key.last_used_at)}"


def _key_data(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "app": key.app.name,
        "type": key.type,
        "label": key.label,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "ended_at": key.ended_at,
        "rate": key.rate,
        "last_used_at": key.last_used_at,
    }
