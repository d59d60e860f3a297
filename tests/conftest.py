"""What all tests share: an environment without our settings, and one running system a session."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from scripts.system import OWN_SETTINGS
from tests.system import System, running_system


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nor into a person's home: the batch runner remembers its sessions there."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
    for name in [*os.environ]:
        if name.startswith((*OWN_SETTINGS, "HF_", "GRPC_")):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with running_system(tmp_path_factory.mktemp("system")) as running:
        yield running
