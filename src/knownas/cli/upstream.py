"""`knownas upstream …`: the other server that knows an app's profiles, such as Adapty."""

import sys
from typing import Any, Final

import click
from msgspec import UNSET, UnsetType

from knownas.cli.options import app_option, database_option, json_option
from knownas.cli.printing import emit, utc
from knownas.cli.running import Failure, on_registry
from knownas.deliveries import Delivery, WebhookState
from knownas.model import AppId
from knownas.registry import Registry
from knownas.shadows import counts_by_name
from knownas.upstream import credentials
from knownas.upstream.shadow import MOST_KEPT
from knownas.upstream.terms import Terms
from knownas.upstreams import OnFailure, Upstream

_PAGE: Final = 1_000


@click.group("upstream")
def upstream_group() -> None:
    """Live beside another server that knows an app's profiles, too."""


@upstream_group.command("set")
@click.argument("url")
@click.option(
    "--key-stdin",
    is_flag=True,
    help="Read its API key from standard input; it is stored encrypted, under the master key.",
)
@click.option("--key-env", metavar="NAME", help="Servers find the key in this variable.")
@click.option("--key-file", metavar="PATH", help="Servers find the key in this file.")
@click.option("--read-through/--no-read-through", default=None, help="Ask for unknown profiles.")
@click.option(
    "--on-failure",
    type=click.Choice(["not_found", "unavailable"]),
    help="What an unknown profile gets while the upstream is down: 404, or 503.",
)
@click.option(
    "--write-through/--no-write-through",
    default=None,
    help="Tell the upstream what clients write here.",
)
@click.option(
    "--shadow-percent",
    type=click.IntRange(0, 100),
    help="Compare so many in a hundred answers with the upstream's.",
)
@app_option
@json_option
@database_option
@on_registry
async def upstream_set(  # noqa: PLR0913 - the options of the command
    registry: Registry,
    url: str,
    *,
    key_stdin: bool,
    key_env: str | None,
    key_file: str | None,
    read_through: bool | None,
    on_failure: OnFailure | None,
    shadow_percent: int | None,
    write_through: bool | None,
    app_name: str,
    as_json: bool,
) -> None:
    """Name the server at URL as the upstream of an app, or change how it is used."""
    if sum([key_stdin, key_env is not None, key_file is not None]) > 1:
        raise Failure("Say one of --key-stdin, --key-env and --key-file.")
    key_from: str | UnsetType = UNSET
    if key_env is not None:
        key_from = credentials.from_variable(key_env)
    if key_file is not None:
        key_from = credentials.from_file(key_file)
    terms = Terms(
        url=url,
        key=sys.stdin.read().strip() if key_stdin else UNSET,
        key_from=key_from,
        read_through=UNSET if read_through is None else read_through,
        on_failure=UNSET if on_failure is None else on_failure,
        shadow_percent=UNSET if shadow_percent is None else shadow_percent,
        write_through=UNSET if write_through is None else write_through,
    )
    app = await registry.app(app_name)
    upstream = await registry.upstreams.set(app, terms)
    await _show(registry, app.id, upstream, as_json=as_json)


@upstream_group.command("show")
@app_option
@json_option
@database_option
@on_registry
async def upstream_show(registry: Registry, *, app_name: str, as_json: bool) -> None:
    """Show the upstream of an app; its key is never shown."""
    app = await registry.app(app_name)
    upstream = await registry.upstreams.one(app.id)
    await _show(registry, app.id, upstream, as_json=as_json)


@upstream_group.command("pause")
@app_option
@json_option
@database_option
@on_registry
async def upstream_pause(registry: Registry, *, app_name: str, as_json: bool) -> None:
    """Ask and tell the upstream nothing for the time being."""
    await _pause(registry, app_name, as_json=as_json, paused=True)


@upstream_group.command("resume")
@app_option
@json_option
@database_option
@on_registry
async def upstream_resume(registry: Registry, *, app_name: str, as_json: bool) -> None:
    """Go on after a pause."""
    await _pause(registry, app_name, as_json=as_json, paused=False)


async def _pause(registry: Registry, app_name: str, *, as_json: bool, paused: bool) -> None:
    app = await registry.app(app_name)
    upstream = await registry.upstreams.pause(app.id, paused=paused)
    text = "Paused." if paused else "Resumed."
    await _show(registry, app.id, upstream, as_json=as_json, text=text)


async def _show(
    registry: Registry, app: AppId, upstream: Upstream, *, as_json: bool, text: str | None = None
) -> None:
    """Print an upstream; as text, unless there is another one, all of it."""
    told = await registry.upstreams.forwarding(app)
    emit(_data(upstream, told), as_json, text or _text(upstream, told))


