"""Dates and times, however a table writes them: as instants in UTC and as the clock of their own zone shows them."""

from __future__ import annotations

import datetime as dt
import warnings
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd

from batchenv.config import DataOptions
from batchenv.data.bars import BoolArray, IntArray, Origin, TimeArray
from batchenv.errors import MarketDataError

EPOCH_UNITS = {"s": (1e8, 1e10), "ms": (1e11, 1e13), "us": (1e14, 1e16), "ns": (1e17, 1e19)}
"""Numbers since 1970 in each unit for the years 1973 to 2286: no number is in two of the ranges."""
_PER_UNIT = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
_LAST = 9.2e18
"""Nanoseconds since 1970 that fit 64 bits."""
_NS_DAY = 86_400 * 10**9
_ISO = "a date in ISO 8601, such as 2010-01-31 or 2010-01-31 14:30"
_ELSE = "else state dates= with a format such as '%d/%m/%Y', or convert with pandas.to_datetime first"
_OFFSET = r"[T ]\d.*(?:Z|[+-]\d{2}:?\d{0,2})$"
_BY_NAME = ("%d %b %Y", "%d %B %Y", "%b %d %Y", "%B %d %Y")
"""Dates whose month is a name have one reading."""


@dataclass(frozen=True, slots=True)
class Stamps:
    """Times of rows.

    Attributes:
        wall: As the clock of their own zone shows them, datetime64[ns] [rows].
        utc: The same instants in UTC, datetime64[ns] [rows]; as ``wall`` where no zone is known.
        zoned: Whether any of them names a zone or an offset.
        zones: Names of the zones and offsets, for notes.
        unzoned: Which rows name no zone, where others do; bool [rows], None where all rows are alike.
    """

    wall: TimeArray
    utc: TimeArray
    zoned: bool = False
    zones: tuple[str, ...] = ()
    unzoned: BoolArray | None = None

    def take(self, rows: IntArray) -> Stamps:
        """Return the times of some rows."""
        unzoned = None if self.unzoned is None else self.unzoned[rows]
        return Stamps(self.wall[rows], self.utc[rows], self.zoned, self.zones, unzoned)

    @property
    def midnights(self) -> bool:
        """Whether all of them are midnight on their own clock."""
        return not (self.wall.view(np.int64) % _NS_DAY).any()

    @staticmethod
    def join(parts: list[Stamps]) -> Stamps:
        """Return the times of several tables, one after another."""
        zones = tuple(dict.fromkeys(zone for part in parts for zone in part.zones))
        wall, utc = (np.concatenate([getattr(part, name) for part in parts]) for name in ("wall", "utc"))
        bare = [np.full(len(part.utc), not part.zoned) if part.unzoned is None else part.unzoned for part in parts]
        unzoned = np.concatenate(bare)
        return Stamps(wall, utc, not unzoned.all(), zones, _mixed(unzoned))


def _mixed(unzoned: BoolArray) -> BoolArray | None:
    """Return which rows name no zone, None where all or none do."""
    return unzoned if unzoned.any() and not unzoned.all() else None


def parse_dates(series: pd.Series[Any], column: str, origin: Origin, options: DataOptions | None = None) -> Stamps:
    """Return the times of the rows of a table.

    Read as they are: datetimes, dates and periods of any library, ISO 8601 text, dates with the month as a name,
    20240131 as text or number, and seconds, milliseconds, microseconds or nanoseconds since 1970 by their magnitude.
    ``01/02/2003`` means two days to two readers: it is read where another row leaves one reading only, or by the
    option ``dates``.

    Args:
        series: The column.
        column: Its name, for the message.
        origin: Names the table in messages.
        options: ``dates`` states the format.

    Raises:
        MarketDataError: A date is missing or cannot be read; names the row.
    """
    stated = None if options is None else options.dates
    if isinstance(series.dtype, pd.PeriodDtype):
        series = series.dt.to_timestamp()
    if pd.api.types.is_datetime64_any_dtype(series.dtype):
        found = _of_datetimes(series)
    elif pd.api.types.is_numeric_dtype(series.dtype):
        found = _of_numbers(series, column, origin, stated)
    elif pd.api.types.infer_dtype(series, skipna=True) in ("datetime", "date", "mixed", "period"):
        found = _of_objects(series, column, origin, stated)
    else:
        found = _of_texts(series, column, origin, stated)
    bad = np.isnat(found.utc)
    if bad.any():
        row = int(np.argmax(bad))
        expected = f"a date as {stated!r} writes it" if stated else f"{_ISO} ({_ELSE})"
        raise MarketDataError(f"{origin.at(row)}: {column!r} is {series.iloc[row]!r}; expected {expected}")
    return found


