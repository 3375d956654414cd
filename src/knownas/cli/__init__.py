"""The `knownas` command: thin over the registry, one module to a group of commands."""

from typing import Final

import click

from knownas.cli import (
    apps,
    copying,
    database,
    doctor,
    emulator,
    erasures,
    identity,
    inbound,
    insight,
    keys,
    load,
    master_key,
    operators,
    profiles,
    serve,
    status,
    transfer,
    upstream,
    webhooks,
)
from knownas.cli.running import Address, Failure

REMOTE: Final = frozenset({"changes", "conflicts", "coverage", "get", "profile", "set"})
"""The commands that can ask a server instead of a database."""

for _command in (insight.history, identity.bind, identity.merge, identity.undo_merge):
    profiles.profile_group.add_command(_command)


def main() -> None:
    """Run the command."""
    cli(prog_name="knownas")


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    commands=[
        serve.serve,
        emulator.emulator,
        apps.app_group,
        keys.key_group,
        master_key.master_key_group,
        profiles.get_identifiers,
        profiles.set_identifiers,
        profiles.profile_group,
        operators.operator_group,
        webhooks.webhook_group,
        inbound.webhook_in_group,
        upstream.upstream_group,
        insight.changes,
        insight.coverage,
        insight.conflicts,
        insight.policy_group,
        profiles.demo,
        erasures.erase,
        erasures.erasures_group,
        status.status,
        doctor.examine,
        load.bench,
        database.migrate,
        database.check,
        database.backup,
        database.restore,
        copying.copy,
        transfer.import_file,
        transfer.export_file,
    ],
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
