"""Tables of other libraries, and several tables at once, as pandas frames and their columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from batchenv.config import DataOptions
from batchenv.data.bars import PRICE_FIELDS, Origin, listing
from batchenv.data.columns import (
    ALIASES,
    FIELD_NAMES,
    SYMBOL_LEVEL,
    first_repeated,
    fold,
    nameless,
    renamed,
    resolve_columns,
)
from batchenv.data.dates import Stamps, parse_dates, with_time_of_day
from batchenv.data.numbers import is_number
from batchenv.errors import MarketDataError

Columns = dict[str, "pd.Series[Any]"]


def as_frame(table: Any, name: str) -> pd.DataFrame:
    """Return a table of any library as a pandas frame.

    pandas frames and series come back as they are. Others are taken by the protocols that they offer: an Arrow stream
    (polars, pyarrow, DuckDB) or ``to_pandas``.

    Args:
        table: The table.
        name: Its name in messages.

    Raises:
        MarketDataError: It is no table.
    """
    if isinstance(table, pd.Series):
        return table.to_frame("close" if table.name is None else table.name)
    if not isinstance(table, pd.DataFrame):
        try:
            table = _to_pandas(table)
        except (TypeError, ValueError, NotImplementedError) as error:  # pyarrow's errors are of these kinds
            raise MarketDataError(f"{name}: cannot be made a pandas frame ({error})") from error
    if isinstance(table, pd.DataFrame):
        return table
    hint = "; collect() it first" if callable(getattr(table, "collect", None)) else ""
    raise MarketDataError(
        f"{name}: expected a pandas DataFrame, a polars DataFrame, a pyarrow.Table or a dict of frames by symbol, got "
        f"{type(table).__name__}{hint}"
    )


def _to_pandas(table: Any) -> Any:
    """Return a table as a pandas frame by a protocol that it offers, else the table itself."""
    if hasattr(table, "__arrow_c_stream__"):
        import pyarrow as pa

        return pa.table(table).to_pandas(date_as_object=False)
    if callable(getattr(table, "to_pandas", None)):
        return table.to_pandas()
    return table


def is_fields_by_name(tables: Mapping[Any, Any]) -> bool:
    """Return whether a dict holds wide frames by field, ``{"close": closes, "open": opens}``, and not by symbol."""
    if not tables or not all(fold(name) in FIELD_NAMES for name in tables) or "close" not in map(fold, tables):
        return False
    return not any(isinstance(table, pd.DataFrame) and "close" in map(fold, table.columns) for table in tables.values())


def flat_columns(frame: pd.DataFrame, origin: Origin, options: DataOptions) -> Columns:
    """Return the columns of a frame by name, with index levels that hold dates or symbols in front.

    Raises:
        MarketDataError: A column stands more than once, or the option ``columns`` does not fit.
    """
    names = [str(name) for name in frame.columns]
    if options.columns is not None:
        names = renamed(names, options.columns, origin.name)
    repeated = first_repeated(names)
    if repeated is not None:
        raise MarketDataError(f"{origin.name}: column {repeated!r} appears more than once")
    known = resolve_columns(names, origin.name)
    front = _of_index(frame, names, known)
    blank = [nameless(name) for name in names]
    if "date" not in known and "date" not in front and blank[0] and not is_number(frame.dtypes.iloc[0]):
        names[0], blank[0] = "date", False  # a nameless index, as to_csv writes it
    columns = dict(front)
    for i, (_, column) in enumerate(frame.reset_index(drop=True).items()):
        if not blank[i]:
            columns[names[i]] = column
        elif not _is_row_number(column) and not column.astype(object).map(_absent).all():
            origin.note(f"column {i + 1} has no name and is not used")
    return _one_date_column(columns, origin)


def _is_row_number(column: pd.Series[Any]) -> bool:
    """Return whether a column counts the rows, as to_csv writes them by default."""
    step = np.diff(column.to_numpy()) if pd.api.types.is_integer_dtype(column.dtype) else np.zeros(2)
    return bool((np.abs(step) == 1).all()) and int(column.iloc[0]) in (0, 1, len(column) - 1, len(column))


def _of_index(frame: pd.DataFrame, names: list[str], known: Mapping[str, str]) -> Columns:
    """Return the index levels that hold dates or symbols, where no column does."""
    front: Columns = {}
    for level, name in enumerate(frame.index.names):
        index = frame.index.get_level_values(level)
        role = next((field for field in ("date", "symbol") if fold(name) in ALIASES[field]), None)
        role = "symbol" if role is None and fold(name) in SYMBOL_LEVEL else role
        is_time = isinstance(index, (pd.DatetimeIndex, pd.PeriodIndex))
        text = not pd.api.types.is_numeric_dtype(index)
        if role is None and (is_time or (frame.index.nlevels == 1 and text)):
            role = "date"
        if role is None and text and name is None and frame.index.nlevels > 1:
            role = "symbol"  # keys of pd.concat
        column = known.get(role or "")
        if column is not None and is_time and is_number(frame.dtypes.iloc[names.index(column)]):
            column = None  # a ticker called TIME
        if role is not None and column is None and role not in front:
            values = index.to_timestamp() if isinstance(index, pd.PeriodIndex) else index
            front[role if role not in names else f"index {role}"] = pd.Series(values, copy=False).reset_index(drop=True)
    return front


def _one_date_column(columns: Columns, origin: Origin) -> Columns:
    """Join a date and a time of day that stand in two columns."""
    by_fold = {fold(name): name for name in columns}
    day, clock = by_fold.get("date"), by_fold.get("time")
    if day is None or clock is None:
        return columns
    joined = with_time_of_day(columns[day], columns[clock], origin)
    if joined is None:
        return columns
    return {name: joined if name == day else column for name, column in columns.items() if name != clock}


def without_empty_rows(columns: Columns) -> Columns:
    """Return columns without the rows at the end that hold nothing."""
    last = next(iter(columns.values()), None)
    if last is None or not len(last) or not all(_absent(column.iloc[-1]) for column in columns.values()):
        return columns
    filled = np.logical_or.reduce(
        [~column.astype(object).map(_absent).to_numpy(dtype=np.bool_) for column in columns.values()]
    )
    end = int(np.flatnonzero(filled)[-1]) + 1 if filled.any() else 0
    return {name: column.iloc[:end] for name, column in columns.items()}


def _absent(value: Any) -> bool:
    return value is None or value is pd.NA or value is pd.NaT or value == "" or value != value


def of_symbols(tables: Mapping[Any, Any], origin: Origin, options: DataOptions) -> tuple[Columns, Stamps]:
    """Return the columns of one long table from frames by symbol, and the times of its rows.

    The times are parsed frame by frame: each may have a zone of its own.

    Raises:
        MarketDataError: A value is no frame, or the frames do not have the same price fields.
    """
    parts: list[Columns] = []
    stamps: list[Stamps] = []
    fields: dict[str, frozenset[str]] = {}
    for key, table in tables.items():
        symbol, name = str(key), f"{origin.name}, symbol {str(key)!r}"
        own = Origin(name, notes=origin.notes)
        columns = without_empty_rows(_of_one_symbol(as_frame(table, name), symbol, own, options))
        known = resolve_columns(columns, name)
        if "date" not in known:
            raise MarketDataError(f"{name}: no 'date' column; expected dates as index or as a column of the frame")
        dates = columns.pop(known["date"])
        if not len(dates):
            raise MarketDataError(f"{name}: the frame is empty; leave it out, or check whether its download failed")
        fields[symbol] = frozenset(field for field in PRICE_FIELDS if field in known)
        stamps.append(parse_dates(dates, known["date"], own, options))
        spelled = set(known.values())  # folded, so that frames that spell them differently have one column each
        columns = {fold(name) if name in spelled else name: column for name, column in columns.items()}
        parts.append(columns | {"symbol": pd.Series([symbol] * len(dates), dtype=object)})
    _check_same_fields(fields, origin)
    joined = pd.concat([pd.DataFrame(columns) for columns in parts], ignore_index=True)
    return {str(name): joined[name] for name in joined.columns}, Stamps.join(stamps)


def _of_one_symbol(frame: pd.DataFrame, symbol: str, origin: Origin, options: DataOptions) -> Columns:
    """Return the columns of a frame that holds one symbol, under whatever name."""
    if isinstance(frame.columns, pd.MultiIndex):  # yfinance.download of one ticker
        single = [
            level for level in range(frame.columns.nlevels) if frame.columns.get_level_values(level).nunique() == 1
        ]
        if frame.columns.nlevels != 2 or len(single) != 1:
            raise MarketDataError(
                f"{origin.name}: expected the bars of one symbol, got 2-level columns of several; give that frame alone"
            )
        frame = frame.droplevel(single[0], axis="columns")
    columns = flat_columns(frame, origin, options)
    known = resolve_columns(columns, origin.name)
    if "close" not in known and len(columns) == 2 and "date" in known:  # a series of closes
        columns = {("close" if name != known["date"] else name): column for name, column in columns.items()}
    if "symbol" in known:
        names = sorted({str(name).strip() for name in columns.pop(known["symbol"])})
        if len(names) > 1:
            raise MarketDataError(f"{origin.name}: the frame holds several symbols ({listing(names)}); expected one")
        if names != [symbol]:
            raise MarketDataError(f"{origin.name}: the frame holds {names[0]!r}; expected {symbol!r}, its key")
    return columns


def _check_same_fields(fields: Mapping[str, frozenset[str]], origin: Origin) -> None:
    most = max(fields.values(), key=len)
    for symbol, own in fields.items():
        missing = [field for field in PRICE_FIELDS if field in most - own]
        if missing:
            other = next(name for name, theirs in fields.items() if missing[0] in theirs)
            raise MarketDataError(
                f"{origin.name}: the frame of {symbol!r} has no column {missing[0]!r}, and that of {other!r} has; "
                "expected the same prices for every symbol"
            )
