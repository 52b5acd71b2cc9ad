"""Does a column of the user's hold what is to be predicted? No change of the market shows it: the column is given.

What shows it is a correlation with later returns that no honest number has. Ranks are compared, so that any increasing
function of a later return is found: the return itself, its sign, its bucket, its rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from batchenv.data.bars import FloatArray
from batchenv.errors import CausalityError, ConfigError, did_you_mean
from batchenv.market import MarketData

AHEAD = (1, 2, 3, 5, 10, 20)
"""How many bars later the returns are that columns are compared with."""
NEARLY_PERFECT = 0.98
"""From which part of the highest rank correlation that ties allow a column is taken to hold the target."""
LEAST = 30
"""Least number of bars (for returns over several: of such stretches) that a correlation is believed of."""
_LEAST_APART = 10
"""Least number of values that differ from the most frequent one."""
_SYMBOLS = 20
"""Most symbols that are looked at by themselves."""
_SYMBOLS_TO_RANK = 5
"""Least number of symbols in a bar whose ranks tell something."""
_PAST = 5
"""How many past returns the next one may follow from, in a market that is itself predictable."""
_FORETOLD = 0.9
"""From which rank correlation on the past foretells what is later."""


class Target(NamedTuple):
    """A column that knows later prices.

    Attributes:
        column: The column.
        symbol: The symbol that shows it most, or all of them where it ranks them.
        what: What it holds.
        correlation: Rank correlation with that, as a part of the highest one that ties allow.
        n_bars: Number of values compared.
    """

    column: str
    symbol: str
    what: str
    correlation: float
    n_bars: int

    def __str__(self) -> str:
        """Say it in one sentence."""
        return (
            f"column {self.column!r} of {self.symbol} holds {self.what}: rank correlation {self.correlation:.3f} "
            f"over {self.n_bars} bars"
        )


def find_targets(market: MarketData, columns: Sequence[str] | None = None) -> tuple[Target, ...]:
    """Find columns whose values go (nearly) perfectly with later prices.

    For each symbol, the values at bar t are compared with the return from t to t+n and with the return of bar t+n
    alone, and their changes with the change of the close at t+n, for n = 1, 2, 3, 5, 10, 20. Closes are taken as they
    are and, where there are splits, adjusted for them too. Over all symbols of a bar, five or more, their ranks are
    compared with those of the next returns. Nothing is said where close and past returns foretell the later number as
    well, as in made-up markets, nor of fewer than 30 bars.

    A target with much noise in it, one of another horizon, or one that stands at a few bars only is not found.

    Args:
        market: The bars, with their columns; history counts.
        columns: The columns to look at; None for all.

    Returns:
        The strongest finding for each column that has one.

    Raises:
        ConfigError: A column is unknown.
    """
    whole = market.with_history()
    names = list(whole.columns) if columns is None else list(columns)
    for name in names:
        if name not in whole.columns:
            raise ConfigError(
                f"columns: got {name!r}{did_you_mean(name, whole.columns)}, expected some of {list(whole.columns)}"
            )
    found = (_strongest(whole, name) for name in names)
    return tuple(target for target in found if target is not None)


def refuse_targets(market: MarketData, columns: Sequence[str]) -> None:
    """Refuse columns, used as features, that hold later prices.

    Raises:
        CausalityError: One does; says how sure that is.
    """
    for target in find_targets(market, columns):
        raise CausalityError(
            f"{target}; expected what is known at the bar. If it is, as when one price follows another by a bar, "
            "say check_columns=False"
        )


def _strongest(market: MarketData, name: str) -> Target | None:
    """Return the strongest finding of a column, or None where there is none."""
    values, targets = market.columns[name], list[Target]()
    listed = np.flatnonzero(market.has_bar.sum(axis=0) > LEAST)
    some = listed[np.linspace(0, len(listed) - 1, min(_SYMBOLS, len(listed))).astype(int)] if len(listed) else listed
    for s in some:
        bars = market.has_bar[:, s]
        closes = [market.close[bars, s]]
        if market.splits is not None:
            closes.append(closes[0] * np.cumprod(market.splits[bars, s]))
        for close in closes:
            for compared in _comparisons(values[bars, s], close):
                correlation, count = _rank_correlation(compared.own, compared.later)
                believed = abs(correlation) >= NEARLY_PERFECT and count >= LEAST * compared.stretch
                if believed and not _follows(compared, close):
                    targets.append(Target(name, repr(market.symbols[s]), compared.what, correlation, count))
    targets += _ranks_of_next(market, name, values)
    return max(targets, key=lambda target: (round(abs(target.correlation), 6), target.n_bars), default=None)


class _Comparison(NamedTuple):
    """Numbers of a column beside later ones of the market, by the symbol's own bars.

    Attributes:
        what: Name of the later numbers.
        own: Numbers of the column.
        later: The later numbers.
        first: The bar t that the first pair belongs to.
        stretch: Bars that a later number stretches over: so many of them overlap.
    """

    what: str
    own: FloatArray
    later: FloatArray
    first: int
    stretch: int


def _comparisons(values: FloatArray, close: FloatArray) -> list[_Comparison]:
    """Return what to compare the values of a symbol with."""
    result = []
    returns = close[1:] / close[:-1] - 1.0
    for n in (n for n in AHEAD if n < len(close) - LEAST):
        bar = "the next bar" if n == 1 else f"{n} bars later"
        result.append(_Comparison(f"the return to {bar}", values[:-n], close[n:] / close[:-n] - 1.0, 0, n))
        if n > 1:
            result.append(_Comparison(f"the return of the bar {bar}", values[:-n], returns[n - 1 :], 0, 1))
        result.append(_Comparison(f"the close of {bar}", np.diff(values)[:-n], np.diff(close)[n:], 1, 1))
    return result


def _rank_correlation(x: FloatArray, y: FloatArray) -> tuple[float, int]:
    """Return the rank correlation of what both have, as a part of the highest or lowest that ties allow, and its count.

    It is 0 where that says nothing: too few values, or too many that are the same.
    """
    both = np.isfinite(x) & np.isfinite(y)
    x, y = x[both], y[both]
    if len(x) < LEAST or any(len(v) - np.unique(v, return_counts=True)[1].max() < _LEAST_APART for v in (x, y)):
        return 0.0, len(x)
    a, b = _ranks(x), _ranks(y)
    product = float(a @ b)
    ordered = np.sort(a)
    most = float(ordered @ np.sort(b)) if product > 0 else -float(ordered @ np.sort(b)[::-1])
    return product / most, len(x)


def _ranks(x: FloatArray) -> FloatArray:
    """Return ranks less their mean; equal values share theirs."""
    _, place, counts = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: FloatArray = (last - (counts - 1) / 2.0)[place] - (len(x) + 1) / 2.0
    return ranks


def _follows(compared: _Comparison, close: FloatArray) -> bool:
    """Whether close and past returns foretell the later numbers, by least squares: then a column may do so honestly."""
    returns = np.concatenate([np.full(_PAST, np.nan), close[1:] / close[:-1] - 1.0])
    past = [returns[_PAST - 1 - k : len(returns) - k] for k in range(_PAST)]  # of the bars t, t-1, ...
    known = np.column_stack([np.ones_like(close), close, *past])[compared.first : compared.first + len(compared.later)]
    there = np.isfinite(known).all(axis=1)
    known, later = known[there], compared.later[there]
    if len(later) < LEAST:  # nobody can say
        return True
    fitted = known @ np.linalg.lstsq(known, later, rcond=None)[0]
    return abs(_rank_correlation(fitted, later)[0]) >= _FORETOLD


def _ranks_of_next(market: MarketData, name: str, values: FloatArray) -> list[Target]:
    """Compare the ranks of symbols within each bar with those by the next return."""
    returns = np.full(values.shape, np.nan)
    returns[1:] = market.mark[1:] / market.mark[:-1] - 1.0
    later = np.concatenate([returns[1:], np.full((1, market.n_symbols), np.nan)])
    there = np.isfinite(values) & np.isfinite(later) & np.isfinite(returns) & market.has_bar
    there[:-1] &= market.has_bar[1:]
    rows = np.flatnonzero(there.sum(axis=1) >= _SYMBOLS_TO_RANK)
    if len(rows) < LEAST:
        return []

    def agreement(one: FloatArray) -> float:
        pairs = [(_ranks(one[t, there[t]]), _ranks(later[t, there[t]])) for t in rows]
        most = sum(float(np.sort(a) @ np.sort(b)) for a, b in pairs)
        return sum(float(a @ b) for a, b in pairs) / most if most > 0 else 0.0

    correlation = agreement(values)
    if abs(correlation) < NEARLY_PERFECT or abs(agreement(returns)) >= _FORETOLD:
        return []
    return [Target(name, "all symbols", "how the next returns rank", correlation, len(rows))]
