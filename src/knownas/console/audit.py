"""What operators did, and who they are."""

import re
from typing import Final

from starlette.responses import Response

from knownas.console.visits import PATH, Refused, Visit
from knownas.errors import ValidationError
from knownas.operators import ROLES, clean_name, clean_oidc, clean_role

_PAGE: Final = 100
_is_id: Final = re.compile(r"[0-9a-f]{32}").fullmatch


async def log(visit: Visit) -> Response:
    """List what operators did, newest first."""
    at = visit.number(visit.asked("before"), "before")
    before = None
    if at is not None and _is_id(visit.asked("id")):
        before = (at, visit.asked("id"))
    found = await visit.registry.desk.entries(before, _PAGE)
    return visit.page(
        "audit.html",
        entries=found,
        app_names={app.id: app.name for app in visit.apps},
        last=found[-1] if len(found) == _PAGE else None,
    )


async def operators(visit: Visit, problem: str = "") -> Response:
    """List the operators."""
    found = await visit.registry.desk.all()
    return visit.page(
        "operators.html",
        status=400 if problem else 200,
        operators=found,
        roles=ROLES,
        problem=problem,
    )


async def create_operator(visit: Visit) -> Response:
    """Let somebody sign in."""
    name = visit.text("name").strip()
    try:
        role = clean_role(visit.text("role"))
        oidc = visit.text("oidc").strip() if visit.issuer is not None else ""
        oidc = clean_oidc(oidc) if oidc else ""
        await visit.note("create operator", detail=f"{clean_name(name)} {role} {oidc}".rstrip())
        await visit.registry.desk.create(name, role, visit.text("password"), oidc)
    except ValidationError as error:
        return await operators(visit, f"{error.fields[0].source}: {error.fields[0].message}")
    return visit.go(f"{PATH}operators")


async def remove_operator(visit: Visit) -> Response:
    """Remove an operator, who is signed out at once."""
    name = clean_name(visit.text("name"))
    if name == visit.name:
        raise Refused(400, "Another admin has to remove you: there must be one left.")
    await visit.note("remove operator", detail=name)
    await visit.registry.desk.remove(name)
    return visit.go(f"{PATH}operators")
