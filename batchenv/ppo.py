"""FastPPO: stable-baselines3's PPO without the loops over lanes and the needless copies."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.distributions import (
    CategoricalDistribution,
    DiagGaussianDistribution,
    MultiCategoricalDistribution,
)
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import FlattenExtractor, MlpExtractor
from stable_baselines3.common.utils import explained_variance, obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn
from torch.nn import functional

from batchenv.rollout import FastRolloutBuffer

_HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)


class FastPPO(PPO):
    """PPO of stable-baselines3, faster: the same arguments, random numbers, results, logs and model files.

    From the same seed the weights equal `PPO`'s up to the rounding of sums taken in another order. A model saved by
    either class loads in the other. What differs is how the work is done:

    * The observations of all lanes that were cut off in a step are valued in one pass, not one by one.
    * Flat observations go into a `FastRolloutBuffer`, unless another ``rollout_buffer_class`` is asked for.
    * A plain ``MlpPolicy`` is evaluated by `PlainMlp`; any other policy by its own ``evaluate_actions``.
    * Adam runs fused, where the optimizer is `torch.optim.Adam` and the device has it.
    * Losses are brought to Python once per update, not once per minibatch.
    """

    def _setup_model(self) -> None:
        super()._setup_model()
        # The attribute rollout_buffer_class stays what it was: it is saved, and plain PPO must be able to load it.
        if self.rollout_buffer_class is RolloutBuffer:
            self.rollout_buffer = FastRolloutBuffer(
                self.n_steps,
                self.observation_space,
                self.action_space,
                device=self.device,
                gamma=self.gamma,
                gae_lambda=self.gae_lambda,
                n_envs=self.n_envs,
                **self.rollout_buffer_kwargs,
            )

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """Play ``n_rollout_steps`` steps in every lane and fill the buffer.

        Callbacks see the local variables that they see in `PPO`, the loop's ``idx`` and ``done`` apart.

        Args:
            env: The environment; any `VecEnv`.
            callback: Told about every step.
            rollout_buffer: Filled with the steps.
            n_rollout_steps: Steps per lane.

        Returns:
            Whether the callback let it finish.
        """
        assert self._last_obs is not None, "No previous observation was provided"
        self.policy.set_training_mode(False)
        plain = PlainMlp.of(self.policy)
        # Only Gaussian actions are drawn here: a categorical draw must come from the policy's own distribution.
        act: Callable[..., tuple[Tensor, Tensor, Tensor]]
        act = plain.act if plain is not None and plain.gaussian else self.policy.forward
        n_steps = 0
        rollout_buffer.reset()
        if self.use_sde:
            self.policy.reset_noise(env.num_envs)
        callback.on_rollout_start()

        while n_steps < n_rollout_steps:
            if self.use_sde and self.sde_sample_freq > 0 and n_steps % self.sde_sample_freq == 0:
                self.policy.reset_noise(env.num_envs)
            with torch.no_grad():
                obs_tensor: Any = obs_as_tensor(self._last_obs, self.device)  # type: ignore[arg-type]
                actions_tensor, values, log_probs = act(obs_tensor)
            actions = actions_tensor.cpu().numpy()
            clipped_actions = actions
            if isinstance(self.action_space, spaces.Box):
                if self.policy.squash_output:
                    clipped_actions = self.policy.unscale_action(clipped_actions)
                else:
                    clipped_actions = np.clip(actions, self.action_space.low, self.action_space.high)

            new_obs, rewards, dones, infos = env.step(clipped_actions)
            self.num_timesteps += env.num_envs
            callback.update_locals(locals())
            if not callback.on_step():
                return False
            self._update_info_buffer(infos, dones)
            n_steps += 1
            if isinstance(self.action_space, spaces.Discrete):
                actions = actions.reshape(-1, 1)
            rewards = self._bootstrapped(rewards, dones, infos)
            rollout_buffer.add(
                self._last_obs,  # type: ignore[arg-type]
                actions,
                rewards,
                self._last_episode_starts,  # type: ignore[arg-type]
                values,
                log_probs,
            )
            self._last_obs = new_obs  # type: ignore[assignment]
            self._last_episode_starts = dones

        with torch.no_grad():
            values = self.policy.predict_values(obs_as_tensor(new_obs, self.device))  # type: ignore[arg-type]
        rollout_buffer.compute_returns_and_advantage(last_values=values, dones=dones)
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _update_info_buffer(self, infos: list[dict[str, Any]], dones: npt.NDArray[np.bool_] | None = None) -> None:
        """Note the episodes that ended, in the order of the lanes."""
        assert self.ep_info_buffer is not None
        assert self.ep_success_buffer is not None
        self.ep_info_buffer.extend([info["episode"] for info in infos if info.get("episode") is not None])
        for lane in [] if dones is None else np.flatnonzero(dones).tolist():
            success = infos[lane].get("is_success")
            if success is not None:
                self.ep_success_buffer.append(success)

    def _bootstrapped(
        self, rewards: npt.NDArray[Any], dones: npt.NDArray[np.bool_], infos: list[dict[str, Any]]
    ) -> npt.NDArray[Any]:
        """Return the rewards, with the discounted value of the last observation added in the lanes cut off."""
        lanes = [
            lane
            for lane in np.flatnonzero(dones).tolist()
            if infos[lane].get("terminal_observation") is not None and infos[lane].get("TimeLimit.truncated", False)
        ]
        if not lanes:
            return rewards
        last = [infos[lane]["terminal_observation"] for lane in lanes]
        stacked = (
            {key: np.stack([o[key] for o in last]) for key in last[0]} if isinstance(last[0], dict) else np.stack(last)
        )
        with torch.no_grad():
            values = self.policy.predict_values(self.policy.obs_to_tensor(stacked)[0])
        rewards = rewards.copy()
        rewards[lanes] += self.gamma * values.cpu().numpy().reshape(-1)
        return rewards

    def train(self) -> None:
        """Update the policy from the rollout buffer, as `PPO.train` does."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        _fuse(self.policy.optimizer)
        progress = self._current_progress_remaining
        clip_range = self.clip_range(progress)  # type: ignore[operator]
        clip_range_vf = None if self.clip_range_vf is None else self.clip_range_vf(progress)  # type: ignore[operator]
        plain = PlainMlp.of(self.policy)
        evaluate = self.policy.evaluate_actions if plain is None else plain.evaluate
        parameters = list(self.policy.parameters())
        foreach = True if self.device.type in ("cpu", "cuda") else None
        discrete = isinstance(self.action_space, spaces.Discrete)
        told: list[Tensor] = []  # per minibatch: policy, value and entropy loss, clipped fraction, KL
        epoch_began = 0
        continue_training = True
        for epoch in range(self.n_epochs):
            epoch_began = len(told)
            for batch in self.rollout_buffer.get(self.batch_size):
                actions = batch.actions.long().flatten() if discrete else batch.actions
                values, log_prob, entropy = evaluate(batch.observations, actions)
                values = values.flatten()
                advantages = batch.advantages
                if self.normalize_advantage and len(advantages) > 1:
                    advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)

                log_ratio = log_prob - batch.old_log_prob
                ratio = log_ratio.exp()
                clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
                policy_loss = -torch.min(advantages * ratio, advantages * clipped).mean()
                if clip_range_vf is not None:
                    change = (values - batch.old_values).clamp(-clip_range_vf, clip_range_vf)
                    values = batch.old_values + change
                value_loss = functional.mse_loss(batch.returns, values)
                entropy_loss = log_prob.mean() if entropy is None else -entropy.mean()
                loss = policy_loss + self.ent_coef * entropy_loss + self.vf_coef * value_loss

                with torch.no_grad():
                    excess = ratio - 1
                    fraction = (excess.abs() > clip_range).float().mean()
                    divergence = (excess - log_ratio).mean()
                    told.append(torch.stack((policy_loss, value_loss, entropy_loss, fraction, divergence)))
                if self.target_kl is not None and divergence.item() > 1.5 * self.target_kl:
                    continue_training = False
                    if self.verbose >= 1:
                        self.logger.info(f"Early stopping at step {epoch} due to reaching max kl: {divergence:.2f}")
                    break
                self.policy.optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(parameters, self.max_grad_norm, foreach=foreach)
                self.policy.optimizer.step()
            self._n_updates += 1
            if not continue_training:
                break

        figures = torch.stack(told).cpu().numpy().astype(np.float64)
        policy_mean, value_mean, entropy_mean, fraction_mean, _ = figures.mean(axis=0)
        buffer = self.rollout_buffer
        record = self.logger.record
        record("train/entropy_loss", entropy_mean)
        record("train/policy_gradient_loss", policy_mean)
        record("train/value_loss", value_mean)
        record("train/approx_kl", figures[epoch_began:, 4].mean())
        record("train/clip_fraction", fraction_mean)
        record("train/loss", loss.item())
        record("train/explained_variance", explained_variance(buffer.values.flatten(), buffer.returns.flatten()))
        if hasattr(self.policy, "log_std"):
            record("train/std", self.policy.log_std.exp().mean().item())
        record("train/n_updates", self._n_updates, exclude="tensorboard")
        record("train/clip_range", clip_range)
        if clip_range_vf is not None:
            record("train/clip_range_vf", clip_range_vf)


