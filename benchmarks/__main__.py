"""`make bench`, or `python -m benchmarks [--quick] [NAME ...]`: measures, prints a table, writes JSON to
`benchmarks/results/`."""

from __future__ import annotations

import argparse
import asyncio
import functools
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks import (
    accuracy,
    accuracy_sets,
    diarization,
    diarization_accuracy,
    dispatch,
    dropouts,
    heap,
    queue,
    resume,
    speaker_memory,
    upload,
)
from benchmarks.engine import beside, memory, one_slot
from benchmarks.engine.compare import COMPARISONS, compare
from benchmarks.gpu import measure as gpu
from benchmarks.report import NotMeasured, Report, save, show
from scripts.processes import LaunchError


@dataclass(frozen=True, slots=True)
class Benchmark:
    """``measure`` takes whether a quick look is enough, where there is one. One that is not ``usual`` is measured only when
    it is named: it takes long, or needs a machine of another kind."""

    measure: Callable[[bool], Awaitable[Report]]
    usual: bool = True
    has_quick: bool = True


def _always_whole(measure: Callable[[], Awaitable[Report]]) -> Benchmark:
    return Benchmark(lambda _quick: measure(), has_quick=False)


BENCHMARKS: Mapping[str, Benchmark] = {
    "accuracy": _always_whole(accuracy.measure),
    "accuracy-sets": Benchmark(accuracy_sets.measure),
    **{
        comparison.name: Benchmark(
            functools.partial(compare, comparison), usual=comparison.name in ("engine-mixed", "engine-clips")
        )
        for comparison in COMPARISONS
    },
    "diarization-accuracy": Benchmark(diarization_accuracy.measure),
    **{
        name: Benchmark(functools.partial(diarization.measure_speed, name), usual=False) for name in diarization.WEIGHTS
    },
    "diarization-long": Benchmark(diarization.measure_long, usual=False),
    "diarization-hours": Benchmark(diarization.measure_hours, usual=False),
    "speaker-memory": Benchmark(lambda _quick: speaker_memory.measure(), usual=False, has_quick=False),
    "dropouts": Benchmark(dropouts.measure),
    "beside": Benchmark(beside.measure),
    "one-slot": Benchmark(one_slot.measure),
    "memory": Benchmark(memory.measure_recordings),
    "memory-windows": Benchmark(functools.partial(memory.measure_windows, (10, 1000)), usual=False),
    "memory-windows-10000": Benchmark(functools.partial(memory.measure_windows, (10, 1000, 10_000)), usual=False),
    "heap": _always_whole(heap.measure),
    "dispatch": _always_whole(dispatch.measure),
    "queue": _always_whole(queue.measure),
    "upload": _always_whole(upload.measure),
    "resume": _always_whole(resume.measure),
    "gpu": Benchmark(lambda quick: gpu.measure(gpu.QUICK if quick else gpu.Options()), usual=False),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when all that was promised is reached, 1 when something is not."""
    usual = [name for name, benchmark in BENCHMARKS.items() if benchmark.usual]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, epilog="Exit status 1: a figure is not what it must be."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)} ({', '.join(usual)})")
    parser.add_argument("--quick", action="store_true", help="a quick look with less of everything; nothing is saved")
    given = parser.parse_args(arguments)
    names = given.names or usual
    for name in names:
        if name not in BENCHMARKS:
            parser.error(f"there is no benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
    reports = []
    for name in names:
        print(f"Measuring {name} ...", file=sys.stderr, flush=True)
        try:
            reports.append(asyncio.run(_measure(name, given.quick)))
        except (LaunchError, NotMeasured) as error:
            print(f"{name} could not be measured: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("Stopped.", file=sys.stderr)
            return 130
        if not (given.quick and BENCHMARKS[name].has_quick):
            save(reports[-1])
    show(reports)
    return 0 if all(report.reached for report in reports) else 1


async def _measure(name: str, quick: bool) -> Report:
    return await BENCHMARKS[name].measure(quick)


if __name__ == "__main__":
    sys.exit(main())
