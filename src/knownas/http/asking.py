"""Who is asking: what every handler of an API begins with."""

from starlette.requests import Request

from knownas.errors import Unauthorized
from knownas.http import wire
from knownas.keys import KeyType
from knownas.model import ApiKey
from knownas.registry import Registry


def registry_of(request: Request) -> Registry:
    """Return the registry that the application was made over."""
    registry: Registry = request.app.state.registry
    return registry


async def authenticated(request: Request, *types: KeyType) -> tuple[ApiKey, wire.Headers]:
    """Return the key of the request, if it is live and of one of these types, and its headers.

    Raises Unauthorized; RateLimited for the address of one who guesses; ValidationError for a
    header that stands twice with different values.
    """
    headers = wire.Headers(request.scope["headers"])
    try:
        key = await registry_of(request).authenticate(headers.authorization)
    except Unauthorized:
        request.app.state.guard.bad_key(request.client, headers.authorization)
        raise
    if key.type not in types:
        raise Unauthorized
    headers.refuse_twins()
    return key, headers
