"""FastTrainingEnv: one lane of the training tier as a `gymnasium.Env`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from batchenv.base import BaseTradingEnv
from batchenv.config import EnvConfig
from batchenv.features import FeatureScaler
from batchenv.kernel.engine import Engine
from batchenv.spaces import Observation


class FastTrainingEnv(BaseTradingEnv):
    """The same lane that `BatchTradingEnv` advances by the thousand, alone.

    ``info`` holds ``bar`` and ``equity`` (money); on the last step also ``return`` (sum of rewards) and ``length``, in
    steps. The key ``episode`` is left to gymnasium's `RecordEpisodeStatistics` and stable-baselines3's `Monitor`.
    """

    def __init__(
        self,
        market: Any,
        config: EnvConfig | Mapping[str, Any] | str | Path,
        features: Sequence[str] | None = None,
        *,
        scaler: FeatureScaler | None = None,
        seed: int | None = None,
        lane: int = 0,
        lane_parameters: Mapping[str, Any] | None = None,
    ) -> None:
        """Build the environment; the arguments are those of `BaseTradingEnv`.

        Raises:
            BatchenvError: As `TradingTask.build` says; `ConfigError` for a reward that needs history.
        """
        super().__init__(market, config, features, scaler=scaler, seed=seed, lane=lane, lane_parameters=lane_parameters)
        self._engine = Engine(self.task, self.parameters, 1)
        self._which = np.zeros(1, np.int64)
        self._return = 0.0

    @property
    def cash(self) -> float:
        """Cash in money."""
        return float(self._engine.lanes.cash[0])

    @property
    def holdings(self) -> npt.NDArray[np.float64]:
        """Shares held, float64 ``[symbols]``."""
        return np.array(self._engine.holdings[0])

    @property
    def decided(self) -> npt.NDArray[np.float32]:
        """Action numbers of the last step, decided at the bar before, float32 ``[symbols]``."""
        return np.array(self._engine.actions[0])

    @property
    def equity(self) -> float:
        """Cash plus positions at the mark, in money."""
        return float(self._engine.lanes.equity[0])

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Take the lane over one bar.

        Args:
            action: float32 ``[symbols]``; integers in `discrete` mode, one integer when joint.

        Returns:
            Observation float32 ``[size]`` or a dict (`batchenv.spaces.Observation`), reward, terminated, truncated,
            info.

        Raises:
            ActionError: Wrong shape, NaN or infinity; nothing has changed then.
            EnvironmentStateError: The episode is over, or there was no reset yet.
        """
        self._check_running()
        numbers = self.task.actions.of_one(action)
        engine = self._engine
        self._running = False  # until the step is done: one that broke off may have moved the lane
        engine.advance(numbers)
        out = engine.out
        self.bar += 1
        reward = float(out.reward[0])
        terminated, truncated = bool(out.terminated[0]), bool(out.truncated[0])
        self._return += reward
        info = self._info()
        self._running = not (terminated or truncated)
        if not self._running:
            info |= {"return": self._return, "length": self.bar - self.start}
        return self._observe(), reward, terminated, truncated, info

    def _begin(self) -> Observation:
        self._return = 0.0
        bars = {"start": np.array([self.start]), "end": np.array([self.end])}
        self._engine.open(self._which, self.values._replace(**bars))
        return self._observe()

    def _observe(self) -> Observation:
        """Return the observation of the current bar, in new arrays."""
        vector = np.array(self._engine.observation[0])
        return self.task.layout.observation(vector, np.array([self.bar], np.int64))

    def _info(self) -> dict[str, Any]:
        return {"bar": self.bar, "equity": self.equity}
