"""BatchTradingEnv: every lane at once, as a `gymnasium.vector.VectorEnv`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from batchenv.base import TradingTask
from batchenv.config import EnvConfig
from batchenv.episodes import check_seed
from batchenv.errors import ConfigError, EnvironmentStateError
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
    * ``final_info``: a dict of arrays ``[n_envs]``: ``equity`` (money), ``bar``, ``episode`` (number);
    * ``episode``: a dict of arrays ``[n_envs]``: ``r`` (sum of rewards), ``l`` (steps), ``t`` (seconds since
      construction), as `gymnasium.wrappers.vector.RecordEpisodeStatistics` gives them.

    With ``observation_config.mode`` ``indexed`` an observation is a dict, ``{"bar": int64 [n_envs, 1], "portfolio":
    float32 [n_envs, size]}``: the market part is row ``bar`` of ``task.features.values`` and is not copied.

    Attributes:
        task: Market, rules, features and layout.
        num_envs: Number of lanes.
        seed_value: The seed in force.
        episode: Number of each lane's current episode, int64 ``[n_envs]``, counted from 0 since seeding.
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
                valid until the step after the next.
            lane_parameters: Parameters by lane in place of the configuration's (rule 8.1), by name: numbers or arrays
                ``[n_envs]``; fees, ``slippage_rate``, ``borrow_rate`` and ``tradable`` also ``[n_envs, symbols]``.

        Raises:
            BatchenvError: As `TradingTask.build` and `LaneParameters.build` say; `ConfigError` for other arguments.
        """
        for name, value, most in (("n_envs", n_envs, MAX_LANES), ("n_threads", n_threads, 1024)):
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not 1 <= value <= most:
                raise ConfigError(f"{name}: got {value!r}, expected an integer from 1 to {most}")
        self.task = TradingTask.build(market, config, features, scaler)
        self.num_envs = int(n_envs)
        self.single_observation_space = self.task.layout.space
        self.single_action_space = self.task.actions.space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.render_mode = None
        self.seed_value = check_seed(seed)
        self.episode = np.full(self.num_envs, -1, np.int64)
        task = self.task
        self.parameters = LaneParameters.build(
            task.config, task.market.symbols, task.schedule, self.num_envs, lane_parameters
        )
        self._engine = Engine(task, self.parameters, self.num_envs, int(n_threads), alternate=not copy)
        self._copy = copy
        self._returns = np.zeros(self.num_envs)
        self._all = np.arange(self.num_envs, dtype=np.int64)
        self._born = time.perf_counter()
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
        return _read_only(self._engine.lanes.cash)

    @property
    def holdings(self) -> npt.NDArray[np.float64]:
        """Shares held, float64 ``[n_envs, symbols]``; a read-only view."""
        return _read_only(self._engine.holdings)

    @property
    def equity(self) -> npt.NDArray[np.float64]:
        """Cash plus positions at the mark, in money, float64 ``[n_envs]``; a read-only view."""
        return _read_only(self._engine.lanes.equity)

    @property
    def bar(self) -> npt.NDArray[np.int64]:
        """Current bar of every lane, int64 ``[n_envs]``; a read-only view."""
        return _read_only(self._engine.lanes.bar)

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
        if seed is not None:
            self.seed_value = check_seed(seed)
            self.episode[which] = -1
        elif not self._running and len(which) < self.num_envs:
            raise EnvironmentStateError("reset: reset_mask was given before the first full reset()")
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
                They are returned in it, and nothing later writes there.

        Returns:
            Observations float32 ``[n_envs, size]`` or a dict, rewards float64 ``[n_envs]``, terminations and
            truncations bool ``[n_envs]``, and infos as the class describes them.

        Raises:
            ActionError: Wrong shape, NaN or infinity; nothing has changed then.
            ConfigError: Observations cannot be written into ``out``; nothing has changed then.
            EnvironmentStateError: There was no reset yet.
        """
        if out is not None:
            self._check_memory(out)
        if not self._running:
            raise EnvironmentStateError("step: the environment was not reset yet; expected a call of reset() first")
        numbers = self.task.actions.numbers(actions, self.num_envs)
        engine = self._engine
        engine.advance(numbers, out)
        told = engine.out
        self._returns += told.reward
        done = np.flatnonzero(told.terminated | told.truncated)
        infos = self._end(done) if len(done) else {}
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
        keep = {"equity": lanes.equity, "bar": lanes.bar, "episode": self.episode}
        final_info: dict[str, Any] = {name: np.where(mask, values, 0) for name, values in keep.items()}
        final_info |= {f"_{name}": mask for name in keep}
        seconds = round(time.perf_counter() - self._born, 6)
        episode: dict[str, Any] = {
            "r": np.where(mask, self._returns, 0.0),
            "l": np.where(mask, lanes.bar - lanes.start, 0),
            "t": np.where(mask, seconds, 0.0),
        }
        episode |= {f"_{name}": mask for name in ("r", "l", "t")}
        self._returns[done] = 0.0
        self._open(done)
        return {
            "final_obs": final_obs,
            "_final_obs": mask,
            "final_info": final_info,
            "_final_info": mask,
            "episode": episode,
            "_episode": mask,
        }

    def _check_memory(self, out: Any) -> None:
        """Check that flat observations can be written into ``out``.

        Raises:
            ConfigError: They cannot.
        """
        shape = self.observation_space.shape
        if shape is None:
            raise ConfigError("out: takes flat observations only; expected observation_config.mode 'flat', or no out")
        fits = isinstance(out, np.ndarray) and out.dtype == np.float32 and out.shape == shape
        if not fits or not (out.flags.c_contiguous and out.flags.writeable):
            got = f"{out.dtype} {list(out.shape)}" if isinstance(out, np.ndarray) else type(out).__name__
            raise ConfigError(f"out: got {got}, expected writable, C-contiguous float32 {list(shape)}")

    def _open(self, which: npt.NDArray[np.int64]) -> None:
        self.episode[which] += 1
        self._engine.open(which, self.parameters.at(self.seed_value, which, self.episode[which]))

    def _lanes_to_reset(self, options: dict[str, Any] | None) -> npt.NDArray[np.int64]:
        options = dict(options or {})
        mask = options.pop("reset_mask", None)
        if options:
            raise ConfigError(f"options: unknown key {next(iter(options))!r}, expected 'reset_mask'")
        if mask is None:
            return self._all
        mask = np.asarray(mask)
        if mask.shape != (self.num_envs,) or mask.dtype != np.bool_ or not mask.any():
            raise ConfigError(
                f"options['reset_mask']: got {mask.dtype} of shape {list(mask.shape)}, "
                f"expected bool [{self.num_envs}] with at least one True"
            )
        return np.flatnonzero(mask)

    def _observe(self) -> Observation:
        """Return the observations of all lanes, in arrays that `copy` decides on."""
        engine = self._engine
        return self.task.layout.observation(self._give(engine.observation), engine.lanes.bar[:, None].copy())

    def _give(self, array: Array) -> Array:
        return array.copy() if self._copy else array


def _read_only(array: Array) -> Array:
    view = array.view()
    view.flags.writeable = False
    return view
