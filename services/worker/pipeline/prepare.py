"""From a file to a recording whose windows are known: decoded in a stream, so that memory does not grow with its length.

Decoding gives what faster-whisper's ``decode_audio`` gives, sample for sample, with two differences. That ends at the
first damaged packet and silently drops all that follows; here the damaged packets alone are left out. And of three channels or
more that the file does not name, it drops some, or cannot read them at all; here all are heard alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from faster_whisper.vad import get_vad_model
from numpy.typing import NDArray

from services.contract.media import OPEN_OPTIONS
from services.worker.pipeline.channels import ChannelLevels, Levels
from services.worker.pipeline.faults import WorkError
from services.worker.pipeline.recording import PreparedRecording
from services.worker.pipeline.speech import VoiceDetector, speech_spans
from services.worker.pipeline.windows import SAMPLE_RATE, plan_everything, plan_speech

# Frames are resampled in groups of so many samples, as faster-whisper does: one by one is much slower.
_GROUP_SAMPLES = 500_000

_STEREO = 2

_UNREADABLE = "No audio can be decoded from the file. Check that it plays, and upload it again."
_NO_STREAM = "The file has no audio stream. Upload a recording with sound."
_EMPTY = "The file holds no audio. Check that it plays, and upload it again."


def warm_up() -> None:
    """Loads the voice detector, which all jobs share."""
    get_vad_model()


def prepare(source: Path, spool: Path, *, vad: bool, max_seconds: float, channels: bool = False) -> PreparedRecording:
    """Decodes ``source`` into ``spool`` and plans its windows: of speech alone, or of everything where ``vad`` is off.
    ``spool`` is there: whoever no longer wants it removes it, and it does not come again. What an earlier try left in it does not
    count.
    ``channels``: measures the levels of the channels, too, where there are two.

    Raises WorkError AUDIO_INVALID, AUDIO_MISSING; OSError where the spool cannot be written, FileNotFoundError where it is gone.
    """
    detector = VoiceDetector() if vad else None
    meter = _ChannelMeter() if channels else None
    samples = 0
    with spool.open("r+b") as file:
        file.truncate()
        for chunk in decode(source, meter):
            file.write(chunk.tobytes())
            samples += len(chunk)
            if detector is not None:
                detector.feed(chunk.astype(np.float32) / np.float32(32768.0))
    levels = meter.finish() if meter is not None else None
    if detector is None:
        return PreparedRecording(spool, samples, plan_everything(samples, max_seconds), levels)
    spans = speech_spans(detector.finish().tolist(), samples, max_seconds)
    return PreparedRecording(spool, samples, plan_speech(spans, max_seconds), levels)


def decode(path: Path, meter: _ChannelMeter | None = None) -> Iterator[NDArray[np.int16]]:
    """Mono samples at 16 kHz, piece by piece, as far as the file can be decoded. ``meter`` hears all of it in its channels.

    Raises WorkError AUDIO_INVALID where there is no audio, AUDIO_MISSING.
    """
    empty = True
    try:
        with av.open(str(path), mode="r", metadata_errors="ignore", options=OPEN_OPTIONS) as container:
            if not container.streams.audio:
                raise WorkError("AUDIO_INVALID", _NO_STREAM)
            frames = _grouped(_frames(container))
            for frame in _mono(frames if meter is None else meter.hearing(frames)):
                empty = False
                yield frame.to_ndarray()[0]
    except FileNotFoundError as error:
        raise WorkError("AUDIO_MISSING", "The worker does not hold the recording.") from error
    except av.FFmpegError as error:
        raise WorkError("AUDIO_INVALID", _UNREADABLE) from error
    if empty:
        raise WorkError("AUDIO_INVALID", _EMPTY)


def _frames(container: Any) -> Iterator[Any]:
    packets = container.demux(audio=0)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, av.FFmpegError):  # a file that breaks off is used as far as it goes
            return
        try:
            for frame in packet.decode():
                yield _of_unnamed_channels(frame) if _is_unnamed(frame) else frame
        except av.FFmpegError:
            continue


def _is_unnamed(frame: Any) -> bool:
    """Whether it has many channels of which the file does not say what they are: of a recorder, one for each microphone.
    FFmpeg takes them for a film's, and has no use for the one that would hold its rumble."""
    channels: int = frame.layout.nb_channels
    return channels > _STEREO and str(frame.layout.name) == f"{channels} channels"


def _of_unnamed_channels(frame: Any) -> Any:
    """The mean of all."""
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    scaled = samples.astype(np.float32)
    if samples.dtype.kind in "iu":
        half = 2.0 ** (8 * samples.dtype.itemsize - 1)
        scaled = (scaled - (half if samples.dtype.kind == "u" else 0)) / np.float32(half)
    mixed = av.AudioFrame.from_ndarray(scaled.mean(axis=0, dtype=np.float32)[None], format="fltp", layout="mono")
    mixed.sample_rate = frame.sample_rate
    return mixed


def _grouped(frames: Iterator[Any]) -> Iterator[Any]:
    """A change of format within the file (channels, rate) begins a new group."""
    queue = av.AudioFifo()
    for frame in frames:
        frame.pts = None  # gaps in a damaged file's clock are no reason to stop
        if queue.samples and (queue.format.name, queue.layout.name, queue.sample_rate) != (
            frame.format.name,
            frame.layout.name,
            frame.sample_rate,
        ):
            yield queue.read()
            queue = av.AudioFifo()
        queue.write(frame)
        if queue.samples >= _GROUP_SAMPLES:
            yield queue.read()
    if queue.samples:
        yield queue.read()


def _mono(frames: Iterator[Any]) -> Iterator[Any]:
    resampler = _Resampler("s16", "mono")
    for frame in frames:
        yield from resampler.feed(frame)
    yield from resampler.finish()


class _Resampler:
    """Frames to 16 kHz. They may change their format on the way. ``layout`` None: in their own channels."""

    def __init__(self, sample_format: str, layout: str | None) -> None:
        self._sample_format = sample_format
        self._layout = layout
        self._resampler = self._new()
        self._form: tuple[str, str, int] | None = None

    def feed(self, frame: Any) -> Iterator[Any]:
        form = (frame.format.name, frame.layout.name, frame.sample_rate)
        if self._form not in (None, form):
            yield from self._resampler.resample(None)
            self._resampler = self._new()
        self._form = form
        yield from self._resampler.resample(frame)

    def finish(self) -> Iterator[Any]:
        yield from self._resampler.resample(None)

    def _new(self) -> Any:
        return av.AudioResampler(format=self._sample_format, layout=self._layout, rate=SAMPLE_RATE)


class _ChannelMeter:
    """Levels of a recording's two channels, at the times of its mono samples; none of one that has another number somewhere."""

    def __init__(self) -> None:
        self._levels: ChannelLevels | None = ChannelLevels(2)
        self._resampler = _Resampler("s16p", None)

    def hearing(self, frames: Iterator[Any]) -> Iterator[Any]:
        """The same frames."""
        for frame in frames:
            if frame.layout.nb_channels != 2:
                self._levels = None
            if self._levels is not None:
                self._feed(self._levels, self._resampler.feed(frame))
            yield frame

    def finish(self) -> Levels | None:
        if self._levels is None:
            return None
        self._feed(self._levels, self._resampler.finish())
        return self._levels.finish()

    @staticmethod
    def _feed(levels: ChannelLevels, frames: Iterator[Any]) -> None:
        for frame in frames:
            levels.feed(frame.to_ndarray().T)
