"""Financial turbulence: how far today's returns lie from those of the bars before, in the metric of their covariance.

Let X hold the n returns before, less their mean, and v today's returns less that mean. The covariance is
C = X'X / (n - 1), and the turbulence is v C+ v', with the pseudo-inverse C+. Source: Kritzman and Li, "Skulls,
Financial Turbulence, and Risk Management", Financial Analysts Journal 66(5), 2010.

With as many symbols as rows, or more, C is large and has no inverse. X+ = X'(XX')+ and (X'X)+ = X+ (X+)' then give

    v C+ v' = (n - 1) |G+ c|^2   with   G = XX' and c = Xv, [n, n] and [n].

A new bar adds one row of inner products to G, whatever the number of symbols.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from batchenv.data.bars import FloatArray

_WELL_CONDITIONED = 1e-9
"""Reciprocal condition number from which on equations are solved by Cholesky's method, which loses no more digits there
than a pseudo-inverse does."""
_CANCELS = 4.0
"""Inner products are taken anew where they are so many times those about the mean."""


def turbulence(returns: FloatArray, n: int) -> FloatArray:
    """Return the turbulence of every bar against the n bars before it.

    A window holds the symbols that have all of its returns; rows before the first return of the oldest symbol are left
    out. The first two positive values are set to 0, because the first windows are degenerate. Both are FinRL's rules
    (``calculate_turbulence``). A symbol whose return does not change in the window counts as absent from it: the
    pseudo-inverse does the same with a row of zeros.

    Args:
        returns: Simple returns, float64 [bars, symbols]; NaN before the first of a symbol and nowhere else.
        n: How many bars a window has.

    Returns:
        float64 [bars], dimensionless; NaN where there are fewer than two rows to compare with.
    """
    bars, _ = returns.shape
    listed = np.isnan(returns).sum(axis=0)  # the row of each symbol's first return
    oldest = int(listed.min())
    rows = np.arange(bars)[:, None]
    differs = np.concatenate([np.zeros((1, len(listed)), np.bool_), returns[1:] != returns[:-1]])
    last_change = np.maximum.accumulate(np.where(differs, rows, 0), axis=0)
    result = np.full(bars, np.nan)
    gram: _Gram | None = None
    positive = 0
    for t in range(n, bars):
        first = max(t - n, oldest)
        if t - first < 2:
            continue
        kept = listed <= first
        moving = kept & (last_change[t - 1] > first)
        if not moving.any():
            distance = 0.0
        elif moving.sum() < t - first:
            distance = _by_covariance(returns[first:t, moving], returns[t, moving])
        else:
            gram = _Gram.at(returns, first, t, kept, gram)
            distance = gram.distance()
        positive += distance > 0.0
        result[t] = distance if positive > 2 else 0.0
    return result


def _by_covariance(window: FloatArray, today: FloatArray) -> float:
    """Return v C+ v' for a window [rows, symbols] of more rows than symbols."""
    mean = window.mean(axis=0)
    x, v = window - mean, today - mean
    return float((len(window) - 1) * (v @ _solve(x.T @ x, v)))


@dataclass
class _Gram:
    """Inner products of the rows of a window, and of the row that follows it.

    A fixed number is taken away from each symbol's returns first, near their mean. The products are then as exact as
    those about the mean, and stay the same when the window moves on.

    Attributes:
        first: First row of the window.
        stop: The row that follows it.
        symbols: How many symbols are in it.
        start: First row of ``block``.
        block: Returns less these numbers, for the window and some rows after it, float64 [rows, symbols].
        products: Inner products of the window's rows and the one that follows, float64 [rows + 1, rows + 1].
    """

    first: int
    stop: int
    symbols: int
    start: int
    block: FloatArray
    products: FloatArray

    @classmethod
    def at(cls, returns: FloatArray, first: int, stop: int, kept: np.ndarray, before: _Gram | None) -> _Gram:
        """Return the products of the window [first, stop), from those of the window before where that is possible."""
        if before is not None and before.moves_to(first, stop, int(kept.sum())):
            before.move(first)
            if not before.cancels:
                return before
        rows = stop - first
        window = returns[first:stop, kept]
        block = returns[first : stop + rows, kept] - window.mean(axis=0)
        with_next = block[: rows + 1]
        return cls(first, stop, int(kept.sum()), first, block, with_next @ with_next.T)

    def moves_to(self, first: int, stop: int, symbols: int) -> bool:
        """Return whether one row of products leads from this window to [first, stop)."""
        near = stop == self.stop + 1 and first - self.first in (0, 1) and symbols == self.symbols
        return near and stop - self.start < len(self.block)

    def move(self, first: int) -> None:
        """Take in one row, and drop those before ``first``."""
        old = self.products[first - self.first :, first - self.first :]
        self.first, self.stop = first, self.stop + 1
        rows = self.stop - first
        products = np.empty((rows + 1, rows + 1))
        products[:rows, :rows] = old
        at = self.stop - self.start
        products[rows] = products[:, rows] = self.block[first - self.start : at + 1] @ self.block[at]
        self.products = products

    @property
    def cancels(self) -> bool:
        """Whether most of the products is the mean's, so that taking it away would cost digits."""
        window = self.products[:-1, :-1]
        total = float(np.trace(window))
        return total > _CANCELS * (total - float(window.sum()) / len(window))

    def distance(self) -> float:
        """Return (n - 1) |G+ c|^2.

        G maps the vector of ones to 0, and c is orthogonal to it, so G plus any multiple of 11' has the same answer.
        """
        window, today = self.products[:-1, :-1], self.products[-1, :-1]
        rows = len(window)
        means = window.mean(axis=1)
        centred = window - means[:, None] - means + means.mean()
        c = today - means - today.mean() + means.mean()
        w = _solve(centred + np.trace(centred) / rows**2, c)
        return float((rows - 1) * (w @ w))


def _solve(matrix: FloatArray, vector: FloatArray) -> FloatArray:
    """Return matrix+ vector for a symmetric matrix without negative eigenvalues, [n, n] and [n]."""
    from scipy.linalg import eigh, lapack  # type: ignore[import-untyped]

    factor, failed = lapack.dpotrf(matrix.T, lower=1)
    if not failed:
        norm = float(np.abs(matrix).sum(axis=0).max())
        if lapack.dpocon(factor, norm, uplo="L")[0] > _WELL_CONDITIONED:
            solved: FloatArray = lapack.dpotrs(factor, vector, lower=1)[0]
            return solved
    values, vectors = eigh(matrix)
    kept = values > values[-1] * len(matrix) * np.finfo(np.float64).eps
    answer: FloatArray = vectors[:, kept] @ ((vectors[:, kept].T @ vector) / values[kept])
    return answer
