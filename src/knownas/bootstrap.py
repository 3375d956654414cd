"""The only wiring: settings to storage to registry to application."""

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final

from knownas import ledger, logs, replaying
from knownas.condition import Finding
from knownas.console.app import Console
from knownas.deliveries import UPSTREAM, Webhook
from knownas.erasing import Subjects
from knownas.http.app import Application, create_app
from knownas.metrics import SharedMemory
from knownas.model import AppId
from knownas.registry import Registry, system_clock
from knownas.replaying import Replayed
from knownas.settings import Settings, SettingsError, networks
from knownas.storage import Storage, sqlite_backup, sqlite_erasures, sqlite_file
from knownas.storage.sqlite import SqliteStorage
from knownas.vault import Vault

if TYPE_CHECKING:
    from knownas.http.traces import Traced
    from knownas.webhooks.dispatcher import Dispatcher
    from knownas.webhooks.outbound import Sender
    from knownas.webhooks.posting import Courier

TEMPORARY: Final = "sqlite://"
"""The URL of a database that is gone when it is closed."""


def open_storage(
    url: str,
    *,
    subjects: Subjects | None = None,
    create: bool = True,
    prepared: bool = True,
    seconds: float = 5.0,
) -> Storage:
    """Open the database that a URL names, with the `subjects` of those who were erased from it.

    It is `sqlite:///path`, `sqlite://` for a temporary one, or `postgresql://…`. A file that is
    not there is made if `create` says so. `prepared` and `seconds` are for PostgreSQL, see
    `PostgresStorage`. Raises SettingsError for any other URL, StorageError when the database
    cannot be opened.
    """
    if url == TEMPORARY:
        return SqliteStorage(None, subjects=subjects)
    if _is_postgres(url):
        # Not imported by a server over SQLite.
        from knownas.storage.postgres import PostgresStorage  # noqa: PLC0415 - as just said

        return PostgresStorage(url, subjects=subjects, prepared=prepared, seconds=seconds)
    return SqliteStorage(_file(url), subjects=subjects, create=create)


def pending_migrations(settings: Settings) -> list[str]:
    """Return the schema steps that opening the database would apply, and apply none.

    Raises as `open_storage`; a file that is not there would get them all.
    """
    url = settings.database
    if _is_postgres(url):
        from knownas.storage import postgres_schema  # noqa: PLC0415 - as in open_storage
        from knownas.storage.postgres_link import Target  # noqa: PLC0415 - as there

        target = Target(url, prepared=settings.prepared)
        return postgres_schema.pending(target, seconds=settings.database_seconds)
    return sqlite_file.pending(None if url == TEMPORARY else _file(url))


def look_over(settings: Settings, now: int) -> Iterator[Finding]:
    """Yield what there is to say of the database of `settings`, which is not changed.

    Raises as `open_storage`.
    """
    url = settings.database
    if _is_postgres(url):
        from knownas.storage import postgres_doctor  # noqa: PLC0415 - as in open_storage
        from knownas.storage.postgres_link import Target  # noqa: PLC0415 - as there

        target = Target(url, prepared=settings.prepared)
        yield from postgres_doctor.findings(target, now, seconds=settings.database_seconds)
    elif url != TEMPORARY:
        from knownas.storage import sqlite_doctor  # noqa: PLC0415 - no server needs it

        yield from sqlite_doctor.findings(_file(url), now)


def ledger_path(settings: Settings) -> str:
    """Return where the ledger of erasures is, "" where there is none. Raises as `open_storage`."""
    url = settings.database
    if settings.erasure_ledger or _is_postgres(url) or url == TEMPORARY:
        return settings.erasure_ledger
    return sqlite_erasures.ledger_beside(_file(url))


def _is_postgres(url: str) -> bool:
    return url.startswith(("postgresql://", "postgres://"))


def _file(url: str) -> str:
    path = url.removeprefix("sqlite:///")
    if path == url or not path:
        # The URL is not shown: that of another kind of database may hold a password.
        raise SettingsError(
            "The database must be sqlite:///path, sqlite:// for a temporary one, or "
            "postgresql://user@host/name."
        )
    return path


def back_up(url: str, copy: str, *, overwrite: bool, progress: Callable[[int, int], None]) -> int:
    """Write the database that a URL names to the file `copy` and return the bytes of that.

    `progress` is told how many pages are done, of how many. Raises SettingsError for a database
    that has its own tools for it, StorageError when it cannot be done.
    """
    return sqlite_backup.back_up(_file_to_copy(url), copy, overwrite=overwrite, progress=progress)


