"""A process's folder: private where the process made it, and one process's at a time."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from services.runtime.folder import make_private, owned_folder
from services.runtime.lifecycle import StartupError


def mode(folder: Path) -> int:
    return stat.S_IMODE(folder.stat().st_mode)


def test_a_folder_that_is_made_is_private_and_so_are_those_above_it(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with owned_folder(tmp_path / "a" / "b", "DATA_DIR", "controller"):
        assert [mode(folder) for folder in (tmp_path, tmp_path / "a", tmp_path / "a" / "b")] == [0o755, 0o700, 0o700]


def test_a_folder_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    with owned_folder(tmp_path, "DATA_DIR", "controller"):
        assert mode(tmp_path) == 0o750
    assert os.listdir(tmp_path) == ["controller.lock"]


def test_a_folder_is_one_process_at_a_time_and_what_is_no_folder_is_said(tmp_path: Path) -> None:
    used = pytest.raises(StartupError, match="used by another controller")
    with owned_folder(tmp_path, "DATA_DIR", "controller"), used, owned_folder(tmp_path, "DATA_DIR", "controller"):
        pass
    for folder in (tmp_path / "controller.lock", tmp_path / "controller.lock" / "x"):
        with pytest.raises(StartupError, match="cannot be written"), owned_folder(folder, "D", "controller"):
            pass
        with pytest.raises(OSError, match=r"File exists|Not a directory"):
            make_private(folder)
