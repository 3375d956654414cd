"""The wiring of what a server needs beside: the registry to the application that is served."""

import asyncio
import functools
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from knownas import logs
from knownas.bootstrap import TEMPORARY, open_registry
from knownas.console.app import Console
from knownas.deliveries import UPSTREAM, Webhook
from knownas.http.app import Application, create_app
from knownas.metrics import SharedMemory
from knownas.model import AppId
from knownas.registry import Registry
from knownas.settings import Settings, SettingsError

if TYPE_CHECKING:
    from knownas.console.issuer import Issuer
    from knownas.http.traces import Traced
    from knownas.webhooks.dispatcher import Dispatcher
    from knownas.webhooks.posting import Courier


def open_dispatcher(registry: Registry) -> "Dispatcher | None":
    """Make what delivers webhooks; None where there is no master key to read their secrets by.

    Raises as `open_sender`.
    """
    if not registry.vault.key_ids:
        return None
    # Not imported by a server without webhooks.
    from knownas.webhooks.dispatcher import Dispatcher  # noqa: PLC0415 - as just said

    log = logs.get()

    def tell(error: Exception) -> None:
        log.error("webhook_error", type=type(error).__name__, at=logs.place_of(error))

    registry.webhooks.sender()  # what is wrong with its certificates is told now
    return Dispatcher(
        registry.storage,
        functools.partial(open_courier, registry),
        clock=registry.now,
        tell=tell,
    )


def open_courier(registry: Registry, app: AppId, webhook: Webhook) -> "Courier":
    """Return who brings an app's changes to where a webhook goes."""
    if webhook.id == UPSTREAM:
        return registry.upstreams.courier(app)
    return registry.webhooks.courier(app, webhook)


def make_app(
    settings: Settings, registry: Registry | None = None, shared: SharedMemory | None = None
) -> Application:
    """Make what a server process serves, over `registry` or one that it opens itself."""
    logs.configure(settings.log_format)
    is_alone = registry is not None or settings.database == TEMPORARY
    registry = registry or open_registry(settings, with_standby=True)
    app = create_app(
        registry,
        settings,
        shared,
        console=Console(registry, open_issuer(settings, registry)),
        dispatcher=open_dispatcher(registry),
        # Nobody else could open a database that is this process's own.
        run_imports=None if is_alone else functools.partial(run_imports, settings),
    )
    if (traced := tracing(settings)) is not None:
        app.middleware_stack = traced(app.build_middleware_stack())
    return app


def tracing(settings: Settings) -> "type[Traced] | None":
    """Return what traces requests, if the settings ask for it.

    Raises SettingsError where it is not installed.
    """
    if not settings.traces:
        return None
    try:
        # Not there where nobody wants traces.
        from knownas.http.traces import Traced  # noqa: PLC0415 - as just said
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"KNOWNAS_TRACES=on needs {error.name}: pip install 'knownas[otel]'."
        ) from None
    return Traced


def open_issuer(settings: Settings, registry: Registry) -> "Issuer | None":
    """Make what asks the issuer at which operators may sign in; None where the settings have none.

    Raises SettingsError for settings that are not complete, or not right.
    """
    url, client_id = settings.oidc_issuer, settings.oidc_client_id
    secret_file = settings.oidc_client_secret_file
    if not (url or client_id or secret_file):
        return None
    if not (url and client_id and secret_file):
        raise SettingsError(
            "KNOWNAS_OIDC_ISSUER, KNOWNAS_OIDC_CLIENT_ID and KNOWNAS_OIDC_CLIENT_SECRET_FILE are "
            "set together, or not at all."
        )
    try:
        # Not there where nobody signs in elsewhere.
        from knownas.console.issuer import Issuer  # noqa: PLC0415 - as just said
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"KNOWNAS_OIDC_ISSUER needs {error.name}: pip install 'knownas[oidc]'."
        ) from None
    try:
        secret = Path(secret_file).read_text(encoding="utf-8").strip()
        if not secret:
            raise SettingsError(f"KNOWNAS_OIDC_CLIENT_SECRET_FILE={secret_file!r}: it is empty.")
        return Issuer(url, client_id, secret, registry.now)
    except UnicodeDecodeError:
        raise SettingsError(
            f"KNOWNAS_OIDC_CLIENT_SECRET_FILE={secret_file!r}: it is not text."
        ) from None
    except ValueError as error:
        raise SettingsError(f"KNOWNAS_OIDC_ISSUER={url!r}: {error}.") from None
    except OSError as error:
        raise SettingsError(f"{error.filename or 'SSL_CERT_FILE'}: {error.strerror}.") from None


async def run_imports(settings: Settings) -> None:
    """Have uploaded files imported by a process of its own, until none is left.

    It would take the interpreter from all requests otherwise. Raises RuntimeError where it fails.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "knownas", "import-uploaded"),
        stdin=asyncio.subprocess.DEVNULL,
        # Not as an option: those everyone on the machine can read.
        env={**os.environ, "KNOWNAS_DATABASE": settings.database},
    )
    try:
        if await process.wait() != 0:
            raise RuntimeError("The import of uploaded files has failed.")
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


def make_emulator(settings: Settings, registry: Registry) -> Application:
    """Make what the emulator serves: the same, with faults on demand around it."""
    # Not imported by a server.
    from knownas.http.emulator import Emulation  # noqa: PLC0415 - as just said

    app = make_app(settings, registry)
    app.middleware_stack = Emulation(app)
    return app


@contextmanager
def shared_memory(workers: int) -> Iterator[SharedMemory]:
    """Give what the metrics of several processes share, and remove it at the end."""
    # One more than workers: a new one may start before the one that it replaces has ended.
    shared = SharedMemory(workers + 1)
    try:
        yield shared
    finally:
        shared.remove()
