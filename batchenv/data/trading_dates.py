"""Which bar of the market a row belongs to: its date, where bars are daily, else its instant in UTC.

Two exchanges share dates and not instants. A daily bar of New York is stamped 05:00 UTC in winter and one of Tokyo
15:00 UTC of the day before, and both belong to the date that their own clock shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from batchenv.config import DataOptions
from batchenv.data.bars import BoolArray, IntArray, Origin, TimeArray, format_time, listing
from batchenv.data.dates import Stamps, whole_dates
from batchenv.errors import MarketDataError, did_you_mean

EXCHANGE_ZONES = (
    "UTC",
    *("America/New_York", "America/Chicago", "America/Mexico_City", "America/Bogota", "America/Santiago"),
    *("America/Sao_Paulo", "America/Argentina/Buenos_Aires", "Europe/London", "Europe/Paris", "Europe/Athens"),
    *("Europe/Istanbul", "Europe/Moscow", "Africa/Johannesburg", "Africa/Cairo", "Asia/Jerusalem", "Asia/Riyadh"),
    *("Asia/Dubai", "Asia/Karachi", "Asia/Kolkata", "Asia/Dhaka", "Asia/Bangkok", "Asia/Shanghai", "Asia/Tokyo"),
    *("Australia/Sydney", "Pacific/Auckland"),
)
"""One zone for each clock that exchanges keep."""
APART = np.timedelta64(18, "h")
"""Bars of one symbol that are never closer are daily or slower: a day less an early close and a change of the clock."""
_FEW = 2
"""Bars at midnight that make a symbol daily, beside intraday bars of others."""
_REGULAR = 10
"""Bars at regular times of day that make a symbol daily, beside intraday bars of others."""
_WEEKEND = 0.02
"""Part of all dates that may be Saturdays or Sundays where trading stops on weekends: India trades on Diwali."""


@dataclass(frozen=True)
class Rows:
    """The rows of all symbols, symbol after symbol, each in the order of time.

    Attributes:
        stamps: Their times.
        codes: Numbers of their symbols, ascending.
        symbols: Names of the symbols.
        origin: Names the table in messages.
        options: What the user states.
    """

    stamps: Stamps
    codes: IntArray
    symbols: tuple[str, ...]
    origin: Origin
    options: DataOptions

    @cached_property
    def first(self) -> IntArray:
        """First row of each symbol that has rows."""
        return np.flatnonzero(np.diff(self.codes, prepend=-1))

    @cached_property
    def present(self) -> IntArray:
        """Numbers of the symbols that have rows."""
        return self.codes[self.first]

    @cached_property
    def count(self) -> IntArray:
        """Rows of each symbol that has some."""
        return np.diff(self.first, append=len(self.codes))

    def all_of(self, condition: BoolArray) -> BoolArray:
        """Return whether a condition on rows holds for all rows of a symbol; bool, one for each of ``present``."""
        return np.logical_and.reduceat(condition, self.first)

    @cached_property
    def spaced(self) -> BoolArray:
        """Whether the bars of a symbol are never closer than daily bars are; bool, one for each of ``present``."""
        far = np.ones(len(self.codes), np.bool_)
        far[1:] = np.diff(self.stamps.utc) >= APART
        far[self.first] = True
        return self.all_of(far)

    def times_of_day(self, at: int) -> list[str]:
        """Return the most common times of day of one of ``present``, as its own clock shows them."""
        wall = self.stamps.wall[self.first[at] :][: self.count[at]]
        day, times = np.unique(wall - whole_dates(wall), return_counts=True)
        common = day[np.argsort(-times, kind="stable")][:2]
        return [str(pd.Timestamp(0) + pd.Timedelta(value))[11:16] for value in np.sort(common)]

    def name(self, at: int) -> str:
        """Return the name of one of ``present``, with its times of day."""
        return f"{self.symbols[self.present[at]]!r} (at {' and '.join(self.times_of_day(at))})"


def bar_times(rows: Rows) -> TimeArray:
    """Return the bar of the market that each row belongs to, datetime64[ns] [rows].

    * Intraday bars belong to their instant in UTC.
    * Daily bars at midnight of their own zone belong to their own date.
    * Where the zone was lost, the date is the one that makes sense: the stamps are midnight of an exchange's zone
      through the year, or any time of day, and the dates are Monday to Friday by one reading only.

    Raises:
        MarketDataError: Daily and intraday bars stand in one table, or the dates of daily bars cannot be told.
    """
    stamps, options = _in_stated_zones(rows), rows.options
    rows = Rows(stamps, rows.codes, rows.symbols, rows.origin, options)
    if options.calendar == "intraday":
        return stamps.utc
    if stamps.midnights:
        _refuse_slower_beside_faster(rows)
        return _own_dates_noted(rows, whole_dates(stamps.wall))
    _refuse_times_without_zone(rows)
    daily = rows.spaced
    if options.calendar is None and not daily.all():
        _refuse_daily_beside_intraday(rows)
        if stamps.zoned and (stamps.wall != stamps.utc).any():
            rows.origin.note(f"intraday time stamps are in UTC; they came in {', '.join(stamps.zones[:3])}")
        return stamps.utc
    return _dates_of_daily_bars(rows)


# --- zones that the user states -----------------------------------------------------------------------------


def _in_stated_zones(rows: Rows) -> Stamps:
    """Return the times with the option ``zone`` applied."""
    zone, stamps = rows.options.zone, rows.stamps
    if zone is None:
        return stamps
    by_symbol = dict.fromkeys(rows.symbols, zone) if isinstance(zone, str) else zone
    unknown = [name for name in by_symbol if name not in rows.symbols]
    if unknown:
        raise MarketDataError(
            f"{rows.origin.name}: zone names {unknown[0]!r}, which is no symbol{did_you_mean(unknown[0], rows.symbols)}"
        )
    wall, utc = stamps.wall.copy(), stamps.utc.copy()
    unzoned = None if stamps.unzoned is None else stamps.unzoned.copy()
    for at, code in enumerate(rows.present.tolist()):
        symbol = rows.symbols[code]
        if symbol in by_symbol:
            own = slice(int(rows.first[at]), int(rows.first[at] + rows.count[at]))
            wall[own], utc[own] = _in_zone(rows, at, by_symbol[symbol])
            if unzoned is not None:
                unzoned[own] = False
    return Stamps(wall, utc, True, tuple(dict.fromkeys(by_symbol.values())), unzoned)


def _in_zone(rows: Rows, at: int, zone: str) -> tuple[TimeArray, TimeArray]:
    """Return wall clock and instant of one symbol's rows in a zone."""
    own = slice(int(rows.first[at]), int(rows.first[at] + rows.count[at]))
    wall, utc = rows.stamps.wall[own], rows.stamps.utc[own]
    try:
        there = _shown_in(utc, zone)
    except (KeyError, ValueError, OSError) as error:  # zoneinfo raises any of these for a name it does not know
        raise MarketDataError(
            f"{rows.origin.name}: zone {zone!r} is not a time zone; expected a name such as 'America/New_York'"
        ) from error
    zoned = rows.stamps.zoned and (rows.stamps.unzoned is None or not rows.stamps.unzoned[own].any())
    if zoned or (_at_midnight(there).all() and not _at_midnight(wall).all()):
        return there, utc
    if _at_midnight(wall).all() and bool(rows.spaced[at]):
        return wall, wall  # dates: they have no hour that a zone could shift
    return wall, _local_to_utc(wall, zone, rows, at)


