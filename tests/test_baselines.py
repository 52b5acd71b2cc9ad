"""Baselines: the formulas against other ways to the same numbers, and the rules as policies in both tiers."""

from __future__ import annotations

import math
import pickle
import statistics
from itertools import chain, combinations, pairwise

import gymnasium
import numpy as np
import pandas as pd
import pytest
from scipy.optimize import brentq

from batchenv import BatchTradingEnv, FastTrainingEnv, MarketData, TradingVecEnv
from batchenv.causality import assert_causal
from batchenv.config import BASELINES, BacktestConfig
from batchenv.errors import ConfigError, EnvironmentStateError
from stateful import BackTesting, StatefulTradingEnv
from stateful.accounts import Accounts, total_return_index
from stateful.baselines import (
    OLMAR,
    AllCash,
    BuyAndHold,
    EqualWeight,
    InverseVolatility,
    MinimumVariance,
    Momentum,
    RandomTurnover,
    make_baselines,
)
from stateful.policies import WeightRule
from stateful.portfolios import (
    best_equally,
    inverse_volatility,
    least_variance,
    minimum_variance,
    project_to_simplex,
    reversion_step,
    shrunk_covariance,
)
from tests.markets import frame, market, ragged_market
from tests.stateful.policies import ConstantAgent, RandomAgent

FREE = {"fee_rate": 0.0, "slippage_rate": 0.0}
RULES = {
    rule.name: rule
    for rule in (
        BuyAndHold(),
        EqualWeight(rebalance_bars=7),
        MinimumVariance(window=20, rebalance_bars=7),
        InverseVolatility(window=10, rebalance_bars=7),
        Momentum(window=20, skip=5, rebalance_bars=7),
        OLMAR(),
        RandomTurnover(0.05, seed=3),
        AllCash(),
    )
}
LOOKING_BACK = ("minimum_variance", "inverse_volatility", "momentum", "olmar")
LOW = 25
"""A number of symbols for which float32 rounds 1 / n down."""
SCALAR_ENVS = (StatefulTradingEnv, FastTrainingEnv)


def play(env, policy):
    """Play one episode of a scalar environment through ``predict``; return the observed actions."""
    policy, actions = policy.bind(env), []
    observation, _ = env.reset()
    over = False
    while not over:
        action, _ = policy.predict(observation)
        actions.append(action)
        observation, _, terminated, truncated, _ = env.step(action)
        over = terminated or truncated
    return np.array(actions)


def backtest(bars, config, *baselines, agent=None, **settings):
    env = StatefulTradingEnv(bars, config, [], seed=0)
    agent = agent or ConstantAgent(np.zeros(len(bars.symbols)))
    return BackTesting(agent, env, {"vectorbt": False, **settings}, baselines=baselines or None).run()


def big_four():
    """Real prices, which move together: those of random markets leave nothing to estimate."""
    return MarketData.bundled().select(["AAPL", "GOOG", "IBM", "MSFT"]).between("2005-01-01", "2005-12-31")


def weights_at(rule, bars, bar, allowed=None):
    """Return the weights that a rule decides on at a bar of a market."""
    whole = bars.with_history()
    active = whole.has_bar if allowed is None else whole.has_bar & allowed
    row = np.array([bar + whole.n_bars - bars.n_bars])
    return rule.weights(total_return_index(bars), active, row)[0]


# --- formulas -----------------------------------------------------------------------------------------------


def test_projection_to_the_simplex():
    np.testing.assert_allclose(project_to_simplex(np.array([1.0, 0.5, -1.0])), [0.75, 0.25, 0.0], atol=1e-15)
    rng = np.random.default_rng(0)
    for _ in range(50):
        point = rng.normal(0, 3, rng.integers(1, 8))
        # The nearest point is max(v - shift, 0) for the one shift that gives the sum 1.
        shift = brentq(lambda x, v=point: np.maximum(v - x, 0).sum() - 1, point.min() - 1, point.max(), xtol=1e-14)
        np.testing.assert_allclose(project_to_simplex(point), np.maximum(point - shift, 0), atol=1e-12)


def test_projection_of_points_far_away():
    """1 is lost beside 1e18: the nearest weights are where the largest coordinate is."""
    np.testing.assert_array_equal(project_to_simplex(np.array([1e18, -1e18, 3e17])), [1, 0, 0])
    np.testing.assert_array_equal(project_to_simplex(np.array([-2e20, -2e20])), [0.5, 0.5])


def test_olmar_stays_where_symbols_differ_by_rounding_alone():
    """Prices that move as one: what is left of their difference is of the order of 1e-17."""
    path = 100 * np.exp(np.cumsum(np.random.default_rng(0).normal(0, 0.01, 60)))
    prices = path[:, None] * np.array([1.0, 3.0, 0.7])
    found = OLMAR().weights(prices, np.ones(prices.shape, bool), np.arange(60))
    np.testing.assert_allclose(found, 1 / 3, rtol=1e-9)


