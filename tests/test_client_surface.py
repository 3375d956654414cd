"""The two clients are one: same calls, same parameters, same words; and light to import."""

import inspect
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import knownas_client
from knownas_client import AsyncClient, Client

RENAMED = {"__enter__": "__aenter__", "__exit__": "__aexit__", "close": "aclose"}


def calls(client: type[Any]) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield the public functions of a client, and what opens and closes it."""
    for name, member in vars(client).items():
        if inspect.isfunction(member) and (name[:1] != "_" or name in {*RENAMED, "__init__"}):
            yield name, member


@pytest.mark.parametrize(("name", "of_client"), [*calls(Client)])
def test_both_clients_have_each_call(name: str, of_client: Callable[..., Any]) -> None:
    """What one takes, the other takes, and it is documented in the same words."""
    of_async = getattr(AsyncClient, RENAMED.get(name, name))
    parameters = inspect.signature(of_async).parameters
    assert list(parameters) == list(inspect.signature(of_client).parameters)
    for parameter in inspect.signature(of_client).parameters.values():
        assert parameters[parameter.name].default == parameter.default
    assert inspect.getdoc(of_async) == inspect.getdoc(of_client)


def test_async_client_has_no_call_of_its_own() -> None:
    """There is nothing that only one of them can do."""
    sync = {RENAMED.get(name, name) for name, _ in calls(Client)}
    public = {name for name, it in vars(AsyncClient).items() if inspect.isfunction(it)}
    assert {name for name in public if name[:1] != "_"} <= sync


def test_all_that_is_exported_is_there() -> None:
    """Each name of the package leads to something, and any other name to an AttributeError."""
    assert all(getattr(knownas_client, name) for name in knownas_client.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Klient'"):
        _ = knownas_client.Klient


@pytest.mark.parametrize(
    ("module", "without"),
    [
        ("knownas_client", {"httpx2", "msgspec", "knownas"}),
        ("knownas_client.testing", {"httpx2", "msgspec", "knownas"}),
        ("knownas_client.client", {"knownas", "asyncpg", "apsw", "starlette"}),
    ],
)
def test_importing_loads_no_more_than_needed(module: str, without: set[str]) -> None:
    """The plugin loads no HTTP client, and the client nothing of the server."""
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert module in loaded
    assert without.isdisjoint(loaded)
