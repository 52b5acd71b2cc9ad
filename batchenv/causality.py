"""Does a feature, or an environment, use bars that are not known yet? Change them, and see what changes before.

For a cut at bar t everything after t is made different: prices, volumes, dividends, splits, the user's columns,
and in a second variant also which bars there are. What belongs to bars <= t must stay the same, to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from batchenv.data.bars import BoolArray, FloatArray, format_time, last_known
from batchenv.episodes import draw
from batchenv.errors import CausalityError, ConfigError, FeatureError, MarketDataError
from batchenv.features import FeatureScaler, _evaluate, _Feature, _parse, _Request
from batchenv.market import MarketData

__all__ = ["assert_causal"]

Values = Mapping[str, NDArray[Any]]

_CUTS = 5
"""How many cut bars are tried by default."""
_ATTEMPTS = 20
"""How many episodes may be played in search of one that reaches a given bar."""
_BEYOND = 3
"""How many bars after the cut are played, to see that the environment reacts at all."""
_STATE = ("equity", "cash", "holdings")
"""Attributes that are compared where an environment has them."""


def assert_causal(
    subject: str | Callable[[MarketData], Any],
    market: MarketData,
    *,
    bars: Sequence[int] | None = None,
    seed: int = 0,
    fills_at_open: bool | None = None,
) -> None:
    """Check that nothing which belongs to bars <= t depends on bars after t, for several t.

    A *feature* is computed on history and part together; its rows <= t must not change. An *environment* is built
    from the changed market and played with the same random actions. A step that takes it from bar u to bar u + 1
    gives the observation, reward, flags, info, equity, cash and holdings of bar u + 1: all of these must be the same
    where u + 1 <= t. So an order may be filled at the next open, but no decision sees it; an observation of bar t
    sees bars <= t; and a reward of the step to bar t knows no later price.

    Environments scale their features with numbers that are fitted on the first ``market.fit_bars`` rows of history
    and part. That is known before the test part begins, so cuts are made from the end of these rows on, and the
    changed market has the same ``fit_bars``: a scaler that was fitted on more is caught. A market that was never
    split is fitted on as a whole, and leaves no bar to cut at: give a part, ``market.split(date)[1]``, or build the
    environment with a fixed ``scaler=``. Bars that are named are cut after in any case.

    Which bars a symbol has after t changes too, with one exception for environments: a symbol that pauses at t
    still comes back, or still does not. Not to come back is to be delisted (rule 4.4 of ``docs/accounting.md``),
    which is announced at the time, and which the data can only tell by having no later bar.

    Within a bar there is one more thing to see: where orders fill at the open of bar t + 1, the holdings after the step
    may depend on that open, but not on the high, low, close or volume of the bar. All of these are changed while the
    open stays as it is, and the holdings of that bar must stay the same.

    What cannot be found this way: any other use of bar t that is too early within the bar, and a feature that was
    computed outside and does not depend on the market it is given.

    Args:
        subject: The name of a feature, as in a configuration; a function market -> [bars, symbols]; or a function
            market -> environment. Environments are `gymnasium.Env` or `gymnasium.vector.VectorEnv` that tell their
            current bar as the attribute ``bar`` or as ``info["bar"]``.
        market: The bars to check with.
        bars: Bars to cut after: for a feature counted in history and part together, for an environment in the
            part. None spreads some over the data.
        seed: Seed of the changes, the actions and the episodes.
        fills_at_open: Whether holdings change at the open of the next bar and at no other time. None asks an
            environment of ours for its rules (`next_open`, without stops, impact and participation limit), and
            takes any other not to; say True for your own. It must tell its shares as the attribute ``holdings``.

    Raises:
        CausalityError: Something depends on later bars, or a fill at the open on what follows in its bar; names it,
            the cut, the first bar, the column and both values.
        ConfigError: A bar to cut after is out of range or is not reached; an environment does not tell its bar, or
            its holdings where they are to be checked, plays differently each time, or does not react to the market
            it is given.
        MarketDataError: There is no bar to cut at, because the scaling is fitted on all of them.
        FeatureError: The feature is unknown, or computes something unusable or no value at all.
    """
    if isinstance(subject, str):
        whole = market.with_history()
        return _check_feature(_parse(subject, whole), whole, bars, seed)
    found = subject(market)
    if hasattr(found, "reset") and hasattr(found, "step"):
        return _check_environment(subject, found, market, bars, seed, fills_at_open)
    name = getattr(subject, "__name__", type(subject).__name__)
    return _check_feature(_Request(name, _Feature(subject)), market.with_history(), bars, seed)


# --- features -----------------------------------------------------------------------------------------------


def _check_feature(feature: _Request, market: MarketData, bars: Sequence[int] | None, seed: int) -> None:
    before = _evaluate(feature, market)
    rows = np.flatnonzero(~np.isnan(before).all(axis=1))
    if not len(rows):
        raise FeatureError(f"feature {feature.name!r} has no value in these data, so nothing can be checked")
    first = int(rows[0])
    cuts = _spread(first, market.n_bars - 2) if bars is None else _checked(bars, market)
    for cut in cuts:
        for bars_too in (False, True):
            changed = _change_after(market, cut, seed, bars_too=bars_too, delisting_too=True)
            after = _evaluate(feature, changed)
            differs = ~((before == after) | (np.isnan(before) & np.isnan(after)))[: cut + 1]
            if differs.any():
                bar, s = (int(i) for i in np.argwhere(differs)[0])
                raise CausalityError(
                    f"feature {feature.name!r} uses later bars: {_cut_text(market, cut)}, its value at "
                    f"{_bar_text(market, bar)}, symbol {market.symbols[s]!r}, went from {before[bar, s]} to "
                    f"{after[bar, s]}; expected no change"
                )


def _spread(first: int, last: int) -> list[int]:
    """Return some bars from ``first`` to ``last``, the latter included."""
    return sorted({int(bar) for bar in np.linspace(min(first, last), last, _CUTS)})


def _checked(bars: Sequence[int], market: MarketData) -> list[int]:
    cuts = [int(bar) for bar in bars]
    for bar in cuts:
        if not 0 <= bar <= market.n_bars - 2:
            raise ConfigError(f"bars: got {bar}, expected bars from 0 to {market.n_bars - 2}, which have a later one")
    if not cuts:
        raise ConfigError("bars: got none, expected at least one bar to cut after, or None")
    return cuts


def _bar_text(market: MarketData, bar: int) -> str:
    return f"bar {bar} ({format_time(market.timestamps[bar])})"


def _cut_text(market: MarketData, cut: int) -> str:
    return f"when the bars after {_bar_text(market, cut)} change"


# --- environments -------------------------------------------------------------------------------------------


class _Moment(NamedTuple):
    """What an environment gave out on arriving at a bar.

    Attributes:
        bar: The bar.
        values: Everything that is compared, by name.
    """

    bar: int
    values: Values


Lanes = list[list[_Moment]]
"""The moments of each lane's first episode, in order."""


