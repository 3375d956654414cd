"""The documentation as a site: it is made without a warning, is whole, and needs no other host."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parent.parent
PAGES: Final = ["README.md", "CHANGELOG.md", "bench/README.md"]

LOADED: Final = re.compile(
    r"""<(?:script|img|link|iframe|source)\b[^>]*\b(?:src|href)=["']([^"']+)""", re.IGNORECASE
)
OF_ANOTHER_HOST: Final = re.compile(r"(?:https?:)?//")
LOADED_BY_STYLE: Final = re.compile(r"(?:url\(|@import)\s*[\"']?((?:https?:)?//[^\"')]+)")


def build(source: Path, target: Path) -> str:
    """Make the site as `make site` does, and return what is wrong."""
    cache = target.with_suffix(".cache")
    options = ["-W", "--keep-going", "-q", "-c", "docs/site", "-d", str(cache)]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, ".", str(target)],
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stderr if done.returncode else ""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the site."""
    made = tmp_path_factory.mktemp("made") / "site"
    assert build(ROOT, made) == ""
    return made


def pages(site: Path) -> Iterator[tuple[Path, str]]:
    """Yield the pages and what is in them."""
    yield from ((page, page.read_text()) for page in site.rglob("*.html"))


def test_every_document_is_a_page(site: Path) -> None:
    """It is where the document is, and the first page is the README."""
    documents = [*PAGES, *(f"docs/{it.name}" for it in (ROOT / "docs").glob("*.md"))]
    for document in documents:
        assert (site / document).with_suffix(".html").exists(), document
    assert (site / "index.html").read_bytes() == (site / "README.html").read_bytes()
    assert (site / "searchindex.js").stat().st_size > 10_000


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    """No script, style, font or image: it can be read without a network."""
    for page, text in pages(site):
        loaded = [it for it in LOADED.findall(text) if OF_ANOTHER_HOST.match(it)]
        assert loaded == [], page
    for style in (*site.rglob("*.css"), *site.rglob("*.js")):
        assert LOADED_BY_STYLE.findall(style.read_text()) == [], style


def test_what_a_page_loads_is_there(site: Path) -> None:
    """Each style, script and image is a file of the site."""
    for page, text in pages(site):
        for loaded in LOADED.findall(text):
            name = loaded.partition("?")[0].partition("#")[0]
            assert not name or name.startswith("data:") or (page.parent / name).exists(), loaded


def test_broken_link_fails_the_build(tmp_path: Path) -> None:
    """A page that is not there, a heading that is not, and a document that no chapter names."""
    source = tmp_path / "source"
    shutil.copytree(ROOT / "docs" / "site", source / "docs" / "site")
    configuration = source / "docs" / "site" / "conf.py"
    text = re.sub(
        r'"docs/(?!api)[\w-]+",|"bench/README",|"CHANGELOG",', "", configuration.read_text()
    )
    configuration.write_text(text)
    (source / "docs" / "api.md").write_text("# API\n\n[gone](gone.md) [heading](#heading)\n")
    (source / "docs" / "other.md").write_text("# Other\n")
    (source / "README.md").write_text("# All\n\n[API](docs/api.md)\n")
    said = build(source, tmp_path / "site")
    for part in ("gone.md", "heading", "other.md"):
        assert part in said
