"""Features extractors of stable-baselines3 for indexed observations: the market is encoded once, not once a lane.

At a bar every lane sees the same market, so an indexed observation (rule 6.4) names the bar, and the network looks the
bar's features up. Their encoding depends on the bar and the weights alone: it is computed for the distinct bars of a
batch, and kept while the weights stand still.

Shapes: T bars, M columns of the feature matrix, P numbers of ``portfolio``, B observations, D distinct bars, W bars of
a window.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar, TypeGuard

import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from batchenv.base import TradingTask
from batchenv.errors import ConfigError, EnvironmentStateError, did_you_mean
from batchenv.made_for import MadeFor
from batchenv.wrappers import SCALES_THE_BAR, STACKS_THE_BAR, check_numbers_of_bars

__all__ = ["IndexedExtractor", "MarketFeatures", "bind_market", "bound_market", "indexed_policy", "is_indexed"]

_DENSE = 16
"""Distinct bars are found by marking all T of them where T is at most this many times B, else by sorting."""
_MOST = 0.7
"""All bars are encoded where this part of the market is there: copying the rows of it would cost more than it saves."""
_FLAT_DEFAULTS: dict[str, tuple[list[int], type[nn.Module]]] = {
    "ppo": ([64, 64], nn.Tanh),
    "a2c": ([64, 64], nn.Tanh),
    "sac": ([256, 256], nn.ReLU),
    "td3": ([400, 300], nn.ReLU),
    "dqn": ([64, 64], nn.ReLU),
}
"""Layers and activation of each algorithm's ``MlpPolicy``."""


@dataclass(frozen=True)
class MarketFeatures:
    """The feature matrix of a market, held once for all extractors of a model.

    Pickled without its numbers, and so absent from saved models: a model that was loaded knows the columns it needs,
    and `bind_market` gives it the numbers of the market it is to act on. Two are equal when their columns are.

    Attributes:
        columns: Names of the columns, such as ``"rsi_14[IBM]"``.
        values: float32 ``[T, M]`` on the CPU, or None after unpickling.
    """

    columns: tuple[str, ...]
    values: Tensor | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Check the matrix.

        Raises:
            ConfigError: It is not float32 ``[T, M]`` with one column for each name.
        """
        values = self.values
        if values is None:
            return
        if values.ndim != 2 or values.shape[1] != len(self.columns) or values.dtype != torch.float32 or not len(values):
            raise ConfigError(
                f"market features: got {values.dtype} of shape {list(values.shape)}, expected torch.float32 of shape "
                f"[bars, {len(self.columns)}]"
            )

    @classmethod
    def of(cls, env: Any) -> MarketFeatures:
        """Take the matrix of an environment, or of a `TradingTask`, wrapped or not.

        Raises:
            ConfigError: It is no environment of this package.
        """
        task = _task(env)
        return cls(task.layout.market_names, torch.tensor(task.features.values))

    def __reduce__(self) -> tuple[type[MarketFeatures], tuple[tuple[str, ...]]]:
        """Leave the numbers behind."""
        return MarketFeatures, (self.columns,)

    def __deepcopy__(self, memo: dict[int, Any]) -> MarketFeatures:
        return self


# --- encoders: [T, M] and bars [D] to [D, width] -------------------------------------------------------------


class _Encoder(nn.Module):
    """Encodes bars of a market. The settings of an encoder are the keyword arguments of its constructor.

    Attributes:
        width: Numbers of an encoded bar.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, matrix: Tensor, bars: Tensor | None) -> Tensor:
        """Encode bars.

        Args:
            matrix: float32 ``[T, M]``.
            bars: int64 ``[D]``; None for all T.

        Returns:
            float32 ``[D, width]``.
        """
        raise NotImplementedError

    def join(self, encoded: Tensor, portfolio: Tensor) -> Tensor:
        """Put the encoded bars of observations, ``[B, width]``, together with their portfolios, ``[B, P]``."""
        return torch.cat((encoded, portfolio), dim=1)

    def joined(self, n_portfolio: int) -> int:
        """Return the length of what `join` returns."""
        return self.width + n_portfolio


