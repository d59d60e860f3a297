"""The diarizer's turns among jobs, without a pipeline."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from services.worker.engine.diarization import Diarizer
from services.worker.engine.protocol import EngineSettings
from services.worker.pipeline.windows import SAMPLE_RATE
from services.worker.work import Options

BUNDLED = Path(__file__).parents[2] / "models"


class GivenUpError(Exception):
    pass


def test_a_job_that_waits_for_the_pipeline_can_be_given_up() -> None:
    diarizer = Diarizer(EngineSettings("demo", BUNDLED, diarization_model="demo"), "cpu", lambda: None)
    diarizer._tried.set()
    given_up = threading.Event()

    def check() -> None:
        if given_up.is_set():
            raise GivenUpError

    with ThreadPoolExecutor(1) as threads, diarizer._lock:  # another job's, for as long as its recording takes
        waiting = threads.submit(diarizer.turns, np.zeros(SAMPLE_RATE, np.float32), Options(), check)
        given_up.set()
        with pytest.raises(GivenUpError):
            waiting.result(timeout=10)
    assert not diarizer._lock.locked()
