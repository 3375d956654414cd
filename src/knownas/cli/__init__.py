"""The `knownas` command: thin over the registry, one module to a group of commands."""

import click

from knownas.cli import (
    apps,
    copying,
    database,
    erasures,
    identity,
    insight,
    keys,
    load,
    master_key,
    profiles,
    serve,
    upstream,
    webhooks,
)

for _command in (insight.history, identity.bind, identity.merge, identity.undo_merge):
    profiles.profile_group.add_command(_command)


def main() -> None:
    """Run the command."""
    cli(prog_name="knownas")


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    commands=[
        serve.serve,
        apps.app_group,
        keys.key_group,
        master_key.master_key_group,
        profiles.get_identifiers,
        profiles.set_identifiers,
        profiles.profile_group,
        webhooks.webhook_group,
        upstream.upstream_group,
        insight.changes,
        insight.coverage,
        insight.conflicts,
        insight.policy_group,
        profiles.demo,
        erasures.erase,
        erasures.erasures_group,
        load.bench,
        database.migrate,
        database.check,
        database.backup,
        database.restore,
        copying.copy,
    ],
)
@click.version_option(package_name="knownas")
def cli() -> None:
    """By which identifiers every other system knows your user."""
