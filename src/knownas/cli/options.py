"""The options that many commands share."""

from collections.abc import Callable
from typing import Any

import click


def database_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--database URL`."""
    return click.option(
        "--database",
        metavar="URL",
        help="sqlite:///path or postgresql://…; default: KNOWNAS_DATABASE.",
    )(command)


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def app_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--app NAME`."""
    return click.option("--app", "app_name", default="default", show_default=True)(command)


def who_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--customer ID` and `--profile UUID`."""
    command = click.option("--customer", metavar="ID", help="The customer's id.")(command)
    return click.option("--profile", "profile_id", metavar="UUID", help="The profile's id.")(
        command
    )
