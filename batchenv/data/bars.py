"""What every loader works with: validated matrices of bars, and how to name a table and its rows in a message."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.intp]
TimeArray = NDArray[np.datetime64]
Where = Callable[[tuple[int, ...]], str]
"""Names the element at an index, as every message about a value begins."""

OHLC = ("open", "high", "low", "close")
PRICE_FIELDS = (*OHLC, "adj_close")
NO_ACTION: Mapping[str, float] = {"dividends": 0.0, "splits": 1.0}
"""Corporate actions, and the value of a bar without one."""
NEAREST_DOUBLE: dict[str, Any] = (
    {"float_precision": "round_trip"} if tuple(map(int, pd.__version__.split(".")[:2])) < (3, 1) else {}
)
"""Before pandas 3.1 `read_csv` misses the nearest double of one number in seven, unless it is told not to."""
LONE_SYMBOL = "ASSET"
"""Name of the only symbol of a table that names none."""


@dataclass(frozen=True, slots=True)
class Bars:
    """Validated matrices of one table, on the way into a ``MarketData``.

    Attributes:
        symbols: Column names of every matrix.
        timestamps: datetime64[ns] [bars], strictly increasing.
        fields: ``close`` and whichever of ``open``, ``high``, ``low``, ``volume``, ``dividends``, ``splits``
            exist; float64 [bars, symbols].
        columns: The user's extra numeric columns; float64 [bars, symbols].
        adjusted: Whether the prices are known to be adjusted for later dividends or splits.
        notes: What was decided while loading, one sentence each.
    """

    symbols: tuple[str, ...]
    timestamps: TimeArray
    fields: dict[str, FloatArray]
    columns: dict[str, FloatArray]
    adjusted: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Origin:
    """How to name a table and its rows in a message, and what was decided about it so far.

    Attributes:
        name: Path or label of the table.
        first_line: Line number of the first data row of a text file; None for anything else.
        notes: Decisions, one sentence each; the loaders add to them.
    """

    name: str
    first_line: int | None = None
    notes: list[str] = field(default_factory=list)

    def row(self, position: int) -> str:
        """Return ``line 19`` for a text file, else ``row 17`` (counted from 0)."""
        return f"row {position}" if self.first_line is None else f"line {position + self.first_line}"

    def at(self, position: int) -> str:
        """Return source and row."""
        return f"{self.name}, {self.row(position)}"

    def cell(self, position: int, symbol: str, time: np.datetime64) -> str:
        """Return source, row, symbol and date, as every message about a value begins."""
        return f"{self.at(position)}, symbol {symbol!r}, date {format_time(time)}"

    def note(self, sentence: str) -> None:
        """Keep one decision; the same sentence is kept once."""
        if sentence not in self.notes:
            self.notes.append(sentence)


def format_time(time: np.datetime64) -> str:
    """Return ``2000-03-01``, or ``2000-03-01 14:30:00`` when the time of day is not midnight."""
    stamp = pd.Timestamp(time)
    return str(stamp.date()) if stamp == stamp.normalize() else str(stamp)


def last_known(values: FloatArray) -> FloatArray:
    """Return ``values`` [bars, symbols] with NaN replaced by the last number above it, where there is one."""
    rows = np.where(np.isnan(values), 0, np.arange(len(values))[:, None])
    return np.take_along_axis(values, np.maximum.accumulate(rows, axis=0), axis=0)


def listing(names: list[str], most: int = 5) -> str:
    """Return names for a message: the first few, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more
