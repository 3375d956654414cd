"""The storage contract: what `knownas.storage.Storage` promises, for every backend.

Threat rows 5, 7, 24 and 37 stand here for the storage; over HTTP they are in `test_threats.py`.
"""

import asyncio
import inspect
import typing
from collections.abc import Awaitable, Callable, Iterator

import msgspec
import pytest

from conftest import INJECTIONS, LOOKALIKES
from knownas.errors import (
    KnownasError,
    PreconditionFailed,
    ProfileConflict,
    ProfileNotFound,
    Unauthorized,
    ValidationError,
)
from knownas.keys import digest
from knownas.model import (
    KINDS,
    NO_IDENTIFIERS,
    ApiKey,
    App,
    AppId,
    Identifiers,
    Profile,
    ProfileId,
    ProfileRef,
    merge_identifiers,
)
from knownas.storage import Storage
from storage.conftest import Open, identifiers

pytestmark = pytest.mark.anyio

IDS = [ProfileId(f"00000000-0000-4000-8000-{number:012}") for number in range(100)]
NEW_ID, ABSENT_ID = ProfileId("10000000-0000-4000-8000-000000000000"), IDS[-1]
CROWD = 64

Use = Callable[[Storage, AppId, ProfileRef], Awaitable[object]]
Change = Callable[[Profile], Profile]


def keep(profile: Profile) -> Profile:
    """Change nothing."""
    return profile


def setting(**values: str) -> Change:
    """Return the change that sets identifiers."""
    return lambda profile: msgspec.structs.replace(
        profile, identifiers=merge_identifiers(profile.identifiers, values)
    )


def raising(error: Exception) -> Callable[[Profile], typing.NoReturn]:
    """Return the change that cannot be made, or the check that is never passed."""

    def change(_profile: Profile) -> typing.NoReturn:
        raise error

    return change


def ref(customer: str | None = None, profile_id: ProfileId | None = None) -> ProfileRef:
    """Return a reference by customer, by id, or by both."""
    return ProfileRef(customer, profile_id)


def profile(number: int, customer: str | None = None, *, now: int = 1, **values: str) -> Profile:
    """Return a profile as the tests store it."""
    bare = Profile(IDS[number], customer, NO_IDENTIFIERS, (), now, now)
    return setting(**values)(bare)


def key(app: App, name: str, *, created_at: int = 1, expires_at: int | None = None) -> ApiKey:
    """Return what is kept of a key."""
    return ApiKey(f"key_{name}", app, "secret", name, created_at, expires_at)


# --- The signatures -----------------------------------------------------------------------------

# What is not about the data of one app, and why. `Storage` has the last word.
NOT_OF_ONE_APP = {
    "create_app": "it makes the app",
    "apps": "it lists them",
    "key_by_digest": "it finds the app",
    "end_of_changes": "its place is the same for all",
    "note_key_uses": "the keys that a process has seen are those of all",
    "prune": "history is kept as long in all",
    "ping": "it asks the database",
    "check": "it reads the database whole",
    "waiting": "what waits is of no app",
    "condition": "the database is that of all",
    "close": "it ends the database's use",
}


def methods(of: type) -> dict[str, Callable[..., object]]:
    """Return the public methods of a class."""
    found = inspect.getmembers(of, inspect.isfunction)
    return {name: method for name, method in found if not name.startswith("_")}


def test_every_method_on_one_app_takes_it_first() -> None:
    """The first parameter of a tenant-scoped method is the app, and cannot be left out."""
    assert set(methods(Storage)) > set(NOT_OF_ONE_APP)
    for name, method in methods(Storage).items():
        _, *parameters = inspect.signature(method).parameters.values()
        takes_app = [
            parameter.name
            for parameter in parameters
            if typing.get_type_hints(method)[parameter.name] is AppId
        ]
        if name in NOT_OF_ONE_APP:
            assert not takes_app, f"{name} takes an app; strike it from the list above"
        else:
            assert takes_app == ["app"], name
            assert parameters[0].name == "app", name
            assert parameters[0].default is inspect.Parameter.empty, name


async def test_signatures_are_those_of_the_contract(storage: Storage) -> None:
    """A backend has every method of the protocol with the same parameters, in the same order."""
    own = methods(type(storage))
    for name, method in methods(Storage).items():
        assert [
            (parameter.name, parameter.kind, parameter.default)
            for parameter in inspect.signature(own[name]).parameters.values()
        ] == [
            (parameter.name, parameter.kind, parameter.default)
            for parameter in inspect.signature(method).parameters.values()
        ], name


