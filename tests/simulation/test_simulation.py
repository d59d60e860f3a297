"""A sample of the worlds that `python -m tests.simulation` goes through, and whether it would notice anything."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.simulation.mutants import MUTANTS, Mutant, hunt
from tests.simulation.patches import machine_replaced
from tests.simulation.world import simulate

SEEDS = range(150)
PIECE = 25
MOST_SEEDS_OF_A_MUTANT = 400


@pytest.fixture(autouse=True)
def _no_collector() -> Iterator[None]:
    """It would run finalizers of one world in the middle of another."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("first", SEEDS[::PIECE])
def test_nothing_breaks_in_any_world(first: int) -> None:
    with machine_replaced() as machine:
        results = [simulate(seed, machine) for seed in range(first, first + PIECE)]
    assert {result.seed: result.failure for result in results if result.failure} == {}
    assert sum(result.ends["complete"] for result in results) > PIECE
    assert sum(sum(result.faults.values()) for result in results) > PIECE


@pytest.mark.parametrize("seed", [3, 17, 42])
def test_a_seed_is_one_world(seed: int) -> None:
    with machine_replaced() as machine:
        untraced = simulate(seed, machine)
        first, second = (simulate(seed, machine, trace=True) for _ in range(2))
    assert first.trace == second.trace
    assert first.digest == second.digest
    assert first.steps == second.steps == untraced.steps


def test_a_seed_is_the_same_world_in_another_process() -> None:
    def replay(hash_seed: str) -> str:
        command = [sys.executable, "-m", "tests.simulation", "--replay", "7", "--lines", "100000"]
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2], env=environment
        )
        return done.stdout

    first = replay("1")
    assert "decoded" in first
    assert first == replay("2")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_broken_rule_is_noticed(mutant: Mutant) -> None:
    assert hunt(mutant, MOST_SEEDS_OF_A_MUTANT, mutant.seed) is not None
