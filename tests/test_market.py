"""MarketData: every shape of table gives the same matrices, and every bad table gives one clear error."""

from __future__ import annotations

import copy
import gzip
import hashlib
import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from batchenv.data.convert import convert
from batchenv.errors import MarketDataError
from batchenv.market import MarketData

FIELDS = ("open", "high", "low", "close", "volume")


def long_frame() -> pd.DataFrame:
    """Six business days of A and B; B lists on the third day and misses the fifth."""
    rows = []
    for i, day in enumerate(pd.bdate_range("2020-01-01", periods=6)):
        for symbol, price in (("A", 10.0 + i), ("B", 20.0 - i)):
            if symbol == "A" or i not in (0, 1, 4):
                rows.append((day, symbol, price, price + 1, price - 1, price + 0.5, 100 * (i + 1), price / 4, i / 7))
    columns = ["date", "symbol", "open", "high", "low", "close", "volume", "adj_close", "signal"]
    return pd.DataFrame(rows, columns=columns)


def two_level(frame: pd.DataFrame, fields_first: bool = True) -> pd.DataFrame:
    """Reshape as yfinance gives it: Title Case fields over tickers, or tickers over fields."""
    wide = frame.pivot(index="date", columns="symbol")
    names = {"adj_close": "Adj Close", "signal": "signal"}
    wide = wide.rename(columns=lambda name: names.get(name, name.title()), level=0)
    wide.columns = wide.columns.set_names(["Price", "Ticker"])
    return wide if fields_first else wide.swaplevel(axis="columns").sort_index(axis="columns")


def assert_same(a: MarketData, b: MarketData) -> None:
    assert (a.symbols, a.n_bars, list(a.columns)) == (b.symbols, b.n_bars, list(b.columns))
    for name in ("timestamps", *FIELDS):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    for name, values in a.columns.items():
        np.testing.assert_array_equal(values, b.columns[name], err_msg=name)
    for name in ("dividends", "splits"):
        mine, other = getattr(a, name), getattr(b, name)
        assert (mine is None) == (other is None), name
        if mine is not None:
            np.testing.assert_array_equal(mine, other, err_msg=name)
    assert a.fingerprint == b.fingerprint


def perturbed(column: str, row: int, value: Any) -> pd.DataFrame:
    frame = long_frame()
    frame[column] = frame[column].astype(object)
    frame.loc[row, column] = value
    return frame


# --- shapes -------------------------------------------------------------------------------------------------

FRAME_SHAPES: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "sorted by symbol": lambda f: f.sort_values(["symbol", "date"]),
    "date as index": lambda f: f.set_index("date"),
    "date and symbol as index": lambda f: f.set_index(["symbol", "date"]),
    "aliases": lambda f: f.rename(
        columns={"date": "Timestamp", "symbol": "tic", "adj_close": "Adj Close", "close": "CLOSE"}
    ),
    "finrl index": lambda f: f.set_index(f.date.factorize()[0]),
    "text dates": lambda f: f.assign(date=f.date.dt.strftime("%Y-%m-%d")),
    "python dates": lambda f: f.assign(date=f.date.dt.date),
    "categorical symbols": lambda f: f.assign(symbol=f.symbol.astype("category")),
    "numbers as text": lambda f: f.assign(close=f.close.astype(str), volume=f.volume.astype("Int64")),
    "text column ignored": lambda f: f.assign(sector="tech"),
    "two levels, fields first": two_level,
    "two levels, symbols first": lambda f: two_level(f, fields_first=False),
    "two levels, dates in a column": lambda f: two_level(f).reset_index(),
}


@pytest.mark.parametrize("shape", FRAME_SHAPES)
@pytest.mark.parametrize("adjusted", [True, False])
def test_every_shape_of_frame_gives_the_same_matrices(shape: str, adjusted: bool) -> None:
    frame = FRAME_SHAPES[shape](long_frame())
    before = frame.copy(deep=True)
    assert_same(MarketData.from_frame(frame, adjusted), MarketData.from_frame(long_frame(), adjusted))
    pd.testing.assert_frame_equal(frame, before)


def test_long_frame_becomes_matrices_with_nan_where_there_is_no_bar() -> None:
    market = MarketData.from_frame(long_frame(), adjusted=False)
    assert (market.symbols, market.close.shape, market.source) == (("A", "B"), (6, 2), "<frame>")
    assert market.timestamps.dtype == "datetime64[ns]" and market.close.dtype == np.float64
    np.testing.assert_array_equal(market.has_bar[:, 1], [False, False, True, True, False, True])
    np.testing.assert_array_equal(market.mark[:, 1], [np.nan, np.nan, 18.5, 17.5, 17.5, 15.5])
    np.testing.assert_array_equal(np.isnan(market.volume), ~market.has_bar)
    np.testing.assert_array_equal(market.columns["signal"][:, 0], np.arange(6) / 7)
    year = "252 bars in a year (daily bars, weekends left out)"
    assert repr(market) == f"MarketData(6 bars x 2 symbols [A, B], 2020-01-01 .. 2020-01-08, {year}, source='<frame>')"


