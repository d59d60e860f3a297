"""The engine alone, on windows whose features are ready: what the rest of the system costs is measured against it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.worker.engine import heap
from services.worker.engine.decoding import Request, Voice
from services.worker.engine.features import TorchFeatures
from services.worker.engine.lanes import Lanes, lanes_on
from services.worker.engine.memory import BatchLimit, auto_batch_size
from services.worker.engine.models import LoadedModel, Models
from services.worker.engine.protocol import EngineSettings
from services.worker.pipeline.windows import SAMPLE_RATE
from services.worker.work import AttemptKey, Options


@dataclass(frozen=True, slots=True)
class Ready:
    """One window of a recording. ``samples``: mono float32 at 16 kHz in [-1, 1], its speech without its silences.
    ``features``: log-mel float32 (mels, 3000), padded with zeros, as the stock batched pipeline makes them."""

    recording: str
    index: int
    samples: NDArray[np.float32]
    features: NDArray[np.float32]


class _NoMemory:
    """Where it runs out a benchmark ends."""

    def release(self) -> bool:
        return False

    def replace_process(self, reason: str, batch_size: int = 0, *, is_less: bool = False) -> None:
        raise RuntimeError(reason)


class _OnDevice(TorchFeatures):
    """Of windows whose features are there already."""

    def __init__(self) -> None:
        """Nothing is to be computed."""

    def stacked(self, windows: Sequence[Any]) -> Any:
        import torch

        return torch.stack(list(windows))


class Alone:
    """The engine's lanes and queue with a model, and nothing around them."""

    def __init__(self, models: Models, name: str, lanes: Lanes) -> None:
        self._models = models
        self._name = name
        self._lanes = lanes

    def run(self, windows: Sequence[Ready]) -> tuple[float, Mapping[str, str]]:
        """Decodes them (English, beam 5, no timestamps); seconds from the first to the last, and each recording's text,
        its windows joined in their order."""
        with self._models.use(self._name) as model:
            voice = Voice(model, "en", Options())
            requests = [self._request(voice, window) for window in windows]
            if voice.model.device != "cpu":
                voice.features = _OnDevice()
            began = time.monotonic()
            with self._lanes.line(model, sum(request.seconds for request in requests)) as line:
                line.expect(len(requests), False)
                for request in requests:
                    line.put(request)
                found = [request.done.result() for request in requests]
            seconds = time.monotonic() - began
        texts: defaultdict[str, str] = defaultdict(str)
        for window, segments in zip(windows, found, strict=True):
            texts[window.recording] += "".join(segment.text for segment in segments)
        return seconds, texts

    def close(self) -> None:
        """Ends its threads, which a process that ends would wait for."""
        self._lanes.stop()

    def _request(self, voice: Voice, window: Ready) -> Request:
        features: Any = window.features
        if voice.model.device != "cpu":
            features = voice.features.stacked([window.samples])[0]
        seconds = len(window.samples) / SAMPLE_RATE
        return Request(AttemptKey(window.recording, 1), window.index, voice, features, seconds)


def load(model: Path, device: str, compute_type: str, batch_size: int) -> Alone:
    """With its model loaded. ``compute_type`` as CTranslate2's, "default" for the model's own; ``batch_size`` 0 for the
    engine's own choice."""
    heap.keep()  # as the engine child does
    settings = EngineSettings(
        default_model=model.name,
        bundled_dir=model.parent,
        model_dir=model.parent,
        device=device,
        compute_type=compute_type,
    )
    count, threads = lanes_on(device, 0)
    models = Models(settings, device, threads, lambda: None, lanes=count)
    lanes = Lanes(count, device, lambda loaded: BatchLimit(batch_size or _batch_size(loaded)), _NoMemory(), _end)
    lanes.start()
    return Alone(models, model.name, lanes)


def _batch_size(loaded: LoadedModel) -> int:
    """As the engine child chooses it, on a GPU with much memory."""
    if loaded.device != "cpu" or loaded.shape is None:
        return 64
    return auto_batch_size(0, loaded.weights_bytes, loaded.shape, False, "cpu")


def _end(lane: Future[None]) -> None:
    lane.result()
