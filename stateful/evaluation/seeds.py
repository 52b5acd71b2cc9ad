"""Several seeds of one configuration, shown as an interval and not as the best of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev

from stateful.evaluation.estimates import Interval, not_enough


@dataclass(frozen=True)
class AcrossSeeds:
    """A figure of several runs that differ in their seed.

    Attributes:
        seeds: How many runs.
        mean: Their mean, with Student's t interval: where the mean of many more seeds would lie.
        median: Their median; None without any.
        iqm: Mean of the middle half (R. Agarwal et al., "Deep reinforcement learning at the edge of the statistical
            precipice", NeurIPS 2021), which one lucky or broken seed does not move; None without any.
        worst: The least of them; None without any.
        best: The greatest of them; None without any.
    """

    seeds: int
    mean: Interval
    median: float | None
    iqm: float | None
    worst: float | None
    best: float | None


def across_seeds(values: Sequence[float | None], level: float = 0.95) -> AcrossSeeds:
    """Summarise a figure over seeds.

    Args:
        values: The figure of each run, where greater is better; None, where a run has none, is left out.
        level: Confidence of the mean's interval.
    """
    known = sorted(value for value in values if value is not None)
    n = len(known)
    if not n:
        return AcrossSeeds(0, Interval(None, None, None, not_enough(2, 0, "seeds")), None, None, None, None)
    return AcrossSeeds(n, _mean(known, level), median(known), _interquartile_mean(known), known[0], known[-1])


def _mean(known: Sequence[float], level: float) -> Interval:
    mean, n = fmean(known), len(known)
    if n < 2:
        return Interval(mean, None, None, not_enough(2, n, "seeds"))
    from scipy.special import stdtrit  # type: ignore[import-untyped]

    reach = float(stdtrit(n - 1, (1.0 + level) / 2.0)) * stdev(known) / math.sqrt(n)
    return Interval(mean, mean - reach, mean + reach)


def _interquartile_mean(ordered: Sequence[float]) -> float:
    """Return the mean of what is left when a quarter is cut off at each end, rounded down to whole values."""
    cut = len(ordered) // 4
    return fmean(ordered[cut : len(ordered) - cut])
