"""What came of a batch: one line a recording, those that need attention last, and the totals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from scripts.batch.recordings import shown
from scripts.batch.runner import reason_of
from scripts.batch.state import Entry, Status


@dataclass(frozen=True, slots=True)
class Summary:
    """``skipped`` are the names that were complete before, ``continued`` those whose job was submitted before;
    ``wall_seconds`` is this run's."""

    entries: Mapping[str, Entry]
    skipped: frozenset[str]
    wall_seconds: float
    continued: frozenset[str] = frozenset()

    @property
    def all_complete(self) -> bool:
        return all(entry.status is Status.COMPLETE for entry in self.entries.values())

    def lines(self) -> Iterator[str]:
        order = ("skipped", "complete", "queued", "queued_remote", "running", "canceled", "failed")
        words = {name: self._word(name) for name in self.entries}
        yield "Summary"
        for name in sorted(self.entries, key=lambda name: (order.index(words[name]), name)):
            yield f"  {words[name]:<9} {shown(name)}{_detail(self.entries[name])}"
        counts = Counter(words.values())
        yield ", ".join(f"{counts[word]} {word}" for word in ("complete", "failed", "canceled", "skipped"))
        yield from self._speed()
        if counts["failed"] or counts["canceled"]:
            yield "To try those again that failed or were canceled, run the same command with --retry-failed."

    def _word(self, name: str) -> str:
        return "skipped" if name in self.skipped else self.entries[name].status.value

    def _speed(self) -> Iterator[str]:
        """The real-time factor is the time it took for each second of audio: smaller is faster. What an earlier run
        began took longer than this one knows of."""
        if self.continued:
            return
        done = [entry for name, entry in self.entries.items() if self._word(name) == "complete"]
        audio = sum(entry.duration_seconds or 0.0 for entry in done)
        if audio <= 0:
            return
        factor = self.wall_seconds / audio
        yield (
            f"{clock(audio)} of audio in {clock(self.wall_seconds)}: real-time factor {factor:.4f}"
            f" ({1 / max(factor, 1e-9):.1f} times as fast as it was spoken)"
        )


def _detail(entry: Entry) -> str:
    reason = reason_of(entry)
    if reason:
        return f": {reason}"
    return f" ({clock(entry.duration_seconds)})" if entry.duration_seconds else ""


def clock(seconds: float) -> str:
    """1:02:03 or 2:03, and tenths below a minute."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
