"""Causal features: one float32 matrix [bars, features * symbols] that every environment observes.

A feature's value at bar t uses bars <= t only. Features are computed on history and part together and then
sliced, so the first bar of a test part is as warm as any other. They read ``MarketData.mark`` (the close,
carried forward over missing bars) and ``MarketData.volume``.

A name is a base name with its windows: ``momentum_20``, ``macd_12_26_9``; without windows the defaults hold.
An extra column of the user's table is a feature under its own name, and takes precedence over a built-in of
that name.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from batchenv import indicators
from batchenv.data.bars import BoolArray, FloatArray, format_time
from batchenv.errors import FeatureError, LevelFeatureWarning, did_you_mean, warn
from batchenv.levels import level_of
from batchenv.market import MarketData
from batchenv.registry import FEATURES

__all__ = ["FeatureMatrix", "FeatureScaler", "available_features", "compute_features", "register_feature"]

FeatureFunction = Callable[..., "FloatArray | pd.DataFrame"]
Scaling = Literal["standard", "none"]

CLIP = 10.0
"""Scaled features are clipped to this many standard deviations."""


@dataclass(frozen=True, slots=True)
class _Feature:
    """One row of the table of features.

    Attributes:
        function: ``function(market, *windows)`` -> float64 [bars, symbols], NaN while warming up.
        defaults: Windows of the bare name; None: any number of windows, as the function's signature has it.
        smallest: Least value of every window.
        bars_needed: Windows -> bars up to and including the first value; None where it is not known.
        increasing: Whether the first window must be shorter than the second.
    """

    function: FeatureFunction
    defaults: tuple[int, ...] | None = None
    smallest: int = 1
    bars_needed: Callable[..., int] | None = None
    increasing: bool = False


# --- built-in features --------------------------------------------------------------------------------------

_BUILT_IN: Mapping[str, _Feature] = {
    "return": _Feature(indicators.change, (1,), bars_needed=lambda n: n + 1),
    "log_return": _Feature(indicators.log_return, (1,), bars_needed=lambda n: n + 1),
    "momentum": _Feature(indicators.change, (20,), bars_needed=lambda n: n + 1),
    "volatility": _Feature(indicators.volatility, (20,), smallest=2, bars_needed=lambda n: n + 1),
    "rsi": _Feature(indicators.rsi, (14,), bars_needed=lambda n: n + 1),
    "macd": _Feature(indicators.macd, (12, 26, 9), bars_needed=lambda f, s, g: s + g - 1, increasing=True),
    "sma_distance": _Feature(indicators.sma_distance, (20,), bars_needed=lambda n: n),
    "bollinger": _Feature(indicators.bollinger, (20,), smallest=2, bars_needed=lambda n: n),
    "volume_zscore": _Feature(indicators.volume_zscore, (20,), smallest=2, bars_needed=lambda n: n),
    "turbulence": _Feature(indicators.turbulence, (252,), smallest=3, bars_needed=lambda n: n + 1),
}


# --- names --------------------------------------------------------------------------------------------------


def register_feature(name: str, function: FeatureFunction, *, replace: bool = False) -> None:
    """Make ``function`` available to :func:`compute_features` as ``name`` (or ``name_10``, ``name_5_20``).

    Args:
        name: A letter, then letters, digits or underscores; it must not end in a number, which would be a
            window.
        function: ``function(market, *windows)`` -> array or DataFrame [bars, symbols]. ``market`` is a
            :class:`~batchenv.market.MarketData` with its history in front; NaN stands for "no value yet". The
            value at bar t must use bars <= t only. It travels to other processes with a `MarketData` or `EnvConfig`.
        replace: Allow a name that is taken. A function from the same place, as when a notebook's cell runs again,
            replaces the one before in any case.

    Raises:
        FeatureError: The name is not usable, or is taken by a built-in feature or a function from another place, or
            ``function`` cannot be called.
    """
    if not re.fullmatch(r"[A-Za-z]\w*", name) or re.search(r"_\d+$", name):
        raise FeatureError(f"feature name {name!r}: expected letters, digits and '_', not ending in a number")
    if name in _BUILT_IN and FEATURES.get(name) is None and not replace:
        raise FeatureError(f"feature {name!r} is built in; pass replace=True to replace it")
    FEATURES.register(name, function, replace=replace)


def available_features() -> tuple[str, ...]:
    """Return the base names of all built-in and registered features, sorted."""
    return tuple(sorted({*_BUILT_IN, *FEATURES.names()}))


@dataclass(frozen=True, slots=True)
class _Request:
    """A feature name, taken apart: which row of the table, and the windows to call it with."""

    name: str
    feature: _Feature
    windows: tuple[int, ...] = ()

    @property
    def bars_needed(self) -> int | None:
        count = self.feature.bars_needed
        return None if count is None else count(*self.windows)


def _parse(name: str, market: MarketData) -> _Request:
    """Find the feature that ``name`` asks for, and check its windows."""
    if name in market.columns:
        return _Request(name, _Feature(lambda market: market.columns[name]))
    base = re.sub(r"(_\d+)+\Z", "", name)
    own = FEATURES.get(base)
    if own is None and base not in _BUILT_IN:
        known = [*available_features(), *market.columns]
        raise FeatureError(
            f"unknown feature {name!r}{did_you_mean(base, known)}{FEATURES.hint()}; known: {', '.join(known)}"
        )
    feature = _BUILT_IN[base] if own is None else _Feature(own)
    windows = tuple(int(part) for part in name.removeprefix(base).split("_")[1:])
    if feature.defaults is None:
        try:
            inspect.signature(feature.function).bind(market, *windows)
        except TypeError as error:
            raise FeatureError(f"feature {name!r}: windows {windows} do not fit its function ({error})") from error
        return _Request(name, feature, windows)
    windows = windows or feature.defaults
    example = "_".join(map(str, (base, *feature.defaults)))
    if len(windows) != len(feature.defaults):
        raise FeatureError(f"feature {name!r}: expected {len(feature.defaults)} window(s), as in {example!r}")
    if min(windows) < feature.smallest:
        raise FeatureError(
            f"feature {name!r}: window {min(windows)}; expected at least {feature.smallest}, as in {example!r}"
        )
    if feature.increasing and windows[0] >= windows[1]:
        raise FeatureError(f"feature {name!r}: the first window must be shorter than the second, as in {example!r}")
    return _Request(name, feature, windows)


def _evaluate(request: _Request, market: MarketData) -> FloatArray:
    """Return the raw feature, float64 [bars, symbols], checked for shape and infinities."""
    name = request.name
    raw = request.feature.function(market, *request.windows)
    if isinstance(raw, pd.DataFrame) and set(raw.columns) == set(market.symbols):
        raw = raw[list(market.symbols)]
    try:
        values = np.asarray(raw, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise FeatureError(f"feature {name!r}: expected numbers, got something else ({error})") from error
    if values.shape != market.close.shape:
        raise FeatureError(f"feature {name!r}: shape {values.shape}; expected [bars, symbols] = {market.close.shape}")
    if np.isinf(values).any():
        bar, s = (int(i) for i in np.argwhere(np.isinf(values))[0])
        raise FeatureError(
            f"feature {name!r}: {values[bar, s]} at bar {bar} ({format_time(market.timestamps[bar])}), "
            f"symbol {market.symbols[s]!r}; expected finite numbers, or NaN for no value"
        )
    return values


# --- scaling ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FeatureScaler:
    """Mean and standard deviation per feature, pooled over symbols, so that a late listing is scaled too.

    Attributes:
        names: Feature names, in the order of the numbers.
        mean: Mean of each feature, in its own unit.
        std: Standard deviation of each feature (population), 1 where it would be 0.
        clip: Scaled values are clipped to [-clip, clip].
        fitted_on: First and last timestamp of the bars that the numbers were measured on, ISO 8601; None where that
            is not known, or nothing was measured. Two scalers with the same numbers are equal.
    """

    names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    clip: float = CLIP
    fitted_on: tuple[str, str] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        """Check that the numbers are usable."""
        for key in ("names", "mean", "std"):
            object.__setattr__(self, key, tuple(getattr(self, key)))
        fit = len(self.names) == len(self.mean) == len(self.std)
        if not (
            fit and np.isfinite([*self.mean, *self.std]).all() and min(self.std, default=1.0) > 0 and self.clip > 0
        ):
            raise FeatureError(
                f"scaler of {list(self.names)}: expected one finite mean and one std > 0 per feature and "
                f"clip > 0, got mean {list(self.mean)}, std {list(self.std)}, clip {self.clip}"
            )

    @classmethod
    def fit(cls, names: Sequence[str], values: FloatArray, clip: float = CLIP) -> FeatureScaler:
        """Measure mean and standard deviation.

        Args:
            names: Feature names.
            values: Raw features, float64 [bars, features, symbols]; NaN is left out.
            clip: Where :meth:`transform` cuts off, in standard deviations.

        Raises:
            FeatureError: A feature has no value at all.
        """
        means, stds = [], []
        for f in range(len(names)):
            sample = values[:, f, :]
            sample = sample[~np.isnan(sample)]
            if not sample.size:
                raise FeatureError(
                    f"feature {names[f]!r} has no value in the first {len(values)} bars, which its scaling "
                    "is fitted on; give more history, or a scaler"
                )
            mean, std = float(sample.mean()), float(sample.std())
            means.append(mean)
            stds.append(std if std > 1e-12 * abs(mean) else 1.0)  # a constant may vary in its last digit
        return cls(tuple(names), tuple(means), tuple(stds), clip)

    @classmethod
    def identity(cls, names: Sequence[str]) -> FeatureScaler:
        """Return the scaler that leaves values as they are."""
        return cls(tuple(names), (0.0,) * len(names), (1.0,) * len(names), np.inf)

    def transform(self, values: FloatArray) -> NDArray[np.float32]:
        """Scale to clip((x - mean) / std), with NaN -> 0.

        Args:
            values: Raw features, float64 [bars, features, symbols].

        Returns:
            float32 [bars, features, symbols], dimensionless.

        Raises:
            FeatureError: An unscaled value does not fit into float32.
        """
        mean = np.asarray(self.mean, dtype=np.float64)[:, None]
        std = np.asarray(self.std, dtype=np.float64)[:, None]
        scaled = np.clip((values - mean) / std, -self.clip, self.clip)
        scaled[np.isnan(scaled)] = 0.0
        too_large = np.abs(scaled) > np.finfo(np.float32).max
        if too_large.any():
            name = self.names[int(np.argwhere(too_large)[0][1])]
            raise FeatureError(f"feature {name!r}: values beyond float32; scale it, or divide it by something")
        return scaled.astype(np.float32)

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and numbers that survive JSON exactly; ``clip`` None stands for no limit."""
        known = {} if self.fitted_on is None else {"fitted_on": list(self.fitted_on)}
        return {
            "names": list(self.names),
            "mean": list(self.mean),
            "std": list(self.std),
            "clip": float(self.clip) if np.isfinite(self.clip) else None,
            **known,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> FeatureScaler:
        """Return the scaler that :meth:`to_dict` described.

        Raises:
            FeatureError: A key is missing, or a value is not a number or a timestamp.
        """
        try:
            mean, std = ([float(value) for value in data[key]] for key in ("mean", "std"))
            clip = np.inf if data["clip"] is None else float(data["clip"])
            fitted = None
            if data.get("fitted_on") is not None:
                first, last = (str(np.datetime64(stamp)) for stamp in data["fitted_on"])
                fitted = (first, last)
            return cls(tuple(map(str, data["names"])), tuple(mean), tuple(std), clip, fitted)
        except (KeyError, TypeError, ValueError) as error:
            raise FeatureError(f"scaler: expected names, mean, std and clip, got {data!r} ({error})") from error


# --- the matrix ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, slots=True)
class FeatureMatrix:
    """Scaled features of one part, ready to be observed.

    Attributes:
        values: float32 [bars, features * symbols], C-contiguous, read-only, never NaN; the column of feature
            f and symbol s is f * n_symbols + s. 0 stands for "no value" (not listed, or warming up).
        names: Feature names, in order.
        scaler: What the values were scaled with.
        first_bar: First bar of this part at which every feature has a value for at least one symbol.
        levels: Names of the features that are levels of adjusted prices or volumes, which look ahead.
    """

    values: NDArray[np.float32]
    names: tuple[str, ...]
    scaler: FeatureScaler
    first_bar: int
    levels: tuple[str, ...] = ()


def compute_features(
    market: MarketData,
    names: Sequence[str],
    scaler: FeatureScaler | None = None,
    scaling: Scaling = "standard",
) -> FeatureMatrix:
    """Compute, scale and lay out the features of one part of the data.

    On adjusted data a feature of the user's own is computed up to three times, to see whether it is a level of prices
    or volumes (`batchenv.levels`). Such a feature looks ahead: there is a `LevelFeatureWarning`.

    Args:
        market: The part; its history serves as warm-up.
        names: Feature names, see the module's docstring; may be empty.
        scaler: Scale with these numbers (those of the training part); None: fit on the first
            ``market.fit_bars`` rows of history and part.
        scaling: ``standard`` for mean 0 and standard deviation 1, ``none`` for raw values; ignored with
            ``scaler``.

    Raises:
        FeatureError: A feature is unknown, repeated, or computes something unusable; ``scaler`` is for other
            features; or there are too few bars for every feature to have a value.
    """
    if isinstance(names, str):
        raise FeatureError(f"features: expected a list of names, got the text {names!r}")
    names = tuple(names)
    for name in names:
        if not isinstance(name, str) or names.count(name) > 1:
            raise FeatureError(f"features: expected distinct names, got {name!r} in {list(names)}")
    if scaling not in get_args(Scaling):
        raise FeatureError(f"scaling: {scaling!r}; expected one of {list(get_args(Scaling))}")
    if scaler is not None and scaler.names != names:
        raise FeatureError(f"the scaler is for features {list(scaler.names)}; expected {list(names)}")

    whole = market.with_history()
    requests = [_parse(name, whole) for name in names]
    raw = np.empty((whole.n_bars, len(names), whole.n_symbols))
    for f, request in enumerate(requests):
        raw[:, f, :] = _evaluate(request, whole)
    part = raw[whole.n_bars - market.n_bars :]
    first_bar = _first_bar(part, requests, whole)
    if scaler is None:
        if scaling == "standard":
            span = str(whole.timestamps[0]), str(whole.timestamps[market.fit_bars - 1])
            scaler = replace(FeatureScaler.fit(names, raw[: market.fit_bars]), fitted_on=span if names else None)
        else:
            scaler = FeatureScaler.identity(names)
    values = scaler.transform(part).reshape(market.n_bars, len(names) * market.n_symbols)
    values.flags.writeable = False
    return FeatureMatrix(values, names, scaler, first_bar, _levels(requests, whole, raw) if whole.adjusted else ())


def _levels(requests: Sequence[_Request], whole: MarketData, raw: FloatArray) -> tuple[str, ...]:
    """Warn of each feature that is a level of adjusted prices or volumes, and return their names."""
    found = []
    for f, request in enumerate(requests):
        if request.feature in _BUILT_IN.values():
            continue
        what = level_of(partial(_evaluate, request), whole, raw[:, f, :])
        if what is None:
            continue
        found.append(request.name)
        warn(
            f"feature {request.name!r} is a level of {what}, and these data ({whole.source}) are adjusted: their "
            f"{what} know later splits and dividends, so the feature looks ahead. Use a ratio, such as the price over "
            "its moving average, or load the data with adjusted=False",
            LevelFeatureWarning,
        )
    return tuple(found)


def _first_bar(part: FloatArray, requests: Sequence[_Request], whole: MarketData) -> int:
    """Return the first bar of ``part`` [bars, features, symbols] at which every feature has some value."""
    known: BoolArray = np.any(~np.isnan(part), axis=2)
    ready: BoolArray = np.all(known, axis=1)
    if ready.any():
        return int(np.argmax(ready))
    starts = np.where(known.any(axis=0), known.argmax(axis=0), len(part))
    last = requests[int(np.argmax(starts))]
    need = "more" if last.bars_needed is None else f"at least {last.bars_needed}"
    raise FeatureError(
        f"feature {last.name!r} has no value in these data: there are {whole.n_bars} bars, history included, "
        f"and it needs {need} ({whole.source})"
    )
