"""Slots are reservations, and `auto` agrees with the operations guide's table."""

from __future__ import annotations

import pytest

from services.worker.capacity import Gpu, Slots, auto_slots, slots_with_room
from services.worker.engine.memory import DIARIZATION_BYTES, model_bytes


def test_a_slot_is_taken_and_given_back() -> None:
    slots = Slots(2)
    taken = slots.reserve().reserve()
    assert (slots.free, taken.free, taken.release().free) == (2, 0, 1)
    with pytest.raises(ValueError, match="no slot is free"):
        taken.reserve()
    with pytest.raises(ValueError, match="no slot is taken"):
        slots.release()


def test_nothing_is_free_while_draining_and_what_runs_gives_its_slot_back() -> None:
    slots = Slots(2).reserve().drain()
    assert (slots.free, slots.taken, slots.release().taken, slots.release().free) == (0, 1, 0, 0)
    with pytest.raises(ValueError, match="no slot is free"):
        slots.reserve()


def test_nothing_is_free_while_the_engine_does_not_come_up_and_all_is_again_once_it_does() -> None:
    slots = Slots(2).reserve().touch(down=2)
    assert (slots.free, slots.taken, slots.paused) == (0, 1, True)
    with pytest.raises(ValueError, match="no slot is free"):
        slots.reserve()
    assert slots.touch(down=0).free == 1


def test_slots_of_an_engine_that_does_not_come_up_are_not_free_while_others_are() -> None:
    slots = Slots(5).touch(down=2).reserve()
    assert (slots.free, slots.paused) == (2, False)


def test_the_revision_grows_with_every_change() -> None:
    slots = Slots(1)
    revisions = [slots.revision]
    for change in (lambda slots: slots.touch(down=0), Slots.reserve, Slots.release, Slots.drain):
        slots = change(slots)
        revisions.append(slots.revision)
    assert revisions == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("name", "memory_mib", "low", "high"),
    [
        ("NVIDIA GeForce RTX 4090", 24564, 2, 3),
        ("NVIDIA A40", 46068, 2, 3),
        ("NVIDIA L40S", 46068, 2, 3),
        ("NVIDIA L40", 46068, 2, 3),
        ("NVIDIA GeForce RTX 3090", 24576, 2, 2),
        ("NVIDIA GeForce RTX 3080", 10240, 1, 1),
        ("NVIDIA A100-SXM4-40GB", 40960, 4, 6),
        ("NVIDIA A100-SXM4-80GB", 81920, 8, 10),
        ("NVIDIA A100 80GB PCIe", 81920, 8, 10),
        ("NVIDIA H100 80GB HBM3", 81559, 7, 10),
        ("NVIDIA H200", 143771, 8, 16),
        ("Tesla T4", 15360, 1, 1),
    ],
)
def test_auto_agrees_with_the_operations_guide(name: str, memory_mib: int, low: int, high: int) -> None:
    gpu = Gpu(name, memory_mib)
    for model in ("tiny", "turbo", "large-v3"):
        slots = auto_slots(gpu, 0, model_bytes(model, ""))
        assert low <= slots <= high
        assert auto_slots(gpu, DIARIZATION_BYTES, model_bytes(model, "")) == max(1, slots - 1)


def test_auto_takes_the_models_memory_into_account() -> None:
    gpu = Gpu("NVIDIA A100-SXM4-40GB", 40960)
    slots = [auto_slots(gpu, 0, model_bytes("large-v3", kind)) for kind in ("int8", "float16", "float32")]
    assert slots == [4, 4, 4]
    assert auto_slots(gpu, 0, 20 * 1024**3) == 2
    assert auto_slots(gpu, 0, 60 * 1024**3) == 1
    assert [auto_slots(gpu, size * 1024**3, 3 * 1024**3) for size in (0, 8, 9, 100)] == [4, 3, 2, 1]


@pytest.mark.parametrize(
    ("name", "memory_mib", "model", "diarization", "slots"),
    [
        ("NVIDIA GeForce GTX 1650", 4096, "large-v3", DIARIZATION_BYTES, 0),
        ("NVIDIA GeForce RTX 3080", 10240, "large-v3", DIARIZATION_BYTES, 1),
        ("NVIDIA L40", 46068, "tiny", 0, 5),  # as fast as three, says `auto`, but there is room
        ("NVIDIA A100-SXM4-80GB", 81920, "large-v3", DIARIZATION_BYTES, 8),
    ],
)
def test_room_is_another_question_than_speed(
    name: str, memory_mib: int, model: str, diarization: int, slots: int
) -> None:
    assert slots_with_room(Gpu(name, memory_mib), diarization, model_bytes(model, "")) == slots


def test_auto_is_one_on_a_cpu() -> None:
    assert auto_slots(None, DIARIZATION_BYTES, 0) == 1
