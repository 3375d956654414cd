"""Programs that the cluster tests run, as a user without rights, each in a folder of its own."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

PROGRAMS: Final = ("etcd", "patroni", "pgbouncer", "pg_ctl")
PACKAGES: Final = "etcd-server patroni pgbouncer postgresql"
STOP_SECONDS: Final = 10


def program(name: str) -> str:
    """Return the path of a program; where it is not installed the test is skipped, and says so."""
    newest = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda it: int(it.parent.name))
    places = os.pathsep.join([*map(str, reversed(newest)), "/usr/sbin", os.environ["PATH"]])
    found: str | None = shutil.which(name, path=places)
    if found is None:
        pytest.skip(f"{name} is not installed: apt-get install {PACKAGES}")
    return found


def unprivileged() -> dict[str, Any]:
    """Return how a process is started as a user whom PostgreSQL takes: root may not."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def make_folder(folder: Path) -> Path:
    """Make a folder that belongs to that user."""
    folder.mkdir(parents=True)
    if given := unprivileged():
        os.chown(folder, given["user"], given["group"])
    return folder


def run(*command: str, folder: Path) -> str:
    """Run a program of the cluster to its end and return what it prints."""
    ended: subprocess.CompletedProcess[str] = subprocess.run(
        command,
        cwd=folder,
        env=_environment(folder),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        **unprivileged(),
    )
    assert ended.returncode == 0, f"{command[0]}: {ended.stdout}{ended.stderr}"
    return ended.stdout


class Daemon:
    """A program that runs in a folder, with all the processes that it starts there."""

    def __init__(self, folder: Path, *command: str) -> None:
        """Remember how it is started."""
        self.folder = folder
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; what it says is in `log` in its folder."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self.folder,
                env=_environment(self.folder),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **unprivileged(),
            )

    def is_running(self) -> bool:
        """Tell whether the program itself lives."""
        return self._process is not None and self._process.poll() is None

    def reload(self) -> None:
        """Have the program read its configuration anew, where it runs."""
        if self._process is not None and self.is_running():
            self._process.send_signal(signal.SIGHUP)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to everything that runs in the folder."""
        for process in processes_in(self.folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)

    def kill(self) -> None:
        """End it at once, whatever state it is in, and return when nothing of it is left."""
        deadline = time.monotonic() + STOP_SECONDS
        while list(processes_in(self.folder)) and time.monotonic() < deadline:
            self.signal(signal.SIGKILL)
            if self._process is not None:
                self._process.poll()
            time.sleep(0.02)
        assert not list(processes_in(self.folder))
        if self._process is not None:
            self._process.wait()

    def log(self) -> str:
        """Return the end of what it has said."""
        path = self.folder / "log"
        return path.read_text(errors="replace")[-5_000:] if path.exists() else ""


def processes_in(folder: Path) -> Iterator[int]:
    """Yield the living processes whose working directory is the folder, or below it.

    That of a PostgreSQL process is the data directory, whoever is its parent by now.
    """
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                directory = Path(os.readlink(entry / "cwd"))  # noqa: PTH115 - also of a removed one
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                if directory.is_relative_to(folder) and state != "Z":
                    yield int(entry.name)


def wait_until(condition: Callable[[], object], what: str, *, seconds: float) -> None:
    """Return when the condition holds; fail when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"after {seconds:g} s: not {what}", pytrace=False)
        time.sleep(0.05)


def _environment(folder: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8"}
