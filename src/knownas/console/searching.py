"""The search: any identifier, customer or profile id, in one box.

What is looked for is sent in a form, not in an address: addresses are kept by browsers and proxies.
"""

import inspect
from typing import Final, NamedTuple

from starlette.responses import Response

from knownas.console.visits import Visit
from knownas.errors import ProfileNotFound, ValidationError
from knownas.lookups import Sought
from knownas.model import (
    ALL_KINDS,
    KINDS,
    Profile,
    ProfileRef,
    clean_customer_text,
    clean_profile_id,
    clean_value,
)

MOST_FOUND: Final = 50


class _Found(NamedTuple):
    """A profile, and as what it has the text that was looked for."""

    profile: Profile
    reasons: list[str]


async def form(visit: Visit) -> Response:
    """Show the box."""
    return visit.page("search.html", found=None, problem="", is_more=False)


async def search(visit: Visit) -> Response:
    """Find what the text may name; what is one profile is shown at once."""
    try:
        text = clean_value(visit.text("q"), source="q")
    except ValidationError as error:
        problem = error.fields[0].message
        return visit.page("search.html", status=400, found=None, problem=problem, is_more=False)
    found, is_more = await _find(visit, text)
    await visit.note(
        "search",
        about=[one.profile.profile_id for one in found] or ("",),
        detail=", ".join(sorted({reason for one in found for reason in one.reasons})),
    )
    if not found and await _was_there(visit, text):
        return visit.go(f"profiles/{text.lower()}")
    if len(found) == 1 and not is_more:
        return visit.go(f"profiles/{found[0].profile.profile_id}")
    return visit.page("search.html", found=found, problem="", is_more=is_more)


async def _find(visit: Visit, text: str) -> tuple[list[_Found], bool]:
    """Return the profiles that a text leads to, in any way, and whether there are more."""
    app, registry = visit.its_app.id, visit.registry
    found: dict[str, _Found] = {}

    def add(profile: Profile, reason: str) -> None:
        one = found.setdefault(profile.profile_id, _Found(profile, []))
        one.reasons.append(reason)

    for ref, reason in _references(text):
        try:
            add(await registry.profile(app, ref), reason)
        except ProfileNotFound:
            continue
    asked = registry.holders(app, Sought(ALL_KINDS, text, MOST_FOUND))
    holders = await asked if inspect.isawaitable(asked) else asked
    for kind, profile in holders.found:
        add(profile, KINDS[kind].name)
    return list(found.values()), holders.next is not None


async def _was_there(visit: Visit, text: str) -> bool:
    """Tell whether a text is the id of a profile that was deleted, and has a history."""
    for ref, _ in _references(text)[1:]:
        try:
            await visit.registry.history(visit.its_app.id, ref, before=None, limit=1)
        except ProfileNotFound:
            continue
        return True
    return False


def _references(text: str) -> list[tuple[ProfileRef, str]]:
    references = [(ProfileRef(clean_customer_text(text, source="q")), "customer")]
    try:
        profile_id = clean_profile_id(text, source="q")
    except ValidationError:
        return references
    return [*references, (ProfileRef(profile_id=profile_id), "profile")]