class PlainMlp:
    """A plain ``MlpPolicy`` of stable-baselines3, computed with fewer operations than its own methods take.

    It reads the policy's modules at every call and holds no state of its own. Forward hooks of these modules do not
    run.

    Attributes:
        gaussian: Whether actions are Gaussian; else they are categorical.
    """

    def __init__(self, policy: ActorCriticPolicy) -> None:
        """Use a policy that `of` accepts."""
        self._policy = policy
        extractor = policy.mlp_extractor
        self._actor = _fast(extractor.policy_net)
        self._critic = _fast(extractor.value_net)
        self.gaussian = type(policy.action_dist) is DiagGaussianDistribution

    @classmethod
    def of(cls, policy: ActorCriticPolicy) -> PlainMlp | None:
        """Return the policy's `PlainMlp`, or None where the policy is of another kind."""
        plain = (
            type(policy) is ActorCriticPolicy
            and type(policy.mlp_extractor) is MlpExtractor
            and type(policy.pi_features_extractor) is FlattenExtractor
            and type(policy.vf_features_extractor) is FlattenExtractor
            and isinstance(policy.observation_space, spaces.Box)
            and len(policy.observation_space.shape) == 1
        )
        if not plain:
            return None
        actions = policy.action_dist
        if isinstance(actions, MultiCategoricalDistribution):
            return cls(policy) if len(set(actions.action_dims)) == 1 else None
        return cls(policy) if type(actions) in (DiagGaussianDistribution, CategoricalDistribution) else None

    def act(self, obs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Draw Gaussian actions from torch's generator, in the order in which the policy itself would.

        Args:
            obs: float32 ``[n, size]``.

        Returns:
            Actions ``[n, ...]``, values ``[n, 1]`` and log-probabilities ``[n]``, float32.
        """
        policy = self._policy
        obs = obs.float()
        mean = policy.action_net(self._actor(obs))
        noise = torch.normal(torch.zeros_like(mean), 1.0)
        actions = mean + noise * policy.log_std.exp()
        values = policy.value_net(self._critic(obs))
        log_prob = self._gaussian_log_prob(noise)
        return actions.reshape(-1, *policy.action_space.shape), values, log_prob  # type: ignore[misc]

    def evaluate(self, obs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Judge actions taken before.

        Args:
            obs: float32 ``[n, size]``.
            actions: float32 ``[n, actions]``, or int64 ``[n]``.

        Returns:
            Values ``[n, 1]``, log-probabilities ``[n]``, and the entropy of the distribution: one number for all rows
            where it is the same for all, else ``[n]``.
        """
        policy = self._policy
        obs = obs.float()
        output = policy.action_net(self._actor(obs))
        values = policy.value_net(self._critic(obs))
        if self.gaussian:
            log_std = policy.log_std
            log_prob = self._gaussian_log_prob((actions - output) * (-log_std).exp())
            return values, log_prob, (log_std + (0.5 + _HALF_LOG_TWO_PI)).sum()
        choices = actions.long().reshape(len(obs), -1)  # one column per choice, all with as many options
        log_probs = output.view(*choices.shape, -1).log_softmax(dim=-1)
        taken = log_probs.gather(-1, choices.unsqueeze(-1))
        entropy = -(log_probs.exp() * log_probs).sum(dim=(1, 2))
        return values, taken.sum(dim=(1, 2)), entropy

    def _gaussian_log_prob(self, deviation: Tensor) -> Tensor:
        """Log-density of actions so many standard deviations from the mean, ``[n, actions]`` to ``[n]``."""
        constant = (self._policy.log_std + _HALF_LOG_TWO_PI).sum()
        return deviation.square().sum(dim=1) * -0.5 - constant


class _Tanh(torch.autograd.Function):
    """``tanh`` by way of ``sigmoid``, which torch computes several times faster on a CPU; within 2e-7 of it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = (x * 2.0).sigmoid_().mul_(2.0).sub_(1.0)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        result: Tensor = torch.ops.aten.tanh_backward(grad_outputs[0], y)
        return result


class _FastTanh(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        """Return ``tanh(x)``."""
        result: Tensor = _Tanh.apply(x)  # type: ignore[no-untyped-call]
        return result


def _fast(layers: nn.Sequential) -> nn.Sequential:
    """Return the same layers, on the same weights, with the faster ``tanh``."""
    return nn.Sequential(*(_FastTanh() if type(layer) is nn.Tanh else layer for layer in layers))


def _fuse(optimizer: torch.optim.Optimizer) -> None:
    """Let a plain Adam update all weights in one call of torch's fused kernel."""
    if type(optimizer) is not torch.optim.Adam:
        return
    for group in optimizer.param_groups:
        weights = group["params"]
        possible = all(w.device.type in ("cpu", "cuda") and w.is_floating_point() for w in weights)
        if group["fused"] is None and group["foreach"] is None and possible and not group["differentiable"]:
            group["fused"] = True
            for weight in weights:
                state = optimizer.state.get(weight)
                if state:  # counted so far for an unfused Adam
                    state["step"] = torch.as_tensor(state["step"], dtype=torch.float32, device=weight.device)
