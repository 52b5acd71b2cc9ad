"""Features: causal, equal for a part and for the whole, and equal to naive loops that share no code."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

import batchenv.features as features_module
from batchenv.errors import FeatureError
from batchenv.features import FeatureScaler, available_features, compute_features, register_feature
from batchenv.market import MarketData

BUILT_IN = (
    "return", "return_3", "log_return_2", "momentum_5", "volatility_5", "rsi_4", "macd_3_6_4",
    "sma_distance_5", "bollinger_5", "volume_zscore_5", "turbulence_12",
)  # fmt: skip


def random_market(bars: int = 120, symbols: int = 4, seed: int = 0, **more: Any) -> MarketData:
    """Random walks; the last symbol lists at bar 40, the second one misses some bars."""
    rng = np.random.default_rng(seed)
    close = 50.0 * np.exp(np.cumsum(rng.normal(0, 0.02, (bars, symbols)), axis=0))
    volume = rng.integers(0, 1000, (bars, symbols)).astype(float)
    close[:40, -1] = np.nan
    close[[7, 8, 60], 1] = np.nan
    times = pd.bdate_range("2020-01-01", periods=bars).to_numpy()
    return MarketData(tuple("ABCDEFGH"[:symbols]), times, close, volume=volume, **more)


def raw(market: MarketData, name: str) -> np.ndarray[Any, Any]:
    """One unscaled feature as float64, straight from its function; NaN while warming up."""
    return features_module._evaluate(features_module._parse(name, market.with_history()), market.with_history())


# --- every feature ------------------------------------------------------------------------------------------


def test_every_built_in_is_tested() -> None:
    bases = {re.sub(r"(_\d+)+$", "", name) for name in BUILT_IN}
    assert bases == set(available_features())


@pytest.mark.parametrize("name", BUILT_IN)
def test_causal_bit_for_bit(name: str) -> None:
    market = random_market()
    before = raw(market, name)
    for t in (20, 50, 118):
        close, volume = market.close.copy(), market.volume.copy()
        close[t + 1 :] *= np.random.default_rng(t).uniform(0.2, 5, close[t + 1 :].shape)
        close[t + 5 : t + 8] = np.nan
        volume[t + 1 :] += 1e6
        after = raw(replace(market, close=close, volume=volume), name)
        np.testing.assert_array_equal(after[: t + 1], before[: t + 1])
        assert not np.array_equal(after, before, equal_nan=True)


@pytest.mark.parametrize("scaling", ["standard", "none"])
def test_part_equals_slice_of_whole(scaling: Any) -> None:
    market = random_market()
    train, test = market.split(market.timestamps[70])
    fitted = compute_features(train, BUILT_IN, scaling=scaling)
    whole = compute_features(market, BUILT_IN, scaler=fitted.scaler)
    for part, rows in ((train, slice(0, 70)), (test, slice(70, None))):
        given = compute_features(part, BUILT_IN, scaler=fitted.scaler)
        np.testing.assert_array_equal(given.values, whole.values[rows])
        own = compute_features(part, BUILT_IN, scaling=scaling)
        assert own.scaler == fitted.scaler
        np.testing.assert_array_equal(own.values, given.values)
    assert (whole.first_bar, compute_features(test, BUILT_IN).first_bar) == (12, 0)


def test_layout_is_feature_major_float32_and_never_nan() -> None:
    market = random_market()
    both = compute_features(market, ["momentum_5", "rsi_4"])
    assert both.values.dtype == np.float32 and both.values.flags.c_contiguous and not both.values.flags.writeable
    assert both.values.shape == (120, 8) and np.isfinite(both.values).all()
    np.testing.assert_array_equal(both.values[:, 4:], compute_features(market, ["rsi_4"]).values)
    assert (both.values[:45, 3] == 0).all() and both.values[45, 3] != 0  # lists at 40, needs 5 more bars
    nothing = compute_features(market, [])
    assert (nothing.values.shape, nothing.first_bar, nothing.names) == ((120, 0), 0, ())


@pytest.mark.parametrize("name", BUILT_IN)
def test_warm_up_is_what_the_table_says(name: str) -> None:
    market = random_market()
    needed = features_module._parse(name, market).bars_needed
    assert needed is not None
    assert compute_features(market, [name]).first_bar == needed - 1
    if needed > 2:
        short = market.between(end=market.timestamps[needed - 1])
        with pytest.raises(FeatureError, match=f"'{name}' has no value.* {needed - 1} bars.* at least {needed}"):
            compute_features(short, [name])


# --- against naive loops ------------------------------------------------------------------------------------


def naive_rsi(prices: list[float], n: int) -> list[float]:
    result, up, down = [np.nan] * len(prices), 0.0, 0.0
    for t in range(1, len(prices)):
        change = prices[t] - prices[t - 1]
        gain, loss = max(change, 0.0), max(-change, 0.0)
        if t <= n:
            up, down = up + gain / n, down + loss / n
        else:
            up, down = (up * (n - 1) + gain) / n, (down * (n - 1) + loss) / n
        if t >= n:
            result[t] = 100.0 - 100.0 / (1.0 + up / down) if down > 0 else (100.0 if up > 0 else 50.0)
    return result


def naive_macd(prices: list[float], fast: int, slow: int, signal: int) -> list[float]:
    result, ema_fast, ema_slow, smooth = [], prices[0], prices[0], np.nan
    for t, price in enumerate(prices):
        ema_fast += 2 / (fast + 1) * (price - ema_fast)
        ema_slow += 2 / (slow + 1) * (price - ema_slow)
        line = ema_fast - ema_slow
        if t == slow - 1:
            smooth = line
        elif t >= slow:
            smooth += 2 / (signal + 1) * (line - smooth)
        result.append((line - smooth) / price if t >= slow + signal - 2 else np.nan)
    return result


def naive_window(name: str, prices: list[float], volumes: list[float], n: int, t: int) -> float:
    p, v = np.array(prices[t - n + 1 : t + 1]), np.array(volumes[t - n + 1 : t + 1])
    if name == "sma_distance":
        return float(p[-1] / p.mean() - 1)
    if name == "bollinger":
        return float((p[-1] - p.mean()) / (2 * p.std()))
    if name == "volume_zscore":
        return float((v[-1] - v.mean()) / v.std())
    earlier = np.array(prices[t - n : t + 1])
    if name == "volatility":
        return float((earlier[1:] / earlier[:-1] - 1).std(ddof=1))
    return float(np.log(earlier[-1] / earlier[0]) if name == "log_return" else earlier[-1] / earlier[0] - 1)


@pytest.mark.parametrize("s", [0, 1, 3])
def test_built_ins_match_naive_loops(s: int) -> None:
    market = random_market()
    start = int(np.argmax(market.has_bar[:, s]))
    prices = [float(x) for x in market.mark[start:, s]]
    volumes = [
        float(x) if has else 0.0 for x, has in zip(market.volume[start:, s], market.has_bar[start:, s], strict=True)
    ]
    n_a = [np.nan] * start
    np.testing.assert_allclose(raw(market, "rsi_4")[:, s], n_a + naive_rsi(prices, 4), rtol=1e-12)
    np.testing.assert_allclose(
        raw(market, "macd_3_6_4")[:, s], n_a + naive_macd(prices, 3, 6, 4), rtol=1e-9, atol=1e-15
    )
    for name, first in (("return", 6), ("log_return", 6), ("momentum", 6), ("volatility", 6),
                        ("sma_distance", 5), ("bollinger", 5), ("volume_zscore", 5)):  # fmt: skip
        expected = [np.nan] * (first - 1) + [
            naive_window(name, prices, volumes, 5, t) for t in range(first - 1, len(prices))
        ]
        np.testing.assert_allclose(raw(market, f"{name}_5")[:, s], n_a + expected, rtol=1e-9, atol=1e-12, err_msg=name)


def naive_turbulence(close: pd.DataFrame, n: int) -> list[float]:
    """FinRL's loop, on a pivoted frame of closes."""
    returns = close.pct_change()
    result, count = [0.0] * n, 0
    for i in range(n, len(returns)):
        now, past = returns.iloc[[i]], returns.iloc[i - n : i]
        past = past.iloc[past.isna().sum().min() :].dropna(axis=1)
        x = now[list(past)] - np.mean(past, axis=0)
        distance = x.values.dot(np.linalg.pinv(past.cov())).dot(x.values.T)[0][0]
        count += distance > 0
        result.append(distance if distance > 0 and count > 2 else 0.0)
    return result


