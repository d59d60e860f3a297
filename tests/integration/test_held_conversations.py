"""The conversations that speakers are measured on: the same each time, and what they say that they are; and, of a few, that the
bundled models know who speaks."""

from __future__ import annotations

import ctypes.util
import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks.corpus import RATE, decoded
from benchmarks.diarization_accuracy import stock_turns
from benchmarks.held_conversations import KINDS, KNOWN_WORDS, HeldConversation, make_conversations
from benchmarks.scoring import NONE, speaker_errors
from models.train.recognizer.vocabulary import WORDS
from services.worker.engine import speaker_models
from services.worker.engine.protocol import EngineSettings

SECONDS = 12.0
BUNDLED = Path(__file__).parents[2] / "models"

MOST_ERROR = {"two speakers": 0.04, "a fifth overlapped": 0.06, "telephone band": 0.1}

pytestmark = [
    pytest.mark.skipif(
        shutil.which("espeak-ng") is None or ctypes.util.find_library("espeak-ng") is None,
        reason="espeak-ng is not installed",
    ),
    pytest.mark.timeout(180),
]


@pytest.fixture(scope="module")
def talks(tmp_path_factory: pytest.TempPathFactory) -> list[HeldConversation]:
    return make_conversations(tmp_path_factory.mktemp("first") / "talks", 1, SECONDS)


def test_there_is_one_of_each_set(talks: list[HeldConversation]) -> None:
    assert [talk.kind for talk in talks] == [*KINDS.values(), KNOWN_WORDS]
    assert all(len(decoded(talk.path)) == SECONDS * RATE for talk in talks)


def test_turns_are_where_speech_is(talks: list[HeldConversation]) -> None:
    for talk in talks:
        sound = decoded(talk.path).astype(float)
        speech = np.zeros(len(sound), bool)
        for turn in talk.turns:
            speech[round(turn["start"] * RATE) : round(turn["end"] * RATE)] = True
        assert np.square(sound[speech]).mean() > 10 * np.square(sound[~speech]).mean(), talk.kind


def test_words_are_the_recognizers_and_belong_to_who_speaks(talks: list[HeldConversation]) -> None:
    *others, talk = talks
    assert not any(other.words for other in others)
    assert len(talk.words) > 5
    assert {word for word, _ in talk.words} <= set(WORDS)
    assert {speaker for _, speaker in talk.words} == {turn["speaker"] for turn in talk.turns}


def test_they_are_the_same_each_time(talks: list[HeldConversation], tmp_path: Path) -> None:
    again = make_conversations(tmp_path / "talks", 1, SECONDS)
    assert [(talk.turns, talk.words) for talk in again] == [(talk.turns, talk.words) for talk in talks]
    assert [talk.path.read_bytes() for talk in again] == [talk.path.read_bytes() for talk in talks]


@pytest.mark.filterwarnings("ignore::UserWarning")  # pyannote tells of decoders that are not asked for
def test_the_bundled_models_know_who_speaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two conversations of a minute of each set are no measurement (`benchmarks/diarization_accuracy.py` is): models or parameters
    that are much worse would be seen."""
    monkeypatch.setenv("PYANNOTE_METRICS_ENABLED", "0")
    pipeline = speaker_models.load("demo", EngineSettings("demo", BUNDLED), "cpu")
    errors = {kind: NONE for kind in MOST_ERROR}
    for talk in make_conversations(tmp_path / "talks", 2, 60.0):
        if talk.kind in errors:
            errors[talk.kind] += speaker_errors(talk.turns, stock_turns(pipeline, talk.path))
    for kind, most in MOST_ERROR.items():
        assert errors[kind].total, kind
        assert errors[kind].rate <= most, kind