def test_adjustment_scales_prices_by_adj_close_over_close_and_leaves_volume() -> None:
    raw, adjusted = (MarketData.from_frame(long_frame(), adjusted=a) for a in (False, True))
    factor = (raw.open / 4) / raw.close
    np.testing.assert_array_equal(adjusted.close, raw.open / 4)
    for name in ("open", "high", "low"):
        np.testing.assert_allclose(getattr(adjusted, name), getattr(raw, name) * factor, rtol=1e-15)
    np.testing.assert_array_equal(adjusted.volume, raw.volume)


def test_csv_and_parquet_round_trips(tmp_path: Path) -> None:
    frame, wide = long_frame(), long_frame().pivot(index="date", columns="symbol", values="close")
    frame.to_csv(tmp_path / "long.csv")  # with the row count as a nameless first column
    frame.to_csv(tmp_path / "long.csv.gz", index=False)
    frame.to_parquet(tmp_path / "long.parquet")
    two_level(frame).to_parquet(tmp_path / "two.parquet")
    wide.to_csv(tmp_path / "wide.csv")
    wide.rename_axis(index=None, columns=None).to_csv(tmp_path / "nameless.csv")
    wide.to_parquet(tmp_path / "wide.parquet")
    for name in ("long.csv", "long.csv.gz"):
        assert_same(MarketData.from_csv(tmp_path / name), MarketData.from_frame(frame))
    for name in ("long.parquet", "two.parquet"):
        assert_same(MarketData.from_parquet(tmp_path / name), MarketData.from_frame(frame))
    for name in ("wide.csv", "nameless.csv"):
        assert_same(MarketData.from_csv(tmp_path / name), MarketData.from_frame(wide))
    assert_same(MarketData.from_parquet(tmp_path / "wide.parquet"), MarketData.from_frame(wide))
    assert MarketData.from_csv(tmp_path / "wide.csv").source == str(tmp_path / "wide.csv")


def test_wide_closes_keep_column_order_and_have_no_other_fields() -> None:
    wide = long_frame().pivot(index="date", columns="symbol", values="close")[["B", "A"]]
    market = MarketData.from_frame(wide)
    assert market.symbols == ("B", "A")
    assert [getattr(market, name) for name in ("open", "high", "low", "volume")] == [None] * 4
    np.testing.assert_array_equal(market.close, wide.to_numpy())
    tickers = MarketData.from_frame(wide.set_axis(["OPEN", "LOW"], axis="columns"))  # real tickers
    assert tickers.symbols == ("OPEN", "LOW")


def test_frame_without_symbol_column_is_one_asset() -> None:
    frame = long_frame().query("symbol == 'A'").drop(columns="symbol").set_index("date")
    market = MarketData.from_frame(frame)
    assert market.symbols == ("ASSET",)
    np.testing.assert_array_equal(market.close, MarketData.from_frame(long_frame()).close[:, :1])


def test_symbols_survive_a_csv_as_text(tmp_path: Path) -> None:
    rows = ["date,ticker,close,note", "20200102,NA,1.5,", "20200102,000001,2.5,3", "20200103,NA,0.1,"]
    (tmp_path / "odd.csv").write_text("\n".join(rows))
    market = MarketData.from_csv(tmp_path / "odd.csv")
    assert market.symbols == ("000001", "NA")
    np.testing.assert_array_equal(market.close, [[2.5, 1.5], [np.nan, 0.1]])
    np.testing.assert_array_equal(market.columns["note"], [[3, np.nan], [np.nan, np.nan]])


def test_missing_volume_is_zero_and_vendor_quirks_pass() -> None:
    frame = long_frame()
    frame.loc[0, "volume"] = np.nan
    frame.loc[3, "open"] = frame.loc[3, "high"] * 1.001
    frame.loc[5, "high"] = frame.loc[5, "low"] * (1 - 1e-12)
    assert MarketData.from_frame(frame).volume[0, 0] == 0.0


def test_time_zones_of_intraday_bars_are_converted_to_utc_and_dropped() -> None:
    hours = pd.date_range("2020-01-02 09:30", periods=6, freq="h", tz="America/New_York")
    market = MarketData.from_frame(pd.DataFrame({"A": np.arange(1.0, 7.0)}, index=hours))
    assert market.timestamps[0] == np.datetime64("2020-01-02T14:30", "ns")
    text = [f"2020-01-02T{9 + i:02d}:30-05:00" if i < 3 else f"2020-01-02T{14 + i}:30Z" for i in range(6)]
    assert_same(MarketData.from_frame(pd.DataFrame({"date": text, "A": np.arange(1.0, 7.0)})), market)


