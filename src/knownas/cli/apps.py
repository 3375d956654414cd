"""`knownas app …`: make, list and delete apps."""

import functools
from typing import Any

import click

from knownas.cli.options import database_option, json_option
from knownas.cli.printing import emit, utc
from knownas.cli.running import on_registry
from knownas.model import App
from knownas.registry import Registry


@click.group("app")
def app_group() -> None:
    """Make, list and delete apps."""


@app_group.command("create")
@click.argument("name")
@json_option
@database_option
@functools.partial(on_registry, create=True)
async def app_create(registry: Registry, name: str, *, as_json: bool) -> None:
    """Make an app."""
    app = await registry.create_app(name)
    emit(_app_data(app), as_json, f"Made the app {app.name} ({app.uuid}).")


@app_group.command("list")
@json_option
@database_option
@on_registry
async def app_list(registry: Registry, *, as_json: bool) -> None:
    """List the apps."""
    apps = await registry.apps()
    lines = [f"{app.name}  {app.uuid}  {utc(app.created_at)}" for app in apps]
    emit([_app_data(app) for app in apps], as_json, "\n".join(lines) or "There is no app.")


@app_group.command("delete")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@database_option
@on_registry
async def app_delete(registry: Registry, name: str, *, yes: bool, as_json: bool) -> None:
    """Delete an app with its keys and all its profiles."""
    app = await registry.app(name)
    if not yes:
        click.confirm(f"Delete the app {name} with all its profiles and keys?", abort=True)
    await registry.delete_app(app.id)
    emit(_app_data(app), as_json, f"Deleted the app {name}.")


def _app_data(app: App) -> dict[str, Any]:
    return {"name": app.name, "app_id": app.uuid, "created_at": app.created_at}
