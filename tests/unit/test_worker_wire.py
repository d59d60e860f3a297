"""What goes over the wire comes back equal."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from bulkscribe.worker.v1 import worker_pb2 as pb

from services.worker import wire
from services.worker.attempts import Event, HandedBack
from services.worker.status import Offer, WorkerStatus
from services.worker.work import (
    AttemptKey,
    Canceled,
    ChunkSpeakers,
    Completed,
    Failed,
    FinishedWork,
    ModelState,
    Options,
    Planned,
    Progress,
    Report,
    Segment,
    SpeakerChunkFound,
    SpeakersFound,
    SpeakerTurn,
    StageChanged,
    Voice,
    VoiceTurn,
    Window,
    WindowDecoded,
    WindowFinished,
    WindowPlan,
    Word,
    Work,
)
from tests.fakes.engine import STATE

PLAN = WindowPlan("f", "pt", 0.75, 86399.999999, (Window(0, 0.0, 29.98), Window(1, 29.98, 55.123457)))
TURNS = (SpeakerTurn(0.1, 2.3, "SPEAKER_00"), SpeakerTurn(2.0, 4.0, "SPEAKER_01"))
CHUNK = ChunkSpeakers(
    1, 1770.0, 3599.999938, (Voice((0.6000000238418579, -0.800000011920929), 12.5), Voice((), 0.25)),
    (VoiceTurn(1771.5, 1784.000125, 1), VoiceTurn(1772.0, 1773.0, 0)), (VoiceTurn(1771.5, 1784.000125, 1),),
)  # fmt: skip
WORDS = (Word(" Olá", 0.3, 0.7, 0.987654321, "SPEAKER_00"), Word("!", 0.7, 0.7, 0.0))

SAID = (Segment(0.3, 0.7, " Olá! 🎧", "SPEAKER_00", WORDS), Segment(1.0, 2.0, " x"))

REPORTS: list[Report | HandedBack] = [
    StageChanged("loading", "loading model turbo"),
    Progress(33.333333333),
    Progress(40.0, 181.5),
    Progress(100.0, 0.0),
    Planned(PLAN),
    SpeakerChunkFound(CHUNK),
    SpeakersFound(TURNS, TURNS[:1]),
    SpeakersFound(()),
    WindowDecoded(3, SAID),
    WindowDecoded(4, (), silent=True),
    WindowFinished(3, SAID),
    WindowFinished(4, ()),
    WindowFinished(5, (), silent=True),
    Completed(1200.5, 12.25),
    Completed(1.0, 1.0, "Each side speaks into a channel of its own."),
    Failed("AUDIO_INVALID", "No audio in it."),
    Canceled(),
    HandedBack("bye"),
]


@pytest.mark.parametrize("report", REPORTS, ids=lambda report: type(report).__name__)
def test_events(report: Report | HandedBack) -> None:
    event = Event(7, datetime(2026, 1, 2, 3, 4, 5, 600, tzinfo=UTC), report)
    message = pb.Event.FromString(wire.event_message(event).SerializeToString())
    assert message.number == 7
    assert message.occurred_at.ToDatetime(UTC) == event.occurred_at
    assert wire.report(message) == report


def test_an_older_worker_says_nothing_of_the_time_left_and_of_silence() -> None:
    """Bytes as that worker's journal and streams have them: fields 2 and 3 are not there."""
    progress = pb.Event.FromString(pb.Event(progress=pb.Progress(percent=50.0)).SerializeToString())
    assert wire.report(progress) == Progress(50.0, None)
    finished = pb.Event.FromString(pb.Event(window_finished=pb.WindowFinished(index=4)).SerializeToString())
    assert wire.report(finished) == WindowFinished(4, (), silent=False)


@pytest.mark.parametrize(
    "options",
    [
        Options(),
        Options("turbo", "de", True, 90.5, True, True, 1, 4, True, "prompt", "hot words", False),
        Options(diarization_max_duration_seconds=0.0, min_speakers=2),
        Options(speaker_per_channel=True),
    ],
)
def test_options(options: Options) -> None:
    assert wire.options(wire.options_message(options)) == options


@pytest.mark.parametrize("turns", [None, (), TURNS])
def test_finished_work(turns: tuple[SpeakerTurn, ...] | None) -> None:
    finished = FinishedWork(PLAN, frozenset({1, 0}), turns)
    message = wire.finished_work_message(finished)
    assert list(message.windows) == [0, 1]
    assert wire.finished_work(pb.FinishedWork.FromString(message.SerializeToString())) == finished


def test_finished_chunks_and_exclusive_turns() -> None:
    for finished in (
        FinishedWork(PLAN, speaker_chunks=(CHUNK, replace(CHUNK, index=2))),
        FinishedWork(PLAN, turns=TURNS, exclusive_turns=TURNS[:1]),
        FinishedWork(PLAN, decoded_windows=(WindowDecoded(1, SAID), WindowDecoded(3, (), silent=True))),
    ):
        message = wire.finished_work_message(finished).SerializeToString()
        assert wire.finished_work(pb.FinishedWork.FromString(message)) == finished


def test_a_dispatch_without_a_plan_has_nothing_finished() -> None:
    dispatch = pb.Dispatch(attempt=pb.AttemptRef(job_id="j", attempt=2), finished=pb.FinishedWork(windows=[1]))
    assert wire.work(dispatch, Path("audio")) == Work(AttemptKey("j", 2), Path("audio"), Options())


def test_capacity() -> None:
    status = WorkerStatus(Offer("demo", 1000, instance_id="i"), 3, STATE)
    status.reserve()
    message = wire.capacity_message(status, datetime(2026, 1, 1, tzinfo=UTC))
    assert (message.total, message.free, message.revision, message.instance_id) == (3, 2, 2, "i")
    assert message.models[0] == pb.Model(name="demo", state=pb.MODEL_STATE_LOADED, languages=["de", "en"])
    assert message.models[1].error == "no such folder: set WORKER_MODEL_DIR"
    assert (message.default_model, message.max_file_bytes, message.device.kind) == ("demo", 1000, "cpu")


@pytest.mark.parametrize("state", ["available", "loading", "loaded", "failed"])
def test_every_model_state_has_a_name_on_the_wire(state: str) -> None:
    assert wire.MODEL_STATES[ModelState("m", state).state] != pb.MODEL_STATE_UNSPECIFIED
    assert len(wire.MODEL_STATES) == len(pb.ModelState.values()) - 1
