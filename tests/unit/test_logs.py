"""One line a record, whole, and no secret in it."""

from __future__ import annotations

import json
import logging
import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from services.runtime.logs import BLANK, configure_logs

SECRET = 'very"secret\\token'


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "app.log").read_text().splitlines()]


def test_what_a_line_holds(tmp_path: Path) -> None:
    configure_logs("worker", tmp_path / "deep" / "logs")
    structlog.get_logger().info("remote_attempt_accepted", job_id="j", path=Path("x"))
    logging.getLogger("library").warning("%s happened", "it")
    ours, theirs = lines(tmp_path / "deep" / "logs")
    assert {key: ours[key] for key in ("event", "level", "service", "job_id", "path")} == {
        "event": "remote_attempt_accepted",
        "level": "info",
        "service": "worker",
        "job_id": "j",
        "path": "x",
    }
    assert str(ours["timestamp"]).endswith("Z")
    assert (theirs["event"], theirs["level"]) == ("it happened", "warning")


def test_no_secret_gets_in_wherever_it_hides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("worker", tmp_path, [SECRET, "", "abc"])
    log = structlog.get_logger()
    log.info("event", token="other", Authorization="Bearer other", text=f"a {SECRET} b", deep=[{"x": SECRET}])
    try:
        _fail(SECRET)
    except ValueError:
        log.exception("failed")
    logging.getLogger("library").error("said %r", SECRET)
    written = (tmp_path / "app.log").read_text() + capsys.readouterr().err
    for shape in (SECRET, json.dumps(SECRET)[1:-1], repr(SECRET)[1:-1], "other"):
        assert shape not in written
    assert written.count(BLANK) >= 8
    assert "abc" not in BLANK
    assert "_fail" in written, "the traceback is there"


def _fail(secret: str) -> None:
    raise ValueError(f"cannot use {secret}")


def test_a_full_disk_stops_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "app.log").symlink_to("/dev/full")
    configure_logs("worker", tmp_path)
    structlog.get_logger().info("event")
    assert "event" in capsys.readouterr().err


def test_long_lines_of_several_processes_do_not_mix(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write, args=(tmp_path, mark)) for mark in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    texts = [str(line["text"]) for line in lines(tmp_path)]
    assert len(texts) == 400
    assert all(len(set(text)) == 1 for text in texts)


def _write(folder: Path, mark: str) -> None:
    configure_logs("worker", folder, level=logging.WARNING)
    logging.getLogger().handlers = [h for h in logging.getLogger().handlers if not isinstance(h, logging.StreamHandler)]
    for _ in range(200):
        structlog.get_logger().warning("long", text=mark * 30_000)
