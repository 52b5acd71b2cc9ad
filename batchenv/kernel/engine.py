"""The arrays of all lanes, and the threads that walk over them. No money here: see ``accounting``."""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from threading import Lock
from typing import Any
from weakref import ref

import numpy as np
import numpy.typing as npt
from numpy.lib.array_utils import byte_bounds

from batchenv.arrays import floats, place_of, read_only
from batchenv.base import TradingTask
from batchenv.errors import ConfigError, EnvironmentStateError
from batchenv.kernel import full, loops, plain, state
from batchenv.kernel.jit import arrays_of, is_ready, pin
from batchenv.kernel.setup import (
    is_plain,
    make_costs,
    make_market,
    make_parameters,
    make_rules,
    make_work,
    padded_width,
)
from batchenv.parameters import SYMBOL_PARAMETERS, LaneParameters, LaneValues
from batchenv.rewards import RewardFunction, RewardStep

_LOG = logging.getLogger("batchenv")
_RANGES_A_THREAD, _LEAST_RANGE = 16, 64
"""Into how many ranges a thread's part of the lanes is cut, and the least lanes in a range."""
_WORTH = 1 << 16
"""Lanes times symbols, three times as many under the full rules, from which waking threads pays: a tenth of a ms."""
_BUSY = "another thread is stepping or resetting this environment; expected one thread at a time"
_LOOKS = 20_000
"""How often the caller's thread looks whether the others are done with their last range, before it goes to sleep."""


def _nobody() -> None:
    """Stand in for a reference to an array that is gone."""


