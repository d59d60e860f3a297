"""Stock faster-whisper decodes a model of random weights as it does a real one: at length, once, surely."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.corpus import EXAMPLES, decoded
from benchmarks.engine.model_server import Loading, Server
from benchmarks.random_model import WORD_SECONDS, Shape, make_random_model

faster_whisper = pytest.importorskip("faster_whisper")

SMALLEST = Shape("smallest", 128, 1, 2, 80, 51_865, ((0, 0), (1, 0)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_random_model(tmp_path_factory.mktemp("models") / "smallest", SMALLEST)


def test_equal_seeds_give_equal_weights(folder: Path, tmp_path: Path) -> None:
    again = make_random_model(tmp_path / "again", SMALLEST)
    assert (again / "model.bin").read_bytes() == (folder / "model.bin").read_bytes()


def test_texts_are_as_long_as_the_sound_and_nothing_is_decoded_twice(folder: Path) -> None:
    whisper = faster_whisper.WhisperModel(str(folder), device="cpu", cpu_threads=1)
    assert whisper.model.is_multilingual
    pipeline = faster_whisper.BatchedInferencePipeline(whisper)
    sound = (decoded(EXAMPLES / "interview-001.mp3") / 32768).astype(np.float32)
    found = {}
    for seconds in (8, 24):
        segments, _ = pipeline.transcribe(sound[: seconds * 16_000], language="en", word_timestamps=True)
        (segment,) = segments
        words = segment.text.split()
        assert len(words) == len(set(words)) == len(segment.tokens)
        assert [word.word for word in segment.words] == [f" {word}" for word in words]
        for place, word in enumerate(segment.words):
            assert word.start == pytest.approx(min(seconds, place * WORD_SECONDS), abs=1.0)
        assert segment.avg_logprob > -1.0
        assert segment.no_speech_prob < 0.6
        assert segment.compression_ratio < 2.4
        found[seconds] = len(words)
    assert 10 < found[8] < 45
    assert 45 < found[24] < 120


def test_windows_and_tokens_are_counted_alike_by_all_stock_arms(folder: Path) -> None:
    server = Server(Loading(folder, "cpu", "default", 1, 2))
    files = [str(EXAMPLES / name) for name in ("dictation.wav", "player-test.webm")]
    answers = {
        arm: server.answer({"arm": arm, "files": files, "batch_size": 4})
        for arm in ("sequential", "batched", "threads")
    }
    assert answers["batched"]["texts"] == answers["threads"]["texts"]
    assert set(answers["batched"]["texts"]) == {"dictation.wav", "player-test.webm"}
    for answer in answers.values():
        assert answer["tokens"] == sum(len(text.split()) for text in answer["texts"].values())
        assert answer["windows"] == 2
    alone = server.answer({"arm": "alone", "files": files, "batch_size": 0})
    server.close()
    assert (alone["texts"], alone["windows"]) == (answers["batched"]["texts"], 2)
