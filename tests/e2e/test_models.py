"""The models' recipe to its end, with a little of everything: what comes out loads where the bundled models do."""

from __future__ import annotations

import ctypes.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "models.train", "--quick", "--output"]

pytestmark = [
    pytest.mark.skipif(
        shutil.which("espeak-ng") is None or ctypes.util.find_library("espeak-ng") is None,
        reason="espeak-ng is not installed",
    ),
    pytest.mark.timeout(600),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    done = subprocess.run([*COMMAND, str(folder)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_recognizer_has_the_bundled_ones_files_and_transcribes(made: Path) -> None:
    from faster_whisper import WhisperModel

    bundled, new = ROOT / "models" / "whisper-demo", made / "whisper-demo"
    assert {path.name for path in new.iterdir()} == {path.name for path in bundled.iterdir()}
    for name in ("vocabulary.json", "config.json", "preprocessor_config.json"):
        assert json.loads((new / name).read_text()) == json.loads((bundled / name).read_text()), name
    model = WhisperModel(str(new), device="cpu", compute_type="int8", cpu_threads=1)
    assert not model.model.is_multilingual
    segments, _ = model.transcribe(np.zeros(32_000, np.float32), language="en", without_timestamps=True)
    list(segments)


# pyannote's, where FFmpeg's libraries are not installed: recordings are handed to it decoded.
@pytest.mark.filterwarnings("ignore:\\s*torchcodec is not installed correctly:UserWarning")
def test_the_pipeline_loads_where_the_bundled_one_does(made: Path, tmp_path: Path) -> None:
    from services.worker.engine.diarization import Diarizer, Watch
    from services.worker.engine.protocol import EngineSettings
    from services.worker.pipeline.recording import PreparedRecording
    from services.worker.work import Options

    bundled = ROOT / "models" / "diarization-demo"
    assert {path.name for path in (made / "diarization-demo").iterdir()} == {path.name for path in bundled.iterdir()}
    diarizer = Diarizer(EngineSettings("demo", made), "cpu", lambda: None)
    diarizer.load()
    try:
        assert not diarizer.error
        noise = np.random.default_rng(1).normal(0, 3000, 320_000).astype("<i2")
        (tmp_path / "spool").write_bytes(noise.tobytes())
        recording = PreparedRecording(tmp_path / "spool", len(noise), ())
        watch = Watch()
        turns = diarizer.speakers(recording, Options(), watch).turns
        assert all(0 <= turn.start < turn.end <= 20.1 for turn in turns)
    finally:
        diarizer.close()


def test_both_are_measured(made: Path) -> None:
    figures = json.loads((made / "comparison.json").read_text())
    measured = {(figure["of"], figure["what"], figure["model"]) for figure in figures}
    for model in ("bundled", "new"):
        assert ("recordings", "word error rate, %", model) in measured
        assert ("four speakers", "diarization error rate, %", model) in measured
        assert ("two speakers, a fifth of the time overlapped", "diarization error rate, %", model) in measured


def test_what_is_there_is_not_made_again(made: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*.pt")}
    again = subprocess.run([*COMMAND, str(made), "recognizer"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert " ..." not in again.stdout
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*.pt")} == before


def test_quick_models_are_not_installed() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "models.train", "--quick", "--install"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "cannot be installed" in done.stderr
