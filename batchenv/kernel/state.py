"""The arrays that the kernel reads and writes. N lanes, S symbols, T bars, D numbers in an observation."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

TRADE, WEIGHTS, SHARES = 0, 1, 2
FAST_PROFIT, SIMPLE_RETURN, LOG_RETURN, DIFFERENTIAL_SHARPE, CUSTOM = 0, 1, 2, 3, 4


class Market(NamedTuple):
    """The market, the same for every lane."""

    mark: F64  # [T, S] money per share; 1 before the first bar, where nothing can be held
    fill: F64  # [T, S] price at which an order decided at the bar fills; 0 where it cannot
    features: F32  # [T, features * S]


class Rules(NamedTuple):
    """The rules, the same for every lane. Rates are fractions, money is in the account's currency."""

    mode: int  # TRADE, WEIGHTS or SHARES; discrete choices arrive as TRADE actions of -1, 0, 1
    trade_limit: float
    max_shares: float
    fee_rate: float
    slippage_rate: float
    initial_cash: float
    bankrupt_equity: float
    reward: int
    reward_scaling: float
    turnover_penalty: float
    drawdown_penalty: float
    eta: float
    unrealized_pnl: bool
    time_left: bool


class Lanes(NamedTuple):
    """What a lane remembers from one bar to the next."""

    cash: F64  # [N] money
    holdings: F64  # [N, S] shares
    equity: F64  # [N] money, at the mark of `bar`
    peak: F64  # [N] money, highest equity of the episode
    entry: F64  # [N, S] average entry price; [N, 0] when no observation asks for it
    moments: F64  # [N, 2] A and B of the differential Sharpe ratio
    bar: I64  # [N]
    start: I64  # [N] first bar of the episode
    end: I64  # [N] last bar of the episode


class StepOutput(NamedTuple):
    """What a step tells about each lane."""

    observation: F32  # [N, D]
    reward: F64  # [N]
    terminated: Bool  # [N]
    truncated: Bool  # [N]
    equity_before: F64  # [N] money
    turnover: F64  # [N] fraction of equity_before
    costs: F64  # [N] money


def lane_bytes(lanes: Lanes) -> int:
    """Return the size of one lane's state in bytes."""
    return sum(array[:1].nbytes for array in lanes)