# --- Apps ---------------------------------------------------------------------------------------


async def test_apps_are_listed_oldest_first(storage: Storage, app: App, other: App) -> None:
    """An app is kept as it was returned."""
    assert (app.name, app.created_at) == ("one", 1)
    assert await storage.apps() == [app, other]


async def test_name_of_an_app_is_taken_once(storage: Storage, app: App) -> None:
    """A second app of one name is refused, and the first stays."""
    with pytest.raises(ValidationError):
        await storage.create_app("another-uuid", app.name, now=2)
    assert await storage.apps() == [app]


async def test_deleted_app_is_gone_with_all_it_had(storage: Storage, app: App, other: App) -> None:
    """Keys, profiles, customers and the name are gone; another app has what it had."""
    for one in (app, other):
        await storage.add_key(one.id, key(one, one.name), digest(one.name))
        await storage.add_profiles(one.id, [profile(1, "u", branch_id="b")], now=1)
    await storage.delete_app(app.id)
    assert await storage.apps() == [other]
    assert await storage.key_by_digest(digest("one")) is None
    assert (await storage.keys(app.id), await storage.count_profiles(app.id)) == ([], 0)
    with pytest.raises(ProfileNotFound):
        await storage.profile(app.id, ref("u"))
    assert await storage.keys(other.id) == [key(other, "two")]
    assert await storage.profile(other.id, ref("u")) == profile(1, "u", branch_id="b")
    again = await storage.create_app("another-uuid", app.name, now=3)
    with pytest.raises(ProfileNotFound):
        await storage.profile(again.id, ref("u"))
    assert await storage.check() == []


async def test_id_of_a_deleted_app_is_not_used_again(storage: Storage, other: App) -> None:
    """What a process still believes of a deleted app opens no later one."""
    await storage.delete_app(other.id)
    assert (await storage.create_app("another-uuid", "three", now=3)).id != other.id


async def test_deleting_no_app_is_a_no_op(storage: Storage, app: App, other: App) -> None:
    """Deleting an app twice is as once."""
    await storage.delete_app(other.id)
    await storage.delete_app(other.id)
    assert await storage.apps() == [app]


@pytest.mark.parametrize(
    "write",
    [
        lambda storage, app: storage.change_profile(
            app.id, ref("u"), keep, now=1, create_as=NEW_ID
        ),
        lambda storage, app: storage.add_profiles(app.id, [profile(1, "v")], now=1),
    ],
    ids=["change_profile", "add_profiles"],
)
async def test_write_to_a_deleted_app_is_refused(
    storage: Storage, other: App, write: Callable[[Storage, App], Awaitable[object]]
) -> None:
    """A process that still believes in a deleted app is refused, and leaves nothing behind."""
    await storage.delete_app(other.id)
    with pytest.raises(Unauthorized):
        await write(storage, other)
    assert await storage.count_profiles(other.id) == 0
    assert await storage.check() == []


async def test_key_of_a_deleted_app_is_not_kept(storage: Storage, other: App) -> None:
    """A key that comes after its app's end is refused or dropped, and is no broken promise."""
    await storage.delete_app(other.id)
    with pytest.raises(Unauthorized):
        await storage.add_key(other.id, key(other, "late"), digest("late"))
    assert await storage.key_by_digest(digest("late")) is None
    assert await storage.check() == []


# --- Keys ---------------------------------------------------------------------------------------


async def test_keys_are_listed_oldest_first_live_or_not(storage: Storage, app: App) -> None:
    """A key is kept as it was given, and listed after its end too."""
    young, old = key(app, "a", created_at=2), key(app, "b", created_at=1, expires_at=5)
    dead = msgspec.structs.replace(key(app, "c", created_at=3), ended_at=4)
    for number, one in enumerate((young, old, dead)):
        await storage.add_key(app.id, one, digest(str(number)))
    assert await storage.keys(app.id) == [old, young, dead]


async def test_key_is_found_by_its_digest_across_apps(
    storage: Storage, app: App, other: App
) -> None:
    """The key says which app it opens; an unknown digest is None."""
    for one in (app, other):
        await storage.add_key(one.id, key(one, one.name), digest(one.name))
    assert await storage.key_by_digest(digest("one")) == key(app, "one")
    assert await storage.key_by_digest(digest("two")) == key(other, "two")
    assert await storage.key_by_digest(digest("One")) is None


