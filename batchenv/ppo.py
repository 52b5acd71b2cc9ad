"""FastPPO: stable-baselines3's PPO without the loops over lanes and the needless copies."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import RolloutBufferSamples
from stable_baselines3.common.utils import explained_variance, obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn

from batchenv import small_batches
from batchenv.mlp import PlainMlp
from batchenv.rollout import FastDictRolloutBuffer, FastRolloutBuffer
from batchenv.small_batches import SmallBatches

_Judged = tuple[Tensor, Tensor, Tensor | None]
"""Values, log-probabilities and entropy of samples, or the gradients of a loss with respect to them."""
_Rows = npt.NDArray[np.float32]


class FastPPO(PPO):
    """PPO of stable-baselines3, faster: the same arguments, random numbers, results, logs and model files.

    From the same seed the weights equal `PPO`'s up to the rounding of sums taken in another order. A model saved by
    either class loads in the other. What differs is how the work is done:

    * The observations of all lanes that were cut off in a step are valued in one pass, not one by one.
    * Steps go into a `FastRolloutBuffer`, unless another ``rollout_buffer_class`` is asked for, and a `TradingVecEnv`
      writes its observations there itself.
    * A plain ``MlpPolicy``, on flat or on indexed observations, is computed by `PlainMlp`, without autograd; any other
      policy by its own methods.
    * Where a minibatch of such a policy is small, an epoch is one compiled call: `SmallBatches`.
    * `torch.optim.Adam` runs fused where the device has that, and without its wrappers for ``torch.compile``.
    * Losses are brought to Python once per update, not once per minibatch.
    """

    def _setup_model(self) -> None:
        given = self.policy_kwargs
        ours = self.policy_class in self.policy_aliases.values() and "optimizer_class" not in given
        if ours:
            settings = given.get("optimizer_kwargs")
            settings = {"eps": 1e-5} if settings is None else settings  # as ActorCriticPolicy has it for Adam
            self.policy_kwargs = given | {"optimizer_class": _Adam, "optimizer_kwargs": settings}
        super()._setup_model()
        if ours:  # what is saved names Adam again: plain PPO must be able to load it
            self.policy_kwargs = given
            self.policy.optimizer_class = torch.optim.Adam
        fast = {RolloutBuffer: FastRolloutBuffer, DictRolloutBuffer: FastDictRolloutBuffer}.get(
            self.rollout_buffer_class  # type: ignore[arg-type]
        )
        if fast is not None:
            self.rollout_buffer = fast(
                self.n_steps,
                self.observation_space,  # type: ignore[arg-type]
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
        n_steps = 0
        rollout_buffer.reset()
        if self.use_sde:
            self.policy.reset_noise(env.num_envs)
        callback.on_rollout_start()
        plain = PlainMlp.of(self.policy)
        act: Callable[..., tuple[Tensor, Tensor, Tensor]] = self.policy if plain is None else plain.act
        write_into, place = _writer(env, rollout_buffer)

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
                    clipped_actions = np.minimum(np.maximum(actions, self.action_space.low), self.action_space.high)

            if (memory := place()) is not None:
                write_into(memory)
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
        small = None if plain is None else self._small_batches(plain)
        told: list[Tensor] = []  # the figures of each minibatch, by epoch
        try:
            for epoch in range(self.n_epochs):
                if small is not None:
                    told.append(small.epoch(self.rollout_buffer, self._settings(clip_range, clip_range_vf)))  # type: ignore[arg-type]
                else:
                    told.append(self._epoch(plain or _AnyPolicy(self.policy), clip_range, clip_range_vf))
                self._n_updates += 1
                divergence = told[-1][-1, 3].item()
                if self.target_kl is not None and divergence > 1.5 * self.target_kl:
                    if self.verbose >= 1:
                        self.logger.info(f"Early stopping at step {epoch} due to reaching max kl: {divergence:.2f}")
                    break
        finally:
            if small is not None:
                small.give()
        self._record_training(told, clip_range, clip_range_vf)

    def _small_batches(self, plain: PlainMlp) -> SmallBatches | None:
        """Return what learns from minibatches in one call an epoch, where that is faster and nobody looks on."""
        ours = type(self.policy.optimizer) in (torch.optim.Adam, _Adam) and type(self)._loss is FastPPO._loss
        buffer = self.rollout_buffer
        if not ours or type(buffer) is not FastRolloutBuffer:
            return None
        return SmallBatches.of(plain, self.policy.optimizer, buffer, int(self.batch_size))

    def _settings(self, clip_range: float, clip_range_vf: float | None) -> dict[int, float]:
        """Return the settings of the loss for `SmallBatches`."""
        return {
            small_batches.CLIP: clip_range,
            small_batches.CLIP_VALUE: np.inf if clip_range_vf is None else clip_range_vf,
            small_batches.ENTROPY: self.ent_coef,
            small_batches.VALUE: self.vf_coef,
            small_batches.NORM: self.max_grad_norm,
            small_batches.DIVERGENCE: np.inf if self.target_kl is None else self.target_kl,
            small_batches.NORMALIZE: self.normalize_advantage,
        }

    def _epoch(self, networks: PlainMlp | _AnyPolicy, clip_range: float, clip_range_vf: float | None) -> Tensor:
        """Learn from every sample once, unless a divergence is too large; return `_loss`'s figures by minibatch."""
        discrete = isinstance(self.action_space, spaces.Discrete)
        told: list[Tensor] = []
        for batch in self.rollout_buffer.get(self.batch_size):
            actions = batch.actions.long().flatten() if discrete else batch.actions
            judged = networks.evaluate(batch.observations, actions)
            figures, gradients = self._loss(batch, judged, clip_range, clip_range_vf)
            told.append(figures)
            if self.target_kl is not None and figures[3].item() > 1.5 * self.target_kl:
                break
            networks.backward(*gradients)
            networks.clip_gradients(self.max_grad_norm)
            self.policy.optimizer.step()
        return torch.stack(told)

    @torch.no_grad()
    def _loss(
        self, batch: RolloutBufferSamples, judged: _Judged, clip_range: float, clip_range_vf: float | None
    ) -> tuple[Tensor, _Judged]:
        """Return figures of a minibatch, and the gradients of its loss.

        The loss is that of equation 9 of Schulman et al., "Proximal policy optimization algorithms" (2017), with the
        sign turned.

        Args:
            batch: n samples.
            judged: Values ``[n]``, log-probabilities ``[n]`` and the entropy that the policy has for them now.
            clip_range: How far the ratio of probabilities may move from 1 and still count.
            clip_range_vf: How far a value may move and still count; None for any distance.

        Returns:
            Policy objective (its loss is the negative), value loss, fraction of clipped samples, KL divergence
            (estimator k3 of Schulman, "Approximating KL divergence", 2020) and entropy loss, ``[5]``; and the gradients
            with respect to ``judged``, in its shapes.
        """
        values, log_prob, entropy = judged
        n = len(log_prob)
        advantages = batch.advantages
        if self.normalize_advantage and n > 1:
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        log_ratio = log_prob - batch.old_log_prob
        ratio = log_ratio.exp()
        excess = ratio - 1
        gain = advantages * ratio
        bound = advantages * ratio.clamp(1 - clip_range, 1 + clip_range)
        d_log_prob = gain * (gain <= bound) / -n  # a sample counts unless the bound is the smaller one

        error = values - batch.returns
        d_values = error * (2.0 * self.vf_coef / n)
        if clip_range_vf is not None:
            change = values - batch.old_values
            limited = change.clamp(-clip_range_vf, clip_range_vf)
            error = batch.old_values + limited - batch.returns
            d_values = error * (change == limited) * (2.0 * self.vf_coef / n)

        if entropy is None:  # it has no formula: the samples estimate it
            entropy_loss, d_entropy = log_prob.mean(), None
            d_log_prob += self.ent_coef / n
        else:
            entropy_loss, d_entropy = -entropy.mean(), torch.full_like(entropy, -self.ent_coef / entropy.numel())

        clipped = (excess.abs() > clip_range).to(ratio.dtype)
        means = torch.stack((torch.min(gain, bound), error.square(), clipped, excess - log_ratio)).mean(dim=1)
        return torch.cat((means, entropy_loss.view(1))), (d_values, d_log_prob, d_entropy)

    def _record_training(self, told: list[Tensor], clip_range: float, clip_range_vf: float | None) -> None:
        """Log what `PPO` logs of an update; ``told`` holds the figures of `_loss` by epoch and minibatch."""
        figures = torch.cat(told).cpu().numpy().astype(np.float64)
        objective, value_loss, fraction, _, entropy_loss = figures.mean(axis=0)
        last = figures[-1]
        buffer = self.rollout_buffer
        record = self.logger.record
        record("train/entropy_loss", entropy_loss)
        record("train/policy_gradient_loss", -objective)
        record("train/value_loss", value_loss)
        record("train/approx_kl", figures[-len(told[-1]) :, 3].mean())
        record("train/clip_fraction", fraction)
        record("train/loss", -last[0] + self.vf_coef * last[1] + self.ent_coef * last[4])
        record("train/explained_variance", explained_variance(buffer.values.flatten(), buffer.returns.flatten()))
        if hasattr(self.policy, "log_std"):
            record("train/std", self.policy.log_std.exp().mean().item())
        record("train/n_updates", self._n_updates, exclude="tensorboard")
        record("train/clip_range", clip_range)
        if clip_range_vf is not None:
            record("train/clip_range_vf", clip_range_vf)


