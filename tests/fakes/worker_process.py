"""`python -m tests.fakes.worker_process`: the worker's real front process over a fake engine."""

from __future__ import annotations

import sys

from services.worker import __main__ as worker
from tests.fakes.engine import FakeEngine

if __name__ == "__main__":
    sys.exit(worker.main(make_engine=lambda settings: FakeEngine()))
