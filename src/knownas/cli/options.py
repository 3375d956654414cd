"""The options that many commands share."""

import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import click

from knownas.errors import ValidationError
from knownas.model import ProfileRef, clean_customer_user_id, clean_profile_id


class _Time(click.ParamType[int]):
    """A time of ours."""

    name = "time"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Return milliseconds since 1970."""
        text = str(value)
        if text.isdecimal():
            return int(text)
        try:
            given = datetime.fromisoformat(text)
        except ValueError:
            self.fail("must be milliseconds since 1970, or as 2026-01-31T12:00:00Z", param, ctx)
        # Without an offset it is UTC, as all that is printed.
        at = given if given.tzinfo else given.replace(tzinfo=UTC)
        return round(at.timestamp() * 1_000)


TIME: Final = _Time()
"""The type of an option that is a time: milliseconds since 1970, or ISO 8601."""


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


def who(
    customer: str | None, profile_id: str | None, names: tuple[str, str] = ("customer", "profile")
) -> ProfileRef:
    """Return whom a customer and a profile id name, one at least; `names` are the options'.

    Raises ValidationError.
    """
    of_customer, of_profile = (f"--{name}" for name in names)
    if not customer and not profile_id:
        raise ValidationError(f"Say whom: {of_customer} ID or {of_profile} UUID.")
    return ProfileRef(
        clean_customer_user_id(os.fsencode(customer), source=of_customer) if customer else None,
        clean_profile_id(profile_id, source=of_profile) if profile_id else None,
    )


def secret_given(what: str, *, stdin: bool) -> str:
    """Return a secret from standard input, or else asked for without being shown."""
    if stdin:
        return sys.stdin.buffer.read().decode("ascii", errors="replace").strip()
    asked: str = click.prompt(what, hide_input=True)
    return asked
