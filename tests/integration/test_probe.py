"""What is taken for a recording, with real files; and a decoder that dies or hangs costs one answer."""

from __future__ import annotations

import asyncio
import math
import os
import random
import signal
import struct
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest

from services.contract.errors import Reason, ServiceError
from services.controller.probe import probe
from services.controller.prober import AudioProber
from tests.integration.conftest import DEADLINE, wav
from tests.worker import eventually

RATE = 48000
NOT_DECODABLE = {"error": "no audio can be decoded from it"}
NO_SOUND_TRACK = {"error": "it has no sound track"}


def tone(seconds: float) -> bytes:
    return struct.pack(f"<{int(seconds * RATE)}h", *(int(8000 * math.sin(i / 17)) for i in range(int(seconds * RATE))))


def record(path: Path, codec: str = "", video: bool = False, seconds: float = 3.0, **options: str) -> Path:
    """A file with sound, pictures or both; skips where PyAV was built without the encoder."""
    with av.open(str(path), "w", options=options) as container:
        streams: list[tuple[Any, list[Any]]] = []
        if codec:
            streams.append(_sound(container, codec, seconds))
        if video:
            pictures: Any = container.add_stream("mpeg4", rate=5)
            pictures.width = pictures.height = 64
            pictures.pix_fmt = "yuv420p"
            streams.append((pictures, [av.VideoFrame(64, 64, "yuv420p") for _ in range(5)]))
        for stream, frames in streams:
            for frame in [*frames, None]:
                container.mux(stream.encode(frame))
    return path


def _sound(container: Any, codec: str, seconds: float) -> tuple[Any, list[Any]]:
    try:
        stream = container.add_stream(codec, rate=RATE, layout="mono")
    except (av.codec.codec.UnknownCodecError, NotImplementedError):
        pytest.skip(f"PyAV was built without an encoder for {codec}")
    samples = tone(seconds)
    frame = av.AudioFrame(format="s16", layout="mono", samples=len(samples) // 2)
    frame.rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
    frame.planes[0].update(samples)
    wanted = stream.codec_context.codec.audio_formats[0].name
    resampler = av.AudioResampler(wanted, "mono", RATE, stream.codec_context.frame_size or 1024)
    return stream, [*resampler.resample(frame), *resampler.resample(None)]


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def found(path: Path) -> dict[str, Any]:
    return probe(str(path))


# --- what is a recording


@pytest.mark.parametrize("seconds", [0.25, 1.0, 61.5])
def test_a_wave_file_has_its_seconds(tmp_path: Path, seconds: float) -> None:
    assert found(written(tmp_path / "a.wav", wav(seconds))) == {"seconds": seconds}


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp3", "libmp3lame"),
        ("a.flac", "flac"),
        ("a.opus", "libopus"),
        ("a.ogg", "flac"),
        ("a.m4a", "aac"),
        ("a.aac", "aac"),
        ("a.webm", "libopus"),
        ("a.mka", "flac"),
        ("a.ts", "mp2"),
        ("a.aiff", "pcm_s16be"),
        ("a.au", "pcm_s16be"),
        ("a.caf", "pcm_s16le"),
        ("a.w64", "pcm_s16le"),
        ("a.avi", "pcm_s16le"),
    ],
)
def test_what_people_record_with_is_taken_whatever_it_is_called(tmp_path: Path, name: str, codec: str) -> None:
    path = record(tmp_path / name, codec)
    assert found(path)["seconds"] == pytest.approx(3.0, abs=0.3)
    assert found(path.rename(tmp_path / "a")) == found(path.with_name("a"))
    assert found(tmp_path / "a")["seconds"] == pytest.approx(3.0, abs=0.3)


def test_a_film_with_sound_is_a_recording_of_its_sound(tmp_path: Path) -> None:
    assert found(record(tmp_path / "a.mp4", "aac", video=True))["seconds"] == pytest.approx(3.0, abs=0.3)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_a_film_without_sound_is_none(tmp_path: Path, name: str) -> None:
    assert found(record(tmp_path / name, video=True)) == NO_SOUND_TRACK


def test_a_length_that_the_header_does_not_say_is_measured(tmp_path: Path) -> None:
    """As browsers record: they write the header before they know how long it gets."""
    path = record(tmp_path / "a.webm", "libopus", live="1")
    with av.open(str(path)) as container:
        assert (container.duration, container.streams.audio[0].duration) == (None, None)
    assert found(path)["seconds"] == pytest.approx(3.0, abs=0.1)


# --- what is damaged


