"""Train trading agents in one batch environment; judge them in another, written on its own.

The public names are loaded when first used, so that ``import batchenv`` is quick.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchenv.agent import Agent
    from batchenv.batch import BatchTradingEnv
    from batchenv.causality import assert_causal
    from batchenv.config import AgentConfig, BacktestConfig, EnvConfig, RunConfig
    from batchenv.errors import BatchenvError
    from batchenv.extractors import IndexedExtractor, bind_market, indexed_policy
    from batchenv.fast import FastTrainingEnv
    from batchenv.features import FeatureScaler, available_features, register_feature
    from batchenv.market import MarketData
    from batchenv.ppo import FastPPO
    from batchenv.rewards import register_reward
    from batchenv.sb3 import TradingVecEnv

_HOME = {
    "Agent": "agent",
    "AgentConfig": "config",
    "BacktestConfig": "config",
    "BatchTradingEnv": "batch",
    "BatchenvError": "errors",
    "EnvConfig": "config",
    "FastPPO": "ppo",
    "FastTrainingEnv": "fast",
    "FeatureScaler": "features",
    "IndexedExtractor": "extractors",
    "MarketData": "market",
    "RunConfig": "config",
    "TradingVecEnv": "sb3",
    "assert_causal": "causality",
    "bind_market": "extractors",
    "indexed_policy": "extractors",
    "available_features": "features",
    "register_feature": "features",
    "register_reward": "rewards",
}

__all__ = [
    "Agent",
    "AgentConfig",
    "BacktestConfig",
    "BatchTradingEnv",
    "BatchenvError",
    "EnvConfig",
    "FastPPO",
    "FastTrainingEnv",
    "FeatureScaler",
    "IndexedExtractor",
    "MarketData",
    "RunConfig",
    "TradingVecEnv",
    "assert_causal",
    "available_features",
    "bind_market",
    "indexed_policy",
    "register_feature",
    "register_reward",
]

try:
    __version__ = version("batchenv")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"batchenv.{_HOME[name]}"), name)
    raise AttributeError(f"module 'batchenv' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
