"""The batch runner, which kills itself at its nth write of a file: `python -m tests.fakes.dying_batch N before|after ...`.

Writes are the state, the remembered session and the transcripts: each becomes true with one rename.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from scripts.batch import state
from scripts.batch.command import run


def main(number: int, when: str, arguments: list[str]) -> int:
    replace, left = Path.replace, [number]

    def dying(self: Path, target: Any) -> Path:
        left[0] -= 1
        if left[0] == 0 and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = replace(self, target)
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    Path.replace = dying  # type: ignore[method-assign]
    state.SAVING_SHARE = 1e9  # every change of the state is a write of its own
    return run(arguments, os.environ)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
