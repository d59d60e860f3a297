"""What synthetic people say: words that nobody knows in training, real English in what is measured.

Who speaks does not depend on what is said; made words hold every sound in any order, need no list of words, and leave
real sentences unheard.
"""

from __future__ import annotations

import random
import re
from pathlib import Path

_ONSETS = (
    *("b", "d", "f", "g", "h", "j", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w", "y", "z"),
    *("bl", "br", "ch", "cl", "cr", "dr", "fl", "fr", "gl", "gr", "pl", "pr", "sh", "sk", "sl", "sp", "st", "str"),
    *("th", "tr", "tw", "wh", ""),
)
_NUCLEI = ("a", "e", "i", "o", "u", "ai", "ea", "ee", "oo", "ou", "oa", "ow", "er", "ar", "or")
_CODAS = ("", "", "", "n", "t", "s", "l", "d", "m", "k", "p", "ng", "nd", "st", "nt", "ck", "sh", "th", "ll", "ve")
_COMMON = (
    *("the", "a", "of", "and", "to", "is", "it", "we", "you", "that", "not", "for", "one", "two", "seven", "yes", "no"),
    *("well", "so", "today"),
)
_COMMON_SHARE = 0.25
_LENGTHS = (2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14)
_REAL_LENGTHS = (2, 3, 4, 6, 8, 10, 12, 15)
_REAL_TEXT = Path(__file__).resolve().parents[3] / "LICENSE"


def made_sentence(drawn: random.Random) -> str:
    words = [
        drawn.choice(_COMMON) if drawn.random() < _COMMON_SHARE else _made_word(drawn)
        for _ in range(drawn.choice(_LENGTHS))
    ]
    if len(words) > 6 and drawn.random() < 0.4:
        words[len(words) // 2] += ","
    return " ".join(words) + drawn.choice((".", ".", "?", "!"))


def _made_word(drawn: random.Random) -> str:
    syllables = drawn.choice((1, 1, 2, 2, 3))
    return "".join(drawn.choice(_ONSETS) + drawn.choice(_NUCLEI) + drawn.choice(_CODAS) for _ in range(syllables))


class RealSentences:
    """Stretches of the licence's text: English that is always there and never changes."""

    def __init__(self) -> None:
        text = re.sub(r"[^A-Za-z,.\s]", " ", _REAL_TEXT.read_text(encoding="utf-8")).lower()
        self._words = [word for word in text.split() if word.strip(",.")]

    def draw(self, drawn: random.Random) -> str:
        count = drawn.choice(_REAL_LENGTHS)
        first = drawn.randrange(len(self._words) - count)
        return " ".join(self._words[first : first + count]).strip(",.") + "."
