"""The queue of waiting jobs: who is next, who gets it, and that its length costs nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from services.controller.jobs import ExecutionMode, Job, JobId, Options, Owner, Recording, UploadId
from services.controller.scheduling import Demand, Offer, ReadyQueue, Waits, demand_of

REMOTE, LOCAL = ExecutionMode.REMOTE, ExecutionMode.LOCAL
ANY = Demand(REMOTE, "", False)
TURBO = Demand(REMOTE, "turbo", False)
SPEAKERS = Demand(REMOTE, "", True)


def offer(worker: str = "a", credits: int = 1, mode: ExecutionMode = REMOTE, **more: Any) -> Offer:
    more.setdefault("models", frozenset({"demo"}))
    return Offer(worker, mode, credits, **more)


def queue(*names: str, demand: Demand = ANY) -> ReadyQueue:
    made = ReadyQueue()
    for name in names:
        made.push(JobId(name), demand)
    return made


def drain(waiting: ReadyQueue, *offers: Offer) -> list[str]:
    """The jobs in the order in which they leave, as long as one does."""
    left: list[str] = []
    while taken := waiting.take(offers):
        left.append(taken[0])
    return left


def test_jobs_leave_in_the_order_of_arrival_each_once() -> None:
    waiting = queue("1", "2", "3")
    assert (len(waiting), JobId("2") in waiting, JobId("4") in waiting) == (3, True, False)
    assert drain(waiting, offer()) == ["1", "2", "3"]
    assert (len(waiting), JobId("2") in waiting, waiting.take([offer()])) == (0, False, None)


def test_the_order_of_arrival_holds_across_different_demands() -> None:
    waiting = ReadyQueue()
    arrivals = [ANY, TURBO, SPEAKERS, TURBO, ANY, SPEAKERS]
    for number, demand in enumerate(arrivals):
        waiting.push(JobId(str(number)), demand)
    served = offer(models=frozenset({"turbo"}), diarization=True)
    assert drain(waiting, served) == ["0", "1", "2", "3", "4", "5"]


def test_jobs_that_had_their_turn_come_back_in_the_order_of_arrival() -> None:
    waiting = queue("1", "2", "3", "4")
    taken = [waiting.take([offer()]) for _ in range(3)]
    assert taken == [("1", "a"), ("2", "a"), ("3", "a")]
    for name in ("1", "3", "2"):
        waiting.push(JobId(name), ANY)
    assert drain(waiting, offer()) == ["1", "2", "3", "4"]


def test_a_job_that_ran_when_the_others_arrived_goes_before_them() -> None:
    waiting = ReadyQueue()
    waiting.arrive(JobId("runs"))
    waiting.push(JobId("waits"), ANY)
    assert (len(waiting), JobId("runs") in waiting) == (1, False)
    waiting.push(JobId("runs"), TURBO)
    assert drain(waiting, offer(models=frozenset({"turbo"}))) == ["runs", "waits"]


def test_a_job_that_did_not_fit_goes_behind_those_that_may() -> None:
    waiting = queue("1", "2")
    waiting.take([offer()])
    waiting.push_back(JobId("1"), ANY)
    assert drain(waiting, offer()) == ["2", "1"]
    waiting.push(JobId("1"), ANY)
    waiting.push(JobId("2"), ANY)
    assert drain(waiting, offer()) == ["2", "1"], "and it stays there"


def test_a_job_that_was_forgotten_arrives_anew() -> None:
    waiting = queue("1", "2")
    waiting.forget(JobId("1"))
    assert drain(waiting, offer()) == ["2"]
    waiting.push(JobId("3"), ANY)
    waiting.push(JobId("1"), ANY)
    assert drain(waiting, offer()) == ["3", "1"]


@pytest.mark.parametrize("put", [ReadyQueue.push, ReadyQueue.push_back])
def test_a_job_that_waits_already_stays_where_it_is(put: Callable[[ReadyQueue, JobId, Demand], None]) -> None:
    waiting = queue("1", "2")
    put(waiting, JobId("2"), ANY)
    put(waiting, JobId("1"), TURBO)
    assert len(waiting) == 2
    assert drain(waiting, offer()) == ["1", "2"]


def test_a_discarded_job_is_passed_over() -> None:
    waiting = queue("1", "2", "3")
    for name in ("1", "3", "never seen"):
        waiting.discard(JobId(name))
    assert (len(waiting), JobId("1") in waiting) == (1, False)
    assert drain(waiting, offer()) == ["2"]


def test_a_discarded_job_may_come_back_and_has_one_place_only() -> None:
    waiting = queue("1", "2", "3")
    waiting.discard(JobId("1"))
    waiting.push(JobId("1"), ANY)
    waiting.discard(JobId("3"))
    waiting.push_back(JobId("3"), ANY)
    assert len(waiting) == 3
    assert drain(waiting, offer()) == ["1", "2", "3"]


def test_nothing_leaves_without_a_credit_or_a_worker() -> None:
    waiting = queue("1")
    assert waiting.take([]) is None
    assert waiting.take([offer(credits=0), offer("b", 0)]) is None
    assert waiting.take([offer(mode=LOCAL)]) is None
    assert len(waiting) == 1
    assert waiting.take([offer()]) == ("1", "a")


def test_the_worker_with_the_most_credits_gets_it() -> None:
    offers = [offer("a", 1), offer("b", 3), offer("c", 2)]
    assert queue("1").take(offers) == ("1", "b")
    assert queue("1").take(iter(reversed(offers))) == ("1", "b")


def test_a_job_is_given_to_a_worker_that_serves_it_before_one_with_more_credits() -> None:
    offers = [offer("a", 9), offer("b", 1, models=frozenset({"turbo"})), offer("c", 9, diarization=True)]
    assert queue("1", demand=TURBO).take(offers) == ("1", "b")
    assert queue("1", demand=SPEAKERS).take(offers) == ("1", "c")


def test_a_model_that_a_worker_could_not_load_is_asked_of_another() -> None:
    broken = offer("a", 9, models=frozenset({"turbo", "demo"}), failed=frozenset({"turbo"}))
    sound = offer("b", 1, models=frozenset({"turbo"}))
    assert queue("1", demand=TURBO).take([broken, sound]) == ("1", "b")
    assert queue("1", demand=Demand(REMOTE, "demo", False)).take([broken, sound]) == ("1", "a")


def test_a_job_waits_for_the_one_worker_that_serves_it_while_others_have_credits() -> None:
    waiting = queue("1", demand=TURBO)
    full, other = offer("a", 0, models=frozenset({"turbo"})), offer("b", 5)
    assert waiting.take([full, other]) is None
    assert len(waiting) == 1


def test_a_job_that_cannot_be_served_now_does_not_hold_up_those_behind_it() -> None:
    waiting = ReadyQueue()
    waiting.push(JobId("turbo"), TURBO)
    waiting.push(JobId("local"), Demand(LOCAL, "", False))
    waiting.push(JobId("any"), ANY)
    offers = [offer("a", 0, models=frozenset({"turbo"})), offer("b", 5)]
    assert drain(waiting, *offers) == ["any"]
    assert waiting.take([offer("a", 1, models=frozenset({"turbo"}))]) == ("turbo", "a")
    assert waiting.take([offer("l", 1, LOCAL)]) == ("local", "l")


@pytest.mark.parametrize("demand", [TURBO, SPEAKERS])
def test_what_no_worker_offers_goes_to_one_whose_refusal_tells_why(demand: Demand) -> None:
    offers = [offer("a", 1), offer("b", 2), offer("l", 9, LOCAL, models=frozenset({"turbo"}), diarization=True)]
    assert queue("1", demand=demand).take(offers) == ("1", "b")


def test_a_worker_serves_what_it_offers_only() -> None:
    made = offer(models=frozenset({"turbo", "demo"}), failed=frozenset({"demo"}))
    assert made.serves(ANY)
    assert made.serves(TURBO)
    assert not made.serves(Demand(REMOTE, "demo", False))
    assert not made.serves(Demand(REMOTE, "large-v3", False))
    assert not made.serves(SPEAKERS)
    assert not made.serves(Demand(LOCAL, "", False))
    assert offer(diarization=True).serves(SPEAKERS)


def test_a_jobs_demand_is_its_mode_model_and_diarization() -> None:
    recording = Recording(UploadId("u"), "a", "0" * 64, 1, 1.0)
    options = Options(model="turbo", language="de", diarization=True, vad=False)
    job = Job(JobId("j"), Owner("o"), recording, options, LOCAL, datetime(2026, 1, 1, tzinfo=UTC))
    assert demand_of(job) == Demand(LOCAL, "turbo", True)
    by_channel = replace(job, options=replace(options, speaker_per_channel=True))
    assert demand_of(by_channel) == Demand(LOCAL, "turbo", True, by_channel=True)


def steps(action: Callable[[], object]) -> int:
    """How many lines and calls, of Python and of C, the action takes: unlike its time, the same on every machine."""
    taken = 0

    def count(*_: object) -> Any:
        nonlocal taken
        taken += 1
        return count

    tracing, profiling = sys.gettrace(), sys.getprofile()
    sys.settrace(count)
    sys.setprofile(count)
    try:
        action()
    finally:
        sys.setprofile(profiling)
        sys.settrace(tracing)
    return taken


ACTIONS: dict[str, Callable[[ReadyQueue], object]] = {
    "take": lambda waiting: waiting.take([offer(), offer("b", 2)]),
    "take nothing": lambda waiting: waiting.take([offer(credits=0)]),
    "push": lambda waiting: waiting.push(JobId("new"), ANY),
    "push_back": lambda waiting: waiting.push_back(JobId("new"), ANY),
    "discard": lambda waiting: waiting.discard(JobId("5")),
    "upcoming": lambda waiting: waiting.upcoming(offer()),
}


@pytest.mark.parametrize("action", ACTIONS)
def test_ten_thousand_waiting_jobs_cost_no_more_steps_than_ten(action: str) -> None:
    few, many = queue(*map(str, range(10))), queue(*map(str, range(10_000)))
    of_few = steps(lambda: ACTIONS[action](few))
    of_many = steps(lambda: ACTIONS[action](many))
    assert 0 < of_many <= of_few


def test_the_steps_of_a_scan_would_be_seen() -> None:
    assert steps(lambda: [str(i) for i in range(100)]) > steps(lambda: [str(i) for i in range(10)])


def test_ten_thousand_canceled_jobs_are_passed_over_once() -> None:
    waiting = queue(*map(str, range(10_000)), "last")
    for number in range(10_000):
        waiting.discard(JobId(str(number)))
    assert waiting.upcoming(offer()) == "last"
    assert steps(lambda: waiting.take([offer()])) < 200


def test_nothing_goes_where_it_cannot_run_while_a_worker_is_not_known_yet() -> None:
    unknown = Offer("b", REMOTE, 0, known=False)
    waiting = queue("t", demand=TURBO)
    assert waiting.take([offer("a"), unknown]) is None
    assert waiting.take([offer("a")]) == (JobId("t"), "a")  # which refuses it, and says why


def test_a_worker_that_does_not_tell_yet_whether_it_knows_speakers_is_waited_for() -> None:
    """As one that was just started again. Whoever has no diarization would refuse the job for good."""
    starting = offer("b", diarization=None)
    waiting = queue("s", demand=SPEAKERS)
    assert waiting.take([offer("a"), starting]) is None
    assert waiting.take([offer("a"), offer("b", diarization=True)]) == (JobId("s"), "b")
    assert queue("j").take([starting]) == (JobId("j"), "b")
    assert queue("s", demand=SPEAKERS).take([offer("a"), offer("b")]) is not None


def test_speakers_with_a_channel_each_do_not_wait_for_who_may_know_voices() -> None:
    by_channel = replace(SPEAKERS, by_channel=True)
    assert queue("s", demand=by_channel).take([offer("b", diarization=None)]) == (JobId("s"), "b")
    never_heard = Offer("c", REMOTE, 0, known=False)
    assert queue("s", demand=by_channel).take([offer("a"), never_heard]) == (JobId("s"), "a")
    other = offer("c", 9, models=frozenset({"turbo"}))
    of_demo = replace(by_channel, model="demo")
    assert queue("s", demand=of_demo).take([offer("b", 0, diarization=None), other]) is None
    assert queue("s", demand=by_channel).take([offer("a", 9), offer("b", diarization=True)]) == (JobId("s"), "b")
    assert queue("s", demand=by_channel).take([offer("a", 9), offer("b", diarization=None)]) == (JobId("s"), "b")


def test_a_worker_that_is_away_is_waited_for_by_the_jobs_that_only_it_can_run() -> None:
    away = offer("b", credits=0, models=frozenset({"turbo"}))
    waiting = queue("t", demand=TURBO)
    assert waiting.take([offer("a"), away]) is None
    assert waiting.take([offer("a"), offer("b", models=frozenset({"turbo"}))]) == (JobId("t"), "b")


def test_a_job_without_a_model_goes_where_the_default_can_be_loaded() -> None:
    broken = offer("a", credits=5, default="demo", failed=frozenset({"demo"}))
    assert queue("j").take([broken, offer("b", default="demo")]) == (JobId("j"), "b")
    assert queue("j").take([broken]) == (JobId("j"), "a")  # which refuses it, and says why


def test_the_next_job_of_a_worker_is_known_before_it_has_room_and_stays_in_line() -> None:
    waiting = queue("first", "second")
    waiting.push(JobId("turbo"), TURBO)
    full = offer(credits=0)
    assert waiting.upcoming(full) == "first"
    assert waiting.upcoming(offer(credits=0, models=frozenset({"turbo"}), mode=LOCAL)) is None
    assert drain(waiting, offer(credits=1))[:2] == ["first", "second"]
    assert waiting.upcoming(full) is None


def test_whoever_waits_longest_is_known_whatever_the_order_of_arrival() -> None:
    waits = Waits()
    for name, mark in (("late", 9.0), ("early", 1.0), ("middle", 5.0)):
        waits.begin(JobId(name), mark)
    order = []
    while (longest := waits.longest()) is not None:
        order.append(longest[1])
        waits.end(longest[1])
    assert order == ["early", "middle", "late"]


def test_a_wait_that_begins_anew_no_longer_counts_from_before() -> None:
    waits = Waits()
    waits.begin(JobId("j"), 1.0)
    waits.end(JobId("j"))
    waits.begin(JobId("j"), 7.0)
    assert waits.longest() == (7.0, "j")
    waits.begin(JobId("j"), 8.0)
    assert waits.longest() == (8.0, "j")


def test_a_job_that_is_refused_again_and_again_is_kept_once() -> None:
    waits = Waits()
    waits.begin(JobId("old"), 0.0)
    for _ in range(1000):
        waits.begin(JobId("j"), 1.0)
        waits.end(JobId("j"))
    assert len(waits._heap) == 2
    waits.end(JobId("old"))
    assert waits.longest() is None
    assert len(waits._heap) == 0