def test_least_variance_in_closed_form():
    np.testing.assert_allclose(least_variance(np.diag([1.0, 2.0, 4.0])), np.array([4, 2, 1]) / 7, atol=1e-12)
    # Correlation 0.9: without the sign constraint the second weight would be (1 - 1.8) / (1 + 4 - 3.6) < 0.
    np.testing.assert_allclose(least_variance(np.array([[1.0, 1.8], [1.8, 4.0]])), [1, 0], atol=1e-12)
    np.testing.assert_array_equal(least_variance(np.zeros((4, 4))), np.full(4, 0.25))
    np.testing.assert_allclose(least_variance(np.ones((2, 2))).sum(), 1.0)


def test_least_variance_is_the_best_of_all_supports():
    rng = np.random.default_rng(1)
    for _ in range(20):
        n = int(rng.integers(2, 6))
        mixed = rng.normal(0, 1, (n, n + 2)) + rng.normal(0, 2, n + 2)  # a common factor, so that some weights are 0
        covariance = mixed @ mixed.T * 1e-4
        best, lowest = None, math.inf
        for support in chain.from_iterable(combinations(range(n), k) for k in range(1, n + 1)):
            inner = np.linalg.solve(covariance[np.ix_(support, support)], np.ones(len(support)))
            inner /= inner.sum()
            if (inner >= 0).all() and inner @ covariance[np.ix_(support, support)] @ inner < lowest:
                lowest = inner @ covariance[np.ix_(support, support)] @ inner
                best = np.zeros(n)
                best[list(support)] = inner
        np.testing.assert_allclose(least_variance(covariance), best, atol=1e-8)


def test_minimum_variance_shrinks_as_ledoit_and_wolf():
    prices = big_four().close[:60]
    returns = prices[1:] / prices[:-1] - 1
    x = returns - returns.mean(axis=0)
    n_bars, n = x.shape
    sample = x.T @ x / n_bars
    mean = np.trace(sample) / n
    # Ledoit & Wolf (2004), section 3.3, with norms divided by n.
    distance = ((sample - mean * np.eye(n)) ** 2).sum() / n
    error = sum(((np.outer(row, row) - sample) ** 2).sum() for row in x) / n / n_bars**2
    shrinkage = min(error, distance) / distance
    assert 0.05 < shrinkage < 1
    shrunk = shrinkage * mean * np.eye(n) + (1 - shrinkage) * sample
    np.testing.assert_allclose(minimum_variance(prices), least_variance(shrunk), atol=1e-9)


def test_minimum_variance_is_that_of_sklearn_and_of_an_active_set_solver():
    """Two libraries that know nothing of the shortcuts: Ledoit and Wolf's shrinkage, and Lawson and Hanson's solver."""
    from scipy.optimize import nnls
    from sklearn.covariance import ledoit_wolf

    rng, limited = np.random.default_rng(5), 0
    for n in (1, 2, 5, 12, 40):
        for n_bars in (21, 60, 253):
            common = rng.normal(0, 0.01, (n_bars, 1)) * rng.uniform(-0.5, 2, n)
            returns = common + rng.normal(0, 0.01, (n_bars, n)) * rng.uniform(0.2, 3, n)
            prices = 100 * np.exp(returns.cumsum(axis=0))
            covariance, _ = ledoit_wolf(prices[1:] / prices[:-1] - 1)
            np.testing.assert_allclose(
                shrunk_covariance(prices[1:] / prices[:-1] - 1), covariance, rtol=1e-9, atol=1e-15
            )
            root = np.linalg.cholesky(covariance / covariance.mean()).T
            solution, _ = nnls(root, np.linalg.solve(root.T, np.ones(n)))
            np.testing.assert_allclose(minimum_variance(prices), solution / solution.sum(), atol=1e-9)
            limited += (solution == 0).any()
    assert limited >= 5  # of which some weights are held at 0


def test_inverse_volatility_by_hand():
    prices = np.array([[100.0, 50.0, 7.0], [110.0, 50.5, 7.0], [99.0, 51.0, 7.0], [120.0, 50.0, 7.0]])
    inverse = [1 / statistics.stdev(b / a - 1 for a, b in pairwise(p)) for p in prices.T[:2].tolist()]
    np.testing.assert_allclose(inverse_volatility(prices), [*np.divide(inverse, sum(inverse)), 0], rtol=1e-12)
    np.testing.assert_array_equal(inverse_volatility(np.ones((5, 2))), [0.5, 0.5])


