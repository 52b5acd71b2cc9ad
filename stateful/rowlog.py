"""A log of rows of numbers: cheap to append to, compact, and a matrix when asked.

Python objects kept by the hundred thousand slow every step down, because the garbage collector walks them
again and again. A log keeps plain float64 instead; records are built from it on demand.
"""

from __future__ import annotations

import struct
from array import array

import numpy as np
import numpy.typing as npt


class RowLog:
    """Rows of equal width, oldest first."""

    __slots__ = ("_format", "_numbers", "_width")

    def __init__(self, width: int) -> None:
        """Start without rows.

        Args:
            width: Numbers per row.
        """
        self._numbers = array("d")
        self._format = f"{width}d"
        self._width = width

    def append(self, *row: float) -> None:
        """Add a row of ``width`` numbers; whole numbers are exact up to 2**53."""
        self._numbers.frombytes(struct.pack(self._format, *row))

    def extend(self, rows: npt.NDArray[np.float64]) -> None:
        """Add many rows, float64 ``[rows, width]``."""
        self._numbers.frombytes(rows.tobytes())

    def rows(self) -> npt.NDArray[np.float64]:
        """Return all rows, float64 ``[rows, width]``, a copy."""
        return np.array(self._numbers, dtype=np.float64).reshape(-1, self._width)
