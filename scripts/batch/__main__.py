"""`python -m scripts.batch`: what `scripts/run_batch.sh` starts."""

from __future__ import annotations

import os
import signal
import sys


def main() -> int:
    for number in (signal.SIGINT, signal.SIGTERM):  # until the loop takes them over: nothing was begun
        signal.signal(number, lambda given, _frame: os._exit(128 + given))
    from scripts.batch.command import run  # takes half a second, in which Ctrl-C would be a traceback

    return run(sys.argv[1:], os.environ)  # noqa: TID251 - a command's own environment


if __name__ == "__main__":
    sys.exit(main())
