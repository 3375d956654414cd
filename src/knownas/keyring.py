"""The keys of apps: who is asking, and what is kept of the keys.

A key is asked for with every request, so the keys in use are believed for half a second.
"""

import asyncio
import contextlib
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

import msgspec

from knownas import keys
from knownas.errors import ServiceUnavailable, Unauthorized, ValidationError
from knownas.keys import KeyType
from knownas.model import NO_RATE, ApiKey, App, AppId
from knownas.storage import Storage

KEY_CACHE_SECONDS: Final = 0.5
"""A key is believed this long after its read began, so a revoked one is refused by every
process within a second."""

KEY_RENEWAL_SECONDS: Final = 0.1
"""A key that is in use is read again so long before that, so no request has to wait for it."""

_KEY_CACHE_SIZE: Final = 1_000


class _Believed(NamedTuple):
    key: ApiKey
    renew_at: float
    until: float


class Keyring:
    """The keys of all apps, over one storage."""

    def __init__(
        self,
        storage: Storage,
        *,
        key_rate: str | None = None,
        clock: Callable[[], int],
        monotonic: Callable[[], float] = time.monotonic,
        new_uuid: Callable[[], uuid.UUID] = uuid.uuid4,
    ) -> None:
        """Keep the keys in `storage`; `clock` gives ms since 1970, `monotonic` seconds.

        `key_rate` is the rate of every key that has none of its own, None for no limit.
        """
        self._storage = storage
        self._key_rate = key_rate
        self._clock = clock
        self._monotonic = monotonic
        self._new_uuid = new_uuid
        self._believed: dict[bytes, _Believed] = {}
        self._uses: dict[tuple[AppId, str], int] = {}
        """When keys were used last, as far as it is not written yet."""
        self._beside: set[asyncio.Future[Any]] = set()

    async def authenticate(self, authorization: bytes | None) -> ApiKey:
        """Return the live key in an `Authorization: Api-Key …` header value.

        Its `rate` is the one in force; whoever answers the request keeps to it. Raises
        Unauthorized, the same for a missing, malformed, unknown, revoked or expired key.
        """
        if authorization is None:
            raise Unauthorized
        return self.believed_key(authorization) or await self._look_up_key(authorization)

    def believed_key(self, authorization: bytes) -> ApiKey | None:
        """Return the live key of a header value if it was read just now, else None.

        None says nothing about the key; `authenticate` does.
        """
        cached = self._believed.get(authorization)
        if cached is None:
            return None
        now = self._monotonic()
        if now >= cached.renew_at:
            if now >= cached.until:
                return None
            self._believed[authorization] = cached._replace(renew_at=cached.until)
            self._do_beside(self._look_up_key(authorization))
        key = cached.key
        return key if key.expires_at is None or key.is_live(self._clock()) else None

    def _remember_the_end(self, key: ApiKey, now: int) -> None:
        """Note that a key was seen expired, so that it stays so when the clock is put back.

        It is not waited for: the answer to an expired key is that to any other bad key.
        """
        self._do_beside(self._storage.end_key(key.app.id, key.id, at=now))

    def _do_beside(self, work: Awaitable[object]) -> None:
        """Begin what no request waits for. A failure is no loss: whoever comes next tries again."""
        doing = asyncio.ensure_future(work)
        self._beside.add(doing)
        doing.add_done_callback(self._beside.discard)
        doing.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _look_up_key(self, authorization: bytes) -> ApiKey:
        text = keys.from_authorization(authorization)
        if text is None or keys.is_mistyped(text):
            raise Unauthorized
        believed_until = self._monotonic() + KEY_CACHE_SECONDS
        key = await self._storage.key_by_digest(keys.digest(text))
        if key is None:
            self._believed.pop(authorization, None)
            raise Unauthorized
        now = self._clock()
        if not key.is_live(now):
            self._believed.pop(authorization, None)
            if key.ended_at is None:
                self._remember_the_end(key, now)
            raise Unauthorized
        self._uses[key.app.id, key.id] = now
        rate = self._key_rate if key.rate is None else key.rate
        rate = None if rate == NO_RATE else rate
        upstream = key.app.upstream
        is_compared = upstream is not None and upstream.is_shadowed
        is_ordinary = key.type == "secret" and rate is None and not is_compared
        key = msgspec.structs.replace(key, rate=rate, is_ordinary=is_ordinary)
        if len(self._believed) >= _KEY_CACHE_SIZE:
            self._believed.clear()
        self._believed[authorization] = _Believed(
            key, believed_until - KEY_RENEWAL_SECONDS, believed_until
        )
        return key

    async def create(
        self,
        app: App,
        key_type: KeyType,
        *,
        label: str = "",
        expires_at: int | None = None,
        rate: str | None = None,
    ) -> tuple[str, ApiKey]:
        """Make a key and return it, with what is kept of it. It is never shown again."""
        text = keys.mint(key_type)
        key = self._new_key(app, key_type, label, expires_at, rate)
        await self._storage.add_key(app.id, key, keys.digest(text))
        return text, key

    async def adopt(  # noqa: PLR0913 - all that is kept of a key
        self,
        app: App,
        text: str,
        key_type: KeyType,
        *,
        label: str = "",
        expires_at: int | None = None,
        rate: str | None = None,
    ) -> ApiKey:
        """Accept a key that the team uses elsewhere, so that its clients need no new one.

        Raises ValidationError for a text that is no key (1 to 255 visible ASCII characters
        without blanks), one that looks like a key of ours with a typing error, or one in use.
        """
        if not keys.is_adoptable(text):
            raise ValidationError(
                "Must be 1 to 255 visible ASCII characters without blanks, and not a mistyped "
                "knownas key.",
                source="key",
            )
        key = self._new_key(app, key_type, label, expires_at, rate)
        await self._storage.add_key(app.id, key, keys.digest(text))
        return key

    async def of_app(self, app: AppId) -> list[ApiKey]:
        """Return all keys of an app, live or not, oldest first."""
        return await self._storage.keys(app)

    async def revoke(self, app: AppId, key_id: str) -> None:
        """End a key's life; within a second every process refuses it.

        Raises ValidationError when the app has no such key.
        """
        if not await self._storage.end_key(app, key_id, at=self._clock()):
            raise _no_such_key(key_id)
        self.forget()

    async def rotate(self, app: App, key_id: str, *, overlap_seconds: int) -> tuple[str, ApiKey]:
        """Make a successor of a key, with its rate; both open the app until the overlap is over.

        The successor of a key that expires lives as long as that one was made for.
        Raises ValidationError when the app has no such key, or it is not live.
        """
        now = self._clock()
        old = next((key for key in await self.of_app(app.id) if key.id == key_id), None)
        if old is None:
            raise _no_such_key(key_id)
        if not old.is_live(now):
            raise ValidationError(
                f"The key {key_id} is revoked or expired; create a new one instead.", source="key"
            )
        expires_at = None if old.expires_at is None else now + old.expires_at - old.created_at
        text = keys.mint(old.type)
        key = self._new_key(app, old.type, old.label, expires_at, old.rate)
        await self._storage.add_key(
            app.id,
            key,
            keys.digest(text),
            replacing=key_id,
            overlap_until=now + overlap_seconds * 1_000,
        )
        self.forget()
        return text, key

    async def limit(self, app: AppId, key_id: str, rate: str | None) -> None:
        """Give a key another `ApiKey.rate`; within a second every process keeps to it.

        Raises ValidationError when the app has no such key.
        """
        if not await self._storage.set_key_rate(app, key_id, rate):
            raise _no_such_key(key_id)
        self.forget()

    async def write_uses(self) -> None:
        """Write when keys were used last. Raises ServiceUnavailable; then it is still to do."""
        uses, self._uses = self._uses, {}
        if not uses:
            return
        try:
            await self._storage.note_key_uses(uses)
        except ServiceUnavailable:
            self._uses = uses | self._uses
            raise

    def _new_key(
        self, app: App, key_type: KeyType, label: str, expires_at: int | None, rate: str | None
    ) -> ApiKey:
        return ApiKey(
            id=f"key_{self._new_uuid().hex[:12]}",
            app=app,
            type=key_type,
            label=label,
            created_at=self._clock(),
            expires_at=expires_at,
            rate=rate,
        )

    def forget(self) -> None:
        """Read every key again that is asked for: something of one, or of an app, was changed."""
        self._believed.clear()

    async def close(self) -> None:
        """Finish what was begun."""
        await asyncio.gather(*self._beside, return_exceptions=True)
        with contextlib.suppress(ServiceUnavailable):
            await self.write_uses()


def _no_such_key(key_id: str) -> ValidationError:
    return ValidationError(
        f"The app has no key {key_id!r}; `knownas key list` shows those that it has.", source="key"
    )
