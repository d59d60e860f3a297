"""From a file to mono samples at 16 kHz, in a stream, so that memory does not grow with its length.

What is decoded is what faster-whisper's ``decode_audio`` gives, sample for sample, but for what that loses or misplaces. It ends at
the first damaged packet; here what is damaged is left out, and what comes behind it is not. What a file does not hold (it begins
late, the recorder paused, packets were lost) is silence here, so that times are those that a player shows. Of several tracks it is the one that a player
plays. And no channel is dropped because nobody says what it is, or extinguished by its opposite.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from services.contract.media import OPEN_OPTIONS, main_track
from services.worker.pipeline.channels import ChannelLevels, Levels
from services.worker.pipeline.faults import WorkError
from services.worker.pipeline.windows import SAMPLE_RATE

# Frames are resampled in groups of so many samples, as faster-whisper does: one by one is much slower.
_GROUP_SAMPLES = 500_000

_STEREO = 2

MOST_FAILURES = 1000
"""How often in a row it is tried to read on behind what cannot be read: each time a reader looks a little further."""

SHORTEST_GAP_SECONDS = 0.2
"""What is missing is made up for once it is so much: clocks of recorders jitter."""

LONGEST_GAP_SECONDS = 3600.0
"""In all, of a file that does not say how long it is. More is a clock that is damaged."""

EXTINGUISHED = 0.01
"""Of the louder channel's power, what is left in the mean of two that are each other's opposite, as of a cable with its wires changed."""

_LOOKED_AT = 61
"""Of so many samples of two channels one is enough to see whether they extinguish each other."""

NOTED_SECONDS = 2.0
"""What may be missing without being mentioned."""

_STATING = frozenset({"mov", "matroska", "wav", "flac", "ogg", "aiff", "caf", "w64"})
"""Formats whose files say how long they are. Of others FFmpeg guesses by their size."""

_UNREADABLE = "No audio can be decoded from the file. Check that it plays, and upload it again."
_NO_STREAM = "The file has no audio stream. Upload a recording with sound."
_EMPTY = "The file holds no audio. Check that it plays, and upload it again."


@dataclass(slots=True)
class Findings:
    """What people should know of a file: found out while it is decoded. ``damages``: packets, and places between them, that could
    not be read; ``missing``: seconds that were, by the clocks of what is behind them. ``stated``: its length by its own word, or guessed where that is not
    ``is_stated``; ``ends_silently``: where that is cut off, reading just ends."""

    tracks: int = 1
    track: int = 1
    damages: int = 0
    missing: float = 0.0
    seconds: float = 0.0
    stated: float = 0.0
    is_stated: bool = False
    ends_silently: bool = False

    @property
    def note(self) -> str:
        """Sentences; nothing where there is nothing to be said."""
        return " ".join(filter(None, (self._of_damage(), self._of_tracks())))

    def _of_damage(self) -> str:
        is_known = self.is_stated and (self.damages or self.ends_silently)
        behind = max(0.0, self.stated - self.seconds) if is_known else 0.0
        lost = behind + (self.missing if self.damages else 0.0)
        if lost < NOTED_SECONDS:
            return ""
        return f"The file is damaged or was cut off: about {_clock(lost)} of {_clock(self.seconds + behind)} could not be read."

    def _of_tracks(self) -> str:
        return (
            f"The file has {self.tracks} audio tracks, of which number {self.track} was heard."
            if self.tracks > 1
            else ""
        )


def _clock(seconds: float) -> str:
    whole = round(seconds)
    return (
        f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}" if whole >= 3600 else f"{whole // 60}:{whole % 60:02}"
    )


def decode(
    path: Path, meter: ChannelMeter | None = None, findings: Findings | None = None
) -> Iterator[NDArray[np.int16]]:
    """The samples, piece by piece, as far as the file can be decoded. ``meter`` hears all of it in its channels.

    Raises WorkError AUDIO_INVALID where there is no audio, AUDIO_MISSING; OSError where the disk cannot be read.
    """
    findings = Findings() if findings is None else findings
    empty = True
    try:
        with av.open(str(path), mode="r", metadata_errors="ignore", options=OPEN_OPTIONS) as container:
            stream = main_track(container)
            if stream is None:
                raise WorkError("AUDIO_INVALID", _NO_STREAM)
            _look_at(container, stream, findings)
            frames = _grouped(_on_time(_frames(container, stream, findings), _start(container), findings))
            for frame in _mono(frames if meter is None else meter.hearing(frames)):
                empty = False
                yield frame.to_ndarray()[0]
    except FileNotFoundError as error:
        raise WorkError("AUDIO_MISSING", "The worker does not hold the recording.") from error
    except av.FFmpegError as error:
        if _is_of_disk(error):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise WorkError("AUDIO_INVALID", _UNREADABLE) from error
    if empty:
        raise WorkError("AUDIO_INVALID", _EMPTY)


def _is_of_disk(error: av.FFmpegError) -> bool:
    return error.errno in (errno.EIO, errno.ESTALE, errno.ENXIO, errno.ENODEV)


def _look_at(container: Any, stream: Any, findings: Findings) -> None:
    tracks = container.streams.audio
    findings.tracks, findings.track = len(tracks), 1 + [track.index for track in tracks].index(stream.index)
    of_track, of_all = stream.duration, container.duration
    if of_track is not None and stream.time_base is not None:
        begins = (
            float(stream.start_time * stream.time_base) - _start(container) if stream.start_time is not None else 0.0
        )
        findings.stated = float(of_track * stream.time_base) + max(0.0, begins)
    elif of_all is not None:
        findings.stated = of_all / av.time_base
    of_one = of_track is not None or len(container.streams) == 1
    findings.is_stated = findings.stated > 0 and of_one and not _STATING.isdisjoint(container.format.name.split(","))
    findings.ends_silently = _is_matroska(container)


def _start(container: Any) -> float:
    """Where a player's clock is at 0, in seconds of the file's. Matroska's begin at 0, whatever comes first; others' somewhere."""
    if container.start_time is None or (_is_matroska(container) and container.duration is not None):
        return 0.0
    return float(container.start_time / av.time_base)


def _is_matroska(container: Any) -> bool:
    return "matroska" in str(container.format.name)


# --- what is read


def _packets(container: Any, stream: Any, findings: Findings) -> Iterator[Any]:
    """All of them, also behind what cannot be read."""
    failures = 0
    while failures < MOST_FAILURES:
        try:
            for packet in container.demux(stream):
                failures = 0
                yield packet
        except IndexError:  # PyAV's, at the end of a file in which a track appears late
            return
        except av.FFmpegError as error:
            if _is_of_disk(error):
                raise
            findings.damages += 1
            failures += 1
        else:
            return


def _frames(container: Any, stream: Any, findings: Findings) -> Iterator[Any]:
    for packet in _packets(container, stream, findings):
        try:
            yield from packet.decode()
        except av.FFmpegError:
            findings.damages += 1


def _on_time(frames: Iterator[Any], start: float, findings: Findings) -> Iterator[Any]:
    """With silence where by the frames' clocks something is missing. A clock that goes back begins anew: it is another piece, or was
    ahead, and what was filled because of that is not filled again. One that the next frame's does not confirm is not believed."""
    clock, filled, owed = start, 0.0, 0.0
    for frame, following in _with_next(frames):
        seconds = frame.samples / frame.sample_rate
        gap = 0.0 if frame.time is None else frame.time - clock
        if abs(gap) >= SHORTEST_GAP_SECONDS and _is_confirmed(frame.time + seconds, following):
            if gap < 0:
                owed = min(owed - gap, filled)
            else:
                missing, owed = max(0.0, gap - owed), max(0.0, owed - gap)
                most = findings.stated - findings.seconds + 1.0 if findings.is_stated else LONGEST_GAP_SECONDS - filled
                if 0 < missing <= most:
                    yield from _silence(frame, missing)
                    filled += missing
                    findings.seconds += missing
                    findings.missing += missing if findings.damages else 0.0
            clock += gap
        frame.pts = None  # the resampler has no use for it
        clock += seconds
        findings.seconds += seconds
        yield frame


