"""The engine's own speaker models as they are trained and saved; pyannote is imported with the stub that it needs here."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from services.worker.engine.torchaudio_stub import import_torchaudio

CHUNK_SECONDS = 10.0
EMBEDDED_SECONDS = 5.0
VECTOR = 96
_THRESHOLD, _MIN_FRAMES = 0.5, 6

_HEARD = {
    "sample_rate": 16000,
    "num_channels": 1,
    "n_mels": 64,
    "width": 512,
    "pitches": 40,
    "channels": 160,
    "pooled": 256,
}
"""Of both models: what they hear, and the first layers, which the segmentation takes over from the embedding."""


@dataclass(frozen=True, slots=True)
class Described:
    """What `services.worker.engine.speaker_models` builds a model by."""

    kind: str
    hyper_parameters: dict[str, Any]
    specifications: dict[str, Any]


def embedding_described() -> Described:
    return Described(
        "TinyEmbedding",
        {**_HEARD, "dimension": VECTOR},
        {
            "problem": "REPRESENTATION",
            "resolution": "CHUNK",
            "duration": EMBEDDED_SECONDS,
            "classes": None,
            "powerset_max_classes": None,
            "permutation_invariant": False,
        },
    )


def segmentation_described(speakers: int) -> Described:
    return Described(
        "TinySegmentation",
        {
            **_HEARD,
            "reduced": 128,
            "hidden": 96,
            "heads": 4,
            "decode": "centers",
            "threshold": _THRESHOLD,
            "min_frames": _MIN_FRAMES,
            "pair_bias": 0.0,
        },
        {
            "problem": "MONO_LABEL_CLASSIFICATION",
            "resolution": "FRAME",
            "duration": CHUNK_SECONDS,
            "classes": [f"speaker#{number}" for number in range(1, speakers + 1)],
            "powerset_max_classes": 2,
            "permutation_invariant": True,
        },
    )


def new_model(described: Described) -> Any:
    """Untrained, of `services.worker.engine.tiny_diarization`."""
    import_torchaudio()
    from pyannote.audio.core.task import Problem, Resolution, Specifications

    from services.worker.engine import tiny_diarization

    given = dict(described.specifications)
    model = getattr(tiny_diarization, described.kind)(**described.hyper_parameters)
    model.specifications = Specifications(
        problem=Problem[given.pop("problem")], resolution=Resolution[given.pop("resolution")], **given
    )
    model.build()
    return model


def loaded_model(described: Described, weights: Path) -> Any:
    model = new_model(described)
    model.load_state_dict(torch.load(weights, weights_only=True))
    return model.eval()


def save_model(model: Any, described: Described, stem: Path) -> None:
    """Writes ``stem``.json and ``stem``.safetensors."""
    content = {
        "class": described.kind,
        "hyper_parameters": described.hyper_parameters,
        "specifications": described.specifications,
    }
    stem.with_suffix(".json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    save_file(
        {name: tensor.contiguous() for name, tensor in model.state_dict().items()}, stem.with_suffix(".safetensors")
    )


def embed(model: Any, waveforms: Tensor, weights: Tensor) -> Tensor:
    """Before centering: (batch, samples) and weights of hundredths of a second to (batch, 96). For training too, which the
    model's own ``forward`` is not made for."""
    x = model.tdnn(model.mel(waveforms[:, None]))
    shares = torch.nn.functional.interpolate(weights[:, None], size=x.shape[-1], mode="nearest")
    shares = shares / (shares.sum(-1, keepdim=True) + 1e-6)
    mean = (x * shares).sum(-1)
    variance = (x.square() * shares).sum(-1) - mean.square()
    embedded: Tensor = model.norm(model.emb(torch.cat([mean, variance.clamp(min=1e-5).sqrt()], 1)))
    return embedded
