"""`python -m benchmarks.gpu [OPTION ...]`: the whole of the `gpu` benchmark, or a piece of it that fits the time there is."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import sys

from benchmarks.gpu.measure import QUICK, Options, measure
from benchmarks.random_model import SHAPES
from benchmarks.report import NotMeasured, save, show


def main() -> int:
    given = vars(_arguments())
    base = QUICK if given.pop("quick") else Options()
    options = dataclasses.replace(base, **{name: value for name, value in given.items() if value is not None})
    try:
        report = asyncio.run(measure(options))
    except NotMeasured as error:
        print(f"gpu could not be measured: {error}", file=sys.stderr)
        return 1
    if base is not QUICK:
        save(report)
    show([report])
    return 0 if report.reached else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="minutes instead of an hour; nothing is saved")
    add("--models", nargs="+", choices=SHAPES, help="shapes of random weights")
    add("--sets", nargs="+", choices=("long", "ragged"), help="which recordings")
    add("--arms", nargs="+", choices=Options().arms, help="what is measured")
    add("--files", type=int, help="long recordings")
    add("--more-files", type=int, help="as many in the system once more, of the same sound")
    add("--audio-minutes", type=float, help="length of each long recording")
    add("--ragged-files", type=int, help="recordings of very different lengths")
    add("--longest-seconds", type=float, help="of those")
    add("--batch-sizes", nargs="+", type=int, help="of stock batched")
    add("--slots", type=int, help="jobs at once in the system")
    add("--rounds", type=int, help="of every arm")
    add("--stock-seconds", type=float, help="of audio that stock batched does in a round")
    add("--sequential-seconds", type=float, help="of audio that stock does window by window in a round")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
