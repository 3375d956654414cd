"""A million profiles from SQLite to PostgreSQL by `knownas copy`: how long, in how much memory.

    python bench/copying.py --to postgresql://postgres@127.0.0.1/empty [--profiles 1000000]
    python bench/copying.py --to ... --from sqlite:///filled.db

The target has to be empty, or to hold what a copy that broke off has left. Memory is what the
copying process has for itself: the pages of a mapped SQLite file are the system's cache. Flat is
what does not grow from the second tenth of the time to the last.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """Fill a database if none is given, copy it, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--to", required=True, metavar="URL")
    parser.add_argument("--from", dest="source", metavar="URL")
    parser.add_argument("--profiles", type=int, default=1_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = options.source
        if source is None:
            source = f"sqlite:///{folder}/source.db"
            for arguments in (["app", "create", "default"], ["demo", str(options.profiles)]):
                subprocess.run([*KNOWNAS, *arguments, "--database", source], check=True)
        print(json.dumps(measure(source, options.to)))


KNOWNAS = (sys.executable, "-m", "knownas")


def measure(source: str, target: str) -> dict[str, Any]:
    """Copy, and return seconds, rate, and memory over the time, in MiB."""
    began = time.monotonic()
    memory = []
    command = [*KNOWNAS, "copy", "--from", source, "--to", target, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        while process.poll() is None:
            memory.append(private_mib(process.pid))
            time.sleep(0.2)
        seconds = time.monotonic() - began
        assert process.stdout is not None
        apps = json.load(process.stdout)["apps"]
    profiles = sum(app["profiles"] for app in apps)
    tenth = max(1, len(memory) // 10)
    return {
        "profiles": profiles,
        "seconds": round(seconds, 1),
        "profiles_per_second": round(profiles / seconds),
        "is_same": all(app["is_same"] for app in apps),
        "mib_second_tenth": max(memory[tenth : 2 * tenth], default=0),
        "mib_last_tenth": max(memory[-tenth:], default=0),
        "mib_most": max(memory),
    }


def private_mib(process: int) -> int:
    """Return the anonymous memory of a process."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except FileNotFoundError:
        return 0
    found = [line.split()[1] for line in status.splitlines() if line.startswith("RssAnon")]
    return int(found[0]) // 1_024 if found else 0


if __name__ == "__main__":
    main()