def _local_to_utc(wall: TimeArray, zone: str, rows: Rows, at: int) -> TimeArray:
    """Return the instants of times that a zone's clock shows.

    Raises:
        MarketDataError: The clock shows a time twice or never.
    """
    index = pd.DatetimeIndex(wall)
    found = index.tz_localize(zone, ambiguous="NaT", nonexistent="NaT")
    bad = np.asarray(found.isna())
    if bad.any():
        time = index[int(np.argmax(bad))]
        never = bool(
            pd.DatetimeIndex([time]).tz_localize(zone, ambiguous=np.array([True]), nonexistent="NaT").isna()[0]
        )
        what = "never" if never else "twice"
        raise MarketDataError(
            f"{rows.origin.name}, symbol {rows.symbols[rows.present[at]]!r}, {time}: the clock of {zone} shows this "
            f"time {what}, at a change of daylight saving; expected times in UTC, or with their offsets"
        )
    return np.asarray(found.tz_convert(None).to_numpy(dtype="datetime64[ns]"))


def _shown_in(utc: TimeArray, zone: str) -> TimeArray:
    """Return what the clock of a zone shows at instants, datetime64[ns]."""
    index = pd.DatetimeIndex(utc, tz="UTC").tz_convert(zone).tz_localize(None)
    return np.asarray(index.to_numpy(dtype="datetime64[ns]"))


def _at_midnight(times: TimeArray) -> BoolArray:
    return np.asarray(times == whole_dates(times))


# --- daily bars ---------------------------------------------------------------------------------------------


def _own_dates_noted(rows: Rows, dates: TimeArray) -> TimeArray:
    stamps = rows.stamps
    moved = dates != stamps.utc
    if moved.any():
        names = listing([rows.symbols[s] for s in np.unique(rows.codes[moved]).tolist()])
        zones = [zone for zone in stamps.zones if zone != "UTC"]
        of = f" ({', '.join(zones[:3])})" if zones else ""
        rows.origin.note(f"daily bars of {names} belong to the date that the clock of their exchange shows{of}")
    return dates


