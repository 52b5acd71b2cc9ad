"""Learning speed of PPO, stock against fast: ``python -m benchmarks.learning --symbols 30 --threads 2``.

Both learn in turn in one process; medians of the repetitions are printed. Run it on a quiet machine. With ``--indexed``
the fast one learns on indexed observations, and the stock one on flat ones: ``--symbols 100 --features 16 --indexed``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv

from batchenv import TradingVecEnv, indexed_policy
from batchenv.mlp import PlainMlp
from batchenv.ppo import FastPPO
from batchenv.small_batches import SmallBatches
from benchmarks import worlds


class Nothing(VecEnv):
    """Gives the same arrays at every step."""

    def __init__(self, like: VecEnv) -> None:
        super().__init__(like.num_envs, like.observation_space, like.action_space)
        self._obs = like.reset()
        self._dones, self._infos = np.zeros(self.num_envs, np.bool_), [{}] * self.num_envs

    def reset(self) -> np.ndarray:
        return self._obs

    def step_async(self, actions: np.ndarray) -> None:
        pass

    def step_wait(self) -> Any:
        return self._obs, np.zeros(self.num_envs, np.float32), self._dones, self._infos

    def close(self) -> None:
        pass

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [None] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise AttributeError(attr_name)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        raise AttributeError(method_name)

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * self.num_envs


def update(model: PPO) -> tuple[float, float]:
    """Run one update; return the seconds of the rollout and of the learning."""
    if model.num_timesteps == 0:
        _, model.bench_callback = model._setup_learn(1, None)
    began = time.perf_counter()
    model.collect_rollouts(model.env, model.bench_callback, model.rollout_buffer, model.n_steps)
    between = time.perf_counter()
    model.train()
    return between - began, time.perf_counter() - between


@contextmanager
def clocks(model: PPO) -> Iterator[dict[str, float]]:
    """Measure the parts of an update from outside."""
    parts = [
        ("env step", model.env, "step"),
        ("policy forward", model.policy, "forward"),
        ("policy forward", PlainMlp, "act"),
        ("buffer add", model.rollout_buffer, "add"),
        ("gather", model.rollout_buffer, "_get_samples"),
        ("lay out", model.rollout_buffer, "swap_and_flatten"),
        ("evaluate", model.policy, "evaluate_actions"),
        ("evaluate", PlainMlp, "evaluate"),
        ("loss", FastPPO, "_loss"),
        ("backward", torch.Tensor, "backward"),
        ("backward", PlainMlp, "backward"),
        ("clip gradients", torch.nn.utils, "clip_grad_norm_"),
        ("clip gradients", PlainMlp, "clip_gradients"),
        ("optimizer", model.policy.optimizer, "step"),
        ("compiled update", SmallBatches, "epoch"),
    ]
    seconds: dict[str, float] = defaultdict(float)
    before = [(owner, name, vars(owner).get(name)) for _, owner, name in parts]

    def timed(part: str, original: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return original(*args, **kwargs)
            finally:
                seconds[part] += time.perf_counter() - began

        return call

    for part, owner, name in parts:
        setattr(owner, name, timed(part, getattr(owner, name)))
    try:
        yield seconds
    finally:
        for owner, name, original in before:
            if original is None:
                delattr(owner, name)
            else:
                setattr(owner, name, original)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of what is learned on."""
    parser.add_argument("--symbols", type=int, default=30)
    parser.add_argument("--features", type=int, default=8)
    parser.add_argument("--lanes", type=int, default=256)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--mode", choices=("trade", "discrete"), default="trade")
    parser.add_argument("--indexed", action="store_true", help="let the fast one learn on indexed observations")
    parser.add_argument("--json", help="also write the figures to this file")


def build(options: argparse.Namespace, algorithm: type[PPO], *, seed: int = 0, nothing: bool = False) -> PPO:
    """Return a model; ``nothing`` puts `Nothing` in place of its environment."""
    sections: dict[str, Any] = {"action_config": {"mode": options.mode}}
    if options.indexed and algorithm is FastPPO:
        sections["observation_config"] = {"mode": "indexed"}
    rules = worlds.config(worlds.PLAIN, options.features, **sections)
    bars = worlds.market(options.symbols)
    env: VecEnv = TradingVecEnv(bars, rules, n_envs=options.lanes, seed=seed, n_threads=options.threads, copy=False)
    policy, policy_kwargs = indexed_policy(env)
    return algorithm(
        policy,
        Nothing(env) if nothing else env,
        policy_kwargs=policy_kwargs,
        seed=seed,
        device="cpu",
        n_steps=options.steps,
        batch_size=options.batch,
        n_epochs=options.epochs,
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser)
    parser.add_argument("--repetitions", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    models = {
        "stock": build(options, PPO),
        "fast": build(options, FastPPO),
        "stock, no env": build(options, PPO, nothing=True),
        "fast, no env": build(options, FastPPO, nothing=True),
    }
    for model in models.values():
        update(model)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    for _ in range(options.repetitions):
        for name, model in models.items():
            times[name].append(update(model))
    lane_steps = options.lanes * options.steps
    result: dict[str, Any] = {"options": vars(options), "models": {}}
    print(f"{'':<14}{'rollout ms':>12}{'learning ms':>13}{'lane-steps/s':>14}{'spread':>9}")
    for name, rows in times.items():
        totals = [sum(row) for row in rows]
        total = statistics.median(totals)
        rollout, learning = (statistics.median(column) for column in zip(*rows, strict=True))
        spread = (max(totals) - min(totals)) / total
        result["models"][name] = {"rollout": rollout, "learning": learning, "total": total, "spread": spread}
        print(f"{name:<14}{rollout * 1e3:>12.1f}{learning * 1e3:>13.1f}{lane_steps / total:>14,.0f}{spread:>8.0%}")
    for part in ("rollout", "learning", "total"):
        result[f"ratio_{part}"] = statistics.median(
            _part(a, part) / _part(b, part) for a, b in zip(times["stock"], times["fast"], strict=True)
        )
        print(f"fast is {result[f'ratio_{part}']:.2f} times stock: {part}")
    for name in ("stock", "fast"):
        share = result["models"][f"{name}, no env"]["rollout"] / result["models"][name]["rollout"]
        result[f"rollout_of_nothing_{name}"] = share
        print(f"{name}: the rollout runs at {share:.2f} of its speed with an environment that does nothing")
    print("\nwhere one second goes")
    result["parts"] = {}
    for name in ("stock", "fast"):
        with clocks(models[name]) as seconds:
            total = sum(update(models[name]))
        seconds["rest"] = total - sum(seconds.values())
        result["parts"][name] = {part: value / total for part, value in seconds.items()}
        print(f"{name:<7}" + ", ".join(f"{part} {share:.3f}" for part, share in result["parts"][name].items()))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=2)


def _part(row: tuple[float, float], part: str) -> float:
    return {"rollout": row[0], "learning": row[1], "total": sum(row)}[part]


if __name__ == "__main__":
    main()
