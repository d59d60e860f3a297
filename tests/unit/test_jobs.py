"""The table of states, whole: every verb in every state, and what the verbs keep in the books."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from datetime import UTC, datetime, timedelta
from itertools import product

import pytest

from services.controller.jobs import (
    ATTEMPT_TRANSITIONS,
    ENDED,
    TRANSITIONS,
    WAITING,
    AttemptState,
    Change,
    ExecutionMode,
    FinalSegment,
    Job,
    JobError,
    JobId,
    JobState,
    JobUpdate,
    Options,
    Owner,
    Plan,
    Recording,
    Segment,
    Stretch,
    TransitionError,
    UploadId,
    Verb,
    WorkerRef,
    changed,
    created,
    states_before,
    with_segments,
)

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LATER = NOW + timedelta(minutes=7)
WORKER = WorkerRef("http://gpu:8477", "wk_1", True, NOW)
ERROR = JobError("REMOTE_FAILED", "Check worker logs.")
RECORDING = Recording(UploadId("u1"), "a.mp3", "0" * 64, 1000, 60.0)

Q, QR, RUN, DONE, FAILED, CANCELED = JobState

# Written out once more, and not taken from the table under test.
EXPECTED: dict[tuple[JobState, Verb], set[JobState]] = {
    (Q, Verb.AWAIT_REMOTE): {QR},
    (Q, Verb.START): {RUN},
    (Q, Verb.FAIL): {FAILED},
    (Q, Verb.CANCEL): {CANCELED},
    (QR, Verb.START): {RUN},
    (QR, Verb.FAIL): {FAILED},
    (QR, Verb.CANCEL): {CANCELED},
    (RUN, Verb.REQUEUE): {Q, QR},
    (RUN, Verb.COMPLETE): {DONE},
    (RUN, Verb.FAIL): {FAILED},
    (RUN, Verb.CANCEL): {CANCELED},
}

VERBS: dict[Verb, Callable[[Job], Job]] = {
    Verb.AWAIT_REMOTE: lambda job: job.await_remote(),
    Verb.START: lambda job: job.start(LATER, 2, WORKER),
    Verb.REQUEUE: lambda job: job.requeue("lost", 12.5),
    Verb.COMPLETE: lambda job: job.complete(LATER),
    Verb.FAIL: lambda job: job.fail(LATER, ERROR),
    Verb.CANCEL: lambda job: job.cancel(LATER, ERROR),
}

ALL_PAIRS = list(product(JobState, Verb))


def job(state: JobState = Q, mode: ExecutionMode = ExecutionMode.REMOTE) -> Job:
    return Job(JobId("j1"), Owner("alice"), RECORDING, Options(), mode, NOW, state=state)


def outcomes(state: JobState, verb: Verb) -> set[JobState]:
    """The states that the verb leads to over all modes of a job; empty where every one of them refuses."""
    found = set()
    for mode in ExecutionMode:
        with contextlib.suppress(TransitionError):
            found.add(VERBS[verb](job(state, mode)).state)
    return found


def pair_id(value: JobState | Verb) -> str:
    return str(value.value)


def test_the_table_is_the_expected_one() -> None:
    assert {pair: set(states) for pair, states in TRANSITIONS.items()} == EXPECTED


@pytest.mark.parametrize(("state", "verb"), ALL_PAIRS, ids=pair_id)
def test_every_verb_in_every_state_leads_to_the_tables_states_or_is_refused(state: JobState, verb: Verb) -> None:
    assert outcomes(state, verb) == EXPECTED.get((state, verb), set())


@pytest.mark.parametrize(("state", "verb"), [pair for pair in ALL_PAIRS if pair not in EXPECTED], ids=pair_id)
def test_a_refused_verb_says_what_the_job_is_and_changes_nothing(state: JobState, verb: Verb) -> None:
    before = job(state)
    with pytest.raises(TransitionError, match=f"^job j1 is {state.value}: cannot {verb.value}$") as refused:
        VERBS[verb](before)
    assert refused.value.state is state
    assert before == job(state)


@pytest.mark.parametrize("state", [DONE, FAILED, CANCELED], ids=pair_id)
def test_nothing_leads_out_of_an_ended_state(state: JobState) -> None:
    assert state.ended
    assert not any(outcomes(state, verb) for verb in Verb)


def test_all_states_are_waiting_running_or_ended_and_can_be_reached() -> None:
    assert {DONE, FAILED, CANCELED} == ENDED
    assert {Q, QR} == WAITING
    assert set(JobState) == WAITING | ENDED | {RUN}
    reached = {Q}.union(*TRANSITIONS.values())
    assert reached == set(JobState)
    assert [state.value for state in JobState] == [
        "queued",
        "queued_remote",
        "running",
        "complete",
        "failed",
        "canceled",
    ]


@pytest.mark.parametrize("state", [state for state in JobState if not state.ended], ids=pair_id)
def test_a_job_can_be_canceled_and_can_fail_in_any_state_that_is_no_end(state: JobState) -> None:
    assert job(state).cancel(LATER, ERROR).state is CANCELED
    assert job(state).fail(LATER, ERROR).state is FAILED


@pytest.mark.parametrize(("mode", "state"), [(ExecutionMode.LOCAL, Q), (ExecutionMode.REMOTE, QR)])
def test_a_job_that_its_worker_lost_waits_where_its_mode_says(mode: ExecutionMode, state: JobState) -> None:
    assert job(RUN, mode).requeue("lost", 0.0).state is state


def test_a_job_is_no_value_that_can_be_changed_in_place() -> None:
    with pytest.raises(FrozenInstanceError):
        job().state = RUN  # type: ignore[misc]


@pytest.mark.parametrize("end", [Job.complete, lambda j, now: j.fail(now, ERROR), lambda j, now: j.cancel(now, ERROR)])
def test_the_life_cycle_of_the_operations_guide(end: Callable[[Job, datetime], Job]) -> None:
    states = [job()]
    states.append(states[-1].await_remote())
    states.append(states[-1].start(NOW, 1, WORKER))
    states.append(end(states[-1], LATER))
    assert [step.state for step in states[:3]] == [Q, QR, RUN]
    assert states[-1].state in (DONE, FAILED, CANCELED)
    assert (states[-1].started_at, states[-1].finished_at) == (NOW, LATER)


def test_a_local_job_starts_straight_from_the_queue() -> None:
    assert job(mode=ExecutionMode.LOCAL).start(NOW, 1, WORKER).state is RUN


def test_waiting_costs_no_attempt_and_starting_takes_the_one_that_was_accepted() -> None:
    waiting = job().await_remote()
    assert waiting.attempt == 0
    running = replace(waiting, worker_event=9, message="Waiting", error=ERROR).start(NOW, 1, WORKER)
    assert (running.attempt, running.worker, running.worker_event) == (1, WORKER, 0)
    assert (running.message, running.error, running.stage) == ("", None, "preparing")


def test_requeued_it_has_no_worker_and_no_event_of_one_but_keeps_its_attempt_and_what_is_finished() -> None:
    running = replace(job(QR).start(NOW, 1, WORKER), worker_event=9, percent=40.0, segment_count=5, last_event=11)
    waiting = running.requeue("The worker lost the job.", 12.5)
    assert (waiting.worker, waiting.worker_event, waiting.wait_mark) == (None, 0, 12.5)
    assert (waiting.message, waiting.stage) == ("The worker lost the job.", "waiting")
    assert (waiting.attempt, waiting.percent, waiting.segment_count, waiting.last_event) == (1, 40.0, 5, 11)
    again = waiting.start(LATER, 2, WORKER)
    assert (again.attempt, again.started_at, again.message) == (2, NOW, "")


def test_a_complete_job_has_no_error_and_is_whole() -> None:
    ended = replace(job(RUN), error=ERROR, message="transcribing", percent=98.0).complete(LATER)
    assert (ended.error, ended.message, ended.percent, ended.stage) == (None, "", 100.0, "done")
    assert ended.finished_at == LATER
    assert job(RUN).complete(LATER, "a note").message == "a note"


@pytest.mark.parametrize("verb", [Verb.FAIL, Verb.CANCEL])
def test_a_job_that_failed_or_was_canceled_says_why_and_how_far_it_came(verb: Verb) -> None:
    ended = VERBS[verb](replace(job(RUN), percent=40.0, message="transcribing"))
    assert (ended.error, ended.message, ended.percent, ended.finished_at) == (ERROR, "", 40.0, LATER)


def test_no_verb_touches_what_the_store_and_the_watchers_count_by() -> None:
    for (state, verb), states in EXPECTED.items():
        before = replace(job(state), version=7, last_event=8, segment_count=9, run_seconds=3.5)
        after = VERBS[verb](before)
        assert after.state in states
        assert (after.version, after.last_event, after.segment_count, after.run_seconds) == (7, 8, 9, 3.5)


def test_every_verb_voids_the_time_left_and_none_forgets_silence() -> None:
    silence = (Stretch(30.0, 58.0),)
    for state, verb in EXPECTED:
        after = VERBS[verb](replace(job(state), seconds_left=12.5, silent_stretches=silence))
        assert (after.seconds_left, after.silent_stretches) == (None, silence)


def test_watchers_are_told_the_time_left() -> None:
    (change,) = changed(replace(job(RUN), seconds_left=12.5), LATER).changes
    assert change.seconds_left == 12.5


def test_changed_adds_one_event_that_tells_how_the_job_stands() -> None:
    told = replace(job(RUN), last_event=4, stage="transcribing", percent=12.5, message="m", attempt=3, error=ERROR)
    update = changed(told, LATER)
    assert update == JobUpdate(
        replace(told, last_event=5), (Change(5, LATER, RUN, "transcribing", 12.5, "m", 3, ERROR),)
    )


def segments(*texts: str) -> tuple[Segment, ...]:
    return tuple(Segment(float(i), i + 1.0, text) for i, text in enumerate(texts))


def test_each_segment_is_an_event_of_its_own_behind_those_before() -> None:
    update = with_segments(replace(job(RUN), last_event=4, segment_count=2), 6, segments("a", "b"))
    assert update.segments == (
        FinalSegment(5, 2, Segment(0.0, 1.0, "a")),
        FinalSegment(6, 3, Segment(1.0, 2.0, "b")),
    )
    assert (update.job.last_event, update.job.segment_count, update.finished_windows) == (6, 4, (6,))
    assert update.changes == ()


def test_a_window_without_words_is_finished_too_and_takes_no_number() -> None:
    before = replace(job(RUN), last_event=4, segment_count=2)
    update = with_segments(before, 0, ())
    assert (update.job, update.segments, update.finished_windows) == (before, (), (0,))


def test_a_silent_window_is_noted_behind_those_before_and_takes_no_number() -> None:
    before = replace(job(RUN), last_event=4, silent_stretches=(Stretch(0.0, 28.0),))
    update = with_segments(before, 1, (), Stretch(30.0, 58.0))
    assert update.job == replace(before, silent_stretches=(Stretch(0.0, 28.0), Stretch(30.0, 58.0)))
    assert (update.segments, update.finished_windows) == ((), (1,))


def test_numbers_are_one_sequence_without_gaps_and_ordinals_count_the_segments() -> None:
    current, numbers, ordinals = job(RUN), [], []
    for step in range(30):
        if step % 3 == 0:
            update = changed(replace(current, percent=float(step)), NOW)
        else:
            update = with_segments(current, step, segments(*"xyz"[: step % 4]))
        current = update.job
        numbers += [change.number for change in update.changes] + [final.number for final in update.segments]
        ordinals += [final.ordinal for final in update.segments]
        assert current.last_event == numbers[-1]
        assert current.segment_count == len(ordinals)
    assert numbers == list(range(1, len(numbers) + 1))
    assert ordinals == list(range(len(ordinals)))
    assert len(ordinals) > 10


@pytest.mark.parametrize(
    ("mode", "states"),
    [
        (ExecutionMode.LOCAL, [JobState.QUEUED]),
        (ExecutionMode.REMOTE, [JobState.QUEUED, JobState.QUEUED_REMOTE]),
    ],
)
def test_a_new_job_is_told_from_its_first_state_on(mode: ExecutionMode, states: list[JobState]) -> None:
    update = created(Job(JobId("j"), Owner("alice"), RECORDING, Options(), mode, NOW), NOW)
    assert [change.state for change in update.changes] == states
    assert [change.number for change in update.changes] == list(range(1, len(states) + 1))
    assert (update.job.state, update.job.last_event) == (states[-1], len(states))


def test_steps_that_follow_one_another_are_one_step() -> None:
    job = Job(JobId("j"), Owner("alice"), RECORDING, Options(), ExecutionMode.LOCAL, NOW).start(NOW, 1, WORKER)
    planned = JobUpdate(job, plan=Plan("f", "en", 60.0, b"plan"), forget_finished_work=True)
    first = with_segments(planned.job, 0, (Segment(0.0, 1.0, " one"), Segment(1.0, 2.0, " two")))
    told = changed(replace(first.job, percent=50.0), NOW)
    second = with_segments(told.job, 1, (Segment(2.0, 3.0, " three"),))
    step = planned.then(first).then(told).then(second)
    assert step.job == second.job
    assert step.finished_windows == (0, 1)
    assert [segment.ordinal for segment in step.segments] == [0, 1, 2]
    numbers = [*(segment.number for segment in step.segments), *(change.number for change in step.changes)]
    assert sorted(numbers) == [1, 2, 3, 4]
    assert (step.plan, step.forget_finished_work) == (planned.plan, True)


# Written out once more, as above.
EXPECTED_OF_ATTEMPTS: dict[AttemptState, set[AttemptState]] = {
    AttemptState.ASKED: {AttemptState.ASKED, AttemptState.REFUSED},
    AttemptState.REFUSED: {AttemptState.ASKED},
    AttemptState.ENDED: {AttemptState.ASKED},
    AttemptState.LOST: {AttemptState.ASKED},
    AttemptState.CRASHED: {AttemptState.ASKED},
}


@pytest.mark.parametrize("state", AttemptState)
def test_an_attempt_comes_to_each_state_from_those_of_the_table_alone(state: AttemptState) -> None:
    assert states_before(state) == EXPECTED_OF_ATTEMPTS[state]


def test_an_attempt_begins_by_being_asked_for() -> None:
    assert ATTEMPT_TRANSITIONS[None] == {AttemptState.ASKED}
