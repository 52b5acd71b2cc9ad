"""The arrays that the kernel reads and writes. N lanes, S symbols, T bars, D numbers in an observation.

Rows by symbol are W long, the next multiple of `VECTOR`, so that vector instructions leave no rest. The symbols beyond
S have no price to fill at, so nothing is ever held of them.

An array that no rule in force looks at has a length of 0 where its T or S would be.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]
R = TypeVar("R", bound=tuple[Any, ...])

# Within records the number of dimensions is part of the name: ``jit`` reads it there.
F64x1: TypeAlias = F64
F64x2: TypeAlias = F64
F32x2: TypeAlias = F32
I64x1: TypeAlias = I64
Boolx1: TypeAlias = Bool
Boolx2: TypeAlias = Bool

VECTOR = 16
"""As many numbers as the compiler takes at a time, in four registers of four."""

TRADE, WEIGHTS, SHARES = 0, 1, 2
CLOSE, NIGHT, NEXT_OPEN, STOPS, NEXT_CLOSE = range(5)
"""The events of a step in their order in time; orders fill at one of the three fills."""
FAST_PROFIT, SIMPLE_RETURN, LOG_RETURN, DIFFERENTIAL_SHARPE, CUSTOM = 0, 1, 2, 3, 4


class Market(NamedTuple):
    """The market, the same for every lane."""

    symbols: int  # S
    mark: F64x2  # [T, W] money per share; 1 before the first bar, where nothing can be held
    inverse: F64x2  # [T, W] 1 / mark
    fill: F64x2  # [T, W] price at which an order decided at the bar fills; 0 where it cannot
    features: F32x2  # [T, features * S]
    open: F64x2  # [T, W] money per share; 0 without a bar; for stops
    high: F64x2  # [T, W]
    low: F64x2  # [T, W]
    volume: F64x2  # [T, W] shares; 0 without a bar; for impact and participation
    per_volume: F64x2  # [T, W] 1 / volume; 0 without a bar
    split: F64x2  # [T, W] new shares for one old
    dividend: F64x2  # [T, W] money per new share
    funding: F64x2  # [T, W] fraction of the position
    years: F64x1  # [T] time to the next bar
    last_bar: I64x1  # [W] bar after which the symbol is delisted; T where it is not
    acts: Boolx1  # [T] whether the bar has a split or a dividend
    ends: Boolx1  # [T] whether the bar is the last of a symbol that is delisted
    events: Boolx1  # [T] whether a split, a dividend or a delisting lies between the bar and the next


class Rules(NamedTuple):
    """The rules, the same for every lane. Rates are fractions, yearly where so said; money is in account currency."""

    mode: int  # TRADE, WEIGHTS or SHARES; discrete choices arrive as TRADE actions of -1, 0, 1
    fill_time: int  # CLOSE, NEXT_OPEN or NEXT_CLOSE
    stops: bool
    trade_limit: float
    max_shares: float
    max_weight: float
    cash_account: bool
    allow_short: bool
    net_limit: float  # 0 for none
    maintenance_margin: float
    impact: float
    participation: float  # 0 for none
    min_notional: float
    stop_loss: float  # 0 for none
    take_profit: float  # 0 for none
    haircut: float
    cash_rate: float  # yearly
    margin_rate: float  # yearly
    reinvest: bool
    bankruptcy_fraction: float
    reward: int
    reward_scaling: float
    turnover_penalty: float
    drawdown_penalty: float
    eta: float
    unrealized_pnl: bool
    time_left: bool
    track_entry: bool


class Costs(NamedTuple):
    """Settings by symbol, the same for every lane."""

    lot: F64x1  # [W] shares; 0 for fractions
    per_lot: F64x1  # [W] 1 / lot; 0 for fractions
    funding_rate: F64x1  # [W] yearly


class Parameters(NamedTuple):
    """Settings by lane, of its current episode.

    C is W where they differ by symbol, else 1; M is N where they may differ by lane, else 1.
    """

    fee_rate: F64x2  # [N, C]
    slippage_rate: F64x2  # [N, C]
    fee_fixed: F64x2  # [M, C] money per order
    fee_per_share: F64x2  # [M, C] money
    fee_minimum: F64x2  # [M, C] money per order
    borrow_rate: F64x2  # [M, C] yearly
    tradable: Boolx2  # [N, W], or [N, 0] where every lane trades all
    leverage: F64x1  # [N]
    initial_cash: F64x1  # [N] money


class Lanes(NamedTuple):
    """What a lane remembers from one bar to the next."""

    cash: F64x1  # [N] money
    holdings: F64x2  # [N, W] shares
    equity: F64x1  # [N] money, at the mark of `bar`
    peak: F64x1  # [N] money, highest equity of the episode
    entry: F64x2  # [N, W] average entry price; [N, 0] when nothing looks at it
    moments: F64x2  # [N, 2] A and V of the differential Sharpe ratio
    margin_call: Boolx1  # [N]
    bar: I64x1  # [N]
    start: I64x1  # [N] first bar of the episode
    end: I64x1  # [N] last bar of the episode


class StepOutput(NamedTuple):
    """What a step tells about each lane, beside its observation."""

    reward: F64x1  # [N]
    terminated: Boolx1  # [N]
    truncated: Boolx1  # [N]
    equity_before: F64x1  # [N] money
    turnover: F64x1  # [N] fraction of equity_before
    costs: F64x1  # [N] money


class Work(NamedTuple):
    """Scratch: what is at hand of the B lanes of a block."""

    order: F64x2  # [B, W] signed shares decided (2); under the plain rules at last the values of the positions
    price: F64x2  # [B, W] fill price, or the price of an exit (5)
    side: F64x2  # [B, W] 1 for a buy and -1 for a sell, of the fill at hand
    reduce: F64x2  # [B, W] shares of its part that reduces the position (3.2)
    increase: F64x2  # [B, W] shares of its part that increases the position
    slip: F64x2  # [B, W] its slippage (3.3)
    value: F64x2  # [B, W] values of the positions (6.1)
    fee_rate: F64x2  # [B, W] the lanes' settings
    slippage_rate: F64x2  # [B, W]
    borrow_rate: F64x2  # [B, W]
    fee_fixed: F64x1  # [W] those of the lane at hand
    fee_per_share: F64x1  # [W]
    fee_minimum: F64x1  # [W]
    factor: F64x1  # [B] the common factor of 3.4, and what it is made of:
    sold: F64x1  # [B] sales at fill prices in money, under the plain rules
    bought: F64x1  # [B] purchases
    cash: F64x1  # [B] C, under the full rules, and so on
    long: F64x1  # [B] L
    short: F64x1  # [B] S
    wanted: F64x1  # [B] W
    slipped: F64x1  # [B] the slippage of W
    fees: F64x1  # [B]
    upper: F64x1  # [B] A
    growing: F64x1  # [B] U
    net_added: F64x1  # [B] D


class World(NamedTuple):
    """All that a step reads and never writes."""

    market: Market
    rules: Rules
    costs: Costs
    parameters: Parameters


TAKEN, DONE = 0, 8
"""Places of a counter, in cache lines of their own."""


class State(NamedTuple):
    """Everything a thread touches in a step."""

    world: World
    lanes: Lanes
    out: StepOutput
    work: Work
    counter: I64x1  # [16] lanes that threads have taken and done, of all steps so far


_LINE, _PAGE = 64, 4096  # bytes
_STAGGER = 5  # cache lines


def aligned(record: R, counter: Iterator[int] | None = None) -> R:
    """Return a copy of a record, and of the records in it, with its float64 arrays where the caches like them.

    They begin at a cache line, since a vector that lies across two takes two loads, and each some lines further into
    its page than the one before: the cache finds its places by the address within a page, and rows of one bar would
    push each other out.

    Args:
        record: The record; arrays of other types stay where they are.
        counter: Counts the arrays; left out by callers.
    """
    counter = count() if counter is None else counter
    values = []
    for value in record:
        if isinstance(value, tuple):
            value = aligned(value, counter)
        elif isinstance(value, np.ndarray) and value.dtype == np.float64:
            value = aligned_copy(value, next(counter))
        values.append(value)
    return type(record)(*values)


def aligned_copy(array: F64, number: int = 0) -> F64:
    """Return a C-contiguous copy of a float64 array as `aligned` makes it; ``number`` is that of the counter."""
    memory = np.zeros(array.nbytes + _LINE + _PAGE, np.uint8)
    first = -memory.ctypes.data % _LINE + number * _STAGGER * _LINE % _PAGE
    copy = memory[first : first + array.nbytes].view(np.float64).reshape(array.shape)
    copy[...] = array
    return copy


def lane_bytes(n_lanes: int, *groups: NamedTuple) -> int:
    """Return the size of one lane's arrays in bytes, those that all lanes share not counted."""
    arrays = [array for group in groups for array in group if len(array) == n_lanes]
    return int(sum(array.nbytes for array in arrays)) // n_lanes
