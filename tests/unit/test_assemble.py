"""Who said what: every word goes to whom it was heard from, and segments end where the speaker changes."""

from __future__ import annotations

import random
from itertools import groupby

import pytest

from services.worker.pipeline.assemble import assign_speakers, without_words
from services.worker.work import Segment, SpeakerTurn, Word


def words(*times: tuple[float, float]) -> tuple[Word, ...]:
    return tuple(Word(f" w{number}", start, end, 0.5) for number, (start, end) in enumerate(times))


def segment(*times: tuple[float, float]) -> Segment:
    spoken = words(*times)
    return Segment(spoken[0].start, spoken[-1].end, "".join(word.text for word in spoken), words=spoken)


def turn(speaker: str, start: float, end: float) -> SpeakerTurn:
    return SpeakerTurn(start, end, speaker)


def speakers(turns: list[SpeakerTurn], *times: tuple[float, float]) -> str:
    """Who says each word; speakers have names of one letter."""
    assigned = assign_speakers([segment(*times)], turns)
    assert all(piece.speaker == word.speaker for piece in assigned for word in piece.words)
    return "".join(word.speaker for piece in assigned for word in piece.words)


def test_a_segment_is_cut_where_the_speaker_changes() -> None:
    first, second = assign_speakers([segment((0, 1), (1, 2), (2, 3))], [turn("A", 0, 2), turn("B", 2, 3)])
    assert (first.start, first.end, first.text, first.speaker) == (0, 2, " w0 w1", "A")
    assert (second.start, second.end, second.text, second.speaker) == (2, 3, " w2", "B")
    assert [word.speaker for word in first.words + second.words] == ["A", "A", "B"]


def test_a_segment_of_one_speaker_stays_whole_and_two_segments_stay_two() -> None:
    one, two = segment((0, 1), (1, 2)), segment((2, 3))
    assigned = assign_speakers([one, two], [turn("A", 0, 3)])
    assert [(piece.text, piece.speaker) for piece in assigned] == [(" w0 w1", "A"), (" w0", "A")]


def test_without_turns_nothing_changes() -> None:
    given = [segment((0, 1), (1, 2)), Segment(2, 3, " no words")]
    assert assign_speakers(given, ()) == tuple(given)
    assert assign_speakers([], [turn("A", 0, 1)]) == ()


def test_no_word_is_lost_or_changed_but_for_its_speaker() -> None:
    given = segment((0, 1), (1, 2), (2, 3), (3, 4))
    assigned = assign_speakers([given], [turn("A", 0, 1), turn("B", 1, 2), turn("A", 2, 3), turn("B", 3, 4)])
    assert [piece.speaker for piece in assigned] == ["A", "B", "A", "B"]
    kept = [(word.text, word.start, word.end, word.probability) for piece in assigned for word in piece.words]
    assert kept == [(word.text, word.start, word.end, word.probability) for word in given.words]


@pytest.mark.parametrize(
    ("word", "speaker"),
    [
        ((2.1, 2.4), "A"),
        ((4.6, 4.9), "B"),
        ((8.5, 9.0), "B"),
        ((-1.0, -0.5), "A"),
        ((2.0, 2.5), "A"),
        ((4.5, 5.0), "B"),
    ],
)
def test_a_word_between_turns_goes_to_the_nearest(word: tuple[float, float], speaker: str) -> None:
    assert speakers([turn("A", 0, 2), turn("B", 5, 8)], word) == speaker


def test_the_nearest_turn_before_a_word_is_the_one_that_ended_last() -> None:
    assert speakers([turn("A", 0, 9), turn("B", 1, 2), turn("C", 20, 21)], (9.5, 10)) == "A"


def test_a_word_goes_to_whom_its_later_half_is_heard_from_longest() -> None:
    turns = [turn("A", 0, 1.4), turn("B", 1.4, 3)]
    assert speakers(turns, (1.0, 2.0)) == "B"
    assert speakers(turns, (0.5, 1.7)) == "A"


def test_a_word_that_was_given_the_pause_before_it_goes_to_who_speaks_when_it_ends() -> None:
    turns = [turn("A", 0, 1.0), turn("B", 1.2, 3)]
    assert speakers(turns, (0.1, 0.6), (0.6, 1.5), (1.5, 2.0)) == "ABB"
    assert speakers(turns, (0.1, 0.6), (0.6, 1.1)) == "AA"


def test_what_is_heard_from_a_speaker_in_several_turns_counts_together() -> None:
    assert speakers([turn("A", 0, 0.3), turn("B", 0.3, 0.7), turn("A", 0.7, 1)], (0, 1)) == "A"


def test_of_two_who_are_heard_equally_long_the_one_who_spoke_before_goes_on() -> None:
    both = [turn("A", 0, 4), turn("B", 2, 6)]
    assert speakers(both, (1, 2), (2, 3), (3, 4)) == "AAA"
    assert speakers([*both, turn("B", 7, 8)], (4, 5), (3, 4)) == "BB"
    assert speakers([turn("A", 0, 0.5), turn("B", 0.5, 2)], (1, 2), (0, 1)) == "BB"


