"""How pages are made: the templates, and what they show in which way."""

import hashlib
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from knownas.http import pages
from knownas.model import KINDS

if TYPE_CHECKING:
    from jinja2 import Environment

_HERE: Final = Path(__file__).parent

STATIC_TYPES: Final = {"console.css": "text/css", "console.js": "text/javascript"}
"""The files that pages load, with their media types."""

_DOTS: Final = "••••••••"
_TELLING: Final = 12
"""Characters of the shortest value of which the last ones are shown: they tell it from others, and
are too few to know it by."""
_SHOWN: Final = 3


def masked(value: object) -> str:
    """Return what is shown of a value that was not revealed; its length does not tell."""
    text = str(value)
    return _DOTS + (text[-_SHOWN:] if len(text) >= _TELLING else "")


def utc(at: int) -> str:
    """Return a time (ms since 1970) as people read it."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at / 1_000)) + " UTC"


def iso(at: int) -> str:
    """Return a time (ms since 1970) as programs read it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at / 1_000))


def day(at: int) -> str:
    """Return the day of a time (ms since 1970), UTC."""
    return time.strftime("%Y-%m-%d", time.gmtime(at / 1_000))


@cache
def static(name: str) -> bytes:
    """Return a file of `STATIC_TYPES`."""
    return (_HERE / "static" / name).read_bytes()


@cache
def static_path(name: str) -> str:
    """Return the path of such a file, another one for another content."""
    return f"/console/static/{name}?v={hashlib.sha256(static(name)).hexdigest()[:12]}"


def render(template: str, values: dict[str, object]) -> str:
    """Return a page."""
    return _environment().get_template(template).render(values)


@cache
def _environment() -> "Environment":
    environment = pages.environment(_HERE / "templates")
    environment.filters |= {"masked": masked, "utc": utc, "iso": iso, "day": day}
    environment.globals |= {"static_path": static_path, "KINDS": KINDS}
    return environment