async def test_digest_is_taken_once_whatever_the_app(
    storage: Storage, app: App, other: App
) -> None:
    """One text opens one app: neither the same nor another app takes it again."""
    await storage.add_key(app.id, key(app, "first"), digest("text"))
    for one in (app, other):
        with pytest.raises(ValidationError):
            await storage.add_key(one.id, key(one, "second"), digest("text"))
    assert await storage.key_by_digest(digest("text")) == key(app, "first")
    assert await storage.keys(other.id) == []


async def test_latest_use_of_a_key_is_kept(storage: Storage, app: App, other: App) -> None:
    """Of each key that is there; a time before the one that is known changes nothing."""
    await storage.add_key(app.id, key(app, "a"), digest("a"))
    await storage.add_key(other.id, key(other, "b"), digest("b"))
    await storage.note_key_uses({(app.id, "key_a"): 50, (app.id, "key_b"): 60, (other.id, "x"): 70})
    await storage.note_key_uses({(app.id, "key_a"): 40})
    assert await storage.keys(app.id) == [msgspec.structs.replace(key(app, "a"), last_used_at=50)]
    assert await storage.keys(other.id) == [key(other, "b")]


async def test_rate_is_kept_and_changed(storage: Storage, app: App, other: App) -> None:
    """A key keeps the rate that it was given, until it gets another; no other key does."""
    bystander, rated = key(app, "a"), msgspec.structs.replace(key(app, "b"), rate="600/minute")
    await storage.add_key(app.id, bystander, digest("a"))
    await storage.add_key(app.id, rated, digest("b"))
    assert await storage.keys(app.id) == [bystander, rated]
    for rate in ("5/hour", "none", None, "5/hour"):
        assert await storage.set_key_rate(app.id, "key_b", rate)
        changed = msgspec.structs.replace(rated, rate=rate)
        assert await storage.key_by_digest(digest("b")) == changed
        assert await storage.keys(app.id) == [bystander, changed]
    for app_id, key_id in ((other.id, "key_b"), (app.id, "key_c"), (app.id, "KEY_B")):
        assert not await storage.set_key_rate(app_id, key_id, "1/day")
    assert await storage.keys_with_digests(app.id) == [
        (bystander, digest("a")),
        (changed, digest("b")),
    ]


async def test_first_end_stays(storage: Storage, app: App) -> None:
    """A key that is ended twice was ended the first time."""
    await storage.add_key(app.id, key(app, "a"), digest("a"))
    for at in (7, 9, 5):
        assert await storage.end_key(app.id, "key_a", at=at)
    assert [one.ended_at for one in await storage.keys(app.id)] == [7]


@pytest.mark.parametrize(
    ("expires", "until", "expected"), [(None, 7, 7), (9, 7, 7), (7, 9, 7), (7, 7, 7)]
)
async def test_replaced_key_expires_with_the_overlap(
    storage: Storage, app: App, expires: int | None, until: int, expected: int
) -> None:
    """It gets the end of the overlap, or stays where it expires earlier; no other key does."""
    await storage.add_key(app.id, key(app, "bystander"), digest("bystander"))
    await storage.add_key(app.id, key(app, "old", expires_at=expires), digest("old"))
    new = key(app, "young", created_at=2, expires_at=99)
    await storage.add_key(app.id, new, digest("young"), replacing="key_old", overlap_until=until)
    assert await storage.keys(app.id) == [
        key(app, "bystander"),
        key(app, "old", expires_at=expected),
        new,
    ]


async def test_refused_key_replaces_none(storage: Storage, app: App) -> None:
    """When the successor is not kept, the key that it was to replace lives on."""
    await storage.add_key(app.id, key(app, "a"), digest("a"))
    with pytest.raises(ValidationError):
        await storage.add_key(
            app.id, key(app, "b"), digest("a"), replacing="key_a", overlap_until=2
        )
    assert await storage.keys(app.id) == [key(app, "a")]


async def test_key_of_another_app_is_no_key(storage: Storage, app: App, other: App) -> None:
    """Through another app, or under another id, a key is not ended, nor replaced."""
    await storage.add_key(app.id, key(app, "a"), digest("a"))
    for app_id, key_id in ((other.id, "key_a"), (app.id, "key_b"), (app.id, "KEY_A")):
        assert not await storage.end_key(app_id, key_id, at=2)
    await storage.add_key(
        other.id, key(other, "b"), digest("b"), replacing="key_a", overlap_until=2
    )
    assert await storage.keys(app.id) == [key(app, "a")]
    assert await storage.keys(other.id) == [key(other, "b")]


