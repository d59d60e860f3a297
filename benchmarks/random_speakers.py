"""A pipeline of the shape of pyannote's community-1 with random weights, from nothing.

It costs what the real one costs and needs no download. Invariant: `Pipeline.from_pretrained` loads the folder as it does a
real one. The segmentation hears two of its three speakers, now one, now the other, now both, now nobody: its classifier sees
features that were brought to one scale with a piece of sound. Embeddings of random weights are much alike, so how many speakers
there are has to be said.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

CHUNK_SECONDS = 10.0
"""As the published segmentation hears at once."""

EMBEDDING, PLDA = 256, 128
"""Sizes of a voice: as the published embedding tells it, and where it is compared."""

_NEVER = -1e3
# Powerset classes of three speakers, at most two at once: nobody, 0, 1, 2, 0+1, 0+2, 1+2.
_THIRD = [3, 5, 6]


def make_random_pipeline(folder: Path, sound: NDArray[np.int16], seed: int = 1) -> Path:
    """Writes it; returns the folder. ``sound``: some seconds at 16 kHz."""
    from services.worker.engine.torchaudio_stub import import_torchaudio

    import_torchaudio()
    import torch
    from pyannote.audio.core.task import Problem, Resolution, Specifications
    from pyannote.audio.models.embedding import WeSpeakerResNet34
    from pyannote.audio.models.segmentation import PyanNet

    torch.manual_seed(seed)
    segmentation: Any = PyanNet(lstm={"num_layers": 4})
    segmentation.specifications = Specifications(
        problem=Problem.MONO_LABEL_CLASSIFICATION,
        resolution=Resolution.FRAME,
        duration=CHUNK_SECONDS,
        classes=["first", "second", "third"],
        powerset_max_classes=2,
        permutation_invariant=True,
    )
    segmentation.build()
    _spread(segmentation, torch.from_numpy(sound.astype(np.float32) / 32768))
    embedding: Any = WeSpeakerResNet34()
    embedding.specifications = Specifications(
        problem=Problem.REPRESENTATION, resolution=Resolution.CHUNK, duration=CHUNK_SECONDS
    )
    _save(segmentation, folder / "segmentation")
    _save(embedding, folder / "embedding")
    _save_plda(folder / "plda", np.random.default_rng(seed))
    (folder / "config.yaml").write_text(yaml.safe_dump(_CONFIG), encoding="utf-8")
    return folder


_CONFIG = {
    "dependencies": {"pyannote.audio": "4.0.0"},
    "pipeline": {
        "name": "pyannote.audio.pipelines.SpeakerDiarization",
        "params": {
            "clustering": "VBxClustering",
            "segmentation": "$model/segmentation",
            "segmentation_batch_size": 32,
            "embedding": "$model/embedding",
            "embedding_batch_size": 32,
            "embedding_exclude_overlap": True,
            "plda": "$model/plda",
        },
    },
    "params": {
        "clustering": {"threshold": 0.6, "Fa": 0.07, "Fb": 0.8},
        "segmentation": {"min_duration_off": 0.0},
    },
}
"""As of the published one."""


def _spread(segmentation: Any, waveform: Any) -> None:
    """Sets the classifier so that it uses its classes, but for the third speaker's, about equally."""
    import torch

    heard: list[Any] = []
    handle = segmentation.classifier.register_forward_hook(lambda _module, given, _answer: heard.append(given[0]))
    segmentation.eval()
    with torch.inference_mode():
        segmentation(waveform[None, None])
    handle.remove()
    features = heard[0].flatten(end_dim=-2).double()
    middle = features.mean(dim=0)
    directions, scales, _ = torch.linalg.svd((features - middle).T @ (features - middle) / len(features))
    classifier = segmentation.classifier
    weights = torch.randn(classifier.out_features, 8, dtype=torch.float64) / scales[:8].sqrt() @ directions[:, :8].T
    bias = -weights @ middle
    weights[_THIRD], bias[_THIRD] = 0.0, _NEVER
    with torch.no_grad():
        classifier.weight.copy_(weights)
        classifier.bias.copy_(bias)


def _save(model: Any, folder: Path) -> None:
    """As Lightning saves a trained one."""
    import lightning
    import torch

    folder.mkdir(parents=True)
    checkpoint = {
        "state_dict": model.state_dict(),
        "hyper_parameters": dict(model.hparams),
        "pytorch-lightning_version": lightning.__version__,
    }
    model.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, folder / "pytorch_model.bin")


def _save_plda(folder: Path, random: np.random.Generator) -> None:
    folder.mkdir(parents=True)
    turned, _ = np.linalg.qr(random.standard_normal((EMBEDDING, PLDA)))
    np.savez(folder / "xvec_transform.npz", mean1=np.zeros(EMBEDDING), mean2=np.zeros(PLDA), lda=turned)
    between = np.geomspace(10.0, 0.1, PLDA)
    np.savez(folder / "plda.npz", mu=np.zeros(PLDA), tr=np.eye(PLDA), psi=between)
