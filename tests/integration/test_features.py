"""Features by torch are those of faster-whisper, which are the model's own."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from faster_whisper.feature_extractor import FeatureExtractor

from services.worker.engine.features import NumpyFeatures, TorchFeatures


@pytest.mark.parametrize("bands", [80, 128])
@pytest.mark.parametrize("seconds", [0.5, 7.3, 30.0])
def test_torch_and_numpy_agree(bands: int, seconds: float) -> None:
    whisper = SimpleNamespace(feature_extractor=FeatureExtractor(feature_size=bands))
    samples = np.random.default_rng(1).normal(0.0, 0.1, int(seconds * 16_000)).astype(np.float32)
    samples[: len(samples) // 3] = 0.0
    expected = NumpyFeatures(whisper).of(samples)
    found = TorchFeatures(whisper, "cpu").of(samples)
    assert found.shape == expected.shape == (bands, 3000)
    assert np.abs(found.numpy() - expected).max() < 1e-4
    assert TorchFeatures.stacked([found, found]).shape == NumpyFeatures.stacked([expected, expected]).shape
