"""Real files: what can be decoded is decoded whole, and what cannot says why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from faster_whisper.audio import decode_audio

from services.worker.pipeline import prepare
from services.worker.pipeline.faults import WorkCanceled, WorkError
from services.worker.pipeline.prepare import Samples
from services.worker.pipeline.windows import Span, SpeechWindow
from tests import recordings
from tests.recordings import RATE, cut_off, damage, encode, tone, video

FORMATS = [
    ("wav", "pcm_s16le", 16_000, 1),
    ("wav", "pcm_s16le", 8_000, 2),
    ("wav", "pcm_f32le", 48_000, 1),
    ("mp3", "libmp3lame", 44_100, 2),
    ("flac", "flac", 44_100, 1),
    ("ogg", "libopus", 48_000, 2),
    ("m4a", "aac", 44_100, 1),
    ("webm", "libopus", 48_000, 1),
]


def decoded(path: Path) -> Samples:
    return prepare.decode(path, lambda: None)


def refused(path: Path) -> WorkError:
    with pytest.raises(WorkError) as caught:
        decoded(path)
    return caught.value


@pytest.mark.parametrize(("ending", "codec", "rate", "channels"), FORMATS)
def test_a_file_decodes_whole_and_as_faster_whisper_decodes_it(
    tmp_path: Path, ending: str, codec: str, rate: int, channels: int
) -> None:
    path = encode(tmp_path / f"a.{ending}", tone(12.5, rate), codec, rate, channels)
    samples = decoded(path)
    assert samples.dtype == np.float32
    assert len(samples) / RATE == pytest.approx(12.5, abs=0.1)
    assert np.array_equal(samples, decode_audio(str(path)))


def test_samples_are_what_the_file_holds(tmp_path: Path) -> None:
    sound = tone(2)
    samples = decoded(encode(tmp_path / "a.wav", sound, "pcm_s16le"))
    assert np.abs(samples - sound).max() <= 1 / 32768


def test_a_file_of_several_groups_of_samples_is_decoded_whole(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.flac", tone(100), "flac")
    assert np.array_equal(decoded(path), decode_audio(str(path)))
    assert len(decoded(path)) == 100 * RATE


def test_the_name_says_nothing_about_what_is_inside(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.m4a", tone(2), "aac")
    whole = decoded(path)
    assert np.array_equal(decoded(path.rename(tmp_path / "9f86d081")), whole)
    assert np.array_equal(decoded((tmp_path / "9f86d081").rename(tmp_path / "a.wav")), whole)


@pytest.mark.parametrize("filler", [b"\xff", b"\0", b"damage"])
def test_damaged_packets_lose_only_themselves(tmp_path: Path, filler: bytes) -> None:
    packet = 1024
    path = encode(tmp_path / "a.m4a", tone(30), "aac")
    whole, samples = decoded(path), decoded(damage(path, range(200, 203), filler))
    assert len(whole) - len(samples) == 3 * packet
    assert np.array_equal(samples[: 199 * packet], whole[: 199 * packet])
    after = 202 * packet  # the first frame after a gap overlaps with what is missing
    assert np.array_equal(samples[after:], whole[after + 3 * packet :])


@pytest.mark.parametrize("filler", [b"\xff", b"damage"])
def test_damaged_packets_of_an_mp3_lose_themselves_and_at_most_their_neighbors(tmp_path: Path, filler: bytes) -> None:
    packet = 576
    path = encode(tmp_path / "a.mp3", tone(30), "libmp3lame")
    whole, samples = decoded(path), decoded(damage(path, range(200, 203), filler))
    stock = decode_audio(str(path))
    assert len(stock) < len(whole) / 3, "the damage would not have been noticed"
    after, until = 220 * packet, 28 * RATE
    lost = [number * packet for number in range(3, 6)]
    assert any(np.array_equal(samples[after:until], whole[after + by : until + by]) for by in lost)


@pytest.mark.parametrize(
    ("ending", "codec"), [("wav", "pcm_s16le"), ("mp3", "libmp3lame"), ("flac", "flac"), ("mkv", "aac")]
)
def test_a_file_that_breaks_off_is_used_as_far_as_it_goes(tmp_path: Path, ending: str, codec: str) -> None:
    path = encode(tmp_path / f"a.{ending}", tone(30), codec)
    whole, samples = decoded(path), decoded(cut_off(path, 0.5))
    assert len(samples) / RATE == pytest.approx(15, abs=0.5)
    assert np.array_equal(samples, whole[: len(samples)])


def test_a_recording_may_change_its_rate_and_channels_on_the_way(tmp_path: Path) -> None:
    first = encode(tmp_path / "a.mp3", tone(10), "libmp3lame")
    second = encode(tmp_path / "b.mp3", tone(10, 44_100), "libmp3lame", 44_100, 2)
    both = tmp_path / "both.mp3"
    both.write_bytes(first.read_bytes() + second.read_bytes())
    samples = decoded(both)
    assert len(samples) / RATE == pytest.approx(20, abs=0.2)
    assert np.array_equal(samples[: 9 * RATE], decoded(first)[: 9 * RATE])
    assert loudness(samples[11 * RATE :]) == pytest.approx(loudness(decoded(second)[RATE:]), rel=0.05)


def loudness(samples: Samples) -> float:
    return float(np.sqrt(np.mean(samples**2)))


def test_text_is_no_recording(tmp_path: Path) -> None:
    for name in ("secret", "secret.txt", "secret.wav", "secret.mp3"):
        path = tmp_path / name
        path.write_text("1\n00:00:01,000 --> 00:00:02,000\nhello\n" * 100)
        assert_says_what_to_do(refused(path))


def test_an_empty_file_is_no_recording(tmp_path: Path) -> None:
    (tmp_path / "secret.wav").touch()
    assert_says_what_to_do(refused(tmp_path / "secret.wav"))


def test_a_file_of_no_samples_is_no_recording(tmp_path: Path) -> None:
    fault = refused(recordings.write_wav(tmp_path / "secret.wav", tone(0)))
    assert_says_what_to_do(fault)
    assert "no audio" in fault.message


def test_noise_is_no_recording(tmp_path: Path) -> None:
    (tmp_path / "secret.wav").write_bytes(np.random.default_rng(1).bytes(100_000))
    assert_says_what_to_do(refused(tmp_path / "secret.wav"))


def test_a_video_without_sound_is_no_recording(tmp_path: Path) -> None:
    fault = refused(video(tmp_path / "secret.mp4"))
    assert_says_what_to_do(fault)
    assert "audio stream" in fault.message


def test_a_file_that_breaks_off_before_its_sound_is_no_recording(tmp_path: Path) -> None:
    path = encode(tmp_path / "secret.m4a", tone(5), "aac")
    assert_says_what_to_do(refused(cut_off(path, 0.9)))  # the index at its end is missing


def assert_says_what_to_do(fault: WorkError) -> None:
    assert fault.reason == "AUDIO_INVALID"
    assert "pload" in fault.message
    assert "/" not in fault.message
    assert "secret" not in fault.message


def test_a_recording_that_is_not_there_is_missing(tmp_path: Path) -> None:
    fault = refused(tmp_path / "secret.wav")
    assert fault.reason == "AUDIO_MISSING"
    assert "/" not in fault.message
    assert "secret" not in fault.message


def test_decoding_stops_where_the_check_says_so(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.wav", tone(200), "pcm_s16le")
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise WorkCanceled

    with pytest.raises(WorkCanceled):
        prepare.decode(path, check)
    assert calls == 2
    with pytest.raises(WorkCanceled):
        prepare.decode(encode(tmp_path / "short.wav", tone(0.1), "pcm_s16le"), raise_canceled)


def raise_canceled() -> None:
    raise WorkCanceled


def test_the_file_is_closed_when_decoding_is_given_up(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.wav", tone(1), "pcm_s16le")
    with pytest.raises(WorkCanceled):
        prepare.decode(path, raise_canceled)
    assert not [link for link in Path("/proc/self/fd").iterdir() if link.exists() and link.samefile(path)]


# --- planning


def test_windows_hold_all_that_is_said() -> None:
    recording = recordings.example(speakers=2)
    windows = prepare.plan(recording.samples(), vad=True, max_seconds=30)
    assert len(windows) >= 2
    assert all(window.seconds <= 30 for window in windows)
    spans = [span for window in windows for span in window.spans]
    for turn in recording.turns:
        heard = sum(max(0, min(turn.end, s.end / RATE) - max(turn.start, s.start / RATE)) for s in spans)
        assert heard >= 0.9 * (turn.end - turn.start), turn


def test_silence_makes_no_window_unless_everything_is_wanted() -> None:
    silence = np.zeros(35 * RATE, np.float32)
    assert prepare.plan(silence, vad=True, max_seconds=30) == ()
    spans = [window.spans for window in prepare.plan(silence, vad=False, max_seconds=30)]
    assert spans == [(Span(0, 30 * RATE),), (Span(30 * RATE, 35 * RATE),)]


def test_what_is_cut_out_is_the_speech_of_the_window() -> None:
    samples = np.arange(100, dtype=np.float32)
    cut = prepare.cut_out(samples, SpeechWindow(0, (Span(10, 12), Span(50, 53))))
    assert cut.tolist() == [10, 11, 50, 51, 52]


def test_the_last_sample_is_in_the_last_window(tmp_path: Path) -> None:
    samples = decoded(encode(tmp_path / "a.wav", tone(31.01), "pcm_s16le"))
    windows = prepare.plan(samples, vad=False, max_seconds=30)
    assert np.array_equal(np.concatenate([prepare.cut_out(samples, window) for window in windows]), samples)
