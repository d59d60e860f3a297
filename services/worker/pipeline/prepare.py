"""From a file to a recording whose windows are known: decoded in a stream, so that memory does not grow with its length.

Decoding gives what faster-whisper's ``decode_audio`` gives, sample for sample, with one difference: that ends at the
first damaged packet and silently drops all that follows; here the damaged packets alone are left out.
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
from services.worker.pipeline.faults import WorkError
from services.worker.pipeline.recording import PreparedRecording
from services.worker.pipeline.speech import VoiceDetector, speech_spans
from services.worker.pipeline.windows import SAMPLE_RATE, plan_everything, plan_speech

# Frames are resampled in groups of so many samples, as faster-whisper does: one by one is much slower.
_GROUP_SAMPLES = 500_000

_UNREADABLE = "No audio can be decoded from the file. Check that it plays, and upload it again."
_NO_STREAM = "The file has no audio stream. Upload a recording with sound."
_EMPTY = "The file holds no audio. Check that it plays, and upload it again."


def warm_up() -> None:
    """Loads the voice detector, which all jobs share."""
    get_vad_model()


def prepare(source: Path, spool: Path, *, vad: bool, max_seconds: float) -> PreparedRecording:
    """Decodes ``source`` into ``spool`` and plans its windows: of speech alone, or of everything where ``vad`` is off.

    Raises WorkError AUDIO_INVALID, AUDIO_MISSING; OSError where the spool cannot be written.
    """
    detector = VoiceDetector() if vad else None
    samples = 0
    with spool.open("wb") as file:
        for chunk in decode(source):
            file.write(chunk.tobytes())
            samples += len(chunk)
            if detector is not None:
                detector.feed(chunk.astype(np.float32) / np.float32(32768.0))
    if detector is None:
        return PreparedRecording(spool, samples, plan_everything(samples, max_seconds))
    spans = speech_spans(detector.finish().tolist(), samples, max_seconds)
    return PreparedRecording(spool, samples, plan_speech(spans, max_seconds))


def decode(path: Path) -> Iterator[NDArray[np.int16]]:
    """Mono samples at 16 kHz, piece by piece, as far as the file can be decoded.

    Raises WorkError AUDIO_INVALID where there is no audio, AUDIO_MISSING.
    """
    empty = True
    try:
        with av.open(str(path), mode="r", metadata_errors="ignore", options=OPEN_OPTIONS) as container:
            if not container.streams.audio:
                raise WorkError("AUDIO_INVALID", _NO_STREAM)
            for frame in _resampled(_grouped(_frames(container))):
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


def _resampled(frames: Iterator[Any]) -> Iterator[Any]:
    resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
    form = None
    for frame in frames:
        if form not in (None, now := (frame.format.name, frame.layout.name, frame.sample_rate)):
            yield from resampler.resample(None)
            resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
        form = now
        yield from resampler.resample(frame)
    yield from resampler.resample(None)
