"""Adjusted prices: volumes that fit them, and features that know later splits because they are levels."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from batchenv import BatchTradingEnv, MarketData, register_feature
from batchenv.errors import LevelFeatureWarning, MarketDataError
from batchenv.features import compute_features
from batchenv.levels import follows_price, level_of
from stateful import BackTesting, StatefulTradingEnv
from tests.stateful.policies import ConstantAgent
from tests.test_features import BUILT_IN, random_market, raw

BARS = 60
Splits = dict[int, float]


def table(
    splits: Splits, *, shown: bool = True, dividends: Splits | None = None, symbol: str = "A", seed: int = 0
) -> pd.DataFrame:
    """Bars of one symbol with splits, by bar; as traded, or with closes and volumes that are adjusted for splits."""
    rng = np.random.default_rng(seed)
    ratio = np.ones(BARS)
    ratio[list(splits)] = list(splits.values())
    paid = np.zeros(BARS)
    paid[list(dividends or {})] = list((dividends or {}).values())
    after = np.append(np.cumprod(ratio[:0:-1])[::-1], 1.0)  # shares of today for one of the bar
    today = 100.0 * np.exp(np.cumsum(rng.normal(0, 0.02, BARS)))  # in shares of today, dividends not taken out
    volume = rng.integers(1_000, 9_000, BARS).astype(float)
    yields = 1.0 - paid / today
    total_return = np.append(np.cumprod(yields[:0:-1])[::-1], 1.0)
    close, traded = (today * after, volume) if shown else (today, volume * after)
    return pd.DataFrame({
        "date": pd.bdate_range("2020-01-01", periods=BARS), "symbol": symbol, "open": close, "high": close * 1.01,
        "low": close * 0.99, "close": close, "volume": traded, "adj_close": today * total_return,
        "stock splits": np.where(ratio == 1.0, 0.0, ratio), "dividends": paid, "in today's shares": volume * after,
    })  # fmt: skip


WORLDS: dict[str, dict[str, Any]] = {
    "one": {"splits": {30: 2.0}},
    "three": {"splits": {10: 2.0, 30: 7.0, 45: 4.0}},
    "reverse": {"splits": {30: 0.1}},
    "stock dividends of 5%": {"splits": {20: 1.05, 40: 1.05}},
    "with dividends": {"splits": {30: 2.0}, "dividends": {10: 1.0, 30: 2.0, 50: 1.0}},
    "on the first bar": {"splits": {0: 2.0, 30: 3.0}},
    "on the last bar": {"splits": {BARS - 1: 3.0}},
    "none": {"splits": {}, "dividends": {10: 1.0}},
}


@pytest.mark.parametrize("shown", [True, False], ids=["as traded", "adjusted for splits already"])
@pytest.mark.parametrize("world", WORLDS)
def test_volumes_are_in_the_shares_of_the_adjusted_prices(world: str, shown: bool, tmp_path: Path) -> None:
    frame = table(**WORLDS[world], shown=shown)
    expected = frame.pop("in today's shares").to_numpy()
    frame.to_csv(tmp_path / "long.csv", index=False)
    frame.to_parquet(tmp_path / "long.parquet")
    wide = frame.drop(columns="symbol").set_index("date")
    wide.columns = pd.MultiIndex.from_product([wide.columns, ["A"]])
    for bars in (
        MarketData.from_frame(frame),
        MarketData.from_frame(wide),
        MarketData.from_csv(tmp_path / "long.csv"),
        MarketData.from_parquet(tmp_path / "long.parquet"),
    ):
        assert bars.volume is not None and bars.adjusted and bars.splits is None and bars.dividends is None
        np.testing.assert_allclose(bars.volume[:, 0], expected, rtol=1e-12)


def test_bundled_volumes_are_multiplied_by_later_splits() -> None:
    adjusted, traded = MarketData.bundled(), MarketData.bundled(adjusted=False)
    assert adjusted.volume is not None and traded.volume is not None and traded.splits is not None
    for s in range(5):
        later = np.array([traded.splits[t + 1 :, s].prod() for t in range(traded.n_bars)])
        np.testing.assert_array_equal(adjusted.volume[:, s], traded.volume[:, s] * later)
    assert adjusted.volume[0, 0] == 4 * traded.volume[0, 0]
    assert (adjusted.adjusted, traded.adjusted) == (True, False)


def test_symbols_are_judged_each_on_its_own_and_gaps_in_between() -> None:
    """One symbol as traded, one adjusted for its split already; bars are missing around both splits."""
    frames = [table({30: 2.0}), table({30: 2.0}, shown=False, symbol="B", seed=1), table({}, symbol="C", seed=2)]
    frame = pd.concat(frames).reset_index(drop=True)
    bar = frame.groupby("symbol").cumcount()
    frame = frame[~bar.isin([28, 29]) | (frame.symbol == "C")]
    bars = MarketData.from_frame(frame.drop(columns="in today's shares"))
    expected = frame.pivot(index="date", columns="symbol", values="in today's shares").to_numpy()
    assert bars.volume is not None
    np.testing.assert_allclose(bars.volume, expected, rtol=1e-12)


def test_without_splits_or_adjusting_volumes_stay() -> None:
    frame = table({30: 2.0}).drop(columns="in today's shares")
    for bars in (
        MarketData.from_frame(frame.drop(columns="stock splits")),
        MarketData.from_frame(frame, adjusted=False),
        MarketData.from_frame(frame.drop(columns="adj_close")),
    ):
        assert bars.volume is not None
        np.testing.assert_array_equal(bars.volume[:, 0], frame["volume"])
    assert MarketData.from_frame(frame.drop(columns="volume")).volume is None


@pytest.mark.parametrize(("value", "found"), [(-2.0, "splits is -2.0"), (np.inf, "splits is inf"), ("two", "'two'")])
def test_a_split_that_is_none_is_refused_where_prices_are_adjusted_too(value: Any, found: str) -> None:
    frame = table({30: 2.0}).drop(columns="in today's shares").astype({"stock splits": object})
    frame.loc[30, "stock splits"] = value
    with pytest.raises(MarketDataError, match=rf"row 30, symbol 'A', date 2020-02-12.*{found}"):
        MarketData.from_frame(frame)


def test_that_prices_are_adjusted_is_not_forgotten() -> None:
    bars = MarketData.bundled()
    first, second = bars.split("2010-01-01")
    later = second.between("2011-01-01", "2012-01-01")
    for part in (first, second, later, later.with_history(), bars.select(["IBM"]), pickle.loads(pickle.dumps(second))):
        assert part.adjusted
    assert not MarketData(("A",), bars.timestamps, bars.close[:, 3:4]).adjusted
    closes = pd.DataFrame(bars.close, index=pd.DatetimeIndex(bars.timestamps), columns=list(bars.symbols))
    assert not MarketData.from_frame(closes).adjusted


# --- levels -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_feature_is_the_same_for_multiplied_prices_and_volumes(name: str) -> None:
    """To the last bit, since multiplying by a power of two rounds nothing."""
    bars, tried = random_market(), []

    def evaluate(market: MarketData) -> Any:
        tried.append(market)
        values = raw(market, name)
        np.testing.assert_array_equal(values, raw(bars, name))
        return values

    assert level_of(evaluate, bars, raw(bars, name)) is None
    assert (tried[0].close[50] / bars.close[50]).tolist() == [2.0, 4.0, 8.0, 16.0]
    assert (tried[1].volume[50] / bars.volume[50]).tolist() == [2.0, 4.0, 8.0, 16.0]


def average(values: Any, n: int = 5) -> Any:
    return pd.DataFrame(values).rolling(n).mean().to_numpy()


LEVELS: dict[str, tuple[str, Callable[[MarketData], Any]]] = {
    "close": ("prices", lambda m: m.close),
    "log price": ("prices", lambda m: np.log(m.mark)),
    "average": ("prices", lambda m: average(m.mark)),
    "gain in money": ("prices", lambda m: pd.DataFrame(m.mark).diff().to_numpy()),
    "range in money": ("prices", lambda m: m.high - m.low),
    "dearest symbol": ("prices", lambda m: pd.DataFrame(m.mark).rank(axis=1).to_numpy()),
    "below five": ("prices", lambda m: (m.mark < 40.0) * 1.0),
    "money traded": ("prices", lambda m: np.log1p(m.volume * m.close)),
    "log volume": ("volumes", lambda m: np.log1p(m.volume)),
    "busiest symbol": ("volumes", lambda m: pd.DataFrame(m.volume).rank(axis=1).to_numpy()),
}
RATIOS: dict[str, Callable[[MarketData], Any]] = {
    "price over average": lambda m: m.mark / average(m.mark),
    "log return": lambda m: pd.DataFrame(np.log(m.mark)).diff().to_numpy(),
    "range": lambda m: (m.high - m.low) / m.close,
    "strongest symbol": lambda m: pd.DataFrame(m.mark).pct_change(fill_method=None).rank(axis=1).to_numpy(),
    "volume over average": lambda m: m.volume / average(m.volume),
    "calendar": lambda m: np.repeat(np.arange(m.n_bars)[:, None] % 5, m.n_symbols, axis=1),
    "nothing": lambda m: np.zeros(m.close.shape),
}


def ohlc(adjusted: bool) -> MarketData:
    close = 50.0 * np.exp(np.cumsum(np.random.default_rng(0).normal(0, 0.02, (120, 3)), axis=0))
    times = pd.bdate_range("2020-01-01", periods=120).to_numpy()
    volume = np.random.default_rng(1).integers(100, 1000, close.shape).astype(float)
    prices = {"open": close, "high": close * 1.01, "low": close * 0.98, "close": close}
    return MarketData(("A", "B", "C"), times, volume=volume, adjusted=adjusted, **prices)


@pytest.mark.parametrize("name", LEVELS)
def test_a_level_of_adjusted_data_is_warned_of(name: str) -> None:
    what, function = LEVELS[name]
    register_feature("mine", function)
    with pytest.warns(LevelFeatureWarning) as told:
        found = compute_features(ohlc(adjusted=True), ["momentum_5", "mine"])
    assert len(told) == 1 and told[0].filename == __file__
    assert f"feature 'mine' is a level of {what}, and these data (<arrays>) are adjusted" in str(told[0].message)
    assert found.levels == ("mine",)
    assert compute_features(ohlc(adjusted=False), ["momentum_5", "mine"]).levels == ()


@pytest.mark.parametrize("name", RATIOS)
def test_what_does_not_depend_on_the_level_is_not_warned_of(name: str) -> None:
    register_feature("mine", RATIOS[name])
    assert compute_features(ohlc(adjusted=True), ["mine"]).levels == ()


def with_columns(**columns: Any) -> MarketData:
    bars = ohlc(adjusted=True)
    return MarketData(bars.symbols, bars.timestamps, bars.close, volume=bars.volume, columns=columns, adjusted=True)


def test_a_column_that_follows_the_adjusted_price_is_a_level_and_others_are_not() -> None:
    rng = np.random.default_rng(7)
    close = ohlc(adjusted=True).close
    levels = {
        "average": np.where(np.isnan(average(close, 3)), np.nan, average(close, 3)),
        "vwap": close * rng.uniform(0.995, 1.005, close.shape),
    }
    others = {
        "sentiment": rng.normal(size=close.shape),
        "earnings": rng.uniform(1, 2, (1, 3)) * np.ones(close.shape),
        "capitalisation": close * 1e9,
        "rank": rng.integers(1, 100, close.shape).astype(float),
        "premium": close / average(close, 3),
    }
    bars = with_columns(**levels, **others)
    for name in others:
        assert not follows_price(bars.columns[name], bars.mark).any(), name
        assert compute_features(bars, [name]).levels == ()
    for name in levels:
        with pytest.warns(LevelFeatureWarning, match=f"'{name}' is a level of prices"):
            assert compute_features(bars, [name]).levels == (name,)
    register_feature("over_average", lambda m: m.mark / m.columns["average"])
    assert compute_features(bars, ["over_average"]).levels == ()  # such a column is multiplied with the price


def test_the_warning_points_at_the_line_that_made_the_environment_and_the_backtest_flags_it() -> None:
    register_feature("price", lambda market: market.mark)
    rules = {"features": ["price"], "fill": "next_close"}
    train, test = ohlc(adjusted=True).split("2020-04-01")
    with pytest.warns(LevelFeatureWarning) as told:
        for _ in range(3):
            BatchTradingEnv(train, rules, n_envs=1)
        env = StatefulTradingEnv(test, rules)
        results = BackTesting(ConstantAgent([0.1, 0.1, 0.1]), env, {"vectorbt": False}, baselines=()).run()
    assert {warning.filename for warning in told} == {__file__}
    assert len({warning.lineno for warning in told}) == len(told) == 3, "once for each line"
    flag = next(flag for flag in results.flags if flag.name == "level_features")
    assert flag.severity == "severe" and "Features that look ahead: price." in flag.text
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clean = StatefulTradingEnv(ohlc(adjusted=False), rules)
        results = BackTesting(ConstantAgent([0.1, 0.1, 0.1]), clean, {"vectorbt": False}, baselines=()).run()
    assert "level_features" not in {flag.name for flag in results.flags}
