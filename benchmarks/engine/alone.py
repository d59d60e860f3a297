"""The engine alone, on windows whose features are ready: what the rest of the system costs is measured against it.

`load` is the one place to change when the engine can be run without a worker around it. Until then it says that there is
none, and the arm is reported as not measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Ready:
    """One window of a recording. ``samples``: mono float32 at 16 kHz in [-1, 1], its speech without its silences.
    ``features``: log-mel float32 (mels, 3000), padded with zeros, as the stock batched pipeline makes them."""

    recording: str
    index: int
    samples: NDArray[np.float32]
    features: NDArray[np.float32]


class Alone(Protocol):
    """A loaded engine."""

    def run(self, windows: Sequence[Ready]) -> tuple[float, Mapping[str, str]]:
        """Decodes them (English, beam 5, no timestamps); seconds from the first to the last, and each recording's text,
        its windows joined in their order."""
        ...


def load(model: Path, device: str, compute_type: str, threads: int, workers: int, batch_size: int) -> Alone | None:
    """With its model loaded; None while there is no such engine.

    ``compute_type`` as CTranslate2's, "default" for the model's own; ``threads`` for each of ``workers``; ``batch_size`` 0
    for the engine's own choice.
    """
    return None
