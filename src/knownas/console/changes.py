"""The changes of an app as they come: rows that a small script adds, or the page loaded anew."""

from typing import Final

from starlette.responses import Response

from knownas.console.profiles import steps_of
from knownas.console.visits import Visit
from knownas.errors import ValidationError
from knownas.history import ChangesPage

_PAGE: Final = 50
_MAX_CURSOR: Final = 200
_FROM_THE_BEGINNING: Final = "first"


async def show(visit: Visit) -> Response:
    """Show what has changed after a place in the feed; without one, what changes from now on."""
    await visit.note("view changes")
    page = await _read(visit)
    return visit.page("changes.html", steps=steps_of(page.changes, ()), cursor=page.cursor)


async def rows(visit: Visit) -> Response:
    """Return the rows alone, for a page that is there already."""
    page = await _read(visit)
    return visit.page("_changes.html", steps=steps_of(page.changes, ()), cursor=page.cursor)


async def _read(visit: Visit) -> ChangesPage:
    after: str | None = visit.asked("after")
    if after == _FROM_THE_BEGINNING:
        after = None
    elif not after:
        after = await visit.registry.end_of_changes()
    elif len(after) > _MAX_CURSOR:
        raise ValidationError("Must be as the page had it.", source="after")
    return await visit.registry.changes(visit.its_app.id, after, _PAGE)