def _dates_of_daily_bars(rows: Rows) -> TimeArray:
    """Return the date of each row, where all symbols have daily or slower bars."""
    own = _own_dates(rows)
    stamps = rows.stamps
    stated = rows.options.calendar == "daily"
    one_clock = bool((np.diff(np.unique(stamps.utc)) >= APART).all())
    if not own.certain.all():
        if one_clock and not stated:
            return stamps.utc  # all symbols share their time stamps: nothing is to be decided
        _refuse_unknown_dates(rows, own.certain)
    as_shown = not stamps.zoned and not own.midnight.any() and (own.dates == whole_dates(stamps.wall)).all()
    if one_clock and not stated and as_shown:
        return stamps.wall
    _refuse_two_on_a_date(rows, own.dates)
    return _own_dates_noted(rows, own.dates)


class _OwnDates(NamedTuple):
    """Dates of daily bars.

    Attributes:
        dates: The date of each row, datetime64[ns] [rows].
        certain: Whether they are certain; bool, one for each symbol that has rows.
        midnight: Whether the stamps are midnight of an exchange's clock that shows these dates; as ``certain``.
    """

    dates: TimeArray
    certain: BoolArray
    midnight: BoolArray


def _own_dates(rows: Rows) -> _OwnDates:
    wall, utc = rows.stamps.wall, rows.stamps.utc
    dates = whole_dates(wall)
    midnight = rows.all_of(_at_midnight(wall))
    certain = midnight.copy()
    if rows.options.zone is not None:
        names = rows.symbols if isinstance(rows.options.zone, str) else tuple(rows.options.zone)
        certain |= np.isin(rows.present, [rows.symbols.index(name) for name in names])
    if certain.all():
        return _OwnDates(dates, certain, midnight)
    readings, fits = _readings(rows, dates)
    somewhere = np.logical_or.reduce([midnight, *fits[1:]])
    # with a stated calendar, the date that an unzoned stamp itself shows is taken at its word
    literal = rows.options.calendar == "daily" and not rows.stamps.zoned
    for at in np.flatnonzero(~certain).tolist():
        own = slice(int(rows.first[at]), int(rows.first[at] + rows.count[at]))
        options = [reading[own] for reading, fit in zip(readings, fits, strict=True) if fit[at]]
        found = _the_one_reading(options, literal)
        if found is None and somewhere.all() and _at_midnight(utc[own]).all():
            found = whole_dates(utc[own])  # a coin whose day begins at midnight UTC, as the others' do at theirs
        certain[at] = found is not None
        dates[own] = options[0] if found is None else found
        midnight[at] = any((dates[own] == other).all() for other in options[1:])
    return _OwnDates(dates, certain, midnight)


def _readings(rows: Rows, dates: TimeArray) -> tuple[list[TimeArray], list[BoolArray]]:
    """Return the dates that stamps may mean, and for which symbols: as shown, then by midnights of exchanges' zones."""
    distinct, place = np.unique(rows.stamps.utc, return_inverse=True)
    readings, fits = [dates.copy()], [np.ones(len(rows.present), np.bool_)]
    for zone in EXCHANGE_ZONES:
        there = _shown_in(distinct, zone)
        midnight = rows.all_of(_at_midnight(there)[place])
        if midnight.any():
            readings.append(whole_dates(there)[place])
            fits.append(midnight)
    return readings, fits


def _the_one_reading(readings: list[TimeArray], literal: bool) -> TimeArray | None:
    """Return the dates that make sense; None where several do.

    Args:
        readings: Dates of one symbol, datetime64[ns] [rows] each; the first is what the stamps themselves show.
        literal: Take the first where it makes sense.
    """
    once = [dates for dates in readings if len(np.unique(dates)) == len(dates)]
    if not once:
        return readings[0]  # refused by the caller, which names the bars
    weekdays = [dates for dates in once if _weekend_share(dates) <= _WEEKEND]
    sensible = weekdays or once
    if literal and any(dates is readings[0] for dates in sensible):
        return readings[0]
    distinct = [dates for i, dates in enumerate(sensible) if not any((dates == d).all() for d in sensible[:i])]
    return distinct[0] if len(distinct) == 1 else None


def _weekend_share(dates: TimeArray) -> float:
    return float((_weekday(dates) >= 5).mean())


def _weekday(dates: TimeArray) -> npt.NDArray[np.int64]:
    """Return 0 for Monday to 6 for Sunday."""
    return (dates.astype("datetime64[D]").astype(np.int64) + 3) % 7  # 1970-01-01 was a Thursday


