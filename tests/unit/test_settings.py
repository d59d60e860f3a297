"""Wrong settings end in one line each; what is right is read as it is meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.runtime.settings import load_settings, read_settings, setting_rows
from services.worker.settings import WorkerSettings

PREFIXES = ("WORKER_", "HF_TOKEN", "LOG_DIR")


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith(PREFIXES):
            monkeypatch.delenv(name)
    monkeypatch.setenv("WORKER_TOKEN", "a-token")


def read(monkeypatch: pytest.MonkeyPatch, **settings: str) -> WorkerSettings:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    return load_settings(WorkerSettings, "worker", "", [])


def test_the_promised_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = read(monkeypatch)
    assert (settings.worker_host, settings.worker_port) == ("0.0.0.0", 8477)
    assert (settings.worker_max_concurrent_jobs, settings.worker_model) == (1, "large-v3")
    assert (settings.worker_max_file_mb, settings.worker_ping_public) == (2000, False)
    assert (settings.worker_data_dir, settings.log_dir) == (Path("data/worker"), Path("logs"))
    assert (settings.worker_device, settings.worker_diarization_model) == ("auto", "auto")
    assert settings.worker_models == ()


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("WORKER_MAX_CONCURRENT_JOBS", "auto", 0),
        ("WORKER_MAX_CONCURRENT_JOBS", "12", 12),
        ("WORKER_BATCH_SIZE", "auto", 0),
        ("WORKER_BATCH_SIZE", "32", 32),
        ("WORKER_MODELS", " turbo, demo ,,turbo", ("turbo", "demo")),
        ("WORKER_MODELS", "", ()),
        ("WORKER_PING_PUBLIC", "TRUE", True),
        ("WORKER_PORT", "0", 0),
        ("WORKER_COMPUTE_TYPE", "int8", "int8"),
        ("WORKER_AUDIO_MAX_AGE_HOURS", "0.5", 0.5),
    ],
)
def test_values(monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: object) -> None:
    assert getattr(read(monkeypatch, **{name: value}), name.lower()) == expected


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("WORKER_TOKEN", "", "an empty token"),
        ("WORKER_TOKEN", "pa\tss", "printable ASCII"),
        ("WORKER_PORT", "-1", "must be greater than or equal to 0"),
        ("WORKER_PORT", "65536", "must be less than or equal to 65535"),
        ("WORKER_MAX_CONCURRENT_JOBS", "-1", "must be a whole number from 1 to 1000, or auto"),
        ("WORKER_MAX_CONCURRENT_JOBS", "", "must be a whole number from 1 to 1000, or auto"),
        ("WORKER_BATCH_SIZE", "many", "must be a whole number from 1 to 1024, or auto"),
        ("WORKER_COMPUTE_TYPE", "int3", "must be ''"),
        ("WORKER_AUDIO_MAX_AGE_HOURS", "soon", "must be a number"),
        ("WORKER_MODEL", "", "at least 1 character"),
        ("WORKER_HOST", "", "at least 1 character"),
        ("WORKER_DATA_DIR", "", "an empty path is none"),
        ("WORKER_MODEL_DIR", "", "an empty path is none"),
    ],
)
def test_one_line_names_variable_value_and_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str, said: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        read(monkeypatch, **{name: value})
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{name}=")
    assert said in line
    if name == "WORKER_TOKEN":
        assert not value or value not in line


def test_two_wrong_ones_are_two_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read(monkeypatch, WORKER_PORT="x", WORKER_DEVICE="x")
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_what_is_given_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKER_TOKEN", "")
    assert read_settings(WorkerSettings, worker_token="given").worker_token.get_secret_value() == "given"


def test_every_setting_is_described_and_the_token_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(description.endswith((".", ")")) for _, _, description in setting_rows(WorkerSettings))
    assert "a-token" not in repr(read(monkeypatch))
