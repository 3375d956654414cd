"""What commands print: JSON for programs, text for people."""

import time

import click
import msgspec


def emit(data: object, as_json: bool, text: str) -> None:  # noqa: FBT001 - an option's value
    """Print `data` as one line of JSON, or `text`."""
    click.echo(msgspec.json.encode(data).decode() if as_json else text)


def utc(milliseconds: int) -> str:
    """Return a time of ours as people read it."""
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(milliseconds / 1_000))