def test_turbulence_matches_finrl_with_a_late_listing() -> None:
    market = random_market()
    expected = naive_turbulence(pd.DataFrame(market.mark), 12)
    got = raw(market, "turbulence_12")
    assert np.isnan(got[:12]).all() and (got[12:14] == 0).all() and (got[14:] > 0).all()
    np.testing.assert_allclose(got[12:], np.array(expected)[12:, None] * np.ones(4), rtol=1e-9)


def test_flat_prices_are_neutral_not_nan() -> None:
    flat = MarketData(
        ("A",), pd.bdate_range("2020", periods=30).to_numpy(), np.full((30, 1), 0.1), volume=np.ones((30, 1))
    )
    neutral = {
        "rsi_4": 50.0,
        "bollinger_5": 0.0,
        "volume_zscore_5": 0.0,
        "volatility_5": 0.0,
        "turbulence_5": 0.0,
    }
    for name, value in neutral.items():
        assert raw(flat, name)[-1, 0] == value, name
        scaled = compute_features(flat, [name])
        assert (scaled.values == 0).all() and scaled.scaler.std == (1.0,)


# --- scaling ------------------------------------------------------------------------------------------------


def test_scaler_sees_the_training_part_only_pooled_over_symbols() -> None:
    market = random_market()
    train, test = market.split(market.timestamps[70])
    sample = raw(market, "momentum_5")[:70]
    sample = sample[~np.isnan(sample)]
    scaler = compute_features(test, ["momentum_5"]).scaler
    assert (scaler.mean, scaler.std) == ((sample.mean(),), (sample.std(),))
    changed = market.close.copy()
    changed[70:] *= 7
    other = replace(market, close=changed).split(market.timestamps[70])[1]
    assert compute_features(other, ["momentum_5"]).scaler == scaler
    np.testing.assert_array_equal(compute_features(other, ["momentum_5"]).values[0], np.float32(10.0))  # clipped
    assert train.fit_bars == 70


