"""Speaks the API of contract sections 1 to 5 to an upstream, and believes it no more than that.

A 404 says that a profile is not known only where its body says so: that of a wrong address, or of
a proxy, says nothing about any profile.
"""

import contextlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import msgspec

from knownas.errors import KnownasError, ValidationError
from knownas.model import (
    KIND_NUMBER,
    App,
    ProfileId,
    ProfileRef,
    clean_attributes,
    clean_customer_text,
    clean_profile_id,
    clean_value,
)
from knownas.storage import Storage
from knownas.upstream import credentials
from knownas.upstreams import Upstream
from knownas.vault import Vault
from knownas.webhooks.answers import Answered, Unanswered

if TYPE_CHECKING:
    from knownas.webhooks.outbound import Sender

API: Final = "/api/v2/server-side-api"
IDENTIFIERS: Final = f"{API}/integration/profile/set/integration-identifiers/"
PROFILE: Final = f"{API}/profile/"

ASK_SECONDS: Final = 3.0
"""How long the upstream may take for one question."""

_UNKNOWN_CODES: Final = frozenset({"profile_does_not_exist", "profile_not_found"})
"""What the body of a 404 says of a profile: Adapty's own server, and its specification."""

_OK: Final = 200
_BAD_REQUEST: Final = 400
_NOT_FOUND: Final = 404
_TOO_MANY: Final = 429


class Trouble(Exception):
    """An upstream could not be asked, or did not answer as it should."""

    def __init__(
        self,
        reason: str,
        *,
        of: Literal["upstream", "question"] = "upstream",
        status: int | None = None,
        retry_after: int | None = None,
    ) -> None:
        """Say in one sentence why, and whether the next question would fare the same."""
        super().__init__(reason)
        self.reason = reason
        self.of = of
        self.status = status
        """What the upstream answered, if it did."""
        self.retry_after = retry_after
        """Seconds that the upstream asks to be left alone."""


class Known(NamedTuple):
    """What an upstream knows of a profile, as far as it can be kept here."""

    profile_id: ProfileId
    customer_user_id: str | None
    identifiers: Mapping[str, str]
    """By kind name."""
    attributes: Mapping[str, str | float | None]


