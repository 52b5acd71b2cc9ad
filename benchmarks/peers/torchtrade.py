"""TorchTrade: one symbol on TorchRL, a scalar environment and a batched one."""

from __future__ import annotations

import importlib
import logging
import sys
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks.peers import ours
from benchmarks.peers.adapter import Peer, site_folder
from benchmarks.peers.market import CASH, EPISODE, FEE, WEIGHTS, Floats, bars_frame, prices, random_choices
from benchmarks.peers.measure import Case, Running
from benchmarks.peers.money import Ledger, MoneyCheck, ledger, weight_scripts

SCALAR, VECTOR = "TorchTrade SequentialTradingEnv", "TorchTrade VectorizedSequential"
LANES = (1, 64, 1_024, 4_096)
REASON = (
    "a position of weight w gets w * equity / (1 + fee), fee included; ours gets w * equity, and the fee comes from "
    "the rest of the cash. Both are consistent. Prices are rounded to float32"
)
FIRST_BAR = 1
"""Its first bar is the one after the window of observations, which is one bar long here."""


def _module(name: str) -> ModuleType:
    """Import a module of ``torchtrade.envs`` without the package's own start, which imports clients of exchanges."""
    logging.getLogger("torchtrade").setLevel(logging.CRITICAL)  # it warns of balances like -1e-9, which takes time
    root = site_folder("torchtrade")
    for package in ("torchtrade", "torchtrade.envs", "torchtrade.envs.core", "torchtrade.envs.offline"):
        if package not in sys.modules:
            stand_in = ModuleType(package)
            stand_in.__path__ = [str(root.joinpath(*package.split(".")))]
            sys.modules[package] = stand_in
    return importlib.import_module(f"torchtrade.envs.{name}")


def _with_features(frame: pd.DataFrame) -> pd.DataFrame:
    values = prices(1).features[:, 0]
    return frame.reset_index().assign(**{f"features_{k}": column for k, column in enumerate(values.T)})


def make(name: str, lanes: int = 1, **changes: Any) -> Any:
    """Return an environment with one bar of features in its observation."""
    settings = {
        "time_frames": "1Day",
        "execute_on": "1Day",
        "window_sizes": 1,
        "initial_cash": CASH,
        "transaction_fee": FEE,
        "action_levels": list(WEIGHTS),
        "max_traj_length": EPISODE,
        "seed": 0,
        **changes,
    }
    frame = bars_frame().rename_axis("timestamp").reset_index()
    if name == SCALAR:
        module = _module("offline.sequential")
        config = module.SequentialTradingEnvConfig(**settings)
        return module.SequentialTradingEnv(frame, config, _with_features)
    module = _module("offline.vectorized_sequential")
    config = module.VectorizedSequentialTradingEnvConfig(num_envs=lanes, **settings)
    return module.VectorizedSequentialTradingEnv(frame, config, _with_features)


def _case(name: str, lanes: int) -> Case:
    def start() -> Running:
        env = make(name, lanes)
        choices = torch.from_numpy(random_choices(lanes))
        if name == SCALAR:
            choices = choices[:, 0]
        state = env.reset()

        def step(k: int) -> None:
            nonlocal state
            state["action"] = choices[k % len(choices)]
            _, state = env.step_and_maybe_reset(state)

        return Running(step)

    return Case(name, lanes, 1, start)


def _play(name: str, script: Floats) -> Ledger:
    env = make(name, max_traj_length=None, random_start=False)
    state = env.reset()
    entries, level = [], 0
    for (weight,) in script:
        level = level if np.isnan(weight) else WEIGHTS.index(weight)
        state["action"] = torch.tensor(level if name == SCALAR else [level])
        state = env.step(state)["next"]
        if name == SCALAR:
            entries.append((env._get_portfolio_value(), env.balance, env.position.position_size))
        else:
            state_of_lanes = env._portfolio_values, env._balances, env._position_sizes
            entries.append(tuple(float(tensor[0]) for tensor in state_of_lanes))
    return ledger(entries)


def _check(name: str) -> MoneyCheck:
    closest = ours.Closest("close", whole_shares=False, first_bar=FIRST_BAR)
    return MoneyCheck(weight_scripts(), partial(_play, name), closest, dict.fromkeys(weight_scripts(), REASON))


def _peer(name: str, lanes: tuple[int, ...]) -> Peer:
    return Peer(name, "torchtrade", lambda: [_case(name, n) for n in lanes], lambda: _check(name))


PEERS = (_peer(SCALAR, (1,)), _peer(VECTOR, LANES))
