"""Does it learn at all? PPO on a market with a planted trend, of which the best result is known, and on pure noise.

Everything is ordinary: `MarketData`, built-in features and their scaling, costs, fills at the next open, `Agent`,
`BackTesting` on held-out bars, the report's intervals. Only the market is made (`stateful.evaluation.planted`).

* On the planted market an agent's net growth is compared with that of the optimal rule on the same bars at the same
  costs. Both meet the same luck, so the share says how well the agent learned and not how lucky the bars were. Ignoring
  costs and buying and holding, which fall far short, stand beside it.
* On the noise market, fair coins, no policy has an expected gain even before costs. What all seeds made there before
  costs is put together; luck has to explain it. If it does not, something looks ahead.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from batchenv.agent import Agent
from batchenv.config import AgentConfig, EnvConfig
from batchenv.errors import RunError
from batchenv.sb3 import TradingVecEnv
from stateful.backtest import BackTesting, BacktestResults
from stateful.baselines import AllCash, BuyAndHold
from stateful.env import StatefulTradingEnv
from stateful.evaluation.estimates import Interval
from stateful.evaluation.planted import Growth, TrendMarket, TrendRule
from stateful.evaluation.workers import Tell, run_in_processes

FloatArray = npt.NDArray[np.float64]
Kind = Literal["planted", "noise"]

MARKETS: dict[Kind, TrendMarket] = {
    "planted": TrendMarket(),
    "noise": TrendMarket(continuation=0.5, confirmation=0.5),
}
TRAIN_BARS, TEST_BARS = 9_000, 3_000
TIMESTEPS = 800_000
ENOUGH = 0.9
"""Part of the optimum that an agent has to reach."""
LEVEL = 0.999
"""Confidence of all that is said about noise. With the usual 95%, one installation in eight would see at least one of
five seeds look better than luck explains; what looks ahead stands out at any level."""
RULES = EnvConfig.model_validate(
    {
        "features": ["return_1", "return_2", "volume_zscore_20"],
        "portfolio_config": {"trade_limit_percent": 1.0},
        "cost_config": {"fee_rate": 0.001, "slippage_rate": 0.0005},
        "action_config": {"mode": "discrete"},
        "reward_config": {"type": "log_return"},
        "episode_config": {"length": 128, "random_start": True},
        "fill": "next_open",
    }
)
"""The last two moves can be told from the returns over one bar and two; the volume means nothing."""
AGENT = AgentConfig(
    n_envs=256,
    total_timesteps=TIMESTEPS,
    hyperparameters={
        "n_steps": 32,
        "batch_size": 2048,
        "n_epochs": 10,
        "learning_rate": 3e-3,
        "gamma": 0.95,
        "gae_lambda": 0.95,
        "policy_kwargs": {"net_arch": [32, 32]},
    },
)


@dataclass(frozen=True)
class Trial:
    """One agent to train and test.

    Attributes:
        kind: Which market.
        seed: Seed of the market, the weights and the exploration.
        timesteps: Lane-steps to train for.
        rules: The environment.
    """

    kind: Kind
    seed: int
    timesteps: int = TIMESTEPS
    rules: EnvConfig = field(default=RULES)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a trial came to on the held-out bars.

    Attributes:
        kind: Which market.
        seed: Its seed.
        equity: Equity of the ``agent`` and of each baseline (``patient``, ``eager``, ``buy_and_hold``, ``cash``) at
            each bar, in money, float64 ``[bars + 1]``.
        before_costs: What the agent's equity would be if each bar's costs were given back, in money,
            float64 ``[bars + 1]``.
        distinguishable: Whether the report calls the agent's difference to doing nothing more than luck.
        verdict: What the report says about that difference.
        orders: Orders of the agent that were filled.
        seconds: How long training took.
    """

    kind: Kind
    seed: int
    equity: dict[str, FloatArray]
    before_costs: FloatArray
    distinguishable: bool | None
    verdict: str
    orders: int
    seconds: float

    @property
    def optimum(self) -> str:
        """Which of the accounts is the best that there can be."""
        return "patient" if self.kind == "planted" else "cash"

    def growth(self, account: str = "agent") -> float:
        """Log equity per bar after costs."""
        return _growth(self.equity[account])

    @property
    def growth_before_costs(self) -> float:
        """The agent's log equity per bar if it traded for nothing."""
        return _growth(self.before_costs)

    def share(self, account: str = "agent") -> float:
        """Growth of an account as a part of the optimal rule's, on the planted market."""
        return self.growth(account) / self.growth(self.optimum)


