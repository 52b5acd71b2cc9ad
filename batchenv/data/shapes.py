"""The shapes of a table, long, wide and wide with two levels, and how each becomes matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from batchenv.config import DataOptions
from batchenv.data.bars import (
    LONE_SYMBOL,
    NO_ACTION,
    PRICE_FIELDS,
    BoolArray,
    FloatArray,
    IntArray,
    Origin,
    TimeArray,
    Where,
    listing,
)
from batchenv.data.checks import check_bars, long_order, no_price, repeated_columns, wide_order
from batchenv.data.columns import (
    ALIASES,
    EXPECTED_SHAPES,
    FIELD_LEVEL,
    FIELD_NAMES,
    SYMBOL_LEVEL,
    fold,
    nameless,
    renamed,
    require_columns,
    resolve_columns,
)
from batchenv.data.dates import Stamps, parse_dates
from batchenv.data.frames import Columns
from batchenv.data.numbers import extra_numbers, is_number, number_format, read_numbers, texts_among
from batchenv.data.trading_dates import Rows, bar_times
from batchenv.errors import MarketDataError

FIELDS = (*PRICE_FIELDS, "volume", *NO_ACTION)


@dataclass(frozen=True, slots=True)
class Matrices:
    """A table as matrices, before corporate actions are looked at.

    Attributes:
        symbols: Column names of every matrix.
        timestamps: datetime64[ns] [bars], strictly increasing.
        fields: ``close`` and whichever other fields exist; float64 [bars, symbols].
        columns: The user's extra numeric columns; float64 [bars, symbols].
        where: Names an element, for messages.
        signature: Folded names of the table's columns, by which a vendor is recognised.
    """

    symbols: tuple[str, ...]
    timestamps: TimeArray
    fields: dict[str, FloatArray]
    columns: dict[str, FloatArray]
    where: Where
    signature: frozenset[str]


# --- long ---------------------------------------------------------------------------------------------------


def is_long(columns: Columns, known: Mapping[str, str], origin: Origin, options: DataOptions) -> bool:
    """Tell a long table from a wide one, whose symbols may be called OPEN, LOW or TIC.

    Raises:
        MarketDataError: A table has a column CLOSE beside others in capitals that are no fields: it may be either.
    """
    if options.shape is not None:
        return options.shape == "long"
    if "symbol" in known and not is_number(columns[known["symbol"]].dtype):
        return True
    fields = known.keys() & {*PRICE_FIELDS, "volume"}
    others = [name for name in columns if name not in known.values()]
    if fields == {"close"} and others and all(name.isupper() for name in [known["close"], *others]):
        raise MarketDataError(
            f"{origin.name}: column {known['close']!r} may hold closes or be a ticker beside {listing(others)}; state "
            "shape='long' or shape='wide'"
        )
    return bool(fields & {"close", "adj_close", "volume"}) or {"high", "low"} <= fields


def long_matrices(
    columns: Columns, known: Mapping[str, str], stamps: Stamps | None, origin: Origin, options: DataOptions
) -> Matrices:
    """Return the matrices of a table with one row for each bar and symbol.

    Args:
        columns: The columns by name.
        known: The column of each field.
        stamps: The times of the rows; None reads the date column.
        origin: Names the table in messages.
        options: What the user states.
    """
    require_columns(("date", "close") if stamps is None else ("close",), known, columns, origin.name)
    if stamps is None:
        stamps = parse_dates(columns[known["date"]], known["date"], origin, options)
    codes, symbols = _symbol_codes(columns, known, len(stamps.utc), origin)
    times = stamps.utc

    def where(position: tuple[int, ...]) -> str:
        row = position[0]
        return origin.cell(row, symbols[codes[row]], times[row])

    order = long_order(stamps.utc, codes, where, origin, has_symbols="symbol" in known, sort=options.sort)
    times = times.copy()
    times[order] = bar_times(Rows(stamps.take(order), codes[order], symbols, origin, options))
    fields, extras = _long_values(columns, known, where, origin, options)
    present = _rows_with_prices(fields, where, origin, options)
    check_bars(
        {field: values[present] for field, values in fields.items()},
        lambda at: where((int(present[at[0]]),)),
        gaps=False,
    )
    symbols, codes = _used_symbols(symbols, codes, present)
    timestamps, rows = np.unique(times[present], return_inverse=True)

    def matrix(values: FloatArray) -> FloatArray:
        result = np.full((len(timestamps), len(symbols)), np.nan)
        result[rows, codes[present]] = values[present]
        return result

    row_of = np.zeros((len(timestamps), len(symbols)), dtype=np.intp)
    row_of[rows, codes[present]] = present
    return Matrices(
        symbols,
        timestamps,
        {field: matrix(values) for field, values in fields.items()},
        {name: matrix(values) for name, values in extras.items()},
        lambda position: where((int(row_of[position]),)),
        frozenset(map(fold, columns)),
    )


def _symbol_codes(
    columns: Columns, known: Mapping[str, str], rows: int, origin: Origin
) -> tuple[IntArray, tuple[str, ...]]:
    """Return the column number of every row, and the symbols in alphabetical order."""
    if "symbol" not in known:
        return np.zeros(rows, dtype=np.intp), (LONE_SYMBOL,)
    series = columns[known["symbol"]]
    if series.dtype.kind == "b":
        raise MarketDataError(
            f"{origin.at(0)}: the symbol is {series.iloc[0]}, a truth value; pandas reads a ticker TRUE so: read the "
            "file with dtype={'symbol': str}, or by MarketData.from_csv"
        )
    try:
        codes, uniques = pd.factorize(series)
    except TypeError as error:
        raise MarketDataError(f"{origin.name}: {known['symbol']!r} holds objects, not text ({error})") from error
    names = [str(name).strip() for name in uniques]
    blank = np.array([*(name == "" for name in names), True])[codes]  # code -1 (missing) reads the last entry
    if blank.any():
        row = int(np.argmax(blank))
        raise MarketDataError(
            f"{origin.at(row)}: the symbol is missing; expected a name (pandas reads a ticker NA as missing: read the "
            "file with keep_default_na=False, or by MarketData.from_csv)"
        )
    symbols = tuple(sorted(set(names)))
    place = {name: i for i, name in enumerate(symbols)}
    return np.array([place[name] for name in names], dtype=np.intp)[codes], symbols


def _long_values(
    columns: Columns, known: Mapping[str, str], where: Where, origin: Origin, options: DataOptions
) -> tuple[dict[str, FloatArray], dict[str, FloatArray]]:
    """Return the fields and the user's own columns, float64 [rows]."""
    used = set(known.values())
    values = [(name, columns[known[name]]) for name in FIELDS if name in known]
    own = [(name, column) for name, column in columns.items() if name not in used]
    written = number_format(texts_among([*values, *own]), options, origin)
    fields = {field: read_numbers(column, field, written, where) for field, column in values}
    extras = {name: extra_numbers(column, name, written, where, origin) for name, column in own}
    return fields, {name: values for name, values in extras.items() if values is not None}


