"""`knownas operator …`: make, list and remove those who may use the console."""

import sys
from typing import Any

import click

from knownas.cli.options import database_option, json_option
from knownas.cli.printing import emit, utc
from knownas.cli.running import on_registry
from knownas.operators import ROLES, Operator, Role
from knownas.registry import Registry

_stdin_option = click.option(
    "--password-stdin",
    is_flag=True,
    help="Read the password from standard input; else it is asked.",
)
_oidc_option = click.option(
    "--oidc",
    metavar="EMAIL|sub:SUBJECT",
    default="",
    help="Who NAME is at the OpenID Connect issuer. No password is asked then.",
)


@click.group("operator")
def operator_group() -> None:
    """Make, list and remove those who may use the console."""


@operator_group.command("create")
@click.argument("name")
@click.option("--role", type=click.Choice(ROLES), default="viewer", show_default=True)
@_oidc_option
@_stdin_option
@json_option
@database_option
@on_registry
async def operator_create(  # noqa: PLR0913 - the command's own options
    registry: Registry, name: str, *, role: Role, oidc: str, password_stdin: bool, as_json: bool
) -> None:
    """Let NAME sign in at /console/."""
    password = "" if oidc and not password_stdin else _password(stdin=password_stdin)
    operator = await registry.desk.create(name, role, password, oidc)
    emit(_data(operator), as_json, f"{name} may sign in at /console/ as {role}.")


@operator_group.command("list")
@json_option
@database_option
@on_registry
async def operator_list(registry: Registry, *, as_json: bool) -> None:
    """List the operators."""
    found = await registry.desk.all()
    lines = [f"{one.name}  {one.role}  {utc(one.created_at)}  {one.oidc}".rstrip() for one in found]
    emit([_data(one) for one in found], as_json, "\n".join(lines) or "There is no operator.")


@operator_group.command("passwd")
@click.argument("name")
@_stdin_option
@json_option
@database_option
@on_registry
async def operator_passwd(
    registry: Registry, name: str, *, password_stdin: bool, as_json: bool
) -> None:
    """Give NAME another password; whoever is signed in as NAME is signed out."""
    await registry.desk.set_password(name, _password(stdin=password_stdin))
    emit({"name": name, "changed": True}, as_json, f"{name} has another password.")


@operator_group.command("oidc")
@click.argument("name")
@click.argument("identity", metavar="EMAIL|sub:SUBJECT", required=False, default="")
@json_option
@database_option
@on_registry
async def operator_oidc(registry: Registry, name: str, *, identity: str, as_json: bool) -> None:
    """Say who NAME is at the OpenID Connect issuer; without EMAIL or SUBJECT, nobody.

    Whoever is signed in as NAME is signed out.
    """
    kept = await registry.desk.set_oidc(name, identity)
    emit({"name": name, "oidc": kept}, as_json, f"{name} is {kept or 'nobody'} at the issuer.")


@operator_group.command("remove")
@click.argument("name")
@json_option
@database_option
@on_registry
async def operator_remove(registry: Registry, name: str, *, as_json: bool) -> None:
    """Remove NAME, who is signed out at once; what the audit log tells of NAME stays."""
    await registry.desk.remove(name)
    emit({"name": name, "removed": True}, as_json, f"Removed {name}.")


def _password(*, stdin: bool) -> str:
    if stdin:
        return sys.stdin.read().removesuffix("\n")
    asked: str = click.prompt("Password", hide_input=True, confirmation_prompt=True)
    return asked


def _data(operator: Operator) -> dict[str, Any]:
    return operator._asdict()