# --- what cannot be told ------------------------------------------------------------------------------------


def _refuse_unknown_dates(rows: Rows, known: BoolArray) -> None:
    one = int(np.flatnonzero(~known)[0])
    others = [at for at in range(len(rows.present)) if at != one and rows.times_of_day(at) != rows.times_of_day(one)]
    beside = f", and {rows.name(others[0])} at other times" if others else ""
    raise MarketDataError(
        f"{rows.origin.name}: {rows.name(one)} has at most one bar a day{beside}; these time stamps do not tell which "
        "date a bar belongs to. State zone= (the exchange's time zone, one name or by symbol) or calendar='daily' "
        "where bars are daily, or calendar='intraday' where each belongs to its own instant"
    )


def _refuse_times_without_zone(rows: Rows) -> None:
    """Refuse times of day without a zone beside others with one: they may be of any clock."""
    if rows.stamps.unzoned is None:
        return
    bare = rows.stamps.unzoned & ~_at_midnight(rows.stamps.wall)
    if bare.any():
        row = int(np.argmax(bare))
        raise MarketDataError(
            f"{rows.origin.name}, symbol {rows.symbols[rows.codes[row]]!r}: {pd.Timestamp(rows.stamps.wall[row])} has "
            f"no time zone, and others have one ({', '.join(rows.stamps.zones[:3])}); expected a zone for all or for "
            "none, or zone= for these (zone='UTC' if they are in UTC)"
        )


def _refuse_two_on_a_date(rows: Rows, dates: TimeArray) -> None:
    same = (np.diff(rows.codes) == 0) & (dates[1:] == dates[:-1])
    if same.any():
        row = int(np.argmax(same))
        times = " and ".join(str(pd.Timestamp(time)) for time in rows.stamps.wall[row : row + 2])
        raise MarketDataError(
            f"{rows.origin.name}, symbol {rows.symbols[rows.codes[row]]!r}, date {format_time(dates[row])}: two bars "
            f"on one date, at {times}; expected daily bars, or calendar='intraday'"
        )


def _refuse_daily_beside_intraday(rows: Rows) -> None:
    """Refuse a daily bar that would be known before its day has traded."""
    daily = rows.spaced & (rows.count >= _FEW)
    for at in np.flatnonzero(daily).tolist():
        own = slice(int(rows.first[at]), int(rows.first[at] + rows.count[at]))
        wall, utc = rows.stamps.wall[own], rows.stamps.utc[own]
        regular = len(wall) >= _REGULAR and len(np.unique(utc - whole_dates(utc))) <= 4 + len(wall) // 50
        daily[at] = regular or any(_at_midnight(times).all() for times in (wall, *_in_exchange_zones(utc)))
        if not daily[at]:
            continue
        other = int(np.argmin(rows.spaced))
        times = rows.stamps.wall[rows.first[other] :][: rows.count[other]]
        close = int(np.argmin(np.diff(times)))
        raise MarketDataError(
            f"{rows.origin.name}: {rows.name(at)} has daily bars, and {rows.symbols[rows.present[other]]!r} has "
            f"intraday bars ({pd.Timestamp(times[close])} and {pd.Timestamp(times[close + 1])}); a daily bar is known "
            "when its day has traded, so it must not stand among instants. Load them apart, or state "
            "calendar='intraday' if the daily stamps say when the bars were known"
        )


def _in_exchange_zones(utc: TimeArray) -> list[TimeArray]:
    return [_shown_in(utc, zone) for zone in EXCHANGE_ZONES]


def _refuse_slower_beside_faster(rows: Rows) -> None:
    """Refuse weekly bars dated Monday, and monthly ones dated the first, beside daily bars: they are known later."""
    if len(rows.present) < 2 or rows.options.calendar is not None:
        return
    days = rows.stamps.wall.astype("datetime64[D]")
    gaps = np.diff(days, prepend=days[:1]).astype(np.int64)
    gaps[rows.first] = np.iinfo(np.int64).max
    slow = np.minimum.reduceat(gaps, rows.first) >= 7
    slow &= rows.count >= _REGULAR
    starts = rows.all_of(_weekday(days) == 0) | rows.all_of(days == days.astype("datetime64[M]"))
    daily = np.minimum.reduceat(gaps, rows.first) == 1
    if (slow & starts).any() and daily.any():
        one, other = int(np.argmax(slow & starts)), int(np.argmax(daily))
        raise MarketDataError(
            f"{rows.origin.name}: {rows.symbols[rows.present[one]]!r} has weekly or monthly bars that are dated by "
            f"their first day, and {rows.symbols[rows.present[other]]!r} has daily bars; such a bar is known when its "
            "week or month has traded. Load them apart, or state calendar='daily' if the dates say when the bars were "
            "known"
        )
