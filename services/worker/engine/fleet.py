"""Several engines as one: a child for each GPU, and every run with the one that has the least to do.

Invariants: an engine never has more runs than its slots; a run stays with the engine it was given to until it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from services.runtime.bell import Bell
from services.worker.engine.protocol import Engine
from services.worker.work import (
    AttemptKey,
    Canceled,
    EngineState,
    Failed,
    ModelState,
    Report,
    StageChanged,
    Work,
)

_STARTING = StageChanged("loading", "the engine is starting")
_STOPPED = Failed("ENGINE_CRASHED", "The worker stopped while the job was running. Try the job again.")

_BEST_FIRST = ("loaded", "loading", "available", "failed")


@dataclass(slots=True, eq=False)
class _Member:
    """``runs``: how many of its ``slots`` are taken; ``latest``: the number of the run that it was given last. ``foreseen``:
    what it was last told to foresee."""

    engine: Engine
    slots: int
    runs: int = 0
    latest: int = 0
    foreseen: Path | None = None

    def suits(self, work: Work) -> bool:
        """Whether nothing is known that makes the work fail there and perhaps not elsewhere."""
        state = self.engine.state
        failed = any(model.name == work.options.model and model.state == "failed" for model in state.models)
        return not failed and not (work.options.diarization and state.diarization_error)


@dataclass(slots=True, eq=False)
class _Run:
    """``member`` and ``reports`` are set once it has an engine."""

    work: Work
    member: _Member | None = None
    reports: AsyncIterator[Report] | None = None
    canceled: bool = False


class Fleet:
    """An ``Engine`` over others, each given with its slots."""

    def __init__(self, engines: Sequence[tuple[Engine, int]]) -> None:
        self._members = [_Member(engine, slots) for engine, slots in engines]
        self._runs: dict[AttemptKey, _Run] = {}
        self._moved = Bell()  # at every change of an engine's state, and where a run ends or is to end
        self._followers: list[asyncio.Task[None]] = []
        self._stopped = False
        self._placed = 0

    @property
    def state(self) -> EngineState:
        down = sum(member.slots for member in self._members if member.engine.state.trouble)
        return replace(merged([member.engine.state for member in self._members]), slots_down=down)

    async def changed(self, seen: EngineState) -> EngineState:
        while self.state == seen:
            await self._moved.wait()
        return self.state

    async def start(self) -> None:
        for member in self._members:
            await member.engine.start()
        # Not in a task group: start() and stop() bracket them.
        self._followers = [
            asyncio.create_task(self._follow(member), name="engine of the fleet")  # noqa: TID251
            for member in self._members
        ]

    async def stop(self) -> None:
        self._stopped = True
        tasks, self._followers = self._followers, []
        for task in tasks:
            task.cancel()
        try:
            await asyncio.gather(*(member.engine.stop() for member in self._members))
        finally:
            self._moved.ring()
            for task in tasks:
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    def run(self, work: Work) -> AsyncIterator[Report]:
        if work.key in self._runs:
            raise ValueError(f"the attempt {work.key} is running")
        run = self._runs[work.key] = _Run(work)
        self._place(run)
        return self._reports(run)

    def foresee(self, audio_path: Path) -> None:
        """By the engine that likely has a slot first: of those that have the least to do the one whose last run is the oldest."""
        up = [member for member in self._members if member.engine.state.ready]
        if up and not any(member.foreseen == audio_path for member in up):
            member = min(up, key=lambda member: (member.runs, member.latest))
            member.foreseen = audio_path
            member.engine.foresee(audio_path)

    def cancel(self, key: AttemptKey) -> None:
        run = self._runs.get(key)
        if run is None:
            return
        run.canceled = True
        if run.member is not None:
            run.member.engine.cancel(key)
        else:
            self._moved.ring()

    async def _reports(self, run: _Run) -> AsyncIterator[Report]:
        try:
            if run.reports is None:
                yield _STARTING
                ending = await self._wait_for_room(run)
                if ending is not None:
                    yield ending
                    return
            assert run.reports is not None
            async with contextlib.aclosing(run.reports) as reports:  # type: ignore[type-var]
                async for report in reports:
                    yield report
        finally:
            if run.member is not None:
                run.member.runs -= 1
            del self._runs[run.work.key]
            self._moved.ring()

    async def _wait_for_room(self, run: _Run) -> Canceled | Failed | None:
        """Until an engine has it, or it ends before one did."""
        while run.member is None:
            if run.canceled:
                return Canceled()
            if self._stopped:
                return _STOPPED
            await self._moved.wait()
            self._place(run)
        return None

    def _place(self, run: _Run) -> None:
        """Gives it to the engine that has the least to do, if one is up that has a slot."""
        if run.canceled or self._stopped:
            return
        free = [member for member in self._members if member.engine.state.ready and member.runs < member.slots]
        if not free:
            return
        suited = [member for member in free if member.suits(run.work)]
        source = run.work.audio_path
        run.member = min(suited or free, key=lambda member: (member.runs, member.foreseen != source))
        run.member.runs += 1
        self._placed += 1
        run.member.latest = self._placed
        for member in self._members:
            if member.foreseen == source:
                member.foreseen = None
        run.reports = run.member.engine.run(run.work)

    async def _follow(self, member: _Member) -> None:
        state = member.engine.state
        while True:
            state = await member.engine.changed(state)
            if not state.ready:
                member.foreseen = None
            self._moved.ring()


def merged(states: Sequence[EngineState]) -> EngineState:
    """What the engines are together: ready where one is, in trouble where all are, each model in its best state."""
    first = next((state for state in states if state.ready), states[0])
    diarization = next((state for state in states if state.diarization), first)
    errors = [state.diarization_error for state in states]
    return EngineState(
        ready=any(state.ready for state in states),
        device=first.device,
        device_name=_names(states),
        models=_best_of(states),
        diarization=diarization.diarization,
        diarization_error=errors[0] if all(errors) else "",
        languages={name: known for state in states for name, known in state.languages.items()},
        diarization_note=diarization.diarization_note,
        trouble=states[0].trouble if all(state.trouble for state in states) else "",
    )


def _names(states: Sequence[EngineState]) -> str:
    """With how many of each there are."""
    counted = Counter(state.device_name for state in states if state.device_name)
    return ", ".join(name if count == 1 else f"{count} × {name}" for name, count in counted.items())  # noqa: RUF001


def _best_of(states: Sequence[EngineState]) -> tuple[ModelState, ...]:
    best: dict[str, ModelState] = {}
    for model in (model for state in states for model in state.models):
        known = best.get(model.name)
        if known is None or _BEST_FIRST.index(model.state) < _BEST_FIRST.index(known.state):
            best[model.name] = model
    return tuple(best.values())
