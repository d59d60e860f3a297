"""Who speaks when, by pyannote.audio's pipeline, loaded in the background and shared by all jobs."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog
import yaml
from huggingface_hub import constants, get_token, try_to_load_from_cache

from services.worker.engine import catalog
from services.worker.engine.model_files import short_error
from services.worker.engine.protocol import EngineSettings
from services.worker.pipeline.assemble import name_speakers
from services.worker.pipeline.faults import WorkError
from services.worker.pipeline.recording import Samples
from services.worker.pipeline.windows import SAMPLE_RATE
from services.worker.work import Options, SpeakerTurn

log = structlog.get_logger()

HUB_PIPELINE = "pyannote/speaker-diarization-community-1"
DEMO = "demo"
_DEMO_FOLDER = "diarization-demo"
DEMO_NOTE = "Bundled for demo and tests: tells synthetic voices apart, and no people's."

# Less than this holds no speaker turn worth the name, and embeddings need 0.3 s.
_SHORTEST_SECONDS = 0.5

_NONE = (
    "This worker has no diarization model. Set WORKER_DIARIZATION_MODEL on the worker to a hub name or a folder, "
    f"or HF_TOKEN so that {HUB_PIPELINE} can be downloaded (accept its terms on the hub first)."
)


class Diarizer:
    """The pipeline, if any. ``name`` is the configured one, "" for none; ``error`` says why there is none."""

    def __init__(self, settings: EngineSettings, device: str, changed: Callable[[], None]) -> None:
        self._settings = settings
        self._device = device
        self._changed = changed
        self._pipeline: Any = None
        self._tried = threading.Event()
        # pyannote's pipeline is not made for several threads, and its step is set per job.
        self._lock = threading.Lock()
        self.name, self.error = _choose(settings)
        if not self.name:
            self._tried.set()

    def load(self) -> None:
        """Loads the configured pipeline; what goes wrong is kept in ``error``. Takes seconds, for torch is large."""
        if not self.name:
            return
        try:
            self._pipeline = _load(self.name, self._settings, self._device)
            log.info("diarization_loaded", model=self.name, device=self._device)
        except Exception as error:  # whatever a pipeline's code raises: jobs without diarization go on
            log.exception("diarization_failed", model=self.name)
            self.error = _failure(self.name, error)
        self._tried.set()
        self._changed()

    @property
    def ready_name(self) -> str:
        """The pipeline's name unless it is known to be unavailable."""
        return "" if self.error else _shown(self.name)

    @property
    def note(self) -> str:
        return DEMO_NOTE if self.ready_name == DEMO else ""

    def require(self) -> None:
        """Raises WorkError DIARIZATION_UNAVAILABLE where it is already known that there is no pipeline."""
        if self.error:
            raise WorkError("DIARIZATION_UNAVAILABLE", self.error)

    def turns(self, samples: Samples, options: Options, check: Callable[[], None]) -> tuple[SpeakerTurn, ...]:
        """Speaker turns of a recording at 16 kHz; none where nobody speaks.

        ``check`` is called every few seconds of work and may raise to give up. Recordings longer than
        ``options.diarization_max_duration_seconds`` are diarized whole as well: cutting them would need speakers to be
        matched across the parts. ``diarization_fast_switching`` halves the step between chunks, which finds quick
        exchanges better and takes twice as long.
        """
        while not self._tried.wait(1.0):
            check()
        self.require()
        if len(samples) < _SHORTEST_SECONDS * SAMPLE_RATE:
            return ()
        with self._turn(check):
            found = self._run(samples, options, check)
        return name_speakers(SpeakerTurn(round(turn.start, 3), round(turn.end, 3), str(label)) for turn, label in found)

    @contextmanager
    def _turn(self, check: Callable[[], None]) -> Iterator[None]:
        """The pipeline for oneself; who waits for it, as long as another's recording takes, can be canceled."""
        while not self._lock.acquire(timeout=1.0):
            check()
        try:
            check()
            yield
        finally:
            self._lock.release()

    def _run(self, samples: Samples, options: Options, check: Callable[[], None]) -> list[tuple[Any, str]]:
        import torch

        def hook(*_: object, **__: object) -> None:
            check()

        inference = self._pipeline._segmentation
        step = self._pipeline.segmentation_step * (0.5 if options.diarization_fast_switching else 1.0)
        inference.step = step * inference.duration
        file = {"waveform": torch.from_numpy(samples)[None], "sample_rate": SAMPLE_RATE, "uri": "recording"}
        output = self._pipeline(file, min_speakers=options.min_speakers, max_speakers=options.max_speakers, hook=hook)
        turns = output.speaker_diarization.itertracks(yield_label=True)
        return [(turn, label) for turn, _, label in turns]


