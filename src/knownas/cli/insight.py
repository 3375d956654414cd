"""`knownas profile history`, `changes`, `coverage`, `conflicts`, `policy …`: what was and is."""

import asyncio
from typing import Final

import click
import msgspec

from knownas.cli.options import app_option, database_option, json_option, who, who_options
from knownas.cli.printing import change_text, emit
from knownas.cli.running import Failure, on_registry
from knownas.events import LOOK_SECONDS, event
from knownas.history import DAY_MS
from knownas.model import KINDS, Policies, clean_policies, policies_by_name
from knownas.registry import Registry

_PAGE: Final = 500


@click.command("history")
@click.option("--before", type=click.IntRange(1), metavar="REVISION", help="Only what was earlier.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True)
@who_options
@app_option
@json_option
@database_option
@on_registry
async def history(  # noqa: PLR0913 - the options of the command
    registry: Registry,
    *,
    before: int | None,
    limit: int,
    customer: str | None,
    profile_id: str | None,
    app_name: str,
    as_json: bool,
) -> None:
    """Show what happened to a profile, the newest first."""
    app = await registry.app(app_name)
    ref = who(customer, profile_id)
    found = await registry.history(app.id, ref, before=before, limit=limit)
    lines = [change_text(change) for change in found]
    if len(found) == limit and found[-1].revision > 1:
        lines.append(f"There may be more; --before {found[-1].revision} shows it.")
    emit(list(map(event, found)), as_json, "\n".join(lines) or "There is nothing earlier.")


@click.command("changes")
@click.option("--after", metavar="CURSOR", help="Begin there; `now` for what is still to come.")
@click.option("--follow", is_flag=True, help="Go on with what comes, until it is stopped.")
@app_option
@json_option
@database_option
@on_registry
async def changes(
    registry: Registry, *, after: str | None, follow: bool, app_name: str, as_json: bool
) -> None:
    """Print what changed in an app's profiles, the oldest first, a line a change."""
    app = await registry.app(app_name)
    cursor = await registry.end_of_changes() if after == "now" else after
    while True:
        page = await registry.changes(app.id, cursor, _PAGE)
        for change in page.changes:
            text = msgspec.json.encode(event(change)).decode() if as_json else change_text(change)
            click.echo(text)
        cursor = page.cursor
        if len(page.changes) == _PAGE:
            continue
        if not follow:
            return
        await asyncio.sleep(LOOK_SECONDS)


@click.command("coverage")
@app_option
@json_option
@database_option
@on_registry
async def coverage(registry: Registry, *, app_name: str, as_json: bool) -> None:
    """Show how many profiles there are, and how many have each kind; as JSON also day by day."""
    app = await registry.app(app_name)
    now, days = await registry.coverage(app.id)
    data = {
        "profiles": now.profiles,
        "identifiers": now.identifiers,
        "days": [
            {"day": day * DAY_MS or None, "profiles": it.profiles, "identifiers": it.identifiers}
            for day, it in days.items()
        ],
    }
    lines = [f"{'profiles':32}  {now.profiles:>13,}"]
    lines += [
        f"{name:32}  {count:>13,}  {count / now.profiles:>4.0%}"
        for name, count in now.identifiers.items()
        if count
    ]
    emit(data, as_json, "\n".join(lines))


@click.command("conflicts")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True)
@app_option
@json_option
@database_option
@on_registry
async def conflicts(registry: Registry, *, limit: int, app_name: str, as_json: bool) -> None:
    """Show which identifiers stand on several profiles, and on how many."""
    app = await registry.app(app_name)
    found = await registry.shared(app.id, None, limit)
    counts = {
        KINDS[kind].name: count for kind, count in (await registry.count_shared(app.id)).items()
    }
    data = [
        {"kind": KINDS[kind].name, "value": value, "profiles": profiles}
        for kind, value, profiles in found
    ]
    lines = [f"{it['kind']}  {it['value']}  {it['profiles']} profiles" for it in data]
    total = sum(counts.values())
    if total > len(found):
        lines.append(f"There are {total:,}; --limit shows more of them.")
    emit(
        {"conflicts": data, "counts": counts},
        as_json,
        "\n".join(lines) or "No identifier stands on several profiles.",
    )


@click.group("policy")
def policy_group() -> None:
    """Say what becomes of an identifier that is set while another profile has it."""


@policy_group.command("list")
@app_option
@json_option
@database_option
@on_registry
async def policy_list(registry: Registry, *, app_name: str, as_json: bool) -> None:
    """List the policy of each kind."""
    app = await registry.app(app_name)
    _print_policies(await registry.policies(app), as_json)


@policy_group.command("set")
@click.argument("values", nargs=-1, required=True, metavar="KIND=POLICY...")
@app_option
@json_option
@database_option
@on_registry
async def policy_set(
    registry: Registry, values: tuple[str, ...], *, app_name: str, as_json: bool
) -> None:
    """Set policies, allow, reject or move: knownas policy set appsflyer_id=reject."""
    pairs = [value.partition("=") for value in values]
    given = {name: policy for name, _, policy in pairs}
    if len(given) < len(pairs):
        raise Failure("A kind is given twice.")
    app = await registry.app(app_name)
    policies = clean_policies({**await registry.policies(app), **given})
    await registry.set_policies(app.id, policies)
    _print_policies(policies, as_json)


def _print_policies(policies: Policies, as_json: bool) -> None:  # noqa: FBT001 - as in emit
    data = policies_by_name(policies)
    emit(data, as_json, "\n".join(f"{name:32}  {policy}" for name, policy in data.items()))
