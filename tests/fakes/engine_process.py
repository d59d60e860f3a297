"""An engine's child that misbehaves as a test says, until a file is there: `python -m tests.fakes.engine_process HOW FILE`.

- dies: ends at once, before it is ready.
- nonsense: makes the file, and says what nobody understands.
- stuck: is ready, answers pings, makes the file when it is asked to cancel, and never ends a run.

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
from services.worker.work import Completed, EngineState, StageChanged

NONSENSE = b"\0\0\0\4oops"


def main(how: str, file: Path, pipe: BinaryIO) -> None:
    stuck = how == "stuck" and not file.exists()
    while (message := receive(pipe)) is not None:
        if isinstance(message, Configure) and not file.exists() and how == "dies":
            sys.exit(3)
        if isinstance(message, Configure) and not file.exists() and how == "nonsense":
            file.touch()
            pipe.write(NONSENSE)
        if isinstance(message, CancelWork):
            file.touch()
        for answer in answers(message, stuck):
            pipe.write(encode(answer))
        pipe.flush()


def answers(message: ToEngine, stuck: bool) -> list[FromEngine]:
    match message:
        case Configure():
            return [StateReported(EngineState()), StateReported(EngineState(ready=True))]
        case Ping():
            return [Pong()]
        case RunWork(run, _):
            reports = [StageChanged("transcribing")] if stuck else [Completed(1.0, 1.0)]
            return [WorkReported(run, report) for report in reports]
        case _:
            return []


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[-1])) as ours:
        main(sys.argv[1], Path(sys.argv[2]), cast("BinaryIO", ours.makefile("rwb")))