def test_a_thousandth_more_of_overlap_is_no_reason_to_change_speakers() -> None:
    assert speakers([turn("A", 0, 2.7502), turn("B", 2.75, 6)], (1, 2), (2, 3)) == "AA"
    assert speakers([turn("A", 0, 2.75), turn("B", 2.7498, 6)], (1, 2), (2, 3)) == "AA"


def test_a_short_turn_within_a_long_one_does_not_take_the_words_around_it() -> None:
    turns = [turn("A", 0, 100), turn("B", 40, 41)]
    assert speakers(turns, (39, 40), (40, 41), (41, 42), (80, 81)) == "AAAA"


def test_a_long_turn_is_found_behind_many_short_ones() -> None:
    short = [turn("B", start, start + 0.1) for start in range(1, 50)]
    assert speakers([turn("A", 0, 100), *short], (50, 51), (99, 100.5)) == "AA"


def test_a_text_that_cannot_be_cut_goes_to_whoever_is_heard_most_in_it() -> None:
    turns = [turn("A", 0, 4), turn("B", 4, 10), turn("A", 9, 12)]
    given = [Segment(0, 10, " everything"), Segment(20, 21, " late"), Segment(3, 3, " at once"), Segment(4, 5, "")]
    assert [piece.speaker for piece in assign_speakers(given, turns)] == ["B", "A", "A", "B"]
    assert [piece.text for piece in assign_speakers(given, turns)] == [whole.text for whole in given]


def test_a_text_without_words_times_is_cut_at_the_turns_by_how_long_each_is() -> None:
    turns = [turn("A", 0, 4), turn("B", 4, 10)]
    assert assign_speakers([Segment(0, 10, " 34 67 90 abcdefgh ij klm")], turns) == (
        Segment(0, 3.6, " 34 67 90", "A"),
        Segment(3.6, 10, " abcdefgh ij klm", "B"),
    )


def test_a_short_word_in_between_is_no_piece_of_a_text_whose_words_have_no_times() -> None:
    turns = [turn("A", 0, 4), turn("B", 4, 4.4), turn("A", 4.4, 6), turn("B", 6, 10)]
    text = "".join(f" {number:03}" for number in range(25))
    first, second = assign_speakers([Segment(0, 10, text)], turns)
    assert (first.speaker, second.speaker, first.text + second.text) == ("A", "B", text)
    assert first.end == second.start == pytest.approx(6.0)


def test_words_can_be_left_out() -> None:
    given = segment((0, 1), (1, 2))
    assert without_words([given]) == (Segment(0, 2, " w0 w1"),)


# --- against an answer that is slow and plain


def heard(turns: list[SpeakerTurn], start: float, end: float) -> dict[str, float]:
    found: dict[str, float] = {}
    for spoken in turns:
        overlap = min(end, spoken.end) - max(start, spoken.start)
        if overlap > 0:
            found[spoken.speaker] = found.get(spoken.speaker, 0) + overlap
    return found


def may_say(turns: list[SpeakerTurn], start: float, end: float, before: str) -> set[str]:
    """Whoever a word may go to, looking at every turn."""
    found = heard(turns, start, end)
    if found:
        most = {speaker for speaker, overlap in found.items() if overlap == max(found.values())}
        return {before} if before in most else most
    away = {spoken: max(spoken.start - end, start - spoken.end) for spoken in turns}
    return {spoken.speaker for spoken, distance in away.items() if distance == min(away.values())}


def quarters(rng: random.Random, longest: int) -> tuple[float, float]:
    """A stretch in quarters of a second, which add up without rounding."""
    start, length = rng.randrange(400), rng.randrange(1, longest)
    return start / 4, (start + length) / 4


@pytest.mark.parametrize("seed", range(30))
def test_any_words_go_where_looking_at_every_turn_sends_them(seed: int) -> None:
    rng = random.Random(seed)
    longest = rng.choice([4, 12, 200])
    turns = sorted(
        (turn(rng.choice("ABCD"), *quarters(rng, longest)) for _ in range(rng.randrange(1, 60))),
        key=lambda spoken: (spoken.start, spoken.end),
    )
    given = [segment(*sorted(quarters(rng, 6) for _ in range(rng.randrange(1, 30)))) for _ in range(10)]
    for whole in given:
        pieces = assign_speakers([whole], turns)
        before = ""
        for word in (word for piece in pieces for word in piece.words):
            assert word.speaker in may_say(turns, (word.start + word.end) / 2, word.end, before)
            before = word.speaker
        runs = groupby((word for piece in pieces for word in piece.words), key=lambda word: word.speaker)
        assert [(piece.speaker, piece.words) for piece in pieces] == [(name, tuple(run)) for name, run in runs]
        assert "".join(piece.text for piece in pieces) == whole.text


@pytest.mark.parametrize("seed", range(10))
def test_any_segments_without_words_go_where_looking_at_every_turn_sends_them(seed: int) -> None:
    rng = random.Random(seed)
    spoken = [turn(rng.choice("ABC"), *quarters(rng, 40)) for _ in range(40)]
    turns = sorted(spoken, key=lambda one: (one.start, one.end))
    given = [Segment(*quarters(rng, 120), " text") for _ in range(50)]
    for whole in assign_speakers(given, turns):
        assert whole.speaker in may_say(turns, whole.start, whole.end, "")
