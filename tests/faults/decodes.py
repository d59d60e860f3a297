"""What the log tells of decoding: every batch that was completed, and which windows were decoded more than once."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

DURABLE_WITHIN = timedelta(seconds=0.1)
"""A window decoded so shortly before a kill may not have become durable anywhere: to decode it again cannot be helped."""

SHIFT_SEEN_WITHIN = timedelta(seconds=2)
"""After a process's clock was set it may count on by the old one for so long."""

LONGEST_RUN = timedelta(minutes=10)
"""Of a scenario: its lines lie no further than this before the first time that a clock was set, or after the last one."""

Span = tuple[datetime, datetime]
Shift = tuple[datetime, timedelta]
"""When a clock was set, and how far from the real time."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What one batch held of an attempt."""

    at: datetime
    job_id: str
    attempt: int
    windows: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Repeats:
    """Decodes of windows that had been decoded before. ``held``: which could not be told, since an earlier window was
    still in another lane's hand when the end came."""

    needless: int
    unavoidable: int
    held: int
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
        )
        for entry in lines(log, "windows_decoded")
    ]


def unshifted(found: Iterable[Batch], shifts: Sequence[Shift]) -> list[Batch]:
    """In real time, of a process whose clock was set: the shift is the one that was in force at the time that it gives."""
    if not shifts:
        return list(found)
    known = [(shifts[0][0] - LONGEST_RUN, timedelta()), *shifts]
    ends = [*(since + SHIFT_SEEN_WITHIN for since, _ in shifts), shifts[-1][0] + LONGEST_RUN]

    def real(at: datetime) -> datetime:
        for (since, shift), end in zip(known, ends, strict=True):
            if since <= at - shift <= end:
                return at - shift
        return at

    return [replace(batch, at=real(batch.at)) for batch in found]


def repeats(found: Iterable[Batch], blind: Sequence[Span]) -> Repeats:
    """``blind``: when nobody could be told what was decoded; to decode that again cannot be helped."""
    decoded: defaultdict[str, dict[int, tuple[datetime, int]]] = defaultdict(dict)
    needless: list[str] = []
    counted: Counter[str] = Counter()
    for batch in found:
        job = decoded[batch.job_id]
        for window in batch.windows:
            if window in job:
                before, attempt = job[window]
                # windows are told in the plan's order
                told = max([at for earlier, (at, by) in job.items() if earlier < window and by == attempt] + [before])
                if any(begin <= told <= end for begin, end in blind):
                    counted["unavoidable"] += 1
                elif any(earlier not in job or job[earlier][1] > attempt for earlier in range(window)):
                    counted["held"] += 1
                else:
                    needless.append(
                        f"{batch.job_id}/{batch.attempt} window {window}, decoded before at {before.time()}"
                    )
            job[window] = (batch.at, batch.attempt)
    return Repeats(len(needless), counted["unavoidable"], counted["held"], tuple(needless))
