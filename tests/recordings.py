"""Recordings as files: tones that any encoder takes, damage to them, and the examples, of which it is known who says what."""

from __future__ import annotations

import json
import wave
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from services.worker.pipeline.decode import decode
from services.worker.work import SpeakerTurn

Samples = NDArray[np.float32]

RATE = 16_000
EXAMPLES = Path(__file__).parents[1] / "examples"


def decoded(path: Path) -> Samples:
    """All of it, as the worker decodes it."""
    return np.concatenate(list(decode(path))).astype(np.float32) / np.float32(32768.0)


@dataclass(frozen=True, slots=True)
class Example:
    """A recording of ``examples/`` and what is said in it; ``lines`` has the text of each turn."""

    path: Path
    text: str
    duration: float
    turns: tuple[SpeakerTurn, ...]
    lines: tuple[str, ...]

    @property
    def speakers(self) -> int:
        return len({turn.speaker for turn in self.turns})

    def samples(self) -> Samples:
        return decoded(self.path)


def examples() -> list[Example]:
    """All of them, the shortest first."""
    described = json.loads((EXAMPLES / "reference.json").read_text(encoding="utf-8"))
    return sorted((_example(EXAMPLES / name, about) for name, about in described.items()), key=lambda e: e.duration)


def example(speakers: int) -> Example:
    """The shortest one with so many speakers."""
    return next(found for found in examples() if found.speakers == speakers)


def _example(path: Path, about: dict[str, Any]) -> Example:
    turns = tuple(SpeakerTurn(turn["start"], turn["end"], turn["speaker"]) for turn in about["turns"])
    return Example(path, about["text"], about["duration"], turns, tuple(turn["text"] for turn in about["turns"]))


def a_speaker_a_channel(example: Example, crosstalk: float = 0.03) -> Samples:
    """(2, samples) at 16 kHz, as a telephone system records a call of two: each channel has one of them, and ``crosstalk`` of
    the other. Mixed down, it sounds as the example does."""
    names = sorted({turn.speaker for turn in example.turns})
    if len(names) != 2:
        raise ValueError(f"{example.path.name} has {len(names)} speakers")
    samples = example.samples()
    shares = np.full((2, len(samples)), 0.5, np.float32)
    for turn in example.turns:
        stretch, own = slice(round(turn.start * RATE), round(turn.end * RATE)), names.index(turn.speaker)
        shares[own, stretch], shares[1 - own, stretch] = 1 - crosstalk, crosstalk
    return shares * samples


def tone(seconds: float, rate: int = RATE) -> Samples:
    """Rising and swelling, so that no two stretches of it are alike."""
    time = np.arange(round(seconds * rate)) / rate
    swelling = 0.2 + 0.1 * np.sin(2 * np.pi * 3 * time)
    return (swelling * np.sin(2 * np.pi * (200 + 15 * time) * time)).astype(np.float32)


def encode(path: Path, samples: Samples, codec: str, rate: int = RATE, channels: int = 1) -> Path:
    """Writes the container that the path's ending names; ``samples`` are at ``rate``: the same in each channel, or of shape
    (channels, samples)."""
    layout = {1: "mono", 2: "stereo"}[channels]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        sound = np.ascontiguousarray(np.broadcast_to(samples, (channels, samples.shape[-1])))
        frame = av.AudioFrame.from_ndarray(sound, format="fltp", layout=layout)
        frame.sample_rate = rate
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    return path


def video(path: Path, pictures: int = 5) -> Path:
    """Pictures and no sound."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
        packets = [packet for _ in range(pictures) for packet in stream.encode(frame)]
        for packet in (*packets, *stream.encode(None)):
            container.mux(packet)
    return path


def write_wav(path: Path, samples: Samples) -> Path:
    """Samples at 16 kHz."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return path


def damage(path: Path, packets: Iterable[int], filler: bytes) -> Path:
    """Writes ``filler``, again and again, over what those packets of the file hold."""
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(audio=0) if packet.size]
    content = bytearray(path.read_bytes())
    for number in packets:
        start, size = places[number]
        content[start : start + size] = (filler * size)[:size]
    path.write_bytes(content)
    return path


def cut_off(path: Path, share: float) -> Path:
    """Keeps that share of the file's bytes."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path
