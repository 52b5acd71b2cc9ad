"""Where an episode starts: a function of (seed, lane, episode), so no generator state can be lost.

Rules 7.3 and 7.4 of ``docs/accounting.md``.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from batchenv.arrays import LARGEST_INT, whole
from batchenv.config import MAX_BARS
from batchenv.errors import MarketDataError

_MASK = 0xFFFFFFFF
_CUT = 64  # the stream that lengths of first episodes are drawn from


def draw(seed: Any, lane: Any, episode: Any, stream: Any) -> Any:
    """Return a 32-bit pseudo-random integer that depends on its arguments alone.

    Each argument is absorbed as two 32-bit words by the ``lowbias32`` integer hash (constants from C. Wellons,
    "Hash Function Prospector", https://github.com/skeeto/hash-prospector). All products stay below 2**63, so
    plain integers and int64 arrays give the same numbers.

    Args:
        seed: Non-negative integer below 2**63.
        lane: Lane index, integer or int64 array.
        episode: Episode number of the lane, integer or int64 array broadcastable with ``lane``.
        stream: Which quantity is drawn; 0 is the start bar.

    Returns:
        An integer, or an int64 array, in [0, 2**32).
    """
    state: Any = 0x6A09E667
    for word in (seed, lane, episode, stream):
        for half in (word & _MASK, word >> 32):
            state = (state ^ half) + 0x1E3779B9 & _MASK
            state = ((state ^ (state >> 16)) * 0x21F0AAAD) & _MASK
            state = ((state ^ (state >> 15)) * 0x735A2D97) & _MASK
            state = state ^ (state >> 15)
    return state


def check_seed(seed: int | None) -> int:
    """Return ``seed``, or a fresh one from the operating system when it is None.

    Raises:
        ConfigError: The seed is not an integer in [0, 2**63).
    """
    return secrets.randbits(32) if seed is None else whole(seed, "seed", 0, LARGEST_INT, ", or None")


@dataclass(frozen=True)
class EpisodeSchedule:
    """First and last allowed start bars, and the length of an episode.

    Attributes:
        first: The first start bar.
        last: The last start bar.
        length: Steps per episode, or None for "until the data end".
        final_bar: The last bar of the market.
        random_start: Whether starts are drawn; otherwise every episode starts at ``first``.
        desynchronize: Whether the first episode of each lane is cut to a drawn length, where starts are drawn.
    """

    first: int
    last: int
    length: int | None
    final_bar: int
    random_start: bool
    desynchronize: bool = False

    @classmethod
    def build(
        cls, n_bars: int, first_bar: int, length: int | None, random_start: bool, desynchronize: bool = False
    ) -> EpisodeSchedule:
        """Lay out the start bars that a market of ``n_bars`` bars allows.

        Raises:
            MarketDataError: The history is too short for one episode, or longer than `MAX_BARS`.
        """
        if n_bars > MAX_BARS:
            raise MarketDataError(f"the market has {n_bars} bars, expected at most {MAX_BARS}")
        final = n_bars - 1
        last = final - (1 if length is None else length)
        if last < first_bar:
            need = first_bar + 1 + (1 if length is None else length)
            raise MarketDataError(
                f"history too short: the market has {n_bars} bars, expected at least {need} "
                f"({first_bar} for the features to warm up, {1 if length is None else length} steps of an episode, "
                "and 1); give more bars, shorter feature windows or a shorter episode_config.length"
            )
        return cls(first_bar, last, length, final, random_start, desynchronize)

    def bars(
        self,
        seed: int,
        lanes: npt.NDArray[np.int64],
        episodes: npt.NDArray[np.int64],
        lengths: npt.NDArray[np.int64] | None = None,
        starts: npt.NDArray[np.int64] | None = None,
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return the start and end bars of some episodes (rules 7.3, 7.4 and 8.3).

        Args:
            seed: The environment's seed.
            lanes: Lane indices, int64 ``[n]``.
            episodes: Episode number of each of those lanes, int64 ``[n]``.
            lengths: Steps of each of those episodes, int64 ``[n]``; None takes ``length``.
            starts: Start bar of each, int64 ``[n]``; None takes ``first``, or draws it.

        Returns:
            Start bars and end bars, int64 ``[n]`` each; an episode takes end - start steps.
        """
        if lengths is None and self.length is not None:
            lengths = np.full(np.shape(lanes), self.length, np.int64)
        start = np.full(np.shape(lanes), self.first, np.int64) if starts is None else starts.astype(np.int64)
        if starts is None and self.random_start:
            last = self.final_bar - (1 if lengths is None else lengths)
            start += (draw(seed, lanes, episodes, 0) * (last - self.first + 1)) >> 32
        if lengths is None:
            return start, np.full_like(start, self.final_bar)
        if self.desynchronize and self.random_start:
            cut = 1 + ((draw(seed, lanes, episodes, _CUT) * lengths) >> 32)
            lengths = np.where(episodes == 0, cut, lengths)
        return start, start + lengths
