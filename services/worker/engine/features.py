"""Log-mel features of windows: faster-whisper's own in NumPy, and the same on the GPU, where one core could not keep up."""

from __future__ import annotations

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
    """A window's features in this process's memory: float32, (bands, frames of the model's window)."""

    def __init__(self, whisper: Any) -> None:
        self._whisper = whisper

    def of(self, samples: Samples) -> Any:
        return pad_or_trim(mel(self._whisper, samples))

    @staticmethod
    def stacked(features: list[Any]) -> Any:
        return np.stack(features)


class TorchFeatures:
    """The same on a device of torch's, where they stay: float32 tensors, equal to NumPy's within rounding."""

    def __init__(self, whisper: Any, device: str) -> None:
        self._extractor = whisper.feature_extractor
        self._device = device

    @cached_property
    def _window(self) -> Any:
        import torch

        return torch.hann_window(self._extractor.n_fft, periodic=True, device=self._device)

    @cached_property
    def _filters(self) -> Any:
        import torch

        return torch.from_numpy(self._extractor.mel_filters).to(self._device)

    def of(self, samples: Samples) -> Any:
        import torch

        hop = self._extractor.hop_length
        count = (len(samples) + hop) // hop - 1
        missing = max(hop, self._extractor.n_fft - len(samples))  # fewer cannot be mirrored at the ends
        waveform = torch.nn.functional.pad(torch.from_numpy(samples).to(self._device), (0, missing))
        spectrum = torch.stft(
            waveform, self._extractor.n_fft, hop, window=self._window, center=True, return_complex=True
        )
        power = spectrum[..., :-1].abs() ** 2
        logarithm = torch.log10(torch.clamp(self._filters @ power, min=1e-10))
        scaled = (torch.maximum(logarithm, logarithm.max() - 8.0) + 4.0) / 4.0
        frames = scaled[..., : min(count, self._extractor.nb_max_frames)]
        return torch.nn.functional.pad(frames, (0, self._extractor.nb_max_frames - frames.shape[-1]))

    @staticmethod
    def stacked(features: list[Any]) -> Any:
        import torch

        return torch.stack(features)
