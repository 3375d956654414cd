"""`knownas master-key …`: the key that stored secrets are encrypted under."""

from pathlib import Path

import click

from knownas import vault
from knownas.cli.options import json_option
from knownas.cli.printing import emit
from knownas.cli.running import Failure, load_settings, telling_errors

_file_argument = click.argument("file", required=False, default="")


@click.group("master-key")
def master_key_group() -> None:
    """Make, rotate and name the keys that stored secrets are encrypted under."""


@master_key_group.command("create")
@_file_argument
@click.option("--if-missing", is_flag=True, help="Do nothing where FILE is there already.")
@json_option
def master_key_create(*, file: str, if_missing: bool, as_json: bool) -> None:
    """Make FILE, by default what KNOWNAS_MASTER_KEY_FILE names, with a new key."""
    path = _path(file)

    def run() -> None:
        if if_missing and Path(path).exists():
            key_ids = vault.Vault.open(path).key_ids
            emit({"file": path, "key_id": key_ids[0]}, as_json, f"{path} is there already.")
            return
        key_id = vault.create(path)
        emit(
            {"file": path, "key_id": key_id},
            as_json,
            f"Made {path} with the key {key_id}. Keep a copy of it: without it, what is encrypted "
            f"under it is lost.\nSet KNOWNAS_MASTER_KEY_FILE={Path(path).absolute()}",
        )

    telling_errors(run)


@master_key_group.command("rotate")
@_file_argument
@json_option
def master_key_rotate(*, file: str, as_json: bool) -> None:
    """Put a new key before those in FILE, which stay for what is encrypted already."""
    path = _path(file)

    def run() -> None:
        key_id = vault.rotate(path)
        emit(
            {"file": path, "key_id": key_id},
            as_json,
            f"Added the key {key_id}. Servers encrypt under it from their next start on.",
        )

    telling_errors(run)


@master_key_group.command("show-ids")
@_file_argument
@json_option
def master_key_show_ids(*, file: str, as_json: bool) -> None:
    """Print the ids of the keys in FILE, the newest first; the keys are never printed."""
    path = _path(file)

    def run() -> None:
        key_ids = vault.Vault.open(path).key_ids
        emit({"file": path, "key_ids": key_ids}, as_json, "\n".join(key_ids))

    telling_errors(run)


def _path(file: str) -> str:
    path = file or load_settings(None).master_key_file
    if not path:
        raise Failure("Name the master key's file, or set KNOWNAS_MASTER_KEY_FILE.")
    return path