@dataclass(frozen=True, slots=True)
class _Difference:
    """A value that is not what it was."""

    bar: int
    lane: int
    name: str
    before: Any
    after: Any


def _check_environment(
    make: Callable[[MarketData], Any],
    env: Any,
    market: MarketData,
    bars: Sequence[int] | None,
    seed: int,
    fills_at_open: bool | None,
) -> None:
    fitted = market.fit_bars - (0 if market.history is None else market.history.n_bars) - 1  # last bar fitted on
    if fitted > 0 and _is_fixed(env, make, market, seed):
        fitted = 0
    if bars is None and fitted > market.n_bars - 2:
        raise MarketDataError(
            f"{market.source}: features are scaled by all {market.n_bars} bars of this market, so every observation "
            "depends on all of them, and there is no bar to cut after; give the second part of market.split(date), "
            "or build the environment with a fixed scaler"
        )
    names = _names(env)
    plan = (
        _plan(env, market, max(fitted, 0), seed) if bars is None else _reach(env, market, _checked(bars, market), seed)
    )
    reacts = False
    for cut, episode_seed, before in plan:
        for bars_too in (False, True):
            other = make(_change_after(market, cut, seed, bars_too=bars_too, delisting_too=False))
            after = _play(other, episode_seed, cut + _BEYOND)
            other.close()
            found = _first_difference(before, after, names)
            if found is not None and found.bar <= cut:
                again = _first_difference(before, _play(env, episode_seed, cut), names)
                if again is not None:
                    raise ConfigError(
                        f"{env}: {again.name} at {_bar_text(market, again.bar)} differs from one play to the next; "
                        "expected the same after reset(seed=...) with the same actions"
                    )
                lane = f" of lane {found.lane}" if len(before) > 1 else ""
                hint = f" (the scaling may be fitted on bars up to {fitted}, see fit_bars)" if cut < fitted else ""
                raise CausalityError(
                    f"{env} uses later bars: {_cut_text(market, cut)}, {found.name}{lane} at "
                    f"{_bar_text(market, found.bar)} went from {found.before} to {found.after}; "
                    f"expected no change{hint}"
                )
            reacts = reacts or found is not None
        if _fills_at_open(env) if fills_at_open is None else fills_at_open:
            _check_fills(make, env, market, cut + 1, seed, (episode_seed, before))
    env.close()
    if not reacts:
        raise ConfigError(
            f"{env}: stays the same when the market changes, also after the change; expected a function that builds "
            "the environment on the market it is given"
        )