# --- errors -------------------------------------------------------------------------------------------------

BAD_FRAMES: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    "negative price": (
        lambda: perturbed("low", 4, -1.0),
        ("row 4", "'A'", "2020-01-06", "low is -1.0", "positive"),
    ),
    "zero price": (lambda: perturbed("open", 0, 0), ("row 0", "'A'", "2020-01-01", "open is 0.0")),
    "nan price": (lambda: perturbed("close", 3, np.nan), ("row 3", "'B'", "2020-01-03", "close is nan")),
    "infinite price": (lambda: perturbed("adj_close", 1, np.inf), ("row 1", "'A'", "adj_close is inf")),
    "text price": (lambda: perturbed("high", 2, "12,5"), ("row 2", "high is '12,5'", "a number")),
    "dates as prices": (
        lambda: long_frame().assign(close=pd.Timestamp("2020")),
        ("row 0", "close is Timestamp"),
    ),
    "high below low": (lambda: perturbed("high", 0, 8.0), ("row 0", "high is 8.0", "not below low")),
    "negative volume": (lambda: perturbed("volume", 0, -5), ("row 0", "volume is -5.0", ">= 0")),
    "infinite volume": (lambda: perturbed("volume", 0, np.inf), ("row 0", "volume is inf")),
    "no date": (lambda: perturbed("date", 2, None), ("row 2", "'date' is None", "ISO 8601")),
    "bad date": (
        lambda: perturbed("date", 2, "03/01/2020"),
        ("row 2", "'03/01/2020'", "ISO 8601", "to_datetime"),
    ),
    "date out of range": (lambda: perturbed("date", 2, "9999-01-01"), ("row 2", "'9999-01-01'")),
    "today": (lambda: perturbed("date", 0, "today"), ("row 0", "'today'")),
    "numeric dates": (lambda: long_frame().assign(date=range(9)), ("'date' are numbers", "to_datetime")),
    "duplicate": (
        lambda: pd.concat([long_frame(), long_frame().iloc[[2]]]),
        ("row 9", "'A'", "2020-01-03", "duplicated"),
    ),
    "no symbols": (lambda: long_frame().drop(columns="symbol"), ("duplicated", "no symbol column")),
    "unsorted": (
        lambda: long_frame().iloc[[0, 2, 1, 3, 4, 5, 6, 7, 8]],
        ("row 2", "'A'", "2020-01-02", "unsorted", "sort_values", "sort=True"),
    ),
    "blank symbol": (lambda: perturbed("symbol", 1, " "), ("row 1", "symbol is missing")),
    "missing symbol": (lambda: perturbed("symbol", 1, None), ("row 1", "symbol is missing")),
    "missing close": (
        lambda: long_frame().drop(columns="close"),
        ("no 'close' column", "'open'", "expected a long"),
    ),
    "missing date": (lambda: long_frame().drop(columns="date"), ("no 'date' column", "'symbol'")),
    "two closes": (lambda: long_frame().assign(Close=1.0), ("['close', 'Close']", "keep one")),
    "repeated column": (
        lambda: pd.concat([long_frame()] * 2, axis=1),
        ("'adj_close' appears more than once",),
    ),
    "empty": (lambda: long_frame().iloc[:0], ("empty",)),
    "one bar": (lambda: long_frame().iloc[:1], ("1 bar", "at least 2")),
    "not a frame": (lambda: [1, 2], ("expected a pandas DataFrame", "list")),
    "wide without dates": (lambda: pd.DataFrame({"A": [1.0, 2.0]}), ("no 'date' column", "['A']")),
    "two levels without close": (
        lambda: two_level(long_frame()).drop(columns=["Close"], level=0),
        ("no 'close' field", "('Open', 'A')"),
    ),
    "three levels": (
        lambda: pd.concat({"x": two_level(long_frame())}, axis=1),
        ("no 'close' field",),
    ),
}


@pytest.mark.parametrize("case", BAD_FRAMES)
def test_bad_frame_is_one_clear_error(case: str) -> None:
    make, parts = BAD_FRAMES[case]
    with pytest.raises(MarketDataError) as caught:
        MarketData.from_frame(make(), source="mine")
    assert str(caught.value).startswith("mine")
    for part in parts:
        assert part in str(caught.value)


def wide_closes() -> pd.DataFrame:
    return long_frame().pivot(index="date", columns="symbol", values="close")


def with_cell(frame: pd.DataFrame, row: int, column: int, value: float) -> pd.DataFrame:
    frame.iloc[row, column] = value
    return frame


