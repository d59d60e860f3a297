"""Whose voice is whose across chunks."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from services.worker.pipeline.speaker_linking import link
from services.worker.work import ChunkSpeakers, Speakers, SpeakerTurn, Voice, VoiceTurn

DIMENSION = 64
OVERLAP = 10.0
LENGTH = 100.0


def _voice(person: int, seed: int, noise: float = 0.4, seconds: float = 30.0) -> Voice:
    """A person's mean embedding as one chunk heard it; two of one person have a cosine of 1 / (1 + noise²), about 0.86."""
    rng = np.random.default_rng(1000 + person)
    mean = rng.normal(size=DIMENSION)
    vector = mean + noise * np.random.default_rng(seed).normal(size=DIMENSION)
    vector = (vector / np.linalg.norm(vector)).astype(np.float32)
    return Voice(tuple(map(float, vector)), seconds)


def _chunk(index: int, people: Sequence[int], turns: Sequence[tuple[float, float, int]] = ()) -> ChunkSpeakers:
    """Who is heard in it, in the order of its voices; without ``turns`` each speaks ten seconds, one after the other, from the
    chunk's overlap with the one before on."""
    start = index * (LENGTH - OVERLAP)
    said = [
        VoiceTurn(*turn)
        for turn in turns or [(start + 20 + 10 * n, start + 29 + 10 * n, n) for n in range(len(people))]
    ]
    voices = tuple(_voice(person, seed=100 * index + n) for n, person in enumerate(people))
    return ChunkSpeakers(index, start, start + LENGTH, voices, tuple(said), tuple(said))


def _names(speakers: Speakers) -> list[str]:
    return [turn.speaker for turn in speakers.turns]


def test_one_chunk_stays_as_it_is() -> None:
    said = [(0.5, 3.0, 1), (2.0, 4.0, 0), (4.02, 5.0, 0)]
    found = link([_chunk(0, [7, 8], said)])
    assert found.turns == (
        SpeakerTurn(0.5, 3.0, "SPEAKER_00"),
        SpeakerTurn(2.0, 4.0, "SPEAKER_01"),
        SpeakerTurn(4.02, 5.0, "SPEAKER_01"),
    )


def test_the_first_is_who_is_heard_best_first() -> None:
    """Words get their speakers by the exclusive turns; another's breath before them makes him no first speaker."""
    chunk = _chunk(0, [7, 8], [(0.5, 0.6, 1), (0.5, 4.0, 0), (5.0, 9.0, 1)])
    found = link([replace(chunk, exclusive=(VoiceTurn(0.5, 4.0, 0), VoiceTurn(5.0, 9.0, 1)))])
    assert _names(found) == ["SPEAKER_01", "SPEAKER_00", "SPEAKER_01"]
    assert [turn.speaker for turn in found.exclusive] == ["SPEAKER_00", "SPEAKER_01"]


def test_nobody_speaks() -> None:
    assert link([ChunkSpeakers(0, 0, 100, (), (), ()), ChunkSpeakers(1, 90, 190, (), (), ())]) == Speakers()


def test_a_speaker_keeps_his_name_across_chunks_in_whatever_order_they_know_him() -> None:
    found = link([_chunk(0, [1, 2, 3]), _chunk(1, [3, 1]), _chunk(2, []), _chunk(3, [4, 2, 1])])
    assert _names(found) == [f"SPEAKER_{n:02d}" for n in (0, 1, 2, 2, 0, 3, 1, 0)]


def test_two_voices_of_one_chunk_are_two_people_however_alike() -> None:
    said = (VoiceTurn(1, 2, 0), VoiceTurn(3, 4, 1))
    twins = ChunkSpeakers(0, 0, LENGTH, (_voice(1, 1, 0.05), _voice(1, 2, 0.05)), said, said)
    assert _names(link([twins, _chunk(1, [1])])) in (
        ["SPEAKER_00", "SPEAKER_01", "SPEAKER_00"],
        ["SPEAKER_00", "SPEAKER_01", "SPEAKER_01"],
    )


@pytest.mark.parametrize("seed", range(5))
def test_ten_hours_with_nine_people_who_come_and_go(seed: int) -> None:
    rng = random.Random(seed)
    chunks = [_chunk(index, rng.sample(range(9), rng.randint(1, 6))) for index in range(21)]
    expected = [(index, person) for index in range(21) for person in _people(seed)[index]]
    names: dict[int, str] = {}
    found = link(chunks)
    assert len(found.turns) == len(expected)
    for turn, (_, person) in zip(found.turns, expected, strict=True):
        assert names.setdefault(person, turn.speaker) == turn.speaker
    assert len(set(names.values())) == len(names)


def _people(seed: int) -> list[list[int]]:
    rng = random.Random(seed)
    return [rng.sample(range(9), rng.randint(1, 6)) for _ in range(21)]


