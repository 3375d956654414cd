"""Files that were uploaded to be imported: how far each is, and what came of it."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from starlette.responses import Response

from knownas.console.visits import Visit
from knownas.imports import ENDED, Import

_COUNTS: Final = ("new", "changed", "same", "bad", "conflicts", "erased")


class _Row(NamedTuple):
    """An import as the page has it."""

    found: Import
    part: float | None
    """How much of what is done now is done, 0 to 1; None where that is not known."""
    rate: int
    """Rows a second; 0 where none is imported."""
    counts: Mapping[str, int]
    problems: list[Any]

    @property
    def has_ended(self) -> bool:
        return self.found.state in ENDED


async def show(visit: Visit) -> Response:
    """List the imports of the app."""
    await visit.note("view imports")
    return visit.page("imports.html", rows=await _rows(visit))


async def rows(visit: Visit) -> Response:
    """Return the rows alone, for a page that is there already."""
    return visit.page("_imports.html", rows=await _rows(visit))


async def cancel(visit: Visit) -> Response:
    """Cancel an import, or forget one that has ended."""
    import_id = visit.place["import"]
    await visit.note("cancel import", detail=import_id)
    await visit.registry.uploads.cancel(visit.its_app.id, import_id)
    return visit.go("imports")


async def _rows(visit: Visit) -> list[_Row]:
    return [_row(one) for one in await visit.registry.uploads.all(visit.its_app.id)]


def _row(one: Import) -> _Row:
    if one.state == "uploading":
        done, of = one.received, one.size or 0
    else:
        done, of = one.progress.done, one.progress.of
    report = one.report or {}
    return _Row(
        one,
        min(done / of, 1.0) if of else None,
        one.rows_per_second if one.state == "running" else 0,
        {name: report[name] for name in _COUNTS if report.get(name)},
        report.get("problems", []),
    )