def _writer(env: VecEnv, buffer: RolloutBuffer) -> tuple[Callable[[_Rows], None], Callable[[], _Rows | None]]:
    """Return how to tell an environment where its next observations go, and where that is in the buffer, if anywhere.

    Wrappers may pass those observations on or make others; `FastRolloutBuffer.add` takes what comes.
    """
    inner: Any = env.unwrapped
    writes = hasattr(type(inner), "write_into") and inner.observation_space.shape == buffer.obs_shape
    if writes and isinstance(buffer, FastRolloutBuffer):
        return inner.write_into, buffer.place
    return lambda _: None, lambda: None


class _AnyPolicy:
    """A policy by its own methods and autograd, behind the methods of `PlainMlp`."""

    def __init__(self, policy: ActorCriticPolicy) -> None:
        self._policy = policy
        self._weights = list(policy.parameters())
        self._foreach = True if policy.device.type in ("cpu", "cuda") else None
        self._judged: _Judged  # by the last evaluate

    def evaluate(self, obs: Any, actions: Tensor) -> _Judged:
        values, log_prob, entropy = self._policy.evaluate_actions(obs, actions)
        self._judged = values.flatten(), log_prob, entropy
        return self._judged

    def backward(self, *gradients: Tensor | None) -> None:
        self._policy.optimizer.zero_grad()
        pairs = zip(self._judged, gradients, strict=True)
        reached = [(of, gradient) for of, gradient in pairs if of is not None and of.requires_grad]
        torch.autograd.backward([of for of, _ in reached], [gradient for _, gradient in reached])

    def clip_gradients(self, limit: float) -> None:
        nn.utils.clip_grad_norm_(self._weights, limit, foreach=self._foreach)


class _Adam(torch.optim.Adam):
    """Adam without what `torch.compile` has wrapped around its methods: importing that takes a second."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))
    zero_grad = inspect.unwrap(torch.optim.Adam.zero_grad)
    add_param_group = inspect.unwrap(torch.optim.Adam.add_param_group)


def _fuse(optimizer: torch.optim.Optimizer) -> None:
    """Let a plain Adam update all weights in one call of torch's fused kernel."""
    if type(optimizer) not in (torch.optim.Adam, _Adam):
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
