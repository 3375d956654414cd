"""The keys of an app: made and shown once, adopted, limited, rotated and revoked."""

import re
from collections.abc import Mapping
from typing import Final, TypedDict

from starlette.responses import Response

from knownas.console.visits import Refused, Visit
from knownas.errors import ValidationError
from knownas.history import DAY_MS
from knownas.keys import KeyType
from knownas.model import NO_RATE, clean_rate

_TYPES: Final[Mapping[str, KeyType]] = {"secret": "secret", "public": "public"}
_is_key: Final = re.compile(r"[a-z0-9_]{1,40}").fullmatch
_MAX_LABEL: Final = 100
_MAX_DAYS: Final = 3_650
_MAX_HOURS: Final = 8_760
_HOUR_SECONDS: Final = 3_600


async def show(visit: Visit) -> Response:
    """List the keys."""
    return await _page(visit)


async def create(visit: Visit) -> Response:
    """Make a key, and show it this once."""
    key_type, terms = _terms(visit)
    await visit.note("create key", detail=f"{key_type} {terms['label']}".strip())
    text, _ = await visit.registry.keyring.create(visit.its_app, key_type, **terms)
    return await _page(visit, made=text)


async def adopt(visit: Visit) -> Response:
    """Accept a key that the team uses already."""
    key_type, terms = _terms(visit)
    await visit.note("adopt key", detail=f"{key_type} {terms['label']}".strip())
    await visit.registry.keyring.adopt(visit.its_app, visit.text("key").strip(), key_type, **terms)
    return visit.go("keys")


async def change(visit: Visit) -> Response:
    """Revoke a key, limit it, or make a successor and show that this once."""
    key_id, action = visit.text("key"), visit.text("do")
    if not _is_key(key_id) or action not in {"revoke", "limit", "rotate"}:
        raise Refused(400, "There is no such key, or no such thing to do.")
    keyring, app = visit.registry.keyring, visit.its_app
    if action == "rotate":
        hours = visit.number(visit.text("hours").strip() or "1", "hours", _MAX_HOURS) or 0
        await visit.note("rotate key", detail=key_id)
        text, _ = await keyring.rotate(app, key_id, overlap_seconds=hours * _HOUR_SECONDS)
        return await _page(visit, made=text)
    if action == "limit":
        rate = _rate(visit)
        await visit.note("limit key", detail=f"{key_id} {rate or 'default'}")
        await keyring.limit(app.id, key_id, rate)
    else:
        await visit.note("revoke key", detail=key_id)
        await keyring.revoke(app.id, key_id)
    return visit.go("keys")


class _Terms(TypedDict):
    """What a new key is for, and what it may."""

    label: str
    expires_at: int | None
    rate: str | None


def _terms(visit: Visit) -> tuple[KeyType, _Terms]:
    label = visit.text("label").strip()
    if len(label) > _MAX_LABEL or not label.isprintable():
        raise ValidationError(f"Must be at most {_MAX_LABEL} printable characters.", source="label")
    days = visit.number(visit.text("days").strip(), "days", _MAX_DAYS)
    expires_at = None if days is None else visit.registry.now() + days * DAY_MS
    terms = _Terms(label=label, expires_at=expires_at, rate=_rate(visit))
    return _TYPES.get(visit.text("type"), "secret"), terms


def _rate(visit: Visit) -> str | None:
    rate = visit.text("rate").strip()
    if not rate:
        return None
    return NO_RATE if rate == NO_RATE else clean_rate(rate, source="rate")


async def _page(visit: Visit, made: str = "") -> Response:
    found = await visit.registry.keyring.of_app(visit.its_app.id)
    return visit.page("keys.html", keys=found, now=visit.registry.now(), made=made)
