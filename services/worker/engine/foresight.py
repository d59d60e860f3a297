"""Recordings whose jobs will come soon are prepared before they do: a worker with one slot would otherwise leave its device
idle until the next recording is prepared.

Invariants: one recording at a time is prepared for no job yet, and at most `MOST_KEPT` are there for theirs; whatever becomes
of one, its job can prepare it itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from services.worker.engine.child_processes import LOOK_SECONDS
from services.worker.pipeline.faults import WorkCanceled
from services.worker.pipeline.recording import PreparedRecording

log = structlog.get_logger()

MOST_KEPT = 2
"""A controller brings one recording ahead at a time; the one before it may have been overtaken by another job."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How a recording is prepared (`prepare.prepare`)."""

    vad: bool
    max_seconds: float
    channels: bool


Prepare = Callable[[Path, Manner, Callable[[], None], Callable[[], bool]], PreparedRecording]
"""Gets a recording, the manner, what raises WorkCanceled once it is to be given up, and what tells whether its job has come."""


@dataclass(slots=True, eq=False)
class _Foreseen:
    source: Path
    manner: Manner
    given_up: threading.Event = field(default_factory=threading.Event)
    taken: threading.Event = field(default_factory=threading.Event)
    recording: Future[PreparedRecording] = field(default_factory=Future)

    def check(self) -> None:
        if self.given_up.is_set():
            raise WorkCanceled

    def give_up(self) -> None:
        """Waiting, begun or done: nothing is left of it."""
        self.given_up.set()
        self.recording.cancel()
        self.recording.add_done_callback(_remove)


class Foresight:
    """May be used from several threads; ``prepare`` is called in one of its own."""

    def __init__(self, prepare: Prepare) -> None:
        self._prepare = prepare
        self._manner: Manner | None = None
        self._unbegun: list[Path] = []
        self._kept: dict[Path, _Foreseen] = {}
        self._changing = threading.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="foresight")

    def foresee(self, source: Path) -> None:
        """A job with this recording will likely come. It is prepared as the last job's was, since the jobs of a batch have the
        same options; before there was any, it waits for the first."""
        with self._changing:
            if self._manner is None:
                self._unbegun = [*self._unbegun, source][-MOST_KEPT:]
                return
            given_up = self._begin(source, self._manner)
        _give_up(given_up)

    def take(self, source: Path, manner: Manner, check: Callable[[], None]) -> PreparedRecording | None:
        """The recording, which is the caller's from now on; None where it was not begun, or came to nothing.

        ``check`` is called while it waits and may raise to give up.
        """
        with self._changing:
            self._manner = manner
            foreseen = self._kept.pop(source, None)
            unbegun, self._unbegun = self._unbegun, []
            given_up = [old for path in unbegun if path != source for old in self._begin(path, manner)]
        _give_up(given_up)
        if foreseen is None:
            return None
        if foreseen.manner != manner or foreseen.recording.cancel():
            foreseen.give_up()
            return None
        foreseen.taken.set()
        return _awaited(foreseen, check)

    def give_way(self, is_soon_done: Callable[[Path], bool]) -> None:
        """Gives up what is not done yet: a job waits for the process. Not what is begun and ``is_soon_done``: another process
        in the place of its own takes longer, and its job, which is about to come, would wait for that."""
        with self._changing:
            given_up = self._forget(
                [
                    foreseen
                    for foreseen in self._kept.values()
                    if not foreseen.recording.done()
                    and not (foreseen.recording.running() and is_soon_done(foreseen.source))
                ]
            )
        _give_up(given_up)

    def clear(self) -> None:
        """Gives up all of it: the disk is needed."""
        with self._changing:
            given_up = self._forget(list(self._kept.values()))
        _give_up(given_up)

    def close(self) -> None:
        """Returns once nothing is being prepared."""
        self.clear()
        self._thread.shutdown()

    def _begin(self, source: Path, manner: Manner) -> list[_Foreseen]:
        """Returns those that are to be given up for it: the same of another manner, or the oldest that is not being prepared."""
        known = self._kept.get(source)
        if known is not None and known.manner == manner:
            return []
        given_up = self._forget([known] if known is not None else [])
        resting = [foreseen for foreseen in self._kept.values() if not foreseen.recording.running()]
        foreseen = self._kept[source] = _Foreseen(source, manner)
        self._thread.submit(self._carry_out, foreseen)
        return given_up + self._forget(resting[: max(0, len(self._kept) - MOST_KEPT)])

    def _forget(self, those: Sequence[_Foreseen]) -> list[_Foreseen]:
        for foreseen in those:
            del self._kept[foreseen.source]
        return list(those)

    def _carry_out(self, foreseen: _Foreseen) -> None:
        if not foreseen.recording.set_running_or_notify_cancel():
            return
        try:
            recording = self._prepare(foreseen.source, foreseen.manner, foreseen.check, foreseen.taken.is_set)
        except Exception as error:  # noqa: BLE001 - its job meets it again, and tells people
            if not foreseen.given_up.is_set():
                log.info("recording_not_foreseen", recording=foreseen.source.name, error=str(error) or repr(error))
            with self._changing:
                if self._kept.get(foreseen.source) is foreseen:
                    del self._kept[foreseen.source]
            foreseen.recording.set_exception(error)
        else:
            foreseen.recording.set_result(recording)


def _give_up(those: Iterable[_Foreseen]) -> None:
    """Without the lock: files may be removed, and large ones take their time."""
    for foreseen in those:
        foreseen.give_up()


def _awaited(foreseen: _Foreseen, check: Callable[[], None]) -> PreparedRecording | None:
    try:
        while not foreseen.recording.done():
            check()
            futures.wait([foreseen.recording], LOOK_SECONDS)
    except BaseException:
        foreseen.give_up()
        raise
    return None if foreseen.recording.exception() is not None else foreseen.recording.result()


def _remove(recording: Future[PreparedRecording]) -> None:
    if not recording.cancelled() and recording.exception() is None:
        recording.result().close()