def _nanoseconds(values: pd.Series[Any]) -> TimeArray:
    """Return datetime64[ns] of naive datetimes; NaT for what is too far off for nanoseconds."""
    fits = values.dt.year.between(pd.Timestamp.min.year + 1, pd.Timestamp.max.year - 1)
    return cast(TimeArray, values.where(fits).dt.as_unit("ns").to_numpy(dtype="datetime64[ns]"))


def _of_datetimes(series: pd.Series[Any]) -> Stamps:
    if isinstance(series.dtype, pd.ArrowDtype):  # its dtype does not say the zone in pandas' words
        series = pd.Series(pd.DatetimeIndex(series.array.to_numpy(dtype=object, na_value=pd.NaT)))
    zone = series.dt.tz
    if zone is None:
        wall = _nanoseconds(series)
        return Stamps(wall, wall)
    return Stamps(
        _nanoseconds(series.dt.tz_localize(None)), _nanoseconds(series.dt.tz_convert(None)), True, (str(zone),)
    )


def _of_objects(series: pd.Series[Any], column: str, origin: Origin, stated: str | None) -> Stamps:
    """Read Timestamps, datetimes, dates and periods of several zones, and text among them."""
    values = [value.to_timestamp() if isinstance(value, pd.Period) else value for value in series]
    zones = [getattr(value, "tzinfo", None) for value in values]
    if not any(zone is not None for zone in zones):
        return _of_texts(series.astype(object).map(str), column, origin, stated)
    stamps = pd.Series([value if isinstance(value, dt.date) else pd.NaT for value in values], dtype=object)
    wall = pd.to_datetime(
        [value if zone is None else value.replace(tzinfo=None) for value, zone in zip(stamps, zones, strict=True)]
    )
    found = Stamps(_nanoseconds(pd.Series(wall)), _nanoseconds(pd.to_datetime(stamps, utc=True).dt.tz_localize(None)))
    names = tuple(dict.fromkeys(str(zone) for zone in zones if zone is not None))
    bare = np.array([zone is None and not pd.isna(value) for zone, value in zip(zones, stamps, strict=True)])
    return Stamps(found.wall, found.utc, True, names, _mixed(bare))


def _of_numbers(series: pd.Series[Any], column: str, origin: Origin, stated: str | None) -> Stamps:
    """Read 20240131, or numbers since 1970 by their magnitude."""
    missing = series.isna().to_numpy()
    numbers = series.to_numpy(dtype=np.float64, na_value=np.nan)
    if stated is not None and stated not in EPOCH_UNITS:
        whole = series.where(~missing).astype("Float64").map("{:.0f}".format, na_action="ignore")
        return _of_texts(whole.astype(object), column, origin, stated)
    as_dates = _eight_digits(numbers)
    if stated is None and as_dates is not None:
        return Stamps(as_dates, as_dates)
    units = [stated] if stated else list(EPOCH_UNITS)
    size = np.abs(numbers)
    inside = {unit: (size >= EPOCH_UNITS[unit][0]) & (size < EPOCH_UNITS[unit][1]) & (numbers > 0) for unit in units}
    known = np.logical_or.reduce(list(inside.values())) | missing
    if stated is None and not known.all():
        first = series.iloc[int(np.argmax(~known))]
        raise MarketDataError(
            f"{origin.name}: dates in {column!r} are numbers (such as {first}) that are neither dates such as "
            "20240131 nor seconds, milliseconds, microseconds or nanoseconds since 1970; expected dates or ISO 8601 "
            "text (state dates= with a unit, 's', 'ms', 'us' or 'ns', or a format, or convert with pandas.to_datetime)"
        )
    times = np.full(len(series), np.datetime64("NaT", "ns"))
    for unit in units:
        rows = inside[unit] if stated is None else size * _PER_UNIT[unit] < _LAST
        if rows.any():
            times[rows] = _since_1970(series[rows], unit)
            if stated is None:
                origin.note(f"dates are {_UNIT_NAMES[unit]} since 1970, by their magnitude")
    return Stamps(times, times, True, ("UTC",))


