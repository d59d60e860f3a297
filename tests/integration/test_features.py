"""Features by torch are those of faster-whisper, which are the model's own."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from faster_whisper.feature_extractor import FeatureExtractor

from services.worker.engine.features import NumpyFeatures, TorchFeatures
from services.worker.pipeline.recording import Samples


def speech(count: int, loudness: float) -> Samples:
    samples = np.random.default_rng(count).normal(0.0, loudness, count).astype(np.float32)
    samples[: count // 3] = 0.0
    return samples


@pytest.mark.parametrize("bands", [80, 128])
def test_of_a_batch_each_window_has_the_features_that_it_has_alone(bands: int) -> None:
    """Whatever is beside it: longer ones, and ones so loud that next to them it would be silence."""
    whisper = SimpleNamespace(feature_extractor=FeatureExtractor(feature_size=bands))
    windows = [speech(116_800, 0.1), speech(480_000, 0.9), speech(8077, 1e-4), speech(401, 0.1), speech(159_999, 0.01)]
    one, many = NumpyFeatures(whisper), TorchFeatures(whisper, "cpu")
    expected = one.stacked([one.of(samples) for samples in windows])
    found = many.stacked([many.of(samples) for samples in windows])
    assert found.shape == expected.shape == (5, bands, 3000)
    assert np.abs(found.numpy() - expected).max() < 1e-4
    assert all(many.stacked(windows[: count + 1]).is_contiguous() for count in range(len(windows)))


def test_what_is_longer_than_the_models_window_is_cut() -> None:
    whisper = SimpleNamespace(feature_extractor=FeatureExtractor())
    many = TorchFeatures(whisper, "cpu")
    long = speech(480_050, 0.1)
    assert many.stacked([long]).equal(many.stacked([long[:480_000]]))


@pytest.mark.parametrize("count", [1, 40, 200, 400])
def test_so_few_samples_have_features_too(count: int) -> None:
    """A last window may be as short."""
    whisper = SimpleNamespace(feature_extractor=FeatureExtractor())
    one, many = NumpyFeatures(whisper), TorchFeatures(whisper, "cpu")
    samples = np.full(count, 0.1, np.float32)
    found = many.stacked([many.of(samples)])
    assert found.shape == one.stacked([one.of(samples)]).shape
    assert found.isfinite().all()