@upstream_group.command("remove")
@app_option
@json_option
@database_option
@on_registry
async def upstream_remove(registry: Registry, *, app_name: str, as_json: bool) -> None:
    """Forget the upstream of an app; what came from it stays."""
    app = await registry.app(app_name)
    await registry.upstreams.remove(app.id)
    emit({"removed": True}, as_json, f"The app {app_name} has no upstream any more.")


@upstream_group.command("differences")
@click.option("--limit", type=click.IntRange(1, MOST_KEPT), default=20, show_default=True)
@click.option("--reset", is_flag=True, help="Forget them afterwards, and count anew.")
@app_option
@json_option
@database_option
@on_registry
async def upstream_differences(
    registry: Registry, *, limit: int, reset: bool, app_name: str, as_json: bool
) -> None:
    """Show how often this server and the upstream were the same, and which profiles differ."""
    app = await registry.app(app_name)
    counts, differing = await registry.upstreams.differing(app.id, limit)
    if reset:
        await registry.upstreams.compare_anew(app.id)
    shown = counts_by_name(counts)
    lines = [_counts("profiles", shown["profiles"])]
    lines += [_counts(name, of_kind) for name, of_kind in shown["identifiers"].items()]
    for one in differing:
        kinds = ", ".join(f"{name} {result}" for name, result in one.kinds.items())
        lines.append(f"{utc(one.at)}  {one.profile_id}  {kinds or 'not known there'}")
    emit({**shown, "differing": [one._asdict() for one in differing]}, as_json, "\n".join(lines))


def _counts(name: str, counts: Any) -> str:  # noqa: ANN401 - as `counts_by_name` has them
    told = ", ".join(f"{count} {result.replace('_', ' ')}" for result, count in counts.items())
    return f"{name:<32} {told}"


@upstream_group.command("dead")
@app_option
@json_option
@database_option
@on_registry
async def upstream_dead(registry: Registry, *, app_name: str, as_json: bool) -> None:
    """List what the upstream was not told after the last attempt."""
    app = await registry.app(app_name)
    found: list[Delivery] = []
    after = None
    while True:
        page = await registry.upstreams.deliveries(app.id, "dead", after, _PAGE)
        found += page
        if len(page) < _PAGE:
            break
        after = page[-1].key
    data = [
        {"profile_id": one.profile_id, "revision": one.revision, "last_failure": _failure(one)}
        for one in found
    ]
    lines = [
        f"{one.profile_id}  r{one.revision}  {one.failure.reason if one.failure else ''}"
        for one in found
    ]
    emit(data, as_json, "\n".join(lines) or "Nothing was given up.")


@upstream_group.command("replay")
@app_option
@json_option
@database_option
@on_registry
async def upstream_replay(registry: Registry, *, app_name: str, as_json: bool) -> None:
    """Tell the upstream again what was given up, and what waits."""
    app = await registry.app(app_name)
    replayed = 0
    while True:
        done, dead = await registry.upstreams.replay(app.id)
        replayed += done
        if not dead or not done:
            break
    emit({"replayed": replayed}, as_json, f"{replayed} are told again.")


def _failure(delivery: Delivery) -> dict[str, Any] | None:
    return None if delivery.failure is None else delivery.failure._asdict()


def _data(upstream: Upstream, told: WebhookState | None) -> dict[str, Any]:
    return {
        "url": upstream.url,
        "key_from": upstream.key_from or "stored",
        "read_through": upstream.read_through,
        "on_failure": upstream.on_failure,
        "shadow_percent": upstream.shadow_percent,
        "write_through": upstream.write_through,
        "paused": upstream.paused,
        "changed_at": upstream.changed_at,
        "pending": told and told.pending,
        "dead": told and told.dead,
        "last_failure": told and told.last_failure and told.last_failure._asdict(),
    }


def _text(upstream: Upstream, told: WebhookState | None) -> str:
    reads = f"yes; while it is down: {upstream.on_failure}" if upstream.read_through else "no"
    lines = [
        f"upstream       {upstream.url}{'  (paused)' if upstream.paused else ''}",
        f"key            {upstream.key_from or 'stored'}",
        f"read-through   {reads}",
        f"shadow         {upstream.shadow_percent} % of the reads",
        f"write-through  {'no' if told is None else f'{told.pending} wait, {told.dead} given up'}",
    ]
    if told is not None and told.last_failure is not None:
        at, _, reason = told.last_failure
        lines.append(f"last failure   {utc(at)}  {reason}")
    return "\n".join(lines)
