"""Transcripts and the formats they are offered in: pure values and text, no protobuf, no I/O.

Times are seconds from the beginning of the recording. Every format shows speakers where they are known.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import pysubs2

from gateway.answers import SegmentAnswer, StretchAnswer, TurnAnswer, WordAnswer

Format = Literal["json", "txt", "srt", "vtt", "md", "tsv"]

CONTENT_TYPES: dict[Format, str] = {
    "json": "application/json",
    "txt": "text/plain",
    "srt": "application/x-subrip",
    "vtt": "text/vtt",
    "md": "text/markdown",
    "tsv": "text/tab-separated-values",
}


@dataclass(frozen=True, slots=True)
class Word:
    """``text`` keeps its leading space; ``probability`` is the model's, 0 to 1; ``speaker`` "" for unknown."""

    text: str
    start: float
    end: float
    probability: float
    speaker: str


@dataclass(frozen=True, slots=True)
class Segment:
    id: int
    start: float
    end: float
    text: str
    speaker: str
    words: tuple[Word, ...]


@dataclass(frozen=True, slots=True)
class Turn:
    """One speaker's uninterrupted speech; turns may overlap."""

    start: float
    end: float
    speaker: str


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of the recording."""

    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Transcript:
    """``speakers`` and ``turns`` are empty without diarization; ``segments``, ``turns`` and ``silent_stretches`` (where
    voice was heard that gave no words) are in the order of time."""

    language: str
    duration: float
    speakers: tuple[str, ...]
    filename: str
    segments: tuple[Segment, ...]
    turns: tuple[Turn, ...] = ()
    silent_stretches: tuple[Stretch, ...] = ()

    @property
    def text(self) -> str:
        """The segments' texts, one space between words."""
        return " ".join(filter(None, (one_line(segment.text) for segment in self.segments)))


def render(transcript: Transcript, form: Format) -> Iterator[str]:
    """The transcript's text in pieces, so that a long one is neither held twice nor blocks the event loop for long."""
    return _RENDERERS[form](transcript)


def one_line(text: str) -> str:
    return " ".join(text.split())


def segment_answer(segment: Segment) -> SegmentAnswer:
    """A segment as every JSON of the API shows it: the transcript's and the events'."""
    return {
        "id": segment.id,
        "start": segment.start,
        "end": segment.end,
        "text": segment.text,
        "speaker": segment.speaker or None,
        "words": [_word_answer(word) for word in segment.words],
    }


def stretch_answers(stretches: Iterable[Stretch]) -> list[StretchAnswer]:
    return [{"start": stretch.start, "end": stretch.end} for stretch in stretches]


def _word_answer(word: Word) -> WordAnswer:
    answer: WordAnswer = {"word": word.text, "start": word.start, "end": word.end, "probability": word.probability}
    if word.speaker:
        answer["speaker"] = word.speaker
    return answer


def compact_json(value: object) -> str:
    """JSON on one line, letters of all scripts as they are."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _json(transcript: Transcript) -> Iterator[str]:
    yield f'{{"language":{compact_json(transcript.language)},"duration":{compact_json(transcript.duration)},'
    yield f'"text":{compact_json(transcript.text)},"segments":['
    for number, segment in enumerate(transcript.segments):
        yield f"{',' if number else ''}{compact_json(segment_answer(segment))}"
    turns: list[TurnAnswer] = [
        {"start": turn.start, "end": turn.end, "speaker": turn.speaker} for turn in transcript.turns
    ]
    yield f'],"speakers":{compact_json(transcript.speakers)},"turns":{compact_json(turns)},'
    yield f'"silentStretches":{compact_json(stretch_answers(transcript.silent_stretches))}}}\n'


def _txt(transcript: Transcript) -> Iterator[str]:
    for segment in _spoken(transcript):
        yield f"{_label(segment)}{one_line(segment.text)}\n"


def _tsv(transcript: Transcript) -> Iterator[str]:
    yield "start\tend\tspeaker\ttext\n"
    for segment in _spoken(transcript):
        yield f"{segment.start:.3f}\t{segment.end:.3f}\t{one_line(segment.speaker)}\t{one_line(segment.text)}\n"


def _md(transcript: Transcript) -> Iterator[str]:
    yield f"# {_escaped_markdown(one_line(transcript.filename))}\n\n"
    yield f"- Language: {transcript.language or 'unknown'}\n- Duration: {_clock(transcript.duration)}\n"
    if transcript.speakers:
        yield f"- Speakers: {', '.join(_escaped_markdown(speaker) for speaker in transcript.speakers)}\n"
    for segment in _spoken(transcript):
        speaker = f" **{_escaped_markdown(segment.speaker)}:**" if segment.speaker else ""
        yield f"\n`{_clock(segment.start)}`{speaker} {_escaped_markdown(one_line(segment.text))}\n"


def _srt(transcript: Transcript) -> Iterator[str]:
    yield _subtitles(transcript, "srt", lambda segment: f"{_label(segment)}{one_line(segment.text)}")


def _vtt(transcript: Transcript) -> Iterator[str]:
    yield _subtitles(transcript, "vtt", _voice)


_SEEN_MS = 300
"""How long a subtitle of no length is shown: words may have been timed to one and the same moment."""


def _subtitles(transcript: Transcript, form: str, line: Callable[[Segment], str]) -> str:
    subtitles = pysubs2.SSAFile()
    for segment in _spoken(transcript):
        start, end = round(segment.start * 1000), round(segment.end * 1000)
        shown_until = end if end > start else start + _SEEN_MS
        subtitles.append(pysubs2.SSAEvent(start=start, end=shown_until, text=_verbatim(line(segment))))
    text: str = subtitles.to_string(form, keep_ssa_tags=True)
    return text


def _verbatim(text: str) -> str:
    """pysubs2 reads \\N, \\n and \\h as white space and cannot escape them: a word joiner (no width) parts them."""
    return re.sub(r"\\(?=[Nnhp])", "\\\\\u2060", text)


def _voice(segment: Segment) -> str:
    text = html.escape(one_line(segment.text), quote=False)
    return f"<v {html.escape(one_line(segment.speaker), quote=False)}>{text}" if segment.speaker else text


def _spoken(transcript: Transcript) -> Iterator[Segment]:
    return (segment for segment in transcript.segments if segment.text.strip())


def _label(segment: Segment) -> str:
    return f"{one_line(segment.speaker)}: " if segment.speaker else ""


def _escaped_markdown(text: str) -> str:
    """A "_" inside of a word means nothing there, so that SPEAKER_00 is found by its name."""
    return re.sub(r"([\\`*\[\]<>|#~&]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", text)


def _clock(seconds: float) -> str:
    whole = int(seconds)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}"


_RENDERERS: dict[Format, Callable[[Transcript], Iterator[str]]] = {
    "json": _json,
    "txt": _txt,
    "srt": _srt,
    "vtt": _vtt,
    "md": _md,
    "tsv": _tsv,
}
