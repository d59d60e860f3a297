"""From words to segments as people read them: cut at the ends of sentences, at pauses, and where they grow too long. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise

from services.worker.work import Segment, Word

PAUSE_SECONDS = 0.8
"""A silence between two words that ends a segment."""

LONGEST_SECONDS, LONGEST_CHARACTERS = 12.0, 160
"""About what two lines of a subtitle hold, and how long they can stand."""

_SENTENCE_ENDS = tuple(".?!…。？！")  # noqa: RUF001 - what Chinese and Japanese sentences end with
_CLAUSE_ENDS = tuple(",;:،、，；：")  # noqa: RUF001 - likewise
_CLOSING = "\"'”’)]}»」』"  # noqa: RUF001 - what may follow a sentence's end
_FEWEST_CHARACTERS = 12
"""So short a sentence ("Yes.") stays with what follows at once."""


def cut_sentences(words: Sequence[Word]) -> list[tuple[Word, ...]]:
    """Runs of words that make a segment each; all words, in their order."""
    sentences: list[list[Word]] = [[]]
    for word, following in _with_next(words):
        sentences[-1].append(word)
        if following is not None and _ends(sentences[-1], following):
            sentences.append([])
    return [piece for sentence in sentences if sentence for piece in _short_enough(tuple(sentence))]


def segments_of(words: Sequence[Word]) -> tuple[Segment, ...]:
    return tuple(
        Segment(run[0].start, run[-1].end, "".join(word.text for word in run), words=run)
        for run in cut_sentences(words)
    )


def spread(segment: Segment) -> tuple[Segment, ...]:
    """The sentences of a text whose words have no times. They get none."""
    return tuple(replace(sentence, words=()) for sentence in segments_of(spread_words(segment)))


def spread_words(segment: Segment) -> list[Word]:
    """A text's words with the times that they may have: as if every letter took the same."""
    texts = re.findall(r"\s*\S+", segment.text)
    ends = list(accumulate(map(len, texts)))
    times = [round(segment.start + (segment.end - segment.start) * end / ends[-1], 3) for end in ends[:-1]]
    starts, stops = [segment.start, *times], [*times, segment.end]
    return [Word(text, start, stop, 0.0) for text, start, stop in zip(texts, starts, stops, strict=False)]


def _with_next(words: Sequence[Word]) -> Iterator[tuple[Word, Word | None]]:
    yield from pairwise(words)
    if words:
        yield words[-1], None


def _ends(sentence: Sequence[Word], following: Word) -> bool:
    pause = following.start - sentence[-1].end
    if pause >= PAUSE_SECONDS:
        return True
    text = "".join(word.text for word in sentence).strip().rstrip(_CLOSING)
    return text.endswith(_SENTENCE_ENDS) and len(text) >= _FEWEST_CHARACTERS


def _short_enough(words: tuple[Word, ...]) -> list[tuple[Word, ...]]:
    """Halves what is too long, at the best place near its middle."""
    length = sum(len(word.text) for word in words)
    if len(words) < 2 or (words[-1].end - words[0].start <= LONGEST_SECONDS and length <= LONGEST_CHARACTERS):
        return [words]
    cut = max(range(1, len(words)), key=lambda place: _fitness(words, place))
    return [*_short_enough(words[:cut]), *_short_enough(words[cut:])]


def _fitness(words: Sequence[Word], place: int) -> float:
    """How well a segment could end before the word at ``place``: after a comma, in a pause, near the middle."""
    before, after = words[place - 1], words[place]
    clause = 1.0 if before.text.rstrip(_CLOSING).endswith(_CLAUSE_ENDS) else 0.0
    pause = min(1.0, max(0.0, after.start - before.end))
    off_middle = abs(2 * place / len(words) - 1)
    return clause + 2 * pause - 2 * off_middle