def test_what_both_chunks_heard_in_their_overlap_says_who_is_who() -> None:
    """Voices that do not sound alike enough from chunk to chunk, but speak at the same times in both."""
    first = ChunkSpeakers(
        0,
        0,
        100,
        (_voice(1, 1, 1.1), _voice(2, 2, 1.1)),
        (VoiceTurn(10, 20, 0), VoiceTurn(90, 95, 0), VoiceTurn(95, 100, 1)),
        (),
    )
    heard_again = (VoiceTurn(90, 95, 1), VoiceTurn(95, 100, 0), VoiceTurn(120, 130, 0))
    second = ChunkSpeakers(1, 90, 190, (_voice(2, 3, 1.1), _voice(1, 4, 1.1)), heard_again, ())
    assert _cosine(first.voices[0], second.voices[1]) < 0.6
    assert link([first, second]).turns == (
        SpeakerTurn(10, 20, "SPEAKER_00"),
        SpeakerTurn(90, 95, "SPEAKER_00"),
        SpeakerTurn(95, 100, "SPEAKER_01"),
        SpeakerTurn(120, 130, "SPEAKER_01"),
    )


def _cosine(one: Voice, other: Voice) -> float:
    return math.fsum(a * b for a, b in zip(one.embedding, other.embedding, strict=True))


def test_a_turn_through_a_cut_is_one_and_is_told_once() -> None:
    first = _chunk(0, [1], [(80, 97, 0)])
    second = _chunk(1, [1], [(90, 105.5, 0)])
    found = link([first, second])
    assert found.turns == found.exclusive == (SpeakerTurn(80, 105.5, "SPEAKER_00"),)


def test_a_pause_inside_a_chunk_is_kept() -> None:
    found = link([_chunk(0, [1], [(1, 2, 0), (2.02, 3, 0)]), _chunk(1, [2])])
    assert [(turn.start, turn.end) for turn in found.turns[:2]] == [(1, 2), (2.02, 3)]


def test_overlapping_speech_is_kept() -> None:
    found = link([_chunk(0, [1, 2], [(1, 5, 0), (4, 8, 1)]), _chunk(1, [1])])
    assert [(turn.start, turn.end) for turn in found.turns[:2]] == [(1, 5), (4, 8)]


@pytest.mark.parametrize("most", [1, 2, 3])
def test_no_more_speakers_than_asked_for(most: int) -> None:
    found = link([_chunk(0, [1, 2]), _chunk(1, [3, 4]), _chunk(2, [5, 1])], most=most)
    assert len(set(_names(found))) == most


def test_of_an_exact_count_each_is_who_he_sounds_like_most() -> None:
    """Hardly alike from chunk to chunk, but asked to be two, they are the two they are."""
    chunks = [
        ChunkSpeakers(
            index,
            90.0 * index,
            90.0 * index + 100,
            (_voice(1, 10 * index, 1.1), _voice(2, 10 * index + 1, 1.1)),
            (VoiceTurn(90 * index + 20, 90 * index + 30, 0), VoiceTurn(90 * index + 40, 90 * index + 50, 1)),
            (),
        )
        for index in range(4)
    ]
    assert len(set(_names(link(chunks)))) > 2
    assert _names(link(chunks, fewest=2, most=2)) == ["SPEAKER_00", "SPEAKER_01"] * 4


def test_at_least_as_many_as_asked_for_where_there_are_so_many_voices() -> None:
    chunks = [_chunk(0, [1, 2]), _chunk(1, [1, 2])]
    assert len(set(_names(link(chunks, fewest=3)))) == 3
    assert len(set(_names(link(chunks, fewest=9)))) == 4


def test_voices_without_an_embedding_are_one_unknown_and_nobody_else() -> None:
    unknown = Voice((), 2.0)
    chunks = [
        ChunkSpeakers(
            index,
            90.0 * index,
            90.0 * index + 100,
            (_voice(1, index), unknown),
            (VoiceTurn(90 * index + 20, 90 * index + 30, 0), VoiceTurn(90 * index + 25, 90 * index + 27, 1)),
            (),
        )
        for index in range(3)
    ]
    assert _names(link(chunks)) == ["SPEAKER_00", "SPEAKER_01"] * 3


def test_of_exclusive_turns_no_two_are_at_the_same_time_across_a_cut_either() -> None:
    """Another's word in the gap of a cut stays where it is."""
    said = [(10.0, 94.96, 0), (94.96, 94.99, 1), (94.99, 99.0, 0)]
    after = [(94.96, 94.99, 1), (95.0, 120.0, 0)]
    found = link([_chunk(0, [1, 2], said), _chunk(1, [1, 2], after)])
    for one, other in itertools.pairwise(found.exclusive):
        assert one.end <= other.start
    assert [turn.speaker for turn in found.exclusive][:3] == ["SPEAKER_00", "SPEAKER_01", "SPEAKER_00"]


def test_linking_can_be_given_up() -> None:
    def give_up() -> None:
        raise GivenUpError

    with pytest.raises(GivenUpError):
        link([_chunk(index, [0, 1]) for index in range(3)], check=give_up)


class GivenUpError(Exception):
    pass
