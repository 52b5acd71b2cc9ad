"""Steps per second of every environment, on random actions: ``python benchmarks/steps.py --symbols 30``.

Prints the median of several repetitions and their spread. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import pandas as pd

from batchenv import BatchTradingEnv, EnvConfig, FastTrainingEnv, MarketData, TradingVecEnv, register_feature
from stateful import StatefulTradingEnv

SECONDS, REPETITIONS = 0.5, 7


def market(n_symbols: int, n_bars: int = 2500) -> MarketData:
    """Random walks of a given width, or the bundled data for 0 symbols."""
    if n_symbols == 0:
        return MarketData.bundled().split("2010-01-01")[0]
    rng = np.random.default_rng(0)
    close = 100.0 * np.exp(np.cumsum(rng.normal(0, 0.01, (n_bars, n_symbols)), axis=0))
    dates = pd.bdate_range("2000-01-03", periods=n_bars)
    symbols = [f"S{k:03d}" for k in range(n_symbols)]
    fields = {"open": close * np.exp(rng.normal(0, 0.003, close.shape)), "close": close}
    wide = {field: pd.DataFrame(values, index=dates, columns=symbols) for field, values in fields.items()}
    return MarketData.from_frame(pd.concat(wide, axis=1))


def rate(step: Callable[[int], None], lanes: int) -> tuple[float, float]:
    """Return the median lane-steps per second of ``step(k)`` and the spread of the repetitions around it."""
    step(0)
    rates = []
    for _ in range(REPETITIONS):
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < SECONDS:
            for _ in range(20):
                step(count)
                count += 1
        rates.append(count * lanes / (time.perf_counter() - began))
    median = statistics.median(rates)
    return median, (max(rates) - min(rates)) / median


def scalar_step(env: FastTrainingEnv | StatefulTradingEnv, actions: np.ndarray) -> Callable[[int], None]:
    env.reset()

    def step(k: int) -> None:
        *_, terminated, truncated, _ = env.step(actions[k % len(actions)])
        if terminated or truncated:
            env.reset()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--symbols", type=int, default=0, help="random walks; 0 takes the bundled data (5 symbols)")
    parser.add_argument("--features", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    bars = market(options.symbols)
    names = [f"bench_{chr(97 + k)}" for k in range(options.features)]
    for k, name in enumerate(names):
        register_feature(name, lambda m, k=k: np.roll(m.mark, 0) * (k + 1), replace=True)
    rules = EnvConfig.model_validate(
        {
            "features": names,
            "episode_config": {"length": 252, "random_start": True},
            "portfolio_config": {"maintain_history": True},
        }
    )
    rng = np.random.default_rng(1)

    def draw(*shape: int) -> np.ndarray:
        return rng.uniform(-1, 1, (16, *shape, bars.n_symbols)).astype(np.float32)

    print(f"{bars.n_symbols} symbols x {options.features} features, {options.threads} thread(s)")
    print(f"{'environment':<24}{'lanes':>7}{'steps/s':>14}{'spread':>9}")

    def show(name: str, lanes: int, step: Callable[[int], None]) -> None:
        median, spread = rate(step, lanes)
        print(f"{name:<24}{lanes:>7,}{median:>14,.0f}{spread:>8.0%}", flush=True)

    show("StatefulTradingEnv", 1, scalar_step(StatefulTradingEnv(bars, rules, seed=0), draw()))
    show("FastTrainingEnv", 1, scalar_step(FastTrainingEnv(bars, rules, seed=0), draw()))
    for lanes in (1, 64, 1024, 4096):
        actions = draw(lanes)
        batch = BatchTradingEnv(bars, rules, n_envs=lanes, seed=0, n_threads=options.threads, copy=False)
        batch.reset()
        show("BatchTradingEnv", lanes, lambda k, e=batch, a=actions: e.step(a[k % 16]))
        venv = TradingVecEnv(bars, rules, n_envs=lanes, seed=0, n_threads=options.threads, copy=False)
        venv.reset()
        show("TradingVecEnv", lanes, lambda k, e=venv, a=actions: e.step(a[k % 16]))


if __name__ == "__main__":
    main()