class _Identity(_Encoder):
    """The features as they are: the flat observation, without its copies in the rollout buffer."""

    def __init__(self, n_columns: int, n_portfolio: int) -> None:
        super().__init__(n_columns)

    def forward(self, matrix: Tensor, bars: Tensor | None) -> Tensor:
        return _rows(matrix, bars)


class _Linear(_Encoder):
    """The first layer of a flat network, taken apart into market and portfolio: W [x, p] = Wx x + Wp p.

    ``layer`` has the shape, the initial values and the meaning of that layer, columns in the order of the flat
    observation.
    """

    def __init__(
        self, n_columns: int, n_portfolio: int, *, width: int = 64, activation: str | type[nn.Module] = "Tanh"
    ) -> None:
        super().__init__(width)
        self.layer = nn.Linear(n_columns + n_portfolio, width)
        self.activation = _activation(activation)
        self._n_columns = n_columns

    def forward(self, matrix: Tensor, bars: Tensor | None) -> Tensor:
        return nn.functional.linear(_rows(matrix, bars), self.layer.weight[:, : self._n_columns], self.layer.bias)

    def join(self, encoded: Tensor, portfolio: Tensor) -> Tensor:
        result: Tensor = self.activation(
            encoded + nn.functional.linear(portfolio, self.layer.weight[:, self._n_columns :])
        )
        return result

    def joined(self, n_portfolio: int) -> int:
        return self.width


class _Mlp(_Encoder):
    """``depth`` layers of ``width`` over the features of the bar."""

    def __init__(
        self,
        n_columns: int,
        n_portfolio: int,
        *,
        width: int = 64,
        depth: int = 2,
        activation: str | type[nn.Module] = "Tanh",
    ) -> None:
        super().__init__(width)
        _at_least("depth", depth, 1)
        sizes = [n_columns] + [width] * depth
        layers = [(nn.Linear(a, b), _activation(activation)) for a, b in pairwise(sizes)]
        self.net = nn.Sequential(*(module for layer in layers for module in layer))

    def forward(self, matrix: Tensor, bars: Tensor | None) -> Tensor:
        result: Tensor = self.net(_rows(matrix, bars))
        return result


class _Window(_Encoder):
    """Projects each bar to ``width``, then reads the last ``window`` bars in order.

    Bars after the encoded one are never looked at. A window that begins before the market does repeats the first bar.
    """

    def __init__(self, n_columns: int, width: int, window: int, activation: str | type[nn.Module]) -> None:
        super().__init__(width)
        _at_least("window", window, 1)
        self.project = nn.Sequential(nn.Linear(n_columns, width), _activation(activation))
        self.register_buffer("_past", torch.arange(1 - window, 1), persistent=False)

    _past: Tensor

    def forward(self, matrix: Tensor, bars: Tensor | None) -> Tensor:
        ends = torch.arange(len(matrix), device=matrix.device) if bars is None else bars
        windows = (ends[:, None] + self._past).clamp(min=0)  # [D, W]
        needed, where = distinct_bars(windows.flatten(), len(matrix))
        projected = self.project(_rows(matrix, needed))
        return self.read(projected.index_select(0, where).unflatten(0, windows.shape))

    def read(self, windows: Tensor) -> Tensor:
        """Return float32 ``[D, width]`` from the projected bars of each window, ``[D, W, width]``, oldest first."""
        raise NotImplementedError