def test_the_best_are_held_equally():
    np.testing.assert_array_equal(best_equally(np.array([3.0, 1.0, 2.0, 9.0]), 0.5), [0.5, 0, 0, 0.5])
    np.testing.assert_array_equal(best_equally(np.array([1.0, 1.0, 1.0]), 1 / 3), [1, 0, 0])
    assert np.count_nonzero(best_equally(np.arange(5.0), 1 / 3)) == 2


def paper_olmar(prices, window, epsilon):
    """Li & Hoi (2012), algorithms 1 and 2, in plain Python: the portfolio decided on after each bar.

    The paper does not say what to do before the first moving average. This is what the authors' toolbox does (OLPS,
    ``olmar1_run`` and ``olmar1_expert``): nothing for two bars, and then, until window + 1 price relatives are known,
    the last one in place of the expected one.
    """
    n = len(prices[0])
    portfolio, portfolios = [1 / n] * n, []
    for t in range(len(prices)):
        if t >= 2:
            if t < window + 1:
                relative = [prices[t][i] / prices[t - 1][i] for i in range(n)]
            else:
                relative = [sum(prices[t - k][i] for k in range(window)) / window / prices[t][i] for i in range(n)]
            mean = sum(relative) / n
            size = sum((x - mean) ** 2 for x in relative)
            expected = sum(b * x for b, x in zip(portfolio, relative, strict=True))
            step = max(0.0, (epsilon - expected) / size)
            moved = [b + step * (x - mean) for b, x in zip(portfolio, relative, strict=True)]
            shift = brentq(lambda s, m=moved: sum(max(x - s, 0) for x in m) - 1, min(moved) - 1, max(moved), xtol=1e-15)
            portfolio = [max(x - shift, 0.0) for x in moved]
        portfolios.append(portfolio)
    return portfolios


@pytest.mark.parametrize("epsilon", [1.01, 10.0])
def test_olmar_is_the_algorithm_of_the_paper(epsilon):
    bars = market(6)
    expected = np.array(paper_olmar(bars.close.tolist(), 5, epsilon))
    found = OLMAR(epsilon=epsilon).weights(total_return_index(bars), bars.has_bar, np.arange(bars.n_bars))
    np.testing.assert_allclose(found, expected, atol=1e-10)
    assert np.ptp(found[:2]) == 0 and (np.ptp(found[2:6], axis=1) > 0.1).all()  # it does not wait for the average
    assert (np.count_nonzero(found[4:] > 1e-9, axis=1) > 1).any()
    # ... and earns its own portfolios, one bar at a time.
    relatives = bars.close[1:] / bars.close[:-1]
    wealth = np.prod((expected[:-1] * relatives).sum(axis=1))
    results = backtest(bars, {"cost_config": FREE, "fill": "close"}, OLMAR(epsilon=epsilon))
    assert results.metrics["baselines"]["olmar"]["total_return"] == pytest.approx(wealth - 1, rel=1e-9)


def test_olmar_stays_where_it_expects_enough():
    weights = np.array([0.3, 0.7])
    np.testing.assert_allclose(reversion_step(weights, np.array([[2.0, 1.0], [1.0, 1.0]]), 1.1), weights, atol=1e-15)
    np.testing.assert_allclose(reversion_step(weights, np.ones((3, 2)), 10.0), weights, atol=1e-15)


def test_momentum_by_hand():
    n, growth = 40, {"A": 1.010, "B": 1.020, "C": 1.001, "D": 0.990}
    dates = pd.bdate_range("2020-01-01", periods=n)
    closes = pd.DataFrame({s: 10 * g ** np.arange(n) for s, g in growth.items()}, index=dates)
    closes.iloc[-5:, closes.columns.get_loc("D")] *= 100  # the last bars do not count
    bars = MarketData.from_frame(closes)
    rule = Momentum(window=20, skip=5, top=0.5)
    np.testing.assert_array_equal(weights_at(rule, bars, n - 1), [0.5, 0.5, 0, 0])
    np.testing.assert_array_equal(weights_at(rule, bars, n - 1, np.array([True, False, True, True])), [0.5, 0, 0.5, 0])
    np.testing.assert_array_equal(weights_at(rule, bars, 19), [0.25] * 4)


def test_the_total_return_of_raw_prices_is_the_growth_of_adjusted_ones():
    raw, adjusted = (MarketData.bundled(adjusted=kind).split("2005-01-01")[1] for kind in (False, True))
    assert raw.splits is not None and raw.dividends is not None
    index, expected = total_return_index(raw), adjusted.with_history().mark
    assert index.shape == (len(expected), 5)
    ratio = index / expected
    np.testing.assert_allclose(ratio / np.nanmax(ratio, axis=0), np.where(np.isnan(ratio), np.nan, 1.0), rtol=2e-3)


