"""TradingVecEnv: the batch as a stable-baselines3 `VecEnv`. No arithmetic here."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvIndices, VecEnvStepReturn

from batchenv.batch import BatchTradingEnv
from batchenv.config import EnvConfig
from batchenv.episodes import check_seed
from batchenv.errors import ActionError, ConfigError
from batchenv.features import FeatureScaler
from batchenv.spaces import Observation

_PER_LANE = ("cash", "holdings", "equity", "bar", "episode")


class SharedInfo(dict[str, Any]):
    """An info dict that many lanes share: what one of them wrote would show in all.

    It reads like any dict. `copy`, `copy.deepcopy` and pickling give a plain dict, which can be written to.
    """

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError(
            "infos[k]: all lanes that are not done share this dict, and a change would show in all of them; expected a "
            "dict of the lane's own: infos[k] = {**infos[k], ...}"
        )

    __setitem__ = __delitem__ = __ior__ = update = setdefault = pop = popitem = clear = _refuse

    def copy(self) -> dict[str, Any]:
        """Return a plain dict."""
        return dict(self)

    __copy__ = copy

    def __deepcopy__(self, memo: Any) -> dict[str, Any]:
        return deepcopy(dict(self), memo)

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)


class TradingVecEnv(VecEnv):
    """All lanes of a `BatchTradingEnv` behind stable-baselines3's interface.

    All lanes that are not done share one info dict, a `SharedInfo`, which refuses to be written to. A lane that is done
    has its own, with ``terminal_observation``, ``TimeLimit.truncated`` (truncated and not terminated), ``episode`` and
    ``equity``, the final one.

    ``episode`` is what stable-baselines3's `Monitor` gives: ``r`` (sum of rewards), ``l`` (steps) and ``t`` (seconds
    since construction). `env_is_wrapped` therefore answers True for `Monitor`, and `evaluate_policy` and `EvalCallback`
    take returns and lengths from ``episode``, also where a wrapper around this environment scales rewards. `VecMonitor`
    is not needed. Around this environment it warns that its own statistics replace these: those of the rewards that it
    sees.

    Attributes:
        batch: The environment behind.
    """

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
        """Build the environment; the arguments are those of `BatchTradingEnv`.

        With ``copy=False`` the arrays of a step stay valid until the step after the next, which is what
        stable-baselines3's own algorithms need; keep the default if you collect observations yourself.

        Raises:
            BatchenvError: As `BatchTradingEnv` says.
        """
        self.batch = BatchTradingEnv(
            market,
            config,
            features,
            n_envs,
            seed=seed,
            scaler=scaler,
            n_threads=n_threads,
            copy=copy,
            lane_parameters=lane_parameters,
        )
        self._first_seed: int | None = self.batch.seed_value
        self._actions: npt.NDArray[Any] | None = None
        self._memory: npt.NDArray[np.float32] | None = None
        self._calm = SharedInfo({"TimeLimit.truncated": False})
        self._born = time.perf_counter()
        super().__init__(self.batch.num_envs, self.batch.single_observation_space, self.batch.single_action_space)

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Set the seed that the next `reset` uses, for all lanes together; None draws one from numpy's generator.

        Raises:
            ConfigError: The seed is not an integer from 0 to 2**63 - 1.
        """
        return super().seed(None if seed is None else check_seed(seed))

    def reset(self) -> Observation:
        """Start a new episode in every lane, with the seed of `seed` where one was given since the last reset.

        Returns:
            Observations, float32 ``[n_envs, size]`` or a dict (`batchenv.spaces.Observation`).
        """
        seed = self._seeds[0] if self._seeds[0] is not None else self._first_seed
        unknown = [key for options in self._options for key in options]
        if unknown:
            raise ConfigError(f"options: unknown key {unknown[0]!r}; TradingVecEnv takes no reset options")
        self._first_seed = None
        observation, _ = self.batch.reset(seed=seed)
        self.reset_infos = [{} for _ in range(self.num_envs)]
        self._reset_seeds()
        self._reset_options()
        return observation

    def write_into(self, memory: npt.NDArray[np.float32]) -> None:
        """Let the next step write its observations into ``memory`` and return it, in place of memory of its own.

        Args:
            memory: float32 ``[n_envs, size]``, C-contiguous; a row of a rollout buffer, say. Flat observations only.
        """
        self._memory = memory

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """Keep the actions for `step_wait`; float32 ``[n_envs, symbols]``, or integers in `discrete` mode."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Take every lane over one bar.

        Returns:
            Observations float32 ``[n_envs, size]`` or a dict (already of the next episode where done), rewards
            float32 ``[n_envs]``, dones bool ``[n_envs]``, and one info dict per lane.

        Raises:
            ActionError: Wrong shape, NaN or infinity, or no actions at all; nothing has changed then.
            ConfigError: `write_into` was given what observations cannot be written into; nothing has changed then.
        """
        if self._actions is None:
            raise ActionError("step_wait: there are no actions; expected a call of step_async() first")
        actions, self._actions = self._actions, None
        memory, self._memory = self._memory, None
        observation, rewards, terminated, truncated, batch_infos = self.batch.step(actions, out=memory)
        infos: list[dict[str, Any]] = [self._calm] * self.num_envs
        if batch_infos:
            final, seconds = batch_infos["final_info"], round(time.perf_counter() - self._born, 6)
            for lane in np.flatnonzero(batch_infos["_final_info"]).tolist():
                infos[lane] = {
                    "TimeLimit.truncated": bool(truncated[lane] and not terminated[lane]),
                    "terminal_observation": batch_infos["final_obs"][lane],
                    "episode": {
                        "r": round(float(final["return"][lane]), 6),
                        "l": int(final["length"][lane]),
                        "t": seconds,
                    },
                    "equity": float(final["equity"][lane]),
                }
        return observation, rewards.astype(np.float32), terminated | truncated, infos

    def close(self) -> None:
        """Stop the threads."""
        self.batch.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return an attribute for each lane asked for.

        Args:
            attr_name: ``cash``, ``holdings``, ``equity``, ``bar`` and ``episode`` differ by lane; any other public
                attribute of this object or of `batch` is the same for all.
            indices: Lanes; None for all.

        Raises:
            AttributeError: There is no such attribute.
        """
        lanes = list(self._get_indices(indices))
        if attr_name in _PER_LANE:
            values = getattr(self.batch, attr_name)
            return [values[lane].copy() for lane in lanes]
        owner = self if attr_name in self.__dict__ and not attr_name.startswith("_") else self.batch
        return [getattr(owner, attr_name)] * len(lanes)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of this object, the same for all lanes.

        Raises:
            AttributeError: The attribute belongs to single lanes, or only some lanes were named.
        """
        if attr_name in _PER_LANE or hasattr(type(self.batch), attr_name):
            raise AttributeError(f"set_attr: {attr_name!r} cannot be set from outside")
        if len(set(self._get_indices(indices))) != self.num_envs:
            raise AttributeError(f"set_attr: {attr_name!r} is shared by all lanes, expected indices=None")
        setattr(self, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of `batch` once and return its result for each lane asked for.

        Raises:
            AttributeError: There is no such method.
        """
        result = getattr(self.batch, method_name)(*method_args, **method_kwargs)
        return [result for _ in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type[Any], indices: VecEnvIndices = None) -> list[bool]:
        """Return for each lane asked for whether it has what a wrapper does: True for `Monitor`, see the class."""
        return [wrapper_class is Monitor for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[npt.NDArray[Any] | None]:
        """Return no images: there is nothing to draw."""
        return [None] * self.num_envs