class _Conv1d(_Window):
    """Two convolutions over time, the second as long as what the first leaves.

    The topology is that of Jiang, Xu and Liang, "A deep reinforcement learning framework for the financial portfolio
    management problem" (2017), with the symbols' features projected first.
    """

    def __init__(
        self,
        n_columns: int,
        n_portfolio: int,
        *,
        width: int = 64,
        window: int = 32,
        kernel: int = 3,
        activation: str | type[nn.Module] = "Tanh",
    ) -> None:
        super().__init__(n_columns, width, window, activation)
        _at_least("kernel", kernel, 1)
        kernel = min(kernel, window)
        self.net = nn.Sequential(
            nn.Conv1d(width, width, kernel),
            _activation(activation),
            nn.Conv1d(width, width, window - kernel + 1),
            _activation(activation),
            nn.Flatten(),
        )

    def read(self, windows: Tensor) -> Tensor:
        result: Tensor = self.net(windows.transpose(1, 2))
        return result


class _Gru(_Window):
    """A gated recurrent unit; its last state is the encoding."""

    def __init__(
        self,
        n_columns: int,
        n_portfolio: int,
        *,
        width: int = 64,
        window: int = 32,
        activation: str | type[nn.Module] = "Tanh",
    ) -> None:
        super().__init__(n_columns, width, window, activation)
        self.gru = nn.GRU(width, width, batch_first=True)

    def read(self, windows: Tensor) -> Tensor:
        last: Tensor = self.gru(windows)[1]
        return last[0]


class _Attention(_Window):
    """The bar asks, the window answers: multi-head attention with learned positions, a residual and a norm."""

    def __init__(
        self,
        n_columns: int,
        n_portfolio: int,
        *,
        width: int = 64,
        window: int = 32,
        heads: int = 4,
        activation: str | type[nn.Module] = "Tanh",
    ) -> None:
        super().__init__(n_columns, width, window, activation)
        _at_least("heads", heads, 1)
        if width % heads:
            raise ConfigError(f"encoder 'attention': got width {width} and {heads} heads, expected a multiple of heads")
        self.position = nn.Parameter(0.02 * torch.randn(window, width))
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm = nn.LayerNorm(width)

    def read(self, windows: Tensor) -> Tensor:
        known = windows + self.position
        asking = known[:, -1:]
        answer, _ = self.attention(asking, known, known, need_weights=False)
        result: Tensor = self.norm((asking + answer).squeeze(1))
        return result


_ENCODERS: dict[str, type[Any]] = {
    "identity": _Identity,
    "linear": _Linear,
    "mlp": _Mlp,
    "conv1d": _Conv1d,
    "gru": _Gru,
    "attention": _Attention,
}


def _make_encoder(name: str, n_columns: int, n_portfolio: int, settings: Mapping[str, Any]) -> _Encoder:
    if name not in _ENCODERS:
        raise ConfigError(
            f"encoder: got {name!r}{did_you_mean(str(name), _ENCODERS)}; expected one of {', '.join(_ENCODERS)}"
        )
    known = list(inspect.signature(_ENCODERS[name]).parameters)[2:]
    for key in settings:
        if key not in known:
            raise ConfigError(
                f"encoder {name!r}: unknown setting {key!r}{did_you_mean(key, known)}; "
                f"expected {', '.join(known) or 'none'}"
            )
    if n_columns == 0 and name != "identity":
        raise ConfigError(f"encoder {name!r}: the environment has no features; expected some, or encoder 'identity'")
    if "width" in settings:
        _at_least("width", settings["width"], 1)
    encoder: _Encoder = _ENCODERS[name](n_columns, n_portfolio, **settings)
    return encoder


def _at_least(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"encoder: {name}: got {value!r}, expected an integer from {least} upwards")


def _activation(given: str | type[nn.Module]) -> nn.Module:
    kind = getattr(nn, given, None) if isinstance(given, str) else given
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise ConfigError(
            f"encoder: activation: got {given!r}, expected the name of a torch.nn class such as 'Tanh' or 'ReLU'"
        )
    return kind()


