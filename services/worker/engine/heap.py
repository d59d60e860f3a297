"""How the C library keeps memory for this process: what a batch needed is there for the next one.

glibc maps every large block anew and gives it back at once. Each encoded window then costs tens of thousands of page faults:
with the bundled model on a CPU 145 ms a window instead of 90 (`benchmarks/results/heap.json`).
"""

from __future__ import annotations

import contextlib
import ctypes

# malloc.h
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4

KEPT_BYTES = 512 * 1024 * 1024
"""What may lie unused at the heap's end before it is given back."""

_GROWTH_BYTES = 64 * 1024 * 1024


def keep() -> None:
    """From now on. Nothing, where the C library is another."""
    with contextlib.suppress(AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_MAX, 0)
        library.mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
        library.mallopt(_M_TOP_PAD, _GROWTH_BYTES)


def give_back() -> None:
    """What is unused, wherever it lies: after a model was unloaded."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
