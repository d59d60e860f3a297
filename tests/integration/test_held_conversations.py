"""The conversations that speakers are measured on: the same each time, and what they say that they are."""

from __future__ import annotations

import ctypes.util
import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks.corpus import RATE, decoded
from benchmarks.held_conversations import KINDS, KNOWN_WORDS, HeldConversation, make_conversations
from models.train.recognizer.vocabulary import WORDS

SECONDS = 12.0

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
