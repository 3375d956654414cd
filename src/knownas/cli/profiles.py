"""`knownas get`, `set`, `profile …` and `demo`: profiles and their identifiers."""

import inspect
import sys
from typing import Final

import click
import msgspec

from knownas.as_of import Moment
from knownas.cli.loading import LazyGroup
from knownas.cli.options import TIME, app_option, database_option, json_option, who, who_options
from knownas.cli.printing import emit, print_profile, profile_data, set_lines
from knownas.cli.running import Failure, on_registry
from knownas.errors import ValidationError
from knownas.history import Source
from knownas.lookups import Sought
from knownas.model import (
    ALL_KINDS,
    KIND_NUMBER,
    KINDS,
    Profile,
    clean_identifiers,
    clean_kind,
    clean_value,
    identifiers_by_name,
    unknown_kinds,
)
from knownas.registry import Registry

_BY: Final = Source("cli")


@click.command("get")
@who_options
@app_option
@json_option
@database_option
@on_registry
async def get_identifiers(
    registry: Registry,
    *,
    customer: str | None,
    profile_id: str | None,
    app_name: str,
    as_json: bool,
) -> None:
    """Show the identifiers of a profile."""
    app = await registry.app(app_name)
    profile = await registry.profile(app.id, who(customer, profile_id))
    _print_identifiers(profile, as_json)


@click.command("set")
@click.argument("values", nargs=-1, required=True, metavar="KIND=VALUE...")
@who_options
@app_option
@json_option
@database_option
@on_registry
async def set_identifiers(  # noqa: PLR0913 - the options of the command
    registry: Registry,
    values: tuple[str, ...],
    *,
    customer: str | None,
    profile_id: str | None,
    app_name: str,
    as_json: bool,
) -> None:
    """Set identifiers of a profile: knownas set --customer user-1 appsflyer_id=17419-317."""
    pairs = [value.partition("=") for value in values]
    given = {name: value for name, _, value in pairs}
    if len(given) < len(pairs):
        raise Failure("An identifier is given twice.")
    cleaned, _ = clean_identifiers(given, reject_unknown=True)
    app = await registry.app(app_name)
    _print_identifiers(
        await registry.set_identifiers(app, who(customer, profile_id), cleaned, by=_BY), as_json
    )


@click.group(
    "profile",
    cls=LazyGroup,
    places={
        "bind": "identity:bind",
        "history": "insight:history",
        "merge": "identity:merge",
        "undo-merge": "identity:undo_merge",
    },
)
def profile_group() -> None:
    """Make, show, find and delete profiles, and clear their identifiers."""


@profile_group.command("create")
@who_options
@app_option
@json_option
@database_option
@on_registry
async def profile_create(
    registry: Registry,
    *,
    customer: str | None,
    profile_id: str | None,
    app_name: str,
    as_json: bool,
) -> None:
    """Make a profile, or show the one that is there."""
    app = await registry.app(app_name)
    ref = who(customer, profile_id)
    print_profile(await registry.put_profile(app.id, ref, {}, by=_BY), as_json)


@profile_group.command("show")
@click.option("--at", type=TIME, help="As it was then: milliseconds since 1970, or ISO 8601.")
@click.option("--revision", type=click.IntRange(1), help="As it was at this revision.")
@who_options
@app_option
@json_option
@database_option
@on_registry
async def profile_show(  # noqa: PLR0913 - the options of the command
    registry: Registry,
    *,
    at: int | None,
    revision: int | None,
    customer: str | None,
    profile_id: str | None,
    app_name: str,
    as_json: bool,
) -> None:
    """Show a profile with its identifiers and attributes, as it is or as it was."""
    if at is not None and revision is not None:
        raise Failure("Say --at or --revision, not both.")
    app = await registry.app(app_name)
    ref = who(customer, profile_id)
    if at is None and revision is None:
        profile = await registry.profile(app.id, ref)
    else:
        profile = await registry.profile_as_of(app.id, ref, Moment(at, revision))
    print_profile(profile, as_json)