BAD_WIDE: dict[str, tuple[Callable[[], pd.DataFrame], tuple[str, ...]]] = {
    "negative": (
        lambda: with_cell(wide_closes(), 3, 1, -2.0),
        ("row 3", "'B'", "2020-01-06", "close is -2.0"),
    ),
    "infinite": (lambda: with_cell(wide_closes(), 3, 0, np.inf), ("row 3", "'A'", "close is inf")),
    "unsorted": (
        lambda: wide_closes().iloc[[0, 2, 1, 3]],
        ("row 2", "2020-01-02", "unsorted", "sort_index", "sort=True"),
    ),
    "duplicated": (lambda: wide_closes().iloc[[0, 1, 1]], ("row 2", "2020-01-02", "duplicated")),
    "empty column": (lambda: wide_closes().assign(C=np.nan), ("'C' has no close",)),
    "text": (lambda: wide_closes().assign(C="x"), ("row 0", "'C'", "close is 'x'")),
    "half a bar": (
        lambda: with_cell(two_level(long_frame()), 0, 0, np.nan),
        ("row 0", "'A'", "open is nan", "no bar"),
    ),
    "volume": (lambda: two_level(long_frame()).assign(Volume=-1.0), ("row 0", "volume is -1.0")),
}


@pytest.mark.parametrize("case", BAD_WIDE)
def test_bad_wide_frame_is_one_clear_error(case: str) -> None:
    make, parts = BAD_WIDE[case]
    with pytest.raises(MarketDataError) as caught:
        MarketData.from_frame(make())
    for part in parts:
        assert part in str(caught.value)


BAD_FILES: dict[str, tuple[bytes | None, tuple[str, ...]]] = {
    "missing.csv": (None, ("no such file",)),
    "empty.csv": (b"", ("cannot be read as a CSV file",)),
    "header.csv": (b"date,symbol,close\n", ("empty",)),
    "binary.csv": (bytes(range(128, 256)), ("cannot be read as a CSV file",)),
    "cut.csv.gz": (gzip.compress(b"date,A\n2020-01-01,1\n" * 50)[:30], ("cannot be read as a CSV file",)),
    "long.csv": (b"date,A\n2020-01-01,1,5\n2020-01-02,1,5\n", ("cannot be read as a CSV file",)),
    "price.csv": (
        b"date,symbol,close\n2020-01-01,A,1\n2020-01-02,A,-1\n",
        ("line 3", "'A'", "2020-01-02", "close is -1.0"),
    ),
    "text.csv": (b"date,symbol,close\n2020-01-01,A,1\n2020-01-02,A,one\n", ("line 3", "close is 'one'")),
    "gap.csv": (b"date,symbol,close\n2020-01-01,A,1\n2020-01-02,A,\n", ("line 3", "close is nan")),
    "date.csv": (b"date,A\n2020-01-01,1\n1/2/2020,1\n", ("line 3", "'1/2/2020'")),
    "twice.csv": (b"Price,Close,Close\n,A,B\n", ("'Close' appears more than once",)),
    "missing.parquet": (None, ("no such file",)),
    "noise.parquet": (b"PAR1 noise", ("cannot be read as a Parquet file",)),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_file_is_one_clear_error(name: str, tmp_path: Path) -> None:
    content, parts = BAD_FILES[name]
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    load = MarketData.from_parquet if name.endswith("parquet") else MarketData.from_csv
    with pytest.raises(MarketDataError) as caught:
        load(path)
    for part in (str(path), *parts):
        assert part in str(caught.value)


# --- the object ---------------------------------------------------------------------------------------------


def test_arrays_are_read_only_and_copies_keep_everything() -> None:
    test = MarketData.from_frame(long_frame()).split("2020-01-03")[1]
    for other in (pickle.loads(pickle.dumps(test)), copy.deepcopy(test)):
        assert_same(test, other)
        assert (other.fit_bars, other.source, other.history.n_bars) == (2, "<frame>", 2)
        arrays = [getattr(other, name) for name in ("timestamps", "mark", "has_bar", *FIELDS)]
        assert not any(array.flags.writeable for array in [*arrays, *other.columns.values()])
    with pytest.raises(AttributeError):
        test.close = test.close  # type: ignore[misc]


def test_arrays_given_directly_are_copied_and_checked() -> None:
    times, close = pd.date_range("2020-01-01", periods=3).to_numpy(), np.ones((3, 1))
    market = MarketData(("A",), times, close)
    close[0] = 2.0
    assert market.close[0, 0] == 1.0 and market.fit_bars == 3
    bad: list[tuple[dict[str, Any], str]] = [
        ({"symbols": ("A", "A")}, "distinct"),
        ({"timestamps": times[::-1]}, "increasing"),
        ({"close": np.ones((2, 1))}, r"close has shape \(2, 1\).*\(3, 1\)"),
        ({"open": np.zeros((3, 1))}, "bar 0, symbol 'A', date 2020-01-01: open is 0.0"),
        ({"columns": {"open": close}}, "cannot be called 'open'"),
        ({"history": market}, "history must end before"),
        ({"fit_bars": 4}, "fit_bars is 4"),
    ]
    for change, message in bad:
        with pytest.raises(MarketDataError, match=message):
            MarketData(**({"symbols": ("A",), "timestamps": times, "close": np.ones((3, 1))} | change))


def test_fingerprint_depends_on_content_only() -> None:
    market = MarketData.from_frame(long_frame())
    assert market.fingerprint == MarketData.from_frame(long_frame(), source="other").fingerprint
    changed = long_frame()
    changed.loc[8, "signal"] += 1e-15
    assert MarketData.from_frame(changed).fingerprint != market.fingerprint
    assert market.select(["B", "A"]).fingerprint != market.fingerprint
    first, second = market.split("2020-01-03")
    assert second.fingerprint == MarketData.from_frame(long_frame().iloc[2:]).fingerprint != first.fingerprint


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (pd.bdate_range("2020-01-01", periods=300), 252.0),
        (pd.bdate_range("2020-01-01", periods=300, tz="Asia/Tokyo"), 252.0),  # Sunday to Thursday in UTC
        (pd.date_range("2020-01-01", periods=300), 365.0),
        (pd.date_range("2020-01-03", periods=100, freq="W-FRI"), 52.0),
        (pd.date_range("2020-01-03", periods=100, freq="W-SUN"), 52.0),
        (pd.date_range("2020-01-31", periods=60, freq="ME"), 12.0),
        (pd.date_range("2020-01-31", periods=60, freq="BME"), 12.0),
        (pd.date_range("2020-01-31", periods=20, freq="QE"), 4.0),
        (pd.date_range("2020-01-01", periods=24 * 30, freq="h"), 24 * 365.0),
        (
            pd.DatetimeIndex(
                [d + pd.Timedelta(hours=h) for d in pd.bdate_range("2020", periods=9) for h in range(9, 16)]
            ),
            7 * 252.0,
        ),
    ],
)
def test_periods_per_year(index: pd.DatetimeIndex, expected: float) -> None:
    market = MarketData.from_frame(pd.DataFrame({"A": np.linspace(1, 2, len(index))}, index=index))
    assert market.periods_per_year == expected


