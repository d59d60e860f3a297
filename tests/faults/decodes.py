"""What the log tells of decoding: every batch that was completed, and which windows were decoded more than once."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

DURABLE_WITHIN = timedelta(seconds=0.1)
"""A window decoded so shortly before a kill may not have become durable anywhere: to decode it again cannot be helped."""

Span = tuple[datetime, datetime]


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch that was completed; windows beside those that were ``reported`` were finished before."""

    at: datetime
    job_id: str
    attempt: int
    windows: tuple[int, ...]
    reported: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Repeats:
    """Decodes of windows that had been decoded before. ``beside``: as neighbors only, in a batch of the plan."""

    needless: int
    unavoidable: int
    beside: int
    of: tuple[str, ...] = ()
    """Which were needless, for people."""


def lines(log: Path, event: str) -> Iterator[dict[str, Any]]:
    """Lines that a full disk or a kill cut short are left out."""
    if not log.exists():
        return
    wanted = f'"{event}"'
    with log.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            if wanted in line:
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue
                if entry.get("event") == event:
                    yield entry


def batches(log: Path) -> list[Batch]:
    return [
        Batch(
            datetime.fromisoformat(entry["timestamp"]),
            entry["job_id"],
            entry["attempt"],
            tuple(entry["windows"]),
            tuple(entry["reported"]),
        )
        for entry in lines(log, "windows_decoded")
    ]


def repeats(found: Iterable[Batch], blind: Sequence[Span]) -> Repeats:
    """``blind``: when nobody could be told what was decoded; to decode that again cannot be helped."""
    decoded: dict[tuple[str, int], datetime] = {}
    needless: list[str] = []
    counted: dict[str, int] = defaultdict(int)
    for batch in found:
        counted["beside"] += len(set(batch.windows) - set(batch.reported))
        for window in batch.reported:
            before = decoded.get((batch.job_id, window))
            if before is not None and any(begin <= before <= end for begin, end in blind):
                counted["unavoidable"] += 1
            elif before is not None:
                needless.append(f"{batch.job_id}/{batch.attempt} window {window}, decoded before at {before.time()}")
            decoded[batch.job_id, window] = batch.at
    return Repeats(len(needless), counted["unavoidable"], counted["beside"], tuple(needless))
