"""The device's lanes: threads that take batches from the queue, and threads beside them for all that is not the device's.

Invariant: a request's ``done`` is set or canceled, once. A lane never waits for a consumer: what was
found is judged, aligned and handed over by the threads beside it.
"""

from __future__ import annotations

import os
import traceback
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

import structlog

from services.worker.engine import decoding
from services.worker.engine.decoding import SEARCHES, Request, model_of
from services.worker.engine.memory import (
    BatchLimit,
    encoder_batch,
    is_echo,
    is_out_of_memory,
    may_be_memory,
    needs_new_process,
)
from services.worker.engine.models import LoadedModel
from services.worker.engine.window_queue import Line, Taken, WindowQueue
from services.worker.pipeline.quality import Try, Verdict, best, judge
from services.worker.work import AttemptKey, Segment

log = structlog.get_logger()

_AGAIN = frozenset({Verdict.LOOPS, Verdict.REPEATS, Verdict.UNSURE})
"""What another search may do better. Where nothing was heard, the window is cut in two and tried again: the job does that."""


MOST_LANES = 4

BRIEF_SECONDS = 30.0
"""Of speech in all that a job has left: one window. What is longer fills batches, which a lane for single windows would empty."""

LINGER_SECONDS = 0.1
"""How long a lane waits for a fuller batch where more windows are about to come: less than a batch takes."""


def has_express(device: str) -> bool:
    """Whether there is a lane more, for brief jobs beside long ones only. On a CPU a lane is a share of time, and a batch before
    oneself takes long; a GPU's lanes share all of it anyway."""
    return device == "cpu"


