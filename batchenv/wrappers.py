"""What stood between a stable-baselines3 model and its environment in training, and must stand there in a backtest too.

Wrappers that are known to pass observations and actions through are left out. `VecNormalize` and `VecFrameStack` are
applied again, by stable-baselines3's own code. Every other wrapper is refused by name.
"""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces, wrappers
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    StackedObservations,
    SubprocVecEnv,
    VecCheckNan,
    VecEnv,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecVideoRecorder,
)
from stable_baselines3.common.vec_env.base_vec_env import VecEnvWrapper

from batchenv.errors import ConfigError, RunError
from batchenv.made_for import MadeFor

__all__ = ["Chain", "Normalized", "Preprocessing", "Stacked", "read_statistics"]

Transform = Callable[[Any], Any]
"""Makes of the observations of all lanes what the model is to see."""
_PASS_THROUGH: tuple[type[Any], ...] = (
    gymnasium.Wrapper,  # itself, and subclasses that override none of `_CHANNELS`
    gymnasium.RewardWrapper,
    wrappers.TimeLimit,
    wrappers.OrderEnforcing,
    wrappers.PassiveEnvChecker,
    wrappers.RecordEpisodeStatistics,
    wrappers.NormalizeReward,
    wrappers.TransformReward,
    wrappers.ClipReward,
    wrappers.RecordVideo,
    wrappers.RenderCollection,
    wrappers.HumanRendering,
    Monitor,
    VecMonitor,
    VecCheckNan,
    VecVideoRecorder,
)
"""Wrappers that change neither observations nor actions."""
_ENVIRONMENTS = {"FastTrainingEnv", "StatefulTradingEnv", "TradingEnv"}
_NAMES = {kind.__name__ for kind in _PASS_THROUGH}
_CHANNELS = (
    "reset", "step", "step_async", "step_wait", "observation", "action", "normalize_obs", "_normalize_obs",
)  # fmt: skip
"""The methods that observations and actions go through."""
_OURS = ("batchenv", "stateful")
_BAR = "bar"
"""The part of an indexed observation that names its bar."""
SCALES_THE_BAR = (
    "VecNormalize scales the number of the bar, which the network looks the bar's features up by; expected "
    "VecNormalize(venv, norm_obs_keys=['portfolio']), and a model that is trained so"
)
STACKS_THE_BAR = (
    "VecFrameStack stacks the numbers of bars, which the network looks features up by; expected an encoder that looks "
    "back ('conv1d', 'gru' or 'attention', with a window) without VecFrameStack, or observation_config.mode 'flat'"
)
_GONE = (OSError, EOFError, AssertionError, AttributeError)
"""What a `SubprocVecEnv` raises whose processes are closed, or cannot answer."""


@dataclass(frozen=True)
class Normalized:
    """Observations go through `VecNormalize`.

    Attributes:
        statistics: The wrapper, whose statistics may still change.
    """

    statistics: VecNormalize

    def check(self, space: spaces.Space[Any]) -> None:
        """Check that the statistics fit the observations.

        Raises:
            RunError: They are of another size, or scale the number of a bar.
        """
        keys, sizes = self.statistics.norm_obs_keys, self.sizes()
        if _BAR in sizes:
            raise RunError(SCALES_THE_BAR)
        if sizes != {key: sub.shape for key, sub in _parts(space).items() if keys is None or key in keys}:
            raise RunError(
                f"VecNormalize: its statistics are of observations of shape {_words(sizes)}, the environment "
                f"shows {_words({key: sub.shape for key, sub in _parts(space).items()})}; expected those of the "
                "training (and frame_stack=, where frames were stacked)"
            )

    def sizes(self) -> dict[str | None, Any]:
        """Return the shape of the statistics of each part of an observation; of a flat one under None."""
        found: Any = self.statistics.obs_rms
        return {key: rms.mean.shape for key, rms in (found if isinstance(found, dict) else {None: found}).items()}

    def space(self, space: spaces.Space[Any]) -> spaces.Space[Any]:
        """Return the space of what comes out: values differ, shapes do not."""
        return space

    def start(self, space: spaces.Space[Any], n_lanes: int) -> Transform:
        """Return the normalisation with the statistics as they stand now."""
        frozen = VecNormalize.__new__(type(self.statistics))
        kept = {key: value for key, value in vars(self.statistics).items() if key not in ("venv", "class_attributes")}
        frozen.__dict__.update(copy.deepcopy(kept))
        return frozen.normalize_obs


