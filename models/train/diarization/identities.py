"""Synthetic people: known variants of espeak-ng, and variants of our own with other throats, breath and tone."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from models.train.recipe import VoicesRecipe
from models.train.speech import Voice
from models.train.voices import ACCENTS, HEARD, voice_name

_MADE_SHARE = 2 / 3
_SIBLINGS_APART = (15, 35)
_LOWEST, _HIGHEST = 10, 90
_WARPS, _MADE_WARPS = (100, 100, 88, 92, 96, 104, 108, 114), (100, 100, 94, 106)


@dataclass(frozen=True, slots=True)
class Identity:
    """``warp``: percent by which the sound is played faster, which moves pitch and formants alike."""

    voice: Voice
    warp: int


def is_held(number: int, recipe: VoicesRecipe) -> bool:
    """Whether nothing is trained on this one. Of two that may be siblings, on both or none."""
    return number // 2 % round(1 / recipe.held_share) == 0


def draw_identity(number: int, recipe: VoicesRecipe, variants: Path) -> Identity:
    """The same for the same number; a variant of our own is written into ``variants``."""
    drawn = random.Random(f"{recipe.seed}/{number}/sibling")
    if number % 2 and drawn.random() < 2 * recipe.sibling_share:
        return _sibling(draw_identity(number - 1, recipe, variants), drawn)
    return _draw_other(number, recipe, variants)


def _sibling(of: Identity, drawn: random.Random) -> Identity:
    """The same throat and accent, at another pitch and speed: as like as two people can be that are still told apart."""
    apart, pitch = drawn.randint(*_SIBLINGS_APART), of.voice.pitch
    near = [each for each in (pitch - apart, pitch + apart) if _LOWEST <= each <= _HIGHEST]
    voice = replace(of.voice, rate=drawn.randint(140, 195), pitch=drawn.choice(near), lilt=drawn.randint(30, 70))
    return replace(of, voice=voice)


def _draw_other(number: int, recipe: VoicesRecipe, variants: Path) -> Identity:
    drawn = random.Random(f"{recipe.seed}/{number}")
    accent, lilt, rate = drawn.choice(list(ACCENTS)), drawn.randint(30, 70), drawn.randint(140, 195)
    if drawn.random() < _MADE_SHARE:
        name = f"made{number}"
        (variants / name).write_text(made_variant(name, drawn), encoding="utf-8")
        return Identity(Voice(voice_name(accent, name), rate, 50, lilt), drawn.choice(_MADE_WARPS))
    voice = Voice(voice_name(accent, drawn.choice(HEARD)), rate, drawn.randint(20, 80), lilt)
    return Identity(voice, drawn.choice(_WARPS))


def made_variant(name: str, drawn: random.Random) -> str:
    """A variant's file: all formants moved together as a longer or shorter throat moves them, each a little by itself."""
    throat = drawn.uniform(0.86, 1.30)
    is_long = throat < 1.08
    lowest = drawn.randint(65, 150) if is_long else drawn.randint(115, 230)
    lines = [
        "language variant",
        f"name {name}",
        f"gender {'male' if is_long else 'female'}",
        f"pitch {lowest} {int(lowest * drawn.uniform(1.25, 1.75))}",
    ]
    for formant in range(9):
        height, width = (drawn.randint(65, 130), drawn.randint(70, 170)) if formant else (100, 100)
        lines.append(f"formant {formant} {int(100 * throat * drawn.uniform(0.93, 1.07))} {height} {width}")
    chances: tuple[tuple[float, Callable[[], str]], ...] = (
        (0.5, lambda: "breath 0 " + " ".join(str(drawn.randint(0, 4)) for _ in range(7))),
        (0.5, lambda: f"roughness {drawn.randint(0, 5)}"),
        (0.5, lambda: f"flutter {drawn.randint(0, 8)}"),
        (0.3, lambda: f"echo {drawn.randint(10, 130)} {drawn.randint(3, 20)}"),
        (0.6, lambda: _tone(drawn)),
        (0.4, lambda: f"consonants {drawn.randint(60, 120)} {drawn.randint(60, 120)}"),
        (0.3, lambda: f"voicing {drawn.randint(60, 140)}"),
    )
    lines += [line() for chance, line in chances if drawn.random() < chance]
    return "\n".join(lines) + "\n"


def _tone(drawn: random.Random) -> str:
    low, middle, high = drawn.randint(80, 300), drawn.randint(700, 1800), drawn.randint(2500, 5500)
    return f"tone {low} {drawn.randint(120, 255)} {middle} {drawn.randint(60, 200)} {high} {drawn.randint(10, 120)}"
