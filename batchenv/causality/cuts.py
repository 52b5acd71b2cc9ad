"""Which bars to cut after: where look-ahead likes to hide, some spread over the data, and others drawn by the seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from batchenv.data.bars import BoolArray, format_time
from batchenv.episodes import draw
from batchenv.errors import ConfigError
from batchenv.market import MarketData

SPREAD = 5
"""How many cuts are spread evenly over the data, the first and the last possible one among them."""


def choose_cuts(market: MarketData, first: int, last: int, number: int, seed: int) -> list[int]:
    """Return up to ``number`` bars from ``first`` to ``last`` to cut after, the most telling first.

    Some are spread evenly. Up to half stand where something begins, pauses or ends; of more than that, which ones is
    drawn. The others are drawn from all bars.
    """
    first = min(first, last)
    spread = [int(bar) for bar in np.linspace(first, last, min(number, SPREAD))[::-1]]
    special = [bar for bar in telling_bars(market) if first <= bar <= last]
    drawn = draw(seed, np.arange(len(special)), 0, 0) if special else np.zeros(0)
    special = [special[k] for k in np.argsort(drawn, kind="stable")[: number // 2]]
    anywhere = first + draw(seed, np.arange(4 * number), 1, 0) * (last - first + 1) // 2**32
    chosen = dict.fromkeys([*spread, *special, *(int(bar) for bar in anywhere)])
    return list(chosen)[:number]


def telling_bars(market: MarketData) -> list[int]:
    """Return the bars t whose next one tells something: a listing, the end of a gap, an end, a split or a dividend."""
    tells = _changes(market.has_bar)
    for values in market.columns.values():
        tells |= _changes(~np.isnan(values))
    for events, none in ((market.splits, 1.0), (market.dividends, 0.0)):
        if events is not None:
            tells |= _any(events != none)
    return [int(bar) - 1 for bar in np.flatnonzero(tells) if bar > 0]


def _changes(there: BoolArray) -> BoolArray:
    """Return at which bars a symbol begins or ceases to be there, bool [bars]."""
    changes = np.zeros(len(there), np.bool_)
    changes[1:] = _any(there[1:] != there[:-1])
    return changes


def _any(cells: NDArray[np.bool_]) -> BoolArray:
    return np.asarray(cells.any(axis=1))


def checked_bars(bars: Sequence[int], market: MarketData) -> list[int]:
    """Return the bars that the caller names.

    Raises:
        ConfigError: There are none, or one has no later bar.
    """
    cuts = [int(bar) for bar in bars]
    for bar in cuts:
        if not 0 <= bar <= market.n_bars - 2:
            raise ConfigError(f"bars: got {bar}, expected bars from 0 to {market.n_bars - 2}, which have a later one")
    if not cuts:
        raise ConfigError("bars: got none, expected at least one bar to cut after, or None")
    return cuts


def checked_number(cuts: int | None, default: int) -> int:
    """Return how many cuts to make.

    Raises:
        ConfigError: That is no whole number of 1 or more.
    """
    if cuts is None:
        return default
    if isinstance(cuts, bool) or not isinstance(cuts, (int, np.integer)) or cuts < 1:
        raise ConfigError(f"cuts: got {cuts!r}, expected a whole number of bars to cut after, 1 or more, or None")
    return int(cuts)


def bar_text(market: MarketData, bar: int) -> str:
    """Return a bar with its date, for messages."""
    return f"bar {bar} ({format_time(market.timestamps[bar])})"


def cut_text(market: MarketData, cut: int) -> str:
    """Return a cut, for messages."""
    return f"when the bars after {bar_text(market, cut)} change"
