"""The page of one profile: what it has, and had, who shares it, and what can be done about it."""

from collections.abc import Collection, Sequence
from typing import Any, Final, NamedTuple

from starlette.responses import Response

from knownas.as_of import Moment
from knownas.console.rendering import masked
from knownas.console.visits import Refused, Visit
from knownas.erasing import Whom
from knownas.errors import HistoryExpired, ProfileNotFound
from knownas.history import Change, Source
from knownas.lookups import Sought
from knownas.model import KIND_NUMBER, KINDS, Profile

CUSTOMER: Final = "customer_user_id"
ATTRIBUTES: Final = "custom_attributes"
_FIELDS: Final = (CUSTOMER, *KIND_NUMBER, ATTRIBUTES)
"""What can be revealed."""
_HISTORY: Final = 50
_OTHERS: Final = 5
"""Of those who have the same identifier, so many are shown."""

BY: Final = Source("console")

_SAID: Final = {
    "cleared": "The identifiers were cleared.",
    "merged": "This profile was merged.",
    "undone": "The merge was undone: both profiles are there again.",
}


class Field(NamedTuple):
    """One thing that a profile has, as it is shown."""

    name: str
    vendor: str
    value: str
    """Masked, unless it was revealed."""
    is_revealed: bool


class Step(NamedTuple):
    """One change, as it is shown."""

    change: Change
    parts: list[tuple[str, str, str]]
    """A field, what it was and what it became; "" for nothing."""


class Others(NamedTuple):
    """Other profiles that have one identifier, too."""

    kind: str
    profiles: list[Profile]
    are_more: bool


async def show(visit: Visit) -> Response:
    """Show a profile, its identifiers masked."""
    moment = _moment(visit, visit.asked("revision"))
    await visit.note("view", about=[visit.place["profile"]])
    return await _page(visit, moment, ())


async def reveal(visit: Visit) -> Response:
    """Show a profile with what was chosen in clear text, this once."""
    fields = _chosen(visit)
    moment = _moment(visit, visit.text("revision"))
    told = ", ".join(fields) or "all"
    if moment is not None:
        told += f", as of revision {moment.revision}"
    await visit.note("reveal", about=[visit.place["profile"]], detail=told)
    return await _page(visit, moment, fields or _FIELDS)


async def clear(visit: Visit) -> Response:
    """Clear the chosen identifiers, once it was said that this is meant."""
    kinds = [name for name in _chosen(visit) if name in KIND_NUMBER]
    if not kinds:
        raise Refused(400, "Choose the identifiers that are to be cleared first.")
    if visit.text("sure") != "yes":
        return visit.page("clear.html", kinds=kinds, profile_id=visit.place["profile"])
    await visit.note("clear", about=[visit.place["profile"]], detail=", ".join(kinds))
    numbers = {KIND_NUMBER[name] for name in kinds}
    await visit.registry.clear_identifiers(visit.its_app.id, visit.ref, numbers, by=BY)
    return visit.go(f"profiles/{visit.place['profile']}?said=cleared")


def fields_of(profile: Profile, revealed: Collection[str]) -> list[Field]:
    """Return what a profile has, in the order of the kinds."""
    values: list[tuple[str, str, str | None]] = [
        (CUSTOMER, "Your app", profile.customer_user_id),
        *(
            (kind.name, kind.vendor, value)
            for kind, value in zip(KINDS, profile.identifiers, strict=True)
        ),
        (ATTRIBUTES, "Your app", _attributes(profile.attributes)),
    ]
    return [
        Field(name, vendor, _shown(name, value, revealed), name in revealed)
        for name, vendor, value in values
        if value is not None
    ]


def steps_of(changes: Sequence[Change], revealed: Collection[str]) -> list[Step]:
    """Return changes as they are shown."""
    return [Step(change, _parts(change, revealed)) for change in changes]