def test_scaler_survives_json_exactly_and_refuses_other_features() -> None:
    market = random_market()
    for scaling in ("standard", "none"):
        scaler = compute_features(market, BUILT_IN, scaling=scaling).scaler  # type: ignore[arg-type]
        assert FeatureScaler.from_dict(json.loads(json.dumps(scaler.to_dict(), allow_nan=False))) == scaler
    with pytest.raises(FeatureError, match=r"scaler is for features.*expected \['rsi_4'\]"):
        compute_features(market, ["rsi_4"], scaler=scaler)
    for bad in (
        {},
        {**scaler.to_dict(), "std": [1.0]},
        {**scaler.to_dict(), "mean": "x"},
        {**scaler.to_dict(), "clip": "x"},
    ):
        with pytest.raises(FeatureError, match="scaler"):
            FeatureScaler.from_dict(bad)


def test_scaling_none_keeps_raw_values() -> None:
    market = random_market()
    matrix = compute_features(market, ["rsi_4"], scaling="none")
    np.testing.assert_array_equal(matrix.values, np.nan_to_num(raw(market, "rsi_4")).astype(np.float32))
    assert matrix.scaler.to_dict() == {"names": ["rsi_4"], "mean": [0.0], "std": [1.0], "clip": None}


# --- names, errors, the user's own --------------------------------------------------------------------------

BAD_NAMES = {
    "momentun_20": r"unknown feature 'momentun_20' \(did you mean 'momentum'\?\); known: bollinger",
    "": "unknown feature ''",
    "momentum_0": "momentum_0'.*window 0; expected at least 1",
    "volatility_1": "window 1; expected at least 2",
    "momentum_2_3": r"expected 1 window\(s\), as in 'momentum_20'",
    "macd_12": r"expected 3 window\(s\), as in 'macd_12_26_9'",
    "macd_26_12_9": "shorter than the second",
    "momentum_x": "unknown feature 'momentum_x'",
    "momentum_-5": "unknown feature",
    "momentum_1.5": "unknown feature",
    "momentum_200": "'momentum_200' has no value.*120 bars.*at least 201",
}


@pytest.mark.parametrize("name", BAD_NAMES)
def test_bad_name(name: str) -> None:
    with pytest.raises(FeatureError, match=BAD_NAMES[name]):
        compute_features(random_market(), [name])


def test_defaults_and_bad_arguments() -> None:
    market = random_market(bars=300)
    for short, full in (("return", "return_1"), ("macd", "macd_12_26_9"), ("turbulence", "turbulence_252")):
        np.testing.assert_array_equal(compute_features(market, [short]).values, compute_features(market, [full]).values)
    with pytest.raises(FeatureError, match="list of names"):
        compute_features(market, "rsi_4")
    with pytest.raises(FeatureError, match="distinct names, got 'rsi_4'"):
        compute_features(market, ["rsi_4", "rsi_4"])
    with pytest.raises(FeatureError, match=r"scaling: 'z'; expected one of \['standard', 'none'\]"):
        compute_features(market, ["rsi_4"], scaling="z")  # type: ignore[arg-type]
    with pytest.raises(FeatureError, match="volume_zscore' needs volume"):
        compute_features(replace(market, volume=None), ["volume_zscore"])