@dataclass(frozen=True)
class Stacked:
    """Observations go through `VecFrameStack`.

    Attributes:
        n_stack: Observations in a stack, the latest last.
    """

    n_stack: int

    def check(self, space: spaces.Space[Any]) -> None:
        """Check that observations can be stacked.

        Raises:
            RunError: They name their bar: a stack of numbers of bars is none.
        """
        if _BAR in _parts(space):
            raise RunError(STACKS_THE_BAR)

    def space(self, space: spaces.Space[Any]) -> spaces.Space[Any]:
        """Return the space of a stack."""
        return StackedObservations(1, self.n_stack, space).stacked_observation_space  # type: ignore[arg-type]

    def start(self, space: spaces.Space[Any], n_lanes: int) -> Transform:
        """Return the stacking of episodes that begin with the first observations."""
        stack: StackedObservations[Any] = StackedObservations(n_lanes, self.n_stack, space)  # type: ignore[arg-type]
        going = [False] * n_lanes
        calm: list[dict[str, Any]] = [{} for _ in going]
        begun = False

        def push(observation: Any) -> Any:
            nonlocal begun
            if begun:
                return stack.update(observation, going, calm)[0]  # type: ignore[arg-type]
            begun = True
            return stack.reset(observation)

        return push


@dataclass(frozen=True)
class Preprocessing:
    """What is made of an observation before a model sees it, from the environment outwards."""

    steps: tuple[Normalized | Stacked, ...] = ()

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.steps)

    @property
    def normalizes(self) -> bool:
        """Whether observations are normalised."""
        return any(isinstance(step, Normalized) for step in self.steps)

    @property
    def stacks(self) -> bool:
        """Whether observations are stacked."""
        return any(isinstance(step, Stacked) for step in self.steps)

    def undone(self, observation: Any) -> tuple[Any, bool]:
        """Return observations before they were normalised, and whether a number was cut off, so that it is lost."""
        for step in self.steps:
            if isinstance(step, Normalized):
                found: Any = step.statistics
                sizes = step.sizes()
                parts = [observation] if None in sizes else [observation[key] for key in sizes]
                width = next(iter(sizes.values()))[-1]  # of a frame, or of a stack
                seen = observation if None not in sizes else np.asarray(observation)[..., -width:]
                cut = any((np.abs(part) >= found.clip_obs).any() for part in parts)
                return found.unnormalize_obs(seen), bool(cut)
        return observation, False

    def space(self, space: spaces.Space[Any]) -> spaces.Space[Any]:
        """Return the space of what a model sees of an environment with this observation space.

        Raises:
            RunError: A step cannot be applied to it.
        """
        for step in self.steps:
            step.check(space)
            space = step.space(space)
        return space

    def start(self, space: spaces.Space[Any], n_lanes: int) -> Transform:
        """Begin episodes of all lanes.

        Args:
            space: Observation space of one lane.
            n_lanes: Number of lanes.

        Returns:
            A function from the observations of all lanes, ``[n_lanes, ...]`` or a dict of such, to what the model is to
            see. It is called once for every bar, and remembers what it needs of earlier ones.
        """
        transforms = []
        for step in self.steps:
            transforms.append(step.start(space, n_lanes))
            space = step.space(space)

        def transform(observation: Any) -> Any:
            for apply in transforms:
                observation = apply(observation)
            return observation

        return transform

    def handed_in(
        self, vec_normalize: str | Path | VecEnv | None, frame_stack: int | None, space: spaces.Space[Any]
    ) -> Preprocessing:
        """Return the steps with those that are handed in for a model that was loaded without its environment.

        Which of the two comes first is seen by the size of the statistics.

        Args:
            vec_normalize: The statistics; see `read_statistics`.
            frame_stack: Observations in a stack.
            space: Observation space of the environment.

        Raises:
            RunError: They contradict the model's own environment, or cannot be read.
        """
        if vec_normalize is None and frame_stack is None:
            return self
        own_statistics = [step for step in self.steps if isinstance(step, Normalized)]
        own_stacks = [step for step in self.steps if isinstance(step, Stacked)]
        statistics, stacks = list(own_statistics), list(own_stacks)
        if vec_normalize is not None:
            given = read_statistics(vec_normalize)
            if any(step.statistics is not given for step in own_statistics):
                raise RunError("vec_normalize: the model's own environment has a VecNormalize; expected none beside it")
            statistics = [Normalized(given)] if given.norm_obs else []
        if frame_stack is not None:
            if isinstance(frame_stack, bool) or not isinstance(frame_stack, int) or frame_stack < 1:
                raise RunError(f"frame_stack: got {frame_stack!r}, expected the n_stack of VecFrameStack")
            if any(step.n_stack != frame_stack for step in own_stacks):
                raise RunError(
                    f"frame_stack: got {frame_stack}, but the model's own environment stacks {own_stacks[0].n_stack}"
                )
            stacks = [Stacked(frame_stack)]
        plain = {key: sub.shape for key, sub in _parts(space).items()}
        before = not statistics or all(plain.get(key) == shape for key, shape in statistics[0].sizes().items())
        return Preprocessing((*statistics, *stacks) if before else (*stacks, *statistics))


