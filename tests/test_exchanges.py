"""Bars of exchanges in different time zones: daily bars share their dates, however the zone is written or lost."""

from __future__ import annotations

import datetime as dt
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from batchenv import MarketData
from batchenv.config import DataConfig, DataOptions
from batchenv.errors import ConfigError, MarketDataError
from batchenv.train import load_market
from stateful import BackTesting, StatefulTradingEnv
from tests.stateful.policies import ConstantAgent

NEW_YORK, TOKYO, LONDON, UTC = "America/New_York", "Asia/Tokyo", "Europe/London", "UTC"
ZONES = {"NYSE": NEW_YORK, "TSE": TOKYO, "COIN": UTC}
START, DAYS = "2024-03-04", 20
"""Four weeks from a Monday; clocks change in New York in the first weekend and in London in the last."""
DATES = pd.bdate_range(START, periods=DAYS)


def history(dates: pd.DatetimeIndex, zone: str, first: float, hour: int = 0) -> pd.DataFrame:
    """Daily bars as `yfinance.Ticker.history` gives them: stamped at midnight (or another hour) of their own zone."""
    close = first + np.arange(len(dates), dtype=float)
    index = (dates + pd.Timedelta(hours=hour)).tz_localize(zone).rename("Date")
    return pd.DataFrame({"Open": close, "High": close + 1, "Low": close - 1, "Close": close, "Volume": 1e6}, index)


def histories(symbols: tuple[str, ...] = ("NYSE", "TSE"), hour: int = 0) -> dict[str, pd.DataFrame]:
    every = pd.date_range(START, periods=28)
    return {s: history(every if s == "COIN" else DATES, ZONES[s], 100.0 * (1 + i), hour) for i, s in enumerate(symbols)}


def csv_of(frame: pd.DataFrame, **options: Any) -> pd.DataFrame:
    """What pandas reads back of what it wrote."""
    return pd.read_csv(io.StringIO(frame.to_csv(**options)))


def wide(frames: dict[str, pd.DataFrame]) -> pd.DataFrame:
    return pd.concat({s: frame["Close"] for s, frame in frames.items()}, axis=1, sort=True)


def stacked(frames: dict[str, pd.DataFrame]) -> pd.DataFrame:
    return pd.concat([frame.assign(symbol=s) for s, frame in frames.items()])