def _with_next(frames: Iterator[Any]) -> Iterator[tuple[Any, Any]]:
    """Each with the time of the one behind it, None behind the last."""
    before = None
    for frame in frames:
        if before is not None:
            yield before, frame.time
        before = frame
    if before is not None:
        yield before, None


def _is_confirmed(expected: float, following: float | None) -> bool:
    return following is not None and abs(following - expected) < SHORTEST_GAP_SECONDS


def _silence(like: Any, seconds: float) -> Iterator[Any]:
    """In pieces of a second."""
    left = round(seconds * like.sample_rate)
    while left > 0:
        frame = av.AudioFrame(format=like.format.name, layout=like.layout, samples=min(left, like.sample_rate))
        for plane in frame.planes:
            plane.update((b"\x80" if like.format.name.startswith("u8") else b"\0") * plane.buffer_size)
        frame.sample_rate = like.sample_rate
        left -= frame.samples
        yield frame


def _form(frame: Any) -> tuple[str, str, int]:
    return frame.format.name, frame.layout.name, frame.sample_rate


def _grouped(frames: Iterator[Any]) -> Iterator[Any]:
    """A change of format within the file (channels, rate) begins a new group."""
    queue, form = av.AudioFifo(), None
    for frame in frames:
        if form != _form(frame):
            if queue.samples:
                yield queue.read()
            queue, form = av.AudioFifo(), _form(frame)
        queue.write(frame)
        if queue.samples >= _GROUP_SAMPLES:
            yield queue.read()
    if queue.samples:
        yield queue.read()