_UNIT_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}


def _since_1970(series: pd.Series[Any], unit: str) -> TimeArray:
    """Return datetime64[ns] of whole numbers exactly, and of fractions to the microsecond."""
    scale = _PER_UNIT[unit]
    if series.dtype.kind in "iu":
        whole = series.to_numpy(dtype=np.int64)
    else:
        numbers = series.to_numpy(dtype=np.float64)
        floor = np.floor(numbers)
        part = np.round((numbers - floor) * scale / 1000.0) * 1000.0 if scale > 1000 else np.zeros_like(floor)
        whole, scale = floor.astype(np.int64) * scale + part.astype(np.int64), 1
    return cast(TimeArray, (whole * scale).view("datetime64[ns]"))


def _eight_digits(numbers: np.ndarray[Any, Any]) -> TimeArray | None:
    """Return the dates of numbers such as 20240131; None where one of them is no such date."""
    known = ~np.isnan(numbers)
    if not known.any() or ((numbers[known] < 18_000_101) | (numbers[known] > 22_001_231)).any():
        return None
    if (numbers[known] % 1 != 0).any():
        return None
    text = pd.Series(numbers[known]).astype(np.int64).astype(str)
    parsed = pd.to_datetime(text, format="%Y%m%d", errors="coerce")
    if parsed.isna().any():
        return None
    times = np.full(len(numbers), np.datetime64("NaT", "ns"))
    times[known] = _nanoseconds(parsed)
    return times


def _of_texts(series: pd.Series[Any], column: str, origin: Origin, stated: str | None) -> Stamps:
    """Read text; each distinct text once."""
    try:
        codes, distinct = pd.factorize(series)
    except TypeError as error:
        raise MarketDataError(f"{origin.name}: {column!r} holds objects, not text or dates ({error})") from error
    plain = _plain_iso(distinct) if stated is None else None
    if plain is not None:
        return plain.take(codes) if (codes >= 0).all() else _missing_at(plain, codes)
    text = pd.Series(distinct, dtype=object).astype(str).str.strip().reset_index(drop=True)
    text = text.where(
        text.str.contains(r"\d"), ""
    )  # "now" and "today" parse too, and would make data depend on the day
    digits = text.str.fullmatch(r"[+-]?\d+(\.\d*)?") & ~text.str.fullmatch(r"\d{4}|\d{8}|\d{14}")
    if len(text) and digits.all() and (stated is None or stated in EPOCH_UNITS):
        _refuse_compact(text, column, origin, stated)
        numbers = pd.to_numeric(text)
        found = _of_numbers(numbers, column, origin, stated)
    elif stated is not None and stated not in EPOCH_UNITS:
        found = _of_iso(pd.to_datetime(text, format=stated, errors="coerce", utc="%z" in stated.lower()))
    else:
        found = _of_calendar_text(text, series, codes, column, origin)
    return _missing_at(found, codes)


def _missing_at(found: Stamps, codes: IntArray) -> Stamps:
    """Return the times of rows from those of distinct texts; code -1 stands for a missing value."""
    nat = np.datetime64("NaT", "ns")
    wall, utc = (np.append(times, nat)[codes] for times in (found.wall, found.utc))
    unzoned = None if found.unzoned is None else np.append(found.unzoned, False)[codes]
    return Stamps(wall, utc, found.zoned, found.zones, unzoned)


def _plain_iso(distinct: Any) -> Stamps | None:
    """Return the times of text that is ISO 8601 throughout, with one offset or none; None for any other."""
    text = pd.Series(distinct)
    if pd.api.types.infer_dtype(text) != "string" or text.isin(["now", "today"]).any():
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)  # pandas 2 warns of several offsets, pandas 3 refuses them
        try:
            parsed = pd.to_datetime(text, format="ISO8601")
        except (ValueError, TypeError, FutureWarning):
            return None
    if parsed.dt.tz is not None and not text.str.contains(_OFFSET).all():
        return None  # pandas 2.2 gives a time without an offset that of the time before it
    return _of_datetimes(parsed)


