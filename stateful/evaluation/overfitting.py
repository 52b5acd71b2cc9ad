"""The probability of backtest overfitting: how often the best configuration of one half is a poor one in the other.

Combinatorially symmetric cross-validation (CSCV) of D. Bailey, J. Borwein, M. Lopez de Prado & Q. Zhu, "The
probability of backtest overfitting", Journal of Computational Finance 20(4), 2017, 39-69: the bars are cut into an even
number of blocks; every half of the blocks in turn chooses the configuration with the highest Sharpe ratio, and the
other half ranks it. Where choosing finds what is really better, the chosen one ranks high; where it finds luck, its
rank is any.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
import numpy.typing as npt

from batchenv.errors import ConfigError
from stateful.evaluation.estimates import not_enough

FloatArray = npt.NDArray[np.float64]

MINIMUM_BLOCK = 8
"""Fewest bars in a block."""
MOST_BLOCKS = 20
_AT_A_TIME = 2048


@dataclass(frozen=True, eq=False)
class Overfitting:
    """How often choosing by the past led to a configuration below the median.

    Attributes:
        probability: Part of the splits in which the chosen configuration ranked at or below the median of the other
            half; None where it cannot be had.
        reason: Why there is none.
        configurations: How many configurations were chosen from.
        blocks: Blocks that the bars were cut into.
        logits: log(w / (1 - w)) of the chosen one's relative rank w in (0, 1), of each split, float64 ``[splits]``.
    """

    probability: float | None
    reason: str | None
    configurations: int
    blocks: int
    logits: FloatArray


def probability_of_overfitting(returns: FloatArray, blocks: int = 16) -> Overfitting:
    """Return the probability of backtest overfitting of a set of configurations.

    Args:
        returns: Simple (or excess) returns of each configuration on the same bars, float64 ``[bars, configurations]``.
            Blocks differ by a bar in length where they do not divide the bars.
        blocks: How many blocks, an even number.

    Raises:
        ConfigError: ``blocks`` is odd or out of range, or ``returns`` is not a matrix of numbers.
    """
    if blocks % 2 or not 2 <= blocks <= MOST_BLOCKS:
        raise ConfigError(f"blocks: got {blocks}, expected an even number from 2 to {MOST_BLOCKS}")
    if returns.ndim != 2 or not np.isfinite(returns).all():
        raise ConfigError(f"returns: expected a matrix [bars, configurations] of numbers, got shape {returns.shape}")
    n_bars, n_configurations = returns.shape
    reason = None
    if n_configurations < 2:
        reason = not_enough(2, n_configurations, "configurations")
    elif n_bars < blocks * MINIMUM_BLOCK:
        reason = not_enough(blocks * MINIMUM_BLOCK, n_bars)
    if reason:
        return Overfitting(None, reason, n_configurations, blocks, np.empty(0))
    logits = _logits(returns, blocks)
    return Overfitting(float((logits <= 0).mean()), None, n_configurations, blocks, logits)


def _logits(returns: FloatArray, blocks: int) -> FloatArray:
    """Return the logit of the chosen configuration's rank, for each way to choose half of the blocks."""
    centre = returns.mean(axis=0)
    parts = np.array_split(returns - centre, blocks)  # centred, so that the sums of squares lose no digits
    bars = np.array([float(len(part)) for part in parts])
    sums = np.array([part.sum(axis=0) for part in parts])
    squares = np.array([(part * part).sum(axis=0) for part in parts])
    halves = np.zeros((comb(blocks, blocks // 2), blocks))
    for row, chosen in enumerate(combinations(range(blocks), blocks // 2)):
        halves[row, chosen] = 1.0
    found = []
    for start in range(0, len(halves), _AT_A_TIME):
        first = halves[start : start + _AT_A_TIME]
        inside, outside = (_sharpe(half @ bars, half @ sums, half @ squares, centre) for half in (first, 1.0 - first))
        best = outside[np.arange(len(first)), inside.argmax(axis=1)][:, np.newaxis]
        # The rank from 1 (worst); equals share the mean of their ranks.
        rank = (outside < best).sum(axis=1) + ((outside == best).sum(axis=1) + 1.0) / 2.0
        relative = rank / (returns.shape[1] + 1.0)
        found.append(np.log(relative / (1.0 - relative)))
    return np.concatenate(found)


def _sharpe(bars: FloatArray, sums: FloatArray, squares: FloatArray, centre: FloatArray) -> FloatArray:
    """Return Sharpe ratios ``[splits, configurations]`` from sums over centred returns; 0 where nothing varies."""
    shift = sums / bars[:, np.newaxis]
    variance = squares / bars[:, np.newaxis] - shift * shift
    mean = centre + shift
    moving = variance > 1e-14 * (squares / bars[:, np.newaxis] + mean * mean)
    return np.divide(mean, np.sqrt(np.abs(variance)), out=np.zeros_like(mean), where=moving)
