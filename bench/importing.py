"""How fast `knownas import` is, into SQLite or PostgreSQL, history on, and in how much memory.

    python -m bench.importing [--rows 1000000]
    python -m bench.importing --to postgresql://postgres@127.0.0.1/empty [--rows 1000000]
    make bench ARGS="--only imports --publish"

The file is CSV, with 2 to 10 identifiers a row as `knownas demo` makes them. It is imported three
times: into an empty app; again, when all is the same; and once more with one identifier of each
row changed. Memory is what the importing process has for itself; flat is what does not grow from
the second tenth of the time to the last.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from bench.copying import private_mib
from bench.results import Imported
from knownas import demo
from knownas.model import KIND_NUMBER

KNOWNAS = (sys.executable, "-m", "knownas")


def main() -> None:
    """Make the files, import them, and print what it took, a line of JSON each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--to", metavar="URL", help="an empty database; default: a SQLite file")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", help="where the files go, on the disk that is to be measured")
    options = parser.parse_args()
    print(f"load average: {os.getloadavg()[0]:.2f}", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        url = options.to or f"sqlite:///{folder}/imported.db"
        for one in measure(Path(folder), url, options.rows):
            print(json.dumps({**msgspec.structs.asdict(one), "rate": round(one.rate)}), flush=True)


def measure(folder: Path, url: str, rows: int) -> Iterator[Imported]:
    """Import so many rows into an empty database: new ones, the same, and changed ones."""
    subprocess.run(
        [*KNOWNAS, "app", "create", "default", "--database", url],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    file = folder / "rows.csv"
    for rows_are in ("new", "same", "changed"):
        if rows_are != "same":
            write(file, rows, changed=rows_are == "changed")
        yield imported(file, url, rows_are)
    file.unlink()


def write(path: Path, rows: int, *, changed: bool) -> None:
    """Write demo profiles to a CSV file."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["profile_id", "customer_user_id", *KIND_NUMBER])
        for one in demo.profiles(seed=1, start=0, count=rows, now=0):
            identifiers = list(one.identifiers)
            if changed:
                kind = next(at for at, value in enumerate(identifiers) if value is not None)
                identifiers[kind] = f"changed-{one.profile_id}"
            writer.writerow([one.profile_id, one.customer_user_id, *identifiers])


def imported(file: Path, url: str, rows_are: str) -> Imported:
    """Import a file, and return what it took."""
    memory = []
    command = [*KNOWNAS, "import", str(file), "--database", url, "--json"]
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            memory.append(private_mib(process.pid))
            time.sleep(0.1)
        seconds = time.monotonic() - began
        assert process.stdout is not None
        report = json.load(process.stdout)
    assert report[rows_are] == report["rows"]
    tenth = max(1, len(memory) // 10)
    return Imported(
        database="PostgreSQL" if url.startswith("postgres") else "SQLite",
        rows_are=rows_are,
        rows=report["rows"],
        seconds=round(seconds, 1),
        mib_second_tenth=max(memory[tenth : 2 * tenth], default=0),
        mib_last_tenth=max(memory[-tenth:], default=0),
        mib_most=max(memory),
    )


if __name__ == "__main__":
    main()
