"""Mean and spread of the last n values at every bar, for any n at the same cost.

Libraries keep a running sum: they add the newest value and subtract the oldest. One value that is far larger than the
rest then leaves its rounding error behind for good. Nothing is subtracted here. Bars are cut into blocks of n; a window
is the end of one block and the beginning of the next, and the statistics of these two pieces are merged.

Sources: van Herk, "A fast algorithm for local minimum and maximum filters on rectangular and octagonal kernels",
Pattern Recognition Letters 13 (1992), for the two pieces; Chan, Golub & LeVeque, "Algorithms for computing the sample
variance", The American Statistician 37(3), 1983, for the merge.
"""

from __future__ import annotations

import numpy as np

from batchenv.data.bars import FloatArray


def rolling_mean(values: FloatArray, n: int) -> FloatArray:
    """Return the mean of the last n values, float64 of the shape of ``values``; see `rolling_moments`."""
    return rolling_moments(values, n)[0]


def rolling_std(values: FloatArray, n: int, ddof: int) -> FloatArray:
    """Return the standard deviation of the last n values, n - ddof below; see `rolling_moments`."""
    result: FloatArray = np.sqrt(rolling_moments(values, n)[1] / (n - ddof))
    return result


def rolling_moments(values: FloatArray, n: int) -> tuple[FloatArray, FloatArray]:
    """Return the mean of the last n values, and the sum of their squared differences from it, at every bar.

    A row depends on the rows before it alone, to the last bit. Equal values have exactly their own mean, and no spread.

    Args:
        values: float64 [bars, ...], one column for each symbol.
        n: How many bars a window has, at least 1.

    Returns:
        Two float64 arrays of the shape of ``values``; NaN for the first n - 1 bars and where a window holds a NaN.
    """
    bars, columns = len(values), values.shape[1:]
    blocks = -(-bars // n)
    padded = np.full((blocks * n, *columns), np.nan)
    padded[:bars] = values
    padded = padded.reshape(blocks, n, *columns)
    mean, squares = np.full_like(padded, np.nan), np.full_like(padded, np.nan)
    newer = np.arange(1, n, dtype=np.float64).reshape(-1, *(1 for _ in columns))  # bars of a window in its later block
    with np.errstate(over="ignore", invalid="ignore"):  # what is too large to square has an infinite spread
        begun, begun_squares = _accumulated(padded)
        ended, ended_squares = (part[:, ::-1] for part in _accumulated(padded[:, ::-1]))
        mean[:, -1], squares[:, -1] = begun[:, -1], begun_squares[:, -1]  # a window that is a whole block
        within = ended_squares[:-1, 1:] + begun_squares[1:, :-1]
        gap = begun[1:, :-1] - ended[:-1, 1:]
        mean[1:, :-1] = ended[:-1, 1:] + gap * (newer / n)
        squares[1:, :-1] = within + gap * gap * (newer * (n - newer) / n)
    return mean.reshape(-1, *columns)[:bars], squares.reshape(-1, *columns)[:bars]


def _accumulated(blocks: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return mean and sum of squared differences of the first k + 1 values of each block, [blocks, n, ...].

    Source: Welford, "Note on a method for calculating corrected sums of squares and products", Technometrics 4(3),
    1962.
    """
    mean, squares = blocks.copy(), np.zeros_like(blocks)
    squares[:, 0] += np.where(np.isnan(blocks[:, 0]), np.nan, 0.0)
    for k in range(1, blocks.shape[1]):
        gap = blocks[:, k] - mean[:, k - 1]
        mean[:, k] = mean[:, k - 1] + gap / (k + 1)
        squares[:, k] = squares[:, k - 1] + gap * (blocks[:, k] - mean[:, k])
    return mean, squares
