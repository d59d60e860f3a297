"""From a file to 16 kHz samples, and from samples to stretches of speech.

Decoding gives what faster-whisper's ``decode_audio`` gives, sample for sample, with one difference: that ends at the
first damaged packet and silently drops all that follows; here the damaged packets alone are left out.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from faster_whisper.vad import VadOptions, get_speech_timestamps, get_vad_model
from numpy.typing import NDArray

from services.contract.media import OPEN_OPTIONS
from services.worker.pipeline.faults import WorkError
from services.worker.pipeline.windows import SAMPLE_RATE, Span, SpeechWindow, plan_everything, plan_speech

Samples = NDArray[np.float32]

# As faster-whisper's batched pipeline: spans break at short pauses, since they are joined again to full windows.
MIN_SILENCE_MS = 160

# Frames are resampled in groups of so many samples, as faster-whisper does: one by one is much slower.
_GROUP_SAMPLES = 500_000

_UNREADABLE = "No audio can be decoded from the file. Check that it plays, and upload it again."
_NO_STREAM = "The file has no audio stream. Upload a recording with sound."
_EMPTY = "The file holds no audio. Check that it plays, and upload it again."


def warm_up() -> None:
    """Loads the voice detector, which all jobs share."""
    get_vad_model()


def decode(path: Path, check: Callable[[], None]) -> Samples:
    """Mono samples in [-1, 1] at 16 kHz, as far as the file can be decoded.

    ``check`` is called now and then and may raise to give up. Raises WorkError AUDIO_INVALID where there is no audio.
    """
    buffer = io.BytesIO()
    try:
        with av.open(str(path), mode="r", metadata_errors="ignore", options=OPEN_OPTIONS) as container:
            if not container.streams.audio:
                raise WorkError("AUDIO_INVALID", _NO_STREAM)
            for frame in _resampled(_grouped(_frames(container)), check):
                buffer.write(frame.to_ndarray())
    except FileNotFoundError as error:
        raise WorkError("AUDIO_MISSING", "The worker does not hold the recording.") from error
    except av.FFmpegError as error:
        raise WorkError("AUDIO_INVALID", _UNREADABLE) from error
    if not buffer.tell():
        raise WorkError("AUDIO_INVALID", _EMPTY)
    return np.frombuffer(buffer.getbuffer(), dtype=np.int16).astype(np.float32) / np.float32(32768.0)


def _frames(container: Any) -> Iterator[Any]:
    packets = container.demux(audio=0)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, av.FFmpegError):  # a file that breaks off is used as far as it goes
            return
        try:
            yield from packet.decode()
        except av.FFmpegError:
            continue


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


def _resampled(frames: Iterator[Any], check: Callable[[], None]) -> Iterator[Any]:
    resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
    form = None
    for frame in frames:
        check()
        if form not in (None, now := (frame.format.name, frame.layout.name, frame.sample_rate)):
            yield from resampler.resample(None)
            resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
        form = now
        yield from resampler.resample(frame)
    yield from resampler.resample(None)


def plan(samples: Samples, *, vad: bool, max_seconds: float) -> tuple[SpeechWindow, ...]:
    """The windows to decode: of speech alone, or of everything where ``vad`` is off."""
    if not vad:
        return plan_everything(len(samples), max_seconds)
    options = VadOptions(max_speech_duration_s=max_seconds, min_silence_duration_ms=MIN_SILENCE_MS)
    found = get_speech_timestamps(samples, options)
    return plan_speech([Span(int(span["start"]), int(span["end"])) for span in found], max_seconds)


def cut_out(samples: Samples, window: SpeechWindow) -> Samples:
    """The window's speech without its silences."""
    return np.concatenate([samples[span.start : span.end] for span in window.spans])
