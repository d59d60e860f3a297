"""The baseline: a bare loop of stock batched faster-whisper. `python -m benchmarks.stock FOLDER` prints JSON.

What a person would write in ten lines: one model in memory, one file after the other, all cores. Loading the
model is not counted.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from scripts.batch.recordings import find_recordings
from scripts.processes import ROOT

BATCH_SIZE = 8
"""As the worker's on a CPU."""


def main(folder: Path) -> None:
    from faster_whisper import BatchedInferencePipeline, WhisperModel

    model = WhisperModel(str(ROOT / "models" / "whisper-demo"), device="cpu", cpu_threads=os.cpu_count() or 1)
    pipeline = BatchedInferencePipeline(model)
    texts = {}
    began = time.monotonic()
    for recording in find_recordings(folder):
        segments, _ = pipeline.transcribe(str(recording.path), language="en", batch_size=BATCH_SIZE)
        texts[recording.name] = "".join(segment.text for segment in segments)
    print(json.dumps({"seconds": time.monotonic() - began, "texts": texts}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