def in_utc(frames: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    return {s: frame.tz_convert("UTC") for s, frame in frames.items()}


def naive_utc(frames: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    return {s: frame.tz_convert("UTC").tz_localize(None) for s, frame in frames.items()}


WAYS: dict[str, Callable[[dict[str, pd.DataFrame]], Any]] = {
    "dict of frames": lambda f: f,
    "dict of frames with a date column": lambda f: {s: frame.reset_index() for s, frame in f.items()},
    "objects of several zones in the index": stacked,
    "objects of several zones in a column": lambda f: stacked(f).reset_index(),
    "python datetimes": lambda f: stacked(f).reset_index().assign(
        Date=lambda d: [t.to_pydatetime() for t in d["Date"]]
    ),
    "keys of concat": pd.concat,
    "named keys of concat": lambda f: pd.concat(f, names=["symbol"]),
    "text with offsets": lambda f: csv_of(stacked(f)),
    "text with offsets and letter T": lambda f: stacked(f).reset_index().assign(
        Date=lambda d: [t.isoformat() for t in d["Date"]]
    ),
    "wide, joined by pandas, zone lost": wide,
    "two levels, joined by pandas, zone lost": lambda f: pd.concat(f, axis=1, sort=True),
    "two levels, fields first": lambda f: pd.concat(f, axis=1, sort=True).swaplevel(axis=1),
    "converted to UTC": lambda f: stacked(in_utc(f)),
    "converted to UTC and written as text": lambda f: csv_of(stacked(in_utc(f))),
    "converted to UTC, zone dropped": lambda f: stacked(naive_utc(f)),
    "wide in UTC, zone dropped": lambda f: wide(naive_utc(f)),
    "wide, in the zone of one of them": lambda f: wide(f).tz_convert(NEW_YORK),
    "seconds since 1970": lambda f: stacked(f).reset_index().assign(
        Date=lambda d: [int(t.timestamp()) for t in d["Date"]]
    ),
    "arrow timestamps": lambda f: stacked(in_utc(f)).reset_index().convert_dtypes(dtype_backend="pyarrow"),
    "index of symbol and UTC, as alpaca-py": lambda f: pd.concat(in_utc(f), names=["symbol", "timestamp"]),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_daily_bars_of_two_exchanges_share_their_dates(way: str) -> None:
    market = MarketData.from_frame(WAYS[way](histories()))
    np.testing.assert_array_equal(market.timestamps, DATES.to_numpy())
    assert market.has_bar.all() and market.periods_per_year == 252.0
    closes = {s: market.close[:, i].tolist() for i, s in enumerate(market.symbols)}
    assert closes == {"NYSE": [100.0 + i for i in range(DAYS)], "TSE": [200.0 + i for i in range(DAYS)]}
    assert any("clock of their exchange" in note and "TSE" in note for note in market.notes), market.notes
    assert market.decisions["notes"] == list(market.notes) and market.notes[0] in repr(market)


@pytest.mark.parametrize("way", WAYS)
def test_a_coin_in_utc_shares_the_dates_of_stocks(way: str) -> None:
    market = MarketData.from_frame(WAYS[way](histories(("NYSE", "TSE", "COIN"))))
    np.testing.assert_array_equal(market.timestamps, pd.date_range(START, periods=28).to_numpy())
    assert market.periods_per_year == 365.0
    assert {s: int(market.has_bar[:, i].sum()) for i, s in enumerate(market.symbols)} == {
        "NYSE": 20,
        "TSE": 20,
        "COIN": 28,
    }
    stock = market.has_bar[:, market.symbols.index("TSE")]
    np.testing.assert_array_equal(market.timestamps[stock], DATES.to_numpy())


@pytest.mark.parametrize("way", WAYS)
def test_one_exchange_alone_is_dated_by_its_own_clock(way: str) -> None:
    for symbol in ("NYSE", "TSE"):
        market = MarketData.from_frame(WAYS[way]({symbol: histories()[symbol]}))
        np.testing.assert_array_equal(market.timestamps, DATES.to_numpy())


@pytest.mark.parametrize("way", WAYS)
def test_through_a_year_midnights_move_with_daylight_saving(way: str) -> None:
    """London is at 00:00 UTC in winter and 23:00 of the day before in summer; New York at 05:00 and 04:00."""
    year = pd.bdate_range("2023-01-02", "2024-01-31")
    frames = {"LSE": history(year, LONDON, 1000.0), "NYSE": history(year, NEW_YORK, 100.0)}
    market = MarketData.from_frame(WAYS[way](frames))
    np.testing.assert_array_equal(market.timestamps, year.to_numpy())
    assert market.has_bar.all()
    np.testing.assert_array_equal(market.close[:, market.symbols.index("LSE")], 1000.0 + np.arange(len(year)))


@pytest.mark.parametrize("way", WAYS)
def test_close_stamped_daily_bars_belong_to_their_own_date(way: str) -> None:
    """16:00 in New York is 21:00 or 20:00 UTC, and 16:00 in Tokyo 07:00 UTC of the same date."""
    market = MarketData.from_frame(WAYS[way](histories(hour=16)))
    np.testing.assert_array_equal(market.timestamps, DATES.to_numpy())
    assert market.has_bar.all()


def test_holidays_of_one_exchange_leave_a_gap_and_no_bar_moves() -> None:
    frames = histories()
    frames["TSE"] = frames["TSE"].drop(frames["TSE"].index[[12]])  # the day of the equinox
    for way in WAYS.values():
        market = MarketData.from_frame(way(frames))
        missing = ~market.has_bar[:, market.symbols.index("TSE")]
        assert [str(t)[:10] for t in market.timestamps[missing]] == ["2024-03-20"]


def test_columns_of_the_user_move_with_their_bars() -> None:
    frames = {s: frame.assign(signal=frame["Close"] * 2) for s, frame in histories().items()}
    for way in ("dict of frames", "two levels, joined by pandas, zone lost", "converted to UTC"):
        market = MarketData.from_frame(WAYS[way](frames))
        np.testing.assert_array_equal(market.columns["signal"], market.close * 2)


def test_a_value_beside_no_price_of_a_wide_table_does_not_bring_a_price_along() -> None:
    """Tokyo is closed on a date on which New York trades: its next price must not stand there."""
    frames = histories()
    frames["TSE"] = frames["TSE"].drop(frames["TSE"].index[[12]])
    joined = pd.concat(frames, axis=1, sort=True)
    joined[("TSE", "index_level")] = np.arange(float(len(joined)))
    market = MarketData.from_frame(joined)
    bar = int(np.flatnonzero(~market.has_bar[:, 1])[0])
    assert np.isnan(market.close[bar, 1]) and not np.isnan(market.columns["index_level"][bar, 1])


def test_a_row_that_two_exchanges_share_brings_no_price_to_the_other_date() -> None:
    """15:00 UTC is a close of that date on one exchange, and midnight of the next date in Tokyo."""
    frames = histories()
    closing = history(DATES, UTC, 300.0, hour=15)
    tokyo = frames["TSE"].drop(frames["TSE"].index[[12]])
    market = MarketData.from_frame(wide({"TSE": tokyo, "CLOSING": closing}))
    np.testing.assert_array_equal(market.timestamps, DATES.to_numpy())
    np.testing.assert_array_equal(market.close[:, 1], 300.0 + np.arange(DAYS))
    np.testing.assert_array_equal(market.close[:, 0], np.where(np.arange(DAYS) == 12, np.nan, 200.0 + np.arange(DAYS)))


def test_baselines_trade_on_both_exchanges() -> None:
    market = MarketData.from_frame(histories(("NYSE", "TSE", "COIN")))
    env = StatefulTradingEnv(market, {"fill": "next_close", "action_config": {"mode": "weights"}})
    found = BackTesting(ConstantAgent([0.3, 0.3, 0.3]), env, {"vectorbt": False, "uncertainty": {"resamples": 0}}).run()
    assert found.metrics["baselines"]["equal_weight"]["fills"] >= 3
    assert set(found.fills["symbol"]) == {"NYSE", "TSE", "COIN"}


# --- files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["csv", "parquet", "feather"])
def test_files_of_two_exchanges(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"bars.{ending}"
    long = stacked(histories())
    if ending == "csv":
        long.to_csv(path)
    elif ending == "parquet":
        stacked(in_utc(histories())).to_parquet(path)
    else:
        stacked(in_utc(histories())).reset_index().to_feather(path)
    market = load_market(DataConfig(source=str(path), train_end="2024-03-20"))
    np.testing.assert_array_equal(market.timestamps, DATES.to_numpy())
    assert market.has_bar.all() and "clock of their exchange" in market.notes[0]


# --- intraday -----------------------------------------------------------------------------------------------


def hours(zone: str, first: str, n: int = 6) -> pd.DataFrame:
    index = pd.DatetimeIndex(
        [d + pd.Timedelta(hours=9 + k) for d in pd.bdate_range(first, periods=8) for k in range(n)], tz=zone
    )
    close = 100.0 + np.arange(len(index))
    return pd.DataFrame({"Close": close}, index=index.rename("Date"))


@pytest.mark.parametrize("way", [w for w in WAYS if "close" not in w.lower()])
def test_intraday_bars_of_two_zones_are_the_union_of_their_instants(way: str) -> None:
    frames = {"NYSE": hours(NEW_YORK, "2024-03-04"), "TSE": hours(TOKYO, "2024-03-04")}
    market = MarketData.from_frame(WAYS[way](frames))
    union = np.unique(np.concatenate([f.index.tz_convert("UTC").tz_localize(None).to_numpy() for f in frames.values()]))
    np.testing.assert_array_equal(market.timestamps, union.astype("datetime64[ns]"))
    assert market.has_bar.sum() == 2 * 48


def test_a_daily_bar_beside_intraday_bars_would_be_known_too_early() -> None:
    frames = {"NYSE": hours(NEW_YORK, "2024-03-04"), "TSE": history(DATES, TOKYO, 100.0)[["Close"]]}
    for way in WAYS.values():
        with pytest.raises(
            MarketDataError, match=r"'TSE' \(at \d\d:00.*\) has daily bars, and 'NYSE' has intraday bars"
        ):
            MarketData.from_frame(way(frames))
    market = MarketData.from_frame(frames, calendar="intraday")
    assert np.datetime64("2024-03-03T15:00", "ns") in market.timestamps  # midnight in Tokyo


def test_a_symbol_that_seldom_trades_is_no_daily_bar() -> None:
    rng = np.random.default_rng(0)
    minutes = pd.DatetimeIndex([d + pd.Timedelta(minutes=570 + k) for d in DATES for k in range(0, 390, 10)])
    seldom = pd.DatetimeIndex([d + pd.Timedelta(minutes=570 + int(rng.integers(390))) for d in DATES[::2]])
    busy = pd.DataFrame({"date": minutes, "symbol": "BUSY", "close": 1.0})
    frame = pd.concat([busy, pd.DataFrame({"date": seldom, "symbol": "RARE", "close": 1.0})])
    np.testing.assert_array_equal(MarketData.from_frame(frame).timestamps, minutes.union(seldom).to_numpy())


def test_weekly_bars_dated_monday_beside_daily_bars_would_be_known_too_early() -> None:
    days = pd.bdate_range("2024-01-01", periods=100)
    daily = pd.DataFrame({"date": days, "symbol": "D", "close": 1.0})
    frame = pd.concat([daily, pd.DataFrame({"date": days[::5], "symbol": "W", "close": 1.0})])
    with pytest.raises(
        MarketDataError, match=r"'W' has weekly or monthly bars .* 'D' has daily bars.*calendar='daily'"
    ):
        MarketData.from_frame(frame)
    assert MarketData.from_frame(frame, calendar="daily").n_bars == 100
    frame.loc[frame.symbol == "W", "date"] += pd.Timedelta(days=4)  # dated Friday, when they are known
    assert MarketData.from_frame(frame).n_bars == 100


# --- what cannot be told ------------------------------------------------------------------------------------


def test_dates_that_cannot_be_told_are_refused_with_two_symbols_and_their_hours() -> None:
    """A coin that trades on every day and is stamped 15:00 UTC: that date, or the next one in Tokyo."""
    frames = {"COIN": history(pd.date_range(START, periods=28), UTC, 50.0, hour=15), "NYSE": histories()["NYSE"]}
    message = (
        r"'COIN' \(at 15:00\) has at most one bar a day, and 'NYSE' \(at 00:00\).*zone=.*calendar='daily'.*'intraday'"
    )
    with pytest.raises(MarketDataError, match=message):
        MarketData.from_frame(frames)
    by_zone = {zone: MarketData.from_frame(frames, zone={"COIN": zone}) for zone in (UTC, TOKYO)}
    first = {zone: market.timestamps[market.has_bar[:, 0]][0] for zone, market in by_zone.items()}
    assert {zone: str(time)[:10] for zone, time in first.items()} == {UTC: "2024-03-04", TOKYO: "2024-03-05"}
    union = MarketData.from_frame(frames, calendar="intraday")
    assert union.n_bars == 28 + 20


def test_three_days_do_not_tell_and_a_stated_zone_does() -> None:
    frames = in_utc({s: frame.iloc[1:4] for s, frame in histories().items()})  # Tuesday to Thursday
    with pytest.raises(MarketDataError, match="'TSE'"):
        MarketData.from_frame(wide(frames))
    market = MarketData.from_frame(wide(frames), zone={"TSE": TOKYO, "NYSE": NEW_YORK})
    np.testing.assert_array_equal(market.timestamps, DATES[1:4].to_numpy())


def test_a_stated_zone_that_is_none_is_refused() -> None:
    for zone, message in (("America/New_Yorck", "is not a time zone"), ({"TES": TOKYO}, r"did you mean 'TSE'\?")):
        with pytest.raises(MarketDataError, match=message):
            MarketData.from_frame(histories(), zone=zone)


def test_naive_intraday_times_of_a_stated_zone() -> None:
    local = hours(NEW_YORK, "2024-03-04").tz_localize(None)
    market = MarketData.from_frame({"NYSE": local}, zone=NEW_YORK)
    expected = hours(NEW_YORK, "2024-03-04").index.tz_convert("UTC").tz_localize(None)
    np.testing.assert_array_equal(market.timestamps, expected.to_numpy())
    assert MarketData.from_frame({"NYSE": local}).timestamps[0] == local.index[0]


def test_times_without_a_zone_beside_times_with_one_are_refused() -> None:
    frames = {"NYSE": hours(NEW_YORK, "2024-03-04"), "BARE": hours(NEW_YORK, "2024-03-04").tz_localize(None)}
    for way in ("dict of frames", "objects of several zones in the index", "text with offsets"):
        with pytest.raises(
            MarketDataError, match=r"symbol 'BARE': 2024-03-04 09:00:00 has no time zone, and others have"
        ):
            MarketData.from_frame(WAYS[way](frames))
        market = MarketData.from_frame(WAYS[way](frames), zone={"BARE": NEW_YORK})
        assert market.n_bars == 48 and market.has_bar.all()
    one_offset = ["2024-03-04T09:00:00-05:00", "2024-03-04T14:30:00", "2024-03-04T11:00:00-05:00"]
    with pytest.raises(MarketDataError, match="2024-03-04 14:30:00 has no time zone"):
        MarketData.from_frame(pd.DataFrame({"date": one_offset, "A": 1.0}))
    dates = {"NYSE": histories()["NYSE"], "DATES": histories()["NYSE"].tz_localize(None)}
    assert MarketData.from_frame(dates).has_bar.all()  # dates need no zone


@pytest.mark.parametrize(("first", "what"), [("2024-11-03 00:00", "twice"), ("2024-03-10 00:00", "never")])
def test_hours_of_a_change_of_the_clock_are_refused_by_name(first: str, what: str) -> None:
    index = pd.date_range(first, periods=6, freq="30min")
    frame = pd.DataFrame({"A": np.arange(1.0, 7.0)}, index=index)
    hour = "01:00" if what == "twice" else "02:00"
    with pytest.raises(
        MarketDataError, match=rf"symbol 'A', .*{hour}:00: the clock of {NEW_YORK} shows this time {what}"
    ):
        MarketData.from_frame(frame, zone=NEW_YORK)


def test_two_bars_on_one_date_are_no_daily_bars() -> None:
    index = pd.DatetimeIndex(["2024-03-04 09:00", "2024-03-04 16:00", "2024-03-05 09:00"])
    with pytest.raises(MarketDataError, match=r"'A', date 2024-03-04: two bars on one date.*calendar='intraday'"):
        MarketData.from_frame(pd.DataFrame({"A": [1.0, 2.0, 3.0]}, index=index), calendar="daily")


def test_naive_daily_bars_of_one_clock_stay_as_they_are() -> None:
    index = DATES + pd.Timedelta(hours=16)
    market = MarketData.from_frame(pd.DataFrame({"A": 1.0, "B": 2.0}, index=index))
    assert market.timestamps[0] == index[0] and market.notes == ()
    stated = MarketData.from_frame(pd.DataFrame({"A": 1.0, "B": 2.0}, index=index), calendar="daily")
    np.testing.assert_array_equal(stated.timestamps, DATES.to_numpy())


def test_naive_daily_bars_of_two_clocks_share_their_dates() -> None:
    frames = {s: history(DATES, UTC, 50.0, hour).tz_localize(None) for s, hour in (("A", 16), ("B", 17))}
    market = MarketData.from_frame(frames)
    np.testing.assert_array_equal(market.timestamps, DATES.to_numpy())
    assert market.has_bar.all()


def test_a_date_of_any_zone_splits_daily_bars_at_that_date() -> None:
    market = MarketData.from_frame(histories())
    for zone in (NEW_YORK, TOKYO, UTC):
        for date in (pd.Timestamp("2024-03-15", tz=zone), dt.datetime(2024, 3, 15, tzinfo=dt.UTC), "2024-03-15"):
            train, test = market.split(date)
            assert (str(train.timestamps[-1])[:10], str(test.timestamps[0])[:10]) == ("2024-03-14", "2024-03-15")


def test_options_are_checked_and_are_keys_of_a_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"calender: unknown key \(did you mean 'calendar'\?\)"):
        MarketData.from_frame(histories(), calender="daily")  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match=r"calendar: .*'daily' or 'intraday'"):
        MarketData.from_frame(histories(), calendar="weekly")  # type: ignore[arg-type]
    stacked(histories()).to_csv(tmp_path / "bars.csv")
    data = {"source": str(tmp_path / "bars.csv"), "train_end": "2024-03-20", "calendar": "intraday"}
    assert load_market(DataConfig.model_validate(data)).n_bars == 40


def test_keyword_arguments_and_keys_of_a_configuration_are_the_same() -> None:
    from batchenv.data.options import Options

    stated = {*DataOptions.model_fields, "delisted", "periods_per_year"} - {"adjusted"}
    assert set(Options.__annotations__) == stated < set(DataConfig.model_fields)
