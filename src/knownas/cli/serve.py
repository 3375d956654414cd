"""`knownas serve`."""

import asyncio
import functools

import click

from knownas import bootstrap, serving
from knownas.cli.options import database_option
from knownas.cli.running import Failure, load_settings, telling_errors
from knownas.errors import ValidationError
from knownas.http import server
from knownas.registry import Registry
from knownas.settings import Settings


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65_535), default=8080, show_default=True)
@click.option(
    "--fd",
    "descriptor",
    type=click.IntRange(0),
    metavar="N",
    help="Listen on the inherited socket N instead: for restarts that refuse no client.",
)
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True)
@database_option
def serve(host: str, port: int, descriptor: int | None, workers: int, database: str | None) -> None:
    """Serve the API; on an empty database, make the app `default` and show its key once."""
    loaded = load_settings(database)
    if workers > 1 and loaded.database == bootstrap.TEMPORARY:
        raise Failure("--workers: a temporary database (sqlite://) serves one process only.")
    place = f"{host}:{port}" if descriptor is None else f"the inherited socket {descriptor}"
    try:
        listening = server.listen(host, port) if descriptor is None else server.inherit(descriptor)
    except OSError as error:
        raise Failure(f"Cannot listen on {place}: {error.strerror}.") from None
    address, port = listening.getsockname()[:2]
    host = host if descriptor is None else address
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"

    def run() -> None:
        temporary = asyncio.run(_first_start(loaded, url))
        click.echo(f"knownas listens on {url}", err=True)
        serve_app = functools.partial(
            server.run,
            listening=listening,
            workers=workers,
            trusted_proxies=loaded.trusted_proxies,
            max_connections=loaded.max_connections,
        )
        if workers == 1:
            serve_app(functools.partial(serving.make_app, loaded, temporary))
            return
        with serving.shared_memory(workers) as shared:
            serve_app(functools.partial(serving.make_app, loaded, shared=shared))

    telling_errors(run)


async def _first_start(loaded: Settings, url: str) -> Registry | None:
    """Make what the first start makes; return the registry only of a temporary database.

    Any other is opened again by each process that serves, in an event loop of its own.
    """
    serving.tracing(loaded)  # what is missing for it is told here, once
    registry = bootstrap.open_registry(loaded, with_standby=True)
    if registry.vault.key_ids or any(app.upstream for app in await registry.apps()):
        registry.webhooks.sender()  # what is wrong with its certificates is told here, once
    is_temporary = loaded.database == bootstrap.TEMPORARY
    try:
        for done in await registry.eraser.replay():
            click.echo(
                f"The ledger has {done.erasures} erasures of the app {done.app} that the database "
                f"had not: {done.persons} persons are erased now.",
                err=True,
            )
        await _welcome(registry, url)
    finally:
        if not is_temporary:
            await registry.close()
    return registry if is_temporary else None


async def _welcome(registry: Registry, url: str) -> None:
    """On an empty database, make the first app and show its key."""
    if await registry.apps():
        return
    try:
        app = await registry.create_app("default")
    except ValidationError:  # another server, which started at the same time, has made it
        return
    key, _ = await registry.keyring.create(app, "secret", label="first start")
    path = f"{url}/api/v2/server-side-api"
    click.echo(f"""
This is the first start: the app `default` was made. Its secret key, shown only this once:

    {key}

Make a profile, set two identifiers, and read them back:

    curl -X POST {path}/profile/ \\
      -H 'Authorization: Api-Key {key}' -H 'adapty-customer-user-id: user-1'

    curl -X POST {path}/integration/profile/set/integration-identifiers/ \\
      -H 'Authorization: Api-Key {key}' -H 'adapty-customer-user-id: user-1' \\
      -H 'Content-Type: application/json' \\
      -d '{{"appsflyer_id": "1741933337626-3179568", "mixpanel_user_id": "33w6yv5DPq"}}'

    curl {path}/integration/profile/set/integration-identifiers/ \\
      -H 'Authorization: Api-Key {key}' -H 'adapty-customer-user-id: user-1'
""")
