"""Who may use the console: every use case of operators, one method each.

Passwords are hashed by argon2id, with the parameters of RFC 9106 for little memory, which are the
defaults of argon2-cffi. That is imported when a password is first asked about.
"""

import asyncio
import functools
import hashlib
import secrets
import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from knownas.errors import ValidationError
from knownas.model import AppId
from knownas.operators import (
    MAX_PASSWORD,
    NO_APP,
    SUBJECT,
    Entry,
    Operator,
    Role,
    Session,
    clean_name,
    clean_oidc,
    clean_password,
    is_email,
    is_name,
)
from knownas.storage import Storage

if TYPE_CHECKING:
    from argon2 import PasswordHasher

SESSION_MS: Final = 12 * 3_600_000
"""How long a session lasts, whatever is done in it."""

HASHES_AT_ONCE: Final = 2
"""Each takes 64 MiB of memory and a tenth of a second of four threads."""

MAX_DETAIL: Final = 500
"""Characters of what an entry of the audit log says."""


class Desk:
    """The operators of the console, over one storage."""

    def __init__(
        self, storage: Storage, *, clock: Callable[[], int], new_uuid: Callable[[], uuid.UUID]
    ) -> None:
        """Keep them in `storage`; `clock` gives ms since 1970."""
        self._operators = storage.operators
        self._clock = clock
        self._new_uuid = new_uuid
        self._hashing = asyncio.Semaphore(HASHES_AT_ONCE)

    # --- operators --------------------------------------------------------------------------------

    async def create(self, name: str, role: Role, password: str, oidc: str = "") -> Operator:
        """Make an operator, who may do without a password, "", where there is an `oidc`.

        That is the identity at the issuer, see `Operator`. Raises ValidationError for a bad name
        or identity, one that is taken, and a password that is too short.
        """
        identity = clean_oidc(oidc) if oidc else ""
        operator = Operator(clean_name(name), role, self._clock(), identity)
        has_password = password or not identity
        hashed = await self._hashed(clean_password(password)) if has_password else ""
        await self._operators.add(operator, hashed)
        return operator

    async def all(self) -> list[Operator]:
        """Return all operators by name."""
        return await self._operators.all()

    async def set_password(self, name: str, password: str) -> None:
        """Give an operator another password, and end the operator's sessions.

        Raises ValidationError for an unknown operator, and a password that is too short.
        """
        hashed = await self._hashed(clean_password(password))
        if not await self._operators.set_password(name, hashed, ends_sessions=True):
            raise _no_such_operator(name)

    async def set_oidc(self, name: str, oidc: str) -> str:
        """Give an operator another identity at the issuer, "" for none, and end the sessions.

        Returns it as it is kept. Raises ValidationError for an unknown operator, a bad identity,
        and one that is taken.
        """
        identity = clean_oidc(oidc) if oidc else ""
        if not await self._operators.set_oidc(name, identity):
            raise _no_such_operator(name)
        return identity

    async def remove(self, name: str) -> None:
        """Delete an operator, and end the sessions. Raises ValidationError for an unknown one."""
        if not await self._operators.remove(name):
            raise _no_such_operator(name)

    # --- sessions ---------------------------------------------------------------------------------

    async def sign_in(self, name: str, password: str) -> str | None:
        """Begin a session and return its token; None where name and password do not go together.

        Whether there is such an operator makes no difference to the time that it takes.
        """
        if not await self.knows(name, password):
            return None
        return await self._begin(name)

    async def sign_in_by_issuer(self, subject: str, email: str) -> tuple[str, str] | None:
        """Begin a session for whom the issuer vouches, and return the operator's name and a token.

        The subject goes before the e-mail address, which has to be verified, or "". None: no
        operator has either, and to be known to the issuer lets nobody in.
        """
        named = {one.oidc: one.name for one in await self._operators.all() if one.oidc}
        name = named.get(SUBJECT + subject)
        if name is None and is_email(email):
            name = named.get(email.lower())
        return None if name is None else (name, await self._begin(name))

    async def _begin(self, name: str) -> str:
        token = secrets.token_urlsafe(32)
        await self._operators.begin(_digest(token), name, expires_at=self._clock() + SESSION_MS)
        return token

    async def knows(self, name: str, password: str) -> bool:
        """Tell whether a password is that of an operator."""
        if len(password) > MAX_PASSWORD:
            return False
        kept = await self._operators.password(name) if is_name(name) else None
        async with self._hashing:
            fits, is_old = await asyncio.to_thread(_fits, kept or None, password)
        if fits and is_old:
            hashed = await self._hashed(password)
            await self._operators.set_password(name, hashed, ends_sessions=False)
        return fits

    async def session(self, token: str) -> Session | None:
        """Return the session of a token, as long as it lasts."""
        found = await self._operators.session(_digest(token))
        return found if found is not None and self._clock() < found.expires_at else None

    async def sign_out(self, token: str) -> None:
        """End a session."""
        await self._operators.end(_digest(token))

    async def _hashed(self, password: str) -> str:
        async with self._hashing:
            return await asyncio.to_thread(lambda: _hasher().hash(password))

    # --- the audit log ----------------------------------------------------------------------------

    async def note(
        self,
        operator: str,
        action: str,
        *,
        app: AppId = NO_APP,
        about: Sequence[str] = ("",),
        detail: str = "",
    ) -> None:
        """Write what an operator is about to do, an entry for each profile that it is about."""
        now = self._clock()
        await self._operators.note(
            [
                Entry(now, self._new_uuid().hex, operator, app, action, one, detail[:MAX_DETAIL])
                for one in about
            ]
        )

    async def entries(self, before: tuple[int, str] | None, limit: int) -> list[Entry]:
        """Return entries of the audit log before a time and id, newest first."""
        return await self._operators.entries(before, limit)


@functools.cache
def _hasher() -> "PasswordHasher":
    from argon2 import PasswordHasher  # noqa: PLC0415 - see the module's docstring

    return PasswordHasher()


@functools.cache
def _nobodys() -> str:
    """Return a hash that no password fits, for a name that nobody has."""
    return _hasher().hash(secrets.token_urlsafe(32))


def _fits(kept: str | None, password: str) -> tuple[bool, bool]:
    """Tell whether a password fits its hash, and whether it should be hashed anew."""
    from argon2.exceptions import Argon2Error, InvalidHashError  # noqa: PLC0415 - as above

    hasher = _hasher()
    try:
        hasher.verify(_nobodys() if kept is None else kept, password)
    except (Argon2Error, InvalidHashError):
        return False, False
    return kept is not None, kept is not None and hasher.check_needs_rehash(kept)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _no_such_operator(name: str) -> ValidationError:
    return ValidationError(
        f"There is no operator {name!r}; `knownas operator list` shows those that there are.",
        source="name",
    )
