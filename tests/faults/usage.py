"""How much memory and how many files each process holds while a soak goes on, and whether that grows."""

from __future__ import annotations

import asyncio
import os
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.processes import Processes

SAMPLE_SECONDS = 2.0
FLAT = 1.15
"""The last quarter of a life may be so much above its second one: allocators do not give everything back."""
FEWEST = 16
"""Samples of one life that can be told apart in quarters."""


@dataclass(frozen=True, slots=True)
class Sample:
    """``seconds`` since the beginning; resident megabytes."""

    seconds: float
    pid: int
    megabytes: float
    files: int


@dataclass
class Usage:
    processes: Processes
    names: tuple[str, ...]
    samples: dict[str, list[Sample]] = field(default_factory=dict)

    async def watch(self) -> None:
        now = asyncio.get_running_loop().time
        began = now()
        while True:
            for name in self.names:
                sample = _sample(self.processes.pid(name), now() - began)
                if sample is not None:
                    self.samples.setdefault(name, []).append(sample)
            await asyncio.sleep(SAMPLE_SECONDS)

    def growth(self, name: str) -> float | None:
        """Of the longest life: its last quarter's memory over its second one's. None for lives too short to tell."""
        quarters = self._quarters(name)
        if quarters is None:
            return None
        second, last = (statistics.median(s.megabytes for s in quarter) for quarter in quarters)
        return last / second

    def more_files(self, name: str) -> int | None:
        quarters = self._quarters(name)
        if quarters is None:
            return None
        second, last = (statistics.median(s.files for s in quarter) for quarter in quarters)
        return round(last - second)

    def _quarters(self, name: str) -> tuple[list[Sample], list[Sample]] | None:
        lives: dict[int, list[Sample]] = {}
        for sample in self.samples.get(name, ()):
            lives.setdefault(sample.pid, []).append(sample)
        longest = max(lives.values(), key=len, default=[])
        if len(longest) < FEWEST:
            return None
        quarter = len(longest) // 4
        return longest[quarter : 2 * quarter], longest[-quarter:]

    def document(self) -> dict[str, Any]:
        return {
            name: {
                "highest_megabytes": round(max(s.megabytes for s in samples), 1),
                "last_megabytes": round(samples[-1].megabytes, 1),
                "highest_files": max(s.files for s in samples),
                "growth": None if (growth := self.growth(name)) is None else round(growth, 3),
                "more_files": self.more_files(name),
                "megabytes": [round(s.megabytes, 1) for s in samples[:: max(1, len(samples) // 60)]],
            }
            for name, samples in self.samples.items()
        }


def _sample(pid: int, seconds: float) -> Sample | None:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        files = len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return None  # it was just killed
    return Sample(seconds, pid, pages * os.sysconf("SC_PAGE_SIZE") / 1024**2, files) if pages else None
