"""What timestamps tell: which symbols are delisted (rule 4.4), and how many bars a year has."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from batchenv import FastTrainingEnv, MarketData, RunConfig
from batchenv.calendars import usual_gap, year_of
from batchenv.errors import ConfigError, MarketDataError
from batchenv.train import load_market
from stateful import BackTesting, StatefulTradingEnv
from stateful.evaluation.stress import stress_test
from tests.stateful.policies import ConstantAgent

TIERS = [StatefulTradingEnv, FastTrainingEnv]
SHARE = 1 / 128


def closes(**columns: pd.DatetimeIndex) -> pd.DataFrame:
    """Return closes of 100 for each symbol on its dates, as a wide frame."""
    return pd.DataFrame({name: pd.Series(100.0, index) for name, index in columns.items()}).sort_index()


def stock_and_coin(end: str, start: str = "2024-01-01") -> MarketData:
    """Return a market of a coin with a bar every day and a stock with one on weekdays."""
    days = pd.date_range(start, end)
    return MarketData.from_frame(closes(COIN=days, STOCK=days[days.day_of_week < 5]))


def after_buying_five(tier: Any, market: MarketData, bar: int) -> Any:
    """Return an account of 1,000 that bought 5 shares of the second symbol at ``bar`` and went on to the end."""
    env = tier(
        market,
        {
            "fill": "close",
            "portfolio_config": {"initial_cash": 1_000.0},
            "cost_config": {"fee_rate": 0.0, "slippage_rate": 0.0},
            "execution_config": {"delisting_haircut": 0.3},
            "action_config": {"mode": "shares", "max_shares": 128.0},
        },
    )
    env.reset(seed=0)
    done = False
    while not done:
        _, _, ruined, ended, _ = env.step(np.array([0.0, 5 * SHARE * (env.bar == bar)], np.float32))
        done = ruined or ended
    return env


# --- delisting ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("end", ["2024-03-08", "2024-03-09", "2024-03-10", "2024-05-27", "2024-07-04"])
def test_data_that_end_on_a_weekend_or_holiday_delist_nothing(tier: Any, end: str) -> None:
    days = pd.date_range("2024-01-01", end)
    holidays = pd.DatetimeIndex(["2024-05-27", "2024-07-04"])  # Memorial Day, Independence Day
    weekdays = days[(days.day_of_week < 5) & ~days.isin(holidays)]
    market = MarketData.from_frame(closes(COIN=days, STOCK=weekdays))
    env = after_buying_five(tier, market, int(np.searchsorted(days, weekdays[-1])) - 1)
    assert (env.cash, env.holdings.tolist(), env.equity) == (500.0, [0.0, 5.0], 1_000.0)
    assert market.delistings == {}


@pytest.mark.parametrize("tier", TIERS)
def test_a_symbol_that_ends_long_before_the_data_is_delisted(tier: Any) -> None:
    days = pd.date_range("2024-01-01", "2024-03-10")
    market = MarketData.from_frame(closes(COIN=days, STOCK=days[(days.day_of_week < 5) & (days <= "2024-03-01")]))
    assert market.delistings == {"STOCK": "2024-03-01"}
    env = after_buying_five(tier, market, 10)
    assert (env.cash, env.holdings.tolist(), env.equity) == (850.0, [0.0, 0.0], 850.0)


@pytest.mark.parametrize("tier", TIERS)
def test_a_part_that_ends_on_a_weekend_knows_what_comes_after_it(tier: Any) -> None:
    train, test = stock_and_coin("2024-06-28").split("2024-03-11")
    env = after_buying_five(tier, train, 10)
    assert (env.cash, env.equity) == (500.0, 1_000.0)
    assert train.delistings == test.delistings == {}


@pytest.mark.parametrize("tier", TIERS)
def test_a_symbol_that_pauses_over_the_end_of_a_part_is_not_delisted_there(tier: Any) -> None:
    days = pd.date_range("2024-01-01", "2024-06-28")
    halted = days[(days < "2024-02-01") | (days >= "2024-05-01")]
    train, test = MarketData.from_frame(closes(COIN=days, STOCK=halted)).split("2024-04-01")
    assert (after_buying_five(tier, train, 10).cash, train.delistings, test.delistings) == (500.0, {}, {})


@pytest.mark.parametrize("tier", TIERS)
def test_a_delisting_of_a_later_part_happens_there_alone(tier: Any) -> None:
    days = pd.date_range("2024-01-01", "2024-06-28")
    whole = MarketData.from_frame(closes(COIN=days, STOCK=days[days < "2024-05-01"]))
    train, rest = whole.split("2024-04-01")
    during, after = rest.split("2024-06-01")
    assert [after_buying_five(tier, part, 10).cash for part in (train, during, after)] == [500.0, 850.0, 1_000.0]
    assert train.delistings == during.delistings == after.delistings == {"STOCK": "2024-04-30"}


def test_one_week_of_data_has_seen_no_weekend_and_still_delists_nothing() -> None:
    days = pd.date_range("2024-03-04", "2024-03-10")  # Monday to Sunday
    assert MarketData.from_frame(closes(COIN=days, STOCK=days[:5])).delistings == {}


def test_intraday_bars_that_end_in_the_afternoon_delist_nothing() -> None:
    hours = pd.date_range("2024-03-01", "2024-03-14 23:00", freq="h")
    session = hours[(hours.hour >= 14) & (hours.hour < 21) & (hours.day_of_week < 5)]
    assert MarketData.from_frame(closes(COIN=hours, STOCK=session)).delistings == {}
    earlier = session[session < "2024-03-08"]
    assert MarketData.from_frame(closes(COIN=hours, STOCK=earlier)).delistings == {"STOCK": "2024-03-07 20:00:00"}


@pytest.mark.parametrize(("freq", "within", "beyond"), [("W-FRI", 1, 2), ("MS", 1, 3)])
def test_the_usual_gap_of_slow_bars_is_their_own(freq: str, within: int, beyond: int) -> None:
    days = pd.date_range("2022-01-01", periods=24, freq=freq)
    for missing, gone in ((within, False), (beyond, True)):
        market = MarketData.from_frame(closes(A=days, B=days[:-missing]))
        assert ("B" in market.delistings) == gone


def test_a_holiday_of_every_year_is_usual_and_one_long_halt_is_not() -> None:
    days = pd.date_range("2015-01-01", "2024-02-12")
    weekdays = days[days.day_of_week < 5]
    golden = (weekdays.month == 10) & (weekdays.day <= 8) | (weekdays.month == 2) & (weekdays.day >= 5) & (
        weekdays.day <= 13
    )
    shanghai = weekdays[~golden]
    assert MarketData.from_frame(closes(COIN=days, SSE=shanghai)).delistings == {}  # in the middle of the holiday
    halted = weekdays[(weekdays < "2019-01-01") | (weekdays >= "2019-04-01")]
    ends = halted[halted <= "2024-01-12"]
    market = MarketData.from_frame(closes(COIN=days, STOCK=ends))
    assert market.delistings == {"STOCK": "2024-01-12"}  # a month ago, and the halt took three


def test_the_usual_gap_by_hand() -> None:
    days = np.cumsum(np.array([0, *[1] * 997, 40, 9, 3])).astype("datetime64[D]")  # 1,000 gaps
    assert usual_gap(days.astype("datetime64[ns]")) == 3
    assert usual_gap(days[1:].astype("datetime64[ns]")) == 9  # 999 gaps: one is left out
    assert usual_gap(days[:1].astype("datetime64[ns]")) == 0


@pytest.mark.parametrize("tier", TIERS)
def test_what_the_user_says_of_delistings_holds(tier: Any) -> None:
    days = pd.date_range("2024-01-01", "2024-03-10")
    frame = closes(COIN=days, STOCK=days[days.day_of_week < 5])
    market = MarketData.from_frame(frame, delisted=["STOCK"])
    assert (after_buying_five(tier, market, 10).cash, market.delistings) == (850.0, {"STOCK": "2024-03-08"})
    ended = closes(COIN=days, STOCK=days[:20])
    assert MarketData.from_frame(ended).delistings == {"STOCK": "2024-01-20"}
    assert after_buying_five(tier, MarketData.from_frame(ended, delisted=[]), 10).cash == 500.0


def test_delistings_that_cannot_be_are_refused() -> None:
    market = stock_and_coin("2024-03-10")
    with pytest.raises(MarketDataError, match=r"unknown symbol 'STOK'.*did you mean 'STOCK'"):
        MarketData.from_frame(closes(COIN=pd.date_range("2024-01-01", periods=9)).assign(STOCK=1.0), delisted=["STOK"])
    delisted = market.delisted.copy()
    delisted[1] = np.datetime64("2024-02-01", "ns")
    with pytest.raises(MarketDataError, match=r"'STOCK': delisted at 2024-02-01.*there is a bar at 2024-02-02"):
        MarketData(market.symbols, market.timestamps, market.close, delisted=delisted)
    with pytest.raises(MarketDataError, match=r"delisted has shape \[1\]; expected one time for each of 2 symbols"):
        MarketData(market.symbols, market.timestamps, market.close, delisted=delisted[:1])


def test_selecting_symbols_keeps_their_delistings() -> None:
    days = pd.date_range("2024-01-01", "2024-06-28")
    market = MarketData.from_frame(closes(A=days, B=days[:50], C=days))
    assert market.select(["B"]).delistings == market.select(["C", "B"]).delistings == {"B": "2024-02-19"}


def test_a_run_keeps_what_was_decided_about_its_data(tmp_path: Any) -> None:
    days = pd.date_range("2024-01-01", "2024-06-28")
    closes(A=days, B=days[:50]).to_csv(tmp_path / "closes.csv", index_label="date")
    data = {"source": str(tmp_path / "closes.csv"), "train_end": "2024-05-01"}

    def loaded(**more: Any) -> MarketData:
        return load_market(RunConfig.model_validate({"data": data | more}).data)

    assert loaded().decisions == {
        "periods_per_year": 365.0,
        "periods_per_year_reason": "daily bars, weekends included",
        "delisted": {"B": "2024-02-19"},
        "notes": [],
    }
    assert loaded(delisted=[], periods_per_year=252).decisions == {
        "periods_per_year": 252.0,
        "periods_per_year_reason": "stated",
        "delisted": {},
        "notes": [],
    }


# --- bars in a year -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        (pd.date_range("2020-01-02 09:30", periods=390, freq="min"), "no weekend"),  # one session
        (pd.date_range("2020-01-02 09:30", periods=120, freq="min"), "no weekend"),  # one morning
        (pd.date_range("2020-01-06", periods=24 * 5, freq="h"), "no weekend"),  # a coin from Monday to Friday
        (pd.bdate_range("2020-01-06", periods=5), "no weekend"),  # a stock or a coin from Monday to Friday
        (pd.date_range("2020-01-05", periods=6), "no weekend"),  # Sunday to Friday
        (
            pd.DatetimeIndex([*pd.date_range("2020-01-03 12:00", periods=4, freq="h"),
                              *pd.date_range("2020-01-06 09:00", periods=3, freq="h")]),
            "no whole date",
        ),
        (pd.date_range("2020-01-01", periods=1), "only one bar"),
        (pd.DatetimeIndex(["2020-01-01", "2020-02-01"]), "2 bars on 2 dates, 31 days apart"),
    ],
)  # fmt: skip
def test_a_year_that_a_sample_is_too_short_to_show_is_not_guessed(index: pd.DatetimeIndex, reason: str) -> None:
    found = year_of(index.to_numpy().astype("datetime64[ns]"))
    assert found.periods is None and reason in found.reason


@pytest.mark.parametrize(
    ("index", "periods"),
    [
        (pd.DatetimeIndex(["2020-01-03", "2020-01-06", "2020-01-07"]), 252.0),  # a weekend without bars
        (pd.date_range("2020-01-03", periods=4), 365.0),  # a weekend with bars
        (pd.date_range("2020-01-03", "2020-01-06 23:00", freq="h"), 24 * 365.0),
        (pd.date_range("2020-01-01 14:30", "2020-01-31 16:00", freq="min"), 1440 * 365.0),  # first and last date cut
    ],
)
def test_a_year_is_read_off_the_first_weekend_and_the_whole_dates(index: pd.DatetimeIndex, periods: float) -> None:
    assert year_of(index.to_numpy().astype("datetime64[ns]")).periods == periods


def test_the_last_morning_of_a_session_does_not_count_as_a_day() -> None:
    """Two weeks of sessions of 390 minutes, the first from noon and the last to noon."""
    days = pd.bdate_range("2020-01-06", periods=10)
    minutes = pd.DatetimeIndex([day + pd.Timedelta(minutes=570 + k) for day in days for k in range(390)])
    market = MarketData.from_frame(closes(A=minutes[150:-240]))
    assert market.year == (390 * 252.0, "390 bars a day on 252 days, weekends left out")


def test_a_part_without_a_weekend_reads_its_history_and_its_own_bars_come_first() -> None:
    days = pd.date_range("2020-01-01", "2020-06-30")
    weekdays = days[days.day_of_week < 5]
    later = days[days >= "2020-04-01"]
    market = MarketData.from_frame(closes(STOCK=weekdays, COIN=later))
    assert [part.periods_per_year for part in market.split("2020-04-01")] == [252.0, 365.0]
    assert market.between("2020-03-02", "2020-03-06").year == (252.0, "daily bars, weekends left out")
    assert market.between(end="2020-01-04").periods_per_year is None


def test_stated_bars_in_a_year_hold_in_every_part() -> None:
    frame = closes(A=pd.date_range("2020-01-06", periods=24 * 5, freq="h"))
    market = MarketData.from_frame(frame, periods_per_year=24 * 365)
    assert [part.year for part in market.split("2020-01-08")] == [(24 * 365.0, "stated")] * 2
    assert "8760 bars in a year (stated)" in repr(market)
    for wrong in (0, -252.0, float("nan"), float("inf")):
        with pytest.raises(MarketDataError, match=r"periods_per_year is .*; expected a number of bars above 0"):
            MarketData.from_frame(frame, periods_per_year=wrong)


@pytest.fixture(scope="module")
def morning() -> MarketData:
    """One morning of minutes."""
    index = pd.date_range("2020-01-02 09:30", periods=200, freq="min")
    prices = 100 * np.exp(np.random.default_rng(0).normal(0, 1e-3, (200, 2)).cumsum(axis=0))
    return MarketData.from_frame(pd.DataFrame(prices, index, ["A", "B"]))


CONFIG = {"fill": "next_close", "action_config": {"mode": "weights"}}


def test_a_backtest_of_a_morning_has_no_figure_per_year(morning: MarketData, tmp_path: Any) -> None:
    env = StatefulTradingEnv(morning, CONFIG)
    results = BackTesting(ConstantAgent([0.5, 0.5]), env, {"uncertainty": {"resamples": 200}}).run()
    metrics = results.metrics
    per_year = ("years", "periods_per_year", "cagr", "volatility", "sharpe", "sortino", "calmar", "turnover_per_year")
    assert {name: metrics[name] for name in per_year} == dict.fromkeys(per_year)
    assert metrics["total_return"] == pytest.approx(results.equity.iloc[-1] / results.equity.iloc[0] - 1)
    reasons = {metrics["uncertainty"]["agent"][name]["reason"] for name in ("cagr", "sharpe", "total_return")}
    assert reasons == {"the number of bars in a year is not known"}
    random = metrics["baselines"]["random"]["fills"]
    assert random > 0  # it trades as much as the agent, which needs no year
    page = results.write(tmp_path / "report").read_text(encoding="utf-8")
    assert "the number of bars in a year is not known (the bars span no weekend" in page
    assert "No figure is per year, since the number of bars in a year is not known: the bars span no weekend" in page
    assert not re.search(r"\bnan\b", page.lower().split("<script", 1)[0])


def test_the_same_morning_with_a_stated_year_has_them(morning: MarketData) -> None:
    stated = replace(morning, stated_periods=390 * 252.0)
    results = BackTesting(ConstantAgent([0.5, 0.5]), StatefulTradingEnv(stated, CONFIG), {"vectorbt": False}).run()
    returns = results.equity.pct_change().dropna()
    assert results.metrics["sharpe"] == pytest.approx(returns.mean() / returns.std() * np.sqrt(390 * 252))


def test_what_needs_a_year_refuses_a_morning(morning: MarketData) -> None:
    with pytest.raises(ConfigError, match=r"'sharpe_ratio' is a ratio per year.*expected data.periods_per_year"):
        StatefulTradingEnv(morning, CONFIG | {"reward_config": {"type": "sharpe_ratio"}})
    testing = BackTesting(ConstantAgent([0.5, 0.5]), StatefulTradingEnv(morning, CONFIG))
    with pytest.raises(MarketDataError, match=r"a stress test needs the number of bars in a year.*span no weekend"):
        stress_test(testing)
