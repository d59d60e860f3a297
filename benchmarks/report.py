"""Figures with what they must reach: a table for people, JSON for comparisons."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.spread import Spread

RESULTS = Path(__file__).resolve().parent / "results"


class NotMeasured(Exception):
    """What was asked for cannot be measured here or yet; the message says why."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One number; ``at_most`` and ``at_least`` are what it must reach, None where nothing was promised.

    ``least`` and ``most``: of several measurements, whose median ``value`` is, or what they come to together.
    """

    name: str
    value: float
    unit: str
    at_most: float | None = None
    at_least: float | None = None
    least: float | None = None
    most: float | None = None

    @property
    def reached(self) -> bool:
        return (self.at_most is None or self.value <= self.at_most) and (
            self.at_least is None or self.value >= self.at_least
        )

    @property
    def bound(self) -> str:
        least = f"at least {self.at_least:g}" if self.at_least is not None else ""
        most = f"at most {self.at_most:g}" if self.at_most is not None else ""
        return ", ".join(part for part in (least, most) if part)

    @property
    def shown(self) -> str:
        """With the least and the most of several."""
        if self.least is None or self.most is None:
            return f"{self.value:,.3f}"
        return f"{self.value:,.3f} ({self.least:,.3f} to {self.most:,.3f})"


def of_spread(
    name: str, of: Spread, unit: str, *, at_most: float | None = None, at_least: float | None = None
) -> Figure:
    """Of several measurements."""
    return Figure(name, of.median, unit, at_most=at_most, at_least=at_least, least=of.least, most=of.most)


@dataclass(frozen=True, slots=True)
class Report:
    """``notes``: what was not measured and why, and what was chosen on the way."""

    benchmark: str
    figures: tuple[Figure, ...]
    notes: tuple[str, ...] = ()

    @property
    def reached(self) -> bool:
        return all(figure.reached for figure in self.figures)


def show(reports: Sequence[Report]) -> None:
    table = Table("benchmark", "figure", "value", "unit", "must be", "", title="bulkscribe benchmarks")
    for report in reports:
        for row, figure in enumerate(report.figures):
            verdict = "" if not figure.bound else "reached" if figure.reached else "MISSED"
            name = report.benchmark if row == 0 else ""
            table.add_row(name, figure.name, figure.shown, figure.unit, figure.bound, verdict)
        table.add_section()
    console = Console(width=max(Console().width, 130))
    console.print(table)
    for report in reports:
        for note in report.notes:
            console.print(f"{report.benchmark}: {note}", highlight=False, markup=False)


def save(report: Report) -> Path:
    """Writes `results/<benchmark>.json` and returns its path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{report.benchmark}.json"
    document = {
        "benchmark": report.benchmark,
        "measuredAt": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cores": os.cpu_count(), "system": platform.system(), "python": platform.python_version()},
        "figures": [asdict(figure) | {"reached": figure.reached} for figure in report.figures],
        "notes": list(report.notes),
    }
    path.write_text(json.dumps(document, indent=2) + "\n")
    return path
