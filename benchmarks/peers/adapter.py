"""What every adapter of a peer is made of, and how it finds the peer's environment file."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import ModuleType
from typing import Any

from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from benchmarks.peers.measure import Case, Running
from benchmarks.peers.money import MoneyCheck

SB3_ENVS = 8
"""Environments in stable-baselines3's wrappers; `SubprocVecEnv` runs one process for each."""


class PeerUnavailableError(Exception):
    """A peer cannot be measured; the message says why."""


@dataclass(frozen=True)
class Peer:
    """One environment to compare with.

    Attributes:
        name: Its name in the tables.
        distribution: The package that holds it.
        cases: What to time.
        money: Its money check, or None for ours.
        vec_envs: Builders of stable-baselines3 environments to train PPO on, by name.
    """

    name: str
    distribution: str
    cases: Callable[[], Sequence[Case]]
    money: Callable[[], MoneyCheck] | None = None
    vec_envs: dict[str, Callable[[], VecEnv]] = field(default_factory=dict)


def site_folder(package: str) -> Path:
    """Return the folder that a distribution was installed into.

    Raises:
        PeerUnavailableError: It is not installed.
    """
    try:
        return Path(str(distribution(package).locate_file("")))
    except PackageNotFoundError:
        raise PeerUnavailableError(
            f"{package} is not installed; expected the environment of benchmarks/peers/requirements.txt"
        ) from None


def load_file(package: str, path: str) -> ModuleType:
    """Import one file of an installed distribution, and nothing else of it.

    Args:
        package: The distribution.
        path: The file below the folder of installed packages.

    Raises:
        PeerUnavailableError: The distribution or the file is missing.
    """
    name = "benchmarks.peers.loaded." + path.removesuffix(".py").replace("/", ".")
    if name in sys.modules:
        return sys.modules[name]
    file = site_folder(package) / path
    if not file.is_file():
        raise PeerUnavailableError(f"{package} has no file {path}; expected the version of requirements.txt")
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[name] = module
    return module


def gym_case(name: str, symbols: int, make: Callable[[], Any], actions: Any) -> Case:
    """Return a case for one `gymnasium.Env` alone, with one action per row."""

    def start() -> Running:
        env = make()
        env.reset()

        def step(k: int) -> None:
            _, _, terminated, truncated, _ = env.step(actions[k % len(actions)])
            if terminated or truncated:
                env.reset()

        return Running(step)

    return Case(name, 1, symbols, start)


def vec_env_case(name: str, lanes: int, symbols: int, make: Callable[[], VecEnv], actions: Any) -> Case:
    """Return a case for a stable-baselines3 `VecEnv`, with one row of actions per step."""

    def start() -> Running:
        venv = make()
        venv.reset()

        def step(k: int) -> None:
            venv.step(actions[k % len(actions)])

        return Running(step, venv.close)

    return Case(name, lanes, symbols, start)


def dummy(make: Callable[[], Any], n_envs: int = SB3_ENVS) -> VecEnv:
    """Return environments in one process."""
    return DummyVecEnv([make] * n_envs)


def subproc(make: Callable[[], Any], n_envs: int = SB3_ENVS) -> VecEnv:
    """Return environments in a process each; forked, so that they start at once."""
    return SubprocVecEnv([make] * n_envs, start_method="fork")


def sb3_cases(name: str, symbols: int, make: Callable[[], Any], draw: Callable[[int], Any]) -> list[Case]:
    """Return cases for an environment in both wrappers of stable-baselines3, `SubprocVecEnv` also with 2 processes."""
    return [
        vec_env_case(f"{name}, {label}", n, symbols, lambda w=wrapper, n=n: w(make, n), draw(n))
        for label, wrapper, n in (
            ("DummyVecEnv", dummy, SB3_ENVS),
            ("SubprocVecEnv", subproc, 2),
            ("SubprocVecEnv", subproc, SB3_ENVS),
        )
    ]
