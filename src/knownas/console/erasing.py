"""Erasing a person, and the receipts of those who were erased."""

from typing import Final

from starlette.responses import Response

from knownas.console.visits import Visit
from knownas.erasing import Whom
from knownas.history import Source
from knownas.model import KINDS

_PAGE: Final = 100
_TYPED: Final = 8
"""Characters of the profile's id that are to be typed, so that nobody is erased by a slip."""
_BY: Final = Source("erasure")


async def ask(visit: Visit, problem: str = "") -> Response:
    """Show what would be erased."""
    person = await visit.registry.eraser.person(visit.its_app, Whom(visit.ref))
    return visit.page(
        "erase.html",
        status=400 if problem else 200,
        profile_id=visit.place["profile"],
        person=person,
        identifiers=[(KINDS[kind].name, len(found)) for kind, found in person.identifiers.items()],
        typed=visit.place["profile"][:_TYPED],
        problem=problem,
    )


async def erase(visit: Visit) -> Response:
    """Erase the person, once the beginning of the id was typed."""
    if visit.text("typed").strip() != visit.place["profile"][:_TYPED]:
        return await ask(visit, f"Type the first {_TYPED} characters of the profile's id.")
    await visit.note("erase", about=[visit.place["profile"]])
    erased = await visit.registry.eraser.erase(visit.its_app, Whom(visit.ref), by=_BY)
    receipt_id = erased.signed.receipt.id
    await visit.note("erased", detail=f"receipt {receipt_id}")
    return visit.go(f"erasures/{receipt_id}")


async def receipts(visit: Visit) -> Response:
    """List the newest receipts."""
    found = await visit.registry.eraser.receipts(visit.its_app, None, _PAGE)
    return visit.page("erasures.html", receipts=found)


async def receipt(visit: Visit) -> Response:
    """Show one receipt, as it is now."""
    signed = await visit.registry.eraser.receipt(visit.its_app, visit.place["erasure"])
    public_key = await visit.registry.eraser.public_key()
    return visit.page(
        "receipt.html", receipt=signed.receipt, signed=signed.text, public_key=public_key
    )
