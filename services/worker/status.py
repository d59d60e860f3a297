"""What the worker is and can take at this moment: its slots and what the engine says. One per process.

Invariant: every change rings the bell, so that all heartbeats report it at once.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from services.contract.errors import Reason, ServiceError
from services.runtime.bell import Bell
from services.worker.capacity import Slots
from services.worker.engine.protocol import Engine
from services.worker.work import EngineState, ModelState, Options

log = structlog.get_logger()

FAILED_SECONDS = 60.0
"""How long jobs for a model that could not be loaded are refused without another try: a hub may be back by then."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What never changes while the process runs. ``max_file_bytes``: the largest recording it takes."""

    default_model: str
    max_file_bytes: int
    instance_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    started: float = field(default_factory=time.monotonic)


class WorkerStatus:
    """The live slots and engine state."""

    def __init__(
        self, offer: Offer, slots: int, engine: EngineState, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.offer = offer
        self.slots = Slots(slots, down=_down(engine, slots))
        self.engine = engine
        self.changed = Bell()
        self._clock = clock
        self._failed_at: dict[str, float] = {}
        self._note_failures()

    def reserve(self) -> None:
        """Takes a slot. Raises WORKER_DRAINING, WORKER_FULL."""
        if self.slots.draining:
            raise ServiceError(Reason.WORKER_DRAINING)
        if self.slots.paused:
            raise ServiceError(Reason.WORKER_FULL, self.engine.trouble)
        if self.slots.free == 0:
            raise ServiceError(Reason.WORKER_FULL)
        self._set(self.slots.reserve())

    def release(self) -> None:
        self._set(self.slots.release())

    def drain(self) -> None:
        self._set(self.slots.drain())

    def check(self, options: Options) -> None:
        """Raises what makes the options impossible here: model, language or diarization."""
        model = self._model(options.model or self.offer.default_model)
        if model.state == "failed" and self._clock() - self._failed_at.get(model.name, 0.0) < FAILED_SECONDS:
            raise ServiceError(Reason.MODEL_UNAVAILABLE, f"The model {model.name!r} cannot be loaded: {model.error}")
        languages = self.engine.languages.get(model.name, ())
        if options.language and languages and options.language not in languages:
            raise ServiceError(
                Reason.LANGUAGE_UNSUPPORTED,
                f"The model {model.name!r} does not know the language {options.language!r}. Choose another, or none.",
            )
        by_voice = options.diarization and not options.speaker_per_channel  # for which there may be no need
        if by_voice and not self.engine.diarization and self.engine.diarization_error:
            raise ServiceError(Reason.DIARIZATION_UNAVAILABLE, self.engine.diarization_error)

    async def follow(self, engine: Engine) -> None:
        """Takes over every change of the engine's state, for ever."""
        while True:
            self.engine = await engine.changed(self.engine)
            self._note_failures()
            log.info(
                "engine_state_changed",
                ready=self.engine.ready,
                device=self.engine.device,
                loaded=[model.name for model in self.engine.models if model.state == "loaded"],
                failed=[model.name for model in self.engine.models if model.state == "failed"],
                diarization=self.engine.diarization,
                trouble=self.engine.trouble,
            )
            self._set(self.slots.touch(_down(self.engine, self.slots.total)))

    def _note_failures(self) -> None:
        """When each model that is failed failed: the engine tries it again for a job that comes later."""
        failed = {model.name for model in self.engine.models if model.state == "failed"}
        self._failed_at = {name: self._failed_at.get(name, self._clock()) for name in failed}

    def _model(self, name: str) -> ModelState:
        for model in self.engine.models:
            if model.name == name:
                return model
        offered = ", ".join(model.name for model in self.engine.models)
        raise ServiceError(Reason.MODEL_UNKNOWN, f"This worker does not offer the model {name!r}. It has: {offered}.")

    def _set(self, slots: Slots) -> None:
        known, self.slots = self.slots, slots
        if (known.free, known.total, known.draining) != (slots.free, slots.total, slots.draining):
            log.info("worker_capacity_changed", free=slots.free, total=slots.total, draining=slots.draining)
        self.changed.ring()


def _down(engine: EngineState, slots: int) -> int:
    return slots if engine.trouble else engine.slots_down


async def wait_or_interval(bell: Bell, seconds: float) -> None:
    """Until the bell rings, at most so long."""
    try:
        async with asyncio.timeout(seconds):
            await bell.wait()
    except TimeoutError:
        return
