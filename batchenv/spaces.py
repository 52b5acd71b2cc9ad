"""Actions and observations as facts that both tiers share: shapes, bounds, names, checks. No money here.

Rules 2.2 and 6.4 of ``docs/accounting.md``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from batchenv.arrays import place_of, plain
from batchenv.config import ActionConfig, ObservationConfig
from batchenv.errors import ActionError, ConfigError

_JOINT_LIMIT = 100_000
_FEW = 4096
_FLOAT32 = np.dtype(np.float32)
PORTFOLIO_LIMIT = 10.0
"""Bound of weights, cash fraction and unrealised profit in an observation (rule 6.4)."""
_ROUNDING = 1e-5
"""Numbers of an observation, in float32, that differ by less are the same."""
INDEX_LIMIT = 2**24
"""Most bars of an indexed observation: stable-baselines3 hands numbers to networks as float32, which count so far."""
Observation = Any
"""float32 ``[..., size]``; in mode ``indexed`` ``{"bar": int64 [..., 1], "portfolio": float32 [..., size]}``."""


@dataclass(frozen=True)
class ActionSpec:
    """The action of one lane.

    Attributes:
        config: Mode and its settings.
        symbols: Symbol names, one action number each.
    """

    config: ActionConfig
    symbols: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.config.joint and 3 ** len(self.symbols) > _JOINT_LIMIT:
            raise ConfigError(
                f"action_config.joint: {len(self.symbols)} symbols give 3**{len(self.symbols)} joint actions, "
                f"expected at most {_JOINT_LIMIT}; use joint = false or fewer symbols"
            )

    low: ClassVar[float] = -1.0
    """Lower bound of an action number, the same in every mode: learning algorithms expect a symmetric range."""
    high: ClassVar[float] = 1.0
    """Upper bound of an action number."""

    @property
    def space(self) -> spaces.Space[Any]:
        """The gymnasium space of one lane's action."""
        n = len(self.symbols)
        if self.config.joint:
            return spaces.Discrete(3**n)
        if self.config.mode == "discrete":
            return spaces.MultiDiscrete([3] * n)
        return spaces.Box(self.low, self.high, (n,), np.float32)

    def of_one(self, action: Any) -> npt.NDArray[np.float32]:
        """Check the action of a single lane and return its numbers, float32 ``[1, symbols]``; see `numbers`.

        Raises:
            ActionError: As `numbers` says.
        """
        array = action if type(action) is np.ndarray else plain(action, "action", ActionError)
        return self.numbers(array[None], 1)

    def numbers(self, actions: Any, n_lanes: int) -> npt.NDArray[np.float32]:
        """Check actions and return them as action numbers, not yet clipped.

        Args:
            actions: ``[n_lanes, symbols]``, float or, in `discrete` mode, integer; ``[n_lanes]`` integer when joint.
            n_lanes: Number of lanes.

        Returns:
            float32 ``[n_lanes, symbols]``, C-contiguous, aligned and writable: the types that the kernel is compiled
            for. `discrete` choices become -1 (sell), 0 (hold), 1 (buy).

        Raises:
            ActionError: Wrong shape, wrong kind, a choice out of range, NaN or infinity; names ``[lane, symbol]``.
        """
        expected = (n_lanes,) if self.config.joint else (n_lanes, len(self.symbols))
        array = actions if type(actions) is np.ndarray else plain(actions, "actions", ActionError)
        if array.shape != expected:
            raise ActionError(f"actions: got shape {list(array.shape)}, expected {list(expected)}")
        if self.config.mode == "discrete":
            return self._choices(array)
        if array.dtype.kind not in "fiu":
            raise ActionError(f"actions: got dtype {array.dtype}, expected float32")
        if array.dtype != _FLOAT32:
            with np.errstate(over="ignore"):  # infinite then, and refused
                array = array.astype(np.float32)
        if not array.flags.carray:
            array = array.copy()
        if not math.isfinite(_sum(array)):
            self._refuse_non_finite(array)
        return array

    def _choices(self, array: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        n_choices = 3 ** len(self.symbols) if self.config.joint else 3
        if array.dtype.kind not in "iu":
            raise ActionError(f"actions: got dtype {array.dtype}, expected integers in [0, {n_choices})")
        if array.size and (array.min() < 0 or array.max() >= n_choices):
            where = tuple(np.argwhere((array < 0) | (array >= n_choices))[0].tolist())
            raise ActionError(
                f"actions{place_of(where, self.symbols)}: got {array[where]}, expected an integer in [0, {n_choices})"
            )
        array = array.astype(np.int64, copy=False)
        if self.config.joint:
            array = array[:, None] // 3 ** np.arange(len(self.symbols)) % 3
        return np.ascontiguousarray(array, dtype=np.float32) - np.float32(1)

    def _refuse_non_finite(self, array: npt.NDArray[np.float32]) -> None:
        bad = np.argwhere(~np.isfinite(array))
        if len(bad):
            where = tuple(bad[0].tolist())
            more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
            raise ActionError(
                f"actions{place_of(where, self.symbols)}: got {array[where]}, "
                f"expected a finite number in [{self.low:g}, {self.high:g}]{more}"
            )


def _sum(array: npt.NDArray[np.float32]) -> float:
    """Return a sum that is not finite if a number of ``array`` is not: much faster than looking at each of them."""
    if array.size <= _FEW:  # the product needs no guard against warnings, which costs more than a short sum
        return float(np.vdot(array, array))
    with np.errstate(over="ignore", invalid="ignore"):
        return float(array.sum())


@dataclass(frozen=True)
class ObservationLayout:
    """Where each part of an observation lies.

    Attributes:
        features: Feature names.
        symbols: Symbol names.
        config: The form, and the optional parts.
        feature_limit: Bound of the feature values; infinity when they are not scaled.
        n_bars: Bars of the market.
        borrows: Whether the account is a margin account, whose weights and cash fraction can leave [0, 1].
    """

    features: tuple[str, ...]
    symbols: tuple[str, ...]
    config: ObservationConfig
    feature_limit: float
    n_bars: int
    borrows: bool = False

    def __post_init__(self) -> None:
        if self.indexed and self.n_bars > INDEX_LIMIT:
            raise ConfigError(
                f"observation_config.mode: 'indexed' counts up to {INDEX_LIMIT:,} bars, and these data have "
                f"{self.n_bars:,}; expected 'flat'"
            )

    @property
    def indexed(self) -> bool:
        """Whether an observation names its bar in place of holding the bar's features."""
        return self.config.mode == "indexed"

    @property
    def parts(self) -> dict[str, slice]:
        """Slice of each part within an observation's vector (`size`), by part name, in order."""
        n = len(self.symbols)
        sizes = {} if self.indexed else {"features": len(self.features) * n}
        sizes |= {"weights": n, "cash": 1}
        if self.config.unrealized_pnl:
            sizes["unrealized_pnl"] = n
        if self.config.time_left:
            sizes["time_left"] = 1
        stops = np.cumsum(list(sizes.values()))
        return {name: slice(int(stop) - sizes[name], int(stop)) for name, stop in zip(sizes, stops, strict=True)}

    @property
    def size(self) -> int:
        """Length of an observation's vector: all of it, or ``portfolio`` when it is indexed."""
        return max(int(part.stop) for part in self.parts.values())

    @property
    def names(self) -> tuple[str, ...]:
        """A name for every number of an observation's vector, such as ``"rsi_14[IBM]"``."""
        names = [] if self.indexed else list(self.market_names)
        names += [f"weight[{symbol}]" for symbol in self.symbols] + ["cash"]
        if self.config.unrealized_pnl:
            names += [f"unrealized_pnl[{symbol}]" for symbol in self.symbols]
        if self.config.time_left:
            names.append("time_left")
        return tuple(names)

    @property
    def market_names(self) -> tuple[str, ...]:
        """A name for every column of the feature matrix."""
        return tuple(f"{feature}[{symbol}]" for feature in self.features for symbol in self.symbols)

    @property
    def space(self) -> spaces.Space[Any]:
        """The gymnasium space of one lane's observation: a Box, or when it is indexed a Dict of two."""
        if not self.indexed:
            return self._vector_space
        bar = spaces.Box(0, self.n_bars - 1, (1,), np.int64)
        return spaces.Dict({"bar": bar, "portfolio": self._vector_space})

    def observation(self, vector: npt.NDArray[np.float32], bar: npt.NDArray[np.int64]) -> Observation:
        """Return an observation of one lane or many.

        Args:
            vector: What `parts` divides, float32 ``[..., size]``; kept, not copied.
            bar: Index of the bar in the market, int64 ``[..., 1]``; kept, not copied.
        """
        return {"bar": bar, "portfolio": vector} if self.indexed else vector

    def contradiction(self, observation: Any, tolerance: float = _ROUNDING) -> str | None:
        """Return why no environment of this layout can have shown an observation; None where one can.

        Weights and the cash fraction are parts of one equity (rule 6.4), so they add up to 1, or are all 0 where there
        is no equity. Hardly anything that was done to an observation leaves that as it is.

        Args:
            observation: One observation or many, float32 ``[..., size]`` or a dict; of any market and any order of its
                symbols. Of many, most must be impossible: an account that has lost nearly all may pass its bounds.
            tolerance: How far numbers may be off.
        """
        if isinstance(observation, dict) != self.indexed:
            return f"got {type(observation).__name__}, expected observation_config.mode {self.config.mode!r}"
        if self.indexed:
            if set(observation) != {"bar", "portfolio"}:
                return f"got the parts {sorted(observation)}, expected 'bar' and 'portfolio'"
            bar = np.asarray(observation["bar"])
            if bar.shape[-1:] != (1,) or bar.dtype.kind not in "iu" or (bar < 0).any():
                return f"the number of the bar is {bar.reshape(-1)[0]:g}, expected an integer from 0 upwards"
            observation = observation["portfolio"]
        rows = np.asarray(observation, np.float64)
        if rows.shape[-1:] != (self.size,):
            return f"got {rows.shape[-1] if rows.ndim else 1} numbers, expected {self.size}"
        rows, space, parts = rows.reshape(-1, self.size), self._vector_space, self.parts
        inside = (rows >= space.low - tolerance) & (rows <= space.high + tolerance)  # NaN is not
        outside = ~inside.all(axis=1)
        if outside.mean() > 0.5:
            row, column = np.argwhere(~inside)[0]
            bounds = f"[{space.low[column]:g}, {space.high[column]:g}]"
            return f"{self.names[column]} is {rows[row, column]:g}, expected a number in {bounds}"
        shares = np.concatenate([rows[:, parts["weights"]], rows[:, parts["cash"]]], axis=1)
        total, size = shares.sum(axis=1), np.abs(shares).sum(axis=1)
        cut = (np.abs(shares) >= PORTFOLIO_LIMIT).any(axis=1)
        wrong = (np.abs(total - 1.0) > tolerance * np.maximum(size, 1.0)) & (size != 0.0) & ~cut
        if (wrong | outside).mean() > 0.5:
            return f"weights and cash add up to {total[wrong][0]:.4g}, expected 1"
        return None

    @property
    def _vector_space(self) -> spaces.Box:
        """Space of an observation's vector, float32 ``[size]``."""
        parts = self.parts
        low = np.zeros(self.size, np.float32)
        high = np.ones(self.size, np.float32)
        if "features" in parts:
            low[parts["features"]] = -self.feature_limit
            high[parts["features"]] = self.feature_limit
        if self.borrows:
            for part in (parts["weights"], parts["cash"]):
                low[part], high[part] = -PORTFOLIO_LIMIT, PORTFOLIO_LIMIT
        if "unrealized_pnl" in parts:
            low[parts["unrealized_pnl"]] = -PORTFOLIO_LIMIT
            high[parts["unrealized_pnl"]] = PORTFOLIO_LIMIT
        return spaces.Box(low, high, dtype=np.float32)
