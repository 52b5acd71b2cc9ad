"""PPO's update of a plain Gaussian policy, compiled: for minibatches so small that calling torch costs most of it.

An epoch is one call. Weights, gradients and the moments of Adam lie in one vector each, side by side in the same order:
both first layers, which read the same and so are one matrix, then the other layers, then the standard deviations.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from functools import cache, partial
from importlib import import_module
from itertools import pairwise
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from batchenv.kernel import jit
from batchenv.kernel.state import F32, F64, I64
from batchenv.mlp import PlainMlp
from batchenv.rollout import FastRolloutBuffer

_LOG = logging.getLogger("batchenv")
_MOST = 512
"""Samples in a minibatch for each of torch's threads, beyond which torch is faster."""
_OFF = {"weight_decay": 0, "amsgrad": False, "maximize": False, "capturable": False, "differentiable": False}
"""Settings of Adam that `descend` does not know."""
_MOMENTS = ("exp_avg", "exp_avg_sq")

NETWORK, INPUTS, OUTPUTS, WEIGHT, BIAS, VALUES, GRADIENT = range(7)
"""Columns of the table of layers: 0 for the actor's and 1 for the critic's, widths, and where in the vector of weights,
and in the scratch of a minibatch, its arrays begin."""
RATE, BETA1, BETA2, EPSILON, STEPS, CLIP, CLIP_VALUE, ENTROPY, VALUE, NORM, DIVERGENCE, NORMALIZE, TANH = range(13)
"""Places of the settings."""
OLD_VALUES, OLD_LOG_PROBS, ADVANTAGES, RETURNS = range(4)
_HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)


inlined, compiled = partial(jit.inlined, counted=True), partial(jit.compiled, counted=True)


@inlined
def matrix(flat: F32, start: int, rows: int, columns: int) -> F32:
    """Return part of a vector as a matrix; a view."""
    return flat[start : start + rows * columns].reshape(rows, columns)


@inlined
def tanh(x: Any) -> Any:
    """Return the hyperbolic tangent in float32, within some units in the last place; as `batchenv.kernel.rewards.tanh`.

    With e = exp(2x) - 1 from its series at x / 16, doubled five times, tanh x = e / (e + 2).
    """
    one, two = np.float32(1.0), np.float32(2.0)
    y = min(abs(x), np.float32(10.0)) * np.float32(1.0 / 16.0)  # where it is 1 to the last digit
    series = one + y * np.float32(1.0 / 9.0)
    series = one + series * y * np.float32(1.0 / 8.0)
    series = one + series * y * np.float32(1.0 / 7.0)
    series = one + series * y * np.float32(1.0 / 6.0)
    series = one + series * y * np.float32(1.0 / 5.0)
    series = one + series * y * np.float32(1.0 / 4.0)
    series = one + series * y * np.float32(1.0 / 3.0)
    series = one + series * y * np.float32(1.0 / 2.0)
    e = series * y
    e = e * (e + two)
    e = e * (e + two)
    e = e * (e + two)
    e = e * (e + two)
    e = e * (e + two)
    return np.float32(math.copysign(e / (e + two), x))


@inlined
def is_first(layers: I64, k: int) -> bool:
    """Whether layer ``k`` is its network's first."""
    return k == 0 or layers[k, NETWORK] != layers[k - 1, NETWORK]


@inlined
def is_last(layers: I64, k: int) -> bool:
    """Whether layer ``k`` is its network's last."""
    return k == len(layers) - 1 or layers[k, NETWORK] != layers[k + 1, NETWORK]


