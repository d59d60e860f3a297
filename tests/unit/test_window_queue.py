"""The queue of windows: who is next, in which company, and what happens to what was taken."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from queue import SimpleQueue

import pytest

from services.worker.engine.window_queue import GATHERED_BATCHES, Line, WindowQueue


@dataclass(frozen=True)
class Window:
    name: str
    shape: str = "any"
    seconds: float = 30.0


def queue(lanes: int = 1, linger: float = 0.0) -> WindowQueue[Window]:
    return WindowQueue(lanes, linger)


def fill(made: WindowQueue[Window], line: Line[Window], *names: str, shape: str = "any", seconds: float = 30.0) -> None:
    for name in names:
        made.put(line, Window(name, shape, seconds))


def names(made: WindowQueue[Window], most: int) -> list[str]:
    return [taken.window.name for taken in made.take(lambda shape: most)]


def test_jobs_take_turns() -> None:
    made = queue()
    long, other = made.open(), made.open()
    fill(made, long, "a1", "a2", "a3", "a4")
    fill(made, other, "b1", "b2")
    assert names(made, 4) == ["a1", "b1", "a2", "b2"]
    assert names(made, 4) == ["a3", "a4"]


def test_a_short_job_that_comes_late_is_in_the_next_batch() -> None:
    made = queue()
    long = [made.open() for _ in range(10)]
    for number, line in enumerate(long):
        fill(made, line, *(f"{number}.{index}" for index in range(50)))
    for _ in range(20):
        names(made, 8)
    short = made.open()
    fill(made, short, "short", seconds=10.0)
    assert "short" in names(made, 8)


def test_who_was_idle_has_saved_up_nothing() -> None:
    made = queue()
    idle, busy = made.open(), made.open()
    fill(made, busy, *(f"b{number}" for number in range(8)))
    names(made, 4)
    fill(made, idle, *(f"i{number}" for number in range(8)))
    assert sum(name.startswith("b") for name in names(made, 4)) == 2


def test_only_what_is_brief_is_taken_beside_what_is_not() -> None:
    made = queue()
    long, short = made.open(), made.open(brief=True)
    fill(made, long, "a1", "a2", "a3", "a4")
    fill(made, short, "b1", "b2")
    assert [[taken.window.name for taken in made.take_brief()] for _ in range(2)] == [["b1"], ["b2"]]
    assert waits(made)


def test_where_all_are_brief_none_is_taken_out_of_turn() -> None:
    made = queue()
    fill(made, made.open(brief=True), "a1", "a2")
    fill(made, made.open(brief=True), "b1")
    assert waits(made)


def test_what_is_brief_and_was_given_back_is_taken_again() -> None:
    made = queue()
    long, short = made.open(), made.open(brief=True)
    fill(made, long, "a1", "a2", "a3")
    fill(made, short, "b1", "b2")
    for _ in range(3):
        taken = made.take_brief()
        assert [one.window.name for one in taken] == ["b1"]
        made.put_back(taken)


def test_who_waits_for_a_brief_job_is_told_of_it_and_of_the_end() -> None:
    made = queue()
    long, short = made.open(), made.open(brief=True)
    fill(made, long, "a1", "a2")
    found: SimpleQueue[list[str]] = SimpleQueue()

    def take_twice() -> None:
        for _ in range(2):
            found.put([taken.window.name for taken in made.take_brief()])

    lane = threading.Thread(target=take_twice)
    lane.start()
    fill(made, short, "b1")
    assert found.get(timeout=10) == ["b1"]
    made.stop()
    assert found.get(timeout=10) == []
    lane.join(10)


def waits(made: WindowQueue[Window]) -> bool:
    """Whether there is nothing for who takes brief jobs only. The queue cannot be used after."""
    found: list[object] = []
    lane = threading.Thread(target=lambda: found.append(made.take_brief()))
    lane.start()
    lane.join(0.05)
    waited = lane.is_alive()
    made.stop()
    lane.join(10)
    return waited and found == [[]]


def test_a_heavier_job_gets_more() -> None:
    made = queue()
    heavy, light = made.open(weight=3.0), made.open()
    fill(made, heavy, *(f"h{number}" for number in range(20)))
    fill(made, light, *(f"l{number}" for number in range(20)))
    taken = [name for _ in range(4) for name in names(made, 4)]
    assert sum(name.startswith("h") for name in taken) == 12


def test_a_batch_has_one_shape_and_the_next_one_begins_with_who_was_passed_over() -> None:
    made = queue()
    line, other = made.open(), made.open()
    fill(made, line, "a1", "a2")
    fill(made, other, "b1", shape="prompted")
    fill(made, line, "a3")
    assert names(made, 4) == ["a1", "a2", "a3"]
    assert names(made, 4) == ["b1"]


def test_a_window_of_another_shape_does_not_hold_up_its_own_job() -> None:
    made = queue()
    line = made.open()
    fill(made, line, "a1")
    fill(made, line, "short", shape="short")
    fill(made, line, "a2")
    assert names(made, 4) == ["a1", "a2"]
    assert names(made, 4) == ["short"]


def test_what_is_put_back_is_taken_again_first_and_costs_nothing() -> None:
    made = queue()
    line, other = made.open(), made.open()
    fill(made, line, "a1", "a2", "a3")
    fill(made, other, "b1", "b2")
    taken = made.take(lambda shape: 2)
    made.put_back(taken)
    assert names(made, 5) == ["a1", "b1", "a2", "b2", "a3"]


def test_what_is_put_back_one_by_one_and_by_several_lanes_keeps_its_order() -> None:
    made = queue()
    line = made.open()
    fill(made, line, *(f"a{number}" for number in range(6)))
    first, second = made.take(lambda shape: 2), made.take(lambda shape: 2)
    for taken in (*first, *second):
        made.put_back([taken])
    assert names(made, 6) == [f"a{number}" for number in range(6)]


def test_time_that_was_spent_counts_though_the_window_comes_back() -> None:
    made = queue()
    spender, other = made.open(), made.open()
    fill(made, spender, "s1", "s2")
    fill(made, other, "o1")
    made.put_back(made.take(lambda shape: 1), spent=True)
    assert names(made, 1) == ["o1"]


def test_a_closed_job_is_forgotten_wherever_its_windows_are() -> None:
    made = queue()
    line, other = made.open(), made.open()
    fill(made, line, "a1", "a2")
    fill(made, other, "b1")
    taken = made.take(lambda shape: 1)
    assert [window.name for window in made.close(line)] == ["a2"]
    assert [window.name for window in made.put_back(taken)] == ["a1"]
    with pytest.raises(ValueError, match="closed"):
        fill(made, line, "a3")
    assert names(made, 4) == ["b1"]
    assert made.jobs == 1


def test_the_last_windows_are_shared_among_the_lanes() -> None:
    made = queue(lanes=2)
    line = made.open()
    fill(made, line, *(f"a{number}" for number in range(6)))
    sizes = [len(names(made, 8))]
    made.put_back([], spent=True)  # as a lane does that has nothing to be searched again
    assert [*sizes, len(names(made, 8))] == [3, 3]


def test_as_long_as_a_job_has_more_a_lane_takes_all_it_can() -> None:
    made = queue(lanes=2)
    line = made.open()
    fill(made, line, *(f"a{number}" for number in range(9)))
    made.expect(line, 0, True)
    assert len(names(made, 8)) == 8


def come_again(made: WindowQueue[Window], line: Line[Window], *again: str) -> None:
    """Puts them, and has them taken and put back as what is searched otherwise."""
    fill(made, line, *again, shape="first")
    taken = made.take(lambda shape: len(again))
    searched = [replace(one, window=Window(one.window.name, "again")) for one in taken]
    made.put_back(searched, spent=True)


def test_what_comes_again_is_gathered() -> None:
    made = queue()
    line = made.open()
    come_again(made, line, "one")
    fill(made, line, *(f"a{number}" for number in range(40)))
    taken = [names(made, 2) for _ in range(GATHERED_BATCHES + 1)]
    assert taken.index(["one"]) == GATHERED_BATCHES


def test_what_comes_again_goes_at_once_where_there_is_nothing_else() -> None:
    made = queue()
    line = made.open()
    come_again(made, line, "one", "two")
    assert names(made, 8) == ["one", "two"]


def test_what_comes_again_of_a_brief_job_goes_first() -> None:
    made = queue()
    line, other = made.open(brief=True), made.open()
    come_again(made, line, "one")
    fill(made, other, "b1", "b2", seconds=300.0)
    names(made, 1)
    assert names(made, 1) == ["one"]


def test_a_batch_waits_a_moment_for_windows_that_are_expected() -> None:
    made = queue(linger=20.0)
    line = made.open()
    made.expect(line, 3, False)
    fill(made, line, "a1")
    found: list[str] = []
    lane = threading.Thread(target=lambda: found.extend(names(made, 8)))
    lane.start()
    fill(made, line, "a2", "a3")
    lane.join(10.0)
    assert found == ["a1", "a2", "a3"]


def test_a_queue_that_was_stopped_gives_nothing() -> None:
    made = queue()
    lane = threading.Thread(target=lambda: made.take(lambda shape: 1))
    lane.start()
    made.stop()
    lane.join(10.0)
    assert not lane.is_alive()
    assert made.take(lambda shape: 1) == []
