"""Who the synthetic people are, and who meets whom."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.train.diarization.identities import Identity, draw_identity, is_held
from models.train.diarization.segmentation import Cast
from models.train.recipe import VoicesRecipe

RECIPE = VoicesRecipe()


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> list[Identity]:
    variants = tmp_path_factory.mktemp("variants")
    return [draw_identity(number, RECIPE, variants) for number in range(400)]


def siblings(people: list[Identity]) -> list[int]:
    """The numbers of the second ones."""
    pairs = ((place, people[place - 1], people[place]) for place in range(1, len(people)))
    return [place for place, one, other in pairs if one.voice.name == other.voice.name and one.warp == other.warp]


def test_siblings_differ_in_pitch_and_speed_alone(people: list[Identity]) -> None:
    found = siblings(people)
    assert 0.24 < len(found) / len(people) < 0.36
    for number in found:
        one, other = people[number - 1].voice, people[number].voice
        assert replace(other, rate=one.rate, pitch=one.pitch, lilt=one.lilt) == one
        assert 15 <= abs(one.pitch - other.pitch) <= 35
        assert 10 <= other.pitch <= 90


def test_nobodys_sibling_is_held_alone(people: list[Identity]) -> None:
    assert all(is_held(number, RECIPE) == is_held(number - 1, RECIPE) for number in siblings(people))
    held = sum(is_held(number, RECIPE) for number in range(400))
    assert held == pytest.approx(400 * RECIPE.held_share, abs=2)


def test_the_same_number_is_the_same_person(people: list[Identity], tmp_path: Path) -> None:
    for number in (0, siblings(people)[0]):
        assert draw_identity(number, RECIPE, tmp_path) == people[number]
        name = people[number].voice.name.partition("+")[2]
        assert (tmp_path / name).exists() == name.startswith("made")


def test_who_is_alike_meets_the_nearest_most_often() -> None:
    everybody = range(100)
    nearest = {number: [(number + step) % 100 for step in range(1, 41)] for number in everybody}
    numbers = np.random.default_rng(1)
    met = [Cast(everybody, nearest, 1.0).draw(2, numbers) for _ in range(2_000)]
    steps = np.array([(other - one) % 100 for one, other in met])
    assert steps.min() >= 1
    assert steps.max() <= 40
    assert (steps == 1).mean() > 4 * (steps == 20).mean() > 0
    four = Cast(everybody, nearest, 1.0).draw(4, numbers)
    assert len(set(four)) == 4
    anybody = [Cast(everybody, nearest, 0.0).draw(2, numbers) for _ in range(200)]
    assert any((other - one) % 100 > 40 for one, other in anybody)
