"""Learning curves of PPO, stock beside fast, over several seeds: ``python -m benchmarks.curves --seeds 5``.

The two take turns, seed by seed, on the same lanes with the same hyperparameters. With ``--indexed`` the fast one
learns on indexed observations: ``--symbols 100 --features 16 --indexed``. `summary` draws what ``--json`` writes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

from batchenv.ppo import FastPPO
from benchmarks.learning import add_options, build


class Curve(BaseCallback):
    """Notes the mean reward of a step for every rollout, with the lane-steps and seconds until its end."""

    def __init__(self) -> None:
        super().__init__()
        self.points: list[dict[str, float]] = []
        self._rewards: list[float] = []
        self._began = time.perf_counter()

    def _on_step(self) -> bool:
        self._rewards.append(float(self.locals["rewards"].mean()))
        return True

    def _on_rollout_end(self) -> None:
        seconds = time.perf_counter() - self._began
        reward = statistics.fmean(self._rewards)
        self.points.append({"steps": self.model.num_timesteps, "seconds": seconds, "reward": reward})
        self._rewards.clear()


def learn(options: argparse.Namespace, algorithm: type[PPO], seed: int, updates: int) -> list[dict[str, float]]:
    """Return the curve of one model."""
    model, curve = build(options, algorithm, seed=seed), Curve()
    model.learn(updates * options.lanes * options.steps, callback=curve)
    model.env.close()
    return curve.points


def main() -> None:
    """Learn, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    algorithms = {"stock PPO": PPO, f"FastPPO{', indexed' if options.indexed else ''}": FastPPO}
    learn(options, FastPPO, 0, 1)  # compiles
    curves: dict[str, list[Any]] = {name: [] for name in algorithms}
    for seed in range(options.seeds):
        for name, algorithm in algorithms.items():
            curves[name].append(learn(options, algorithm, seed, options.updates))
            last = curves[name][-1][-1]
            reward, rate = last["reward"], last["steps"] / last["seconds"]
            print(f"seed {seed}  {name:<18} last reward {reward:+.4f}  {rate:>9,.0f} lane-steps/s", flush=True)
    stock, fast = curves.values()
    pairs = [pair for runs in zip(stock, fast, strict=True) for pair in zip(*runs, strict=True)]
    gap = max(abs(one["reward"] - other["reward"]) for one, other in pairs)
    ends = [[run[-1]["reward"] for run in runs] for runs in (stock, fast)]
    ratio = statistics.median(a[-1]["seconds"] / b[-1]["seconds"] for a, b in zip(stock, fast, strict=True))
    print(f"\nlargest difference between the two at the same seed and step: {gap:.4f}")
    print("range of the last reward over seeds: " + " and ".join(f"{max(end) - min(end):.4f}" for end in ends))
    print(f"fast is {ratio:.2f} times stock, rollout and learning, median over seeds")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"options": vars(options), "ratio": ratio, "curves": curves}, file, indent=1)


if __name__ == "__main__":
    main()