def _rows_with_prices(fields: Mapping[str, FloatArray], where: Where, origin: Origin, options: DataOptions) -> IntArray:
    """Return the rows that are bars; those without any of several prices are none, as Yahoo writes holidays."""
    absent = no_price(fields)
    several = sum(field in fields for field in PRICE_FIELDS) > 1
    if not absent.any() or options.drop_empty is False or not (several or options.drop_empty):
        return np.arange(len(absent))
    first = int(np.argmax(absent))
    origin.note(f"{int(absent.sum())} rows without any price are no bars (the first: {where((first,))})")
    return np.flatnonzero(~absent)


def _used_symbols(symbols: tuple[str, ...], codes: IntArray, present: IntArray) -> tuple[tuple[str, ...], IntArray]:
    """Return the symbols that have bars, and the column numbers of all rows among them."""
    used = np.unique(codes[present])
    if len(used) == len(symbols):
        return symbols, codes
    place = np.zeros(len(symbols), dtype=np.intp)
    place[used] = np.arange(len(used))
    return tuple(symbols[s] for s in used), place[codes]


# --- wide ---------------------------------------------------------------------------------------------------


def wide_matrices(columns: Columns, known: Mapping[str, str], origin: Origin, options: DataOptions) -> Matrices:
    """Return the matrices of a table of closes, with one column for each symbol."""
    require_columns(("date",), known, columns, origin.name)
    date = known["date"]
    own = {name: column for name, column in columns.items() if name != date}
    if not own:
        raise MarketDataError(f"{origin.name}: no columns besides the dates; expected {EXPECTED_SHAPES}")
    symbols = tuple(name.strip() for name in own)
    grid = _Grid(parse_dates(columns[date], date, origin, options), symbols, origin, options)
    written = number_format(texts_among(own.items()), options, origin)
    close = np.empty((len(columns[date]), len(symbols)))
    for s, column in enumerate(own.values()):
        close[:, s] = read_numbers(column, "close", written, grid.where, s)
    return grid.finish({"close": close}, {}, frozenset())


