"""Where the CPU time of one GET goes: a profile by perf, not a guess."""

import collections
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Final

from bench import wrk
from bench.results import CpuProfile, Share
from bench.servers import LOAD_CORE, Running

_FREQUENCY: Final = 3_999
_FUNCTIONS: Final = 20
_SMALL: Final = 0.004
"""Share of the samples below which a part is one of the others."""
_PARTS: Final = (
    # Most of these are one file each; the path tells whose it is.
    (re.compile(r"/apsw/"), "SQLite and APSW"),
    (re.compile(r"/msgspec/"), "msgspec"),
    (re.compile(r"/httptools/"), "httptools"),
    (re.compile(r"/uvloop/"), "uvloop"),
    (re.compile(r"/libpython|/python3[\d.]*$|/lib-dynload/"), "CPython"),
    (re.compile(r"/libc[.-]|/libpthread|/ld-linux"), "libc"),
    (re.compile(r"/libcrypto"), "OpenSSL"),
    (re.compile(r"^\[(?!vdso)"), "kernel"),
    (re.compile(r"^\[vdso\]"), "libc"),
)
_SAMPLE: Final = re.compile(r"^\s*[0-9a-f]+\s+(.+?)\s+\((.+)\)\s*$")


def missing() -> str | None:
    """Say what has to be installed; None when all is there."""
    return None if shutil.which("perf") else "not installed: perf"


def profile(server: Running, requests: Path, *, seconds: float) -> CpuProfile:
    """Sample a server's processes under a load, and group what they were at."""
    data = requests.with_name("perf.data")
    pids = ",".join(map(str, server.pids()))
    with subprocess.Popen(
        [
            *("taskset", "--cpu-list", str(LOAD_CORE), "perf", "record", "--quiet"),
            *("--event", "cpu-clock", "--freq", str(_FREQUENCY)),
            *("--pid", pids, "--output", str(data)),
        ],
        stderr=subprocess.DEVNULL,
    ) as recorder:
        wrk.run(server, requests, connections=64, seconds=seconds)
        recorder.send_signal(signal.SIGINT)
    text = subprocess.run(
        ["perf", "script", "--input", str(data), "--fields", "ip,sym,dso"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    data.unlink()
    parts: collections.Counter[str] = collections.Counter()
    functions: collections.Counter[str] = collections.Counter()
    for line in text.splitlines():
        if sample := _SAMPLE.match(line):
            function, place = sample.groups()
            part = _part(place)
            parts[part] += 1
            functions[f"{function} ({part})"] += 1
    total = parts.total()
    assert total, "perf took no sample"
    shares = [Share(name, count / total) for name, count in parts.most_common()]
    large = [one for one in shares if one.share >= _SMALL]
    rest = 1 - sum(one.share for one in large)
    return CpuProfile(
        samples=total,
        parts=[*large, *([Share("other", rest)] if len(large) < len(shares) else [])],
        functions=[Share(name, count / total) for name, count in functions.most_common(_FUNCTIONS)],
    )


def _part(place: str) -> str:
    for pattern, part in _PARTS:
        if pattern.search(place):
            return part
    return Path(place).name
