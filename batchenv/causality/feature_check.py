"""Does a feature use later bars? Compute it on other futures, on the market cut off, and where single bars differ.

Whatever happens after bar t, the rows up to t must stay. That holds of a change of all bars after a *cut*, and of bars
here and there, the *teeth* of a comb. A change shows for as long as the feature remembers it, and every row from there
to the next tooth must be what it was: so one comb tests the rows before many bars at once.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from batchenv.causality.cuts import SPREAD, bar_text, checked_bars, choose_cuts, cut_text
from batchenv.causality.futures import change_after, change_bars, cut_off
from batchenv.data.bars import BoolArray, FloatArray
from batchenv.episodes import draw
from batchenv.errors import BatchenvError, CausalityError, FeatureError
from batchenv.features import _evaluate, _Request
from batchenv.market import MarketData

CUTS = 50
"""How many cuts, and how many combs, are tried by default."""
AHEAD = 5
"""How many bars before each tooth of a comb are looked at, at least."""
_FORGOTTEN = 1e-3
"""A change of a feature counts as forgotten below this part of the feature's standard deviation."""
_SUSPECTS = 5
"""How many rows of a comb are looked at more closely."""


def check_feature(feature: _Request, market: MarketData, bars: Sequence[int] | None, number: int, seed: int) -> None:
    """Check one feature.

    Args:
        feature: The feature.
        market: History and part as one.
        bars: Bars to cut after; None for `choose_cuts` and combs.
        number: How many cuts, and how many combs.
        seed: Decides cuts and changes.

    Raises:
        CausalityError: A row depends on a later bar.
        FeatureError: The feature has no value in these data.
        ConfigError: A bar to cut after is out of range.
    """
    before = _evaluate(feature, market)
    rows = np.flatnonzero(~np.isnan(before).all(axis=1))
    if not len(rows):
        raise FeatureError(f"feature {feature.name!r} has no value in these data, so nothing can be checked")
    if bars is None:
        cuts = choose_cuts(market, int(rows[0]), market.n_bars - 2, number, seed)
    else:
        cuts = checked_bars(bars, market)
    for k, cut in enumerate(cuts):
        both = bars is not None or k < SPREAD
        for bars_too in (False, True) if both else (k % 2 == 1,):
            changed = change_after(market, cut, seed, bars_too=bars_too, delisting_too=True)
            _compare(feature, market, before[: cut + 1], _evaluate(feature, changed), cut_text(market, cut))
    if bars is None:
        for cut in cuts[:: max(1, len(cuts) // 4)]:
            _check_cut_off(feature, market, before, cut)
        _check_combs(feature, market, before, number, seed)


def _compare(feature: _Request, market: MarketData, before: FloatArray, after: FloatArray, when: str) -> None:
    """Compare the rows of ``before`` bit by bit."""
    differs = _differ(before, after[: len(before)])
    if differs.any():
        bar, s = (int(i) for i in np.argwhere(differs)[0])
        raise CausalityError(
            f"feature {feature.name!r} uses later bars: {when}, its value at "
            f"{bar_text(market, bar)}, symbol {market.symbols[s]!r}, went from {before[bar, s]} to "
            f"{after[bar, s]}; expected no change"
        )


def _differ(before: FloatArray, after: FloatArray, tolerance: float = 0.0) -> BoolArray:
    with np.errstate(invalid="ignore"):
        near = np.abs(before - after) <= tolerance
    return np.asarray(~(near | (before == after) | (np.isnan(before) & np.isnan(after))))


def _check_cut_off(feature: _Request, market: MarketData, before: FloatArray, cut: int) -> None:
    """Check that the rows up to ``cut`` are the same, but for rounding, in a market that ends there."""
    if cut < 1:
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            after = _evaluate(feature, cut_off(market, cut))
    except (BatchenvError, ArithmeticError, LookupError, ValueError):  # too few bars for it: that tells nothing
        return
    old = before[: cut + 1]
    same = np.where(_differ(old, after, 1e-9 * _scale(before)), after, old)
    _compare(feature, market, old, same, f"when the market ends after {bar_text(market, cut)}")


def _scale(values: FloatArray) -> float:
    known = values[~np.isnan(values)]
    return float(known.std()) or float(np.abs(known).max()) or 1.0


# --- combs --------------------------------------------------------------------------------------------------


def _check_combs(feature: _Request, market: MarketData, before: FloatArray, number: int, seed: int) -> None:
    """Change bars throughout the data, spaced so that what the feature remembers of one is over before the next."""
    memory = _memory(feature, market, before, seed)
    spacing = memory + 1 + AHEAD
    if 2 * spacing > market.n_bars:
        return
    for offset in np.argsort(draw(seed, np.arange(spacing), 2, 0), kind="stable")[:number]:
        teeth = np.arange(market.n_bars) % spacing == offset
        _check_comb(feature, market, before, teeth, memory, seed)


def _memory(feature: _Request, market: MarketData, before: FloatArray, seed: int) -> int:
    """Return for how many bars a change of one bar shows in the feature, as far as two attempts tell."""
    memory = 0
    for at in (market.n_bars // 3, market.n_bars // 2):
        after = _evaluate(feature, change_bars(market, np.arange(market.n_bars) == at, seed))
        shows = np.flatnonzero(_differ(before, after, _FORGOTTEN * _scale(before)).any(axis=1))
        memory = max(memory, int(shows[-1]) - at if len(shows) else 0)
    return memory


def _check_comb(
    feature: _Request, market: MarketData, before: FloatArray, teeth: BoolArray, memory: int, seed: int
) -> None:
    """Look for rows that show a change although the last one before them is forgotten: was it a later one?"""
    after = _evaluate(feature, change_bars(market, teeth, seed))
    places, none = np.arange(market.n_bars), 2 * market.n_bars
    since = places - np.maximum.accumulate(np.where(teeth, places, -none))
    until = np.minimum.accumulate(np.where(teeth, places, none)[::-1])[::-1] - places
    suspects = _differ(before, after, _FORGOTTEN * _scale(before)).any(axis=1) & (since > memory) & (until < none // 2)
    nearest_first = np.flatnonzero(suspects)[np.argsort(until[suspects], kind="stable")]
    for bar in nearest_first[:_SUSPECTS]:
        later = teeth & (places > bar)
        without = _evaluate(feature, change_bars(market, teeth & ~later, seed))
        when = f"when {bar_text(market, int(np.argmax(later)))} and others after it change"
        _compare(feature, market, without[: bar + 1], after, when)
