"""What was measured of the bundled models and of the new ones, beside each other: a table, and JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

BUNDLED, NEW = "bundled", "new"


@dataclass(frozen=True, slots=True)
class Figure:
    """``value`` of ``what`` on the set ``of``, by ``model``: BUNDLED or NEW. ``what`` ends in its unit."""

    of: str
    what: str
    model: str
    value: float


def write(figures: Sequence[Figure], path: Path) -> None:
    path.write_text(json.dumps([asdict(figure) for figure in figures], indent=1) + "\n", encoding="utf-8")


def read(path: Path) -> list[Figure]:
    return [Figure(**figure) for figure in json.loads(path.read_text(encoding="utf-8"))]


def show(figures: Sequence[Figure]) -> None:
    table = Table("set", "", BUNDLED, NEW, title="bundled models and new ones, on voices that neither heard")
    values = {(figure.of, figure.what, figure.model): figure.value for figure in figures}
    before = ""
    for of, what in dict.fromkeys((figure.of, figure.what) for figure in figures):
        if of != before:
            table.add_section()
        shown = [f"{values[of, what, model]:g}" if (of, what, model) in values else "" for model in (BUNDLED, NEW)]
        table.add_row("" if of == before else of, what, *shown)
        before = of
    console = Console()
    console.width = max(console.width, 110)
    console.print(table)
