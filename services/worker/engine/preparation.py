"""Recordings are prepared in processes of their own, ahead of the device: what a codec does to its process costs one job.

Invariants: every spool is a job's, or one of the few that are kept for jobs to come; no process outlives the engine child.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import structlog
from pebble import ProcessExpired, ProcessPool

from services.runtime.blobs import RESERVED_BYTES
from services.worker.engine import child_processes
from services.worker.engine.child_processes import LOOK_SECONDS
from services.worker.engine.foresight import Foresight, Manner
from services.worker.pipeline import prepare
from services.worker.pipeline.faults import WorkCanceled, WorkError
from services.worker.pipeline.recording import PreparedRecording

log = structlog.get_logger()

DEATHS_ALLOWED = 3
"""Ends of the process that prepares a recording before it is the recording's fault: one may be killed for want of memory."""

FEWEST_PROCESSES, MOST_PROCESSES = 2, 16

SMALL_BYTES = 8 * 1024 * 1024
"""Recordings up to this size are prepared in a second or two. One process is kept for them, so that none waits behind hours."""

NICENESS_OF_LARGE = 10
"""Large recordings are prepared long before their last window is decoded: on a CPU they leave it to the lanes, and to small ones."""

FORESIGHT_LEAVES_BYTES = 4 * RESERVED_BYTES
"""Left free by what is prepared for no job yet: without the reserve, no job would be accepted."""

_ROOM_PAUSES = (1.0, 2.0, 5.0, 10.0)
"""Seconds between two looks whether the disk has room; the last one again and again."""

_WAITS_FOR_ROOM = "waiting for disk space on the worker"
_WAITS_FOR_MEMORY = "waiting for memory on the worker"

MEMORY_TRIES = 10
"""Preparations that found no memory before the job is given back."""


def default_processes(device: str, engines: int) -> int:
    """On a CPU half of the cores. A GPU leaves nearly all of them to preparation, which hardly keeps up with it: two are for
    what feeds it, and engines share the others."""
    cores = len(os.sched_getaffinity(0))
    share = cores // 2 if device == "cpu" else (cores - 2) // engines
    return max(FEWEST_PROCESSES, min(MOST_PROCESSES, share))


def is_small(source: Path) -> bool:
    """One that is not there counts as small: to say so takes no time."""
    return not source.exists() or source.stat().st_size <= SMALL_BYTES


