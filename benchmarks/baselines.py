"""What the baselines cost beside the agent and beside an account that does nothing: ``python -m benchmarks.baselines``.

One market of minute bars, one environment with full history, everything in one run: the agent (stable-baselines3's PPO
with an MlpPolicy, untrained, which is as slow as a trained one), no orders at all, and each baseline. Repetitions take
turns and the fastest counts, so that the ratios can be trusted on a busy machine.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from batchenv import Agent, EnvConfig, MarketData, TradingVecEnv
from batchenv.config import BacktestConfig
from stateful import StatefulTradingEnv
from stateful.baselines import RandomTurnover, make_baselines
from stateful.evaluation.comparable import play_rule

RULES: dict[str, Any] = {
    "features": ["return_1", "momentum_20", "volatility_20", "rsi_14"],
    "fill": "next_close",
    "portfolio_config": {"maintain_history": True},
}
GOAL = 3.0
"""All baselines together take no more than so many times the agent's time."""


class Idle:
    """An account without orders."""

    def __init__(self, symbols: int) -> None:
        self._nothing = np.zeros(symbols)

    def orders(self, env: StatefulTradingEnv) -> Any:
        """Order nothing."""
        return self._nothing


def minutes(bars: int, symbols: int) -> MarketData:
    """Return random walks on minutes."""
    walks = 100 * np.exp(np.random.default_rng(0).normal(0, 5e-4, (bars, symbols)).cumsum(axis=0))
    index = pd.date_range("2021-01-04", periods=bars, freq="min")
    return MarketData.from_frame(pd.DataFrame(walks, index, [f"S{i}" for i in range(symbols)]))


def plays(bars: int, symbols: int, every: int | None) -> dict[str, Callable[[], object]]:
    """Return what is timed, by name; each plays all bars once."""
    market, config = minutes(bars, symbols), EnvConfig.model_validate(RULES)
    training = TradingVecEnv(market, config.updated(episode_config={"length": 64}), n_envs=2, seed=0)
    agent = Agent({"algorithm": "ppo"}, training, seed=0)
    env = StatefulTradingEnv(market, config, seed=0, scaler=training.batch.scaler)

    def play_agent() -> None:
        observation, _ = env.reset()
        over = False
        while not over:
            observation, _, ruined, ended, _ = env.step(agent.predict(observation, deterministic=True)[0])
            over = ruined or ended

    def playing(make: Callable[[], Any]) -> Callable[[], object]:
        def play() -> None:
            rule = make()  # anew, so that what is worked out ahead counts
            env.reset()
            play_rule(rule, env)

        return play

    found: dict[str, Callable[[], object]] = {"agent": play_agent, "no orders": playing(lambda: Idle(symbols))}
    for rule in make_baselines(BacktestConfig(rebalance_bars=every)):
        if isinstance(rule, RandomTurnover):
            rule = replace(rule, turnover_per_bar=0.01)
        found[rule.name] = playing(lambda rule=rule: replace(rule))  # type: ignore[misc]
    return found


def fastest(timed: dict[str, Callable[[], object]], repetitions: int) -> dict[str, float]:
    """Return the seconds of each one's fastest repetition; they take turns."""
    best = dict.fromkeys(timed, float("inf"))
    for _ in range(repetitions):
        for name, play in timed.items():
            began = time.perf_counter()
            play()
            best[name] = min(best[name], time.perf_counter() - began)
    return best


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bars", type=int, default=20_000)
    parser.add_argument("--symbols", type=int, default=5)
    parser.add_argument("--rebalance-bars", type=int, default=None, help="None is a month.")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--json", default=None)
    options = parser.parse_args()
    best = fastest(plays(options.bars, options.symbols, options.rebalance_bars), options.repetitions)
    agent, idle = best["agent"], best["no orders"]
    together = sum(seconds for name, seconds in best.items() if name not in ("agent", "no orders"))
    table = Table(box=SIMPLE, title=f"{options.bars:,} minute bars, {options.symbols} symbols, with history")
    for heading in ("", "bars/s", "µs a bar", "of no orders", "of the agent"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, seconds in {**best, "all baselines together": together}.items():
        ratios = (f"{seconds / idle:.2f}", f"{seconds / agent:.2f}")
        table.add_row(name, f"{options.bars / seconds:,.0f}", f"{1e6 * seconds / options.bars:.1f}", *ratios)
    Console().print(table)
    Console().print(f"All together: {together / agent:.2f} times the agent, expected at most {GOAL:g}")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(
                {"options": vars(options), "seconds": best, "together_of_agent": together / agent}, file, indent=1
            )


if __name__ == "__main__":
    main()
