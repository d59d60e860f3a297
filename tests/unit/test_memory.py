"""What decoding costs, which errors are about memory, and how a batch finds its size."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import pytest

from services.worker.engine.memory import (
    FRAMES,
    GIB,
    GPU_ENCODER_BATCH,
    LARGE_V3,
    LARGEST_BATCH,
    MOST_TOKENS,
    SHAPES,
    BatchLimit,
    ModelShape,
    auto_batch_size,
    batch_bytes,
    decoding_bytes,
    encoder_batch,
    encoding_bytes,
    is_out_of_memory,
    model_bytes,
    needs_new_process,
    read_shape,
    weight_bytes,
)

DEMO = Path(__file__).parents[2] / "models" / "whisper-demo" / "model.bin"


TORCH_ADVICE = (
    "CUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be incorrect.\n"
    "For debugging consider passing CUDA_LAUNCH_BLOCKING=1\n"
    "Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.\n"
)
"""What torch says behind every error of CUDA's."""


class OutOfMemoryError(RuntimeError):
    """As torch names its own."""


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA failed with error out of memory"),
        RuntimeError("cuBLAS failed with status CUBLAS_STATUS_ALLOC_FAILED"),
        RuntimeError("cuBLAS failed with status CUBLAS_STATUS_NOT_INITIALIZED"),
        RuntimeError("cuDNN failed with status CUDNN_STATUS_NOT_INITIALIZED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_INTERNAL_ERROR when calling `cublasCreate(handle)`"),
        RuntimeError("parallel_for failed: cudaErrorInvalidDevice: invalid device ordinal"),
        RuntimeError("parallel_for failed: cudaErrorMemoryAllocation: out of memory"),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 4.00 GiB"),
        RuntimeError("CUDA_ERROR_OUT_OF_MEMORY"),
        RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"),
        RuntimeError("cuFFT error: CUFFT_INTERNAL_ERROR"),
        RuntimeError("std::bad_alloc"),
        RuntimeError(f"CUDA error: out of memory\n{TORCH_ADVICE}"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED"),
        RuntimeError("GET was unable to find an engine to execute this computation"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
        OSError(12, "Cannot allocate memory"),
        MemoryError(),
        OutOfMemoryError("whatever it says"),
    ],
    ids=str,
)
def test_memory_that_ran_out_is_known(error: Exception) -> None:
    assert is_out_of_memory(error)
    assert not needs_new_process(error)


@pytest.mark.parametrize(
    "message",
    [
        "CUDA failed with error an illegal memory access was encountered",
        "CUDA failed with error unspecified launch failure",
        "CUDA failed with error an illegal instruction was encountered",
        "CUDA failed with error misaligned address",
        "CUDA error: device-side assert triggered",
        f"CUDA error: device-side assert triggered\n{TORCH_ADVICE}",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_UNEXPECTED_VALUE",
        "CUDA failed with error the launch timed out and was terminated",
        "CUDA failed with error uncorrectable ECC error encountered",
        "CUDA failed with error unknown error",
        "parallel_for failed: cudaErrorIllegalAddress: an illegal memory access was encountered",
        "cuBLAS failed with status CUBLAS_STATUS_EXECUTION_FAILED",
        "cuBLAS failed with status CUBLAS_STATUS_INTERNAL_ERROR",
        "cuFFT error: CUFFT_EXEC_FAILED",
    ],
)
def test_a_context_that_is_lost_is_known(message: str) -> None:
    assert needs_new_process(RuntimeError(message))
    assert not is_out_of_memory(RuntimeError(message))


@pytest.mark.parametrize(
    "error",
    [
        ValueError("Invalid input features shape"),
        RuntimeError("File model.bin is incomplete: failed to read a buffer"),
        RuntimeError("Library libcublas.so.12 is not found or cannot be loaded"),
        RuntimeError("cuBLAS failed with status CUBLAS_STATUS_NOT_SUPPORTED"),
        KeyError("an unknown error"),
        RuntimeError(f"CUDA error: no kernel image is available for execution on the device\n{TORCH_ADVICE}"),
    ],
    ids=str,
)
def test_other_errors_are_neither(error: Exception) -> None:
    assert not is_out_of_memory(error)
    assert not needs_new_process(error)