@inlined
def forward(n: int, layers: I64, weights: F32, x: F32, z: F32, scratch: F32, is_tanh: bool) -> None:
    """Work out the values of all layers for n observations ``x``."""
    np.dot(x, matrix(weights, layers[0, WEIGHT], z.shape[1], x.shape[1]).T, z)
    column = 0
    for k in range(len(layers)):
        inputs, outputs, bias = layers[k, INPUTS], layers[k, OUTPUTS], layers[k, BIAS]
        values = matrix(scratch, layers[k, VALUES], n, outputs)
        if is_first(layers, k):
            for i in range(n):
                for j in range(outputs):
                    values[i, j] = z[i, column + j]
            column += outputs
        else:
            before = matrix(scratch, layers[k - 1, VALUES], n, inputs)
            np.dot(before, matrix(weights, layers[k, WEIGHT], outputs, inputs).T, values)
        if is_last(layers, k):
            for i in range(n):
                for j in range(outputs):
                    values[i, j] += weights[bias + j]
        elif is_tanh:
            for i in range(n):
                for j in range(outputs):
                    values[i, j] = tanh(values[i, j] + weights[bias + j])
        else:
            for i in range(n):
                for j in range(outputs):
                    values[i, j] = max(values[i, j] + weights[bias + j], np.float32(0.0))


@inlined
def backward(n: int, layers: I64, weights: F32, x: F32, z: F32, scratch: F32, gradient: F32, is_tanh: bool) -> None:
    """Work out the gradients of all weights, from those of the last layers' values."""
    column = z.shape[1]
    for back in range(len(layers)):
        k = len(layers) - 1 - back
        inputs, outputs, bias = layers[k, INPUTS], layers[k, OUTPUTS], layers[k, BIAS]
        values = matrix(scratch, layers[k, VALUES], n, outputs)
        change = matrix(scratch, layers[k, GRADIENT], n, outputs)
        if not is_last(layers, k):
            for i in range(n):
                for j in range(outputs):
                    slope = np.float32(1.0) - values[i, j] * values[i, j]
                    slope = slope if is_tanh else (np.float32(1.0) if values[i, j] > 0.0 else np.float32(0.0))
                    change[i, j] *= slope
        for j in range(outputs):
            gradient[bias + j] = np.float32(0.0)
        for i in range(n):
            for j in range(outputs):
                gradient[bias + j] += change[i, j]
        if is_first(layers, k):
            column -= outputs
            for i in range(n):
                for j in range(outputs):
                    z[i, column + j] = change[i, j]
        else:
            before = matrix(scratch, layers[k - 1, VALUES], n, inputs)
            np.dot(change.T, before, matrix(gradient, layers[k, WEIGHT], outputs, inputs))
            into = matrix(scratch, layers[k - 1, GRADIENT], n, inputs)
            np.dot(change, matrix(weights, layers[k, WEIGHT], outputs, inputs), into)
    np.dot(z.T, x, matrix(gradient, layers[0, WEIGHT], z.shape[1], x.shape[1]))


@inlined
def measure(rows: I64, actions: F32, mean: F32, precision: F32, deviation: F32, square: F32) -> None:
    """Work out how far the actions of the samples ``rows`` are from their means, and the squares by precision."""
    for i in range(mean.shape[0]):
        for j in range(mean.shape[1]):
            deviation[i, j] = actions[rows[i], j] - mean[i, j]
            square[i, j] = deviation[i, j] * deviation[i, j] * precision[j]


@inlined
def scale_of(rows: I64, numbers: F32, normalize: bool) -> tuple[float, float]:
    """Return the mean and the deviation of advantages, which they are normalised by; 0 and 1 where they are not."""
    n, total, squares = len(rows), 0.0, 0.0
    for i in range(n):
        total += numbers[ADVANTAGES, rows[i]]
    mean = total / n
    for i in range(n):
        squares += (numbers[ADVANTAGES, rows[i]] - mean) ** 2
    scaled = normalize and n > 1
    return (mean if scaled else 0.0), (math.sqrt(squares / (n - 1)) + 1e-8 if scaled else 1.0)


