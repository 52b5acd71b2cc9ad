"""When a rule decides, which symbols it may hold then, and until when a decision is carried out.

Everything here follows from the market's timestamps and from which symbols have bars. Nothing looks at an account, and
what is said of a bar depends on the bars up to it alone.

An order is filled at once or dropped (rule 1.4 of ``docs/accounting.md``). On a clock with several calendars a decision
is therefore ordered again, bar after bar, until every symbol in it has had a bar to fill at.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from batchenv.base import TradingTask
from batchenv.calendars import LONG_WEEKEND
from batchenv.market import MarketData

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

DAY = 86_400 * 10**9
"""Nanoseconds."""
YEAR = int(365.25 * DAY)
QUARTER, MONTH = YEAR // 4, YEAR // 12
"""Spans of time, in nanoseconds; a month is 30.4375 days."""
NEVER = -1
"""In place of a bar: nothing has been decided yet."""
HALT = 35 * DAY
"""A symbol without a bar for longer has halted, and no money waits for it: by then the money would have been divided
anew, a month and a weekend or holiday after the symbol's last bar."""
_REMEMBERED = 8
"""Numbers of bars that decisions need for which their ends are remembered: one for each limit of an order."""
SETTLING = LONG_WEEKEND * DAY
"""How long after the first bar a first listing still counts as being there from the start. Without earlier bars nobody
can tell a symbol whose market is closed for a long weekend from one that does not exist yet."""


@dataclass(frozen=True, eq=False)
class Calendar:
    """Which symbols of a market can be held, and when.

    Attributes:
        times: Times of the bars, nanoseconds, int64 ``[bars]``.
        holdable: Symbols that can be held: listed, not delisted (rule 4.4), and not halted (`HALT`). A weekend takes no
            symbol out. Bool ``[bars, symbols]``.
        all_holdable: The same with the bars before the part first, bool ``[history and part, symbols]``.
        all_times: As ``times``, with the bars before the part, int64 ``[history and part]``.
        has_bar: As `MarketData.has_bar`, with the bars before the part, bool ``[history and part, symbols]``.
        marks: mark[t], 0 before a listing, money per share, float64 ``[bars, symbols]``.
        first_listed: The first bar with a mark, 0 for a symbol that had one before the part, int64 ``[symbols]``; the
            number of bars for one that has none.
    """

    times: IntArray
    holdable: BoolArray
    all_times: IntArray
    all_holdable: BoolArray
    has_bar: BoolArray
    marks: FloatArray
    first_listed: IntArray

    @classmethod
    def of(cls, market: MarketData) -> Calendar:
        """Return the calendar of a market, from memory where it is known."""
        if market not in _CALENDARS:
            whole, n = market.with_history(), market.n_bars
            times = whole.timestamps.astype(np.int64)
            last = np.maximum.accumulate(np.where(whole.has_bar, np.arange(whole.n_bars)[:, None], -1), axis=0)
            assert whole.delisted is not None  # the constructor found them
            gone = whole.timestamps[:, None] > whole.delisted
            holdable = (last >= 0) & (times[:, None] - times[last] <= HALT) & ~gone
            listed = ~np.isnan(market.mark)
            first = np.where(listed.any(axis=0), listed.argmax(axis=0), n)
            marks = np.nan_to_num(market.mark)
            _CALENDARS[market] = cls(times[-n:], holdable[-n:], times, holdable, whole.has_bar, marks, first)
        return _CALENDARS[market]

    @cached_property
    def _openings(self) -> dict[bytes, IntArray]:
        return {}

    def opening(self, allowed: BoolArray, start: IntArray) -> IntArray:
        """Return the first bar from ``start`` on with anything to hold, the number of bars where there is none.

        Args:
            allowed: Symbols that may be traded, bool ``[k, symbols]``.
            start: First bars of episodes, int64 ``[k]``.
        """
        found, n = start.copy(), len(self.times)
        for lane in np.flatnonzero(~(self.holdable[start] & allowed).any(axis=1)).tolist():
            key = allowed[lane].tobytes()
            if key not in self._openings:
                bars = np.where((self.holdable & allowed[lane]).any(axis=1), np.arange(n), n)
                self._openings[key] = np.minimum.accumulate(bars[::-1])[::-1]
            found[lane] = self._openings[key][start[lane]]
        return found

    def due(self, opening: IntArray, bar: IntArray, every: int | None) -> IntArray:
        """Return the last bar of a schedule that begins at ``opening``, int64 ``[k]``.

        Args:
            opening: First bar of the schedule, int64 ``[k]``.
            bar: The current bar, not before ``opening``, int64 ``[k]``.
            every: Bars between two dates of the schedule. None is a month: the k-th date is the first bar at or after
                the opening's time + k months.
        """
        if every is not None:
            return bar - (bar - opening) % every
        began = self.times[opening]
        months = (self.times[bar] - began) // MONTH
        return np.searchsorted(self.times, began + months * MONTH)

    def late_arrival(self, allowed: BoolArray, opening: IntArray, bar: IntArray) -> IntArray:
        """Return the last bar up to ``bar`` at which a symbol was listed while the account was settling (`SETTLING`).

        Args:
            allowed: Symbols that may be traded, bool ``[k, symbols]``.
            opening: First bar of the schedule, int64 ``[k]``; it is returned where no symbol was listed after it.
            bar: The current bar, not before ``opening``, int64 ``[k]``.
        """
        found = opening
        for listed in np.unique(self.first_listed[(self.first_listed > 0) & (self.first_listed < len(self.times))]):
            soon = self.times[listed] - self.times[opening] <= SETTLING
            mine = allowed[:, self.first_listed == listed].any(axis=1)
            found = np.where((listed > opening) & (listed <= bar) & soon & mine, listed, found)
        return found

    def rows_back(self, rows: IntArray, span: int) -> IntArray:
        """Return the last row at or before the time of each row less ``span`` nanoseconds, -1 where there is none.

        Args:
            rows: Rows of history and part, int64 ``[k]``.
            span: Nanoseconds.
        """
        return np.searchsorted(self.all_times, self.all_times[rows] - span, side="right") - 1


