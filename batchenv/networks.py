"""Two networks that read the same observation, forward and backward without autograd.

In names, ``dx`` is the gradient of ``x``: that of a loss with respect to it. Shapes: n observations; w, the widths of
both first layers together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from llvmlite.binding import get_host_cpu_name
from torch import Tensor, nn

_onednn: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
_ONEDNN = (
    _onednn is not None
    and torch._C._has_mkldnn
    and torch.backends.cpu.get_cpu_capability() == "AVX512"
    and get_host_cpu_name().startswith("znver")
)
"""Whether oneDNN multiplies matrices twice as fast as what torch takes, which is MKL: that keeps AVX-512 to processors
of its maker. A rule and no measurement, so that a machine always computes the same."""
_LARGE, _LONG = 1 << 21, 256
"""Multiplications, and rows, from which oneDNN is worth the copying that it needs."""


def product(
    a: Tensor, b: Tensor, out: Tensor | None = None, *, bias: Tensor | None = None, scale: float = 1.0
) -> Tensor:
    """Return ``scale * (a b + bias)``.

    Args:
        a: Float32 ``[n, m]``.
        b: Float32 ``[m, k]``.
        out: Where to write it, ``[n, k]``; None makes a new tensor.
        bias: ``[k]``; None for 0, and then ``scale`` is 1.
        scale: A number.
    """
    dense = b.is_contiguous() or b.t().is_contiguous()  # oneDNN takes a hundred times as long where it is not
    if _ONEDNN and a.is_cpu and a.shape[0] * b.numel() >= _LARGE and (dense or a.shape[0] >= _LONG):
        weight = b.t() if dense else b.t().contiguous()
        found: Tensor = _onednn(a, weight, bias, "none", [], "")
        return found if out is None and scale == 1.0 else torch.mul(found, scale, out=out)
    if bias is None:
        return torch.mm(a, b, out=out)
    return torch.addmm(bias, a, b, beta=scale, alpha=scale, out=out)


class Gradients:
    """The gradients of weights, one after the other in one vector.

    Attributes:
        vector: float32, as long as all weights together.
        weights: The weights, in the order in which their gradients lie there.
    """

    def __init__(self, weights: Sequence[Tensor]) -> None:
        """Make room; until `give` the weights keep the ``grad`` that they have."""
        self.weights = weights
        self.vector = weights[0].detach().new_zeros(sum(weight.numel() for weight in weights))
        self._starts: dict[Tensor, int] = {}
        start = 0
        for weight in weights:
            self._starts[weight] = start
            start += weight.numel()
        self._parts = [(weight, self.of(weight)) for weight in weights]

    def of(self, *weights: Tensor) -> Tensor:
        """Return the gradient of a weight, or of neighbours, stacked along their first dimension."""
        start = self._starts[weights[0]]
        size = sum(weight.numel() for weight in weights)
        return self.vector[start : start + size].view(-1, *weights[0].shape[1:])

    def start(self, weight: Tensor) -> int:
        """Return where the gradient of a weight begins."""
        return self._starts[weight]

    def give(self) -> None:
        """Let every weight have its part as its ``grad``."""
        for weight, part in self._parts:
            weight.grad = part


class Layer(NamedTuple):
    """The weights of a linear layer, and where their gradients go."""

    weight: Tensor
    bias: Tensor
    d_weight: Tensor
    d_bias: Tensor

    def forward(self, x: Tensor, y: Tensor, scale: float) -> None:
        """Write ``scale`` times the output."""
        product(x, self.weight.t(), y, bias=self.bias, scale=scale)

    def backward(self, x: Tensor, dy: Tensor, dx: Tensor | None) -> None:
        """Write the gradients of the weights, and that of what went in where ``dx`` is given."""
        product(dy.t(), x, self.d_weight)
        torch.sum(dy, 0, out=self.d_bias)
        if dx is not None:
            product(dy, self.weight, dx)


class SideBySide:
    """Layers that read the same as one layer; neighbours in the gradients, first their weights, then their biases.

    Attributes:
        layers: The layers.
        layer: The one layer, on copies of their weights; see `refresh`.
    """

    def __init__(self, layers: Sequence[nn.Linear], gradients: Gradients) -> None:
        """Copy the weights."""
        self.layers = layers
        self._weights: list[Tensor] = [layer.weight for layer in layers]
        self._biases: list[Tensor] = [layer.bias for layer in layers]
        self.layer = Layer(
            torch.cat(self._weights).detach(),
            torch.cat(self._biases).detach(),
            gradients.of(*self._weights),
            gradients.of(*self._biases),
        )

    def refresh(self) -> None:
        """Copy the weights again."""
        torch.cat(self._weights, out=self.layer.weight)
        torch.cat(self._biases, out=self.layer.bias)


class First(Protocol):
    """The first layers of both networks."""

    def look(self, obs: Any, y: Tensor, scale: float) -> None:
        """Write ``scale`` times the outputs of both side by side, ``[n, w]``."""

    def forward(self, obs: Any, y: Tensor, scale: float) -> None:
        """Do the same, and keep what `backward` needs."""

    def backward(self, dy: Tensor) -> None:
        """Write the gradients of the weights, for the last `forward`."""


class FlatFirst:
    """Both first layers on flat observations, ``[n, size]``: one matrix product."""

    def __init__(self, both: SideBySide) -> None:
        """Use these layers."""
        self._both = both
        self._obs = both.layer.weight  # of the last forward

    def forward(self, obs: Tensor, y: Tensor, scale: float) -> None:
        """Write ``scale`` times the outputs."""
        self._obs = obs.float()
        self._both.refresh()
        self._both.layer.forward(self._obs, y, scale)

    look = forward

    def backward(self, dy: Tensor) -> None:
        """Write the gradients of the weights."""
        self._both.layer.backward(self._obs, dy, None)


class _Hidden:
    """Numbers of the hidden layers of both networks, for n observations.

    Attributes:
        both: By depth, both networks side by side, float32 ``[n, both widths]``.
        parts: By depth and network, the columns of ``both`` that are its own.
    """

    def __init__(self, n: int, widths: list[list[int]], like: Tensor) -> None:
        self.both = [like.new_empty(n, sum(pair)) for pair in widths]
        self.parts = [torch.split(both, pair, dim=1) for both, pair in zip(self.both, widths, strict=True)]


class Networks:
    """Two networks on one observation: linear layers, and after each but the last ``tanh`` or ``relu``.

    An activation is one call for both. Arrays are kept: asking the system for some megabytes in each minibatch would
    cost as much as a layer.
    """

    def __init__(
        self, networks: Sequence[Sequence[nn.Linear]], first: First, gradients: Gradients, *, tanh: bool
    ) -> None:
        """Use two or more layers each, of which ``first`` does the work of the first ones."""
        of = gradients.of
        self._first, self._tanh = first, tanh
        self._networks = [
            [Layer(layer.weight, layer.bias, of(layer.weight), of(layer.bias)) for layer in net] for net in networks
        ]
        depths = range(max(len(net) - 1 for net in networks))
        self._widths = [[net[d].out_features if d < len(net) - 1 else 0 for net in networks] for d in depths]
        self._arrays: dict[int, tuple[_Hidden, _Hidden]] = {}
        self._minus_one = gradients.vector.new_tensor(-1.0)
        self._n = 0  # of the last forward

    def forward(self, obs: Any, n: int, *, learning: bool) -> list[Tensor]:
        """Return the outputs of both for n observations, ``[n, ...]``, in new arrays.

        Args:
            obs: As the first layers take it.
            n: How many there are.
            learning: Whether `backward` follows.
        """
        if n not in self._arrays:
            self._arrays[n] = _Hidden(n, self._widths, self._minus_one), _Hidden(n, self._widths, self._minus_one)
        hidden, _ = self._arrays[n]
        self._n = n
        first = self._first.forward if learning else self._first.look
        scale = 2.0 if self._tanh else 1.0
        for depth, both in enumerate(hidden.both):
            if depth == 0:
                first(obs, both, scale)
            for k, layer in self._inner(depth):
                layer.forward(hidden.parts[depth - 1][k], hidden.parts[depth][k], scale)
            if self._tanh:  # tanh(z) = 2 sigmoid(2 z) - 1 is within 2e-7, and twice as fast where there is no AVX-512
                torch.add(self._minus_one, both.sigmoid_(), alpha=2.0, out=both)
            else:
                both.relu_()
        return [
            product(hidden.parts[len(net) - 2][k], net[-1].weight.t(), bias=net[-1].bias)
            for k, net in enumerate(self._networks)
        ]

    def backward(self, *outputs: Tensor) -> None:
        """Write the gradients of all weights, from those of the outputs of the last `forward`."""
        y, dy = self._arrays[self._n]
        for k, net in enumerate(self._networks):
            depth = len(net) - 2
            net[-1].backward(y.parts[depth][k], outputs[k], dy.parts[depth][k])
        for depth in reversed(range(len(y.both))):
            values, gradient = y.both[depth], dy.both[depth]
            if self._tanh:
                torch.ops.aten.tanh_backward.grad_input(gradient, values, grad_input=gradient)
            else:
                torch.ops.aten.threshold_backward.grad_input(gradient, values, 0, grad_input=gradient)
            for k, layer in self._inner(depth):
                layer.backward(y.parts[depth - 1][k], dy.parts[depth][k], dy.parts[depth - 1][k])
        self._first.backward(dy.both[0])

    def _inner(self, depth: int) -> list[tuple[int, Layer]]:
        """Return the layers from the hidden layers above to those of this depth, with their network's number."""
        return [(k, net[depth]) for k, net in enumerate(self._networks) if 0 < depth < len(net) - 1]
