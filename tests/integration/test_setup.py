"""`make setup`, with a Python that only notes what it is asked for."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PYTHON = """#!/bin/sh
echo "$*" >> asked
case "$*" in
  "-m venv "*) mkdir -p .venv/bin && cp "$0" .venv/bin/python && touch .venv/pip ;;
  "-m pip "*) [ -e .venv/pip ] ;;
esac
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("Makefile", "constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    return tmp_path


def asked(folder: Path) -> list[str]:
    """What one more setup asks for."""
    (folder / "asked").unlink(missing_ok=True)
    make = ["make", "-s", "setup", "PYTHON=./python", "TORCH=", "EXTRAS="]
    subprocess.run(make, cwd=folder, check=True, capture_output=True, timeout=60)
    return (folder / "asked").read_text().splitlines() if (folder / "asked").exists() else []


def test_it_is_done_once_and_again_when_the_packages_change(folder: Path) -> None:
    first = asked(folder)
    assert "-m venv --clear .venv" in first
    assert any("install" in line and "-e ." in line for line in first)
    assert asked(folder) == []
    (folder / ".venv" / ".installed").unlink()
    again = asked(folder)
    assert not any("-m venv" in line for line in again)
    assert any("install" in line for line in again)


def test_an_environment_that_was_cut_while_it_was_made_is_made_anew(folder: Path) -> None:
    (folder / ".venv" / "bin").mkdir(parents=True)
    shutil.copy(folder / "python", folder / ".venv" / "bin" / "python")
    assert "-m venv --clear .venv" in asked(folder)
