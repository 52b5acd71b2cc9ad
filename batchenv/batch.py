"""BatchTradingEnv: every lane at once, as a `gymnasium.vector.VectorEnv`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from batchenv.arrays import booleans, check_memory, overlaps, place_of, plain, read_only, whole
from batchenv.base import TradingTask
from batchenv.config import MAX_THREADS, EnvConfig
from batchenv.episodes import check_seed
from batchenv.errors import ActionError, ConfigError, EnvironmentStateError, shown
from batchenv.features import FeatureScaler
from batchenv.kernel.engine import Engine
from batchenv.parameters import LaneParameters
from batchenv.spaces import Observation

Array = npt.NDArray[Any]
MAX_LANES = 2**31 - 1


class BatchTradingEnv(VectorEnv[Observation, Array, Array]):
    """``n_envs`` trading accounts advanced by one compiled step.

    Lanes that end are reset within the same step (`AutoresetMode.SAME_STEP`): the returned observation is the first of
    the new episode, and ``infos["final_obs"]`` holds the last of the old one. ``infos`` of a step in which some lane
    ended has, each with a boolean mask under the same name after an underscore:

    * ``final_obs``: object array ``[n_envs]``, the true last observation, float32 ``[size]`` or a dict;
    * ``final_info``: a dict of arrays ``[n_envs]``, each with such a mask too: ``equity`` (money), ``bar``, ``return``
      (sum of rewards), ``length`` (steps) and ``episode_number`` (from 0 since seeding).

    The key ``episode`` is left to `gymnasium.wrappers.vector.RecordEpisodeStatistics`. The arrays of ``infos`` are the
    caller's own.

    With ``observation_config.mode`` ``indexed`` an observation is a dict, ``{"bar": int64 [n_envs, 1], "portfolio":
    float32 [n_envs, size]}``: the market part is row ``bar`` of ``task.features.values`` and is not copied.

    Attributes:
        task: Market, rules, features and layout.
        num_envs: Number of lanes.
        seed_value: The seed in force.
        parameters: What is given or drawn for each lane.
    """

    metadata: dict[str, Any] = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012
    autoreset_mode = AutoresetMode.SAME_STEP

    def __init__(
        self,
        market: Any,
        config: EnvConfig | Mapping[str, Any] | str | Path,
        features: Sequence[str] | None = None,
        n_envs: int = 1,
        *,
        seed: int | None = None,
        scaler: FeatureScaler | None = None,
        n_threads: int = 1,
        copy: bool = True,
        lane_parameters: Mapping[str, Any] | None = None,
    ) -> None:
        """Build the environment; the kernel compiles at the first step ever, and is cached afterwards.

        Args:
            market: `MarketData`, or a DataFrame that `MarketData.from_frame` takes.
            config: `EnvConfig`, a mapping, or the path of a JSON file.
            features: Feature names; None takes ``config.features``.
            n_envs: Number of lanes.
            seed: Seed of the episode starts; None draws one.
            scaler: Feature scaling of an earlier run; None fits it on the training part of the market.
            n_threads: Threads that share a step, where it has work for more than one; results do not depend on it.
            copy: Return fresh arrays. Without it two sets of arrays are used in turn, so that a step's results stay
                valid until the step after the next. They are the environment's own then: do not write into them.
            lane_parameters: Parameters by lane in place of the configuration's (rule 8.1), by name: numbers or arrays
                ``[n_envs]``; fees, ``slippage_rate``, ``borrow_rate`` and ``tradable`` also ``[n_envs, symbols]``.

        Raises:
            BatchenvError: As `TradingTask.build` and `LaneParameters.build` say; `ConfigError` for other arguments.
        """
        self.num_envs = whole(n_envs, "n_envs", 1, MAX_LANES)
        threads = whole(n_threads, "n_threads", 1, MAX_THREADS)
        self.task = TradingTask.build(market, config, features, scaler)
        _check_room(self.num_envs, self.task)
        self.single_observation_space, self.single_action_space = self.task.observation_space, self.task.action_space
        remembered_by = self.task.made_for.remembered_by
        self.observation_space = remembered_by(batch_space(self.single_observation_space, self.num_envs))
        self.action_space = remembered_by(batch_space(self.single_action_space, self.num_envs))
        self.render_mode = None
        self.seed_value = check_seed(seed)
        self._episode = np.full(self.num_envs, -1, np.int64)
        task = self.task
        self.parameters = LaneParameters.build(
            task.config, task.market.symbols, task.schedule, self.num_envs, lane_parameters
        )
        self._engine = Engine(task, self.parameters, self.num_envs, threads, alternate=not copy)
        self._copy = copy
        self._returns = np.zeros(self.num_envs)
        self._all = np.arange(self.num_envs, dtype=np.int64)
        self._running = False

    @property
    def market(self) -> Any:
        """The market data."""
        return self.task.market

    @property
    def config(self) -> EnvConfig:
        """The rules."""
        return self.task.config

    @property
    def features(self) -> tuple[str, ...]:
        """Feature names, in the order of the observation."""
        return self.task.features.names

    @property
    def scaler(self) -> FeatureScaler:
        """Feature scaling in force."""
        return self.task.features.scaler

    @property
    def cash(self) -> npt.NDArray[np.float64]:
        """Cash of every lane in money, float64 ``[n_envs]``; a read-only view."""
        return read_only(self._engine.lanes.cash)

    @property
    def holdings(self) -> npt.NDArray[np.float64]:
        """Shares held, float64 ``[n_envs, symbols]``; a read-only view."""
        return read_only(self._engine.holdings)

    @property
    def equity(self) -> npt.NDArray[np.float64]:
        """Cash plus positions at the mark, in money, float64 ``[n_envs]``; a read-only view."""
        return read_only(self._engine.lanes.equity)

    @property
    def bar(self) -> npt.NDArray[np.int64]:
        """Current bar of every lane, int64 ``[n_envs]``; a read-only view."""
        return read_only(self._engine.lanes.bar)

    @property
    def episode(self) -> npt.NDArray[np.int64]:
        """Number of every lane's current episode since seeding, from 0, int64 ``[n_envs]``; a read-only view."""
        return read_only(self._episode)

    @property
    def decided(self) -> npt.NDArray[np.float32]:
        """Action numbers of the last step, decided at the bar before, float32 ``[n_envs, symbols]``; a copy."""
        return self._engine.actions.copy()

    @property
    def bytes_per_lane(self) -> int:
        """Size of one lane's state in bytes, observation not counted."""
        return self._engine.bytes_per_lane

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start a new episode in every lane, or in those of ``options["reset_mask"]``.

        Args:
            seed: A new seed, which also counts episodes from 0 again; None goes on with each lane's next episode.
            options: ``{"reset_mask": bool [n_envs]}`` resets these lanes only.

        Returns:
            Observations, float32 ``[n_envs, size]`` or a dict, and an empty dict.

        Raises:
            ConfigError: Wrong seed or options.
        """
        which = self._lanes_to_reset(options)
        if not self._running and len(which) < self.num_envs:
            raise EnvironmentStateError(
                "reset: reset_mask was given before the first full reset(), or after a step that broke off; expected a "
                "full reset() first"
            )
        if seed is not None:
            self.seed_value = check_seed(seed)
            self._episode[which] = -1
        self._running = False  # until all lanes are open
        self._returns[which] = 0.0
        self._engine.keep_observation()
        self._open(which)
        self._running = True
        return self._observe(), {}

    def step(
        self, actions: Any, *, out: npt.NDArray[np.float32] | None = None
    ) -> tuple[
        Observation,
        npt.NDArray[np.float64],
        npt.NDArray[np.bool_],
        npt.NDArray[np.bool_],
        dict[str, Any],
    ]:
        """Take every lane over one bar.

        Args:
            actions: float32 ``[n_envs, symbols]``; integers in `discrete` mode, ``[n_envs]`` of them when joint.
            out: Where to write the observations, float32 ``[n_envs, size]``, C-contiguous; flat observations only.
                They are returned in it, and nothing later writes there. It must not overlap the actions or an array
                that belongs to the environment.

        Returns:
            Observations float32 ``[n_envs, size]`` or a dict, rewards float64 ``[n_envs]``, terminations and
            truncations bool ``[n_envs]``, and infos as the class describes them.

        Raises:
            ActionError: Wrong shape, NaN or infinity; nothing has changed then.
            ConfigError: Observations cannot be written into ``out``; nothing has changed then.
            EnvironmentStateError: There was no reset yet, or the last step broke off: its thread was interrupted, or a
                registered reward raised an error.
        """
        engine = self._engine
        numbers = self.task.actions.numbers(actions, self.num_envs)
        if out is not None:
            self._check_memory(out, actions)
        if not self._copy and numbers.base is not None and engine.owns(numbers):  # an array of an earlier step's
            numbers = numbers.copy()
        if not self._running:
            raise EnvironmentStateError(
                "step: the environment was not reset yet, or its last step broke off; expected a call of reset() first"
            )
        self._running = False  # until the step is done: one that broke off may have moved lanes past their last bar
        engine.advance(numbers, out)
        told = engine.out
        self._returns += told.reward
        done = np.flatnonzero(told.terminated | told.truncated)
        infos = self._end(done) if len(done) else {}
        self._running = True
        give = self._give
        observation = self._observe() if out is None else out
        return observation, give(told.reward), give(told.terminated), give(told.truncated), infos

    def close_extras(self, **kwargs: Any) -> None:
        """Stop the threads."""
        engine = getattr(self, "_engine", None)  # construction may have failed before there was one
        if engine is not None:
            engine.close()

    def _end(self, done: npt.NDArray[np.int64]) -> dict[str, Any]:
        """Report the lanes that ended and start their next episodes."""
        lanes = self._engine.lanes
        mask = np.zeros(self.num_envs, np.bool_)
        mask[done] = True
        final_obs = np.full(self.num_envs, None, dtype=object)
        last, bars, layout = self._engine.observation[done], lanes.bar[done, None], self.task.layout
        for row, lane in enumerate(done):
            final_obs[lane] = layout.observation(last[row], bars[row])
        told = {
            "equity": lanes.equity,
            "bar": lanes.bar,
            "return": self._returns,
            "length": lanes.bar - lanes.start,
            "episode_number": self._episode,
        }
        final_info: dict[str, Any] = {name: np.where(mask, values, 0) for name, values in told.items()}
        final_info |= {f"_{name}": mask.copy() for name in told}
        self._returns[done] = 0.0
        self._open(done)
        return {"final_obs": final_obs, "_final_obs": mask, "final_info": final_info, "_final_info": mask.copy()}

    def _check_memory(self, out: Any, actions: Any) -> None:
        """Check that flat observations can be written into ``out``.

        Raises:
            ConfigError: They cannot.
        """
        shape = self.observation_space.shape
        if shape is None:
            raise ConfigError("out: takes flat observations only; expected observation_config.mode 'flat', or no out")
        check_memory(out, "out", shape)
        if self._engine.owns(out):
            raise ConfigError("out: is memory of the environment's own; expected an array that the caller made")
        if overlaps(out, plain(actions, "actions", ActionError)):
            raise ConfigError("out: overlaps the actions; expected memory of its own")

    def _open(self, which: npt.NDArray[np.int64]) -> None:
        self._episode[which] += 1
        self._engine.open(which, self.parameters.at(self.seed_value, which, self._episode[which]))

    def _lanes_to_reset(self, options: dict[str, Any] | None) -> npt.NDArray[np.int64]:
        if options is not None and not isinstance(options, Mapping):
            raise ConfigError(f"options: got {shown(options)}, expected a mapping with 'reset_mask'")
        unknown = [key for key in options or {} if key != "reset_mask"]
        if unknown:
            raise ConfigError(f"options: unknown key {unknown[0]!r}, expected 'reset_mask'")
        mask = (options or {}).get("reset_mask")
        if mask is None:
            return self._all
        key, shapes = "options['reset_mask']", ((self.num_envs,),)
        which = np.flatnonzero(booleans(mask, key, shapes, partial(place_of, symbols=())))
        if not len(which):
            raise ConfigError(f"{key}: got no True, expected at least one")
        return which

    def _observe(self) -> Observation:
        """Return the observations of all lanes, in arrays that `copy` decides on."""
        engine = self._engine
        return self.task.layout.observation(self._give(engine.observation), engine.lanes.bar[:, None].copy())

    def _give(self, array: Array) -> Array:
        return array.copy() if self._copy else array


def _check_room(n_envs: int, task: TradingTask) -> None:
    """Check that the lanes fit into memory, before the system ends the process for want of it.

    Raises:
        ConfigError: They do not, by what the shares, the observations and both spaces take alone.
    """
    symbols, size = task.market.n_symbols, task.layout.size
    need = n_envs * (8 * symbols + 4 * size + 2 * 4 * (size + symbols))
    names = getattr(os, "sysconf_names", {})  # not every system has them
    known = "SC_PHYS_PAGES" in names and "SC_PAGE_SIZE" in names
    fits = not known or need <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        np.empty(need if fits else 0, np.uint8)  # asks for room and uses none
    except MemoryError:
        fits = False
    if not fits:
        raise ConfigError(
            f"n_envs: {n_envs} lanes need at least {need / 1e9:,.1f} GB, more than this machine has; expected fewer"
        )