# --- Which profile a reference names ------------------------------------------------------------

READS_AND_WRITES: dict[str, Use] = {
    "identifiers": identifiers,
    "profile": lambda storage, app, ref: storage.profile(app, ref),
    "change_profile": lambda storage, app, ref: storage.change_profile(
        app, ref, setting(branch_id="changed"), now=9
    ),
    "delete_profile": lambda storage, app, ref: storage.delete_profile(app, ref, now=1),
}
of_each_use = pytest.mark.parametrize("use", READS_AND_WRITES.values(), ids=READS_AND_WRITES)


@of_each_use
@pytest.mark.parametrize(
    ("named", "error"),
    [
        (ref("nobody"), ProfileNotFound),
        (ref("a "), ProfileNotFound),
        (ref("A"), ProfileNotFound),
        (ref(profile_id=ABSENT_ID), ProfileNotFound),
        (ref("a", ABSENT_ID), ProfileNotFound),
        (ref("nobody", IDS[1]), ProfileNotFound),
        (ref("nobody", IDS[3]), ProfileNotFound),
        (ref("nobody", ABSENT_ID), ProfileNotFound),
        (ref("a", IDS[2]), ProfileConflict),
        (ref("a", IDS[3]), ProfileConflict),
    ],
)
async def test_reference_that_names_no_profile_is_refused(
    storage: Storage, app: App, use: Use, named: ProfileRef, error: type[KnownasError]
) -> None:
    """Unknown halves are not found, halves of two profiles conflict, and nothing changes."""
    stored = [profile(1, "a", branch_id="x"), profile(2, "b"), profile(3)]
    await storage.add_profiles(app.id, stored, now=1)
    with pytest.raises(KnownasError) as raised:
        await use(storage, app.id, named)
    assert type(raised.value) is error
    assert [await storage.profile(app.id, ref(profile_id=one.profile_id)) for one in stored] == (
        stored
    )


@of_each_use
@pytest.mark.parametrize("named", [ref("a"), ref(profile_id=IDS[1]), ref("a", IDS[1])])
async def test_reference_that_names_a_profile_is_served(
    storage: Storage, app: App, use: Use, named: ProfileRef
) -> None:
    """By customer, by id and by both the same profile is read, changed or deleted."""
    await storage.add_profiles(app.id, [profile(1, "a", branch_id="x"), profile(2, "b")], now=1)
    result = await use(storage, app.id, named)
    if not isinstance(result, Profile):
        assert result == profile(1, branch_id="x").identifiers
    else:
        assert result.profile_id == IDS[1]
    assert await storage.profile(app.id, ref("b")) == profile(2, "b")


@of_each_use
@pytest.mark.parametrize("named", [ref("a"), ref(profile_id=IDS[1]), ref("a", IDS[1])])
async def test_profile_of_another_app_is_not_found(
    storage: Storage, app: App, other: App, use: Use, named: ProfileRef
) -> None:
    """Through another app a profile is not there, and is not touched."""
    await storage.add_profiles(app.id, [profile(1, "a", branch_id="x")], now=1)
    with pytest.raises(ProfileNotFound):
        await use(storage, other.id, named)
    assert await storage.profile(app.id, ref("a", IDS[1])) == profile(1, "a", branch_id="x")


async def test_two_apps_may_have_the_same_customer_and_id(
    storage: Storage, app: App, other: App
) -> None:
    """The same customer and id in two apps are two profiles, each counted in its own."""
    await storage.add_profiles(app.id, [profile(1, "a", branch_id="x")], now=1)
    assert await storage.add_profiles(other.id, [profile(1, "a", branch_id="y")], now=1) == 1
    await storage.change_profile(other.id, ref("a"), setting(branch_id="z"), now=2)
    assert await storage.profile(app.id, ref("a")) == profile(1, "a", branch_id="x")
    await storage.delete_profile(app.id, ref("a"), now=1)
    assert await storage.count_profiles(app.id) == 0
    assert await storage.count_profiles(other.id) == 1
    assert (await storage.profile(other.id, ref("a"))).updated_at == 2
    assert await storage.check() == []


# --- Changing and creating ----------------------------------------------------------------------


