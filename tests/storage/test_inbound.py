"""Webhooks of others, in the storage contract: what `knownas.receiving.Inbound` promises.

And what `knownas.editing.Edit` promises of the ages of identifiers.
"""

import asyncio
import inspect
import typing
from typing import Final

import pytest

from knownas.editing import Edit, Needs
from knownas.erasing import Person, Record, Whom
from knownas.errors import Unauthorized, ValidationError
from knownas.model import KIND_NUMBER, App, AppId, Profile, ProfileRef
from knownas.receiving import (
    LETTERS_KEPT_MS,
    DeadLetter,
    Door,
    Inbound,
    InboundSecret,
    Refusals,
    tells_of,
)
from knownas.storage import Storage
from storage.conftest import Open
from storage.test_contract import IDS, methods, setting

pytestmark = pytest.mark.anyio

NOW: Final = 1_000
BRANCH, ADJUST = KIND_NUMBER["branch_id"], KIND_NUMBER["adjust_device_id"]
SECRET: Final = InboundSecret("whs_1", "adapty", b"\0digest", NOW)
LETTER: Final = DeadLetter("ltr_1", "adapty", NOW, "reason", b'{"a": "\xff\0"}', 12)


def letter(number: int, body: bytes = b"{}") -> DeadLetter:
    """Return a dead letter of a time."""
    return DeadLetter(f"ltr_{number}", "adapty", number, "reason", body, len(body))


# --- The signatures -----------------------------------------------------------------------------


def test_every_method_on_one_app_takes_it_first() -> None:
    """The first parameter is the app, but of the method that finds it."""
    for name, method in methods(Inbound).items():
        _, first, *_ = inspect.signature(method).parameters.values()
        is_app = typing.get_type_hints(method)[first.name] is AppId
        assert is_app == (name != "door"), name


async def test_signatures_are_those_of_the_contract(storage: Storage) -> None:
    """A backend has every method of the protocol with the same parameters, in the same order."""
    own = methods(type(storage.inbound))
    for name, method in methods(Inbound).items():
        parameters = inspect.signature(method).parameters
        assert [*inspect.signature(own[name]).parameters] == [*parameters], name


# --- Secrets ------------------------------------------------------------------------------------


async def test_door_has_the_secrets_of_one_sender(storage: Storage, app: App, other: App) -> None:
    """An app is found by its name, with the digests of that sender's secrets and no other's."""
    await storage.inbound.add_secret(app.id, SECRET, most=2)
    await storage.inbound.add_secret(app.id, SECRET._replace(id="whs_2", sender="x"), most=2)
    await storage.inbound.add_secret(other.id, SECRET._replace(id="whs_3"), most=2)
    assert await storage.inbound.door("one", "adapty") == Door(app, [SECRET.digest])
    assert await storage.inbound.door("one", "nobody") == Door(app, [])
    assert await storage.inbound.door("none", "adapty") is None


async def test_secrets_are_kept_until_deleted(storage: Storage, app: App, other: App) -> None:
    """They are listed oldest first, for their app alone, and gone at once."""
    later = SECRET._replace(id="whs_0", digest=b"b", created_at=NOW + 1)
    await storage.inbound.add_secret(app.id, later, most=2)
    await storage.inbound.add_secret(app.id, SECRET, most=2)
    assert await storage.inbound.secrets(app.id) == [SECRET, later]
    assert await storage.inbound.secrets(other.id) == []
    assert not await storage.inbound.delete_secret(other.id, SECRET.id)
    assert await storage.inbound.delete_secret(app.id, SECRET.id)
    assert not await storage.inbound.delete_secret(app.id, SECRET.id)
    assert await storage.inbound.secrets(app.id) == [later]


async def test_secrets_have_a_limit(storage: Storage, app: App) -> None:
    """Of many that are added at once as many stay as may; one is never there twice."""

    async def add(number: int) -> bool:
        secret = InboundSecret(f"whs_{number}", "adapty", b"%d" % number, NOW)
        try:
            await storage.inbound.add_secret(app.id, secret, most=2)
        except ValidationError:
            return False
        return True

    assert sum(await asyncio.gather(*map(add, range(8)))) == 2
    [kept, _] = await storage.inbound.secrets(app.id)
    with pytest.raises(ValidationError):
        await storage.inbound.add_secret(app.id, kept._replace(id="whs_x"), most=9)


async def test_refusals_are_added_up(storage: Storage, app: App, other: App) -> None:
    """Each sender has a count and the time of the last one."""
    await storage.inbound.note_refusals(app.id, Refusals("adapty", 2, NOW + 5))
    await storage.inbound.note_refusals(app.id, Refusals("adapty", 3, NOW))
    await storage.inbound.note_refusals(app.id, Refusals("x", 1, NOW))
    assert await storage.inbound.refusals(app.id) == [
        Refusals("adapty", 5, NOW + 5),
        Refusals("x", 1, NOW),
    ]
    assert await storage.inbound.refusals(other.id) == []


# --- Dead letters -------------------------------------------------------------------------------


