"""Hand-made markets, terms and accounts for the tests of the rules."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from batchenv.config import EnvConfig
from batchenv.episodes import EpisodeSchedule
from batchenv.market import MarketData
from batchenv.parameters import LaneParameters
from stateful import StatefulTradingEnv
from stateful.execution import Quotes
from stateful.portfolio import Flows
from stateful.terms import Terms
from tests.stateful.invariants import AuditedPortfolio

Floats = npt.NDArray[np.float64]
FREE: dict[str, Any] = {"fee_rate": 0.0, "slippage_rate": 0.0}


def hand_made(
    closes: list[list[float]],
    opens: list[list[float]] | None = None,
    *,
    dates: Any = None,
    gone: str = "",
    **fields: Any,
) -> MarketData:
    """Market of symbols A, B, ... with given prices, ``[bars][symbols]``; NaN is no bar; ``gone`` are delisted."""
    close = np.array(closes)
    if dates is None:
        dates = pd.bdate_range("2020-01-01", periods=len(close))
    symbols, timestamps = "ABCDE"[: close.shape[1]], pd.DatetimeIndex(dates).to_numpy().astype("datetime64[ns]")
    ends = [timestamps[~np.isnan(close[:, s])][-1] if name in gone else "NaT" for s, name in enumerate(symbols)]
    return MarketData(
        symbols=tuple(symbols),
        timestamps=timestamps,
        close=close,
        delisted=np.array(ends, "datetime64[ns]"),
        open=None if opens is None else np.array(opens),
        **{name: np.array(values) for name, values in fields.items() if name != "columns"},
        **({"columns": fields["columns"]} if "columns" in fields else {}),
    )


def settings(**changes: Any) -> dict[str, Any]:
    """Configuration without costs, recorded, cash 1000; ``changes`` replace its sections."""
    return {
        "portfolio_config": {"initial_cash": 1000.0, "maintain_history": True},
        "cost_config": FREE,
        "reward_config": {"type": "simple_return"},
        **changes,
    }


def started(data: MarketData, *, lane_parameters: dict[str, Any] | None = None, **changes: Any) -> StatefulTradingEnv:
    """Return an environment with `settings`, reset."""
    env = StatefulTradingEnv(data, settings(**changes), lane_parameters=lane_parameters)
    env.reset()
    return env


def terms_of(symbols: tuple[str, ...] = ("A", "B"), **sections: Any) -> Terms:
    """Return the terms of a configuration without costs but those given."""
    config = EnvConfig.model_validate({"cost_config": FREE, **sections})
    one, none = np.zeros(1, np.int64), np.zeros(1, np.int64)
    lanes = LaneParameters.build(config, symbols, EpisodeSchedule.build(10, 0, None, False), 1)
    return Terms.build(config, symbols, lanes.at(0, one, none))


def account(cash: float = 1000.0, symbols: tuple[str, ...] = ("A", "B"), **sections: Any) -> AuditedPortfolio:
    """Open an account that checks itself."""
    return AuditedPortfolio(symbols, cash, terms_of(symbols, **sections))


def quotes(prices: Any, volumes: Any = None, *, marks: Any = None, tradable: Any = None) -> Quotes:
    """Return quotes; all symbols are tradable and marked at their price where nothing else is said."""
    prices = np.array(prices, np.float64)
    return Quotes(
        prices,
        prices if marks is None else np.array(marks, np.float64),
        np.ones(len(prices), bool) if tradable is None else np.array(tradable),
        None if volumes is None else np.array(volumes, np.float64),
    )


def trade(portfolio: AuditedPortfolio, orders: Any, prices: Any, volumes: Any = None, bar: int = 0) -> Flows:
    """Play a step of one execution and return what moved; the account is not marked."""
    portfolio.open_step(bar)
    portfolio.execute(np.array(orders, np.float64), quotes(prices, volumes), bar + 1)
    return portfolio.step