def two_level_matrices(frame: pd.DataFrame, origin: Origin, options: DataOptions) -> Matrices:
    """Return the matrices of a table whose columns have two levels, fields and symbols."""
    labels = [tuple(map(str, label)) for label in frame.columns.to_flat_index()]
    if frame.columns.nlevels != 2:
        labels = []
    dates = next((label for label in labels if "" in label and fold("".join(label)) in ALIASES["date"]), None)
    if dates is not None:  # the index, moved into the columns by reset_index()
        at = labels.index(dates)
        index = pd.Index(frame.iloc[:, at])
        return two_level_matrices(frame.drop(columns=frame.columns[[at]]).set_axis(index), origin, options)
    if options.columns is not None:
        labels = _renamed_labels(labels, options.columns, origin)
    unnamed = next((i for i, label in enumerate(labels) if any(map(nameless, label))), None)
    if unnamed is not None:
        raise MarketDataError(
            f"{origin.name}: column {unnamed + 1} is {labels[unnamed]}; expected a name in both levels of the columns "
            "(spreadsheets leave out a name that repeats)"
        )
    level = _field_level(frame.columns, labels, origin, options)
    pairs = [(label[level], label[1 - level].strip()) for label in labels]
    again = repeated_columns(pairs)
    if again is not None:
        raise MarketDataError(f"{origin.name}: column {again} appears more than once")
    if frame.index.nlevels > 1:
        raise MarketDataError(f"{origin.name}: expected one index level of dates, got {frame.index.nlevels} levels")
    index = frame.index.to_timestamp() if isinstance(frame.index, pd.PeriodIndex) else frame.index
    stamps = parse_dates(pd.Series(index, copy=False).reset_index(drop=True), "index", origin, options)
    grid = _Grid(stamps, tuple(dict.fromkeys(symbol for _, symbol in pairs)), origin, options)
    return grid.finish(*_two_level_values(frame, pairs, grid), frozenset(fold(field) for field, _ in pairs))


def _renamed_labels(
    labels: list[tuple[str, ...]], columns: Mapping[str, str] | Sequence[str], origin: Origin
) -> list[tuple[str, ...]]:
    """Return labels after the option ``columns``, which renames fields or symbols."""
    if not isinstance(columns, Mapping):
        raise MarketDataError(f"{origin.name}: columns of two levels have two names each; rename with a mapping")
    names = list(dict.fromkeys(name for label in labels for name in label))
    new = dict(zip(names, renamed(names, columns, origin.name), strict=True))
    return [tuple(new[name] for name in label) for label in labels]


def _field_level(columns: pd.Index[Any], labels: list[tuple[str, ...]], origin: Origin, options: DataOptions) -> int:
    """Return which level of the columns, 0 or 1, holds the names of fields.

    Raises:
        MarketDataError: Neither does, or both may.
    """
    found = [{fold(label[level]) for label in labels} for level in (0, 1) if labels]
    close = [level for level, names in enumerate(found) if "close" in names]
    told = [options.field_level] if options.field_level is not None else _named_level(columns.names)
    close = [level for level in close if level in told] if told else close
    if not close:
        raise MarketDataError(
            f"{origin.name}: no 'close' field in either level of the columns; found {labels[:6]}, expected "
            f"{EXPECTED_SHAPES}"
        )
    if len(close) == 1:
        return close[0]
    fields = [len(names & FIELD_NAMES) for names in found]
    only = [level for level, names in enumerate(found) if names <= FIELD_NAMES]
    if len(only) == 1 and fields[only[0]] > fields[1 - only[0]]:
        return only[0]
    raise MarketDataError(
        f"{origin.name}: both levels of the columns hold names of fields, such as {labels[:3]}; state field_level=0 if "
        "the first level holds the fields and the second the symbols, else field_level=1"
    )


def _named_level(names: Sequence[Any]) -> list[Literal[0, 1]]:
    """Return the level of fields as the names of the levels tell, or none."""
    for level, name in enumerate(names):
        if fold(name) in FIELD_LEVEL:
            return [1] if level else [0]
        if fold(name) in SYMBOL_LEVEL:
            return [0] if level else [1]
    return []


def _two_level_values(
    frame: pd.DataFrame, pairs: list[tuple[str, str]], grid: _Grid
) -> tuple[dict[str, FloatArray], dict[str, FloatArray]]:
    """Return the fields and the user's own columns, float64 [bars, symbols]."""
    origin = grid.origin
    known = resolve_columns(dict.fromkeys(field for field, _ in pairs), origin.name)
    field_of = {name: field for field, name in known.items() if field in FIELDS}
    place = {symbol: s for s, symbol in enumerate(grid.symbols)}
    columns = [(name, frame.iloc[:, i]) for i, (name, _) in enumerate(pairs)]
    written = number_format(texts_among(columns), grid.options, origin)
    fields: dict[str, FloatArray] = {}
    extras: dict[str, FloatArray] = {}
    unused: set[str] = set()
    for (name, column), (_, symbol) in zip(columns, pairs, strict=True):
        s, field = place[symbol], field_of.get(name)
        if field is not None:
            values: FloatArray | None = read_numbers(column, field, written, grid.where, s)
        else:
            values = extra_numbers(column, name, written, grid.where, origin, s)
        if values is None:
            unused.add(name)
            continue
        target = extras if field is None else fields
        target.setdefault(field or name, np.full((len(frame), len(grid.symbols)), np.nan))[:, s] = values
    return fields, {name: values for name, values in extras.items() if name not in unused}


