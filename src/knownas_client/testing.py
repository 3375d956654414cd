"""A pytest plugin: `knownas_server`, a real server in memory for each test.

pytest loads this module wherever `knownas` is installed, so it imports nothing but pytest until a
test asks for a server.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from knownas_client.emulated import KnownasServer


@pytest.fixture(scope="session")
def knownas_settings() -> Mapping[str, str]:
    """Give the `KNOWNAS_…` settings of the server; define it anew in your conftest.py."""
    return {}


@pytest.fixture(scope="session")
def knownas_emulator(knownas_settings: Mapping[str, str]) -> "Iterator[KnownasServer]":
    """Give the server that all tests of a session share, with the app `default`."""
    from knownas_client import emulated  # noqa: PLC0415 - see the module

    with emulated.running(knownas_settings) as server:
        yield server


@pytest.fixture
def knownas_server(knownas_emulator: "KnownasServer") -> "Iterator[KnownasServer]":
    """Give a server with an app of the test's own, in which there is nothing."""
    with knownas_emulator.app() as server:
        yield server
