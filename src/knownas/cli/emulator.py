"""`knownas emulator`: a server in memory, for test suites."""

import asyncio
import functools
import tempfile
from pathlib import Path

import click
import msgspec

from knownas import bootstrap, keys, serving, vault
from knownas.cli.running import Failure, load_settings, telling_errors
from knownas.http import emulator as emulation
from knownas.http import server
from knownas.registry import Registry
from knownas.settings import Settings


@click.command("emulator")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=8080,
    show_default=True,
    help="0 for any that is free.",
)
@click.option(
    "--key", envvar="KNOWNAS_KEY", help="The secret key; default: KNOWNAS_KEY, or a new one."
)
@click.option(
    "--seed-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A JSON list of profiles to begin with.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the URL and the key as JSON.")
def emulator(
    host: str, port: int, key: str | None, seed_file: Path | None, *, as_json: bool
) -> None:
    """Serve the API from memory, with faults on demand: for tests, never for production."""
    try:
        listening = server.listen(host, port)
    except OSError as error:
        raise Failure(f"Cannot listen on {host}:{port}: {error.strerror}.") from None
    port = listening.getsockname()[1]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    key = key or keys.mint("secret")
    profiles = [] if seed_file is None else _profiles(seed_file)

    def run() -> None:
        with tempfile.TemporaryDirectory(prefix="knownas-emulator-") as folder:
            loaded = _settings(folder)
            registry = asyncio.run(_opened(loaded, key, profiles))
            # Whoever connects from now on waits until it serves.
            listening.listen()
            told = msgspec.json.encode({"url": url, "key": key}).decode()
            click.echo(told if as_json else f"knownas emulator: {url}, key {key}")
            server.run(
                functools.partial(serving.make_emulator, loaded, registry),
                listening,
                workers=1,
                trusted_proxies="",
                max_connections=loaded.max_connections,
            )

    telling_errors(run)


def _settings(folder: str) -> Settings:
    """Return the environment's settings, with a database in memory and a master key of its own."""
    master_key_file = str(Path(folder, "master-key"))
    vault.create(master_key_file)
    return msgspec.structs.replace(
        load_settings(bootstrap.TEMPORARY),
        read_database="",
        master_key_file=master_key_file,
        erasure_ledger=str(Path(folder, "erasures")),
        # Receivers of webhooks under test are on this machine.
        webhook_networks="127.0.0.0/8,::1/128",
        # The fast lane knows nothing of faults, and is not there with an access log.
        access_log=True,
    )


def _profiles(seed_file: Path) -> object:
    """Return what a seed file has, as it has it."""
    try:
        return msgspec.json.decode(seed_file.read_bytes())
    except (OSError, ValueError) as error:
        raise Failure(f"{seed_file}: {error}") from None


async def _opened(loaded: Settings, key: str, profiles: object) -> Registry:
    """Open a registry in memory, with the app `default`, its key, and profiles to begin with."""
    registry = bootstrap.open_registry(loaded)
    try:
        app = await registry.create_app("default")
        await registry.keyring.adopt(app, key, "secret", label="emulator")
        await emulation.seed(registry, app, profiles)
    except BaseException:
        await registry.close()
        raise
    return registry
