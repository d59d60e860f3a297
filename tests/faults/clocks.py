"""Clocks that are set while the system runs: forward and back, each process's own, by libfaketime.

What people are shown is the wall clock's; nothing that decides may depend on it. The monotonic clock stays real.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import pytest

from tests.faults.library import Library
from tests.faults.world import CONTROLLER, GATEWAY, WORKER, World

LIBRARIES = ("/usr/lib", "/usr/lib64", "/usr/local/lib")
LONGEST_SHIFT_SECONDS = 3 * 86_400
NAMES = (WORKER, CONTROLLER, GATEWAY)

_SLEEP = '''"""`time.sleep` without clock_nanosleep, to which libfaketime answers EINVAL where it fakes one clock of two."""

import threading
import time


def sleep(seconds):
    threading.Event().wait(seconds)


time.sleep = sleep
'''


def faked(folder: Path) -> dict[str, Mapping[str, str]]:
    """What each process needs in its environment for a clock of its own, which lies in ``folder``."""
    library = _library()
    (folder / "python").mkdir(exist_ok=True)
    (folder / "python" / "sitecustomize.py").write_text(_SLEEP)  # which every Python reads that finds it
    settings: dict[str, Mapping[str, str]] = {}
    for name in NAMES:
        set_clock(folder, name, 0)
        settings[name] = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(_file(folder, name)),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "PYTHONPATH": str(folder / "python"),
        }
    return settings


def set_clock(folder: Path, name: str, shift_seconds: int) -> None:
    """From the real time; the process sees it within a second."""
    file = _file(folder, name)
    new = file.with_suffix(".new")
    new.write_text(f"{shift_seconds:+d}\n")
    new.replace(file)


async def shifted(world: World, library: Library, times: int) -> None:
    folder = world.processes.folder
    for _ in range(times):
        await world.keep_busy(library.recordings)
        await world.moves()
        await asyncio.sleep(world.random.uniform(0, 1.0))
        for name in world.random.sample(NAMES, world.random.randint(1, len(NAMES))):
            shift = world.random.randint(-LONGEST_SHIFT_SECONDS, LONGEST_SHIFT_SECONDS)
            if name == WORKER:
                world.worker_shifts.append((world.clock(), timedelta(seconds=shift)))
            set_clock(folder, name, shift)
        world.outcome.times += 1
        await world.note_recovery(world.now)
        if world.random.random() < 0.3:
            await world.strike(world.random.choice((WORKER, CONTROLLER)))
            await world.note_recovery(world.now)


def _file(folder: Path, name: str) -> Path:
    return folder / f"clock-{name}"


def _library() -> Path:
    found = [path for root in LIBRARIES for path in Path(root).glob("**/faketime/libfaketimeMT.so.1")]
    if not found:
        pytest.skip("libfaketime is not installed (apt install libfaketime)")
    return found[0]
