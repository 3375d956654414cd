"""The client's documentation, run as it stands: Python by Python, Jest's test by Node."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from conftest import Server
from knownas_client.emulated import running

DOCS: Final = Path(__file__).parent.parent / "docs"

# What the example uses of Jest, where Jest itself is not installed.
JEST_NAMES: Final = """\
const { test, beforeEach } = require("node:test");
const assert = require("node:assert");
const expect = (value) => ({ toBe: (expected) => assert.strictEqual(value, expected) });
Object.assign(globalThis, { test, beforeEach, expect });
"""


def blocks(document: str, language: str) -> list[str]:
    """Return the blocks of a document in a language."""
    text = (DOCS / document).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_python_of_the_client_works(server: Server) -> None:
    """The examples of docs/client.md run one after the other, as one program."""
    code = blocks("client.md", "python")
    assert len(code) > 4
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(code)],
        env={**os.environ, "KNOWNAS_URL": server.url, "KNOWNAS_KEY": server.key},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "appsflyer_id None -> 1741933337626-3179568" in done.stdout


def test_jest_example_passes(tmp_path: Path) -> None:
    """The JavaScript of docs/testing-with-knownas.md passes, in Jest where it is installed."""
    node, jest = shutil.which("node"), shutil.which("jest")
    if node is None:
        pytest.skip("Node is not installed")
    [code] = blocks("testing-with-knownas.md", "js")
    (tmp_path / "example.test.js").write_text(code)
    (tmp_path / "names.js").write_text(JEST_NAMES)
    command = [jest] if jest else [node, "--require", "./names.js", "example.test.js"]
    with running({}) as emulator:
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env={**os.environ, "EMULATOR": emulator.url, "KNOWNAS_KEY": emulator.key},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