# --- what is made of it


def _mono(frames: Iterator[Any]) -> Iterator[Any]:
    resampler = _Resampler("s16", "mono")
    for frame in frames:
        yield from resampler.feed(_heard(frame))
    yield from resampler.finish()


def _heard(frame: Any) -> Any:
    """The frame itself, which FFmpeg makes mono, or of channels with which it fails what is to be heard."""
    channels: int = frame.layout.nb_channels
    if channels == _STEREO:
        some = _sound(frame, every=_LOOKED_AT)
        with np.errstate(all="ignore"):  # of floats that are no numbers
            powers, together = np.square(some).mean(axis=1), np.square(some.mean(axis=0)).mean()
        if together < EXTINGUISHED * powers.max():
            return _of_sound(frame, _sound(frame)[powers.argmax()])
    elif channels > _STEREO and str(frame.layout.name) == f"{channels} channels":
        # Of a recorder, one for each microphone. FFmpeg takes them for a film's, and has no use for what would be its rumble.
        return _of_sound(frame, _sound(frame).mean(axis=0, dtype=np.float32))
    return frame


def _sound(frame: Any, every: int = 1) -> NDArray[np.float32]:
    """(channels, samples) in [-1, 1]; of so many samples one."""
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    samples = samples[:, ::every]
    scaled: NDArray[np.float32] = samples.astype(np.float32)
    if samples.dtype.kind in "iu":
        half = 2.0 ** (8 * samples.dtype.itemsize - 1)
        scaled = (scaled - np.float32(half if samples.dtype.kind == "u" else 0)) / np.float32(half)
    return scaled


def _of_sound(like: Any, sound: NDArray[np.float32]) -> Any:
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound[None]), format="fltp", layout="mono")
    frame.sample_rate = like.sample_rate
    return frame


class _Resampler:
    """Frames to 16 kHz. They may change their format on the way. ``layout`` None: in their own channels."""

    def __init__(self, sample_format: str, layout: str | None) -> None:
        self._sample_format = sample_format
        self._layout = layout
        self._resampler = self._new()
        self._form: tuple[str, str, int] | None = None

    def feed(self, frame: Any) -> Iterator[Any]:
        if self._form not in (None, _form(frame)):
            yield from self._resampler.resample(None)
            self._resampler = self._new()
        self._form = _form(frame)
        yield from self._resampler.resample(frame)

    def finish(self) -> Iterator[Any]:
        yield from self._resampler.resample(None)

    def _new(self) -> Any:
        return av.AudioResampler(format=self._sample_format, layout=self._layout, rate=SAMPLE_RATE)


class ChannelMeter:
    """Levels of a recording's two channels, at the times of its mono samples; none of one that has another number somewhere."""

    def __init__(self) -> None:
        self._levels: ChannelLevels | None = ChannelLevels(_STEREO)
        self._resampler = _Resampler("s16p", None)

    def hearing(self, frames: Iterator[Any]) -> Iterator[Any]:
        """The same frames."""
        for frame in frames:
            if frame.layout.nb_channels != _STEREO:
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
