"""What crosses the pipe arrives as it was sent, or not at all."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from services.worker.engine.messages import (
    CancelWork,
    Configure,
    FromEngine,
    Ping,
    Pong,
    Recycle,
    RunWork,
    StateReported,
    ToEngine,
    WorkReported,
    encode,
    receive,
    receive_async,
)
from services.worker.engine.protocol import EngineSettings
from services.worker.work import (
    AttemptKey,
    Canceled,
    ChunkSpeakers,
    Completed,
    EngineState,
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

DEADLINE = 10.0

SETTINGS = EngineSettings(
    "demo",
    Path("models"),
    models=("tiny",),
    model_dir=Path("ours"),
    slots=2,
    hf_token="hf_secret",
    log_dir=Path("logs"),
)
PLAN = WindowPlan("abc", "en", 0.5, 60.25, (Window(0, 0.0, 29.5), Window(1, 30.0, 60.25)))
TURNS = (SpeakerTurn(0.0, 1.5, "SPEAKER_00"),)
SEGMENT = Segment(0.0, 0.5, " grüezi 👋", "SPEAKER_00", (Word(" grüezi", 0.0, 0.25, 0.75, "SPEAKER_00"),))
WORK = Work(
    AttemptKey("job", 2), Path("audio", "ab"), Options(min_speakers=2), FinishedWork(PLAN, frozenset({0}), TURNS)
)
STATE = EngineState(True, "cuda", "a GPU", (ModelState("tiny", "failed", "why"),), "demo", "", {"demo": ("en",)})

TO_ENGINE: list[ToEngine] = [Configure(SETTINGS), RunWork(7, WORK), CancelWork(7), Ping()]
REPORTS: list[Report] = [
    StageChanged("loading", "loading model tiny"),
    Progress(12.5),
    Progress(12.5, 90.25),
    Planned(PLAN),
    SpeakerChunkFound(ChunkSpeakers(0, 0.0, 60.0, (Voice((1.0,), 2.5),), (VoiceTurn(0.5, 3.0, 0),), ())),
    SpeakersFound(TURNS),
    WindowDecoded(1, (SEGMENT,), silent=True),
    WindowFinished(1, (SEGMENT,)),
    WindowFinished(2, (), silent=True),
    Completed(60.25, 1.5, "a note"),
    Failed("AUDIO_INVALID", "why"),
    Canceled(),
]
FROM_ENGINE: list[FromEngine] = [
    StateReported(STATE),
    Pong(),
    Recycle("why", 4),
    *(WorkReported(7, report) for report in REPORTS),
]


async def received(frames: list[bytes]) -> list[FromEngine]:
    """What the front gets when these bytes come, and then the end."""
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_unix_connection(sock=ours)
    messages: list[FromEngine] = []
    try:
        with theirs:
            for frame in frames:
                await asyncio.get_running_loop().sock_sendall(theirs, frame)
                await asyncio.sleep(0)
        async with asyncio.timeout(DEADLINE):
            while (message := await receive_async(reader)) is not None:
                messages.append(message)
    finally:
        writer.close()
        await writer.wait_closed()
    return messages


def received_by_child(content: bytes) -> list[ToEngine]:
    """What the child gets when these bytes come, and then the end."""
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(content)
    messages: list[ToEngine] = []
    with ours, ours.makefile("rwb") as stream:
        while (message := receive(stream)) is not None:
            messages.append(message)
    return messages


@pytest.mark.parametrize("message", TO_ENGINE, ids=lambda message: type(message).__name__)
def test_what_the_front_says_arrives_as_it_was(message: ToEngine) -> None:
    assert received_by_child(encode(message)) == [message]


@pytest.mark.parametrize("report", FROM_ENGINE, ids=lambda message: type(getattr(message, "report", message)).__name__)
async def test_what_the_child_says_arrives_as_it_was(report: FromEngine) -> None:
    assert await received([encode(report)]) == [report]


async def test_messages_arrive_in_order_however_their_bytes_are_cut() -> None:
    stream = b"".join(encode(message) for message in FROM_ENGINE)
    assert await received([stream]) == FROM_ENGINE
    assert await received([stream[at : at + 7] for at in range(0, len(stream), 7)]) == FROM_ENGINE
    assert received_by_child(b"".join(encode(message) for message in TO_ENGINE)) == TO_ENGINE


async def test_a_message_that_is_cut_off_is_none() -> None:
    frame = encode(WorkReported(7, Progress(12.5)))
    for length in range(len(frame)):
        assert await received([frame[:length]]) == []
        assert received_by_child(frame[:length]) == []


async def test_what_came_before_a_message_that_is_cut_off_counts() -> None:
    frame = encode(Pong())
    assert await received([frame, frame[:-1]]) == [Pong()]
    assert received_by_child(encode(Ping()) + frame[:3]) == [Ping()]


async def test_a_reset_is_the_end_for_the_front() -> None:
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_unix_connection(sock=ours)
    writer.write(encode(Ping()))
    await writer.drain()
    theirs.close()  # with a message in it that nobody read, which resets the connection
    async with asyncio.timeout(DEADLINE):
        assert await receive_async(reader) is None
    writer.close()


def test_a_reset_is_the_end_for_the_child() -> None:
    ours, theirs = socket.socketpair()
    with ours, ours.makefile("rwb") as stream:
        stream.write(encode(Pong()))
        stream.flush()
        theirs.close()  # as a front that is killed before it read that
        assert receive(stream) is None


async def test_a_message_of_megabytes_arrives_whole() -> None:
    large = WorkReported(1, WindowFinished(0, (SEGMENT,) * 20_000))
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    reader, writer = await asyncio.open_unix_connection(sock=ours)
    with theirs:
        async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
            sending = group.create_task(asyncio.get_running_loop().sock_sendall(theirs, encode(large)))
            assert await receive_async(reader) == large
            await sending
    writer.close()


def test_the_token_is_in_no_repr() -> None:
    assert "hf_secret" not in repr(Configure(SETTINGS))
