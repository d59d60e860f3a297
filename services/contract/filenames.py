"""What a recording may be called, wherever it is shown, stored or written: no path, nothing that acts on a terminal."""

from __future__ import annotations

import re
import unicodedata

MAX_BYTES = 240
"""Of a name in UTF-8; file systems allow 255, and an extension is added to name transcripts."""

LONGEST_EXTENSION_BYTES = 16
NAMELESS = "recording"

# Cc control, Cs lone surrogates, Cn unassigned; Zl and Zp end lines; the marks turn text around, and hide an extension.
_DROPPED_CATEGORIES = frozenset({"Cc", "Cs", "Cn", "Zl", "Zp"})
_DIRECTION_MARKS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")


def safe_filename(name: str | None) -> str:
    """The last part of a path of either kind. Emoji and their joiners stay; a name that is too long keeps its extension."""
    last = re.split(r"[/\\]", (name or "").rstrip("/"))[-1]
    kept = "".join(character for character in last if _is_shown(character)).strip()
    return _shortened(kept) if kept.strip(".") else NAMELESS


def _is_shown(character: str) -> bool:
    return unicodedata.category(character) not in _DROPPED_CATEGORIES and character not in _DIRECTION_MARKS


def _shortened(name: str) -> str:
    if len(name.encode()) <= MAX_BYTES:
        return name
    stem, dot, extension = name.rpartition(".")
    if not stem or len(extension.encode()) > LONGEST_EXTENSION_BYTES:
        stem, dot, extension = name, "", ""
    room = MAX_BYTES - len((dot + extension).encode())
    return stem.encode()[:room].decode(errors="ignore") + dot + extension
