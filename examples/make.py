"""`python -m examples.make`: makes the recordings and `reference.json`, which says what is in them, with espeak-ng.

Nothing is left to chance: the same versions of espeak-ng and of the encoders give the same files.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import wave
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import numpy as np

from examples.encoding import Samples, encode
from examples.scenes import SCENES, Line, Scene, Voice

FOLDER = Path(__file__).parent
REFERENCE = "reference.json"

SAMPLE_RATE = 22_050
"""Of what espeak-ng synthesizes, in Hz. All is mixed at this rate; the encoder makes its own of it."""

# Seconds: before the first and after the last sentence; between sentences of one speaker; before another speaker's.
_MARGIN = 0.6
_PAUSE_WITHIN = (0.4, 0.6)
_PAUSE_BETWEEN = (0.4, 0.8)

# Root mean squares, where 1 is full scale. Pure silence would be easier to find than any that is recorded.
_SPEECH_LEVEL = 0.05
_ROOM_LEVEL = 0.0005

# What is softer than this share of a sentence's peak at its ends is espeak-ng's own silence.
_SILENT = 0.01

_NO_ESPEAK = (
    "espeak-ng is not installed: install the package espeak-ng (apt-get, dnf, pacman, brew) and try again. Nobody needs "
    "it to use the recordings, which lie in examples/ ready made."
)


@dataclass(frozen=True, slots=True)
class Spoken:
    """A line's samples (mono), and the sample of the recording at which they begin."""

    start: int
    line: Line
    samples: Samples

    @property
    def end(self) -> int:
        return self.start + len(self.samples)


def main() -> int:
    folder: Path = _arguments().output
    if shutil.which("espeak-ng") is None:
        print(_NO_ESPEAK, file=sys.stderr)
        return 1
    try:
        make_all(folder)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"The recordings cannot be made: {error}", file=sys.stderr)
        return 1
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="examples.make", description="Makes the example recordings with espeak-ng.")
    parser.add_argument("--output", type=Path, default=FOLDER, metavar="DIR", help="where to (default: beside this)")
    return parser.parse_args()


def make_all(folder: Path) -> None:
    """Raises OSError where the folder cannot be written, CalledProcessError where espeak-ng fails."""
    folder.mkdir(parents=True, exist_ok=True)
    reference = json.dumps({scene.name: make(scene, folder) for scene in SCENES}, indent=1, ensure_ascii=False)
    (folder / REFERENCE).write_text(reference + "\n", encoding="utf-8")


def make(scene: Scene, folder: Path) -> dict[str, object]:
    """Writes the recording into the folder; its entry in the reference, times in seconds."""
    spoken = tuple(perform(scene))
    audio = mix(scene, spoken)
    encode(folder / scene.name, audio, SAMPLE_RATE, scene.encoding)
    duration = round(audio.shape[1] / SAMPLE_RATE, 3)
    print(f"{duration:7.1f} s, speakers: {len(scene.voices)}  {scene.name}")
    return {
        "text": " ".join(said.line.text for said in spoken),
        "speakers": len(scene.voices),
        "duration": duration,
        "turns": [_turn(said) for said in spoken],
    }


def _turn(said: Spoken) -> dict[str, object]:
    return {
        "start": round(said.start / SAMPLE_RATE, 3),
        "end": round(said.end / SAMPLE_RATE, 3),
        "speaker": said.line.speaker,
        "text": said.line.text,
    }


def perform(scene: Scene) -> Iterator[Spoken]:
    """The lines one after the other, without what espeak-ng itself leaves silent around them."""
    random = Random(scene.seed)
    end, speaker = 0.0, ""
    for line in scene.lines:
        start = end + line.silence + _pause(speaker, line.speaker, random)
        speech = _trimmed(synthesize(line.text, _varied(scene.voices[line.speaker], random)))
        said = Spoken(round(start * SAMPLE_RATE), line, speech)
        yield said
        end, speaker = said.end / SAMPLE_RATE, line.speaker


def _pause(before: str, speaker: str, random: Random) -> float:
    if not before:
        return _MARGIN
    return random.uniform(*(_PAUSE_WITHIN if speaker == before else _PAUSE_BETWEEN))


def _varied(voice: Voice, random: Random) -> Voice:
    """Nobody says two sentences at the same speed and pitch."""
    return replace(voice, rate=voice.rate + random.randint(-6, 6), pitch=voice.pitch + random.randint(-2, 2))


def synthesize(text: str, voice: Voice) -> Samples:
    """What espeak-ng says, mono, in [-1, 1]. Raises CalledProcessError when it fails."""
    with tempfile.TemporaryDirectory(prefix="bulkscribe-espeak-") as scratch:
        path = Path(scratch, "speech.wav")
        settings = ("-v", voice.name, "-s", str(voice.rate), "-p", str(voice.pitch), "-w", str(path))
        subprocess.run(["espeak-ng", *settings, text], check=True)
        with wave.open(str(path)) as file:
            assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (SAMPLE_RATE, 1, 2)
            return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / np.float32(32768)


def _trimmed(samples: Samples) -> Samples:
    loud = np.flatnonzero(np.abs(samples) > _SILENT * np.abs(samples).max())
    return samples[loud[0] : loud[-1] + 1]


def mix(scene: Scene, spoken: Sequence[Spoken]) -> Samples:
    """The whole recording, (channels, samples) in [-1, 1]: all speakers equally loud, in a quiet room."""
    channels = scene.encoding.channels
    noise = np.random.default_rng(scene.seed)
    length = spoken[-1].end + round(_MARGIN * SAMPLE_RATE)
    audio = noise.normal(0, _ROOM_LEVEL, (channels, length)).astype(np.float32)
    for said in spoken:
        gains = _gains(scene.voices[said.line.speaker].pan, channels)
        audio[:, said.start : said.end] += gains[:, None] * _leveled(said.samples)
    return np.clip(audio, -1, 1)


def _gains(pan: float, channels: int) -> Samples:
    """One gain a channel; their sum is the same for every ``pan``, so that all are equally loud in mono too."""
    return np.array([1 - pan, 1 + pan] if channels == 2 else [1], np.float32)


def _leveled(samples: Samples) -> Samples:
    return samples * np.float32(_SPEECH_LEVEL / np.sqrt(np.mean(samples**2)))


if __name__ == "__main__":
    sys.exit(main())
