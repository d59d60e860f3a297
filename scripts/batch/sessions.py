"""The session with each gateway, remembered for runs whose state file is gone: with it they find their jobs again.

A convenience: a file that cannot be read or written is no error. The cookies in it are secrets.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from scripts.batch.storage import StorageError, replacing

NAME = "sessions.json"


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
    """Cookies by the gateway's address; remembers nothing where ``path`` is None."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def find(self, url: str) -> str | None:
        return self._read().get(url)

    def remember(self, url: str, cookie: str) -> None:
        if self._path is None or self.find(url) == cookie:
            return
        with contextlib.suppress(OSError, StorageError):
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with _alone(self._path.parent), replacing(self._path) as file:
                file.write(json.dumps(self._read() | {url: cookie}, indent=2).encode() + b"\n")

    def _read(self) -> dict[str, str]:
        if self._path is None:
            return {}
        try:
            found = json.loads(self._path.read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}
        if not isinstance(found, dict):
            return {}
        return {url: cookie for url, cookie in found.items() if isinstance(cookie, str) and is_cookie(cookie)}


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
