"""A client of knownas, and of Adapty's server-side API where the two are alike.

It needs httpx2: `pip install 'knownas[client]'`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from knownas_client.async_client import AsyncClient as AsyncClient
    from knownas_client.calls import Who as Who
    from knownas_client.client import Client as Client
    from knownas_client.errors import ApiError as ApiError
    from knownas_client.errors import ConnectionFailed as ConnectionFailed
    from knownas_client.errors import KnownasError as KnownasError
    from knownas_client.errors import UnexpectedAnswer as UnexpectedAnswer
    from knownas_client.retries import NO_RETRIES as NO_RETRIES
    from knownas_client.retries import Retries as Retries

# pytest loads `knownas_client.testing` wherever it is installed, and with it this module: so what
# takes long to import, or may not be there, is imported when it is asked for.
_WHERE = {
    "AsyncClient": "async_client",
    "Client": "client",
    "ApiError": "errors",
    "ConnectionFailed": "errors",
    "KnownasError": "errors",
    "UnexpectedAnswer": "errors",
    "NO_RETRIES": "retries",
    "Retries": "retries",
    "Who": "calls",
}

__all__ = list(_WHERE)


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever has the name
    """Return what is asked for by name, importing it."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