def test_what_an_error_came_from_counts() -> None:
    def fail(inner: Exception, outer: Exception) -> Exception:
        try:
            try:
                raise inner
            except Exception as error:
                raise outer from error
        except Exception as error:  # noqa: BLE001 - whatever it is
            return error

    assert is_out_of_memory(fail(RuntimeError("out of memory"), ValueError("the batch failed")))
    # what follows a batch that ran out of memory may be worse
    assert needs_new_process(fail(RuntimeError("out of memory"), RuntimeError("an illegal memory access")))
    assert not is_out_of_memory(fail(RuntimeError("out of memory"), RuntimeError("an illegal memory access")))


# --- shapes


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("tiny", 38),
        ("base", 73),
        ("small", 242),
        ("medium", 764),
        ("large-v3", 1543),
        ("turbo", 809),
        ("distil-large-v3", 756),
    ],
)
def test_the_shapes_have_the_parameters_that_are_published(name: str, millions: int) -> None:
    assert SHAPES[name].parameters / 1e6 == pytest.approx(millions, rel=0.03)


def test_weights_are_as_large_as_their_numbers() -> None:
    assert model_bytes("large-v3", "float16") == pytest.approx(3.1e9, rel=0.01)
    assert model_bytes("large-v3", "") == model_bytes("a folder", "") == model_bytes("large-v3", "float16")
    assert (
        2 * model_bytes("turbo", "int8_float16") == model_bytes("turbo", "float16") == weight_bytes(SHAPES["turbo"], "")
    )
    assert model_bytes("tiny", "float32") == 2 * model_bytes("tiny", "float16")


def test_a_window_costs_its_attention_caches_above_all() -> None:
    cross = 2 * 32 * 1500 * 1280 * 2
    assert cross == pytest.approx(246e6, rel=0.01)
    greedy, beams = decoding_bytes(LARGE_V3, 1, 2), decoding_bytes(LARGE_V3, 5, 2)
    assert greedy > cross
    assert beams - greedy == 4 * (2 * 33 * MOST_TOKENS * 1280 * 2 + 2 * 4 * 51866)
    assert decoding_bytes(SHAPES["turbo"], 5, 2) < beams / 6
    assert decoding_bytes(LARGE_V3, 1, 4) < 2 * greedy


def test_the_encoder_takes_as_much_for_a_large_batch_as_for_its_own() -> None:
    """A model with a small decoder is bound by the encoder as long as all windows of a batch are in it together."""
    turbo = SHAPES["turbo"]
    encoded = 2 * FRAMES * 1280 * 2
    alone = encoding_bytes(turbo, 2)
    assert alone > 2 * 20 * FRAMES**2 * 2 > 2 * decoding_bytes(turbo, 5, 2)
    assert batch_bytes(turbo, 1, 5, 2) == alone + encoded
    assert batch_bytes(turbo, GPU_ENCODER_BATCH, 5, 2) == GPU_ENCODER_BATCH * (alone + encoded)
    assert batch_bytes(turbo, 64, 5, 2) == 64 * (decoding_bytes(turbo, 5, 2) + encoded) < 26 * alone
    assert batch_bytes(LARGE_V3, 1, 5, 2) == decoding_bytes(LARGE_V3, 5, 2) + encoded


def test_a_cpu_encodes_window_by_window_and_a_gpu_a_few() -> None:
    assert encoder_batch("cpu") == 1 < encoder_batch("cuda") < LARGEST_BATCH


def test_a_models_file_tells_its_shape() -> None:
    with DEMO.open("rb") as file:
        assert read_shape(file) == SHAPES["demo"]


def test_what_is_no_model_is_refused() -> None:
    content = DEMO.read_bytes()
    texts = [b"", b"\0" * 100, b"RIFF0000WAVE", content[:1000], struct.pack("<I", 6) + b"\xff" * 50]
    for text in texts:
        with pytest.raises(ValueError, match=r"no .*model of CTranslate2"):
            read_shape(io.BytesIO(text))


# --- batches


def batch(gib: float, name: str = "large-v3", diarization: bool = False, device: str = "cuda") -> int:
    return auto_batch_size(int(gib * GIB), model_bytes(name, ""), SHAPES[name], diarization, device)


