"""What of a run its reader was told already, so that another child can go on with it and nothing is told twice. Pure."""

from __future__ import annotations

from dataclasses import replace

from services.worker.work import (
    ChunkSpeakers,
    FinishedWork,
    Planned,
    Progress,
    Report,
    SpeakerChunkFound,
    SpeakersFound,
    WindowDecoded,
    WindowFinished,
    WindowPlan,
    Work,
)


class Told:
    """Kept for as long as a run goes on. A plan with another fingerprint begins anew: all that follows it is told."""

    def __init__(self) -> None:
        self._plan: WindowPlan | None = None
        self._windows: set[int] = set()
        self._decoded: dict[int, WindowDecoded] = {}
        self._chunks: dict[int, ChunkSpeakers] = {}
        self._speakers: SpeakersFound | None = None
        self._percent = 0.0

    def is_news(self, report: Report) -> bool:
        """Notes the report; false for one that was made before, by a child that was there before."""
        match report:
            case Planned(plan):
                return self._planned(plan)
            case SpeakerChunkFound(chunk):
                is_first = chunk.index not in self._chunks
                self._chunks[chunk.index] = chunk
                return is_first
            case SpeakersFound():
                is_first, self._speakers = self._speakers is None, report
                return is_first
            case WindowDecoded(index):
                is_first = index not in self._decoded and index not in self._windows
                if is_first:
                    self._decoded[index] = report
                return is_first
            case WindowFinished(index):
                is_first = index not in self._windows
                self._windows.add(index)
                self._decoded.pop(index, None)
                return is_first
            case Progress(percent):
                is_further, self._percent = percent > self._percent, max(percent, self._percent)
                return is_further
        return True

    def rest_of(self, work: Work) -> Work:
        """The work as another child is to go on with it."""
        if self._plan is None:
            return work
        windows, decoded = frozenset(self._windows), dict(self._decoded)
        chunks, speakers = dict(self._chunks), self._speakers
        earlier = work.finished
        if earlier is not None and earlier.plan.fingerprint == self._plan.fingerprint:
            windows |= earlier.finished_windows
            decoded = {window.index: window for window in earlier.decoded_windows} | decoded
            chunks = {chunk.index: chunk for chunk in earlier.speaker_chunks} | chunks
            if speakers is None and earlier.turns is not None:
                speakers = SpeakersFound(earlier.turns, earlier.exclusive_turns)
        finished = FinishedWork(
            self._plan,
            windows,
            speaker_chunks=tuple(chunks[index] for index in sorted(chunks)),
            decoded_windows=tuple(decoded[index] for index in sorted(decoded.keys() - windows)),
        )
        if speakers is not None:
            finished = replace(finished, turns=speakers.turns, exclusive_turns=speakers.exclusive_turns)
        return replace(work, finished=finished)

    def _planned(self, plan: WindowPlan) -> bool:
        known, self._plan = self._plan, plan
        if known is not None and known.fingerprint == plan.fingerprint:
            return False
        self._windows.clear()
        self._decoded.clear()
        self._chunks.clear()
        self._speakers = None
        self._percent = 0.0
        return True
