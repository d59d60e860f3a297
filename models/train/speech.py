"""Speech and the times of its words from espeak-ng, through its library: a thousand sentences a minute, no processes.

The library has one state a process, so that there is one ``Espeak`` at a time.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from ctypes.util import find_library
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly

RATE = 16_000
Samples = NDArray[np.float32]

MISSING = (
    "espeak-ng is not installed: install the package espeak-ng (apt-get, dnf, pacman, brew) and try again. Nobody needs "
    "it to use the bundled models, which lie in models/ ready made."
)

# Of speak_lib.h.
_SYNCHRONOUS, _DO_NOT_EXIT = 2, 0x8000
_END, _WORD = 0, 1
_SPEED, _PITCH, _RANGE = 1, 3, 4
_BY_CHARACTER, _UTF8 = 1, 1
_OK = 0


class SpeechError(Exception):
    """espeak-ng cannot be used; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Voice:
    """``name``: a language and its variant; ``rate`` in words a minute; ``pitch`` and ``lilt`` (its range) 0 to 99."""

    name: str
    rate: int
    pitch: int
    lilt: int = 50


@dataclass(frozen=True, slots=True)
class Said:
    """Mono samples at 16 kHz in [-1, 1], and when the words begin: seconds by the place of the word's first letter in the
    text. espeak-ng leaves out words that it runs together with others ("of the")."""

    samples: Samples
    starts: dict[int, float]


class _Id(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


class Espeak:
    """``data``: a folder that holds ``espeak-ng-data``; None for the installed one. Raises SpeechError."""

    def __init__(self, data: Path | None = None) -> None:
        self._library = _library()
        path = None if data is None else str(data).encode()
        self._rate = int(self._library.espeak_Initialize(_SYNCHRONOUS, 0, path, _DO_NOT_EXIT))
        if self._rate <= 0:
            raise SpeechError(f"espeak-ng cannot read its data in {data or 'its own folder'}.")
        self._sound: list[NDArray[np.int16]] = []
        self._starts: dict[int, float] = {}
        self._callback = _Callback(self._take)  # kept, for the library calls it later
        self._library.espeak_SetSynthCallback(self._callback)

    def _take(self, sound: ctypes._Pointer[ctypes.c_short], count: int, events: ctypes._Pointer[_Event]) -> int:
        if sound and count > 0:
            self._sound.append(np.ctypeslib.as_array(sound, (count,)).copy())
        place = 0
        while events and events[place].type != _END:
            if events[place].type == _WORD:
                self._starts[events[place].text_position - 1] = events[place].audio_position / 1000
            place += 1
        return 0

    def say(self, text: str, voice: Voice) -> Said:
        """Raises SpeechError where there is no such voice. ``text`` must be ASCII, or the places of words are wrong."""
        self._sound.clear()
        self._starts = {}
        if self._library.espeak_SetVoiceByName(voice.name.encode()) != _OK:
            raise SpeechError(f"espeak-ng has no voice {voice.name!r}; version 1.51 or newer is needed.")
        for parameter, value in ((_SPEED, voice.rate), (_PITCH, voice.pitch), (_RANGE, voice.lilt)):
            self._library.espeak_SetParameter(parameter, value, 0)
        content = text.encode() + b"\0"
        self._library.espeak_Synth(content, len(content), 0, _BY_CHARACTER, 0, _UTF8, None, None)
        self._library.espeak_Synchronize()
        if not self._sound:
            return Said(np.zeros(0, np.float32), {})
        sound = (np.concatenate(self._sound) / 32768).astype(np.float32)
        return Said(resampled(sound, self._rate, RATE), self._starts)


def resampled(samples: Samples, rate: int, wanted: int) -> Samples:
    """From ``rate`` to ``wanted``, both in Hz."""
    common = np.gcd(rate, wanted)
    made: Samples = resample_poly(samples, wanted // common, rate // common).astype(np.float32)
    return made


def private_data(folder: Path) -> Path:
    """A copy of espeak-ng's data in ``folder`` to which variants can be added; where those go. Raises SpeechError."""
    installed = _installed_data()
    data = folder / "espeak-ng-data"
    data.mkdir(parents=True, exist_ok=True)
    for entry in installed.iterdir():
        link = data / entry.name
        if entry.name != "voices" and not link.exists():
            link.symlink_to(entry)
    variants = data / "voices" / "!v"
    shutil.copytree(installed / "voices" / "!v", variants, dirs_exist_ok=True)
    return variants


def _installed_data() -> Path:
    if shutil.which("espeak-ng") is None:
        raise SpeechError(MISSING)
    said = subprocess.run(["espeak-ng", "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"Data at: (.+)", said)
    if found is None:
        raise SpeechError(f"espeak-ng does not say where its data is: {said!r}")
    return Path(found.group(1).strip())


def _library() -> ctypes.CDLL:
    name = find_library("espeak-ng")
    for candidate in (name, "libespeak-ng.so.1", "libespeak-ng.1.dylib"):
        if candidate is not None:
            try:
                return ctypes.CDLL(candidate)
            except OSError:
                continue
    raise SpeechError(MISSING)
