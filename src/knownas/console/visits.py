"""One request to the console: who asks, for which app, what was filled in, and how it is answered.

A session's token is in a cookie that only this server gets to see, and stands nowhere else. Each
form has a token that is made of that one, so another site cannot have a browser send it.
"""

import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs, urlsplit

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from knownas.console import rendering
from knownas.console.attempts import Attempts
from knownas.console.tickets import Ticket
from knownas.errors import KnownasError, ValidationError
from knownas.http import wire
from knownas.model import App, ProfileRef, clean_profile_id
from knownas.operators import NO_APP, Operator, Role
from knownas.registry import Registry

if TYPE_CHECKING:
    from knownas.console.issuer import Issuer

PATH: Final = "/console/"
BODY_LIMIT: Final = 64 * 1024

HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "Referrer-Policy": "same-origin",  # not no-referrer: forms would be sent with `Origin: null`
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""What every answer of the console has."""

TOKEN: Final = "token"  # noqa: S105 - the name of a field
_FORM_TYPE: Final = "application/x-www-form-urlencoded"
_MAX_FIELDS: Final = 200
_SESSION: Final = "knownas-session"
_VISITOR: Final = "knownas-visitor"
_TICKET: Final = "knownas-ticket"
_TICKET_SECONDS: Final = 600
"""How long somebody may take to sign in at the issuer."""


class Refused(Exception):
    """The request is not answered as it was asked; the page says why."""

    def __init__(self, status: int, message: str, *, allow: str = "") -> None:
        """Take the status of the answer, a sentence for people, and of a 405 what is allowed."""
        super().__init__(message)
        self.status = status
        self.message = message
        self.allow = allow


class Visit:
    """What a page is made of."""

    def __init__(
        self, request: Request, registry: Registry, attempts: Attempts, issuer: "Issuer | None"
    ) -> None:
        """Begin to answer a request; attempts to sign in are counted together.

        At the issuer operators may sign in, too.
        """
        self.attempts = attempts
        self.request = request
        self.registry = registry
        self.issuer = issuer
        self.operator: Operator | None = None
        self.app: App | None = None
        self.apps: Sequence[App] = ()
        self.place: Mapping[str, str] = {}
        """What the path names."""
        self.form: Mapping[str, Sequence[str]] = {}
        self.cookies: dict[str, str] = {}
        """Cookies to set, "" for those to delete."""
        self._visitor = request.cookies.get(self._name(_VISITOR), "")

    # --- who asks ---------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The name of the operator."""
        return self.signed_in.name

    @property
    def signed_in(self) -> Operator:
        """The operator, on a page that has one."""
        if self.operator is None:
            raise Refused(403, "Sign in first.")
        return self.operator

    @property
    def its_app(self) -> App:
        """The app, on a page of one."""
        if self.app is None:
            raise Refused(404, "There is no such app.")
        return self.app

    @property
    def session_token(self) -> str:
        """The token of the session; "" where there is none."""
        return self.request.cookies.get(self._name(_SESSION), "")

    def begin_session(self, token: str) -> None:
        """Have the browser keep the token of a new session."""
        self.cookies[_SESSION] = token
        self.cookies[_VISITOR] = ""

    def end_session(self) -> None:
        """Have the browser forget its session."""
        self.cookies[_SESSION] = ""

    def give_ticket(self, ticket: Ticket) -> None:
        """Have the browser keep the ticket of a sign-in at the issuer for ten minutes."""
        self.cookies[_TICKET] = ticket.secret

    def take_ticket(self) -> Ticket:
        """Take the ticket back, which is good for once. Without one its secret is ""."""
        self.cookies[_TICKET] = ""
        return Ticket(self.request.cookies.get(self._name(_TICKET), ""))

    def require(self, role: Role) -> None:
        """Raise Refused unless the operator may do what a role may."""
        if not self.signed_in.may(role):
            raise Refused(403, f"This is for the role {role}, and yours is {self.signed_in.role}.")

    async def note(self, action: str, *, about: Sequence[str] = ("",), detail: str = "") -> None:
        """Write what the operator is about to do to the audit log. It is done only afterwards."""
        app = self.app.id if self.app is not None else NO_APP
        await self.registry.desk.note(self.name, action, app=app, about=about, detail=detail)

    # --- forms ------------------------------------------------------------------------------------

    @property
    def form_token(self) -> str:
        """What each form of this browser has to bring back."""
        secret = self.session_token if self.operator is not None else self._visitor
        if not secret:
            secret = self._visitor = self.cookies[_VISITOR] = secrets.token_urlsafe(32)
        return hmac.digest(secret.encode(), b"form", hashlib.sha256).hex()

    async def read_form(self) -> None:
        """Read what was filled in.

        Raises Refused unless it comes from a form of this browser on a page of this server.
        """
        request = self.request
        origin = urlsplit(request.headers.get("origin", ""))
        if not origin.netloc or origin.netloc != request.headers.get("host", ""):
            raise Refused(
                403,
                "The form did not come from a page of this server. Where a proxy stands before it, "
                "that has to pass the Host header on as it came.",
            )
        if request.headers.get("content-type", "").partition(";")[0].strip() != _FORM_TYPE:
            raise Refused(415, "Send the form as a browser does.")
        body = await wire.bounded_body(request, wire.Headers(request.scope["headers"]))
        try:
            self.form = parse_qs(
                body.decode(), keep_blank_values=True, errors="strict", max_num_fields=_MAX_FIELDS
            )
        except ValueError:
            raise Refused(400, "The form cannot be read.") from None
        given = self.text(TOKEN).encode()
        known = self.session_token if self.operator is not None else self._visitor
        if not known or not hmac.compare_digest(given, self.form_token.encode()):
            raise Refused(403, "The form is too old; go back, load the page anew and try again.")

    def text(self, field: str) -> str:
        """Return what was filled in, "" where nothing was."""
        return self.form.get(field, ("",))[0]

    def asked(self, name: str) -> str:
        """Return a parameter of the address, "" where it has none."""
        return self.request.query_params.get(name, "")

    def number(self, text: str, name: str, most: int = 2**53) -> int | None:
        """Return the whole number in a text, None where it is empty. Raises ValidationError."""
        if not text:
            return None
        if not (text.isascii() and text.isdecimal()) or not 1 <= int(text[:20]) <= most:
            raise ValidationError(f"Must be a whole number from 1 to {most}.", source=name)
        return int(text)

    @property
    def ref(self) -> ProfileRef:
        """The profile that the path names."""
        return ProfileRef(profile_id=clean_profile_id(self.place["profile"], source="profile"))

    # --- answers ----------------------------------------------------------------------------------

    def page(self, template: str, *, status: int = 200, **values: object) -> Response:
        """Answer a page."""
        text = rendering.render(
            template,
            {
                "visit": self,
                "operator": self.operator,
                "app": self.app,
                "apps": self.apps,
                "here": self.here,
                "path": self.request.scope["path"],
                "form_token": self.form_token,
                **values,
            },
        )
        return self.finish(HTMLResponse(text, status_code=status))

    def go(self, path: str) -> Response:
        """Send the browser to another page; a path that begins without a slash is of the app."""
        target = path if path.startswith("/") else f"{self.here}{path}"
        return self.finish(Response(status_code=303, headers={"Location": target}))

    def refusal(self, status: int, title: str, messages: Sequence[str]) -> Response:
        """Answer that it cannot be done, and why."""
        return self.page("message.html", status=status, title=title, messages=messages)

    def failure(self, error: KnownasError) -> Response:
        """Answer what an error says."""
        messages = [
            f"{source}: {message}" if source else message for source, message in error.fields
        ]
        response = self.refusal(wire.STATUS[error.code], "This could not be done", messages)
        if error.retry_after is not None:
            response.headers["Retry-After"] = str(error.retry_after)
        return response

    @property
    def here(self) -> str:
        """The address of the app's first page."""
        return f"{PATH}apps/{self.app.name}/" if self.app is not None else PATH

    def finish(self, response: Response) -> Response:
        """Give an answer its headers and cookies."""
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        for cookie, value in self.cookies.items():
            is_ticket = cookie == _TICKET
            lasts = _TICKET_SECONDS if is_ticket else None
            response.set_cookie(
                self._name(cookie),
                value,
                max_age=lasts if value else 0,
                path="/" if self._is_secure else PATH,
                secure=self._is_secure,
                httponly=True,
                # The issuer sends the browser back, and a strict one would not come with it.
                samesite="lax" if is_ticket else "strict",
            )
        return response

    @property
    def _is_secure(self) -> bool:
        return self.request.url.scheme == "https"

    def _name(self, cookie: str) -> str:
        return f"__Host-{cookie}" if self._is_secure else cookie
