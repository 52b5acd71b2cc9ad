"""The stationary block bootstrap: histories that could have been, drawn from the one that was.

A resampled history is as long as the original. It starts at a random bar and goes on bar by bar; at each bar it jumps
to another random bar with probability 1 / (mean block length), and after the last bar follows the first. So what lies
within a block keeps its order, and with it the dependence between neighbouring bars. D. Politis & J. Romano, "The
stationary bootstrap", Journal of the American Statistical Association 89 (1994), 1303-1313.

All accounts are resampled by the same draws, so what they share, the market, is shared in every resampled history too,
and the difference between two accounts varies only by what sets them apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.random import Generator

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_NOISE = 1e-14
"""A variance below this part of the mean square is rounding, and counts as none."""


@dataclass(frozen=True, eq=False)
class Resamples:
    """What each account comes to in each resampled history; all arrays float64 ``[resamples, accounts]``.

    Attributes:
        growth: Log of final equity over initial equity.
        sharpe: Mean over standard deviation (ddof = 1) of the excess returns, per bar; NaN where they do not vary.
        drawdown: Largest fall from an earlier high, as a fraction at or below 0.
    """

    growth: FloatArray
    sharpe: FloatArray
    drawdown: FloatArray


def mean_block_length(series: FloatArray) -> float:
    """Return the mean block length that suits a series, in bars.

    The rule of D. Politis & H. White, "Automatic block-length selection for the dependent bootstrap", Econometric
    Reviews 23 (2004), 53-70, with the constant of A. Patton, D. Politis & H. White, "Correction", Econometric Reviews
    28 (2009), 372-375: (2 G^2 / D)^(1/3) n^(1/3), where G sums |lag| times autocovariance, D is twice the squared
    spectral density at zero, both by a flat-top kernel, and the kernel reaches twice as far as autocorrelations differ
    from zero. At most min(3 sqrt(n), n / 3), at least 1; the same numbers as `arch.bootstrap.optimal_block_length`.

    Args:
        series: A value for each bar, float64 ``[bars]``, at least 11 of them.
    """
    n = len(series)
    centred = series - series.mean()
    if not varies(series):
        return 1.0
    run = max(5, int(math.log10(n)))  # so many insignificant autocorrelations in a row end the search
    reach = math.ceil(math.sqrt(n)) + run
    lags = range(min(reach, n - 2) + 1)
    products = np.array([centred[lag:] @ centred[: n - lag] for lag in lags])
    ends = [
        (centred[lag + 1 :] @ centred[lag + 1 :]) * (centred[: n - lag - 1] @ centred[: n - lag - 1]) for lag in lags
    ]
    with np.errstate(divide="ignore", invalid="ignore"):
        correlations = np.abs(products) / np.sqrt(ends)
    small = correlations < 2.0 * math.sqrt(math.log10(n) / n)
    first = next((lag for lag in range(len(small) - run) if small[lag : lag + run].all()), None)
    bandwidth = min(2 * max(first, 1), lags[-1]) if first is not None else lags[-1]
    covariances = products[1 : bandwidth + 1] / n
    lag = np.arange(1, bandwidth + 1)
    kernel = np.minimum(1.0, 2.0 * (1.0 - lag / bandwidth))
    slope = 2.0 * (kernel * lag * covariances).sum()
    density = products[0] / n + 2.0 * (kernel * covariances).sum()
    if density == 0.0:
        return 1.0
    length = (slope / density) ** 2
    most = math.ceil(min(3.0 * math.sqrt(n), n / 3.0))
    return float(min(max((length * n) ** (1.0 / 3.0), 1.0), most))


def common_block_length(returns: FloatArray) -> float:
    """Return one mean block length for several accounts: the longest that any of their series asks for.

    Both the returns and their squares are asked. Growth depends on the former alone, but the Sharpe ratio and the
    drawdown depend on the latter too, whose dependence lasts longer (volatility comes in clusters).

    Args:
        returns: Simple returns, float64 ``[bars, accounts]``.
    """
    return max(mean_block_length(series) for account in returns.T for series in (account, account * account))


def stationary_positions(n_bars: int, length: float, resamples: int, generator: Generator) -> Iterator[IntArray]:
    """Yield, for each bar of the resampled histories, which bars of the original stand there.

    Args:
        n_bars: Bars of the original, and of each history.
        length: Mean block length, in bars; at least 1.
        resamples: How many histories.
        generator: Source of randomness.

    Yields:
        Bars of the original, int64 ``[resamples]``.
    """
    positions = generator.integers(n_bars, size=resamples)
    yield positions
    for _ in range(n_bars - 1):
        jumps = generator.random(resamples) * length < 1.0
        positions = np.where(jumps, generator.integers(n_bars, size=resamples), (positions + 1) % n_bars)
        yield positions


def resample(returns: FloatArray, positions: Iterable[IntArray], risk_free: float = 0.0) -> Resamples:
    """Walk through all resampled histories at once, bar by bar.

    Args:
        returns: Simple returns, float64 ``[bars, accounts]``, above -1.
        positions: For each bar of the histories, the bars of ``returns`` that stand there, int64 ``[resamples]``.
        risk_free: Risk-free return of a bar.
    """
    n_bars, n_accounts = returns.shape
    means = returns.mean(axis=0)
    centred = returns - means  # so that the sum of squares loses no digits
    table = np.hstack([np.log1p(returns), centred, centred * centred])
    sums = np.zeros((1, 3 * n_accounts))
    growth = peak = worst = np.zeros((1, n_accounts))
    for drawn in positions:
        sums = sums + table[drawn]
        growth = sums[:, :n_accounts]
        peak = np.maximum(peak, growth)
        worst = np.minimum(worst, growth - peak)
    shift, square = sums[:, n_accounts : 2 * n_accounts] / n_bars, sums[:, 2 * n_accounts :] / n_bars
    variance = (square - shift * shift) * (n_bars / (n_bars - 1))
    excess = means + shift - risk_free
    moving = variance > _NOISE * (square + means * means)
    sharpe = np.divide(excess, np.sqrt(np.abs(variance)), out=np.full_like(excess, np.nan), where=moving)
    return Resamples(growth, sharpe, np.expm1(worst))


def varies(series: FloatArray) -> bool:
    """Tell whether a series is more than one value over and over."""
    return bool(np.ptp(series) > 0)
