"""The engine child's frame: one thread reads the pipe, one loads models, one a slot runs jobs.

Invariant: the process ends at once when the pipe closes, whatever its threads do; nothing in it needs to be saved.
"""

from __future__ import annotations

import contextlib
import gc
import os
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import structlog

from services.worker.engine import catalog, child_processes, cuda
from services.worker.engine.diarization import Diarizer
from services.worker.engine.job import Tools, run_job
from services.worker.engine.lanes import Lanes, has_express, lanes_on
from services.worker.engine.memory import BYTES_PER_NUMBER, BatchLimit, auto_batch_size
from services.worker.engine.messages import (
    CancelWork,
    Configure,
    Foresee,
    FromEngine,
    Ping,
    Pong,
    Recycle,
    RunWork,
    StateReported,
    ToEngine,
    WorkReported,
    encode,
    receive,
)
from services.worker.engine.models import LoadedModel, Models, choose_device, device_name
from services.worker.engine.preparation import Preparation, default_processes
from services.worker.engine.protocol import EngineSettings
from services.worker.pipeline.faults import WorkError
from services.worker.work import EngineState, Report

log = structlog.get_logger()

BATCH_SIZE = 8
"""Where nothing else is known."""


class Pipe:
    """The child's end. Several threads send; one receives."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._sending = threading.Lock()

    def send(self, message: FromEngine) -> None:
        frame = encode(message)
        with self._sending:
            try:
                self._stream.write(frame)
                self._stream.flush()
            except OSError:  # the front is gone, which ends `receive`, and with it the process
                return

    def receive(self) -> ToEngine | None:
        return receive(self._stream)


class EngineChild:
    def __init__(self, pipe: Pipe, settings: EngineSettings) -> None:
        self._pipe = pipe
        self._settings = settings
        self._device = choose_device(settings.device)
        self._device_name = device_name(self._device, settings.gpu)
        self._ready = False
        self._telling = threading.Lock()
        self._canceled: dict[int, threading.Event] = {}
        lanes, threads = lanes_on(self._device, settings.cpu_threads)
        self._models = Models(settings, self._device, threads, self._tell, lanes=lanes + has_express(self._device))
        self._diarizer = Diarizer(settings, self._device, self._tell)
        self._lanes = Lanes(lanes, self._device, self._batch_limit, self, _exit_on_fault)
        self._preparation = Preparation(default_processes(self._device, settings.engines), _spool(settings))
        self._tools = Tools(self._models, self._diarizer, self._preparation, self._lanes, self, settings.default_model)
        self._slots = ThreadPoolExecutor(settings.slots, thread_name_prefix="slot")
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="loader")

    def serve(self) -> None:
        """Returns when the front is gone; nothing is left to do then but to end the process."""
        self._tell()
        self._lanes.start()
        self._loader.submit(self._load).add_done_callback(_exit_on_fault)
        while (message := self._pipe.receive()) is not None:
            self._handle(message)
        child_processes.start_no_more()
        self._preparation.leave()

    def _handle(self, message: ToEngine) -> None:
        match message:
            case RunWork(run, work):
                canceled = self._canceled[run] = threading.Event()
                self._slots.submit(self._run, message, canceled).add_done_callback(_exit_on_fault)
                log.debug("job_received", job_id=work.key.job_id)
            case CancelWork(run):
                if run in self._canceled:
                    self._canceled[run].set()
            case Foresee(audio_path):
                self._preparation.foresee(audio_path)
            case Ping():
                self._pipe.send(Pong())
                for tidy in (self._models.unload_unused, self._preparation.keep_room, self._diarizer.load_again):
                    self._loader.submit(tidy).add_done_callback(_exit_on_fault)
            case Configure():
                log.error("configured_twice")

    def _batch_limit(self, model: LoadedModel) -> BatchLimit:
        """Of a model that was just loaded: what there is room for now is what it begins with. Others' batches, which may hold
        most of the memory just then, are not there for ever; it grows to what fits beside their weights."""
        if self._settings.batch_size:
            return self._limit(self._settings.batch_size, self._settings.batch_size)
        free, device = self._models.free_bytes(), self._models.device_bytes()
        now = self._fitting(model, None if free is None else free + model.weights_bytes)
        beside = self._models.weights_beside(model)
        most = max(now, self._fitting(model, None if device is None else device - beside))
        log.info("batch_size_chosen", model=model.name, batch_size=now, most=most, free_mib=(free or 0) >> 20)
        return self._limit(most, now)

    def _limit(self, most: int, now: int) -> BatchLimit:
        """A CPU's process that was killed most likely had too much memory. A GPU tells so itself."""
        if self._device == "cpu":
            most, now = (max(1, size >> self._settings.halvings) for size in (most, now))
        return BatchLimit(most, self._settings.first_batch_size or now)

    def _fitting(self, model: LoadedModel, room: int | None) -> int:
        """Windows for which so many bytes are enough, the model's weights included."""
        if model.shape is None or room is None:
            return BATCH_SIZE
        return auto_batch_size(
            room,
            model.weights_bytes,
            model.shape,
            bool(self._diarizer.name),
            self._device,
            lanes=model.lanes,
            bytes_per_number=BYTES_PER_NUMBER.get(model.compute_type, 2),
        )

    # --- what the lanes ask for when memory is short

    def release(self) -> bool:
        given_back = cuda.give_back() if self._device == "cuda" else 0
        return bool(self._models.release_idle()) or given_back >= cuda.WORTH_BYTES

    def replace_process(self, reason: str, batch_size: int = 0, *, is_less: bool = False) -> None:
        self._pipe.send(Recycle(reason, batch_size, is_less))

    def _run(self, message: RunWork, canceled: threading.Event) -> None:
        def report(of: Report) -> None:
            self._pipe.send(WorkReported(message.run, of))

        run_job(message.work, self._tools, report, canceled.is_set)
        self._canceled.pop(message.run, None)

    def _load(self) -> None:
        self._preparation.start()
        # What is wrong with it its state says; jobs for other models can still run.
        with contextlib.suppress(WorkError), self._models.use(self._settings.default_model):
            pass
        self._ready = True
        self._tell()
        self._diarizer.load()
        # Decoding a file collects garbage: the models' many objects need not be looked at each time.
        gc.collect()
        gc.freeze()

    def _tell(self) -> None:
        with self._telling:  # a later state never overtakes an earlier one
            self._pipe.send(StateReported(self._state()))

    def _state(self) -> EngineState:
        return EngineState(
            ready=self._ready,
            device=self._device,
            device_name=self._device_name,
            models=self._models.states(),
            diarization=self._diarizer.ready_name,
            diarization_error=self._diarizer.error,
            languages=catalog.english_only(self._settings) | self._models.languages(),
            diarization_note=self._diarizer.note,
        )


def _spool(settings: EngineSettings) -> Path:
    if settings.spool_dir is not None:
        return settings.spool_dir
    return Path(tempfile.mkdtemp(prefix="bulkscribe-spool-"))


def _exit_on_fault(future: Future[None]) -> None:
    """A thread of the frame itself that fails leaves a process nobody can trust: the front starts another."""
    error = future.exception()
    if error is not None:
        log.critical("engine_failed", exc_info=error)
        os._exit(1)


Configured = Callable[[EngineSettings], None]


def serve(stream: BinaryIO, configured: Configured) -> None:
    """Runs the child on its pipe; ``configured`` is called with the settings before anything is loaded."""
    pipe = Pipe(stream)
    message = pipe.receive()
    if isinstance(message, Configure):
        configured(message.settings)
        EngineChild(pipe, message.settings).serve()