def _fills_at_open(env: Any) -> bool:
    """Return whether an environment's rules say that its holdings change at the open of a bar alone."""
    task = getattr(env.unwrapped, "task", None)
    if task is None:
        return False
    execution, costs = task.config.execution_config, task.config.cost_config
    within = (execution.stop_loss, execution.take_profit, execution.participation_limit, costs.impact_coefficient)
    return task.config.fill == "next_open" and not any(within)


def _check_fills(
    make: Callable[[MarketData], Any], env: Any, market: MarketData, bar: int, seed: int, played: tuple[int, Lanes]
) -> None:
    """Check that what fills at the open of ``bar`` does not depend on the rest of the bar.

    Args:
        make: Builds the environment.
        env: The environment.
        market: The bars.
        bar: The bar.
        seed: Decides the changes.
        played: Seed and moments of the episodes in the market as it is.
    """
    if getattr(env.unwrapped, "holdings", None) is None:
        raise ConfigError(f"{env}: does not tell its shares; expected an attribute holdings, or fills_at_open=False")
    episode_seed, before = played
    other = make(_change_after_open(market, bar, seed))
    after = _play(other, episode_seed, bar)
    other.close()
    for lane, (old, new) in enumerate(zip(before, after, strict=True)):
        was, now = (
            next((moment.values.get("holdings") for moment in moments if moment.bar == bar), None)
            for moments in (old, new)
        )
        if was is None or now is None:  # the lane is elsewhere, or shows the next episode already
            continue
        differs = np.argwhere(np.asarray(was != now))
        if len(differs):
            at = tuple(int(i) for i in differs[0])
            of_lane = f" of lane {lane}" if len(before) > 1 else ""
            place = f"holdings[{', '.join(map(str, at))}]{of_lane}"
            raise CausalityError(
                f"{env} knows a bar before it fills at its open: when {_bar_text(market, bar)} changes in all but its "
                f"open, {place} at that bar went from {was[at]} to {now[at]}; expected no change"
            )


def _is_fixed(env: Any, make: Callable[[MarketData], Any], market: MarketData, seed: int) -> bool:
    """Return whether the environment's scaling is known to be the same whatever the market."""
    scaler = getattr(env.unwrapped, "scaler", None)
    if not isinstance(scaler, FeatureScaler):
        return False
    other = make(_change_after(market, 0, seed, bars_too=False, delisting_too=False))
    same = getattr(other.unwrapped, "scaler", None) == scaler
    other.close()
    return same