async def test_change_is_kept_and_dated(storage: Storage, app: App) -> None:
    """What was returned is what is kept; `updated_at` is now, `created_at` stays."""
    await storage.add_profiles(
        app.id, [profile(1, "a", branch_id="x", adjust_device_id="y")], now=1
    )
    kept = await storage.change_profile(app.id, ref("a"), setting(branch_id="z"), now=7)
    expected = profile(1, "a", branch_id="z", adjust_device_id="y")
    assert kept == msgspec.structs.replace(expected, updated_at=7, revision=2)
    assert await storage.profile(app.id, ref("a")) == kept
    assert await identifiers(storage, app.id, ref("a")) == kept.identifiers
    assert await storage.check() == []


async def test_every_part_of_a_profile_can_change(storage: Storage, app: App) -> None:
    """Each kind can be set, replaced and taken away; attributes keep their order."""
    await storage.add_profiles(app.id, [profile(1, "a")], now=1)
    attributes = (("z", "text"), ("a", 1), ("m", 1.5), ("n", -(2.0**60)), ("e", "\u00e9\"'\\"))
    full = tuple(f"{kind.name}-1" for kind in KINDS)
    some = tuple(None if number % 3 else f"{number}" for number in range(len(KINDS)))
    last = (*NO_IDENTIFIERS[1:], "last")
    for number, now_set in enumerate((full, some, last, NO_IDENTIFIERS, full)):

        def become(before: Profile, now_set: Identifiers = now_set) -> Profile:
            return msgspec.structs.replace(before, identifiers=now_set, attributes=attributes)

        kept = await storage.change_profile(app.id, ref("a"), become, now=number)
        assert (kept.identifiers, kept.attributes) == (now_set, attributes)
        assert await storage.profile(app.id, ref("a")) == kept
        assert await storage.check() == []


@pytest.mark.parametrize("change", [keep, setting(branch_id="x")])
async def test_equal_result_writes_nothing(storage: Storage, app: App, change: Change) -> None:
    """Setting what is there already leaves `updated_at` as it was."""
    await storage.add_profiles(app.id, [profile(1, "a", branch_id="x")], now=1)
    for create_as in (None, NEW_ID):
        kept = await storage.change_profile(app.id, ref("a"), change, now=7, create_as=create_as)
        assert kept == profile(1, "a", branch_id="x")
    assert await storage.profile(app.id, ref("a")) == profile(1, "a", branch_id="x")


@pytest.mark.parametrize("error", [ProfileConflict(), ZeroDivisionError("of the change")])
@pytest.mark.parametrize("named", [ref("a"), ref("new")])
async def test_raising_change_is_raised_and_writes_nothing(
    storage: Storage, app: App, error: Exception, named: ProfileRef
) -> None:
    """The error comes out as it is; neither a changed nor a created profile is there."""
    await storage.add_profiles(app.id, [profile(1, "a", branch_id="x")], now=1)
    with pytest.raises(type(error)) as raised:
        await storage.change_profile(app.id, named, raising(error), now=7, create_as=NEW_ID)
    assert raised.value is error
    assert await storage.profile(app.id, ref("a")) == profile(1, "a", branch_id="x")
    assert await storage.count_profiles(app.id) == 1


