"""Into which stretches a recording is cut to learn who speaks when: each is diarized on its own, so that neither memory nor
time grow faster than the recording. Pure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from services.worker.pipeline.windows import SAMPLE_RATE

USUAL_SECONDS = 30 * 60.0
"""Of a chunk where nothing is asked for. Clustering takes memory with the square of it."""

LONGEST_SECONDS = 60 * 60.0
"""Of a chunk, whatever is asked for: ten hours at once would take 12 GB to cluster."""

SHORTEST_SECONDS = 120.0
"""A shorter chunk hears no speaker long enough to know him again: chunks of a minute had 10 to 20 % of the speech wrong, of
conversations of three that were right to 0 to 3.4 % in one."""

MOST_CHUNKS = 100
"""Of one recording: longer ones have longer chunks. Linking takes time with the cube of it."""

OVERLAP_SECONDS = 30.0
"""Neighbors share so much: who speaks in it is heard in both, which says who is who."""

MOST_OVERLAP = 0.25
"""Of a chunk's length."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """``length`` samples at 16 kHz from ``start`` on."""

    index: int
    start: int
    length: int

    @property
    def end(self) -> int:
        return self.start + self.length


def plan_chunks(samples: int, longest_seconds: float | None, fast_switching: bool) -> tuple[Chunk, ...]:
    """Chunks of equal length, none longer than asked for unless there were more than MOST_CHUNKS; one where that is enough.

    ``fast_switching``: half as long, and twice as much of each shared with its neighbors.
    """
    longest = USUAL_SECONDS if longest_seconds is None else min(LONGEST_SECONDS, longest_seconds)
    overlap, most_overlap = OVERLAP_SECONDS, MOST_OVERLAP
    if fast_switching:
        longest, overlap, most_overlap = longest / 2, 2 * overlap, 2 * most_overlap
    longest = max(SHORTEST_SECONDS, longest)
    overlap = min(overlap, most_overlap * longest)
    longest = max(longest, samples / SAMPLE_RATE / MOST_CHUNKS + overlap)
    most, shared = round(longest * SAMPLE_RATE), round(overlap * SAMPLE_RATE)
    count = max(1, math.ceil((samples - shared) / (most - shared)))
    length = math.ceil((samples + (count - 1) * shared) / count)
    starts = [index * (length - shared) for index in range(count)]
    return tuple(Chunk(index, start, min(length, samples - start)) for index, start in enumerate(starts))
