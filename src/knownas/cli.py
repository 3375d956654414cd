"""The `knownas` command: thin over the registry."""

import asyncio
import functools
import os
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import click
import msgspec
import uvloop

from knownas import bootstrap, load, settings
from knownas.errors import KnownasError, ValidationError
from knownas.http import server
from knownas.keys import KeyType
from knownas.model import (
    ApiKey,
    App,
    Profile,
    ProfileRef,
    clean_customer_user_id,
    clean_identifiers,
    clean_profile_id,
    identifiers_by_name,
)
from knownas.registry import Registry
from knownas.storage import StorageError


class _Failure(click.ClickException):
    """One clear line and exit code 1."""

    def show(self, file: Any = None) -> None:  # noqa: ANN401 - click's own signature
        click.echo(f"knownas: {self.message}", err=True, file=file)


def main() -> None:
    """Run the command."""
    cli(prog_name="knownas")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="knownas")
def cli() -> None:
    """By which identifiers every other system knows your user."""


def _database_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--database",
        metavar="URL",
        help="sqlite:///path or postgresql://…; default: KNOWNAS_DATABASE.",
    )(command)


def _json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def _app_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--app", "app_name", default="default", show_default=True)(command)


def _who_options(command: Callable[..., Any]) -> Callable[..., Any]:
    command = click.option("--customer", metavar="ID", help="The customer's id.")(command)
    return click.option("--profile", "profile_id", metavar="UUID", help="The profile's id.")(
        command
    )


def _load_settings(database: str | None) -> settings.Settings:
    try:
        loaded = settings.load(os.environ)
    except settings.SettingsError as error:
        raise _Failure(str(error)) from None
    return msgspec.structs.replace(loaded, database=database) if database else loaded


def _on_registry(
    command: Callable[..., Awaitable[None]], *, create: bool = False
) -> Callable[..., None]:
    """Open the registry for a command, making it if `create`, and tell its errors in one line."""

    @functools.wraps(command)
    def run(*args: object, database: str | None, **kwargs: object) -> None:
        loaded = _load_settings(database)

        async def with_registry() -> None:
            registry = bootstrap.open_registry(loaded, create=create)
            try:
                await command(registry, *args, **kwargs)
            finally:
                await registry.close()

        _telling_errors(lambda: asyncio.run(with_registry()))

    return run


def _telling_errors(action: Callable[[], None]) -> None:
    try:
        action()
    except KnownasError as error:
        lines = [f"{source}: {message}" if source else message for source, message in error.fields]
        raise _Failure("; ".join(lines)) from None
    except (StorageError, load.LoadError, settings.SettingsError) as error:
        raise _Failure(str(error)) from None


# --- The server -------------------------------------------------------------------------------


@cli.command()
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
@_database_option
def serve(host: str, port: int, descriptor: int | None, workers: int, database: str | None) -> None:
    """Serve the API; on an empty database, make the app `default` and show its key once."""
    loaded = _load_settings(database)
    if workers > 1 and loaded.database == bootstrap.TEMPORARY:
        raise _Failure("--workers: a temporary database (sqlite://) serves one process only.")
    place = f"{host}:{port}" if descriptor is None else f"the inherited socket {descriptor}"
    try:
        listening = server.listen(host, port) if descriptor is None else server.inherit(descriptor)
    except OSError as error:
        raise _Failure(f"Cannot listen on {place}: {error.strerror}.") from None
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
            serve_app(functools.partial(bootstrap.make_app, loaded, temporary))
            return
        with bootstrap.shared_memory(workers) as shared:
            serve_app(functools.partial(bootstrap.make_app, loaded, shared=shared))

    _telling_errors(run)


async def _first_start(loaded: settings.Settings, url: str) -> Registry | None:
    """Make what the first start makes; return the registry only of a temporary database.

    Any other is opened again by each process that serves, in an event loop of its own.
    """
    registry = bootstrap.open_registry(loaded)
    is_temporary = loaded.database == bootstrap.TEMPORARY
    try:
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
    key, _ = await registry.create_key(app, "secret", label="first start")
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


# --- Apps ---------------------------------------------------------------------------------------


@cli.group("app")
def app_group() -> None:
    """Make, list and delete apps."""


@app_group.command("create")
@click.argument("name")
@_json_option
@_database_option
@functools.partial(_on_registry, create=True)
async def app_create(registry: Registry, name: str, *, as_json: bool) -> None:
    """Make an app."""
    app = await registry.create_app(name)
    _print(_app_data(app), as_json, f"Made the app {app.name} ({app.uuid}).")