async def test_row_37_failing_write_harms_no_neighbour(storage: Storage, app: App) -> None:
    """Of writes made at once those that cannot be made fail alone, in whatever way they fail."""

    def steal(before: Profile) -> Profile:
        return msgspec.structs.replace(setting(branch_id="torn")(before), customer_user_id="good0")

    stored = [profile(number, f"bad{number}") for number in range(6)]
    await storage.add_profiles(
        app.id, [*stored, *(profile(10 + n, f"good{n}") for n in range(6))], now=1
    )
    await storage.add_key(app.id, key(app, "a"), digest("a"))
    bad: list[Awaitable[object]] = [
        storage.change_profile(app.id, ref("bad0"), raising(ZeroDivisionError()), now=2),
        storage.change_profile(app.id, ref("bad1"), steal, now=2),
        storage.change_profile(app.id, ref("bad2"), setting(branch_id="\ud800"), now=2),
        storage.change_profile(app.id, ref("bad3", IDS[4]), keep, now=2, create_as=NEW_ID),
        storage.delete_profile(app.id, ref("nobody"), now=1),
        storage.add_key(app.id, key(app, "b"), digest("a")),
    ]
    good = [
        storage.change_profile(app.id, ref(f"good{number}"), setting(branch_id="kept"), now=2)
        for number in range(len(bad))
    ]
    mixed = [write for pair in zip(bad, good, strict=True) for write in pair]
    outcomes = await asyncio.gather(*mixed, return_exceptions=True)
    assert [isinstance(outcome, Exception) for outcome in outcomes] == [True, False] * len(bad)
    for number in range(len(bad)):
        assert await storage.profile(app.id, ref(f"bad{number}")) == stored[number]
        assert await storage.profile(app.id, ref(f"good{number}")) == outcomes[2 * number + 1]
    assert await storage.keys(app.id) == [key(app, "a")]
    assert await storage.check() == []


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        (ref("new"), Profile(NEW_ID, "new", NO_IDENTIFIERS, (), 7, 7)),
        (ref(profile_id=ABSENT_ID), Profile(ABSENT_ID, None, NO_IDENTIFIERS, (), 7, 7)),
        (ref("new", ABSENT_ID), Profile(ABSENT_ID, "new", NO_IDENTIFIERS, (), 7, 7)),
        (ref("a"), profile(1, "a", branch_id="x")),
        (ref(profile_id=IDS[1]), profile(1, "a", branch_id="x")),
        (ref("a", IDS[1]), profile(1, "a", branch_id="x")),
        (ref(profile_id=IDS[3]), profile(3, branch_id="x")),
        (
            ref("new", IDS[3]),
            Profile(IDS[3], "new", profile(3, branch_id="x").identifiers, (), 1, 7, 2),
        ),
    ],
)
async def test_profile_is_created_found_or_bound(
    storage: Storage, app: App, named: ProfileRef, expected: Profile
) -> None:
    """A reference that finds nothing creates; an anonymous profile is bound to a new customer."""
    await storage.add_profiles(
        app.id, [profile(1, "a", branch_id="x"), profile(2, "b"), profile(3, branch_id="x")], now=1
    )
    kept = await storage.change_profile(app.id, named, keep, now=7, create_as=NEW_ID)
    assert kept == expected
    assert await storage.profile(app.id, ref(profile_id=expected.profile_id)) == expected
    if expected.customer_user_id is not None:
        assert await storage.profile(app.id, ref(expected.customer_user_id)) == expected
    assert await storage.check() == []


@pytest.mark.parametrize(
    "named", [ref("a", IDS[2]), ref("a", IDS[3]), ref("a", ABSENT_ID), ref("new", IDS[1])]
)
async def test_profile_is_not_created_over_another(
    storage: Storage, app: App, named: ProfileRef
) -> None:
    """A customer with another profile, or a profile with another customer, is a conflict."""
    stored = [profile(1, "a"), profile(2, "b"), profile(3)]
    await storage.add_profiles(app.id, stored, now=1)
    with pytest.raises(ProfileConflict):
        await storage.change_profile(app.id, named, setting(branch_id="x"), now=7, create_as=NEW_ID)
    for one in stored:
        assert await storage.profile(app.id, ref(profile_id=one.profile_id)) == one
    assert await storage.count_profiles(app.id) == len(stored)


async def test_simultaneous_creates_make_one_profile(
    storage: Storage, open_storage: Open, app: App
) -> None:
    """Of 64 creates of one customer through two openings one creates, the others change it."""

    def adding(number: int) -> Change:
        return lambda before: msgspec.structs.replace(
            before, attributes=(*before.attributes, (f"a{number}", number))
        )

    openings = [storage, await open_storage()]
    made = await asyncio.gather(
        *(
            openings[number % 2].change_profile(
                app.id, ref("new"), adding(number), now=7, create_as=IDS[number]
            )
            for number in range(CROWD)
        )
    )
    assert len({one.profile_id for one in made}) == 1
    assert await storage.count_profiles(app.id) == 1
    found = await storage.profile(app.id, ref("new"))
    assert dict(found.attributes) == {f"a{number}": number for number in range(CROWD)}
    assert await storage.check() == []


# --- Deleting -----------------------------------------------------------------------------------


