"""Every rule broken on purpose, once: a simulation that does not notice proves nothing.

Each mutant replaces one function of the services by one that leaves its rule out.
"""

from __future__ import annotations

import gc
from asyncio import CancelledError, InvalidStateError
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

from grpc.aio import AioRpcError

from services.contract.errors import ServiceError
from services.controller import dispatch, wire
from services.controller.api_jobs import JobApi
from services.controller.attempt import Attempt
from services.controller.dispatch import Dispatcher
from services.controller.jobs import AttemptState, Job, JobError, JobUpdate, with_segments
from services.controller.run_stream import LinkLostError, RunStream
from services.controller.scheduling import ReadyQueue
from services.worker.api import _LeftAlone
from services.worker.attempt import Attempt as HeldAttempt
from services.worker.attempt import AttemptState as HeldState
from services.worker.attempts import Attempts
from services.worker.status import WorkerStatus
from tests.fakes.store import MemoryStore
from tests.simulation.patches import Dates, machine_replaced
from tests.simulation.world import simulate

COLLECT_EVERY = 50
"""Worlds."""


@dataclass(frozen=True)
class Mutant:
    """``changes``: (owner, name of its function, what stands in for it). ``seed`` is of a world that noticed when it was
    written down: where to look first."""

    name: str
    changes: tuple[tuple[Any, str, Any], ...]
    seed: int = 0

    @contextmanager
    def in_place(self) -> Iterator[None]:
        with ExitStack() as stack:
            for owner, name, new in self.changes:
                stack.enter_context(mock.patch.object(owner, name, new))
            yield


def hunt(mutant: Mutant, most: int, first: int = 0) -> tuple[int, str] | None:
    """(seed, invariant) of the first world that notices."""
    with machine_replaced() as machine, mutant.in_place():
        for seed in range(first, first + most):
            if seed % COLLECT_EVERY == 0:
                gc.collect()  # in between: in the middle of a world it would run finalizers of another
            failure = simulate(seed, machine).failure
            if failure is not None:
                return seed, failure[0]
    return None


# --- the controller's


async def _acknowledges_first(self: Any) -> AttemptState:
    while True:
        events = await self._next()
        if events is None:
            continue
        await self._stream.send(wire.acknowledge_message(events[-1].number))
        ending = await self._take(events)
        if ending is not None:
            await self._stream.finish()
            return ending


async def _window_always_new(self: Any, job: Job, window: Any) -> JobUpdate:
    return with_segments(job, window.index, window.segments)


def _forgets_silence(self: Job, message: str, wait_mark: float) -> Job:
    return replace(_REQUEUE(self, message, wait_mark), silent_stretches=())


async def _saves_anything(self: Any, update: JobUpdate) -> Job:
    row = self.tables.jobs[update.job.id]
    return await _SAVE(self, replace(update, job=replace(update.job, version=row.job.version)))


async def _abandons_silently(self: Any) -> None:
    self._abandoned = True


async def _attaches_without_cancel(self: Any) -> None:
    abandoned, self._abandoned = self._abandoned, False
    try:
        await _ATTACH(self)
    finally:
        self._abandoned = abandoned or self._abandoned


async def _waits_for_the_call(self: Any, step: Any) -> bool:
    with suppress(AioRpcError, InvalidStateError, CancelledError):
        await step
    return True


async def _fails_with_its_stream(self: Any) -> AttemptState:
    try:
        return await self._follow()
    except LinkLostError:
        lost = JobError("REMOTE_FAILED", "The stream broke.")
        await self._journal.change_if_allowed(self.job.id, lambda job: job.fail(Dates.now(), lost))
        return AttemptState.ENDED


def _resumes_waiting_only(self: Any, jobs: Any, asked: Any) -> None:
    _RESUME(self, [job for job in jobs if job.state.value != "running"], asked)


async def _waits_for_ever(self: Any) -> bool:
    return bool(await self.link.heard_within(None))


def _loses_who_comes_back(self: Any, job_id: Any, demand: Any) -> None:
    if job_id not in self._tickets:
        _PUSH(self, job_id, demand)


async def _keeps_any_plan(self: Any, job: Job, plan: Any) -> JobUpdate:
    known = (await self._journal.store.finished_work(job.id)).plan
    return JobUpdate(job, plan=None if known else plan)


def _asks_same_number(job: Job, asked: Any, url: str) -> int:
    return asked.number if asked is not None and asked.number > job.attempt else job.attempt + 1


def _ignores_held(self: Any, link: Any, held: Any) -> None:
    pass


def _takes_newest(self: Any, demand: Any) -> int | None:
    head = _HEAD(self, demand)
    if head is None:
        return None
    line = self._lines[demand]
    line[:] = sorted((one for one in line if self._waiting.get(one[1]) == one[0]), reverse=True)
    return int(line[0][0])


async def _cancels_by_word(self: Any, request: Any, context: Any) -> Any:
    return None


def _forgets_chunks(finished: Any) -> Any:
    return _FINISHED(replace(finished, speaker_chunks=()))


def _forgets_decoded(finished: Any) -> Any:
    return _FINISHED(replace(finished, decoded_windows=()))


def _forgets_windows(finished: Any) -> Any:
    return _FINISHED(replace(finished, windows=frozenset()))


async def _ends_unrecorded(self: Any, messages: Any) -> AttemptState | None:
    if messages[-1].WhichOneof("kind") == "outcome":
        return AttemptState.ENDED
    return await _APPLY(self, messages)


