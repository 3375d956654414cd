"""FastAPI tuned by hand, over the very store of ours: what is left is the price of the framework.

No response models, no injected dependencies, no pydantic: a handler takes the bare request and
returns finished bytes, reads run inline, writes share our group commit. The key, the two headers
and the body are checked by the same functions as ours.
"""

import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response

from bench.peers.serving import serve
from knownas import bootstrap
from knownas.errors import KnownasError
from knownas.http import wire
from knownas.model import clean_identifiers
from knownas.registry import Registry
from knownas.strict_json import parse_object

PATH = "/api/v2/server-side-api/integration/profile/set/integration-identifiers/"


def create_app(database: str) -> FastAPI:
    """Return the application over a database file of ours."""
    registry: Registry

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        nonlocal registry
        registry = Registry(bootstrap.open_storage(f"sqlite:///{database}", create=False))
        yield
        await registry.close()

    app = FastAPI(lifespan=lifespan, openapi_url=None)

    @app.get(PATH)
    async def get_identifiers(request: Request) -> Response:
        headers = wire.Headers(request.scope["headers"])
        key = await registry.keyring.authenticate(headers.authorization)
        headers.refuse_twins()
        found = registry.identifiers(key.app.id, headers.profile_ref())
        identifiers = await found if inspect.isawaitable(found) else found
        return Response(wire.identifiers_body(identifiers), media_type="application/json")

    @app.post(PATH)
    async def set_identifiers(request: Request) -> Response:
        headers = wire.Headers(request.scope["headers"])
        key = await registry.keyring.authenticate(headers.authorization)
        headers.refuse_twins()
        ref = headers.profile_ref()
        values, _ = clean_identifiers(parse_object(await request.body()))
        await registry.set_identifiers(key.app, ref, values)
        return Response()

    @app.exception_handler(KnownasError)
    async def answer_error(_request: Request, error: KnownasError) -> Response:
        return Response(
            wire.error_body(error, "schema"), wire.STATUS[error.code], media_type="application/json"
        )

    return app


if __name__ == "__main__":
    serve(create_app)