def read_statistics(given: str | Path | VecEnv) -> VecNormalize:
    """Return the `VecNormalize` that is meant.

    Args:
        given: The file that ``VecNormalize.save`` wrote, a `VecNormalize`, or an environment that is wrapped in one.

    Raises:
        RunError: There is no such file, or it is not one; or there is no `VecNormalize`.
    """
    if isinstance(given, (str, Path)):
        if not Path(given).is_file():
            raise RunError(f"vec_normalize: {given}: there is no file here; expected one that VecNormalize.save wrote")
        try:
            with Path(given).open("rb") as file:
                found = pickle.load(file)
        except Exception as error:  # whatever its classes raise
            raise RunError(f"vec_normalize: {given}: cannot be read: {type(error).__name__}: {error}") from None
        if not isinstance(found, VecNormalize):
            raise RunError(
                f"vec_normalize: {given}: holds {type(found).__name__}, expected what VecNormalize.save wrote"
            )
        return found
    env: Any = given
    while isinstance(env, VecEnvWrapper):
        if isinstance(env, VecNormalize):
            return env
        env = env.venv
    raise RunError(
        f"vec_normalize: got {type(given).__name__}, expected a VecNormalize, or the path of a file that its save wrote"
    )


@dataclass(frozen=True)
class Chain:
    """The wrappers of a training environment.

    Attributes:
        preprocessing: What they make of an observation.
        has_vec_normalize: Whether one is a `VecNormalize`, be it of rewards alone.
        made_for: What the environment at the bottom shows and understands; None where that is not known.
        seen: Whether the environment at the bottom could be looked into.
        unseen: What was found there and is not known, in words; None where there is nothing of that kind.
    """

    preprocessing: Preprocessing
    has_vec_normalize: bool
    made_for: MadeFor | None
    seen: bool
    unseen: str | None

    @classmethod
    def of(cls, env: VecEnv) -> Chain:
        """Look at every wrapper of a model's environment.

        Raises:
            RunError: One changes observations or actions, or is not known; names it.
        """
        steps: list[Normalized | Stacked] = []
        inner: Any = env
        normalizes = False
        while isinstance(inner, VecEnvWrapper):
            if isinstance(inner, VecNormalize) and _is_plain(inner, VecNormalize):
                normalizes = True
                if inner.norm_obs:
                    steps.insert(0, Normalized(inner))
            elif isinstance(inner, VecFrameStack) and _is_plain(inner, VecFrameStack):
                steps.insert(0, Stacked(_depth(inner.stacked_obs)))
            else:
                _check_passes_through(inner)
            inner = inner.venv
        core, seen, unseen = _bottom(inner)
        return cls(Preprocessing(tuple(steps)), normalizes, MadeFor.of(core), seen, unseen)


