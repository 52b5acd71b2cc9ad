"""What each layer costs. Every case moves ``lanes`` lanes over ``STEPS`` bars a round; `summary` turns that into rates.

Run with ``make bench``, on a quiet machine.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from itertools import cycle
from typing import Any

import numpy as np
import pytest

from batchenv import BatchTradingEnv, FastTrainingEnv, TradingVecEnv
from benchmarks import worlds
from stateful import StatefulTradingEnv
from stateful.verify import compare, hostile_actions

STEPS = 16
ROUNDS = 15


def measure(benchmark: Any, step: Callable[[int], object], lanes: int, setup: Callable[[], None], **facts: Any) -> None:
    """Time ``STEPS`` calls of ``step`` a round, after ``setup``."""

    def play() -> None:
        for k in range(STEPS):
            step(k)

    benchmark.extra_info.update(lanes=lanes, steps=STEPS, **facts)
    rounds = ROUNDS if lanes > 1 else 20 * ROUNDS
    benchmark.pedantic(play, setup=setup, rounds=rounds, iterations=1, warmup_rounds=3)


@pytest.fixture(scope="module", autouse=True)
def the_money_is_right() -> None:
    """Speed counts only where the money is right: both tiers agree on what is measured here."""
    for name in worlds.RULES:
        rules = worlds.config(worlds.RULES[name], 2)
        compare(worlds.market(5, 400), rules, hostile_actions(0), n_envs=4, steps=250, seed=0)


def kernel(benchmark: Any, env: BatchTradingEnv, **facts: Any) -> None:
    """Time the compiled step alone, on lanes that are all over the market and do not end."""
    engine, lanes = env._engine, env.num_envs
    start, numbers = engine.lanes.bar.copy(), worlds.actions(env.market.n_symbols, lanes, count=4)

    def rewind() -> None:
        engine.lanes.bar[:] = start

    symbols = env.market.n_symbols
    measure(benchmark, lambda k: engine.advance(numbers[k % 4]), lanes, rewind, symbols=symbols, **facts)
    env.close()


# --- the kernel --------------------------------------------------------------------------------------------------


LANES, SYMBOLS = (64, 256, 1024, 4096, 16384, 65536), (5, 10, 30, 100, 200, 500)


def take(benchmark: Any, lanes: int, symbols: int) -> None:
    """Time moving the observations' features and nothing else: what no environment with flat observations can beat."""
    env = worlds.batch(symbols, lanes)
    rows, table = env.bar.copy(), env.task.features.values
    out = np.empty((lanes, table.shape[1]), np.float32)
    measure(benchmark, lambda k: np.take(table, rows + k, axis=0, out=out, mode="clip"), lanes, lambda: None)


@pytest.mark.parametrize("lanes", LANES)
def test_take_by_lanes(benchmark: Any, lanes: int) -> None:
    take(benchmark, lanes, 30)


@pytest.mark.parametrize("symbols", SYMBOLS)
def test_take_by_symbols(benchmark: Any, symbols: int) -> None:
    take(benchmark, 1024, symbols)


@pytest.mark.parametrize("lanes", LANES)
def test_kernel_by_lanes(benchmark: Any, lanes: int) -> None:
    kernel(benchmark, worlds.batch(30, lanes, copy=False))


@pytest.mark.parametrize("symbols", SYMBOLS)
def test_kernel_by_symbols(benchmark: Any, symbols: int) -> None:
    kernel(benchmark, worlds.batch(symbols, 1024, copy=False))


@pytest.mark.parametrize("rules", list(worlds.RULES))
def test_kernel_by_rules(benchmark: Any, rules: str) -> None:
    kernel(benchmark, worlds.batch(30, 4096, worlds.RULES[rules], copy=False), rules=rules)


def test_kernel_indexed(benchmark: Any) -> None:
    """The money alone: indexed observations have no features to move."""
    kernel(benchmark, worlds.batch(30, 4096, worlds.PLAIN | {"observation_config": {"mode": "indexed"}}, copy=False))


@pytest.mark.parametrize("rules", list(worlds.WITHOUT))
def test_kernel_without(benchmark: Any, rules: str) -> None:
    kernel(benchmark, worlds.batch(30, 4096, worlds.WITHOUT[rules], copy=False), without=rules)


@pytest.mark.parametrize("threads", [1, 2])
def test_kernel_by_threads(benchmark: Any, threads: int) -> None:
    kernel(benchmark, worlds.batch(30, 4096, copy=False, n_threads=threads), threads=threads)


# --- environments ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("copy", [False, True])
def test_batch_step(benchmark: Any, copy: bool) -> None:
    env, numbers = worlds.batch(30, 4096, copy=copy), worlds.actions(30, 4096, count=4)
    measure(benchmark, lambda k: env.step(numbers[k % 4]), 4096, lambda: None, bytes_per_lane=env.bytes_per_lane)


@pytest.mark.parametrize("copy", [False, True])
def test_vec_env_step(benchmark: Any, copy: bool) -> None:
    rules, numbers = worlds.config(worlds.PLAIN), worlds.actions(30, 4096, count=4)
    env = TradingVecEnv(worlds.market(30), rules, n_envs=4096, seed=0, copy=copy)
    env.reset()
    measure(benchmark, lambda k: env.step(numbers[k % 4]), 4096, lambda: None)


@pytest.mark.parametrize("tier", ["fast", "stateful", "stateful, every rule"])
def test_one_account(benchmark: Any, tier: str) -> None:
    kind = FastTrainingEnv if tier == "fast" else StatefulTradingEnv
    rules = worlds.RULES["every rule" if tier.endswith("rule") else "plain"]
    env: Any = kind(worlds.market(30), worlds.config(rules, portfolio_config={"maintain_history": True}), seed=0)
    numbers = cycle(worlds.actions(30, count=61))
    env.reset()

    def step(k: int) -> None:
        *_, terminated, truncated, _ = env.step(next(numbers))
        if terminated or truncated:
            env.reset()

    measure(benchmark, step, 1, lambda: None)


# --- start-up ----------------------------------------------------------------------------------------------------

FIRST_STEP = """
from batchenv import Agent, MarketData, TradingVecEnv
train, _ = MarketData.bundled().split("2010-01-01")
env = TradingVecEnv(train, "configs/fast_training_stock_env.json", n_envs=256, seed=0)
Agent({"hyperparameters": {"n_steps": 2, "batch_size": 512, "n_epochs": 1}}, env, seed=0).learn(512)
"""


@pytest.mark.parametrize("what", ["import stable_baselines3", "first training step"])
def test_start(benchmark: Any, what: str) -> None:
    code = FIRST_STEP if what == "first training step" else what

    def start() -> None:
        # What an interpreter tidies up at its end is not part of its start.
        subprocess.run([sys.executable, "-c", f"{code}\nimport os; os._exit(0)"], check=True)

    benchmark.extra_info.update(lanes=1, steps=1)
    benchmark.pedantic(start, rounds=3, iterations=1, warmup_rounds=1)
