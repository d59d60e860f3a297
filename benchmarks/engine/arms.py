"""The arms of a comparison: each does the same files once and says what it took. All keep their models between rounds."""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from benchmarks.engine.process_tree import cpu_by_label
from benchmarks.engine.sets import Set
from benchmarks.report import NotMeasured
from benchmarks.running import Running, run_batch
from scripts.processes import ROOT

LINE_BYTES = 64 * 1024 * 1024
"""The texts of a set are one line."""


@dataclass(frozen=True, slots=True)
class Done:
    """One round of one arm. ``tokens`` are those of the chosen hypotheses (fallbacks count again), ``batches`` calls of the
    model; None where that is not known. ``cpu``: seconds of CPU time, by process."""

    seconds: float
    texts: Mapping[str, str]
    windows: int | None = None
    batches: int | None = None
    tokens: int | None = None
    cpu: Mapping[str, float] = field(default_factory=dict)

    @property
    def words(self) -> int:
        return sum(len(text.split()) for text in self.texts.values())


class Arm(Protocol):
    @property
    def name(self) -> str: ...

    async def warm_up(self, files: Sequence[Path]) -> None:
        """Does some files outside of any measurement. Raises NotMeasured."""
        ...

    async def run(self, recordings: Set) -> Done:
        """Does all recordings. Raises NotMeasured."""
        ...


class ModelProcess:
    """The client of a `model_server`; one request at a time."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    async def ask(self, arm: str, files: Sequence[Path], batch_size: int) -> dict[str, Any]:
        """Raises NotMeasured with the reason, RuntimeError where the process ended."""
        request = {"arm": arm, "files": [str(file) for file in files], "batch_size": batch_size}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        await self._process.stdin.drain()
        answer = await self._line()
        if "error" in answer:
            raise NotMeasured(answer["error"])
        return answer

    async def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process with the model ended with status {await self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


@asynccontextmanager
async def model_process(
    model: Path,
    *,
    threads: int,
    workers: int = 1,
    device: str = "cpu",
    compute_type: str = "default",
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[ModelProcess]:
    """Once the model is loaded; ends the process after."""
    options = ("--model", model, "--device", device, "--compute-type", compute_type)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.engine.model_server", *options),
        *("--threads", str(threads), "--workers", str(workers)),
        cwd=ROOT,
        env=environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=LINE_BYTES,
    )
    try:
        kept = ModelProcess(process)
        await kept._line()
        yield kept
    finally:
        if process.stdin is not None:
            process.stdin.close()  # it ends when nothing more can come
        try:
            async with asyncio.timeout(10):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


class ModelArm:
    """An arm of a `model_server`."""

    def __init__(self, name: str, process: ModelProcess, arm: str, batch_size: int) -> None:
        self.name = name
        self._process = process
        self._arm = arm
        self._batch_size = batch_size

    async def warm_up(self, files: Sequence[Path]) -> None:
        await self._process.ask(self._arm, files, self._batch_size)

    async def run(self, recordings: Set) -> Done:
        answer = await self._process.ask(self._arm, recordings.paths, self._batch_size)
        return Done(answer["seconds"], answer["texts"], answer["windows"], answer["batches"] or None, answer["tokens"])


class SystemArm:
    """Worker, controller, gateway and `run_batch.sh`, from its start to its end, uploads and downloads included."""

    def __init__(self, name: str, up: Running, model: str, parallel: int, options: Sequence[str] = ()) -> None:
        """``options``: more of the batch runner's."""
        self.name = name
        self._up = up
        self._model = model
        self._parallel = parallel
        self._options = options
        self._round = 0

    async def warm_up(self, files: Sequence[Path]) -> None:
        folder = self._up.folder / f"{self.name}, warm-up"
        folder.mkdir()
        for file in files:
            (folder / file.name).symlink_to(file)
        await self._batch(folder)

    async def run(self, recordings: Set) -> Done:
        before, spent = decoded(self._up.log), self._spent()
        began = time.monotonic()
        output = await self._batch(recordings.folder)
        seconds = time.monotonic() - began
        texts = {path.name.removesuffix(".txt"): path.read_text() for path in output.iterdir()}
        shares = decoded(self._up.log)[len(before) :]
        return Done(
            seconds,
            texts,
            sum(share.windows for share in shares),
            round(sum(share.batches for share in shares)),
            cpu=self._spent() - spent,
        )

    def _spent(self) -> Counter[str]:
        """Seconds of CPU time so far. The batch runner's is that of children that have ended, which no other arm has then."""
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        return cpu_by_label(self._up.launch.pids) + Counter({"batch runner": ended.ru_utime + ended.ru_stime})

    async def _batch(self, folder: Path) -> Path:
        """In a session of its own, so that nothing of an earlier round is found again."""
        self._round += 1
        place = self._up.folder / f"{self.name}, round {self._round}"
        place.mkdir()
        output = place / "transcripts"
        await run_batch(
            folder,
            self._up.system.url,
            output,
            *("--parallel", str(self._parallel), "--formats", "txt", "--language", "en"),
            *("--state", str(place / "state.json")),
            *self._options,
            model=self._model,
            sessions=place,
        )
        return output


@dataclass(frozen=True, slots=True)
class Share:
    """What a job had of a batch: so many windows, and that part of all that were in it."""

    windows: int
    batches: float


def decoded(log: Path) -> list[Share]:
    """What the engine's log tells of so far."""
    shares = []
    with log.open(encoding="utf-8") as lines:
        for line in lines:
            if '"windows_decoded"' in line:
                entry = json.loads(line)
                shares.append(Share(len(entry["windows"]), len(entry["windows"]) / entry["batch"]))
    return shares
