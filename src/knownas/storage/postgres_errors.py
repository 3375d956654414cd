"""The one place where errors of asyncpg, and of the server behind it, become ours."""

import ssl
from typing import Final

import asyncpg

from knownas.errors import ServiceUnavailable
from knownas.storage import unavailable


class Outrun(Exception):
    """Another transaction has changed what this one was based on."""


OUTRUN: Final = (Outrun, asyncpg.TransactionRollbackError)
"""Transactions were in each other's way: the same one may well succeed when it is repeated."""

_PASSING = (
    OSError,  # no way to the server, or none in time
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,  # the connection is closed
    asyncpg.TargetServerAttributeNotMatched,  # of several servers none is the primary
    asyncpg.InsufficientResourcesError,  # disk full, too many connections
    asyncpg.OperatorInterventionError,  # it starts, or shuts down
    asyncpg.PostgresSystemError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.ReadOnlySQLTransactionError,  # it was a primary until just now
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.LockNotAvailableError,
    asyncpg.TransactionRollbackError,
)


NOT_UNDERSTOOD: Final = (
    "the database's URL is not understood; in a password @ : / ? # and % must be percent-encoded"
)


def passes(error: BaseException) -> bool:
    """Tell whether the same request may succeed later: nothing is wrong with the request."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return True  # a ValueError, too, but a certificate that has run out is replaced
    # What asyncpg cannot encode is an InterfaceError and a ValueError: the request's own fault.
    return isinstance(error, _PASSING) and not isinstance(error, ValueError)


def translated(error: BaseException) -> BaseException:
    """Return ServiceUnavailable for what passes, each time a new one, else the error itself."""
    if isinstance(error, ServiceUnavailable | Outrun) or passes(error):
        return unavailable(error)
    return error


def reason(error: BaseException) -> str:
    """Return one line for an operator that says what is wrong, and holds no password."""
    if isinstance(error, TimeoutError):
        return "it does not answer in time"
    if isinstance(error, asyncpg.TargetServerAttributeNotMatched):
        return "none of the hosts is as target_session_attrs says"
    if isinstance(error, asyncpg.PostgresError):
        return str(error).partition("\n")[0].rstrip(".")
    if (of_tls := _reason_of_tls(error)) is not None:
        return of_tls
    if isinstance(error, OSError):
        return error.strerror or "it cannot be reached"
    return NOT_UNDERSTOOD  # the texts of these quote the URL


def _reason_of_tls(error: BaseException) -> str | None:
    """Return what is wrong with TLS; asyncpg tells some of it only by its text."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {error.verify_message.rstrip('.')}"
    if isinstance(error, ssl.SSLError):
        return f"TLS fails: {error.reason}"
    if isinstance(error, FileNotFoundError):
        return "there is no such socket, or no such file as sslrootcert, sslcert or sslkey names"
    if "rejected SSL upgrade" in str(error):
        return "it speaks no TLS, and sslmode asks for it"
    if "root certificate file" in str(error):
        return "sslmode asks for the certificate of an authority, and sslrootcert names none"
    return None