@app_group.command("list")
@_json_option
@_database_option
@_on_registry
async def app_list(registry: Registry, *, as_json: bool) -> None:
    """List the apps."""
    apps = await registry.apps()
    lines = [f"{app.name}  {app.uuid}  {_time(app.created_at)}" for app in apps]
    _print([_app_data(app) for app in apps], as_json, "\n".join(lines) or "There is no app.")


@app_group.command("delete")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_json_option
@_database_option
@_on_registry
async def app_delete(registry: Registry, name: str, *, yes: bool, as_json: bool) -> None:
    """Delete an app with its keys and all its profiles."""
    app = await registry.app(name)
    if not yes:
        click.confirm(f"Delete the app {name} with all its profiles and keys?", abort=True)
    await registry.delete_app(app.id)
    _print(_app_data(app), as_json, f"Deleted the app {name}.")


# --- Keys ---------------------------------------------------------------------------------------


@cli.group("key")
def key_group() -> None:
    """Make, adopt, list, revoke and rotate API keys."""


def _new_key_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option(
            "--type", "key_type", type=click.Choice(["secret", "public"]), default="secret"
        ),
        click.option("--label", default="", help="What it is for."),
        click.option("--days", type=click.IntRange(1), help="Days until it expires."),
    ):
        command = option(command)
    return command


def _expiry(days: int | None) -> int | None:
    return None if days is None else time.time_ns() // 1_000_000 + days * 86_400_000


@key_group.command("create")
@_new_key_options
@_app_option
@_json_option
@_database_option
@_on_registry
async def key_create(  # noqa: PLR0913 - the options of the command
    registry: Registry,
    *,
    app_name: str,
    key_type: KeyType,
    label: str,
    days: int | None,
    as_json: bool,
) -> None:
    """Make a key and show it, this once."""
    app = await registry.app(app_name)
    text, key = await registry.create_key(app, key_type, label=label, expires_at=_expiry(days))
    _print({"key": text, **_key_data(key)}, as_json, text)


@key_group.command("adopt")
@click.option("--stdin", is_flag=True, help="Read the key from standard input; else it is asked.")
@_new_key_options
@_app_option
@_json_option
@_database_option
@_on_registry
async def key_adopt(  # noqa: PLR0913 - the options of the command
    registry: Registry,
    *,
    stdin: bool,
    app_name: str,
    key_type: KeyType,
    label: str,
    days: int | None,
    as_json: bool,
) -> None:
    """Accept a key that the team uses already, such as an Adapty key."""
    app = await registry.app(app_name)
    text = _standard_input() if stdin else click.prompt("Key", hide_input=True)
    key = await registry.adopt_key(app, text, key_type, label=label, expires_at=_expiry(days))
    _print(_key_data(key), as_json, f"Adopted as {key.id}.")


def _standard_input() -> str:
    return sys.stdin.buffer.read().decode("ascii", errors="replace").strip()


@key_group.command("list")
@_app_option
@_json_option
@_database_option
@_on_registry
async def key_list(registry: Registry, *, app_name: str, as_json: bool) -> None:
    """List the keys of an app; the keys themselves are not stored."""
    app = await registry.app(app_name)
    keys = await registry.keys(app.id)
    now = time.time_ns() // 1_000_000
    lines = [
        f"{key.id}  {key.type}  {'live' if key.is_live(now) else 'ended'}  "
        f"{_time(key.created_at)}  {key.label}"
        for key in keys
    ]
    _print([_key_data(key) for key in keys], as_json, "\n".join(lines) or "There is no key.")


@key_group.command("revoke")
@click.argument("key_id")
@_app_option
@_json_option
@_database_option
@_on_registry
async def key_revoke(registry: Registry, key_id: str, *, app_name: str, as_json: bool) -> None:
    """Revoke a key: every server process refuses it within a second."""
    app = await registry.app(app_name)
    await registry.revoke_key(app.id, key_id)
    _print({"id": key_id, "revoked": True}, as_json, f"Revoked {key_id}.")


@key_group.command("rotate")
@click.argument("key_id")
@click.option(
    "--overlap",
    type=click.IntRange(0),
    default=3_600,
    show_default=True,
    help="Seconds for which both are good.",
)
@_app_option
@_json_option
@_database_option
@_on_registry
async def key_rotate(
    registry: Registry, key_id: str, *, overlap: int, app_name: str, as_json: bool
) -> None:
    """Make a successor of a key and show it; the old one ends after the overlap."""
    app = await registry.app(app_name)
    text, key = await registry.rotate_key(app, key_id, overlap_seconds=overlap)
    _print({"key": text, **_key_data(key)}, as_json, text)


# --- Profiles -----------------------------------------------------------------------------------


