"""The plain numbers that the metrics are made of, in memory that several processes share."""

import fcntl
import mmap
import operator
import os
import tempfile
from pathlib import Path
from typing import BinaryIO, Final

_WORD: Final = 8


class SharedMemory:
    """A file in which each of several processes has a slab of its own, all can read them all."""

    def __init__(self, processes: int) -> None:
        """Make the file for a number of processes; the object is picklable."""
        self.processes = processes
        descriptor, self.path = tempfile.mkstemp(prefix="knownas-metrics-")
        os.close(descriptor)

    def remove(self) -> None:
        """Remove the file; who has it open keeps what it has."""
        Path(self.path).unlink(missing_ok=True)


class Layout:
    """Which cells of a slab are whose, as they are taken one after another."""

    def __init__(self) -> None:
        """Begin with none."""
        self.size = 0

    def take(self, cells: int = 1) -> int:
        """Return the first of so many cells that nobody else has."""
        first = self.size
        self.size += cells
        return first


class Slabs:
    """The slab of this process, and those of all processes, each of 64-bit numbers."""

    def __init__(self, size: int, shared: SharedMemory | None) -> None:
        """Claim a slab of `size` cells; `shared` None has one for this process alone."""
        if shared is None:
            self.own = 0
            self.all = [memoryview(bytearray(size * _WORD)).cast("Q")]
        else:
            # Open as long as this object lives: the claim on the slab is a lock on the file.
            self._file = Path(shared.path).open("r+b", buffering=0)  # noqa: SIM115 - see above
            self.own = _claim(self._file, shared.processes)
            self._file.truncate(size * _WORD * shared.processes)
            whole = memoryview(mmap.mmap(self._file.fileno(), 0)).cast("Q")
            self.all = [whole[i * size : (i + 1) * size] for i in range(shared.processes)]
        self.cells = self.all[self.own]

    def totals(self) -> list[int]:
        """Return what each cell has over all processes."""
        totals = self.all[0].tolist()
        for slab in self.all[1:]:
            totals = list(map(operator.add, totals, slab))
        return totals


def _claim(file: BinaryIO, processes: int) -> int:
    """Return the first slab that no living process has, and claim it.

    A slab outlives its process, so a counter never goes back when a worker is replaced.
    """
    for slab in range(processes):
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, slab)
        except BlockingIOError:
            continue
        return slab
    raise RuntimeError("There are more processes than slabs of metrics.")