# --- parts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "day",
    [
        "2020-01-03",
        date(2020, 1, 3),
        datetime(2020, 1, 3),
        pd.Timestamp("2020-01-03"),
        np.datetime64("2020-01-03"),
        datetime(2020, 1, 3, tzinfo=UTC),
        "2020-01-02 00:00:01",
    ],
)
def test_split_is_start_inclusive_and_shares_no_future(day: Any) -> None:
    market = MarketData.from_frame(long_frame())
    train, test = market.split(day)
    assert (train.n_bars, test.n_bars) == (2, 4)
    assert train.timestamps[-1] < np.datetime64("2020-01-03") <= test.timestamps[0]
    assert train.symbols == test.symbols and np.isnan(train.close[:, 1]).all()
    assert train.close.base is None and train.history is None and test.history is not None
    assert (train.fit_bars, test.fit_bars) == (2, 2)
    assert_same(test.history, train)
    assert_same(test.with_history(), market)
    assert train.with_history() is train


def test_two_splits_in_either_order_fit_on_the_training_part() -> None:
    market = MarketData.bundled()
    train_a, rest = market.split("2005-01-01")
    valid_a, test_a = rest.split("2010-01-01")
    before, _ = market.split("2010-01-01")
    train_b, valid_b = before.split("2005-01-01")
    assert_same(train_a, train_b)
    assert_same(valid_a, valid_b)
    assert {part.fit_bars for part in (train_a, valid_a, test_a, train_b, valid_b)} == {train_a.n_bars}
    assert_same(test_a.with_history(), market)
    assert test_a.history is not None and test_a.history.history is None
    np.testing.assert_array_equal(test_a.mark, market.mark[-test_a.n_bars :])
    assert before.fit_bars == before.n_bars


@pytest.mark.parametrize(
    ("day", "parts"),
    [
        ("2020-01-02", ("leaves 1 bars before", "2020-01-01 .. 2020-01-08")),
        ("2020-01-08", ("and 1 at or after",)),
        ("1999-01-01", ("leaves 0 bars", "6 bars")),
        ("2030-01-01", ("leaves 6 bars",)),
        ("soon", ("'soon' is not a date", "ISO 8601")),
        ("today", ("'today' is not a date",)),
        (20200103, ("20200103 is not a date",)),
        (None, ("None is not a date",)),
        (pd.NaT, ("NaT is not a date",)),
    ],
)
def test_bad_split_date(day: Any, parts: tuple[str, ...]) -> None:
    with pytest.raises(MarketDataError) as caught:
        MarketData.from_frame(long_frame()).split(day)
    for part in ("split date", *parts):
        assert part in str(caught.value)


