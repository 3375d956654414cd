"""How many profiles have what, and which identifiers stand on several of them."""

from typing import Final

from starlette.responses import Response

from knownas.console import plots
from knownas.console.rendering import day, masked
from knownas.console.visits import Visit
from knownas.history import DAY_MS
from knownas.lookups import Sought
from knownas.model import KINDS, clean_kind

_PAGE: Final = 50
_HOLDERS: Final = 3
"""Of those who have the same identifier, so many are shown."""


async def coverage(visit: Visit) -> Response:
    """Plot how many profiles have each kind, day by day."""
    now, days = await visit.registry.coverage(visit.its_app.id)
    today = visit.registry.now() // DAY_MS
    dated = [(number, was) for number, was in sorted(days.items()) if number]
    dated = dated or [(today, now)]
    if dated[-1][0] < today:
        dated.append((today, now))
    numbers = [number for number, _ in dated]
    kinds = [
        (
            kind,
            now.identifiers[kind.name],
            plots.share(
                kind.name,
                numbers,
                [
                    was.identifiers[kind.name] / was.profiles if was.profiles else 0.0
                    for _, was in dated
                ],
            ),
        )
        for kind in KINDS
    ]
    return visit.page(
        "coverage.html",
        now=now,
        kinds=kinds,
        profiles_plot=plots.count("Profiles", numbers, [was.profiles for _, was in dated]),
        days=[(day(number * DAY_MS), was) for number, was in reversed(dated)],
    )


async def conflicts(visit: Visit) -> Response:
    """List identifiers that several profiles have, masked, with some of those profiles."""
    await visit.note("view conflicts")
    app, name = visit.its_app.id, visit.asked("kind")
    only = clean_kind(name, source="kind") if name else None
    # No value is empty, so all of a kind come after it.
    found = await visit.registry.shared(app, None if only is None else (only, ""), _PAGE)
    found = [one for one in found if only is None or one.kind == only]
    counts = await visit.registry.count_shared(app)
    holders = await visit.registry.holders_of_each(
        app, [Sought((one.kind,), one.value, _HOLDERS) for one in found]
    )
    return visit.page(
        "conflicts.html",
        conflicts=[
            {
                "kind": KINDS[one.kind].name,
                "value": masked(one.value),
                "count": one.profiles,
                "profiles": [holder.profile.profile_id for holder in its.found],
            }
            for one, its in zip(found, holders, strict=True)
        ],
        counts=[(KINDS[kind].name, count) for kind, count in sorted(counts.items())],
        only=name,
        are_more=sum(n for kind, n in counts.items() if only in {None, kind}) > len(found),
        policies=visit.its_app.policies,
    )
