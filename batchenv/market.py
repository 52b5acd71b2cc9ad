"""MarketData: the bars of all symbols as frozen, validated matrices, and the split into train and test.

A matrix is float64 [bars, symbols], read-only, and NaN where a symbol has no bar (before its listing, after
its delisting, on a day without trade). Everything downstream reads these matrices.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar, Unpack

import numpy as np
import pandas as pd

from batchenv.calendars import Year, check_delistings, delisting_times, year_of
from batchenv.config import DataOptions
from batchenv.data.actions import check_actions
from batchenv.data.bars import NO_ACTION, Bars, BoolArray, FloatArray, TimeArray, format_time, last_known
from batchenv.data.checks import check_bars
from batchenv.data.dates import parse_time
from batchenv.data.load import load_bars
from batchenv.data.options import Options
from batchenv.errors import MarketDataError, did_you_mean
from batchenv.registry import Carried, arrive, carried

__all__ = ["MarketData"]

DateLike = str | dt.date | dt.datetime | np.datetime64 | pd.Timestamp

ALL_BARS = -1
"""Value of ``fit_bars`` at construction that stands for every row of history and part."""

_OPTIONAL = ("open", "high", "low", "volume")
_FIELDS = ("close", *_OPTIONAL, *NO_ACTION)
_Array = TypeVar("_Array", bound=np.ndarray[Any, Any])


@dataclass(frozen=True, eq=False, repr=False)
class MarketData:
    """Bars of one or more symbols on one common clock.

    Attributes:
        symbols: Column names of every matrix.
        timestamps: datetime64[ns] [bars], strictly increasing, without time zone: dates for daily bars, instants in UTC
            for intraday bars whose zone is known.
        close: float64 [bars, symbols], currency per share; NaN where the symbol has no bar.
        open: As ``close``; None where the data have no opens.
        high: As ``close``; None where the data have no highs.
        low: As ``close``; None where the data have no lows.
        volume: float64 [bars, symbols], shares; 0 where a bar states none, NaN where there is no bar; or
            None.
        dividends: float64 [bars, symbols], cash per share that a share held over the close before receives on
            this bar, the ex bar (per new share, if a split comes with it); 0.0 where there is none. None where
            the part has none at all, as in adjusted data.
        splits: float64 [bars, symbols], new shares for one old on this bar; 1.0 where there is no split. None
            where the part has none at all.
        columns: The user's own extra numeric columns, by name; float64 [bars, symbols], NaN allowed.
        delisted: datetime64[ns] [symbols], the time of the last bar of a symbol that is delisted (rule 4.4 of
            ``docs/accounting.md``), NaT for a symbol that goes on. Parts keep the times of the whole, so a part that
            ends on a weekend delists nothing. None at construction finds them by the rule.
        stated_periods: Bars in a year, as the user stated them; None reads them off the timestamps.
        notes: What was decided about these data when they were loaded, one sentence each.
        adjusted: Whether the prices are known to be adjusted for later splits and dividends, as the loaders find
            them. Features that are levels of such prices look ahead, and are warned of.
        history: The bars before the first bar of this part, for warm-up; None when there are none.
        fit_bars: How many leading rows of history + this part statistics (a feature scaler) may be fitted on.
        source: Where the data come from: ``bundled``, a path, or a label.

    Raises:
        MarketDataError: Shapes, timestamps, prices, corporate actions or history do not fit together.
    """

    symbols: tuple[str, ...]
    timestamps: TimeArray
    close: FloatArray
    open: FloatArray | None = None
    high: FloatArray | None = None
    low: FloatArray | None = None
    volume: FloatArray | None = None
    dividends: FloatArray | None = None
    splits: FloatArray | None = None
    columns: Mapping[str, FloatArray] = field(default_factory=dict)
    delisted: TimeArray | None = None
    stated_periods: float | None = None
    notes: tuple[str, ...] = ()
    adjusted: bool = False
    history: MarketData | None = None
    fit_bars: int = ALL_BARS
    source: str = "<arrays>"

    # --- ways in --------------------------------------------------------------------------------------------

    @classmethod
    def bundled(cls, adjusted: bool | None = None, **options: Unpack[Options]) -> MarketData:
        """Return the real daily bars shipped with the package: AAPL, FB, GOOG, IBM, MSFT, 2000-03 to 2013-03.

        GOOG lists in August 2004 and FB in May 2012; before that they have no bars.

        Args:
            adjusted: Prices are adjusted for splits and dividends, unless it is False: then they are as traded, with
                ``splits`` and ``dividends`` beside them.
            **options: As in :meth:`from_frame`.
        """
        return cls._load("bundled", "bundled", adjusted, options)

    @classmethod
    def from_frame(
        cls, df: Any, adjusted: bool | None = None, source: str = "<frame>", **options: Unpack[Options]
    ) -> MarketData:
        """Take bars from a frame of pandas, polars or pyarrow, or from a dict of such frames by symbol.

        Three shapes are read:

        1. Long: one row per date and symbol, with columns date, symbol, open, high, low, close, volume,
           adj_close, dividend, split (any case; ticker, tic or asset for symbol; datetime, timestamp or time
           for date; dividends, splits or "stock splits"; the date may be the index). date, symbol and close
           are required; without a symbol column, all rows are one symbol, ``ASSET``. An absent row means that
           the symbol has no bar; so does a row without any of several prices. Further numeric columns are kept
           in ``columns``. Symbols are sorted alphabetically. A dict holds one such frame for each symbol.
        2. Wide, closes only: index (or a date column) = dates, columns = symbols, NaN = no bar.
        3. Wide with 2-level columns, (field, symbol) or (symbol, field), as yfinance gives it; NaN in all
           price fields = no bar. Further numeric fields are kept in ``columns``.

        Adjusted prices know later splits and dividends. Returns and ratios do not show it. A price level does: as
        a feature it looks ahead (`LevelFeatureWarning`). Shares are then today's shares and not those of the time,
        so ``lot_size`` and ``fee_per_share`` mean today's too; use ``adjusted=False`` where they matter.

        Small inconsistencies that vendors are known for (an open slightly outside low..high) are accepted. What the
        loader decided by itself is in ``notes``, and each decision can be stated as an option.

        Daily bars belong to the date that the clock of their exchange shows, so that exchanges of different zones share
        dates; intraday bars belong to their instant in UTC.

        Dividends and splits belong to prices as traded. Prices that are adjusted but come with these columns, as
        yfinance's do by default, would count them twice: they are left out where names or prices show it.

        Args:
            df: The frame, or frames by symbol; they are not changed.
            adjusted: None uses adj_close where the frame has it: it becomes the close, open, high and low are
                multiplied by adj_close / close, and dividends and splits are dropped, which are in the prices then.
                Volumes are multiplied by later splits where the frame has them and the close shows them; a close that
                is adjusted for splits, as Yahoo's, comes with such volumes. True says the same of prices without
                adj_close: they are adjusted, and dividends and splits are left out. False says that prices are as
                traded: adj_close is ignored, and dividends and splits are kept.
            source: Name of the data in messages.
            **options: `batchenv.config.DataOptions` says what each means, and a configuration has them as keys under
                ``data``. Further ``delisted``, the symbols that are delisted after their last bar, an empty list for
                none (None lets rule 4.4 of ``docs/accounting.md`` decide: those whose bars end before the others' by
                more than their usual gap), and ``periods_per_year``, bars in a year for annualisation (None reads them
                off the timestamps).

        Raises:
            ConfigError: An option is unknown or has a value that it cannot have.
            MarketDataError: A date cannot be read, is duplicated or out of order; a price is missing, not
                finite or not positive; high is below low; a volume is negative; a dividend or split is not
                possible where it stands; a column is missing or repeated; there are fewer than 2 bars; or the data may
                mean two things. The message names the option that decides.
        """
        return cls._load(df, source, adjusted, options)

    @classmethod
    def from_csv(
        cls, path: str | Path, adjusted: bool | None = None, source: str | None = None, **options: Unpack[Options]
    ) -> MarketData:
        """Read a CSV file, plain or compressed, that holds a table in any of the shapes of :meth:`from_frame`.

        Args:
            path: The file.
            adjusted: As in :meth:`from_frame`.
            source: Name of the data in messages; the path by default.
            **options: As in :meth:`from_frame`.

        Raises:
            ConfigError: As in :meth:`from_frame`.
            MarketDataError: The file is missing or unreadable, or as in :meth:`from_frame`.
        """
        return cls._load(Path(path), str(path) if source is None else source, adjusted, options, "CSV")

    @classmethod
    def from_parquet(
        cls, path: str | Path, adjusted: bool | None = None, source: str | None = None, **options: Unpack[Options]
    ) -> MarketData:
        """Read a Parquet file that holds a frame in any of the shapes of :meth:`from_frame`; see :meth:`from_csv`."""
        return cls._load(Path(path), str(path) if source is None else source, adjusted, options, "Parquet")

    @classmethod
    def load(cls, source: str | Path, adjusted: bool | None = None, **options: Unpack[Options]) -> MarketData:
        """Read ``"bundled"``, or a file of Parquet, Arrow or CSV by the end of its name; see :meth:`from_csv`."""
        return cls._load(source, str(source), adjusted, options)

    @classmethod
    def _load(
        cls, data: Any, source: str, adjusted: bool | None, options: Options, kind: str | None = None
    ) -> MarketData:
        """Read bars and put them together with what the user states of them."""
        stated: dict[str, Any] = dict(options)
        delisted, periods = stated.pop("delisted", None), stated.pop("periods_per_year", None)
        bars = load_bars(data, source, DataOptions.model_validate({"adjusted": adjusted, **stated}), kind)
        matrices: dict[str, Any] = dict(bars.fields)
        return cls(
            bars.symbols,
            bars.timestamps,
            columns=bars.columns,
            delisted=None if delisted is None else _ends_of(delisted, bars, source),
            stated_periods=periods,
            notes=bars.notes,
            adjusted=bars.adjusted,
            source=source,
            **matrices,
        )

    def __post_init__(self) -> None:
        """Freeze private copies of the arrays and check that they fit together."""

        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)  # the class is frozen

        put("symbols", tuple(str(symbol) for symbol in self.symbols))
        if not self.symbols or len(set(self.symbols)) < len(self.symbols) or "" in self.symbols:
            raise MarketDataError(f"{self.source}: expected distinct, non-empty symbols, got {list(self.symbols)[:20]}")
        times = np.array(self.timestamps, dtype="datetime64[ns]")
        if times.ndim != 1 or times.size == 0 or np.isnat(times).any() or (np.diff(times) <= np.timedelta64(0)).any():
            raise MarketDataError(
                f"{self.source}: expected strictly increasing timestamps of shape [bars], at least one"
            )
        put("timestamps", _read_only(times))
        put("close", self._matrix("close", self.close))
        present = [name for name in _OPTIONAL if getattr(self, name) is not None]
        for name in present:
            put(name, self._matrix(name, getattr(self, name)))
        columns = {str(name): self._matrix(str(name), values) for name, values in self.columns.items()}
        if taken := sorted(columns.keys() & {"close", *_OPTIONAL, *NO_ACTION}):
            raise MarketDataError(f"{self.source}: an extra column cannot be called {taken[0]!r}; that is a field")
        put("columns", MappingProxyType(columns))
        check_bars({name: getattr(self, name) for name in ("close", *present)}, self._where, gaps=True)
        if self.volume is not None:
            stated = np.where(np.isnan(self.volume), 0.0, self.volume)
            put("volume", _read_only(np.where(self.has_bar, stated, np.nan)))
        if self.history is not None:
            put("history", self._checked_history(self.history))
        put("delisted", _read_only(self._delisting_times(self.delisted)))
        put("notes", tuple(str(note) for note in self.notes))
        if self.stated_periods is not None and not 0 < self.stated_periods < float("inf"):
            raise MarketDataError(
                f"{self.source}: periods_per_year is {self.stated_periods!r}; expected a number of bars above 0"
            )
        given = {name: self._matrix(name, getattr(self, name)) for name in NO_ACTION if getattr(self, name) is not None}
        if given:
            for name, values in check_actions(given, self.close, self._close_before(), self._where).items():
                put(name, _read_only(values) if (values != NO_ACTION[name]).any() else None)
        total = self.n_bars + (0 if self.history is None else self.history.n_bars)
        put("fit_bars", total if self.fit_bars == ALL_BARS else int(self.fit_bars))
        if not 1 <= self.fit_bars <= total:
            raise MarketDataError(f"{self.source}: fit_bars is {self.fit_bars}; expected 1 to {total} (or -1 for all)")

    def _matrix(self, name: str, values: FloatArray) -> FloatArray:
        matrix = np.array(values, dtype=np.float64, order="C")
        shape = (len(self.timestamps), len(self.symbols))
        if matrix.shape != shape:
            raise MarketDataError(f"{self.source}: {name} has shape {matrix.shape}; expected [bars, symbols] = {shape}")
        return _read_only(matrix)

    def _where(self, position: tuple[int, ...]) -> str:
        bar, s = position
        return f"{self.source}, bar {bar}, symbol {self.symbols[s]!r}, date {format_time(self.timestamps[bar])}"

    def _close_before(self) -> FloatArray:
        """Return the mark of the bar before each bar, history included; float64 [bars, symbols]."""
        first = np.full((1, self.n_symbols), np.nan) if self.history is None else self.history.mark[-1:]
        return np.concatenate([first, self.mark[:-1]])

    def _delisting_times(self, given: TimeArray | None) -> TimeArray:
        """Return the times of delisting, checked or found by rule 4.4; datetime64[ns] [symbols]."""
        times, has_bar = self.timestamps, self.has_bar
        if self.history is not None:
            times = np.concatenate([self.history.timestamps, times])
            has_bar = np.concatenate([self.history.has_bar, has_bar])
        if given is None:
            return delisting_times(times, has_bar)
        delisted = np.array(given, dtype="datetime64[ns]")
        check_delistings(times, has_bar, self.symbols, delisted, self.source)
        return delisted

    def _checked_history(self, history: MarketData) -> MarketData:
        whole = history.with_history()
        same = whole.symbols == self.symbols and whole.columns.keys() == self.columns.keys()
        same = same and all((getattr(whole, n) is None) == (getattr(self, n) is None) for n in _OPTIONAL)
        if not same or whole.timestamps[-1] >= self.timestamps[0]:
            raise MarketDataError(
                f"{self.source}: history must end before this part and have the same symbols and fields"
            )
        return whole

    def __reduce__(self) -> tuple[Callable[..., MarketData], tuple[Any, ...]]:
        """Pickle the arguments, so that a copy is read-only and validated too, and what the user has registered."""
        functions = carried()
        return _rebuild, (self._arguments(),) if functions is None else (self._arguments(), functions)

    def _arguments(self) -> dict[str, Any]:
        past = None if self.history is None else self.history._arguments()
        return {f.name: getattr(self, f.name) for f in fields(self)} | {"columns": dict(self.columns), "history": past}

    def __copy__(self) -> MarketData:
        """Return this object: nothing in it changes."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> MarketData:
        """Return this object: nothing in it changes."""
        return self

    def __repr__(self) -> str:
        """Return size, dates, bars in a year, source, and what was decided about the data, on one line."""
        names = ", ".join(self.symbols[:5]) + (", ..." if self.n_symbols > 5 else "")
        size = f"{self.n_bars} bars x {self.n_symbols} symbols [{names}]"
        year = "bars in a year not known" if self.year.periods is None else f"{self.year.periods:g} bars in a year"
        gone = [f"{symbol} delisted {when}" for symbol, when in self.delistings.items()]
        facts = [size, self._span, f"{year} ({self.year.reason})", *gone[:5], *(["..."] if len(gone) > 5 else [])]
        return f"MarketData({', '.join(facts)}, source={self.source!r}{''.join(f'; {note}' for note in self.notes)})"

    # --- facts ----------------------------------------------------------------------------------------------

    @property
    def n_bars(self) -> int:
        """Number of bars in this part, history not counted."""
        return len(self.timestamps)

    @property
    def n_symbols(self) -> int:
        """Number of symbols."""
        return len(self.symbols)

    @property
    def _span(self) -> str:
        return f"{format_time(self.timestamps[0])} .. {format_time(self.timestamps[-1])}"

    @cached_property
    def has_bar(self) -> BoolArray:
        """Whether the symbol has a bar; bool [bars, symbols]."""
        return _read_only(~np.isnan(self.close))

    @property
    def delistings(self) -> dict[str, str]:
        """Date of the last bar of each symbol that is delisted, by symbol."""
        assert self.delisted is not None
        gone = zip(self.symbols, self.delisted, strict=True)
        return {symbol: format_time(when) for symbol, when in gone if not np.isnat(when)}

    @property
    def decisions(self) -> dict[str, Any]:
        """What was read off the data and not stated in them, JSON as it is; `run.json` keeps it."""
        return {
            "periods_per_year": self.year.periods,
            "periods_per_year_reason": self.year.reason,
            "delisted": self.delistings,
            "notes": list(self.notes),
        }

    @cached_property
    def mark(self) -> FloatArray:
        """Last valid close at or before the bar, history included; float64 [bars, symbols].

        NaN before the first listing.
        """
        closes = self.close
        if self.history is not None:
            closes = np.concatenate([self.history.mark[-1:], closes])
        filled = last_known(closes)
        return _read_only(np.ascontiguousarray(filled[len(filled) - self.n_bars :]))

    @property
    def periods_per_year(self) -> float | None:
        """Bars in a year, for annualisation; None where they are not known. `year` says what that rests on."""
        return self.year.periods

    @cached_property
    def year(self) -> Year:
        """Bars in a year as stated, else as the bars of this part tell, else as those of history and part tell."""
        if self.stated_periods is not None:
            return Year(float(self.stated_periods), "stated")
        own = year_of(self.timestamps)
        return own if own.periods is not None or self.history is None else year_of(self.with_history().timestamps)

    def require_year(self, what: str) -> float:
        """Return the bars in a year.

        Args:
            what: What needs them, for the message.

        Raises:
            MarketDataError: They are not known.
        """
        periods = self.year.periods
        if periods is None:
            raise MarketDataError(
                f"{self.source}: {what} needs the number of bars in a year, which is not known: {self.year.reason}; "
                "expected more bars, or data.periods_per_year in the configuration (periods_per_year= in Python)"
            )
        return periods

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of symbols, timestamps and all matrices; source and history do not count."""
        digest = hashlib.sha256("\x00".join(self.symbols).encode())
        digest.update(self.timestamps.astype("<i8").tobytes())
        named = {name: getattr(self, name) for name in _FIELDS} | dict(sorted(self.columns.items()))
        for name, values in named.items():
            if values is not None:
                digest.update(f"\x00{name}{values.shape}".encode())
                # one bit pattern for every NaN, and for both zeros
                digest.update((np.where(np.isnan(values), np.nan, values) + 0.0).astype("<f8").tobytes())
        return digest.hexdigest()

    # --- parts ----------------------------------------------------------------------------------------------

    def with_history(self) -> MarketData:
        """Return history and this part as one, or this part itself where there is no history."""
        return self if self.history is None else self._whole

    @cached_property
    def _whole(self) -> MarketData:
        past = self.history
        assert past is not None

        def stack(name: str, values: FloatArray) -> FloatArray:
            return np.concatenate([_values_of(past, name), values])

        matrices = self._each(stack)
        for name in NO_ACTION:  # either part may be without any
            matrices[name] = stack(name, _values_of(self, name))
        timestamps = np.concatenate([past.timestamps, self.timestamps])
        return replace(self, timestamps=timestamps, history=None, **matrices)

    def _each(self, change: Callable[[str, FloatArray], FloatArray]) -> dict[str, Any]:
        """Apply ``change(name, matrix)`` to every matrix; the result is fit for ``dataclasses.replace``."""
        given = {name: getattr(self, name) for name in _FIELDS}
        changed: dict[str, Any] = {name: change(name, m) for name, m in given.items() if m is not None}
        return changed | {"columns": {name: change(name, m) for name, m in self.columns.items()}}

    def _slice(self, start: int, stop: int, fit_bars: int) -> MarketData:
        """Return bars [start, stop), with everything before as history; nothing after is kept."""
        past = self.history
        if start > 0:
            past = replace(
                self,
                timestamps=self.timestamps[:start],
                fit_bars=ALL_BARS,
                **self._each(lambda _, values: values[:start]),
            ).with_history()
        before = 0 if past is None else past.n_bars
        return replace(
            self,
            timestamps=self.timestamps[start:stop],
            history=past,
            fit_bars=min(fit_bars, before + stop - start),
            **self._each(lambda _, values: values[start:stop]),
        )

    def _index_of(self, date: DateLike, what: str) -> int:
        dated = bool((self.timestamps == self.timestamps.astype("datetime64[D]")).all())
        return int(np.searchsorted(self.timestamps, parse_time(date, what, dated=dated), side="left"))

    def split(self, date: DateLike) -> tuple[MarketData, MarketData]:
        """Cut into [start, date) and [date, end].

        The first part holds nothing at or after ``date``. The second has everything before as its
        ``history``, and statistics for both may be fitted on bars before ``date`` only. When a part is split
        again, the earlier of the two limits holds. A symbol without a bar in a part stays a column, all NaN
        there.

        Args:
            date: ISO 8601 text, date, datetime or Timestamp. With a time zone it is converted to UTC; beside daily
                bars, midnight of any zone is the date itself.

        Returns:
            The two parts, of at least 2 bars each.

        Raises:
            MarketDataError: ``date`` cannot be parsed, or leaves fewer than 2 bars on a side.
        """
        cut = self._index_of(date, "split date")
        if not 2 <= cut <= self.n_bars - 2:
            raise MarketDataError(
                f"split date: {date} leaves {cut} bars before and {self.n_bars - cut} at or after it; "
                f"expected at least 2 on each side ({self.source} has {self.n_bars} bars, {self._span})"
            )
        before = 0 if self.history is None else self.history.n_bars
        limit = min(self.fit_bars, before + cut)
        return self._slice(0, cut, limit), self._slice(cut, self.n_bars, limit)

    def between(self, start: DateLike | None = None, end: DateLike | None = None) -> MarketData:
        """Return the bars of [start, end), with everything before as history.

        Args:
            start: First date; None for the first bar.
            end: The date to stop before; None for all bars to the end.

        Raises:
            MarketDataError: A date cannot be parsed, or fewer than 2 bars remain.
        """
        first = 0 if start is None else self._index_of(start, "start")
        stop = self.n_bars if end is None else self._index_of(end, "end")
        if stop - first < 2:
            raise MarketDataError(
                f"between {start} and {end}: {max(stop - first, 0)} bars; expected at least 2 "
                f"({self.source} has {self.n_bars} bars, {self._span})"
            )
        return self._slice(first, stop, self.fit_bars)

    def select(self, symbols: Iterable[str]) -> MarketData:
        """Return the same bars for some of the symbols, in the order given.

        Args:
            symbols: Names to keep.

        Raises:
            MarketDataError: A symbol is unknown or repeated, or none is given.
        """
        names = (symbols,) if isinstance(symbols, str) else tuple(symbols)
        places = _places_of(names, self.symbols, self.source)
        past = None if self.history is None else self.history.select(names)
        assert self.delisted is not None
        kept: dict[str, Any] = self._each(lambda _, values: values[:, places])
        return replace(self, symbols=names, history=past, delisted=self.delisted[places], **kept)


def _places_of(names: Iterable[str], symbols: tuple[str, ...], source: str) -> list[int]:
    """Return the column of each symbol.

    Raises:
        MarketDataError: A symbol is unknown.
    """
    place = {symbol: s for s, symbol in enumerate(symbols)}
    for name in names:
        if name not in place:
            raise MarketDataError(
                f"{source}: unknown symbol {name!r}{did_you_mean(str(name), symbols)}; known: {list(symbols)[:20]}"
            )
    return [place[name] for name in names]


def _ends_of(delisted: Iterable[str], bars: Bars, source: str) -> TimeArray:
    """Return the time of the last bar of each symbol that is stated to be delisted; datetime64[ns] [symbols]."""
    names = (delisted,) if isinstance(delisted, str) else tuple(delisted)
    ends = np.full(len(bars.symbols), np.datetime64("NaT", "ns"))
    for s in _places_of(names, bars.symbols, f"{source}: delisted"):
        ends[s] = bars.timestamps[~np.isnan(bars.fields["close"][:, s])][-1]
    return ends


def _read_only(array: _Array) -> _Array:
    array.flags.writeable = False
    return array


def _values_of(market: MarketData, name: str) -> FloatArray:
    values = market.columns[name] if name in market.columns else getattr(market, name)
    if values is None and name in NO_ACTION:
        return np.full(market.close.shape, NO_ACTION[name])
    assert isinstance(values, np.ndarray)
    return values


def _rebuild(arguments: dict[str, Any], functions: Carried | None = None) -> MarketData:
    arrive(functions)
    past = arguments["history"]
    return MarketData(**arguments | {"history": _rebuild(past) if isinstance(past, dict) else past})
