"""Apps and their keys: functions on a link, each a transaction of its own where it writes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from knownas.errors import Unauthorized, ValidationError
from knownas.model import ApiKey, App, AppId, Policies
from knownas.storage.postgres_link import Link
from knownas.storage.rows import (
    APP_COLUMNS,
    KEY_COLUMNS,
    from_key,
    from_policies,
    from_upstream,
    to_app,
    to_key,
    to_upstream,
)
from knownas.upstreams import Upstream

LOCK_APPS: Final = """
SELECT id, uuid, has_erased FROM apps WHERE id = any($1::integer[]) ORDER BY id FOR KEY SHARE
"""

_INSERT_APP: Final = """
INSERT INTO apps (uuid, name, created_at) VALUES ($1, $2, $3)
ON CONFLICT (name) DO NOTHING RETURNING id
"""
_APPS: Final = f"SELECT {APP_COLUMNS} FROM apps a ORDER BY a.created_at, a.id"  # noqa: S608 - the columns are a constant
_SET_POLICIES: Final = "UPDATE apps SET policies = $1 WHERE id = $2 RETURNING id"
_LOCK_UPSTREAM: Final = "SELECT upstream FROM apps WHERE id = $1 FOR NO KEY UPDATE"
_SET_UPSTREAM: Final = "UPDATE apps SET upstream = $1 WHERE id = $2 RETURNING id"

_INSERT_KEY: Final = """
INSERT INTO api_keys (digest, id, app_id, type, label, created_at, expires_at, ended_at, rate)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (digest) DO NOTHING RETURNING id
"""
_PUT_KEY: Final = """
INSERT INTO api_keys AS k (digest, id, app_id, type, label, created_at, expires_at, ended_at, rate)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (digest) DO UPDATE SET
  expires_at = least(k.expires_at, excluded.expires_at),
  ended_at = least(k.ended_at, excluded.ended_at),
  rate = excluded.rate
WHERE k.app_id = excluded.app_id RETURNING id
"""
_EXPIRE_KEY: Final = """
UPDATE api_keys SET expires_at = least(expires_at, $1) WHERE app_id = $2 AND id = $3
"""
_END_KEY: Final = """
UPDATE api_keys SET ended_at = coalesce(ended_at, $1) WHERE app_id = $2 AND id = $3 RETURNING id
"""
_SET_KEY_RATE: Final = """
UPDATE api_keys SET rate = $1 WHERE app_id = $2 AND id = $3 RETURNING id
"""
_NOTE_KEY_USES: Final = """
UPDATE api_keys AS k SET last_used_at = greatest(k.last_used_at, u.at)
FROM unnest($1::integer[], $2::text[], $3::bigint[]) AS u (app_id, id, at)
WHERE k.app_id = u.app_id AND k.id = u.id
"""
_READ_KEYS: Final = f"""
SELECT k.digest, {KEY_COLUMNS} FROM api_keys k JOIN apps a ON a.id = k.app_id
WHERE k.digest = any($1::bytea[])
"""  # noqa: S608 - the columns are a constant
_KEYS_OF_APP: Final = f"""
SELECT k.digest, {KEY_COLUMNS} FROM api_keys k JOIN apps a ON a.id = k.app_id
WHERE k.app_id = $1 ORDER BY k.created_at, k.id
"""  # noqa: S608 - the columns are a constant


async def create(link: Link, app_uuid: str, name: str, now: int) -> App:
    """Create an app. Raises ValidationError when the name is taken."""
    async with link.transaction():
        made = await link.fetch(_INSERT_APP, app_uuid, name, now)
    if not made:
        raise ValidationError("There is an app of this name already.", source="name")
    return App(made[0][0], app_uuid, name, now)


async def apps(link: Link) -> list[App]:
    """Return all apps, oldest first."""
    return [to_app(row) for row in await link.fetch(_APPS)]


async def set_policies(link: Link, app: AppId, policies: Policies) -> None:
    """Have kinds of identifiers follow these policies. Raises Unauthorized without the app."""
    async with link.transaction():
        if not await link.fetch(_SET_POLICIES, from_policies(policies), app):
            raise Unauthorized


async def change_upstream(
    link: Link, app: AppId, change: Callable[[Upstream | None], Upstream | None]
) -> Upstream | None:
    """Replace an app's upstream and return what is kept. Raises as `Storage.change_upstream`."""
    async with link.transaction():
        found = await link.fetch(_LOCK_UPSTREAM, app)
        if not found:
            raise Unauthorized
        before = to_upstream(found[0][0])
        after = change(before)
        if after != before:
            await link.fetch(_SET_UPSTREAM, from_upstream(after), app)
    return after


async def refuse_deleted(link: Link, app: AppId) -> None:
    """Raise Unauthorized when the app is gone; keep it from going in this transaction."""
    if not await link.fetch(LOCK_APPS, [app]):
        raise Unauthorized


async def add_key(  # noqa: PLR0913, PLR0917 - a key, and the one that it replaces
    link: Link, app: AppId, key: ApiKey, digest: bytes, replacing: str | None, overlap_until: int
) -> None:
    """Keep a key, and have the one that it replaces expire. Raises as `Storage.add_key`."""
    async with link.transaction():
        await refuse_deleted(link, app)
        if not await link.fetch(_INSERT_KEY, *from_key(app, key, digest)):
            raise ValidationError("This key is in use here already.", source="key")
        if replacing is not None:
            await link.fetch(_EXPIRE_KEY, overlap_until, app, replacing)


async def put_keys(link: Link, app: AppId, given: Sequence[tuple[ApiKey, bytes]]) -> None:
    """Keep keys, or the earlier of each end of those that are there. Raises as the storage's."""
    async with link.transaction():
        await refuse_deleted(link, app)
        for key, digest in sorted(given, key=lambda pair: pair[1]):
            if not await link.fetch(_PUT_KEY, *from_key(app, key, digest)):
                raise ValidationError("Another app has this key already.", source="key")


async def end_key(link: Link, app: AppId, key_id: str, at: int) -> bool:
    """End a key for good, and tell whether the app has it."""
    async with link.transaction():
        return bool(await link.fetch(_END_KEY, at, app, key_id))


async def set_key_rate(link: Link, app: AppId, key_id: str, rate: str | None) -> bool:
    """Give a key another rate, and tell whether the app has it."""
    async with link.transaction():
        return bool(await link.fetch(_SET_KEY_RATE, rate, app, key_id))


async def note_key_uses(link: Link, uses: Mapping[tuple[AppId, str], int]) -> None:
    """Note when keys were used last."""
    # In one order, so that no two processes wait for each other.
    noted = [(app, key_id, at) for (app, key_id), at in sorted(uses.items())]
    async with link.transaction():
        await link.fetch(_NOTE_KEY_USES, *(list(column) for column in zip(*noted, strict=True)))


async def keys(link: Link, digests: list[bytes]) -> list[ApiKey | None]:
    """Return the keys with these digests, live or not."""
    found = {digest: to_key(row) for digest, *row in await link.fetch(_READ_KEYS, digests)}
    return [found.get(digest) for digest in digests]


async def keys_of(link: Link, app: AppId) -> list[tuple[ApiKey, bytes]]:
    """Return all keys of an app with their digests, oldest first."""
    return [(to_key(row), digest) for digest, *row in await link.fetch(_KEYS_OF_APP, app)]
