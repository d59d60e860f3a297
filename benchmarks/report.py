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

RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True, slots=True)
class Figure:
    """One number; ``at_most`` and ``at_least`` are what it must reach, None where nothing was promised."""

    name: str
    value: float
    unit: str
    at_most: float | None = None
    at_least: float | None = None

    @property
    def reached(self) -> bool:
        return (self.at_most is None or self.value <= self.at_most) and (
            self.at_least is None or self.value >= self.at_least
        )

    @property
    def bound(self) -> str:
        if self.at_most is not None:
            return f"at most {self.at_most:g}"
        return f"at least {self.at_least:g}" if self.at_least is not None else ""


@dataclass(frozen=True, slots=True)
class Report:
    benchmark: str
    figures: tuple[Figure, ...]

    @property
    def reached(self) -> bool:
        return all(figure.reached for figure in self.figures)


def show(reports: Sequence[Report]) -> None:
    table = Table("benchmark", "figure", "value", "unit", "must be", "", title="bulkscribe benchmarks")
    for report in reports:
        for row, figure in enumerate(report.figures):
            verdict = "" if not figure.bound else "reached" if figure.reached else "MISSED"
            name = report.benchmark if row == 0 else ""
            table.add_row(name, figure.name, f"{figure.value:,.3f}", figure.unit, figure.bound, verdict)
        table.add_section()
    Console(width=max(Console().width, 130)).print(table)


def save(report: Report) -> Path:
    """Writes `results/<benchmark>.json` and returns its path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{report.benchmark}.json"
    document = {
        "benchmark": report.benchmark,
        "measuredAt": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cores": os.cpu_count(), "system": platform.system(), "python": platform.python_version()},
        "figures": [asdict(figure) | {"reached": figure.reached} for figure in report.figures],
    }
    path.write_text(json.dumps(document, indent=2) + "\n")
    return path
