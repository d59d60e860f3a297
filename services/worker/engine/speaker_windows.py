"""The speaker models on short windows of a recording: who is heard in each, and how each of them sounds.

What is found equals what pyannote's own `SpeakerDiarization` finds with the same models, with less work: sound comes in once, each
window goes through the embedding model once and not once a speaker, and who is silent is not embedded at all.
Import after ``import_torchaudio``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pyannote.audio.utils.reproducibility import fix_reproducibility
from pyannote.audio.utils.signal import binarize
from pyannote.core import SlidingWindow, SlidingWindowFeature

from services.worker.engine.speaker_clusters import FAST_STEP, Heard
from services.worker.pipeline.recording import Samples
from services.worker.pipeline.windows import SAMPLE_RATE


@dataclass(frozen=True, slots=True)
class Grid:
    """Windows of ``size`` samples, one every ``step``, over ``samples`` of them; where they do not end with a window there is one
    more, filled up with silence. As pyannote's `Inference.slide`. ``step_share``: of the pipeline's own step."""

    samples: int
    size: int
    step: int
    step_share: float = 1.0

    @property
    def count(self) -> int:
        whole = (self.samples - self.size) // self.step + 1 if self.samples >= self.size else 0
        return whole + (self.samples < self.size or (self.samples - self.size) % self.step > 0)

    def span(self, first: int, end: int) -> tuple[int, int]:
        """(first sample, samples) of the windows from ``first`` to before ``end``, some of which may be behind the last one."""
        return first * self.step, (end - 1 - first) * self.step + self.size

    def cut(self, piece: Samples, windows: int) -> Samples:
        """(windows, size) of the sound that begins with the first of them."""
        needed = (windows - 1) * self.step + self.size
        filled = np.pad(piece, (0, needed - len(piece)))
        return np.ascontiguousarray(np.lib.stride_tricks.sliding_window_view(filled, self.size)[:: self.step])


class SpeakerModels:
    """The two models of a pyannote pipeline. Several threads may use them at once."""

    def __init__(self, pipeline: Any, device: str) -> None:
        self._segmentation = pipeline._segmentation
        self._embedding = pipeline._embedding
        self._powerset = bool(self._segmentation.model.specifications.powerset)
        self._onset = None if self._powerset else float(pipeline.segmentation.threshold)
        self._exclude_overlap = bool(pipeline.embedding_exclude_overlap)
        self._device = torch.device(device)
        fix_reproducibility(self._device)
        for rate in (self._segmentation.model.audio.sample_rate, self._embedding.sample_rate):
            if rate != SAMPLE_RATE:
                raise ValueError(f"the models want sound at {rate} Hz; only {SAMPLE_RATE} Hz is known here")
        self._size: int = self._segmentation.model.audio.get_num_samples(self._segmentation.duration)
        self._usual_step = float(pipeline.segmentation_step)
        # found by trying, so once
        self._least_samples: int = self._embedding.min_num_samples if self._exclude_overlap else 0
        model = getattr(self._embedding, "model_", None)
        self._in_two_steps = hasattr(model, "forward_frames") and hasattr(model, "forward_embedding")

    @property
    def window_seconds(self) -> float:
        return float(self._segmentation.duration)

    @property
    def frames(self) -> SlidingWindow:
        """Where the segmentation's frames lie in a window."""
        return self._segmentation.model.receptive_field

    def grid(self, samples: int, fast_switching: bool) -> Grid:
        """``fast_switching``: half the step, which finds quick exchanges better and takes twice as long."""
        share = FAST_STEP if fast_switching else 1.0
        step = self._usual_step * share * self.window_seconds
        return Grid(samples, self._size, round(step * SAMPLE_RATE), share)

    def listen(self, windows: Samples, check: Callable[[], None]) -> Heard:
        """Who is heard in these windows (windows, samples), and how. ``check`` may raise to give up in between."""
        sound = torch.from_numpy(windows)[:, None]
        scores = self._segmentation.infer(sound)
        active = scores if self._onset is None else self._binarized(scores)
        check()
        embeddings = self._embed(sound, active, check)
        return Heard(scores.astype(np.uint8 if self._powerset else np.float32), active.astype(np.uint8), embeddings)

    def _binarized(self, scores: NDArray[np.float32]) -> NDArray[np.float64]:
        feature = SlidingWindowFeature(scores, SlidingWindow())
        binary: NDArray[np.float64] = binarize(feature, onset=self._onset, initial_state=False).data
        return binary

    def _masks(self, active: NDArray[Any]) -> NDArray[np.float32]:
        """(windows, speakers, frames): where each is heard, without what others say meanwhile if enough is left."""
        masks = active.astype(np.float32)
        if self._exclude_overlap:
            alone = masks * (active.sum(axis=2, keepdims=True) < 2)
            least = math.ceil(active.shape[1] * self._least_samples / self._size)
            masks = np.where(alone.sum(axis=1, keepdims=True) > least, alone, masks)
        return np.ascontiguousarray(masks.transpose(0, 2, 1))

    def _embed(self, sound: torch.Tensor, active: NDArray[Any], check: Callable[[], None]) -> NDArray[np.float32]:
        """(windows, speakers, dimension); ones for those who are silent, which clustering never looks at."""
        heard = active.sum(axis=1) > 0
        embeddings = np.ones((*heard.shape, self._embedding.dimension), np.float32)
        masks = torch.from_numpy(self._masks(active))
        if not self._in_two_steps:
            for window, speaker in np.argwhere(heard):
                check()
                one = slice(window, window + 1)
                embeddings[window, speaker] = self._embedding(sound[one], masks=masks[one, speaker])[0]
            return embeddings
        rows = np.flatnonzero(heard.any(axis=1))
        if len(rows):
            found = self._pooled(sound[rows], masks[rows])
            embeddings[heard] = found[heard[rows]]
        return embeddings

    def _pooled(self, sound: torch.Tensor, masks: torch.Tensor) -> NDArray[np.float32]:
        model = self._embedding.model_
        with torch.inference_mode():
            frames = model.forward_frames(sound.to(self._device))
            found: NDArray[np.float32] = model.forward_embedding(frames, weights=masks.to(self._device)).cpu().numpy()
        return found
