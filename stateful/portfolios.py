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
_SAME = 1e-12
"""Price relatives that differ by less, relative to them, differ by rounding alone."""
_ROUNDS = 20
"""Rounds of block pivoting; 200 symbols take about 5."""
_ROUNDING = 1e-9
"""By how much a condition may be broken by rounding alone."""


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
    """Return the weights with the least variance, long-only, by the covariance of `shrunk_covariance`.

    Args:
        prices: float64 ``[bars, n]``, at least three bars, all above 0.

    Returns:
        float64 ``[n]``; equal weights where nothing moved.
    """
    return least_variance(shrunk_covariance(returns_of(prices)))


def shrunk_covariance(returns: FloatArray) -> FloatArray:
    """Return the covariance, shrunk towards a multiple of the identity.

    O. Ledoit & M. Wolf, "A well-conditioned estimator for large-dimensional covariance matrices", Journal of
    Multivariate Analysis 88(2), 2004, section 3.3. With norms |A|^2 = sum(A^2) / n, the sample covariance S, its mean
    variance m and d^2 = |S - m I|^2, the error of S is b^2 = min(d^2, sum over bars of |x x' - S|^2 / bars^2), and the
    result is b^2 / d^2 m I + (1 - b^2 / d^2) S. The sum is (sum (x'x)^2 - bars sum(S^2)) / n. The same numbers as
    `sklearn.covariance.ledoit_wolf`, in a tenth of the time.

    Args:
        returns: float64 ``[bars, n]``.

    Returns:
        float64 ``[n, n]``.
    """
    bars, n = returns.shape
    x = returns - returns.sum(axis=0) / bars
    sample: FloatArray = x.T @ x / bars
    mean = float(np.trace(sample)) / n
    square = float(np.vdot(sample, sample))
    distance = square / n - mean * mean
    if distance <= 0.0:
        return sample  # one symbol, or a multiple of the identity already
    lengths = np.einsum("ij,ij->i", x, x)
    error = (float(lengths @ lengths) - bars * square) / n / bars**2
    part = min(max(error, 0.0) / distance, 1.0)
    shrunk: FloatArray = (1.0 - part) * sample
    shrunk.flat[:: n + 1] += part * mean
    return shrunk


def least_variance(covariance: FloatArray) -> FloatArray:
    """Return the weights w >= 0 with sum 1 that minimise w' C w, to the precision of the solver.

    With C = R'R the non-negative least squares problem min |R y - b|, where R'b = 1, has the optimality conditions
    C y >= 1, y >= 0, y' (C y - 1) = 0; those of the portfolio are the same for w = y / sum(y). They are solved by block
    principal pivoting (J. Portugal, J. Judice & L. Vicente, "A comparison of block pivoting and interior-point
    algorithms for linear least squares problems with nonnegative variables", Mathematics of Computation 63, 1994): the
    symbols that break them change sides, held or not, all at once, which takes a few rounds. Where that goes round in
    circles, the active set method of Lawson & Hanson ("Solving Least Squares Problems", 1974, chapter 23) solves them.

    Args:
        covariance: C, float64 ``[n, n]``, symmetric and positive semidefinite.

    Returns:
        float64 ``[n]``; equal weights where C is 0.
    """
    n = len(covariance)
    mean = float(np.trace(covariance)) / n
    if mean <= 0.0:
        return np.full(n, 1.0 / n)
    scaled = covariance / mean
    scaled.flat[:: n + 1] += _RIDGE
    held = np.ones(n, np.bool_)
    for _ in range(_ROUNDS):
        solution = np.zeros(n)
        solution[held] = np.linalg.solve(scaled[np.ix_(held, held)], np.ones(int(held.sum())))
        breaking = np.where(held, solution < 0.0, scaled @ solution < 1.0 - _ROUNDING)
        if not breaking.any():
            return normalised(solution)
        held ^= breaking
    return normalised(_by_active_sets(scaled))


def _by_active_sets(covariance: FloatArray) -> FloatArray:
    """Return the y of `least_variance`, float64 ``[n]``."""
    from scipy.linalg import cholesky, solve_triangular  # type: ignore[import-untyped]
    from scipy.optimize import nnls  # type: ignore[import-untyped]

    root = cholesky(covariance)
    solution: FloatArray = nnls(root, solve_triangular(root, np.ones(len(root)), trans="T"))[0]
    return solution


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
    point = point - point.max()  # the result is the same, and 1 is not lost beside a large number
    falling = np.sort(point)[::-1]
    excess = falling.cumsum() - 1.0
    last = (falling * np.arange(1, len(point) + 1) > excess).nonzero()[0][-1]
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
    return reversion_towards(weights, prices.mean(axis=0) / prices[-1], epsilon)


def reversion_towards(weights: FloatArray, expected: FloatArray, epsilon: float) -> FloatArray:
    """Return the next portfolio of `reversion_step`, given the price relatives that are expected, float64 ``[n]``."""
    spread = expected - expected.sum() / len(expected)
    size = float(spread @ spread)
    moves = size > _SAME**2 * float(expected @ expected)
    step = max(0.0, (epsilon - float(weights @ expected)) / size) if moves else 0.0
    return project_to_simplex(weights + step * spread)


def expected_reversions(prices: FloatArray, has_bar: BoolArray, window: int) -> FloatArray:
    """Return the price relatives that bring each price back to its moving average, mean(p) / p[t].

    Args:
        prices: The last known price of every bar, float64 ``[bars, n]``.
        has_bar: Bars that a symbol has: a moving average is that of its own last ones, bool ``[bars, n]``.
        window: Bars of the moving average.

    Returns:
        float64 ``[bars, n]``, NaN until a symbol has had ``window`` bars.
    """
    expected = np.full(prices.shape, np.nan)
    for s in range(prices.shape[1]):
        rows = np.flatnonzero(has_bar[:, s])
        if len(rows) >= window:
            own = prices[rows, s]
            found = np.lib.stride_tricks.sliding_window_view(own, window).mean(axis=1) / own[window - 1 :]
            expected[rows[window - 1] :, s] = np.repeat(found, np.diff(rows[window - 1 :], append=len(prices)))
    return expected
