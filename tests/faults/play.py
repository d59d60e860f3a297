"""One scenario from its start to its row of the table; whatever goes wrong in it is told there."""

from __future__ import annotations

import asyncio
import time
import traceback
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from tests.disks import small_disk
from tests.faults import clocks
from tests.faults.library import Library
from tests.faults.outcome import Outcome
from tests.faults.scenarios import SMALL_DISK_MB, Scenario
from tests.faults.world import world

START_SECONDS, EACH_SECONDS = 300.0, 60.0
"""What a scenario may take before it is given up, and how much more for each fault."""


async def play(scenario: Scenario, times: int, seed: int, folder: Path, library: Library) -> Outcome:
    """``folder`` is the scenario's own. The logs stay there, for whoever called this to keep or to remove."""
    outcome = Outcome(scenario.fault, seed, logs=str(folder))
    began = time.monotonic()
    try:
        async with asyncio.timeout(START_SECONDS + EACH_SECONDS * times):
            await _play(scenario, times, folder, library, outcome)
    except Exception as error:  # noqa: BLE001 - the other scenarios are still to be played
        outcome.broken_promises += 1
        outcome.note(f"the scenario broke off: {error!r}")
        (folder / "broke-off.txt").write_text(traceback.format_exc())
    outcome.seconds = time.monotonic() - began
    return outcome


async def _play(scenario: Scenario, times: int, folder: Path, library: Library, outcome: Outcome) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        if scenario.disk:
            stack.enter_context(small_disk(folder / scenario.disk, SMALL_DISK_MB))
        shape = replace(scenario.shape, own_settings=clocks.faked(folder)) if scenario.clocks else scenario.shape
        async with world(folder, shape, outcome) as made:
            await scenario.run(made, library, times)
            await made.settle(library.transcripts(shape))