class Preparation:
    """At least two ``processes``. ``folder`` is for the recordings' sound while they are decoded, and before that of those that
    are foreseen, 115 MB an hour; what is in it is removed."""

    def __init__(self, processes: int, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self._folder = folder
        self._processes = processes
        self._large = threading.Semaphore(processes - 1)
        self._free = threading.Semaphore(processes)
        self._pool = child_processes.new_pool(processes, child_processes.begin)
        self._renewing = threading.Lock()
        self._foresight = Foresight(self._prepared_early)

    def start(self) -> None:
        """Has the processes started, before there is anything to prepare."""
        for _ in range(self._processes):
            self._pool.schedule(_warm_up)

    def _renew(self, broken: ProcessPool) -> None:
        """A process that dies while it has nothing to do breaks the pool."""
        with self._renewing:
            if self._pool is broken:
                child_processes.end(broken)
                self._pool = child_processes.new_pool(self._processes, child_processes.begin)

    def close(self) -> None:
        """Ends the processes, whatever they do, and removes the folder."""
        self._foresight.close()
        child_processes.end(self._pool)
        self.leave()

    def leave(self) -> None:
        """Removes the folder, in a process that ends at once: its processes end with it."""
        shutil.rmtree(self._folder, ignore_errors=True)

    @contextmanager
    def prepared(
        self,
        source: Path,
        *,
        vad: bool,
        max_seconds: float,
        channels: bool,
        check: Callable[[], None],
        note: Callable[[str], None],
    ) -> Iterator[PreparedRecording]:
        """The recording, decoded and planned (`prepare.prepare`), for as long as the block runs.

        ``check`` is called while it waits and may raise to give up. While the disk is full ``note`` is told so, and it is
        tried again. Raises WorkError AUDIO_INVALID, AUDIO_MISSING, STORAGE_FAILED.
        """
        manner = Manner(vad, max_seconds, channels)

        def note_full(text: str) -> None:
            self._foresight.clear()
            note(text)

        recording = self._foresight.take(source, manner, check)
        if recording is None:
            recording = self._prepared_now(source, manner, check, note_full, lambda: self._foresight.give_way(is_small))
        try:
            yield recording
        finally:
            recording.close()

    def foresee(self, source: Path) -> None:
        """A job with this recording will likely come soon: it may find it prepared."""
        self._foresight.foresee(source)

    def _prepared_early(
        self, source: Path, manner: Manner, check: Callable[[], None], is_taken: Callable[[], bool]
    ) -> PreparedRecording:
        """For no job yet: it gives way to one that waits for its turn, and takes no room that is needed."""

        def check_room() -> None:
            check()
            if not is_taken() and self._lacks_room():
                raise WorkCanceled(_WAITS_FOR_ROOM)

        def give_up(reason: str) -> None:
            raise WorkCanceled(reason)

        check_room()
        return self._prepared_now(source, manner, check_room, give_up, check_room)

    def keep_room(self) -> None:
        """To be called now and then: what is there for no job yet goes where the disk is nearly full."""
        if self._lacks_room():
            self._foresight.clear()

    def _lacks_room(self) -> bool:
        try:
            return shutil.disk_usage(self._folder).free < FORESIGHT_LEAVES_BYTES
        except OSError:  # a disk that fails: its jobs will say so
            return True

    def _prepared_now(
        self,
        source: Path,
        manner: Manner,
        check: Callable[[], None],
        note_full: Callable[[str], None],
        note_waits: Callable[[], None],
    ) -> PreparedRecording:
        """``note_waits`` hears again and again that no process is free, ``note_full`` of a full disk."""
        spool = self._folder / uuid.uuid4().hex
        try:
            with self._turn(source, check, note_waits):
                return self._prepare(_Task(source, spool, manner), check, note_full)
        except BaseException:
            spool.unlink(missing_ok=True)
            raise

    @contextmanager
    def _turn(self, source: Path, check: Callable[[], None], note_waits: Callable[[], None]) -> Iterator[None]:
        """No more at once than there are processes, so that what is canceled is not begun later; large ones are fewer."""
        with ExitStack() as held:
            for turn in (self._free,) if is_small(source) else (self._large, self._free):
                if not turn.acquire(blocking=False):
                    note_waits()
                    while not turn.acquire(timeout=LOOK_SECONDS):
                        note_waits()
                        check()
                held.callback(turn.release)
            yield

    def _result(self, pool: ProcessPool, asked: _Task, check: Callable[[], None]) -> PreparedRecording:
        def check_pool() -> None:
            check()
            if self._pool is not pool:
                raise _PoolReplacedError

        return child_processes.result(pool, _prepare, (asked,), check_pool)

    def _prepare(self, asked: _Task, check: Callable[[], None], note_full: Callable[[str], None]) -> PreparedRecording:
        deaths = fulls = shorts = 0
        while True:
            pool = self._pool
            try:
                asked.spool.touch()
                return self._result(pool, asked, check)
            except _PoolReplacedError:
                continue
            except (ProcessExpired, BrokenProcessPool) as error:
                deaths += 1
                log.warning("preparation_died", deaths=deaths, error=str(error))
                if isinstance(error, BrokenProcessPool):
                    self._renew(pool)
                if deaths == DEATHS_ALLOWED:
                    raise WorkError("AUDIO_INVALID", _CRASHED) from error
            except MemoryError as error:
                shorts += 1
                log.warning("preparation_without_memory", tries=shorts)
                if shorts == MEMORY_TRIES:
                    raise WorkError("ENGINE_CRASHED", _NO_MEMORY) from error
                note_full(_WAITS_FOR_MEMORY)
                _pause(_ROOM_PAUSES[min(shorts, len(_ROOM_PAUSES) - 1)], check)
            except OSError as error:
                asked.spool.unlink(missing_ok=True)
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    message = f"The worker's disk fails ({error.strerror}). Check WORKER_DATA_DIR's disk."
                    raise WorkError("STORAGE_FAILED", message) from error
                note_full(_WAITS_FOR_ROOM)
                _pause(_ROOM_PAUSES[min(fulls, len(_ROOM_PAUSES) - 1)], check)
                fulls += 1


@dataclass(frozen=True, slots=True)
class _Task:
    """What `prepare.prepare` is to be called with."""

    source: Path
    spool: Path
    manner: Manner


class _PoolReplacedError(Exception):
    """Another job found the pool broken; what was asked of it will never be answered."""


_NO_MEMORY = (
    "There is no memory for preparing the recording. Lower WORKER_MAX_CONCURRENT_JOBS, or end what else needs the memory of"
    " the worker's machine."
)

_CRASHED = (
    "The decoder crashed on this recording, again and again. It is damaged, or of a kind the decoder cannot bear: convert it to WAV or"
    " FLAC, and upload that."
)


def _pause(seconds: float, check: Callable[[], None]) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        check()
        time.sleep(LOOK_SECONDS)


# --- in the processes


def _warm_up() -> None:
    prepare.warm_up()


def _prepare(asked: _Task) -> PreparedRecording:
    with ThreadPoolExecutor(1, initializer=_be_nice if not is_small(asked.source) else None) as thread:
        task = thread.submit(prepare.prepare, asked.source, asked.spool, **asdict(asked.manner))
        try:
            return task.result()
        except FileNotFoundError as error:
            if asked.spool.exists():
                raise
            raise WorkError("ENGINE_FAILED", "The preparation was canceled.") from error


def _be_nice() -> None:
    """A thread that has made room for others cannot take it back, hence one of its own for each recording."""
    thread = threading.get_native_id()
    os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + NICENESS_OF_LARGE)
