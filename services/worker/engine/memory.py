"""What decoding costs in memory, what that says about batches, and which errors are about memory. Pure.

Sizes are computed from a model's shape; what the libraries need besides is a margin, said where it is added.
"""

from __future__ import annotations

import re
import struct
import threading
from dataclasses import dataclass
from typing import BinaryIO

GIB = 1024**3

# --- errors

# Each as a library words it; what is masked is said behind it.
_OUT_OF_MEMORY = re.compile(
    "|".join(
        (
            r"out[ _]of[ _]memory",  # CTranslate2 ("CUDA failed with error out of memory"), torch, the driver
            r"cudaErrorMemoryAllocation",
            r"CUBLAS_STATUS_ALLOC_FAILED",
            r"CUDNN_STATUS_ALLOC_FAILED",
            r"CUBLAS_STATUS_NOT_INITIALIZED",  # a handle that found no room when it was made
            r"CUDNN_STATUS_NOT_INITIALIZED",  # likewise
            r"CUDNN_STATUS_INTERNAL_ERROR_(HOST|DEVICE)_ALLOCATION_FAILED",
            r"unable to find an engine to execute this computation",  # torch, where no way of cuDNN's found room
            r"CUBLAS_STATUS_INTERNAL_ERROR.*cublasCreate",  # likewise, as torch says it
            r"parallel_for failed: cudaErrorInvalidDevice",  # see `is_echo`
            r"bad[ _]alloc",  # C++: std::bad_alloc, thrust's bad allocation
            r"CUFFT_(ALLOC_FAILED|INTERNAL_ERROR)",  # torch's; the second is also what it says where its workspace finds no room
            r"DefaultCPUAllocator",  # torch on a CPU
            r"(can't|cannot|could not|unable to|failed to) allocate",  # torch, the C library, numpy, FFmpeg
            r"not enough memory",
        )
    ),
    re.IGNORECASE,
)

# What CUDA's documentation says of them: the process is left in an inconsistent state, and must be started again.
_CONTEXT_LOST = re.compile(
    "|".join(
        (
            r"illegal memory access|cudaErrorIllegalAddress",
            r"unspecified launch failure|cudaErrorLaunchFailure",
            r"illegal instruction|cudaErrorIllegalInstruction",
            r"misaligned address|cudaErrorMisalignedAddress",
            r"invalid program counter|cudaErrorInvalidPc",
            r"operation not supported on global/shared address space|cudaErrorInvalidAddressSpace",
            r"hardware stack error|cudaErrorHardwareStackError",
            r"device-side assert triggered|cudaErrorAssert",  # all of torch's errors end with how to see "assertions"
            r"launch timed out|cudaErrorLaunchTimeout",
            r"uncorrectable (ECC|NVLink) error|cudaErrorECCUncorrectable|cudaErrorNvlinkUncorrectable",
            r"context is destroyed|cudaErrorContextIsDestroyed",
            r"CUDA (failed with error|error:) unknown error|cudaErrorUnknown",
            r"CUFFT_EXEC_FAILED",
        )
    ),
    re.IGNORECASE,
)

