from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from numpy.random import default_rng

from batchenv.market import MarketData
from stateful.curves import equity_band, half_a_year, rolling_obstacle, rolling_sharpe
from stateful.evaluation.bootstrap import stationary_positions
from tests.markets import market
from tests.stateful.policies import ConstantAgent, RandomAgent
from tests.stateful.reports import backtest


@pytest.fixture(scope="module")
def results():
    return backtest(market(0, n_bars=320), RandomAgent(4), uncertainty={"resamples": 400, "seed": 5})


def test_the_band_ends_in_the_interval_of_the_total_return(results):
    band, interval = equity_band(results), results.uncertainty.agent["total_return"]
    assert band.low[-1] == pytest.approx(results.equity.iloc[0] * (1 + interval.low), rel=1e-12)
    assert band.high[-1] == pytest.approx(results.equity.iloc[0] * (1 + interval.high), rel=1e-12)
    assert band.low[0] == band.high[0] == results.equity.iloc[0]
    assert band.rows[0] == 0 and band.rows[-1] == len(results.equity) - 1
    assert (np.diff(band.rows) > 0).all() and len(band.rows) == 240


def test_the_band_holds_the_middle_of_the_resampled_paths_at_every_bar(results):
    band, equity = equity_band(results), results.equity.to_numpy()
    returns = equity[1:] / equity[:-1] - 1
    drawn = stationary_positions(len(returns), results.uncertainty.mean_block_length, 400, default_rng(5))
    paths = equity[0] * np.cumprod(1 + returns[np.array(list(drawn))], axis=0)
    low, high = np.quantile(paths, [0.025, 0.975], axis=1)
    assert band.low[1:] == pytest.approx(low[band.rows[1:] - 1], rel=1e-10)
    assert band.high[1:] == pytest.approx(high[band.rows[1:] - 1], rel=1e-10)


def test_no_band_where_nothing_could_be_resampled():
    assert equity_band(backtest(market(0, 40), RandomAgent(4))) is None
    assert equity_band(backtest(market(0), RandomAgent(4), uncertainty={"resamples": 0})) is None
    config = {"portfolio_config": {"bankruptcy_fraction": 0.97}, "action_config": {"mode": "weights"}}
    assert equity_band(backtest(market(0), ConstantAgent([1, 0, 0, 0]), config)) is None


@pytest.mark.parametrize(("window", "rate"), [(126, 0.0), (63, 0.04)])
def test_rolling_sharpe_agrees_with_quantstats(window, rate):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from quantstats import stats
    equity = MarketData.bundled().close[-600:, 0]
    index = pd.bdate_range("2010-01-01", periods=600)
    ours = rolling_sharpe(pd.Series(equity, index), window=window, periods_per_year=252, risk_free_rate=rate)
    returns = pd.Series(equity[1:] / equity[:-1] - 1, index[1:]) - ((1 + rate) ** (1 / 252) - 1)
    theirs = stats.rolling_sharpe(returns, rolling_period=window, periods_per_year=252, prepare_returns=False).dropna()
    assert ours.index.equals(theirs.index)
    assert ours.to_numpy() == pytest.approx(theirs.to_numpy(), rel=1e-9)


def test_rolling_sharpe_by_hand():
    equity = pd.Series([100.0, 110.0, 99.0, 99.0, 99.0], pd.bdate_range("2020-01-01", periods=5))
    found = rolling_sharpe(equity, window=2, periods_per_year=4)
    # returns 0.1, -0.1, 0, 0: mean and deviation of each pair, times sqrt(4); the last two do not differ
    assert found.iloc[0] == pytest.approx(0.0, abs=1e-12)
    assert found.iloc[1] == pytest.approx(2 * -0.05 / np.std([-0.1, 0.0], ddof=1))
    assert np.isnan(found.iloc[2]) and len(found) == 3


def test_half_a_year_of_bars():
    assert [half_a_year(periods) for periods in (252, 52, 12, 1)] == [126, 26, 6, 2]
    short, long = (backtest(market(0, n), RandomAgent(4), uncertainty={"resamples": 0}) for n in (100, 200))
    bars = len(short.equity) - 1
    assert rolling_obstacle(short) == f"not enough data (needs 126 bars, has {bars})"
    assert rolling_obstacle(long) is None