@inlined
def judge(
    rows: I64,
    square: F32,
    value: F32,
    constant: float,
    d_log_prob: F32,
    d_value: F32,
    numbers: F32,
    settings: F64,
    figures: F64,
) -> float:
    """Work out the figures of `FastPPO._loss` of the samples ``rows``, and the gradients of its loss.

    Returns:
        The sum of the gradients of log-probabilities.
    """
    n = len(rows)
    mean, deviation = scale_of(rows, numbers, settings[NORMALIZE] > 0.0)
    clip, limit, weight = settings[CLIP], settings[CLIP_VALUE], 2.0 * settings[VALUE] / n
    slopes, objective, errors, clipped, divergence = 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(n):
        distance = 0.0
        for j in range(square.shape[1]):
            distance += square[i, j]
        log_ratio = -0.5 * distance - constant - numbers[OLD_LOG_PROBS, rows[i]]
        ratio = math.exp(log_ratio)
        advantage = (numbers[ADVANTAGES, rows[i]] - mean) / deviation
        gain, bound = advantage * ratio, advantage * min(max(ratio, 1.0 - clip), 1.0 + clip)
        slope = gain / -n if gain <= bound else 0.0  # a sample counts unless the bound is the smaller one
        d_log_prob[i] = slope
        slopes += slope
        objective += min(gain, bound)
        clipped += 1.0 if abs(ratio - 1.0) > clip else 0.0
        divergence += ratio - 1.0 - log_ratio
        old, wanted = numbers[OLD_VALUES, rows[i]], numbers[RETURNS, rows[i]]
        change = value[i, 0] - old
        limited = min(max(change, -limit), limit)
        error = value[i, 0] - wanted if change == limited else old + limited - wanted
        d_value[i, 0] = weight * error if change == limited else 0.0
        errors += error * error
    figures[0], figures[1], figures[2], figures[3] = objective / n, errors / n, clipped / n, divergence / n
    return slopes


@inlined
def judge_actions(
    rows: I64,
    actions: F32,
    mean: F32,
    value: F32,
    log_std: F32,
    precision: F32,
    square: F32,
    d_log_prob: F32,
    d_mean: F32,
    d_value: F32,
    d_log_std: F32,
    numbers: F32,
    settings: F64,
    figures: F64,
) -> None:
    """Do `judge` for Gaussian actions, and take its gradients on to the means and the standard deviations."""
    n, width, log_stds = mean.shape[0], mean.shape[1], 0.0
    for j in range(width):
        log_stds += log_std[j]
        precision[j] = math.exp(-2.0 * log_std[j])
    measure(rows, actions, mean, precision, d_mean, square)
    constant = log_stds + width * _HALF_LOG_TWO_PI
    slopes = judge(rows, square, value, constant, d_log_prob, d_value, numbers, settings, figures)
    figures[4] = -(constant + 0.5 * width)
    for i in range(n):
        for j in range(width):
            d_mean[i, j] *= d_log_prob[i] * precision[j]
    np.dot(d_log_prob, square, d_log_std)
    for j in range(width):
        d_log_std[j] -= slopes + settings[ENTROPY]


@inlined
def descend(weights: F32, gradient: F32, first: F32, second: F32, settings: F64) -> None:
    """Clip the gradient to a norm, as `torch.nn.utils.clip_grad_norm_` does, and take a step of Adam.

    Kingma & Ba, "Adam: a method for stochastic optimization" (2015), algorithm 1, as `torch.optim.Adam` writes it.
    """
    squares = 0.0
    for i in range(len(gradient)):
        squares += gradient[i] * gradient[i]
    scale = np.float32(min(1.0, settings[NORM] / (math.sqrt(squares) + 1e-6)))
    settings[STEPS] += 1.0
    rate = np.float32(settings[RATE] / (1.0 - settings[BETA1] ** settings[STEPS]))
    root = np.float32(math.sqrt(1.0 - settings[BETA2] ** settings[STEPS]))
    epsilon, keep, add = np.float32(settings[EPSILON]), np.float32(settings[BETA2]), np.float32(1.0 - settings[BETA2])
    toward = np.float32(1.0 - settings[BETA1])
    for i in range(len(gradient)):
        slope = gradient[i] * scale
        gradient[i] = slope
        first[i] += (slope - first[i]) * toward
        second[i] = second[i] * keep + slope * slope * add
        weights[i] -= rate * first[i] / (np.sqrt(second[i]) / root + epsilon)


