"""The controller's values to messages and back, with nothing lost on the way."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta

import pytest
from bulkscribe.jobs.v1 import jobs_pb2, uploads_pb2
from bulkscribe.worker.v1 import worker_pb2 as pb

from services.controller import wire
from services.controller.jobs import (
    Change,
    ExecutionMode,
    FinalSegment,
    FinishedWork,
    Job,
    JobError,
    JobId,
    JobState,
    Options,
    Owner,
    Plan,
    Recording,
    Segment,
    Stretch,
    UploadId,
    Word,
    WorkerRef,
)
from services.controller.store.protocol import Upload
from services.controller.workers import Capacity, WorkerModel, WorkerStatus

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
FULL = Options("turbo", "de", True, True, 90.25, True, True, 1, 4, True, "a prompt", "hot words 🎧", False)
RECORDING = Recording(UploadId("u1"), "interview 🎧.mp3", "ab" * 32, 5_000_000_000, 86399.999999)
WORKER = WorkerRef("http://gpu:8477", "wk_1", True, NOW + timedelta(seconds=1))
JOB = Job(
    JobId("j1"),
    Owner("alice"),
    RECORDING,
    FULL,
    ExecutionMode.REMOTE,
    NOW,
    state=JobState.RUNNING,
    stage="transcribing",
    percent=45.5,
    message="half",
    attempt=2,
    worker=WORKER,
    error=JobError("REMOTE_FAILED", "Check worker logs."),
    started_at=NOW + timedelta(minutes=1),
    finished_at=NOW + timedelta(minutes=2),
    language="de",
    last_event=17,
    worker_event=9,
    version=30,
    seconds_left=75.25,
    silent_stretches=(Stretch(30.0, 58.123456), Stretch(90.5, 119.0)),
)
WORDS = (Word(" Olá", 0.3, 0.7, 0.987654321, "SPEAKER_00"), Word("!", 0.7, 0.7, 0.0))
PLAN = pb.WindowPlan(
    fingerprint="f",
    language="pt",
    language_probability=0.75,
    duration=wire.duration(55.123457),
    windows=[pb.Window(index=i, start=wire.duration(i * 20), end=wire.duration(i * 20 + 20)) for i in range(3)],
)
TURNS = pb.SpeakerTurns(turns=[pb.SpeakerTurn(start=wire.duration(0.1), end=wire.duration(2.3), speaker="SPEAKER_00")])


# --- clients


@pytest.mark.parametrize(
    "options",
    [
        Options(),
        FULL,
        Options(diarization_max_duration_seconds=0.0),
        Options(min_speakers=2),
        Options(max_speakers=2),
        Options(use_remote_worker=True),
        Options(diarization=True),
        Options(diarization_fast_switching=True),
        Options(speaker_per_channel=True),
        Options(word_timestamps=True),
        Options(vad=False),
    ],
)
def test_options_come_back_equal(options: Options) -> None:
    sent = wire.options_message(options).SerializeToString()
    assert wire.options_of(jobs_pb2.JobOptions.FromString(sent)) == options


def test_no_options_are_the_defaults() -> None:
    assert wire.options_of(jobs_pb2.JobOptions()) == Options()


def test_the_full_options_differ_from_the_defaults_in_every_field() -> None:
    assert [
        field.name for field in fields(Options) if getattr(FULL, field.name) == getattr(Options(), field.name)
    ] == []


def test_a_job_with_everything_in_it() -> None:
    message = jobs_pb2.Job.FromString(wire.job_message(JOB).SerializeToString())
    assert message == jobs_pb2.Job(
        job_id="j1",
        upload_id="u1",
        filename="interview 🎧.mp3",
        status=jobs_pb2.JOB_STATUS_RUNNING,
        execution_mode=jobs_pb2.EXECUTION_MODE_REMOTE,
        progress=jobs_pb2.JobProgress(stage="transcribing", percent=45.5, remaining=wire.duration(75.25)),
        message="half",
        worker=jobs_pb2.JobWorker(
            worker_job_id="wk_1",
            url="http://gpu:8477",
            last_seen_at=wire.timestamp(NOW + timedelta(seconds=1)),
            gpu=True,
        ),
        attempt=2,
        created_at=wire.timestamp(NOW),
        started_at=wire.timestamp(NOW + timedelta(minutes=1)),
        finished_at=wire.timestamp(NOW + timedelta(minutes=2)),
        options=wire.options_message(FULL),
        last_error_code="REMOTE_FAILED",
        last_error_message="Check worker logs.",
        audio_duration=wire.duration(86399.999999),
        size_bytes=5_000_000_000,
        last_event=17,
        silent_stretches=[
            jobs_pb2.Stretch(start=wire.duration(30.0), end=wire.duration(58.123456)),
            jobs_pb2.Stretch(start=wire.duration(90.5), end=wire.duration(119.0)),
        ],
    )
    assert [field.name for field in message.DESCRIPTOR.fields if not is_set(message, field.name)] == []


def is_set(message: jobs_pb2.Job, name: str) -> bool:
    value = getattr(message, name)
    return message.HasField(name) if hasattr(value, "DESCRIPTOR") else bool(value)


def test_a_new_job_has_no_worker_no_error_and_no_times_but_its_creation() -> None:
    message = wire.job_message(Job(JobId("j1"), Owner("alice"), RECORDING, Options(), ExecutionMode.LOCAL, NOW))
    assert not any(message.HasField(name) for name in ("worker", "started_at", "finished_at"))
    assert (message.last_error_code, message.last_error_message, message.attempt) == ("", "", 0)
    assert message.execution_mode == jobs_pb2.EXECUTION_MODE_LOCAL
    assert message.created_at.ToDatetime(UTC) == NOW


def test_a_worker_that_was_never_seen_has_no_time_of_it() -> None:
    message = wire.job_message(replace(JOB, worker=WorkerRef("http://gpu:8477")))
    assert (message.worker.url, message.worker.HasField("last_seen_at")) == ("http://gpu:8477", False)


@pytest.mark.parametrize("state", JobState)
def test_every_state_has_its_name_on_the_wire(state: JobState) -> None:
    assert jobs_pb2.JobStatus.Name(wire.STATES[state]) == f"JOB_STATUS_{state.value.upper()}"
    assert wire.STATES_BACK[wire.STATES[state]] is state


def test_no_name_on_the_wire_is_left_over() -> None:
    assert {0, *wire.STATES.values()} == set(jobs_pb2.JobStatus.values())
    assert {0, *wire.MODES.values()} == set(jobs_pb2.ExecutionMode.values())
    assert 0 not in wire.STATES_BACK


def test_a_change_tells_how_the_job_stands() -> None:
    change = Change(3, NOW, JobState.FAILED, "transcribing", 45.5, "m", 2, JobError("REMOTE_FAILED", "Look."))
    message = wire.event_message(change)
    assert (message.number, message.occurred_at.ToDatetime(UTC)) == (3, NOW)
    assert message.changed == jobs_pb2.JobChanged(
        status=jobs_pb2.JOB_STATUS_FAILED,
        progress=jobs_pb2.JobProgress(stage="transcribing", percent=45.5),
        message="m",
        attempt=2,
        last_error_code="REMOTE_FAILED",
        last_error_message="Look.",
    )
    assert wire.event_message(replace(change, error=None)).changed.last_error_code == ""


@pytest.mark.parametrize("seconds", [0.0, 0.5, 5400.25])
def test_the_time_left_is_told_where_it_is_known(seconds: float) -> None:
    change = Change(3, NOW, JobState.RUNNING, "transcribing", 45.5, "", 2, None, seconds)
    told = [wire.job_message(replace(JOB, seconds_left=seconds)).progress, wire.event_message(change).changed.progress]
    assert [(progress.HasField("remaining"), wire.seconds(progress.remaining)) for progress in told] == [
        (True, seconds)
    ] * 2
    unknown = [wire.job_message(replace(JOB, seconds_left=None)).progress]
    unknown += [wire.event_message(replace(change, seconds_left=None)).changed.progress]
    assert not any(progress.HasField("remaining") for progress in unknown)


def test_a_segment_has_its_ordinal_as_id_and_its_number_as_the_events() -> None:
    message = wire.event_message(FinalSegment(12, 4, Segment(0.3, 0.7, " Olá!", "SPEAKER_00", WORDS)))
    assert (message.number, message.WhichOneof("kind"), message.segment.id) == (12, "segment", 4)
    segment = message.segment
    assert (wire.seconds(segment.start), wire.seconds(segment.end)) == (0.3, 0.7)
    assert (segment.text, segment.speaker) == (" Olá!", "SPEAKER_00")
    assert (
        tuple(
            Word(word.text, wire.seconds(word.start), wire.seconds(word.end), word.probability, word.speaker)
            for word in segment.words
        )
        == WORDS
    )


@pytest.mark.parametrize("complete", [True, False])
def test_an_upload(complete: bool) -> None:
    upload = Upload(UploadId("u1"), Owner("alice"), "a.mp3", NOW, 1000, "ab" * 32, 12.5, complete, "r")
    message = wire.upload_message(upload, 900)
    assert (message.upload_id, message.filename, message.committed_bytes) == ("u1", "a.mp3", 900)
    assert (message.complete, message.HasField("duration")) == (complete, complete)
    assert message.created_at.ToDatetime(UTC) == NOW
    assert message.sha256 == ("ab" * 32 if complete else "")  # a sealed one is not complete yet
    assert message.size_bytes == 1000
    assert isinstance(message, uploads_pb2.Upload)


def test_an_upload_on_its_way_is_as_large_as_was_declared() -> None:
    upload = Upload(UploadId("u1"), Owner("alice"), "a.mp3", NOW, declared_bytes=70)
    assert wire.upload_message(upload, 9).size_bytes == 70


def test_a_workers_status() -> None:
    models = (WorkerModel("demo", "loaded", "", ("en",)), WorkerModel("turbo", "failed", "no file", ()))
    capacity = Capacity(1, "i", 4, 1, True, "0.1.0", True, "NVIDIA H100", models, "demo", "pipeline", 1000)
    status = WorkerStatus("http://gpu:8477", True, NOW, 0.0025, capacity, None)
    assert wire.worker_message(status) == jobs_pb2.RemoteWorker(
        url="http://gpu:8477",
        connected=True,
        last_seen_at=wire.timestamp(NOW),
        latency=wire.duration(0.0025),
        version="0.1.0",
        active_jobs=3,
        max_concurrent_jobs=4,
        gpu=True,
        gpu_name="NVIDIA H100",
        models=[
            jobs_pb2.WorkerModel(name="demo", state="loaded"),
            jobs_pb2.WorkerModel(name="turbo", state="failed", error="no file"),
        ],
        diarization="pipeline",
        max_file_bytes=1000,
        draining=True,
    )


def test_a_worker_that_was_never_heard_says_why() -> None:
    status = WorkerStatus("http://gpu:8477", False, None, None, None, JobError("REMOTE_WORKER_UNREACHABLE", "Down."))
    message = wire.worker_message(status)
    assert not any((message.connected, message.HasField("last_seen_at"), message.HasField("latency")))
    assert (message.error_code, message.error, message.max_concurrent_jobs) == ("REMOTE_WORKER_UNREACHABLE", "Down.", 0)


# --- workers: what they are told


def dispatch(job: Job = JOB, finished: FinishedWork | None = None) -> pb.Dispatch:
    sent = wire.dispatch_message(job, 3, finished or FinishedWork()).SerializeToString()
    return pb.RunRequest.FromString(sent).dispatch


def test_a_dispatch_names_the_attempt_the_recording_and_every_option() -> None:
    message = dispatch()
    assert message.attempt == pb.AttemptRef(job_id="j1", attempt=3)
    assert message.audio == pb.Audio(sha256="ab" * 32, size_bytes=5_000_000_000)
    assert message.options == pb.TranscriptionOptions(
        model="turbo",
        language="de",
        diarization=True,
        diarization_max_duration=wire.duration(90.25),
        diarization_fast_switching=True,
        speaker_per_channel=True,
        min_speakers=1,
        max_speakers=4,
        word_timestamps=True,
        initial_prompt="a prompt",
        hotwords="hot words 🎧",
        vad_disabled=True,
    )
    assert len(message.options.ListFields()) == len(message.options.DESCRIPTOR.fields)
    assert (message.HasField("finished"), message.last_event) == (False, 0)


def test_options_that_were_left_open_are_left_to_the_worker() -> None:
    assert dispatch(replace(JOB, options=Options())).options == pb.TranscriptionOptions()


def test_finished_work_is_handed_on_as_the_worker_wrote_it() -> None:
    plan = Plan("f", "pt", 55.123457, PLAN.SerializeToString())
    message = dispatch(finished=FinishedWork(plan, frozenset({2, 0}), TURNS.SerializeToString()))
    assert message.finished == pb.FinishedWork(plan=PLAN, windows=[0, 2], turns=TURNS)


def test_chunks_of_speakers_are_handed_on_as_the_worker_wrote_them() -> None:
    plan = Plan("f", "pt", 55.123457, PLAN.SerializeToString())
    message = dispatch(finished=FinishedWork(plan, speaker_chunks=(CHUNK.SerializeToString(),)))
    assert message.finished == pb.FinishedWork(plan=PLAN, speaker_chunks=[CHUNK])


def test_decoded_windows_are_handed_on_as_far_as_they_fit_a_message() -> None:
    plan = Plan("f", "pt", 55.123457, PLAN.SerializeToString())
    windows = [pb.WindowFinished(index=index, segments=[pb.Segment(text="x" * 1000)]) for index in range(3)]
    payloads = tuple(window.SerializeToString() for window in windows)
    assert list(dispatch(finished=FinishedWork(plan, decoded_windows=payloads)).finished.decoded_windows) == windows
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(wire, "DECODED_BYTES", 2500)
        sent = dispatch(finished=FinishedWork(plan, decoded_windows=payloads)).finished.decoded_windows
    assert list(sent) == windows[:2]


def test_speakers_that_were_looked_for_and_not_found_are_not_looked_for_again() -> None:
    plan = Plan("f", "pt", 55.123457, PLAN.SerializeToString())
    nobody = pb.SpeakerTurns().SerializeToString()
    assert dispatch(finished=FinishedWork(plan, turns=nobody)).finished.HasField("turns")
    assert not dispatch(finished=FinishedWork(plan, turns=None)).finished.HasField("turns")


def test_windows_without_a_plan_say_nothing() -> None:
    assert not dispatch(finished=FinishedWork(None, frozenset({1}))).HasField("finished")


def test_attaching_goes_on_after_the_last_durable_event_of_this_attempt_only() -> None:
    same, next_one = wire.attach_message(JOB, 2).attach, wire.attach_message(JOB, 3).attach
    assert (same.attempt, same.last_event) == (pb.AttemptRef(job_id="j1", attempt=2), 9)
    assert (next_one.attempt, next_one.last_event) == (pb.AttemptRef(job_id="j1", attempt=3), 0)


def test_acknowledging_and_canceling() -> None:
    assert wire.acknowledge_message(7).acknowledge.through_event == 7
    assert wire.cancel_message().WhichOneof("command") == "cancel"


# --- workers: what they say

SEGMENT = pb.Segment(
    start=wire.duration(0.3),
    end=wire.duration(0.7),
    text=" Olá!",
    speaker="SPEAKER_00",
    words=[
        pb.Word(
            text=word.text,
            start=wire.duration(word.start),
            end=wire.duration(word.end),
            probability=word.probability,
            speaker=word.speaker,
        )
        for word in WORDS
    ],
)
SAID = Segment(0.3, 0.7, " Olá!", "SPEAKER_00", WORDS)

CHUNK = pb.SpeakerChunk(
    index=1,
    start=wire.duration(1770.0),
    end=wire.duration(3600.0),
    voices=[pb.Voice(embedding=[0.6, 0.8], spoken=wire.duration(12.5)), pb.Voice()],
    turns=[pb.VoiceTurn(start=wire.duration(1771.5), end=wire.duration(1784.0), voice=1)],
)

EVENTS: list[tuple[pb.Event, wire.WorkerEvent]] = [
    (
        pb.Event(stage_changed=pb.StageChanged(stage="loading", detail="model turbo")),
        wire.StageReported("loading", "model turbo"),
    ),
    (pb.Event(progress=pb.Progress(percent=33.333333333)), wire.ProgressReported(33.333333333, None)),
    (pb.Event(progress=pb.Progress(percent=50.0, remaining=wire.duration(0.0))), wire.ProgressReported(50.0, 0.0)),
    (pb.Event(progress=pb.Progress(percent=50.0, remaining=wire.duration(-3.0))), wire.ProgressReported(50.0, 0.0)),
    (pb.Event(planned=PLAN), Plan("f", "pt", 55.123457, PLAN.SerializeToString())),
    (pb.Event(speaker_chunk_found=CHUNK), wire.SpeakerChunkReported(1, CHUNK.SerializeToString())),
    (pb.Event(speakers_found=TURNS), wire.TurnsReported(TURNS.SerializeToString())),
    (pb.Event(speakers_found=pb.SpeakerTurns()), wire.TurnsReported(b"")),
    (
        pb.Event(window_finished=pb.WindowFinished(index=3, segments=[SEGMENT, pb.Segment(text=" x")])),
        wire.WindowReported(3, (SAID, Segment(0.0, 0.0, " x"))),
    ),
    (
        pb.Event(window_decoded=pb.WindowFinished(index=4, segments=[SEGMENT])),
        wire.DecodedReported(4, pb.WindowFinished(index=4, segments=[SEGMENT]).SerializeToString()),
    ),
    (pb.Event(window_finished=pb.WindowFinished(index=4)), wire.WindowReported(4, (), silent=False)),
    (pb.Event(window_finished=pb.WindowFinished(index=5, silent=True)), wire.WindowReported(5, (), silent=True)),
    (
        pb.Event(window_finished=pb.WindowFinished(index=6, segments=[SEGMENT], silent=True)),
        wire.WindowReported(6, (SAID,), silent=False),
    ),
    (
        pb.Event(outcome=pb.Outcome(completed=pb.Completed(processing_duration=wire.duration(12.25), note="why"))),
        wire.Completed(12.25, "why"),
    ),
    (
        pb.Event(outcome=pb.Outcome(failed=pb.Failed(reason="AUDIO_INVALID", message="No audio."))),
        wire.Failed("AUDIO_INVALID", "No audio."),
    ),
    (pb.Event(outcome=pb.Outcome(canceled=pb.Canceled())), wire.Canceled()),
    (pb.Event(outcome=pb.Outcome(handed_back=pb.HandedBack(message="bye"))), wire.HandedBack("bye")),
]


@pytest.mark.parametrize(("message", "event"), EVENTS, ids=lambda value: type(value).__name__)
def test_what_a_worker_says(message: pb.Event, event: wire.WorkerEvent) -> None:
    assert wire.worker_event(pb.Event.FromString(message.SerializeToString())) == event


def test_a_window_lies_where_the_plan_says() -> None:
    plan = Plan("f", "pt", 55.123457, PLAN.SerializeToString())
    assert [wire.window_stretch(plan, index) for index in (0, 2, 3)] == [Stretch(0.0, 20.0), Stretch(40.0, 60.0), None]


def test_every_kind_of_event_and_of_outcome_is_among_these() -> None:
    kinds = {message.WhichOneof("kind") for message, _ in EVENTS}
    results = {message.outcome.WhichOneof("result") for message, _ in EVENTS if message.HasField("outcome")}
    assert kinds == {field.name for field in pb.Event.DESCRIPTOR.oneofs_by_name["kind"].fields}
    assert results == {field.name for field in pb.Outcome.DESCRIPTOR.oneofs_by_name["result"].fields}


def test_outcomes_are_what_the_last_event_may_be() -> None:
    last = [event for message, event in EVENTS if message.HasField("outcome")]
    assert all(isinstance(event, wire.OUTCOMES) for event in last)
    assert not any(isinstance(event, wire.OUTCOMES) for _, event in EVENTS if event not in last)


UNKNOWN_FIELD = bytes([0xFA, 0x3E, 0x00])
"""Field 1007, empty: of a contract that is newer than this one."""


@pytest.mark.parametrize(
    "message",
    [
        pb.Event(number=1),
        pb.Event.FromString(pb.Event(number=1).SerializeToString() + UNKNOWN_FIELD),
        pb.Event(outcome=pb.Outcome()),
        pb.Event(outcome=pb.Outcome.FromString(UNKNOWN_FIELD)),
    ],
    ids=["no kind", "a newer kind", "no result", "a newer result"],
)
def test_what_a_newer_worker_says_and_this_controller_does_not_know_is_nothing(message: pb.Event) -> None:
    assert wire.worker_event(message) is None


@pytest.mark.parametrize("seconds", [0.0, 0.000001, 0.1, 29.98, 55.123457, 86399.999999, 3_000_000.5])
def test_times_keep_their_microseconds(seconds: float) -> None:
    assert wire.seconds(wire.duration(seconds)) == seconds


def test_moments_keep_their_microseconds_and_may_be_missing() -> None:
    message = wire.timestamp(NOW)
    assert message is not None
    assert message.ToDatetime(UTC) == NOW
    assert wire.timestamp(None) is None