_CALENDARS: WeakKeyDictionary[MarketData, Calendar] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class Chances:
    """When an order can fill (rules 1.4 and 3.1).

    Attributes:
        count: Bars before this one at which an order could be decided on that could fill, int32
            ``[bars + 1, symbols]``.
        shares: How many shares these orders could fill in all, where a participation limit is set; shares as they were
            counted at the first bar. Float64 ``[bars + 1, symbols]``, else None.
    """

    count: npt.NDArray[np.int32]
    shares: FloatArray | None

    @classmethod
    def of(cls, task: TradingTask, index: FloatArray) -> Chances:
        """Return the chances that a market and its rules give, from memory where they are known.

        Args:
            task: Market and rules.
            index: What one share of the first bar has grown to, money, float64 ``[bars, symbols]``.
        """
        market, fill = task.market, task.config.fill
        limit = task.config.execution_config.participation_limit
        needs_volume = limit is not None or task.config.cost_config.impact_coefficient > 0.0
        known = _CHANCES.setdefault(market, {})
        key = (fill, needs_volume, limit)
        if key not in known:
            can, shares = market.has_bar, None
            if needs_volume and market.volume is not None:
                can = can & (market.volume > 0.0)
            if limit is not None and market.volume is not None:
                counted = market.close / index  # one share is so many shares of the first bar
                shares = _so_far(np.where(can, limit * market.volume * counted, 0.0), market, fill)
            known[key] = cls(_so_far(can.astype(np.int32), market, fill), shares)
        return known[key]

    def waiting(self, since: IntArray, bar: IntArray, bars: IntArray, shares: FloatArray | None) -> BoolArray:
        """Return which symbols have not had the chances that a decision needs, bool ``[k, symbols]``.

        Args:
            since: The bar from which chances count, int64 ``[k]``.
            bar: The current bar, whose own chance does not count, int64 ``[k]``.
            bars: Bars to fill at that are needed, int64 ``[k, 1]``.
            shares: Shares that are needed, counted as at the first bar, float64 ``[k, symbols]``; they matter where a
                participation limit is set.
        """
        found: BoolArray = self.count[bar] - self.count[since] < bars
        if self.shares is not None and shares is not None:
            found |= self.shares[bar] - self.shares[since] < shares
        return found

    def last_needed(self, since: IntArray, bars: IntArray, shares: FloatArray | None) -> IntArray:
        """Return the bar of the last chance that a decision needs, the number of bars where it does not come.

        Args:
            since: As in `waiting`.
            bars: As in `waiting`.
            shares: As in `waiting`.

        Returns:
            int64 ``[k, symbols]``.
        """
        found = _reached(self.count, since, np.broadcast_to(bars, (len(since), self.count.shape[1])))
        if self.shares is not None and shares is not None:
            found = np.maximum(found, _reached(self.shares, since, shares))
        return found - 1

    def done(self, holdable: BoolArray, since: IntArray, bars: int) -> IntArray:
        """Return the last bar at which a decision can still need orders, whoever made it, int64 ``[k]``.

        Where that depends on the account (a participation limit, orders limited in shares) no bar is left out.

        Args:
            holdable: `Calendar.holdable`.
            since: The bars of the decisions, int64 ``[k]``.
            bars: Bars to fill at that are needed.
        """
        n = len(holdable)
        if self.shares is not None or (len(self._done) >= _REMEMBERED and bars not in self._done):
            return np.full(len(since), n)
        known = self._done.setdefault(bars, np.full(n, NEVER))
        missing = np.unique(since[known[since] == NEVER])
        if len(missing):
            part, needed = holdable[missing], np.array([[bars]])
            own = np.where(part, self.last_needed(missing, needed, None), 0)
            last = np.minimum(own.max(axis=1), n)
            again = np.where(part & (own < last[:, None]), self.last_needed(last, needed, None), 0)
            known[missing] = np.maximum(last, again.max(axis=1))
        return known[since]

    @cached_property
    def _done(self) -> dict[int, IntArray]:
        return {}


_CHANCES: WeakKeyDictionary[MarketData, dict[tuple[str, bool, float | None], Chances]] = WeakKeyDictionary()


def _so_far(at_fill: npt.NDArray[Any], market: MarketData, fill: str) -> npt.NDArray[Any]:
    """Return the sum, before each bar, of what the fill bars of earlier decisions offer, ``[bars + 1, symbols]``."""
    offered = at_fill
    if fill != "close":
        offered = np.zeros_like(at_fill)
        offered[:-1] = np.where(np.isnan(market.mark[:-1]), 0, at_fill[1:])
    return np.concatenate([np.zeros_like(offered[:1]), np.cumsum(offered, axis=0, dtype=offered.dtype)])


def _reached(so_far: npt.NDArray[Any], since: IntArray, needed: npt.NDArray[Any]) -> IntArray:
    """Return the first row at which a sum has grown by ``needed`` since a row, int64 ``[k, symbols]``."""
    wanted = so_far[since] + needed
    columns = range(so_far.shape[1])
    return np.stack([np.searchsorted(so_far[:, s], wanted[:, s]) for s in columns], axis=1)
