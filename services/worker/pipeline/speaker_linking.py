"""Whose voice is whose across the chunks of a recording: what was found in each is joined into one. Pure, and cheap.

Voices are joined by how much they sound alike (agglomerative, by the cosine of their mean embeddings), and by what two
neighboring chunks both heard where they overlap. Two voices of one chunk are two people, unless fewer are asked for.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from services.worker.work import ChunkSpeakers, Speakers, SpeakerTurn, Voice, VoiceTurn

LEAST_ALIKE = 0.7
"""Voices whose mean embeddings have a smaller cosine are two people's. Means over minutes of one voice have more than 0.8, and
pipelines join embeddings of a few seconds at 0.68 to 0.82."""

SAME_TIME_BONUS = 0.4
"""What it adds to the cosine that two chunks heard a voice at just the same times; with half of the time, half of it."""

SURE_SECONDS = 4.0
"""So long must both chunks have heard them together for the whole of it."""

JOINED_SECONDS = 0.05
"""A speaker's turns that are nearer than this, on both sides of a cut, are one."""


def link(
    chunks: Sequence[ChunkSpeakers],
    fewest: int | None = None,
    most: int | None = None,
    check: Callable[[], None] = lambda: None,
) -> Speakers:
    """The recording's speakers, SPEAKER_00, SPEAKER_01, … in the order in which they are first heard: as the one who is heard best,
    for by those turns words get their speakers.

    ``chunks``: all of them, in order; ``check`` is called now and then, and may raise to give up. No more than ``most`` speakers; fewer than ``fewest`` only where no more voices were found.
    """
    people = _people(chunks, fewest or 1, most, check)
    cuts = [(before.end + after.start) / 2 for before, after in pairwise(chunks)]
    borders = list(zip([-math.inf, *cuts], [*cuts, math.inf], strict=True))
    parts = list(zip(chunks, people, borders, strict=True))
    turns = _joined([part for chunk, who, border in parts for part in _within(chunk, chunk.turns, who, border)])
    exclusive = _joined([part for chunk, who, border in parts for part in _within(chunk, chunk.exclusive, who, border)])
    names: dict[int, str] = {}
    for turn in (*exclusive, *turns):
        names.setdefault(turn.person, f"SPEAKER_{len(names):02d}")
    return Speakers(
        *(tuple(SpeakerTurn(turn.start, turn.end, names[turn.person]) for turn in said) for said in (turns, exclusive))
    )


# --- turns


@dataclass(frozen=True, slots=True, order=True)
class _Said:
    start: float
    end: float
    person: int
    chunk: int


def _within(
    chunk: ChunkSpeakers, turns: Iterable[VoiceTurn], people: Sequence[int], border: tuple[float, float]
) -> Iterator[_Said]:
    """What of the chunk's turns lies between the two cuts."""
    for turn in turns:
        start, end = round(max(turn.start, border[0]), 3), round(min(turn.end, border[1]), 3)
        if start < end:
            yield _Said(start, end, people[turn.voice], chunk.index)


def _joined(said: Iterable[_Said]) -> list[_Said]:
    """In order of time. A turn that a cut goes through is one again, unless somebody else is heard in between, and so is what
    two voices of one person say at once."""
    of_person: dict[int, list[_Said]] = defaultdict(list)
    last: _Said | None = None
    for turn in sorted(said):
        earlier, before, last = of_person[turn.person], last, turn
        if earlier and (
            turn.start < earlier[-1].end
            or (
                turn.chunk != earlier[-1].chunk
                and turn.start <= earlier[-1].end + JOINED_SECONDS
                and (before is None or before.person == turn.person or before.start < earlier[-1].start)
            )
        ):
            earlier[-1] = replace(earlier[-1], end=max(turn.end, earlier[-1].end), chunk=turn.chunk)
        else:
            earlier.append(turn)
    return sorted(turn for turns in of_person.values() for turn in turns)


# --- voices


def _people(
    chunks: Sequence[ChunkSpeakers], fewest: int, most: int | None, check: Callable[[], None]
) -> list[list[int]]:
    """For each chunk the number of the person behind each of its voices."""
    if len(chunks) == 1:  # it was diarized with these bounds
        return [list(range(len(chunks[0].voices)))]
    owners = [(place, number) for place, chunk in enumerate(chunks) for number in range(len(chunk.voices))]
    groups = _Groups(chunks, owners)
    while groups.count > fewest and groups.join_most_alike():
        check()
    while most is not None and groups.count > most:
        groups.join_somehow()
        check()
    found = [[0] * len(chunk.voices) for chunk in chunks]
    for (place, number), person in zip(owners, groups.people(), strict=True):
        found[place][number] = person
    return found


