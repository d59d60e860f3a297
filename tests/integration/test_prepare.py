"""Real files: what can be decoded is decoded whole, and what cannot says why."""

from __future__ import annotations

import struct
import wave
from pathlib import Path

import av
import numpy as np
import pytest
from faster_whisper.audio import decode_audio
from faster_whisper.vad import VadOptions, get_speech_timestamps

from services.worker.pipeline import decode, prepare
from services.worker.pipeline.channels import has_a_speaker_a_channel
from services.worker.pipeline.faults import WorkError
from services.worker.pipeline.recording import PreparedRecording, Samples
from services.worker.pipeline.speech import VoiceDetector, speech_spans
from services.worker.pipeline.windows import Span, SpeechWindow
from tests import recordings
from tests.recordings import RATE, a_speaker_a_channel, cut_off, damage, decoded, encode, tone, video

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


WITHOUT_NAMES = (3, 5, 6, 8, 9, 16)
"""FFmpeg takes three channels for left, right and rumble, six for a film's, and knows nothing that has nine."""


@pytest.mark.parametrize("channels", WITHOUT_NAMES)
@pytest.mark.parametrize(("width", "scale"), [(1, 127), (2, 32767), (4, 2**31 - 1)])
def test_of_many_channels_without_names_each_is_heard(tmp_path: Path, channels: int, width: int, scale: int) -> None:
    """As of a recorder with a microphone for each."""
    sound = tone(1)
    for channel in range(channels):
        frames = np.zeros((len(sound), channels))
        frames[:, channel] = sound * scale
        content = (frames + 128).astype(np.uint8) if width == 1 else frames.astype(f"<i{width}")
        path = tmp_path / f"{channel}.wav"
        with wave.open(str(path), "wb") as file:
            file.setnchannels(channels)
            file.setsampwidth(width)
            file.setframerate(RATE)
            file.writeframes(content.tobytes())
        samples = decoded(path)
        assert len(samples) == len(sound)
        assert np.abs(samples - sound / channels).max() <= 2 / scale + 2 / 32768


def test_channels_with_names_are_mixed_as_everywhere(tmp_path: Path) -> None:
    path = tmp_path / "film.flac"
    sound = np.stack([tone(2) * (channel + 1) / 8 for channel in range(6)])
    with av.open(str(path), "w") as container:
        stream = container.add_stream("flac", rate=RATE, layout="5.1")
        frame = av.AudioFrame.from_ndarray((sound.T * 32767).astype("<i2").reshape(1, -1), format="s16", layout="5.1")
        frame.sample_rate = RATE
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    assert np.array_equal(decoded(path), decode_audio(str(path)))
    assert loudness(decoded(path)) > 0.01


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