def _check_bars(given: Tensor, bars: Tensor, n_bars: int) -> None:
    """Check that observations name bars that there are.

    Args:
        given: As the observations have them, ``[B]``.
        bars: The same as int64.
        n_bars: T.

    Raises:
        EnvironmentStateError: A number is not whole, or there is no such bar.
    """
    if given.is_floating_point() and not torch.equal(given, bars.to(given.dtype)):
        wrong = given[given != bars.to(given.dtype)][0].item()
        raise EnvironmentStateError(f"bar {wrong:g} is no number of a bar: something changed it. {SCALES_THE_BAR}")
    low, high = (int(end) for end in torch.aminmax(bars))
    if low < 0 or high >= n_bars:
        raise EnvironmentStateError(
            f"bar {low if low < 0 else high} is not in the market that the model looks bars up in, which has {n_bars}; "
            "expected a call of bind_market(model, env) with the environment it acts in"
        )


def _rows(matrix: Tensor, bars: Tensor | None) -> Tensor:
    return matrix if bars is None else matrix.index_select(0, bars)


def distinct_bars(bars: Tensor, n_bars: int) -> tuple[Tensor | None, Tensor]:
    """Find the distinct bars of a batch.

    Args:
        bars: int64 ``[B]``, each in [0, n_bars).
        n_bars: T.

    Returns:
        The distinct bars, int64 ``[D]`` ascending, and where each of ``bars`` is among them, int64 ``[B]``. Where most
        of the market is there, None, which stands for all bars, and ``bars`` as they are: that saves copying rows.
    """
    if n_bars > _DENSE * len(bars):
        distinct, where = torch.unique(bars, return_inverse=True)
        return distinct, where
    there = torch.zeros(n_bars, dtype=torch.bool, device=bars.device).index_fill_(0, bars, True)
    distinct = there.nonzero().squeeze(1)
    if len(distinct) >= _MOST * n_bars:
        return None, bars
    return distinct, (there.cumsum(0) - 1).index_select(0, bars)


# --- the extractor --------------------------------------------------------------------------------------------


@dataclass
class _Memory:
    """Bars encoded so far with weights that have not changed since.

    Attributes:
        weights: A copy of the encoder's parameters. They are compared by value: stable-baselines3 moves target
            networks through ``.data``, which leaves torch's version counters as they were.
        encoded: float32 ``[T, width]``.
        known: Which rows of it are there, bool ``[T]``.
    """

    weights: list[Tensor]
    encoded: Tensor
    known: Tensor

    def holds_for(self, encoder: _Encoder, matrix: Tensor) -> bool:
        """Whether the weights are the same, on the same device."""
        return self.encoded.device == matrix.device and all(
            torch.equal(kept, now) for kept, now in zip(self.weights, encoder.parameters(), strict=True)
        )


