"""What the worker's front knows of an engine. Plain asyncio; no model library is imported from here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from services.worker.work import AttemptKey, EngineState, Report, Work


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Everything the engine child is told; it reads no setting of ours from the environment.

    - default_model: loaded at start and kept (``WORKER_MODEL``).
    - models: names that jobs may ask for besides (``WORKER_MODELS``); empty means all that ``catalog`` knows.
    - model_dir: folder of model folders (``WORKER_MODEL_DIR``); bundled_dir: where the demo models lie.
    - device: "auto", "cpu" or "cuda"; compute_type: CTranslate2's, "" for the one the model was saved with.
    - gpu: the UUID of the only GPU that this child may use, "" for the first that there is.
    - batch_size: windows decoded at once in a lane; 0: by the device's memory and the model (`memory.auto_batch_size`).
    - first_batch_size: what a lane begins with, and grows from; 0: batch_size. Smaller once memory ran out.
    - halvings: how often a CPU's batch_size is halved before, for children that were killed, most likely for want of memory.
    - engines: how many such children share the machine.
    - slots: jobs at once; cpu_threads: of each lane, 0 means the cores shared among the lanes.
    - diarization_model: "auto", "demo", "none", a hub name or a folder (``WORKER_DIARIZATION_MODEL``).
    - hf_token: for gated models; crosses the pipe only, never a command line or a log.
    - spool_dir: this child's own folder for recordings while they are decoded; None for one of the system's that goes with it.
    - log_dir: folder of app.log; None means stderr only.
    """

    default_model: str
    bundled_dir: Path
    models: tuple[str, ...] = ()
    model_dir: Path | None = None
    device: str = "auto"
    compute_type: str = ""
    batch_size: int = 0
    first_batch_size: int = 0
    halvings: int = 0
    engines: int = 1
    slots: int = 1
    cpu_threads: int = 0
    diarization_model: str = "auto"
    hf_token: str = field(default="", repr=False)
    spool_dir: Path | None = None
    log_dir: Path | None = None
    gpu: str = ""


class Engine(Protocol):
    """Runs work, several at once up to its slots; who reserves slots is the front's business."""

    async def start(self) -> None:
        """Returns at once; ``state`` tells when models are loaded."""

    async def stop(self) -> None:
        """Ends the engine at once; work that still runs ends in Failed ENGINE_CRASHED, or Canceled where it was to."""

    @property
    def state(self) -> EngineState: ...

    async def changed(self, seen: EngineState) -> EngineState:
        """The state, as soon as it differs from ``seen``; no change is missed between two calls."""
        ...

    def run(self, work: Work) -> AsyncIterator[Report]:
        """Begins the work now; iterate at once. Ends after exactly one Outcome; leaving early cancels the work.

        While the engine is not ready the work waits for it. Raises ValueError where the same attempt is running.
        """
        ...

    def foresee(self, audio_path: Path) -> None:
        """A run of this recording will likely come soon. A hint: it may be prepared meanwhile, or not."""

    def cancel(self, key: AttemptKey) -> None:
        """The outcome becomes Canceled one batch later at the latest, or when an engine that is stuck in it ends; an unknown key is ignored."""
