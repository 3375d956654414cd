"""The calls of knownas's own API."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, TypeVar, Unpack

import msgspec

from knownas_client.calls import (
    JSON,
    Answer,
    Call,
    Once,
    Page,
    Paging,
    Who,
    WriteOf,
    given,
    json_body,
    reading,
    reading_data,
    who_headers,
)
from knownas_client.models import (
    Change,
    CheckedNames,
    CoverageByDay,
    Erased,
    Holder,
    Merged,
    Policy,
    Profile,
    Receipt,
    Shared,
    Side,
    Undone,
)

T = TypeVar("T")

_BASE: Final = "/api/v1"
_CONTENT_IS_JSON: Final = {"content-type": JSON}

_read_profile = reading_data(Profile)
_read_policies = reading_data(dict[str, Policy])


class _HoldersBody(msgspec.Struct, frozen=True):
    data: list[Holder]
    next: str | None


class _HistoryBody(msgspec.Struct, frozen=True):
    data: list[Change]
    next: int | None


class ChangesBody(msgspec.Struct, frozen=True):
    """A page of the feed."""

    data: list[Change]
    next: str


class _ConflictsBody(msgspec.Struct, frozen=True):
    data: list[Shared]
    counts: dict[str, int]
    next: dict[str, str] | None


class _ReceiptsBody(msgspec.Struct, frozen=True):
    data: list[Receipt]
    next: dict[str, str | int] | None


_read_holders = reading(_HoldersBody)
_read_history = reading(_HistoryBody)
_read_changes = reading(ChangesBody)
_read_conflicts = reading(_ConflictsBody)
_read_receipts = reading(_ReceiptsBody)


# --- Reading ----------------------------------------------------------------------------------


def find(value: str, kind: str | None, page_size: int | None) -> Paging[Holder]:
    """Find the profiles that have an identifier."""

    def read(answer: Answer) -> Page[Holder]:
        body = _read_holders(answer)
        return Page(body.data, body.next)

    def page(cursor: str | None) -> Call[Page[Holder]]:
        parameters = given(value=value, kind=kind, limit=page_size, cursor=cursor)
        return Call(method="GET", path=f"{_BASE}/profiles/", parameters=parameters, read=read)

    return Paging(page)


def whole_profile(at: int | None, revision: int | None, **who: Unpack[Who]) -> Call[Profile]:
    """Read all that is kept of a profile, as it is or as it was."""
    return Call(
        method="GET",
        path=f"{_BASE}/profile/",
        headers=who_headers(who),
        parameters=given(at=at, revision=revision),
        read=_read_profile,
    )


def history(before: int | None, page_size: int | None, **who: Unpack[Who]) -> Paging[Change]:
    """Read what happened to a profile, the newest first."""
    headers = who_headers(who)

    def read(answer: Answer) -> Page[Change]:
        body = _read_history(answer)
        return Page(body.data, body.next)

    def page(earlier: int | None) -> Call[Page[Change]]:
        parameters = given(before=earlier, limit=page_size)
        path = f"{_BASE}/profile/history/"
        return Call(method="GET", path=path, headers=headers, parameters=parameters, read=read)

    return Paging(page, before)


def changes(after: str | None, page_size: int | None, wait: int) -> Call[ChangesBody]:
    """Read what changed after a cursor, waiting for it so many seconds."""
    return Call(
        method="GET",
        path=f"{_BASE}/changes/",
        parameters=given(after=after, limit=page_size, wait=wait or None),
        waits=wait,
        read=_read_changes,
    )


def coverage() -> Call[CoverageByDay]:
    """Count which profiles have which kinds."""
    return Call(method="GET", path=f"{_BASE}/coverage/", read=reading(CoverageByDay))


def conflicts(page_size: int | None) -> Paging[Shared]:
    """List the identifiers that several profiles have."""

    def read(answer: Answer) -> Page[Shared]:
        body = _read_conflicts(answer)
        return Page(body.data, body.next)

    def page(after: dict[str, str] | None) -> Call[Page[Shared]]:
        parameters = {**given(limit=page_size), **(after or {})}
        return Call(method="GET", path=f"{_BASE}/conflicts/", parameters=parameters, read=read)

    return Paging(page)


def conflict_counts() -> Call[dict[str, int]]:
    """Count the identifiers that several profiles have, by kind."""
    return Call(
        method="GET",
        path=f"{_BASE}/conflicts/",
        parameters=given(limit=1),
        read=lambda answer: _read_conflicts(answer).counts,
    )


def policies() -> Call[dict[str, Policy]]:
    """Read the policy of each kind."""
    return Call(method="GET", path=f"{_BASE}/policies/", read=_read_policies)


# --- Changing ---------------------------------------------------------------------------------


def clear(kinds: Sequence[str] | Literal["all"], **terms: Unpack[WriteOf]) -> Call[Profile]:
    """Clear identifiers of a profile."""
    body = {"kinds": kinds if kinds == "all" else list(kinds)}
    return _change("profile/clear/", body, terms)


def bind_customer(
    customer_user_id: str | None, profile_id: str, *, rebind: bool, **once: Unpack[Once]
) -> Call[Profile]:
    """Have a customer be that of a profile."""
    terms = WriteOf(profile_id=profile_id, idempotency_key=once.get("idempotency_key"))
    body = {"customer_user_id": customer_user_id, "rebind": rebind}
    return _change("profile/customer/", body, terms)


def merge(
    survivor: Who,
    source: Who,
    *,
    rules: Mapping[str, Side] | None,
    default: Side,
    dry_run: bool,
    **once: Unpack[Once],
) -> Call[Merged]:
    """Make one profile of two."""
    body = {
        "survivor": _who_object(survivor),
        "source": _who_object(source),
        "rules": rules or {},
        "default": default,
        "dry_run": dry_run,
    }
    return _do("merge/", body, reading_data(Merged), once)


def undo_merge(source: str, **once: Unpack[Once]) -> Call[Undone]:
    """Make two profiles of one again."""
    return _do("merge/undo/", {"source": source}, reading_data(Undone), once)


def set_policies(policies: Mapping[str, Policy]) -> Call[dict[str, Policy]]:
    """Have kinds follow other policies."""
    return Call(
        method="PUT",
        path=f"{_BASE}/policies/",
        headers=_CONTENT_IS_JSON,
        writes=True,
        keyed=False,
        read=_read_policies,
        **json_body(policies),
    )


# --- Persons ----------------------------------------------------------------------------------


def erase(who: Who, *, value: str | None, kind: str | None, reveal: bool) -> Call[Erased]:
    """Erase a person."""
    named = {**_who_object(who), **given(value=value, kind=kind)}
    return Call(
        method="POST",
        path=f"{_BASE}/erasures/",
        headers=_CONTENT_IS_JSON,
        writes=True,
        keyed=False,
        repeatable=False,
        read=reading_data(Erased),
        **json_body({**named, "reveal": reveal}),
    )


def erasure(erasure_id: str) -> Call[Erased]:
    """Read one receipt."""
    return Call(
        method="GET",
        path=f"{_BASE}/erasures/",
        parameters={"id": erasure_id},
        read=reading_data(Erased),
    )


def erasures(page_size: int | None) -> Paging[Receipt]:
    """List an app's receipts, the newest first."""

    def read(answer: Answer) -> Page[Receipt]:
        body = _read_receipts(answer)
        return Page(body.data, body.next)

    def page(place: dict[str, str | int] | None) -> Call[Page[Receipt]]:
        parameters = given(limit=page_size, **(place or {}))
        return Call(method="GET", path=f"{_BASE}/erasures/", parameters=parameters, read=read)

    return Paging(page)


