"""The keys of an app: made, shown once, and revoked."""

import re
from collections.abc import Mapping
from typing import Final

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


async def show(visit: Visit) -> Response:
    """List the keys."""
    return await _page(visit)


async def create(visit: Visit) -> Response:
    """Make a key, and show it this once."""
    key_type = _TYPES.get(visit.text("type"), "secret")
    label, rate = visit.text("label").strip(), visit.text("rate").strip()
    if len(label) > _MAX_LABEL or not (label.isprintable()):
        raise ValidationError(f"Must be at most {_MAX_LABEL} printable characters.", source="label")
    days = visit.number(visit.text("days").strip(), "days", _MAX_DAYS)
    if rate and rate != NO_RATE:
        rate = clean_rate(rate, source="rate")
    await visit.note("create key", detail=f"{key_type} {label}".strip())
    text, _ = await visit.registry.keyring.create(
        visit.its_app,
        key_type,
        label=label,
        expires_at=None if days is None else visit.registry.now() + days * DAY_MS,
        rate=rate or None,
    )
    return await _page(visit, made=text)


async def revoke(visit: Visit) -> Response:
    """End a key's life."""
    key_id = visit.text("key")
    if not _is_key(key_id):
        raise Refused(400, "There is no such key.")
    await visit.note("revoke key", detail=key_id)
    await visit.registry.keyring.revoke(visit.its_app.id, key_id)
    return visit.go("keys")


async def _page(visit: Visit, made: str = "") -> Response:
    found = await visit.registry.keyring.of_app(visit.its_app.id)
    return visit.page("keys.html", keys=found, now=visit.registry.now(), made=made)
