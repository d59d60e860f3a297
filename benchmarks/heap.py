"""Encoding a window with the C library's memory as it is, and as the engine child has it kept; in turn, in processes of their own."""

from __future__ import annotations

import asyncio
import sys

from benchmarks.report import Figure, Report, of_spread
from benchmarks.spread import ratios, spread
from scripts.processes import ROOT

ROUNDS = 5
WINDOWS = 12

_PROGRAM = f"""
import sys, time
import ctranslate2, numpy as np
if sys.argv[1] == "kept":
    from services.worker.engine import heap
    heap.keep()
model = ctranslate2.models.Whisper("models/whisper-demo", inter_threads=1, intra_threads=1)
window = ctranslate2.StorageView.from_array(np.zeros((1, model.n_mels, 3000), np.float32))
model.encode(window)
began = time.process_time()
for _ in range({WINDOWS}):
    model.encode(window)
print((time.process_time() - began) / {WINDOWS})
"""


async def measure() -> Report:
    seconds: dict[str, list[float]] = {"usual": [], "kept": []}
    for _ in range(ROUNDS):
        for how, measured in seconds.items():
            measured.append(await _seconds(how))
    usual, kept = spread(seconds["usual"]), spread(seconds["kept"])
    ratio = ratios(seconds["kept"], seconds["usual"])
    return Report(
        "heap",
        (
            Figure("encoding a window, as usual", 1000 * usual.median, "ms CPU"),
            Figure("encoding a window, memory kept", 1000 * kept.median, "ms CPU"),
            of_spread("kept over usual", ratio, "ratio", at_most=0.9),
        ),
    )


async def _seconds(how: str) -> float:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _PROGRAM, how), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"the process that encodes ended with status {process.returncode}")
    return float(out)