@compiled
def learn_epoch(
    rows: I64,
    size: int,
    observations: F32,
    actions: F32,
    numbers: F32,
    layers: I64,
    weights: F32,
    gradient: F32,
    first: F32,
    second: F32,
    x: F32,
    z: F32,
    square: F32,
    precision: F32,
    d_log_prob: F32,
    scratch: F32,
    settings: F64,
    figures: F64,
) -> int:
    """Take a step of Adam for every minibatch of ``rows``.

    Returns:
        Minibatches looked at; the last was not learned from where its divergence was too large.
    """
    is_tanh = settings[TANH] > 0.0
    actor, critic = 0, len(layers) - 1
    while not is_last(layers, actor):
        actor += 1
    deviations = len(weights) - square.shape[1]
    count = 0
    for start in range(0, len(rows), size):
        batch = rows[start : start + size]
        n = len(batch)
        inputs, outputs = x[:n], z[:n]
        for i in range(n):
            for j in range(inputs.shape[1]):
                inputs[i, j] = observations[batch[i], j]
        forward(n, layers, weights, inputs, outputs, scratch, is_tanh)
        width = layers[actor, OUTPUTS]
        judge_actions(
            batch,
            actions,
            matrix(scratch, layers[actor, VALUES], n, width),
            matrix(scratch, layers[critic, VALUES], n, 1),
            weights[deviations:],
            precision,
            square[:n],
            d_log_prob[:n],
            matrix(scratch, layers[actor, GRADIENT], n, width),
            matrix(scratch, layers[critic, GRADIENT], n, 1),
            gradient[deviations:],
            numbers,
            settings,
            figures[count],
        )
        count += 1
        if figures[count - 1, 3] > 1.5 * settings[DIVERGENCE]:
            return count
        backward(n, layers, weights, inputs, outputs, scratch, gradient, is_tanh)
        descend(weights, gradient, first, second, settings)
    return count


