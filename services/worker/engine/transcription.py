"""One job's windows on their way through the device, given out in their order.

What ends is looked at when it ends and not when its turn comes: what has to be decoded again is in line at once, beside the
windows behind it, so that the device is not kept for one window's sake.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

import structlog

from services.worker.engine.decoding import Request, Voice
from services.worker.engine.lanes import JobLine
from services.worker.pipeline.faults import WorkCanceled
from services.worker.pipeline.quality import has_dropout
from services.worker.pipeline.recording import PreparedRecording
from services.worker.pipeline.sentences import segments_of, spread
from services.worker.pipeline.windows import SpeechWindow, halves, to_recording_time
from services.worker.work import AttemptKey, Segment

log = structlog.get_logger()

_LOOK_SECONDS = 0.1
"""How often a job that waits for the device looks whether it was canceled."""

IN_HAND_SECONDS = 60.0
"""How long a job that ends early waits for its windows that are on the device."""

_TIMES_AHEAD = 3
"""Windows that were begun and not given out, of those that may be in line: one that is decoded again must not stop the others."""


@dataclass(slots=True, eq=False)
class _Window:
    """``whole``: what its text as a whole is decoded by, until it is; ``parts`` what is decoded again, with what was found. It is
    settled by ``segments`` or an ``error``."""

    window: SpeechWindow
    whole: Request | None = None
    placed: tuple[Segment, ...] = ()
    is_doubtful: bool = False
    parts: dict[Request, tuple[SpeechWindow, tuple[Segment, ...] | None]] = field(default_factory=dict)
    segments: tuple[Segment, ...] | None = None
    error: BaseException | None = None

    @property
    def is_settled(self) -> bool:
        return self.segments is not None or self.error is not None


class Transcription:
    """``ahead`` tells how many windows may be in line just now; ``line`` is the job's own."""

    def __init__(
        self,
        key: AttemptKey,
        voice: Voice,
        line: JobLine,
        recording: PreparedRecording,
        is_canceled: Callable[[], bool],
        ahead: Callable[[], int],
    ) -> None:
        self._key = key
        self._voice = voice
        self._line = line
        self._recording = recording
        self._is_canceled = is_canceled
        self._ahead = ahead
        self._begun: set[Request] = set()
        self._ended: SimpleQueue[tuple[_Window, Request] | None] = SimpleQueue()
        self._in_line = 0

    def leave(self) -> None:
        """What waits in line is forgotten; what a lane has in hand uses the model, and is waited for."""
        self._line.close()
        futures.wait([request.done for request in self._begun if not request.done.done()], IN_HAND_SECONDS)

    def windows(
        self, wanted: Sequence[SpeechWindow], beside: Future[Any]
    ) -> Iterator[tuple[SpeechWindow, tuple[Segment, ...]]]:
        """The segments of each in the recording's time. ``beside``: what else the job waits for; what it raises is raised.

        Once the job is canceled, what a lane has in hand is given out still, and nothing else: it may be the last window, or
        the next attempt's first. Raises WorkCanceled then, and what the device raised for a window at its turn.
        """
        missing, begun = deque(wanted), deque[_Window]()
        beside.add_done_callback(lambda _: self._ended.put(None))
        while missing or begun:
            self._refill(missing, begun)
            if not begun:
                raise WorkCanceled
            if beside.done() and not self._is_canceled():
                beside.result()
            if not begun[0].is_settled:
                self._take_ended()
                continue
            head = begun.popleft()
            if head.error is not None:
                raise head.error
            yield head.window, head.segments or ()
        self._line.rest(True)  # from the beginning where nothing is wanted

    # --- into line

    def _refill(self, missing: deque[SpeechWindow], begun: deque[_Window]) -> None:
        while missing and not self._is_canceled():
            ahead = self._ahead()
            room = min(len(missing), ahead - self._in_line, _TIMES_AHEAD * ahead - len(begun))
            if room <= 0:
                break
            self._line.expect(room, len(missing) > room)
            one = _Window(missing.popleft())
            one.whole = self._begin(one, one.window)
            self._in_line += 1
            begun.append(one)
        self._line.expect(0, bool(missing) and self._in_line > 0)
        self._line.rest(not self._in_line)

    def _begin(self, of: _Window, window: SpeechWindow, *, part: bool = False, search: int = 0) -> Request:
        features = self._voice.features.of(self._recording.cut_out(window))
        words = self._voice.model.times_words
        request = Request(self._key, window.index, self._voice, features, window.seconds, words, part, search)

        def ended(_: object) -> None:
            request.features = None  # the future keeps this function, and so the request
            self._ended.put((of, request))

        request.done.add_done_callback(ended)
        self._begun.add(request)
        self._line.put(request)
        return request

    # --- out of it

    def _take_ended(self) -> None:
        """Waits for something to end, and takes all that has."""
        try:
            ended = self._ended.get(timeout=_LOOK_SECONDS)
        except Empty:
            if self._is_canceled():
                self._line.close()
            return
        while True:
            if ended is not None:
                self._take(*ended)
            try:
                ended = self._ended.get_nowait()
            except Empty:
                return

    def _take(self, one: _Window, request: Request) -> None:
        self._begun.discard(request)
        if one.is_settled:
            return
        try:
            found = request.done.result()
            if request is one.whole:
                self._look_at(one, request, found)
            else:
                part, _ = one.parts[request]
                one.parts[request] = part, self._in_place(found, part)
        except futures.CancelledError:
            one.error = WorkCanceled()
        except Exception as error:  # noqa: BLE001 - it is raised when it is the window's turn
            one.error = error
        if one.parts and all(segments is not None for _, segments in one.parts.values()):
            one.segments = _better(one)
        if one.is_settled:  # sound and all that was tried are no longer needed
            one.whole, one.placed = None, ()
            one.parts.clear()
            self._in_line -= 1

    def _look_at(self, one: _Window, request: Request, found: Sequence[Segment]) -> None:
        """Where words seem to be missing, or only a loop was found, each half is decoded by itself: beside other sounds the
        model passes over what it hears alone. What is too short for that is searched in another way."""
        one.placed, one.is_doubtful = self._in_place(found, one.window), request.is_doubtful
        if not (one.is_doubtful or has_dropout(found, one.window.seconds, self._recording.voiced(one.window))):
            one.segments = one.placed
            return
        if self._is_canceled():
            raise WorkCanceled
        log.info("window_decoded_in_parts", window=one.window.index)
        parts = halves(one.window) or (one.window,)
        for part in parts:
            one.parts[self._begin(one, part, part=True, search=int(len(parts) == 1))] = part, None

    def _in_place(self, found: Sequence[Segment], window: SpeechWindow) -> tuple[Segment, ...]:
        """Segments of sentence length, in the recording's time."""
        pieces: list[Segment] = []
        for segment in found:
            if segment.words:
                (placed,) = to_recording_time([segment], window.spans)
                pieces += segments_of(placed.words)
            else:
                pieces += to_recording_time(spread(segment), window.spans)
        return tuple(pieces)


def _better(one: _Window) -> tuple[Segment, ...]:
    """The window's parts where they have more words than the whole had, or any that are no loop."""
    in_parts = tuple(segment for _, found in one.parts.values() for segment in found or ())
    trusted = 0 if one.is_doubtful else _count_words(one.placed)
    return in_parts if _count_words(in_parts) > trusted else one.placed


def _count_words(segments: Sequence[Segment]) -> int:
    return sum(len(segment.words) or len(segment.text.split()) for segment in segments)
