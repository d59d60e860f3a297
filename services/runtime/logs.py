"""Structured logs: readable lines on stderr, JSON lines in `LOG_DIR/app.log`, which the processes share.

Each line is one appended write, so lines of several processes do not mix. Secrets never get in: fields with a
secret's name are dropped, and the values of the process's own secrets are blanked wherever they turn up.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

LOG_FILE = "app.log"
SECRET_FIELDS = frozenset(
    {"token", "authorization", "cookie", "csrf", "csrf_token", "secret", "secret_key", "hf_token", "session"}
)
BLANK = "[secret]"


def configure_logs(service: str, folder: Path | None, secrets: Iterable[str] = (), level: int = logging.INFO) -> None:
    """Sets the process's logging up; ``folder`` None means: no file. Raises OSError when it cannot be written."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _Service(service),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    blank = _Blank(secrets)
    terminal = logging.StreamHandler(sys.stderr)
    terminal.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,  # else the renderer prints every frame's variables
                _without_secret_fields,
                structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
                blank,
            ],
        )
    )
    handlers: list[logging.Handler] = [terminal]
    if folder is not None:
        handlers.append(_json_file(folder, shared, blank))
    logging.basicConfig(handlers=handlers, level=level, force=True)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)


def _json_file(folder: Path, shared: list[Processor], blank: Processor) -> logging.Handler:
    folder.mkdir(parents=True, exist_ok=True)
    handler = _AppendedLines(folder / LOG_FILE)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                _without_secret_fields,
                structlog.processors.JSONRenderer(default=str),
                blank,
            ],
        )
    )
    return handler


class _AppendedLines(logging.Handler):
    """One `write` a line, however long: a buffer would cut it, and another process write between."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)

    def emit(self, record: logging.LogRecord) -> None:
        line = f"{self.format(record)}\n".encode(errors="backslashreplace")
        # A full disk must not stop the work, nor fill the terminal: lines that cannot be written are left out.
        with contextlib.suppress(OSError):
            os.write(self._file, line)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        super().close()


class _Service:
    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event.setdefault("service", self._name)
        return event


def _without_secret_fields(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {key: value for key, value in event.items() if key.lower() not in SECRET_FIELDS}


class _Blank:
    """Works on the finished line: a secret may hide in a traceback, a list, or another library's message."""

    def __init__(self, secrets: Iterable[str]) -> None:
        # Shorter ones would blank ordinary words. Quoted, a secret may look otherwise.
        plain = {secret for secret in secrets if len(secret) >= 4}
        said = plain | {repr(secret)[1:-1] for secret in plain}
        shapes = said | {json.dumps(text)[1:-1] for text in said}
        self._secrets = sorted(shapes, key=len, reverse=True)

    def __call__(self, _logger: WrappedLogger, _method: str, line: Any) -> Any:
        for secret in self._secrets:
            line = line.replace(secret, BLANK)
        return line
