"""The clock of waiting ticks while it runs, and forgets nothing."""

from __future__ import annotations

from services.controller.wait_clock import WaitClock


class Time:
    """A monotonic clock that a test moves."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self) -> float:
        return self.seconds


def test_it_stands_until_it_is_let_run() -> None:
    time = Time(1000.0)
    clock = WaitClock(time)
    time.seconds += 50
    assert (clock.read(), clock.running) == (0.0, False)
    clock.run(True)
    assert (clock.read(), clock.running) == (0.0, True)
    time.seconds += 50
    assert clock.read() == 50.0


def test_it_stands_while_no_worker_can_be_reached_and_goes_on_from_there() -> None:
    time = Time(0.0)
    clock = WaitClock(time)
    for running, passed in [(True, 10.0), (False, 1000.0), (True, 5.0), (False, 0.0), (True, 0.5)]:
        clock.run(running)
        time.seconds += passed
    assert clock.read() == 15.5
    clock.run(False)
    time.seconds += 1e6
    assert (clock.read(), clock.running) == (15.5, False)


def test_saying_the_same_again_changes_nothing() -> None:
    time = Time(0.0)
    clock = WaitClock(time)
    clock.run(False)
    clock.run(True)
    time.seconds = 10.0
    clock.run(True)
    time.seconds = 20.0
    assert clock.read() == 20.0
    clock.run(False)
    clock.run(False)
    time.seconds = 30.0
    assert clock.read() == 20.0


def test_it_goes_on_from_what_was_stored_whatever_the_new_processs_clock_says() -> None:
    before, after = Time(5000.0), Time(3.0)
    old = WaitClock(before)
    old.run(True)
    before.seconds += 90
    new = WaitClock(after, old.read())
    assert (new.read(), new.running) == (90.0, False)
    new.run(True)
    after.seconds += 10
    assert new.read() == 100.0
