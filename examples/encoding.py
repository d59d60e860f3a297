"""Writing recordings with PyAV, which brings its own encoders: no ffmpeg needs to be installed."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from examples.scenes import Encoding

Samples = NDArray[np.float32]

# Without dates, versions and random serial numbers, a recording is made again byte by byte. The muxer may hold back all
# of the sound until it gets pictures to put between.
_CONTAINER_OPTIONS = {"fflags": "+bitexact", "max_interleave_delta": "0"}

_LAYOUTS = {1: "mono", 2: "stereo"}

# The picture: pixels, pictures a second, and how many of its columns are a bar and the gap beside it.
_WIDTH, _HEIGHT = 320, 180
_PICTURES_PER_SECOND = 2
_COLUMNS_PER_BAR = 5
_BACKGROUND, _PLAYED, _COMING = (24, 28, 38), (255, 176, 64), (96, 108, 132)


def encode(path: Path, audio: Samples, sample_rate: int, encoding: Encoding) -> None:
    """Writes ``audio``, (channels, samples) in [-1, 1] at ``sample_rate`` Hz, into the container of the path's ending.

    Raises av.FFmpegError when the codec or the container cannot be written.
    """
    with av.open(str(path), "w", options=_CONTAINER_OPTIONS) as container:
        packets = _sound(container, audio, sample_rate, encoding)
        if encoding.picture:
            packets += _pictures(container, audio, sample_rate)
        container.mux(packets)  # now that it knows all streams


def _sound(container: Any, audio: Samples, sample_rate: int, encoding: Encoding) -> list[Any]:
    layout = _LAYOUTS[encoding.channels]
    stream = container.add_stream(encoding.codec, rate=encoding.sample_rate, layout=layout)
    stream.codec_context.flags |= av.codec.context.Flags.bitexact
    if encoding.bit_rate:
        stream.bit_rate = encoding.bit_rate
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(audio), format="fltp", layout=layout)
    frame.sample_rate, frame.pts, frame.time_base = sample_rate, 0, Fraction(1, sample_rate)
    return [*stream.encode(frame), *stream.encode(None)]


def _pictures(container: Any, audio: Samples, sample_rate: int) -> list[Any]:
    """The loudness of the whole as bars, those that were played in another color. Never longer than the sound."""
    stream = container.add_stream("libx264", rate=_PICTURES_PER_SECOND, options={"crf": "30"})
    stream.width, stream.height, stream.pix_fmt = _WIDTH, _HEIGHT, "yuv420p"
    bars = _bars(audio)
    count = int(audio.shape[1] / sample_rate * _PICTURES_PER_SECOND)
    packets = []
    for index in range(count):
        frame = av.VideoFrame.from_ndarray(_picture(bars, index / count), format="rgb24")
        frame.pts, frame.time_base = index, Fraction(1, _PICTURES_PER_SECOND)
        packets += stream.encode(frame)
    return [*packets, *stream.encode(None)]


def _bars(audio: Samples) -> NDArray[np.bool_]:
    """Where the picture is a bar: (height, width)."""
    parts = np.array_split(np.abs(audio[0]), _WIDTH // _COLUMNS_PER_BAR)
    loudness = np.repeat([part.mean() for part in parts], _COLUMNS_PER_BAR)
    distance = np.abs(np.linspace(-1, 1, _HEIGHT))[:, None]
    is_bar = np.arange(_WIDTH) % _COLUMNS_PER_BAR < _COLUMNS_PER_BAR - 2
    inside: NDArray[np.bool_] = (distance <= 0.03 + 0.7 * loudness / loudness.max()) & is_bar
    return inside


def _picture(bars: NDArray[np.bool_], played: float) -> NDArray[np.uint8]:
    """(height, width, red green blue) once the share ``played`` is over."""
    is_played = np.arange(_WIDTH) < played * _WIDTH
    color = np.where(is_played[:, None], _PLAYED, _COMING)
    return np.where(bars[:, :, None], color, _BACKGROUND).astype(np.uint8)
