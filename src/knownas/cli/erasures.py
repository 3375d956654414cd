"""`knownas erase` and `erasures …`: persons who are gone, and what can be shown of that."""

from typing import Final

import click

from knownas import receipts
from knownas.cli.options import app_option, database_option, json_option, who, who_options
from knownas.cli.printing import emit, utc
from knownas.cli.running import Failure, on_registry, telling_errors
from knownas.erasing import Person, Whom
from knownas.history import Source
from knownas.model import ALL_KINDS, clean_kind, clean_profile_id, clean_value
from knownas.receipts import Receipt
from knownas.registry import Registry

_BY: Final = Source("erasure")


@click.command()
@click.argument("words", nargs=-1, metavar="[[KIND] VALUE]")
@who_options
@click.option("--yes", is_flag=True, help="Do not ask.")
@app_option
@json_option
@database_option
@on_registry
async def erase(  # noqa: PLR0913 - the options of the command
    registry: Registry,
    words: tuple[str, ...],
    *,
    customer: str | None,
    profile_id: str | None,
    yes: bool,
    app_name: str,
    as_json: bool,
) -> None:
    """Erase a person for good: knownas erase --customer user-1, or an identifier of one profile."""
    whom = _whom(words, customer, profile_id)
    app = await registry.app(app_name)
    if not yes:
        person = await registry.eraser.person(app, whom)
        click.confirm(f"Erase {_counted(person)}? There is no undo.", abort=True)
    erased = await registry.eraser.erase(app, whom, by=_BY)
    await registry.eraser.finish_if_due()
    signed = await registry.eraser.receipt(app, erased.signed.receipt.id)
    emit({"receipt": signed.receipt, "signed": signed.text}, as_json, _lines(signed.receipt))


@click.group("erasures")
def erasures_group() -> None:
    """List, show and check receipts of erasures, and make those of a ledger again."""


@erasures_group.command("list")
@click.option("--limit", type=click.IntRange(1, 1_000), default=100, show_default=True)
@app_option
@json_option
@database_option
@on_registry
async def erasures_list(registry: Registry, *, limit: int, app_name: str, as_json: bool) -> None:
    """List the newest erasures of an app."""
    app = await registry.app(app_name)
    found = await registry.eraser.receipts(app, None, limit)
    lines = [
        f"{one.id}  {utc(one.erased_at)}  {'complete' if one.complete else 'waits'}"
        for one in found
    ]
    emit({"erasures": found}, as_json, "\n".join(lines) or "Nobody was erased.")


@erasures_group.command("show")
@click.argument("erasure_id", metavar="ID")
@app_option
@json_option
@database_option
@on_registry
async def erasures_show(
    registry: Registry, erasure_id: str, *, app_name: str, as_json: bool
) -> None:
    """Show a receipt as it is now."""
    app = await registry.app(app_name)
    signed = await registry.eraser.receipt(app, clean_profile_id(erasure_id, source="id"))
    emit({"receipt": signed.receipt, "signed": signed.text}, as_json, _lines(signed.receipt))


@erasures_group.command("key")
@json_option
@database_option
@on_registry
async def erasures_key(registry: Registry, *, as_json: bool) -> None:
    """Print the public key by which receipts are checked."""
    public_key = await registry.eraser.public_key()
    emit({"algorithm": "Ed25519", "public_key": public_key}, as_json, public_key)


@erasures_group.command("verify")
@click.argument("public_key", metavar="KEY")
@click.argument("signed")
@json_option
def erasures_verify(*, public_key: str, signed: str, as_json: bool) -> None:
    """Check that the owner of the public KEY signed a receipt, and print what that says."""

    def run() -> None:
        found = receipts.verified(signed, public_key)
        emit({"receipt": found}, as_json, _lines(found))

    telling_errors(run)


@erasures_group.command("finish")
@json_option
@database_option
@on_registry
async def erasures_finish(registry: Registry, *, as_json: bool) -> None:
    """Do now what erasures wait for from this server, which may hold up writes for a while."""
    await registry.eraser.finish()
    emit({"finished": True}, as_json, "Nothing waits for this server any more.")


@erasures_group.command("replay")
@click.argument("ledgers", nargs=-1, metavar="[LEDGER]...")
@json_option
@database_option
@on_registry
async def erasures_replay(registry: Registry, ledgers: tuple[str, ...], *, as_json: bool) -> None:
    """Erase again whom ledgers name, after a database was restored by its own tools."""
    done = await registry.eraser.replay(ledgers)
    await registry.eraser.finish_if_due()
    lines = [f"{one.app}: {one.erasures:,} erasures, {one.persons:,} persons" for one in done]
    emit({"apps": done}, as_json, "\n".join(lines) or "The database had them all.")


def _whom(words: tuple[str, ...], customer: str | None, profile_id: str | None) -> Whom:
    if not words:
        return Whom(who(customer, profile_id))
    *names, value = words
    if len(names) > 1 or customer or profile_id:
        raise Failure("Say whom: --customer ID, --profile UUID, or one value and its kind.")
    kinds = (clean_kind(names[0], source="kind"),) if names else ALL_KINDS
    return Whom(None, kinds, clean_value(value, source="value"))


def _counted(person: Person) -> str:
    values = sum(len(found) for found in person.identifiers.values())
    return (
        f"{len(person.profile_ids)} profiles, {len(person.customers)} customers, {values} "
        f"identifiers and {person.changes} entries of the history"
    )


def _lines(receipt: Receipt) -> str:
    erased = receipt.erased
    lines = [
        f"erasure     {receipt.id}",
        f"erased      {utc(receipt.erased_at)}",
        f"profiles    {erased.profiles}",
        f"customers   {erased.customers}",
        f"history     {erased.history}",
        *(f"{kind} = {count}" for kind, count in erased.identifiers.items()),
        "complete    " + (utc(receipt.completed_at) if receipt.completed_at else "not yet"),
        *(
            f"waits       {wait.what} (the {wait.who}"
            + (f", until {utc(wait.until)})" if wait.until else ")")
            for wait in receipt.waits
        ),
        *(f"ask next    {one.vendor}" for one in erased.vendors),
    ]
    return "\n".join(lines)
