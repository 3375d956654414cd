"""`knownas profile bind`, `merge` and `undo-merge`: who is who."""

from typing import Final

import click

from knownas.cli.options import app_option, database_option, json_option, who, who_options
from knownas.cli.printing import emit, print_profile, profile_data, profile_text
from knownas.cli.running import Failure, on_registry
from knownas.errors import FieldError, ValidationError
from knownas.history import Source
from knownas.merging import RULES, Clash, Side
from knownas.model import clean_profile_id
from knownas.registry import Registry

_BY: Final = Source("cli")
_SIDE: Final = click.Choice(["survivor", "source"])


@click.command("bind")
@who_options
@click.option("--none", "nobody", is_flag=True, help="Leave the profile without a customer.")
@click.option("--rebind", is_flag=True, help="Also where both have had another.")
@app_option
@json_option
@database_option
@on_registry
async def bind(  # noqa: PLR0913 - the options of the command
    registry: Registry,
    *,
    customer: str | None,
    profile_id: str | None,
    nobody: bool,
    rebind: bool,
    app_name: str,
    as_json: bool,
) -> None:
    """Have a customer be that of a profile, or of none."""
    if nobody == bool(customer):
        raise Failure("Say --customer ID or --none.")
    ref = who(customer, profile_id)
    if ref.profile_id is None:
        raise Failure("Say which profile: --profile UUID.")
    app = await registry.app(app_name)
    profile = await registry.bind_customer(
        app.id, ref.profile_id, ref.customer_user_id, rebind=rebind, by=_BY
    )
    print_profile(profile, as_json)


@click.command("merge")
@who_options
@click.option("--from-customer", metavar="ID", help="The customer's id of the source.")
@click.option("--from-profile", metavar="UUID", help="The profile's id of the source.")
@click.option("--rule", "rules", metavar="FIELD=SIDE", multiple=True, help="Whose is kept of it.")
@click.option("--default", type=_SIDE, default="survivor", show_default=True, help="Of all else.")
@click.option("--dry-run", is_flag=True, help="Change nothing; say what would come of it.")
@app_option
@json_option
@database_option
@on_registry
async def merge(  # noqa: PLR0913 - the options of the command
    registry: Registry,
    *,
    customer: str | None,
    profile_id: str | None,
    from_customer: str | None,
    from_profile: str | None,
    rules: tuple[str, ...],
    default: Side,
    dry_run: bool,
    app_name: str,
    as_json: bool,
) -> None:
    """Merge a profile, the source, into another one, which stays."""
    survivor = who(customer, profile_id)
    source = who(from_customer, from_profile, ("from-customer", "from-profile"))
    app = await registry.app(app_name)
    merged = await registry.merge(
        app, survivor, source, rules=_rules(rules), default=default, dry_run=dry_run
    )
    lines = [_clash_line(clash) for clash in merged.clashes]
    data = {
        "dry_run": dry_run,
        "survivor": profile_data(merged.survivor),
        "source": profile_data(merged.source),
        "conflicts": [clash._asdict() for clash in merged.clashes],
    }
    emit(data, as_json, "\n".join([*lines, profile_text(merged.survivor)]))


@click.command("undo-merge")
@click.argument("source", metavar="UUID")
@app_option
@json_option
@database_option
@on_registry
async def undo_merge(registry: Registry, source: str, *, app_name: str, as_json: bool) -> None:
    """Make the profile again that had the id UUID before it was merged."""
    app = await registry.app(app_name)
    undone = await registry.undo_merge(app.id, clean_profile_id(source, source="UUID"))
    data = {"survivor": profile_data(undone.survivor), "source": profile_data(undone.source)}
    emit(data, as_json, "\n\n".join(map(profile_text, undone)))


def _rules(given: tuple[str, ...]) -> dict[str, Side]:
    """Return whose value is kept of each field. Raises ValidationError."""
    rules: dict[str, Side] = {}
    problems: list[FieldError] = []
    for text in given:
        field, _, side = text.partition("=")
        if field not in RULES:
            problems.append(FieldError(f"--rule {text}", "There is no such field to have a rule."))
        elif side == "survivor":
            rules[field] = "survivor"
        elif side == "source":
            rules[field] = "source"
        else:
            problems.append(FieldError(f"--rule {text}", "Must be survivor or source."))
    if problems:
        raise ValidationError(fields=problems)
    return rules


def _clash_line(clash: Clash) -> str:
    kept, lost = clash.survivor, clash.source
    if clash.kept == "source":
        kept, lost = lost, kept
    return f"{clash.field}: {kept} is kept, of the {clash.kept}; {lost} is not"
