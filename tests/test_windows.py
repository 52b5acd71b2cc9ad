"""Windows: right at every length, and right again when a value far larger than the rest has left them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from batchenv.market import MarketData
from batchenv.windows import rolling_mean, rolling_moments, rolling_std
from stateful.curves import rolling_sharpe
from tests.test_features import (
    BUILT_IN,
    naive_macd,
    naive_rsi,
    naive_turbulence,
    naive_window,
    random_market,
    raw,
)

EXTREMES = [1e3, 1e6, 1e10, 1e15]
"""So many times the rest. What a library loses is largest in the middle: it notices the largest, if any."""
AT = 61


@pytest.mark.parametrize("extreme", EXTREMES)
@pytest.mark.parametrize("n", [1, 2, 3, 19, 20, 64, 150])
def test_moments_are_those_of_each_window_on_its_own(n: int, extreme: float) -> None:
    values = np.random.default_rng(n).uniform(1.0, 2.0, (150, 3))
    values[AT, 1] *= extreme
    values[:11, 2] = np.nan
    windows = sliding_window_view(values, n, axis=0)
    mean, squares = rolling_moments(values, n)
    assert mean.shape == squares.shape == values.shape and np.isnan(mean[: n - 1]).all()
    np.testing.assert_allclose(mean[n - 1 :], windows.mean(axis=-1), rtol=1e-13)
    spread = ((windows - windows.mean(axis=-1, keepdims=True)) ** 2).sum(axis=-1)
    np.testing.assert_allclose(squares[n - 1 :], spread, rtol=1e-11)
    np.testing.assert_array_equal(rolling_mean(values, n), mean)
    if n > 1:
        np.testing.assert_allclose(rolling_std(values, n, 1)[n - 1 :], windows.std(axis=-1, ddof=1), rtol=1e-11)
    alone = rolling_moments(values[:, 1], n)  # one column without a second axis
    np.testing.assert_array_equal(alone, (mean[:, 1], squares[:, 1]))


@pytest.mark.parametrize("n", [2, 7, 100])
def test_a_window_of_equal_values_has_their_mean_and_no_spread(n: int) -> None:
    mean, squares = rolling_moments(np.full((100, 2), 0.1), n)
    assert (mean[n - 1 :] == 0.1).all() and (squares[n - 1 :] == 0.0).all()


@pytest.mark.parametrize("n", [2, 7, 40])
def test_rows_depend_on_the_rows_before_to_the_last_bit(n: int) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(100, 3))
    whole = rolling_moments(values, n)
    for cut in (41, 55, 79):
        other = np.concatenate([values[:cut], rng.normal(size=(40, 3)) * 1e6])
        for short in (values[:cut], other):
            for ours, theirs in zip(rolling_moments(short, n), whole, strict=True):
                np.testing.assert_array_equal(ours[:cut], theirs[:cut])


# --- the features that have windows -------------------------------------------------------------------------


def with_extreme(extreme: float) -> MarketData:
    """Random bars, on one of which the first symbol's close and volume are ``extreme`` times what they were."""
    bars = random_market(bars=160)
    close, volume = bars.close.copy(), bars.volume.copy()
    close[AT, 0] *= extreme
    volume[AT, 0] = 1000.0 * extreme
    return replace(bars, close=close, volume=volume)


WINDOWED = {"return": 1, "log_return": 1, "momentum": 1, "volatility": 1, "sma_distance": 0, "bollinger": 0,
            "volume_zscore": 0}  # fmt: skip
"""Features that look at so many bars more than their window is long."""


@pytest.mark.parametrize("extreme", EXTREMES)
@pytest.mark.parametrize("name", WINDOWED)
def test_a_feature_is_right_again_when_the_extreme_value_has_left_its_window(name: str, extreme: float) -> None:
    bars, n = with_extreme(extreme), 20
    prices, volumes = bars.mark[:, 0].tolist(), bars.volume[:, 0].tolist()
    got = raw(bars, f"{name}_{n}")[:, 0]
    again = range(AT + n + WINDOWED[name], bars.n_bars)
    expected = [naive_window(name, prices, volumes, n, t) for t in again]
    np.testing.assert_allclose(got[again.start :], expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


@pytest.mark.parametrize("extreme", EXTREMES)
def test_turbulence_is_right_again_when_the_extreme_value_has_left_its_window(extreme: float) -> None:
    rng = np.random.default_rng(3)
    for symbols, n in ((4, 12), (40, 12)):
        close = 50.0 * np.exp(np.cumsum(rng.normal(0, 0.02, (100, symbols)), axis=0))
        close[AT, 0] *= extreme
        bars = MarketData(tuple(map(str, range(symbols))), pd.bdate_range("2020-01-01", periods=100).to_numpy(), close)
        expected = naive_turbulence(pd.DataFrame(bars.mark), n)
        again = AT + n + 2
        np.testing.assert_allclose(raw(bars, f"turbulence_{n}")[again:, 0], expected[again:], rtol=1e-9)


@pytest.mark.parametrize("extreme", EXTREMES)
def test_what_remembers_for_ever_forgets_as_its_formula_says(extreme: float) -> None:
    """RSI and MACD have no window that an extreme value could leave: its weight falls by a factor with every bar."""
    bars = with_extreme(extreme)
    prices = bars.mark[:, 0].tolist()
    np.testing.assert_allclose(raw(bars, "rsi_14")[:, 0], naive_rsi(prices, 14), rtol=1e-9)
    np.testing.assert_allclose(raw(bars, "macd_3_6_4")[:, 0], naive_macd(prices, 3, 6, 4), rtol=1e-9, atol=1e-9)


def test_no_feature_is_left_out_here() -> None:
    import re

    tested = {*WINDOWED, "turbulence", "rsi", "macd"}
    assert {re.sub(r"(_\d+)+$", "", name) for name in BUILT_IN} == tested


@pytest.mark.parametrize("extreme", EXTREMES)
def test_the_rolling_sharpe_ratio_is_right_again_when_the_extreme_return_has_left_it(extreme: float) -> None:
    returns: Any = np.random.default_rng(1).normal(0.001, 0.01, 400)
    returns[100] = extreme
    equity = pd.Series(np.append(1.0, np.cumprod(1.0 + returns)), pd.bdate_range("2020-01-01", periods=401))
    ours = rolling_sharpe(equity, window=63, periods_per_year=252).to_numpy()[101:]
    seen = equity.to_numpy()[1:] / equity.to_numpy()[:-1] - 1.0
    windows = sliding_window_view(seen, 63)[101:]
    np.testing.assert_allclose(ours, windows.mean(axis=1) / windows.std(axis=1, ddof=1) * np.sqrt(252), rtol=1e-9)
