"""`python -m benchmarks`: what it refuses, and how."""

from __future__ import annotations

import ctranslate2
import pytest

from benchmarks import diarization_accuracy
from benchmarks.__main__ import BENCHMARKS, main
from models.train.speech import MISSING, SpeechError


def test_without_a_gpu_the_gpu_benchmark_says_so_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ctranslate2, "get_cuda_device_count", lambda: 0)
    assert main(["gpu"]) == 1
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "Measuring gpu ...",
        "gpu could not be measured: this machine has no GPU that CTranslate2 can use; run it on one that has",
    ]


def test_without_espeak_ng_the_speakers_benchmark_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(*_: object) -> None:
        raise SpeechError(MISSING)

    monkeypatch.setattr(diarization_accuracy, "make_conversations", missing)
    assert main(["diarization-accuracy"]) == 1
    said = capsys.readouterr().err.splitlines()
    assert said == ["Measuring diarization-accuracy ...", f"diarization-accuracy could not be measured: {MISSING}"]
    assert "install the package espeak-ng" in MISSING


def test_an_unknown_name_is_told_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["engin"])
    assert ", ".join(BENCHMARKS) in capsys.readouterr().err
