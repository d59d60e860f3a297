"""Waits grow with every failure, up to a bound, and are spread over all of it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from statistics import fmean

import pytest

from services.runtime.backoff import Backoff


@pytest.fixture
def bounds(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float]]:
    """What the random waits are drawn between; each wait is the bound itself."""
    drawn: list[tuple[float, float]] = []

    def draw(low: float, high: float) -> float:
        drawn.append((low, high))
        return high

    monkeypatch.setattr(random, "uniform", draw)
    return drawn


def test_the_bound_doubles_from_the_first_to_the_longest(bounds: list[tuple[float, float]]) -> None:
    backoff = Backoff(0.5, 5.0)
    assert [backoff.failed() for _ in range(7)] == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0, 5.0]
    assert bounds == [(0, bound) for bound in (0.5, 1.0, 2.0, 4.0, 5.0, 5.0, 5.0)]


def test_a_success_begins_again(bounds: list[tuple[float, float]]) -> None:
    backoff = Backoff(1.0, 100.0)
    waits = [backoff.failed() for _ in range(4)]
    backoff.succeeded()
    backoff.succeeded()
    assert [*waits, backoff.failed(), backoff.failed()] == [1.0, 2.0, 4.0, 8.0, 1.0, 2.0]


def test_the_first_wait_is_no_longer_than_the_longest(bounds: list[tuple[float, float]]) -> None:
    assert Backoff(9.0, 5.0).failed() == 5.0


def test_an_outage_of_months_overflows_nothing(bounds: list[tuple[float, float]]) -> None:
    backoff = Backoff(0.625, 5.0)
    assert {backoff.failed() for _ in range(5000)} == {0.625, 1.25, 2.5, 5.0}


def test_two_backoffs_know_nothing_of_each_other(bounds: list[tuple[float, float]]) -> None:
    one, other = Backoff(1.0, 8.0), Backoff(1.0, 8.0)
    assert [one.failed(), one.failed(), other.failed(), one.failed()] == [1.0, 2.0, 1.0, 4.0]


def drawn(failures: int, count: int = 2000) -> list[float]:
    """Waits after the given failure, of as many callers."""
    return [[backoff.failed() for _ in range(failures)][-1] for backoff in (Backoff(1.0, 8.0) for _ in range(count))]


@pytest.fixture
def seeded() -> Iterator[None]:
    """The same numbers in every run; the tests behind it get theirs from another state."""
    state = random.getstate()
    random.seed(20260102)
    yield
    random.setstate(state)


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize(("failures", "bound"), [(1, 1.0), (3, 4.0), (9, 8.0)])
def test_waits_are_spread_evenly_between_nothing_and_the_bound(failures: int, bound: float) -> None:
    waits = drawn(failures)
    assert all(0.0 <= wait <= bound for wait in waits)
    parts = [sum(bound * part / 4 <= wait < bound * (part + 1) / 4 for wait in waits) for part in range(4)]
    assert min(parts) > 400  # of 500 each; fewer than one draw in a million falls short of it
    assert fmean(waits) == pytest.approx(bound / 2, rel=0.05)


@pytest.mark.usefixtures("seeded")
def test_callers_that_failed_together_do_not_come_back_together() -> None:
    assert len(set(drawn(3, 100))) == 100
