"""One sign-in at the issuer (OpenID Connect), from the browser's going there to its return."""

import base64
import hashlib
import hmac
import secrets
from typing import NamedTuple

_SECRET_BYTES = 32


class Ticket(NamedTuple):
    """A secret that only one browser keeps, and all that is made of it.

    So nothing has to be kept here between the two requests, which may reach two servers. Each part
    is an HMAC of its own: who sees one, in an address or at the issuer, knows neither the others
    nor the secret.
    """

    secret: str

    @classmethod
    def new(cls) -> "Ticket":
        """Return a ticket that nobody else has."""
        return cls(secrets.token_urlsafe(_SECRET_BYTES))

    @property
    def state(self) -> str:
        """What the browser has to bring back: it shows that this browser began the sign-in."""
        return self._part("state")

    @property
    def nonce(self) -> str:
        """What the ID token has to hold: it shows that this sign-in is what the token is of."""
        return self._part("nonce")

    @property
    def verifier(self) -> str:
        """What only who began the sign-in can show for its code (RFC 7636, 4.1)."""
        return self._part("verifier")

    @property
    def challenge(self) -> str:
        """What the issuer gets of the verifier at first (RFC 7636, 4.2: S256)."""
        digest = hashlib.sha256(self.verifier.encode()).digest()
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()

    def has_state(self, state: str) -> bool:
        """Tell whether a state is that of this ticket."""
        return bool(self.secret) and hmac.compare_digest(state.encode(), self.state.encode())

    def _part(self, name: str) -> str:
        return hmac.digest(self.secret.encode(), name.encode(), hashlib.sha256).hex()


class IssuerError(Exception):
    """Nobody can be signed in by what the issuer answers, or because it does not."""

    def __init__(self, step: str, reason: str, *, status: int = 503) -> None:
        """Take what was asked of the issuer, what was wrong, and the status of our answer.

        Both stand in the log, so neither may have a secret or a name in it.
        """
        super().__init__(f"{step}: {reason}")
        self.step = step
        self.reason = reason
        self.status = status
