"""What a GPU does as a CPU does it, with the bundled models. Skipped where there is none."""

from __future__ import annotations

import asyncio
import warnings
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.scoring import speaker_errors
from services.worker.engine.features import NumpyFeatures, TorchFeatures
from services.worker.work import Canceled, Completed, Report, SpeakersFound, WindowFinished
from tests import recordings
from tests.engine import DEADLINE, MOST_WORD_ERRORS, make_long, ready, run, started, word_errors, work

ctranslate2 = pytest.importorskip("ctranslate2")
torch = pytest.importorskip("torch")
feature_extractor = pytest.importorskip("faster_whisper.feature_extractor")

DEVICE = "cuda"

START_SECONDS = 300.0
"""For cards that CTranslate2 has no code for, kernels are compiled at the first start."""


def has_gpu() -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the driver is too old for torch, say
        return ctranslate2.get_cuda_device_count() > 0 and torch.cuda.is_available()


pytestmark = [
    pytest.mark.skipif(DEVICE == "cuda" and not has_gpu(), reason="no GPU that CTranslate2 and torch can use"),
    pytest.mark.timeout(2 * START_SECONDS),
    pytest.mark.filterwarnings("ignore"),
]


@pytest.mark.parametrize("bands", [80, 128])
def test_features_are_those_of_the_cpu(bands: int) -> None:
    whisper = SimpleNamespace(feature_extractor=feature_extractor.FeatureExtractor(feature_size=bands))
    samples = [example.samples()[:480_000].astype(np.float32) / 32768 for example in recordings.examples()[:4]]
    one, many = NumpyFeatures(whisper), TorchFeatures(whisper, DEVICE)
    expected = one.stacked([one.of(window) for window in samples])
    found = many.stacked([many.of(window) for window in samples])
    assert found.device.type == DEVICE
    assert np.abs(found.cpu().numpy() - expected).max() < 1e-3


@pytest.mark.parametrize("compute_type", ["", "float16"])
async def test_jobs_together_have_the_words_that_were_said(compute_type: str) -> None:
    """In the numbers that the bundled model was saved with, and in those of models for people."""
    examples = recordings.examples()
    async with started(device=DEVICE, slots=4, compute_type=compute_type if DEVICE == "cuda" else "") as engine:
        await ready(engine, START_SECONDS)
        runs = await asyncio.gather(*(run(engine, one.path, word_timestamps=True) for one in examples))
        assert engine.state.device == DEVICE
    errors = [word_errors(one.text, made.text) for one, made in zip(examples, runs, strict=True)]
    assert max(errors) <= MOST_WORD_ERRORS
    assert all(segment.words for made in runs for segment in made.segments)


async def test_a_transcript_is_the_same_at_any_batch_size(tmp_path: Path) -> None:
    """The bundled model is so sure of its words that no rounding decides about one."""
    long = make_long(tmp_path)
    texts = []
    for batch_size in (1, 8):
        async with started(device=DEVICE, batch_size=batch_size) as engine:
            await ready(engine, START_SECONDS)
            texts.append((await run(engine, long.path)).text)
    assert texts[0] == texts[1]


async def test_a_canceled_job_leaves_the_device_to_the_next(tmp_path: Path) -> None:
    long = make_long(tmp_path, seconds=600.0)
    async with started(device=DEVICE) as engine:
        await ready(engine, START_SECONDS)
        given = work(long.path)
        reports: list[Report] = []
        async with asyncio.timeout(DEADLINE):
            async for report in engine.run(given):
                reports.append(report)
                if isinstance(report, WindowFinished):
                    engine.cancel(given.key)
        assert isinstance(reports[-1], Canceled)
        assert isinstance((await run(engine, recordings.examples()[0].path)).outcome, Completed)


async def test_speakers_are_those_of_the_cpu_also_beside_words() -> None:
    """Torch's work for speakers has a stream of its own, beside CTranslate2's for words."""
    two = recordings.example(2).path
    found = {}
    for device in ("cpu", DEVICE):
        async with started(device=device, slots=4, diarization_model="demo") as engine:
            await ready(engine, START_SECONDS)
            others = [run(engine, example.path) for example in recordings.examples()[:3]]
            made, *words = await asyncio.gather(run(engine, two, diarization=True), *others)
            (speakers,) = made.all(SpeakersFound)
            found[device] = [asdict(turn) for turn in speakers.turns], [other.text for other in words]
    assert speaker_errors(found["cpu"][0], found[DEVICE][0]).rate < 0.01
    assert found["cpu"][1] == found[DEVICE][1]