@cli.command("get")
@_who_options
@_app_option
@_json_option
@_database_option
@_on_registry
async def get_identifiers(
    registry: Registry,
    *,
    customer: str | None,
    profile_id: str | None,
    app_name: str,
    as_json: bool,
) -> None:
    """Show the identifiers of a profile."""
    app = await registry.app(app_name)
    profile = await registry.profile(app.id, _who(customer, profile_id))
    _print_identifiers(profile, as_json)


@cli.command("set")
@click.argument("values", nargs=-1, required=True, metavar="KIND=VALUE...")
@_who_options
@_app_option
@_json_option
@_database_option
@_on_registry
async def set_identifiers(  # noqa: PLR0913 - the options of the command
    registry: Registry,
    values: tuple[str, ...],
    *,
    customer: str | None,
    profile_id: str | None,
    app_name: str,
    as_json: bool,
) -> None:
    """Set identifiers of a profile: knownas set --customer user-1 appsflyer_id=17419-317."""
    pairs = [value.partition("=") for value in values]
    given = {name: value for name, _, value in pairs}
    if len(given) < len(pairs):
        raise _Failure("An identifier is given twice.")
    cleaned, _ = clean_identifiers(given, reject_unknown=True)
    app = await registry.app(app_name)
    _print_identifiers(
        await registry.set_identifiers(app.id, _who(customer, profile_id), cleaned), as_json
    )


@cli.group("profile")
def profile_group() -> None:
    """Make, show and delete profiles."""


@profile_group.command("create")
@_who_options
@_app_option
@_json_option
@_database_option
@_on_registry
async def profile_create(
    registry: Registry,
    *,
    customer: str | None,
    profile_id: str | None,
    app_name: str,
    as_json: bool,
) -> None:
    """Make a profile, or show the one that is there."""
    app = await registry.app(app_name)
    _print_profile(await registry.put_profile(app.id, _who(customer, profile_id), {}), as_json)


@profile_group.command("show")
@_who_options
@_app_option
@_json_option
@_database_option
@_on_registry
async def profile_show(
    registry: Registry,
    *,
    customer: str | None,
    profile_id: str | None,
    app_name: str,
    as_json: bool,
) -> None:
    """Show a profile with its identifiers and attributes."""
    app = await registry.app(app_name)
    _print_profile(await registry.profile(app.id, _who(customer, profile_id)), as_json)


@profile_group.command("delete")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_who_options
@_app_option
@_json_option
@_database_option
@_on_registry
async def profile_delete(  # noqa: PLR0913 - the options of the command
    registry: Registry,
    *,
    yes: bool,
    customer: str | None,
    profile_id: str | None,
    app_name: str,
    as_json: bool,
) -> None:
    """Delete a profile with its identifiers."""
    app = await registry.app(app_name)
    who = _who(customer, profile_id)
    if not yes:
        profile = await registry.profile(app.id, who)
        click.confirm(f"Delete the profile {profile.profile_id}?", abort=True)
    _print_profile(await registry.delete_profile(app.id, who), as_json)


@cli.command()
@click.argument("count", type=click.IntRange(1))
@click.option("--seed", type=int, default=1, show_default=True)
@_app_option
@_json_option
@_database_option
@_on_registry
async def demo(registry: Registry, count: int, *, seed: int, app_name: str, as_json: bool) -> None:
    """Fill an app with COUNT plausible profiles, the same for the same seed."""
    app = await registry.app(app_name)
    with click.progressbar(length=count, label="Profiles", file=sys.stderr) as bar:
        added = await registry.fill_with_demo(app.id, count, seed=seed, progress=bar.update)
    _print({"added": added}, as_json, f"Added {added} profiles to the app {app_name}.")


# --- A load ---------------------------------------------------------------------------------------


@cli.command()
@click.option("--url", default="http://127.0.0.1:8080", show_default=True)
@click.option("--connections", type=click.IntRange(1, 1_000), default=64, show_default=True)
@click.option("--seconds", type=click.FloatRange(0.1, 3_600), default=10, show_default=True)
@click.option(
    "--profiles",
    type=click.IntRange(1, 100_000),
    default=1_000,
    show_default=True,
    help="Made for the load, deleted at its end.",
)
@click.option(
    "--writes", type=click.IntRange(0, 100), default=0, show_default=True, help="POSTs of 100."
)
@_app_option
@_json_option
@_database_option
def bench(  # noqa: PLR0913 - the options of the command
    *,
    url: str,
    connections: int,
    seconds: float,
    profiles: int,
    writes: int,
    app_name: str,
    as_json: bool,
    database: str | None,
) -> None:
    """Load a running server and tell how fast it answers, by KNOWNAS_KEY or a key made for it."""
    loaded = _load_settings(database)

    def load_with(key: str) -> Awaitable[load.Report]:
        return load.run(load.Load(url, key, connections, seconds, profiles, writes))

    async def main() -> load.Report:
        if key := os.environ.get("KNOWNAS_KEY"):
            return await load_with(key)
        registry = bootstrap.open_registry(loaded, create=False)
        try:
            app = await registry.app(app_name)
            expires_at = time.time_ns() // 1_000_000 + int(seconds * 1_000) + 3_600_000
            key, made = await registry.create_key(
                app, "secret", label="knownas bench", expires_at=expires_at
            )
            try:
                return await load_with(key)
            finally:
                await registry.revoke_key(app.id, made.id)
        finally:
            await registry.close()

    def run() -> None:
        report = uvloop.run(main())
        _print(report, as_json, _load_lines(report))

    _telling_errors(run)


