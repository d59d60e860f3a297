"""What the models of pyannote's pipelines take for a batch, by shape: weights are random. It is what the engine reserves for them
(`DIARIZATION_BYTES`), and what `WORKER_MAX_CONCURRENT_JOBS=auto` keeps slots for.

Measured on the CPU, where a process's peak is easily had: the same numbers are computed on a GPU. Each model has a process of its own.
"""

from __future__ import annotations

import asyncio
import sys

from benchmarks.report import Figure, Report
from scripts.processes import ROOT
from services.worker.engine.diarization import BATCH_SIZES
from services.worker.engine.memory import DIARIZATION_BYTES, GIB

WINDOWS = BATCH_SIZES["cuda"]
WINDOW_SECONDS = 10

_PROGRAM = """
import resource, sys, warnings
warnings.filterwarnings("ignore")
from services.worker.engine.torchaudio_stub import import_torchaudio
import_torchaudio()
import torch
from pyannote.audio.core.task import Problem, Resolution, Specifications
from pyannote.audio.models.embedding import WeSpeakerResNet34
from pyannote.audio.models.segmentation import PyanNet

windows, seconds = int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)
model = {"segmentation": PyanNet, "embedding": WeSpeakerResNet34}[sys.argv[1]]()
if sys.argv[1] == "segmentation":
    model.specifications = Specifications(
        problem=Problem.MONO_LABEL_CLASSIFICATION, resolution=Resolution.FRAME, duration=float(seconds),
        classes=["one", "two", "three"], powerset_max_classes=2, permutation_invariant=True,
    )
model.build()
model.eval()
sound = torch.zeros(windows, 1, seconds * 16000)
weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
with open("/proc/self/statm") as file:
    before = int(file.read().split()[1]) * resource.getpagesize()
with torch.inference_mode():
    model(sound)
print(weights, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before)
"""


async def measure() -> Report:
    taken = {model: await _bytes(model) for model in ("segmentation", "embedding")}
    together = sum(weights + batch for weights, batch in taken.values())
    return Report(
        "speaker-memory",
        (
            *(Figure(f"{model}, weights", weights / GIB, "GiB") for model, (weights, _) in taken.items()),
            *(Figure(f"{model}, {WINDOWS} windows", batch / GIB, "GiB") for model, (_, batch) in taken.items()),
            Figure("together, of what is reserved", together / DIARIZATION_BYTES, "ratio", at_most=1.0),
        ),
        ("PyanNet and WeSpeaker ResNet34 of random weights; torch keeps what one has used while the other computes",),
    )


async def _bytes(model: str) -> tuple[int, int]:
    """(weights, what a batch takes beside them)."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _PROGRAM, model, str(WINDOWS), str(WINDOW_SECONDS)),
        cwd=ROOT, env={"PYANNOTE_METRICS_ENABLED": "0", "PATH": ""}, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"the process with the {model} model ended with status {process.returncode}")
    weights, batch = map(int, out.split())
    return weights, batch