async def test_deleted_profile_is_returned_and_gone(storage: Storage, app: App) -> None:
    """Customer, id and identifiers are free for another profile."""
    await storage.add_profiles(app.id, [profile(1, "a", branch_id="x")], now=1)
    assert await storage.delete_profile(app.id, ref("a"), now=1) == profile(1, "a", branch_id="x")
    for named in (ref("a"), ref(profile_id=IDS[1])):
        with pytest.raises(ProfileNotFound):
            await storage.profile(app.id, named)
        with pytest.raises(ProfileNotFound):
            await storage.delete_profile(app.id, named, now=1)
    assert await storage.add_profiles(app.id, [profile(1, "b"), profile(2, "a")], now=1) == 2
    assert await storage.profile(app.id, ref("a")) == profile(2, "a")
    assert await storage.check() == []


async def test_check_may_stop_a_deletion(storage: Storage, app: App) -> None:
    """It is called with the profile as it is; what it raises comes out, and all stays."""
    stored = profile(1, "a", branch_id="x")
    await storage.add_profiles(app.id, [stored], now=1)
    error = PreconditionFailed()
    with pytest.raises(PreconditionFailed) as raised:
        await storage.delete_profile(app.id, ref("a"), check=raising(error), now=1)
    assert raised.value is error
    assert await storage.profile(app.id, ref("a")) == stored
    seen: list[Profile] = []
    assert await storage.delete_profile(app.id, ref("a"), check=seen.append, now=1) == stored
    assert set(map(repr, seen)) == {repr(stored)}
    with pytest.raises(ProfileNotFound):
        await storage.delete_profile(app.id, ref("a"), check=seen.append, now=1)
    assert await storage.check() == []


async def test_one_of_many_writes_from_the_same_state_is_made(
    storage: Storage, open_storage: Open, app: App
) -> None:
    """Of 64 writes through two openings that each want the profile as it was read, one is made."""
    stored = profile(1, "a", branch_id="x")
    await storage.add_profiles(app.id, [stored], now=1)

    def check(found: Profile) -> None:
        if found != stored:
            raise PreconditionFailed

    def changing(number: int) -> Change:
        def change(found: Profile) -> Profile:
            check(found)
            return setting(branch_id=f"x{number}")(found)

        return change

    openings = [storage, await open_storage()]
    writes = [
        openings[number % 2].delete_profile(app.id, ref("a"), now=7, check=check)
        if number % 4 > 1
        else openings[number % 2].change_profile(app.id, ref("a"), changing(number), now=7)
        for number in range(CROWD)
    ]
    outcomes = await asyncio.gather(*writes, return_exceptions=True)
    refused = (PreconditionFailed, ProfileNotFound)  # the latter after a deletion
    assert sum(isinstance(outcome, Profile) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, refused) for outcome in outcomes) == CROWD - 1
    assert await storage.check() == []


# --- Adding many --------------------------------------------------------------------------------


async def test_added_profiles_are_kept_as_given(storage: Storage, app: App) -> None:
    """Times, attributes and identifiers of an added profile are those that it brought."""
    brought = msgspec.structs.replace(
        profile(1, "a", now=5, branch_id="x"), attributes=(("k", "v"), ("n", 2)), updated_at=6
    )
    assert await storage.add_profiles(app.id, iter([brought, profile(2)]), now=1) == 2
    assert await storage.profile(app.id, ref("a")) == brought
    assert await storage.count_profiles(app.id) == 2
    assert await storage.add_profiles(app.id, [], now=1) == 0


async def test_profile_that_is_there_is_left_out(storage: Storage, app: App) -> None:
    """An id or customer that the app has, or that came earlier in the list, is not added again."""
    await storage.add_profiles(app.id, [profile(1, "a", branch_id="x"), profile(2)], now=1)
    brought = [
        profile(1, "new", branch_id="y"),
        profile(3, "a", branch_id="y"),
        profile(2, "new"),
        profile(4, "b", branch_id="kept"),
        profile(4, "c"),
        profile(5, "b"),
        profile(6),
    ]
    assert await storage.add_profiles(app.id, brought, now=1) == 2
    assert await storage.count_profiles(app.id) == 4
    assert await storage.profile(app.id, ref("a")) == profile(1, "a", branch_id="x")
    assert await storage.profile(app.id, ref("b")) == profile(4, "b", branch_id="kept")
    assert (await storage.profile(app.id, ref(profile_id=IDS[2]))).customer_user_id is None
    with pytest.raises(ProfileNotFound):
        await storage.profile(app.id, ref("new"))
    assert await storage.check() == []