async def test_letter_is_kept_as_it_is(storage: Storage, app: App, other: App) -> None:
    """All of a dead letter comes back, whatever its bytes, for its app alone."""
    await storage.inbound.add_letter(app.id, LETTER, most=9)
    assert await storage.inbound.letter(app.id, LETTER.id) == LETTER
    assert await storage.inbound.letter(other.id, LETTER.id) is None
    assert await storage.inbound.letter(app.id, "ltr_2") is None
    assert not LETTER.is_whole


async def test_letter_that_comes_again_is_one(storage: Storage, app: App) -> None:
    """The same id takes the place of the one before, with its time and reason."""
    again = LETTER._replace(at=NOW + 9, reason="another")
    await storage.inbound.add_letter(app.id, LETTER, most=9)
    await storage.inbound.add_letter(app.id, again, most=9)
    assert await storage.inbound.letters(app.id, None, 9) == [again]


async def test_letters_are_listed_by_pages(storage: Storage, app: App) -> None:
    """They come newest first, each page after the last one of the page before."""
    for number in (3, 1, 2, 4):
        await storage.inbound.add_letter(app.id, letter(number), most=9)
    first = await storage.inbound.letters(app.id, None, 3)
    assert [one.at for one in first] == [4, 3, 2]
    assert await storage.inbound.letters(app.id, first[-1].place, 3) == [letter(1)]


async def test_letters_have_a_limit(storage: Storage, app: App, other: App) -> None:
    """The oldest go for the newest; those of another app stay."""
    await storage.inbound.add_letter(other.id, letter(0), most=2)
    for number in range(1, 6):
        await storage.inbound.add_letter(app.id, letter(number), most=2)
    assert [one.at for one in await storage.inbound.letters(app.id, None, 9)] == [5, 4]
    assert len(await storage.inbound.letters(other.id, None, 9)) == 1


async def test_letters_are_deleted(storage: Storage, app: App, other: App) -> None:
    """One by its id, or all of one app."""
    for number in range(3):
        await storage.inbound.add_letter(app.id, letter(number), most=9)
    await storage.inbound.add_letter(other.id, letter(9), most=9)
    assert await storage.inbound.delete_letters(app.id, "ltr_9") == 0
    assert await storage.inbound.delete_letters(app.id, "ltr_1") == 1
    assert await storage.inbound.delete_letters(app.id, None) == 2
    assert len(await storage.inbound.letters(other.id, None, 9)) == 1


async def test_old_letters_are_pruned(storage: Storage, app: App) -> None:
    """A dead letter is kept for thirty days."""
    await storage.inbound.add_letter(app.id, letter(1), most=9)
    await storage.inbound.add_letter(app.id, letter(2), most=9)
    await storage.prune(now=LETTERS_KEPT_MS + 2, before=0, limit=9)
    assert await storage.inbound.letters(app.id, None, 9) == [letter(2)]


async def test_deleted_app_has_none_of_it(storage: Storage, app: App) -> None:
    """All goes with the app, and nothing is kept for one that is gone."""
    await storage.inbound.add_secret(app.id, SECRET, most=2)
    await storage.inbound.note_refusals(app.id, Refusals("adapty", 1, NOW))
    await storage.inbound.add_letter(app.id, LETTER, most=9)
    await storage.delete_app(app.id)
    assert await storage.inbound.door("one", "adapty") is None
    with pytest.raises(Unauthorized):
        await storage.inbound.add_secret(app.id, SECRET, most=2)
    with pytest.raises(Unauthorized):
        await storage.inbound.add_letter(app.id, LETTER, most=9)
    await storage.inbound.note_refusals(app.id, Refusals("adapty", 1, NOW))
    assert await storage.inbound.secrets(app.id) == []
    assert await storage.inbound.refusals(app.id) == []
    assert await storage.inbound.letters(app.id, None, 9) == []


async def test_erasure_deletes_letters_about_the_person(storage: Storage, app: App) -> None:
    """Those go that name an id, a customer or an identifier, or that cannot be read; no other."""
    ref = ProfileRef("customer é", IDS[0])
    await storage.change_profile(app.id, ref, setting(branch_id="b-1"), now=NOW, create_as=IDS[0])
    about = [
        b'{"profile_id": "%s"}' % IDS[0].upper().encode(),
        b'{"customer_user_id": "customer \\u00e9"}',
        b'{"event": {"aliases": ["x", "customer \xc3\xa9"]}}',
        b'{"integration_ids": {"branch_id": " b-1 "}}',
        b'{"branch_id": "b-1',
        b'{"something": "\\u00',
        b"\xff\xfe{\0}\0",
    ]
    others = [b'{"branch_id": "b-10"}', b'{"branch_id": "b', b"{}", b""]
    for number, body in enumerate([*about, *others]):
        await storage.inbound.add_letter(app.id, letter(number, body), most=99)

    def record(_person: Person) -> Record:
        return Record(IDS[1], (), None)

    await storage.erasures.erase(app.id, Whom(ref), record, now=NOW + 1)
    left = await storage.inbound.letters(app.id, None, 99)
    assert sorted(one.body for one in left) == sorted(others)


