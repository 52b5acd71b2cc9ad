"""Mistakes that are known in this field's environments, one test each, on markets small enough to do by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest

from batchenv import BatchTradingEnv, EnvConfig, FastTrainingEnv, MarketData, TradingVecEnv
from batchenv.errors import EnvironmentStateError
from stateful import StatefulTradingEnv
from stateful.metrics import performance_metrics

TIERS = ("batch", "batch, full kernel", "stable-baselines3", "fast", "stateful")
WATCHED = 1
"""The lane that a test looks at; its neighbours on both sides do nothing."""

Bar = float | tuple[float, float, float, float]


def bars(start: str = "2024-01-01", freq: str = "B", **symbols: Sequence[Bar]) -> MarketData:
    """Return a market of hand-made bars: one price for all four of a bar, or (open, high, low, close)."""
    parts = []
    for symbol, prices in symbols.items():
        rows = [price if isinstance(price, tuple) else (price,) * 4 for price in prices]
        part = pd.DataFrame(rows, columns=["open", "high", "low", "close"])
        dates = pd.date_range(start, periods=len(rows), freq=freq)
        parts.append(part.assign(date=dates, symbol=symbol, volume=1e6))
    return MarketData.from_frame(pd.concat(parts, ignore_index=True))


def rules(mode: str = "weights", fee: float = 0.0, cash: float = 1_000.0, **sections: Any) -> dict[str, Any]:
    """Return a configuration without costs, limits or features: what a test needs, it says."""
    portfolio = {"initial_cash": cash, "trade_limit_percent": 1.0, **sections.pop("portfolio_config", {})}
    costs = {"fee_rate": fee, "slippage_rate": 0.0, **sections.pop("cost_config", {})}
    return {
        "features": [],
        "feature_scaling": "none",
        "portfolio_config": portfolio,
        "cost_config": costs,
        "action_config": {"mode": mode},
        "reward_config": {"type": "simple_return"},
        **sections,
    }


class Step(NamedTuple):
    """What one step of the watched lane gave, before any reset that followed by itself."""

    observation: np.ndarray
    reward: float
    terminated: bool
    truncated: bool
    equity: float
    returned: np.ndarray  # what the environment handed back as the observation to act on


class Tier:
    """One lane, whichever environment plays it."""

    def __init__(self, kind: str, market: MarketData, config: Mapping[str, Any], seed: int = 0) -> None:
        self.kind = kind
        self.env: Any
        if kind in ("fast", "stateful"):
            make = FastTrainingEnv if kind == "fast" else StatefulTradingEnv
            self.env = make(market, config, seed=seed, lane=WATCHED)
        elif kind == "stable-baselines3":
            self.env = TradingVecEnv(market, config, n_envs=3, seed=seed)
        else:
            # Every symbol tradable for every lane says nothing new, but takes the way through all rules.
            own = {"tradable": True} if "full" in kind else None
            self.env = BatchTradingEnv(market, config, n_envs=3, seed=seed, lane_parameters=own)
            assert not ("full" in kind and self.env._engine.plain)

    def reset(self, seed: int | None = None) -> np.ndarray:
        if self.kind == "stable-baselines3":
            if seed is not None:
                self.env.seed(seed)
            return self.env.reset()[WATCHED]
        observation, _ = self.env.reset(seed=seed)
        return observation if self.kind in ("fast", "stateful") else observation[WATCHED]

    def step(self, *action: float) -> Step:
        if self.kind in ("fast", "stateful"):
            observation, reward, terminated, truncated, info = self.env.step(np.array(action, np.float32))
            return Step(observation, reward, terminated, truncated, info["equity"], observation)
        actions = np.zeros((3, len(action)), np.float32)
        actions[WATCHED] = action
        if self.kind == "stable-baselines3":
            returned, rewards, dones, infos = self.env.step(actions)
            done, info = bool(dones[WATCHED]), infos[WATCHED]
            observation = info["terminal_observation"] if done else returned[WATCHED]
            equity = info["equity"] if done else self.equity
            limited = info["TimeLimit.truncated"]
            return Step(observation, rewards[WATCHED], done and not limited, limited, equity, returned[WATCHED])
        returned, rewards, terminated, truncated, infos = self.env.step(actions)
        done = bool(terminated[WATCHED] or truncated[WATCHED])
        observation = infos["final_obs"][WATCHED] if done else returned[WATCHED]
        equity = float(infos["final_info"]["equity"][WATCHED]) if done else self.equity
        flags = bool(terminated[WATCHED]), bool(truncated[WATCHED])
        return Step(observation, rewards[WATCHED], *flags, equity, returned[WATCHED])

    def _of_lane(self, name: str) -> Any:
        value = getattr(self.env.batch if self.kind == "stable-baselines3" else self.env, name)
        return value if self.kind in ("fast", "stateful") else value[WATCHED]

    @property
    def cash(self) -> float:
        return float(self._of_lane("cash"))

    @property
    def holdings(self) -> list[float]:
        return [float(shares) for shares in self._of_lane("holdings")]

    @property
    def equity(self) -> float:
        return float(self._of_lane("equity"))

    @property
    def bar(self) -> int:
        return int(self._of_lane("bar"))


@pytest.fixture(params=TIERS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


# --- money ------------------------------------------------------------------------------------------------------


def test_fee_forgotten_in_affordability(kind: str) -> None:
    """An environment divides cash by the price to find what can be bought, and takes the fee afterwards.

    With 1 000 in cash, a price of 100 and a fee of 25%, it buys 10 shares and owes 250: cash goes negative, or is
    set to zero and the fee was free. What can be paid for is 1 000 / 125 = 8 shares, and nothing is left. Slippage
    of 60% on top makes it 1 000 / (100 · 1.6 · 1.25) = 5.
    """
    account = Tier(kind, bars(A=[100, 100, 100]), rules(fee=0.25))
    account.reset()
    step = account.step(1.0)
    assert account.holdings == pytest.approx([8.0], rel=1e-12)
    assert account.cash == pytest.approx(0.0, abs=1e-12)
    assert step.equity == pytest.approx(800.0, rel=1e-12)
    slipping = Tier(kind, bars(A=[100, 100, 100]), rules(fee=0.25, cost_config={"slippage_rate": 0.6}))
    slipping.reset()
    slipping.step(1.0)
    assert slipping.holdings == pytest.approx([5.0], rel=1e-12)


def test_cash_below_zero_after_a_gap_at_the_open(kind: str) -> None:
    """An order is sized at the close and settled at the next open without a second look at the cash.

    10 shares are ordered at a close of 100 with 1 000 in cash. The market opens at 125, where they cost 1 250; only
    8 can be had. Bankruptcy checks, position weights and every later order are wrong once cash is -250.
    """
    account = Tier(kind, bars(A=[100, (125, 125, 100, 100), 100]), rules())
    account.reset()
    account.step(1.0)
    assert account.holdings == pytest.approx([8.0], rel=1e-12)
    assert 0.0 <= account.cash < 1e-9


def test_cash_below_zero_by_rounding(kind: str) -> None:
    """Cash minus its own price times quantity leaves -1e-13, and every later `cash >= 0` check goes wrong.

    An account that turns all it has from one symbol to another again and again, at prices and fees that no binary
    number holds, passes zero by rounding sooner or later, unless the residue is taken out.
    """
    prices = {
        "A": [10.1 + 0.7 * math.sin(k) for k in range(300)],
        "B": [3.3 + 0.3 * math.cos(3 * k) for k in range(300)],
    }
    account = Tier(kind, bars(**prices), rules("trade", fee=0.0007, cash=777.77, cost_config={"slippage_rate": 0.0003}))
    account.reset()
    for k in range(298):
        account.step(*((-0.3, 1.0), (1.0, -0.5))[k % 2])
        assert account.cash >= 0.0, f"bar {k + 1}"


@pytest.mark.parametrize("kind", ["batch", "stable-baselines3", "fast", "stateful"])
def test_fixed_fee_forgotten_in_affordability(kind: str) -> None:
    """A scale factor for proportional fees is used where fees are fixed, and the account ends below zero.

    1 000 in cash, half wanted in each of two symbols, 10 for each order: 980 remain to invest, so the common factor
    is 0.98 and 4.9 shares of each are bought at 100. Without the fees in the factor cash ends at -20.
    """
    account = Tier(kind, bars(A=[100, 100], B=[100, 100]), rules(cost_config={"fee_fixed": 10.0}))
    account.reset()
    step = account.step(0.5, 0.5)
    assert step.equity == pytest.approx(980.0, rel=1e-12)
    assert step.observation.tolist() == pytest.approx([0.5, 0.5, 0.0], abs=1e-6)


@pytest.mark.parametrize("names", [("A", "B"), ("B", "A")], ids=["in order", "relabelled"])
def test_execution_in_symbol_order_gives_the_cash_to_the_first_letter(kind: str, names: tuple[str, str]) -> None:
    """Orders are executed in the order of the columns until the cash is gone: the alphabet decides who gets it.

    Two symbols are both wanted for all of the 1 000 in cash, one at 100 and one at 200. The first in order would get
    10 shares and the other none. Both are scaled by one factor here, so each gets 500: 5 and 2.5 shares, whatever
    they are called.
    """
    cheap, dear = names
    market = bars(**{cheap: [100, 100, 100], dear: [200, 200, 200]})
    account = Tier(kind, market, rules("trade"))
    account.reset()
    account.step(1.0, 1.0)
    held = dict(zip(market.symbols, account.holdings, strict=True))
    assert held == {cheap: pytest.approx(5.0, rel=1e-12), dear: pytest.approx(2.5, rel=1e-12)}


@pytest.mark.parametrize("first_buys", [True, False], ids=["A buys", "B buys"])
def test_execution_in_symbol_order_denies_a_buy_the_cash_of_a_later_sale(kind: str, first_buys: bool) -> None:
    """A purchase in an early column finds no cash, because the sale that pays for it comes in a later column.

    All 1 000 are in one symbol at 200, 5 shares. It is sold and the other, at 100, is bought in the same step: 10
    shares, in either order of the columns.
    """
    market = bars(A=[100] * 4, B=[200] * 4) if first_buys else bars(A=[200] * 4, B=[100] * 4)
    into = np.array([1.0, -1.0]) if first_buys else np.array([-1.0, 1.0])
    account = Tier(kind, market, rules("trade"))
    account.reset()
    account.step(*np.maximum(-into, 0.0))
    account.step(*into)
    assert account.holdings == pytest.approx([10.0, 0.0] if first_buys else [0.0, 10.0], rel=1e-12, abs=0.0)
    assert account.cash == pytest.approx(0.0, abs=1e-9)


def test_float32_money_flips_a_termination(kind: str) -> None:
    """Cash is kept in float32, whose numbers lie 2 apart at 20 million, and an account ends that should not.

    Half of 40 000 000 is the limit. 400 000 shares at 50.00000125 are worth 20 000 000.5, half a unit above it, which
    float32 rounds to the limit itself. At 50 exactly the account does end.
    """
    config = rules(cash=40_000_000.0, portfolio_config={"bankruptcy_fraction": 0.5}, fill="close")
    above = Tier(kind, bars(A=[100, 50.00000125, 50]), config)
    above.reset()
    step = above.step(1.0)
    assert step.equity == pytest.approx(20_000_000.5, abs=1e-6)
    assert (step.terminated, step.truncated) == (False, False)
    assert above.step(1.0).terminated
    at_limit = Tier(kind, bars(A=[100, 50, 50]), config)
    at_limit.reset()
    assert at_limit.step(1.0).terminated


FOURFOLD = {"action_config": {"mode": "weights", "max_weight": 4.0}, "margin_config": {"leverage": 4.0}}
LEVERED = {**FOURFOLD, "margin_config": {"leverage": 4.0, "maintenance_margin": 0.1}}
CRASH: tuple[Bar, ...] = (100, (100, 100, 82, 82), (61.5, 100, 61.5, 100), 100)


def test_liquidation_recovers_from_below_zero(kind: str) -> None:
    """A liquidated account goes on below zero, or keeps the position through a bar that recovers.

    Leverage 4 on 1 000: 40 shares at 100, cash -3 000. A close of 82 leaves 280 of equity under 10% of 3 280: a
    margin call. The next open is 61.5, where the shares bring 2 460: equity -540. That bar closes at 100 again; an
    account that had kept the shares would be back at 1 000. This one has ended, whatever the agent asked for.
    """
    account = Tier(kind, bars(A=CRASH), rules(**LEVERED, reward_config={"type": "log_return"}))
    account.reset()
    called = account.step(1.0)
    assert called.equity == pytest.approx(280.0, rel=1e-12)
    assert not called.terminated
    ended = account.step(1.0)
    assert ended.equity == pytest.approx(-540.0, rel=1e-12)
    assert (ended.terminated, ended.truncated) == (True, False)
    assert ended.reward == pytest.approx(math.log(1e-8), rel=1e-6)
    assert ended.observation.tolist() == [0.0, 0.0]
    if kind in ("fast", "stateful"):
        with pytest.raises(EnvironmentStateError, match="reset"):
            account.step(0.0)
        account.reset()
    assert (account.cash, account.holdings, account.equity) == (1_000.0, [0.0], 1_000.0)


def test_equity_below_zero_is_carried_to_a_recovery(kind: str) -> None:
    """The check for bankruptcy looks at cash, or only at bars where something trades, and a position recovers.

    40 shares bought at 100 with 1 000 of one's own are worth 2 800 at a close of 70: equity -200. The next close is
    200. The account ends at the first of the two.
    """
    account = Tier(kind, bars(A=[100, (100, 100, 70, 70), 200, 200]), rules(**FOURFOLD))
    account.reset()
    step = account.step(1.0)
    assert step.equity == pytest.approx(-200.0, rel=1e-12)
    assert step.terminated


STOPS = {
    "the stop inside a bar that closes where it opened": ({"stop_loss": 0.05}, (100, 101, 94, 100), 1.0, 950.0),
    "the target inside a bar that closes where it opened": ({"take_profit": 0.05}, (100, 106, 99, 100), 1.0, 1_050.0),
    "the stop wins where the bar reaches both": (
        {"stop_loss": 0.05, "take_profit": 0.05},
        (97, 106, 94, 104),
        1.0,
        950.0,
    ),
    "a gap is sold at the open, not at the stop": ({"stop_loss": 0.05}, (90, 99, 89, 98), 1.0, 900.0),
    "a short is stopped at the high": ({"stop_loss": 0.05}, (100, 106, 99, 100), -1.0, 950.0),
    "a short takes its profit at the low": ({"take_profit": 0.05}, (100, 101, 94, 100), -1.0, 1_050.0),
}


@pytest.mark.parametrize("case", STOPS)
def test_stop_judged_on_a_bar_that_is_too_narrow(kind: str, case: str) -> None:
    """Stops are judged on closes, or on aggregates of them, and a bar that went through the stop is not seen.

    10 shares are bought (or sold short) at 100; the next bar goes below 95 and closes at 100 as if nothing had been.
    Judged on closes the account keeps its 1 000. The stop is at 95: 50 are lost. A target of 5% is mirrored.
    """
    stops, bar, side, equity = STOPS[case]
    config = rules(execution_config=stops, margin_config={"allow_short": True})
    account = Tier(kind, bars(A=[100, 100, bar, 100]), config)
    account.reset()
    assert account.step(side).equity == pytest.approx(1_000.0, rel=1e-12)
    assert account.holdings == [10.0 * side]
    # The weight asked for is the weight held, so that nothing but the stop trades in the bar.
    step = account.step(side)
    assert step.equity == pytest.approx(equity, rel=1e-12)
    assert account.holdings == [0.0]
    assert account.cash == pytest.approx(equity, rel=1e-12)


# --- actions ----------------------------------------------------------------------------------------------------


def test_action_overwritten() -> None:
    """A vector environment replaces the agent's action with ones, or a mask of one symbol hits all of them.

    Four lanes ask for different parts of 1 000 in two symbols at 100 and 50. Each gets exactly its own: a lane that
    asks for 10% and 30% holds 1 and 6 shares. The caller's array is as it was.
    """
    wanted = np.array([[0.1, 0.3], [0.5, 0.0], [0.0, 0.25], [0.0, 0.0]], np.float32)
    expected = np.array([[1.0, 6.0], [5.0, 0.0], [0.0, 5.0], [0.0, 0.0]])
    market = bars(A=[100, 100, 100], B=[50, 50, 50])
    for mode in ("trade", "weights"):
        batch = BatchTradingEnv(market, rules(mode), n_envs=4, seed=0)
        wrapped = TradingVecEnv(market, rules(mode), n_envs=4, seed=0)
        given = wanted.copy()
        batch.reset()
        batch.step(given)
        wrapped.reset()
        wrapped.step(given)
        np.testing.assert_array_equal(given, wanted)
        np.testing.assert_allclose(batch.holdings, expected, rtol=1e-6)
        np.testing.assert_allclose(wrapped.batch.holdings, expected, rtol=1e-6)
        for make in (FastTrainingEnv, StatefulTradingEnv):
            for lane in range(4):
                env = make(market, rules(mode), seed=0)
                env.reset()
                env.step(given[lane])
                np.testing.assert_allclose(env.holdings, expected[lane], rtol=1e-6)
        np.testing.assert_array_equal(given, wanted)


def test_softmax_applied_to_weights(kind: str) -> None:
    """Weights go through a softmax, in the policy, in the environment, or in both, and nobody gets what it asked for.

    (0.5, 0.25) means 50% and 25%, with 25% left in cash; a softmax makes it 56% and 44%, twice 53% and 47%. (0, 0)
    means no position at all; a softmax makes it half and half. (1, 1) is more than there is and becomes half and
    half. Asking for the same again trades nothing.
    """
    account = Tier(kind, bars(A=[100] * 6, B=[50] * 6), rules())
    account.reset()
    account.step(0.5, 0.25)
    assert account.holdings == [5.0, 5.0]
    assert account.cash == 250.0
    account.step(0.5, 0.25)
    assert account.holdings == [5.0, 5.0]
    account.step(1.0, 1.0)
    assert account.holdings == [5.0, 10.0]
    account.step(0.0, 0.0)
    assert account.holdings == [0.0, 0.0]
    assert account.cash == 1_000.0


# --- episodes ---------------------------------------------------------------------------------------------------


def test_reward_of_the_previous_step_on_the_terminal_step(kind: str) -> None:
    """The environment returns before it computes the last reward, and the terminal step repeats the one before.

    All is invested at 100; the closes 110 and 88 make +10% and -20%. The last step must carry the -20%, where the
    episode is cut (after two steps) and where the account ends (88 is less than 90% of what it began with).
    """
    market = bars(A=[100, (100, 110, 100, 110), (110, 110, 88, 88), 88])
    for extra in ({"episode_config": {"length": 2}}, {"portfolio_config": {"bankruptcy_fraction": 0.9}}):
        account = Tier(kind, market, rules(**extra))
        account.reset()
        first, last = account.step(1.0), account.step(1.0)
        assert first.reward == pytest.approx(0.10, rel=1e-6)
        assert not (first.terminated or first.truncated)
        assert last.reward == pytest.approx(-0.20, rel=1e-6)
        assert last.terminated or last.truncated


def test_final_observation_taken_after_the_reset(kind: str) -> None:
    """With automatic resets the "terminal observation" is the first one of the next episode.

    The value of the state an episode was cut in is then bootstrapped from the wrong state. At the end all is
    invested, the last return is 25% and no time is left: (0.25, 1, 0, 0). A new episode begins with all in cash and
    all time left, at a bar whose return is 0: (0, 0, 1, 1).
    """
    market = bars(A=[80, 80, (80, 100, 80, 100), 100])
    config = rules(features=["return_1"], episode_config={"length": 1}, observation_config={"time_left": True})
    account = Tier(kind, market, config)
    first = account.reset()
    assert first.tolist() == [0.0, 0.0, 1.0, 1.0]
    step = account.step(1.0)
    assert step.truncated
    assert step.observation.tolist() == pytest.approx([0.25, 1.0, 0.0, 0.0], abs=1e-6)
    following = account.reset() if kind in ("fast", "stateful") else step.returned
    assert following.tolist() == [0.0, 0.0, 1.0, 1.0]


def test_stale_portfolio_features_survive_a_reset(kind: str) -> None:
    """Positions, average prices, peaks or reward statistics of one episode leak into the next.

    The same actions must give the same episode every time, bit for bit: after an end by itself, and after a reset in
    the middle with positions open and losses made. What is remembered most easily is all on: unrealised profit, the
    peak of the drawdown penalty, the moments of the differential Sharpe ratio, the entry prices that stops look at.
    """
    market = bars(
        A=[100, 104, (104, 120, 104, 118), (118, 118, 75, 80), 82, 90, 91, 92], B=[50, 55, 49, 51, 48, 40, 39, 41]
    )
    config = rules(
        fee=0.001,
        margin_config={"leverage": 2.0, "allow_short": True},
        execution_config={"stop_loss": 0.2},
        observation_config={"unrealized_pnl": True, "time_left": True},
        reward_config={"type": "differential_sharpe", "kwargs": {"eta": 0.2, "drawdown_penalty": 0.5}},
        episode_config={"length": 6},
    )
    plan = [(1.0, -0.5), (1.0, 0.9), (0.7, 1.0), (1.0, 1.0), (0.2, 0.8), (1.0, -1.0)]
    account = Tier(kind, market, config)

    def play(steps: int) -> list[list[float]]:
        rows = []
        for action in plan[:steps]:
            step = account.step(*action)
            rows.append([*step.observation.tolist(), step.reward, step.equity])
        return rows

    clean = [0.0, 0.0, 1.0, 0.0, 0.0, 1.0]
    assert account.reset().tolist() == clean
    expected = play(6)
    assert len({row[-1] for row in expected}) == 6, "equity moves in every step, or there is nothing to be stale"
    if kind in ("fast", "stateful"):
        assert account.reset().tolist() == clean
    assert play(6) == expected
    account.reset()
    for broken_off in (1, 2, 3, 4, 5):
        play(broken_off)
        assert account.reset().tolist() == clean
        assert (account.cash, account.holdings) == (1_000.0, [0.0, 0.0])
        assert play(2) == expected[:2]
        account.reset()
    assert play(6) == expected


def test_margin_call_survives_a_reset(kind: str) -> None:
    """A margin call that stands when an episode ends liquidates the first orders of the next one.

    40 shares bought at 100 with 1 000 fall to 82, and the call stands. After a reset, by hand or by itself at the end
    of an episode of one step, the first action must buy 40 shares again; with the call still standing it buys none.
    """
    for length in (2, 1):
        account = Tier(kind, bars(A=CRASH), rules(**LEVERED, episode_config={"length": length}))
        account.reset()
        called = account.step(1.0)
        assert called.truncated is (length == 1)
        assert called.equity == pytest.approx(280.0, rel=1e-12)
        if length == 2 or kind in ("fast", "stateful"):
            account.reset()
        assert account.step(1.0).equity == pytest.approx(280.0, rel=1e-12)


def test_truncation_flagged_as_termination(kind: str) -> None:
    """The end of the data, or of an episode's length, is reported as the end of the account, or the other way round.

    Learning then bootstraps nothing where it should, or a value of a dead account. An episode of 2 steps that is
    cut is truncated alone, and so is one that runs out of data. An account that falls from 1 000 to 500 with a limit
    of 60% is terminated alone. Where both fall on one bar, terminated is set, and stable-baselines3 must not see a
    time limit.
    """
    flat, crash = bars(A=[100, 100, 100, 100]), bars(A=[100, (100, 100, 50, 50), 50, 50])

    def flags(market: MarketData, steps: int, **extra: Any) -> tuple[bool, bool]:
        account = Tier(kind, market, rules(portfolio_config={"bankruptcy_fraction": 0.6}, **extra))
        account.reset()
        for _ in range(steps - 1):
            before = account.step(1.0)
            assert not (before.terminated or before.truncated)
        step = account.step(1.0)
        return step.terminated, step.truncated

    assert flags(flat, 2, episode_config={"length": 2}) == (False, True)
    assert flags(flat, 3) == (False, True)
    assert flags(crash, 1) == (True, False)
    both = flags(crash, 1, episode_config={"length": 1})
    assert both == ((True, False) if kind == "stable-baselines3" else (True, True))


# --- randomness -------------------------------------------------------------------------------------------------


def long_market() -> MarketData:
    return bars(A=[100.0 + k % 7 for k in range(400)])


RANDOM = rules(episode_config={"length": 20, "random_start": True})


def test_seed_that_is_ignored(kind: str) -> None:
    """`reset(seed=...)` is accepted and a global generator is used: no run can be repeated.

    The same seed gives the same row of start bars, whether given at construction or at reset, whatever was drawn
    from numpy's generator in between; another seed gives other bars; and going on without one does not repeat.
    """

    def starts(seed: int, at_reset: int | None, noise: int) -> list[int]:
        np.random.seed(noise)  # noqa: NPY002
        account = Tier(kind, long_market(), RANDOM, seed=seed)
        account.reset(seed=at_reset)
        found = [account.bar]
        for _ in range(5):
            np.random.random(noise)  # noqa: NPY002
            account.reset()
            found.append(account.bar)
        return found

    expected = starts(3, None, noise=1)
    assert len(set(expected)) >= 4, "six episodes of 380 possible starts"
    assert starts(3, None, noise=2) == expected
    assert starts(3, 3, noise=1) == expected
    assert starts(99, 3, noise=3) == expected
    assert starts(99, None, noise=1) != expected
    assert starts(3, 99, noise=1) == starts(99, None, noise=1)


def test_every_worker_collects_the_same_trajectory() -> None:
    """Copies of one environment are seeded alike, and 16 workers bring 16 times the same data.

    Under one seed the lanes of a batch begin at different bars, and so do single environments told which lane they
    are; lane k is the same in all of them. Parameters that are drawn differ by lane too.
    """
    config = EnvConfig.model_validate(RANDOM | {"randomization": {"fee_rate": [0.0, 0.5]}})
    market = long_market()
    batch = BatchTradingEnv(market, config, n_envs=16, seed=5)
    batch.reset()
    starts = batch.bar.tolist()
    assert len(set(starts)) >= 12
    batch.step(np.ones((16, 1), np.float32))
    assert len(set(np.round(batch.equity, 6).tolist())) == 16, "fees differ, so what is left after a purchase does"
    for make in (FastTrainingEnv, StatefulTradingEnv):
        workers = [make(market, config, seed=5, lane=k) for k in range(16)]
        for worker in workers:
            worker.reset()
        assert [worker.bar for worker in workers] == starts
        for worker, equity in zip(workers, batch.equity, strict=True):
            worker.step(np.ones(1, np.float32))
            assert worker.equity == pytest.approx(equity, rel=1e-12)


# --- time -------------------------------------------------------------------------------------------------------

CALENDARS = {"B": 252.0, "D": 365.0, "W-FRI": 52.0, "MS": 12.0}


@pytest.mark.parametrize("freq", CALENDARS)
def test_annualisation_by_the_wrong_year(freq: str) -> None:
    """Every Sharpe ratio is multiplied by the root of 252, also for markets that trade every day or once a week.

    Returns of +3%, -1%, +3%, -1% have the mean 1% and, with 4 of them, the standard deviation 2% · sqrt(4 / 3). The
    ratio of the bar is sqrt(3) / 4 = 0.4330; a year multiplies it by sqrt(252), sqrt(365), sqrt(52) or sqrt(12), in
    the reward of an episode as in the report. A history of over 30 bars tells which year it is; only the last four
    returns count.
    """
    closes = [100.0] * 36
    for change in (1.03, 0.99, 1.03, 0.99):
        closes.append(closes[-1] * change)
    market = bars(
        start="2021-01-01",
        freq=freq,
        A=[
            (before, max(before, at), min(before, at), at) for before, at in zip([100.0, *closes], closes, strict=False)
        ],
    )
    config = rules(
        portfolio_config={"maintain_history": True},
        reward_config={"type": "sharpe_ratio"},
        episode_config={"length": 4},
    )
    env = StatefulTradingEnv(market, config, seed=0)
    env.reset(options={"start": 35})
    for _ in range(4):
        _, reward, _, truncated, _ = env.step(np.ones(1, np.float32))
    assert truncated
    expected = math.sqrt(3.0) / 4.0 * math.sqrt(CALENDARS[freq])
    assert reward == pytest.approx(expected, rel=1e-9)
    metrics = performance_metrics(env.history, env.fills, env.trades, periods_per_year=market.periods_per_year)
    assert metrics["sharpe"] == pytest.approx(expected, rel=1e-9)
    assert metrics["volatility"] == pytest.approx(0.04 / math.sqrt(3.0) * math.sqrt(CALENDARS[freq]), rel=1e-9)


@pytest.mark.parametrize(
    ("start", "freq", "interest"),
    [
        ("2024-01-05", "B", 10_000 * 0.04 * 3 / 365),  # a Friday
        ("2024-01-08", "B", 10_000 * 0.04 / 365),  # a Monday
        ("2024-01-08", "h", 10_000 * 0.04 / 8760),
    ],
    ids=["over a weekend", "overnight", "an hour"],
)
def test_interest_by_the_wrong_year(kind: str, start: str, freq: str, interest: float) -> None:
    """Yearly rates are divided by 252 for every bar: a weekend costs a day, and an hour as much as a day.

    Interest of 4% on 10 000 from Friday to Monday is for 3 days of 365, 3.2877, from Monday to Tuesday for one,
    1.0959, and from hour to hour for 1/8760 of the year, 0.0457.
    """
    account = Tier(
        kind, bars(start=start, freq=freq, A=[100, 100]), rules(cash=10_000.0, carry_config={"cash_rate": 0.04})
    )
    account.reset()
    assert account.step(0.0).equity - 10_000.0 == pytest.approx(interest, rel=1e-9)
