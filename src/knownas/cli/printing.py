"""What commands print: JSON for programs, text for people."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Protocol

import click
import msgspec

from knownas.events import event
from knownas.history import Change
from knownas.model import Profile, identifiers_by_name


def emit(
    data: object,
    as_json: bool,  # noqa: FBT001 - an option's value
    text: str,
    *,
    to_stderr: bool = False,
) -> None:
    """Print `data` as one line of JSON, or `text`."""
    click.echo(msgspec.json.encode(data).decode() if as_json else text, err=to_stderr)


def utc(milliseconds: int) -> str:
    """Return a time of ours as people read it."""
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(milliseconds / 1_000))


class Tell(Protocol):
    """Told how much is done, of how much, and the number of what the rate is of."""

    def __call__(self, done: int, total: int, counted: int | None = None, /) -> None:
        """Show it; without `counted` the rate is of what is done."""
        ...


@contextmanager
def progress_bar(label: str) -> Iterator[Tell]:
    """Show a bar from the first time that the yielded function is told.

    What fails before has its one line to itself.
    """
    with ExitStack() as stack:
        bar = None
        began = time.monotonic()

        def tell(done: int, total: int, counted: int | None = None) -> None:
            nonlocal bar
            if bar is None:
                bar = stack.enter_context(
                    click.progressbar(
                        length=total, label=label, file=sys.stderr, item_show_func=_rate
                    )
                )
            bar.length = total
            counted = done if counted is None else counted
            bar.update(done - bar.pos, int(counted / max(time.monotonic() - began, 0.001)))

        yield tell


def _rate(per_second: int | None) -> str | None:
    return None if per_second is None else f"{per_second:,}/s"


def profile_data(profile: Profile) -> dict[str, object]:
    """Return a profile as commands print it for programs."""
    return {
        "profile_id": profile.profile_id,
        "customer_user_id": profile.customer_user_id,
        "identifiers": identifiers_by_name(profile.identifiers),
        "custom_attributes": dict(profile.attributes),
        "created_at": profile.created_at,
        "updated_at": profile.updated_at,
        "revision": profile.revision,
    }


def print_profile(profile: Profile, as_json: bool) -> None:  # noqa: FBT001 - as above
    """Print a profile."""
    emit(profile_data(profile), as_json, profile_text(profile))


def profile_text(profile: Profile) -> str:
    """Return a profile as commands print it for people."""
    lines = [
        f"profile     {profile.profile_id}",
        f"customer    {profile.customer_user_id or 'none'}",
        f"made        {utc(profile.created_at)}",
        f"changed     {utc(profile.updated_at)}",
        *set_lines(identifiers_by_name(profile.identifiers)),
        *set_lines(dict(profile.attributes)),
    ]
    return "\n".join(lines)


def set_lines(values: Mapping[str, object]) -> list[str]:
    """Return a line for each value that is set."""
    return [f"{name} = {value}" for name, value in values.items() if value is not None]


def change_text(change: Change) -> str:
    """Return a change as commands print it for people: on one line."""
    told = event(change)
    changes = told["changes"]
    parts = [
        f"{name}: {it['old'] or 'none'} -> {it['new'] or 'none'}"
        for name, it in {
            **({"customer": changes["customer_user_id"]} if "customer_user_id" in changes else {}),
            **changes.get("identifiers", {}),
        }.items()
    ]
    if "custom_attributes" in changes:
        parts.append("custom attributes")
    by = change.by.via if change.by.key_id is None else f"{change.by.via} ({change.by.key_id})"
    what = f"{utc(change.at)}  {change.profile_id}  r{change.revision}  {change.action} by {by}"
    return "  ".join([what, "; ".join(parts)]).rstrip()
