"""Gym-Trading-Env: one symbol, positions chosen from a list."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from benchmarks.peers import ours
from benchmarks.peers.adapter import Peer, gym_case, sb3_cases, site_folder
from benchmarks.peers.market import CASH, EPISODE, FEE, WEIGHTS, Floats, bars_frame, prices, random_choices
from benchmarks.peers.measure import Case
from benchmarks.peers.money import Ledger, MoneyCheck, ledger, weight_scripts

NAME = "Gym-Trading-Env"
REASON = (
    "a buy pays its fee in the asset, on the amount with the fee, and is sized so that the weight is exact after the "
    "fee; ours sizes on the equity before it and takes the fee, on the notional, from cash. Both are consistent"
)
REASONS = dict.fromkeys(weight_scripts(), REASON)


def make(duration: int | str = EPISODE) -> Any:
    """Return the environment; its import turns all warnings of the process into errors, which is undone here."""
    site_folder("gym-trading-env")
    with warnings.catch_warnings():
        from gym_trading_env.environments import TradingEnv

    frame = bars_frame()
    for k, values in enumerate(prices(1).features[:, 0].T):
        frame[f"feature_{k}"] = values
    return TradingEnv(
        frame,
        positions=list(WEIGHTS),
        trading_fees=FEE,
        portfolio_initial_value=CASH,
        initial_position=0.0,
        max_episode_duration=duration,
        verbose=0,
    )


def _play(script: Floats) -> Ledger:
    env = make("max")
    env.reset()
    entries = []
    for (weight,) in script:
        *_, info = env.step(None if np.isnan(weight) else WEIGHTS.index(weight))
        held = {name: info[f"portfolio_distribution_{name}"] for name in ("fiat", "asset")}
        owed = {name: info[f"portfolio_distribution_borrowed_{name}"] for name in ("fiat", "asset")}
        entries.append((info["portfolio_valuation"], held["fiat"] - owed["fiat"], held["asset"] - owed["asset"]))
    return ledger(entries)


def _cases() -> list[Case]:
    return [gym_case(NAME, 1, make, random_choices()), *sb3_cases(NAME, 1, make, random_choices)]


PEER = Peer(
    NAME,
    "gym-trading-env",
    _cases,
    lambda: MoneyCheck(weight_scripts(), _play, ours.Closest("close", whole_shares=False), REASONS),
)
