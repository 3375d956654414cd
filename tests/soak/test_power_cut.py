"""Threat row 35: the power is cut, and what was acknowledged is there.

The real storage runs on the disk of `power.py`. At random moments a cut is taken: what the disk
would then hold, and what had been acknowledged by then. The program does not notice and runs on,
so that one run gives many cuts. Each is then opened as after a real one, and compared.
"""

import asyncio
import contextlib
import itertools
import random
import shutil
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from knownas.errors import ProfileNotFound
from knownas.model import (
    KIND_NUMBER,
    KINDS,
    AppId,
    Profile,
    ProfileId,
    ProfileRef,
    merge_identifiers,
)
from knownas.storage import sqlite_checkpoint, sqlite_file, sqlite_reserve
from knownas.storage.sqlite import SqliteStorage
from soak.power import SECTORS, Disk, PowerCutVFS
from soak.report import Soak

CUSTOMERS = 12
WRITES_A_LIFE = 600
LIVES_A_DISK = 3
CUTS_A_LIFE = 40
TOGETHER = (KINDS[0].name, KINDS[7].name, KINDS[15].name)
"""The kinds that one write sets, all to the same value."""

# How likely a cut is before an operation. There are many writes to the log and few of the rest.
CHANCE = {
    "first opening": 0.2,
    "reopening": 0.9,
    "commit": 0.01,
    "checkpoint": 0.03,
    "closing": 0.3,
}

Change = Callable[[Profile], Profile]
State = str | None
"""What a customer's last write left: the value that it set, or None for no profile."""

_names = itertools.count()


class Cut(NamedTuple):
    """What a cut left on the disk, and what had been promised."""

    moment: str
    files: dict[str, bytes]
    has_app: bool
    promised: dict[str, tuple[State, State]]
    """By customer: the state last acknowledged, and that of the write then under way if any."""


class Verdict(NamedTuple):
    """What was wrong after a cut: writes that were lost, and damage of any other kind."""

    lost: int
    damage: list[str]


class Life:
    """One run of the storage on a disk, from its opening to its close, and the cuts in it."""

    def __init__(
        self, folder: Path, dice: random.Random, promised: dict[str, tuple[State, State]]
    ) -> None:
        """Run on the files in `folder`, which hold what was `promised`."""
        self.cuts: list[Cut] = []
        self.promised = promised
        self._dice = dice
        self._has_app = bool(promised)
        self._phase: str | None = "reopening" if any(folder.iterdir()) else "first opening"
        self._lock = threading.Lock()
        self._disk = Disk(folder, self._before_each)
        # A name of its own, since the last one may be in use until it is collected.
        self._vfs = PowerCutVFS(f"power-cut-{next(_names)}", self._disk)

    async def live(self) -> None:
        """Open the storage, write from several sides at once, close."""
        storage = SqliteStorage(f"{self._disk.folder}/knownas.db", vfs=self._vfs.name)
        self._phase = None
        app = await app_of(storage)
        if app is None:
            app = (await storage.create_app("uuid", "app", now=0)).id
            self._has_app = True
        numbers = itertools.count()
        await asyncio.gather(
            *(self._write(storage, app, f"c{number}", numbers) for number in range(CUSTOMERS))
        )
        self._phase = "closing"
        await storage.close()

    async def _write(
        self, storage: SqliteStorage, app: AppId, customer: str, numbers: "itertools.count[int]"
    ) -> None:
        ref = ProfileRef(customer)
        state = self.promised.get(customer, (None, None))[0]
        for number in numbers:
            if number >= WRITES_A_LIFE:
                return
            erase = state is not None and self._dice.random() < 0.1
            after = None if erase else f"{number}-{self._dice.random()}"
            self.promised[customer] = (state, after)
            if after is None:
                await storage.delete_profile(app, ref, now=1)
            else:
                await storage.change_profile(
                    app, ref, setting(after), now=number, create_as=an_id(self._dice)
                )
            self.promised[customer] = (after, after)
            state = after
            if self._dice.random() < 0.3:  # so that groups differ in size
                await asyncio.sleep(self._dice.random() / 500)

    def _before_each(self, _operation: str, kind: str) -> None:
        """Take a cut, perhaps. Called in whatever thread is at work."""
        if self._phase is not None:
            moment = self._phase
        elif kind == "db" or threading.current_thread().name == "knownas-checkpoint":
            moment = "checkpoint"
        else:
            moment = "commit"
        with self._lock:
            if len(self.cuts) < CUTS_A_LIFE and self._dice.random() < CHANCE[moment]:
                files = self._disk.after_a_cut(self._dice, self._dice.choice(SECTORS))
                self.cuts.append(Cut(moment, files, self._has_app, dict(self.promised)))


def setting(value: str) -> Change:
    """Return the change that sets the identifiers of TOGETHER."""
    values = dict.fromkeys(TOGETHER, value)
    return lambda profile: msgspec.structs.replace(
        profile, identifiers=merge_identifiers(profile.identifiers, values)
    )


def an_id(dice: random.Random) -> ProfileId:
    """Return a new profile id."""
    digits = f"{dice.getrandbits(48):012x}"
    return ProfileId(f"00000000-0000-4000-8000-{digits}")


