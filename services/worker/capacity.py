"""How many attempts the worker can hold: a reservation, not advice. Pure.

Invariant: an attempt is accepted only with a slot taken for it, and the revision grows with every change.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Slots:
    """``down``: those of engines that do not come up. ``revision`` orders reports that cross on two streams; it also counts changes that are none of the slots'."""

    total: int
    taken: int = 0
    draining: bool = False
    down: int = 0
    revision: int = 1

    @property
    def free(self) -> int:
        return 0 if self.draining else max(0, self.total - self.down - self.taken)

    @property
    def paused(self) -> bool:
        """While no engine comes up."""
        return self.down >= self.total

    def reserve(self) -> Slots:
        """Takes a slot. Raises ValueError when none is free."""
        if self.free == 0:
            raise ValueError("no slot is free")
        return self._changed(taken=self.taken + 1)

    def release(self) -> Slots:
        if self.taken == 0:
            raise ValueError("no slot is taken")
        return self._changed(taken=self.taken - 1)

    def drain(self) -> Slots:
        """From now on nothing is free."""
        return self._changed(draining=True)

    def touch(self, down: int) -> Slots:
        """What the engine says of itself, which is reported with the slots, changed."""
        return self._changed(down=down)

    def _changed(self, taken: int | None = None, draining: bool | None = None, down: int | None = None) -> Slots:
        return replace(
            self,
            taken=self.taken if taken is None else taken,
            draining=self.draining if draining is None else draining,
            down=self.down if down is None else down,
            revision=self.revision + 1,
        )


@dataclass(frozen=True, slots=True)
class Gpu:
    """As its driver reports it; memory in MiB. ``uuid`` is its name for the driver's tool, "" where it was not asked."""

    name: str
    memory_mib: int
    uuid: str = ""


_DATA_CENTER = re.compile(r"\b(A100|A800|H100|H800|H20|H200|GH200|B100|B200|B300|GB200)\b")
"""Cards with high-bandwidth memory: several jobs at once gain there; others are bound by compute at two or three."""

_GIB_PER_JOB = 8
_GIB_RESERVED = 1
_GIB_FOR_ONE = 1
_MOST_IN_DATA_CENTERS = 16
_MOST_ELSEWHERE = 3


def auto_slots(gpu: Gpu | None, diarization_bytes: int, model_bytes: int) -> int:
    """Jobs at once on one GPU for ``WORKER_MAX_CONCURRENT_JOBS=auto``; ``model_bytes`` is what the default model takes,
    ``diarization_bytes`` what a diarization pipeline does, 0 where there is none.

    All jobs share one copy of it. With large-v3 in 16 bits this is the operations guide's table: 10 GB: 1; 24 GB: 2;
    48 GB: 3; A100 40 GB: 4; A100 80 GB: 9; less those whose memory diarization takes, which with pyannote's is one. Cards report a
    little less than they are sold for. No GPU: 1.
    """
    if gpu is None:
        return 1
    most = _MOST_IN_DATA_CENTERS if _DATA_CENTER.search(gpu.name) else _MOST_ELSEWHERE
    fitting = int(_gib_left(gpu, model_bytes) // _GIB_PER_JOB)
    return max(1, min(most, fitting) - _slots_of(diarization_bytes))


def slots_with_room(gpu: Gpu, diarization_bytes: int, model_bytes: int) -> int:
    """Jobs for which there is memory, whether or not the card computes fast enough for as many; 0 where there is hardly any for
    one."""
    left = _gib_left(gpu, model_bytes)
    if left - diarization_bytes / 1024**3 < _GIB_FOR_ONE:
        return 0
    return max(1, int(left // _GIB_PER_JOB) - _slots_of(diarization_bytes))


def _gib_left(gpu: Gpu, model_bytes: int) -> float:
    return round(gpu.memory_mib / 1024) - model_bytes / 1024**3 - _GIB_RESERVED


def _slots_of(diarization_bytes: int) -> int:
    return math.ceil(diarization_bytes / 1024**3 / _GIB_PER_JOB)