# --- what rules look at -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOOKING_BACK)
def test_a_rule_knows_no_later_bar(name):
    rule = RULES[name]

    def decisions(bars):
        return rule.weights(total_return_index(bars), bars.has_bar, np.arange(bars.n_bars))

    assert_causal(decisions, ragged_market(1))


class Driven(gymnasium.Wrapper):
    """An environment in which a baseline acts, whatever the action."""

    def __init__(self, env, rule):
        super().__init__(env)
        self.policy = rule.bind(env)

    def reset(self, **kwargs):
        self.last, info = self.env.reset(**kwargs)
        return self.last, info

    def step(self, action):
        result = self.env.step(self.policy.predict(self.last)[0])
        self.last = result[0]
        return result


@pytest.mark.parametrize("name", [name for name in RULES if name != "cash"])
def test_a_policy_knows_no_later_bar(name):
    config = {"action_config": {"mode": "weights" if name == "olmar" else "trade"}}
    part = ragged_market(1).split("2020-03-01")[1]
    assert_causal(lambda bars: Driven(StatefulTradingEnv(bars, config, [], seed=0), RULES[name]), part, bars=[30, 60])


@pytest.mark.parametrize("name", RULES)
def test_nothing_is_bought_that_has_no_bar_or_may_not_be_traded(name):
    bars = ragged_market(2)
    universes = {"tradable": np.array([[True, True, True, True], [False, True, True, False]])}
    env = BatchTradingEnv(bars, {"action_config": {"mode": "weights"}}, [], 2, seed=0, lane_parameters=universes)
    env.reset()
    rule = RULES[name].bind(env)
    for _ in range(bars.n_bars - 1):
        accounts = Accounts.of(env)
        since, weights = rule.decided(accounts)
        fresh = since == accounts.bar
        assert (weights[fresh][~accounts.active[fresh]] == 0).all()
        assert (weights[since >= 0] >= 0).all() and (weights.sum(axis=1) < 1 + 1e-12).all()
        if name not in ("random", "cash"):
            np.testing.assert_allclose(weights[since >= 0].sum(axis=1), 1.0, rtol=1e-12)
        actions, _ = rule.predict(np.zeros((2, 1)))
        before = env.holdings.copy()
        env.step(actions)
        if env.bar[0] > 0:  # else a new episode has begun
            assert not ((env.holdings > before * (1 + 1e-6)) & ~accounts.active).any()


def test_a_rule_that_looks_back_needs_history_and_takes_what_lies_before_the_part():
    whole = MarketData.bundled().select(["AAPL", "IBM", "MSFT"])
    train, test = whole.split("2003-06-02")
    alone = MarketData(test.symbols, test.timestamps, test.close)
    for name in ("minimum_variance", "inverse_volatility", "momentum"):
        rule = RULES[name]
        assert train.n_bars > rule.window
        np.testing.assert_array_equal(weights_at(rule, alone, rule.window - 1), [1 / 3] * 3)
        assert np.ptp(weights_at(rule, alone, rule.window)) > 0
        assert np.ptp(weights_at(rule, test, 0)) > 0
        np.testing.assert_array_equal(weights_at(rule, test, 0), weights_at(rule, whole, train.n_bars))
        since, decided = rule.decided(Accounts.of(StatefulTradingEnv(test, {}, [], seed=0)))
        assert since == [0]
        np.testing.assert_array_equal(decided[0], weights_at(rule, test, 0))


def test_a_schedule_begins_at_the_start_bar():
    config = {"episode_config": {"length": 60, "random_start": True}, "portfolio_config": {"maintain_history": True}}
    env = StatefulTradingEnv(market(0), config, [], seed=4)
    env.reset()
    assert env.start % 20
    over = False
    while not over:
        *_, terminated, truncated, _ = env.step_orders(EqualWeight(rebalance_bars=20).orders(env))
        over = terminated or truncated
    np.testing.assert_array_equal(
        env.history.loc[env.history["turnover"] > 0, "bar"], env.start + 1 + np.arange(0, 60, 20)
    )


@pytest.mark.parametrize("through", ["orders", "predict"])
def test_what_has_no_bar_now_is_kept_and_traded_again_as_soon_as_it_has_one(through):
    """C pauses at bars 11 and 12, and comes back: the order decided at 12 fills at 13, when all weights are equal."""
    bars = ragged_market(0)
    env = StatefulTradingEnv(bars, {"action_config": {"mode": "weights"}}, [], seed=0)
    observation, _ = env.reset()
    rule = EqualWeight(rebalance_bars=1).bind(env)
    held, money = [], []
    for _ in range(14):
        held.append(env.holdings[2])
        money.append(env.equity)
        step = env.step_orders(rule.orders(env)) if through == "orders" else env.step(rule.predict(observation)[0])
        observation = step[0]
    assert held[9] != held[10] == held[11] == held[12]
    assert held[13] != held[12]
    assert held[13] == pytest.approx(money[12] / 3 / bars.mark[12, 2], rel=1e-3)  # B is not listed yet


