"""A process's own folder: two processes would each believe that they own what lies in it."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from services.runtime.lifecycle import StartupError

PRIVATE = 0o700
"""Recordings, transcripts and keys are nobody else's."""


@contextmanager
def owned_folder(folder: Path, setting: str, owner: str) -> Iterator[None]:
    """Makes the folder and holds a lock on it, which the kernel lets go when the process ends.

    ``setting`` is the variable that names the folder. Raises StartupError.
    """
    try:
        make_private(folder)
        lock = (folder / f"{owner}.lock").open("w")
    except OSError as error:
        raise StartupError(f"{setting}={str(folder)!r} cannot be written: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StartupError(f"{setting}={str(folder)!r} is used by another {owner} that runs.") from error
        yield


def make_private(folder: Path) -> None:
    """Makes the folder, and those above it that are missing: one of them may be another process's. What is there
    already keeps its mode, which somebody may have chosen. Raises OSError."""
    for missing in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
        missing.mkdir(PRIVATE, exist_ok=True)
    folder.mkdir(exist_ok=True)  # raises where it is no folder