async def app_of(storage: SqliteStorage) -> AppId | None:
    """Return the app that a life made, if it is there."""
    return next((app.id for app in await storage.apps()), None)


async def judge(cut: Cut, folder: Path) -> Verdict:
    """Open what a cut left, as after a real one, and hold it to what was promised."""
    lay_out(cut.files, folder)
    storage = SqliteStorage(f"{folder}/knownas.db")
    damage = await storage.check()
    app = await app_of(storage)
    lost = int(cut.has_app and app is None)
    for customer, (acknowledged, under_way) in cut.promised.items():
        found = values_of(storage, app, customer)
        if len(found) > 1:
            damage.append(f"{customer} has half of a write")
        lost += found.isdisjoint({acknowledged, under_way})
    await storage.close()
    return Verdict(lost, damage)


def values_of(storage: SqliteStorage, app: AppId | None, customer: str) -> set[State]:
    """Return the values of the kinds of TOGETHER: one, unless a write was torn."""
    if app is not None:
        with contextlib.suppress(ProfileNotFound):
            identifiers = storage.identifiers(app, ProfileRef(customer))
            return {identifiers[KIND_NUMBER[name]] for name in TOGETHER}
    return {None}


def lay_out(files: dict[str, bytes], folder: Path) -> None:
    """Make a folder that holds these files and nothing else."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def cut_and_judge(soak: Soak, in_memory: Path, cuts: int, what: str) -> tuple[Counter[str], int]:
    """Take and judge so many cuts; return how many at each moment, and how many lost something.

    Fails at any damage: whatever is lost, what is there must be whole.
    """
    dice = random.Random(soak.seed)  # noqa: S311 - must repeat for a seed
    moments: Counter[str] = Counter()
    losing = 0
    disk, grave = in_memory / "disk", in_memory / "cut"
    with asyncio.Runner() as runner:
        while moments.total() < cuts:
            lay_out({}, disk)
            promised: dict[str, tuple[State, State]] = {}
            for _ in range(LIVES_A_DISK):
                life = Life(disk, dice, promised)
                runner.run(life.live())
                for cut in life.cuts[: cuts - moments.total()]:
                    verdict = runner.run(judge(cut, grave))
                    assert verdict.damage == [], f"seed {soak.seed}, {cut.moment}"
                    losing += verdict.lost > 0
                    moments[cut.moment] += 1
                soak.tell(f"{what}: {moments.total():,} of {cuts:,} cuts, {losing} lost a write")
                if not life.cuts:
                    break
                # The next life begins on what a cut left of this one.
                last = dice.choice(life.cuts)
                lay_out(last.files, disk)
                promised = runner.run(states(last, disk))
    return moments, losing


async def states(cut: Cut, folder: Path) -> dict[str, tuple[State, State]]:
    """Return what is there after a cut, which is what the next life has to keep.

    The files are laid out anew: opening them is already a use.
    """
    storage = SqliteStorage(f"{folder}/knownas.db")
    app = await app_of(storage)
    found = {
        customer: (state, state)
        for customer in cut.promised
        for state in values_of(storage, app, customer)
    }
    await storage.close()
    lay_out(cut.files, folder)
    return found


@pytest.fixture(autouse=True)
def _small_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have checkpoints all the time, and no reserve, which would take most of it."""
    monkeypatch.setattr(sqlite_checkpoint, "PASS_PAGES", 100)
    monkeypatch.setattr(sqlite_checkpoint, "LONG_PAGES", 300)
    monkeypatch.setattr(sqlite_reserve, "RESERVE_BYTES", 4096)


def test_row_35_power_cut_loses_nothing_acknowledged(soak: Soak, in_memory: Path) -> None:
    """After a power cut at any moment every acknowledged write is there, and all is sound."""
    cuts = soak.count(sample=150, full=10_000)
    moments, losing = cut_and_judge(soak, in_memory, cuts, "synchronous=FULL")
    soak.record(
        35,
        "power cut, `synchronous=FULL`",
        f"{cuts:,} cuts ({', '.join(f'{n:,} in {m}' for m, n in sorted(moments.items()))}): "
        f"{losing} lost an acknowledged write",
    )
    assert losing == 0
    assert set(moments) == set(CHANCE) or not soak.full


def test_row_35_control_the_harness_sees_losses(
    soak: Soak, in_memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With synchronous=NORMAL, which does not flush each commit, the same cuts show losses."""
    normal = sqlite_file.PRAGMAS.replace("synchronous = FULL", "synchronous = NORMAL")
    assert normal != sqlite_file.PRAGMAS
    monkeypatch.setattr(sqlite_file, "PRAGMAS", normal)
    cuts = soak.count(sample=150, full=1_000)
    _, losing = cut_and_judge(soak, in_memory, cuts, "synchronous=NORMAL")
    soak.record(
        35,
        "the same with `synchronous=NORMAL`, the control",
        f"{cuts:,} cuts: {losing:,} lost acknowledged writes, as they must",
    )
    assert losing > cuts / 50
