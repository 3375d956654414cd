"""The upstreams' part of the storage contract: an app's upstream, and what comparing came to."""

import asyncio
import inspect
import typing
from collections.abc import Callable

import pytest

from knownas.erasing import Record, Whom
from knownas.errors import Unauthorized, ValidationError
from knownas.history import ALL_PROFILES
from knownas.model import App, AppId, ProfileRef
from knownas.shadows import Differing, Shadows
from knownas.storage import Storage
from knownas.upstreams import Upstream
from storage.conftest import Open
from storage.test_contract import IDS, methods, setting

pytestmark = pytest.mark.anyio

NOW = 1_000
MOST = 3
UPSTREAM = Upstream("https://a.example", NOW, b"\x00sealed\xff", on_failure="not_found")
SECOND = Upstream("https://b.example/api", NOW + 1, key_from="env:KEY", shadow_percent=5)


async def there(storage: Storage, app: App, *numbers: int) -> None:
    """Have profiles be there."""
    for number in numbers:
        await storage.change_profile(
            app.id,
            ProfileRef(profile_id=IDS[number]),
            setting(branch_id="b"),
            now=NOW,
            create_as=IDS[number],
        )


def always(upstream: Upstream | None) -> Callable[[Upstream | None], Upstream | None]:
    """Return the change to an upstream, whatever was before."""
    return lambda _before: upstream


# --- The upstream -------------------------------------------------------------------------------


async def test_upstream_is_that_of_its_app(storage: Storage, app: App, other: App) -> None:
    """It is set, replaced and removed, is in the app wherever that is read, and in no other."""
    assert (app.upstream, other.upstream) == (None, None)
    for upstream in (UPSTREAM, SECOND, None):
        assert await storage.change_upstream(app.id, always(upstream)) == upstream
        assert [one.upstream for one in await storage.apps()] == [upstream, None]


async def test_upstream_is_changed_as_it_stands(storage: Storage, app: App) -> None:
    """Several who change it at once each see what the one before has left."""

    def one_more(upstream: Upstream | None) -> Upstream:
        before = 0 if upstream is None else upstream.shadow_percent
        return Upstream("https://a.example", NOW, shadow_percent=before + 1)

    await asyncio.gather(*(storage.change_upstream(app.id, one_more) for _ in range(20)))
    kept = await storage.change_upstream(app.id, lambda upstream: upstream)
    assert kept is not None
    assert kept.shadow_percent == 20


async def test_what_a_change_raises_leaves_it(storage: Storage, app: App) -> None:
    """An error of `change` is the caller's, and nothing is written."""
    await storage.change_upstream(app.id, lambda _: UPSTREAM)

    def refuse(_upstream: Upstream | None) -> Upstream:
        raise ValidationError("no")

    with pytest.raises(ValidationError):
        await storage.change_upstream(app.id, refuse)
    assert await storage.change_upstream(app.id, lambda upstream: upstream) == UPSTREAM


async def test_deleted_app_has_no_upstream(storage: Storage, app: App) -> None:
    """Unauthorized: the app of whoever asks is gone."""
    await storage.delete_app(app.id)
    with pytest.raises(Unauthorized):
        await storage.change_upstream(app.id, lambda _: UPSTREAM)


async def test_upstream_outlives_the_process(open_storage: Open) -> None:
    """Whoever opens the database later finds it."""
    storage = await open_storage()
    app = await storage.create_app("00000000-0000-4000-8000-000000000001", "one", now=1)
    await storage.change_upstream(app.id, lambda _: UPSTREAM)
    [found] = await (await open_storage()).apps()
    assert found.upstream == UPSTREAM


# --- Comparisons --------------------------------------------------------------------------------


def test_every_method_on_comparisons_takes_the_app_first() -> None:
    """The first parameter is the app."""
    for name, method in methods(Shadows).items():
        _, first, *_ = inspect.signature(method).parameters.values()
        assert typing.get_type_hints(method)[first.name] is AppId, name


async def test_counts_add_up(storage: Storage, app: App, other: App) -> None:
    """What is counted is added to what was, each app for itself, until it is forgotten."""
    shadows = storage.shadows
    await shadows.note(app.id, {(ALL_PROFILES, "same"): 2, (3, "different"): 1}, [], [], most=MOST)
    await shadows.note(app.id, {(ALL_PROFILES, "same"): 1, (3, "same"): 5}, [], [], most=MOST)
    assert await shadows.counts(app.id) == {
        (ALL_PROFILES, "same"): 3,
        (3, "different"): 1,
        (3, "same"): 5,
    }
    assert await shadows.counts(other.id) == {}
    await shadows.forget(app.id)
    assert await shadows.counts(app.id) == {}


async def test_those_that_differ_are_listed(storage: Storage, app: App, other: App) -> None:
    """The newest first, each profile once, without those that are alike since, or never were."""
    shadows = storage.shadows
    await there(storage, app, 1, 2, 3)
    one, two, three = (
        Differing(IDS[number], NOW + number, {"branch_id": "different"}) for number in (1, 2, 3)
    )
    nobody = Differing(IDS[9], NOW, {})
    await shadows.note(app.id, {}, [two, nobody, one], [], most=MOST)
    await shadows.note(app.id, {}, [three], [], most=MOST)
    assert await shadows.differing(app.id, 10) == [three, two, one]
    assert await shadows.differing(app.id, 2) == [three, two]
    assert await shadows.differing(other.id, 10) == []
    again = one._replace(at=NOW + 9, kinds={"appsflyer_id": "missing_there"})
    await shadows.note(app.id, {}, [again], [IDS[2]], most=MOST)
    assert await shadows.differing(app.id, 10) == [again, three]
    await shadows.forget(app.id)
    assert await shadows.differing(app.id, 10) == []


async def test_the_oldest_of_too_many_are_left_out(storage: Storage, app: App) -> None:
    """Of those that differ only so many are kept."""
    await there(storage, app, *range(1, 8))
    for number in range(1, 8):
        one = Differing(IDS[number], NOW + number, {})
        await storage.shadows.note(app.id, {}, [one], [], most=MOST)
    kept = await storage.shadows.differing(app.id, 10)
    assert [one.profile_id for one in kept] == [IDS[7], IDS[6], IDS[5]]


async def test_comparisons_go_with_their_app(storage: Storage, app: App) -> None:
    """A deleted app leaves nothing of them, and nothing is noted of it any more."""
    await there(storage, app, 1)
    one = Differing(IDS[1], NOW, {})
    await storage.shadows.note(app.id, {(0, "same"): 1}, [one], [], most=MOST)
    await storage.delete_app(app.id)
    assert await storage.shadows.counts(app.id) == {}
    assert await storage.shadows.differing(app.id, 10) == []
    with pytest.raises(Unauthorized):
        await storage.shadows.note(app.id, {(0, "same"): 1}, [], [], most=MOST)


async def test_erased_person_is_not_listed(storage: Storage, app: App) -> None:
    """An erasure takes them out, and what comes later does not bring them back."""
    await there(storage, app, 1)
    one = Differing(IDS[1], NOW, {"branch_id": "different"})
    await storage.shadows.note(app.id, {}, [one], [], most=MOST)
    record = Record("00000000-0000-4000-8000-0000000000ff", [], None)
    whom = Whom(ProfileRef(profile_id=IDS[1]))
    await storage.erasures.erase(app.id, whom, lambda _person: record, now=NOW)
    await storage.shadows.note(app.id, {}, [one], [], most=MOST)
    assert await storage.shadows.differing(app.id, 10) == []
