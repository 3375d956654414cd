"""Settings: each is documented, and a wrong one stops the start with one line."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from knownas import settings

DOCUMENT = Path(__file__).parent.parent / "docs" / "configuration.md"


def test_each_setting_is_documented() -> None:
    """The table of docs/configuration.md has a row for each setting, and for nothing else."""
    rows = [
        line.split("`")[1]
        for line in DOCUMENT.read_text(encoding="utf-8").splitlines()
        if line.startswith("| `KNOWNAS_")
    ]
    assert sorted(rows) == sorted(
        f"KNOWNAS_{field.name.upper()}" for field in msgspec.structs.fields(settings.Settings)
    )


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("KNOWNAS_ERROR_DIALECT", "exampel", "KNOWNAS_ERROR_DIALECT='exampel'"),
        ("KNOWNAS_ACCESS_LOG", "perhaps", "KNOWNAS_ACCESS_LOG='perhaps'"),
        ("KNOWNAS_BAD_KEYS_PER_MINUTE", "0", ">= 1"),
        ("KNOWNAS_KEY_RATE", "600/fortnight", "as 600/minute: second, minute, hour or day"),
        ("KNOWNAS_TRUSTED_PROXIES", "10.0.0.0/8,here", "'here' does not appear to be"),
        ("KNOWNAS_WEBHOOK_NETWORKS", "10.0.0.1/8", "has host bits set"),
        ("KNOWNAS_DATABSE", "x", "did you mean KNOWNAS_DATABASE?"),
        ("KNOWNAS_DATABASE", "mysql://x", "must be sqlite:///path"),
    ],
)
def test_wrong_setting_stops_the_start(variable: str, value: str, said: str) -> None:
    """The start ends with 1 and one line that names the variable."""
    ended = subprocess.run(
        [sys.executable, "-m", "knownas", "serve", "--port", "0"],
        env={**os.environ, variable: value},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert said in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
