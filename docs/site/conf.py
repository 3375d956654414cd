"""How Sphinx makes a site of the documentation: `make site`.

The pages stand in the site as in the repository, so a link that works here works there, and one
that leads nowhere fails the build.
"""

import shutil
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from sphinx.application import Sphinx

project = "knownas"
release = metadata.version("knownas")
html_title = f"knownas {release}"
copyright = "the knownas authors"  # noqa: A001 - Sphinx's own name

extensions = ["myst_parser"]
myst_heading_anchors = 6
root_doc = "README"
include_patterns = ["README.md", "CHANGELOG.md", "docs/*.md", "bench/README.md"]
exclude_patterns = [".*", "bench/results", "bench/work", "site", "src", "tests"]

html_theme = "furo"
html_copy_source = False
html_use_index = False
html_domain_indices = False

_CHAPTERS: Final = {
    "Use it": [
        "docs/migrating-from-adapty",
        "docs/api",
        "docs/client",
        "docs/webhooks",
        "docs/webhooks-in",
        "docs/upstream",
        "docs/import",
        "docs/testing-with-knownas",
    ],
    "Run it": [
        "docs/configuration",
        "docs/operating",
        "docs/console",
        "docs/keys",
        "docs/erasure",
    ],
    "Judge it": [
        "docs/performance",
        "docs/reliability",
        "docs/decisions",
        "bench/README",
        "CHANGELOG",
    ],
}
"""The table of contents; a page that is in none of them fails the build."""


def _add_contents(_app: Sphinx, page: str, source: list[str]) -> None:
    """Put the table of contents where the README, as a file, has none."""
    if page == root_doc:
        for caption, pages in _CHAPTERS.items():
            lines = ["", "```{toctree}", ":hidden:", f":caption: {caption}", "", *pages, "```", ""]
            source[0] += "\n".join(lines)


def _copy_first_page(app: Sphinx, error: Exception | None) -> None:
    """Have the README be what a folder shows that is asked for no page."""
    if error is None:
        shutil.copyfile(Path(app.outdir, f"{root_doc}.html"), Path(app.outdir, "index.html"))


def setup(app: Sphinx) -> dict[str, Any]:
    """Be asked by Sphinx."""
    app.connect("source-read", _add_contents)
    app.connect("build-finished", _copy_first_page)
    return {"parallel_read_safe": True}
