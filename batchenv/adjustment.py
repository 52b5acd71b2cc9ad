"""What splits do to the volumes of data whose prices are adjusted."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


def later_splits(splits: FloatArray, close: FloatArray, adj_close: FloatArray) -> FloatArray:
    """Return how many shares of the last bar one share of each bar became, by splits that the close shows.

    A close as traded falls with a split and its adjusted close does not, so adj_close / close rises by the split. A
    close that is adjusted for splits already, as Yahoo's, does not fall; the volumes beside it are adjusted too, and
    nothing is left to do. All splits of a symbol decide together which of the two it is.

    Args:
        splits: New shares for one old, float64 [bars, symbols]; NaN, 0 and 1 mean none.
        close: float64 [bars, symbols], NaN where there is no bar.
        adj_close: As ``close``.

    Returns:
        float64 [bars, symbols]: the product of the later splits of the symbol, 1.0 where there are none.
    """
    ratio = np.where(np.isnan(splits) | (splits == 0.0), 1.0, splits)
    after = np.ones_like(ratio)
    after[:-1] = np.cumprod(ratio[:0:-1], axis=0)[::-1]
    return np.where(_rises_by(ratio, adj_close / close), after, 1.0)


def _rises_by(ratio: FloatArray, values: FloatArray) -> BoolArray:
    """Return which symbols' values rise by the splits: that explains the moves there better than no splits do.

    Args:
        ratio: New shares for one old, float64 [bars, symbols], 1 where there is no split.
        values: float64 [bars, symbols], above 0; NaN where there is no bar.

    Returns:
        bool [symbols]; False for a symbol without splits between two of its bars.
    """
    size, level = np.log(ratio), np.log(values)
    rises = np.zeros(ratio.shape[1], np.bool_)
    for s in np.flatnonzero(size.any(axis=0)):
        bars = np.flatnonzero(~np.isnan(level[:, s]))
        doubt = 0.0
        for t in np.flatnonzero(size[:, s]):
            place = int(np.searchsorted(bars, t))  # the first bar from the split on
            if 0 < place < len(bars):
                move = level[bars[place], s] - level[bars[place - 1], s]
                doubt += abs(move - size[t, s]) - abs(move)
        rises[s] = doubt < 0.0
    return rises
