"""The sets of recordings that engines are compared on, made from the examples' turns. Seeded."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from benchmarks.corpus import Spoken, make_corpus


@dataclass(frozen=True, slots=True)
class Set:
    """``recordings`` lie in ``folder``, which holds nothing else."""

    name: str
    folder: Path
    recordings: tuple[Spoken, ...]

    @property
    def seconds(self) -> float:
        """Of audio, silences included."""
        return sum(recording.seconds for recording in self.recordings)

    @property
    def paths(self) -> list[Path]:
        return [self.folder / recording.name for recording in self.recordings]


@dataclass(frozen=True, slots=True)
class Kind:
    """How many recordings, and between which lengths in seconds; ``quick`` as many for a quick look."""

    name: str
    files: int
    shortest: float
    longest: float
    quick: int

    def make(self, folder: Path, *, quick: bool) -> Set:
        """Writes them."""
        longest = min(self.longest, 60.0) if quick else self.longest
        shortest = min(self.shortest, longest)
        made = make_corpus(folder, self.quick if quick else self.files, shortest, longest)
        return Set(self.name, folder, tuple(made))


MIXED = Kind("mixed", 48, 5.0, 180.0, quick=6)
CLIPS = Kind("clips", 200, 5.0, 10.0, quick=12)
LONG = Kind("long", 2, 1200.0, 1200.0, quick=2)

_CHUNK = struct.Struct("<4sII")
_TAG_BYTES = 128  # of ID3v1, at a file's end


def renew(recordings: Set, number: int) -> None:
    """Makes each file's content another one without a change of its sound: nothing then spares an upload by its digest.

    Raises ValueError for a file that is neither WAV nor MP3.
    """
    for path in recordings.paths:
        with path.open("r+b") as file:
            length = file.seek(0, 2)
            file.seek(0)
            header = file.read(8)
            if path.suffix == ".wav" and header.startswith(b"RIFF"):
                end = 8 + int.from_bytes(header[4:], "little")
                mark = _CHUNK.pack(b"JUNK", 4, number)  # behind what the header counts, so that it is found again
            elif path.suffix == ".mp3":
                file.seek(max(0, length - _TAG_BYTES))
                end = length - _TAG_BYTES if file.read(3) == b"TAG" else length
                mark = b"TAG" + str(number).encode().ljust(_TAG_BYTES - 3, b"\0")
            else:
                raise ValueError(f"{path.name} cannot be renewed")
            file.truncate(end)
            file.seek(end)
            file.write(mark)


def first(recordings: Set, seconds: float) -> Set:
    """As many of its recordings, the first ones, as hold about so much audio; at least one."""
    chosen: list[Spoken] = []
    while len(chosen) < len(recordings.recordings) and sum(one.seconds for one in chosen) < max(seconds, 1e-9):
        chosen.append(recordings.recordings[len(chosen)])
    return Set(recordings.name, recordings.folder, tuple(chosen))