def test_between_and_select() -> None:
    market = MarketData.from_frame(long_frame())
    part = market.between("2020-01-02", "2020-01-07")
    assert (part.n_bars, part.fit_bars) == (3, 4)
    np.testing.assert_array_equal(part.close, market.close[1:4])
    assert part.history is not None and part.history.n_bars == 1
    assert_same(market.between(), market)
    only = part.select(["B"])
    assert (only.symbols, only.fit_bars, only.history.symbols) == (("B",), 4, ("B",))
    np.testing.assert_array_equal(only.mark, part.mark[:, 1:])
    with pytest.raises(MarketDataError, match="at least 2"):
        market.between("2020-01-08")
    with pytest.raises(MarketDataError, match=r"unknown symbol 'AA' \(did you mean 'A'\?\)"):
        market.select(["AA"])


# --- bundled data -------------------------------------------------------------------------------------------


def test_bundled_data_are_the_file_that_provenance_describes(tmp_path: Path) -> None:
    folder = resources.files("batchenv.data")
    content = folder.joinpath("stocks.csv.gz").read_bytes()
    provenance = folder.joinpath("PROVENANCE.md").read_text()
    recorded = re.findall(r"sha256[^|]*\| `([0-9a-f]{64})`", provenance)
    text = gzip.decompress(content)
    assert recorded[1:] == [hashlib.sha256(content).hexdigest(), hashlib.sha256(text).hexdigest()]
    assert text.count(b"\n") == 12_154 + 1 and "12,154 rows" in provenance
    (tmp_path / "stocks.csv.gz").write_bytes(content)
    assert_same(MarketData.from_csv(tmp_path / "stocks.csv.gz"), MarketData.bundled())
    with pytest.raises(MarketDataError, match=f"expected {recorded[0]}"):
        convert(content)
    # prices and volumes of the file as it was before dividends and splits were added to it
    as_traded = MarketData.bundled(adjusted=False).volume
    assert replace(MarketData.bundled(), volume=as_traded).fingerprint.startswith("7dfa7aef25719567")


def test_bundled_listings_and_prices() -> None:
    market, raw = MarketData.bundled(), MarketData.bundled(adjusted=False)
    assert market.symbols == ("AAPL", "FB", "GOOG", "IBM", "MSFT") and market.n_bars == 3270
    listed = dict(
        zip(
            market.symbols,
            market.timestamps[market.has_bar.argmax(axis=0)].astype("datetime64[D]"),
            strict=True,
        )
    )
    assert (str(listed["GOOG"]), str(listed["FB"]), str(listed["IBM"])) == (
        "2004-08-19",
        "2012-05-18",
        "2000-03-01",
    )
    assert int(market.has_bar.sum()) == 12_154
    assert (raw.close[0, 0], market.close[0, 0]) == (130.31, 4.186662803811)
    assert (raw.open is not None, market.periods_per_year) == (True, 252.0)


def test_bundled_dividends_and_splits_are_what_the_adjusted_prices_imply() -> None:
    raw, adjusted = MarketData.bundled(adjusted=False), MarketData.bundled()
    assert adjusted.dividends is None and adjusted.splits is None and not raw.columns and not adjusted.columns
    assert raw.dividends is not None and raw.splits is not None
    split_days = [
        (raw.symbols[s], str(raw.timestamps[t])[:10], raw.splits[t, s]) for t, s in np.argwhere(raw.splits != 1)
    ]
    assert split_days == [("AAPL", "2000-06-21", 2.0), ("MSFT", "2003-02-18", 2.0), ("AAPL", "2005-02-28", 2.0)]
    assert (raw.dividends > 0).sum(axis=0).tolist() == [3, 0, 0, 52, 37]
    paid_in_all = []
    for s in range(raw.n_symbols):
        bars = raw.has_bar[:, s]
        close, d, k, adj = (m[bars, s] for m in (raw.close, raw.dividends, raw.splits, adjusted.close))
        before = close[:-1] / k[1:]  # in new shares
        shares = np.cumprod(np.append(1.0, k[1:] * before / (before - d[1:])))
        # adj_close has 13 to 14 digits, so the two agree to 4e-13
        np.testing.assert_allclose(shares * close / close[0], adj / adj[0], rtol=4e-13)
        paid = close[1:] * d[1:] / (before - d[1:])  # the source reinvested at the close of the ex bar
        np.testing.assert_allclose(paid, paid.round(2), atol=1e-11)
        paid_in_all += [(raw.symbols[s], *found) for found in zip(raw.timestamps[bars][1:], paid.round(2), strict=True)]
    known = {(symbol, str(day)[:10]): amount for symbol, day, amount in paid_in_all if amount > 0}
    assert len(known) == 92
    facts = {
        ("MSFT", "2003-02-19"): 0.08,
        ("MSFT", "2003-10-15"): 0.16,
        ("MSFT", "2004-11-15"): 3.08,
        ("AAPL", "2012-08-09"): 2.65,
        ("IBM", "2000-05-08"): 0.13,
        ("IBM", "2013-02-06"): 0.85,
    }
    assert {event: known[event] for event in facts} == facts