class Engine:
    """All lanes of one environment.

    Attributes:
        task: Market, rules and features.
        lane_parameters: What applies to each lane and episode.
        plain: Whether the short way of ``kernel/plain.py`` serves.
        world: What a step reads.
        lanes: State of every lane.
        observation: Observations of the last step or opening, float32 ``[N, D]``.
        actions: Actions of the last step, float32 ``[N, S]``; the memory may be the caller's.
    """

    def __init__(
        self,
        task: TradingTask,
        lane_parameters: LaneParameters,
        n_lanes: int,
        n_threads: int = 1,
        *,
        alternate: bool = False,
    ) -> None:
        """Allocate the arrays.

        Args:
            task: Market, rules and features.
            lane_parameters: What applies to each lane and episode.
            n_lanes: Number of lanes N.
            n_threads: Threads that share a step.
            alternate: Use two sets of results in turn, so that those of a step outlive the next one.

        Raises:
            ConfigError: The reward is not one that training can compute.
        """
        n, w = n_lanes, padded_width(task.market.n_symbols)
        self.task = task
        self.lane_parameters = lane_parameters
        rules, self.custom_reward, self._reward_kwargs = make_rules(task.config)
        values = lane_parameters.at(0, np.zeros(n, np.int64), np.zeros(n, np.int64), np.arange(n))
        parameters = make_parameters(lane_parameters, values)
        market = make_market(task, rules)
        costs = make_costs(task.config, task.market.symbols)
        self.world = state.aligned(state.World(market, rules, costs, parameters))
        self.plain = is_plain(self.world, lane_parameters)
        self._advance = loops.advance_plain if self.plain else loops.advance_full
        if not is_ready(self._advance):
            _LOG.warning("batchenv compiles its kernel, once for each installation: this can take half a minute")
        lanes = state.Lanes(
            cash=np.zeros(n),
            holdings=np.zeros((n, w)),
            equity=np.zeros(n),
            peak=np.zeros(n),
            entry=np.zeros((n, w if rules.track_entry else 0)),
            moments=np.zeros((n, 2)),
            margin_call=np.zeros(n, np.bool_),
            bar=np.zeros(n, np.int64),
            start=np.zeros(n, np.int64),
            end=np.zeros(n, np.int64),
        )
        self.lanes = state.aligned(lanes)
        copies = range(2 if alternate else 1)
        self._observations = [np.zeros((n, task.layout.size), np.float32) for _ in copies]
        self.observation = self._observations[0]
        self.actions = np.zeros((n, task.market.n_symbols), np.float32)
        self._outputs = [_output(n) for _ in copies]
        threads = n_threads if n * w * (1 if self.plain else 3) >= _WORTH else 1
        self._size = n if threads == 1 else max(-(-n // (threads * _RANGES_A_THREAD)), _LEAST_RANGE)
        self._pin(threads)
        self._pool = ThreadPoolExecutor(threads - 1, "batchenv") if threads > 1 else None
        self._others: list[Future[None]] = []
        self._turn = Lock()  # compiled code runs without the interpreter's
        self._stranger: Callable[[], Any] = _nobody

    @property
    def out(self) -> state.StepOutput:
        """Results of the last step or opening."""
        return self._outputs[0]

    @property
    def holdings(self) -> npt.NDArray[np.float64]:
        """Shares held, float64 ``[N, S]``; a view."""
        return self.lanes.holdings[:, : self.task.market.n_symbols]

    @property
    def bytes_per_lane(self) -> int:
        """Size of one lane's state and parameters in bytes; what all lanes share is not counted."""
        return state.lane_bytes(len(self.lanes.cash), self.lanes, self.world.parameters)

    def open(self, which: npt.NDArray[np.int64], values: LaneValues) -> None:
        """Start new episodes for the lanes ``which``, int64 ``[k]``, and write their rows of ``observation``.

        Raises:
            ConfigError: An episode has bars that the market has not; nothing has changed then.
            EnvironmentStateError: Another thread is in here, or in `advance`.
        """
        last = len(self.world.market.mark) - 1
        wrong = (values.start < 0) | (values.end <= values.start) | (values.end > last)
        if wrong.any():  # `LaneParameters` has checked what it was given: somebody has changed it since
            k = int(np.flatnonzero(wrong)[0])
            raise ConfigError(
                f"lane {which[k]}: an episode from bar {values.start[k]} to {values.end[k]} does not lie within bars "
                f"0 to {last}"
            )
        parameters = self.world.parameters
        if not self._turn.acquire(False):
            raise EnvironmentStateError(_BUSY)
        try:
            for name in (*SYMBOL_PARAMETERS, "tradable"):
                if self.lane_parameters.varies(name):
                    array, given = getattr(parameters, name), getattr(values, name)
                    used = min(array.shape[1], given.shape[1])
                    array[which, :used] = given[:, :used]
            parameters.leverage[which] = values.leverage
            parameters.initial_cash[which] = values.initial_cash
            loops.open_lanes(which, values.start, values.end, self.observation, self._pinned[0][0])
        finally:
            self._turn.release()

    def advance(self, actions: npt.NDArray[np.float32], observation: npt.NDArray[np.float32] | None = None) -> None:
        """Take every lane over one bar and write the results into ``out``, which is another one if they alternate.

        Args:
            actions: Checked action numbers, float32 ``[N, S]``.
            observation: Where to write the observations, float32 ``[N, D]``, C-contiguous; None for memory of its own.

        Raises:
            ConfigError: A registered reward returned something other than one finite number for each lane.
            EnvironmentStateError: Another thread is in here, or in `open`.
        """
        if not self._turn.acquire(False):
            raise EnvironmentStateError(_BUSY)
        try:
            if len(self._outputs) > 1:
                self._outputs.reverse()
                self._observations.reverse()
                self._pinned.reverse()
            self.observation = self._observations[0] if observation is None else observation
            self.actions = actions
            self._limit += len(self.lanes.cash)
            mine, *theirs = self._pinned[0]
            step = self._limit, self._size, actions, self.observation
            if self._pool is not None and all(other.done() for other in self._others):  # else the machine is busy
                self._others.clear()
                for one in theirs:
                    self._others.append(self._pool.submit(self._advance, *step, one))
            self._advance(*step, mine)
            if self._pool is not None and not loops.is_done(self._counter, self._limit, _LOOKS):
                wait(self._others)
        except BaseException:  # an interrupt: the other threads end by themselves, and no ticket may be left
            wait(self._others)
            self._counter[:] = self._limit
            raise
        finally:
            self._turn.release()
        if self.custom_reward is not None:
            self._apply_custom_reward(self.custom_reward)

    def keep_observation(self) -> None:
        """Go on in memory of its own where the last step wrote the observations into that of the caller."""
        own = self._observations[0]
        if self.observation is not own:
            own[:] = self.observation
            self.observation = own

    def owns(self, array: npt.NDArray[Any]) -> bool:
        """Return whether a contiguous array overlaps one that compiled code works on.

        Compiled code takes it for granted that what it writes overlaps nothing else that it is given.
        """
        base = array.base
        if base is None:  # its memory is its own
            return any(array is own for own in self._observations)
        if base is self._stranger():  # another row of the same buffer, most likely
            return False
        if isinstance(base, np.ndarray) and not self._overlaps(*byte_bounds(base)):
            self._stranger = ref(base)
            return False
        return self._overlaps(*byte_bounds(array))

    def _overlaps(self, first: int, stop: int) -> bool:
        """Return whether memory from one address to another holds a part of an array of ours."""
        after = bisect_right(self._owned_starts, first)
        begins_within = after > 0 and self._owned_ends[after - 1] > first
        return begins_within or (after < len(self._owned_starts) and self._owned_starts[after] < stop)

    def close(self) -> None:
        """Stop the threads."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def _pin(self, threads: int) -> None:
        """Take note of where the arrays are, for each thread; no array may be replaced afterwards."""
        block, width = plain.BLOCK if self.plain else full.BLOCK, self.lanes.holdings.shape[1]
        self._work = [state.aligned(make_work(block, width)) for _ in range(threads)]
        self._counter, self._limit = np.zeros(2 * state.DONE, np.int64), 0
        states = [
            [state.State(self.world, self.lanes, out, work, self._counter) for work in self._work]
            for out in self._outputs
        ]
        self._pinned = [[pin(one) for one in threads] for threads in states]
        arrays = [array for threads in states for one in threads for _, array in arrays_of(one)]
        owned = sorted({byte_bounds(array) for array in (*arrays, *self._observations) if array.nbytes})
        self._owned_starts, self._owned_ends = [first for first, _ in owned], [stop for _, stop in owned]

    def _apply_custom_reward(self, function: RewardFunction) -> None:
        """Rule 7.9: a registered reward, then penalties and scaling."""
        out, lanes = self.out, self.lanes
        step = RewardStep(*map(read_only, (out.equity_before, lanes.equity, lanes.peak, out.turnover, out.costs)))
        name = f"value of reward {self.task.config.reward_config.type!r}"
        value = floats(function(step, **self._reward_kwargs), name, (out.reward.shape,), partial(place_of, symbols=()))
        drawdown = 1.0 - lanes.equity / lanes.peak
        rules = self.world.rules
        penalty = rules.turnover_penalty * out.turnover + rules.drawdown_penalty * drawdown
        out.reward[:] = (value - penalty) * rules.reward_scaling

    def __getstate__(self) -> dict[str, Any]:
        """Leave the threads behind when copied or pickled."""
        return self.__dict__ | {
            "_pool": None,
            "_others": [],
            "_work": [],
            "_pinned": [],
            "_turn": None,
            "_stranger": _nobody,
        }

    def __setstate__(self, state_: dict[str, Any]) -> None:
        """Find the arrays anew: a copy has its own."""
        self.__dict__.update(state_)
        self._turn = Lock()
        self.world, self.lanes = state.aligned(self.world), state.aligned(self.lanes)
        self._pin(1)


def _output(n: int) -> state.StepOutput:
    """Return arrays for the results of a step of ``n`` lanes."""
    return state.StepOutput(
        reward=np.zeros(n),
        terminated=np.zeros(n, np.bool_),
        truncated=np.zeros(n, np.bool_),
        equity_before=np.zeros(n),
        turnover=np.zeros(n),
        costs=np.zeros(n),
    )
