"""The controller's settings: the promised defaults, and one line for each thing that is wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from services.controller.settings import ControllerSettings
from services.runtime.settings import load_settings, read_settings, setting_rows, settings_help

PREFIXES = ("REMOTE_WORKER_", "CONTROLLER_", "DATA_DIR", "DATABASE_URL", "LOG_DIR")
URL, TOKEN = "http://gpu:8477", "s3cret-of-this-test"


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith(PREFIXES):
            monkeypatch.delenv(name)


def read(monkeypatch: pytest.MonkeyPatch, **settings: str) -> ControllerSettings:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    return read_settings(ControllerSettings)


def refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], **settings: str) -> str:
    """The one line that the process ends with."""
    with pytest.raises(SystemExit) as ended:
        read(monkeypatch, **settings)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_the_promised_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = read(monkeypatch)
    assert (settings.remote_worker_url, settings.worker_urls, settings.remote_worker_mode) == ("", (), "off")
    assert settings.remote_worker_timeout_seconds == 3600
    assert settings.remote_worker_capacity_timeout_seconds == 86400
    assert settings.remote_worker_poll_seconds == 5
    assert settings.controller_listen == "127.0.0.1:8475"
    assert (settings.data_dir, settings.log_dir) == (Path("./data"), Path("./logs"))
    assert settings.store_url == "sqlite:///data/bulkscribe.db"
    assert not settings.remote_worker_token.get_secret_value()
    assert not settings.controller_token.get_secret_value()


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("REMOTE_WORKER_TIMEOUT_SECONDS", "0.5", 0.5),
        ("REMOTE_WORKER_POLL_SECONDS", "0.1", 0.1),
        ("REMOTE_WORKER_POLL_SECONDS", "60", 60),
        ("REMOTE_WORKER_URL", "", ""),
        ("REMOTE_WORKER_MODE", "optional", "optional"),
        ("REMOTE_WORKER_CA", "/etc/ca.pem", Path("/etc/ca.pem")),
        ("CONTROLLER_LISTEN", "127.0.0.1:0", "127.0.0.1:0"),
        ("CONTROLLER_LISTEN", "localhost:65535", "localhost:65535"),
        ("CONTROLLER_LISTEN", "[::1]:8475", "[::1]:8475"),
        ("CONTROLLER_LISTEN", "127.9.9.9:8475", "127.9.9.9:8475"),
        ("CONTROLLER_MAX_UPLOAD_MB", "1", 1),
        ("DATABASE_URL", "postgresql+asyncpg://u@h/d", "postgresql+asyncpg://u@h/d"),
        ("DATA_DIR", "/srv/data", Path("/srv/data")),
    ],
)
def test_values(monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: object) -> None:
    assert getattr(read(monkeypatch, **{name: value}), name.lower()) == expected


def test_the_database_is_in_the_data_folder_unless_a_url_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read(monkeypatch, DATA_DIR="/srv/data").store_url == "sqlite:////srv/data/bulkscribe.db"
    assert read(monkeypatch, DATABASE_URL="postgresql+asyncpg://h/d").store_url == "postgresql+asyncpg://h/d"


def test_several_workers_are_separated_by_commas_each_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    urls = " http://a:8477/, https://b:8477 ,,http://a:8477,https://c"
    settings = read(monkeypatch, REMOTE_WORKER_URL=urls)
    assert settings.worker_urls == ("http://a:8477", "https://b:8477", "https://c")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("REMOTE_WORKER_MODE", "always", "must be 'off', 'optional' or 'required'"),
        ("REMOTE_WORKER_MODE", "", "must be 'off', 'optional' or 'required'"),
        ("REMOTE_WORKER_TIMEOUT_SECONDS", "0", "must be greater than 0"),
        ("REMOTE_WORKER_TIMEOUT_SECONDS", "an hour", "must be a number"),
        ("REMOTE_WORKER_TIMEOUT_SECONDS", "nan", "must be greater than 0"),
        ("REMOTE_WORKER_CAPACITY_TIMEOUT_SECONDS", "-1", "must be greater than 0"),
        ("REMOTE_WORKER_POLL_SECONDS", "0", "must be greater than or equal to 0.1"),
        ("REMOTE_WORKER_POLL_SECONDS", "61", "must be less than or equal to 60"),
        ("REMOTE_WORKER_LEASE_SECONDS", "0", "must be greater than 0"),
        ("REMOTE_WORKER_URL", "gpu:8477", "http://host:port or https://host:port"),
        ("REMOTE_WORKER_URL", "ftp://gpu:8477", "http://host:port or https://host:port"),
        ("REMOTE_WORKER_URL", "http://", "http://host:port or https://host:port"),
        ("REMOTE_WORKER_URL", "http://gpu:99999", "http://host:port or https://host:port"),
        ("REMOTE_WORKER_URL", "http://gpu:8477,nonsense", "http://host:port or https://host:port"),
        ("REMOTE_WORKER_URL", "http://gpu:8477/worker", "http://host:port or https://host:port"),
        ("REMOTE_WORKER_URL", "http://gpu:8477?token=x", "http://host:port or https://host:port"),
        ("CONTROLLER_LISTEN", "127.0.0.1:99999", "must be host:port with a port from 0 (any free one) to 65535"),
        ("CONTROLLER_LISTEN", "127.0.0.1:-1", "must be host:port"),
        ("CONTROLLER_LISTEN", "127.0.0.1", "must be host:port"),
        ("CONTROLLER_LISTEN", ":8475", "must be host:port"),
        ("CONTROLLER_LISTEN", "8475", "must be host:port"),
        ("CONTROLLER_LISTEN", "127.0.0.1:http", "must be host:port"),
        ("CONTROLLER_LISTEN", "", "must be host:port"),
        ("CONTROLLER_MAX_UPLOAD_MB", "0", "must be greater than 0"),
        ("CONTROLLER_MAX_UPLOAD_MB", "1.5", "must be a whole number"),
    ],
)
def test_one_line_names_variable_value_and_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str, said: str
) -> None:
    line = refusal(monkeypatch, capsys, **{name: value})
    assert line.startswith(f"{name}={value!r} is not allowed: ")
    assert said in line


def test_a_password_in_an_address_is_refused_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(monkeypatch, capsys, REMOTE_WORKER_URL="http://a:8477,https://me:passw0rd@gpu:8477")
    assert line.startswith("REMOTE_WORKER_URL='http://a:8477,https://***@gpu:8477' is not allowed: ")
    assert "the token is REMOTE_WORKER_TOKEN" in line
    assert "passw0rd" not in line


@pytest.mark.parametrize("name", ["REMOTE_WORKER_TOKEN", "CONTROLLER_TOKEN"])
@pytest.mark.parametrize("value", ["", " ", "\t "])
def test_an_empty_token_protects_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    line = refusal(monkeypatch, capsys, **{name: value})
    assert line.startswith(f"{name}=")
    assert "an empty token protects nothing; unset it, or give it a value" in line


def test_two_wrong_ones_are_two_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read(monkeypatch, REMOTE_WORKER_MODE="x", CONTROLLER_LISTEN="x")
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition("=")[0] for line in lines] == ["REMOTE_WORKER_MODE", "CONTROLLER_LISTEN"]


@pytest.mark.parametrize("given", [{}, {"REMOTE_WORKER_URL": URL}, {"REMOTE_WORKER_TOKEN": TOKEN}])
def test_required_needs_an_address_and_a_token(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], given: dict[str, str]
) -> None:
    line = refusal(monkeypatch, capsys, REMOTE_WORKER_MODE="required", **given)
    assert line.startswith("REMOTE_WORKER_MODE=required needs REMOTE_WORKER_URL and REMOTE_WORKER_TOKEN")
    assert TOKEN not in line


def test_required_with_nothing_but_commas_for_addresses_has_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"REMOTE_WORKER_URL": " , ,", "REMOTE_WORKER_TOKEN": TOKEN}
    assert "REMOTE_WORKER_URL" in refusal(monkeypatch, capsys, REMOTE_WORKER_MODE="required", **given)


@pytest.mark.parametrize("mode", ["optional", "required"])
def test_an_address_and_a_token_are_enough(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    settings = read(monkeypatch, REMOTE_WORKER_MODE=mode, REMOTE_WORKER_URL=URL, REMOTE_WORKER_TOKEN=TOKEN)
    assert (settings.remote_worker_mode, settings.worker_urls) == (mode, (URL,))
    assert settings.remote_worker_token.get_secret_value() == TOKEN


def test_an_address_without_a_token_is_wrong_unless_the_remote_path_is_off(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert read(monkeypatch, REMOTE_WORKER_URL=URL).worker_urls == (URL,)
    line = refusal(monkeypatch, capsys, REMOTE_WORKER_MODE="optional", REMOTE_WORKER_URL=URL)
    assert line.startswith("REMOTE_WORKER_URL is set without REMOTE_WORKER_TOKEN")


@pytest.mark.parametrize("listen", ["0.0.0.0:8475", "[::]:8475", "192.168.1.5:8475", "controller.lan:8475"])
def test_an_open_address_needs_a_token(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], listen: str
) -> None:
    line = refusal(monkeypatch, capsys, CONTROLLER_LISTEN=listen)
    assert line.startswith(f"CONTROLLER_LISTEN={listen!r} is open to other machines without CONTROLLER_TOKEN")
    assert read(monkeypatch, CONTROLLER_TOKEN=TOKEN).controller_listen == listen


def test_no_secret_is_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    given = {"CONTROLLER_TOKEN": TOKEN, "REMOTE_WORKER_TOKEN": TOKEN + "-2"}
    settings = read(monkeypatch, REMOTE_WORKER_URL=URL, **given)
    assert TOKEN not in f"{settings!r} {settings} {settings.model_dump_json()}"
    assert TOKEN not in settings_help(ControllerSettings)
    assert TOKEN not in refusal(monkeypatch, capsys, REMOTE_WORKER_MODE="always")
    assert TOKEN not in refusal(monkeypatch, capsys, REMOTE_WORKER_MODE="required", REMOTE_WORKER_URL="")


def test_the_help_lists_every_setting_with_its_default(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        load_settings(ControllerSettings, "controller", "The controller.", ["--help"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0
    for name, default, description in setting_rows(ControllerSettings):
        assert f"{name} ({default})" in shown
        assert description.endswith((".", ")"))
    assert "REMOTE_WORKER_MODE (off)" in shown
    assert "REMOTE_WORKER_TOKEN (none)" in shown


def test_settings_do_not_change_once_read(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = read(monkeypatch)
    with pytest.raises(ValueError, match="frozen"):
        settings.remote_worker_mode = "required"
