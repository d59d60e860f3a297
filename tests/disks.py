"""Small disks that a test fills; they need the right to mount."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

FILLER = "filler"
PIECE_BYTES = 64 * 1024


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A real file system of that size; needs the right to mount one."""
    folder.mkdir(parents=True)
    options = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    try:
        subprocess.run(options, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a small disk cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def grow(disk: Path, megabytes: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={megabytes}m", str(disk)], check=True)


def fill(disk: Path) -> None:
    """Takes every byte that is left."""
    with (disk / FILLER).open("ab", buffering=0) as file:
        for size in (PIECE_BYTES, 512):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                continue


def make_room(disk: Path) -> None:
    (disk / FILLER).unlink()