def lanes_on(device: str, cpu_threads: int) -> tuple[int, int]:
    """(lanes, threads of each); ``cpu_threads`` 0 stands for what is best. Two lanes of a GPU: one encodes while the other
    decodes. On a CPU small batches side by side are faster than one that is spread over the cores."""
    if device != "cpu":
        return 2, cpu_threads
    cores = len(os.sched_getaffinity(0))
    lanes = min(cores, MOST_LANES)
    return lanes, cpu_threads or max(1, cores // lanes)


class JobLine:
    """One job's way into the queue."""

    def __init__(self, queue: WindowQueue[Request], line: Line[Request]) -> None:
        self._queue = queue
        self._line = line

    def put(self, request: Request) -> None:
        self._queue.put(self._line, request)

    def expect(self, windows: int, holds_back: bool) -> None:
        """See `WindowQueue.expect`."""
        self._queue.expect(self._line, windows, holds_back)

    def rest(self, rests: bool) -> None:
        """Whether all that was put is done, and the job waits for something else."""
        self._line.rests = rests

    def close(self) -> None:
        """What waits in line is canceled; what a lane has in hand is finished."""
        _cancel(self._queue.close(self._line))


class Memory(Protocol):
    """The device's memory, as far as the lanes can do something about it."""

    def release(self) -> bool:
        """Frees what is not in use; whether that was anything."""
        ...

    def replace_process(self, reason: str, batch_size: int = 0, *, is_less: bool = False) -> None:
        """Asks for another process in the place of this one, which ends soon; see `messages.Recycle`."""
        ...


class Lanes:
    """``limit_of`` tells how many windows of a model a batch may have; ``memory`` is asked for more of it; ``on_end`` hears
    of a lane that ended, by a fault or by `stop`."""

    def __init__(
        self,
        lanes: int,
        device: str,
        limit_of: Callable[[LoadedModel], BatchLimit],
        memory: Memory,
        on_end: Callable[[Future[None]], None],
        linger_seconds: float = LINGER_SECONDS,
    ) -> None:
        self.queue: WindowQueue[Request] = WindowQueue(lanes, linger_seconds)
        self._limit_of = limit_of
        self._limits: dict[str, BatchLimit] = {}
        self._memory = memory
        self._device = device
        self._encoders: dict[str, BatchLimit] = {}
        self._spared: set[str] = set()
        """Models for whose batch room was made, that has not succeeded since."""
        self._count = lanes
        self._on_end = on_end
        self._express = has_express(device)
        self._lanes = ThreadPoolExecutor(lanes + self._express, thread_name_prefix="lane")
        self._beside = ThreadPoolExecutor(lanes, thread_name_prefix="beside")

    def ahead(self, model: LoadedModel) -> int:
        """Windows that a job should have in line, so that no lane waits for it: twice what the lanes take, among all jobs."""
        return max(2, -(-2 * self._count * self._limits[model.name].size // max(1, self.queue.jobs)))

    @contextmanager
    def line(self, model: LoadedModel, seconds: float) -> Iterator[JobLine]:
        """The place in the queue of a job that has ``seconds`` of speech to be decoded; what it still has there when it is
        left is forgotten."""
        if model.name not in self._limits:
            self._encoders.setdefault(model.name, BatchLimit(encoder_batch(self._device)))
            self._limits.setdefault(model.name, self._limit_of(model))
        line = JobLine(self.queue, self.queue.open(brief=seconds <= BRIEF_SECONDS))
        try:
            yield line
        finally:
            line.close()

    def start(self) -> None:
        for _ in range(self._count):
            self._lanes.submit(self._run).add_done_callback(self._on_end)
        if self._express:
            self._lanes.submit(self._run_brief).add_done_callback(self._on_end)

    def stop(self) -> None:
        self.queue.stop()
        self._lanes.shutdown(wait=False)
        self._beside.shutdown(wait=False, cancel_futures=True)

    def _run(self) -> None:
        while batch := self.queue.take(self._most):
            self._decode(batch)

    def _run_brief(self) -> None:
        while batch := self.queue.take_brief():
            self._decode(batch)

    def _most(self, shape: Hashable) -> int:
        return self._limits[model_of(shape)].size

    def _decode(self, batch: Sequence[Taken[Request]]) -> None:
        requests = [taken.window for taken in batch]
        try:
            tries = decoding.decode(requests, self._encoders[requests[0].voice.model.name])
        except Exception as error:  # noqa: BLE001 - it is handed to whoever waits for the window
            self._failed(batch, error)
        else:
            limit = self._limits[requests[0].voice.model.name]
            limit.succeeded(len(requests))
            if len(requests) >= limit.size:
                self._spared.discard(requests[0].voice.model.name)
            self._beside.submit(self._judge, batch, tries).add_done_callback(self._on_end)

    def _failed(self, batch: Sequence[Taken[Request]], error: Exception) -> None:
        """One window that cannot be decoded takes no other along."""
        if needs_new_process(error) or is_out_of_memory(error):
            self._out_of_memory(batch, error)
        elif len(batch) > 1:
            log.warning("batch_failed", windows=len(batch), error=str(error))
            for taken in batch:
                if taken.line.closed:
                    _cancel([taken.window])
                else:
                    self._decode([taken])
        else:
            batch[0].window.done.set_exception(error)

    def _judge(self, batch: Sequence[Taken[Request]], tries: Sequence[Try]) -> None:
        chosen: list[Request] = []
        again: list[Taken[Request]] = []
        unfinished = list(batch)
        try:
            for taken, tried in zip(batch, tries, strict=True):
                request = taken.window
                request.tries.append(tried)
                if judge(tried) in _AGAIN and request.search + 1 < len(SEARCHES):
                    request.search += 1
                    log.info("window_searched_again", job_id=request.key.job_id, window=request.index)
                    request.encoded = decoding.apart(request.encoded)
                    again.append(taken)
                else:
                    chosen.append(request)
            unfinished = [taken for taken in batch if taken not in again]
            _cancel(self.queue.put_back(again, spent=True))
            texts = [_text_of(request) for request in chosen]
            timed = _timed(chosen, texts)
            _log_decoded(chosen, len(batch))
            for request, segments in zip(chosen, timed, strict=True):
                request.encoded = None
                request.is_doubtful = judge(best(request.tries)) is Verdict.LOOPS
                request.done.set_result(segments)
        except Exception as error:  # a fault here must not leave jobs waiting
            unfinished = [taken for taken in unfinished if not taken.window.done.done()]
            if needs_new_process(error) or is_out_of_memory(error):
                self._out_of_memory(unfinished, error)
                return
            log.exception("windows_not_finished", windows=len(batch))
            for taken in unfinished:
                taken.window.done.set_exception(error)

    def _out_of_memory(self, batch: Sequence[Taken[Request]], error: Exception) -> None:
        """The windows go back to where they came from. Where nothing is there that can go, or what went was not enough, smaller
        batches are taken from now on, and where that cannot help the process is replaced, which costs nobody anything."""
        limit = self._limits[batch[0].window.voice.model.name]
        for taken in batch:
            taken.window.begin_anew()
        try:
            if needs_new_process(error):
                log.warning("device_lost", windows=len(batch), error=str(error))
                less = max(1, limit.size // 2) if may_be_memory(error) else limit.size
                self._end(str(error), less if less < limit.began_with else 0, is_less=less < limit.size)
                return
            traceback.clear_frames(error.__traceback__)  # which hold what the call was given
            name = batch[0].window.voice.model.name
            spared = self._memory.release() and name not in self._spared
            size = limit.size if spared else limit.halve(len(batch))
            log.warning("memory_short", windows=len(batch), batch_size=size, spared=spared, error=str(error))
            if spared:
                self._spared.add(name)
            elif len(batch) == size == 1:
                self._end(f"no memory for a single window: {error}", size, is_less=limit.began_with > size)
        finally:
            _cancel(self.queue.put_back(batch))

    def _end(self, reason: str, batch_size: int, *, is_less: bool) -> None:
        """Nothing is taken any more: the process is as good as gone."""
        self._memory.replace_process(reason, batch_size, is_less=is_less)
        self.queue.stop()


def _text_of(request: Request) -> Try:
    """The best of its tries. A half is decoded for words that are missing, and counts by how many it has: a loop has none."""
    text = best(request.tries)
    return replace(text, tokens=(), text="") if request.part and judge(text) is Verdict.LOOPS else text


def _timed(requests: Sequence[Request], texts: Sequence[Try]) -> list[tuple[Segment, ...]]:
    """A text whose words cannot be timed takes no other along, and goes without them itself."""
    try:
        return decoding.timed(requests, texts)
    except Exception as error:
        if needs_new_process(error):
            raise
        if len(requests) == 1:
            # That text again and again is no echo: some drivers are known to answer so whatever is asked.
            if is_out_of_memory(error) and not is_echo(error):
                raise
            log.exception("words_not_timed", job_id=requests[0].key.job_id, window=requests[0].index)
            return decoding.timed([replace(requests[0], words=False)], texts)
    return [_timed([request], [text])[0] for request, text in zip(requests, texts, strict=True)]


def _cancel(requests: Iterable[Request]) -> None:
    """Who waits for them is told: to be canceled alone wakes nobody in ``futures.wait``."""
    for request in requests:
        request.encoded = None
        if not request.done.cancelled() and request.done.cancel():
            request.done.set_running_or_notify_cancel()


def _log_decoded(requests: Sequence[Request], batch: int) -> None:
    """A line for each attempt, once its windows are about to be told: from these what another attempt decoded again can be
    counted. ``batch``: windows that were decoded together."""
    indexes: defaultdict[AttemptKey, list[int]] = defaultdict(list)
    for request in requests:
        if not request.part:
            indexes[request.key].append(request.index)
    for key, windows in indexes.items():
        log.info("windows_decoded", job_id=key.job_id, attempt=key.attempt, windows=windows, batch=batch)
