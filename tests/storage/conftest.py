"""The databases that the storage contract is held against: each test once for each of them."""

import functools
import inspect
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Final

import pytest

from knownas.erasing import Subjects
from knownas.model import App, AppId, Identifiers, Profile, ProfileRef
from knownas.storage import Storage
from knownas.storage.postgres import PostgresStorage
from knownas.storage.postgres_link import Link, Row
from knownas.storage.sqlite import SqliteStorage
from knownas.vault import Vault
from storage import sharding

if TYPE_CHECKING:
    import postgres

VAULT: Final = Vault("", {b"test": bytes(32)})
"""A vault with a key that is in no file."""

Change = Callable[[Profile], Profile]

Open = Callable[[], Awaitable[Storage]]
"""Opens one database, the same at each call."""


def sqlite(request: pytest.FixtureRequest) -> Open:
    """Return what opens a fresh SQLite file."""
    path = request.getfixturevalue("tmp_path") / f"{uuid.uuid4()}.db"

    async def open_storage() -> Storage:
        return SqliteStorage(str(path), subjects=Subjects(VAULT))

    return open_storage


def postgresql(request: pytest.FixtureRequest) -> Open:
    """Return what opens a fresh PostgreSQL database."""
    databases: postgres.Databases = request.getfixturevalue("postgres_databases")
    url = databases.take()
    request.addfinalizer(functools.partial(databases.give_back, url))

    async def open_storage() -> Storage:
        return PostgresStorage(url, subjects=Subjects(VAULT))

    return open_storage


BACKENDS: Final[dict[str, Callable[[pytest.FixtureRequest], Open]]] = {
    "sqlite": sqlite,
    "postgresql": postgresql,
}


async def identifiers(storage: Storage, app: AppId, ref: ProfileRef) -> Identifiers:
    """Return what the hot read returns, at once or later."""
    found = storage.identifiers(app, ref)
    return await found if inspect.isawaitable(found) else found


@pytest.fixture(scope="session", autouse=True)
def statements_can_be_spread() -> Iterator[None]:
    """Hold each statement that is sent to PostgreSQL to the rules of `sharding.py`."""
    fetch, checked = Link.fetch, set[str]()

    async def checked_fetch(link: Link, statement: str, *values: object) -> list[Row]:
        if statement not in checked:
            assert sharding.broken(statement) == [], statement
            checked.add(statement)
        return await fetch(link, statement, *values)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Link, "fetch", checked_fetch)
        yield


@pytest.fixture(params=BACKENDS)
def new_database(request: pytest.FixtureRequest) -> Callable[[], Open]:
    """Give what makes a fresh database at each call."""
    return functools.partial(BACKENDS[request.param], request)


@pytest.fixture
def new_without_key(open_storage: Open) -> Callable[[], Open]:
    """Give what opens the test's database without a master key."""

    def without_key() -> Open:
        async def open_without() -> Storage:
            with pytest.MonkeyPatch.context() as patch:
                patch.setitem(globals(), "VAULT", Vault("", {}))
                return await open_storage()

        return open_without

    return without_key


@pytest.fixture
async def open_storage(new_database: Callable[[], Open]) -> AsyncIterator[Open]:
    """Give what opens the test's one database, as often as it is called."""
    open_database = new_database()
    opened: list[Storage] = []

    async def open_and_note() -> Storage:
        opened.append(await open_database())
        return opened[-1]

    yield open_and_note
    for storage in opened:
        await storage.close()


@pytest.fixture
async def storage(open_storage: Open) -> Storage:
    """Give a storage over a fresh database."""
    return await open_storage()


@pytest.fixture
async def app(storage: Storage) -> App:
    """Give an app."""
    return await storage.create_app(str(uuid.uuid4()), "one", now=1)


@pytest.fixture
async def other(storage: Storage, app: App) -> App:
    """Give another app, made later than `app`."""
    return await storage.create_app(str(uuid.uuid4()), "two", now=app.created_at + 1)
