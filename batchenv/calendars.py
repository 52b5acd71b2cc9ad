"""What the times of bars tell: how many bars a year has, and which symbols have stopped for good.

Both are read off the timestamps, and both can be beyond what a short sample shows. Then they are not guessed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from batchenv.errors import MarketDataError

Times = npt.NDArray[np.datetime64]
BoolArray = npt.NDArray[np.bool_]

LONG_WEEKEND = 4
"""Days from one trading date to the next over a weekend with a holiday: no shorter gap says that a symbol has ended."""
RARE = 500
"""One date in so many may be followed by a longer gap than is usual: once in two years of daily bars."""
_SLOW = 5.0
"""Median days between dates from which bars are weekly or slower, so that weekends say nothing."""
_USUAL_YEARS = (52.0, 12.0, 4.0, 1.0)
"""Weekly, monthly, quarterly and yearly bars."""
_OFTEN = 0.05
"""Least part of all dates that are Saturdays, and Sundays, where weekends are traded."""
_SATURDAY, _SUNDAY = 5, 6


class Year(NamedTuple):
    """How many bars a year has.

    Attributes:
        periods: Bars in a year; None where these bars cannot tell.
        reason: What that rests on, or what is missing; reads on after a colon.
    """

    periods: float | None
    reason: str


def year_of(timestamps: Times) -> Year:
    """Return how many bars a year has, as far as timestamps tell.

    * Weekly and slower bars: 52, 12, 4 or 1, or 365 over the median number of days between them.
    * Daily bars: 252, or 365 where Saturdays and Sundays have bars.
    * Intraday bars: the median number of bars on a whole date, times 252 or 365.

    Daily and intraday bars must span a weekend, and intraday bars a whole date between the first and the last.
    Otherwise nothing tells whether trading stops there, and the number of periods is None.

    Args:
        timestamps: Times of the bars, datetime64 ``[bars]``, strictly increasing.
    """
    days, bars = np.unique(timestamps.astype("datetime64[D]"), return_counts=True)
    if len(timestamps) < 2:
        return Year(None, "there is only one bar")
    intraday = bool(np.median(bars) > 1) or len(days) < 2
    gap = float(np.median(np.diff(days).astype(np.int64))) if len(days) > 1 else 0.0
    if gap >= _SLOW:
        if intraday or len(days) < 3:
            return Year(None, f"there are {len(timestamps):,} bars on {len(days):,} dates, {gap:g} days apart")
        periods = 365.0 / gap
        usual = next((known for known in _USUAL_YEARS if abs(periods / known - 1.0) < 0.1), periods)
        return Year(usual, f"bars are {gap:g} days apart")
    if not _spans_a_weekend(days):
        return Year(None, "the bars span no weekend, so they do not tell whether weekends are traded")
    weekday = _weekdays(days)
    weekends = min((weekday == _SATURDAY).mean(), (weekday == _SUNDAY).mean()) > _OFTEN
    year, words = (365.0, "weekends included") if weekends else (252.0, "weekends left out")
    if not intraday:
        steps = np.diff(days).astype(np.int64) if weekends else np.busday_count(days[:-1], days[1:])
        every = max(float(np.median(steps)), 1.0)
        return Year(year / every, f"daily bars, {words}" if every == 1.0 else f"a bar every {every:g} days, {words}")
    if len(days) < 3:
        return Year(None, "the bars have no whole date, so they do not tell how many bars a date has")
    per_day = float(np.median(bars[1:-1]))
    return Year(per_day * year, f"{per_day:g} bars a day on {year:g} days, {words}")


def delisting_times(timestamps: Times, has_bar: BoolArray) -> Times:
    """Rule 4.4: return the time of the last bar of each symbol that is delisted, NaT for every other symbol.

    Args:
        timestamps: Times of the bars, datetime64[ns] ``[bars]``, strictly increasing.
        has_bar: Whether a symbol has a bar, bool ``[bars, symbols]``.

    Returns:
        datetime64[ns] ``[symbols]``.
    """
    found = np.full(has_bar.shape[1], np.datetime64("NaT", "ns"))
    end = timestamps[-1].astype("datetime64[D]")
    for s in np.flatnonzero(has_bar.any(axis=0) & ~has_bar[-1]).tolist():
        own = timestamps[has_bar[:, s]]
        missing = int((end - own[-1].astype("datetime64[D]")).astype(np.int64))
        if missing > LONG_WEEKEND and missing > usual_gap(own):
            found[s] = own[-1]
    return found


def usual_gap(timestamps: Times) -> int:
    """Return the longest number of days between two dates with bars, the longest of every `RARE` gaps left out.

    Args:
        timestamps: Times of one symbol's bars, datetime64 ``[bars]``, strictly increasing.
    """
    gaps = np.sort(np.diff(np.unique(timestamps.astype("datetime64[D]"))).astype(np.int64))
    return int(gaps[-1 - len(gaps) // RARE]) if len(gaps) else 0


def check_delistings(
    timestamps: Times, has_bar: BoolArray, symbols: tuple[str, ...], delisted: Times, source: str
) -> None:
    """Check times of delisting that were given: a symbol has no bar after its own.

    Args:
        timestamps: Times of the bars, datetime64[ns] ``[bars]``.
        has_bar: Whether a symbol has a bar, bool ``[bars, symbols]``.
        symbols: Symbol names.
        delisted: datetime64[ns] ``[symbols]``, NaT where a symbol goes on.
        source: Name of the data, for the message.

    Raises:
        MarketDataError: The shape is wrong, or a symbol has a later bar; names the symbol and both times.
    """
    if delisted.shape != (len(symbols),):
        raise MarketDataError(
            f"{source}: delisted has shape {list(delisted.shape)}; expected one time for each of {len(symbols)} symbols"
        )
    late = has_bar & (timestamps[:, None] > delisted)
    if late.any():
        bar, s = (int(i) for i in np.argwhere(late)[0])
        raise MarketDataError(
            f"{source}, symbol {symbols[s]!r}: delisted at {delisted[s]}, and there is a bar at {timestamps[bar]}; "
            "expected the time of its last bar"
        )


def _weekdays(days: Times) -> npt.NDArray[np.int64]:
    """Return 0 for Monday to 6 for Sunday; ``days`` datetime64[D]."""
    return (days.astype(np.int64) + 3) % 7  # 1970-01-01 was a Thursday


def _spans_a_weekend(days: Times) -> bool:
    """Return whether a Saturday and the Sunday after it lie between the first and the last date, these included."""
    first = days[0].astype("datetime64[D]")
    saturday = first + np.timedelta64(int((_SATURDAY - _weekdays(days[:1])[0]) % 7), "D")
    return bool(saturday + np.timedelta64(1, "D") <= days[-1])
