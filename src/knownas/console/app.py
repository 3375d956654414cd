"""The console's application: which page is served by what, and to whom."""

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from knownas.console import (
    audit,
    changes,
    erasing,
    imports,
    insight,
    keys,
    merging,
    profiles,
    rendering,
    searching,
    signing_in,
    webhooks,
)
from knownas.console.attempts import Attempts
from knownas.console.visits import BODY_LIMIT, PATH, Refused, Visit
from knownas.errors import KnownasError
from knownas.operators import Role
from knownas.registry import Registry

if TYPE_CHECKING:
    from knownas.console.issuer import Issuer

Handler = Callable[[Visit], Awaitable[Response]]

_PLACES: Final = {
    "app": r"[a-z][a-z0-9-]{0,62}",
    "profile": r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    "erasure": r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    "import": r"imp_[0-9a-f]{16}",
    "webhook": r"whk_[0-9a-f]{16}",
    "file": r"[a-z.]{1,40}",
}


class Page(NamedTuple):
    """One path below `/console/`, the role that it takes, and what answers each method."""

    path: str
    role: Role | None
    """None: it is for whoever comes."""
    get: Handler | None = None
    post: Handler | None = None

    @property
    def allow(self) -> str:
        """The methods that it takes."""
        return ", ".join((("GET", "HEAD") if self.get else ()) + (("POST",) if self.post else ()))


async def _static(visit: Visit) -> Response:
    media_type = rendering.STATIC_TYPES.get(visit.place["file"])
    if media_type is None:
        raise Refused(404, "There is no such file.")
    headers = {"Cache-Control": "max-age=31536000, immutable"}  # its address is that of its content
    return visit.finish(
        Response(rendering.static(visit.place["file"]), media_type=media_type, headers=headers)
    )


async def _first(visit: Visit) -> Response:
    """Go to the first app."""
    if not visit.apps:
        return visit.page(
            "message.html",
            title="There is no app yet",
            messages=["`knownas app create` makes one."],
        )
    return visit.go(f"{PATH}apps/{visit.apps[0].name}/")


PAGES: Final = (
    Page("", "viewer", get=_first),
    Page("static/{file}", None, get=_static),
    Page("sign-in", None, get=signing_in.form, post=signing_in.sign_in),
    Page("oidc", None, get=signing_in.to_issuer),
    Page("oidc/back", None, get=signing_in.from_issuer),
    Page("sign-out", "viewer", post=signing_in.sign_out),
    Page("password", "viewer", get=signing_in.password_form, post=signing_in.change_password),
    Page("audit", "admin", get=audit.log),
    Page("operators", "admin", get=audit.operators, post=audit.create_operator),
    Page("operators/remove", "admin", post=audit.remove_operator),
    Page("apps/{app}/", "viewer", get=searching.form, post=searching.search),
    Page("apps/{app}/profiles/{profile}", "viewer", get=profiles.show),
    Page("apps/{app}/profiles/{profile}/reveal", "support", post=profiles.reveal),
    Page("apps/{app}/profiles/{profile}/clear", "support", post=profiles.clear),
    Page("apps/{app}/profiles/{profile}/merge", "support", get=merging.plan, post=merging.merge),
    Page("apps/{app}/profiles/{profile}/undo-merge", "support", post=merging.undo),
    Page("apps/{app}/profiles/{profile}/erase", "admin", get=erasing.ask, post=erasing.erase),
    Page("apps/{app}/erasures", "support", get=erasing.receipts),
    Page("apps/{app}/erasures/{erasure}", "support", get=erasing.receipt),
    Page("apps/{app}/changes", "viewer", get=changes.show),
    Page("apps/{app}/changes/rows", "viewer", get=changes.rows),
    Page("apps/{app}/coverage", "viewer", get=insight.coverage),
    Page("apps/{app}/conflicts", "viewer", get=insight.conflicts),
    Page("apps/{app}/imports", "viewer", get=imports.show),
    Page("apps/{app}/imports/rows", "viewer", get=imports.rows),
    Page("apps/{app}/imports/{import}", "admin", post=imports.cancel),
    Page("apps/{app}/webhooks", "viewer", get=webhooks.show, post=webhooks.add),
    Page("apps/{app}/webhooks/{webhook}", "viewer", get=webhooks.one, post=webhooks.change),
    Page("apps/{app}/webhooks/{webhook}/replay", "support", post=webhooks.replay),
    Page("apps/{app}/letters", "support", post=webhooks.handle_letters),
    Page("apps/{app}/senders", "admin", post=webhooks.let_in),
    Page("apps/{app}/senders/revoke", "admin", post=webhooks.revoke_secret),
    Page("apps/{app}/keys", "admin", get=keys.show, post=keys.create),
    Page("apps/{app}/keys/adopt", "admin", post=keys.adopt),
    Page("apps/{app}/keys/change", "admin", post=keys.change),
)

_PATTERNS: Final = tuple(
    (
        page,
        re.compile(
            re.escape(PATH)
            + re.sub(r"\{(\w+)\}", lambda named: f"(?P<{named[1]}>{_PLACES[named[1]]})", page.path)
        ),
    )
    for page in PAGES
)


class Console:
    """Answers everything at and below `/console/`."""

    def __init__(self, registry: Registry, issuer: "Issuer | None" = None) -> None:
        """Show what a registry has; operators may sign in at the issuer, if there is one."""
        self._registry = registry
        self._issuer = issuer
        self._attempts = Attempts()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (the ASGI protocol)."""
        scope["knownas.route"] = PATH
        scope["knownas.body_limit"] = BODY_LIMIT
        visit = Visit(Request(scope, receive), self._registry, self._attempts, self._issuer)
        try:
            response = await self._answer(visit)
        except Refused as refused:
            response = visit.refusal(refused.status, "This is not possible", [refused.message])
            if refused.allow:
                response.headers["Allow"] = refused.allow
        except KnownasError as error:
            response = visit.failure(error)
        await response(scope, receive, send)

    async def _answer(self, visit: Visit) -> Response:
        method = visit.request.method
        page, visit.place = _page_at(visit.request.scope["path"])
        if page is None:
            if visit.request.scope["path"] == PATH.rstrip("/"):
                return visit.go(PATH)
            raise Refused(404, "There is no such page.")
        handler = page.post if method == "POST" else page.get
        if handler is None or method not in {"GET", "HEAD", "POST"}:
            raise Refused(405, "The page does not take this method.", allow=page.allow)
        if page.get is not _static and visit.session_token:
            session = await self._registry.desk.session(visit.session_token)
            visit.operator = session.operator if session is not None else None
        if page.role is not None:
            if visit.operator is None:
                return visit.go(f"{PATH}sign-in")
            visit.apps = await self._registry.apps()
            if "app" in visit.place:
                visit.app = next(
                    (app for app in visit.apps if app.name == visit.place["app"]), None
                )
                if visit.app is None:
                    raise Refused(404, "There is no such app.")
            visit.require(page.role)
        if method == "POST":
            await visit.read_form()
        return await handler(visit)


def _page_at(path: str) -> tuple[Page | None, Mapping[str, str]]:
    for page, pattern in _PATTERNS:
        if found := pattern.fullmatch(path):
            return page, found.groupdict()
    return None, {}
