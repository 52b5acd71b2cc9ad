"""find_targets names columns that hold later prices, and none that are honest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from batchenv import MarketData
from batchenv.causality import find_targets
from batchenv.errors import ConfigError
from batchenv.features import _evaluate, _parse
from tests import markets


def marks(market: MarketData) -> pd.DataFrame:
    return pd.DataFrame(market.mark)


def returns(market: MarketData) -> pd.DataFrame:
    return marks(market).pct_change(fill_method=None)


TARGETS: dict[str, tuple[Callable[[MarketData], Any], str]] = {
    "the next return": (lambda m: returns(m).shift(-1), "the return to the next bar"),
    "its opposite": (lambda m: -returns(m).shift(-1), "the return to the next bar"),
    "its sign": (lambda m: np.sign(returns(m).shift(-1)), "the return to the next bar"),
    "whether it goes up": (lambda m: (returns(m).shift(-1) > 0) * 1.0, "the return to the next bar"),
    "its bucket": (lambda m: np.digitize(returns(m).shift(-1).fillna(0), [-0.02, 0.02]), "the return to the next bar"),
    "a function of it": (lambda m: np.tanh(50 * returns(m).shift(-1)), "the return to the next bar"),
    "the return three bars on": (lambda m: returns(m).shift(-3), "the return of the bar 3 bars later"),
    "the return over five bars": (lambda m: marks(m).shift(-5) / marks(m) - 1, "the return to 5 bars later"),
    "the next close": (lambda m: marks(m).shift(-1), "the close of the next bar"),
    "the close in another unit": (lambda m: 3.7 * marks(m).shift(-2) - 5, "the close of 2 bars later"),
}


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("seed", range(3))
def test_a_column_that_holds_the_target_is_named_with_its_correlation(name: str, seed: int) -> None:
    make, what = TARGETS[name]
    market = markets.ragged_market(seed, 300)
    values = np.asarray(make(market), float)
    (found,) = find_targets(replace(market, columns={"score": values, "volume_too": np.nan_to_num(market.volume)}))
    assert (found.column, found.what) == ("score", what)
    assert abs(found.correlation) == pytest.approx(1.0, abs=0.02) and found.n_bars > 100
    assert f"column 'score' of {found.symbol} holds {what}: rank correlation {found.correlation:.3f}" in str(found)


def test_the_ranks_of_the_next_returns_are_found_over_all_symbols() -> None:
    market = MarketData.from_frame(markets.frame(0, 120, tuple("ABCDEFGH")))
    (found,) = find_targets(replace(market, columns={"rank": returns(market).shift(-1).rank(axis=1).to_numpy()}))
    assert (found.symbol, found.what) == ("all symbols", "how the next returns rank")


def test_history_counts_and_columns_can_be_chosen() -> None:
    market = markets.market(0, 120)
    whole = replace(market, columns={"x": returns(market).shift(-1).to_numpy(), "y": market.mark})
    part = whole.split(whole.timestamps[100])[1]
    assert [target.column for target in find_targets(part)] == ["x"]
    assert find_targets(part, ["y"]) == () and len(find_targets(part, ["x"])) == 1
    with pytest.raises(ConfigError, match=r"columns: got 'z'.*expected some of \['x', 'y'\]"):
        find_targets(part, ["z"])


def honest(market: MarketData, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return columns that know nothing later: levels, averages, calendars, walks, rare flags, constants."""
    shape, time = market.close.shape, np.arange(market.n_bars)[:, None]
    columns: dict[str, Any] = {
        "level": market.mark,
        "highest of the bar": market.high,
        "average": marks(market).rolling(10).mean(),
        "momentum": marks(market).pct_change(10, fill_method=None),
        "highest": marks(market).cummax(),
        "sign": np.sign(returns(market)),
        "rank": returns(market).rank(axis=1),
        "turnover": market.volume,
        "time": time + np.zeros(shape),
        "weekday": ((market.timestamps.astype("M8[D]").astype(int) + 3) % 7)[:, None] + np.zeros(shape),
        "season": np.sin(time / rng.uniform(2, 30, shape[1])),
        "walk": np.cumsum(rng.normal(size=shape), axis=0),
        "slow": pd.DataFrame(rng.normal(size=shape)).ewm(alpha=0.02).mean(),
        "flag": (rng.random(shape) < 0.1) * 1.0,
        "once": (time == market.n_bars // 2) + np.zeros(shape),
        "constant": np.ones(shape),
        "nothing": np.full(shape, np.nan),
    }
    return {name: np.asarray(values, float) for name, values in columns.items()}


@pytest.mark.parametrize("n_bars", [20, 40, 100, 400])
@pytest.mark.parametrize("kind", ["walk", "trend", "wave"])
@pytest.mark.parametrize("seed", range(4))
def test_honest_columns_raise_no_alarm(seed: int, kind: str, n_bars: int) -> None:
    """Autocorrelated ones neither, nor in markets that anybody could foretell."""
    market, time = MarketData.from_frame(markets.frame(seed, n_bars, tuple("ABCDEF"))), np.arange(n_bars)[:, None]
    if kind != "walk":
        wave = 0.05 * np.sin(time / np.linspace(4, 9, 6)) if kind == "wave" else 0.0
        close = 100 * np.exp(0.003 * time + wave + np.zeros(market.close.shape))
        market = replace(market, close=close, open=close, high=close, low=close)
    columns = honest(market, np.random.default_rng(seed))
    assert [str(target) for target in find_targets(replace(market, columns=columns))] == []


@pytest.mark.parametrize("adjusted", [True, False])
def test_no_feature_of_the_bundled_data_is_taken_for_a_target(adjusted: bool) -> None:
    market = MarketData.bundled(adjusted)
    names = ("return", "momentum_5", "rsi_2", "rsi_14", "macd", "volatility_20", "sma_distance_200", "volume_zscore_20")
    features = {f"f_{name}": _evaluate(_parse(name, market), market) for name in names}
    assert find_targets(replace(market, columns=features | honest(market, np.random.default_rng(0)))) == ()