class _Groups:
    """Voices, grouped into people. A few hundred voices at most: ten hours are some twenty chunks."""

    def __init__(self, chunks: Sequence[ChunkSpeakers], owners: Sequence[tuple[int, int]]) -> None:
        self._sums = _weighted([chunks[place].voices[number] for place, number in owners])
        self._bonus = _same_time(chunks, owners)
        # which chunks a group has a voice of, one row a group
        self._heard_in = np.zeros((len(owners), len(chunks)), np.float32)
        self._heard_in[np.arange(len(owners)), [place for place, _ in owners]] = 1
        self._members = [[number] for number in range(len(owners))]

    @property
    def count(self) -> int:
        return len(self._members)

    def people(self) -> list[int]:
        people = [0] * sum(map(len, self._members))
        for person, members in enumerate(self._members):
            for member in members:
                people[member] = person
        return people

    def join_most_alike(self) -> bool:
        """Joins the two that are most alike of those that no chunk tells apart; false where none is alike enough."""
        alike = self._alike()
        alike[self._told_apart()] = -math.inf
        if self.count < 2 or alike.max() < LEAST_ALIKE:
            return False
        self._join(alike)
        return True

    def join_somehow(self) -> None:
        """Joins two, however little they are alike: such that no chunk tells apart while there are any."""
        alike = self._alike()
        alike[self._told_apart()] -= 10
        self._join(alike)

    def _told_apart(self) -> NDArray[np.bool_]:
        apart: NDArray[np.bool_] = (self._heard_in @ self._heard_in.T) > 0
        return apart

    def _alike(self) -> NDArray[np.float64]:
        """(groups, groups): the cosine of their mean embeddings and what the overlaps add; the diagonal is least."""
        alike: NDArray[np.float64] = self._sums @ self._sums.T
        lengths = np.linalg.norm(self._sums, axis=1)
        alike = alike / np.outer(lengths, lengths) + self._bonus
        np.fill_diagonal(alike, -math.inf)
        return alike

    def _join(self, alike: NDArray[np.float64]) -> None:
        one, other = sorted(int(place) for place in np.unravel_index(int(alike.argmax()), alike.shape))
        self._sums[one] += self._sums[other]
        self._heard_in[one] = np.maximum(self._heard_in[one], self._heard_in[other])
        # what an overlap says of one of them it says of both
        self._bonus[one] = self._bonus[:, one] = np.maximum(self._bonus[one], self._bonus[other])
        self._sums = np.delete(self._sums, other, axis=0)
        self._heard_in = np.delete(self._heard_in, other, axis=0)
        self._bonus = np.delete(np.delete(self._bonus, other, axis=0), other, axis=1)
        self._members[one] += self._members.pop(other)


def _weighted(voices: Sequence[Voice]) -> NDArray[np.float64]:
    """(voices, dimension + 1), each as long as its voice is heard. The last number is of those without an embedding, who are
    like nobody but each other."""
    dimension = max((len(voice.embedding) for voice in voices), default=0)
    sums = np.zeros((len(voices), dimension + 1))
    for row, voice in zip(sums, voices, strict=True):
        row[: len(voice.embedding)] = voice.embedding
        if not voice.embedding:
            row[-1] = 1
        row *= max(voice.seconds, 0.1)
    return sums


def _same_time(chunks: Sequence[ChunkSpeakers], owners: Sequence[tuple[int, int]]) -> NDArray[np.float64]:
    """(voices, voices): what neighboring chunks both heard where they overlap, up to SAME_TIME_BONUS."""
    place_of = {owner: number for number, owner in enumerate(owners)}
    bonus = np.zeros((len(owners), len(owners)))
    for place, (before, after) in enumerate(pairwise(chunks)):
        shared = (after.start, before.end)
        for one in range(len(before.voices)):
            for other in range(len(after.voices)):
                first, second = _spoken(before, one, shared), _spoken(after, other, shared)
                together = _common_seconds(first, second)
                apart = max(_seconds(first), _seconds(second))
                if together > 0:
                    value = SAME_TIME_BONUS * together / apart * min(1.0, together / SURE_SECONDS)
                    here, there = place_of[place, one], place_of[place + 1, other]
                    bonus[here, there] = bonus[there, here] = value
    return bonus


def _spoken(chunk: ChunkSpeakers, voice: int, shared: tuple[float, float]) -> list[tuple[float, float]]:
    clipped = ((max(turn.start, shared[0]), min(turn.end, shared[1])) for turn in chunk.turns if turn.voice == voice)
    return [(start, end) for start, end in clipped if start < end]


def _seconds(spans: Iterable[tuple[float, float]]) -> float:
    return sum(end - start for start, end in spans)


def _common_seconds(first: Sequence[tuple[float, float]], second: Sequence[tuple[float, float]]) -> float:
    return sum(max(0.0, min(end, stop) - max(start, begin)) for start, end in first for begin, stop in second)