def _refuse_compact(text: pd.Series[Any], column: str, origin: Origin, stated: str | None) -> None:
    """Refuse digits that are a date and a time of day as well as a number since 1970."""
    for length, form in ((10, "%Y%m%d%H"), (12, "%Y%m%d%H%M")):
        compact = stated is None and bool((text.str.len() == length).all())
        if compact and pd.to_datetime(text, format=form, errors="coerce").notna().all():
            raise MarketDataError(
                f"{origin.name}: {column!r} holds {text.iloc[0]!r}, which may be a time as {form!r} writes it or a "
                f"number since 1970; state dates={form!r}, or dates= with a unit ('s' or 'ms')"
            )


def _of_iso(parsed: pd.Series[Any]) -> Stamps:
    return _of_datetimes(parsed)


def _of_calendar_text(
    text: pd.Series[Any], series: pd.Series[Any], codes: IntArray, column: str, origin: Origin
) -> Stamps:
    """Read distinct texts: ISO 8601, the month as a name, or days and months in an order that only one reading fits."""
    compact = text.str.fullmatch(r"\d{14}")
    if len(text) and compact.all():
        return _of_datetimes(pd.to_datetime(text, format="%Y%m%d%H%M%S", errors="coerce"))
    iso = text.str.match(r"\d{4}(?!\d{5})").fillna(False).to_numpy(dtype=np.bool_)
    if iso.any() or not len(text):
        plain = text.where(iso).str.replace(r"\s*UTC$", "+00:00", regex=True)
        if plain.str.contains(_OFFSET, na=False).any():
            return _with_offsets(plain)
        return _of_datetimes(pd.to_datetime(plain, format="ISO8601", errors="coerce"))
    named = text.str.replace(r"[\s,.-]+", " ", regex=True)
    for form in _BY_NAME:
        parsed = pd.to_datetime(named, format=form, errors="coerce")
        if len(parsed) and parsed.notna().all():
            return _of_datetimes(parsed)
    return _of_days_and_months(text, series, codes, column, origin)


def _with_offsets(text: pd.Series[Any]) -> Stamps:
    """Read ISO 8601 text in which some times have offsets.

    The offsets are read here: pandas 2.2 gives a time without one the offset of the time before it.
    """
    zoned = text.str.contains(_OFFSET, na=False)
    clock = text.where(~zoned, text.str.replace(r"\s*(?:Z|[+-]\d{2}:?(?:\d{2})?)$", "", regex=True))
    wall = pd.to_datetime(clock, format="ISO8601", errors="coerce")
    parts = text.where(zoned).str.extract(r"(?P<sign>[+-])(?P<hours>\d{2}):?(?P<minutes>\d{2})?$")
    hours, minutes = (pd.to_numeric(parts[name]).fillna(0.0) for name in ("hours", "minutes"))
    offset = (hours * 60 + minutes) * np.where(parts["sign"] == "-", -1, 1)
    utc = wall - pd.to_timedelta(offset, unit="min")
    names = [
        f"UTC{'-' if m < 0 else '+'}{abs(int(m)) // 60:02d}:{abs(int(m)) % 60:02d}" if m else "UTC"
        for m in offset[zoned].unique()
    ]
    return Stamps(_nanoseconds(wall), _nanoseconds(utc), True, tuple(names), _mixed((~zoned & wall.notna()).to_numpy()))


def _of_days_and_months(
    text: pd.Series[Any], series: pd.Series[Any], codes: IntArray, column: str, origin: Origin
) -> Stamps:
    """Read 31/12/2024 and 12/31/2024 where the texts leave one of the two readings.

    Raises:
        MarketDataError: They leave both.
    """
    bare = text.str.replace(r"^(\d{1,2})[/.-](\d{1,2})[/.-](?=\d{4})", r"\1/\2/", regex=True)
    nat = pd.Series(np.full(len(text), np.datetime64("NaT", "ns")))
    if not bare.str.match(r"\d{1,2}/\d{1,2}/\d{4}(?!\d)").all():
        return _of_datetimes(nat)
    seconds = bare.str.count(":").eq(2)
    clock = " %H:%M" if bare.str.count(":").eq(1).all() else ""
    clock = " %H:%M:%S" + (".%f" if bare.str.contains(".", regex=False).all() else "") if seconds.all() else clock
    readings = {form: pd.to_datetime(bare, format=form + clock, errors="coerce") for form in ("%d/%m/%Y", "%m/%d/%Y")}
    whole = {form: parsed for form, parsed in readings.items() if parsed.notna().all()}
    if len(whole) == 2:
        raise MarketDataError(
            f"{origin.at(0)}: {column!r} is {series.iloc[0]!r}, which is one day to some readers and another to "
            f"others; expected {_ISO}, or the option dates='%d/%m/%Y' (day first) or dates='%m/%d/%Y' (month first)"
        )
    if not whole:
        return _of_datetimes(nat)
    form, parsed = next(iter(whole.items()))
    other = next(parsed for name, parsed in readings.items() if name != form)
    row = int(np.argmax(other.isna().to_numpy()[codes]))
    origin.note(f"dates are read as {form!r}, since {origin.row(row)} ({series.iloc[row]}) leaves no other reading")
    return _of_datetimes(parsed)