def _choose(settings: EngineSettings) -> tuple[str, str]:
    """(name, error): exactly one of them is set."""
    wanted = settings.diarization_model
    if wanted == "none":
        return (
            "",
            "Diarization is switched off on this worker: WORKER_DIARIZATION_MODEL is 'none'. Set it to another, or leave it out.",
        )
    if wanted != "auto":
        return wanted, ""
    if settings.default_model == catalog.DEMO:
        return DEMO, ""
    cached = isinstance(try_to_load_from_cache(HUB_PIPELINE, "config.yaml"), str)
    if cached or ((settings.hf_token or get_token()) and not constants.HF_HUB_OFFLINE):
        return HUB_PIPELINE, ""
    return "", _NONE


def _shown(name: str) -> str:
    """A folder's path is this host's own business."""
    return Path(name).name if Path(name).is_absolute() or name.startswith(".") else name


def _failure(name: str, error: Exception) -> str:
    reason = short_error(error)
    return (
        f"The diarization model {_shown(name)!r} cannot be loaded ({type(error).__name__}: {reason}). Correct "
        "WORKER_DIARIZATION_MODEL; for a gated model of the hub, accept its terms there and set HF_TOKEN on the worker."
    )


def _load(name: str, settings: EngineSettings, device: str) -> Any:
    from services.worker.engine.torchaudio_stub import import_torchaudio

    import_torchaudio()
    import torch

    # More threads than one made it slower beside a decoding job, and hardly faster alone.
    torch.set_num_threads(1)
    if name == DEMO:
        pipeline = demo_pipeline(settings.bundled_dir / _DEMO_FOLDER)
    else:
        from pyannote.audio import Pipeline

        pipeline = Pipeline.from_pretrained(name, token=settings.hf_token or None)
        if pipeline is None:
            raise RuntimeError("the hub does not give it out")
    return pipeline.to(torch.device(device))


def demo_pipeline(folder: Path) -> Any:
    """pyannote's own pipeline around the bundled models; no pickle is loaded."""
    from pyannote.audio.core.plda import PLDA
    from pyannote.audio.pipelines import SpeakerDiarization

    from services.worker.engine.tiny_diarization import TinyEmbedding, TinySegmentation

    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    given = dict(config["pipeline"]["params"])
    given["segmentation"] = _demo_model(TinySegmentation, folder / "segmentation")
    given["embedding"] = _demo_model(TinyEmbedding, folder / "embedding")
    given["plda"] = PLDA.from_pretrained(folder)
    return SpeakerDiarization(**given).instantiate(config["params"])


def _demo_model(kind: Any, stem: Path) -> Any:
    from pyannote.audio.core.task import Problem, Resolution, Specifications
    from safetensors.torch import load_file

    described = json.loads(stem.with_suffix(".json").read_text(encoding="utf-8"))
    specifications = described["specifications"]
    model = kind(**described["hyper_parameters"])
    model.specifications = Specifications(
        problem=Problem[specifications.pop("problem")],
        resolution=Resolution[specifications.pop("resolution")],
        **specifications,
    )
    model.build()
    model.load_state_dict(load_file(stem.with_suffix(".safetensors")))
    return model.eval()
