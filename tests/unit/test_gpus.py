"""Which GPUs the driver's tool lists, and which of them CUDA lets be seen."""

from __future__ import annotations

import pytest

from services.worker.capacity import Gpu
from services.worker.gpus import chosen, find_gpus

ANSWER = """0, GPU-aaaa1111, 81559, NVIDIA H100 80GB HBM3
1, GPU-aaab2222, 24564, NVIDIA GeForce RTX 4090
2, GPU-cccc3333, 24564, NVIDIA GeForce RTX 4090
"""
FIRST, SECOND, THIRD = (
    Gpu("NVIDIA H100 80GB HBM3", 81559, "GPU-aaaa1111"),
    Gpu("NVIDIA GeForce RTX 4090", 24564, "GPU-aaab2222"),
    Gpu("NVIDIA GeForce RTX 4090", 24564, "GPU-cccc3333"),
)


@pytest.mark.parametrize(
    ("visible", "seen"),
    [
        (None, (FIRST, SECOND, THIRD)),
        ("", ()),
        ("2, 0", (THIRD, FIRST)),
        ("GPU-cccc", (THIRD,)),
        ("GPU-aaab2222,0", (SECOND, FIRST)),
        ("GPU-aaa", ()),  # of two
        ("1,7,0", (SECOND,)),
        ("-1", ()),
        ("MIG-123", ()),
    ],
)
def test_cuda_sees_what_is_listed_up_to_an_entry_that_it_does_not_know(
    visible: str | None, seen: tuple[Gpu, ...]
) -> None:
    assert chosen(ANSWER, visible) == seen


@pytest.mark.parametrize("answer", ["", "No devices were found\n", "0, GPU-aaaa1111, [N/A], NVIDIA GB10\n"])
def test_no_gpu_is_listed(answer: str) -> None:
    assert chosen(answer, None) == ()


async def test_a_cpu_worker_asks_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    async def asked() -> str:
        return ANSWER

    monkeypatch.setattr("services.worker.gpus._asked", asked)
    assert await find_gpus("cpu", None) == ()
    assert await find_gpus("auto", "1") == (SECOND,)


async def test_a_machine_without_the_tool_has_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.worker.gpus._QUERY", ("/nowhere/nvidia-smi",))
    assert await find_gpus("cuda", None) == ()