# --- corporate actions --------------------------------------------------------------------------------------


def actions_frame() -> pd.DataFrame:
    """`long_frame` without adj_close, A at half price from the fourth day on, with its split and two dividends."""
    frame = long_frame().drop(columns="adj_close").assign(dividend=0.0, split=1.0)
    late = (frame.symbol == "A") & (frame.date >= "2020-01-06")
    frame.loc[late, ["open", "high", "low", "close"]] /= 2
    frame.loc[(frame.symbol == "A") & (frame.date == "2020-01-06"), ["dividend", "split"]] = 0.5, 2.0
    frame.loc[(frame.symbol == "B") & (frame.date == "2020-01-08"), "dividend"] = 0.25
    return frame


ACTION_SHAPES: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "long": lambda f: f,
    "aliases": lambda f: f.rename(columns={"dividend": "Dividends", "split": "Stock Splits"}),
    "snake case": lambda f: f.rename(columns={"dividend": "DIVIDEND", "split": "stock_splits"}),
    "nothing for none": lambda f: f.assign(dividend=f.dividend.where(f.dividend > 0), split=f.split.where(f.split > 1)),
    "zero for no split": lambda f: f.assign(split=f.split.where(f.split > 1, 0.0)),
    "numbers as text": lambda f: f.assign(split=f.split.astype(str)),
    "yahoo": lambda f: two_level(
        f.assign(split=f.split.where(f.split > 1, 0.0)).rename(
            columns={"dividend": "dividends", "split": "stock splits"}
        )
    ),
    "tickers first": lambda f: two_level(f, fields_first=False),
}


@pytest.mark.parametrize("shape", ACTION_SHAPES)
@pytest.mark.parametrize("adjusted", [None, False])
def test_dividends_and_splits_are_read_from_every_shape(shape: str, adjusted: bool | None) -> None:
    market = MarketData.from_frame(ACTION_SHAPES[shape](actions_frame()), adjusted)
    np.testing.assert_array_equal(market.dividends, [[0, 0], [0, 0], [0, 0], [0.5, 0], [0, 0], [0, 0.25]])
    np.testing.assert_array_equal(market.splits, [[1, 1], [1, 1], [1, 1], [2, 1], [1, 1], [1, 1]])
    assert list(market.columns) == ["signal"]
    assert_same(market, MarketData.from_frame(actions_frame()))


def test_adjusted_prices_have_dividends_and_splits_in_them() -> None:
    frame = actions_frame().assign(adj_close=lambda f: f.close / 4)
    adjusted, traded = (MarketData.from_frame(frame, adjusted=a) for a in (True, False))
    assert (adjusted.dividends, adjusted.splits, list(adjusted.columns)) == (None, None, ["signal"])
    assert_same(traded, MarketData.from_frame(actions_frame()))
    assert traded.dividends is not None and not traded.dividends.flags.writeable


def test_no_action_at_all_is_none_in_a_table_and_in_every_part() -> None:
    plain = actions_frame().assign(dividend=0.0, split=0.0)
    assert_same(MarketData.from_frame(plain), MarketData.from_frame(plain.drop(columns=["dividend", "split"])))
    market = MarketData.from_frame(actions_frame())
    first, second = market.split("2020-01-07")
    assert (first.splits is None, second.splits, second.dividends is None) == (False, None, False)
    assert_same(second.with_history(), market)
    assert_same(market.split("2020-01-03")[1].with_history(), market)
    assert (market.select("B").splits, market.select(["B", "A"]).splits[3].tolist()) == (None, [1.0, 2.0])
    for other in (pickle.loads(pickle.dumps(second)), copy.deepcopy(second)):
        assert_same(other, second)
        assert_same(other.with_history(), market)


def test_fingerprint_sees_dividends_and_splits() -> None:
    frames = [actions_frame() for _ in range(3)]
    frames[1].loc[1, "dividend"] = 1e-9
    frames[2] = frames[2].drop(columns="dividend")
    assert len({MarketData.from_frame(frame).fingerprint for frame in frames}) == 3


