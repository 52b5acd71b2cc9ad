"""The prices, features, orders and rules that every environment of the comparison gets."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import pandas as pd

Floats = npt.NDArray[np.float64]
Actions = npt.NDArray[np.float32]

N_SYMBOLS, N_BARS, N_FEATURES = 30, 2_500, 8
CASH, FEE, MAX_SHARES = 1_000_000.0, 0.001, 100
EPISODE = 252
"""Steps of an episode where an environment can start at random bars; the others play all bars."""
WEIGHTS = (0.0, 0.5, 1.0)
"""Positions that environments with discrete actions choose from."""


@dataclass(frozen=True)
class Prices:
    """A random walk.

    Attributes:
        dates: One calendar day per bar.
        open: Opens, ``[bars, symbols]``.
        close: Closes, ``[bars, symbols]``.
        features: Standard normal numbers, ``[bars, symbols, features]``.
    """

    dates: pd.DatetimeIndex
    open: Floats
    close: Floats
    features: Floats

    @property
    def symbols(self) -> list[str]:
        """Names of the symbols."""
        return [f"S{k:03d}" for k in range(self.close.shape[1])]


@cache
def prices(n_symbols: int = N_SYMBOLS) -> Prices:
    """Return the market, or its first symbols."""
    rng = np.random.default_rng(0)
    shape = (N_BARS, N_SYMBOLS)
    close = 100.0 * np.exp(np.cumsum(rng.normal(0, 0.01, shape), axis=0))
    opens = close * np.exp(rng.normal(0, 0.003, shape))
    features = rng.normal(size=(*shape, N_FEATURES))
    dates = pd.date_range("2000-01-03", periods=N_BARS, freq="D")
    return Prices(dates, opens[:, :n_symbols], close[:, :n_symbols], features[:, :n_symbols])


def bars_frame() -> pd.DataFrame:
    """Return the first symbol's open, high, low, close and volume, indexed by date."""
    market = prices(1)
    opens, closes = market.open[:, 0], market.close[:, 0]
    columns = {"open": opens, "high": np.maximum(opens, closes), "low": np.minimum(opens, closes), "close": closes}
    return pd.DataFrame({**columns, "volume": 1e6}, index=market.dates)


def random_actions(*lanes: int, n_symbols: int = N_SYMBOLS) -> Actions:
    """Return 16 draws of actions in [-1, 1], float32 ``[16, *lanes, symbols]``."""
    shape = (16, *lanes, n_symbols)
    return np.random.default_rng(1).uniform(-1, 1, shape).astype(np.float32)


def random_choices(*lanes: int) -> npt.NDArray[np.int64]:
    """Return 16 draws of indices into `WEIGHTS`, ``[16, *lanes]``."""
    return np.random.default_rng(1).integers(0, len(WEIGHTS), (16, *lanes))