class Client:
    """Asks the upstreams of all apps."""

    def __init__(
        self,
        storage: Storage,
        open_sender: "Callable[[], Sender]",
        vault: Vault,
        clock: Callable[[], int],
    ) -> None:
        """Send by what `open_sender` returns, which is made when it is needed."""
        self._storage = storage
        self._open_sender = open_sender
        self._vault = vault
        self._clock = clock

    async def identifiers(
        self, app: App, upstream: Upstream, ref: ProfileRef
    ) -> dict[str, str] | None:
        """Return a profile's identifiers that are set, None for an unknown profile.

        Raises Trouble.
        """
        answer = await self.ask(app, upstream, "GET", IDENTIFIERS, ref)
        if _is_unknown(answer):
            return None
        given = _object(answer)
        return {
            name: value
            for name in KIND_NUMBER
            if (value := _clean(clean_value, given.get(name))) is not None
        }

    async def profile(self, app: App, upstream: Upstream, ref: ProfileRef) -> Known | None:
        """Return all that can be kept of a profile, None for an unknown one. Raises Trouble."""
        identifiers = await self.identifiers(app, upstream, ref)
        if identifiers is None:
            return None
        answer = await self.ask(app, upstream, "GET", PROFILE, ref)
        if _is_unknown(answer):
            return None  # it has gone meanwhile
        data = _object(answer).get("data")
        if not isinstance(data, dict):
            raise Trouble("The upstream's profile has no data.")
        profile_id = _clean(clean_profile_id, data.get("profile_id"))
        customer = _clean(clean_customer_text, data.get("customer_user_id"))
        if profile_id is None or (ref.profile_id or profile_id) != profile_id:
            raise Trouble("The upstream answered for another profile.", of="question")
        if (ref.customer_user_id or customer) != customer:
            raise Trouble("The upstream answered for another customer.", of="question")
        attributes: Mapping[str, str | float | None] = {}
        try:
            attributes = clean_attributes(data.get("custom_attributes") or [])
        except ValidationError:
            attributes = {}  # what cannot be kept here is left there
        return Known(profile_id, customer, identifiers, attributes)

    async def ask(  # noqa: PLR0913, PLR0917 - whom, and all that a request is made of
        self,
        app: App,
        upstream: Upstream,
        method: str,
        path: str,
        ref: ProfileRef,
        body: object = None,
    ) -> Answered:
        """Send a request about a profile and return what came back: a 200, a 204 or a 404.

        Raises Trouble for anything else.
        """
        key = await self._key(app, upstream)
        headers: list[tuple[str, str | bytes]] = [
            ("Authorization", f"Api-Key {key}"),
            ("Accept", "application/json"),
        ]
        if ref.customer_user_id is not None:
            headers.append(("adapty-customer-user-id", ref.customer_user_id.encode()))
        if ref.profile_id is not None:
            headers.append(("adapty-profile-id", ref.profile_id))
        if body is not None:
            headers.append(("Content-Type", "application/json"))
        answer = await self._open_sender().exchange(
            method,
            upstream.url + path,
            headers,
            b"" if body is None else msgspec.json.encode(body),
            now_ms=self._clock(),
            seconds=ASK_SECONDS,
        )
        return _checked(answer)

    async def _key(self, app: App, upstream: Upstream) -> str:
        """Return the upstream's key; seal it anew where that was under an older master key.

        Raises Trouble.
        """
        try:
            key = credentials.unseal(self._vault, app, upstream)
        except credentials.NoKey as error:
            raise Trouble(str(error)) from None
        if upstream.key is not None and self._vault.needs_resealing(upstream.key):
            sealed = credentials.seal(self._vault, app, key)

            def change(now: Upstream | None) -> Upstream | None:
                if now is None or now.key != upstream.key:
                    return now  # it has another key by now
                return msgspec.structs.replace(now, key=sealed)

            with contextlib.suppress(KnownasError):  # whoever asks next tries again
                await self._storage.change_upstream(app.id, change)
        return key


def _checked(answer: Answered | Unanswered) -> Answered:
    """Return an answer that says something of the profile. Raises Trouble."""
    if isinstance(answer, Unanswered):
        raise Trouble(answer.reason)
    if answer.status // 100 == _OK // 100 or _is_unknown(answer):
        return answer
    if answer.status == _BAD_REQUEST:
        raise Trouble("The upstream answered 400.", of="question", status=answer.status)
    retry_after = answer.retry_after
    if answer.status == _TOO_MANY and retry_after is None:
        retry_after = 1
    raise Trouble(
        f"The upstream answered {answer.status}.", status=answer.status, retry_after=retry_after
    )


def _is_unknown(answer: Answered) -> bool:
    """Tell whether an answer says that there is no such profile."""
    if answer.status != _NOT_FOUND or answer.body is None:
        return False
    try:
        said = msgspec.json.decode(answer.body)
    except (msgspec.DecodeError, ValueError):
        return False
    return isinstance(said, dict) and said.get("error_code") in _UNKNOWN_CODES


def _object(answer: Answered) -> dict[str, Any]:
    """Return the JSON object of a 200. Raises Trouble."""
    if answer.body is None:
        raise Trouble("The upstream's answer broke off, or is too long.")
    try:
        given = msgspec.json.decode(answer.body)
    except (msgspec.DecodeError, RecursionError, ValueError):
        given = None
    if answer.status != _OK or not isinstance(given, dict):
        raise Trouble("The upstream did not answer with a JSON object.")
    return given


def _clean(clean: Callable[..., str], given: object) -> Any:  # noqa: ANN401 - what `clean` returns
    """Return a text that came from the upstream as it is kept here; None where it cannot be."""
    try:
        return clean(given, source="") if isinstance(given, str) else None
    except KnownasError:
        return None
