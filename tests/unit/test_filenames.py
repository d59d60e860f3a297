"""Names of recordings: safe to show, and still people's own."""

from __future__ import annotations

import pytest

from gateway.filenames import content_disposition
from services.contract.filenames import MAX_BYTES, safe_filename


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("interview-001.mp3", "interview-001.mp3"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\talk.wav", "talk.wav"),
        ("/abs/olute/", "olute"),
        ("a\x00b\x1b[31m\n.wav", "ab[31m.wav"),
        ("👩‍👩‍👧 día 🎙️.wav", "👩‍👩‍👧 día 🎙️.wav"),
        ("evil\u202egpj.exe", "evilgpj.exe"),
        ("\ud800lone.wav", "lone.wav"),
        ("  spaced.wav ", "spaced.wav"),
        ("日本語.flac", "日本語.flac"),
        *((nothing, "recording") for nothing in (None, "", "   ", ".", "..", "/", "\x00", "a/..")),
    ],
)
def test_names_are_made_safe(given: str | None, shown: str) -> None:
    assert safe_filename(given) == shown


def test_long_names_keep_their_extension() -> None:
    name = safe_filename("x" * 400 + ".flac")
    assert len(name) == MAX_BYTES
    assert name.endswith("x.flac")
    assert len(safe_filename("y" * 400)) == MAX_BYTES
    assert len(safe_filename("z." + "y" * 400)) == MAX_BYTES
    assert len(safe_filename("🎙" * 400 + ".mp3").encode()) <= MAX_BYTES
    assert safe_filename("🎙" * 400 + ".mp3").endswith("🎙.mp3")


def test_content_disposition_is_one_safe_header() -> None:
    header = content_disposition('naïve "🎙"; a%2f.wav.srt')
    assert header.isascii()
    assert header.startswith("attachment; filename=\"na_ve ___; a_2f.wav.srt\"; filename*=UTF-8''na%C3%AFve")