# cuBLAS and cuDNN over a kernel that failed: whether the context lives is not said, a new one does; nor whether memory was short.
_KERNEL_FAILED = re.compile(
    r"CUBLAS_STATUS_(EXECUTION_FAILED|MAPPING_ERROR|INTERNAL_ERROR(?!.*cublasCreate))"
    r"|CUDNN_STATUS_(EXECUTION_FAILED|MAPPING_ERROR|INTERNAL_ERROR(?!_(HOST|DEVICE)_ALLOCATION_FAILED))",
    re.IGNORECASE,
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether less at once may help. Some forms have other causes too (a driver that does not fit): then less does not
    help either, and whoever halves down to one window knows."""
    return not needs_new_process(error) and any(
        isinstance(one, MemoryError) or type(one).__name__ == "OutOfMemoryError" or _OUT_OF_MEMORY.search(str(one))
        for one in _with_causes(error)
    )


def is_echo(error: BaseException) -> bool:
    """Whether CTranslate2 may only be telling of an error again that it raised before: CUDA keeps the last one until it is asked for
    it, and what asks first is Thrust, in the next call of the same worker. Told once, the call succeeds the second time."""
    return "cudaErrorInvalidDevice" in str(error)


def needs_new_process(error: BaseException) -> bool:
    """Whether the CUDA context is lost, so that nothing on this device works again before the process is another."""
    return any(_CONTEXT_LOST.search(str(one)) for one in _with_causes(error)) or may_be_memory(error)


def may_be_memory(error: BaseException) -> bool:
    """Of what needs a new process: whether less at once may help there."""
    return any(_KERNEL_FAILED.search(str(one)) for one in _with_causes(error))


def _with_causes(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in found:
        found.append(one)
        one = one.__cause__ or one.__context__
    return found


# --- models

FRAMES = 1500
"""What Whisper's encoder makes of a window, whatever is in it: 30 s of mel frames, every second one."""

MOST_TOKENS = 224
"""What a window may be decoded to, prompt included: half of the 448 positions that a decoder knows."""

BYTES_PER_NUMBER = {"float32": 4, "int16": 2, "int8_float32": 4, "int8": 4}
"""Of what is computed, by compute type; two for all that are not named. Weights are another matter: `weight_bytes`."""

_WEIGHT_BYTES = {"float32": 4, "int16": 2, "int8": 1, "int8_float32": 1, "int8_float16": 1, "int8_bfloat16": 1}


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What of a Whisper model decides about memory."""

    encoder_layers: int
    decoder_layers: int
    width: int
    heads: int
    vocabulary: int = 51865
    mels: int = 80

    @property
    def parameters(self) -> int:
        """Weights of its layers, convolutions and embeddings; biases and norms are a few thousandths of that."""
        layers = 12 * self.encoder_layers + 16 * self.decoder_layers
        convolutions = 3 * self.width * (self.mels + self.width)
        return layers * self.width**2 + convolutions + (self.vocabulary + FRAMES + 2 * MOST_TOKENS) * self.width


TINY = ModelShape(4, 4, 384, 6)
BASE = ModelShape(6, 6, 512, 8)
SMALL = ModelShape(12, 12, 768, 12)
MEDIUM = ModelShape(24, 24, 1024, 16)
LARGE = ModelShape(32, 32, 1280, 20)
LARGE_V3 = ModelShape(32, 32, 1280, 20, 51866, 128)

SHAPES = {
    "demo": ModelShape(3, 3, 128, 4, 1561),
    "tiny.en": TINY,
    "tiny": TINY,
    "base.en": BASE,
    "base": BASE,
    "small.en": SMALL,
    "small": SMALL,
    "medium.en": MEDIUM,
    "medium": MEDIUM,
    "large-v1": LARGE,
    "large-v2": LARGE,
    "large-v3": LARGE_V3,
    "large": LARGE_V3,
    "distil-small.en": ModelShape(12, 4, 768, 12),
    "distil-medium.en": ModelShape(24, 2, 1024, 16),
    "distil-large-v2": ModelShape(32, 2, 1280, 20),
    "distil-large-v3": ModelShape(32, 2, 1280, 20, 51866, 128),
    "distil-large-v3.5": ModelShape(32, 2, 1280, 20, 51866, 128),
    "large-v3-turbo": ModelShape(32, 4, 1280, 20, 51866, 128),
    "turbo": ModelShape(32, 4, 1280, 20, 51866, 128),
}
"""As their configurations on the hub say; `read_shape` tells it of any other."""


def weight_bytes(shape: ModelShape, compute_type: str) -> int:
    """Of one copy on the device. Types that are not known count as 16 bits, as most models are saved."""
    return shape.parameters * _WEIGHT_BYTES.get(compute_type, 2)


def model_bytes(name: str, compute_type: str) -> int:
    """Of a model by its name, before its file is seen; one that is not known counts as the largest."""
    return weight_bytes(SHAPES.get(name, LARGE_V3), compute_type)


def decoding_bytes(shape: ModelShape, beam: int, bytes_per_number: int) -> int:
    """The most that one window takes in the decoder.

    It keeps keys and values: of cross-attention, which all beams share, and of self-attention, which each has (and one
    layer's again, while beams change places); the logits are float32, twice.
    """
    cross_attention = 2 * shape.decoder_layers * FRAMES * shape.width
    self_attention = 2 * (shape.decoder_layers + 1) * MOST_TOKENS * shape.width * beam
    return (cross_attention + self_attention) * bytes_per_number + 2 * beam * shape.vocabulary * 4


def encoding_bytes(shape: ModelShape, bytes_per_number: int) -> int:
    """The most that one window takes in the encoder: the scores of one layer before and after the softmax, its hidden
    states, and its queries, keys and values, or four times its width.

    CTranslate2's ``src/layers/attention.cc``, ``dot_product_attention``, does not compute the softmax in place.
    """
    return (2 * shape.heads * FRAMES**2 + FRAMES * shape.width * (1 + 4)) * bytes_per_number


def batch_bytes(shape: ModelShape, windows: int, beam: int, bytes_per_number: int, device: str = "cuda") -> int:
    """The most that a lane takes for a batch of so many windows: while some of them are encoded, or while all are
    decoded, and what the encoder made of each, by itself and joined with the others."""
    encoding = min(windows, encoder_batch(device)) * encoding_bytes(shape, bytes_per_number)
    decoding = windows * decoding_bytes(shape, beam, bytes_per_number)
    if device == "cpu":
        decoding = int(decoding * _CPU_DECODING_SHARE)
    return max(encoding, decoding) + 2 * windows * FRAMES * shape.width * bytes_per_number


def read_shape(model: BinaryIO) -> ModelShape:
    """Of a ``model.bin`` of CTranslate2 (binary versions 5 and 6), by the names and sizes of its variables; what they hold
    is skipped, so `model` must be seekable. Raises ValueError for another file.

    The format: ``ctranslate2/specs/model_spec.py``, ``_serialize``.
    """
    try:
        return _shape_of(_variables(model))
    except (struct.error, KeyError, UnicodeDecodeError, IndexError) as error:
        raise ValueError(f"no Whisper model of CTranslate2: {error}") from error


_Variable = tuple[tuple[int, ...], int]
"""Its shape, and its value where it is one small number."""


def _variables(model: BinaryIO) -> dict[str, _Variable]:
    version = _number(model, "I")
    if not 5 <= version <= 6:
        raise ValueError(f"no model of CTranslate2, or of version {version}, which is not known")
    _text(model)
    _number(model, "I")  # the specification's revision
    found: dict[str, _Variable] = {}
    for _ in range(_number(model, "I")):
        name = _text(model)
        shape = tuple(_number(model, "I") for _ in range(_number(model, "B")))
        _number(model, "B")  # the type
        size = _number(model, "I")
        if shape:
            model.seek(size, 1)
            found[name] = shape, 0
        else:
            found[name] = shape, int.from_bytes(model.read(size), "little")
    return found


def _number(model: BinaryIO, kind: str) -> int:
    size = struct.calcsize(f"<{kind}")
    (number,) = struct.unpack(f"<{kind}", model.read(size))
    return int(number)


def _text(model: BinaryIO) -> str:
    return model.read(_number(model, "H")).rstrip(b"\0").decode()


_LAYER = re.compile(r"(encoder|decoder)/layer_(\d+)/")


def _shape_of(variables: dict[str, _Variable]) -> ModelShape:
    layers = {match.groups() for name in variables if (match := _LAYER.match(name))}
    convolution, _ = variables["encoder/conv1/weight"]
    embeddings, _ = variables["decoder/embeddings/weight"]
    _, heads = variables["encoder/num_heads"]
    return ModelShape(
        encoder_layers=sum(side == "encoder" for side, _ in layers),
        decoder_layers=sum(side == "decoder" for side, _ in layers),
        width=convolution[0],
        heads=heads,
        vocabulary=embeddings[0],
        mels=convolution[1],
    )


# --- batches

CPU_BATCH, CPU_BATCH_IN_CACHE = 8, 1
"""Decoding many rows at once reads the weights once for all of them. Where they lie in the cache anyhow that gains nothing
(bundled model: 25 ms of CPU a window alone, 26 in twos, 30 in eights), and a short job waits longer for the batch before it."""

CPU_ENCODER_BATCH, GPU_ENCODER_BATCH = 1, 8
"""Windows to encode at once, of those that are decoded together. A window is 1,500 rows to the encoder's products, where it is
one row a beam to the decoder's: on a CPU it fills a core, and several their cache; a few fill a GPU, and more only take memory
for their attention's scores (large-v3: 180 MB each), which the decoder has better use for."""

_CPU_DECODING_SHARE = 1.5
"""Of what decoding is counted to take: a CPU's allocator has it in pieces (tiny's shape, int8, batches of four and of eight: 53 MiB a window,
of which 36 are counted)."""

CACHE_BYTES = 16 * 1024**2
"""Of weights: what the caches of a current CPU core and its share of the last level hold."""
LARGEST_BATCH = 64
BEAMS = 5

RESERVED_BYTES = 1 * GIB
"""Assumed for what a CUDA context, its libraries' workspaces and the allocators' caches take, or on a CPU the processes beside."""

DIARIZATION_BYTES = 2 * GIB
"""For the models of a diarization pipeline and their batches, beside Whisper's: what pyannote's take by measurement
(`python -m benchmarks speaker-memory`), rounded up."""

_USED_SHARE = 0.85
"""Of what is left, since blocks of many sizes leave gaps."""

_SIZES = (64, 48, 32, 24, 16, 12, 8, 6, 4, 3, 2, 1)


def auto_batch_size(
    free_bytes: int,
    weights_bytes: int,
    shape: ModelShape,
    diarization: bool,
    device: str,
    *,
    lanes: int = 1,
    beam: int = BEAMS,
    bytes_per_number: int = 2,
) -> int:
    """Windows to decode at once in each of ``lanes``; ``free_bytes`` is what the device has before the model is loaded.

    At most 8 on a CPU. Never below one: what does not fit shows when it is tried.
    """
    most = LARGEST_BATCH
    if device == "cpu":
        most = CPU_BATCH_IN_CACHE if weights_bytes <= CACHE_BYTES else CPU_BATCH
    left = free_bytes - weights_bytes - RESERVED_BYTES - diarization * DIARIZATION_BYTES
    for_each = left * _USED_SHARE / lanes
    fitting = (size for size in _SIZES if batch_bytes(shape, size, beam, bytes_per_number, device) <= for_each)
    return min(most, next(fitting, 1))


def encoder_batch(device: str) -> int:
    """Windows to encode at once; a batch to be decoded that has fewer is encoded whole."""
    return CPU_ENCODER_BATCH if device == "cpu" else GPU_ENCODER_BATCH


class BatchLimit:
    """How many windows are decoded at once: halved when memory ran out, and slowly grown again. Several threads share it.

    ``first`` is what it begins with where that is less than ``size``, the most. Invariant: it never grows to a size that
    memory ran out at twice, and never over ``size``.
    """

    GOOD_BATCHES = 200
    """Full batches in a row before it is tried with more."""

    def __init__(self, size: int, first: int = 0) -> None:
        self._largest = max(1, size)
        self._size = self.began_with = min(first or self._largest, self._largest)
        self._good = 0
        self._failures: dict[int, int] = {}
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        return self._size

    def halve(self, tried: int | None = None) -> int:
        """Memory ran out at ``tried`` windows (None: a full batch); returns the size from now on, 1 at the least.

        Of several threads that fail at the same size together only one halves it.
        """
        with self._lock:
            self._good = 0
            if tried is None or tried <= self._size:
                self._failures[self._size] = self._failures.get(self._size, 0) + 1
                self._size = max(1, self._size // 2)
            return self._size

    def succeeded(self, windows: int) -> None:
        """A batch went well; one that was not full says nothing of larger ones."""
        with self._lock:
            if windows < self._size or self._size == self._largest:
                return
            self._good += 1
            if self._good < self.GOOD_BATCHES:
                return
            self._good = 0
            larger = min(self._largest, 2 * self._size)
            if all(times < 2 or size > larger for size, times in self._failures.items()):
                self._size = larger
