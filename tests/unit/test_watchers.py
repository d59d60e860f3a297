"""Watchers are told each event once, in order; what they missed they are sent to the store for."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from services.controller.jobs import Change, FinalSegment, JobId, JobState, JobUpdate, Segment
from services.controller.watchers import MOST_TOLD, Watchers

NOW = datetime(2026, 1, 2, tzinfo=UTC)
JOB, OTHER = JobId("j1"), JobId("j2")


def change(number: int) -> Change:
    return Change(number, NOW, JobState.RUNNING, "transcribing", float(number), "", 1, None)


def changes(*numbers: int) -> list[Change]:
    return [change(number) for number in numbers]


def test_what_follows_is_handed_over_once() -> None:
    watchers = Watchers()
    with watchers.watch(JOB) as watch, watchers.watch(OTHER) as other:
        watchers.notify(JOB, changes(3, 4))
        watchers.notify(JOB, changes(5))
        assert watch.following(2) == changes(3, 4, 5)
        assert watch.following(5) == []
        assert other.following(0) == []


def test_what_the_watcher_has_already_is_passed_over() -> None:
    watchers = Watchers()
    with watchers.watch(JOB) as watch:
        watchers.notify(JOB, changes(1, 2, 3))
        assert watch.following(2) == changes(3)


def test_where_an_event_is_missing_nothing_is_handed_over_behind_it() -> None:
    watchers = Watchers()
    with watchers.watch(JOB) as watch:
        watchers.notify(JOB, changes(3, 4, 7))
        assert watch.following(1) == []
        assert watch.following(2) == changes(3, 4)
        assert watch.following(4) == []
        assert watch.following(6) == changes(7)


def test_steps_that_are_told_in_the_wrong_order_are_not_handed_over_so() -> None:
    watchers = Watchers()
    with watchers.watch(JOB) as watch:
        watchers.notify(JOB, changes(5, 6))
        watchers.notify(JOB, changes(3, 4))
        assert watch.following(2) == []
        assert watch.following(6) == []


def test_one_that_is_slow_is_sent_to_the_store() -> None:
    watchers = Watchers()
    with watchers.watch(JOB) as watch:
        watchers.notify(JOB, changes(*range(1, MOST_TOLD + 2)))
        assert watch.following(0) == []
        assert len(watch.following(1)) == MOST_TOLD


async def test_waiting_ends_with_what_is_new_and_only_then() -> None:
    watchers = Watchers()
    with watchers.watch(JOB) as watch:
        watchers.notify(JOB, changes(1, 2))
        watch.following(0)
        watchers.notify(JOB, changes(4))
        await watch.wait(2)  # the store has what is missing
        watch.following(4)
        waiting = asyncio.ensure_future(watch.wait(4))
        await asyncio.sleep(0)
        assert not waiting.done()
        watchers.notify(JOB)  # it is gone
        await waiting


def test_nothing_is_kept_of_a_watcher_that_left() -> None:
    watchers = Watchers()
    with pytest.raises(KeyError), watchers.watch(JOB):
        raise KeyError
    watchers.notify(JOB, changes(1))
    with watchers.watch(JOB) as watch:
        assert watch.following(0) == []


def test_an_update_tells_its_events_in_order() -> None:
    segment = FinalSegment(2, 0, Segment(0.0, 1.0, "word"))
    update = JobUpdate(None, (change(1), change(3)), (segment,))  # type: ignore[arg-type]  # of any job
    assert update.events == [change(1), segment, change(3)]
