"""An engine's child that misbehaves as a test says, until a file is there: `python -m tests.fakes.engine_process HOW FILE`.

- dies: ends at once, before it is ready.
- nonsense: makes the file, and says what nobody understands.
- stuck: is ready, answers pings, makes the file when it is asked to cancel, and never ends a run.
- loading: loads a model for as many pings as LOADING_PINGS after it was asked to cancel, and heeds it only then.

Once the file is there it completes every run.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import BinaryIO, cast

from services.worker.engine.messages import (
    CancelWork,
    Configure,
    FromEngine,
    Ping,
    Pong,
    RunWork,
    StateReported,
    ToEngine,
    WorkReported,
    encode,
    receive,
)
from services.worker.work import Canceled, Completed, EngineState, ModelState, StageChanged

LOADING_PINGS = 10
NONSENSE = b"\0\0\0\4oops"


class Child:
    def __init__(self, how: str, file: Path) -> None:
        self._how = "" if file.exists() else how
        self._file = file
        self._canceled: list[int] = []
        self._pings = 0

    def answers(self, message: ToEngine) -> list[FromEngine]:
        match message:
            case Configure():
                return self._begin()
            case Ping():
                return [Pong(), *self._after_ping()]
            case RunWork(run, _):
                goes_on = self._how in ("stuck", "loading")
                return [WorkReported(run, StageChanged("transcribing") if goes_on else Completed(1.0, 1.0))]
            case CancelWork(run):
                self._file.touch()
                self._canceled.append(run)
        return []

    def _begin(self) -> list[FromEngine]:
        if self._how == "dies":
            sys.exit(3)
        return [StateReported(EngineState()), StateReported(EngineState(True, models=self._models("loading")))]

    def _after_ping(self) -> list[FromEngine]:
        self._pings += bool(self._canceled)
        if self._how != "loading" or self._pings < LOADING_PINGS:
            return []
        canceled, self._canceled, self._pings = self._canceled, [], 0
        loaded = StateReported(EngineState(True, models=self._models("loaded")))
        return [loaded, *(WorkReported(run, Canceled()) for run in canceled)]

    def _models(self, state: str) -> tuple[ModelState, ...]:
        return (ModelState("large", state),) if self._how == "loading" else ()


def main(how: str, file: Path, pipe: BinaryIO) -> None:
    nonsense = how == "nonsense" and not file.exists()
    child = Child(how, file)
    while (message := receive(pipe)) is not None:
        if nonsense:
            file.touch()
            pipe.write(NONSENSE)
        for answer in child.answers(message):
            pipe.write(encode(answer))
        pipe.flush()


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[-1])) as ours:
        main(sys.argv[1], Path(sys.argv[2]), cast("BinaryIO", ours.makefile("rwb")))