def test_history_too_short_to_fit_the_scaling() -> None:
    market = random_market()
    _, test = market.split(market.timestamps[10])
    with pytest.raises(FeatureError, match="'momentum_20' has no value in the first 10 bars"):
        compute_features(test, ["momentum_20"])
    assert compute_features(test, ["momentum_20"], scaling="none").first_bar == 10


def test_extra_columns_are_features() -> None:
    signal = np.arange(480.0).reshape(120, 4)
    signal[:3] = np.nan
    market = random_market(columns={"signal": signal, "rsi": signal})
    matrix = compute_features(market, ["signal", "rsi"], scaling="none")
    np.testing.assert_array_equal(matrix.values[:, :4], np.nan_to_num(signal))
    np.testing.assert_array_equal(matrix.values[:, 4:], matrix.values[:, :4])  # a column goes before a built-in
    assert matrix.first_bar == 3
    signal[5, 2] = np.inf
    with pytest.raises(FeatureError, match=r"'signal': inf at bar 5 \(2020-01-08\), symbol 'C'"):
        compute_features(random_market(columns={"signal": signal}), ["signal"])


def test_registered_features() -> None:
    market = random_market()
    train, test = market.split(market.timestamps[70])
    register_feature(
        "gap",
        lambda market, n, m=1: pd.DataFrame(market.mark, columns=market.symbols).diff(n * m).iloc[:, ::-1],
    )
    matrix = compute_features(test, ["gap_2"], scaling="none")
    np.testing.assert_array_equal(matrix.values, (market.mark[70:] - market.mark[68:-2]).astype(np.float32))
    assert "gap" in available_features() and compute_features(test, ["gap_2_3"]).first_bar == 0
    with pytest.raises(FeatureError, match=r"'gap': windows \(\) do not fit its function"):
        compute_features(train, ["gap"])
    with pytest.raises(FeatureError, match=r"'gap' is registered already, as tests.*lambda>; pass replace=True.*raw"):
        register_feature("gap", raw)
    with pytest.raises(FeatureError, match="'rsi' is built in; pass replace=True"):
        register_feature("rsi", raw)
    for name in ("gap_2", "2gap", "a b", ""):
        with pytest.raises(FeatureError, match="expected letters"):
            register_feature(name, lambda market: market.close)
    results: dict[str, Any] = {
        r"shape \(120,\)": lambda market: market.close[:, 0],
        "expected numbers": lambda market: np.full(market.close.shape, "x"),
        "inf at bar 0": lambda market: market.close * np.inf,
        "beyond float32": lambda market: market.close * 1e300,
        "it needs more": lambda market: market.close * np.nan,
    }
    for message, function in results.items():
        register_feature("gap", function, replace=True)
        with pytest.raises(FeatureError, match=f"'gap'.*{message}"):
            compute_features(market, ["gap"], scaling="none")


# --- other clocks, real data --------------------------------------------------------------------------------


@pytest.mark.parametrize("freq", ["h", "min"])
def test_intraday_bars(freq: str) -> None:
    market = random_market()
    times = pd.date_range("2020-01-01 09:30", periods=120, freq=freq).to_numpy()
    np.testing.assert_array_equal(
        compute_features(replace(market, timestamps=times), BUILT_IN).values,
        compute_features(market, BUILT_IN).values,
    )


def test_bundled_data_with_ragged_listings() -> None:
    names = ["momentum_20", "volatility_20", "rsi_14", "macd", "turbulence"]
    market = MarketData.bundled()
    train, test = market.split("2010-01-01")
    in_train, in_test = compute_features(train, names), compute_features(test, names)
    assert (in_train.first_bar, in_test.first_bar, in_train.scaler == in_test.scaler) == (252, 0, True)
    fb = market.symbols.index("FB")
    columns = [f * 5 + fb for f in range(4)]
    assert (in_train.values[:, columns] == 0).all()
    listing = int(np.argmax(test.has_bar[:, fb]))
    assert (in_test.values[: listing + 14, columns] == 0).all()
    assert (in_test.values[listing + 33, columns] != 0).all()
    turbulence = in_test.values[:, -5:]
    assert (turbulence == turbulence[:, :1]).all()
