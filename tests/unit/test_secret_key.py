"""The gateway's own key: made once, whole, private, and no reason not to start."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway.secret_key import NAME, kept_key


def test_it_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    first = kept_key(folder)
    assert first.trouble == ""
    assert len(first.key) >= 32
    assert kept_key(folder) == first
    assert stat.S_IMODE((folder / NAME).stat().st_mode) == 0o600
    assert os.listdir(folder) == [NAME]
    assert kept_key(tmp_path / "other").key != first.key


def test_gateways_that_start_together_come_to_the_same_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        assert len(set(pool.map(kept_key, [tmp_path] * 64))) == 1


@pytest.mark.parametrize("content", [b"", b"\n", b"short", b"\xff"])
def test_a_file_that_is_no_key_is_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / NAME).write_bytes(content)
    made = kept_key(tmp_path)
    assert len(made.key) >= 32
    assert kept_key(tmp_path) == made


def test_a_folder_that_cannot_be_written_costs_the_keeping_only(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    first, second = (kept_key(tmp_path / "file" / "folder") for _ in range(2))
    assert first.key != second.key
    assert "Not a directory" in first.trouble


def test_a_disk_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", failing)
    assert kept_key(tmp_path).trouble == "No space left on device"
    assert os.listdir(tmp_path) == []
