"""What a GPU needs of the libraries: PyTorch's CUDA and cuBLAS 12 before a model is loaded, and back what torch keeps.

None of it imports torch by itself where no GPU is wanted.
"""

from __future__ import annotations

import ctypes
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import structlog

log = structlog.get_logger()

LIBRARIES = ("libcublasLt.so.12", "libcublas.so.12")
"""CTranslate2 opens the second by this name when it first multiplies; it needs the first."""

WORTH_BYTES = 256 * 1024**2
"""Given back by torch, so much may be what was missing."""


def require() -> None:
    """Raises RuntimeError that says why this process cannot use its GPU."""
    import torch

    version = f"PyTorch {torch.__version__}"
    if torch.version.cuda is None:
        raise RuntimeError(f"{version} is built without CUDA, install one built for it")
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except Exception as error:  # of several kinds; its text says whether the driver is too old, or there is no GPU
        raise RuntimeError(f"{version} for CUDA {torch.version.cuda} cannot use the GPU: {error}") from error
    _load_cublas()


def package_folders() -> Iterator[Path]:
    """Where NVIDIA's Python packages have their libraries."""
    site = Path(sysconfig.get_paths()["purelib"]) / "nvidia"
    yield from (site / part / "lib" for part in ("cublas", "cu12", "cu13"))


def _load_cublas() -> None:
    """A library that is loaded is found by its name, wherever it lies. Where there is none CTranslate2 says so itself."""
    if loads(LIBRARIES[-1]):
        return
    for folder in package_folders():
        if all((folder / name).is_file() for name in LIBRARIES):
            for name in LIBRARIES:
                loads(str(folder / name))
            return


def loads(library: str) -> bool:
    """Whether a library can be loaded, by its name or path; it stays loaded."""
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def give_back() -> int:
    """Has torch give back what it freed and kept, of which CTranslate2 can take nothing; returns the bytes."""
    device: Any = getattr(sys.modules.get("torch"), "cuda", None)  # another thread may be importing it
    if device is None or not device.is_initialized():
        return 0
    kept = int(device.memory_reserved())
    device.empty_cache()
    return kept - int(device.memory_reserved())


def settle() -> None:
    """Waits for all that this process asked of its GPU."""
    torch: Any = sys.modules["torch"]
    torch.cuda.synchronize()


def use_own_stream() -> None:
    """Of the calling thread, from now on: what torch does in it and what CTranslate2 does need not wait for one another, as all
    streams do for the default one."""
    torch: Any = sys.modules["torch"]
    try:
        torch.cuda.set_stream(torch.cuda.Stream())
    except RuntimeError as error:  # on a full card: it is slower without
        log.warning("no_own_stream", error=str(error))
