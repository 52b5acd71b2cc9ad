"""From a user's table (frame, CSV, Parquet) to validated matrices of bars.

Only :mod:`batchenv.market` uses this module; the public way in is ``MarketData.from_frame`` and its kin.
Whatever is wrong with a table ends here, in one :class:`~batchenv.errors.MarketDataError` that names the
source, the row, the symbol, the field, the value and what was expected.
"""

from __future__ import annotations

import csv
import datetime as dt
import io
import warnings
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from batchenv.adjustment import later_splits
from batchenv.errors import MarketDataError

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
TimeArray = NDArray[np.datetime64]

PRICE_FIELDS = ("open", "high", "low", "close", "adj_close")
NO_ACTION: Mapping[str, float] = {"dividends": 0.0, "splits": 1.0}
"""Corporate actions, and the value of a bar without one."""
LONE_SYMBOL = "ASSET"

_ALIASES: Mapping[str, tuple[str, ...]] = {
    "date": ("date", "datetime", "timestamp", "time"),
    "symbol": ("symbol", "ticker", "tic", "asset"),
    "open": ("open",),
    "high": ("high",),
    "low": ("low",),
    "close": ("close",),
    "volume": ("volume",),
    "adj_close": ("adj_close", "adjclose", "adjusted_close"),
    "dividends": ("dividends", "dividend"),
    "splits": ("splits", "split", "stock_splits", "stock_split"),
}
_MISSING_TEXTS = [
    "",
    "NA",
    "N/A",
    "n/a",
    "#N/A",
    "<NA>",
    "NaN",
    "nan",
    "-NaN",
    "-nan",
    "NULL",
    "null",
    "None",
]
_NEAREST_DOUBLE: dict[str, Any] = (
    {"float_precision": "round_trip"} if tuple(map(int, pd.__version__.split(".")[:2])) < (3, 1) else {}
)
"""Before pandas 3.1 `read_csv` misses the nearest double of one number in seven, unless it is told not to."""
_PARSER_FAILURES = (
    OSError,
    ValueError,
    EOFError,
    ImportError,
    NotImplementedError,
    zlib.error,
    csv.Error,
    pd.errors.ParserWarning,
)
_EXPECTED_SHAPES = (
    "a long frame (date, symbol, open, high, low, close, volume[, adj_close, dividend, split]; date, symbol and "
    "close are required), a wide frame of closes (index = dates, columns = symbols), or a frame with 2-level columns "
    "(field, symbol)"
)


@dataclass(frozen=True, slots=True)
class Bars:
    """Validated matrices of one table, on the way into a ``MarketData``.

    Attributes:
        symbols: Column names of every matrix.
        timestamps: datetime64[ns] [bars], strictly increasing.
        fields: ``close`` and whichever of ``open``, ``high``, ``low``, ``volume``, ``dividends``, ``splits``
            exist; float64 [bars, symbols].
        columns: The user's extra numeric columns; float64 [bars, symbols].
        adjusted: Whether the prices were adjusted by ``adj_close``.
    """

    symbols: tuple[str, ...]
    timestamps: TimeArray
    fields: dict[str, FloatArray]
    columns: dict[str, FloatArray]
    adjusted: bool = False


@dataclass(frozen=True, slots=True)
class Origin:
    """How to name a table and its rows in a message.

    Attributes:
        name: Path or label of the table.
        first_line: Line number of the first data row of a text file; None for anything else.
    """

    name: str
    first_line: int | None = None

    def row(self, position: int) -> str:
        """Return ``line 19`` for a text file, else ``row 17`` (counted from 0)."""
        return f"row {position}" if self.first_line is None else f"line {position + self.first_line}"

    def cell(self, position: int, symbol: str, time: np.datetime64) -> str:
        """Return source, row, symbol and date, as every message about a value begins."""
        return f"{self.name}, {self.row(position)}, symbol {symbol!r}, date {format_time(time)}"


# --- files --------------------------------------------------------------------------------------------------


