"""assert_causal on environments: ours pass, whatever their rules, and every leak that is planted here is found."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest

from batchenv import BatchTradingEnv, FastTrainingEnv, MarketData
from batchenv.causality import assert_causal
from batchenv.errors import CausalityError, CausalityWarning, ConfigError, MarketDataError
from batchenv.features import FeatureScaler, compute_features, register_feature
from stateful import StatefulTradingEnv
from tests.markets import later_part, rich_market
from tests.proof.scenarios import scenario
from tests.test_causality import FEATURES, frame, names_all

FILLS = ("close", "next_open", "next_close")


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


class SameBarClose(StatefulTradingEnv):
    """Buys what will close higher than it did before: decides by the close of the bar that it fills in."""

    def step(self, action: Any) -> Any:
        bar = min(self.bar + 1, self.market.n_bars - 1)
        return super().step(np.where(self.market.mark[bar] > self.market.mark[self.bar], 1.0, -1.0).astype(np.float32))


class FillPrice(BatchTradingEnv):
    """Buys what it will get for less than the last close: decides by the very price that it pays."""

    def step(self, actions: Any, **more: Any) -> Any:
        bar = np.minimum(self.bar + 1, self.market.n_bars - 1)
        prices = self.market.open if self.config.fill == "next_open" else self.market.mark
        cheaper = np.nan_to_num(prices[bar]) < np.nan_to_num(self.market.mark[self.bar])
        return super().step(np.where(cheaper, 1.0, -1.0).astype(np.float32), **more)


class Clairvoyant(gymnasium.ActionWrapper[Any, Any, Any]):
    """A wrapper that does so around any environment."""

    def action(self, action: Any) -> Any:
        env: Any = self.unwrapped
        bar = min(env.bar + 1, env.market.n_bars - 1)
        return np.where(env.market.mark[bar] > env.market.mark[env.bar], 1.0, -1.0).astype(np.float32)


WITHIN_THE_BAR: dict[str, dict[str, Any]] = {
    "nothing": {},
    "a stop": {"execution_config": {"stop_loss": 0.05}},
    "a target": {"execution_config": {"take_profit": 0.05}},
    "a limit on participation": {"execution_config": {"participation_limit": 0.5}},
    "impact": {"cost_config": {"impact_coefficient": 0.1}},
}


@pytest.mark.parametrize("fill", ["next_open", "next_close"])
@pytest.mark.parametrize("rule", WITHIN_THE_BAR)
@pytest.mark.parametrize(
    "make",
    [
        SameBarHigh,
        SameBarClose,
        lambda m, rules: FillPrice(m, rules, n_envs=3),
        lambda m, rules: Clairvoyant(FastTrainingEnv(m, rules)),
    ],
    ids=["high", "close", "fill price", "wrapper"],
)
def test_a_decision_by_the_bar_that_it_fills_in_is_found_whatever_the_rules(make: Any, rule: str, fill: str) -> None:
    """The fill may depend on a stop, an impact or the volume of its bar, but what was decided may not."""
    rules = {"features": FEATURES, "fill": fill, "portfolio_config": {"trade_limit_percent": 0.5}}
    with pytest.raises(CausalityError, match=r"the decision\[\d\](?: of lane \d)? at bar \d+ .* went from"):
        assert_causal(lambda m: make(m, rules | WITHIN_THE_BAR[rule]), later_part())


class Own(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment of somebody else's: has rules that nobody knows, and tells no decision."""

    task = None
    decided: Any = None

    @property
    def unwrapped(self) -> Any:
        return self

    bar = property(lambda self: self.env.bar)
    holdings: Any = property(lambda self: self.env.holdings)


def test_an_environment_of_ones_own_says_that_it_fills_at_the_open() -> None:
    class Secretive(Own):
        holdings = None

    def make(market: MarketData) -> Any:
        return Own(SameBarHigh(market, {"features": [], "portfolio_config": {"trade_limit_percent": 0.5}}))

    with pytest.raises(CausalityError, match=r"Own.*changes in all but its open, holdings\[\d\] at that bar went"):
        assert_causal(make, later_part(), fills_at_open=True)
    with pytest.raises(ConfigError, match="does not tell its shares; expected an attribute holdings"):
        assert_causal(lambda m: Secretive(make(m)), later_part(), fills_at_open=True)


def test_an_environment_of_ones_own_tells_its_decisions_or_is_warned_of() -> None:
    class Telling(Own):
        decided = property(lambda self: self.env.decided)

    def make(market: MarketData) -> Any:
        return SameBarClose(market, {"features": [], "fill": "next_close"})

    with pytest.warns(
        CausalityWarning, match=r"Own.* does not tell what it decides, so a decision by prices of the bar"
    ):
        assert_causal(lambda m: Own(make(m)), later_part())
    with pytest.raises(CausalityError, match="the decision"):
        assert_causal(lambda m: Telling(make(m)), later_part())
    assert_causal(lambda m: Telling(stateful(m)), later_part())  # no warning, which would be an error here


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


