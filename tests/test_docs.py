"""The documentation is tested: its links lead somewhere, and its commands work as printed.

The blocks fenced as `sh` in README.md and docs/*.md are run, in the order of the file, in one
bash session a file, in an empty folder, against a server of its own: `$KNOWNAS_URL` is its
address, `$KNOWNAS_KEY` a secret key, and `knownas` finds the same database and master key. A
`json` block that follows directly is the last line that the commands print; `"..."` in it stands
for any value. What is not to be run is fenced as `console` or `text`.
"""

import json
import os
import re
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import unquote

import pytest

from conftest import free_port, nursery
from knownas import vault
from nursery import Process

ROOT: Final = Path(__file__).parent.parent
GUIDES: Final = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
START_SECONDS: Final = 30
BLOCK_END: Final = "--- end of a block of the documentation ---"

FENCED: Final = re.compile(
    r"^(?P<indent> *)(?P<fence>`{3,})(?P<info>.*)\n(?P<text>(?:.*\n)*?)(?P=indent)(?P=fence) *$",
    re.MULTILINE,
)
INLINE_CODE: Final = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)")
LINK: Final = re.compile(
    r"""\]\(<?([^)\s>]+)>?(?:\s+["'][^)]*)?\)|^\[[^]]+\]:\s*(\S+)""", re.MULTILINE
)
HEADING: Final = re.compile(r"^#{1,6}\s+(.+?)[ #]*$", re.MULTILINE)
EXPLICIT_ANCHOR: Final = re.compile(r"""<a\s[^>]*\b(?:id|name)=["']([^"']+)""")
EXTERNAL: Final = re.compile(r"[a-z][a-z0-9+.-]*:|//", re.IGNORECASE)


class Step(NamedTuple):
    """One block to run: where it stands, its commands, the JSON it has to print if any."""

    line: int
    commands: str
    expected: str | None


def name_of(path: Path) -> str:
    """Return the path of a document as a reader knows it."""
    return path.relative_to(ROOT).as_posix()


def steps(text: str) -> list[Step]:
    """Return the blocks of a document that are to be run, in order."""
    found: list[Step] = []
    end = 0
    for block in FENCED.finditer(text):
        info = block["info"].strip()
        if info == "sh":
            line = text.count("\n", 0, block.start()) + 1
            found.append(Step(line, textwrap.dedent(block["text"]), None))
            end = block.end()
        elif info == "json" and found and not text[end : block.start()].strip():
            found[-1] = found[-1]._replace(expected=block["text"])
    return found


def anchors(text: str) -> set[str]:
    """Return the anchors of a document, made from its headings as GitHub makes them."""
    prose = FENCED.sub("", text)
    found = set(EXPLICIT_ANCHOR.findall(prose))
    seen: dict[str, int] = {}
    for heading in HEADING.findall(prose):
        shown = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        count = seen.get(slug, 0)
        seen[slug] = count + 1
        found.add(f"{slug}-{count}" if count else slug)
    return found


def is_broken(link: str, document: Path) -> bool:
    """Tell whether a relative link of a document leads to no file or to no heading."""
    path, _, anchor = link.partition("#")
    target = (document.parent / unquote(path)).resolve() if path else document
    if not target.exists() or not target.is_relative_to(ROOT):
        return True
    if not anchor or target.suffix != ".md":
        return False
    return unquote(anchor) not in anchors(target.read_text())


def fits(expected: object, actual: object) -> bool:
    """Tell whether parsed JSON is as expected; the string "..." stands for any value."""
    if expected == "...":
        return True
    if isinstance(expected, dict) and isinstance(actual, dict):
        return expected.keys() == actual.keys() and all(
            fits(value, actual[key]) for key, value in expected.items()
        )
    if isinstance(expected, list) and isinstance(actual, list):
        return len(expected) == len(actual) and all(map(fits, expected, actual))
    # 1, 1.0 and true are three things in a document.
    return type(expected) is type(actual) and expected == actual


@contextmanager
def server(folder: Path) -> Iterator[dict[str, str]]:
    """Run a server with a database in `folder`; yield the environment of the reader's shell."""
    port = free_port()
    database = f"sqlite:///{folder / 'docs.db'}"
    environment = {name: v for name, v in os.environ.items() if not name.startswith("KNOWNAS_")}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    environment["KNOWNAS_DATABASE"] = database
    environment["KNOWNAS_MASTER_KEY_FILE"] = str(folder / "docs.key")
    vault.create(str(folder / "docs.key"))
    log = folder / "server.log"
    with log.open("wb") as output, Path(os.devnull).open("rb") as nothing:
        streams = (nothing, output, output)
        process = nursery().start(["serve", "--port", str(port)], environment, streams)
    try:
        wait_for(process, port, log)
        created = nursery().run(["key", "create", "--json"], environment)
        yield environment | {
            "KNOWNAS_URL": f"http://127.0.0.1:{port}",
            "KNOWNAS_KEY": json.loads(created)["key"],
        }
    finally:
        process.terminate()
        process.wait()


def wait_for(process: Process, port: int, log: Path) -> None:
    """Return when the server accepts connections; fail when it ends or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            time.sleep(0.05)
        else:
            return
    pytest.fail(f"The server did not start:\n{log.read_text()}", pytrace=False)


@pytest.mark.parametrize("document", [*GUIDES, ROOT / "CHANGELOG.md"], ids=name_of)
def test_relative_links_lead_somewhere(document: Path) -> None:
    """Every relative link of a document leads to a file, and its anchor to a heading."""
    prose = INLINE_CODE.sub("", FENCED.sub("", document.read_text()))
    links = {inline or reference for inline, reference in LINK.findall(prose)}
    relative = sorted(link for link in links if not EXTERNAL.match(link))
    assert [link for link in relative if is_broken(link, document)] == []


@pytest.mark.parametrize(
    "document", [guide for guide in GUIDES if steps(guide.read_text())], ids=name_of
)
def test_commands_work_as_printed(document: Path, tmp_path: Path) -> None:
    """Every command of a document succeeds, and prints the JSON that stands below it."""
    blocks = steps(document.read_text())
    script = "".join(f"{block.commands}\nprintf '\\n%s\\n' '{BLOCK_END}'\n" for block in blocks)
    folder = tmp_path / "reader"
    folder.mkdir()
    with server(tmp_path) as environment:
        session = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    *outputs, rest = session.stdout.split(BLOCK_END)
    if session.returncode:
        place = f"{name_of(document)}:{blocks[len(outputs)].line}"
        pytest.fail(
            f"{place} failed ({session.returncode}):\n{rest.strip()}\n{session.stderr}",
            pytrace=False,
        )
    for block, output in zip(blocks, outputs, strict=True):
        if block.expected is not None:
            last = output.strip().rpartition("\n")[2]
            assert fits(json.loads(block.expected), json.loads(last)), (
                f"{name_of(document)}:{block.line} printed {last}"
            )
