"""The gateway's own key: made once, whole, private, and no reason not to start."""

from __future__ import annotations

import fcntl
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway.secret_key import NAME, KeptKey, kept_key


def test_it_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    first = kept_key(folder)
    assert first.trouble == ""
    assert len(first.key) >= 32
    assert kept_key(folder) == first
    assert stat.S_IMODE((folder / NAME).stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert os.listdir(folder) == [NAME]
    assert kept_key(tmp_path / "other").key != first.key


def test_gateways_that_start_together_come_to_the_same_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        assert len(set(pool.map(kept_key, [tmp_path] * 64))) == 1


@pytest.mark.parametrize("content", [b"", b"\n", b"short", b"\xff"])
def test_a_file_that_is_no_key_is_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / NAME).write_bytes(content)
    (tmp_path / NAME).chmod(0o600)
    made = kept_key(tmp_path)
    assert len(made.key) >= 32
    assert kept_key(tmp_path) == made


def test_a_folder_that_cannot_be_written_costs_the_keeping_only(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    first, second = (kept_key(tmp_path / "file" / "folder") for _ in range(2))
    assert first.key != second.key
    assert "Not a directory" in first.trouble


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_key_that_others_may_know_is_not_used(tmp_path: Path, mode: int) -> None:
    known = kept_key(tmp_path).key
    (tmp_path / NAME).chmod(mode)
    first, second = kept_key(tmp_path), kept_key(tmp_path)
    assert known not in (first.key, second.key)
    assert first.key != second.key
    assert first.trouble == f"{NAME} is open to others: its mode is {mode:04o}, not 0600"
    (tmp_path / NAME).chmod(0o600)
    assert kept_key(tmp_path) == KeptKey(known)


def test_another_users_key_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = kept_key(tmp_path).key
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    assert kept_key(tmp_path).key != known
    assert "another user" in kept_key(tmp_path).trouble


@pytest.mark.parametrize("kind", ["pipe", "folder", "link"])
def test_what_is_no_file_is_not_read_and_not_waited_for(tmp_path: Path, kind: str) -> None:
    elsewhere = kept_key(tmp_path / "elsewhere").key
    if kind == "pipe":
        os.mkfifo(tmp_path / NAME, 0o600)
    elif kind == "folder":
        (tmp_path / NAME).mkdir(0o700)
    else:
        (tmp_path / NAME).symlink_to(tmp_path / "elsewhere" / NAME)
    kept = kept_key(tmp_path)
    assert kept.trouble
    assert len(kept.key) >= 32
    assert kept.key != elsewhere


def test_a_file_system_without_locks_gives_the_key_it_has_and_makes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = kept_key(tmp_path / "a")

    def failing(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", failing)
    assert kept_key(tmp_path / "a") == known
    assert kept_key(tmp_path / "b").trouble == "No locks available"
    assert os.listdir(tmp_path / "b") == []


def test_a_disk_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", failing)
    assert kept_key(tmp_path).trouble == "No space left on device"
    assert os.listdir(tmp_path) == []
