"""Several accounts against each other: which differences hold when all of them are looked at together.

With k accounts there are k (k - 1) / 2 differences, and one of them leaves 0 out of its own 95% interval by luck far
more often than in 5% of cases; most of all the one that was picked for being large. The intervals here are wide enough
that all of them hold at once: each reaches as many of its own standard errors to both sides as the largest deviation
among all differences does in the given part of the resampled histories. J. Romano & M. Wolf, "Stepwise multiple testing
as formalized data snooping", Econometrica 73 (2005), 1237-1282: their studentised single step, two-sided.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.random import Generator

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Differences:
    """All differences between accounts, row less column.

    Attributes:
        estimate: Float64 ``[accounts, accounts]``.
        reach: How far the interval of each goes to both sides, the same shape.
    """

    estimate: FloatArray
    reach: FloatArray


def simultaneous_differences(values: FloatArray, level: float) -> Differences:
    """Return the differences of a figure between accounts, with intervals that hold together.

    Args:
        values: The figure of each account, float64 ``[1 + resamples, accounts]``: in the history that happened first,
            then in each resampled one, the same history for all accounts. Finite.
        level: Confidence that all intervals hold.
    """
    n = values.shape[1]
    rows, columns = np.triu_indices(n, 1)
    gaps = values[:, rows] - values[:, columns]
    errors = gaps[1:].std(axis=0, ddof=1)
    deviations = np.abs(gaps[1:] - gaps[0])
    standard = np.divide(deviations, errors, out=np.zeros_like(deviations), where=errors > 0)
    reaches = np.quantile(standard.max(axis=1, initial=0.0), level) * errors
    estimate, reach = np.zeros((n, n)), np.zeros((n, n))
    estimate[rows, columns], estimate[columns, rows] = gaps[0], -gaps[0]
    reach[rows, columns] = reach[columns, rows] = reaches
    return Differences(estimate, reach)


def first_places(values: FloatArray) -> FloatArray:
    """Return how often each account comes first; equals share the place.

    Args:
        values: A figure where greater is better, float64 ``[resamples, accounts]``.

    Returns:
        Parts of the resamples, float64 ``[accounts]``; they add up to 1.
    """
    first = values == values.max(axis=1, keepdims=True)
    shares: FloatArray = (first / first.sum(axis=1, keepdims=True)).mean(axis=0)
    return shares


def typical_seed(values: FloatArray, draws: npt.NDArray[np.int64]) -> FloatArray:
    """Return the median of a figure over seeds, with other seeds in every resampled history.

    So what varies from history to history is both the market and the luck of the seeds (R. Agarwal et al., "Deep
    reinforcement learning at the edge of the statistical precipice", NeurIPS 2021, resample runs likewise).

    Args:
        values: The figure of each seed, float64 ``[1 + resamples, seeds]``; in the history that happened first.
        draws: Seeds drawn for each resampled history, int64 ``[resamples, draws]``.
    """
    drawn = np.take_along_axis(values[1:], draws, axis=1)
    return np.concatenate([np.median(values[:1], axis=1), np.median(drawn, axis=1)])


def draw_seeds(seeds: int, resamples: int, generator: Generator) -> npt.NDArray[np.int64]:
    """Draw as many seeds as there are, with replacement, for each resampled history.

    Of two seeds one is drawn: the median of two draws from two would vary by half as much as that of two seeds does.

    Args:
        seeds: How many there are.
        resamples: Resampled histories.
        generator: Source of randomness.

    Returns:
        Int64 ``[resamples, draws]``.
    """
    return generator.integers(seeds, size=(resamples, 1 if seeds == 2 else seeds))
