"""`python -m tests.fakes.paced_worker`: the worker's real front process over a paced engine.

PACED_SECONDS is what a window takes.
"""

from __future__ import annotations

import os
import sys

from services.worker import __main__ as worker
from tests.fakes.paced_engine import PacedEngine

if __name__ == "__main__":
    pace = float(os.environ.get("PACED_SECONDS", "0.1"))
    sys.exit(worker.main(make_engine=lambda settings: PacedEngine(settings, pace)))
