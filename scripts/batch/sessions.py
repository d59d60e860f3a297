"""The sessions with each gateway, remembered for runs whose state file is gone: with them they find their jobs again.

A convenience: a file that cannot be read or written is no error. The cookies in it are secrets.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from scripts.batch.storage import StorageError, replacing

NAME = "sessions.json"
KEPT = 8
"""Sessions of one gateway: it may come up with another key for once, and with the old one again."""

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def sessions_file(environment: Mapping[str, str]) -> Path | None:
    """`$XDG_STATE_HOME/bulkscribe/sessions.json` (by the XDG base directory rules); None without any home."""
    state = Path(environment.get("XDG_STATE_HOME", ""))
    if not state.is_absolute():
        home = Path(environment.get("HOME", ""))
        if not home.is_absolute():
            return None
        state = home / ".local" / "state"
    return state / "bulkscribe" / NAME


class RememberedSessions:
    """Cookies by the gateway's key, the one used last first; remembers nothing where ``path`` is None."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def known(self, key: str) -> Sequence[str]:
        return self._read().get(key, [])

    def remember(self, key: str, cookie: str) -> None:
        if self._path is None or self.known(key)[:1] == [cookie]:
            return
        with contextlib.suppress(OSError, StorageError):
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with _alone(self._path.parent), replacing(self._path) as file:
                known = self._read()
                known[key] = [cookie, *(other for other in known.get(key, []) if other != cookie)][:KEPT]
                file.write(json.dumps(known, indent=2).encode() + b"\n")

    def _read(self) -> dict[str, list[str]]:
        if self._path is None:
            return {}
        try:
            found = json.loads(self._path.read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}
        if not isinstance(found, dict):
            return {}
        known: dict[str, list[str]] = {}
        for url, cookies in found.items():
            with contextlib.suppress(ValueError):  # no address
                known.setdefault(gateway_key(url), []).extend(_cookies(cookies))
        return known


def gateway_key(url: str) -> str:
    """The address that sessions are kept under: without a password, and one for all names of this machine's loopback.

    Raises ValueError for what is no address.
    """
    parts = urlsplit(url)
    host = "localhost" if parts.hostname in _LOOPBACK else parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}{parts.path.rstrip('/')}"


def _cookies(value: object) -> list[str]:
    """A list of them, or the only one as it was kept once."""
    values = value if isinstance(value, list) else [value]
    return [cookie for cookie in values if isinstance(cookie, str) and is_cookie(cookie)]


def is_cookie(text: str) -> bool:
    """Whether it can be sent as a cookie's value (RFC 6265, section 4.1.1)."""
    return bool(text) and all("!" <= character <= "~" and character not in '",;\\' for character in text)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Of two runs that remember at once, neither forgets what the other does."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
