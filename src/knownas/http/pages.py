"""How pages are made of templates, those of the documentation and those of the console.

Jinja2 is imported with the first page: a worker that serves none does without.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment


def environment(folder: Path) -> "Environment":
    """Return what renders the templates of a folder: all is escaped, and nothing may be missing."""
    import jinja2  # noqa: PLC0415 - see the module's docstring

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
