"""The only wiring: settings to storage to registry to application."""

from collections.abc import Iterator
from contextlib import contextmanager

from knownas import logs
from knownas.http.app import Application, create_app
from knownas.metrics import SharedMemory
from knownas.registry import Registry
from knownas.settings import Settings, SettingsError
from knownas.storage import Storage
from knownas.storage.sqlite import SqliteStorage


def open_storage(url: str, *, create: bool = True) -> Storage:
    """Open the database that a URL names: `sqlite:///path`, or `sqlite://` for a temporary one.

    A file that is not there is made if `create` says so. Raises SettingsError for any other
    URL, StorageError when the database cannot be opened.
    """
    if url == "sqlite://":
        return SqliteStorage(None)
    path = url.removeprefix("sqlite:///")
    if path == url or not path:
        # The URL is not shown: that of another kind of database may hold a password.
        raise SettingsError(
            "The database must be sqlite:///path, or sqlite:// for a temporary one."
        )
    return SqliteStorage(path, create=create)


def open_registry(settings: Settings, *, create: bool = True) -> Registry:
    """Open the registry over the database of `settings`; raises as `open_storage`."""
    return Registry(
        open_storage(settings.database, create=create),
        auto_create_profiles=settings.auto_create_profiles,
    )


def make_app(
    settings: Settings, registry: Registry | None = None, shared: SharedMemory | None = None
) -> Application:
    """Make what a server process serves, over `registry` or one that it opens itself."""
    logs.configure(settings.log_format)
    return create_app(registry or open_registry(settings), settings, shared)


@contextmanager
def shared_memory(workers: int) -> Iterator[SharedMemory]:
    """Give what the metrics of several processes share, and remove it at the end."""
    # One more than workers: a new one may start before the one that it replaces has ended.
    shared = SharedMemory(workers + 1)
    try:
        yield shared
    finally:
        shared.remove()
