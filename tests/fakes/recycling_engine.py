"""An engine's child that asks to be replaced: `python -m tests.fakes.recycling_engine HOW FILE`.

Each child that a run is sent to begins it, and asks to be replaced after its first window; once FILE is there it ends
what it is sent instead. FILE is made when it asks, so that the next child is the last. What it says after it asked is
nothing to go by: the run failed. HOW:

- once: as above.
- anew: the last child has another plan.
- silent: asks before it has said anything of the run.
- always: asks before it has said anything, and so does every child after it.
- halving: as always, with half as many windows at once each time.

The device's name in its state is the batch size that it was told.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, cast

from services.worker.engine.messages import (
    Configure,
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
from services.worker.work import (
    Completed,
    EngineState,
    Failed,
    Planned,
    Report,
    SpeakersFound,
    SpeakerTurn,
    StageChanged,
    Work,
)
from tests.fakes.engine import plan, window_finished

WINDOWS = 3
TURNS = (SpeakerTurn(0.0, 1.0, "SPEAKER_00"),)
REASON = "CUDA failed with error an illegal memory access was encountered"
LATE = Failed("ENGINE_FAILED", "The child had no device any more.")


def without(windows: Iterable[int]) -> str:
    """What the last child says when it begins a run: the windows that it was told are finished."""
    return f"without {sorted(windows)}"


class Child:
    def __init__(self, how: str, file: Path) -> None:
        self._how = how
        self._file = file
        self._is_last = file.exists()
        self._batch_size = 0

    def answers(self, message: ToEngine) -> list[FromEngine]:
        match message:
            case Configure(settings):
                self._batch_size = settings.first_batch_size or settings.batch_size
                return [StateReported(EngineState(True, device_name=f"{self._batch_size} of {settings.batch_size}"))]
            case Ping():
                return [Pong()]
            case RunWork(run, work):
                return self._run(run, work)
        return []

    def _run(self, run: int, work: Work) -> list[FromEngine]:
        if self._is_last:
            return [WorkReported(run, report) for report in self._whole(work)]
        begun: list[Report] = []
        if self._how in ("once", "anew"):
            begun = [StageChanged("preparing"), Planned(plan(WINDOWS)), SpeakersFound(TURNS), window_finished(0)]
        if self._how not in ("always", "halving"):
            self._file.touch()
        size = max(1, self._batch_size // 2) if self._how == "halving" else 4
        said: list[FromEngine] = [WorkReported(run, report) for report in begun]
        return [
            *said,
            Recycle(REASON, size, is_less=not self._batch_size or size < self._batch_size),
            WorkReported(run, LATE),
        ]

    def _whole(self, work: Work) -> list[Report]:
        """Every window that the work does not say is finished, and what goes before."""
        ours = plan(WINDOWS) if self._how != "anew" else replace(plan(WINDOWS), fingerprint="another")
        earlier = work.finished
        same = earlier is not None and earlier.plan.fingerprint == ours.fingerprint
        done: frozenset[int] = earlier.finished_windows if earlier is not None and same else frozenset()
        windows: list[Report] = [window_finished(index) for index in range(WINDOWS) if index not in done]
        return [
            StageChanged("preparing", without(done)),
            Planned(ours),
            SpeakersFound(TURNS),
            *windows,
            Completed(90.0, 1.0),
        ]


def main(how: str, file: Path, pipe: BinaryIO) -> None:
    child = Child(how, file)
    while (message := receive(pipe)) is not None:
        for answer in child.answers(message):
            pipe.write(encode(answer))
        pipe.flush()


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[-1])) as ours:
        main(sys.argv[1], Path(sys.argv[2]), cast("BinaryIO", ours.makefile("rwb")))