@pytest.mark.parametrize("kept", [0.5, 0.2])
def test_an_mp3_that_was_cut_off_is_taken_with_what_it_has(tmp_path: Path, kept: float) -> None:
    whole = record(tmp_path / "a.mp3", "libmp3lame", seconds=10.0, write_xing="0").read_bytes()
    cut = written(tmp_path / "cut.mp3", whole[: int(len(whole) * kept)])
    assert found(cut)["seconds"] == pytest.approx(10.0 * kept, abs=0.3)


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mp3", "libmp3lame"), ("a.flac", "flac"), ("a.opus", "libopus"), ("a.webm", "libopus"), ("a.aac", "aac")],
)
def test_what_was_cut_off_is_taken(tmp_path: Path, name: str, codec: str) -> None:
    whole = record(tmp_path / name, codec, seconds=10.0).read_bytes()
    assert found(written(tmp_path / name, whole[: len(whole) // 2]))["seconds"] > 0


def test_a_wave_file_that_was_cut_off_has_what_it_has(tmp_path: Path) -> None:
    whole = wav(10.0)
    cut = written(tmp_path / "a.wav", whole[: 44 + (len(whole) - 44) // 4])
    assert found(cut)["seconds"] == pytest.approx(2.5, abs=0.01)


def test_an_mp3_whose_beginning_is_lost_or_broken_is_taken(tmp_path: Path) -> None:
    whole = record(tmp_path / "a.mp3", "libmp3lame", seconds=10.0).read_bytes()
    assert found(written(tmp_path / "late.mp3", whole[3333:]))["seconds"] > 5
    broken = whole[:2000] + random.Random(1).randbytes(500) + whole[2500:]
    assert found(written(tmp_path / "broken.mp3", broken))["seconds"] > 5


@pytest.mark.parametrize(
    ("name", "codec", "header"), [("a.mp3", "libmp3lame", 4), ("a.m4a", "aac", 0), ("a.aac", "aac", 7)]
)
def test_broken_packets_at_the_beginning_are_passed_over(tmp_path: Path, name: str, codec: str, header: int) -> None:
    path = record(tmp_path / name, codec)
    content = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(container.streams.audio[0]) if packet.size]
    for begin, size in packets[:3]:
        assert begin is not None
        content[begin + header : begin + size] = random.Random(1).randbytes(size - header)
    assert found(written(path, bytes(content)))["seconds"] == pytest.approx(3.0, abs=0.3)


# --- what is no recording


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"x",
        b"This is a text and no sound.\n" * 500,
        b"<html><body>404 Not Found</body></html>",
        bytes(20_000),
        b"\x89PNG\r\n\x1a\n" + bytes(2000),
        wav(0.0),
        wav(1.0)[:20],
    ],
    ids=["empty", "one byte", "text", "a page", "zeros", "a picture", "no samples", "half a header"],
)
@pytest.mark.parametrize("name", ["a.mp3", "a.wav"])
def test_what_has_no_sound_in_it_is_refused_whatever_it_is_called(tmp_path: Path, name: str, content: bytes) -> None:
    assert found(written(tmp_path / name, content)) == (NOT_DECODABLE if content else {"error": "it is empty"})


def test_noise_is_not_taken_for_sound(tmp_path: Path) -> None:
    for seed in range(10):
        assert found(written(tmp_path / "a.mp3", random.Random(seed).randbytes(20_000))) == NOT_DECODABLE


def test_what_is_not_there_and_what_is_a_folder_are_refused(tmp_path: Path) -> None:
    assert found(tmp_path / "nothing.mp3") == NOT_DECODABLE
    assert found(tmp_path) == NOT_DECODABLE


LISTS = {
    "a.m3u8": "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:10\n#EXTINF:3,\n{name}\n#EXT-X-ENDLIST\n",
    "a.ffconcat": "ffconcat version 1.0\nfile {name}\n",
}


@pytest.mark.parametrize("name", LISTS)
def test_a_list_that_names_another_file_is_refused_and_the_file_not_opened(tmp_path: Path, name: str) -> None:
    other = record(tmp_path / "other.ts", "mp2")
    path = written(tmp_path / name, LISTS[name].format(name=other.name).encode())
    with av.open(str(path)) as container:
        assert container.streams.audio, "without the whitelist the decoder follows it"
    assert found(path) == NOT_DECODABLE
    assert found(path.rename(tmp_path / "a.mp3")) == NOT_DECODABLE


def test_a_list_that_names_the_network_is_refused(tmp_path: Path) -> None:
    """A session description would listen on a port, and wait there."""
    content = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n"
    assert found(written(tmp_path / "a.sdp", content.encode())) == NOT_DECODABLE


# --- the child


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> list[Process]:
    """Those that were started."""
    started: list[Process] = []
    start = asyncio.create_subprocess_exec

    async def noted(*command: Any, **more: Any) -> Process:
        started.append(await start(*command, **more))
        return started[-1]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", noted)
    return started


@pytest.fixture
async def prober(children: list[Process]) -> AsyncIterator[AudioProber]:
    made = AudioProber()
    yield made
    await made.close()


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return written(tmp_path / "good.wav", wav(1.5))


@pytest.fixture
def hanging(tmp_path: Path) -> Path:
    """A pipe into which nobody writes: what reads it waits."""
    path = tmp_path / "hanging.wav"
    os.mkfifo(path)
    return path


async def refusal(prober: AudioProber, path: Path) -> str:
    with pytest.raises(ServiceError) as caught:
        await prober.duration_seconds(path)
    assert caught.value.reason is Reason.AUDIO_INVALID
    assert str(path.parent) not in caught.value.message
    return caught.value.message


async def test_one_child_answers_all_questions(
    prober: AudioProber, children: list[Process], good: Path, tmp_path: Path
) -> None:
    assert children == []
    assert await prober.duration_seconds(good) == 1.5
    text = written(tmp_path / 'an "odd"\n näme 🎧.mp3', b"text")
    assert await refusal(prober, text) == "The file cannot be transcribed: no audio can be decoded from it."
    film = record(tmp_path / "film.mp4", video=True)
    assert await refusal(prober, film) == "The file cannot be transcribed: it has no sound track."
    assert await prober.duration_seconds(good) == 1.5
    assert len(children) == 1


async def test_who_asks_at_the_same_moment_gets_the_answer_to_his_own_question(
    prober: AudioProber, children: list[Process], tmp_path: Path
) -> None:
    lengths = [0.5 + number / 4 for number in range(12)]
    files = [written(tmp_path / f"{seconds}.wav", wav(seconds)) for seconds in lengths]
    assert await asyncio.gather(*map(prober.duration_seconds, files)) == lengths
    assert len(children) == 1


async def test_a_file_whose_child_dies_twice_costs_one_answer(
    prober: AudioProber, children: list[Process], good: Path, hanging: Path
) -> None:
    asked = asyncio.ensure_future(refusal(prober, hanging))
    writer = await opened_by_reader(hanging)
    try:
        children[0].kill()
        await eventually(lambda: len(children) == 2)
        children[1].kill()
        async with asyncio.timeout(DEADLINE):
            assert await asked == "The file cannot be transcribed: it cannot be read by the decoder."
    finally:
        os.close(writer)
    assert await prober.duration_seconds(good) == 1.5
    assert [child.returncode is None for child in children] == [False, False, True]


async def test_a_child_that_is_killed_once_is_no_fault_of_the_file(
    prober: AudioProber, children: list[Process], good: Path, hanging: Path
) -> None:
    asked = asyncio.ensure_future(prober.duration_seconds(hanging))
    writer = await opened_by_reader(hanging)
    try:
        good.replace(hanging)
        children[0].kill()
        async with asyncio.timeout(DEADLINE):
            assert await asked == 1.5
    finally:
        os.close(writer)
    assert [child.returncode is None for child in children] == [False, True]


async def opened_by_reader(pipe: Path) -> int:
    """A descriptor for writing, once somebody reads: before that there is none to be had."""
    descriptors: list[int] = []

    def try_to_open() -> bool:
        try:
            descriptors.append(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            return False
        return True

    await eventually(try_to_open)
    return descriptors[0]


async def test_a_question_that_is_canceled_leaves_no_answer_for_the_next_one(
    prober: AudioProber, children: list[Process], good: Path, hanging: Path
) -> None:
    asked = asyncio.ensure_future(prober.duration_seconds(hanging))
    writer = await opened_by_reader(hanging)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    os.close(writer)
    assert await prober.duration_seconds(good) == 1.5
    assert [child.returncode is None for child in children] == [False, True]


async def test_a_child_that_died_while_nobody_asked_costs_no_answer(
    prober: AudioProber, children: list[Process], good: Path
) -> None:
    assert await prober.duration_seconds(good) == 1.5
    children[0].kill()
    await children[0].wait()
    assert await asyncio.gather(*(prober.duration_seconds(good) for _ in range(3))) == [1.5, 1.5, 1.5]
    assert len(children) == 2


async def test_a_child_that_hangs_is_killed_in_time_and_costs_one_answer(
    children: list[Process], good: Path, hanging: Path
) -> None:
    prober = AudioProber(answer_seconds=3.0)
    try:
        async with asyncio.timeout(DEADLINE):
            assert "it cannot be read by the decoder" in await refusal(prober, hanging)
        assert children[0].returncode == -signal.SIGKILL
        assert await prober.duration_seconds(good) == 1.5
    finally:
        await prober.close()


async def test_a_terminals_interrupt_is_not_for_the_child(
    prober: AudioProber, children: list[Process], good: Path
) -> None:
    await prober.duration_seconds(good)
    children[0].send_signal(signal.SIGINT)
    assert await prober.duration_seconds(good) == 1.5
    assert len(children) == 1


async def test_closing_leaves_no_child_behind(prober: AudioProber, children: list[Process], good: Path) -> None:
    await prober.close()
    await prober.duration_seconds(good)
    await prober.close()
    assert children[0].returncode == -signal.SIGKILL
    await prober.close()
