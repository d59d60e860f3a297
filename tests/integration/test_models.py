"""The bundled model, really loaded, unloaded, and loaded again."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import numpy as np

from services.worker.engine.memory import SHAPES
from services.worker.engine.models import LoadedModel, Models
from services.worker.engine.protocol import EngineSettings

BUNDLED = Path(__file__).parents[2] / "models"


def encoded(model: LoadedModel) -> np.ndarray:
    features = np.random.default_rng(0).standard_normal((2, 80, 3000), np.float32)
    return np.asarray(model.whisper.encode(features))


def test_a_model_that_was_unloaded_is_gone_and_comes_back_the_same() -> None:
    made = Models(EngineSettings("demo", BUNDLED), "cpu", 1, lambda: None, lanes=2)
    with made.use("demo") as model:
        first, revision = encoded(model), model.revision
        gone = weakref.ref(model.whisper)
        assert model.shape == SHAPES["demo"]
    del model
    assert made.release_idle() == ("demo",)
    gc.collect()
    assert gone() is None
    with made.use("demo") as model:
        assert model.revision == revision
        assert np.array_equal(encoded(model), first)
