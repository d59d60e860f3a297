"""Windows whose text was lost on purpose: how many are noticed and decoded again, and what of their words comes back.

What a model sometimes does by itself (it passes over a window, or stops in its middle) is done to seeded windows after the
first search. The engine around it is the real one, in this process.
"""

from __future__ import annotations

import random
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from benchmarks.corpus import Spoken, make_corpus
from benchmarks.report import Figure, Report
from benchmarks.running import scratch_root
from benchmarks.scoring import NONE, word_errors
from scripts.processes import ROOT
from services.worker.engine import decoding
from services.worker.engine.decoding import Request
from services.worker.engine.diarization import Diarizer
from services.worker.engine.job import Tools, run_job
from services.worker.engine.lanes import Lanes, lanes_on
from services.worker.engine.memory import CPU_BATCH_IN_CACHE, BatchLimit
from services.worker.engine.models import Models
from services.worker.engine.preparation import Preparation
from services.worker.engine.protocol import EngineSettings
from services.worker.pipeline.quality import Try
from services.worker.work import AttemptKey, Options, WindowFinished, Work
from services.worker.work import Report as Told

FILES, QUICK_FILES = 12, 3
SECONDS = 240.0
SHARE = 0.4
"""Of all windows that lose text: half of them all of it, half all that comes after the first words."""
WORDS_KEPT = 4
LEAST_FOUND_PERCENT = 95.0


@dataclass(slots=True)
class Losses:
    """Which windows, of (recording, index), lose their text, and which were decoded again. Texts are lost from ``begin``
    on."""

    seed: int
    begun: bool = False
    lost: set[tuple[str, int]] = field(default_factory=set)
    again: set[tuple[str, int]] = field(default_factory=set)

    def begin(self) -> None:
        self.begun = True

    def decode(self, requests: Sequence[Request], rows: int, real: Callable[..., list[Try]]) -> list[Try]:
        return [self._maybe_lost(request, tried) for request, tried in zip(requests, real(requests, rows), strict=True)]

    def _maybe_lost(self, request: Request, tried: Try) -> Try:
        if not self.begun:
            return tried
        window = (request.key.job_id, request.index)
        if request.part:
            self.again.add(window)
            return tried
        chance = random.Random(f"{self.seed} {window}").random()
        if chance >= SHARE or request.seconds < 12.0:  # of shorter ones little can be lost that is not all
            return tried
        self.lost.add(window)
        kept = tried.tokens[:WORDS_KEPT] if chance < SHARE / 2 else ()
        return replace(tried, tokens=kept, text=request.voice.tokenizer.decode(list(kept)))


@contextmanager
def engine(decode: Callable[..., list[Try]]) -> Iterator[Callable[[Path], list[WindowFinished]]]:
    """Transcribes a recording with the bundled model. ``decode`` is called in the place of the engine's own, with its
    arguments and then with it."""
    real = decoding.decode
    decoding.decode = lambda requests, encoder: decode(requests, encoder, real)
    settings = EngineSettings("demo", ROOT / "models", diarization_model="none")
    lanes_count, threads = lanes_on("cpu", 0)
    models = Models(settings, "cpu", threads, lambda: None, lanes=lanes_count)
    lanes = Lanes(
        lanes_count, "cpu", lambda model: BatchLimit(CPU_BATCH_IN_CACHE), cast("Any", None), lambda ended: None
    )
    with tempfile.TemporaryDirectory(dir=scratch_root()) as scratch:
        preparation = Preparation(2, Path(scratch, "spool"))
        lanes.start()
        tools = Tools(models, Diarizer(settings, "cpu", lambda: None), preparation, lanes, cast("Any", None), "demo")
        try:
            yield lambda path: _windows(path, tools)
        finally:
            decoding.decode = real
            lanes.stop()
            preparation.close()


def _windows(path: Path, tools: Tools) -> list[WindowFinished]:
    told: list[Told] = []
    run_job(Work(AttemptKey(path.name, 1), path, Options(language="en")), tools, told.append, threading.Event().is_set)
    return [report for report in told if isinstance(report, WindowFinished)]


def text_of(windows: Sequence[WindowFinished]) -> str:
    return "".join(segment.text for window in windows for segment in window.segments)


async def measure(quick: bool) -> Report:
    losses = Losses(seed=1)
    with tempfile.TemporaryDirectory(prefix="bulkscribe-dropouts-", dir=scratch_root()) as scratch:
        corpus = make_corpus(Path(scratch), QUICK_FILES if quick else FILES, SECONDS, SECONDS)
        with engine(losses.decode) as transcribe:
            whole = {spoken.name: text_of(transcribe(Path(scratch, spoken.name))) for spoken in corpus}
            losses.begin()
            spoiled = {spoken.name: text_of(transcribe(Path(scratch, spoken.name))) for spoken in corpus}
    return Report("dropouts", tuple(figures(losses, corpus, whole, spoiled)))


def figures(losses: Losses, corpus: Sequence[Spoken], whole: dict[str, str], spoiled: dict[str, str]) -> list[Figure]:
    found = len(losses.lost & losses.again)
    undisturbed = sum((word_errors(spoken.text, whole[spoken.name]) for spoken in corpus), NONE)
    disturbed = sum((word_errors(spoken.text, spoiled[spoken.name]) for spoken in corpus), NONE)
    return [
        Figure("windows that lost text", len(losses.lost), ""),
        Figure(
            "of those, noticed and decoded again",
            100 * found / max(1, len(losses.lost)),
            "%",
            at_least=LEAST_FOUND_PERCENT,
        ),
        Figure("windows decoded again that had lost nothing", len(losses.again - losses.lost), ""),
        Figure("word error rate, undisturbed", 100 * undisturbed.rate, "%"),
        Figure("word error rate, with dropouts", 100 * disturbed.rate, "%"),
    ]