async def _creates_again(self: Any, created: Any, request_id: str) -> Any:
    return await _CREATE(self, created, "")


async def _finds_no_request(self: Any, owner: Any, request_id: str) -> Any:
    return ()


# --- the worker's


def _reserves_nothing(self: Any) -> None:
    self._set(replace(self.slots, taken=self.slots.taken + 1, revision=self.slots.revision + 1))


def _takes_any_attempt(self: Any, key: Any) -> None:
    pass


def _runs_twice(self: Any, key: Any) -> None:
    if key not in self._held:
        _FIND(self, key)


def _never_cancels(self: Any, attempt: Any) -> None:
    pass


def _releases_nothing(self: Any) -> None:
    pass


def _forgets_unread(self: Any, through: int) -> None:
    _ACKNOWLEDGE(self, min(through + 1, self.durable))


async def _decides_before_the_journal(self: Any, attempt: Any) -> bool:
    attempt.move(HeldState.RUNNING)
    with suppress(ServiceError):
        await self._journal.accept(attempt.key, attempt.worker_job_id)
    return True


def _tells_what_is_not_written(self: Any, number: int) -> Any:
    index = number - self.acknowledged
    return self._events[index] if index < len(self._events) else None


async def _restores_nothing(self: Any) -> None:
    pass


def _sees_nobody_alone(self: Any) -> list[Any]:
    return []


_REQUEUE = Job.requeue
_SAVE = MemoryStore.save
_CREATE = MemoryStore.create_jobs
_ATTACH = Attempt._attach
_APPLY = Attempt._apply
_RESUME = Dispatcher._resume
_HEAD = ReadyQueue._head
_FINISHED = wire._finished_message
_PUSH = ReadyQueue.push
_FIND = Attempts.find_or_supersede
_ACKNOWLEDGE = HeldAttempt.acknowledge

MUTANTS = (
    Mutant("events are acknowledged before they are durable", ((Attempt, "_follow", _acknowledges_first),), 22),
    Mutant("the store saves whatever the version", ((MemoryStore, "save", _saves_anything),), 36),
    Mutant("a window that is reported again is taken again", ((Attempt, "_window_finished", _window_always_new),), 276),
    Mutant("silent windows are forgotten with their attempt", ((Job, "requeue", _forgets_silence),), 1),
    Mutant("finished windows are not told to the next attempt", ((wire, "_finished_message", _forgets_windows),), 4),
    Mutant("decoded windows are not told to the next attempt", ((wire, "_finished_message", _forgets_decoded),), 50),
    Mutant("diarized chunks are not told to the next attempt", ((wire, "_finished_message", _forgets_chunks),), 416),
    Mutant(
        "a cancel is not told to the worker",
        ((Attempt, "abandon", _abandons_silently), (Attempt, "_attach", _attaches_without_cancel)),
        60,
    ),
    Mutant("who writes to a call that was canceled waits", ((RunStream, "_write", _waits_for_the_call),)),
    Mutant("a lost stream is a failure", ((Attempt, "_follow_through", _fails_with_its_stream),), 1),
    Mutant("running jobs are forgotten at a restart", ((Dispatcher, "_resume", _resumes_waiting_only),), 67),
    Mutant("the lease never ends", ((Attempt, "_link_is_back", _waits_for_ever),), 19),
    Mutant("a job that goes back in line is lost", ((ReadyQueue, "push", _loses_who_comes_back),)),
    Mutant("windows of another plan are kept", ((Attempt, "_planned", _keeps_any_plan),)),
    Mutant("a number is asked of two workers", ((dispatch, "next_attempt", _asks_same_number),), 81),
    Mutant("attempts that workers name are ignored", ((Dispatcher, "worker_holds", _ignores_held),), 4),
    Mutant("the newest job leaves first", ((ReadyQueue, "_head", _takes_newest),), 20),
    Mutant("a cancel is answered and not stored", ((JobApi, "CancelJob", _cancels_by_word),)),
    Mutant("an outcome is acknowledged and not stored", ((Attempt, "_apply", _ends_unrecorded),)),
    Mutant(
        "a repeated submission makes jobs again",
        ((MemoryStore, "create_jobs", _creates_again), (MemoryStore, "jobs_of_request", _finds_no_request)),
    ),
    Mutant("the worker accepts without a slot", ((WorkerStatus, "reserve", _reserves_nothing),), 6),
    Mutant("the worker takes attempts in any order", ((Attempts, "_check_newest", _takes_any_attempt),), 71),
    Mutant("the worker runs a repeated dispatch again", ((Attempts, "find_or_supersede", _runs_twice),), 1),
    Mutant("the worker does not hear a cancel", ((Attempts, "cancel", _never_cancels),)),
    Mutant("the worker keeps the slots of what ended", ((WorkerStatus, "release", _releases_nothing),)),
    Mutant("the worker forgets an event too many", ((HeldAttempt, "acknowledge", _forgets_unread),), 1),
    Mutant(
        "an attempt is accepted before the journal has it", ((Attempts, "_make_durable", _decides_before_the_journal),)
    ),
    Mutant("events are told before the journal has them", ((HeldAttempt, "event_after", _tells_what_is_not_written),)),
    Mutant("the worker does not read its journal", ((Attempts, "restore", _restores_nothing),), 1),
    Mutant("heartbeats name what is held only once", ((_LeftAlone, "look", _sees_nobody_alone),), 20126),
)