def _load_lines(report: load.Report) -> str:
    errors = [f"{count} x {what}" for what, count in sorted(report.errors.items())]
    return "\n".join(
        [
            f"requests/s  {report.requests_per_second:,.0f}",
            f"p50         {report.p50_ms:.2f} ms",
            f"p99         {report.p99_ms:.2f} ms",
            f"errors      {', '.join(errors) or 'none'}",
            f"load busy   {report.load_busy:.0%}: near 100% it is the load that is the limit",
        ]
    )


# --- The database -------------------------------------------------------------------------------


@cli.command()
@click.option("--dry-run", is_flag=True, help="Change nothing; name what would be done.")
@_json_option
@_database_option
def migrate(*, database: str | None, dry_run: bool, as_json: bool) -> None:
    """Bring the database to this program's schema, and say what was done."""
    loaded = _load_settings(database)

    def run() -> None:
        if dry_run:
            todo = bootstrap.pending_migrations(loaded)
            _print({"pending": todo}, as_json, "\n".join(todo) or "The schema is up to date.")
            return
        registry = bootstrap.open_registry(loaded)
        asyncio.run(registry.close())
        done = registry.storage.migrated
        _print({"applied": done}, as_json, "\n".join(done) or "The schema is up to date.")

    _telling_errors(run)


@cli.command()
@_json_option
@_database_option
@_on_registry
async def check(registry: Registry, *, as_json: bool) -> None:
    """Check the database, and that its reverse index agrees with the profiles."""
    problems = await registry.check()
    _print({"problems": problems}, as_json, "\n".join(problems) or "All is well.")
    if problems:
        sys.exit(1)


# --- Printing -----------------------------------------------------------------------------------


def _print(data: object, as_json: bool, text: str) -> None:  # noqa: FBT001 - an option's value
    click.echo(msgspec.json.encode(data).decode() if as_json else text)


def _print_identifiers(profile: Profile, as_json: bool) -> None:  # noqa: FBT001 - as above
    data = identifiers_by_name(profile.identifiers)
    _print(data, as_json, "\n".join(_set_lines(data)) or "No identifier is set.")


def _print_profile(profile: Profile, as_json: bool) -> None:  # noqa: FBT001 - as above
    data = {
        "profile_id": profile.profile_id,
        "customer_user_id": profile.customer_user_id,
        "identifiers": identifiers_by_name(profile.identifiers),
        "custom_attributes": dict(profile.attributes),
        "created_at": profile.created_at,
        "updated_at": profile.updated_at,
    }
    lines = [
        f"profile     {profile.profile_id}",
        f"customer    {profile.customer_user_id or 'none'}",
        f"made        {_time(profile.created_at)}",
        f"changed     {_time(profile.updated_at)}",
        *_set_lines(identifiers_by_name(profile.identifiers)),
        *_set_lines(dict(profile.attributes)),
    ]
    _print(data, as_json, "\n".join(lines))


def _set_lines(values: Mapping[str, object]) -> list[str]:
    return [f"{name} = {value}" for name, value in values.items() if value is not None]


def _who(customer: str | None, profile_id: str | None) -> ProfileRef:
    if not customer and not profile_id:
        raise _Failure("Say whom: --customer ID or --profile UUID.")
    return ProfileRef(
        clean_customer_user_id(os.fsencode(customer), source="--customer") if customer else None,
        clean_profile_id(profile_id, source="--profile") if profile_id else None,
    )


def _app_data(app: App) -> dict[str, Any]:
    return {"name": app.name, "app_id": app.uuid, "created_at": app.created_at}


def _key_data(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "app": key.app.name,
        "type": key.type,
        "label": key.label,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "ended_at": key.ended_at,
    }


def _time(milliseconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(milliseconds / 1_000))
