"""Segments as people read them."""

from __future__ import annotations

from services.worker.pipeline.sentences import (
    LONGEST_CHARACTERS,
    LONGEST_SECONDS,
    cut_sentences,
    segments_of,
)
from services.worker.work import Word


def spoken(text: str, pauses: dict[int, float] | None = None, seconds: float = 0.3) -> list[Word]:
    """One word after the other; ``pauses`` come before the words of these numbers."""
    words, now = [], 0.0
    for number, word in enumerate(text.split()):
        now += (pauses or {}).get(number, 0.0)
        words.append(Word(f" {word}", round(now, 2), round(now + seconds, 2), 0.9))
        now += seconds
    return words


def texts(words: list[Word]) -> list[str]:
    return ["".join(word.text for word in run).strip() for run in cut_sentences(words)]


def test_sentences_end_where_people_end_them() -> None:
    words = spoken("I was there. You were not! Was he? He said: never mind.")
    assert texts(words) == ["I was there.", "You were not!", "Was he? He said: never mind."]


def test_a_quotation_mark_may_follow_the_end() -> None:
    assert texts(spoken('He said "come over here." She did not.')) == ['He said "come over here."', "She did not."]


def test_a_pause_ends_a_segment() -> None:
    assert texts(spoken("one two three four", {2: 0.9})) == ["one two", "three four"]
    assert texts(spoken("one two three four", {2: 0.5})) == ["one two three four"]


def test_what_is_too_long_is_cut_in_its_largest_pause_near_the_middle() -> None:
    words = spoken("a " * 50, {22: 0.6, 3: 0.6})
    runs = cut_sentences(words)
    assert len(runs[0]) == 22
    assert all(run[-1].end - run[0].start <= LONGEST_SECONDS for run in runs)


def test_long_text_is_cut_by_its_characters_too_after_a_comma() -> None:
    words = spoken("extraordinarily " * 7 + "long, " + "extraordinarily " * 7, seconds=0.1)
    runs = cut_sentences(words)
    assert runs[0][-1].text == " long,"
    assert all(sum(len(word.text) for word in run) <= LONGEST_CHARACTERS for run in runs)


def test_no_word_is_lost_and_times_are_those_of_the_words() -> None:
    words = spoken("well " * 200)
    made = segments_of(words)
    assert [word for segment in made for word in segment.words] == words
    assert "".join(segment.text for segment in made) == "".join(word.text for word in words)
    assert all((s.start, s.end) == (s.words[0].start, s.words[-1].end) for s in made)


def test_nothing_and_one_endless_word() -> None:
    assert segments_of([]) == ()
    assert len(segments_of([Word(" ah", 0.0, 29.0, 0.5)])) == 1