def test_a_new_listing_takes_part_once_its_window_is_full():
    bars = ragged_market(0)  # B lists at bar 40
    rule = InverseVolatility(window=10)
    assert weights_at(rule, bars, 39)[1] == weights_at(rule, bars, 49)[1] == 0
    assert weights_at(rule, bars, 50)[1] > 0


# --- what they are worth ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "max_weight"), [(4, 1.0), (4, 3.0), (5, 1.0), (11, 1.0), (LOW, 1.0), (LOW, 2.0)])
@pytest.mark.parametrize("env_class", SCALAR_ENVS)
def test_uniform_constant_rebalancing_is_worth_the_product_of_the_mean_relatives(env_class, n, max_weight):
    symbols = tuple(f"S{i:02}" for i in range(n))
    bars = MarketData.from_frame(frame(8, 300, symbols))
    action = {"mode": "weights", "max_weight": max_weight}
    config = {"action_config": action, "cost_config": FREE, "fill": "close"}
    worth = 100_000 * np.prod((bars.close[1:] / bars.close[:-1]).mean(axis=1))
    env = env_class(bars, config, [], seed=0)
    play(env, EqualWeight(rebalance_bars=1))
    assert env.equity == pytest.approx(worth, rel=1e-9)
    found = backtest(bars, config, EqualWeight(rebalance_bars=1)).metrics["baselines"]["equal_weight"]
    assert found["final_equity"] == pytest.approx(worth, rel=1e-12)


@pytest.mark.parametrize("env_class", SCALAR_ENVS)
def test_uniform_buy_and_hold_is_worth_the_mean_of_the_relatives(env_class):
    bars = market(3, 300)
    config = {"action_config": {"mode": "weights"}, "cost_config": FREE, "fill": "close"}
    worth = 100_000 * (bars.close[-1] / bars.close[0]).mean()
    env = env_class(bars, config, [], seed=0)
    play(env, BuyAndHold())
    assert env.equity == pytest.approx(worth, rel=1e-9)
    found = backtest(bars, config, BuyAndHold()).metrics["baselines"]["buy_and_hold"]
    assert found["final_equity"] == pytest.approx(worth, rel=1e-12)


@pytest.mark.parametrize("rule", [BuyAndHold(), EqualWeight(rebalance_bars=1)], ids=lambda rule: rule.name)
def test_all_lanes_of_a_batch_are_worth_the_formula(rule):
    bars = market(3)
    starts = np.arange(0, 80, 10)
    config = {"action_config": {"mode": "weights"}, "cost_config": FREE, "fill": "close"}
    lanes = {"episode_start": starts, "episode_length": np.full(8, 35)}
    env = TradingVecEnv(bars, config, [], 8, seed=0, lane_parameters=lanes)
    policy = rule.bind(env)
    observation = env.reset()
    for _ in range(35):
        observation, _, dones, infos = env.step(policy.predict(observation)[0])
    assert dones.all()
    relatives = bars.close[1:] / bars.close[:-1]
    worth = [np.prod(relatives[s : s + 35].mean(axis=1)) for s in starts]
    if rule.name == "buy_and_hold":
        worth = [np.prod(relatives[s : s + 35], axis=0).mean() for s in starts]
    np.testing.assert_allclose([info["equity"] for info in infos], 100_000 * np.array(worth), rtol=1e-9)


def test_cash_never_trades():
    results = backtest(market(0), {}, AllCash())
    assert results.metrics["baselines"]["cash"]["fills"] == 0
    assert (results.baselines["cash"]["equity"] == 100_000).all()
    for mode, rest in (("weights", 0), ("trade", 0), ("shares", 0), ("discrete", 1)):
        env = FastTrainingEnv(market(0), {"action_config": {"mode": mode}}, [], seed=0)
        assert (play(env, AllCash()) == rest).all()


# --- as policies --------------------------------------------------------------------------------------------

