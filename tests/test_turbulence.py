"""Turbulence: the values of the definition, with a pseudo-inverse at every bar, in every kind of market."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from batchenv import assert_causal
from batchenv.errors import FeatureError
from batchenv.features import compute_features
from batchenv.market import MarketData
from batchenv.turbulence import turbulence

Floats = np.ndarray[Any, np.dtype[np.float64]]
BARS, N = 80, 12


def by_definition(returns: Floats, n: int) -> tuple[Floats, np.ndarray[Any, np.dtype[np.bool_]]]:
    """Kritzman and Li's formula as FinRL has it, and where a pseudo-inverse in floating point has 8 digits.

    It has them where each singular value of the covariance is above 1e-6 of the largest, or small enough to be cut off.
    """
    missing = np.isnan(returns)
    result, sure = np.full(len(returns), np.nan), np.zeros(len(returns), bool)
    positive = 0
    for t in range(n, len(returns)):
        absent = missing[t - n : t]
        skip = int(absent.sum(axis=0).min())
        kept = ~absent[skip:].any(axis=0)
        if n - skip < 2 or not kept.any():
            continue
        window = returns[t - n + skip : t, kept]
        deviation = returns[t, kept] - window.mean(axis=0)
        covariance = np.atleast_2d(np.cov(window, rowvar=False))
        sizes = np.linalg.svd(covariance, compute_uv=False)
        rank = np.linalg.matrix_rank(window - window.mean(axis=0))
        sure[t] = rank == 0 or ((sizes[:rank] > 1e-6 * sizes[0]).all() and (sizes[rank:] < 1e-15 * sizes[0]).all())
        distance = float(deviation @ np.linalg.pinv(covariance) @ deviation)
        positive += distance > 0.0
        result[t] = distance if distance > 0.0 and positive > 2 else 0.0
    return result, sure


def market_of(kind: str, symbols: int, seed: int) -> Floats:
    """Returns [bars, symbols] of one kind of market; the first bar has none."""
    rng = np.random.default_rng([seed, symbols])
    returns: Floats = rng.normal(0, 0.02, (BARS, symbols))
    if kind == "one factor":
        returns = returns[:, :1] * rng.uniform(0.5, 1.5, (1, symbols)) + rng.normal(0, 0.005, (BARS, symbols))
    elif kind == "factors alone":
        returns = rng.normal(0, 0.02, (BARS, 2)) @ rng.normal(0, 1, (2, symbols))
    elif kind == "identical symbols":
        returns[:, 1] = returns[:, 0]
    elif kind == "constant prices":
        returns[:, 1] = 0.0
        returns[40:, 2] = 0.0  # delisted
    elif kind == "constant returns":
        returns[:, 1] = 0.01
    elif kind == "steep trends":
        returns += rng.uniform(0.5, 1.0, symbols)
    elif kind == "many gaps":
        returns[rng.uniform(size=returns.shape) < 0.4] = 0.0
    elif kind == "listings":
        for s in range(symbols):
            returns[: rng.integers(0, 60), s] = np.nan
    returns[0] = np.nan
    return returns


KINDS = (
    "random", "one factor", "factors alone", "identical symbols", "constant prices", "constant returns",
    "steep trends", "many gaps", "listings",
)  # fmt: skip


@pytest.mark.parametrize("symbols", [3, 11, 12, 13, 40])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_definition_wherever_a_pseudo_inverse_has_digits(kind: str, symbols: int) -> None:
    compared = 0
    for n, seed in ((3, 0), (N, 1), (25, 2)):
        returns = market_of(kind, symbols, seed)
        expected, sure = by_definition(returns, n)
        found = turbulence(returns, n)
        np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
        np.testing.assert_allclose(found[sure], expected[sure], rtol=1e-8)
        compared += int(sure.sum())
    assert compared > 90


@pytest.mark.parametrize("symbols", [3, 12, 40])
@pytest.mark.parametrize("kind", KINDS)
def test_a_bar_depends_on_the_bars_before_to_the_last_bit(kind: str, symbols: int) -> None:
    returns, rng = market_of(kind, symbols, 0), np.random.default_rng(5)
    whole = turbulence(returns, N)
    for cut in (20, 45, 60):
        other = returns.copy()
        other[cut:] = rng.normal(0, 0.05, other[cut:].shape)
        for later in (returns[:cut], other):
            np.testing.assert_array_equal(turbulence(later, N)[:cut], whole[:cut])


def market(symbols: int, change: Callable[[Floats], None] | None = None) -> MarketData:
    rng = np.random.default_rng(symbols)
    close = 50.0 * np.exp(np.cumsum(rng.normal(0, 0.02, (BARS, symbols)), axis=0))
    close[:30, -1] = np.nan
    close[50:53, 0] = np.nan
    if change is not None:
        change(close)
    times = np.arange("2020-01-01", BARS, dtype="datetime64[D]").astype("datetime64[ns]")
    return MarketData(tuple(f"S{s}" for s in range(symbols)), times, close)


@pytest.mark.parametrize("symbols", [2, 11, 12, 60])
def test_it_does_not_look_ahead_with_fewer_or_more_symbols_than_bars(symbols: int) -> None:
    assert_causal(f"turbulence_{N}", market(symbols))


def test_a_part_has_the_values_of_the_whole() -> None:
    bars = market(40)
    whole = compute_features(bars, ["turbulence_12"], scaling="none").values
    for date in bars.timestamps[[20, 47, 70]]:
        first, second = bars.split(date)
        for part, rows in ((first, slice(0, first.n_bars)), (second, slice(first.n_bars, None))):
            got = compute_features(part, ["turbulence_12"], scaling="none").values
            np.testing.assert_array_equal(got, whole[rows])


def test_a_return_that_cannot_be_squared_is_named() -> None:
    def spike(close: Floats) -> None:
        close[40, 1] = 1e200

    with pytest.raises(FeatureError, match=r"'turbulence': the return of symbol 'S1' at bar 40 \(2020-02-10\) is "):
        compute_features(market(4, spike), ["turbulence_12"])
