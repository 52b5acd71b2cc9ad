"""Capacity: how much of their bars' volume the orders of a backtest took, and how large an account may be."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from batchenv.market import MarketData

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Participation:
    """What orders took of the volume of their fill bars.

    Attributes:
        fills: The fills of orders and stops; see `StatefulTradingEnv.fills`.
        parts: Shares of each fill as a fraction of its bar's volume, infinite without volume, float64 ``[fills]``.
    """

    fills: pd.DataFrame
    parts: Floats

    @classmethod
    def measure(cls, fills: pd.DataFrame, market: MarketData) -> Participation | None:
        """Compare fills with volumes; None where the data have no volumes.

        Args:
            fills: One row per fill; delistings are left out, since nobody trades then.
            market: The bars.
        """
        if market.volume is None:
            return None
        fills = fills[fills["kind"] != "delisting"]
        columns = fills["symbol"].map({symbol: i for i, symbol in enumerate(market.symbols)}).to_numpy(np.int64)
        volume = np.nan_to_num(market.volume[fills["fill_bar"].to_numpy(np.int64), columns])
        size = fills["shares"].abs().to_numpy(np.float64)
        return cls(fills, np.divide(size, volume, out=np.full(len(size), np.inf), where=volume > 0))

    def beyond(self, limit: float) -> float:
        """Return the part of the money traded that went into fills beyond a part of volume; 0 where none was."""
        notional = self.fills["notional"].to_numpy(np.float64)
        traded = float(notional.sum())
        return float(notional[self.parts > limit].sum()) / traded if traded > 0 else 0.0

    def capacity(self, equity: float, limit: float, tolerated: float) -> float:
        """Return the initial equity with which all but a part of the money traded stays within a part of volume.

        Orders grow with the account, and so does the part of volume that they take. 0 where bars without volume are
        in the way, infinite where nothing was traded.

        Args:
            equity: The account's initial equity, in money.
            limit: Part of the bar's volume.
            tolerated: Part of the money traded that may go beyond it.
        """
        order = np.argsort(self.parts)
        within = np.cumsum(self.fills["notional"].to_numpy(np.float64)[order])
        if not len(within):
            return np.inf
        usual = self.parts[order][np.searchsorted(within, (1.0 - tolerated) * within[-1])]
        return float(equity * limit / usual)