MODES = {
    "weights": {"mode": "weights"},
    "trade": {"mode": "trade"},
    "shares": {"mode": "shares", "max_shares": 300.0},
    "discrete": {"mode": "discrete"},
    "joint": {"mode": "discrete", "joint": True},
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", RULES)
def test_lanes_of_a_batch_do_what_single_accounts_do(name, mode):
    """Episodes of random starts, lanes that may trade different symbols, several resets: nothing is mixed up."""
    config = {
        "action_config": MODES[mode],
        "episode_config": {"length": 30, "random_start": True},
        "randomization": {"episode_length": [20, 30]},
    }
    bars, n_steps = ragged_market(3), 70
    tradable = np.array([[True] * 4, [True, False, True, True], [True] * 4])
    batch = BatchTradingEnv(bars, config, [], 3, seed=5, lane_parameters={"tradable": tradable})
    policy = RULES[name].bind(batch)
    observation, _ = batch.reset()
    together = []
    for _ in range(n_steps):
        actions, _ = policy.predict(observation)
        together.append(actions)
        observation, *_ = batch.step(actions)
    for lane in range(3):
        one = FastTrainingEnv(bars, config, [], seed=5, lane=lane, lane_parameters={"tradable": tradable[lane][None]})
        alone, observation = RULES[name].bind(one), one.reset()[0]
        for step in range(n_steps):
            action, _ = alone.predict(observation)
            np.testing.assert_array_equal(action, together[step][lane], err_msg=f"lane {lane}, step {step}")
            observation, _, terminated, truncated, _ = one.step(action)
            if terminated or truncated:
                observation, _ = one.reset()


@pytest.mark.parametrize("mode", MODES)
def test_actions_belong_to_the_action_space(mode):
    env = StatefulTradingEnv(market(0), {"action_config": MODES[mode]}, [], seed=0)
    for rule in RULES.values():
        assert all(env.action_space.contains(action) for action in play(env, rule))


def test_a_limited_mode_takes_several_bars_and_then_holds():
    bars = market(3).split("2020-02-03")[1]
    env = StatefulTradingEnv(
        bars, {"cost_config": FREE, "fill": "close", "portfolio_config": {"maintain_history": True}}, [], seed=0
    )
    actions = play(env, BuyAndHold())
    # A quarter of equity each, at most a tenth of equity a bar: 10%, 10%, the rest, nothing.
    assert (actions[0] == 1).all() and (actions[1] > 0.9).all() and (np.abs(actions[2] - 0.5) < 0.3).all()
    assert np.abs(actions[4:]).max() < 1e-6
    worth = env.holdings * bars.close[0]
    np.testing.assert_allclose(worth, worth.mean(), rtol=1e-6)
    assert env.cash < 1e-3
    assert env.history["turnover"].iloc[5:].max() < 1e-9


def test_a_limited_mode_is_done_when_the_last_bar_is_that_it_needs():
    """Ten bars at a tenth of equity, where all symbols have all bars; what opens leave to be mended is left."""
    env = FastTrainingEnv(market(3), {"action_config": {"mode": "trade"}}, [], seed=0)
    actions = play(env, EqualWeight(rebalance_bars=30))
    traded = np.flatnonzero(np.abs(actions).max(axis=1) > 0)
    assert set(traded % 30) == set(range(10))


def test_cash_that_comes_in_later_is_not_invested():
    bars = ragged_market(0)  # D is delisted
    env = FastTrainingEnv(bars, {"action_config": {"mode": "trade"}}, [], seed=0)
    actions = play(env, BuyAndHold())
    assert (actions[:2] > 0).any() and (actions[10:] == 0).all()
    assert env.cash > 1000


def test_random_trading_through_a_limit_turns_over_as_much():
    env = FastTrainingEnv(market(2), {"fill": "close"}, [], seed=0)
    actions = play(env, RandomTurnover(0.05))
    np.testing.assert_allclose(np.abs(actions).sum(axis=1) * 0.1, 0.05, rtol=1e-6)


@pytest.mark.parametrize("max_weight", [2.0, 1.0, 0.1])
def test_an_action_of_weights_mode_is_a_part_of_the_greatest_weight(max_weight):
    config = {"action_config": {"mode": "weights", "max_weight": max_weight}, "fill": "close", "cost_config": FREE}
    env = FastTrainingEnv(market(2), config, [], seed=0)
    action, _ = RandomTurnover(0.05, seed=1).bind(env).predict(env.reset()[0])
    env.step(action)
    assert action.sum() * max_weight == pytest.approx(0.05, rel=1e-6)
    assert env.cash == pytest.approx(95_000, rel=1e-6)


def test_discrete_actions_are_the_nearest():
    bars = market(3)
    joint = FastTrainingEnv(bars, {"action_config": MODES["joint"], "fill": "close"}, [], seed=0)
    plain = FastTrainingEnv(bars, {"action_config": MODES["discrete"], "fill": "close"}, [], seed=0)
    choices, packed = play(plain, BuyAndHold()), play(joint, BuyAndHold())
    assert (choices[:2] == 2).all() and (choices[10:] == 1).all()
    np.testing.assert_array_equal(packed, choices @ np.array([1, 3, 9, 27]))


def test_shares_mode_buys_what_it_may():
    config = {"action_config": {"mode": "shares", "max_shares": 200.0}, "fill": "close", "cost_config": FREE}
    bars = market(3)
    env = FastTrainingEnv(bars, config, [], seed=0)
    actions = play(env, BuyAndHold())
    wanted = 25_000 / bars.close[0] / 200
    assert (wanted > 1).all()
    assert (actions[0] == 1).all()
    assert np.abs(actions[20:]).max() < 1e-6
    worth = env.holdings * bars.close[0]
    np.testing.assert_allclose(worth, worth.mean(), rtol=1e-6)


def test_it_runs_where_a_model_does():
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    config = {"action_config": {"mode": "weights"}, "episode_config": {"length": 20, "random_start": True}}
    bars = market(0)
    batch = TradingVecEnv(bars, config, [], 3, seed=2)
    policy = EqualWeight(rebalance_bars=5)
    expected, lengths = evaluate_policy(policy.bind(batch), batch, 6, return_episode_rewards=True, warn=False)
    assert lengths == [20] * 6
    singles = DummyVecEnv([lambda lane=lane: FastTrainingEnv(bars, config, [], seed=2, lane=lane) for lane in range(3)])
    found, _ = evaluate_policy(policy.bind(singles), singles, 6, return_episode_rewards=True, warn=False)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    scaled = VecNormalize(TradingVecEnv(bars, config, [], 3, seed=2), training=False, norm_reward=False)
    found, _ = evaluate_policy(policy.bind(scaled), scaled, 6, return_episode_rewards=True, warn=False)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    one = FastTrainingEnv(bars, config, [], seed=2)
    assert evaluate_policy(policy.bind(one), one, 1, warn=False)[0] == pytest.approx(expected[0], rel=1e-6)


def test_a_baseline_as_the_agent_of_a_backtest():
    bars = market(0)
    agent = EqualWeight(rebalance_bars=5)
    results = backtest(bars, {"action_config": {"mode": "weights"}}, EqualWeight(rebalance_bars=5), agent=agent)
    played = results.baselines["equal_weight"]["equity"]
    np.testing.assert_allclose(results.equity, played, rtol=1e-6)
    with pytest.raises(EnvironmentStateError, match=r"equal_weight: .*expected baseline.bind\(env\)"):
        agent.predict(np.zeros(5))


def test_indexed_observations_will_do():
    config = {"action_config": {"mode": "weights"}, "observation_config": {"mode": "indexed"}}
    one = FastTrainingEnv(market(0), config, ["momentum_5"], seed=0)
    flat = FastTrainingEnv(market(0), {"action_config": {"mode": "weights"}}, ["momentum_5"], seed=0)
    np.testing.assert_array_equal(play(one, RULES["olmar"]), play(flat, RULES["olmar"]))


def test_settings_are_fixed_and_an_environment_is_not_part_of_them():
    env = FastTrainingEnv(market(0), {}, [], seed=0)
    bound = Momentum(window=30).bind(env)
    bound.predict(env.reset()[0])
    again = pickle.loads(pickle.dumps(bound))
    assert again == bound == Momentum(window=30) != Momentum(window=31)
    with pytest.raises(EnvironmentStateError):
        again.predict(env.reset()[0])
    with pytest.raises(AttributeError):
        bound.window = 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EqualWeight(rebalance_bars=0), "equal_weight: rebalance_bars is 0, expected at least 1"),
        (lambda: MinimumVariance(window=1), "minimum_variance: window is 1, expected at least 2"),
        (lambda: Momentum(window=20), "momentum: skip is 21, expected less than window, 20"),
        (lambda: Momentum(top=0.0), "momentum: top is 0, expected a fraction above 0 and up to 1"),
        (lambda: RandomTurnover(-0.1), "random: turnover_per_bar is -0.1, expected at least 0"),
        (lambda: OLMAR(epsilon=math.nan), "olmar: epsilon is nan, expected at least 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_what_cannot_be_bound_is_refused():
    with pytest.raises(ConfigError, match="env: got str, expected an environment of batchenv"):
        BuyAndHold().bind("env")
    env = BatchTradingEnv(market(0), {}, [], 3, seed=0)
    observation, _ = env.reset()
    with pytest.raises(ConfigError, match="got 2 observations, expected 3"):
        BuyAndHold().bind(env).predict(observation[:2])


def test_a_rule_of_ones_own_is_a_policy_too():
    class FirstSymbol(WeightRule):
        name, label, rebalance_bars = "first", "the first symbol", 10

        def weights(self, prices, active, bars):
            return active[bars] * np.array([1.0, 0, 0, 0])

    config = {"action_config": {"mode": "weights"}}
    results = backtest(market(0), config, FirstSymbol(), agent=FirstSymbol())
    assert results.baselines["first"]["weight[A]"].iloc[-1] > 0.99
    np.testing.assert_allclose(results.equity, results.baselines["first"]["equity"], rtol=1e-6)


def test_a_rule_that_decides_in_its_own_way_is_asked_at_every_bar():
    """Nothing that is worked out ahead for the class above it stands in the way."""

    class Alternating(EqualWeight):
        def decided(self, accounts):
            return accounts.bar, np.eye(accounts.holdings.shape[1])[accounts.bar % 2]

    env = StatefulTradingEnv(market(0), {"fill": "close", "cost_config": FREE}, [], seed=0)
    env.reset()
    for bar in range(4):
        env.step_orders(Alternating(label="alternating").orders(env))
        assert (env.holdings > 0).tolist() == [bar % 2 == 0, bar % 2 == 1, False, False]


# --- random trading -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0.005, 0.02, 0.1])
def test_random_trading_turns_over_as_much_as_the_agent(limit):
    config = {"portfolio_config": {"trade_limit_percent": limit}}
    results = backtest(market(2, 400), config, RandomTurnover(), agent=RandomAgent(4))
    agent, found = results.metrics, results.metrics["baselines"]["random"]
    assert found["turnover_per_year"] == pytest.approx(agent["turnover_per_year"], rel=0.03)
    held = results.baselines["random"][[f"shares[{s}]" for s in "ABCD"]].to_numpy()
    assert (held >= 0).all() and held[-1].any()


def test_random_trading_is_a_function_of_seed_lane_and_bar():
    def equity(seed, lane):
        env = StatefulTradingEnv(market(2), {}, [], seed=9, lane=lane)
        play(env, RandomTurnover(0.1, seed=seed))
        return env.equity

    assert equity(0, 0) == equity(0, 0)
    assert len({equity(0, 0), equity(1, 0), equity(0, 1)}) == 3


def test_random_targets_are_uniform_on_the_simplex():
    bars = market(0)
    env = BatchTradingEnv(bars, {"episode_config": {"length": 1}}, [], 4000, seed=0)
    env.reset()
    _, weights = RandomTurnover(5.0).decided(Accounts.of(env))  # the whole way to the target
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, rtol=1e-12)
    # A flat Dirichlet of 4: mean 1/4, variance 3 / (16 * 5).
    np.testing.assert_allclose(weights.mean(axis=0), 0.25, atol=0.015)
    np.testing.assert_allclose(weights.var(axis=0), 3 / 80, atol=0.003)


