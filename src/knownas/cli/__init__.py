"""The `knownas` command: thin over the registry, one module to a group of commands."""

from collections.abc import Mapping
from typing import Final

import click

from knownas.cli.loading import LazyGroup
from knownas.cli.running import Address, Failure

COMMANDS: Final[Mapping[str, str]] = {
    "app": "apps:app_group",
    "backup": "database:backup",
    "bench": "load:bench",
    "changes": "insight:changes",
    "check": "database:check",
    "conflicts": "insight:conflicts",
    "copy": "copying:copy",
    "coverage": "insight:coverage",
    "demo": "profiles:demo",
    "doctor": "doctor:examine",
    "emulator": "emulator:emulator",
    "erase": "erasures:erase",
    "erasures": "erasures:erasures_group",
    "export": "transfer:export_file",
    "get": "profiles:get_identifiers",
    "import": "transfer:import_file",
    "import-uploaded": "transfer:import_uploaded",
    "key": "keys:key_group",
    "master-key": "master_key:master_key_group",
    "migrate": "database:migrate",
    "operator": "operators:operator_group",
    "policy": "insight:policy_group",
    "profile": "profiles:profile_group",
    "restore": "database:restore",
    "serve": "serve:serve",
    "set": "profiles:set_identifiers",
    "status": "status:status",
    "upstream": "upstream:upstream_group",
    "webhook": "webhooks:webhook_group",
    "webhook-in": "inbound:webhook_in_group",
}
"""The module and the name of each command: its module is imported when it is run."""

REMOTE: Final = frozenset(
    {"changes", "conflicts", "coverage", "get", "import", "policy", "profile", "set"}
)
"""The commands that can ask a server instead of a database."""


def main() -> None:
    """Run the command."""
    cli(prog_name="knownas")


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]}, cls=LazyGroup, places=COMMANDS
)
@click.version_option(package_name="knownas")
@click.option("--url", help=f"Ask a server, not a database: for {', '.join(sorted(REMOTE))}.")
@click.option("--key", envvar="KNOWNAS_KEY", help="The server's secret key; default: KNOWNAS_KEY.")
@click.pass_context
def cli(context: click.Context, url: str | None, key: str | None) -> None:
    """By which identifiers every other system knows your user."""
    if url is None:
        return
    if context.invoked_subcommand == "status":
        raise Failure("status asks for metrics, not by a key: say --url after it.")
    if context.invoked_subcommand not in REMOTE:
        raise Failure(f"{context.invoked_subcommand} needs the database itself; leave out --url.")
    if not key:
        raise Failure("Say with which key: --key KEY or KNOWNAS_KEY.")
    context.obj = Address(url, key)
