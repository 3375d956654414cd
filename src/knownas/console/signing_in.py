"""Signing in and out, and one's own password."""

from starlette.responses import Response

from knownas.console.visits import PATH, Visit
from knownas.errors import RateLimited, ValidationError


async def form(visit: Visit) -> Response:
    """Ask who it is."""
    if visit.operator is not None:
        return visit.go(PATH)
    return visit.page("sign_in.html", problem="", name="")


async def sign_in(visit: Visit) -> Response:
    """Begin a session."""
    name, password = visit.text("name").strip(), visit.text("password")
    client = visit.request.client
    host = client.host if client is not None else ""
    try:
        visit.attempts.count(host, name)
    except RateLimited as error:
        response = visit.page(
            "sign_in.html", status=429, problem=error.fields[0].message, name=name
        )
        response.headers["Retry-After"] = str(error.retry_after)
        return response
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
    visit.attempts.forget(host, name)
    await desk.note(name, "sign in")
    if visit.session_token:
        await desk.sign_out(visit.session_token)
    visit.begin_session(token)
    return visit.go(PATH)


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
    client = visit.request.client
    visit.attempts.count(client.host if client is not None else "", visit.name)
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
