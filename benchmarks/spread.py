"""What several measurements of one thing say: median, least and most, percentiles. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spread:
    """Of at least one value."""

    median: float
    least: float
    most: float


def spread(values: Sequence[float]) -> Spread:
    """Raises ValueError where there is no value."""
    if not values:
        raise ValueError("nothing was measured")
    return Spread(statistics.median(values), min(values), max(values))


def ratios(upper: Sequence[float], lower: Sequence[float]) -> Spread:
    """Of values that were measured side by side, round by round: what slows both in one round does not count."""
    return spread([one / other for one, other in zip(upper, lower, strict=True)])


def percentile(values: Sequence[float], share: float) -> float:
    """The least value that at least ``share`` (0 to 1) of all do not exceed (nearest rank). Raises ValueError where
    there is no value."""
    if not values:
        raise ValueError("nothing was measured")
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
