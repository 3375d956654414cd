"""The one place where SQLite's errors become ours."""

from collections.abc import Iterator
from contextlib import contextmanager

import apsw

from knownas.storage import unavailable

_PASSING = (
    apsw.BusyError,
    apsw.CantOpenError,
    apsw.FullError,
    apsw.IOError,
    apsw.InterruptError,
    apsw.LockedError,
    apsw.NoMemError,
    apsw.ReadOnlyError,
)


@contextmanager
def translating() -> Iterator[None]:
    """Raise ServiceUnavailable for what may pass (full disk, lock, …), else the error itself."""
    try:
        yield
    except _PASSING as error:
        raise translated(error) from error


def translated(error: BaseException) -> BaseException:
    """Return ServiceUnavailable for what may pass, else the error itself."""
    if isinstance(error, _PASSING):
        return unavailable(error)
    return error