@profile_group.command("find")
@click.argument("words", nargs=-1, required=True, metavar="[KIND] VALUE")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True)
@app_option
@json_option
@database_option
@on_registry
async def profile_find(
    registry: Registry, words: tuple[str, ...], *, limit: int, app_name: str, as_json: bool
) -> None:
    """Show which profiles have an identifier: knownas profile find appsflyer_id 17419-317."""
    *names, value = words
    if len(names) > 1:
        raise Failure("Say one value, and before it at most one kind of identifier.")
    kinds = (clean_kind(names[0], source="kind"),) if names else ALL_KINDS
    sought = Sought(kinds, clean_value(value, source="value"), limit)
    app = await registry.app(app_name)
    found = registry.holders(app.id, sought)
    holders = await found if inspect.isawaitable(found) else found
    more = holders.next is not None
    data = [
        {"kind": KINDS[kind].name, "profile": profile_data(profile)}
        for kind, profile in holders.found
    ]
    lines = [
        f"{KINDS[kind].name}  {profile.profile_id}  {profile.customer_user_id or 'anonymous'}"
        for kind, profile in holders.found
    ]
    if more:
        lines.append(f"There are more; --limit {2 * limit} shows as many.")
    emit({"found": data, "more": more}, as_json, "\n".join(lines) or "No profile has it.")


@profile_group.command("clear")
@click.argument("names", nargs=-1, metavar="[KIND]...")
@click.option("--all", "every", is_flag=True, help="Clear every identifier.")
@who_options
@app_option
@json_option
@database_option
@on_registry
async def profile_clear(  # noqa: PLR0913 - the options of the command
    registry: Registry,
    names: tuple[str, ...],
    *,
    every: bool,
    customer: str | None,
    profile_id: str | None,
    app_name: str,
    as_json: bool,
) -> None:
    """Clear identifiers of a profile: knownas profile clear --customer user-1 appsflyer_id."""
    if every == bool(names):
        raise Failure("Name the kinds of identifier to clear, or say --all.")
    if unknown := [name for name in names if name not in KIND_NUMBER]:
        raise ValidationError(fields=unknown_kinds(unknown))
    kinds = ALL_KINDS if every else [KIND_NUMBER[name] for name in names]
    app = await registry.app(app_name)
    ref = who(customer, profile_id)
    print_profile(await registry.clear_identifiers(app.id, ref, kinds, by=_BY), as_json)


@profile_group.command("delete")
@click.option("--yes", is_flag=True, help="Do not ask.")
@who_options
@app_option
@json_option
@database_option
@on_registry
async def profile_delete(  # noqa: PLR0913 - the options of the command
    registry: Registry,
    *,
    yes: bool,
    customer: str | None,
    profile_id: str | None,
    app_name: str,
    as_json: bool,
) -> None:
    """Delete a profile with its identifiers."""
    app = await registry.app(app_name)
    ref = who(customer, profile_id)
    if not yes:
        profile = await registry.profile(app.id, ref)
        click.confirm(f"Delete the profile {profile.profile_id}?", abort=True)
    print_profile(await registry.delete_profile(app.id, ref, by=_BY), as_json)


@profile_group.command("export")
@who_options
@app_option
@database_option
@on_registry
async def profile_export(
    registry: Registry, *, customer: str | None, profile_id: str | None, app_name: str
) -> None:
    """Print all that is kept of a person, as JSON: for that person to see."""
    app = await registry.app(app_name)
    export = await registry.eraser.export(app, who(customer, profile_id))
    click.echo(msgspec.json.format(msgspec.json.encode(export), indent=2).decode())


@click.command()
@click.argument("count", type=click.IntRange(1))
@click.option("--seed", type=int, default=1, show_default=True)
@app_option
@json_option
@database_option
@on_registry
async def demo(registry: Registry, count: int, *, seed: int, app_name: str, as_json: bool) -> None:
    """Fill an app with COUNT plausible profiles, the same for the same seed."""
    app = await registry.app(app_name)
    with click.progressbar(length=count, label="Profiles", file=sys.stderr) as bar:
        added = await registry.fill_with_demo(app.id, count, seed=seed, progress=bar.update)
    emit({"added": added}, as_json, f"Added {added} profiles to the app {app_name}.")


def _print_identifiers(profile: Profile, as_json: bool) -> None:  # noqa: FBT001 - as above
    data = identifiers_by_name(profile.identifiers)
    emit(data, as_json, "\n".join(set_lines(data)) or "No identifier is set.")