def test_on_the_first_bar_of_a_symbol_nobody_receives_anything() -> None:
    frame = actions_frame()
    first = frame.groupby("symbol").head(1).index
    frame.loc[first, ["dividend", "split"]] = 3.0, 7.0
    assert_same(MarketData.from_frame(frame), MarketData.from_frame(actions_frame()))


def wide_actions(row: int, field: str, symbol: str, value: float) -> pd.DataFrame:
    frame = two_level(actions_frame())
    frame.loc[frame.index[row], (field, symbol)] = value
    return frame


BAD_ACTIONS: dict[str, tuple[Callable[[], pd.DataFrame], tuple[str, ...]]] = {
    "negative dividend": (
        lambda: actions_frame().assign(dividend=[0, 0, -0.1, *[0] * 6]),
        ("row 2", "'A'", "2020-01-03", "dividends is -0.1", ">= 0"),
    ),
    "infinite dividend": (lambda: wide_actions(1, "Dividend", "A", np.inf), ("row 1", "'A'", "dividends is inf")),
    "text dividend": (
        lambda: actions_frame().assign(dividend="1:2"),
        ("row 0", "dividends is '1:2'", "a number"),
    ),
    "negative split": (lambda: wide_actions(1, "Split", "A", -2.0), ("row 1", "splits is -2.0", ">= 0")),
    "dividend of the whole price": (
        lambda: actions_frame().assign(dividend=[0, 10.5, *[0] * 7]),
        ("row 1", "'A'", "2020-01-02", "dividends is 10.5", "less than the close before it, 10.5"),
    ),
    "dividend in old shares": (
        lambda: wide_actions(3, "Dividend", "A", 7.0),
        ("row 3", "'A'", "dividends is 7.0", "less than the close before it, 12.5 / 2.0 new shares"),
    ),
    "dividend without a bar": (
        lambda: wide_actions(4, "Dividend", "B", 0.1),
        ("row 4", "'B'", "2020-01-07", "dividends is 0.1", "no bar there"),
    ),
    "split without a bar": (lambda: wide_actions(4, "Split", "B", 2.0), ("row 4", "'B'", "splits is 2.0", "no bar")),
    "split before the listing": (
        lambda: wide_actions(0, "Split", "B", 2.0),
        ("row 0", "'B'", "splits is 2.0", "no bar"),
    ),
    "prices adjusted for splits": (
        lambda: actions_frame().assign(split=[1, 4, *[1] * 7]),
        ("row 1", "'A'", "2020-01-02", "splits is 4.0", "adjusted for splits already", "drop the column"),
    ),
    "two columns": (lambda: actions_frame().assign(dividends=0.0), ("['dividends', 'dividend']", "keep one")),
}


@pytest.mark.parametrize("case", BAD_ACTIONS)
def test_bad_action_is_one_clear_error(case: str) -> None:
    make, parts = BAD_ACTIONS[case]
    with pytest.raises(MarketDataError) as caught:
        MarketData.from_frame(make(), source="mine")
    assert str(caught.value).startswith("mine")
    for part in parts:
        assert part in str(caught.value)


def test_bad_action_in_a_file_names_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("date,close,dividend\n2020-01-01,2,0\n2020-01-02,2,2.5\n")
    with pytest.raises(MarketDataError, match=r"a.csv, line 3, symbol 'ASSET', date 2020-01-02: dividends is 2.5"):
        MarketData.from_csv(tmp_path / "a.csv")


def test_actions_given_as_arrays_are_checked_against_the_history_too() -> None:
    times, close = pd.date_range("2020-01-01", periods=4).to_numpy(), np.array([[8.0], [np.nan], [4.0], [4.0]])
    dividends, splits = np.array([[0.0], [0.0], [5.0], [0.0]]), np.array([[1.0], [1.0], [1.0], [np.nan]])
    market = MarketData(("A",), times, close, dividends=dividends, splits=splits)
    assert (market.dividends[2, 0], market.splits) == (5.0, None)
    part = market.split("2020-01-03")[1]
    assert part.dividends[0, 0] == 5.0
    with pytest.raises(MarketDataError, match=r"bar 2, symbol 'A', date 2020-01-03: dividends is 5.0.*8.0 / 2.0 new"):
        MarketData(("A",), times, close, dividends=dividends, splits=np.where(dividends > 0, 2.0, 1.0))
    with pytest.raises(MarketDataError, match=r"splits has shape \(3, 1\)"):
        MarketData(("A",), times, close, splits=splits[:3])
    with pytest.raises(MarketDataError, match="cannot be called 'splits'"):
        MarketData(("A",), times, close, columns={"splits": close})
