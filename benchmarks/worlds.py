"""Markets and rules to measure on: random walks of any width, plain rules, and every rule at once."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from batchenv import BatchTradingEnv, EnvConfig, MarketData, register_feature

EPISODE = {"episode_config": {"length": 252, "random_start": True}}
PLAIN: dict[str, Any] = EPISODE | {"cost_config": {"fee_rate": 0.001, "slippage_rate": 0.0005}}
EVERY_RULE: dict[str, Any] = EPISODE | {
    "cost_config": {
        "fee_rate": 0.001,
        "fee_fixed": 1.0,
        "fee_per_share": 0.005,
        "fee_minimum": 2.0,
        "slippage_rate": 0.0005,
        "impact_coefficient": 0.1,
    },
    "execution_config": {
        "lot_size": 1.0,
        "min_notional": 50.0,
        "participation_limit": 0.1,
        "stop_loss": 0.1,
        "take_profit": 0.2,
    },
    "margin_config": {"allow_short": True, "leverage": 2.0, "net_limit": 1.5, "maintenance_margin": 0.25},
    "carry_config": {"cash_rate": 0.02, "margin_rate": 0.05, "borrow_rate": 0.01, "funding_rate": 0.01},
}
RULES = {"plain": PLAIN, "every rule": EVERY_RULE}


def _without(section: str, *keys: str) -> dict[str, Any]:
    kept = {key: value for key, value in EVERY_RULE[section].items() if keys and key not in keys}
    return EVERY_RULE | {section: kept}


WITHOUT = {
    "stops": _without("execution_config", "stop_loss", "take_profit"),
    "impact": _without("cost_config", "impact_coefficient"),
    "lots, least notional and participation": _without(
        "execution_config", "lot_size", "min_notional", "participation_limit"
    ),
    "fixed fees": _without("cost_config", "fee_fixed", "fee_per_share", "fee_minimum"),
    "interest, borrow and funding": _without("carry_config"),
}
"""Every rule but one group."""


@cache
def market(n_symbols: int, n_bars: int = 2500) -> MarketData:
    """Return random walks with opens, highs, lows and volumes."""
    rng = np.random.default_rng(0)
    shape = (n_bars, n_symbols)
    close = 100.0 * np.exp(np.cumsum(rng.normal(0, 0.01, shape), axis=0))
    first = close * np.exp(rng.normal(0, 0.003, shape))
    spread = np.exp(np.abs(rng.normal(0, 0.005, shape)))
    fields = {
        "open": first,
        "high": np.maximum(first, close) * spread,
        "low": np.minimum(first, close) / spread,
        "close": close,
        "volume": rng.integers(100_000, 1_000_000, shape).astype(float),
    }
    dates = pd.bdate_range("2000-01-03", periods=n_bars)
    symbols = [f"S{k:03d}" for k in range(n_symbols)]
    wide = {field: pd.DataFrame(values, index=dates, columns=symbols) for field, values in fields.items()}
    return MarketData.from_frame(pd.concat(wide, axis=1))


def features(count: int) -> list[str]:
    """Register ``count`` cheap features that differ, and return their names."""
    names = [f"bench_{chr(97 + k)}" for k in range(count)]
    for k, name in enumerate(names):
        register_feature(name, lambda m, k=k: m.mark * (k + 1), replace=True)
    return names


def config(rules: dict[str, Any], n_features: int = 8, **sections: Any) -> EnvConfig:
    """Return rules with features."""
    return EnvConfig.model_validate({"features": features(n_features), **rules, **sections})


def actions(n_symbols: int, *lanes: int, count: int = 8) -> np.ndarray:
    """Return ``count`` sets of random actions, float32 ``[count, *lanes, n_symbols]``."""
    return np.random.default_rng(1).uniform(-1, 1, (count, *lanes, n_symbols)).astype(np.float32)


def batch(n_symbols: int, n_envs: int, rules: dict[str, Any] = PLAIN, **options: Any) -> BatchTradingEnv:
    """Return an environment that has been reset and has compiled."""
    env = BatchTradingEnv(market(n_symbols), config(rules), n_envs=n_envs, seed=0, **options)
    env.reset()
    env.step(np.zeros((n_envs, n_symbols), np.float32))
    env.reset(seed=0)
    return env
