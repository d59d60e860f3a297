"""The recordings of a folder, and how their names are shown, sent and written."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from dataclasses import dataclass
from pathlib import Path

_AUDIO = """3ga aac ac3 aif aifc aiff amr ape au bwf caf eac3 flac gsm m4a m4b m4r mka mp1 mp2 mp3 mpga oga ogg opus snd spx
tta w64 wav wave weba wma wv"""
_VIDEO = "3g2 3gp asf avi f4v flv m2ts m4v mkv mov mp4 mpeg mpg mts mxf ogv ts vob webm wmv"

EXTENSIONS = frozenset((*_AUDIO.split(), *_VIDEO.split()))
"""What ffmpeg decodes and people record in; a file with another ending is no recording."""

LONGEST_NAME_BYTES = 255
"""What Linux and macOS file systems take for one name."""

_JOINERS = frozenset("\u200c\u200d\ufe0e\ufe0f")
"""Not printable by themselves, but parts of emoji and of some scripts."""


@dataclass(frozen=True, slots=True)
class Recording:
    """A file to transcribe; ``name`` is its key in the state. Undecodable bytes of a name are lone surrogates."""

    name: str
    path: Path


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What tells a file from one that was put in its place: bytes, and nanoseconds since the epoch."""

    size_bytes: int
    modified_ns: int


def find_recordings(folder: Path) -> list[Recording]:
    """As `look_into`."""
    return look_into(folder)[0]


def look_into(folder: Path) -> tuple[list[Recording], list[str]]:
    """The recordings directly in the folder, by name, and the names of what else is there, but for what is hidden: folders, files of
    other kinds, links that lead nowhere.

    Raises OSError when the folder cannot be read.
    """
    recordings: list[str] = []
    others: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith("."):
                (recordings if is_recording(entry.name) and _is_file(entry) else others).append(entry.name)
    return [Recording(name, folder / name) for name in sorted(recordings)], sorted(others)


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link to itself
        return False


def is_recording(name: str) -> bool:
    _, dot, extension = name.rpartition(".")
    return bool(dot) and not name.startswith(".") and extension.lower() in EXTENSIONS


def fingerprint(path: Path) -> Fingerprint:
    """Raises OSError when the file is gone."""
    status = path.stat()
    return Fingerprint(status.st_size, status.st_mtime_ns)


def shown(text: str) -> str:
    """Text of any origin on one line, without what would move a terminal's cursor; emoji stay."""
    return "".join(character if _is_shown(character) else _escape(character) for character in text)


def _is_shown(character: str) -> bool:
    return character.isprintable() or character in _JOINERS


def _escape(character: str) -> str:
    if unicodedata.category(character) == "Cs":  # a byte that is no UTF-8
        return f"\\x{ord(character) & 0xFF:02x}"
    return character.encode("unicode_escape").decode()


def transcript_name(name: str, form: str) -> str:
    """`<file name>.<format>`. A name that would be too long is cut, and keeps apart by a digest of the whole."""
    suffix = f".{form}"
    whole = os.fsencode(name)
    if len(whole) + len(suffix) <= LONGEST_NAME_BYTES:
        return name + suffix
    suffix = f"~{hashlib.sha256(whole).hexdigest()[:10]}{suffix}"
    kept = name
    while len(os.fsencode(kept)) + len(suffix) > LONGEST_NAME_BYTES:
        kept = kept[:-1]
    return kept + suffix
