"""FastRolloutBuffer: stable-baselines3's rollout buffer, stored in the order in which it is read."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.type_aliases import RolloutBufferSamples
from stable_baselines3.common.vec_env import VecNormalize


class FastRolloutBuffer(RolloutBuffer):
    """A `RolloutBuffer` that keeps its memory, and holds observations and actions lane by lane.

    Minibatches are drawn from lanes laid end to end. Here observations and actions lie in memory that way from the
    start, so laying them end to end copies nothing; to a reader their shapes are those of `RolloutBuffer`:
    ``[n_steps, n_envs, ...]`` until the first minibatch, ``[n_steps * n_envs, ...]`` afterwards. `reset` reuses the
    memory: copy what must outlive the rollout. The random numbers drawn, and the samples, are `RolloutBuffer`'s.
    """

    def reset(self) -> None:
        """Forget the rollout and keep the memory; its old content stays until overwritten."""
        if not hasattr(self, "_observations"):
            lanes_first = (self.n_envs, self.buffer_size)
            self._observations = np.zeros((*lanes_first, *self.obs_shape), self.observation_space.dtype)
            self._actions = np.zeros((*lanes_first, self.action_dim), self.action_space.dtype)
            self._numbers = np.zeros((6, self.buffer_size, self.n_envs), np.float32)
        self.observations = self._observations.swapaxes(0, 1)
        self.actions = self._actions.swapaxes(0, 1)
        self.rewards, self.returns, self.episode_starts, self.values, self.log_probs, self.advantages = self._numbers
        self.generator_ready = False
        self.pos = 0
        self.full = False

    def add(
        self,
        obs: npt.NDArray[Any],
        action: npt.NDArray[Any],
        reward: npt.NDArray[Any],
        episode_start: npt.NDArray[Any],
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
        self.observations[pos] = obs.reshape(self.n_envs, *self.obs_shape)
        self.actions[pos] = action.reshape(self.n_envs, self.action_dim)
        self.rewards[pos] = reward
        self.episode_starts[pos] = episode_start
        self.values[pos] = value.detach().cpu().numpy().reshape(self.n_envs)
        self.log_probs[pos] = log_prob.detach().cpu().numpy().reshape(self.n_envs)
        self.pos = pos + 1
        self.full = self.pos == self.buffer_size

    def _get_samples(self, batch_inds: npt.NDArray[Any], env: VecNormalize | None = None) -> RolloutBufferSamples:
        rows = torch.from_numpy(batch_inds)

        def take(array: npt.NDArray[Any]) -> torch.Tensor:
            return torch.from_numpy(array).index_select(0, rows).to(self.device)

        return RolloutBufferSamples(
            observations=take(self.observations),
            actions=take(self.actions).to(torch.float32),
            old_values=take(self.values).flatten(),
            old_log_prob=take(self.log_probs).flatten(),
            advantages=take(self.advantages).flatten(),
            returns=take(self.returns).flatten(),
        )
