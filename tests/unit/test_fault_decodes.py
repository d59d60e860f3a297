"""Which windows a fault had decoded twice, and which of them without need."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from tests.faults.decodes import Batch, Repeats, repeats, unshifted

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def batch(seconds: float, attempt: int, *windows: int) -> Batch:
    return Batch(BEGIN + timedelta(seconds=seconds), "job", attempt, windows)


def counted(*found: Batch) -> tuple[int, int, int]:
    """(needless, unavoidable, held), with the worker's end from 1.0 s on."""
    made: Repeats = repeats(found, [(BEGIN + timedelta(seconds=0.9), BEGIN + timedelta(seconds=1.5))])
    return made.needless, made.unavoidable, made.held


def test_a_window_is_decoded_again_without_need_where_it_could_be_told() -> None:
    assert counted(batch(0.5, 1, 0), batch(2.0, 2, 0)) == (1, 0, 0)


def test_times_of_a_clock_that_was_set_are_brought_back() -> None:
    def at(seconds: float) -> datetime:
        return BEGIN + timedelta(seconds=seconds)

    day, hour = timedelta(days=1), timedelta(hours=-1)
    # the second line comes after the clock was set, from a process that has not seen it yet
    shown = [(0.5, timedelta()), (1.5, timedelta()), (2.5, day), (4.5, hour)]
    found = [Batch(at(seconds) + shift, "job", 1, (0,)) for seconds, shift in shown]
    real = unshifted(found, [(at(1.0), day), (at(4.0), hour)])
    assert [batch.at for batch in real] == [at(seconds) for seconds, _ in shown]
    assert unshifted(found[:1], []) == found[:1]


def test_what_was_decoded_just_before_the_end_could_not_be_told() -> None:
    assert counted(batch(0.95, 1, 0), batch(2.0, 2, 0)) == (0, 1, 0)


def test_a_window_that_waits_for_an_earlier_one_is_told_with_it() -> None:
    assert counted(batch(0.5, 1, 1), batch(0.95, 1, 0), batch(2.0, 2, 1)) == (0, 1, 0)
    assert counted(batch(0.5, 1, 1), batch(0.7, 1, 0), batch(2.0, 2, 1)) == (1, 0, 0)


def test_a_window_whose_earlier_one_never_came_was_held() -> None:
    assert counted(batch(0.5, 1, 1), batch(2.0, 2, 0), batch(2.1, 2, 1)) == (0, 0, 1)
