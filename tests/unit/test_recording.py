"""What is read of a recording that was prepared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from services.worker.pipeline.recording import PreparedRecording


@pytest.mark.parametrize(
    ("start", "length", "read"),
    [(0, 100, (0, 100)), (10, 5, (10, 15)), (90, 50, (90, 100)), (100, 1, (0, 0)), (500, 10, (0, 0))],
)
def test_a_stretch_is_as_long_as_there_is_sound(tmp_path: Path, start: int, length: int, read: tuple[int, int]) -> None:
    spool = tmp_path / "spool"
    spool.write_bytes(np.arange(100, dtype="<i2").tobytes())
    found = PreparedRecording(spool, 100, ()).stretch(start, length)
    assert found.dtype == np.float32
    assert np.array_equal(found * 32768, np.arange(*read))