def test_a_batch_is_as_large_as_memory_allows() -> None:
    sizes = [batch(gib) for gib in (1, 4, 6, 8, 10, 16, 24, 40, 80)]
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (1, LARGEST_BATCH)
    assert 1 < batch(8) < batch(24) < LARGEST_BATCH
    assert batch(8, "tiny") == LARGEST_BATCH > batch(8)
    assert batch(10, diarization=True) < batch(10)


def test_a_batch_of_a_cpu_fits_its_memory_too() -> None:
    """Which nobody tells a process that it has used up: the system kills it."""
    assert [batch(gib, device="cpu") for gib in (0, 8, 500)] == [1, 4, 8]
    assert batch(500, "demo", device="cpu") == 1  # whose weights lie in the cache
    assert batch(8, "tiny", device="cpu") == 8
    shape, weights = SHAPES["large-v3"], model_bytes("large-v3", "int8")
    lanes = auto_batch_size(24 * GIB, weights, shape, False, "cpu", lanes=3, bytes_per_number=4)
    assert lanes == 4
    assert weights + 3 * batch_bytes(shape, lanes, 5, 4, "cpu") < 23 * GIB


def test_what_a_batch_takes_fits_where_it_was_found_to() -> None:
    """By what was counted; and by the least that its caches take, which is known: keys and values of the attention to the sound."""
    for gib in (6, 8, 10, 12, 16, 24):
        weights, least = model_bytes("large-v3", ""), batch(gib) * 2 * 32 * 1500 * 1280 * 2
        assert batch_bytes(LARGE_V3, batch(gib), 5, 2) + weights < gib * GIB
        assert 0.3 * gib * GIB < least + weights < (gib - 1) * GIB


def test_lanes_share_the_memory() -> None:
    shape = ModelShape(32, 32, 1280, 20)
    one, two = (auto_batch_size(24 * GIB, 3 * GIB, shape, False, "cuda", lanes=lanes) for lanes in (1, 2))
    assert two == one / 2


def test_a_limit_halves_down_to_one() -> None:
    limit = BatchLimit(12)
    assert [limit.size, *(limit.halve() for _ in range(5))] == [12, 6, 3, 1, 1, 1]


def test_a_limit_that_begins_small_grows_to_its_size() -> None:
    limit = BatchLimit(8, first=1)
    assert [limit.size, *(well(limit) for _ in range(4))] == [1, 2, 4, 8, 8]
    assert BatchLimit(8, first=16).size == 8


def test_of_lanes_that_fail_together_one_halves() -> None:
    limit = BatchLimit(16)
    assert (limit.halve(16), limit.halve(16), limit.halve(16)) == (8, 8, 8)


def test_a_small_batch_that_fails_beside_a_large_one_does_not_cost_all_that_there_is() -> None:
    assert BatchLimit(32).halve(3) == 16


def test_lanes_that_fail_together_are_one_failure() -> None:
    limit = BatchLimit(16)
    limit.halve(16)
    limit.halve(16)
    assert well(limit) == 16


def well(limit: BatchLimit, times: int = BatchLimit.GOOD_BATCHES) -> int:
    for _ in range(times):
        limit.succeeded(limit.size)
    return limit.size


def test_a_limit_grows_by_one_step_after_many_full_batches() -> None:
    limit = BatchLimit(16)
    limit.halve()
    limit.halve()
    assert well(limit, BatchLimit.GOOD_BATCHES - 1) == 4
    for _ in range(1000):
        limit.succeeded(3)  # not full
    assert limit.size == 4
    assert well(limit, 1) == 8
    assert well(limit) == 16
    assert well(limit) == 16


def test_a_limit_counts_from_the_last_failure() -> None:
    limit = BatchLimit(16)
    limit.halve()
    well(limit, BatchLimit.GOOD_BATCHES - 1)
    limit.halve()
    assert well(limit, BatchLimit.GOOD_BATCHES - 1) == 4


def test_a_limit_never_grows_to_a_size_that_failed_twice() -> None:
    limit = BatchLimit(16)
    limit.halve()
    assert well(limit) == 16
    limit.halve()
    assert [well(limit) for _ in range(3)] == [8, 8, 8]
    limit.halve()
    assert [well(limit) for _ in range(3)] == [8, 8, 8]
