"""What the driver says of the GPU: its name, and how busy it is while something runs."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

SAMPLE_MILLISECONDS = 200


@dataclass(slots=True)
class Busy:
    """Samples of the share of time in which a kernel ran (0 to 100), and of the memory in use (MiB)."""

    shares: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)

    @property
    def mean(self) -> float | None:
        return sum(self.shares) / len(self.shares) if self.shares else None

    def add(self, lines: Iterable[str]) -> None:
        """Of "97, 20480"; a line that is none is passed over, as the last one may be when the sampling ends."""
        for line in lines:
            parts = [part.strip() for part in line.split(",")]
            if len(parts) == 2 and all(part.isdigit() for part in parts):
                self.shares.append(float(parts[0]))
                self.memory.append(float(parts[1]))


def device_name() -> str:
    """Of the first GPU; "" where its driver does not answer."""
    return _driver_says("name")


def device_id() -> str:
    """The first GPU's, by which CUDA knows it as well, whatever order it counts in; "" where its driver does not answer."""
    return _driver_says("uuid")


def _driver_says(what: str) -> str:
    try:
        answer = subprocess.run(
            ["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader", "--id=0"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout.strip()


@asynccontextmanager
async def sampled() -> AsyncIterator[Busy]:
    """Filled when the block has ended; empty where there is no `nvidia-smi`."""
    busy = Busy()
    try:
        process = await asyncio.create_subprocess_exec(
            *("nvidia-smi", "--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits", "--id=0"),
            f"--loop-ms={SAMPLE_MILLISECONDS}",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except FileNotFoundError:
        yield busy
        return
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(_read(process), name="nvidia-smi")
        try:
            yield busy
        finally:
            process.terminate()
            busy.add(await reading)
            await process.wait()


async def _read(process: asyncio.subprocess.Process) -> list[str]:
    assert process.stdout is not None
    return [line.decode("utf-8", "replace") async for line in process.stdout]