def run_trial(trial: Trial) -> Outcome:
    """Train an agent and test it on held-out bars."""
    market = MARKETS[trial.kind].market(TRAIN_BARS + TEST_BARS, trial.seed)
    train, test = market.split(market.timestamps[TRAIN_BARS])
    env = TradingVecEnv(train, trial.rules, n_envs=AGENT.n_envs, seed=trial.seed, copy=False)
    agent = Agent(AGENT, env, seed=trial.seed)
    began = time.perf_counter()
    agent.learn(trial.timesteps)
    seconds = time.perf_counter() - began
    exact = StatefulTradingEnv(test, trial.rules, scaler=env.batch.scaler)
    baselines = (AllCash(), TrendRule(patient=True), TrendRule(patient=False), BuyAndHold())
    settings = {"vectorbt": False, "uncertainty": {"level": LEVEL, "resamples": 4_000}}
    results = BackTesting(agent, exact, settings, baselines=baselines, trained_on=train).run()
    env.close()
    return _outcome(trial, results, seconds)


def _outcome(trial: Trial, results: BacktestResults, seconds: float) -> Outcome:
    accounts = {"agent": results.history} | results.baselines
    against_cash = next(verdict for verdict in results.verdicts if verdict.baseline == "cash")
    equity = results.history["equity"].to_numpy(np.float64)
    costs = results.history["costs"].to_numpy(np.float64)
    before_costs = equity[0] * np.cumprod(np.append(1.0, (equity[1:] + costs[1:]) / equity[:-1]))
    return Outcome(
        kind=trial.kind,
        seed=trial.seed,
        equity={name: history["equity"].to_numpy(np.float64) for name, history in accounts.items()},
        before_costs=before_costs,
        distinguishable=against_cash.distinguishable,
        verdict=str(against_cash),
        orders=results.metrics["fills"],
        seconds=seconds,
    )


