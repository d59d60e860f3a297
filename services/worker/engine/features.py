"""Log-mel features of windows: faster-whisper's own in NumPy, and the same on the GPU, where one core could not keep up.

Of a window `of` makes what it takes along to the device, in its job's thread; of those that are encoded together `stacked`
makes the encoder's input, in the device's.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from faster_whisper.audio import pad_or_trim

from services.worker.pipeline.recording import Samples


def mel(whisper: Any, samples: Samples) -> Samples:
    """(bands, frames) of the samples, as the stock batched pipeline computes them; not padded."""
    features: Samples = whisper.feature_extractor(samples)[..., :-1]
    return features


class NumpyFeatures:
    """In this process's memory, window by window: many at once only leave the cache."""

    def __init__(self, whisper: Any) -> None:
        self._whisper = whisper

    def of(self, samples: Samples) -> Any:
        """Its features: float32, (bands, frames of the model's window)."""
        return pad_or_trim(mel(self._whisper, samples))

    @staticmethod
    def stacked(windows: Sequence[Any]) -> Any:
        """(windows, bands, frames)."""
        return np.stack(windows)


class TorchFeatures:
    """On a device of torch's, all windows of a batch at once; equal to NumPy's within rounding."""

    def __init__(self, whisper: Any, device: str) -> None:
        self._extractor = whisper.feature_extractor
        self._device = device

    def of(self, samples: Samples) -> Any:
        """Its sound: what waits takes nothing of the device's memory."""
        return samples

    def stacked(self, windows: Sequence[Any]) -> Any:
        """float32 on the device, (windows, bands, frames of the model's window)."""
        import torch

        hop, most = self._extractor.hop_length, self._extractor.nb_max_frames
        spectrum = torch.stft(
            self._waveforms(windows), self._extractor.n_fft, hop, window=self._window, center=True, return_complex=True
        )
        power = spectrum[..., :-1].abs() ** 2
        logarithm = torch.log10(torch.clamp(self._filters @ power, min=1e-10))
        frames = torch.arange(logarithm.shape[-1], device=self._device)
        own = torch.tensor([len(samples) // hop for samples in windows], device=self._device)[:, None, None]
        # A window's loudest is looked for in one frame more than it has, as NumPy's does, and never in its neighbors'.
        loudest = logarithm.masked_fill(frames > own, -torch.inf).amax((1, 2), keepdim=True)
        scaled = (torch.maximum(logarithm, loudest - 8.0) + 4.0) / 4.0
        return scaled.masked_fill(frames >= own, 0.0)[..., :most].contiguous()  # as CTranslate2 reads it

    def _waveforms(self, windows: Sequence[Any]) -> Any:
        """(windows, samples of the model's window and what its last frame sees behind them), with silence behind each.

        Always as long: of every other shape cuFFT keeps a plan.
        """
        import torch

        longest = self._extractor.n_samples
        rows = torch.zeros(len(windows), longest + self._extractor.hop_length)
        for row, samples in zip(rows, windows, strict=True):
            kept = samples[:longest]
            row[: len(kept)] = torch.from_numpy(kept)
        return rows.to(self._device)

    @cached_property
    def _window(self) -> Any:
        import torch

        return torch.hann_window(self._extractor.n_fft, periodic=True, device=self._device)

    @cached_property
    def _filters(self) -> Any:
        import torch

        return torch.from_numpy(self._extractor.mel_filters).to(self._device)
