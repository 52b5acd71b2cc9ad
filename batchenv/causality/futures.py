"""Other futures of a market: the same bars up to a cut, and other ones after it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np

from batchenv.data.bars import BoolArray, FloatArray, TimeArray, last_known
from batchenv.episodes import draw
from batchenv.market import MarketData

Uniform = Callable[[float, float], FloatArray]
"""Returns uniform numbers between two bounds, one for each cell [bars, symbols]; others at every call."""


def change_after(market: MarketData, cut: int, seed: int, *, bars_too: bool, delisting_too: bool) -> MarketData:
    """Return ``market`` with everything after bar ``cut`` changed; history and ``fit_bars`` stay.

    Args:
        market: The market.
        cut: Last bar that stays as it is.
        seed: Decides the changes.
        bars_too: Whether symbols get other bars after the cut; else each has the bars that it had.
        delisting_too: With ``bars_too``, whether a symbol that has no bar at the cut may come back, or not, other
            than it did.
    """
    rows = slice(cut + 1, market.n_bars)
    shape = (market.n_bars - cut - 1, market.n_symbols)
    uniform = _uniform(seed, cut, shape)
    had = market.has_bar[rows]
    has = _other_bars(market, cut, uniform, delisting_too) if bars_too else had
    level = np.exp(uniform(-0.7, 0.7))
    listing = last_known(market.close[::-1])[-1]  # the first close of each symbol
    known = np.where(np.isnan(market.mark[rows]), np.where(np.isnan(listing), 1.0, listing), market.mark[rows])
    new: dict[str, FloatArray] = {}
    for name in ("open", "high", "low", "close"):
        values = getattr(market, name)
        if values is not None:
            new[name] = np.where(had, values[rows], known) * level
    for name in ("open", "close"):
        if name in new:
            new[name] = new[name] * np.exp(uniform(-0.1, 0.1))
    inner = [new[name] for name in ("open", "close") if name in new]
    if "high" in new:
        new["high"] = np.maximum.reduce([new["high"], *inner]) * (1.0 + uniform(0.0, 0.1))
    if "low" in new:
        new["low"] = np.minimum.reduce([new["low"], *inner]) * (1.0 - uniform(0.0, 0.1))
    if market.volume is not None:
        new["volume"] = (np.where(had, market.volume[rows], 0.0) + 1.0) * np.exp(uniform(-2.0, 2.0))
    new = {name: np.where(has, values, np.nan) for name, values in new.items()}
    marks = last_known(np.concatenate([market.mark[cut : cut + 1], new["close"]]))
    new |= _other_actions(market, rows, has, marks[:-1], uniform)

    def joined(name: str, values: FloatArray) -> FloatArray:
        return np.concatenate([getattr(market, name)[: cut + 1], values])

    changed: dict[str, Any] = {name: joined(name, values) for name, values in new.items()}
    changed["columns"] = {
        name: np.concatenate([values[: cut + 1], _other_numbers(values, cut, uniform, bars_too)])
        for name, values in market.columns.items()
    }
    other = replace(market, **changed, delisted=None)
    return other if delisting_too else replace(other, delisted=_known_delistings(market, other, cut))


def _known_delistings(market: MarketData, other: MarketData, cut: int) -> TimeArray:
    """Return the delistings of another future, those that were known at the cut as they are."""
    assert market.delisted is not None and other.delisted is not None
    gone = market.delisted < market.timestamps[cut]  # a symbol with a bar at the cut may go on in another future
    paused = np.isnat(market.delisted) & ~other.has_bar[cut:].any(axis=0)
    return np.where(gone | paused, market.delisted, other.delisted)


def change_after_open(market: MarketData, bar: int, seed: int) -> MarketData:
    """Return ``market`` with everything after the open of ``bar`` changed; the events of its night stay as they are."""
    changed = change_after(market, bar - 1, seed, bars_too=False, delisting_too=False)
    opens = market.open
    new: dict[str, Any] = {}

    def kept(name: str, row: FloatArray) -> FloatArray:
        values: FloatArray = getattr(changed, name).copy()
        values[bar] = row
        return values

    if opens is not None:
        new["open"] = kept("open", opens[bar])
        for name, limit in (("high", np.maximum), ("low", np.minimum)):
            if getattr(changed, name) is not None:
                new[name] = kept(name, limit(getattr(changed, name)[bar], opens[bar]))
    for name in ("splits", "dividends"):
        if getattr(market, name) is not None:
            new[name] = kept(name, getattr(market, name)[bar])
    columns = {name: values.copy() for name, values in changed.columns.items()}
    for name, values in columns.items():
        values[bar] = market.columns[name][bar]
    return replace(changed, **new, columns=columns)


def change_bars(market: MarketData, changed: BoolArray, seed: int) -> MarketData:
    """Return ``market`` with other numbers at some of its bars; which bars there are stays, and so does all else.

    Args:
        market: The market; without history.
        changed: Which bars change, bool [bars].
        seed: Decides the changes.
    """
    uniform = _uniform(seed, 0, market.close.shape)
    at = changed[:, None]
    level = np.where(at, np.exp(uniform(0.2, 0.7)), 1.0)  # upwards: a dividend stays below the close before it
    new: dict[str, Any] = {}
    for name, jitter in (("close", -0.1), ("open", -0.1), ("high", 0.1), ("low", -0.2)):
        values = getattr(market, name)
        if values is not None:
            new[name] = values * np.where(at, level * np.exp(uniform(min(jitter, 0.0), max(jitter, 0.0))), 1.0)
    inner = [new[name] for name in ("open", "close") if name in new]
    for name, outermost in (("high", np.maximum), ("low", np.minimum)):
        if name in new:
            new[name] = np.where(at, outermost.reduce([new[name], *inner]), new[name])
    if market.volume is not None:
        new["volume"] = np.where(at, (market.volume + 1.0) * np.exp(uniform(-2.0, 2.0)), market.volume)
    if market.dividends is not None:
        new["dividends"] = market.dividends * np.where(at, uniform(0.3, 0.8), 1.0)
    columns = {
        name: np.where(at, values + _spread_of(values) * uniform(0.5, 2.0), values)
        for name, values in market.columns.items()
    }
    return replace(market, **new, columns=columns)


def cut_off(market: MarketData, cut: int) -> MarketData:
    """Return a market without history as it stood at bar ``cut``, 1 or more: nothing later is in it."""
    return replace(market.between(None, market.timestamps[cut + 1]), delisted=None)


def _uniform(seed: int, cut: int, shape: tuple[int, ...]) -> Uniform:
    """Return what draws uniform numbers for cells of ``shape``, which depend on seed and cut alone."""
    cells = np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)
    streams = count()

    def uniform(low: float, high: float) -> FloatArray:
        return np.asarray(low + (high - low) * draw(seed, cells, cut, next(streams)) / 2.0**32)

    return uniform


def _spread_of(values: FloatArray) -> float:
    """Return the standard deviation of what is finite, 1 where it is 0 or nothing is."""
    finite = values[np.isfinite(values)]
    return float(finite.std() if finite.size else 0.0) or 1.0


def _other_bars(market: MarketData, cut: int, uniform: Uniform, delisting_too: bool) -> BoolArray:
    """Return other bars after the cut, bool [bars, symbols]: some go, some come, some symbols end early."""
    had = market.has_bar[cut + 1 :]
    stop = np.floor(uniform(0.0, 2.0)[0] * len(had))  # half of them go on to the end
    goes_on = np.arange(len(had))[:, None] < stop
    has: BoolArray = np.where(had, uniform(0.0, 1.0) > 0.25, uniform(0.0, 1.0) < 0.25) & goes_on
    if not delisting_too:
        pauses = ~market.has_bar[cut] & ~np.isnan(market.mark[cut])
        has[:, pauses] &= np.asarray(had.any(axis=0))[pauses]
        has[:, pauses] |= had[:, pauses]
    return has


def _other_actions(
    market: MarketData,
    rows: slice,
    has: BoolArray,
    before: FloatArray,
    uniform: Uniform,
) -> dict[str, FloatArray]:
    """Return other splits and dividends, for a market that has them; ``before`` are the closes before."""
    new: dict[str, FloatArray] = {}
    ratio = np.ones_like(before)
    if market.splits is not None:
        where = ((market.splits[rows] != 1.0) | (uniform(0.0, 1.0) < 0.05)) & has
        ratio = new["splits"] = np.where(where, np.ceil(uniform(0.0, 3.0)) + 0.5, 1.0)
    if market.dividends is not None:
        where = ((market.dividends[rows] > 0.0) | (uniform(0.0, 1.0) < 0.05)) & has & ~np.isnan(before)
        new["dividends"] = np.where(where, before / ratio * uniform(0.001, 0.2), 0.0)
    return new


def _other_numbers(values: FloatArray, cut: int, uniform: Uniform, gaps_too: bool) -> FloatArray:
    """Return other numbers of about the same size after the cut, NaN where they were unless ``gaps_too``."""
    spread, old = _spread_of(values), values[cut + 1 :]
    new = old + spread * uniform(-2.0, 2.0)
    if gaps_too:
        missing = np.isnan(old)
        new = np.where(missing, spread * uniform(-2.0, 2.0), new)
        new = np.where(uniform(0.0, 1.0) < np.where(missing, 0.5, 0.2), np.nan, new)
    return np.asarray(new)
