"""Where somebody speaks: silero's voice detector over a stream, and the rules that make spans of what it hears.

Gives the spans of faster-whisper's ``get_speech_timestamps``, which wants the whole recording in memory. The rules are
silero-vad's (``get_speech_timestamps`` of ``utils_vad.py``), with the options of faster-whisper's batched pipeline.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from faster_whisper.vad import get_vad_model
from numpy.typing import NDArray

from services.worker.pipeline.windows import SAMPLE_RATE, Span

FRAME = 512
"""Samples that the detector judges at once."""

CONTEXT = 64
"""Samples of the frame before that it hears as well."""

THRESHOLD, SILENCE_THRESHOLD = 0.5, 0.35

# Spans break at short pauses, since they are joined again to full windows.
MIN_SILENCE = SAMPLE_RATE * 160 // 1000

PAUSE_TO_CUT = SAMPLE_RATE * 98 / 1000
"""A silence in which a span that grows too long is cut."""

PADDING = SAMPLE_RATE * 400 // 1000
"""Kept on both sides of speech, as far as there is room."""

_FRAMES_AT_ONCE = 2048  # a minute


class VoiceDetector:
    """How probably each frame of one recording is speech; to be fed piece by piece, and finished once."""

    def __init__(self) -> None:
        self._session: Any = get_vad_model().session
        self._hidden = np.zeros((1, 1, 128), np.float32)
        self._cell = np.zeros((1, 1, 128), np.float32)
        self._context = np.zeros(CONTEXT, np.float32)
        self._waiting: list[NDArray[np.float32]] = []
        self._count = 0
        self._found: list[NDArray[np.float32]] = []

    def feed(self, samples: NDArray[np.float32]) -> None:
        self._waiting.append(samples)
        self._count += len(samples)
        if self._count >= FRAME * _FRAMES_AT_ONCE:
            self._judge(self._count - self._count % FRAME)

    def finish(self) -> NDArray[np.float32]:
        """(frames,) of all. The last frame is filled up with silence, and is all of it where the recording ends with one."""
        self.feed(np.zeros(FRAME - self._count % FRAME, np.float32))
        self._judge(self._count)
        return np.concatenate(self._found)

    def _judge(self, count: int) -> None:
        if not count:
            return
        samples = np.concatenate(self._waiting)
        self._waiting = [samples[count:]]
        self._count -= count
        frames = samples[:count].reshape(-1, FRAME)
        for first in range(0, len(frames), _FRAMES_AT_ONCE):
            self._run(frames[first : first + _FRAMES_AT_ONCE])

    def _run(self, frames: NDArray[np.float32]) -> None:
        before = np.concatenate([self._context[None], frames[:-1, -CONTEXT:]])
        self._context = frames[-1, -CONTEXT:]
        heard = np.concatenate([before, frames], axis=1)
        found, self._hidden, self._cell = self._session.run(None, {"input": heard, "h": self._hidden, "c": self._cell})
        self._found.append(np.asarray(found, np.float32).reshape(-1))


def speech_spans(probabilities: Iterable[float], samples: int, max_seconds: float) -> list[Span]:
    """From the probability of each frame of a recording of so many samples. No span is longer than ``max_seconds``, or
    nearly so: the padding is put around afterwards."""
    longest = SAMPLE_RATE * max_seconds - FRAME - 2 * PADDING
    return _padded(list(_raw_spans(probabilities, samples, longest)), samples)


def _raw_spans(probabilities: Iterable[float], samples: int, longest: float) -> Iterator[Span]:
    """A span begins at a frame over THRESHOLD, and ends where MIN_SILENCE follows that is under SILENCE_THRESHOLD. One that
    grows too long is cut in its last pause, or else where it is."""
    start: int | None = None
    silent_since = 0  # where the silence that is heard now began
    cut_at = cut_to = 0  # the last pause in which it could be cut, and where speech went on after it
    for number, probability in enumerate(probabilities):
        now = FRAME * number
        if probability >= THRESHOLD and silent_since:
            silent_since = 0
            if cut_to < cut_at:
                cut_to = now
        if probability >= THRESHOLD and start is None:
            start = now
            continue
        if start is not None and now - start > longest:
            if cut_at:
                yield Span(start, cut_at)
                # where speech did not go on since the pause, nobody speaks now
                start = None if cut_to < cut_at else cut_to
                silent_since = cut_at = cut_to = 0
            else:
                yield Span(start, now)
                start = None
                silent_since = cut_at = cut_to = 0
                continue
        if probability < SILENCE_THRESHOLD and start is not None:
            silent_since = silent_since or now
            if now - silent_since > PAUSE_TO_CUT:
                cut_at = silent_since
            if now - silent_since >= MIN_SILENCE:
                if silent_since > start:
                    yield Span(start, silent_since)
                start = None
                silent_since = cut_at = cut_to = 0
    if start is not None and samples > start:
        yield Span(start, samples)


def _padded(spans: list[Span], samples: int) -> list[Span]:
    """A silence between two spans that is too short for both paddings is shared."""
    starts, ends = [span.start for span in spans], [span.end for span in spans]
    if starts:
        starts[0] = max(0, starts[0] - PADDING)
        ends[-1] = min(samples, ends[-1] + PADDING)
    for number in range(len(spans) - 1):
        silence = spans[number + 1].start - spans[number].end
        padding = silence // 2 if silence < 2 * PADDING else PADDING
        ends[number] = min(samples, ends[number] + padding)
        starts[number + 1] = max(0, starts[number + 1] - padding)
    return [Span(start, end) for start, end in zip(starts, ends, strict=True)]
