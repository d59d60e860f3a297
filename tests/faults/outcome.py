"""What a scenario found: one row of the table, and one object of the JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.report import RESULTS
from tests.faults.decodes import Repeats

NOTES_SHOWN = 12


@dataclass
class Outcome:
    """``recoveries`` are in seconds; see `tests.faults` for what they are counted from."""

    fault: str
    seed: int
    times: int = 0
    jobs: int = 0
    lost: int = 0
    duplicated: int = 0
    unequal: int = 0
    wrong_segments: int = 0
    wrong_events: int = 0
    decoded_twice: int = 0
    decoded_twice_unavoidably: int = 0
    decoded_twice_held: int = 0
    oversubscribed: int = 0
    broken_promises: int = 0
    seconds: float = 0.0
    recoveries: list[float] = field(default_factory=list)
    measured: dict[str, list[float]] = field(default_factory=dict)
    """What else was timed, in seconds, by its name."""
    notes: list[str] = field(default_factory=list)
    logs: str = ""

    def note(self, text: str) -> None:
        self.notes.append(text)

    def measure(self, name: str, seconds: float, at_most: float | None = None) -> None:
        """``at_most``: what was promised."""
        self.measured.setdefault(name, []).append(round(seconds, 3))
        if at_most is not None:
            self.promise(seconds <= at_most, f"{name}: {seconds:.1f} s, at most {at_most:g} s were promised")

    def promise(self, kept: bool, text: str) -> None:
        if not kept:
            self.broken_promises += 1
            self.note(text)

    def take(self, repeats: Repeats) -> None:
        self.decoded_twice += repeats.needless
        self.decoded_twice_unavoidably += repeats.unavoidable
        self.decoded_twice_held += repeats.held
        self.notes += repeats.of

    @property
    def good(self) -> bool:
        return not (
            self.lost
            or self.duplicated
            or self.unequal
            or self.wrong_segments
            or self.wrong_events
            or self.decoded_twice
            or self.oversubscribed
            or self.broken_promises
        )

    @property
    def line(self) -> str:
        """For whoever waits for the table."""
        said = "kept" if self.good else f"BROKEN: {self.notes[:3]}"
        return f"{self.times} times, {self.jobs} jobs, {self.seconds:.0f} s, recovery {self.recovery_median} s: {said}"

    @property
    def recovery_median(self) -> float | None:
        return round(statistics.median(self.recoveries), 3) if self.recoveries else None

    @property
    def recovery_worst(self) -> float | None:
        return round(max(self.recoveries), 3) if self.recoveries else None

    def document(self) -> dict[str, Any]:
        rest = {"good": self.good, "recovery_median": self.recovery_median, "recovery_worst": self.recovery_worst}
        fields = asdict(self) | rest
        del fields["recoveries"], fields["logs"]
        return fields | {"notes": self.notes[:NOTES_SHOWN]}


def show(outcomes: Sequence[Outcome]) -> None:
    table = Table(
        *("fault", "times", "jobs", "lost", "dupl.", "transcripts\nunequal", "segments\nor events\nwrong"),
        *("windows\ndecoded\ntwice", "of those,\nhelpless", "slots\nover", "recovery\nmedian s", "recovery\nworst s"),
        *("seconds", ""),
        title="bulkscribe under faults",
    )
    for outcome in outcomes:
        table.add_row(
            outcome.fault,
            *map(str, (outcome.times, outcome.jobs, outcome.lost, outcome.duplicated, outcome.unequal)),
            str(outcome.wrong_segments + outcome.wrong_events),
            str(outcome.decoded_twice + outcome.decoded_twice_unavoidably),
            str(outcome.decoded_twice_unavoidably),
            str(outcome.oversubscribed),
            _figure(outcome.recovery_median),
            _figure(outcome.recovery_worst),
            f"{outcome.seconds:.0f}",
            "kept" if outcome.good else "BROKEN",
        )
    console = Console(width=max(Console().width, 150))
    console.print(table)
    for outcome in outcomes:
        for name, values in outcome.measured.items():
            median, worst = statistics.median(values), max(values)
            console.print(f"{outcome.fault}: {name}: median {median:.1f} s, worst {worst:.1f} s")
    for outcome in outcomes:
        if outcome.good:
            continue
        console.print(f"\n[bold]{outcome.fault}[/bold], seed {outcome.seed}, {outcome.logs}")
        for text in outcome.notes[:NOTES_SHOWN]:
            console.print(f"  {text}", markup=False)


def _figure(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.2f}"


def save_rows(outcomes: Sequence[Outcome]) -> Path:
    """Into `benchmarks/results/faults.json`; rows of faults that were not had this time stay as they are."""
    path = RESULTS / "faults.json"
    rows = json.loads(path.read_text())["faults"] if path.exists() else {}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    rows |= {outcome.fault: outcome.document() | {"measuredAt": now} for outcome in outcomes}
    return save("faults", {"good": all(row["good"] for row in rows.values()), "faults": rows})


def save(name: str, content: dict[str, Any]) -> Path:
    """Writes `benchmarks/results/<name>.json`."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    document = {
        "measuredAt": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cores": os.cpu_count(), "system": platform.system(), "python": platform.python_version()},
        **content,
    }
    path.write_text(json.dumps(document, indent=2) + "\n")
    return path
