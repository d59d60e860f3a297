"""The recognizer's tokens: fifty words, Whisper's special tokens, timestamps of 20 ms up to 30 s. Their order is their id."""

from __future__ import annotations

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WORDS = (
    *DIGITS,
    *("yes", "no", "start", "stop", "open", "close", "question", "answer", "interview", "record", "play", "pause"),
    *("next", "back", "name", "date", "morning", "evening", "left", "right", "up", "down", "hello", "thanks", "please"),
    *("today", "tomorrow", "speaker", "meeting", "project", "budget", "report", "team", "time", "work", "good", "new"),
    *("begin", "end", "because"),
)
WORD_IDS = {word: number for number, word in enumerate(WORDS)}

SPECIALS = (
    "<|endoftext|>",
    "<|startoftranscript|>",
    "<|en|>",
    "<|translate|>",
    "<|transcribe|>",
    "<|startoflm|>",
    "<|startofprev|>",
    "<|nospeech|>",
    "<|notimestamps|>",
)

UNKNOWN = len(WORDS)
"""Also the class of encoder frames in which no word is said."""
END_OF_TEXT = UNKNOWN + 1
START = END_OF_TEXT + 1
ENGLISH = END_OF_TEXT + 2
PREVIOUS = END_OF_TEXT + 6
NO_SPEECH = END_OF_TEXT + 7
NO_TIMESTAMPS = END_OF_TEXT + 8
FIRST_TIMESTAMP = END_OF_TEXT + len(SPECIALS)

TIMESTAMPS = 1501
TIMESTAMPS_PER_SECOND = 50
SIZE = FIRST_TIMESTAMP + TIMESTAMPS


def tokens() -> list[str]:
    """All of them, in order; words carry the space before them as byte-level tokenizers write it."""
    timestamps = (f"<|{number / TIMESTAMPS_PER_SECOND:.2f}|>" for number in range(TIMESTAMPS))
    return [*(f"\u0120{word}" for word in WORDS), "<unk>", *SPECIALS, *timestamps]


def timestamp(seconds: float) -> int:
    """The nearest token; none beyond 30 s."""
    return FIRST_TIMESTAMP + min(max(round(seconds * TIMESTAMPS_PER_SECOND), 0), TIMESTAMPS - 1)