@pytest.mark.parametrize(
    "tier", [StatefulTradingEnv, lambda m, rules, **more: BatchTradingEnv(m, rules, n_envs=2, **more)]
)
def test_a_fixed_scaler_that_was_fitted_on_all_that_is_handed_in_is_found(tier: Any) -> None:
    part = later_part()
    alone = compute_features(replace(part, history=None, fit_bars=-1), FEATURES).scaler
    fitted = compute_features(part, FEATURES).scaler
    other = FeatureScaler(fitted.names, tuple(x + 0.1 for x in fitted.mean), fitted.std)

    def check(scaler: FeatureScaler) -> None:
        assert_causal(lambda m: tier(m, {"features": FEATURES}, scaler=scaler), part)

    for scaler, which in ((full_sample(part), "all 120 bars of history and part"), (alone, "all 60 bars of the part")):
        with pytest.raises(CausalityError, match=rf"its scaling .* is what {which} give; expected .* first 60 of 120"):
            check(scaler)
    check(fitted)
    check(other)  # of other bars: nobody can tell


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


# --- ours, whatever the rules and the data ------------------------------------------------------------------


def of_lane(given: dict[str, Any] | None, lane: int) -> dict[str, Any] | None:
    """Return one lane's part of the parameters."""
    if given is None:
        return None
    arrays = {name: np.asarray(value) for name, value in given.items()}
    return {name: value[lane : lane + 1] if value.ndim else value for name, value in arrays.items()}


@pytest.mark.parametrize("tier", ["batch", "fast", "stateful"])
@pytest.mark.parametrize("seed", range(16))
def test_every_environment_is_causal_in_drawn_worlds(seed: int, tier: str) -> None:
    """Rules, lanes, late listings, pauses, delistings, splits and dividends as the proof draws them, bit by bit."""
    r = random.Random(seed)
    n_envs = r.choice([1, 2, 5, 16, 17, 33])
    world = scenario(r, n_bars=60, n_symbols=r.randrange(1, 5), n_envs=n_envs, steps=1)
    given, lane = world.lane_parameters, of_lane(world.lane_parameters, 0)
    make = {
        "batch": lambda m: BatchTradingEnv(m, world.config, n_envs=n_envs, lane_parameters=given),
        "fast": lambda m: FastTrainingEnv(m, world.config, lane_parameters=lane),
        "stateful": lambda m: StatefulTradingEnv(m, world.config, lane_parameters=lane),
    }[tier]
    assert_causal(make, world.market, seed=seed, cuts=6)


@pytest.mark.parametrize("n_envs", [1, 17, 64])
@pytest.mark.parametrize("mode", ["weights", "trade", "shares"])
def test_the_documented_check_passes_on_the_bundled_data(mode: str, n_envs: int) -> None:
    """Which kernel serves once depended on whether a symbol was delisted later: the last digit of cash told."""
    config = {
        "features": ["return_1"],
        "action_config": {"mode": mode},
        "cost_config": {"fee_rate": 0.001, "slippage_rate": 0.0005},
        "episode_config": {"length": 100, "random_start": True},
    }
    test = MarketData.bundled().split("2010-01-01")[1]
    assert_causal(lambda m: BatchTradingEnv(m, config, n_envs=n_envs), test, cuts=6)


@pytest.mark.parametrize("make", [StatefulTradingEnv, lambda m, c: BatchTradingEnv(m, c, n_envs=2)])
def test_the_features_of_an_environment_of_ours_are_checked_more_closely(make: Any) -> None:
    """One value that looks ahead is too little to be seen in some episodes, but not by the combs."""

    def once(market: MarketData) -> np.ndarray:
        values = np.array(market.mark)
        values[77] = market.mark[78]
        return values

    register_feature("once", once, replace=True)
    with pytest.raises(CausalityError, match=r"feature 'once' uses later bars: .*bar 77"):
        assert_causal(lambda m: make(m, {"features": ["return", "once"]}), later_part(), cuts=8)


def test_a_column_that_holds_the_target_is_found_where_it_is_observed() -> None:
    part = later_part()
    returns = frame(part.with_history()).pct_change(fill_method=None).shift(-1).to_numpy()
    whole = replace(part.with_history(), columns={"score": returns})
    market = whole.split(part.timestamps[0])[1]

    def make(market: MarketData) -> StatefulTradingEnv:
        return StatefulTradingEnv(market, {"features": ["return", "score"]})

    subjects: tuple[Any, ...] = (make, "score")
    for subject in subjects:
        with pytest.raises(CausalityError, match=r"column 'score' of 'A' holds the return to the next bar: rank corr"):
            assert_causal(subject, market)
        assert_causal(subject, market, check_columns=False)
    assert_causal(stateful, market)  # it is not observed there