def check_erased(
    profile_ids: Sequence[str], customer_user_ids: Sequence[str]
) -> Call[CheckedNames]:
    """Ask which names were erased."""
    body = {"profile_ids": list(profile_ids), "customer_user_ids": list(customer_user_ids)}
    return Call(
        method="POST",
        path=f"{_BASE}/erasures/check/",
        headers=_CONTENT_IS_JSON,
        read=reading_data(CheckedNames),
        **json_body(body),
    )


def export_person(**who: Unpack[Who]) -> Call[dict[str, Any]]:
    """Read all that is kept of a person."""
    return Call(
        method="GET",
        path=f"{_BASE}/profile/export/",
        headers=who_headers(who),
        read=reading_data(dict[str, Any]),
    )


def _who_object(who: Who) -> dict[str, str]:
    return {name: str(value) for name, value in who.items() if value is not None}


def _change(path: str, body: object, terms: WriteOf) -> Call[Profile]:
    who = Who(customer_user_id=terms.get("customer_user_id"), profile_id=terms.get("profile_id"))
    return Call(
        method="POST",
        path=f"{_BASE}/{path}",
        headers={**who_headers(who), **_CONTENT_IS_JSON},
        read=_read_profile,
        writes=True,
        idempotency_key=terms.get("idempotency_key"),
        **json_body(body),
    )


def _do(path: str, body: object, read: Callable[[Answer], T], once: Once) -> Call[T]:
    return Call(
        method="POST",
        path=f"{_BASE}/{path}",
        headers=_CONTENT_IS_JSON,
        read=read,
        writes=True,
        idempotency_key=once.get("idempotency_key"),
        repeatable=False,
        **json_body(body),
    )
