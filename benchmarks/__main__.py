"""`make bench`, or `python -m benchmarks [NAME ...]`: measures, prints a table, writes JSON to `benchmarks/results/`."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence

from benchmarks import accuracy, dispatch, queue, resume, throughput, upload
from benchmarks.report import Report, save, show
from scripts.processes import LaunchError

BENCHMARKS: dict[str, Callable[[], Awaitable[Report]]] = {
    "accuracy": accuracy.measure,
    "throughput": throughput.measure,
    "dispatch": dispatch.measure,
    "queue": queue.measure,
    "upload": upload.measure,
    "resume": resume.measure,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when all that was promised is reached, 1 when something is not."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, epilog="Exit status 1: a figure is not what it must be."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)} (all)")
    names = parser.parse_args(arguments).names or list(BENCHMARKS)
    for name in names:
        if name not in BENCHMARKS:
            parser.error(f"there is no benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
    reports = []
    for name in names:
        print(f"Measuring {name} ...", file=sys.stderr, flush=True)
        try:
            reports.append(asyncio.run(_measure(name)))
        except LaunchError as error:
            print(f"{name} could not be measured: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("Stopped.", file=sys.stderr)
            return 130
        save(reports[-1])
    show(reports)
    return 0 if all(report.reached for report in reports) else 1


async def _measure(name: str) -> Report:
    return await BENCHMARKS[name]()


if __name__ == "__main__":
    sys.exit(main())
