"""Signing in, with a password or at the issuer (OpenID Connect), and out; one's own password."""

from typing import TYPE_CHECKING, Final

from starlette.responses import Response

from knownas import logs
from knownas.console.tickets import IssuerError, Ticket
from knownas.console.visits import PATH, Refused, Visit
from knownas.errors import RateLimited, ValidationError

if TYPE_CHECKING:
    from knownas.console.issuer import Issuer

_ISSUER: Final = "OpenID Connect"
"""What such a sign-in is called in the audit log; as an operator nobody can have this name."""

_OWN: Final = ("", "none", "same-origin")
"""What a browser says of a navigation that no other site began (Fetch Metadata)."""


async def form(visit: Visit) -> Response:
    """Ask who it is."""
    if visit.operator is not None:
        return visit.go(PATH)
    return visit.page("sign_in.html", problem="", name="")


async def sign_in(visit: Visit) -> Response:
    """Begin a session."""
    name, password = visit.text("name").strip(), visit.text("password")
    try:
        visit.attempts.count(_host(visit), name)
    except RateLimited as error:
        return _too_many(visit, error, name)
    desk = visit.registry.desk
    token = await desk.sign_in(name, password)
    if token is None:
        # A name that nobody has may be a password, in the wrong field.
        known = {operator.name for operator in await desk.all()}
        await desk.note(name if name in known else "?", "sign in refused")
        return visit.page(
            "sign_in.html",
            status=403,
            problem="Name and password do not go together.",
            name=name,
        )
    visit.attempts.forget(_host(visit), name)
    await desk.note(name, "sign in")
    if visit.session_token:
        await desk.sign_out(visit.session_token)
    visit.begin_session(token)
    return visit.go(PATH)


async def to_issuer(visit: Visit) -> Response:
    """Send the browser to the issuer.

    By a link: browsers hold the redirects of a form to `form-action`, too, which is 'self'.
    """
    issuer = _issuer_of(visit)
    if visit.operator is not None:
        return visit.go(PATH)
    if visit.request.headers.get("sec-fetch-site", "") not in _OWN:
        return visit.go(f"{PATH}sign-in")  # another site does not sign anybody in
    ticket = Ticket.new()
    try:
        address = await issuer.address(ticket, _back(visit))
    except IssuerError as error:
        return _failed(visit, issuer, error)
    visit.give_ticket(ticket)
    return visit.finish(Response(status_code=303, headers={"Location": address}))


async def from_issuer(visit: Visit) -> Response:
    """Begin a session for whom the issuer sends back."""
    issuer = _issuer_of(visit)
    ticket = visit.take_ticket()
    if not ticket.has_state(visit.asked("state")):
        return _again(visit, "This browser has not begun to sign in, or too long ago. Try again.")
    if visit.asked("error"):
        return _again(visit, f"{issuer.host} did not sign you in.")
    try:
        visit.attempts.count(_host(visit), _ISSUER)
    except RateLimited as error:
        return _too_many(visit, error)
    try:
        person = await issuer.person(ticket, _back(visit), visit.asked("code"), visit.asked("iss"))
    except IssuerError as error:
        return _failed(visit, issuer, error)
    desk = visit.registry.desk
    found = await desk.sign_in_by_issuer(person.subject, person.email)
    if found is None:
        await desk.note("?", "sign in refused", detail=_ISSUER)
        return _again(
            visit,
            f"No operator has what {issuer.host} knows you by: sub:{person.subject}, or a verified "
            "e-mail address. Ask an admin to enter one of them.",
        )
    name, token = found
    visit.attempts.forget(_host(visit), _ISSUER)
    await desk.note(name, "sign in", detail=_ISSUER)
    visit.begin_session(token)
    # Not a redirect: to a browser that would be the issuer's navigation still, without the strict
    # cookie of the session. The page leads on by itself, and that is ours.
    return visit.page("signed_in.html")


def _issuer_of(visit: Visit) -> "Issuer":
    if visit.issuer is None:
        raise Refused(404, "Nobody can sign in elsewhere here: KNOWNAS_OIDC_ISSUER is not set.")
    return visit.issuer


def _back(visit: Visit) -> str:
    """Return where the issuer is to send the browser; it knows which addresses are allowed."""
    url = visit.request.url
    return f"{url.scheme}://{url.netloc}{PATH}oidc/back"


def _again(visit: Visit, problem: str, status: int = 403) -> Response:
    return visit.page("sign_in.html", status=status, problem=problem, name="")


def _too_many(visit: Visit, error: RateLimited, name: str = "") -> Response:
    response = visit.page("sign_in.html", status=429, problem=error.fields[0].message, name=name)
    response.headers["Retry-After"] = str(error.retry_after)
    return response


def _failed(visit: Visit, issuer: "Issuer", error: IssuerError) -> Response:
    logs.get().warning("oidc_failed", step=error.step, reason=error.reason)
    return _again(
        visit,
        f"{issuer.host} does not answer as it should, so it could not sign you in ({error.step}). "
        "The server's log says more.",
        error.status,
    )


def _host(visit: Visit) -> str:
    client = visit.request.client
    return client.host if client is not None else ""


async def sign_out(visit: Visit) -> Response:
    """End the session."""
    await visit.note("sign out")
    await visit.registry.desk.sign_out(visit.session_token)
    visit.end_session()
    return visit.go(f"{PATH}sign-in")


async def password_form(visit: Visit) -> Response:
    """Ask for one's new password."""
    return visit.page("password.html", problem="")


async def change_password(visit: Visit) -> Response:
    """Give the operator another password, who signs in with it then."""
    visit.attempts.count(_host(visit), visit.name)
    desk = visit.registry.desk
    problem = ""
    if visit.text("new") != visit.text("again"):
        problem = "The two new passwords are not the same."
    elif not await desk.knows(visit.name, visit.text("password")):
        problem = "This is not your password now."
    else:
        await visit.note("change password")
        try:
            await desk.set_password(visit.name, visit.text("new"))
        except ValidationError as error:
            problem = f"The new password: {error.fields[0].message}"
    if problem:
        return visit.page("password.html", status=400, problem=problem)
    visit.end_session()
    return visit.go(f"{PATH}sign-in")
