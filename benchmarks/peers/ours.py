"""batchenv itself, by the rules of the comparison."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from batchenv import EnvConfig, FastTrainingEnv, MarketData, TradingVecEnv, register_feature
from batchenv.config import Fill
from benchmarks.peers.adapter import Peer, gym_case, vec_env_case
from benchmarks.peers.market import CASH, EPISODE, FEE, MAX_SHARES, N_FEATURES, N_SYMBOLS, prices, random_actions
from benchmarks.peers.measure import Case
from benchmarks.peers.money import Floats, Ledger, ledger
from stateful import StatefulTradingEnv

STATEFUL, FAST = "StatefulTradingEnv, full history", "FastTrainingEnv"
LANES = (1, 64, 1_024, 4_096)
FEATURES = [f"peer_feature_{letter}" for letter in "abcdefgh"[:N_FEATURES]]


@cache
def market(n_symbols: int = N_SYMBOLS) -> MarketData:
    """Return the prices as `MarketData`, and register the features."""
    data = prices(n_symbols)
    fields = {"open": data.open, "close": data.close}
    wide = {field: pd.DataFrame(values, data.dates, data.symbols) for field, values in fields.items()}
    for k, name in enumerate(FEATURES):
        register_feature(name, lambda m, k=k: prices(m.n_symbols).features[:, :, k], replace=True)
    return MarketData.from_frame(pd.concat(wide, axis=1))


def rules(**changes: Any) -> EnvConfig:
    """Return the rules of the comparison, with changes."""
    return EnvConfig.model_validate(
        {
            "features": FEATURES,
            "fill": "close",
            "portfolio_config": {"initial_cash": CASH, "maintain_history": True},
            "cost_config": {"fee_rate": FEE, "slippage_rate": 0.0},
            "action_config": {"mode": "shares", "max_shares": float(MAX_SHARES)},
            "execution_config": {"lot_size": 1.0},
            "episode_config": {"length": EPISODE, "random_start": True},
            **changes,
        }
    )


@dataclass(frozen=True)
class Closest:
    """Rules of `StatefulTradingEnv` that come closest to a peer's.

    Attributes:
        fill: When orders fill.
        whole_shares: Whether fractions of shares are dropped.
        first_bar: The bar of a script's first step.
    """

    fill: Fill = "close"
    whole_shares: bool = True
    first_bar: int = 0

    def __str__(self) -> str:
        return f"fill {self.fill}, " + ("whole shares" if self.whole_shares else "weights, fractions of shares")

    def play(self, script: Floats) -> Ledger:
        """Play a script: orders in shares for many symbols, target weights for one."""
        mode, scale = ("weights", 1) if script.shape[1] == 1 else ("shares", MAX_SHARES)

        def step(env: StatefulTradingEnv, row: Floats) -> None:
            if np.isnan(row).any():
                env.step_orders(np.zeros_like(row))
            else:
                env.step((row / scale).astype(np.float32))

        return self._run(script, step, lot_size=float(self.whole_shares), mode=mode)

    def replay(self, fills: Floats) -> Ledger:
        """Order exactly what was filled elsewhere, in shares."""
        return self._run(fills, lambda env, row: env.step_orders(row), lot_size=0.0, mode="shares")

    def _run(
        self, rows: Floats, step: Callable[[StatefulTradingEnv, Floats], object], lot_size: float, mode: str
    ) -> Ledger:
        config = rules(
            fill=self.fill,
            execution_config={"lot_size": lot_size},
            action_config={"mode": mode, "max_shares": float(MAX_SHARES)},
            episode_config={"length": None, "random_start": False},
        )
        env = StatefulTradingEnv(market(rows.shape[1]), config, seed=0)
        env.reset()
        for _ in range(self.first_bar):
            env.step_orders(np.zeros(rows.shape[1]))
        entries = []
        for row in rows:
            step(env, row)
            entries.append((env.equity, env.cash, env.holdings))
        return ledger(entries)


def vec_env(lanes: int, **changes: Any) -> TradingVecEnv:
    """Return the training environment; it does not copy its arrays, as stable-baselines3's algorithms allow."""
    return TradingVecEnv(market(), rules(**changes), n_envs=lanes, seed=0, copy=False)


def _batches(name: str, **changes: Any) -> list[Case]:
    return [vec_env_case(name, n, N_SYMBOLS, lambda n=n: vec_env(n, **changes), random_actions(n)) for n in LANES]


def _cases() -> list[Case]:
    actions = random_actions()
    return [
        gym_case(STATEFUL, N_SYMBOLS, lambda: StatefulTradingEnv(market(), rules(), seed=0), actions),
        gym_case(FAST, N_SYMBOLS, lambda: FastTrainingEnv(market(), rules(), seed=0), actions),
        *_batches("TradingVecEnv"),
        *_batches("TradingVecEnv, fractions of shares", execution_config={"lot_size": 0.0}),
    ]


PEER = Peer("batchenv", "batchenv", _cases)