def parse_time(value: object, what: str, *, dated: bool = False) -> np.datetime64:
    """Return one date as datetime64[ns], UTC; for arguments such as the date of a split.

    Args:
        value: ISO text, ``date``, ``datetime``, ``Timestamp`` or ``datetime64``.
        what: Name of the argument, for the message.
        dated: Whether it is compared with bars that are dated, and have no time of day: midnight in any zone is then
            the date itself.

    Raises:
        MarketDataError: ``value`` is not a date.
    """
    if isinstance(value, (str, dt.date, np.datetime64)):
        try:
            stamps = parse_dates(pd.Series([value]), what, Origin(what))
            return cast(np.datetime64, (stamps.wall if dated and stamps.midnights else stamps.utc)[0])
        except MarketDataError:
            pass
    raise MarketDataError(f"{what}: {value!r} is not a date; expected ISO 8601 text such as 2010-01-31, or a datetime")


def with_time_of_day(dates: pd.Series[Any], times: pd.Series[Any], origin: Origin) -> pd.Series[Any] | None:
    """Return dates and times of day of two columns as one column of text; None where they are no such pair.

    Raises:
        MarketDataError: The times are numbers that may be hours and minutes or hours, minutes and seconds.
    """
    if times.isna().any() or times.dtype.kind == "M":
        return None
    try:
        (day_of, days), (time_of, distinct) = pd.factorize(dates), pd.factorize(times)
    except TypeError:  # lists and the like
        return None
    day = pd.Series(days, dtype=object).map(_date_text)
    clock = _clock_text(pd.Series(distinct), origin)
    if clock is None or day.str.contains(":", na=False).any() or (day_of < 0).any():
        return None
    return (day + " ").take(day_of).reset_index(drop=True) + clock.take(time_of).reset_index(drop=True)


def _clock_text(times: pd.Series[Any], origin: Origin) -> pd.Series[Any] | None:
    """Return distinct times of day as ``09:30:00``; None where they are none."""
    if times.dtype.kind == "m":
        return (pd.Timestamp(0) + times).dt.strftime("%H:%M:%S.%f").astype(object)
    clock = times.astype(object).map(str).str.strip()
    if pd.api.types.is_integer_dtype(times.dtype):
        if 0 < int(times.max()) <= 2359:
            raise MarketDataError(
                f"{origin.name}: times of day are numbers such as {times.max()}, which may be hours and minutes or "
                "hours, minutes and seconds; expected text such as 09:30 (or read them as text, with leading zeros)"
            )
        clock = clock.str.zfill(6)
    if clock.str.fullmatch(r"\d{6}").all():
        clock = clock.str.replace(r"(\d{2})(\d{2})(\d{2})", r"\1:\2:\3", regex=True)
    elif clock.str.fullmatch(r"\d{4}").all():
        clock = clock.str.replace(r"(\d{2})(\d{2})", r"\1:\2", regex=True)
    if not clock.str.fullmatch(r"\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?\s*(Z|[+-]\d{2}:?\d{2})?").all():
        return None
    return clock.str.replace(r"^(\d):", r"0\1:", regex=True)


def _date_text(value: Any) -> str:
    """Return a date without its midnight."""
    if isinstance(value, dt.datetime):
        return str(value.date()) if value == value.replace(hour=0, minute=0, second=0, microsecond=0) else str(value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def whole_dates(times: TimeArray) -> TimeArray:
    """Return the midnight of each time, datetime64[ns]."""
    return times.astype("datetime64[D]").astype("datetime64[ns]")
