"""What other decoders lose, misplace or extinguish: real files, made for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from services.controller.probe import probe
from services.worker.pipeline.decode import MOST_FAILURES, Findings, _grouped, _on_time, _packets, decode
from services.worker.pipeline.recording import Samples
from tests.recordings import RATE, cut_off, encode, tone

LOUD = 0.05


def decoded(path: Path) -> tuple[Samples, Findings]:
    findings = Findings()
    samples = np.concatenate(list(decode(path, None, findings)))
    return samples.astype(np.float32) / np.float32(32768), findings


def noise(seconds: float) -> Samples:
    return np.random.default_rng(1).uniform(-0.5, 0.5, round(seconds * RATE)).astype(np.float32)


def loud(samples: Samples) -> list[tuple[int, int]]:
    """Where there is sound, in tenths of a second."""
    tenths = np.sqrt(np.mean(samples[: len(samples) // 1600 * 1600].reshape(-1, 1600) ** 2, axis=1)) > LOUD
    edges = np.flatnonzero(np.diff(np.concatenate([[False], tenths, [False]]).astype(int)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def mux(path: Path, tracks: Sequence[Sequence[tuple[float, Samples]]], codec: str, default: int | None = None) -> Path:
    """Each track is of (when it begins, sound)."""
    with av.open(str(path), "w") as container:
        streams = [container.add_stream(codec, rate=RATE, layout="mono") for _ in tracks]
        for number, stream in enumerate(streams):
            if default is not None:
                stream.disposition = av.stream.Disposition.default if number == default else av.stream.Disposition(0)
        for stream, pieces in zip(streams, tracks, strict=True):
            for packet in _encoded(stream, pieces):
                container.mux(packet)
    return path


def _encoded(stream: Any, pieces: Sequence[tuple[float, Samples]]) -> Iterator[Any]:
    for begins, sound in pieces:
        for first in range(0, len(sound) - 1023, 1024):
            frame = av.AudioFrame.from_ndarray(sound[None, first : first + 1024], format="fltp", layout="mono")
            frame.sample_rate, frame.time_base = RATE, Fraction(1, RATE)
            frame.pts = round(begins * RATE) + first
            yield from stream.encode(frame)
    yield from stream.encode(None)


def test_what_comes_behind_a_hole_is_heard_at_its_time(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.ogg", noise(60), "libopus")
    whole, intact = decoded(path)
    content = bytearray(path.read_bytes())
    assert len(content) > 300_000
    content[150_000:250_000] = bytes(100_000)
    path.write_bytes(content)
    samples, findings = decoded(path)
    assert len(samples) == pytest.approx(len(whole), abs=0.3 * RATE)
    assert np.abs(samples[-10 * RATE :] - whole[-10 * RATE :]).mean() < 0.01
    assert intact.note == ""
    assert 5 < findings.missing < 30
    assert findings.note.startswith("The file is damaged or was cut off: about 0:")
    assert findings.note.endswith(" of 1:00 could not be read.")


@pytest.mark.parametrize(("name", "codec"), [("a.mkv", "aac"), ("a.flac", "flac")])
def test_a_file_that_was_cut_off_says_how_much_is_missing(tmp_path: Path, name: str, codec: str) -> None:
    path = encode(tmp_path / name, noise(30), codec)
    assert decoded(path)[1].note == ""
    _, findings = decoded(cut_off(path, 0.5))
    assert findings.note in {
        f"The file is damaged or was cut off: about 0:{missing} of 0:30 could not be read." for missing in (15, 16)
    }


class BrokenDisk:
    """A container whose file cannot be read any more."""

    def __init__(self, error: int) -> None:
        self._error = error
        self.tried = 0

    def demux(self, _: object) -> Iterator[str]:
        self.tried += 1
        yield from ["packet"] if self.tried == 1 else []
        av.error.err_check(-self._error)


def test_a_disk_that_fails_is_no_end_of_a_recording() -> None:
    packets = _packets(BrokenDisk(5), None, Findings())
    assert next(packets) == "packet"
    with pytest.raises(OSError, match="Input/output"):
        next(packets)


def test_a_reader_that_gets_no_further_is_given_up() -> None:
    again = 11  # what FFmpeg says of a transport stream with a hole
    findings, container = Findings(), BrokenDisk(again)
    assert list(_packets(container, None, findings)) == ["packet"]
    assert container.tried == findings.damages == MOST_FAILURES


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
def test_of_several_tracks_the_default_is_heard_and_it_is_said(tmp_path: Path, name: str) -> None:
    tracks = [[(0.0, 0 * tone(4))], [(0.0, tone(4))]]
    samples, findings = decoded(mux(tmp_path / name, tracks, "aac", default=1))
    ((first, end),) = loud(samples)
    assert (first, end) == pytest.approx((0, 40), abs=1)
    assert findings.note == "The file has 2 audio tracks, of which number 2 was heard."
    assert probe(str(tmp_path / name))["seconds"] == pytest.approx(4, abs=0.2)


def test_what_broadcasters_make_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "a.mxf"
    sound = np.repeat(tone(2), 3)
    with av.open(str(path), "w") as container:
        picture, track = container.add_stream("mpeg2video", rate=25), container.add_stream("pcm_s16le", rate=48_000)
        picture.width = picture.height = 64
        picture.pix_fmt = "yuv420p"
        for number in range(50):
            image = av.VideoFrame(64, 64, "yuv420p")
            image.pts = number
            samples = (32767 * sound[None, 1920 * number : 1920 * (number + 1)]).astype("<i2")
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.sample_rate, frame.pts = 48_000, 1920 * number
            for packet in (*picture.encode(image), *track.encode(frame)):
                container.mux(packet)
        for packet in (*picture.encode(None), *track.encode(None)):
            container.mux(packet)
    samples, _ = decoded(path)
    assert len(samples) == 2 * RATE


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.mov", "a.ts"])
def test_a_pause_of_the_recorder_is_a_pause(tmp_path: Path, name: str) -> None:
    pieces = [(0.0, tone(2)), (7.5, tone(2))]
    samples, findings = decoded(mux(tmp_path / name, [pieces], "aac"))
    (first, until), (again, end) = loud(samples)
    assert (first, until, again, end) == pytest.approx((0, 20, 75, 95), abs=2)
    assert findings.note == ""


def test_sound_that_begins_late_is_late(tmp_path: Path) -> None:
    samples, _ = decoded(mux(tmp_path / "a.mkv", [[(5.0, tone(2))]], "aac"))
    ((first, end),) = loud(samples)
    assert (first, end) == pytest.approx((50, 70), abs=2)


def test_a_clock_that_jumps_far_is_another_piece(tmp_path: Path) -> None:
    """As of two streams one behind the other, of which the length is a guess."""
    pieces = [mux(tmp_path / f"{begins}.ts", [[(begins, tone(2))]], "aac") for begins in (0.0, 20_000.0)]
    for order in (pieces, pieces[::-1]):
        path = tmp_path / "both.ts"
        path.write_bytes(b"".join(piece.read_bytes() for piece in order))
        samples, _ = decoded(path)
        assert len(samples) / RATE == pytest.approx(4, abs=0.3)


def on_time(times: Sequence[float | None], findings: Findings) -> list[float]:
    """Seconds of frames and of what is filled in between, of frames of a tenth of a second."""

    def made() -> Iterator[Any]:
        for time in times:
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1600), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.time_base = RATE, Fraction(1, RATE)
            frame.pts = None if time is None else round(time * RATE)
            yield frame

    return [frame.samples / RATE for frame in _on_time(made(), 0.0, findings)]


def steady(begins: float, count: int = 20) -> list[float]:
    return [begins + number / 10 for number in range(count)]


@pytest.mark.parametrize(
    ("times", "seconds"),
    [
        ([*steady(0), *steady(5)], 7.0),
        (
            [*steady(0), *steady(5), *steady(2), *steady(10)],
            14.0,  # back is another piece; ahead again, what was filled is not filled again
        ),
        ([*steady(0), *steady(3500), *steady(2), *steady(3500), *steady(2), *steady(3500)], 3510.0),
        ([*steady(0), 302.0, *steady(2.1)], 4.1),  # one that is wild
        ([*steady(0), *steady(4000)], 4.0),  # farther than an hour
        ([None] * 20, 2.0),
        ([-0.05, *steady(0.05)], 2.1),
    ],
)
def test_no_clock_is_believed_without_bounds(times: list[float | None], seconds: float) -> None:
    findings = Findings()
    assert sum(on_time(times, findings)) == pytest.approx(seconds, abs=0.01)
    assert findings.seconds == pytest.approx(seconds, abs=0.01)


def test_jitter_is_filled_once() -> None:
    jumping = [time for second in range(60) for time in steady(second + (second % 2) * 0.25, 10)]
    assert sum(on_time(jumping, Findings())) == pytest.approx(60.25, abs=0.01)


def test_no_more_is_filled_than_the_file_says_it_has() -> None:
    findings = Findings(stated=6.0, is_stated=True)
    assert sum(on_time([*steady(0), *steady(30)], findings)) == pytest.approx(4.0, abs=0.01)
    assert sum(on_time([*steady(0), *steady(4)], Findings(stated=6.0, is_stated=True))) == pytest.approx(6.0, abs=0.01)


@pytest.mark.parametrize("form", ["pcm_s16le", "pcm_f32le"])
@pytest.mark.parametrize("opposite", [-1.0, -0.98])
def test_channels_that_are_each_others_opposite_do_not_extinguish_each_other(
    tmp_path: Path, form: str, opposite: float
) -> None:
    sound = tone(2)
    path = encode(tmp_path / "a.wav", np.stack([sound, np.float32(opposite) * sound]), form, RATE, 2)
    samples, _ = decoded(path)
    assert np.abs(samples - sound).max() < 2e-4


def test_floats_that_are_no_numbers_are_no_fault(tmp_path: Path) -> None:
    sound = np.stack([tone(2), tone(2)])
    sound[:, 1000] = np.nan
    sound[:, 2000] = np.inf
    samples, _ = decoded(encode(tmp_path / "a.wav", sound, "pcm_f32le", RATE, 2))
    assert len(samples) == 2 * RATE


def frames(rate: int, count: int) -> Iterator[Any]:
    for _ in range(count):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = rate
        yield frame


@pytest.mark.parametrize("before", [499, 500, 501])
def test_a_change_of_format_may_come_at_any_place(before: int) -> None:
    groups = list(_grouped(iter([*frames(44_100, before), *frames(22_050, 3)])))
    assert sum(group.samples for group in groups if group.sample_rate == 44_100) == 1000 * before
    assert [group.samples for group in groups if group.sample_rate == 22_050] == [3000]