def read_csv(path: str | Path) -> pd.DataFrame:
    """Read a CSV file (plain or compressed) without guessing at symbols or dates.

    Tickers stay text (``NA`` and ``000001`` survive), dates stay text until they are checked, and floats are
    parsed to the nearest double.

    Args:
        path: The file.

    Raises:
        MarketDataError: The file is missing, unreadable, empty, or repeats a column name.
    """
    try:
        head = pd.read_csv(path, header=None, nrows=1, dtype=str, keep_default_na=False)
        header = [str(name) for name in head.iloc[0]]
        repeated = sorted({name for name in header if header.count(name) > 1})
        if repeated:
            raise MarketDataError(
                f"{path}: column {repeated[0]!r} appears more than once; a CSV holds a long table or a wide "
                "table of closes (keep 2-level columns in Parquet, or in memory for MarketData.from_frame)"
            )
        known = resolve_columns(header, str(path))
        texts = {
            known[field] for field in ("date", "symbol") if field in known and (field == "date" or "close" in known)
        }
        if "date" not in known:
            texts.add(header[0])
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # a row longer than the header is cut off
            frame: pd.DataFrame = pd.read_csv(
                path,
                header=0,
                names=header,
                index_col=False,
                dtype=dict.fromkeys(texts, str),
                keep_default_na=False,
                na_values={name: _MISSING_TEXTS for name in header if name not in texts},
                low_memory=False,
                **_NEAREST_DOUBLE,
            )
            return frame
    except MarketDataError:
        raise
    except _PARSER_FAILURES as error:
        raise MarketDataError(_unreadable(path, "CSV", error)) from error


def read_parquet(path: str | Path) -> pd.DataFrame:
    """Read a Parquet file.

    Args:
        path: The file.

    Raises:
        MarketDataError: The file is missing or unreadable, or no Parquet engine is installed.
    """
    try:
        return pd.read_parquet(path)
    except _PARSER_FAILURES as error:
        raise MarketDataError(_unreadable(path, "Parquet", error)) from error


