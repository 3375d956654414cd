"""Operators in the storage contract: what `knownas.operators.Operators` promises."""

import inspect

import pytest

from knownas.erasing import Person, Record, Whom
from knownas.errors import ValidationError
from knownas.history import DAY_MS
from knownas.model import App, Profile, ProfileRef
from knownas.operators import NO_APP, Entry, Operator, Operators, Session
from knownas.storage import Storage
from storage.test_contract import IDS, methods

pytestmark = pytest.mark.anyio

ANN = Operator("ann", "admin", 1)
BOB = Operator("bob", "viewer", 2)


def entry(at: int, about: str = "", app: App | None = None) -> Entry:
    """Return an entry of a time."""
    return Entry(at, f"id{at}", "ann", NO_APP if app is None else app.id, "view", about, "détail")


async def test_signatures_are_those_of_the_contract(storage: Storage) -> None:
    """A backend has every method of the protocol with the same parameters, in the same order."""
    own = methods(type(storage.operators))
    for name, method in methods(Operators).items():
        parameters = inspect.signature(method).parameters
        assert [*inspect.signature(own[name]).parameters] == [*parameters], name


async def test_operators_are_kept_by_name(storage: Storage) -> None:
    """A name is taken once; who is removed is gone, and an unknown one is told."""
    await storage.operators.add(BOB, "hash-b")
    await storage.operators.add(ANN, "hash-a")
    with pytest.raises(ValidationError):
        await storage.operators.add(ANN._replace(role="viewer"), "other")
    assert await storage.operators.all() == [ANN, BOB]
    assert await storage.operators.password("ann") == "hash-a"
    assert await storage.operators.password("nobody") is None
    assert await storage.operators.remove("bob")
    assert not await storage.operators.remove("bob")
    assert await storage.operators.all() == [ANN]


async def test_identity_at_the_issuer_is_of_one_operator(storage: Storage) -> None:
    """It is kept, changed and taken back; a change ends the sessions; any number have none."""
    await storage.operators.add(ANN._replace(oidc="ann@example.com"), "")
    await storage.operators.add(BOB, "hash")
    await storage.operators.add(BOB._replace(name="cy"), "hash")
    with pytest.raises(ValidationError):
        await storage.operators.add(BOB._replace(name="eve", oidc="ann@example.com"), "")
    await storage.operators.begin(b"ann", "ann", expires_at=9)
    await storage.operators.begin(b"bob", "bob", expires_at=9)
    with pytest.raises(ValidationError):
        await storage.operators.set_oidc("bob", "ann@example.com")
    assert await storage.operators.session(b"bob") == Session(BOB, 9)
    assert not await storage.operators.set_oidc("nobody", "x@example.com")
    assert await storage.operators.set_oidc("ann", "sub:1")
    assert await storage.operators.session(b"ann") is None
    assert await storage.operators.set_oidc("bob", "ann@example.com")
    assert await storage.operators.set_oidc("bob", "ann@example.com")
    assert await storage.operators.set_oidc("bob", "")
    assert await storage.operators.all() == [
        ANN._replace(oidc="sub:1"),
        BOB,
        BOB._replace(name="cy"),
    ]


async def test_sessions_last_as_long_as_their_operator(storage: Storage) -> None:
    """A session is found by its digest, ended by itself, and with its operator."""
    await storage.operators.add(ANN, "hash")
    await storage.operators.begin(b"\0one", "ann", expires_at=9)
    await storage.operators.begin(b"two", "ann", expires_at=10)
    await storage.operators.begin(b"of nobody", "nobody", expires_at=9)
    assert await storage.operators.session(b"\0one") == Session(ANN, 9)
    assert await storage.operators.session(b"of nobody") is None
    await storage.operators.end(b"\0one")
    await storage.operators.end(b"\0one")
    assert await storage.operators.session(b"\0one") is None
    assert await storage.operators.session(b"two") == Session(ANN, 10)
    await storage.operators.remove("ann")
    await storage.operators.add(ANN, "hash")
    assert await storage.operators.session(b"two") is None


async def test_another_password_may_end_sessions(storage: Storage) -> None:
    """A password that was changed signs everybody out, one that was hashed anew nobody."""
    await storage.operators.add(ANN, "hash")
    await storage.operators.begin(b"one", "ann", expires_at=9)
    assert await storage.operators.set_password("ann", "anew", ends_sessions=False)
    assert await storage.operators.session(b"one") is not None
    assert await storage.operators.set_password("ann", "other", ends_sessions=True)
    assert await storage.operators.session(b"one") is None
    assert await storage.operators.password("ann") == "other"
    assert not await storage.operators.set_password("nobody", "other", ends_sessions=True)


async def test_log_is_read_backwards(storage: Storage) -> None:
    """The newest entries come first, and a page goes on before the last one of the one before."""
    entries = [entry(at) for at in range(1, 6)]
    await storage.operators.note(entries[:2])
    await storage.operators.note(entries[2:])
    page = await storage.operators.entries(None, 3)
    assert page == entries[:1:-1]
    assert await storage.operators.entries(page[-1].place, 3) == entries[1::-1]


async def test_what_is_old_is_pruned(storage: Storage) -> None:
    """Sessions go when they have expired, entries with the history of their time."""
    await storage.operators.add(ANN, "hash")
    await storage.operators.begin(b"old", "ann", expires_at=DAY_MS)
    await storage.operators.begin(b"new", "ann", expires_at=DAY_MS + 1)
    await storage.operators.note([entry(1), entry(2)])
    await storage.prune(now=DAY_MS, before=2, limit=10)
    assert await storage.operators.session(b"old") is None
    assert await storage.operators.session(b"new") is not None
    assert await storage.operators.entries(None, 9) == [entry(2)]


async def test_erased_person_leaves_the_log(storage: Storage, app: App, other: App) -> None:
    """The id of an erased profile is taken out of the entries of its app; the entries stay."""
    await storage.change_profile(
        app.id, ProfileRef(profile_id=IDS[0]), _same, now=1, create_as=IDS[0]
    )
    mine, others = entry(1, IDS[0], app), entry(2, IDS[0], other)
    await storage.operators.note([mine, others, entry(3, IDS[1], app)])

    def record(_person: Person) -> Record:
        return Record(IDS[2], [], None)

    await storage.erasures.erase(app.id, Whom(ProfileRef(profile_id=IDS[0])), record, now=2)
    assert await storage.operators.entries(None, 9) == [
        entry(3, IDS[1], app),
        others,
        mine._replace(about=""),
    ]


async def test_log_of_a_deleted_app_goes_with_it(storage: Storage, app: App, other: App) -> None:
    """What it tells of other apps, and of none, stays."""
    await storage.operators.note([entry(1, "", app), entry(2, "", other), entry(3)])
    await storage.delete_app(app.id)
    assert [one.at for one in await storage.operators.entries(None, 9)] == [3, 2]


def _same(profile: Profile) -> Profile:
    return profile
