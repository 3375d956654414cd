"""The one place where SQLite's errors become ours."""

import apsw

from knownas.errors import ServiceUnavailable

_PASSING = (
    apsw.BusyError,
    apsw.CantOpenError,
    apsw.FullError,
    apsw.IOError,
    apsw.LockedError,
    apsw.NoMemError,
    apsw.ReadOnlyError,
)


def translated(error: Exception) -> Exception:
    """Return ServiceUnavailable for what may pass (full disk, lock, …), else the error itself."""
    if isinstance(error, _PASSING):
        unavailable = ServiceUnavailable(
            "The database cannot be used for the moment; send the same request again.",
            retry_after=1,
        )
        unavailable.__cause__ = error
        return unavailable
    return error