def _unreadable(path: str | Path, kind: str, error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{path}: no such file; expected a {kind} file of market data"
    if isinstance(error, ImportError):
        return f"{path}: reading {kind} needs pyarrow, which is not installed (pip install pyarrow)"
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"{path}: cannot be read as a {kind} file ({reason})"


# --- frames -------------------------------------------------------------------------------------------------


def frame_to_bars(frame: pd.DataFrame, origin: Origin, *, adjusted: bool) -> Bars:
    """Recognise the shape of ``frame``, validate it, and return its matrices.

    Args:
        frame: Long, wide close-only, or wide with 2-level columns; see ``MarketData.from_frame``.
        origin: Names the table in messages.
        adjusted: Use ``adj_close`` where the table has it.

    Raises:
        MarketDataError: The table is not usable as given.
    """
    if not isinstance(frame, pd.DataFrame):
        raise MarketDataError(f"{origin.name}: expected a pandas DataFrame, got {type(frame).__name__}")
    if frame.shape[0] == 0 or frame.shape[1] == 0:
        raise MarketDataError(f"{origin.name}: the table is empty; expected {_EXPECTED_SHAPES}")
    if isinstance(frame.columns, pd.MultiIndex):
        bars = _two_level_to_bars(frame, origin, adjusted)
    else:
        columns = _flat_columns(frame, origin)
        known = resolve_columns(columns, origin.name)
        to_bars = _long_to_bars if _is_long(columns, known) else _wide_to_bars
        bars = to_bars(columns, known, origin, adjusted)
    if len(bars.timestamps) < 2:
        raise MarketDataError(f"{origin.name}: the table has 1 bar; at least 2 are needed")
    return bars


def resolve_columns(names: Mapping[str, Any] | list[str], source: str) -> dict[str, str]:
    """Map each field of a table to the column that holds it; case and common aliases do not matter.

    Args:
        names: Column names as the user spells them.
        source: Name of the table, for the message.

    Raises:
        MarketDataError: Two columns are spelled alike, so that either could be the field.
    """
    folded: dict[str, list[str]] = {}
    for name in names:
        folded.setdefault(_fold(name), []).append(name)
    known: dict[str, str] = {}
    for field, aliases in _ALIASES.items():
        spelled = [folded[alias] for alias in aliases if alias in folded]
        if field not in NO_ACTION:
            spelled = spelled[:1]  # a second date or close under another name stays the user's own column
        candidates = [name for names in spelled for name in names]
        if len(candidates) > 1:
            raise MarketDataError(f"{source}: columns {candidates} all mean {field!r}; keep one of them")
        if candidates:
            known[field] = candidates[0]
    return known


def _fold(name: object) -> str:
    return "_".join(str(name).strip().lower().replace(".", " ").split())


def _flat_columns(frame: pd.DataFrame, origin: Origin) -> dict[str, pd.Series[Any]]:
    """Return the columns by name, with index levels that hold dates or symbols in front."""
    names = [str(name) for name in frame.columns]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise MarketDataError(f"{origin.name}: column {repeated[0]!r} appears more than once")
    frame = frame.set_axis(names, axis="columns")
    known = resolve_columns(names, origin.name)
    front: dict[str, pd.Series[Any]] = {}
    for level, name in enumerate(frame.index.names):
        index = frame.index.get_level_values(level)
        role = next((field for field in ("date", "symbol") if _fold(name) in _ALIASES[field]), None)
        is_time = isinstance(index, (pd.DatetimeIndex, pd.PeriodIndex))
        if role is None and (is_time or (frame.index.nlevels == 1 and not pd.api.types.is_numeric_dtype(index))):
            role = "date"
        if role is not None and role not in known and role not in front:
            values = index.to_timestamp() if isinstance(index, pd.PeriodIndex) else index
            front[role] = pd.Series(values, copy=False).reset_index(drop=True)
    if "date" not in known and "date" not in front and names[0] == "":
        names[0] = "date"  # a wide frame's nameless index, as to_csv writes it
    # a nameless column is the row count that to_csv writes by default
    return front | {name: frame.iloc[:, i].reset_index(drop=True) for i, name in enumerate(names) if name}


def _is_long(columns: Mapping[str, pd.Series[Any]], known: Mapping[str, str]) -> bool:
    """Tell a long table from a wide one, whose symbols may be called OPEN, LOW or TIC."""
    if "symbol" in known and not pd.api.types.is_numeric_dtype(columns[known["symbol"]].dtype):
        return True
    return bool(known.keys() & {"close", "adj_close", "volume"}) or {"high", "low"} <= known.keys()


def _require(required: tuple[str, ...], known: Mapping[str, str], found: Mapping[str, Any], origin: Origin) -> None:
    missing = [field for field in required if field not in known]
    if missing:
        raise MarketDataError(
            f"{origin.name}: no {missing[0]!r} column; found {list(map(str, found))[:20]}, expected {_EXPECTED_SHAPES}"
        )


def _long_to_bars(
    columns: Mapping[str, pd.Series[Any]], known: Mapping[str, str], origin: Origin, adjusted: bool
) -> Bars:
    _require(("date", "close"), known, columns, origin)
    times = parse_dates(columns[known["date"]], known["date"], origin)
    codes, symbols = _symbol_codes(columns, known, len(times), origin)

    def where(position: tuple[int, ...]) -> str:
        row = position[0]
        return origin.cell(row, symbols[codes[row]], times[row])

    _check_long_order(times, codes, where, "symbol" in known)
    fields = {
        field: _numbers(columns[known[field]], field, where) for field in (*PRICE_FIELDS, "volume") if field in known
    }
    check_bars(fields, where, gaps=False)
    timestamps, rows = np.unique(times, return_inverse=True)

    def matrix(values: FloatArray) -> FloatArray:
        result = np.full((len(timestamps), len(symbols)), np.nan)
        result[rows, codes] = values
        return result

    used = set(known.values())
    extras = {
        name: matrix(series.to_numpy(dtype=np.float64, na_value=np.nan))
        for name, series in columns.items()
        if name not in used and _is_number(series.dtype)
    }
    actions = {
        field: matrix(_numbers(columns[known[field]], field, where)) for field in _actions(known, fields, adjusted)
    }
    row_of = np.zeros((len(timestamps), len(symbols)), dtype=np.intp)
    row_of[rows, codes] = np.arange(len(times))
    matrices = {field: matrix(values) for field, values in fields.items()}
    return _finish(
        symbols, timestamps, matrices, actions, extras, lambda at: where((int(row_of[at]),)), adjusted=adjusted
    )


def _symbol_codes(
    columns: Mapping[str, pd.Series[Any]], known: Mapping[str, str], rows: int, origin: Origin
) -> tuple[NDArray[np.intp], tuple[str, ...]]:
    """Return the column number of every row, and the symbols in alphabetical order."""
    if "symbol" not in known:
        return np.zeros(rows, dtype=np.intp), (LONE_SYMBOL,)
    codes, uniques = _factorize(columns[known["symbol"]], known["symbol"], origin)
    names = [str(name).strip() for name in uniques]
    blank = np.array([*(name == "" for name in names), True])[codes]  # code -1 (missing) reads the last entry
    if blank.any():
        row = int(np.argmax(blank))
        raise MarketDataError(f"{origin.name}, {origin.row(row)}: the symbol is missing; expected a name")
    symbols = tuple(sorted(set(names)))
    place = {name: i for i, name in enumerate(symbols)}
    return np.array([place[name] for name in names], dtype=np.intp)[codes], symbols


def _check_long_order(
    times: TimeArray, codes: NDArray[np.intp], where: Callable[[tuple[int, ...]], str], has_symbols: bool
) -> None:
    """Refuse a second row for one (date, symbol), and dates that go backwards within a symbol."""
    repeated = pd.DataFrame({"time": times, "code": codes}).duplicated().to_numpy()
    if repeated.any():
        hint = "" if has_symbols else "; there is no symbol column, so all rows count as one symbol"
        raise MarketDataError(
            f"{where((int(np.argmax(repeated)),))}: duplicated date; expected one row per date and symbol" + hint
        )
    order = np.argsort(codes, kind="stable")
    same = codes[order][1:] == codes[order][:-1]
    backwards = same & (times[order][1:] < times[order][:-1])
    if backwards.any():
        row = int(order[1:][backwards].min())
        raise MarketDataError(
            f"{where((row,))}: dates are unsorted (an earlier row of this symbol has a later date); "
            "sort the table first: frame.sort_values(['date', 'symbol'])"
        )


def _wide_to_bars(
    columns: Mapping[str, pd.Series[Any]], known: Mapping[str, str], origin: Origin, adjusted: bool
) -> Bars:
    _require(("date",), known, columns, origin)
    times = parse_dates(columns[known["date"]], known["date"], origin)
    symbols = tuple(name.strip() for name in columns if name != known["date"])
    if not symbols:
        raise MarketDataError(f"{origin.name}: no columns besides the dates; expected {_EXPECTED_SHAPES}")
    where = _wide_where(times, symbols, origin)
    _check_wide_order(times, origin)
    series = [column for name, column in columns.items() if name != known["date"]]
    close = np.column_stack([_numbers(column, "close", where, s) for s, column in enumerate(series)])
    return _finish_wide(times, symbols, {"close": close}, {}, {}, origin, adjusted=adjusted)


def _two_level_to_bars(frame: pd.DataFrame, origin: Origin, adjusted: bool) -> Bars:
    labels = [tuple(map(str, label)) for label in frame.columns.to_flat_index()]
    if frame.columns.nlevels != 2:
        labels = []
    dates = next((label for label in labels if "" in label and _fold("".join(label)) in _ALIASES["date"]), None)
    if dates is not None:  # the index, moved into the columns by reset_index()
        at = labels.index(dates)
        index = pd.Index(frame.iloc[:, at])
        return _two_level_to_bars(frame.drop(columns=frame.columns[[at]]).set_axis(index), origin, adjusted)
    level = next((k for k in (0, 1) if any(_fold(label[k]) == "close" for label in labels)), None)
    if level is None:
        raise MarketDataError(
            f"{origin.name}: no 'close' field in either level of the columns; found {labels[:6]}, expected "
            f"{_EXPECTED_SHAPES}"
        )
    pairs = [(label[level], label[1 - level].strip()) for label in labels]
    if len(set(pairs)) < len(pairs):
        raise MarketDataError(
            f"{origin.name}: column {next(p for p in pairs if pairs.count(p) > 1)} appears more than once"
        )
    tops = list(dict.fromkeys(field for field, _ in pairs))
    symbols = tuple(dict.fromkeys(symbol for _, symbol in pairs))
    known = resolve_columns(tops, origin.name)
    index = frame.index.to_timestamp() if isinstance(frame.index, pd.PeriodIndex) else frame.index
    if index.nlevels > 1:
        raise MarketDataError(f"{origin.name}: expected one index level of dates, got {index.nlevels} levels")
    times = parse_dates(pd.Series(index, copy=False).reset_index(drop=True), "index", origin)
    _check_wide_order(times, origin)
    where = _wide_where(times, symbols, origin)
    place = {symbol: s for s, symbol in enumerate(symbols)}

    def matrix(top: str, field: str) -> FloatArray:
        result = np.full((len(times), len(symbols)), np.nan)
        for i, (name, symbol) in enumerate(pairs):
            if name == top:
                result[:, place[symbol]] = _numbers(frame.iloc[:, i], field, where, place[symbol])
        return result

    fields = {f: matrix(known[f], f) for f in (*PRICE_FIELDS, "volume") if f in known}
    text = {name for (name, _), dtype in zip(pairs, frame.dtypes, strict=True) if not _is_number(dtype)}
    actions = {f: matrix(known[f], f) for f in _actions(known, fields, adjusted)}
    extras = {top: matrix(top, top) for top in tops if top not in text and top not in known.values()}
    return _finish_wide(times, symbols, fields, actions, extras, origin, adjusted=adjusted)


def _wide_where(times: TimeArray, symbols: tuple[str, ...], origin: Origin) -> Callable[[tuple[int, ...]], str]:
    def where(position: tuple[int, ...]) -> str:
        row, s = position
        return origin.cell(row, symbols[s], times[row])

    return where


def _check_wide_order(times: TimeArray, origin: Origin) -> None:
    step = np.diff(times)
    for bad, fault in (
        (step == np.timedelta64(0), "duplicated date"),
        (step < np.timedelta64(0), "unsorted dates"),
    ):
        if bad.any():
            row = int(np.argmax(bad)) + 1
            raise MarketDataError(
                f"{origin.name}, {origin.row(row)}, date {format_time(times[row])}: {fault}; expected "
                "strictly increasing dates (sort with frame.sort_index(), drop repeats with "
                "frame[~frame.index.duplicated()])"
            )


def _finish_wide(
    times: TimeArray,
    symbols: tuple[str, ...],
    fields: dict[str, FloatArray],
    actions: dict[str, FloatArray],
    extras: dict[str, FloatArray],
    origin: Origin,
    *,
    adjusted: bool,
) -> Bars:
    if len(set(symbols)) < len(symbols) or "" in symbols:
        raise MarketDataError(f"{origin.name}: expected distinct, non-empty symbols, got {list(symbols)[:20]}")
    check_bars(fields, _wide_where(times, symbols, origin), gaps=True)
    empty = np.isnan(fields["close"]).all(axis=0)
    if empty.any():
        raise MarketDataError(
            f"{origin.name}: symbol {symbols[int(np.argmax(empty))]!r} has no close at all; drop the column or fill it"
        )
    return _finish(symbols, times, fields, actions, extras, _wide_where(times, symbols, origin), adjusted=adjusted)


def _finish(
    symbols: tuple[str, ...],
    times: TimeArray,
    fields: dict[str, FloatArray],
    actions: dict[str, FloatArray],
    extras: dict[str, FloatArray],
    where: Callable[[tuple[int, ...]], str],
    *,
    adjusted: bool,
) -> Bars:
    """Adjust the prices where wanted, and check the corporate actions, all of them matrices [bars, symbols]."""
    if adjusted and "adj_close" in fields:
        return Bars(symbols, times, _adjust(fields, actions.get("splits"), where), extras, adjusted=True)
    result = {field: values for field, values in fields.items() if field != "adj_close"}
    result |= _check_table_actions(actions, result["close"], where)
    return Bars(symbols, times, result, extras)


# --- values -------------------------------------------------------------------------------------------------


def check_bars(fields: Mapping[str, FloatArray], where: Callable[[tuple[int, ...]], str], *, gaps: bool) -> None:
    """Check prices and volumes, elementwise.

    Args:
        fields: float64 arrays of one shape, by field name: any of ``PRICE_FIELDS`` and ``volume``.
        where: Names the element at an index, for the message.
        gaps: Whether NaN in all price fields at once means "no bar" (else it is an error).

    Raises:
        MarketDataError: A price is not positive and finite, high is below low, or a volume is negative or
            infinite.
    """
    prices = {field: fields[field] for field in PRICE_FIELDS if field in fields}
    absent = np.logical_and.reduce([np.isnan(a) for a in prices.values()]) if gaps else np.False_
    expected = "a positive, finite price" + (" (or no value in any price field: no bar)" if gaps else "")
    for field, values in prices.items():
        _refuse(~((values > 0) & (values < np.inf)) & ~absent, values, field, expected, where)
    if "high" in prices and "low" in prices:
        low, high = prices["low"], prices["high"]
        _refuse(high < low * (1 - 1e-9), high, "high", "a value not below low", where)
    if "volume" in fields:
        volume = fields["volume"]
        _refuse((volume < 0) | np.isinf(volume), volume, "volume", "a finite number >= 0", where)


def _refuse(
    bad: BoolArray, values: FloatArray, field: str, expected: str, where: Callable[[tuple[int, ...]], str]
) -> None:
    if bad.any():
        position = tuple(int(i) for i in np.unravel_index(int(np.argmax(bad)), bad.shape))
        raise MarketDataError(f"{where(position)}: {field} is {values[position]}; expected {expected}")


def _adjust(
    fields: Mapping[str, FloatArray], splits: FloatArray | None, where: Callable[[tuple[int, ...]], str]
) -> dict[str, FloatArray]:
    """Return the fields adjusted by adj_close / close: prices, and volumes by later splits that the close shows."""
    close, adjusted = fields["close"], fields["adj_close"]
    result = {field: values for field, values in fields.items() if field != "adj_close"}
    with np.errstate(over="ignore"):  # an infinite price is refused later, like any other
        result |= {name: result[name] * (adjusted / close) for name in ("open", "high", "low") if name in result}
    result["close"] = adjusted
    if splits is not None:
        _refuse((splits < 0) | np.isinf(splits), splits, "splits", "a finite number >= 0", where)
        if "volume" in result:
            result["volume"] = result["volume"] * later_splits(splits, close, adjusted)
    return result


def _actions(known: Mapping[str, str], fields: Mapping[str, FloatArray], adjusted: bool) -> list[str]:
    """Return which corporate actions to read: splits alone where the prices will have them in, for the volumes."""
    wanted = ("splits",) if adjusted and "adj_close" in fields else tuple(NO_ACTION)
    return [field for field in wanted if field in known]


def last_known(values: FloatArray) -> FloatArray:
    """Return ``values`` [bars, symbols] with NaN replaced by the last number above it, where there is one."""
    rows = np.where(np.isnan(values), 0, np.arange(len(values))[:, None])
    return np.take_along_axis(values, np.maximum.accumulate(rows, axis=0), axis=0)


def check_actions(
    actions: Mapping[str, FloatArray],
    close: FloatArray,
    before: FloatArray,
    where: Callable[[tuple[int, ...]], str],
) -> dict[str, FloatArray]:
    """Check dividends and splits; return them with the value of "none" wherever nothing happens.

    NaN means none, and so does 0 new shares for one old, which is how Yahoo writes it. On the first bar of a
    symbol there is nobody to receive anything: what stands there is taken out.

    Args:
        actions: float64 [bars, symbols] by name, any of ``NO_ACTION``.
        close: float64 [bars, symbols], NaN where the symbol has no bar.
        before: float64 [bars, symbols], last known close before the bar, NaN where there is none.
        where: Names the element at an index, for the message.

    Raises:
        MarketDataError: A value is not a finite number >= 0, stands where the symbol has no bar, or a dividend
            is not below the previous close (in new shares).
    """
    result = {}
    for field, none in NO_ACTION.items():
        if field not in actions:
            continue
        values = actions[field]
        _refuse((values < 0) | np.isinf(values), values, field, "a finite number >= 0", where)
        values = np.where(np.isnan(values) | ((values == 0) & (field == "splits")), none, values)
        _refuse((values != none) & np.isnan(close), values, field, f"{none}: the symbol has no bar there", where)
        result[field] = np.where(np.isnan(before), none, values)
    if "dividends" in result:
        dividends, ratio = result["dividends"], result.get("splits", np.ones_like(close))
        bad = (dividends > 0) & ~(dividends < before / ratio)
        if bad.any():
            at = tuple(int(i) for i in np.argwhere(bad)[0])
            split = f" / {ratio[at]} new shares for one old" if ratio[at] != 1 else ""
            _refuse(bad, dividends, "dividends", f"less than the close before it, {before[at]}{split}", where)
    return result


def _check_table_actions(
    actions: Mapping[str, FloatArray], close: FloatArray, where: Callable[[tuple[int, ...]], str]
) -> dict[str, FloatArray]:
    """As :func:`check_actions`, for a whole table; also refuses splits that the prices do not show."""
    before = np.full_like(close, np.nan)
    before[1:] = last_known(close)[:-1]
    result = check_actions(actions, close, before, where)
    if "splits" in result:
        ratio = result["splits"]
        large = np.abs(np.log(ratio)) > np.log(1.4)  # a smaller one cannot be told from a day's move
        move = np.log(np.where(large, close / before, 1.0))
        doubt = np.where(large, np.abs(move + np.log(ratio)) - np.abs(move), 0.0)
        bad = large & (doubt > 0) & (doubt.sum(axis=0) > 0)
        _refuse(
            bad,
            ratio,
            "splits",
            "a close that falls with it; these prices are adjusted for splits already, as Yahoo's are: drop the column "
            "of splits (and that of dividends, where the prices are adjusted for them too)",
            where,
        )
    return result


def _is_number(dtype: Any) -> bool:
    return bool(pd.api.types.is_numeric_dtype(dtype)) and dtype.kind != "c"


def _numbers(
    series: pd.Series[Any], field: str, where: Callable[[tuple[int, ...]], str], column: int | None = None
) -> FloatArray:
    """Return ``series`` as float64 [rows]; text that is no number, dates and objects are errors."""
    if series.dtype.kind in "mMc":  # times and complex numbers would convert, to nonsense
        values = np.full(len(series), np.nan)
    else:
        numbers = pd.to_numeric(series, errors="coerce")
        if numbers.dtype.kind == "c":
            numbers = numbers.map(lambda value: np.nan if value.imag else value.real)
        values = np.asarray(numbers.to_numpy(dtype=np.float64, na_value=np.nan))
    bad = series.notna().to_numpy() & np.isnan(values)
    if bad.any():
        row = int(np.argmax(bad))
        position = (row,) if column is None else (row, column)
        raise MarketDataError(f"{where(position)}: {field} is {series.iloc[row]!r}; expected a number")
    return values


# --- dates --------------------------------------------------------------------------------------------------


def _factorize(series: pd.Series[Any], column: str, origin: Origin) -> tuple[NDArray[np.intp], Any]:
    """Return the place of every value among the distinct ones (-1 for a missing value), and these."""
    try:
        return pd.factorize(series)
    except TypeError as error:
        raise MarketDataError(f"{origin.name}: {column!r} holds objects, not text or dates ({error})") from error


def format_time(time: np.datetime64) -> str:
    """Return ``2000-03-01``, or ``2000-03-01 14:30:00`` when the time of day is not midnight."""
    stamp = pd.Timestamp(time)
    return str(stamp.date()) if stamp == stamp.normalize() else str(stamp)


def parse_dates(series: pd.Series[Any], column: str, origin: Origin) -> TimeArray:
    """Return datetime64[ns] [rows]; time zones are converted to UTC and dropped.

    Text must be ISO 8601: ``01/02/2003`` means two different days to two readers.

    Args:
        series: Datetimes, dates, or ISO text.
        column: Its name, for the message.
        origin: Names the table in messages.

    Raises:
        MarketDataError: A date is missing, is a number, or cannot be parsed.
    """
    if pd.api.types.is_numeric_dtype(series.dtype):
        raise MarketDataError(
            f"{origin.name}: dates in {column!r} are numbers (first: {series.iloc[0]!r}); expected dates or "
            "ISO 8601 text (convert them with pandas.to_datetime, naming the unit or format)"
        )
    codes, uniques = _factorize(series, column, origin)
    parsed = pd.Series(uniques).reset_index(drop=True)
    if not pd.api.types.is_datetime64_any_dtype(parsed.dtype):
        # "now" and "today" parse too, and would make the data depend on the day: a date starts with its year.
        text = parsed.astype(object).astype(str)
        parsed = text.where(text.str.match(r"\s*\d{4}").to_numpy(dtype=bool))
    # code -1 stands for a missing value and reads the NaT at the end
    stamps = np.append(_to_utc_ns(parsed), np.datetime64("NaT", "ns"))[codes]
    bad = np.isnat(stamps)
    if bad.any():
        row = int(np.argmax(bad))
        raise MarketDataError(
            f"{origin.name}, {origin.row(row)}: {column!r} is {series.iloc[row]!r}; expected a date "
            "in ISO 8601, such as 2010-01-31 or 2010-01-31 14:30 (else convert with pandas.to_datetime first)"
        )
    return stamps


def _to_utc_ns(values: pd.Series[Any]) -> TimeArray:
    """Return datetime64[ns] without time zone; NaT for what is no date, or too far off for nanoseconds."""
    stamps = pd.to_datetime(values, format="ISO8601", utc=True, errors="coerce").dt.tz_localize(None)
    fits = stamps.dt.year.between(pd.Timestamp.min.year + 1, pd.Timestamp.max.year - 1)
    return cast(TimeArray, stamps.where(fits).dt.as_unit("ns").to_numpy())


def parse_time(value: object, what: str) -> np.datetime64:
    """Return one date as datetime64[ns], UTC; for arguments such as the date of a split.

    Args:
        value: ISO text, ``date``, ``datetime``, ``Timestamp`` or ``datetime64``.
        what: Name of the argument, for the message.

    Raises:
        MarketDataError: ``value`` is not a date.
    """
    if isinstance(value, (str, dt.date, np.datetime64)):
        try:
            return cast(np.datetime64, parse_dates(pd.Series([value]), what, Origin(what))[0])
        except MarketDataError:
            pass
    raise MarketDataError(f"{what}: {value!r} is not a date; expected ISO 8601 text such as 2010-01-31, or a datetime")


def read_bundled() -> pd.DataFrame:
    """Read the daily bars shipped with the package; see ``batchenv/data/PROVENANCE.md``."""
    from importlib import resources

    content = resources.files("batchenv.data").joinpath("stocks.csv.gz").read_bytes()
    frame: pd.DataFrame = pd.read_csv(
        io.BytesIO(content), compression="gzip", dtype={"date": str, "symbol": str}, **_NEAREST_DOUBLE
    )
    return frame
