"""The whole system against a bare loop of stock batched faster-whisper over the same files."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.corpus import Spoken, make_corpus
from benchmarks.report import Figure, Report
from benchmarks.running import run_batch, running, scratch_root
from benchmarks.scoring import NONE, ErrorRate, word_errors
from scripts.processes import ROOT

FILES = 48
SHORTEST_SECONDS, LONGEST_SECONDS = 5.0, 180.0
PARALLEL = 4
MOST_TIMES_STOCK = 1.15


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass over the corpus."""

    seconds: float
    texts: Mapping[str, str]


async def measure() -> Report:
    """The stock loop before and after the system: what else the machine does then falls on both."""
    with tempfile.TemporaryDirectory(prefix="bulkscribe-corpus-", dir=scratch_root()) as scratch:
        corpus = await asyncio.to_thread(make_corpus, Path(scratch), FILES, SHORTEST_SECONDS, LONGEST_SECONDS)
        before = await stock(Path(scratch))
        one = await system(Path(scratch), slots=1)
        two = await system(Path(scratch), slots=2)
        after = await stock(Path(scratch))
    seconds = (before.seconds + after.seconds) / 2
    audio = sum(spoken.seconds for spoken in corpus)
    return Report(
        "throughput",
        (
            Figure("audio", audio, "s"),
            Figure("stock loop, before", before.seconds, "s"),
            Figure("stock loop, after", after.seconds, "s"),
            Figure("system, 1 slot", one.seconds, "s"),
            Figure("system, 2 slots", two.seconds, "s"),
            Figure("wall time, system over stock, 1 slot", one.seconds / seconds, "ratio", at_most=MOST_TIMES_STOCK),
            Figure("wall time, system over stock, 2 slots", two.seconds / seconds, "ratio", at_most=MOST_TIMES_STOCK),
            Figure("speed, system with 1 slot", audio / one.seconds, "x real time"),
            Figure("word error rate, stock", 100 * pooled(corpus, before).rate, "%"),
            Figure("word error rate, system", 100 * pooled(corpus, one).rate, "%"),
            Figure("transcripts that differ between 1 and 2 slots", differing(one, two), "files", at_most=0),
        ),
    )


async def stock(folder: Path) -> Pass:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.stock", folder), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"the stock loop ended with status {process.returncode}")
    return Pass(**json.loads(out))


async def system(folder: Path, slots: int) -> Pass:
    """`run_batch.sh` from its start to its end, uploads and downloads included; models are loaded before."""
    async with running(WORKER_MAX_CONCURRENT_JOBS=str(slots), WORKER_DIARIZATION_MODEL="none") as up:
        output = up.folder / "transcripts"
        options = ("--parallel", str(PARALLEL), "--formats", "txt", "--state", str(up.folder / "state.json"))
        began = time.monotonic()
        await run_batch(folder, up.system.url, output, *options)
        seconds = time.monotonic() - began
        return Pass(seconds, {path.name.removesuffix(".txt"): path.read_text() for path in output.iterdir()})


def pooled(corpus: Sequence[Spoken], done: Pass) -> ErrorRate:
    return sum((word_errors(spoken.text, done.texts[spoken.name]) for spoken in corpus), NONE)


def differing(one: Pass, other: Pass) -> int:
    return sum(one.texts[name] != other.texts[name] for name in one.texts)
