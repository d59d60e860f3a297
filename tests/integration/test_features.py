"""Features by torch are those of faster-whisper, which are the model's own."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from faster_whisper.feature_extractor import FeatureExtractor

from services.worker.engine.features import NumpyFeatures, TorchFeatures


@pytest.mark.parametrize("bands", [80, 128])
@pytest.mark.parametrize("count", [401, 8000, 116_800, 480_000])
def test_torch_and_numpy_agree(bands: int, count: int) -> None:
    whisper = SimpleNamespace(feature_extractor=FeatureExtractor(feature_size=bands))
    samples = np.random.default_rng(1).normal(0.0, 0.1, count).astype(np.float32)
    samples[: len(samples) // 3] = 0.0
    expected = NumpyFeatures(whisper).of(samples)
    found = TorchFeatures(whisper, "cpu").of(samples)
    assert found.shape == expected.shape == (bands, 3000)
    assert np.abs(found.numpy() - expected).max() < 1e-4
    assert TorchFeatures.stacked([found, found]).shape == NumpyFeatures.stacked([expected, expected]).shape


@pytest.mark.parametrize("count", [1, 40, 200, 400])
def test_so_few_samples_have_features_too(count: int) -> None:
    """A last window may be as short."""
    whisper = SimpleNamespace(feature_extractor=FeatureExtractor())
    samples = np.full(count, 0.1, np.float32)
    assert TorchFeatures(whisper, "cpu").of(samples).shape == NumpyFeatures(whisper).of(samples).shape
