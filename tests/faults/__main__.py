"""`make faults`, or `python -m tests.faults`: breaks a real system again and again, and counts what was lost.

Recovery is counted from the end of a fault (the process answers again, the link is back) to the first news of a job that
runs, as a client of the gateway gets it; how long it is to the next segment is told below the table.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.running import scratch_root
from scripts.processes import cancel_on_signals
from tests.faults.library import library
from tests.faults.outcome import Outcome, save_rows, show
from tests.faults.play import play
from tests.faults.scenarios import SCENARIOS, Scenario

KILLS = 200


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when every promise was kept, 1 when one was not."""
    options = _parser().parse_args(arguments)
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 31)
    chosen = [_timed(scenario, options) for scenario in SCENARIOS if not options.only or scenario.name in options.only]
    folder = Path(tempfile.mkdtemp(prefix="bulkscribe-faults-", dir=scratch_root()))
    outcomes: list[Outcome] = []
    try:
        asyncio.run(_play_all(chosen, seed, folder, outcomes))
    except (KeyboardInterrupt, asyncio.CancelledError):
        show(outcomes)
        save_rows(outcomes)
        print("Stopped.", file=sys.stderr)
        return 130
    show(outcomes)
    good = all(outcome.good for outcome in outcomes)
    save_rows(outcomes)
    if good:
        shutil.rmtree(folder, ignore_errors=True)
    return 0 if good else 1


async def _play_all(scenarios: Sequence[Scenario], seed: int, folder: Path, outcomes: list[Outcome]) -> None:
    """One after the other; each row is there as soon as it is known."""
    cancel_on_signals(lambda _number: None)
    print(f"Seed {seed}. Undisturbed runs first ...", file=sys.stderr, flush=True)
    known = await library(folder, any(scenario.shape.speakers for scenario in scenarios))
    for scenario in scenarios:
        print(f"{scenario.fault}, {scenario.times} times ...", file=sys.stderr, flush=True)
        own = folder / scenario.name
        try:
            outcome = await play(scenario, scenario.times, seed, own, known)
        except pytest.skip.Exception as skipped:
            print(f"{scenario.fault} is left out: {skipped}", file=sys.stderr, flush=True)
            continue
        print(f"  {outcome.line}", file=sys.stderr, flush=True)
        if outcome.good:
            shutil.rmtree(own, ignore_errors=True)
        outcomes.append(outcome)


def _timed(scenario: Scenario, options: argparse.Namespace) -> Scenario:
    if scenario.name in ("kill-worker", "kill-controller"):
        return replace(scenario, times=options.kills)
    return replace(scenario, times=min(scenario.times, options.times)) if options.times is not None else scenario


def _parser() -> argparse.ArgumentParser:
    names = [scenario.name for scenario in SCENARIOS]
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults", description=__doc__, epilog="Exit status 1: a promise was broken."
    )
    parser.add_argument("--seed", type=int, help="has the moments of an earlier run again (a new one each time)")
    parser.add_argument("--kills", type=int, default=KILLS, help=f"of the worker and of the controller ({KILLS})")
    parser.add_argument("--times", type=int, help="at most so many of each other fault")
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=f"of {', '.join(names)} (all)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
