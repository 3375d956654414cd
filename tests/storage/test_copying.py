"""What a copy asks of a storage, for every backend: pages of profiles, replacements, keys whole."""

import msgspec
import pytest

from knownas.errors import Unauthorized, ValidationError
from knownas.keys import digest
from knownas.model import NO_IDENTIFIERS, ApiKey, App, AppId, Profile, ProfileId, ProfileRef
from knownas.storage import Storage

pytestmark = pytest.mark.anyio

IDS = [
    ProfileId(text)
    for text in (
        "00000000-0000-0000-0000-000000000000",
        "00000000-0000-4000-8000-00000000000a",
        "0a000000-0000-4000-8000-000000000000",
        "7fffffff-ffff-4fff-bfff-ffffffffffff",
        "80000000-0000-4000-8000-000000000000",
        "ffffffff-ffff-ffff-ffff-ffffffffffff",
    )
]
"""The least and the greatest that there are, and where signed bytes would change the order."""


def profile(
    profile_id: ProfileId, customer: str | None = None, value: str | None = None
) -> Profile:
    """Return a profile with one identifier, or none."""
    return Profile(profile_id, customer, (value, *NO_IDENTIFIERS[1:]), (), 1, 2)


@pytest.mark.parametrize("limit", [1, 2, 5, 6, 100])
async def test_pages_are_in_the_order_of_the_ids(storage: Storage, app: App, limit: int) -> None:
    """Page after page every profile comes once, those of other apps never."""
    other = await storage.create_app("uuid", "other", now=1)
    await storage.add_profiles(app.id, [profile(one) for one in reversed(IDS)], now=1)
    await storage.add_profiles(other.id, [profile(IDS[2], "theirs")], now=1)
    found: list[Profile] = []
    while page := await storage.profiles_after(
        app.id, found[-1].profile_id if found else None, limit
    ):
        assert len(page) == min(limit, len(IDS) - len(found))
        found += page
    assert found == [profile(one) for one in IDS]


async def test_page_begins_after_an_id_that_no_profile_has(storage: Storage, app: App) -> None:
    """An id is a place in the order, whether a profile has it or not."""
    await storage.add_profiles(app.id, [profile(one) for one in IDS], now=1)
    between = ProfileId("70000000-0000-4000-8000-000000000000")
    assert await storage.profiles_after(app.id, between, 1) == [profile(IDS[3])]
    assert await storage.profiles_after(AppId(app.id + 1), None, 10) == []


async def test_replaced_profiles_are_as_given(storage: Storage, app: App) -> None:
    """What goes is gone from every table, and what comes may take its customer and values."""
    await storage.add_profiles(
        app.id, [profile(IDS[1], "a", "x"), profile(IDS[2], "b"), profile(IDS[3], "c")], now=1
    )
    new = [profile(IDS[1], "b", "y"), profile(IDS[4], "a", "x")]
    assert await storage.replace_profiles(app.id, [IDS[1], IDS[2], IDS[5]], new, now=1) == 2
    changed = msgspec.structs.replace(new[0], revision=2)
    assert await storage.profiles_after(app.id, None, 10) == [changed, profile(IDS[3], "c"), new[1]]
    assert (await storage.profile(app.id, ProfileRef("a"))).profile_id == IDS[4]
    assert await storage.check() == []


async def test_profile_in_the_way_is_left(storage: Storage, app: App) -> None:
    """One whose id or customer another one still has is left out, the others are added."""
    await storage.add_profiles(app.id, [profile(IDS[1], "a"), profile(IDS[2], "b")], now=1)
    new = [profile(IDS[3], "a"), profile(IDS[2], "c"), profile(IDS[4], "d")]
    assert await storage.replace_profiles(app.id, [], new, now=1) == 1
    assert [one.profile_id for one in await storage.profiles_after(app.id, None, 10)] == [
        IDS[1],
        IDS[2],
        IDS[4],
    ]
    assert await storage.replace_profiles(app.id, [], [], now=1) == 0


async def test_nothing_is_replaced_in_an_app_that_is_gone(storage: Storage, app: App) -> None:
    """Neither profiles nor keys come into an app that was deleted meanwhile."""
    key = ApiKey("key_a", app, "secret", "", 1)
    await storage.delete_app(app.id)
    with pytest.raises(Unauthorized):
        await storage.replace_profiles(app.id, [], [profile(IDS[1])], now=1)
    with pytest.raises(Unauthorized):
        await storage.put_keys(app.id, [(key, digest("a"))])
    assert await storage.keys_with_digests(app.id) == []


async def test_keys_come_with_their_digests_and_open_the_other_app(
    storage: Storage, app: App, other: App
) -> None:
    """A key put into another database's app of the same content opens that."""
    keys = [
        (ApiKey("key_a", app, "secret", "billing", 1), digest("a")),
        (ApiKey("key_b", app, "public", "", 2, 10, 5, "600/minute"), digest("b")),
    ]
    for key, key_digest in keys:
        await storage.add_key(app.id, key, key_digest)
    assert await storage.keys_with_digests(app.id) == keys
    assert await storage.keys_with_digests(other.id) == []
    await storage.delete_app(app.id)
    await storage.put_keys(other.id, keys)
    theirs = [(msgspec.structs.replace(key, app=other), one) for key, one in keys]
    assert await storage.keys_with_digests(other.id) == theirs
    assert await storage.key_by_digest(digest("b")) == theirs[1][0]


@pytest.mark.parametrize(
    ("before", "put", "after"),
    [
        ((None, None), (10, None), (10, None)),
        ((10, None), (None, None), (10, None)),
        ((10, None), (20, 7), (10, 7)),
        ((20, 7), (10, None), (10, 7)),
        ((None, 7), (None, 5), (None, 5)),
        ((None, 5), (None, 7), (None, 5)),
    ],
)
async def test_key_that_is_there_gets_the_earlier_ends(
    storage: Storage,
    app: App,
    before: tuple[int | None, int | None],
    put: tuple[int | None, int | None],
    after: tuple[int | None, int | None],
) -> None:
    """Whichever side ended a key, it stays ended."""
    await storage.add_key(app.id, ApiKey("key_a", app, "secret", "l", 1, *before), digest("a"))
    await storage.put_keys(app.id, [(ApiKey("key_a", app, "secret", "l", 1, *put), digest("a"))])
    assert await storage.keys(app.id) == [ApiKey("key_a", app, "secret", "l", 1, *after)]


@pytest.mark.parametrize("before", [None, "1/hour", "none"])
@pytest.mark.parametrize("put", [None, "2/hour", "none"])
async def test_key_that_is_there_gets_the_rate_that_comes(
    storage: Storage, app: App, before: str | None, put: str | None
) -> None:
    """A copy that is brought up to date limits its keys as the original does."""
    key = ApiKey("key_a", app, "secret", "l", 1, rate=before)
    await storage.add_key(app.id, key, digest("a"))
    changed = msgspec.structs.replace(key, rate=put)
    await storage.put_keys(app.id, [(changed, digest("a"))])
    assert await storage.keys(app.id) == [changed]


async def test_key_of_another_app_is_not_taken(storage: Storage, app: App, other: App) -> None:
    """A digest opens one app only, and then none of the keys is put."""
    await storage.add_key(other.id, ApiKey("key_b", other, "secret", "", 1), digest("b"))
    keys = [(ApiKey(f"key_{one}", app, "secret", "", 1), digest(one)) for one in "ab"]
    with pytest.raises(ValidationError, match="validation_error"):
        await storage.put_keys(app.id, keys)
    assert await storage.keys(app.id) == []
    await storage.put_keys(app.id, [])
