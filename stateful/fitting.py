"""Comparing what an agent was made for with the environment that it is to be judged in.

Where an observation or an action would mean something else, the environment is put right if it can be (the order of
symbols and features, a scaling that nobody handed in), and the backtest refuses if it cannot. Settings that only change
how far an action reaches, or what it is paid, are flagged: to change them may be what the test is for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from batchenv.config import EnvConfig
from batchenv.errors import RunError
from batchenv.features import FeatureScaler
from batchenv.made_for import MadeFor
from batchenv.market import MarketData
from stateful.env import StatefulTradingEnv
from stateful.evaluation.flags import Flag
from stateful.metrics import iso_date

_SAME = 1e-6
"""Scalings whose numbers differ by less, as parts of a standard deviation, are the same: other versions of numpy and
pandas round differently."""
_LIMITS = {
    "trade": ("trade_limit_percent",),
    "discrete": ("trade_limit_percent",),
    "shares": ("max_shares",),
    "weights": ("max_weight",),
}
"""What an action of 1 means, by action mode."""
_MARGIN = ("allow_short", "leverage", "net_limit")


@dataclass(frozen=True)
class Fitted:
    """What the backtest's own environment is made of.

    Attributes:
        market: The bars, with symbols in the order that the agent knows.
        features: Feature names, in the order that the agent knows.
        scaler: Feature scaling.
        lane_parameters: The lane's own parameters, by symbol in that order.
        flags: What was put right, and what differs from the training.
    """

    market: MarketData
    features: tuple[str, ...]
    scaler: FeatureScaler
    lane_parameters: dict[str, npt.NDArray[Any]]
    flags: tuple[Flag, ...] = ()


def fit_environment(
    env: StatefulTradingEnv, rules: EnvConfig, given: Mapping[str, npt.NDArray[Any]], made_for: MadeFor | None
) -> Fitted:
    """Put an environment in the form that an agent was made for.

    Args:
        env: The environment that was handed in.
        rules: The rules that the backtest plays by.
        given: The lane's own parameters, by name: ``[1]`` or ``[1, symbols]``.
        made_for: What the agent was made for; None where it does not remember.

    Raises:
        RunError: An observation or an action would mean something else than in training; says what differs.
    """
    market, features = env.market, env.features
    if made_for is None:
        return Fitted(market, features, env.scaler, dict(given))
    _check_names("symbols", made_for.symbols, market.symbols, "market.select([...])")
    _check_names("features", made_for.features, features, "features=[...]")
    _check_meaning(made_for, MadeFor.from_parts(market, rules, env.task.features))
    flags = [flag for flag in (_order(made_for, env), _limits(made_for, rules), _fill(made_for, rules)) if flag]
    flags += [flag for flag in (_episodes(made_for, rules),) if flag]
    scaler, flag = _scaling(made_for.scaler, env)
    places = [market.symbols.index(symbol) for symbol in made_for.symbols]
    return Fitted(
        market if made_for.symbols == market.symbols else market.select(made_for.symbols),
        made_for.features,
        scaler,
        {name: values[:, places] if values.ndim == 2 else values for name, values in given.items()},
        (*flags, *([flag] if flag else [])),
    )


def _check_names(what: str, known: Sequence[str], there: Sequence[str], how: str) -> None:
    """Check that a model and an environment have the same symbols or features, in whatever order."""
    missing = [name for name in known if name not in there]
    extra = [name for name in there if name not in known]
    if not missing and not extra:
        return
    parts = ([f"lacks {_names(missing)}"] if missing else []) + ([f"has {_names(extra)} too many"] if extra else [])
    raise RunError(
        f"the agent does not fit the environment: it was trained on the {what} {_names(known)}, and the environment "
        f"{' and '.join(parts)}; expected the same {what}, in any order ({how})"
    )


def _check_meaning(made_for: MadeFor, here: MadeFor) -> None:
    """Check that observations have the same parts, and that actions are of the same mode."""
    for section, known, there, keys in (
        ("observation_config", made_for.observation, here.observation, ("mode", "unrealized_pnl", "time_left")),
        ("action_config", made_for.action, here.action, ("mode", "joint")),
    ):
        for key in keys:
            if known.get(key) != there[key]:
                raise RunError(
                    f"the agent does not fit the environment: {section}.{key} was {known.get(key)!r} in training, and "
                    f"is {there[key]!r} here; expected the training's"
                )


def _order(made_for: MadeFor, env: StatefulTradingEnv) -> Flag | None:
    changed = [
        f"{what} {_names(known)} (here {_names(there)})"
        for what, known, there in (
            ("symbols", made_for.symbols, env.market.symbols),
            ("features", made_for.features, env.features),
        )
        if known != there
    ]
    if not changed:
        return None
    return Flag(
        "put_in_order",
        "note",
        f"Put in the order of the training: the agent was trained on the {' and on the '.join(changed)}. The backtest "
        "shows them in the training's order.",
    )


def _limits(made_for: MadeFor, rules: EnvConfig) -> Flag | None:
    mode = rules.action_config.mode
    here = {
        **rules.action_config.model_dump(),
        **rules.margin_config.model_dump(),
        "trade_limit_percent": rules.portfolio_config.trade_limit_percent,
    }
    changed = [
        f"{key} was {made_for.action[key]!r} and is {here[key]!r}"
        for key in (*_LIMITS[mode], *_MARGIN)
        if key in made_for.action and made_for.action[key] != here[key]
    ]
    if not changed:
        return None
    return Flag(
        "other_limits",
        "warning",
        f"Other limits than in training: {', '.join(changed)}. An action brings about another order here than the one "
        "that the agent learned to ask for.",
    )


def _fill(made_for: MadeFor, rules: EnvConfig) -> Flag | None:
    if made_for.fill == rules.fill:
        return None
    return Flag(
        "other_fills",
        "note",
        f"Other fills than in training: the agent learned with fill = {made_for.fill!r} and is tested with "
        f"{rules.fill!r}.",
    )


def _episodes(made_for: MadeFor, rules: EnvConfig) -> Flag | None:
    learned, here = made_for.observation.get("episode_length"), rules.episode_config.length
    if not made_for.observation["time_left"] or learned == here:
        return None
    words = ["all bars to the end" if length is None else f"{length:,} bars" for length in (learned, here)]
    return Flag(
        "other_episodes",
        "note",
        f"Other episodes than in training: the agent observes what part of its episode is left (time_left), and an "
        f"episode was {words[0]} in training and is {words[1]} here.",
    )


def _scaling(known: FeatureScaler, env: StatefulTradingEnv) -> tuple[FeatureScaler, Flag | None]:
    """Return the training's scaling, and a flag where the environment had fitted another.

    Raises:
        RunError: Another scaling was handed in; names the feature and both numbers.
    """
    own = env.scaler
    different = _difference(known, own)
    if different is None:
        return known, None
    if env.task.scaler_given:
        raise RunError(
            f"the agent does not fit the environment: the feature scaling that was handed in is not the training's: "
            f"{different}; expected the training's scaler, or none: the backtest then takes it from the agent"
        )
    fitted = "" if own.fitted_on is None else " on the bars {} to {}".format(*map(_date, own.fitted_on))
    return known, Flag(
        "scaling_of_the_training",
        "note",
        f"Scaled as in training: no scaling was handed in, and the environment had made its own{fitted}, which "
        f"differs ({different}). The backtest uses the training's, which the agent remembers.",
    )


def _difference(known: FeatureScaler, own: FeatureScaler) -> str | None:
    """Say where two scalings of the same features differ first; None where they do not."""
    for name, mean, std in zip(known.names, known.mean, known.std, strict=True):
        at = own.names.index(name)
        pairs = (("mean", mean, own.mean[at]), ("std", std, own.std[at]))
        for what, theirs, ours in pairs:
            if abs(theirs - ours) > _SAME * std:
                return f"{name} has {what} {ours:.6g} here, and had {theirs:.6g} in training"
    if known.names and known.clip != own.clip:
        return f"values are cut at {own.clip:g} here, and were at {known.clip:g} in training"
    return None


def _names(names: Sequence[str]) -> str:
    most = 12
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "") or "none"


def _date(stamp: str) -> str:
    return iso_date(np.datetime64(stamp))
