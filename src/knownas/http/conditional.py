"""Conditional requests: by entity tags a client tells what it knows (RFC 9110, section 13).

`If-None-Match` spares a reader the answer that it has already; `If-Match` keeps a writer from
changing what is no longer as it was read. What has which tag, `wire.etag` says.
"""

import re
from collections.abc import Callable
from typing import Final, NamedTuple

from starlette.responses import Response

from knownas.errors import PreconditionFailed, ValidationError
from knownas.http import wire
from knownas.model import Profile
from knownas.registry import Check

# One element of a list and the comma after it; an element may be empty. Nothing of it is tried
# in two ways, so a hostile header costs no more than its length.
_element: Final = re.compile(
    r'[ \t]*+(?:(?P<weak>W/)?(?P<tag>"[^\x00-\x20"\x7f]*+")[ \t]*+)?(?:,|\Z)'
).match


class EntityTags(NamedTuple):
    """What stands in an If-Match or If-None-Match, each tag with its quotes."""

    strong: frozenset[str] = frozenset()
    weak: frozenset[str] = frozenset()
    anything: bool = False
    """Whether it is a `*`."""

    def match_strongly(self, tag: str) -> bool:
        """Tell whether `tag` is one of these, where a weak one is none (section 8.8.3.2)."""
        return self.anything or tag in self.strong

    def match_weakly(self, tag: str) -> bool:
        """Tell whether `tag` is one of these, weak or not."""
        return self.match_strongly(tag) or tag in self.weak


def entity_tags(value: bytes, *, source: str) -> EntityTags:
    """Return the tags in a header's value. Raises ValidationError where it is no list of them."""
    text = value.decode("latin-1")
    if text == "*":
        return EntityTags(anything=True)
    strong, weak = set[str](), set[str]()
    place = 0
    while place < len(text):
        element = _element(text, place)
        if element is None:
            break
        place = element.end()
        if element["tag"]:
            (weak if element["weak"] else strong).add(element["tag"])
    if place < len(text) or not (strong or weak):
        raise ValidationError(
            'Must be * or entity tags in double quotes, by commas, as "5f0c6d2e9b7a4f13".',
            source=source,
        )
    return EntityTags(frozenset(strong), frozenset(weak))


def known_tags(headers: wire.Headers) -> EntityTags | None:
    """Return the tags of what a reader has already; None where it does not say.

    Raises ValidationError.
    """
    given = headers.get(wire.IF_NONE_MATCH)
    return entity_tags(given, source=wire.IF_NONE_MATCH) if given else None


def not_modified(tag: str) -> Response:
    """Return the answer to a reader who has this already."""
    return Response(status_code=304, headers={"ETag": tag})


def check(headers: wire.Headers, tag_of: Callable[[Profile], str]) -> Check | None:
    """Return what raises PreconditionFailed for a profile that is not as a writer says.

    None where the writer says nothing. Raises ValidationError.
    """
    given = headers.get(wire.IF_MATCH)
    if not given:
        return None
    wanted = entity_tags(given, source=wire.IF_MATCH)

    def refuse_another(profile: Profile) -> None:
        if not wanted.match_strongly(tag_of(profile)):
            raise PreconditionFailed

    return refuse_another