def test_nested_event_is_searched_or_taken_for_one_about_the_person() -> None:
    """However deep an event is, a word in it is found, or it counts as one that cannot be read."""
    deep = b"[" * 5_000 + b'"word"' + b"]" * 5_000
    assert tells_of(deep, {"word"})
    assert tells_of(b'{"word": 1}', {"word"})


# --- Ages of identifiers ------------------------------------------------------------------------


async def ages(storage: Storage, app: App, ref: ProfileRef) -> dict[int, int]:
    """Return of which times the identifiers of a profile are."""

    def work(edit: Edit) -> dict[int, int]:
        return dict(edit.ages(ref.settle(*edit.find(ref))))

    return await storage.edit(app.id, work, now=NOW, needs=Needs([ref]))


async def keep(storage: Storage, app: App, ref: ProfileRef, times: dict[int, int]) -> None:
    """Keep of which times they are."""

    def work(edit: Edit) -> None:
        edit.keep_ages(ref.settle(*edit.find(ref)), times)

    await storage.edit(app.id, work, now=NOW)


async def write(storage: Storage, app: App, now: int, **values: str) -> Profile:
    """Set identifiers of a customer."""
    return await storage.change_profile(
        app.id, CUSTOMER, setting(**values), now=now, create_as=IDS[0]
    )


CUSTOMER: Final = ProfileRef("c")


async def test_ages_are_those_of_the_writes(storage: Storage, app: App) -> None:
    """Where nothing was kept, an identifier is of the time of the write that set it last."""
    await write(storage, app, 10, branch_id="a", adjust_device_id="a")
    await write(storage, app, 20, branch_id="b")
    await write(storage, app, 30, branch_id="b")
    assert await ages(storage, app, CUSTOMER) == {BRANCH: 20, ADJUST: 10}


async def test_ages_are_what_was_kept_until_a_later_write(storage: Storage, app: App) -> None:
    """What was kept counts, also of kinds that are not set, until a write sets or clears them."""
    await write(storage, app, 10, branch_id="a", adjust_device_id="a")
    await keep(storage, app, CUSTOMER, {BRANCH: 5, ADJUST: 6, 0: 7})
    assert await ages(storage, app, CUSTOMER) == {BRANCH: 5, ADJUST: 6, 0: 7}
    await write(storage, app, 20, branch_id="b")
    assert await ages(storage, app, CUSTOMER) == {BRANCH: 20, ADJUST: 6, 0: 7}
    await keep(storage, app, CUSTOMER, {BRANCH: 8})
    assert await ages(storage, app, CUSTOMER) == {BRANCH: 8}


async def test_ages_within_an_edit(storage: Storage, app: App) -> None:
    """What was written and kept through an edit is seen by what is read through it."""
    await write(storage, app, 10, branch_id="a")

    def work(edit: Edit) -> list[dict[int, int]]:
        profile = CUSTOMER.settle(*edit.find(CUSTOMER))
        seen = [dict(edit.ages(profile))]
        other = setting(branch_id="b")(profile)
        after = edit.put(profile, other)
        seen.append(dict(edit.ages(after)))
        edit.keep_ages(after, {BRANCH: 3})
        seen.append(dict(edit.ages(after)))
        return seen

    assert await storage.edit(app.id, work, now=20) == [{BRANCH: 10}, {BRANCH: 20}, {BRANCH: 3}]
    assert await ages(storage, app, CUSTOMER) == {BRANCH: 3}


async def test_ages_of_a_failed_edit_are_not_kept(storage: Storage, app: App) -> None:
    """An edit that raises has kept nothing, also beside others of its group."""
    await write(storage, app, 10, branch_id="a")

    def work(edit: Edit) -> None:
        profile = CUSTOMER.settle(*edit.find(CUSTOMER))
        edit.keep_ages(profile, {BRANCH: 3})
        raise ValidationError

    results = await asyncio.gather(
        storage.edit(app.id, work, now=20),
        storage.edit(app.id, lambda edit: edit.find(CUSTOMER), now=20),
        return_exceptions=True,
    )
    assert isinstance(results[0], ValidationError)
    assert await ages(storage, app, CUSTOMER) == {BRANCH: 10}


async def test_ages_end_with_the_profile(open_storage: Open) -> None:
    """A profile that is deleted and made again has the ages of its history, not those of before."""
    storage = await open_storage()
    app = await storage.create_app("u", "one", now=1)
    await write(storage, app, 10, branch_id="a")
    await keep(storage, app, CUSTOMER, {BRANCH: 99, ADJUST: 98})
    await storage.delete_profile(app.id, CUSTOMER, now=20)
    await storage.change_profile(
        app.id, ProfileRef("c", IDS[0]), setting(adjust_device_id="b"), now=30, create_as=IDS[0]
    )
    assert await ages(storage, app, CUSTOMER) == {BRANCH: 20, ADJUST: 30}
