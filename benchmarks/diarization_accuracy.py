"""Who speaks when, of voices and sentences that `models.train` holds back: pyannote's own pipeline, the engine alone and the whole
system, with the same weights; and whether the system gives each word to who says it.

Diarization error rates are pyannote.metrics', with overlap scored (``skip_overlap=False``) and a ``collar`` of 0.25 s, which is
the whole of what is left out around a boundary of the reference: 0.125 s on either side. The system's turns are those of the JSON
transcripts that its users get.

The bundled models are measured unless WORKER_DIARIZATION_MODEL (as `.build/models/diarization-demo`), WORKER_MODEL and
WORKER_MODEL_DIR name others, as they do for a worker.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.corpus import RATE, decoded
from benchmarks.engine.compare import progress
from benchmarks.held_conversations import KNOWN_WORDS, HeldConversation, make_conversations
from benchmarks.report import Figure, NotMeasured, Report
from benchmarks.running import run_batch, running, scratch_root
from benchmarks.scoring import (
    NO_SPEAKER_ERRORS,
    NO_WORD_SPEAKERS,
    SpeakerErrors,
    speaker_error_kinds,
    word_speakers,
)
from benchmarks.spread import spread
from models.train.speech import SpeechError
from scripts.batch.recordings import transcript_name
from scripts.processes import ROOT
from services.worker.engine.diarization import Diarizer, Watch
from services.worker.engine.protocol import EngineSettings
from services.worker.pipeline.recording import PreparedRecording
from services.worker.work import Options

COUNT, QUICK_COUNT = 12, 2
"""Conversations of a set: of one and the same set, single ones differ by ten points and more."""
SECONDS, QUICK_SECONDS = 90.0, 45.0

MOST_ERROR_PERCENT = {
    "two speakers": 3.0,
    "four speakers": 6.0,
    "a fifth overlapped": 10.0,
}
"""By the set's name; of the others nothing is promised."""
LEAST_RIGHT_WORDS_PERCENT = 97.0
SAME_POINTS = 0.1
"""Percentage points by which the system's error may differ from its engine's: what is heard is the same."""

STOCK, ENGINE, SYSTEM = "pyannote", "engine alone", "system"

Turns = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Models:
    """The worker's settings of the same meaning."""

    recognizer: str
    recognizer_folder: str
    diarization: str

    @classmethod
    def chosen(cls) -> Models:
        diarization = os.environ.get("WORKER_DIARIZATION_MODEL") or "demo"
        folder = os.environ.get("WORKER_MODEL_DIR")
        return cls(
            os.environ.get("WORKER_MODEL") or "demo",
            str(Path(folder).resolve()) if folder else "",
            str(Path(diarization).resolve()) if Path(diarization).is_dir() else diarization,
        )

    @property
    def settings(self) -> dict[str, str]:
        given = {"WORKER_MODEL": self.recognizer, "WORKER_DIARIZATION_MODEL": self.diarization}
        return given | ({"WORKER_MODEL_DIR": self.recognizer_folder} if self.recognizer_folder else {})


@dataclass(frozen=True, slots=True)
class Found:
    """What an arm makes of one conversation; ``words``: (text, speaker), from the system only."""

    turns: Turns
    words: tuple[tuple[str, str], ...] = ()


async def measure(quick: bool) -> Report:
    models = Models.chosen()
    count, seconds = (QUICK_COUNT, QUICK_SECONDS) if quick else (COUNT, SECONDS)
    with tempfile.TemporaryDirectory(prefix="bulkscribe-speakers-", dir=scratch_root()) as scratch:
        recordings = Path(scratch, "recordings")
        try:
            talks = await asyncio.to_thread(make_conversations, recordings, count, seconds)
        except SpeechError as error:
            raise NotMeasured(str(error)) from error
        progress(f"{len(talks)} conversations of {seconds:.0f} s are made")
        found = await asyncio.to_thread(_without_system, talks, models, Path(scratch))
        progress("the system's turn")
        found[SYSTEM] = await _by_system(recordings, talks, models)
    for talk in talks:
        progress(_told(talk, found[SYSTEM][talk.path]))
    return Report(
        "diarization-accuracy",
        tuple(figures(talks, found)),
        (
            f"speaker models: {Path(models.diarization).name}; recognizer: {models.recognizer}; {count} conversations of"
            f" {seconds:.0f} s a set",
            "least and most are those of single conversations",
            "of the time in which anybody speaks, two do for "
            + "; ".join(f"{100 * share:.1f} % ({kind})" for kind, share in _overlapped(talks)),
        ),
    )


# --- the arms


def _without_system(talks: Sequence[HeldConversation], models: Models, folder: Path) -> dict[str, Mapping[Path, Found]]:
    os.environ["PYANNOTE_METRICS_ENABLED"] = "0"
    warnings.filterwarnings("ignore")
    from services.worker.engine import speaker_models

    settings = EngineSettings("demo", ROOT / "models", diarization_model=models.diarization)
    diarizer = Diarizer(settings, "cpu", lambda: None)
    try:
        diarizer.load()
        if diarizer.error:
            raise NotMeasured(diarizer.error)
        pipeline = speaker_models.load(models.diarization, settings, "cpu")
        stock, engine = {}, {}
        for talk in talks:
            if talk.kind != KNOWN_WORDS:
                stock[talk.path] = Found(stock_turns(pipeline, talk.path))
                engine[talk.path] = Found(_engine_turns(diarizer, talk.path, folder / "spool"))
    finally:
        diarizer.close()
    return {STOCK: stock, ENGINE: engine}


def stock_turns(pipeline: Any, path: Path) -> Turns:
    """What pyannote itself says of a recording."""
    import torch

    from models.train.diarization.evaluate import found_turns

    samples = torch.from_numpy(decoded(path))[None].float() / 32768
    return found_turns(pipeline({"waveform": samples, "sample_rate": RATE, "uri": path.stem}))


