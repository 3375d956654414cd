"""Two profiles become one: first what would come of it, then the merge, and its undoing."""

from typing import Any, Final

from starlette.responses import Response

from knownas import merging as rules_of_merging
from knownas.console.rendering import masked
from knownas.console.visits import Visit
from knownas.merging import RULES, Merge, Side
from knownas.model import KINDS, Profile, ProfileRef, clean_profile_id

_SURVIVOR: Final[Side] = "survivor"


async def plan(visit: Visit) -> Response:
    """Show what a merge would make, and change nothing."""
    source = clean_profile_id(visit.asked("source").strip(), source="source")
    await visit.note("try merge", about=[visit.place["profile"], source])
    planned = await _merge(visit, source, {}, dry_run=True)
    return visit.page("merge.html", planned=planned, rows=_rows(planned), source=source)


async def merge(visit: Visit) -> Response:
    """Merge the source into the profile of the path, with the sides that were chosen."""
    source = clean_profile_id(visit.text("source"), source="source")
    await visit.note("merge", about=[visit.place["profile"], source])
    rules: dict[str, Side] = {
        field: "source" for field in sorted(RULES) if visit.text(f"rule-{field}") == "source"
    }
    await _merge(visit, source, rules, dry_run=False)
    return visit.go(f"profiles/{source}?said=merged")


async def undo(visit: Visit) -> Response:
    """Make the profile of the path again, which was merged."""
    await visit.note("undo merge", about=[visit.place["profile"]])
    source = clean_profile_id(visit.place["profile"], source="profile")
    await visit.registry.undo_merge(visit.its_app.id, source)
    return visit.go(f"profiles/{source}?said=undone")


async def _merge(visit: Visit, source: str, rules: dict[str, Side], *, dry_run: bool) -> Merge:
    return await visit.registry.merge(
        visit.its_app,
        visit.ref,
        ProfileRef(profile_id=clean_profile_id(source, source="source")),
        rules=rules,
        default=_SURVIVOR,
        dry_run=dry_run,
    )


def _rows(planned: Merge) -> list[dict[str, Any]]:
    """Return for each field that one of the two has what each has, and whether a side is chosen."""
    sides = [_values(planned.before), _values(planned.source)]
    rows = []
    for field in sides[0]:
        ours, theirs = (values[field] for values in sides)
        if ours is None and theirs is None:
            continue
        rows.append(
            {
                "field": field,
                "ours": _masked(field, ours),
                "theirs": _masked(field, theirs),
                "clashes": ours is not None and theirs is not None and ours != theirs,
                "is_same": ours == theirs,
            }
        )
    return rows


def _masked(field: str, value: object) -> str:
    if value is None:
        return ""
    return masked("" if field == rules_of_merging.ATTRIBUTES else value)


def _values(profile: Profile) -> dict[str, object]:
    return {
        rules_of_merging.CUSTOMER: profile.customer_user_id,
        **{kind.name: value for kind, value in zip(KINDS, profile.identifiers, strict=True)},
        rules_of_merging.ATTRIBUTES: profile.attributes or None,
    }
