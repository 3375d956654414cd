"""Small disks of their own, for whoever may mount: a test that cannot is skipped, and says why."""

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def tmpfs(mebibytes: int) -> Iterator[Path]:
    """Give a folder on a disk of this size, in memory."""
    with tempfile.TemporaryDirectory(prefix="knownas-disk-") as folder:
        _run("mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "knownas-test", folder)
        try:
            yield Path(folder)
        finally:
            _unmount(folder)


@contextlib.contextmanager
def ext4(mebibytes: int) -> Iterator[Path]:
    """Give a folder on an ext4 of this size, which becomes read-only at the first error."""
    with tempfile.TemporaryDirectory(prefix="knownas-disk-") as parent:
        image, folder = Path(parent, "image"), Path(parent, "mounted")
        with image.open("wb") as file:
            file.truncate(mebibytes * 2**20)
        folder.mkdir()
        _run("mkfs.ext4", "-q", str(image))
        with mounted(image, folder):
            yield folder


@contextlib.contextmanager
def mounted(image: Path, folder: Path) -> Iterator[None]:
    """Mount an image of a file system, and unmount it at the end."""
    _run("mount", "-o", "loop,errors=remount-ro", str(image), str(folder))
    try:
        yield
    finally:
        _unmount(str(folder))


def break_file_system(folder: Path) -> None:
    """Have the kernel find an error in an ext4, upon which it refuses every write."""
    device = os.stat(folder).st_dev  # noqa: PTH116 - of the folder itself, not of a file in it
    name = os.path.basename(  # noqa: PTH119 - of a link
        os.readlink(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")  # noqa: PTH115
    )
    trigger = Path(f"/sys/fs/ext4/{name}/trigger_fs_error")
    try:
        trigger.write_text("a test's own")
    except OSError as error:
        pytest.skip(f"cannot break a file system here: {error}")


def repair(folder: Path) -> None:
    """Unmount an ext4 that was broken, repair it, and mount it again, to be read."""
    image = folder.with_name("image")
    _unmount(str(folder))
    subprocess.run(["e2fsck", "-fy", str(image)], capture_output=True, check=False)
    _run("mount", "-o", "loop,errors=remount-ro", str(image), str(folder))


def forbid_writing(*files: Path, forbidden: bool = True) -> None:
    """Have the kernel refuse every change of these files, also where they are open already."""
    _run("chattr", "+i" if forbidden else "-i", *map(str, files))


def fill(folder: Path, name: str = "ballast") -> Path:
    """Write a file until the disk is full, and return it."""
    ballast = folder / name
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return ballast


def _unmount(folder: str) -> None:
    subprocess.run(["umount", folder], check=True)


def _run(*command: str) -> None:
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"cannot run {command[0]}: {error}")
    if ended.returncode:
        pytest.skip(f"{' '.join(command[:3])}: {ended.stderr.strip()}")
