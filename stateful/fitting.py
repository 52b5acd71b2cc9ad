"""Comparing what an agent was made for with the environment that it is to be judged in.

Where an observation or an action would mean something else, the environment is put right if it can be (the order of
symbols and features, a scaling that nobody handed in), and the backtest refuses if it cannot. Settings that only change
how far an action reaches, or what it is paid, are flagged: to change them may be what the test is for.
"""

from __future__ import annotations

from collections.abc import Mapping
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

_LIMIT = {
    "trade": "trade_limit_percent",
    "discrete": "trade_limit_percent",
    "shares": "max_shares",
    "weights": "max_weight",
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
    here = MadeFor.from_parts(market, rules, env.task.features)
    conflict = made_for.conflict(here)
    if conflict is not None:
        raise RunError(f"the agent does not fit the environment: {conflict}")
    scaling = _scaling(made_for, env)
    found = (_order(made_for, here), scaling, *(check(made_for, here) for check in (_limits, _fill, _episodes)))
    places = [market.symbols.index(symbol) for symbol in made_for.symbols]
    return Fitted(
        market if made_for.symbols == market.symbols else market.select(made_for.symbols),
        made_for.features,
        made_for.scaler,
        {name: values[:, places] if values.ndim == 2 else values for name, values in given.items()},
        tuple(flag for flag in found if flag is not None),
    )


def _order(made_for: MadeFor, here: MadeFor) -> Flag | None:
    changed = made_for.reordered(here)
    if changed is None:
        return None
    return Flag(
        "put_in_order",
        "note",
        f"Put in the order of the training: the agent was trained on the {changed}, and the backtest shows them so.",
    )


def _scaling(made_for: MadeFor, env: StatefulTradingEnv) -> Flag | None:
    """Flag an environment that had fitted a scaling of its own, which is not used.

    Raises:
        RunError: Another scaling than the training's was handed in; names the feature and both numbers.
    """
    different = made_for.rescaled(env.scaler)
    if different is None:
        return None
    if env.task.scaler_given:
        raise RunError(
            f"the agent does not fit the environment: the feature scaling that was handed in is not the training's: "
            f"{different}; expected the training's scaler, or none: the backtest then takes it from the agent"
        )
    span = env.scaler.fitted_on
    fitted = "" if span is None else " on the bars {} to {}".format(*(iso_date(np.datetime64(end)) for end in span))
    return Flag(
        "scaled_as_in_training",
        "note",
        f"Scaled as in training: no scaling was handed in, and the environment had fitted its own{fitted}, which "
        f"differs ({different}). The backtest uses the training's, which the agent remembers.",
    )


def _limits(made_for: MadeFor, here: MadeFor) -> Flag | None:
    keys = (_LIMIT[here.action["mode"]], *_MARGIN)
    known = [key for key in keys if key in made_for.action]
    changed = [
        f"{key} was {made_for.action[key]!r} and is {here.action[key]!r}"
        for key in known
        if made_for.action[key] != here.action[key]
    ]
    if not changed:
        return None
    return Flag(
        "other_limits",
        "warning",
        f"Other limits than in training: {', '.join(changed)}. An action brings about another order here than the one "
        "that the agent learned to ask for.",
    )


def _fill(made_for: MadeFor, here: MadeFor) -> Flag | None:
    if made_for.fill == here.fill:
        return None
    return Flag(
        "other_fills",
        "note",
        f"Other fills than in training: the agent learned with fill = {made_for.fill!r}, and is tested with "
        f"{here.fill!r}.",
    )


def _episodes(made_for: MadeFor, here: MadeFor) -> Flag | None:
    lengths = [facts.observation.get("episode_length") for facts in (made_for, here)]
    if not here.observation["time_left"] or lengths[0] == lengths[1]:
        return None
    was, now = ("all bars to the end" if length is None else f"{length:,} bars" for length in lengths)
    return Flag(
        "other_episodes",
        "note",
        f"Other episodes than in training: the agent observes what part of its episode is left (time_left), and an "
        f"episode was {was} in training and is {now} here.",
    )
