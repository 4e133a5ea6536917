"""Disks that lose their power, fill up or fail: what is not on them then is gone. Needs root and, for each, a tool.

A disk is an ext4 image on a loop device. `cut` shuts the file system down without writing its journal, which is what a
power cut does to it: everything that was synchronised stays, everything else is lost.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import pytest

from support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GOING_DOWN: Final = 0x8004587D  # FS_IOC_GOINGDOWN, linux/fs.h
WITHOUT_JOURNAL: Final = 2  # EXT4_GOING_FLAGS_NOLOGFLUSH
IMAGE_BYTES: Final = 1_500 * 2**20  # sparse
UNMOUNT_LIMIT_S: Final = 30


class Disk:
    """A file system that can lose its power."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "disk"
        self._image = directory / "disk.img"
        self.path.mkdir()
        with self._image.open("wb") as image:
            image.truncate(IMAGE_BYTES)
        _run("mkfs.ext4", "-q", "-F", str(self._image))

    def mount(self) -> None:
        """Switch on."""
        _run("mount", "-o", "loop", str(self._image), str(self.path))
        self.path.chmod(0o711)

    def cut(self) -> None:
        """Cut the power: from now on nothing reaches the disk."""
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(descriptor, GOING_DOWN, struct.pack("I", WITHOUT_JOURNAL))
        finally:
            os.close(descriptor)

    async def remount(self) -> None:
        """Switch on again, once nobody holds a file of it any more."""
        await wait_until(self.unmount, UNMOUNT_LIMIT_S, what=f"{self.path} is unmounted")
        self.mount()

    def unmount(self) -> bool:
        """Whether it is off now."""
        return not self.path.is_mount() or not subprocess.run(["umount", str(self.path)], check=False).returncode  # noqa: S607 - root's PATH


@contextmanager
def disk(directory: Path) -> Iterator[Disk]:
    """A disk, switched on."""
    need_root_and("mkfs.ext4", "mount", "losetup")
    made = Disk(directory)
    try:
        made.mount()
    except subprocess.CalledProcessError as error:
        pytest.skip(f"NO LOOP DEVICE HERE, power cuts are not tried: {error.stderr}")
    try:
        yield made
    finally:
        made.unmount()


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[None]:
    """A file system in memory of a size like 200m, which `grow` can enlarge."""
    need_root_and("mount")
    path.mkdir()
    _run("mount", "-t", "tmpfs", "-o", f"size={size},mode=711", "tmpfs", str(path))
    try:
        yield
    finally:
        _run("umount", "-l", str(path))


def grow(path: Path, size: str) -> None:
    """Enlarge a small disk."""
    _run("mount", "-o", f"remount,size={size}", str(path))


def fill(path: Path) -> None:
    """Leave no room on the disk of `path`."""
    with path.open("wb") as file:
        try:
            while True:
                file.write(bytes(65_536))
                file.flush()
        except OSError:
            pass


def need_root_and(*tools: str) -> None:
    """Skip, loudly, where the machine does not have what the trial needs."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if os.geteuid() != 0:
        missing.append("root")
    if missing:
        pytest.skip(f"NOT TRIED, this machine has no {', '.join(missing)}")


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, text=True)
