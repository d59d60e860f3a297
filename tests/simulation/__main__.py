"""`python -m tests.simulation`: runs many seeds, or one of them again with its trace."""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context

from tests.simulation.mutants import MUTANTS, hunt
from tests.simulation.patches import machine_replaced
from tests.simulation.world import Result, simulate

LAST_LINES = 60
"""Of a failing seed's trace."""

MOST_FAILURES = 30
"""After so many nothing new is learned."""

PIECE = 50
"""Seeds that one process runs before it reports."""


@dataclass
class Summary:
    seeds: int = 0
    steps: int = 0
    seconds: float = 0.0
    counts: dict[str, Counter[str]] = field(
        default_factory=lambda: {name: Counter() for name in ("faults", "windows decoded twice", "jobs")}
    )
    failures: list[Result] = field(default_factory=list)

    def add(self, result: Result) -> None:
        self.seeds += 1
        self.steps += result.steps
        self.seconds += result.seconds
        self.counts["faults"].update(result.faults)
        self.counts["windows decoded twice"].update(result.twice)
        self.counts["jobs"].update(result.ends)
        if result.failure:
            self.failures.append(result)

    def print(self, wall: float) -> None:
        print(f"\n{self.seeds} seeds, {len(self.failures)} failed; {self.steps:,} steps in {wall:.1f} s")
        print(f"{self.seconds / 3600:.1f} virtual hours; {wall / self.seeds * 1000:.1f} ms a seed")
        for name, counts in self.counts.items():
            print(f"{name}:")
            for what, count in counts.most_common():
                print(f"  {count:9,}  {what}")


def run_piece(seeds: range) -> list[Result]:
    """The collector would run finalizers of one world in the middle of another: it has its turn in between."""
    gc.collect()
    gc.freeze()
    gc.disable()
    with machine_replaced() as machine:
        results = [simulate(seed, machine) for seed in seeds]
    gc.enable()
    return results


def replay(seed: int, lines: int) -> Result:
    with machine_replaced() as machine:
        return simulate(seed, machine, trace=True, lines=lines)


def run_all(seeds: range, jobs: int) -> Iterator[Result]:
    pieces = [seeds[start : start + PIECE] for start in range(0, len(seeds), PIECE)]
    with get_context("fork").Pool(jobs) as pool:
        for results in pool.imap(run_piece, pieces):
            yield from results


def show(result: Result, lines: int) -> None:
    said = ": ".join(result.failure) if result.failure else f"nothing broke, {result.steps} steps"
    print(f"\nseed {result.seed}: {said}", flush=True)
    for line in result.trace[-lines:]:
        print(f"  {line}")


def show_mutants(most: int, jobs: int) -> int:
    missed = 0
    with get_context("fork").Pool(jobs) as pool:
        caught = pool.imap(partial(hunt_numbered, most), range(len(MUTANTS)))
        for mutant, found in zip(MUTANTS, caught, strict=True):
            missed += found is None
            said = f"seed {found[0]}, {found[1]}" if found else "NOT CAUGHT"
            print(f"{mutant.name:60} {said}", flush=True)
    return int(missed > 0)


def hunt_numbered(most: int, number: int) -> tuple[int, str] | None:
    return hunt(MUTANTS[number], most)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--replay", type=int, metavar="SEED", help="runs one seed and prints its trace")
    parser.add_argument("--lines", type=int, default=LAST_LINES, help="of a trace")
    parser.add_argument("--mutants", action="store_true", help="breaks each rule and tells which seed notices")
    given = parser.parse_args()
    if given.mutants:
        return show_mutants(given.seeds, given.jobs)
    if given.replay is not None:
        result = replay(given.replay, given.lines)
        show(result, given.lines)
        return int(result.failure is not None)
    begun, summary = time.monotonic(), Summary()
    for result in run_all(range(given.first, given.first + given.seeds), given.jobs):
        summary.add(result)
        if len(summary.failures) > MOST_FAILURES:
            break
        if result.failure and len(summary.failures) <= 5:
            show(replay(result.seed, given.lines), given.lines)
        elif result.failure:
            show(result, 0)
    summary.print(time.monotonic() - begun)
    return int(bool(summary.failures))


if __name__ == "__main__":
    sys.exit(main())