def _engine_turns(diarizer: Diarizer, path: Path, spool: Path) -> Turns:
    samples = decoded(path)
    spool.write_bytes(samples.astype("<i2").tobytes())
    recording = PreparedRecording(spool, len(samples), ())
    speakers = diarizer.speakers(recording, Options(), Watch())
    return [asdict(turn) for turn in speakers.turns]


async def _by_system(folder: Path, talks: Sequence[HeldConversation], models: Models) -> Mapping[Path, Found]:
    async with running(WORKER_MAX_CONCURRENT_JOBS="2", **models.settings) as up:
        output = up.folder / "transcripts"
        await run_batch(
            folder,
            up.system.url,
            output,
            *("--diarization", "--parallel", "4", "--formats", "json", "--language", "en"),
            model=models.recognizer,
        )
        return {talk.path: _read(output / transcript_name(talk.path.name, "json")) for talk in talks}


def _read(path: Path) -> Found:
    transcript = json.loads(path.read_text(encoding="utf-8"))
    words = tuple((segment["text"], segment["speaker"] or "") for segment in transcript["segments"])
    return Found(transcript["turns"], words)


# --- what comes of it


def _told(talk: HeldConversation, found: Found) -> str:
    """What the system makes of one conversation, on a line."""
    errors = speaker_error_kinds(talk.turns, found.turns)
    kinds = (("missed", errors.missed), ("false", errors.false), ("confused", errors.confused))
    said = ", ".join(f"{name} {100 * seconds / errors.total:.1f} %" for name, seconds in kinds)
    words = f", {100 * word_speakers(talk.words, found.words).share:.1f} % of the words right" if talk.words else ""
    return f"{talk.kind}, {talk.path.stem}: {said}, {_speakers(found.turns)} of {_speakers(talk.turns)} speakers{words}"


def figures(talks: Sequence[HeldConversation], found: Mapping[str, Mapping[Path, Found]]) -> Iterator[Figure]:
    """``found``: what each arm made of each recording."""
    for kind in dict.fromkeys(talk.kind for talk in talks):
        of_kind = [talk for talk in talks if talk.kind == kind]
        if kind == KNOWN_WORDS:
            yield from _word_figures(of_kind, found[SYSTEM])
        else:
            yield from _speaker_figures(kind, of_kind, found)


def _speaker_figures(
    kind: str, talks: Sequence[HeldConversation], found: Mapping[str, Mapping[Path, Found]]
) -> Iterator[Figure]:
    pooled: dict[str, SpeakerErrors] = {}
    for arm in (STOCK, ENGINE, SYSTEM):
        errors = [speaker_error_kinds(talk.turns, found[arm][talk.path].turns) for talk in talks]
        pooled[arm] = sum(errors, NO_SPEAKER_ERRORS)
        around = spread([100 * one.all.rate for one in errors])
        bound = MOST_ERROR_PERCENT.get(kind) if arm == SYSTEM else None
        yield Figure(
            f"{kind}: error rate, {arm}",
            100 * pooled[arm].all.rate,
            "%",
            at_most=bound,
            least=around.least,
            most=around.most,
        )
    system = pooled[SYSTEM]
    apart = 100 * abs(system.all.rate - pooled[ENGINE].all.rate)
    yield Figure(f"{kind}: between system and engine alone", apart, "points", at_most=SAME_POINTS)
    for name, seconds in (("missed", system.missed), ("false", system.false), ("confused", system.confused)):
        yield Figure(f"{kind}: {name}, system", 100 * seconds / system.total, "%")
    right = sum(_speakers(found[SYSTEM][talk.path].turns) == _speakers(talk.turns) for talk in talks)
    yield Figure(f"{kind}: right number of speakers, system", right, f"of {len(talks)}")


def _speakers(turns: Turns) -> int:
    return len({turn["speaker"] for turn in turns})


def _word_figures(talks: Sequence[HeldConversation], found: Mapping[Path, Found]) -> Iterator[Figure]:
    each = [word_speakers(talk.words, found[talk.path].words) for talk in talks]
    pooled = sum(each, NO_WORD_SPEAKERS)
    around = spread([100 * one.share for one in each])
    yield Figure(
        f"{KNOWN_WORDS}: those with the right speaker, system",
        100 * pooled.share,
        "%",
        at_least=LEAST_RIGHT_WORDS_PERCENT,
        least=around.least,
        most=around.most,
    )
    errors = sum((speaker_error_kinds(talk.turns, found[talk.path].turns) for talk in talks), NO_SPEAKER_ERRORS)
    yield Figure(f"{KNOWN_WORDS}: error rate of their turns, system", 100 * errors.all.rate, "%")
    yield Figure(f"{KNOWN_WORDS}: matched, of which these are", pooled.matched, f"of {pooled.said}")


def _overlapped(talks: Sequence[HeldConversation]) -> Iterator[tuple[str, float]]:
    for kind in dict.fromkeys(talk.kind for talk in talks):
        of_kind = [talk for talk in talks if talk.kind == kind]
        once, twice = map(sum, zip(*(_spoken_seconds(talk.turns) for talk in of_kind), strict=True))
        yield kind, twice / once


def _spoken_seconds(turns: Turns) -> tuple[float, float]:
    """(in which anybody speaks, in which two do)."""
    edges = sorted([(turn["start"], 1) for turn in turns] + [(turn["end"], -1) for turn in turns])
    anybody = two = 0.0
    at_once, before = 0, 0.0
    for time, change in edges:
        anybody += (at_once > 0) * (time - before)
        two += (at_once > 1) * (time - before)
        at_once, before = at_once + change, time
    return anybody, two
