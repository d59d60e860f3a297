"""pyannote loads a pipeline of random weights as it does a published one, and it has as much to do as one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.corpus import EXAMPLES, RATE, decoded
from benchmarks.diarization import SETTINGS, diarized, ready_diarizer, spooled
from benchmarks.gpu.speakers import SPEAKERS
from benchmarks.random_speakers import make_random_pipeline
from services.worker.engine import speaker_models
from services.worker.work import Options

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore")  # pyannote's own, of decoders and of statistics of short turns


def test_it_finds_as_many_speakers_as_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYANNOTE_METRICS_ENABLED", "0")  # or it would tell its makers
    sound = decoded(EXAMPLES / "interview-001.mp3")[: 15 * RATE]
    folder = make_random_pipeline(tmp_path / "pipeline", sound[: 10 * RATE])
    pipeline = speaker_models.load(str(folder), SETTINGS, "cpu")
    heard = pipeline._segmentation.model(torch.from_numpy(sound[: 10 * RATE].astype(np.float32) / 32768)[None, None])
    share = np.bincount(heard[0].argmax(dim=-1).numpy(), minlength=7) / heard.shape[1]
    assert share[[0, 1, 2, 4]].min() > 0.02  # nobody, one, the other, both
    assert share[[3, 5, 6]].max() == 0  # the third one
    diarizer = ready_diarizer(pipeline)
    try:
        turns = diarized(diarizer, spooled(tmp_path, sound), Options(min_speakers=SPEAKERS, max_speakers=SPEAKERS))
    finally:
        diarizer.close()
    assert len({turn.speaker for turn in turns}) == SPEAKERS
