"""Parameters that can differ by symbol, by lane, or by episode: which number applies. No money here.

Rules 7.3, 7.4 and 8 of ``docs/accounting.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from batchenv.arrays import Shapes, booleans, floats, integers, place_of
from batchenv.config import PARAMETER_BOUNDS, WHOLE_PARAMETERS, EnvConfig
from batchenv.episodes import EpisodeSchedule, draw
from batchenv.errors import ConfigError, did_you_mean

SYMBOL_PARAMETERS = {
    "fee_rate": "cost_config",
    "fee_fixed": "cost_config",
    "fee_per_share": "cost_config",
    "fee_minimum": "cost_config",
    "slippage_rate": "cost_config",
    "borrow_rate": "carry_config",
}
"""Numbers that can differ by symbol as well as by lane, and the section that they are configured in."""
LANE_PARAMETERS = (*PARAMETER_BOUNDS, "episode_start")
"""Names that ``lane_parameters`` takes."""
_WHOLE = ("episode_start", "episode_length")
_CHOICE = 128  # the stream of the first symbol, when those that may be traded are drawn


class LaneValues(NamedTuple):
    """What applies to some lanes in one episode; k lanes, S symbols."""

    fee_rate: npt.NDArray[np.float64]  # [k, S] fraction
    fee_fixed: npt.NDArray[np.float64]  # [k, S] money per order
    fee_per_share: npt.NDArray[np.float64]  # [k, S] money
    fee_minimum: npt.NDArray[np.float64]  # [k, S] money per order
    slippage_rate: npt.NDArray[np.float64]  # [k, S] fraction
    borrow_rate: npt.NDArray[np.float64]  # [k, S] fraction per year
    tradable: npt.NDArray[np.bool_]  # [k, S]
    leverage: npt.NDArray[np.float64]  # [k]
    initial_cash: npt.NDArray[np.float64]  # [k] money
    start: npt.NDArray[np.int64]  # [k] first bar of the episode
    end: npt.NDArray[np.int64]  # [k] last bar of the episode


def per_symbol(value: float | Mapping[str, float], symbols: tuple[str, ...], key: str) -> npt.NDArray[np.float64]:
    """Return one number for each symbol.

    Args:
        value: A number for all, or a mapping by symbol, with ``"*"`` for those not named.
        symbols: Symbol names.
        key: Configuration key, for messages.

    Returns:
        float64 ``[symbols]``.

    Raises:
        ConfigError: The mapping names an unknown symbol, or leaves one out and has no ``"*"``.
    """
    if not isinstance(value, Mapping):
        return np.full(len(symbols), float(value))
    for name in value:
        if name not in symbols and name != "*":
            raise ConfigError(
                f"{key}: unknown symbol {name!r}{did_you_mean(name, symbols)}; expected {', '.join(symbols)} or '*'"
            )
    missing = [symbol for symbol in symbols if symbol not in value and "*" not in value]
    if missing:
        raise ConfigError(f"{key}: no value for symbol {missing[0]!r}; expected one, or '*' for the rest")
    return np.array([value[symbol] if symbol in value else value["*"] for symbol in symbols], np.float64)


@dataclass(frozen=True)
class LaneParameters:
    """Parameters of every lane: given by lane, drawn by episode, or taken from the configuration.

    Attributes:
        config: The rules.
        symbols: Symbol names.
        schedule: Start bars and length that the configuration gives.
        given: Arrays ``[n_lanes]`` or ``[n_lanes, symbols]`` by name, read-only: whole numbers int64, ``tradable``
            bool, all others float64.
    """

    config: EnvConfig
    symbols: tuple[str, ...]
    schedule: EpisodeSchedule
    given: dict[str, npt.NDArray[Any]]

    @classmethod
    def build(
        cls,
        config: EnvConfig,
        symbols: tuple[str, ...],
        schedule: EpisodeSchedule,
        n_lanes: int,
        given: Mapping[str, Any] | None = None,
    ) -> LaneParameters:
        """Check what is given by lane.

        Args:
            config: The rules.
            symbols: Symbol names.
            schedule: Start bars and length that the configuration gives.
            n_lanes: Number of lanes.
            given: Numbers or arrays ``[n_lanes]`` by name of `LANE_PARAMETERS`; those of `SYMBOL_PARAMETERS` and
                ``tradable`` also ``[n_lanes, symbols]``.

        Raises:
            ConfigError: Unknown name, wrong length, value out of range, or a parameter that is drawn as well; names
                parameter, lane, symbol and value. More symbols are to be drawn than the market has.
        """
        drawn = {name: (low, high) for name, low, high in config.randomization.drawn()}
        arrays: dict[str, npt.NDArray[Any]] = {}
        if given is not None and not isinstance(given, Mapping):
            raise ConfigError(f"lane_parameters: got {type(given).__name__}, expected a mapping from names to values")
        for name, value in (given or {}).items():
            if name not in LANE_PARAMETERS:
                known = ", ".join(LANE_PARAMETERS)
                raise ConfigError(
                    f"lane_parameters: unknown name {name!r}{did_you_mean(name, LANE_PARAMETERS)}; expected {known}"
                )
            if name in drawn:
                raise ConfigError(f"lane_parameters.{name}: is drawn by randomization too; expected one of the two")
            arrays[name] = _lane_array(name, value, n_lanes, symbols)
            arrays[name].flags.writeable = False
        found = cls(config, symbols, schedule, arrays)
        found._check_episodes(n_lanes, drawn.get("episode_length"))
        found._check_margins()
        found._check_symbols(drawn.get("tradable"))
        found.at(0, np.zeros(1, np.int64), np.zeros(1, np.int64))
        return found

    def at(
        self,
        seed: int,
        lanes: npt.NDArray[np.int64],
        episodes: npt.NDArray[np.int64],
        rows: npt.NDArray[np.int64] | None = None,
    ) -> LaneValues:
        """Return what applies to some episodes.

        Args:
            seed: The environment's seed.
            lanes: Lane indices, int64 ``[k]``.
            episodes: Episode number of each of those lanes, int64 ``[k]``.
            rows: Rows of the given arrays that belong to the lanes; None takes the lane indices.
        """
        rows = lanes if rows is None else rows
        k, s = len(lanes), len(self.symbols)
        drawn = {}
        for stream, name in enumerate(PARAMETER_BOUNDS, start=1):
            given = getattr(self.config.randomization, name)
            if given is not None:
                u, (low, high) = draw(seed, lanes, episodes, stream), given
                count = int(high - low + 1)
                whole = name in WHOLE_PARAMETERS
                drawn[name] = int(low) + ((u * count) >> 32) if whole else low + (high - low) * (u / 2**32)
        if "tradable" in drawn:
            drawn["tradable"] = self._chosen(seed, lanes, episodes, drawn["tradable"])

        def found(name: str, default: Any = None) -> Any:
            return self.given[name][rows] if name in self.given else drawn.get(name, default)

        def pick(name: str, default: Any, *shape: int) -> npt.NDArray[Any]:
            value = np.asarray(found(name, default))
            if len(shape) == 2 and value.ndim == 1 and name in (*self.given, *drawn):
                value = value[:, None]
            return np.array(np.broadcast_to(value, shape))

        start, end = self.schedule.bars(seed, lanes, episodes, found("episode_length"), found("episode_start"))
        return LaneValues(
            **{name: pick(name, configured, k, s) for name, configured in self._configured.items()},
            tradable=pick("tradable", True, k, s),
            leverage=pick("leverage", self.config.margin_config.leverage, k),
            initial_cash=pick("initial_cash", self.config.portfolio_config.initial_cash, k),
            start=start,
            end=end,
        )

    @cached_property
    def _configured(self) -> dict[str, npt.NDArray[np.float64]]:
        """The configuration's numbers, float64 ``[symbols]`` each; worked out once, since every reset asks for them."""
        return {
            name: per_symbol(getattr(getattr(self.config, section), name), self.symbols, f"{section}.{name}")
            for name, section in SYMBOL_PARAMETERS.items()
        }

    def _chosen(
        self,
        seed: int,
        lanes: npt.NDArray[np.int64],
        episodes: npt.NDArray[np.int64],
        counts: npt.NDArray[np.int64],
    ) -> npt.NDArray[np.bool_]:
        """Rule 8.2: which symbols may be traded where ``counts`` of them may, bool ``[k, S]``."""
        keys = draw(seed, lanes[:, None], episodes[:, None], _CHOICE + np.arange(len(self.symbols)))
        ranks = keys.argsort(axis=1, kind="stable").argsort(axis=1)
        return np.asarray(ranks < counts[:, None])

    def varies(self, name: str) -> bool:
        """Return whether a parameter is given by lane or drawn by episode, in place of configured for all."""
        return name in self.given or getattr(self.config.randomization, name, None) is not None

    @property
    def has_length(self) -> bool:
        """Whether episodes have a length, configured, given or drawn; otherwise they run to the end of the data."""
        return self.schedule.length is not None or self.varies("episode_length")

    def _check_episodes(self, n_lanes: int, drawn: tuple[float, float] | None) -> None:
        schedule, given = self.schedule, self.given
        lengths = np.full(n_lanes, 1 if schedule.length is None else schedule.length, np.int64)
        if "episode_length" in given:
            lengths = given["episode_length"]
        elif drawn is not None:
            lengths = np.full(n_lanes, int(drawn[1]), np.int64)
        starts = given.get("episode_start", np.full(n_lanes, schedule.first, np.int64))
        # The bars left after a start, since the sum of a start and a length may not fit into 64 bits.
        wrong = (starts < schedule.first) | (lengths > schedule.final_bar - starts)
        sources = [f"lane_parameters.{name}" for name in _WHOLE if name in given]
        sources += ["randomization.episode_length"] if drawn is not None else []
        for lane in np.flatnonzero(wrong)[:1].tolist():
            raise ConfigError(
                f"{', '.join(sources)}: lane {lane}: an episode of {lengths[lane]} bars from bar {starts[lane]} does "
                f"not fit; expected a start of at least {schedule.first} and an end of at most {schedule.final_bar}"
            )

    def _check_margins(self) -> None:
        try:
            self.config.margin_config.check_leverage(float(np.max(self.given.get("leverage", np.ones(1)))))
        except ValueError as error:
            raise ConfigError(f"lane_parameters.leverage: {error}") from None

    def _check_symbols(self, drawn: tuple[float, float] | None) -> None:
        if drawn is not None and drawn[1] > len(self.symbols):
            raise ConfigError(
                f"randomization.tradable: up to {drawn[1]:g} symbols, and the market has {len(self.symbols)}; expected "
                f"[low, high] with 1 <= low <= high <= {len(self.symbols)}"
            )


def _lane_array(name: str, value: Any, n_lanes: int, symbols: tuple[str, ...]) -> npt.NDArray[Any]:
    """Return a checked array ``[n_lanes]`` or ``[n_lanes, symbols]`` of its own: bool, int64 or float64."""
    key, place = f"lane_parameters.{name}", partial(place_of, symbols=symbols)
    by_symbol = name in (*SYMBOL_PARAMETERS, "tradable")
    shapes: Shapes = ((), (n_lanes,), *([(n_lanes, len(symbols))] if by_symbol else []))
    if name == "tradable":
        array: npt.NDArray[Any] = booleans(value, key, shapes, place)
        return np.repeat(array[:, None], len(symbols), axis=1) if array.ndim == 1 else array.copy()
    if name in _WHOLE:
        return integers(value, key, shapes, place, 1 if name == "episode_length" else 0)
    return floats(value, key, shapes, place, *PARAMETER_BOUNDS[name], positive=name == "initial_cash")
