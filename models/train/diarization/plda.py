"""What separates voices from each other and from themselves: the transforms that pyannote's VBx clusters by.

Sources: LDA and PLDA as in BUTSpeechFIT/VBx; the files are those that ``pyannote.audio.core.plda.PLDA`` reads.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

_RIDGE = 1e-3
_LEAST_BETWEEN = 1e-4
_LEAST_EIGENVALUE = 1e-3

Floats = NDArray[np.float64]


def centered(vectors: NDArray[np.floating]) -> tuple[Floats, Floats]:
    """Vectors (n, d) less their mean, and the mean (d,)."""
    exact = vectors.astype(np.float64)
    mean: Floats = exact.mean(0)
    return exact - mean, mean


def write_plda(vectors: NDArray[np.floating], owners: NDArray[np.int64], dimensions: int, folder: Path) -> None:
    """Writes ``xvec_transform.npz`` and ``plda.npz``. ``vectors`` (n, d) of known ``owners`` (n,), several of each, already
    centered as the embedding model will."""
    _, labels = np.unique(owners, return_inverse=True)
    size = vectors.shape[1]
    unit = np.sqrt(size) * _normalized(vectors.astype(np.float64))
    within, between = _scatter(unit, labels)
    _, directions = eigh(between, within + _RIDGE * np.eye(size))
    lda = directions[:, ::-1][:, :dimensions]
    projected = unit @ lda
    second_mean = projected.mean(0)
    np.savez(
        folder / "xvec_transform.npz",
        mean1=np.zeros(size, np.float32),
        mean2=second_mean.astype(np.float32),
        lda=lda.astype(np.float32),
    )
    short = np.sqrt(dimensions) * _normalized(projected - second_mean)
    within, between = _scatter(short, labels)
    classes = labels.max() + 1
    within = within * len(labels) / (len(labels) - classes)
    between = between - within / (len(labels) / classes) + _LEAST_BETWEEN * np.eye(dimensions)
    values, rows = eigh(between, within)
    np.savez(
        folder / "plda.npz",
        mu=short.mean(0),
        tr=rows.T[::-1].copy(),
        psi=np.clip(values, _LEAST_EIGENVALUE, None)[::-1].copy(),
    )


def _normalized(vectors: Floats) -> Floats:
    unit: Floats = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def _scatter(vectors: Floats, labels: NDArray[np.intp]) -> tuple[Floats, Floats]:
    """Covariances (d, d) around each owner's mean, and of the means."""
    means = np.stack([vectors[labels == label].mean(0) for label in range(labels.max() + 1)])
    apart = vectors - means[labels]
    return apart.T @ apart / len(vectors), np.cov(means.T)
