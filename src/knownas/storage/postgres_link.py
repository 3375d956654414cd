"""Connections to PostgreSQL: how they are made, held, cut off and made anew.

asyncpg sends a CancelRequest when it is given a timeout that runs out, and when the task that
waits is cancelled. One that meets a COMMIT which waits for a standby has it report success for
a write that is not replicated. So nothing here has a timeout but the making of a connection,
and what takes too long is cut off: the socket is closed, and the server finishes by itself.
"""

import asyncio
import contextlib
import os
import re
import time
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from knownas.errors import ServiceUnavailable
from knownas.storage import StorageError
from knownas.storage.postgres_errors import NOT_UNDERSTOOD

PLAN_SECONDS: Final = 60
"""How long a statement's plan is kept: one made for a small table would read a large one whole."""
REFUSAL_SECONDS: Final = 0.1
"""How long after a failed attempt no other is made: a server that starts has enough to do."""
CLOSING_SECONDS: Final = 1.0

_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:@]*)(:[0-9]+)?")

_LEAST_SECONDS: Final = 0.001

_BEGIN: Final = "BEGIN ISOLATION LEVEL READ COMMITTED"

Row = Any
"""asyncpg's Record: a tuple whose types are those of the statement's columns."""


class Target:
    """Where a database is, and how connections to it are made."""

    def __init__(self, url: str, *, prepared: bool = True, role: str = "read-write") -> None:
        """Take a `postgresql://` URL; of several hosts the first in `role` to answer is used.

        `role` is one of asyncpg's `target_session_attrs`, and gives way to the URL's own.
        Without `prepared` statements a PgBouncer older than 1.21 may stand in between. Raises
        StorageError for what is no such URL.
        """
        try:
            parts = urlsplit(url)
        except ValueError:
            raise StorageError(NOT_UNDERSTOOD) from None
        credentials, at, hosts = parts.netloc.rpartition("@")
        if not all(map(_HOST.fullmatch, hosts.split(","))):
            raise StorageError(NOT_UNDERSTOOD)
        self._urls = [
            urlunsplit(parts._replace(netloc=f"{credentials}{at}{host}"))
            for host in hosts.split(",")
        ]
        self.name = f"{parts.scheme}://{hosts}{parts.path}"
        """What may be shown of the URL: neither user nor password."""
        self._options: dict[str, Any] = {
            "statement_cache_size": 100 if prepared else 0,
            "max_cached_statement_lifetime": PLAN_SECONDS,
        }
        chosen = "target_session_attrs=" in parts.query or "PGTARGETSESSIONATTRS" in os.environ
        if len(self._urls) > 1 and not chosen:
            self._options["target_session_attrs"] = role
        self._refusal: Exception | None = None
        self._refused_until = 0.0

    async def connect(self, seconds: float) -> asyncpg.Connection:
        """Return a new connection, made within `seconds`; raises what asyncpg does.

        All hosts are tried at once, since one that hangs would leave no time for the others.
        """
        if self._refusal is not None and time.monotonic() < self._refused_until:
            raise self._refusal.with_traceback(None)  # else it would grow each time
        try:
            connection = await _first(self._connect_to(url, seconds) for url in self._urls)
        except Exception as error:
            self._refusal = error
            self._refused_until = time.monotonic() + REFUSAL_SECONDS
            raise
        self._refusal = None
        return connection

    async def _connect_to(self, url: str, seconds: float) -> asyncpg.Connection:
        return await asyncpg.connect(url, timeout=seconds, **self._options)


class Link:
    """One connection, used by one task at a time and made anew where it was lost."""

    deadline = float("inf")
    """When `cut` will be called, by the clock of the event loop."""

    def __init__(self, target: Target) -> None:
        """Connect to `target` when there is something to do."""
        self._target = target
        self._connection: asyncpg.Connection | None = None
        self._warned = False
        self.was_cut = False
        self.in_doubt = False
        """Whether a COMMIT was sent of which nothing was heard yet."""

    async def open(self) -> None:
        """Connect, unless it is connected already. Raises what asyncpg does."""
        self.was_cut = self.in_doubt = False
        if self.is_open():
            return
        seconds = self.deadline - asyncio.get_running_loop().time()
        self._connection = await self._target.connect(max(seconds, _LEAST_SECONDS))
        self._connection.add_log_listener(self._note)

    def is_open(self) -> bool:
        """Tell whether it is connected, as far as can be seen from here."""
        return self._connection is not None and not self._connection.is_closed()

    async def fetch(self, statement: str, *values: object) -> list[Row]:
        """Run one statement and return its rows."""
        return await self._held().fetch(statement, *values)

    async def copy(
        self, table: str, columns: Sequence[str], records: Iterable[Sequence[object]]
    ) -> None:
        """Stream rows into a table."""
        await self._held().copy_records_to_table(table, columns=columns, records=records)

    async def told_by(self, statement: str, pattern: re.Pattern[str]) -> str | None:
        """Run a statement outside of a transaction; return what it tells in the group of a pattern.

        It is what the server says beside the answer, as by VERBOSE; None where it is not told.
        """
        found: list[str] = []

        def listen(_connection: object, message: asyncpg.PostgresLogMessage) -> None:
            text = f"{message.message}\n{getattr(message, 'detail', None) or ''}"
            found.extend(pattern.findall(text))

        held = self._held()
        held.add_log_listener(listen)
        try:
            await held.execute(statement)
        finally:
            held.remove_log_listener(listen)
        return found[0] if found else None

    async def execute(self, statements: str) -> None:
        """Run statements without values."""
        await self._held().execute(statements)

    @contextlib.asynccontextmanager
    async def transaction(self, begin: str = _BEGIN) -> AsyncIterator[None]:
        """Commit what the block did, or take it back where it raises.

        Raises ServiceUnavailable where the server says that the commit was not waited for.
        """
        await self.execute(begin)
        try:
            yield
        except Exception:
            with contextlib.suppress(Exception):  # the error that led here is the one to tell
                await self.execute("ROLLBACK")
            raise
        self._warned = False
        self.in_doubt = True
        await self.execute("COMMIT")
        if self._warned:
            # Someone has cancelled the wait for a standby: it is written here, and nowhere else.
            raise ServiceUnavailable
        self.in_doubt = False

    def cut(self) -> None:
        """Close the socket at once: whoever waits for an answer gets an error."""
        self.was_cut = True
        if self._connection is not None:
            self._connection.terminate()

    async def close(self) -> None:
        """Let go of the connection, with a word to the server."""
        if self._connection is not None:
            with contextlib.suppress(Exception):
                await self._connection.close(timeout=CLOSING_SECONDS)

    def _held(self) -> asyncpg.Connection:
        if self._connection is None:
            raise asyncpg.InterfaceError("There is no connection.")
        return self._connection

    def _note(self, _connection: object, message: asyncpg.PostgresLogMessage) -> None:
        self._warned = self._warned or message.severity_en == "WARNING"


async def _first(attempts: Iterable[Coroutine[Any, Any, asyncpg.Connection]]) -> asyncpg.Connection:
    """Return the first connection that is made, and give up the other attempts."""
    pending = {asyncio.ensure_future(attempt) for attempt in attempts}
    failure: BaseException | None = None
    try:
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for attempt in done:
                failure = attempt.exception()
                if failure is None:
                    pending |= done - {attempt}
                    return attempt.result()
    finally:
        for late in pending:
            late.add_done_callback(_drop)
            late.cancel()
    raise failure or ServiceUnavailable


def _drop(attempt: "asyncio.Future[asyncpg.Connection]") -> None:
    """Close what was connected after another connection was chosen."""
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().terminate()