def _parts(change: Change, revealed: Collection[str]) -> list[tuple[str, str, str]]:
    differs = change.difference
    pairs: list[tuple[str, str | None, str | None]] = []
    if differs.customer is not None:
        pairs.append((CUSTOMER, *differs.customer))
    pairs += [(KINDS[kind].name, old, new) for kind, old, new in differs.identifiers]
    if differs.attributes is not None:
        old, new = differs.attributes
        pairs.append((ATTRIBUTES, _attributes(old), _attributes(new)))

    return [
        (name, _shown(name, old, revealed), _shown(name, new, revealed)) for name, old, new in pairs
    ]


def _shown(name: str, value: str | None, revealed: Collection[str]) -> str:
    """Return a value as it is shown; of attributes the end may be all that there is to hide."""
    if value is None:
        return ""
    if name in revealed:
        return value
    return masked("" if name == ATTRIBUTES else value)


def _attributes(attributes: Sequence[tuple[str, str | float]]) -> str | None:
    return ", ".join(f"{key} = {value}" for key, value in attributes) or None


def _chosen(visit: Visit) -> list[str]:
    return [name for name in _FIELDS if name in visit.form.get("field", ())]


def _moment(visit: Visit, text: str) -> Moment | None:
    revision = visit.number(text, "revision")
    return None if revision is None else Moment(revision=revision)


async def _page(visit: Visit, moment: Moment | None, revealed: Collection[str]) -> Response:
    registry, app = visit.registry, visit.its_app.id
    before = visit.number(visit.asked("before"), "before")
    history = await registry.history(app, visit.ref, before=before, limit=_HISTORY)
    current, merged_into = await _now(visit)
    shown, problem = current, ""
    if moment is not None:
        try:
            shown = await registry.profile_as_of(app, visit.ref, moment)
        except (HistoryExpired, ProfileNotFound) as error:
            shown, problem = None, error.fields[0].message
    newest = history[0].revision if history and before is None else None
    if current is not None:
        newest = current.revision
    oldest = history[-1].revision if history else newest
    is_past = moment is not None and moment.revision != newest
    values: dict[str, Any] = {
        "profile_id": visit.place["profile"],
        "profile": shown,
        "is_past": is_past,
        "problem": problem,
        "exists": current is not None,
        "merged_into": merged_into,
        "earlier": await _earlier(visit) if current is not None else [],
        "fields": [] if shown is None else fields_of(shown, revealed),
        "others": [] if current is None or is_past else await _others(visit, current),
        "steps": steps_of(history, revealed),
        "older": oldest if len(history) == _HISTORY and oldest != 1 else None,
        "revision": moment.revision if moment is not None else newest,
        "newest": newest,
        "oldest": oldest,
        "said": _SAID.get(visit.asked("said"), ""),
    }
    return visit.page("profile.html", **values)


async def _now(visit: Visit) -> tuple[Profile | None, str | None]:
    """Return the profile as it is, or the id of the one that it was merged into."""
    try:
        found = await visit.registry.profile(visit.its_app.id, visit.ref)
    except ProfileNotFound:
        return None, None
    if found.profile_id != visit.place["profile"]:
        return None, found.profile_id
    return found, None


async def _earlier(visit: Visit) -> list[str]:
    """Return the ids of the profiles that were merged into this one, or that its customer had."""
    if not visit.signed_in.may("support"):
        return []
    person = await visit.registry.eraser.person(visit.its_app, Whom(visit.ref))
    return [one for one in person.profile_ids if one != visit.place["profile"]]


async def _others(visit: Visit, profile: Profile) -> list[Others]:
    """Return who has the same identifiers."""
    asked = [
        Sought((kind,), value, _OTHERS + 1)
        for kind, value in enumerate(profile.identifiers)
        if value is not None
    ]
    if not asked:
        return []
    found = await visit.registry.holders_of_each(visit.its_app.id, asked)
    shared = []
    for sought, holders in zip(asked, found, strict=True):
        others = [
            holder.profile
            for holder in holders.found
            if holder.profile.profile_id != profile.profile_id
        ]
        if others:
            are_more = len(others) > _OTHERS or holders.next is not None
            shared.append(Others(KINDS[sought.kinds[0]].name, others[:_OTHERS], are_more))
    return shared
