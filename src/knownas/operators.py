"""Operators: the people who use the console, their sessions, and what is kept of what they do."""

import re
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple, Protocol

from knownas.errors import ValidationError
from knownas.model import AppId

Role = Literal["viewer", "support", "admin"]

ROLES: Final[tuple[Role, ...]] = ("viewer", "support", "admin")
"""Each may do all that those before it may.

A viewer sees identifiers masked; support reveals, clears and merges; an admin erases, and makes
keys, webhooks and operators.
"""

MIN_PASSWORD: Final = 12
MAX_PASSWORD: Final = 1_000
"""Characters of a password."""

NO_APP: Final = AppId(0)
"""The app of an entry that is about none."""

TAKEN: Final = "There is an operator of this name, or this identity at the issuer, already."
TAKEN_OIDC: Final = "Another operator has this identity at the issuer."

MAX_OIDC: Final = 255
"""Characters of an identity at the issuer: as many as OpenID Connect allows a subject."""

SUBJECT: Final = "sub:"
"""What an identity begins with that is no e-mail address."""

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._@+-]{0,62}")
_EMAIL: Final = re.compile(r"[!-9;-?A-~]+@[!-9;-?A-~]+")


class Operator(NamedTuple):
    """One who may sign in."""

    name: str
    role: Role
    created_at: int
    oidc: str = ""
    """Who that is at the issuer (OpenID Connect): an e-mail address in lower case, or `sub:` and
    the subject; "" for none."""

    def may(self, role: Role) -> bool:
        """Tell whether the operator may do what a role may."""
        return ROLES.index(self.role) >= ROLES.index(role)


class Session(NamedTuple):
    """One sign-in, as long as it lasts."""

    operator: Operator
    expires_at: int


class Entry(NamedTuple):
    """One line of the audit log. It holds no identifier and no customer id."""

    at: int
    id: str
    operator: str
    """The name, of whoever tried to sign in, too."""
    app: AppId
    action: str
    about: str = ""
    """The id of the profile that it was about; taken out when the person is erased."""
    detail: str = ""

    @property
    def place(self) -> tuple[int, str]:
        """Where it stands in the log."""
        return self.at, self.id


class Operators(Protocol):
    """The part of `knownas.storage.Storage` that is about operators; raises as that does.

    They belong to no app.
    """

    async def add(self, operator: Operator, password: str) -> None:
        """Keep an operator with the hash of a password, "" for one that nothing fits.

        Raises ValidationError where another one has the name, or the identity at the issuer.
        """
        ...

    async def all(self) -> list[Operator]:
        """Return all operators by name."""
        ...

    async def password(self, name: str) -> str | None:
        """Return the hash of an operator's password; None: there is no such operator."""
        ...

    async def set_password(self, name: str, password: str, *, ends_sessions: bool) -> bool:
        """Keep another hash of a password. False: there is no such operator."""
        ...

    async def set_oidc(self, name: str, oidc: str) -> bool:
        """Keep another identity at the issuer, "" for none, and end all sessions.

        False: there is no such operator. Raises ValidationError where another one has it.
        """
        ...

    async def remove(self, name: str) -> bool:
        """Delete an operator with all sessions. False: there is no such operator."""
        ...

    async def begin(self, digest: bytes, name: str, *, expires_at: int) -> None:
        """Keep a session under a digest; nothing is kept for an operator who is gone."""
        ...

    async def session(self, digest: bytes) -> Session | None:
        """Return the session of a digest, expired or not."""
        ...

    async def end(self, digest: bytes) -> None:
        """Delete a session. Deleting none is a no-op."""
        ...

    async def note(self, entries: Sequence[Entry]) -> None:
        """Write entries of the audit log in one transaction."""
        ...

    async def entries(self, before: tuple[int, str] | None, limit: int) -> list[Entry]:
        """Return entries of the audit log before a time and id, newest first."""
        ...


def is_name(text: str) -> bool:
    """Tell whether a text may be the name of an operator."""
    return _NAME.fullmatch(text) is not None


def clean_name(text: str) -> str:
    """Return an operator's name. Raises ValidationError."""
    if not is_name(text):
        raise ValidationError(
            "Must be 1 to 63 lower-case letters, digits or . _ @ + -, a letter or digit first.",
            source="name",
        )
    return text


def is_email(text: str) -> bool:
    """Tell whether a text may be the e-mail address of an operator.

    Only ASCII: a letter of another script may become one of ASCII in lower case, and make the
    address of somebody else of its own. No colon, so that it is never taken for a subject.
    """
    return _EMAIL.fullmatch(text) is not None and len(text) <= MAX_OIDC


def clean_oidc(text: str) -> str:
    """Return an operator's identity at the issuer in its one form. Raises ValidationError."""
    if is_email(text):
        return text.lower()
    subject = text.removeprefix(SUBJECT)
    if subject == text or not (subject.isprintable() and 1 <= len(subject) <= MAX_OIDC):
        raise ValidationError(
            f"Must be an e-mail address of ASCII characters, or {SUBJECT} and the subject that the "
            "issuer knows somebody by.",
            source="oidc",
        )
    return text


def clean_role(text: str) -> Role:
    """Return a role. Raises ValidationError."""
    for role in ROLES:
        if text == role:
            return role
    raise ValidationError(f"Must be one of {', '.join(ROLES)}.", source="role")


def clean_password(text: str) -> str:
    """Return a new password. Raises ValidationError for one that is too short, or too long."""
    if not MIN_PASSWORD <= len(text) <= MAX_PASSWORD:
        raise ValidationError(
            f"Must be {MIN_PASSWORD} to {MAX_PASSWORD} characters; this has {len(text)}.",
            source="password",
        )
    return text
