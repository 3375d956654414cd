"""An asynchronous client that waits, so that one test can try both clients."""

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Self

from anyio.from_thread import BlockingPortal


class Blocking:
    """Something asynchronous, whose methods return what they would give, and which iterates."""

    def __init__(self, portal: BlockingPortal, inner: Any) -> None:  # noqa: ANN401 - any client
        """Stand for `inner`, which lives in the portal's loop."""
        self._portal = portal
        self._inner = inner

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the inner one has
        """Return a value of the inner one, or its method as one that waits."""
        found = getattr(self._inner, name)
        return self._waiting(found) if inspect.isroutine(found) else found

    def __iter__(self) -> Self:
        """Return itself."""
        return self

    def __next__(self) -> Any:  # noqa: ANN401 - as above
        """Return the next item of an iterator."""
        try:
            return self._portal.call(self._inner.__anext__)
        except StopAsyncIteration:
            raise StopIteration from None

    def _waiting(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - as above
            async def run() -> Any:  # noqa: ANN401 - as above
                given = method(*arguments, **options)
                return await given if isinstance(given, Awaitable) else given

            result = self._portal.call(run)
            return Blocking(self._portal, result) if hasattr(result, "__anext__") else result

        return call
