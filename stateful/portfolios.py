"""Portfolio formulas: from past prices to long-only weights that sum to 1. No account here.

Shapes: n symbols, each with all the prices that the formula looks at.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
_RIDGE = 1e-12
"""Keeps a covariance invertible where symbols move as one, as a fraction of the mean variance."""


def returns_of(prices: FloatArray) -> FloatArray:
    """Return prices[t] / prices[t-1] - 1, float64 ``[bars - 1, n]``, of prices float64 ``[bars, n]``."""
    return prices[1:] / prices[:-1] - 1.0


def normalised(amounts: FloatArray) -> FloatArray:
    """Return amounts of at least 0, float64 ``[..., n]``, divided by their sum; equal parts where all are 0."""
    total = amounts.sum(axis=-1, keepdims=True)
    parts = np.full_like(amounts, 1.0 / amounts.shape[-1])
    np.divide(amounts, total, out=parts, where=total > 0.0)
    return parts


def equal(active: BoolArray) -> FloatArray:
    """Return equal weights of what is active, bool ``[..., n]``; 0 where nothing is."""
    weights: FloatArray = active / np.maximum(active.sum(axis=-1, keepdims=True), 1)
    return weights


def minimum_variance(prices: FloatArray) -> FloatArray:
    """Return the weights with the least variance, long-only.

    The covariance of the returns is shrunk towards a multiple of the identity (Ledoit & Wolf, "A well-conditioned
    estimator for large-dimensional covariance matrices", Journal of Multivariate Analysis 88(2), 2004).

    Args:
        prices: float64 ``[bars, n]``, at least three bars, all above 0.

    Returns:
        float64 ``[n]``; equal weights where nothing moved.
    """
    from sklearn.covariance import ledoit_wolf  # type: ignore[import-untyped]

    covariance, _ = ledoit_wolf(returns_of(prices))
    return least_variance(np.asarray(covariance, np.float64))


def least_variance(covariance: FloatArray) -> FloatArray:
    """Return the weights w >= 0 with sum 1 that minimise w' C w, to the precision of the solver.

    With C = R'R the non-negative least squares problem min |R y - b|, where R'b = 1, has the optimality conditions
    C y >= 1, y >= 0, y' (C y - 1) = 0; those of the portfolio are the same for w = y / sum(y). The solver is the active
    set method of Lawson & Hanson, "Solving Least Squares Problems", 1974, chapter 23, in scipy.

    Args:
        covariance: C, float64 ``[n, n]``, symmetric and positive semidefinite.

    Returns:
        float64 ``[n]``; equal weights where C is 0.
    """
    from scipy.linalg import cholesky, solve_triangular  # type: ignore[import-untyped]
    from scipy.optimize import nnls  # type: ignore[import-untyped]

    n = len(covariance)
    mean = float(np.trace(covariance)) / n
    if mean <= 0.0:
        return np.full(n, 1.0 / n)
    root = cholesky(covariance / mean + _RIDGE * np.eye(n))
    solution: FloatArray = nnls(root, solve_triangular(root, np.ones(n), trans="T"))[0]
    return normalised(solution)


def inverse_volatility(prices: FloatArray) -> FloatArray:
    """Return weights in proportion to 1 / the standard deviation of the returns; none where nothing moved.

    Args:
        prices: float64 ``[bars, n]``, at least three bars, all above 0.

    Returns:
        float64 ``[n]``; equal weights where nothing moved at all.
    """
    deviation = returns_of(prices).std(axis=0, ddof=1)
    return normalised(np.divide(1.0, deviation, out=np.zeros_like(deviation), where=deviation > 0.0))


def best_equally(scores: FloatArray, fraction: float) -> FloatArray:
    """Return equal weights of the symbols with the highest scores; of equal scores the first symbol wins.

    Args:
        scores: float64 ``[n]``.
        fraction: Part of the symbols that is held, above 0 and up to 1, rounded up to whole symbols.

    Returns:
        float64 ``[n]``.
    """
    count = int(np.ceil(fraction * len(scores) - 1e-9))
    weights = np.zeros(len(scores))
    weights[np.argsort(-scores, kind="stable")[:count]] = 1.0 / count
    return weights


def project_to_simplex(point: FloatArray) -> FloatArray:
    """Return the nearest weights w >= 0 with sum 1, in the Euclidean distance.

    Duchi, Shalev-Shwartz, Singer & Chandra, "Efficient projections onto the l1-ball for learning in high dimensions",
    ICML 2008, figure 1.

    Args:
        point: float64 ``[n]``.
    """
    falling = np.sort(point)[::-1]
    excess = np.cumsum(falling) - 1.0
    last = np.flatnonzero(falling * np.arange(1, len(point) + 1) > excess)[-1]
    projected: FloatArray = np.maximum(point - excess[last] / (last + 1), 0.0)
    return projected


def reversion_step(weights: FloatArray, prices: FloatArray, epsilon: float) -> FloatArray:
    """Return the next portfolio of On-Line Moving Average Reversion.

    Li & Hoi, "On-line portfolio selection with moving average reversion", ICML 2012, algorithms 1 and 2 (OLMAR-1): the
    next price relative is expected to bring each price back to its moving average, x = mean(p) / p[t], and the
    portfolio moves no further than it must to be expected to return ``epsilon``.

    Args:
        weights: The portfolio so far, float64 ``[n]``.
        prices: The bars of the moving average, the last one being today, float64 ``[window, n]``.
        epsilon: Expected growth to ask for; 10 in the paper.

    Returns:
        float64 ``[n]``.
    """
    expected = prices.mean(axis=0) / prices[-1]
    spread = expected - expected.mean()
    size = float(spread @ spread)
    step = max(0.0, (epsilon - float(weights @ expected)) / size) if size > 0.0 else 0.0
    return project_to_simplex(weights + step * spread)
