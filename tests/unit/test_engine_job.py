"""A job in the engine child, without a device."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from services.worker.engine import job
from services.worker.engine.job import _Job


@pytest.fixture
def released(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    monkeypatch.setattr(job, "_RETRY_SECONDS", 0.0)
    return []


def detected(monkeypatch: pytest.MonkeyPatch, released: list[None], *errors: Exception) -> tuple[str, float]:
    """What a job hears while the device answers with these errors first."""
    answers = list(errors)

    def detect(model: object, audio: object) -> tuple[str, float]:
        if answers:
            raise answers.pop(0)
        return "de", 0.9

    monkeypatch.setattr(job, "detect_language", detect)
    memory = SimpleNamespace(release=lambda: released.append(None))
    nothing: Any = SimpleNamespace(options=None)
    tools: Any = SimpleNamespace(memory=memory)
    return _Job(nothing, tools, lambda report: None, lambda: False)._detected(nothing, [])


SHORT = RuntimeError("CUDA failed with error out of memory")


def test_a_language_is_heard_when_there_is_memory_again(monkeypatch: pytest.MonkeyPatch, released: list[None]) -> None:
    assert detected(monkeypatch, released, SHORT, SHORT) == ("de", 0.9)
    assert len(released) >= 2


def test_where_there_never_is_the_error_is_told(monkeypatch: pytest.MonkeyPatch, released: list[None]) -> None:
    with pytest.raises(RuntimeError, match="out of memory"):
        detected(monkeypatch, released, *[SHORT] * 20)


def test_other_errors_are_told_at_once(monkeypatch: pytest.MonkeyPatch, released: list[None]) -> None:
    with pytest.raises(ValueError, match="bands"):
        detected(monkeypatch, released, ValueError("80 bands, not 128"))
    assert released == []
