"""Memory and CPU time of a process and of all that it started, as the kernel tells it in `/proc` (Linux)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

SAMPLE_SECONDS = 0.1
PROC = Path("/proc")
_TICKS_A_SECOND = 100  # USER_HZ, proc(5)


@dataclass(frozen=True, slots=True)
class Process:
    """``label``: the Python module that it runs, or its program's name. Sizes in MiB; peak since it began (VmHWM). ``cpu``:
    seconds so far."""

    pid: int
    parent: int
    label: str
    resident: float
    peak: float
    cpu: float = 0.0


@dataclass(slots=True)
class Peaks:
    """The highest peak of any process with a label, in MiB, and of all processes together at one time."""

    by_label: dict[str, float] = field(default_factory=dict)
    together: float = 0.0

    def add(self, processes: Mapping[str, list[Process]]) -> None:
        for label, same in processes.items():
            self.by_label[label] = max(self.by_label.get(label, 0.0), *(process.peak for process in same))
        self.together = max(self.together, sum(one.resident for same in processes.values() for one in same))


@asynccontextmanager
async def peaks_of(roots: Mapping[str, int]) -> AsyncIterator[Peaks]:
    """Fills up while the block runs; ``roots`` are process ids by name. A process that lives shorter than
    `SAMPLE_SECONDS` may be missed, and what one takes in its last moments, too."""
    peaks = Peaks()

    async def sample() -> None:
        while True:
            peaks.add(await asyncio.to_thread(_labeled, roots))
            await asyncio.sleep(SAMPLE_SECONDS)

    async with asyncio.TaskGroup() as group:
        sampling = group.create_task(sample(), name="memory samples")
        try:
            yield peaks
        finally:
            sampling.cancel()
        peaks.add(_labeled(roots))


def cpu_by_label(roots: Mapping[str, int]) -> Counter[str]:
    """Seconds of CPU time so far, of the processes that live, by label."""
    return Counter({label: round(sum(one.cpu for one in same), 2) for label, same in _labeled(roots).items()})


def _labeled(roots: Mapping[str, int]) -> dict[str, list[Process]]:
    """Each root under its name, its descendants under the name and their module."""
    everything = {process.pid: process for process in processes()}
    labeled: dict[str, list[Process]] = {}
    for name, root in roots.items():
        for process in descendants(root, everything):
            label = name if process.pid == root else f"{name}: {process.label}"
            labeled.setdefault(label, []).append(process)
    return labeled


def descendants(root: int, everything: Mapping[int, Process]) -> Iterator[Process]:
    """The process itself first; nothing where it is gone."""
    if root in everything:
        yield everything[root]
    for process in everything.values():
        if process.parent == root and process.pid != root:
            yield from descendants(process.pid, everything)


def processes() -> Iterator[Process]:
    """All of this machine that have memory of their own; those that end meanwhile are left out."""
    for folder in PROC.iterdir():
        if not folder.name.isdigit():
            continue
        try:
            status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines() if ":" in line)
            command = (folder / "cmdline").read_bytes().split(b"\0")
            cpu = cpu_seconds(int(folder.name))
        except OSError:
            continue
        if "VmHWM" not in status:  # a kernel thread, or one that has ended
            continue
        yield Process(
            int(folder.name),
            int(status["PPid"]),
            label(command),
            _mebibytes(status["VmRSS"]),
            _mebibytes(status["VmHWM"]),
            cpu,
        )


def cpu_seconds(pid: int) -> float:
    """User and system time of one process so far. Raises OSError where it is gone."""
    fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND


def label(command: list[bytes]) -> str:
    """``services.worker.engine`` of ``python -m services.worker.engine --fd 5``; "multiprocessing" for its children."""
    words = [word.decode("utf-8", "replace") for word in command if word]
    if "-m" in words[:-1]:
        return words[words.index("-m") + 1]
    if any("multiprocessing" in word for word in words):
        return "multiprocessing"
    return Path(words[0]).name if words else "?"


def _mebibytes(field_of_status: str) -> float:
    return int(field_of_status.split()[0]) / 1024