class IndexedExtractor(BaseFeaturesExtractor):
    """Looks bars up in a feature matrix, encodes them, and joins them with the portfolio.

    A features extractor like any other: use it with ``"MultiInputPolicy"`` of any algorithm; `indexed_policy` makes the
    arguments. With gradients the distinct bars of a batch are encoded; without, each bar is encoded once and remembered
    until a weight changes. The matrix is not part of a saved model, see `MarketFeatures`.

    Attributes:
        market: The market that bars are looked up in; see `use`.
        encoder: The network over the market part.
    """

    bars_key: ClassVar[str] = "bar"
    portfolio_key: ClassVar[str] = "portfolio"
    _matrix: Tensor | None

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        market: MarketFeatures,
        encoder: str = "linear",
        encoder_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        """Build the extractor.

        Args:
            observation_space: The indexed observation of one lane.
            market: The market to look bars up in.
            encoder: ``identity``, ``linear``, ``mlp``, ``conv1d``, ``gru`` or ``attention``.
            encoder_kwargs: Its settings: ``width`` of all but ``identity``, ``depth`` of ``mlp``, ``window`` of the
                last three, ``kernel`` of ``conv1d``, ``heads`` of ``attention``, and the ``activation``.

        Raises:
            ConfigError: The observation is not indexed, the encoder or a setting is unknown or out of range, or the
                market has not the bars of the observation.
        """
        if not is_indexed(observation_space):
            raise ConfigError(
                f"observation_space: got {observation_space}, expected that of observation_config.mode 'indexed'"
            )
        if observation_space[self.bars_key].shape != (1,):
            raise ConfigError(STACKS_THE_BAR)
        n_bars, n_portfolio = _sizes(observation_space)
        made = _make_encoder(encoder, len(market.columns), n_portfolio, encoder_kwargs or {})
        super().__init__(observation_space, made.joined(n_portfolio))
        self.encoder = made
        self.register_buffer("_matrix", None, persistent=False)
        self._memory: _Memory | None = None
        self.market = market
        self.use(market)
        if self._matrix is not None and len(self._matrix) != n_bars:
            raise ConfigError(
                f"market features: got {len(self._matrix)} bars, expected the {n_bars} of the observation"
            )

    def use(self, market: MarketFeatures) -> None:
        """Look bars up in another market from now on.

        Raises:
            ConfigError: Its columns are not those that the extractor was made for.
        """
        if market.columns != self.market.columns:
            ours, theirs = self.market.columns, market.columns
            apart = next((k for k, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)
            detail = "" if apart is None else f"; column {apart} is {theirs[apart]!r}, expected {ours[apart]!r}"
            raise ConfigError(f"market features: got {len(theirs)} columns, expected the same {len(ours)}{detail}")
        parameter = next(self.encoder.parameters(), None)
        device = parameter.device if parameter is not None else getattr(self._matrix, "device", None)
        self.market = market
        self._matrix = None if market.values is None else market.values.to(device)
        self._memory = None

    @property
    def first_layer(self) -> tuple[nn.Linear, nn.Module] | None:
        """The layer and the activation of encoder ``linear``, which are the first of a flat network; None of others."""
        return (self.encoder.layer, self.encoder.activation) if isinstance(self.encoder, _Linear) else None

    def forward(self, observations: Mapping[str, Tensor]) -> Tensor:
        """Return float32 ``[B, features_dim]`` for ``bar`` ``[B, 1]`` and ``portfolio`` ``[B, P]``.

        Raises:
            EnvironmentStateError: As `locate` says.
        """
        return self.encoder.join(self.encode(*self.locate(observations)), observations[self.portfolio_key])

    def locate(self, observations: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the market's features, float32 ``[T, M]``, and the bars of observations, int64 ``[B]``.

        Raises:
            EnvironmentStateError: No market is bound, or it has no such bar.
        """
        matrix = self._matrix
        if matrix is None:
            raise EnvironmentStateError(
                "the model was loaded without a market to look bars up in; expected a call of "
                "bind_market(model, env) first"
            )
        given = observations[self.bars_key][:, 0]
        bars = given.long()
        if len(bars):
            _check_bars(given, bars, len(matrix))
        return matrix, bars

    def encode(self, matrix: Tensor, bars: Tensor) -> Tensor:
        """Return the encoded bars, float32 ``[B, width]``, for what `locate` returned."""
        if isinstance(self.encoder, _Identity):
            return matrix.index_select(0, bars)
        if torch.is_grad_enabled():
            distinct, where = distinct_bars(bars, len(matrix))
            encoded: Tensor = self.encoder(matrix, distinct)
            return encoded.index_select(0, where)
        if self._memory is None or not self._memory.holds_for(self.encoder, matrix):
            self._memory = self._empty_memory(matrix)
        memory = self._memory
        missing = bars[~memory.known.index_select(0, bars)]
        if len(missing):
            distinct, _ = distinct_bars(missing, len(matrix))
            memory.encoded[slice(None) if distinct is None else distinct] = self.encoder(matrix, distinct)
            memory.known[slice(None) if distinct is None else distinct] = True
        return memory.encoded.index_select(0, bars)

    def _empty_memory(self, matrix: Tensor) -> _Memory:
        with torch.inference_mode(False):  # what is made inside inference mode could not be written to outside
            weights = [parameter.detach().clone() for parameter in self.encoder.parameters()]
            encoded = torch.zeros((len(matrix), self.encoder.width), device=matrix.device)
            return _Memory(weights, encoded, torch.zeros(len(matrix), dtype=torch.bool, device=matrix.device))


# --- models ---------------------------------------------------------------------------------------------------


def is_indexed(space: spaces.Space[Any]) -> TypeGuard[spaces.Dict]:
    """Whether an observation space is that of ``observation_config.mode`` ``indexed``."""
    return isinstance(space, spaces.Dict) and set(space.spaces) == {
        IndexedExtractor.bars_key,
        IndexedExtractor.portfolio_key,
    }


def indexed_policy(
    env: Any, policy: str = "MlpPolicy", policy_kwargs: Mapping[str, Any] | None = None, algorithm: str = "ppo"
) -> tuple[str, dict[str, Any]]:
    """Return policy and ``policy_kwargs`` that fit an environment, from those that one would give for a flat one.

    With encoder ``linear`` the first layer of ``net_arch`` moves into the extractor, and the networks are those of
    ``MlpPolicy``, as functions and in their number of weights (the critics of SAC and TD3 excepted, which see the
    action one layer later). With others ``net_arch`` follows the extractor. An environment whose observation is not
    indexed, and a ``features_extractor_class`` of one's own, are left as they are.

    Args:
        env: The environment to learn in.
        policy: ``MlpPolicy``, which becomes ``MultiInputPolicy``, or another.
        policy_kwargs: Those of stable-baselines3, and ``encoder`` (default ``linear``) and ``encoder_kwargs``; see
            `IndexedExtractor`. ``width`` and ``activation`` of ``linear`` come from ``net_arch`` and ``activation_fn``.
        algorithm: Name of the algorithm, for its default layers.

    Raises:
        ConfigError: ``linear`` cannot take a first layer from ``net_arch``, an encoder is given for a flat
            observation, or a wrapper changes the numbers of bars.
    """
    given = dict(policy_kwargs or {})
    check_numbers_of_bars(env)
    if not is_indexed(env.observation_space):
        for key in ("encoder", "encoder_kwargs"):
            if key in given:
                raise ConfigError(
                    f"policy_kwargs.{key}: the observation is flat; expected observation_config.mode 'indexed'"
                )
        return policy, given
    policy = "MultiInputPolicy" if policy == "MlpPolicy" else policy
    if "features_extractor_class" in given:
        return policy, given
    layers, activation = _FLAT_DEFAULTS[algorithm]
    encoder = given.pop("encoder", "linear")
    settings = {"activation": given.get("activation_fn", activation)} if encoder != "identity" else {}
    settings |= dict(given.pop("encoder_kwargs", {}))
    if encoder == "linear":
        width, given["net_arch"] = _without_first_layer(given.get("net_arch", layers))
        settings = {"width": width, **settings}
        if settings["width"] != width:
            raise ConfigError(
                f"policy_kwargs.encoder_kwargs.width: got {settings['width']}, expected {width}, the first layer of "
                "net_arch"
            )
        given["share_features_extractor"] = False
        if algorithm == "dqn":
            del given["share_features_extractor"]  # it has one network, and no such argument
    given["features_extractor_class"] = IndexedExtractor
    given["features_extractor_kwargs"] = {
        "market": MarketFeatures.of(env),
        "encoder": encoder,
        "encoder_kwargs": settings,
    }
    return policy, given


def _without_first_layer(net_arch: Any) -> tuple[int, Any]:
    """Return the width of the first layer, the same in all networks, and ``net_arch`` without it."""
    networks = dict(net_arch) if isinstance(net_arch, Mapping) else {"": net_arch}
    firsts = {int(layers[0]) if layers else 0 for layers in networks.values()}
    if len(firsts) != 1 or 0 in firsts:
        raise ConfigError(
            f"policy_kwargs.net_arch: got {net_arch!r}; encoder 'linear' takes the first layer of each network, and "
            "expected one there, of one width in all; or use another encoder"
        )
    rest = {name: list(layers[1:]) for name, layers in networks.items()}
    return firsts.pop(), (rest if isinstance(net_arch, Mapping) else rest[""])


def bind_market(model: BaseAlgorithm | BaseModel, market: Any) -> None:
    """Let a model act on a market: after loading it, and before it acts in an environment on other bars.

    The number of a bar says nothing about its market: a model that plays the bars of one market while it looks them
    up in another sees wrong features, without an error where the other has as many bars.

    Args:
        model: The model, or its policy; one without `IndexedExtractor` is left as it is.
        market: An environment on it, a `TradingTask`, or `MarketFeatures`.

    Raises:
        ConfigError: The market's features or symbols are not those that the model was trained on; nothing has
            changed then.
    """
    extractors = _extractors(model)
    if not extractors:
        return
    features = market if isinstance(market, MarketFeatures) else MarketFeatures.of(market)
    for extractor in extractors:
        extractor.use(features)
    if features.values is not None:
        _fit_space(model, len(features.values))


@contextmanager
def bound_market(model: BaseAlgorithm | BaseModel, market: Any) -> Iterator[None]:
    """Bind a market, as `bind_market` does, for the body of a ``with``; then go back to the one before."""
    extractors = _extractors(model)
    before = extractors[0].market if extractors else None
    bind_market(model, market)
    try:
        yield
    finally:
        if before is not None:
            bind_market(model, before)


def _modules(model: BaseAlgorithm | BaseModel) -> Iterator[nn.Module]:
    return (model if isinstance(model, BaseModel) else model.policy).modules()


def _extractors(model: BaseAlgorithm | BaseModel) -> list[IndexedExtractor]:
    return [module for module in _modules(model) if isinstance(module, IndexedExtractor)]


def _fit_space(model: BaseAlgorithm | BaseModel, n_bars: int) -> None:
    """Let the model's observation space have the bars of its market, so that `set_env` takes an environment on it."""
    key = IndexedExtractor.bars_key
    old = model.observation_space
    assert isinstance(old, spaces.Dict)
    bar = spaces.Box(0, n_bars - 1, (1,), old[key].dtype)  # type: ignore[arg-type]
    space, made_for = spaces.Dict({**old.spaces, key: bar}), MadeFor.of_space(old)
    model.observation_space = space if made_for is None else made_for.remembered_by(space)
    for module in _modules(model):
        if isinstance(module, BaseModel):
            module.observation_space = model.observation_space


def _sizes(space: spaces.Dict) -> tuple[int, int]:
    """Return the bars of the market and the length of the portfolio part."""
    bar, portfolio = space[IndexedExtractor.bars_key], space[IndexedExtractor.portfolio_key]
    assert isinstance(bar, spaces.Box)
    assert portfolio.shape is not None
    return int(bar.high[0]) + 1, portfolio.shape[0]


def _task(env: Any) -> TradingTask:
    """Return the task of an environment, however it is wrapped."""
    for owner in (env, getattr(env, "batch", None), getattr(env, "unwrapped", None)):
        task = owner if isinstance(owner, TradingTask) else getattr(owner, "task", None)
        if isinstance(task, TradingTask):
            return task
    if hasattr(env, "get_attr"):
        task = env.get_attr("task")[0]
        if isinstance(task, TradingTask):
            return task
    raise ConfigError(f"{env}: got {type(env).__name__}, expected an environment of batchenv, or its task")
