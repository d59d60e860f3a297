"""Conversations of any length between the examples' voices, of which it is known who speaks when."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.corpus import EXAMPLES, MARGIN_SECONDS, RATE, Samples, decoded
from services.worker.work import SpeakerTurn

VOICES = (("stand-up.m4a", "A"), ("stand-up.m4a", "B"), ("hearing.flac", "A"), ("voice memo.ogg", "A"))
"""(example, speaker) of four voices; each is another."""

PAUSE_SECONDS = (0.2, 1.2)
OVERLAP_SECONDS = (0.3, 0.9)
OVERLAPS = 0.1
"""The share of turns that begin before the one before has ended."""

GOES_ON = 0.3
"""How likely it is that who has just spoken speaks again."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """Mono samples at 16 kHz and who speaks when in them."""

    samples: Samples
    turns: tuple[SpeakerTurn, ...]


def conversation(seconds: float, speakers: int = 3, seed: int = 1) -> Conversation:
    """At least so long, between so many of VOICES; each speaks in every few minutes."""
    numbers = random.Random(seed)
    spoken = dict(_lines(VOICES[:speakers]))
    placed: list[tuple[int, Samples, str]] = []
    end, before = round(0.5 * RATE), ""
    while end < seconds * RATE:
        speaker = before if before and numbers.random() < GOES_ON else numbers.choice(list(spoken))
        if before and speaker != before and numbers.random() < OVERLAPS:
            end -= round(numbers.uniform(*OVERLAP_SECONDS) * RATE)
        else:
            end += round(numbers.uniform(*PAUSE_SECONDS) * RATE)
        line = numbers.choice(spoken[speaker])
        placed.append((end, line, speaker))
        end, before = end + len(line), speaker
    return _mixed(placed, end)


def _mixed(placed: Sequence[tuple[int, Samples, str]], length: int) -> Conversation:
    mixed = np.zeros(max(length, *(start + len(line) for start, line, _ in placed)), np.int32)
    for start, line, _ in placed:
        mixed[start : start + len(line)] += line
    margin = round(MARGIN_SECONDS * RATE)
    turns = tuple(
        SpeakerTurn((start + margin) / RATE, (start + len(line) - margin) / RATE, speaker)
        for start, line, speaker in placed
    )
    return Conversation(np.clip(mixed, -32768, 32767, out=mixed).astype(np.int16), turns)


def _lines(voices: Sequence[tuple[str, str]]) -> Iterator[tuple[str, list[Samples]]]:
    """Of each voice, under a name of its own: what it says in its example, and the margins around it."""
    reference: Mapping[str, Mapping[str, list[Mapping[str, str | float]]]]
    reference = json.loads((EXAMPLES / "reference.json").read_text())
    samples = {name: decoded(EXAMPLES / name) for name, _ in voices}
    found: defaultdict[str, list[Samples]] = defaultdict(list)
    for name, speaker in voices:
        for turn in reference[name]["turns"]:
            if turn["speaker"] == speaker:
                first = max(0, round((float(turn["start"]) - MARGIN_SECONDS) * RATE))
                last = round((float(turn["end"]) + MARGIN_SECONDS) * RATE)
                found[f"{name} {speaker}"].append(samples[name][first:last])
    return iter(found.items())
