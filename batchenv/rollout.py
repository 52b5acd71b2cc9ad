"""stable-baselines3's rollout buffers and scaling of rewards, without their copies."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.type_aliases import DictRolloutBufferSamples, RolloutBufferSamples
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

Array = npt.NDArray[Any]


class _InPlace(RolloutBuffer):
    """What the buffers below have in common."""

    def reset(self) -> None:
        """Forget the rollout and keep the memory; its old content stays until overwritten."""
        if not hasattr(self, "_room"):
            super().reset()
            self._room: dict[str, torch.Tensor] = {}
            # Samples are numbered through lanes laid end to end: this is where they lie.
            self._places = np.arange(self.buffer_size * self.n_envs).reshape(self.buffer_size, self.n_envs).T.ravel()
        self.generator_ready = True  # nothing is to be laid end to end
        self.pos = 0
        self.full = False

    def order(self) -> npt.NDArray[np.int64]:
        """Return where all samples lie, in an order drawn from numpy's generator: that in which `get` yields them."""
        return self._places[np.random.permutation(self.buffer_size * self.n_envs)]  # noqa: NPY002, as `get` does

    def numbers(self) -> npt.NDArray[np.float32]:
        """Return values, log-probabilities, advantages and returns of all samples, ``[4, samples]``."""
        return np.stack([part.reshape(-1) for part in (self.values, self.log_probs, self.advantages, self.returns)])

    def get(self, batch_size: int | None = None) -> Any:
        """Yield the samples of every minibatch, in an order drawn from numpy's generator."""
        self._numbers = torch.from_numpy(self.numbers())
        yield from super().get(batch_size)

    def _take(self, array: Array, rows: torch.Tensor, room: str | None = None) -> torch.Tensor:
        """Return samples of an array, in the memory of this name where one is given."""
        flat = torch.from_numpy(array.reshape(-1, *array.shape[2:]))
        if room is None:
            return flat.index_select(0, rows).to(self.device)
        if room not in self._room or len(self._room[room]) != len(rows):
            self._room[room] = flat.new_empty(len(rows), *flat.shape[1:])
        return torch.index_select(flat, 0, rows, out=self._room[room]).to(self.device)

    def _take_numbers(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the samples of everything but the observations."""
        values, log_probs, advantages, returns = self._numbers.index_select(1, rows).to(self.device)
        return {
            "actions": self._take(self.actions, rows).to(torch.float32),
            "old_values": values,
            "old_log_prob": log_probs,
            "advantages": advantages,
            "returns": returns,
        }


class FastRolloutBuffer(_InPlace):
    """A `RolloutBuffer` that keeps its memory, and leaves the steps where they were put.

    `RolloutBuffer` lays all lanes end to end before the first minibatch, which copies everything. Here all arrays stay
    ``[n_steps, n_envs, ...]``, and minibatches are taken from there. The random numbers drawn, and the samples, are
    those of `RolloutBuffer`. Memory is used again: copy what must outlive the rollout, and the observations of a
    minibatch that must outlive the next.
    """

    def add(
        self,
        obs: Array,
        action: Array,
        reward: Array,
        episode_start: Array,
        value: torch.Tensor,
        log_prob: torch.Tensor,
    ) -> None:
        """Copy one step of every lane into the buffer.

        Args:
            obs: Observations the actions were chosen on, ``[n_envs, ...]``.
            action: Actions, ``[n_envs, ...]``.
            reward: Rewards, ``[n_envs]``.
            episode_start: Whether the observation was an episode's first, ``[n_envs]``.
            value: Values of the observations, ``[n_envs]`` or ``[n_envs, 1]``.
            log_prob: Log-probabilities of the actions, ``[n_envs]``.
        """
        pos = self.pos
        if not np.may_share_memory(obs, self.observations[pos]):  # else it was written there: see `place`
            self.observations[pos] = obs.reshape(self.n_envs, *self.obs_shape)
        self.actions[pos] = action.reshape(self.n_envs, self.action_dim)
        self.rewards[pos] = reward
        self.episode_starts[pos] = episode_start
        self.values[pos] = value.detach().cpu().numpy().reshape(self.n_envs)
        self.log_probs[pos] = log_prob.detach().cpu().numpy().reshape(self.n_envs)
        self.pos = pos + 1
        self.full = self.pos == self.buffer_size

    def place(self) -> npt.NDArray[np.float32] | None:
        """Return where the observations of the step after the one at hand belong, float32 ``[n_envs, ...]``.

        An environment may write them there, and `add` need not copy them. None after the last step, whose observations
        begin the next rollout, and where observations are not float32.
        """
        after = self.pos + 1
        return None if after == self.buffer_size or self.observations.dtype != np.float32 else self.observations[after]

    def _get_samples(self, batch_inds: Array, env: VecNormalize | None = None) -> RolloutBufferSamples:
        rows = torch.from_numpy(self._places[batch_inds])
        return RolloutBufferSamples(
            observations=self._take(self.observations, rows, "observations"), **self._take_numbers(rows)
        )


class RewardScaler(VecNormalize):
    """`VecNormalize` of rewards alone, which leaves observations where they are and looks only at lanes that ended."""

    def __init__(self, venv: VecEnv, gamma: float) -> None:
        """Wrap an environment.

        Args:
            venv: The environment.
            gamma: Discount of the returns whose spread rewards are divided by.
        """
        super().__init__(venv, norm_obs=False, norm_reward=True, gamma=gamma)

    def step_wait(self) -> VecEnvStepReturn:
        """Return what the step returned, with rewards scaled."""
        obs, rewards, dones, infos = self.venv.step_wait()
        self.old_obs, self.old_reward = obs, rewards  # type: ignore[assignment]
        if self.training:
            self._update_reward(rewards)
        self.returns[dones] = 0.0
        return obs, self.normalize_reward(rewards), dones, infos

    def normalize_obs(self, obs: Any) -> Any:
        """Return the observations themselves."""
        return obs


class FastDictRolloutBuffer(_InPlace, DictRolloutBuffer):
    """`FastRolloutBuffer` for observations that are dicts."""

    def _get_samples(self, batch_inds: Array, env: VecNormalize | None = None) -> DictRolloutBufferSamples:  # type: ignore[override]
        rows = torch.from_numpy(self._places[batch_inds])
        observations = {key: self._take(array, rows, key) for key, array in self.observations.items()}
        return DictRolloutBufferSamples(observations=observations, **self._take_numbers(rows))
