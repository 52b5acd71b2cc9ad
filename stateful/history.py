"""What an account did, as tables: one row per bar, per fill, per trade.

Recording writes into arrays made beforehand; pandas is imported when a table is asked for, never in a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stateful.portfolio import Execution, Fill, Portfolio
from stateful.positions import Trade

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.float64]

ACCOUNT_COLUMNS = ("equity", "cash", "reward", "turnover", "fees", "slippage", "costs")
FILL_COLUMNS = (
    "decision_bar", "fill_bar", "timestamp", "symbol", "requested", "shares", "fill_price", "price",
    "notional", "fee", "slippage",
)  # fmt: skip
TRADE_COLUMNS = (
    "symbol", "entry_time", "exit_time", "entry_bar", "exit_bar", "shares", "entry_price", "exit_price",
    "entry_fee", "exit_fee", "pnl", "return", "bars_held", "status",
)  # fmt: skip


class History:
    """The account at every bar of an episode.

    Attributes:
        start: First bar of the episode.
        n_rows: Bars recorded so far.
    """

    __slots__ = ("_account", "_actions", "_shares", "n_rows", "start")

    def __init__(self, start: int, end: int, n_symbols: int) -> None:
        """Make room for the bars ``start`` to ``end``, both included."""
        rows = end - start + 1
        self.start = start
        self.n_rows = 0
        self._account: Floats = np.empty((rows, len(ACCOUNT_COLUMNS)))
        self._shares: Floats = np.empty((rows, n_symbols))
        self._actions: Floats = np.empty((rows, n_symbols))

    def record(self, portfolio: Portfolio, reward: float, execution: Execution, action: Floats | float) -> None:
        """Add the next bar.

        Args:
            portfolio: The account, marked at that bar.
            reward: Reward of the step that led there.
            execution: What that step traded.
            action: Its action numbers, float64 ``[symbols]``, or one number for all of them.
        """
        row = self.n_rows
        self._account[row] = (
            portfolio.equity,
            portfolio.cash,
            reward,
            execution.turnover,
            execution.fees,
            execution.slippage,
            execution.costs,
        )
        self._shares[row] = portfolio.positions.shares
        self._actions[row] = action
        self.n_rows = row + 1

    def frame(self, symbols: Sequence[str], timestamps: npt.NDArray[np.datetime64], marks: Floats) -> pd.DataFrame:
        """Return the history as a table.

        Args:
            symbols: Symbol names.
            timestamps: Time of every bar of the market, datetime64 ``[bars]``.
            marks: Marks of the whole market, 0 before a listing, float64 ``[bars, symbols]``, money per
                share.

        Returns:
            One row per bar, with index ``timestamp``; weights are those after the step, at the bar's marks.
        """
        import pandas as pd

        bars = np.arange(self.start, self.start + self.n_rows)
        account, shares, actions = (a[: self.n_rows] for a in (self._account, self._shares, self._actions))
        equity = account[:, :1]
        weights = np.divide(shares * marks[bars], equity, out=np.zeros_like(shares), where=equity > 0)
        columns: dict[str, npt.NDArray[Any]] = {"bar": bars}
        columns |= {name: account[:, i] for i, name in enumerate(ACCOUNT_COLUMNS)}
        for label, values in (("shares", shares), ("weight", weights), ("action", actions)):
            columns |= {f"{label}[{symbol}]": values[:, s] for s, symbol in enumerate(symbols)}
        return pd.DataFrame(columns, index=pd.DatetimeIndex(timestamps[bars], name="timestamp"))


def fills_frame(fills: Sequence[Fill], timestamps: npt.NDArray[np.datetime64]) -> pd.DataFrame:
    """Return fills as a table, one row each, in the order of execution.

    Args:
        fills: The fills.
        timestamps: Time of every bar of the market, datetime64 ``[bars]``; ``timestamp`` is that of the fill
            bar.
    """
    import pandas as pd

    columns = _columns(fills, Fill._fields, integers=("decision_bar", "fill_bar"))
    columns["timestamp"] = timestamps[columns["fill_bar"]]
    return pd.DataFrame({name: columns[name] for name in FILL_COLUMNS})


def trades_frame(trades: Sequence[Trade], timestamps: npt.NDArray[np.datetime64]) -> pd.DataFrame:
    """Return trades as a table, one row each.

    ``pnl`` is net of the fees of both sides, ``return`` is pnl / (shares * entry_price), ``status`` is
    ``closed`` or ``open``.

    Args:
        trades: The trades.
        timestamps: Time of every bar of the market, datetime64 ``[bars]``.
    """
    import pandas as pd

    columns = _columns(trades, Trade._fields, integers=("entry_bar", "exit_bar"))
    columns["entry_time"] = timestamps[columns["entry_bar"]]
    columns["exit_time"] = timestamps[columns["exit_bar"]]
    columns["pnl"] = np.array([trade.pnl for trade in trades], np.float64)
    columns["return"] = columns["pnl"] / np.array([trade.entry_value for trade in trades], np.float64)
    columns["bars_held"] = columns["exit_bar"] - columns["entry_bar"]
    columns["status"] = np.where(columns["is_open"].astype(bool), "open", "closed").astype(object)
    return pd.DataFrame({name: columns[name] for name in TRADE_COLUMNS})


def _columns(
    rows: Sequence[tuple[Any, ...]], names: tuple[str, ...], integers: tuple[str, ...]
) -> dict[str, npt.NDArray[Any]]:
    """Turn rows into columns; all but the symbol and the named integers are float64."""
    kinds = {"symbol": object} | dict.fromkeys(integers, np.int64)
    columns = zip(*rows, strict=True) if rows else ((),) * len(names)
    return {
        name: np.array(values, dtype=kinds.get(name, np.float64)) for name, values in zip(names, columns, strict=True)
    }
