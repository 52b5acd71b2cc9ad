"""Frames of every library and dtype: the same matrices, nothing dropped without a word, nothing read the wrong way."""

from __future__ import annotations

import decimal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from batchenv import MarketData
from batchenv.errors import MarketDataError

DATES = pd.bdate_range("2024-01-01", periods=6)


def long_frame() -> pd.DataFrame:
    rows = [
        (day, symbol, price + i, price + i + 2, price + i - 2, price + i + 0.25, 100 * (i + 1), i / 8)
        for i, day in enumerate(DATES)
        for symbol, price in (("AAA", 100.0), ("BBB", 200.0))
    ]
    return pd.DataFrame(rows, columns=["date", "symbol", "open", "high", "low", "close", "volume", "signal"])


class ArrowOnly:
    """A table of a library that is known by its Arrow stream alone, as polars' and DuckDB's are."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self._table.__arrow_c_stream__(requested_schema)


class PandasOnly:
    """A table that offers `to_pandas`."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self._frame = frame

    def to_pandas(self) -> pd.DataFrame:
        return self._frame


def arrow(frame: pd.DataFrame, **types: pa.DataType) -> pa.Table:
    table = pa.Table.from_pandas(frame, preserve_index=False)
    for name, kind in types.items():
        at = table.column_names.index(name)
        table = table.set_column(at, name, table[name].cast(kind))
    return table


