"""PPO end to end, environment and learning together.

First with the same network and hyperparameters everywhere, then as each project sets PPO up by itself: that is part of
what its user gets.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv

from benchmarks.peers import finrl, ours
from benchmarks.peers.adapter import SB3_ENVS, PeerUnavailableError
from benchmarks.peers.measure import Rate, summarize

HYPERPARAMETERS: dict[str, Any] = {"batch_size": 256, "n_epochs": 10, "policy_kwargs": {"net_arch": [64, 64]}}
N_STEPS = 256
"""Steps of a rollout at `SB3_ENVS` lanes, for everyone."""
MANY_LANES, MANY_STEPS = 256, 64
"""Lanes and steps of a rollout as they suit a batched environment; the rest stays as it is."""
FINRL_OWN: dict[str, Any] = {"batch_size": 64, "ent_coef": 0.01, "learning_rate": 0.00025}
"""``PPO_PARAMS`` of FinRL's ``config.py``, whose rollouts of 2,048 steps are `SB3_ENVS` times `N_STEPS` here."""
OURS_OWN = Path("configs/fast_training_ppo.json")


@dataclass(frozen=True)
class Training:
    """One algorithm on one environment.

    Attributes:
        algorithm: Its name in the tables.
        environment: Likewise.
        lanes: Environments.
        n_steps: Steps of a rollout.
        make: Builds the environment.
        find: Imports the algorithm; raises `PeerUnavailableError` where it cannot be had.
        hyperparameters: Of the algorithm, ``n_steps`` apart.
    """

    algorithm: str
    environment: str
    lanes: int
    n_steps: int
    make: Callable[[], VecEnv]
    find: Callable[[], Any]
    hyperparameters: dict[str, Any] = field(default_factory=lambda: HYPERPARAMETERS)

    @property
    def name(self) -> str:
        """The name of the combination."""
        return f"{self.algorithm}, {self.environment}, {self.lanes} lanes"


def _fast_ppo() -> Any:
    try:
        from batchenv.ppo import FastPPO
    except ImportError:
        raise PeerUnavailableError("this version of batchenv has no batchenv.ppo.FastPPO") from None
    return FastPPO


def _sbx_ppo() -> Any:
    try:
        import sbx
    except ImportError as error:
        raise PeerUnavailableError(f"sbx-rl cannot be imported: {error}") from None
    return sbx.PPO


ALGORITHMS: dict[str, Callable[[], Any]] = {"SB3 PPO": lambda: PPO, "FastPPO": _fast_ppo, "SBX PPO": _sbx_ppo}


def trainings() -> Iterator[Training]:
    """Yield what is trained: FinRL's environments in both wrappers, then ours with three implementations of PPO."""
    for peer in finrl.PEERS:
        for label, make in peer.vec_envs.items():
            yield Training("SB3 PPO", f"{peer.name}, {label}", SB3_ENVS, N_STEPS, make, lambda: PPO)
    for algorithm, find in ALGORITHMS.items():
        for lanes, n_steps in ((SB3_ENVS, N_STEPS), (MANY_LANES, MANY_STEPS)):
            yield Training(algorithm, "TradingVecEnv", lanes, n_steps, lambda n=lanes: ours.vec_env(n), find)


def own_trainings() -> Iterator[Training]:
    """Yield FinRL's environments and ours, each with its project's own lanes and hyperparameters."""
    for peer in finrl.PEERS:
        for label, make in peer.vec_envs.items():
            yield Training("SB3 PPO", f"{peer.name}, {label}", SB3_ENVS, N_STEPS, make, lambda: PPO, FINRL_OWN)
    agent = json.loads(OURS_OWN.read_text(encoding="utf-8"))["agent"]
    rest, lanes = dict(agent["hyperparameters"]), agent["n_envs"]
    n_steps = rest.pop("n_steps")
    for algorithm, find in ALGORITHMS.items():
        yield Training(algorithm, "TradingVecEnv", lanes, n_steps, lambda: ours.vec_env(lanes), find, rest)


def learning_rate(training: Training, repetitions: int) -> Rate:
    """Return lane-steps per second of ``learn``, one rollout and its updates per repetition, after one to warm up.

    Raises:
        PeerUnavailableError: The algorithm cannot be had.
    """
    with one_core() if "Subproc" not in training.environment else nullcontext():
        return _learning_rate(training, repetitions)


@contextmanager
def one_core() -> Iterator[None]:
    """Keep this thread and those that it starts on one core, where the system can: XLA takes all that it finds."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def _learning_rate(training: Training, repetitions: int) -> Rate:
    algorithm = training.find()
    venv = training.make()
    try:
        model = algorithm("MlpPolicy", venv, n_steps=training.n_steps, seed=0, device="cpu", **training.hyperparameters)
        rollout = training.lanes * training.n_steps
        model.learn(rollout)
        return summarize([_once(model, rollout) for _ in range(repetitions)])
    finally:
        venv.close()


def _once(model: Any, steps: int) -> float:
    began = time.perf_counter()
    model.learn(steps, reset_num_timesteps=False)
    return steps / (time.perf_counter() - began)
