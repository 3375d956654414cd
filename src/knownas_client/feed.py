"""The feed of changes as an iterator that pages, waits, and can be taken up again."""

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Self

from knownas_client import native
from knownas_client.calls import Call
from knownas_client.models import Change


class _Place:
    """Where a reader of the feed is."""

    def __init__(
        self, after: str | None, *, follow: bool, page_size: int | None, wait: int
    ) -> None:
        self.cursor = after
        self.ended = False
        self._ready: deque[Change] = deque()
        self._next = after
        self._follow = follow
        self._page_size = page_size
        self._wait = wait

    def call(self) -> Call[native.ChangesBody]:
        """Return the call for the next page."""
        return native.changes(self._next, self._page_size, self._wait if self._follow else 0)

    def take(self, page: native.ChangesBody) -> None:
        """Note what has come."""
        self._ready.extend(page.data)
        self._next = page.next
        if not page.data:
            self.cursor = page.next
            self.ended = not self._follow

    def pop(self) -> Change | None:
        """Return the next change of those that have come."""
        if not self._ready:
            return None
        change = self._ready.popleft()
        self.cursor = change.cursor
        return change


class _Feed:
    """What both iterators have."""

    def __init__(self, place: _Place) -> None:
        self._place = place

    @property
    def cursor(self) -> str | None:
        """Where to take it up again: after the change that was had last."""
        return self._place.cursor


class Changes(_Feed):
    """The changes of an app, the oldest first; it ends only if it does not follow."""

    def __init__(
        self,
        send: Callable[[Call[native.ChangesBody]], native.ChangesBody],
        after: str | None,
        *,
        follow: bool,
        page_size: int | None,
        wait: int,
    ) -> None:
        """Begin after a cursor; see `Client.changes`."""
        super().__init__(_Place(after, follow=follow, page_size=page_size, wait=wait))
        self._send = send

    def __iter__(self) -> Self:
        """Return itself."""
        return self

    def __next__(self) -> Change:
        """Return the next change, asking for it where none is there."""
        while (change := self._place.pop()) is None:
            if self._place.ended:
                raise StopIteration
            self._place.take(self._send(self._place.call()))
        return change


class AsyncChanges(_Feed):
    """As `Changes`, for `async for`."""

    def __init__(
        self,
        send: Callable[[Call[native.ChangesBody]], Awaitable[native.ChangesBody]],
        after: str | None,
        *,
        follow: bool,
        page_size: int | None,
        wait: int,
    ) -> None:
        """Begin after a cursor; see `Client.changes`."""
        super().__init__(_Place(after, follow=follow, page_size=page_size, wait=wait))
        self._send = send

    def __aiter__(self) -> Self:
        """Return itself."""
        return self

    async def __anext__(self) -> Change:
        """Return the next change, asking for it where none is there."""
        while (change := self._place.pop()) is None:
            if self._place.ended:
                raise StopAsyncIteration
            self._place.take(await self._send(self._place.call()))
        return change