def by_symbol(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return {str(s): own.drop(columns="symbol").set_index("date") for s, own in frame.groupby("symbol")}


def decimals(series: pd.Series[Any]) -> list[decimal.Decimal]:
    return [decimal.Decimal(str(value)) for value in series]


LIBRARIES: dict[str, Callable[[pd.DataFrame], Any]] = {
    "pyarrow": arrow,
    "an Arrow stream": lambda f: ArrowOnly(arrow(f)),
    "polars' types": lambda f: ArrowOnly(arrow(f, symbol=pa.large_string(), date=pa.date32())),
    "an Arrow dictionary": lambda f: arrow(f, symbol=pa.dictionary(pa.int32(), pa.string())),
    "to_pandas": PandasOnly,
    "dict of frames": by_symbol,
    "dict of frames with a date column": lambda f: {s: own.reset_index() for s, own in by_symbol(f).items()},
    "dict of frames with their symbol": lambda f: {str(s): own for s, own in f.groupby("symbol")},
    "dict of pyarrow tables": lambda f: {s: arrow(own.reset_index()) for s, own in by_symbol(f).items()},
    "dict of frames of two levels": lambda f: {
        s: pd.concat({s: own}, axis=1).swaplevel(axis=1) for s, own in by_symbol(f).items()
    },
    "dict of frames, newest first": lambda f: {s: own.iloc[::-1] for s, own in by_symbol(f).items()},
    "dict of wide frames by field": lambda f: {
        name: f.pivot(index="date", columns="symbol", values=name)
        for name in ("open", "high", "low", "close", "volume")
    },
    "nullable dtypes": lambda f: f.convert_dtypes(),
    "Arrow dtypes": lambda f: f.convert_dtypes(dtype_backend="pyarrow"),
    "decimals of Python": lambda f: f.assign(close=decimals(f["close"]), signal=decimals(f["signal"])),
    "decimals of Arrow": lambda f: arrow(f, close=pa.decimal128(12, 4), signal=pa.decimal128(12, 6)),
    "decimals in Arrow dtypes": lambda f: f.assign(
        close=pd.Series(decimals(f["close"]), dtype=pd.ArrowDtype(pa.decimal128(12, 4)))
    ),
    "text with missing values": lambda f: f.assign(signal=f["signal"].astype(str).replace("0.0", None).fillna("0")),
    "categories": lambda f: f.assign(symbol=f["symbol"].astype("category"), close=f["close"].astype("category")),
    "categories of text": lambda f: f.assign(close=f["close"].astype(str).astype("category")),
    "float32": lambda f: f.astype(dict.fromkeys(("open", "high", "low", "close", "signal"), "float32")),
    "numbers of text": lambda f: f.assign(**{n: f[n].astype(str) for n in ("open", "high", "low", "close", "signal")}),
    "periods": lambda f: f.assign(date=f["date"].dt.to_period("D")),
    "period index": lambda f: f.set_index(pd.PeriodIndex(f["date"], freq="D", name="date")).drop(columns="date"),
    "dates as integers": lambda f: f.assign(date=f["date"].dt.strftime("%Y%m%d").astype(int)),
    "dates as text": lambda f: f.assign(date=f["date"].dt.strftime("%Y%m%d")),
    "seconds since 1970": lambda f: f.assign(date=f["date"].astype("datetime64[s]").astype("int64")),
    "nanoseconds since 1970": lambda f: f.assign(date=f["date"].astype("datetime64[ns]").astype("int64")),
    "datetime64 in objects": lambda f: f.assign(date=list(f["date"].to_numpy())),
    "a nameless level of symbols": lambda f: f.set_index(["symbol", "date"]).rename_axis([None, "date"]),
    "a row number": lambda f: f.reset_index(),
    "an Unnamed column": lambda f: f.rename_axis("Unnamed: 0").reset_index(),
}


@pytest.mark.parametrize("library", LIBRARIES)
def test_every_library_and_dtype_gives_the_same_matrices(library: str) -> None:
    expected = MarketData.from_frame(long_frame())
    market = MarketData.from_frame(LIBRARIES[library](long_frame()))
    assert market.symbols == expected.symbols
    np.testing.assert_array_equal(market.timestamps, expected.timestamps)
    for name in ("open", "high", "low", "close", "volume"):
        np.testing.assert_array_equal(getattr(market, name), getattr(expected, name), err_msg=name)
    if "signal" in market.columns:
        np.testing.assert_array_equal(market.columns["signal"], expected.columns["signal"])
    else:
        assert library == "dict of wide frames by field"


def test_decimals_of_a_parquet_file_are_read(tmp_path: Path) -> None:
    table = arrow(long_frame(), close=pa.decimal128(12, 4), signal=pa.decimal128(12, 6), volume=pa.decimal256(40, 2))
    pyarrow.parquet.write_table(table, tmp_path / "decimal.parquet")
    market = MarketData.from_parquet(tmp_path / "decimal.parquet")
    assert market.fingerprint == MarketData.from_frame(long_frame()).fingerprint
    wide = long_frame().pivot(index="date", columns="symbol", values="close").map(lambda v: decimal.Decimal(str(v)))
    np.testing.assert_array_equal(MarketData.from_frame(wide).close, market.close)


def test_a_series_is_one_symbol() -> None:
    closes = long_frame().query("symbol == 'AAA'").set_index("date")["close"]
    assert MarketData.from_frame(closes.rename("AAA")).symbols == ("AAA",)
    assert MarketData.from_frame(closes.rename(None)).symbols == ("ASSET",)
    both = MarketData.from_frame({"AAA": closes, "BBB": closes * 2})
    np.testing.assert_array_equal(both.close[:, 1], closes * 2)


def test_no_column_is_dropped_without_a_word() -> None:
    frame = long_frame().assign(
        sector="tech", listed=DATES[0], active=True, rank=lambda f: f["signal"].astype(str), tags=[["a"]] * 12
    )
    market = MarketData.from_frame(frame)
    assert set(market.columns) == {"signal", "active", "rank"}
    assert list(market.notes) == [
        "column 'sector' holds text and is not used",
        "column 'listed' holds times and is not used",
        "column 'tags' holds no numbers and is not used",
    ]
    wide = frame.drop(columns=["tags"]).pivot(index="date", columns="symbol")
    assert list(MarketData.from_frame(wide).notes) == list(market.notes)[:2]


# --- two levels ---------------------------------------------------------------------------------------------


def two_level(*symbols: str, fields: tuple[str, ...] = ("Open", "High", "Low", "Close", "Volume")) -> pd.DataFrame:
    """Columns (symbol, field): the close of the n-th symbol is 100 n + 1, and its other fields are 100 n."""
    return pd.DataFrame(
        {(s, f): 100.0 * (i + 1) + (f == "Close") for i, s in enumerate(symbols) for f in fields}, index=DATES
    )


def high_enough(frame: pd.DataFrame) -> pd.DataFrame:
    frame = frame.copy()
    for s, f in frame.columns:
        if "High" in (s, f):
            frame[(s, f)] += 5
    return frame


@pytest.mark.parametrize("fields_first", [False, True])
@pytest.mark.parametrize(
    "symbols", [("CLOSE", "AAPL"), ("AAPL", "OPEN"), ("CLOSE", "OPEN", "AAPL"), ("VOLUME", "SPLIT", "LOW", "AAPL")]
)
def test_tickers_that_are_names_of_fields_are_tickers(symbols: tuple[str, ...], fields_first: bool) -> None:
    frame = high_enough(two_level(*symbols))
    market = MarketData.from_frame(frame.swaplevel(axis=1) if fields_first else frame)
    assert market.symbols == symbols and market.open is not None and not market.columns
    np.testing.assert_array_equal(market.close[0], [100.0 * (i + 1) + 1 for i in range(len(symbols))])


@pytest.mark.parametrize("fields_first", [False, True])
def test_levels_that_both_may_be_fields_are_refused(fields_first: bool) -> None:
    frame = high_enough(two_level("CLOSE", "OPEN"))
    frame = frame.swaplevel(axis=1) if fields_first else frame
    with pytest.raises(MarketDataError, match=r"both levels of the columns hold names of fields.*field_level=0.*=1"):
        MarketData.from_frame(frame)
    market = MarketData.from_frame(frame, field_level=0 if fields_first else 1)
    assert (market.symbols, market.close[0].tolist()) == (("CLOSE", "OPEN"), [101.0, 201.0])
    named = frame.rename_axis(columns=["Price", "Ticker"] if fields_first else ["Ticker", "Price"])
    assert MarketData.from_frame(named).fingerprint == market.fingerprint


def test_symbols_that_are_all_fields_beside_a_column_of_the_user_are_refused() -> None:
    """Neither level can be told: OPEN and CLOSE are tickers, and the fields have a signal among them."""
    frame = two_level("CLOSE", "OPEN", fields=("Open", "Close", "signal"))
    with pytest.raises(MarketDataError, match="both levels of the columns"):
        MarketData.from_frame(frame)
    assert MarketData.from_frame(frame, field_level=1).symbols == ("CLOSE", "OPEN")


# --- wide ---------------------------------------------------------------------------------------------------


def test_a_ticker_called_time_does_not_replace_the_dates_of_the_index() -> None:
    wide = pd.DataFrame({"TIME": 10.0, "AAPL": 20.0}, index=DATES)
    market = MarketData.from_frame(wide)
    assert market.symbols == ("TIME", "AAPL") and market.timestamps[0] == DATES[0]


def test_a_table_of_twenty_thousand_symbols_is_read_and_selected() -> None:
    names = [f"S{i}" for i in range(20_000)]
    market = MarketData.from_frame(pd.DataFrame(1.0, index=DATES, columns=names))
    assert market.select(names[::-1]).symbols == tuple(names[::-1])


# --- refused ------------------------------------------------------------------------------------------------

BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "a lazy table": (
        lambda: type("Lazy", (), {"collect": lambda self: None})(),
        r"expected a pandas DataFrame, a polars DataFrame, a pyarrow.Table or a dict .* got Lazy; collect\(\) it first",
    ),
    "an empty dict": (dict, "the dict is empty"),
    "a dict of lists": (lambda: {"date": [1], "close": [1.0]}, r"symbol 'date': expected a pandas DataFrame.*got list"),
    "an empty frame in a dict": (
        lambda: by_symbol(long_frame()) | {"CCC": by_symbol(long_frame())["AAA"].iloc[:0]},
        r"symbol 'CCC': the frame is empty; leave it out, or check whether its download failed",
    ),
    "a dict whose frames differ": (
        lambda: by_symbol(long_frame()) | {"CCC": by_symbol(long_frame())["AAA"].drop(columns="open")},
        r"the frame of 'CCC' has no column 'open', and that of 'AAA' has",
    ),
    "a dict of frames of several symbols": (
        lambda: {"AAA": long_frame()},
        r"symbol 'AAA': the frame holds several symbols \('AAA', 'BBB'\); expected one",
    ),
    "a dict of frames of another symbol": (
        lambda: {"AAA": long_frame().query("symbol == 'BBB'")},
        r"symbol 'AAA': the frame holds 'BBB'; expected 'AAA'",
    ),
    "nothing but symbols that failed": (
        lambda: pd.DataFrame({"AAA": np.nan, "BBB": np.nan}, index=DATES),
        r"symbol 'AAA' has no close at all.*2 such: 'AAA', 'BBB'",
    ),
    "symbols that are truth values": (
        lambda: long_frame().assign(symbol=lambda f: f["symbol"] == "AAA"),
        r"row 0: the symbol is True, a truth value; pandas reads a ticker TRUE so",
    ),
    "a symbol that pandas took for none": (
        lambda: long_frame().assign(symbol=lambda f: f["symbol"].where(f["symbol"] == "AAA")),
        r"row 1: the symbol is missing.*pandas reads a ticker NA as missing",
    ),
    "truth values as prices": (
        lambda: long_frame().assign(close=True),
        r"row 0, symbol 'AAA', date 2024-01-01: close is (np.)?True_?; expected a number",
    ),
    "times as prices": (lambda: long_frame().assign(close=DATES[0]), "close is Timestamp.*expected a number"),
    "lists as prices": (lambda: long_frame().assign(close=[[1.0]] * 12), r"close is \[1.0\]; expected a number"),
    "times of day as numbers": (
        lambda: long_frame().assign(time=930),
        "times of day are numbers such as 930, which may be hours and minutes or hours, minutes and seconds",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_frame_is_refused_with_its_cause(case: str) -> None:
    make, message = BAD[case]
    with pytest.raises(MarketDataError, match=message):
        MarketData.from_frame(make())