@dataclass(frozen=True, slots=True)
class _Grid:
    """Rows and columns of a wide table.

    Attributes:
        stamps: Times of its rows.
        symbols: Names of its columns.
        origin: Names the table in messages.
        options: What the user states.
    """

    stamps: Stamps
    symbols: tuple[str, ...]
    origin: Origin
    options: DataOptions

    def where(self, position: tuple[int, ...]) -> str:
        """Name one element."""
        row, s = position
        return self.origin.cell(row, self.symbols[s], self.stamps.utc[row])

    def finish(
        self, fields: dict[str, FloatArray], extras: dict[str, FloatArray], signature: frozenset[str]
    ) -> Matrices:
        """Check the values, and put the rows on the bars of the market."""
        if len(set(self.symbols)) < len(self.symbols) or "" in self.symbols:
            raise MarketDataError(
                f"{self.origin.name}: expected distinct, non-empty symbols, got [{listing(list(self.symbols), 20)}]"
            )
        order = wide_order(self.stamps.utc, self.origin, self.options.sort)
        check_bars(fields, self.where, gaps=True)
        kept = self._symbols_with_closes(fields["close"])
        symbols = tuple(self.symbols[s] for s in kept.tolist())
        # column by column, as a table of closes has them; a bar is where the symbol has a price
        ordered = self.stamps
        if len(kept) < len(self.symbols) or (np.diff(order) < 0).any():
            fields = {name: values[np.ix_(order, kept)] for name, values in fields.items()}
            extras = {name: values[np.ix_(order, kept)] for name, values in extras.items()}
            ordered = self.stamps.take(order)
        timestamps, source = self._bars_of(ordered, ~no_price(fields), symbols)

        def placed(values: FloatArray) -> FloatArray:
            if source is None:
                return values
            return np.where(source >= 0, np.take_along_axis(values, source, axis=0), np.nan)

        def where(position: tuple[int, ...]) -> str:
            bar, s = position
            row = bar if source is None else source[bar, s]
            return self.origin.cell(int(order[row]), symbols[s], timestamps[bar])

        return Matrices(
            symbols,
            timestamps,
            {name: placed(values) for name, values in fields.items()},
            {name: placed(values) for name, values in extras.items()},
            where,
            signature,
        )

    def _bars_of(
        self, stamps: Stamps, priced: BoolArray, symbols: tuple[str, ...]
    ) -> tuple[TimeArray, IntArray | None]:
        """Return the bars of the market, and the row of the table that each bar of a symbol comes from.

        Args:
            stamps: Times of the table's rows, in order.
            priced: Where a symbol has a price, bool [rows, symbols].
            symbols: Names of the columns.

        Returns:
            datetime64[ns] [bars], strictly increasing, and int [bars, symbols]: -1 where nothing is known. None in its
            place where each row is a bar.
        """
        shape = priced.shape
        if priced.all():  # all symbols have all bars, so one of them tells
            s_of, row_of = np.zeros(shape[0], dtype=np.intp), np.arange(shape[0])
        else:
            s_of, row_of = np.nonzero(priced.T)
        times = bar_times(Rows(stamps.take(row_of), s_of, symbols, self.origin, self.options))
        if (times == stamps.utc[row_of]).all():  # every row is a bar, those without any price too
            return stamps.utc, None
        if priced.all():
            return times, None
        timestamps, bar_of = np.unique(times, return_inverse=True)
        source = np.full((len(timestamps), shape[1]), -1, dtype=np.intp)
        # what stands beside no price, the level of an index for example, goes where the prices of its row went
        shared = np.full(shape[0], -1, dtype=np.intp)
        shared[row_of] = bar_of
        rows = np.flatnonzero(shared >= 0)
        source[shared[rows]] = np.where(priced[rows], -1, rows[:, None])
        source[bar_of, s_of] = row_of
        return timestamps, source

    def _symbols_with_closes(self, close: FloatArray) -> IntArray:
        empty = np.isnan(close).all(axis=0)
        names = [self.symbols[s] for s in np.flatnonzero(empty)]
        if not names or (self.options.drop_empty and not empty.all()):
            if names:
                self.origin.note(f"symbols without any close are left out: {listing(names)}")
            return np.flatnonzero(~empty)
        raise MarketDataError(
            f"{self.origin.name}: symbol {names[0]!r} has no close at all; a ticker whose download failed looks like "
            f"this in yfinance ({len(names)} such: {listing(names)}). Download it again, drop the column, or state "
            "drop_empty=True to leave such symbols out"
        )
