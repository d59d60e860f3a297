"""How a recording is cut to learn who speaks when."""

from __future__ import annotations

from itertools import pairwise

import pytest

from services.worker.pipeline.speaker_chunks import (
    LONGEST_SECONDS,
    MOST_CHUNKS,
    OVERLAP_SECONDS,
    SHORTEST_SECONDS,
    USUAL_SECONDS,
    Chunk,
    plan_chunks,
)
from services.worker.pipeline.windows import SAMPLE_RATE

HOUR = 3600 * SAMPLE_RATE


def _seconds(chunk: Chunk) -> float:
    return chunk.length / SAMPLE_RATE


@pytest.mark.parametrize("samples", [1, SAMPLE_RATE, round(USUAL_SECONDS * SAMPLE_RATE)])
def test_what_is_short_is_one_chunk(samples: int) -> None:
    assert plan_chunks(samples, None, fast_switching=False) == (Chunk(0, 0, samples),)


@pytest.mark.parametrize("hours", [0.6, 1.0, 2.0, 3.3, 10.0])
@pytest.mark.parametrize("longest", [None, 1.0, 90.0, 1200.0, 3000.0, 1e6])
@pytest.mark.parametrize("fast", [False, True])
def test_chunks_cover_everything_overlap_and_are_no_longer_than_asked_for(
    hours: float, longest: float | None, fast: bool
) -> None:
    samples = round(hours * HOUR) + 7
    chunks = plan_chunks(samples, longest, fast)
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
    assert chunks[0].start == 0
    assert chunks[-1].end == samples
    wanted = max(SHORTEST_SECONDS, min(LONGEST_SECONDS, longest or USUAL_SECONDS))
    wanted = max(wanted, 3600 * hours / MOST_CHUNKS + 2 * OVERLAP_SECONDS + 1)
    assert max(map(_seconds, chunks)) <= wanted
    for one, other in pairwise(chunks):
        assert 0 < one.end - other.start < (0.51 if fast else 0.3) * one.length
        assert other.start > one.start
    if len(chunks) > 1:
        assert min(map(_seconds, chunks)) > 0.7 * max(map(_seconds, chunks)), "no chunk is a mere rest"


@pytest.mark.parametrize("longest", [120.0, 180.0, 300.0, 1800.0])
def test_fast_switching_never_makes_chunks_longer_nor_shares_less(longest: float) -> None:
    usual, fast = (plan_chunks(HOUR, longest, fast_switching=fast) for fast in (False, True))
    assert _seconds(usual[0]) <= longest + 1
    assert _seconds(fast[0]) <= max(_seconds(usual[0]), SHORTEST_SECONDS)
    assert (fast[0].end - fast[1].start) / fast[0].length > (usual[0].end - usual[1].start) / usual[0].length


def test_fast_switching_makes_chunks_shorter_and_overlaps_longer() -> None:
    usual, fast = (plan_chunks(2 * HOUR, None, fast_switching=fast) for fast in (False, True))
    assert fast[0].length < 0.6 * usual[0].length
    assert usual[0].end - usual[1].start == OVERLAP_SECONDS * SAMPLE_RATE
    assert fast[0].end - fast[1].start == 2 * OVERLAP_SECONDS * SAMPLE_RATE


def test_ten_hours_are_twenty_chunks_or_so() -> None:
    assert 20 <= len(plan_chunks(10 * HOUR, None, fast_switching=False)) <= 22


def test_of_very_many_short_ones_there_are_fewer_and_longer() -> None:
    assert 90 <= len(plan_chunks(10 * HOUR, 60.0, fast_switching=False)) <= MOST_CHUNKS
    assert len(plan_chunks(100 * HOUR, 60.0, fast_switching=True)) <= MOST_CHUNKS
