"""Plays episodes of an environment, remembers all that it gives out, and compares two plays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from batchenv.errors import ConfigError

Values = Mapping[str, NDArray[Any]]

_STATE = ("equity", "cash", "holdings")
"""Attributes that are compared where an environment has them."""
_DECIDED = "decided"
"""The attribute that tells what the last step decided, before the bar that it fills in had its say."""


class Moment(NamedTuple):
    """What an environment gave out on arriving at a bar.

    Attributes:
        bar: The bar.
        values: Everything that is compared, by name.
        decided: What the step to it decided at the bar before, by name; empty where the environment does not tell.
    """

    bar: int
    values: Values
    decided: Values


Lanes = list[list[Moment]]
"""The moments of each lane's first episode, in order."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A value that is not what it was.

    Attributes:
        bar: The bar that it belongs to; a decision belongs to the bar at whose close it was made.
        lane: The lane.
        name: What it is.
        before: What it was.
        after: What it is after the change.
    """

    bar: int
    lane: int
    name: str
    before: Any
    after: Any


def play(env: Any, seed: int, until: int) -> Lanes:
    """Play one episode of every lane, as far as the first bar after ``until``, with actions that ``seed`` decides."""
    vector = hasattr(env, "num_envs")
    env.action_space.seed(seed)
    observation, info = env.reset(seed=seed)
    now = _bars(env, info)
    lanes: Lanes = [
        [Moment(int(bar), _values(env, _one(observation, k, vector), info, k, vector), {})] for k, bar in enumerate(now)
    ]
    running = set(range(len(lanes)))
    while running := {k for k in running if lanes[k][-1].bar <= until}:
        observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
        now, decided = _bars(env, info), attribute(env, _DECIDED)
        for k in sorted(running):
            flags = {"reward": reward, "terminated": terminated, "truncated": truncated}
            flags = {name: np.asarray(_one(value, k, vector)) for name, value in flags.items()}
            done = bool(flags["terminated"] or flags["truncated"])
            if done and vector:  # what the environment shows may be of the next episode already
                last = info["final_obs"][k] if "final_obs" in info else None
                bar, values = lanes[k][-1].bar + 1, {} if last is None else _flat("observation", last)
            else:
                bar, values = int(now[k]), _values(env, _one(observation, k, vector), info, k, vector)
            decision = {} if decided is None else _flat("the decision", _one(decided, k, vector))
            lanes[k].append(Moment(bar, {**values, **flags}, decision))
            if done:
                running.discard(k)
    return lanes


def tells_decisions(env: Any) -> bool:
    """Whether an environment that has taken a step tells what it decided."""
    return attribute(env, _DECIDED) is not None


def attribute(env: Any, name: str) -> Any:
    """Return an attribute of an environment, or those of the environments that a vector consists of; None without."""
    value = getattr(env.unwrapped, name, None)
    if value is None and hasattr(env, "get_attr"):
        try:
            value = np.stack(env.get_attr(name))
        except (AttributeError, TypeError, ValueError):
            return None
    return value


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
        value = attribute(env, name)
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


def first_difference(before: Lanes, after: Lanes, names: Sequence[str]) -> Difference | None:
    """Return what differs at the lowest bar, or None where all is the same."""
    found = []
    for lane, (old, new) in enumerate(zip(before, after, strict=True)):
        for was, now in zip(old, new, strict=False):
            difference = _decision(lane, was, now) or _difference(lane, was, now, names)
            if difference is not None:
                found.append(difference)
                break
    return min(found, key=lambda difference: difference.bar, default=None)


def _decision(lane: int, was: Moment, now: Moment) -> Difference | None:
    """Return how the decisions differ that led to two moments."""
    bar = min(was.bar, now.bar) - 1
    return _of_values(lane, bar, was.decided, now.decided, ())


def _difference(lane: int, was: Moment, now: Moment, names: Sequence[str]) -> Difference | None:
    bar = min(was.bar, now.bar)
    if was.bar != now.bar:
        return Difference(bar, lane, "the bar", was.bar, now.bar)
    return _of_values(lane, bar, was.values, now.values, names)


def _of_values(lane: int, bar: int, was: Values, now: Values, names: Sequence[str]) -> Difference | None:
    for name in sorted(was.keys() | now.keys(), key=lambda name: (not name.startswith("observ"), name)):
        a, b = was.get(name), now.get(name)
        if a is None or b is None or a.shape != b.shape:
            shapes = [None if array is None else list(array.shape) for array in (a, b)]
            return Difference(bar, lane, f"the shape of {name}", *shapes)
        differs = np.asarray((a != b) & ~((a != a) & (b != b)))  # NaN is like NaN
        if differs.any():
            at = tuple(int(i) for i in np.argwhere(differs)[0])
            place = f"{name}[{', '.join(map(str, at))}]" if at else name
            if name == "observation" and a.shape == (len(names),):
                place = f"{name} {names[at[0]]!r}"
            return Difference(bar, lane, place, a[at], b[at])
    return None


def observation_names(env: Any) -> tuple[str, ...]:
    """Return the names of an observation's numbers where the environment has them."""
    layout = getattr(getattr(env.unwrapped, "task", None), "layout", None)
    return tuple(getattr(layout, "names", ()))
