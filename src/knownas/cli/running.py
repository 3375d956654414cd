"""How a command runs: its settings, its registry, and its errors in one line each."""

import asyncio
import functools
import os
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import click
import msgspec

import knownas_client.errors
from knownas import bootstrap, settings
from knownas.errors import KnownasError
from knownas.ledger import LedgerError
from knownas.storage import StorageError
from knownas.transfer import TransferError
from knownas.vault import VaultError


class Address(NamedTuple):
    """The server that a command asks instead of a database."""

    url: str
    key: str


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
    """Open the registry for a command, making it if `create`, and tell its errors in one line.

    With `knownas --url`, it is the server there that stands for the registry.
    """

    @functools.wraps(command)
    def run(*args: object, database: str | None, **kwargs: object) -> None:
        address = click.get_current_context().find_object(Address)
        if address is not None and database is not None:
            raise Failure("Say --url or --database, not both.")
        loaded = load_settings(database)

        async def with_registry() -> None:
            registry: Any = (
                bootstrap.open_registry(loaded, create=create)
                if address is None
                else _remote(address)
            )
            try:
                await command(registry, *args, **kwargs)
            finally:
                await registry.close()

        telling_errors(lambda: asyncio.run(with_registry()))

    return run


def _remote(address: Address) -> object:
    """Return what stands for the registry of a server."""
    try:
        # Not there where only the server is installed.
        from knownas.cli import remote  # noqa: PLC0415 - as just said
        from knownas_client import AsyncClient  # noqa: PLC0415 - as just said

        return remote.Remote(AsyncClient(*address))
    except ModuleNotFoundError as error:
        raise Failure(f"--url needs {error.name}: pip install 'knownas[client]'.") from None
    except ValueError as error:
        raise Failure(str(error)) from None


def telling_errors(action: Callable[[], None]) -> None:
    """Run what may fail for reasons that the user should know, and tell those in one line."""
    try:
        action()
    except KnownasError as error:
        lines = [f"{source}: {message}" if source else message for source, message in error.fields]
        raise Failure("; ".join(lines)) from None
    except (
        knownas_client.errors.KnownasError,
        LedgerError,
        StorageError,
        TransferError,
        VaultError,
        settings.SettingsError,
    ) as error:
        raise Failure(str(error)) from None