def _plan(env: Any, market: MarketData, first: int, seed: int) -> list[tuple[int, int, Lanes]]:
    """Play some episodes, and choose a bar to cut after in each; return (cut, seed, moments)."""
    plan = []
    for k in range(_CUTS):
        lanes = _play(env, seed + k, market.n_bars)
        moments = lanes[k % len(lanes)]
        low, high = max(moments[0].bar, first), min(moments[-1].bar - 1, market.n_bars - 2)
        if low <= high:
            plan.append((low + (high - low) * (k + 1) // _CUTS, seed + k, lanes))
    if not plan:
        raise ConfigError(
            f"{env}: none of {_CUTS} episodes goes beyond bar {first}, from which on bars can be cut; name the bars"
        )
    return plan


def _reach(env: Any, market: MarketData, cuts: Sequence[int], seed: int) -> list[tuple[int, int, Lanes]]:
    """Find an episode that passes through each of ``cuts``; return (cut, seed, moments)."""
    plan = []
    for cut in cuts:
        for k in range(_ATTEMPTS):
            lanes = _play(env, seed + k, cut + _BEYOND)
            if any(moments[0].bar <= cut <= moments[-1].bar for moments in lanes):
                plan.append((cut, seed + k, lanes))
                break
        else:
            raise ConfigError(f"bars: none of {_ATTEMPTS} episodes passes through {_bar_text(market, cut)}")
    return plan


def _play(env: Any, seed: int, until: int) -> Lanes:
    """Play one episode of every lane, as far as the first bar after ``until``, with actions that ``seed`` decides."""
    vector = hasattr(env, "num_envs")
    env.action_space.seed(seed)
    observation, info = env.reset(seed=seed)
    now = _bars(env, info)
    lanes: Lanes = [
        [_Moment(int(bar), _values(env, _one(observation, k, vector), info, k, vector))] for k, bar in enumerate(now)
    ]
    running = set(range(len(lanes)))
    while running := {k for k in running if lanes[k][-1].bar <= until}:
        observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
        now = _bars(env, info)
        for k in sorted(running):
            flags = {"reward": reward, "terminated": terminated, "truncated": truncated}
            flags = {name: np.asarray(_one(value, k, vector)) for name, value in flags.items()}
            done = bool(flags["terminated"] or flags["truncated"])
            if done and vector:  # what the environment shows may be of the next episode already
                last = info["final_obs"][k] if "final_obs" in info else None
                bar, values = lanes[k][-1].bar + 1, {} if last is None else _flat("observation", last)
            else:
                bar, values = int(now[k]), _values(env, _one(observation, k, vector), info, k, vector)
            lanes[k].append(_Moment(bar, {**values, **flags}))
            if done:
                running.discard(k)
    return lanes


def _one(value: Any, lane: int, vector: bool) -> Any:
    """Return one lane's part of a result."""
    if not vector:
        return value
    return {key: _one(part, lane, vector) for key, part in value.items()} if isinstance(value, dict) else value[lane]


def _bars(env: Any, info: Mapping[str, Any]) -> NDArray[np.int64]:
    """Return the current bar of every lane, int64 [lanes]."""
    bar = info["bar"] if "bar" in info else getattr(env.unwrapped, "bar", None)
    if bar is None:
        raise ConfigError(f"{env}: does not tell its current bar; expected an attribute bar, or info['bar']")
    return np.array(bar, dtype=np.int64, ndmin=1)


def _values(env: Any, observation: Any, info: Mapping[str, Any], lane: int, vector: bool) -> dict[str, NDArray[Any]]:
    """Return all that is compared after a step or a reset, except the step's own results."""
    values = _flat("observation", observation)
    task = getattr(env.unwrapped, "task", None)
    if task is not None and task.layout.indexed:  # such an observation stands for the features of its bar
        values |= _flat("features", task.features.values[int(observation["bar"][0])])
    if not vector:
        for key, value in info.items():
            if key != "episode":  # holds the time that has passed
                values |= _flat(f"info[{key!r}]", value)
    for name in _STATE:
        value = getattr(env.unwrapped, name, None)
        if value is not None:
            values |= _flat(name, _one(value, lane, vector))
    return values


def _flat(name: str, value: Any) -> dict[str, NDArray[Any]]:
    """Return the numbers in ``value`` by name; texts and other objects are left out."""
    if isinstance(value, Mapping):
        parts = [_flat(f"{name}[{key!r}]", part) for key, part in value.items()]
    elif isinstance(value, (tuple, list)):
        parts = [_flat(f"{name}[{i}]", part) for i, part in enumerate(value)]
    else:
        array = np.array(value)  # a copy: some environments use their arrays again
        return {name: array} if array.dtype.kind in "biufcmM" else {}
    return {key: array for part in parts for key, array in part.items()}


def _first_difference(before: Lanes, after: Lanes, names: Sequence[str]) -> _Difference | None:
    """Return what differs at the lowest bar, or None where all is the same."""
    found = []
    for lane, (old, new) in enumerate(zip(before, after, strict=True)):
        for was, now in zip(old, new, strict=False):
            difference = _difference(lane, was, now, names)
            if difference is not None:
                found.append(difference)
                break
    return min(found, key=lambda difference: difference.bar, default=None)


def _difference(lane: int, was: _Moment, now: _Moment, names: Sequence[str]) -> _Difference | None:
    bar = min(was.bar, now.bar)
    if was.bar != now.bar:
        return _Difference(bar, lane, "the bar", was.bar, now.bar)
    for name in sorted(was.values.keys() | now.values.keys(), key=lambda name: (not name.startswith("observ"), name)):
        a, b = was.values.get(name), now.values.get(name)
        if a is None or b is None or a.shape != b.shape:
            shapes = [None if array is None else list(array.shape) for array in (a, b)]
            return _Difference(bar, lane, f"the shape of {name}", *shapes)
        differs = np.asarray((a != b) & ~((a != a) & (b != b)))  # NaN is like NaN
        if differs.any():
            at = tuple(int(i) for i in np.argwhere(differs)[0])
            place = f"{name}[{', '.join(map(str, at))}]" if at else name
            if name == "observation" and a.shape == (len(names),):
                place = f"{name} {names[at[0]]!r}"
            return _Difference(bar, lane, place, a[at], b[at])
    return None


def _names(env: Any) -> tuple[str, ...]:
    """Return the names of an observation's numbers where the environment has them."""
    layout = getattr(getattr(env.unwrapped, "task", None), "layout", None)
    return tuple(getattr(layout, "names", ()))


# --- another future -----------------------------------------------------------------------------------------


def _change_after(market: MarketData, cut: int, seed: int, *, bars_too: bool, delisting_too: bool) -> MarketData:
    """Return ``market`` with everything after bar ``cut`` changed; history and ``fit_bars`` stay.

    Args:
        market: The market.
        cut: Last bar that stays as it is.
        seed: Decides the changes.
        bars_too: Whether symbols get other bars after the cut; else each has the bars that it had.
        delisting_too: With ``bars_too``, whether a symbol that has no bar at the cut may come back, or not, other
            than it did.
    """
    rows = slice(cut + 1, market.n_bars)
    shape = (market.n_bars - cut - 1, market.n_symbols)
    cells = np.arange(shape[0] * shape[1], dtype=np.int64).reshape(shape)
    streams = count()

    def uniform(low: float, high: float) -> FloatArray:
        return np.asarray(low + (high - low) * draw(seed, cells, cut, next(streams)) / 2.0**32)

    had = market.has_bar[rows]
    has = _other_bars(market, cut, uniform, delisting_too) if bars_too else had
    level = np.exp(uniform(-0.7, 0.7))
    listing = last_known(market.close[::-1])[-1]  # the first close of each symbol
    known = np.where(np.isnan(market.mark[rows]), np.where(np.isnan(listing), 1.0, listing), market.mark[rows])
    new: dict[str, FloatArray] = {}
    for name in ("open", "high", "low", "close"):
        values = getattr(market, name)
        if values is not None:
            new[name] = np.where(had, values[rows], known) * level
    for name in {"open", "close"} & new.keys():
        new[name] = new[name] * np.exp(uniform(-0.1, 0.1))
    inner = [new[name] for name in ("open", "close") if name in new]
    if "high" in new:
        new["high"] = np.maximum.reduce([new["high"], *inner]) * (1.0 + uniform(0.0, 0.1))
    if "low" in new:
        new["low"] = np.minimum.reduce([new["low"], *inner]) * (1.0 - uniform(0.0, 0.1))
    if market.volume is not None:
        new["volume"] = (np.where(had, market.volume[rows], 0.0) + 1.0) * np.exp(uniform(-2.0, 2.0))
    new = {name: np.where(has, values, np.nan) for name, values in new.items()}
    marks = last_known(np.concatenate([market.mark[cut : cut + 1], new["close"]]))
    new |= _other_actions(market, rows, has, marks[:-1], uniform)

    def joined(name: str, values: FloatArray) -> FloatArray:
        return np.concatenate([getattr(market, name)[: cut + 1], values])

    changed: dict[str, Any] = {name: joined(name, values) for name, values in new.items()}
    changed["columns"] = {
        name: np.concatenate([values[: cut + 1], _other_numbers(values, cut, uniform, bars_too)])
        for name, values in market.columns.items()
    }
    other = replace(market, **changed, delisted=None)
    return other if delisting_too else replace(other, delisted=_known_delistings(market, other, cut))


def _known_delistings(market: MarketData, other: MarketData, cut: int) -> NDArray[np.datetime64]:
    """Return the delistings of another future, those that were announced by the cut as they are."""
    assert market.delisted is not None and other.delisted is not None
    now = market.timestamps[cut]
    gone = market.delisted < now  # a symbol with a bar at the cut may go on in another future
    paused = np.isnat(market.delisted) & ~other.has_bar[cut:].any(axis=0)
    return np.where(gone | paused, market.delisted, other.delisted)


def _change_after_open(market: MarketData, bar: int, seed: int) -> MarketData:
    """Return ``market`` with everything after the open of ``bar`` changed; the events of its night stay as they are."""
    changed = _change_after(market, bar - 1, seed, bars_too=False, delisting_too=False)
    opens = market.open
    new: dict[str, Any] = {}

    def kept(name: str, row: FloatArray) -> FloatArray:
        values: FloatArray = getattr(changed, name).copy()
        values[bar] = row
        return values

    if opens is not None:
        new["open"] = kept("open", opens[bar])
        for name, limit in (("high", np.maximum), ("low", np.minimum)):
            if getattr(changed, name) is not None:
                new[name] = kept(name, limit(getattr(changed, name)[bar], opens[bar]))
    for name in ("splits", "dividends"):
        if getattr(market, name) is not None:
            new[name] = kept(name, getattr(market, name)[bar])
    columns = {name: values.copy() for name, values in changed.columns.items()}
    for name, values in columns.items():
        values[bar] = market.columns[name][bar]
    return replace(changed, **new, columns=columns)


def _other_bars(
    market: MarketData, cut: int, uniform: Callable[[float, float], FloatArray], delisting_too: bool
) -> BoolArray:
    """Return other bars after the cut, bool [bars, symbols]: some go, some come, some symbols end early."""
    had = market.has_bar[cut + 1 :]
    stop = np.floor(uniform(0.0, 2.0)[0] * len(had))  # half of them go on to the end
    goes_on = np.arange(len(had))[:, None] < stop
    has: BoolArray = np.where(had, uniform(0.0, 1.0) > 0.25, uniform(0.0, 1.0) < 0.25) & goes_on
    if not delisting_too:
        pauses = ~market.has_bar[cut] & ~np.isnan(market.mark[cut])
        has[:, pauses] &= np.asarray(had.any(axis=0))[pauses]
        has[:, pauses] |= had[:, pauses]
    return has


def _other_actions(
    market: MarketData,
    rows: slice,
    has: BoolArray,
    before: FloatArray,
    uniform: Callable[[float, float], FloatArray],
) -> dict[str, FloatArray]:
    """Return other splits and dividends, for a market that has them; ``before`` are the closes before."""
    new: dict[str, FloatArray] = {}
    ratio = np.ones_like(before)
    if market.splits is not None:
        where = ((market.splits[rows] != 1.0) | (uniform(0.0, 1.0) < 0.05)) & has
        ratio = new["splits"] = np.where(where, np.ceil(uniform(0.0, 3.0)) + 0.5, 1.0)
    if market.dividends is not None:
        where = ((market.dividends[rows] > 0.0) | (uniform(0.0, 1.0) < 0.05)) & has & ~np.isnan(before)
        new["dividends"] = np.where(where, before / ratio * uniform(0.001, 0.2), 0.0)
    return new


def _other_numbers(
    values: FloatArray, cut: int, uniform: Callable[[float, float], FloatArray], gaps_too: bool
) -> FloatArray:
    """Return other numbers of about the same size after the cut, NaN where they were unless ``gaps_too``."""
    finite = values[np.isfinite(values)]
    spread = float(finite.std()) if finite.size else 0.0
    old = values[cut + 1 :]
    new = old + (spread or 1.0) * uniform(-2.0, 2.0)
    if gaps_too:
        missing = np.isnan(old)
        new = np.where(missing, (spread or 1.0) * uniform(-2.0, 2.0), new)
        new = np.where(uniform(0.0, 1.0) < np.where(missing, 0.5, 0.2), np.nan, new)
    return np.asarray(new)
