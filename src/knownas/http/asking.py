"""Who is asking: what every handler of an API begins with."""

import contextlib
import hashlib
import re
from typing import Final

from starlette.requests import Request

from knownas.errors import ProfileConflict, ProfileNotFound, Unauthorized, ValidationError
from knownas.http import wire
from knownas.keys import KeyType
from knownas.model import ApiKey, ProfileRef
from knownas.registry import Registry
from knownas.writes import Once

_is_idempotency_key: Final = re.compile(rb"[!-~]{1,255}").fullmatch


def registry_of(request: Request) -> Registry:
    """Return the registry that the application was made over."""
    registry: Registry = request.app.state.registry
    return registry


def once_of(request: Request, headers: wire.Headers, key: ApiKey, body: object) -> Once | None:
    """Return the request as one that is done once; None where it has no Idempotency-Key.

    Raises ValidationError for a key that is not 1 to 255 visible ASCII characters.
    """
    given = headers.get(wire.IDEMPOTENCY_HEADER)
    if not given:
        return None
    if not _is_idempotency_key(given):
        raise ValidationError(
            "Must be 1 to 255 visible ASCII characters.", source=wire.IDEMPOTENCY_HEADER
        )
    asked = (request.method, request.scope["path"].rstrip("/"), key.id)
    who = [headers.get(name).decode("latin-1") for name in wire.WHO_HEADERS]
    where = request.scope["query_string"].decode("latin-1")
    told = wire.encode([asked, who, where, body])
    return Once(given.decode(), hashlib.blake2b(told, digest_size=16).digest())


async def bring(request: Request, key: ApiKey, ref: ProfileRef) -> None:
    """Have a profile that is to be written come from the app's upstream, where it is not here yet.

    What is written then is the same profile here and there. Raises ServiceUnavailable where the
    upstream does not answer, and is set so.
    """
    upstream = key.app.upstream
    if upstream is not None and upstream.is_read:
        with contextlib.suppress(ProfileNotFound, ProfileConflict):
            await registry_of(request).profile_from_anywhere(key.app, ref)


async def authenticated(request: Request, *types: KeyType) -> tuple[ApiKey, wire.Headers]:
    """Return the key of the request, if it is live and of one of these types, and its headers.

    The request is counted then. Raises Unauthorized; RateLimited past the rate of the key, and
    for the address of one who guesses; ValidationError for a header that stands twice with
    different values.
    """
    headers = wire.Headers(request.scope["headers"])
    try:
        key = await registry_of(request).keyring.authenticate(headers.authorization)
    except Unauthorized:
        request.app.state.guard.bad_key(request.client, headers.authorization)
        raise
    if key.type not in types:
        raise Unauthorized
    request.app.state.rates.spend(key)
    headers.refuse_twins()
    return key, headers