async def test_profiles_are_added_all_or_none(storage: Storage, app: App) -> None:
    """When the list breaks off, none of it is kept."""

    def broken() -> Iterator[Profile]:
        yield profile(1, "a")
        raise EOFError

    with pytest.raises(EOFError):
        await storage.add_profiles(app.id, broken(), now=1)
    assert await storage.count_profiles(app.id) == 0


# --- Texts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("texts", [LOOKALIKES, INJECTIONS], ids=["lookalikes", "injections"])
async def test_rows_07_and_24_texts_are_kept_as_they_are(
    storage: Storage, app: App, other: App, texts: tuple[str, ...]
) -> None:
    """Each text is a customer, identifier, attribute and label of its own, byte for byte."""
    await storage.add_profiles(other.id, [profile(1, "'")], now=1)
    for number, text in enumerate(texts):

        def set_all(before: Profile, text: str = text) -> Profile:
            after = setting(branch_id=text, facebook_anonymous_id=text)(before)
            return msgspec.structs.replace(after, attributes=((text, text),))

        await storage.change_profile(app.id, ref(text), set_all, now=1, create_as=IDS[number])
        await storage.add_key(app.id, key(app, text, created_at=number), digest(text))
    for number, text in enumerate(texts):
        found = await storage.profile(app.id, ref(text))
        assert found == msgspec.structs.replace(
            profile(number, text, branch_id=text, facebook_anonymous_id=text),
            attributes=((text, text),),
        )
        assert await identifiers(storage, app.id, ref(text)) == found.identifiers
    assert [one.label for one in await storage.keys(app.id)] == list(texts)
    assert await storage.count_profiles(app.id) == len(texts)
    assert await storage.count_profiles(other.id) == 1
    assert await storage.check() == []


@pytest.mark.parametrize("text", INJECTIONS)
async def test_row_24_absent_text_finds_nothing(storage: Storage, app: App, text: str) -> None:
    """What a look-up is given is never more than a value to look up."""
    await storage.add_profiles(app.id, [profile(1, "a", branch_id="x")], now=1)
    await storage.add_key(app.id, key(app, "a"), digest("a"))
    for use in READS_AND_WRITES.values():
        with pytest.raises(ProfileNotFound):
            await use(storage, app.id, ref(text))
    assert not await storage.end_key(app.id, text, at=2)
    assert await storage.key_by_digest(text.encode()) is None
    await storage.delete_app((await storage.create_app(text, text, now=2)).id)
    assert await storage.apps() == [app]
    assert await storage.keys(app.id) == [key(app, "a")]
    assert await storage.profile(app.id, ref("a")) == profile(1, "a", branch_id="x")


# --- The database itself ------------------------------------------------------------------------


async def test_acknowledged_write_is_read_through_every_opening(
    storage: Storage, open_storage: Open, app: App
) -> None:
    """No read that begins after a write's return sees what was before it."""
    second = await open_storage()
    await storage.add_profiles(app.id, [profile(1, "a")], now=1)
    for number in range(100):
        writer, reader = (storage, second) if number % 2 else (second, storage)
        kept = await writer.change_profile(
            app.id, ref("a"), setting(branch_id=f"{number}"), now=number
        )
        for one in (reader, writer):
            assert await identifiers(one, app.id, ref("a")) == kept.identifiers


async def test_closing_finishes_what_was_begun(
    storage: Storage, open_storage: Open, app: App
) -> None:
    """Writes that wait when the storage is closed are made and answered; closing twice is once."""
    writes = [
        asyncio.ensure_future(
            storage.change_profile(app.id, ref(f"c{number}"), keep, now=2, create_as=IDS[number])
        )
        for number in range(CROWD)
    ]
    await asyncio.sleep(0)
    await storage.close()
    await storage.close()
    made = await asyncio.gather(*writes)
    reopened = await open_storage()
    assert await reopened.apps() == [app]
    for number, one in enumerate(made):
        assert await reopened.profile(app.id, ref(f"c{number}")) == one


@pytest.mark.usefixtures("storage")
async def test_second_opening_has_nothing_to_migrate(open_storage: Open) -> None:
    """A database that has its tables is left as it is (the first opening: `test_migrations.py`)."""
    assert (await open_storage()).migrated == []


async def test_fresh_database_answers_and_is_sound(storage: Storage) -> None:
    """An empty database answers, and has no problem, app or key."""
    await storage.ping()
    assert await storage.check() == []
    assert await storage.apps() == []
    assert await storage.keys(AppId(1)) == []
    assert await storage.count_profiles(AppId(1)) == 0
