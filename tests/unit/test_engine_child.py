"""The frame of the engine child: how large its batches may be."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from services.worker.engine import cuda
from services.worker.engine.child import BATCH_SIZE, EngineChild, Pipe
from services.worker.engine.memory import GIB, SHAPES, BatchLimit, auto_batch_size, model_bytes
from services.worker.engine.protocol import EngineSettings

BUNDLED = Path(__file__).parents[2] / "models"
CARD = 24 * GIB

LimitOf = Callable[..., BatchLimit]


@pytest.fixture
def limit_of(tmp_path: Path) -> LimitOf:
    """Of turbo on a card of 24 GB, on which others weigh ``beside`` and so much is ``free``."""

    def made(
        free: int | None, beside: int = 0, device: int | None = CARD, cpu: bool = False, **given: Any
    ) -> BatchLimit:
        settings = EngineSettings("demo", BUNDLED, diarization_model="none", spool_dir=tmp_path, **given)
        child = EngineChild(Pipe(io.BytesIO()), settings)
        child._device = "cpu" if cpu else "cuda"
        models: Any = child._models
        models.free_bytes, models.device_bytes = lambda: free, lambda: device
        models.weights_beside = lambda model: beside
        model: Any = SimpleNamespace(
            name="turbo", shape=SHAPES["turbo"], weights_bytes=model_bytes("turbo", ""), compute_type="float16", lanes=2
        )
        return child._batch_limit(model)

    return made


def grown(limit: BatchLimit) -> int:
    for _ in range(10 * BatchLimit.GOOD_BATCHES):
        limit.succeeded(limit.size)
    return limit.size


def test_a_batch_begins_with_what_is_free_and_grows_to_what_fits_beside_the_others(limit_of: LimitOf) -> None:
    """Batches of a model that is busy hold the memory just when another is loaded."""
    others = model_bytes("large-v3", "")
    busy = limit_of(GIB, beside=others)
    assert busy.size == 1
    weights = model_bytes("turbo", "")
    assert grown(busy) == auto_batch_size(CARD - others, weights, SHAPES["turbo"], False, "cuda", lanes=2) > 16


def test_a_model_alone_begins_with_its_largest_batch(limit_of: LimitOf) -> None:
    weights = model_bytes("turbo", "")
    limit = limit_of(CARD - weights - GIB // 2)
    assert limit.size == grown(limit)


def test_what_is_set_is_taken_and_what_an_earlier_process_learned_comes_first(limit_of: LimitOf) -> None:
    assert limit_of(None, batch_size=3).size == 3
    assert limit_of(CARD // 2, first_batch_size=2).size == 2


def test_after_processes_of_a_cpu_that_were_killed_it_takes_less_for_good(limit_of: LimitOf) -> None:
    assert limit_of(200 * GIB, cpu=True, device=200 * GIB).size == 8
    halved = limit_of(200 * GIB, cpu=True, device=200 * GIB, halvings=2)
    assert (halved.size, grown(halved)) == (2, 2)
    assert limit_of(None, cpu=True, batch_size=4, halvings=6).size == 1
    assert limit_of(200 * GIB, cpu=True, device=200 * GIB, first_batch_size=3, halvings=1).size == 3


def test_a_gpu_tells_itself_that_memory_is_short(limit_of: LimitOf) -> None:
    free = CARD - model_bytes("turbo", "") - GIB // 2
    assert limit_of(free, halvings=2).size == limit_of(free).size


@pytest.mark.parametrize(("kept", "idle", "released"), [(0, (), False), (1 << 30, (), True), (0, ("turbo",), True)])
def test_what_torch_kept_is_room_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int, idle: tuple[str, ...], released: bool
) -> None:
    child = EngineChild(
        Pipe(io.BytesIO()), EngineSettings("demo", BUNDLED, diarization_model="none", spool_dir=tmp_path)
    )
    models: Any = child._models
    models.release_idle = lambda: idle
    monkeypatch.setattr(cuda, "give_back", lambda: kept)
    assert child.release() == bool(idle)  # on a CPU torch's cache is none
    child._device = "cuda"
    assert child.release() == released


def test_where_nothing_tells_it_is_a_number_for_any_card(limit_of: LimitOf) -> None:
    assert limit_of(None, device=None).size == BATCH_SIZE