def test_the_file_is_closed_when_decoding_is_given_up(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.wav", tone(100), "pcm_s16le")
    pieces = decode.decode(path)
    next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    assert not [link for link in Path("/proc/self/fd").iterdir() if link.exists() and link.samefile(path)]


# --- planning


def prepared(path: Path, spool: Path, *, vad: bool = True, channels: bool = False) -> PreparedRecording:
    spool.touch()
    return prepare.prepare(path, spool, vad=vad, max_seconds=30, channels=channels)


def test_windows_hold_all_that_is_said(tmp_path: Path) -> None:
    recording = recordings.example(speakers=2)
    windows = prepared(recording.path, tmp_path / "spool").windows
    assert len(windows) >= 2
    assert all(window.seconds <= 30 for window in windows)
    spans = [span for window in windows for span in window.spans]
    for turn in recording.turns:
        heard = sum(max(0, min(turn.end, s.end / RATE) - max(turn.start, s.start / RATE)) for s in spans)
        assert heard >= 0.9 * (turn.end - turn.start), turn


def test_silence_makes_no_window_unless_everything_is_wanted(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.wav", np.zeros(35 * RATE, np.float32), "pcm_s16le")
    assert prepared(path, tmp_path / "spool").windows == ()
    spans = [window.spans for window in prepared(path, tmp_path / "spool", vad=False).windows]
    assert spans == [(Span(0, 30 * RATE),), (Span(30 * RATE, 35 * RATE),)]


def test_what_is_cut_out_is_the_speech_of_the_window(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    spool.write_bytes(np.arange(100, dtype="<i2").tobytes())
    cut = PreparedRecording(spool, 100, ()).cut_out(SpeechWindow(0, (Span(10, 12), Span(50, 53))))
    assert (cut * 32768).tolist() == [10, 11, 50, 51, 52]
    assert cut.dtype == np.float32


def test_what_is_prepared_is_what_is_decoded_to_the_last_sample(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp3", tone(31.01), "libmp3lame")
    recording = prepared(path, tmp_path / "spool", vad=False)
    assert np.array_equal(recording.stretch(0, recording.samples), decoded(path))
    assert np.array_equal(
        np.concatenate([recording.cut_out(window) for window in recording.windows]),
        recording.stretch(0, recording.samples),
    )
    assert recording.seconds == len(decoded(path)) / RATE


# --- channels


def two_tones(seconds: float, rate: int) -> Samples:
    """The left one in the even seconds, the right one, half as loud, in the odd ones."""
    sound, odd = tone(seconds, rate), (np.arange(round(seconds * rate)) // rate) % 2
    return np.stack([sound * (1 - odd), 0.5 * sound * odd]).astype(np.float32)


@pytest.mark.parametrize(("ending", "codec", "rate", "channels"), [each for each in FORMATS if each[3] == 2])
def test_measuring_channels_changes_no_sample(
    tmp_path: Path, ending: str, codec: str, rate: int, channels: int
) -> None:
    path = encode(tmp_path / f"a.{ending}", two_tones(40.5, rate), codec, rate, channels)
    plain = prepared(path, tmp_path / "plain", vad=False)
    measured = prepared(path, tmp_path / "measured", vad=False, channels=True)
    assert plain.levels is None
    assert (tmp_path / "plain").read_bytes() == (tmp_path / "measured").read_bytes()
    assert np.array_equal(measured.stretch(0, measured.samples), decode_audio(str(path)))
    assert measured.levels is not None
    assert measured.levels.dtype == np.int8
    assert len(measured.levels) == measured.samples // 320


@pytest.mark.parametrize(("codec", "rate"), [("pcm_s16le", 16_000), ("pcm_s16le", 8_000), ("pcm_f32le", 44_100)])
def test_levels_are_each_channels_own_at_the_times_of_the_recording(tmp_path: Path, codec: str, rate: int) -> None:
    path = encode(tmp_path / "a.wav", two_tones(40.5, rate), codec, rate, 2)
    levels = prepared(path, tmp_path / "spool", channels=True).levels
    assert levels is not None
    seconds = levels[: 40 * 50].reshape(40, 50, 2)[:, 5:45].astype(float)
    assert np.abs(seconds[::2, :, 0] + 17).max() <= 6  # 0.1 to 0.3 of a tone are -23 to -13 dB
    assert np.abs(seconds[1::2, :, 1] + 23).max() <= 6
    assert max(seconds[1::2, :, 0].max(), seconds[::2, :, 1].max()) < -60


def test_a_recording_that_is_not_of_two_channels_throughout_has_no_levels(tmp_path: Path) -> None:
    mono = encode(tmp_path / "mono.mp3", tone(10), "libmp3lame")
    stereo = encode(tmp_path / "stereo.mp3", two_tones(10, 44_100), "libmp3lame", 44_100, 2)
    assert prepared(mono, tmp_path / "spool", channels=True).levels is None
    for parts in ((mono, stereo), (stereo, mono)):
        both = tmp_path / "both.mp3"
        both.write_bytes(b"".join(part.read_bytes() for part in parts))
        found = prepared(both, tmp_path / "spool", vad=False, channels=True)
        assert found.levels is None
        assert np.array_equal(found.stretch(0, found.samples), decoded(both))


def test_a_change_of_rate_on_the_way_keeps_the_times_of_the_levels(tmp_path: Path) -> None:
    parts = [encode(tmp_path / f"{rate}.mp3", two_tones(10, rate), "libmp3lame", rate, 2) for rate in (44_100, 16_000)]
    both = tmp_path / "both.mp3"
    both.write_bytes(b"".join(part.read_bytes() for part in parts))
    found = prepared(both, tmp_path / "spool", vad=False, channels=True)
    assert found.levels is not None
    assert len(found.levels) == found.samples // 320


@pytest.mark.parametrize("mask", [0, 0b11, 0b1100])
def test_two_channels_need_not_be_left_and_right(tmp_path: Path, mask: int) -> None:
    """Some recorders do not say where their channels are heard."""
    sound = (two_tones(4, RATE).T * 32767).astype("<i2")
    form = struct.pack("<HHIIHHHHI", 0xFFFE, 2, RATE, 4 * RATE, 4, 16, 22, 16, mask) + PCM
    chunks = b"".join(
        name + struct.pack("<I", len(content)) + content
        for name, content in ((b"fmt ", form), (b"data", sound.tobytes()))
    )
    (tmp_path / "a.wav").write_bytes(b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks)
    found = prepared(tmp_path / "a.wav", tmp_path / "spool", vad=False, channels=True)
    assert found.levels is not None
    assert found.levels[60:90, 0].max() < -60 < found.levels[10:40, 0].min()
    assert found.levels[10:40, 1].max() < -60 < found.levels[60:90, 1].min()


PCM = bytes.fromhex("0100000000001000800000aa00389b71")
"""How an extensible WAV names its format."""


def test_a_call_of_two_is_known_by_its_channels(tmp_path: Path) -> None:
    example = recordings.example(speakers=2)
    path = encode(tmp_path / "a.wav", a_speaker_a_channel(example), "pcm_s16le", RATE, 2)
    levels = prepared(path, tmp_path / "spool", channels=True).levels
    assert levels is not None
    assert has_a_speaker_a_channel(levels)


# --- voice


def stock(samples: Samples, max_seconds: float) -> list[Span]:
    options = VadOptions(max_speech_duration_s=max_seconds, min_silence_duration_ms=160)
    return [Span(int(span["start"]), int(span["end"])) for span in get_speech_timestamps(samples, options)]


def streamed(samples: Samples, pieces: list[int], max_seconds: float) -> list[Span]:
    detector = VoiceDetector()
    for piece in np.split(samples, pieces):
        detector.feed(piece)
    return speech_spans(detector.finish().tolist(), len(samples), max_seconds)


@pytest.fixture(scope="module")
def joined() -> Samples:
    """Minutes of talk, so that the detector's minute is over several times."""
    return np.concatenate([example.samples() for example in recordings.examples()])


@pytest.mark.parametrize("max_seconds", [30.0, 5.0, 2.0])
def test_a_stream_has_the_spans_that_faster_whisper_finds_in_the_whole(joined: Samples, max_seconds: float) -> None:
    expected = stock(joined, max_seconds)
    assert len(expected) > 20
    pieces = sorted(np.random.default_rng(3).integers(0, len(joined), 40).tolist())
    assert streamed(joined, pieces, max_seconds) == expected
    assert streamed(joined, [], max_seconds) == expected


@pytest.mark.parametrize("samples", [0, 1, 511, 512, 513, 16_000, 2048 * 512, 2048 * 512 + 1])
def test_recordings_of_any_length_have_the_spans_that_faster_whisper_finds(joined: Samples, samples: int) -> None:
    assert streamed(joined[:samples], [], 30.0) == stock(joined[:samples], 30.0)


@pytest.mark.parametrize("seed", range(30))
def test_the_rules_are_those_of_silero_whatever_is_heard(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Probabilities that no recording would have."""
    rng = np.random.default_rng(seed)
    probabilities = np.clip(rng.normal(0.45, 0.3, 400) + np.repeat(rng.normal(0, 0.3, 40), 10), 0, 1).astype(np.float32)
    samples = 400 * 512 - int(rng.integers(1, 512))
    monkeypatch.setattr("faster_whisper.vad.get_vad_model", lambda: lambda audio: probabilities)
    assert speech_spans(probabilities.tolist(), samples, 3.0) == stock(np.zeros(samples, np.float32), 3.0)