def check_numbers_of_bars(env: Any) -> None:
    """Check that no wrapper changes the numbers of bars, which indexed observations name.

    Args:
        env: An environment to learn in, wrapped or not.

    Raises:
        ConfigError: `VecNormalize` or `VecFrameStack` does.
    """
    while isinstance(env, VecEnvWrapper):
        if _BAR in _parts(env.observation_space):
            if isinstance(env, VecNormalize) and env.norm_obs and _BAR in (env.norm_obs_keys or ()):
                raise ConfigError(SCALES_THE_BAR)
            if isinstance(env, VecFrameStack):
                raise ConfigError(STACKS_THE_BAR)
        env = env.venv


def _bottom(env: VecEnv) -> tuple[Any, bool, str | None]:
    """Return the environment below all wrappers, whether it could be looked into, and what of it is not known.

    Raises:
        RunError: A wrapper of a single environment changes observations or actions, or is not known.
    """
    if type(env) is DummyVecEnv:
        cores = [_core(one) for one in env.envs]
        strange = [type(core).__name__ for core in cores if not _is_ours(core)]
        return cores[0], True, strange[0] if strange else None
    if type(env) is SubprocVecEnv:
        try:
            described = env.env_method("__str__")  # "<Monitor<FastTrainingEnv instance>>"
        except _GONE:
            return env, False, None
        for name in re.findall(r"<(\w+)(?=<)", "".join(described)):
            if name not in _NAMES:
                raise RunError(_refusal(name))
        strange = sorted(set(re.findall(r"<(\w+) instance", "".join(described))) - _ENVIRONMENTS)
        return env, True, strange[0] if strange else None
    return env, True, None if _is_ours(env) else type(env).__name__


def _core(env: gymnasium.Env[Any, Any]) -> Any:
    """Return the environment below the wrappers of a single one, all of which pass observations and actions through."""
    inner: Any = env
    while isinstance(inner, gymnasium.Wrapper):
        _check_passes_through(inner)
        inner = inner.env
    return inner


def _check_passes_through(wrapper: Any) -> None:
    """Check that a wrapper is known to change neither observations nor actions.

    Raises:
        RunError: It may change them.
    """
    if getattr(type(wrapper), "passes_through", False) is True or _is_ours(wrapper):
        return
    known = next((kind for kind in type(wrapper).__mro__ if kind in _PASS_THROUGH), None)
    if known is None or not _is_plain(wrapper, known):
        raise RunError(_refusal(type(wrapper).__name__))


def _refusal(name: str) -> str:
    return (
        f"{name} stood between the environment and the model in training. It changes observations or actions, or may "
        "do so, and a backtest can do that again for VecNormalize and VecFrameStack only; expected a model that is "
        "trained without it, or an agent whose predict does what it did (a wrapper of yours that changes neither says "
        "so with a class attribute: passes_through = True)"
    )


def _is_ours(owner: Any) -> bool:
    return type(owner).__module__.partition(".")[0] in _OURS


def _is_plain(wrapper: Any, known: type[Any]) -> bool:
    """Whether a wrapper does with observations and actions what a class that is known does."""
    kind = type(wrapper)
    return _is_ours(wrapper) or all(getattr(kind, name, None) is getattr(known, name, None) for name in _CHANNELS)


def _depth(stack: StackedObservations[Any]) -> int:
    return int(stack.n_stack)


def _parts(space: spaces.Space[Any]) -> dict[str | None, spaces.Space[Any]]:
    parts: dict[str | None, spaces.Space[Any]] = {None: space}
    if isinstance(space, spaces.Dict):
        parts = {key: part for key, part in space.spaces.items()}  # noqa: C416  # another type of keys
    return parts


def _words(shapes: dict[str | None, Any]) -> str:
    return ", ".join(f"{list(shape)}" if key is None else f"{key} {list(shape)}" for key, shape in shapes.items())
