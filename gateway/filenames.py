"""Names of files in HTTP headers."""

from __future__ import annotations

from urllib.parse import quote


def content_disposition(name: str) -> str:
    """`Content-Disposition` that offers ``name`` for saving: plain ASCII for old clients, RFC 5987 for all others."""
    plain = "".join(character if _is_plain(character) else "_" for character in name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def _is_plain(character: str) -> bool:
    return character.isascii() and character.isprintable() and character not in '"\\%'
