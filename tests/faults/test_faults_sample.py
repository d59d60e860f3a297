"""A few of each fault, small enough for every run of the tests; `make faults` has many."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.faults.library import Library, library
from tests.faults.play import play
from tests.faults.scenarios import SCENARIOS

TIMES = {
    "kill-worker": 2,
    "kill-controller": 2,
    "kill-speakers": 2,
    "kill-unheard": 1,
    "refuse-worker-link": 1,
    "cancel-race": 5,
    "two-workers": 1,
}
SEED = 1


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return asyncio.run(library(tmp_path_factory.mktemp("library"), speakers=True))


@pytest.mark.parametrize("name", TIMES)
def test_nothing_is_lost(name: str, known: Library, tmp_path: Path) -> None:
    scenario = next(scenario for scenario in SCENARIOS if scenario.name == name)
    outcome = asyncio.run(play(scenario, TIMES[name], SEED, tmp_path / name, known))
    assert outcome.good, outcome.notes
