"""PlainMlp: a plain ``MlpPolicy`` of stable-baselines3, forward and backward without autograd.

In names, ``dx`` is the gradient of ``x``: that of a loss with respect to it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import (
    CategoricalDistribution,
    DiagGaussianDistribution,
    Distribution,
    MultiCategoricalDistribution,
)
from stable_baselines3.common.policies import ActorCriticPolicy, MultiInputActorCriticPolicy
from stable_baselines3.common.torch_layers import FlattenExtractor, MlpExtractor
from torch import Tensor, nn

from batchenv.extractors import IndexedExtractor, distinct_bars
from batchenv.networks import FlatFirst, Gradients, Networks, SideBySide, product

_HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)


class PlainMlp:
    """Actor and critic of a plain ``MlpPolicy``, in fewer and larger operations than its own methods take.

    Plain is also the policy that `batchenv.indexed_policy` makes of it with encoder ``linear``. Everything works on the
    policy's own weights and computes what autograd would, up to the rounding of sums taken in another order.

    Attributes:
        layers: The layers of the actor and of the critic.
        gradients: The gradients of all weights: first those of both first layers, last the standard deviations'.
        is_tanh: Whether activations are ``tanh``, not ``relu``.
        is_flat_gaussian: Whether observations are flat, and actions Gaussian.
    """

    def __init__(self, policy: ActorCriticPolicy, networks: list[list[nn.Linear]]) -> None:
        """Use a policy that `of` accepts, and the layers of its actor and its critic."""
        actor, critic = networks
        gaussian = type(policy.action_dist) is DiagGaussianDistribution
        weights = [actor[0].weight, critic[0].weight, actor[0].bias, critic[0].bias]
        weights += [weight for layer in actor[1:] + critic[1:] for weight in layer.parameters()]
        weights += [policy.log_std] if gaussian else []
        self.gradients = Gradients(weights)
        both = SideBySide((actor[0], critic[0]), self.gradients)
        extractors = (policy.pi_features_extractor, policy.vf_features_extractor)
        market = [extractor for extractor in extractors if isinstance(extractor, IndexedExtractor)]
        first = _IndexedFirst(both, market) if market else FlatFirst(both)
        self.layers, self.is_tanh = networks, policy.activation_fn is nn.Tanh
        self.is_flat_gaussian = gaussian and not market
        self._networks = Networks(networks, first, self.gradients, tanh=self.is_tanh)
        self._actions = _Gaussian(policy.log_std, self.gradients) if gaussian else _Choices(policy.action_dist)
        self._action_shape = policy.action_space.shape or ()

    @classmethod
    def of(cls, policy: ActorCriticPolicy) -> PlainMlp | None:
        """Return the policy's `PlainMlp`, or None where the policy is of another kind.

        Hooks on modules or weights, frozen weights and weights that are not float32 make it another kind.
        """
        networks = _mlps(policy)
        if networks is None or not _is_known(policy.action_dist) or _is_hooked(policy):
            return None
        trained = all(weight.requires_grad and weight.dtype == torch.float32 for weight in policy.parameters())
        return cls(policy, networks) if trained else None

    @torch.no_grad()
    def act(self, obs: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Draw actions from torch's generator, as the policy itself would.

        Args:
            obs: Float ``[n, size]``; or indexed, ``bar`` ``[n, 1]`` and ``portfolio`` ``[n, P]``.

        Returns:
            Actions ``[n, ...]``, values ``[n, 1]`` and log-probabilities ``[n]``.
        """
        output, values = self._networks.forward(obs, _count(obs), learning=False)
        actions, log_prob = self._actions.draw(output)
        return actions.reshape(-1, *self._action_shape), values, log_prob

    @torch.no_grad()
    def evaluate(self, obs: Any, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Judge actions taken before.

        Args:
            obs: As `act` takes it.
            actions: float32 ``[n, actions]``, or int64 ``[n]``.

        Returns:
            Values ``[n]``, log-probabilities ``[n]``, and the entropy of the distribution: one number for all rows
            where it is the same for all, else ``[n]``.
        """
        output, values = self._networks.forward(obs, len(actions), learning=True)
        return values.flatten(), *self._actions.evaluate(output, actions)

    @torch.no_grad()
    def backward(self, values: Tensor, log_prob: Tensor, entropy: Tensor | None) -> None:
        """Set the gradients of all weights from those of what `evaluate` returned last, in the same shapes."""
        assert entropy is not None
        self._networks.backward(self._actions.backward(log_prob, entropy), values.unsqueeze(1))
        self.gradients.give()

    @torch.no_grad()
    def clip_gradients(self, limit: float) -> None:
        """Scale the gradients to a norm of at most ``limit``, as `torch.nn.utils.clip_grad_norm_` does."""
        scale = limit / (torch.linalg.vector_norm(self.gradients.vector).item() + 1e-6)
        if not scale >= 1.0:  # less, or not a number
            self.gradients.vector.mul_(scale)


class _IndexedFirst:
    """Both first layers on indexed observations: W [x, p] = Wx x + Wp p, with Wx x worked out once for each bar.

    Their weights are those of two extractors with encoder ``linear``.
    """

    def __init__(self, both: SideBySide, extractors: Sequence[IndexedExtractor]) -> None:
        """Use these layers, which belong to these extractors."""
        self._both = both
        self._extractors = extractors
        self._rows = self._portfolio = self._where = both.layer.weight  # of the last forward
        self._room = both.layer.weight.new_empty(0, 0)

    def look(self, obs: Mapping[str, Tensor], y: Tensor, scale: float) -> None:
        """Write ``scale`` times the outputs, with the bars that the extractors remember."""
        parts = y.chunk(len(self._extractors), dim=1)  # encoder linear has one width
        for extractor, layer, part in zip(self._extractors, self._both.layers, parts, strict=True):
            matrix, bars = extractor.locate(obs)
            weight = layer.weight[:, matrix.shape[1] :]
            torch.addmm(extractor.encode(matrix, bars), obs["portfolio"], weight.t(), beta=scale, alpha=scale, out=part)

    def forward(self, obs: Mapping[str, Tensor], y: Tensor, scale: float) -> None:
        """Write ``scale`` times the outputs, from the bars of these observations."""
        self._both.refresh()
        weight, bias, *_ = self._both.layer
        matrix, bars = self._extractors[0].locate(obs)
        distinct, self._where = distinct_bars(bars, len(matrix))
        self._rows = matrix if distinct is None else self._gather(matrix, distinct)
        self._portfolio = obs["portfolio"]
        of_market, of_portfolio = weight.tensor_split((matrix.shape[1],), dim=1)
        encoded = product(self._rows, of_market.t(), bias=bias, scale=scale)
        torch.index_select(encoded, 0, self._where, out=y)
        y.addmm_(self._portfolio, of_portfolio.t(), alpha=scale)

    def backward(self, dy: Tensor) -> None:
        """Write the gradients of the weights."""
        *_, d_weight, d_bias = self._both.layer
        of_market, of_portfolio = d_weight.tensor_split((self._rows.shape[1],), dim=1)
        d_encoded = dy.new_zeros(len(self._rows), dy.shape[1]).index_add_(0, self._where, dy)
        product(d_encoded.t(), self._rows, of_market)
        product(dy.t(), self._portfolio, of_portfolio)
        torch.sum(d_encoded, 0, out=d_bias)

    def _gather(self, matrix: Tensor, bars: Tensor) -> Tensor:
        """Return the rows of these bars, in memory that the next call uses again."""
        if len(self._room) < len(bars):
            self._room = matrix.new_empty(len(matrix), matrix.shape[1])
        return torch.index_select(matrix, 0, bars, out=self._room[: len(bars)])


# --- the distributions of actions -----------------------------------------------------------------------------


class _Gaussian:
    """Independent Gaussians, with standard deviations that do not depend on the observation."""

    def __init__(self, log_std: nn.Parameter, gradients: Gradients) -> None:
        self._log_std, self._d_log_std = log_std, gradients.of(log_std)
        self._ones = torch.ones_like(log_std)
        self._deviation = self._square = self._precision = self._ones  # of the last evaluate

    def draw(self, mean: Tensor) -> tuple[Tensor, Tensor]:
        """Return actions ``[n, actions]`` and their log-probabilities ``[n]``."""
        noise = torch.normal(torch.zeros_like(mean), 1.0)
        return mean + noise * self._log_std.exp(), self._log_prob(noise.square(), self._ones, self._log_std.sum())

    def evaluate(self, mean: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-probabilities of actions, ``[n]``, and the entropy, one number."""
        self._deviation = actions - mean
        self._square = self._deviation.square()
        self._precision = (self._log_std * -2.0).exp()
        log_stds = self._log_std.sum()
        entropy = log_stds + len(self._ones) * (0.5 + _HALF_LOG_TWO_PI)
        return self._log_prob(self._square, self._precision, log_stds), entropy

    def backward(self, log_prob: Tensor, entropy: Tensor) -> Tensor:
        """Write the gradient of the standard deviations and return that of the mean, for the last `evaluate`."""
        precision = self._precision
        torch.sub((log_prob @ self._square).mul_(precision), log_prob.sum() - entropy, out=self._d_log_std)
        return self._deviation.mul_(precision).mul_(log_prob.unsqueeze(1))

    def _log_prob(self, square: Tensor, precision: Tensor, log_stds: Tensor) -> Tensor:
        """Return the log-density, ``[n]``.

        Args:
            square: Squared distances of actions to the mean, ``[n, actions]``.
            precision: Inverse variances, ``[actions]``, in the same unit.
            log_stds: Sum of the logarithms of the standard deviations.
        """
        constant = log_stds + len(self._ones) * _HALF_LOG_TWO_PI
        return torch.addmv(constant, square, precision, beta=-1, alpha=-0.5)


class _Choices:
    """One choice or several, each among as many options."""

    def __init__(self, distribution: Distribution) -> None:
        assert isinstance(distribution, CategoricalDistribution | MultiCategoricalDistribution)
        self._distribution = distribution
        self._log_probs = self._taken = torch.empty(0)  # of the last evaluate

    def draw(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return actions, ``[n]`` or ``[n, choices]``, and their log-probabilities ``[n]``."""
        distribution = self._distribution.proba_distribution(action_logits=logits)
        actions = distribution.sample()
        return actions, distribution.log_prob(actions)

    def evaluate(self, logits: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-probabilities of actions and entropies, ``[n]`` each."""
        self._taken = actions.long().reshape(len(logits), -1, 1)
        self._log_probs = logits.view(*self._taken.shape[:2], -1).log_softmax(dim=-1)
        log_prob = self._log_probs.gather(-1, self._taken)
        return log_prob.sum(dim=(1, 2)), self._entropies().sum(dim=(1, 2))

    def backward(self, log_prob: Tensor, entropy: Tensor) -> Tensor:
        """Return the gradient of the logits of the last `evaluate`."""
        log_prob, entropy = log_prob.view(-1, 1, 1), entropy.view(-1, 1, 1)
        # With p = softmax(z): d log p[taken] / dz = [taken] - p, and d entropy / dz = -p (log p + entropy).
        logits = self._log_probs.exp() * -(log_prob + entropy * (self._log_probs + self._entropies()))
        return logits.scatter_add_(-1, self._taken, log_prob.expand(self._taken.shape)).flatten(1)

    def _entropies(self) -> Tensor:
        """Return the entropy of every choice, ``[n, choices, 1]``."""
        return -(self._log_probs.exp() * self._log_probs).sum(dim=-1, keepdim=True)


# --- which policies -------------------------------------------------------------------------------------------


def _mlps(policy: ActorCriticPolicy) -> list[list[nn.Linear]] | None:
    """Return the layers of actor and critic, where both are linear layers and activations in turn; else None."""
    known = type(policy) in (ActorCriticPolicy, MultiInputActorCriticPolicy)
    if not known or type(policy.mlp_extractor) is not MlpExtractor or policy.activation_fn not in (nn.Tanh, nn.ReLU):
        return None
    found = []
    for extractor, net, head in (
        (policy.pi_features_extractor, policy.mlp_extractor.policy_net, policy.action_net),
        (policy.vf_features_extractor, policy.mlp_extractor.value_net, policy.value_net),
    ):
        modules: list[Any] = [*_first_modules(extractor, policy.observation_space), *net, head]
        hidden = len(modules) // 2
        if hidden == 0 or [type(m) for m in modules] != [nn.Linear, policy.activation_fn] * hidden + [nn.Linear]:
            return None
        found.append(modules[::2])
    return found if found[0][0] is not found[1][0] else None


def _first_modules(extractor: nn.Module, space: spaces.Space[Any]) -> Iterable[nn.Module]:
    """Return the modules that an extractor puts before a network; the extractor where it is none of the known."""
    if type(extractor) is IndexedExtractor and extractor.first_layer is not None:
        return extractor.first_layer
    flat = type(extractor) is FlattenExtractor and isinstance(space, spaces.Box) and len(space.shape) == 1
    return () if flat else (extractor,)


def _count(obs: Tensor | Mapping[str, Tensor]) -> int:
    return len(obs) if isinstance(obs, Tensor) else len(next(iter(obs.values())))


def _is_known(distribution: Distribution) -> bool:
    if isinstance(distribution, MultiCategoricalDistribution):
        return len(set(distribution.action_dims)) == 1
    return type(distribution) in (DiagGaussianDistribution, CategoricalDistribution)


def _is_hooked(policy: nn.Module) -> bool:
    """Whether someone listens to what modules do or to gradients, so that torch must run them itself."""
    return any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in policy.modules()) or any(
        weight._backward_hooks or weight._post_accumulate_grad_hooks for weight in policy.parameters()
    )
