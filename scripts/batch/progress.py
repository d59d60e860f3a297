"""What people see while it runs: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column

from scripts.batch.answers import Report
from scripts.batch.recordings import shown
from scripts.batch.state import Status

LONGEST_NAME = 40


class Display(Protocol):
    """Hears of recordings by name; ``hashed`` and ``sent`` are in bytes, and each name begins before and ends after all
    else."""

    def tell(self, line: str) -> None: ...
    def begin(self, name: str) -> None: ...
    def hashed(self, name: str, size_bytes: int, total_bytes: int) -> None: ...
    def sent(self, name: str, size_bytes: int, total_bytes: int) -> None: ...
    def report(self, name: str, report: Report) -> None: ...
    def end(self, name: str, status: Status, reason: str) -> None: ...


@contextlib.contextmanager
def display(recordings: int) -> Iterator[Display]:
    """Bars where standard output is a terminal that can draw them; restores the terminal however it ends."""
    console = Console(file=sys.stdout)
    if not console.is_terminal or console.is_dumb_terminal:
        yield Lines()
        return
    bars = _progress(console)
    with bars:
        yield Bars(bars, recordings)


class Lines:
    """One line for each change, with the time and no control codes; for logs and pipes."""

    def __init__(self) -> None:
        self._latest: dict[str, str] = {}

    def tell(self, line: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)

    def begin(self, name: str) -> None:
        self._latest[name] = ""

    def hashed(self, name: str, size_bytes: int, total_bytes: int) -> None:
        """Seconds at the most, and no news for a log."""

    def sent(self, name: str, size_bytes: int, total_bytes: int) -> None:
        self._change(name, f"uploading {megabytes(total_bytes)}")

    def report(self, name: str, report: Report) -> None:
        self._change(name, doing(report))

    def end(self, name: str, status: Status, reason: str) -> None:
        self._change(name, f"{status.value}{reason and ': '}{reason}")
        self._latest.pop(name, None)

    def _change(self, name: str, text: str) -> None:
        if self._latest.get(name) != text:
            self._latest[name] = text
            self.tell(f"{shown(name)}: {text}")


class Bars:
    """A bar for the batch and one for each recording in flight."""

    def __init__(self, progress: Progress, recordings: int) -> None:
        self._progress = progress
        self._all = progress.add_task("all recordings", total=recordings, doing="")
        self._tasks: dict[str, TaskID] = {}

    def tell(self, line: str) -> None:
        self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def begin(self, name: str) -> None:
        self._tasks[name] = self._progress.add_task(shown(name), total=100, doing="")

    def hashed(self, name: str, size_bytes: int, total_bytes: int) -> None:
        self._bytes(name, size_bytes, total_bytes, "reading")

    def sent(self, name: str, size_bytes: int, total_bytes: int) -> None:
        self._bytes(name, size_bytes, total_bytes, "uploading")

    def _bytes(self, name: str, size_bytes: int, total_bytes: int, doing_what: str) -> None:
        text = f"{doing_what} {megabytes(total_bytes)}"
        self._progress.update(self._tasks[name], completed=size_bytes, total=max(total_bytes, 1), doing=text)

    def report(self, name: str, report: Report) -> None:
        text = " · ".join(filter(None, (doing(report), time_left(report.seconds_left))))
        self._progress.update(self._tasks[name], completed=report.percent, total=100, doing=text)

    def end(self, name: str, status: Status, reason: str) -> None:
        self._progress.remove_task(self._tasks.pop(name))
        self._progress.advance(self._all)
        self.tell(f"{shown(name)}: {status.value}{reason and ': '}{reason}")


def doing(report: Report) -> str:
    """What a job is at: a waiting one says what it waits for."""
    stage = report.stage if report.status is Status.RUNNING else ""
    return shown(report.message or stage or report.status.value.replace("_", " "))


def time_left(seconds: float | None) -> str:
    """As the page says it; empty while unknown."""
    if seconds is None:
        return ""
    minutes = round(seconds / 60)
    if minutes < 1:
        return "less than a minute left"
    return f"about {minutes} min left" if minutes < 60 else f"about {minutes // 60} h {minutes % 60} min left"


def megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1_000_000:.1f} MB"


def _progress(console: Console) -> Progress:
    name = Column(max_width=LONGEST_NAME, no_wrap=True, overflow="ellipsis")
    return Progress(
        TextColumn("{task.description}", markup=False, table_column=name),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[doing]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )
