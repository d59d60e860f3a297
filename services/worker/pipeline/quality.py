"""Whether a decoded window can be trusted, and which of several tries is the best. Pure.

The thresholds are Whisper's own (openai/whisper, ``transcribe.py``). What it does at higher temperatures is done here by
searching differently, without sampling: a window's text depends on nothing but the window.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import pairwise

from services.worker.work import Segment

COMPRESSION_RATIO_THRESHOLD = 2.4
LOG_PROB_THRESHOLD = -1.0
NO_SPEECH_THRESHOLD = 0.6

LOOP_REPEATS, LOOP_SHARE = 5, 0.3
"""The same tokens so many times in a row, and that much of the text, are a loop: people who repeat themselves stop sooner."""

LOOP_PERIOD = 12
"""The longest phrase, in tokens, that is looked for."""

WORTH = 0.1
"""How much surer (mean log-probability) a try must not be less than the first one, to take its place for repetition alone."""


LONGEST_GAP_SECONDS = 6.0
"""Of speech, its silences cut out, in which no word begins: longer than anybody draws out a word."""


class Verdict(Enum):
    GOOD = "good"
    LOOPS = "loops"  # the same words again and again, or never an end
    REPEATS = "repeats"  # compresses too well: a loop, or somebody who repeats himself
    UNSURE = "unsure"
    SILENT = "silent"  # the model itself takes it for no speech
    EMPTY = "empty"  # no letter and no digit: some models say "..." or a note's sign of what is no speech


@dataclass(frozen=True, slots=True)
class Try:
    """What one search found. ``log_prob`` is the mean over the tokens, end included; ``ended`` whether it came to its end
    before the limit of its length."""

    tokens: tuple[int, ...]
    text: str
    log_prob: float
    no_speech_prob: float
    ended: bool = True


def judge(tried: Try) -> Verdict:
    if not any(character.isalnum() for character in tried.text):
        return Verdict.EMPTY
    if tried.no_speech_prob > NO_SPEECH_THRESHOLD and tried.log_prob < LOG_PROB_THRESHOLD:
        return Verdict.SILENT
    if not tried.ended or loops(tried.tokens):
        return Verdict.LOOPS
    if compression_ratio(tried.text) > COMPRESSION_RATIO_THRESHOLD:
        return Verdict.REPEATS
    return Verdict.UNSURE if tried.log_prob < LOG_PROB_THRESHOLD else Verdict.GOOD


def best(tries: Sequence[Try]) -> Try:
    """The first that is good, unless another was only suspected of repetition and is surer; else the surest that is
    no loop and has words. What the model itself takes for no speech loses its text, as in Whisper; so does what has no word, and
    what found no end. ``tries`` are in the order of the searches, and at least one."""
    verdicts = [judge(tried) for tried in tries]
    first = tries[0]
    for tried, verdict in zip(tries, verdicts, strict=True):
        if verdict is Verdict.GOOD:
            repeats_only = verdicts[0] is Verdict.REPEATS and first.log_prob > tried.log_prob + WORTH
            return first if repeats_only else tried
    chosen, verdict = max(zip(tries, verdicts, strict=True), key=lambda pair: (_RANK[pair[1]], pair[0].log_prob))
    is_nothing = verdict in (Verdict.SILENT, Verdict.EMPTY) or (verdict is Verdict.LOOPS and not chosen.ended)
    return replace(chosen, tokens=(), text="") if is_nothing else chosen


_RANK = {
    Verdict.GOOD: 5,
    Verdict.REPEATS: 4,
    Verdict.UNSURE: 3,
    Verdict.LOOPS: 2,
    Verdict.SILENT: 1,
    Verdict.EMPTY: 0,
}


def has_dropout(segments: Sequence[Segment], seconds: float, voiced: Callable[[float], float] = float) -> bool:
    """Whether words may be missing from a window of so many seconds: none were found, or none in a long stretch of
    voice. ``segments`` in seconds from the window's beginning; of words that were not timed nothing is known. ``voiced``: of such
    a time, how much voice is heard before it."""
    if not segments:
        return voiced(seconds) > 0
    words = [word for segment in segments for word in segment.words]
    if not words:
        return False
    beginnings = [0.0, *(voiced(word.start) for word in words), voiced(seconds)]
    return any(after - before > LONGEST_GAP_SECONDS for before, after in pairwise(beginnings))


def compression_ratio(text: str) -> float:
    """How much shorter zlib makes the text: the more it repeats, the more."""
    encoded = text.encode()
    return len(encoded) / len(zlib.compress(encoded))


def loops(tokens: Sequence[int]) -> bool:
    """Whether a phrase is repeated LOOP_REPEATS times in a row, over LOOP_SHARE of all tokens or more."""
    for period in range(1, min(LOOP_PERIOD, len(tokens) // LOOP_REPEATS) + 1):
        run = longest = 0
        for position in range(period, len(tokens)):
            run = run + 1 if tokens[position] == tokens[position - period] else 0
            longest = max(longest, run)
        length = longest + period
        if length >= period * LOOP_REPEATS and length >= LOOP_SHARE * len(tokens) and longest:
            return True
    return False
