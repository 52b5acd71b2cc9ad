"""What an account did, as tables: one row per bar, per fill, per trade.

Recording writes into arrays made beforehand; pandas is imported when a table is asked for, never in a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stateful.portfolio import Fill, Portfolio
from stateful.positions import Trade

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.float64]

FLOW_COLUMNS = ("fees", "slippage", "costs", "interest", "borrow", "funding", "dividends", "delisting")
ACCOUNT_COLUMNS = ("equity", "cash", "reward", "turnover", *FLOW_COLUMNS)
FILL_COLUMNS = (
    "decision_bar", "fill_bar", "timestamp", "symbol", "requested", "shares", "fill_price", "price",
    "notional", "fee", "slippage", "kind",
)  # fmt: skip
TRADE_COLUMNS = (
    "symbol", "side", "entry_time", "exit_time", "entry_bar", "exit_bar", "shares", "entry_price", "exit_price",
    "entry_fee", "exit_fee", "pnl", "return", "bars_held", "status", "reason",
)  # fmt: skip


class History:
    """The account at every bar of an episode.

    Attributes:
        start: First bar of the episode.
        n_rows: Bars recorded so far.
    """

    __slots__ = ("_account", "_actions", "_called", "_shares", "n_rows", "start")

    def __init__(self, start: int, end: int, n_symbols: int) -> None:
        """Make room for the bars ``start`` to ``end``, both included."""
        rows = end - start + 1
        self.start = start
        self.n_rows = 0
        self._account: Floats = np.empty((rows, len(ACCOUNT_COLUMNS)))
        self._called = np.zeros(rows, bool)
        self._shares: Floats = np.empty((rows, n_symbols))
        self._actions: Floats = np.empty((rows, n_symbols))

    def record(self, portfolio: Portfolio, reward: float, turnover: float, action: Floats | float) -> None:
        """Add the next bar.

        Args:
            portfolio: The account, marked at that bar, with the flows of the step that led there.
            reward: Reward of that step.
            turnover: Its turnover (rule 3.8).
            action: Its action numbers, float64 ``[symbols]``, or one number for all of them.
        """
        row, step = self.n_rows, portfolio.step
        self._account[row] = (
            portfolio.equity,
            portfolio.cash,
            reward,
            turnover,
            step.fees,
            step.slippage,
            step.costs,
            step.interest,
            step.borrow,
            step.funding,
            step.dividends,
            step.delisting,
        )
        self._called[row] = portfolio.margin_call
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
        columns["margin_call"] = self._called[: self.n_rows]
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

    ``pnl`` is net of the fees of both sides, ``return`` is pnl / (shares * entry_price), 0 where nothing was paid,
    ``status`` is ``closed`` or ``open``, and ``reason`` says what closed it.

    Args:
        trades: The trades.
        timestamps: Time of every bar of the market, datetime64 ``[bars]``.
    """
    import pandas as pd

    columns = _columns(trades, Trade._fields, integers=("entry_bar", "exit_bar"))
    columns["entry_time"] = timestamps[columns["entry_bar"]]
    columns["exit_time"] = timestamps[columns["exit_bar"]]
    columns["pnl"] = np.array([trade.pnl for trade in trades], np.float64)
    value = np.array([trade.entry_value for trade in trades], np.float64)
    columns["return"] = np.divide(columns["pnl"], value, out=np.zeros_like(value), where=value > 0)
    columns["bars_held"] = columns["exit_bar"] - columns["entry_bar"]
    columns["status"] = np.where(columns["reason"] == "open", "open", "closed").astype(object)
    return pd.DataFrame({name: columns[name] for name in TRADE_COLUMNS})


def _columns(
    rows: Sequence[tuple[Any, ...]], names: tuple[str, ...], integers: tuple[str, ...]
) -> dict[str, npt.NDArray[Any]]:
    """Turn rows into columns; all but words and the named integers are float64."""
    kinds = dict.fromkeys(("symbol", "side", "kind", "reason"), object) | dict.fromkeys(integers, np.int64)
    columns = zip(*rows, strict=True) if rows else ((),) * len(names)
    return {
        name: np.array(values, dtype=kinds.get(name, np.float64)) for name, values in zip(names, columns, strict=True)
    }
