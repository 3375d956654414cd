"""Conditional requests: by entity tags a client tells what it knows (RFC 9110, section 13).

`If-None-Match` spares a reader the answer that it has already, and with `*` has a writer change
nothing that is there; `If-Match` keeps a writer from changing what is no longer as it was read.
What has which tag, `wire.etag` says.
"""

import re
from collections.abc import Callable
from typing import Final, NamedTuple

from starlette.responses import Response

from knownas.editing import Check
from knownas.errors import PreconditionFailed, ValidationError
from knownas.http import wire
from knownas.model import Profile

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


class Conditions(NamedTuple):
    """What a request says of the content that it reads or changes; None where it says nothing."""

    match: EntityTags | None
    """Of If-Match, which is looked at first (section 13.2.2)."""
    none_match: EntityTags | None

    def of_read(self, tag: str) -> Response | None:
        """Return the answer to a reader who has the content with this tag already.

        None where it is to be sent. Raises PreconditionFailed.
        """
        self._refuse_unmatched(tag)
        if self._excludes(tag):
            return Response(status_code=304, headers={"ETag": tag})
        return None

    def of_write(self, tag_of: Callable[[Profile], str]) -> Check:
        """Return what raises PreconditionFailed for a profile that is not as a writer says."""

        def refuse(profile: Profile) -> None:
            tag = tag_of(profile)
            self._refuse_unmatched(tag)
            if self._excludes(tag):
                raise PreconditionFailed

        return Check(refuse, may_create=self.match is None)

    def _refuse_unmatched(self, tag: str) -> None:
        if self.match is not None and not self.match.match_strongly(tag):
            raise PreconditionFailed

    def _excludes(self, tag: str) -> bool:
        return self.none_match is not None and self.none_match.match_weakly(tag)


def conditions(headers: wire.Headers) -> Conditions | None:
    """Return what a request says; None where it says nothing. Raises ValidationError."""
    match, none_match = (
        entity_tags(given, source=name) if (given := headers.get(name)) else None
        for name in (wire.IF_MATCH, wire.IF_NONE_MATCH)
    )
    return Conditions(match, none_match) if match or none_match else None


def check(headers: wire.Headers, tag_of: Callable[[Profile], str]) -> Check | None:
    """Return what a write depends on; None where it says nothing. Raises ValidationError."""
    given = conditions(headers)
    return None if given is None else given.of_write(tag_of)
