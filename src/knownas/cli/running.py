"""How a command runs: its settings, its registry, and its errors in one line each."""

import asyncio
import functools
import os
from collections.abc import Awaitable, Callable
from typing import Any

import click
import msgspec

from knownas import bootstrap, load, settings
from knownas.errors import KnownasError
from knownas.ledger import LedgerError
from knownas.storage import StorageError
from knownas.transfer import TransferError
from knownas.vault import VaultError


class Failure(click.ClickException):
    """One clear line and exit code 1."""

    def show(self, file: Any = None) -> None:  # noqa: ANN401 - click's own signature
        """Print the line."""
        click.echo(f"knownas: {self.message}", err=True, file=file)


def load_settings(database: str | None) -> settings.Settings:
    """Return the environment's settings, with the database of an option that was given."""
    try:
        loaded = settings.load(os.environ)
    except settings.SettingsError as error:
        raise Failure(str(error)) from None
    return msgspec.structs.replace(loaded, database=database) if database else loaded


def on_registry(
    command: Callable[..., Awaitable[None]], *, create: bool = False
) -> Callable[..., None]:
    """Open the registry for a command, making it if `create`, and tell its errors in one line."""

    @functools.wraps(command)
    def run(*args: object, database: str | None, **kwargs: object) -> None:
        loaded = load_settings(database)

        async def with_registry() -> None:
            registry = bootstrap.open_registry(loaded, create=create)
            try:
                await command(registry, *args, **kwargs)
            finally:
                await registry.close()

        telling_errors(lambda: asyncio.run(with_registry()))

    return run


def telling_errors(action: Callable[[], None]) -> None:
    """Run what may fail for reasons that the user should know, and tell those in one line."""
    try:
        action()
    except KnownasError as error:
        lines = [f"{source}: {message}" if source else message for source, message in error.fields]
        raise Failure("; ".join(lines)) from None
    except (
        LedgerError,
        StorageError,
        TransferError,
        VaultError,
        load.LoadError,
        settings.SettingsError,
    ) as error:
        raise Failure(str(error)) from None