@dataclass(frozen=True, eq=False)
class SelfCheck:
    """What all trials came to.

    Attributes:
        outcomes: One for each market and seed.
        timesteps: Lane-steps that each agent was trained for.
    """

    outcomes: tuple[Outcome, ...]
    timesteps: int

    def of(self, kind: Kind) -> tuple[Outcome, ...]:
        """Return the outcomes of one market, by seed."""
        return tuple(sorted((o for o in self.outcomes if o.kind == kind), key=lambda outcome: outcome.seed))

    @property
    def expected(self) -> Growth:
        """What can be expected on the planted market, in closed form."""
        costs = RULES.cost_config
        assert isinstance(costs.fee_rate, float)
        assert isinstance(costs.slippage_rate, float)
        return MARKETS["planted"].growth(costs.fee_rate, costs.slippage_rate)

    @property
    def learns(self) -> bool:
        """Whether every seed reached enough of the optimum on the planted market."""
        return all(outcome.share() >= ENOUGH for outcome in self.of("planted"))

    @cached_property
    def luck(self) -> dict[str, Interval]:
        """What all seeds made on noise, ``after`` and ``before`` costs, log equity per bar, with intervals of `LEVEL`.

        Each bar of a fair coin is uncorrelated with all bars before, whatever was held, so the standard error of the
        mean is that of independent bars.
        """
        noise = self.of("noise")
        accounts = {"after": [o.equity["agent"] for o in noise], "before": [o.before_costs for o in noise]}
        return {name: _mean_growth(equities) for name, equities in accounts.items()}

    @property
    def silent(self) -> bool:
        """Whether luck explains what was made on noise, even before costs."""
        low = self.luck["before"].low
        assert low is not None
        return low <= 0

    @property
    def passed(self) -> bool:
        """Whether it learns, and finds nothing where there is nothing."""
        return self.learns and self.silent

    @property
    def conclusion(self) -> str:
        """Both answers, in plain words."""
        planted = self.of("planted")
        enough, n = sum(outcome.share() >= ENOUGH for outcome in planted), len(planted)
        worst = math.floor(1000 * min(outcome.share() for outcome in planted)) / 10
        learned = "Your installation learns" if self.learns else "Your installation does not learn as it should"
        noise = (
            "On noise it found nothing, as it should."
            if self.silent
            else "On noise it made more than luck explains, which nothing can do that does not look ahead."
        )
        return (
            f"{learned}: {enough} of {n} seeds reached at least {ENOUGH:.0%} of what is possible (worst {worst:.1f}%). "
            f"{noise}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as JSON has them; growth is log equity per bar."""
        return {
            "passed": self.passed,
            "learns": self.learns,
            "silent_on_noise": self.silent,
            "conclusion": self.conclusion,
            "timesteps": self.timesteps,
            "expected_growth": vars(self.expected) | {"best": self.expected.best},
            "noise_growth": {name: vars(interval) for name, interval in self.luck.items()},
            "trials": [
                {
                    "market": outcome.kind,
                    "seed": outcome.seed,
                    "growth": {name: outcome.growth(name) for name in outcome.equity},
                    "growth_before_costs": outcome.growth_before_costs,
                    "share": outcome.share() if outcome.kind == "planted" else None,
                    "orders": outcome.orders,
                    "training_seconds": round(outcome.seconds, 3),
                    "verdict": outcome.verdict,
                }
                for outcome in (*self.of("planted"), *self.of("noise"))
            ],
        }

    def write(self, directory: Path) -> Path:
        """Write ``selfcheck.json`` and ``selfcheck.png`` and return the path of the latter.

        Raises:
            RunError: The directory cannot be written.
        """
        from stateful.evaluation.selfcheck_plot import draw

        picture = directory / "selfcheck.png"
        try:
            directory.mkdir(parents=True, exist_ok=True)
            text = json.dumps(self.as_dict(), indent=2, allow_nan=False)
            (directory / "selfcheck.json").write_text(text + "\n", encoding="utf-8")
            draw(self, picture)
        except OSError as error:
            raise RunError(f"{directory}: cannot be written: {error}") from error
        return picture


def run_selfcheck(
    seeds: Sequence[int],
    timesteps: int = TIMESTEPS,
    *,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> SelfCheck:
    """Train and test an agent on both markets with each seed.

    Args:
        seeds: Seeds, each of which draws markets of its own.
        timesteps: Lane-steps to train each agent for.
        workers: Processes to share the work; 1 does it all in this one.
        progress: Called as ``progress(trials_done, trials_in_all)``.

    Raises:
        RunError: A process failed.
    """
    kinds: tuple[Kind, ...] = ("planted", "noise")
    trials = [Trial(kind, seed, timesteps) for seed in seeds for kind in kinds]
    outcomes: list[Outcome] = []

    def heard(_: int, outcome: Outcome) -> None:
        outcomes.append(outcome)
        if progress is not None:
            progress(len(outcomes), len(trials))

    def ended(_: int, reason: str | None) -> None:
        if reason is not None:
            raise RunError(f"selfcheck: {reason}")

    if workers == 1:
        _run_trials(trials, lambda outcome: heard(0, outcome))
    else:
        # One process for each worker and not for each trial, since it takes seconds to load the libraries.
        shares = {i: trials[i::workers] for i in range(min(workers, len(trials)))}
        run_in_processes(_run_trials, shares, workers=workers, heard=heard, ended=ended)
    return SelfCheck(tuple(outcomes), timesteps)


def _run_trials(trials: Sequence[Trial], tell: Tell) -> None:
    for trial in trials:
        tell(run_trial(trial))


def _growth(equity: FloatArray) -> float:
    return float(np.log(equity[-1] / equity[0]) / (len(equity) - 1))


def _mean_growth(equities: Sequence[FloatArray]) -> Interval:
    growth = np.concatenate([np.diff(np.log(equity)) for equity in equities])
    reach = NormalDist().inv_cdf((1.0 + LEVEL) / 2.0) * growth.std(ddof=1) / math.sqrt(len(growth))
    return Interval(float(growth.mean()), float(growth.mean() - reach), float(growth.mean() + reach))
