"""The machine and the versions that a run was made with."""

import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Final

import apsw

from bench.servers import ROOT

_PYTHON_PACKAGES: Final = (
    "uvicorn", "uvloop", "httptools", "starlette", "msgspec", "fastapi", "pydantic",
    "sqlalchemy", "aiosqlite", "datasette",
)  # fmt: skip
_PROGRAMS: Final = {
    "wrk": ("wrk", "-v"),
    "nginx": ("nginx", "-v"),
    "Redis": ("redis-server", "--version"),
    "Node": ("node", "--version"),
    "perf": ("perf", "--version"),
}
_NODE_PACKAGES: Final = ("fastify", "better-sqlite3")
_DEBIAN_PACKAGES: Final = ("webdis",)  # it tells no version of its own
_VERSION: Final = re.compile(r"\d+(?:\.\d+)+[\w.+~-]*")


def machine(folder: Path) -> dict[str, str]:
    """Describe the machine, and where the databases are."""
    info = Path("/proc/cpuinfo").read_text()
    models = re.findall(r"^model name\s*:\s*(.+)$", info, re.MULTILINE)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    is_virtual = re.search(r"^flags.*\bhypervisor\b", info, re.MULTILINE)
    virtual = ", virtual" if is_virtual else ""
    return {
        "CPU": f"{models[0] if models else platform.machine()}{virtual}",
        "cores": str(os.cpu_count()),
        "memory": f"{memory / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", ""),
        "file system": _file_system(folder),
        "Python": _python(),
    }


def versions() -> dict[str, str]:
    """Return the version of everything that is measured, or measures."""
    found = {"knownas": _commit(), "SQLite in APSW": f"{apsw.sqlite_lib_version()}"}
    found["APSW"] = importlib.metadata.version("apsw")
    for name in _PYTHON_PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    for name, command in _PROGRAMS.items():
        if program := shutil.which(command[0], path=f"{os.environ['PATH']}:/usr/sbin"):
            said = subprocess.run(
                [program, *command[1:]], capture_output=True, text=True, check=False
            )
            if version := _VERSION.search(said.stdout + said.stderr):
                found[name] = version[0]
    locked = json.loads((ROOT / "bench/peers/fastify/package-lock.json").read_text())["packages"]
    found |= {name: locked[f"node_modules/{name}"]["version"] for name in _NODE_PACKAGES}
    for name in _DEBIAN_PACKAGES:
        said = subprocess.run(
            ["dpkg-query", "--show", "--showformat", "${Version}", name],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if said.stdout:
            found[name] = said.stdout
    return found


def fdatasync(folder: Path, *, seconds: float = 2.0) -> float:
    """Return how many appends of a page the disk makes durable in a second, one by one."""
    path = folder / "fdatasync"
    page = bytes(4_096)
    count = 0
    with path.open("wb", buffering=0) as file:
        began = time.perf_counter()
        while (elapsed := time.perf_counter() - began) < seconds:
            file.write(page)
            os.fdatasync(file.fileno())
            count += 1
    path.unlink()
    return count / elapsed


def _python() -> str:
    """Describe the interpreter, and whether its build was optimised by a profile (PGO)."""
    options = sysconfig.get_config_var("CONFIG_ARGS") or ""
    if "--enable-optimizations" in options:
        build = "built with profile-guided optimisation"
    elif sys.base_prefix == "/usr":
        build = "as the distribution built it"
    else:
        build = "built without profile-guided optimisation"
    return f"{platform.python_implementation()} {platform.python_version()}, {build}"


def _commit() -> str:
    version = importlib.metadata.version("knownas")
    said = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return f"{version} at {said.stdout.strip()}" if said.stdout else version


def _file_system(folder: Path) -> str:
    said = subprocess.run(
        ["df", "--output=fstype", str(folder)], capture_output=True, text=True, check=True
    )
    return said.stdout.split()[-1]