def restore(
    copy: str, settings: Settings, *, overwrite: bool, progress: Callable[[int, int], None]
) -> tuple[int, list[Replayed]]:
    """Put the backup in the file `copy` where the settings have the database; as `back_up`.

    Whoever was erased since the backup is erased from it, as the ledger has it, before it is there.
    Returns its bytes and what was erased. Raises LedgerError, and FeatureNotConfigured where the
    ledger has something and the master key is missing.
    """
    path = _file_to_copy(settings.database)
    ledger_path = settings.erasure_ledger or sqlite_erasures.ledger_beside(path)
    entries = ledger.read([ledger_path])
    subjects = Subjects(Vault.open(settings.master_key_file))
    for entry in entries:  # before anything is copied
        subjects.key_id(entry.app, entry.key)
    replayed: list[Replayed] = []

    async def replay(file: str) -> None:
        if not entries:
            return
        storage = SqliteStorage(file, subjects=subjects)
        try:
            replayed.extend(await replaying.replay(storage, subjects, entries, system_clock))
            await storage.erasures.finish(system_clock)
        finally:
            await storage.close()

    size = sqlite_backup.restore(
        copy,
        path,
        overwrite=overwrite,
        progress=progress,
        prepare=lambda file: asyncio.run(replay(file)),
    )
    return size, replayed


def _file_to_copy(url: str) -> str:
    """Return the file that a URL names, for what only files have. Raises SettingsError."""
    if _is_postgres(url):
        raise SettingsError(
            "PostgreSQL is backed up and restored by its own tools, pg_dump or pgBackRest: "
            "docs/operating.md says how."
        )
    if url == TEMPORARY:
        raise SettingsError("A temporary database is in no file that could be copied.")
    return _file(url)


@asynccontextmanager
async def two_storages(
    source: Settings, target: Settings
) -> AsyncIterator[tuple[Storage, Storage, Subjects]]:
    """Open a database to read and another one to fill, which is made if it is not there.

    With them come the subjects of who was erased from either.

    Raises as `open_storage`, and SettingsError where both are the same.
    """
    if source.database == target.database:
        raise SettingsError("Both databases are the same.")
    vault = Vault.open(target.master_key_file)
    from_storage = _open(source, vault, create=False)
    try:
        to_storage = _open(target, vault)
        try:
            yield from_storage, to_storage, Subjects(vault)
        finally:
            await to_storage.close()
    finally:
        await from_storage.close()


def open_registry(
    settings: Settings, *, create: bool = True, with_standby: bool = False
) -> Registry:
    """Open the registry over the database of `settings`.

    Only a server reads from the standby, which is for clients that write as well. Raises as
    `open_storage`, and VaultError where the master key cannot be read.
    """
    vault = Vault.open(settings.master_key_file)
    storage = (
        _open_with_standby(settings, vault)
        if with_standby and settings.read_database
        else _open(settings, vault, create=create)
    )
    return Registry(
        storage,
        auto_create_profiles=settings.auto_create_profiles,
        key_rate=settings.key_rate or None,
        vault=vault,
        ledger_path=settings.erasure_ledger,
        erasure_hours=settings.erasure_hours,
        open_sender=functools.partial(open_sender, settings),
    )


def _open(settings: Settings, vault: Vault, *, create: bool = True) -> Storage:
    return open_storage(
        settings.database,
        subjects=Subjects(vault),
        create=create,
        prepared=settings.prepared,
        seconds=settings.database_seconds,
    )


def _open_with_standby(settings: Settings, vault: Vault) -> Storage:
    if not (_is_postgres(settings.database) and _is_postgres(settings.read_database)):
        raise SettingsError(
            "KNOWNAS_READ_DATABASE is the postgresql:// URL of a standby, and needs a "
            "KNOWNAS_DATABASE that is a PostgreSQL, too."
        )
    from knownas.storage.postgres_replica import (  # noqa: PLC0415 - as in open_storage
        ReplicatedStorage,
    )

    return ReplicatedStorage(
        settings.database,
        subjects=Subjects(vault),
        standby=settings.read_database,
        stale_reads=settings.stale_reads == "allow",
        prepared=settings.prepared,
        seconds=settings.database_seconds,
    )


def open_sender(settings: Settings) -> "Sender":
    """Make what sends webhooks, by the settings.

    Raises SettingsError when the certificates that it is to trust cannot be read.
    """
    # Not imported by a server without webhooks.
    from knownas.webhooks.outbound import Sender  # noqa: PLC0415 - as just said

    try:
        return Sender(networks(settings.webhook_networks))
    except OSError as error:
        raise SettingsError(f"The trusted certificates (SSL_CERT_FILE): {error}.") from None


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
    registry = registry or open_registry(settings, with_standby=True)
    app = create_app(
        registry,
        settings,
        shared,
        console=Console(registry),
        dispatcher=open_dispatcher(registry),
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