def test_random_trading_beside_an_agent_that_rests_rests_too():
    results = backtest(market(0), {}, RandomTurnover())
    assert results.metrics["baselines"]["random"]["fills"] == 0


def test_random_trading_must_know_how_much():
    with pytest.raises(ConfigError, match="turnover_per_bar is not known"):
        backtest(market(0), {}, agent=RandomTurnover())


# --- worked out ahead ---------------------------------------------------------------------------------------


def test_what_a_rule_decides_is_worked_out_once_and_bars_without_orders_are_skipped(monkeypatch):
    asked, looked = [], []

    class Counted(EqualWeight):
        def _decide(self, market, universe, bars):
            asked.append(len(bars))
            return super()._decide(market, universe, bars)

    of = Accounts.of.__func__
    monkeypatch.setattr(Accounts, "of", classmethod(lambda cls, env: looked.append(env.bar) or of(cls, env)))
    env = StatefulTradingEnv(market(0, 400), {}, [], seed=0)
    rule = Counted(rebalance_bars=20)
    for _ in range(2):
        env.reset()
        over, traded = False, 0
        while not over:
            orders = rule.orders(env)
            traded += orders.any()
            *_, terminated, truncated, _ = env.step_orders(orders)
            over = terminated or truncated
    assert asked == [20] and traded == 20
    assert looked == []  # every decision is carried out at the bar that it was made at


# --- configuration ------------------------------------------------------------------------------------------


def test_a_backtest_plays_all_of_them_by_default():
    results = backtest(ragged_market(0), {}, agent=RandomAgent(4))
    assert tuple(results.baselines) == tuple(results.metrics["baselines"]) == tuple(results.labels) == BASELINES
    assert len({verdict.baseline for verdict in results.verdicts}) == 8
    assert [b.name for b in make_baselines(BacktestConfig())] == list(BASELINES)


def test_a_configuration_names_them():
    settings = {"baselines": ["cash", "momentum", "equal_weight"], "rebalance_bars": 3}
    found = make_baselines(BacktestConfig.model_validate(settings))
    assert found == (AllCash(), Momentum(rebalance_bars=3), EqualWeight(rebalance_bars=3))
    assert make_baselines(BacktestConfig(baselines=())) == ()
    with pytest.raises(ConfigError, match=r"baselines: unknown baseline 'olmra' \(did you mean 'olmar'\?\); expected"):
        BacktestConfig.model_validate({"baselines": ["cash", "olmra"]})
    with pytest.raises(ConfigError, match="baselines: 'cash' is named twice"):
        BacktestConfig.model_validate({"baselines": ["cash", "cash"]})