class SmallBatches:
    """The update of a policy by `learn_epoch`, on copies of its weights and of the moments of Adam."""

    def __init__(self, plain: PlainMlp, optimizer: torch.optim.Optimizer, size: int) -> None:
        """Copy the weights of a policy that `of` accepts; ``size`` is that of a minibatch."""
        gradients, layers = plain.gradients, plain.layers
        self._gradients, self._optimizer, self._size = gradients, optimizer, size
        self._weights = _laid_out(gradients.weights)
        state = [optimizer.state.get(weight) or {} for weight in gradients.weights]
        pairs = [*zip(state, gradients.weights, strict=True)]
        self._moments = [_laid_out([of.get(name, torch.zeros_like(w)) for of, w in pairs]) for name in _MOMENTS]
        table, end = [], 0
        for network, net in enumerate(layers):
            for layer in net:
                room = size * layer.out_features
                places = gradients.start(layer.weight), gradients.start(layer.bias), end, end + room
                table.append((network, layer.in_features, layer.out_features, *places))
                end += 2 * room
        self._table = np.array(table, np.int64)
        first, actions = [net[0] for net in layers], layers[0][-1].out_features
        shapes = (size, first[0].in_features), (size, sum(layer.out_features for layer in first)), (size, actions)
        self._room = [np.empty(shape, np.float32) for shape in (*shapes, actions, size, end)]
        self._settings = np.zeros(TANH + 1)
        self._settings[TANH] = plain.is_tanh
        self._settings[STEPS] = state[0].get("step", 0.0)

    @classmethod
    def of(
        cls, plain: PlainMlp, optimizer: torch.optim.Optimizer, buffer: FastRolloutBuffer, size: int
    ) -> SmallBatches | None:
        """Return what updates a policy in minibatches of ``size``, or None where torch must do it, or is as fast."""
        weights, group = plain.gradients.weights, optimizer.param_groups[0]
        plain_adam = isinstance(optimizer, torch.optim.Adam) and all(group[key] == off for key, off in _OFF.items())
        heard = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks or "step" in vars(optimizer)
        all_of_them = {id(w) for group in optimizer.param_groups for w in group["params"]} == {id(w) for w in weights}
        steps = {float((optimizer.state.get(weight) or {}).get("step", 0.0)) for weight in weights}
        known = plain_adam and not heard and all_of_them and len(optimizer.param_groups) == len(steps) == 1
        on_cpu = all(weight.device.type == "cpu" for weight in weights)
        small = size * torch.get_num_threads() <= _MOST  # it has one thread
        if not (small and plain.is_flat_gaussian and known and on_cpu and _fits(plain, buffer)):
            return None
        return cls(plain, optimizer, size)

    def epoch(self, buffer: FastRolloutBuffer, settings: Mapping[int, float]) -> Tensor:
        """Learn from every sample of the buffer once, in an order drawn from numpy's generator.

        Args:
            buffer: The rollout.
            settings: Of the loss, by their places.

        Returns:
            The figures of `FastPPO._loss` for each minibatch, ``[minibatches, 5]``, up to one whose divergence was too
            large to learn from.
        """
        if not jit.is_ready(learn_epoch):
            _LOG.warning("batchenv compiles its update, once for each installation: this can take half a minute")
        rows, group = buffer.order(), self._optimizer.param_groups[0]
        for place, value in settings.items():
            self._settings[place] = value
        self._settings[[RATE, BETA1, BETA2, EPSILON]] = group["lr"], *group["betas"], group["eps"]
        figures, learn = np.empty((-(-len(rows) // self._size), 5)), cast(Any, learn_epoch)
        with _blas().limit(limits=1):
            count = learn(
                rows,
                self._size,
                buffer.observations.reshape(len(rows), -1),
                buffer.actions.reshape(len(rows), -1),
                buffer.numbers(),
                self._table,
                self._weights,
                self._gradients.vector.numpy(),
                *self._moments,
                *self._room,
                self._settings,
                figures,
            )
        return torch.from_numpy(figures[:count])

    @torch.no_grad()
    def give(self) -> None:
        """Write weights, gradients and moments where torch has them."""
        self._gradients.give()
        for weight in self._optimizer.param_groups[0]["params"]:  # the order in which a state is saved
            part = slice(self._gradients.start(weight), self._gradients.start(weight) + weight.numel())
            weight.copy_(torch.from_numpy(self._weights[part]).view_as(weight))
            moments = (torch.tensor(moment[part]).view_as(weight) for moment in self._moments)
            state = zip(_MOMENTS, moments, strict=True)
            self._optimizer.state[weight] = {"step": torch.tensor(self._settings[STEPS]).float(), **dict(state)}


def _fits(plain: PlainMlp, buffer: FastRolloutBuffer) -> bool:
    """Return whether all arrays have the shapes that `learn_epoch` takes them to have: compiled code does not look.

    They have, unless somebody has replaced a layer of the policy or an array of the buffer; torch says then what is
    wrong.
    """
    actor, critic = plain.layers
    steps = buffer.buffer_size, buffer.n_envs
    chained = all(a.out_features == b.in_features for net in (actor, critic) for a, b in pairwise(net))
    widths = actor[0].in_features == critic[0].in_features, critic[-1].out_features == 1
    numbers = (buffer.values, buffer.log_probs, buffer.advantages, buffer.returns)
    return bool(
        chained
        and all(widths)
        and plain.gradients.weights[-1].shape == (actor[-1].out_features,)
        and buffer.observations.shape == (*steps, actor[0].in_features)
        and buffer.actions.shape == (*steps, actor[-1].out_features)
        and all(array.shape == steps and array.dtype == np.float32 for array in numbers)
        and buffer.observations.dtype == buffer.actions.dtype == np.float32
    )


def _laid_out(tensors: Sequence[Tensor]) -> npt.NDArray[np.float32]:
    """Return the numbers of tensors one after the other, copied."""
    return torch.cat([tensor.detach().flatten() for tensor in tensors]).numpy()


@cache
def _blas() -> Any:
    """Return the control of the threads of the library that numba multiplies matrices with."""
    import_module("scipy.linalg.cython_blas")  # that library
    return import_module("threadpoolctl").ThreadpoolController().select(user_api="blas")
