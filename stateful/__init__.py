"""The evaluation tier: one account at a time, everything remembered, written for the reader.

It follows ``docs/accounting.md`` on its own and is the oracle of the compiled batch tier
(``batchenv.kernel``), which it never imports. Names are loaded when first used, so that importing the package
costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stateful.backtest import BackTesting, BacktestResults
    from stateful.env import StatefulTradingEnv, TradingEnv

_HOME = {
    "StatefulTradingEnv": "stateful.env",
    "TradingEnv": "stateful.env",
    "BackTesting": "stateful.backtest",
    "BacktestResults": "stateful.backtest",
}

__all__ = ["BackTesting", "BacktestResults", "StatefulTradingEnv", "TradingEnv"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'stateful' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
