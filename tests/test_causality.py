"""assert_causal passes what is causal, and finds every leak that is planted here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pandas as pd
import pytest

from batchenv import BatchTradingEnv, FastTrainingEnv, MarketData
from batchenv.causality import assert_causal
from batchenv.causality.futures import change_after
from batchenv.errors import CausalityError, ConfigError, FeatureError, MarketDataError
from batchenv.features import FeatureScaler, available_features, compute_features, register_feature
from stateful import StatefulTradingEnv
from tests import markets

FEATURES = ["return", "rsi_5", "volume_zscore_5"]
FILLS = ("close", "next_open", "next_close")


def rich_market(n_bars: int = 120) -> MarketData:
    """Ragged, with a column of the user's, splits and dividends."""
    bars = markets.ragged_market(n_bars=n_bars)
    rng = np.random.default_rng(5)
    signal = np.where(rng.random(bars.close.shape) < 0.1, np.nan, rng.normal(size=bars.close.shape))
    happens = (rng.random(bars.close.shape) < 0.05) & bars.has_bar
    dividends, splits = np.where(happens, 0.2, 0.0), np.where(happens, 2.0, 1.0)
    return replace(bars, columns={"signal": signal}, dividends=dividends, splits=splits)


def later_part(n_bars: int = 120) -> MarketData:
    market = rich_market(n_bars)
    return market.split(market.timestamps[n_bars // 2])[1]


def names_all(text: str, *parts: str) -> bool:
    missing = [part for part in parts if part not in text]
    assert not missing, f"{missing} not in {text!r}"
    return True


# --- the change ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bars_too", [False, True])
@pytest.mark.parametrize("cut", [0, 30, 100, 118])
def test_a_change_leaves_everything_up_to_the_cut_and_nothing_after_it(cut: int, bars_too: bool) -> None:
    market = rich_market()
    other = change_after(market, cut, 0, bars_too=bars_too, delisting_too=True)
    again = change_after(market, cut, 0, bars_too=bars_too, delisting_too=True)
    assert other.fingerprint == again.fingerprint != market.fingerprint
    assert (other.fit_bars, other.symbols) == (market.fit_bars, market.symbols)
    both = market.has_bar & other.has_bar
    both[: cut + 1] = False
    for name in ("open", "high", "low", "close", "volume"):
        old, new = getattr(market, name), getattr(other, name)
        np.testing.assert_array_equal(new[: cut + 1], old[: cut + 1])
        assert (new[both] != old[both]).all(), name
    np.testing.assert_array_equal(other.columns["signal"][: cut + 1], market.columns["signal"][: cut + 1])
    assert (other.high >= np.fmax(other.open, other.close))[other.has_bar].all()
    assert (other.low <= np.fmin(other.open, other.close))[other.has_bar].all()
    assert np.array_equal(other.has_bar, market.has_bar) != bars_too
    for name in ("dividends", "splits"):
        none = {"dividends": 0.0, "splits": 1.0}[name]
        old, new = (
            np.full(market.close.shape, none) if x is None else x for x in (getattr(market, name), getattr(other, name))
        )
        np.testing.assert_array_equal(new[: cut + 1], old[: cut + 1])
    assert market.fingerprint == rich_market().fingerprint


def test_a_symbol_that_pauses_comes_back_or_does_not_as_it_did() -> None:
    market = markets.ragged_market()
    paused = int(np.flatnonzero(~market.has_bar[:, 2])[0])
    gone = 110  # D has stopped
    for seed in range(20):
        other = change_after(market, paused, seed, bars_too=True, delisting_too=False)
        assert other.has_bar[paused + 1 :, 2].any()
        assert not change_after(market, gone, seed, bars_too=True, delisting_too=False).has_bar[gone:, 3].any()


def test_a_market_of_closes_alone_can_be_changed() -> None:
    times = pd.bdate_range("2020-01-01", periods=20)
    market = MarketData.from_frame(pd.DataFrame({"A": np.arange(1.0, 21.0), "B": [np.nan] * 19 + [1.0]}, index=times))
    other = change_after(market, 3, 0, bars_too=True, delisting_too=True)
    assert (other.open, other.volume, other.splits, other.dividends) == (None, None, None, None)


# --- features -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*available_features(), "rsi_3", "macd_3_6_4", "signal"])
def test_built_in_features_are_causal(name: str) -> None:
    assert_causal("turbulence_12" if name == "turbulence" else name, rich_market())
    assert_causal("turbulence_12" if name == "turbulence" else name, later_part(), bars=[0, 60, 118], seed=3)


def frame(market: MarketData) -> pd.DataFrame:
    return pd.DataFrame(market.mark)


LEAKS: dict[str, Callable[[MarketData], Any]] = {
    "centred window": lambda m: frame(m).rolling(5, center=True).mean(),
    "z-score of the whole sample": lambda m: (m.mark - np.nanmean(m.mark, axis=0)) / np.nanstd(m.mark, axis=0),
    "shift(-1)": lambda m: frame(m).pct_change(fill_method=None).shift(-1),
    "filled from later": lambda m: pd.DataFrame(m.close).bfill(),
    "the last bar": lambda m: m.mark - m.close[-1][None],
    "tomorrow's range alone": lambda m: np.append(m.high[1:] / m.low[1:], np.full((1, m.n_symbols), np.nan), axis=0),
    "tomorrow's volume": lambda m: np.roll(np.nan_to_num(m.volume), -1, axis=0),
    "tomorrow's own column": lambda m: np.roll(np.nan_to_num(m.columns["signal"]), -1, axis=0),
    "tomorrow's dividend": lambda m: np.roll(m.dividends, -1, axis=0),
    "tomorrow's split": lambda m: np.roll(m.splits, -1, axis=0),
    "who survives": lambda m: np.where(m.has_bar[-5:].any(axis=0), m.mark, 0.0),
    "whether there is a next bar": lambda m: np.roll(m.has_bar.astype(float), -1, axis=0),
    "only at one bar of a late symbol": lambda m: np.where(np.arange(m.n_bars)[:, None] == 80, m.close[81], m.mark),
}


@pytest.mark.parametrize("leak", LEAKS)
@pytest.mark.parametrize("seed", [0, 1])
def test_planted_leak_of_a_feature_is_found(leak: str, seed: int) -> None:
    bars = [80] if leak.startswith("only") else None
    with pytest.raises(CausalityError, match="expected no change"):
        assert_causal(LEAKS[leak], rich_market(), bars=bars, seed=seed)


def test_message_names_feature_cut_bar_symbol_and_both_values() -> None:
    market = rich_market()
    register_feature("ahead", lambda m, n: np.append(m.close[n:, :], m.close[:n, :], axis=0))
    with pytest.raises(CausalityError) as caught:
        assert_causal("ahead_2", market, bars=[50])
    dates = [str(market.timestamps[bar])[:10] for bar in (49, 50)]
    assert names_all(
        str(caught.value), "feature 'ahead_2'", f"after bar 50 ({dates[1]})", f"bar 49 ({dates[0]})", "'A'"
    )
    assert f"went from {market.close[51, 0]} to " in str(caught.value)
    assert isinstance(caught.value, AssertionError)


def test_a_function_may_return_a_frame_by_symbol_and_know_the_history() -> None:
    part = later_part()
    assert_causal(lambda m: pd.DataFrame(m.mark, columns=list(m.symbols)).rolling(50).mean(), part, bars=[118])
    with pytest.raises(ConfigError, match=r"bars: got 119, expected bars from 0 to 118"):
        assert_causal("rsi", part, bars=[119])
    with pytest.raises(ConfigError, match="got none"):
        assert_causal("rsi", part, bars=[])
    with pytest.raises(FeatureError, match="no value"):
        assert_causal(lambda m: np.full_like(m.close, np.nan), part)
    with pytest.raises(FeatureError, match="unknown feature 'rsj'"):
        assert_causal("rsj", part)


# --- environments -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("tier", [StatefulTradingEnv, FastTrainingEnv])
def test_scalar_environments_are_causal(tier: Any, fill: str) -> None:
    config = {"fill": fill, "features": FEATURES, "observation_config": {"unrealized_pnl": True, "time_left": True}}
    assert_causal(lambda market: tier(market, config), later_part())
    assert_causal(
        lambda market: tier(market, config | {"episode_config": {"length": 9, "random_start": True}}), later_part()
    )


@pytest.mark.parametrize("fill", FILLS)
def test_batch_environment_is_causal(fill: str) -> None:
    config: dict[str, Any] = {"fill": fill, "features": FEATURES}
    random = config | {"episode_config": {"length": 20, "random_start": True}}
    assert_causal(lambda market: BatchTradingEnv(market, config, n_envs=1), later_part())
    assert_causal(lambda market: BatchTradingEnv(market, random, n_envs=6, copy=False), later_part(), bars=[20, 40])


def test_an_environment_of_gymnasium_s_own_vectors_is_causal() -> None:
    def make(market: MarketData) -> Any:
        one = lambda: FastTrainingEnv(market, {"features": FEATURES, "fill": "next_close"})  # noqa: E731
        return gymnasium.vector.SyncVectorEnv([one, one])

    assert_causal(make, later_part(), bars=[10, 50])


class LeakyObservation(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Appends the high of a bar that is ``ahead`` of the observed one."""

    def __init__(self, env: Any, ahead: int) -> None:
        super().__init__(env)
        self.ahead = ahead
        size = env.observation_space.shape[0] + env.market.n_symbols
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)

    def _more(self, observation: Any) -> Any:
        env: Any = self.unwrapped
        bar = min(env.bar + self.ahead, env.market.n_bars - 1)
        return np.append(observation, np.nan_to_num(env.market.high[bar])).astype(np.float32)

    def reset(self, **kwargs: Any) -> Any:
        observation, info = self.env.reset(**kwargs)
        return self._more(observation), info

    def step(self, action: Any) -> Any:
        observation, *rest = self.env.step(action)
        return self._more(observation), *rest


class LeakyReward(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Pays for the price of bar t + ``ahead`` in the step from t to t + 1."""

    def __init__(self, env: Any, ahead: int) -> None:
        super().__init__(env)
        self.ahead = ahead

    def step(self, action: Any) -> Any:
        env: Any = self.unwrapped
        bar = min(env.bar + self.ahead, env.market.n_bars - 1)
        observation, _, *rest = self.env.step(action)
        return observation, float(env.market.mark[bar, 0]), *rest


def stateful(market: MarketData, **more: Any) -> StatefulTradingEnv:
    return StatefulTradingEnv(market, {"features": FEATURES}, **more)


@pytest.mark.parametrize("bars", [None, [30]])
def test_planted_leak_of_an_observation_is_found(bars: list[int] | None) -> None:
    assert_causal(lambda m: LeakyObservation(stateful(m), ahead=0), later_part(), bars=bars)
    with pytest.raises(CausalityError, match=r"LeakyObservation.*observation\[\d+\] at bar"):
        assert_causal(lambda m: LeakyObservation(stateful(m), ahead=1), later_part(), bars=bars)


@pytest.mark.parametrize("bars", [None, [30]])
def test_planted_leak_of_a_reward_is_found(bars: list[int] | None) -> None:
    assert_causal(lambda m: LeakyReward(stateful(m), ahead=1), later_part(), bars=bars)
    with pytest.raises(CausalityError, match=r"LeakyReward.*, reward at bar"):
        assert_causal(lambda m: LeakyReward(stateful(m), ahead=2), later_part(), bars=bars)


class PeekingAtFills(StatefulTradingEnv):
    """Buys only what will have risen two bars on."""

    def step(self, action: Any) -> Any:
        later = min(self.bar + 2, self.market.n_bars - 1)
        return super().step(
            np.where(self.market.mark[later] > self.market.mark[self.bar], 1.0, -1.0).astype(np.float32)
        )


class SameBarHigh(StatefulTradingEnv):
    """Buys at the open what will go up by more than it goes down before the bar is over."""

    def step(self, action: Any) -> Any:
        bar = min(self.bar + 1, self.market.n_bars - 1)
        first, high = (np.nan_to_num(prices[bar], nan=1.0) for prices in (self.market.open, self.market.high))
        return super().step(np.where(high > 1.01 * first, 1.0, -1.0).astype(np.float32))


@pytest.mark.parametrize("bars", [None, [30]])
def test_a_decision_by_the_high_of_the_bar_that_it_fills_in_is_found(bars: list[int] | None) -> None:
    rules = {"features": FEATURES, "portfolio_config": {"trade_limit_percent": 0.5}}
    with pytest.raises(
        CausalityError, match=r"SameBarHigh.*changes in all but its open, holdings\[\d\] at that bar went"
    ):
        assert_causal(lambda m: SameBarHigh(m, rules), later_part(), bars=bars)
    # At the close all of the bar is known, and with a participation limit its volume decides what fills.
    assert_causal(lambda m: SameBarHigh(m, rules | {"fill": "next_close"}), later_part(), bars=bars)
    limited = rules | {"execution_config": {"participation_limit": 0.5}}
    assert_causal(lambda m: SameBarHigh(m, limited), later_part(), bars=bars)


def test_an_environment_of_ones_own_says_that_it_fills_at_the_open() -> None:
    class Own(gymnasium.Wrapper[Any, Any, Any, Any]):
        """Has rules that nobody knows."""

        task = None

        @property
        def unwrapped(self) -> Any:
            return self

        bar = property(lambda self: self.env.bar)
        holdings = property(lambda self: self.env.holdings)

    class Secretive(Own):
        holdings = None

    def make(market: MarketData) -> Any:
        return Own(SameBarHigh(market, {"features": [], "portfolio_config": {"trade_limit_percent": 0.5}}))

    assert_causal(make, later_part())
    with pytest.raises(CausalityError, match="knows a bar before it fills at its open"):
        assert_causal(make, later_part(), fills_at_open=True)
    with pytest.raises(ConfigError, match="does not tell its shares; expected an attribute holdings"):
        assert_causal(lambda m: Secretive(make(m)), later_part(), fills_at_open=True)


def test_an_environment_that_decides_with_later_prices_is_found() -> None:
    with pytest.raises(CausalityError, match="PeekingAtFills"):
        assert_causal(lambda m: PeekingAtFills(m, {"features": FEATURES}), later_part())


@pytest.mark.parametrize("make", [StatefulTradingEnv, lambda m, c, **k: BatchTradingEnv(m, c, n_envs=2, **k)])
def test_a_leaky_feature_is_found_in_the_observation_by_name(make: Any) -> None:
    register_feature("peek", lambda m: frame(m).shift(-1).ffill())
    with pytest.raises(CausalityError) as caught:
        assert_causal(lambda m: make(m, {"features": ["return", "peek"]}), later_part(), bars=[40])
    assert names_all(str(caught.value), "after bar 40 (", "observation 'peek[", "at bar 40 (", "went from")


def full_sample(market: MarketData) -> FeatureScaler:
    return compute_features(replace(market, fit_bars=-1), FEATURES).scaler


def test_a_scaler_that_was_fitted_on_later_bars_is_found() -> None:
    part = later_part()
    fixed = compute_features(part, FEATURES).scaler
    assert_causal(lambda m: stateful(m, scaler=fixed), part)
    with pytest.raises(CausalityError, match="observation"):
        assert_causal(lambda m: stateful(m, scaler=full_sample(m)), part)


def test_an_unsplit_market_needs_a_fixed_scaler() -> None:
    market = rich_market()
    train = market.split(market.timestamps[60])[0]
    for whole in (market, train):
        with pytest.raises(MarketDataError, match=r"no bar to cut after; give the second part of market.split"):
            assert_causal(stateful, whole)
        with pytest.raises(CausalityError, match=r"the scaling may be fitted on bars up to \d+, see fit_bars"):
            assert_causal(stateful, whole, bars=[30])
        fixed = compute_features(whole, FEATURES).scaler
        assert_causal(lambda m: stateful(m, scaler=fixed), whole)  # noqa: B023
        assert_causal(lambda m: stateful(m, scaler=fixed), whole, bars=[30, 50])  # noqa: B023
        assert_causal(lambda m: FastTrainingEnv(m, {"features": FEATURES, "feature_scaling": "none"}), whole)
        assert_causal(lambda m: FastTrainingEnv(m, {}), whole)
    later = replace(market, fit_bars=100)
    assert_causal(stateful, later)
    with pytest.raises(CausalityError, match="scaling"):
        assert_causal(stateful, later, bars=[98])


class Noisy(StatefulTradingEnv):
    """Gives another reward at every play."""

    plays = 0

    def reset(self, **kwargs: Any) -> Any:
        Noisy.plays += 1
        return super().reset(**kwargs)

    def step(self, action: Any) -> Any:
        observation, _, *rest = super().step(action)
        return observation, float(Noisy.plays), *rest


class Silent(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Does not tell its bar."""

    @property
    def unwrapped(self) -> Any:
        return self

    def reset(self, **kwargs: Any) -> Any:
        return self.env.reset(**kwargs)[0], {}


def test_what_cannot_be_checked_is_said() -> None:
    part = later_part()
    with pytest.raises(ConfigError, match="differs from one play to the next"):
        assert_causal(lambda m: Noisy(m, {"features": FEATURES}), part)
    with pytest.raises(ConfigError, match=r"does not tell its current bar; expected an attribute bar, or info"):
        assert_causal(lambda m: Silent(stateful(m)), part)
    with pytest.raises(ConfigError, match="stays the same when the market changes"):
        assert_causal(lambda _: stateful(part), part)
    short = {"features": FEATURES, "episode_config": {"length": 2, "random_start": False}}
    with pytest.raises(ConfigError, match=r"none of 20 episodes passes through bar 40 \("):
        assert_causal(lambda m: StatefulTradingEnv(m, short), part, bars=[40])
