"""What the kernel tells of processes and cores, from /proc."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

_TICK: Final = os.sysconf("SC_CLK_TCK")
_PROC: Final = Path("/proc")


class Core(NamedTuple):
    """Ticks of one core, or of all, since the machine started."""

    idle: int
    stolen: int
    total: int


def cores() -> dict[str, Core]:
    """Return the ticks of each core (`cpu0`, …) and of all together (`cpu`)."""
    found = {}
    for line in (_PROC / "stat").read_text().splitlines():
        name, *fields = line.split()
        if name.startswith("cpu"):
            user, nice, system, idle, waiting, hard, soft, stolen = map(int, fields[:8])
            total = user + nice + system + idle + waiting + hard + soft + stolen
            found[name] = Core(idle + waiting, stolen, total)
    return found


def busy(before: Core, after: Core) -> float:
    """Return the share of the time between in which a core was not idle."""
    total = after.total - before.total
    return 1 - (after.idle - before.idle) / total if total else 0.0


def stolen(before: Core, after: Core) -> float:
    """Return the share of the time between that the hypervisor gave to others."""
    total = after.total - before.total
    return (after.stolen - before.stolen) / total if total else 0.0


def tree(roots: Iterable[int]) -> list[int]:
    """Return the processes `roots` that live, and all their descendants."""
    children: dict[int, list[int]] = {}
    alive = set()
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            alive.add(int(entry.name))
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [root for root in roots if root in alive]
    for pid in found:  # it grows as we go
        found += children.get(pid, ())
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the CPU time, in user and kernel mode, that processes have used so far."""
    stats = [_stat(pid) for pid in pids]
    return sum(int(fields[11]) + int(fields[12]) for fields in stats if fields) / _TICK


def private_bytes(pids: Iterable[int], *, but: Path) -> int:
    """Return the memory that processes have for themselves, mapped files named as `but` aside.

    A page of a mapped database is in memory once, whoever reads the file; the kernel counts it
    as private as long as only one process maps it.
    """
    total = 0
    for pid in pids:
        counts = True
        for line in (_PROC / str(pid) / "smaps").read_text().splitlines():
            name, *rest = line.split(None, 1)
            if not name.endswith(":"):  # a mapping begins: address range, …, path
                counts = not line.split(None, 5)[-1].startswith(str(but))
            elif counts and name in {"Private_Clean:", "Private_Dirty:"}:
                total += int(rest[0].split()[0]) * 1_024
    return total


def _stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat after the name; None when the process is gone."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()
