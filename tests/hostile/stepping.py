"""What a user hands in afterwards: actions, masks, memory to write into; and steps that break off."""

from __future__ import annotations

import math
import tempfile
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from batchenv import BatchTradingEnv, FastTrainingEnv, TradingVecEnv, register_reward
from batchenv.errors import EnvironmentStateError
from batchenv.kernel import engine
from batchenv.ppo import FastPPO
from tests.hostile.inputs import BARS, BASE, LANES, RULES, SYMBOLS
from tests.hostile.values import NUMBERS, Case, extremes, layouts, must_be, must_refuse, no_numbers, refusal

MODES: dict[str, dict[str, Any]] = {
    "trade": {"mode": "trade"},
    "weights": {"mode": "weights"},
    "discrete": {"mode": "discrete"},
    "joint": {"mode": "discrete", "joint": True},
}
OWN = "out: is memory of the environment's own"
TOGETHER = {"episode_config": {"length": 7, "random_start": True}}


def _pair(**rules: Any) -> list[BatchTradingEnv]:
    """Return two environments that play the same."""
    envs = [BatchTradingEnv(BASE, RULES | rules, n_envs=LANES, seed=3) for _ in range(2)]
    for env in envs:
        env.reset()
    return envs


def _same(env: Any, twin: Any) -> None:
    for name in ("bar", "episode", "cash", "equity", "holdings"):
        np.testing.assert_array_equal(getattr(env, name), getattr(twin, name), err_msg=name)


# --- actions ----------------------------------------------------------------------------------------------------


def actions() -> Iterator[Case]:
    """Actions in every mode."""
    for mode, action in MODES.items():
        shape = (LANES,) if mode == "joint" else (LANES, SYMBOLS)
        choices = {"joint": 3**SYMBOLS, "discrete": 3}.get(mode)
        envs = _pair(action_config=action)
        for kind in (*NUMBERS, "bool"):
            for x in [np.bool_(True)] if kind == "bool" else extremes(kind):
                array = np.zeros(shape, kind)
                array[1] = x
                yield f"{mode}: {x!r} of {kind}", lambda e=envs, a=array, c=choices: _check(e, a, a, c)
            array = (np.arange(math.prod(shape)).reshape(shape) % 3).astype(kind)
            for layout, value, numbers in layouts(array):
                yield f"{mode}: {kind} {layout}", lambda e=envs, v=value, a=numbers, c=choices: _check(e, v, a, c)
        for layout, value in no_numbers(np.ones(shape)):
            yield f"{mode}: {layout}", lambda e=envs, v=value: must_refuse(lambda: e[0].step(v), "action")
        for layout, value in no_numbers(np.ones(shape[1:] or (1,))):
            alone = FastTrainingEnv(BASE, RULES | {"action_config": action})
            alone.reset()
            if mode != "joint":
                yield f"{mode}, alone: {layout}", lambda e=alone, v=value: must_refuse(lambda: e.step(v), "action")


def _check(envs: list[BatchTradingEnv], value: Any, numbers: np.ndarray, choices: int | None) -> None:
    """Step with the value in one environment, and with the same numbers in the plain type in the other."""
    env, twin = envs
    with np.errstate(over="ignore"):
        plain = numbers.astype(np.float32)
    good = numbers.dtype.kind != "b" and bool(np.isfinite(plain).all())
    if choices is not None:
        exact = numbers.ravel().tolist()
        good = numbers.dtype.kind in "iu" and all(0 <= x < choices for x in exact)
        plain = np.array(exact if good else [0] * numbers.size, np.int64).reshape(numbers.shape)
    objects = isinstance(value, np.ndarray) and value.dtype == object
    must_be(good and not objects, lambda: env.step(value), "actions")
    if good and not objects:
        twin.step(plain)
    _same(env, twin)


# --- masks ------------------------------------------------------------------------------------------------------


def masks() -> Iterator[Case]:
    """Lanes to reset."""
    envs = _pair()
    flags = np.array([True, False, True])

    def both(value: Any, plain: np.ndarray) -> None:
        for env, mask in zip(envs, (value, plain), strict=True):
            env.step(np.zeros((LANES, SYMBOLS), np.float32))
            env.reset(options={"reset_mask": mask})
        _same(*envs)

    for layout, value, plain in layouts(flags):
        if plain.any():
            yield layout, lambda v=value, p=plain: both(v, p.copy())
    bad = [(kind, np.ones(LANES, kind)) for kind in NUMBERS]
    bad += [pair for pair in no_numbers(np.ones(LANES)) if pair[0] not in ("booleans", "nothing")]
    bad += [("no lane", np.zeros(LANES, np.bool_)), ("too many", np.ones(LANES + 1, np.bool_)), ("one", True)]
    for name, value in bad:
        yield (
            name,
            lambda v=value: must_refuse(lambda: envs[0].reset(options={"reset_mask": v}), "options['reset_mask']"),
        )
    fresh = BatchTradingEnv(BASE, RULES, n_envs=LANES)
    for rest in ({}, {"seed": 1}):
        yield (
            f"before the first reset {rest}",
            lambda r=rest: must_refuse(lambda: fresh.reset(options={"reset_mask": flags}, **r), "reset_mask"),
        )


# --- memory to write into ---------------------------------------------------------------------------------------


def memory() -> Iterator[Case]:
    """Where observations are to be written."""
    envs = _pair()
    shape = envs[0].observation_space.shape
    assert shape is not None
    fine = {"contiguous", "a row of a larger buffer", "a file"}
    tried: list[tuple[str, Any]] = [("a row of a larger buffer", np.zeros((3, *shape), np.float32)[1])]
    with tempfile.NamedTemporaryFile() as file:
        tried.append(("a file", np.memmap(file.name, np.float32, "w+", shape=shape)))
    for layout, value, _ in layouts(np.zeros(shape, np.float32)):
        tried.append((layout, value))
    tried += [(kind, np.zeros(shape, kind)) for kind in (*NUMBERS, "bool") if kind != "float32"]
    tried += [pair for pair in no_numbers(np.ones(shape, np.float32)) if pair[0] not in ("nothing", "booleans")]
    for name, value in tried:
        yield name, lambda n=name, v=value: _write(envs, v, n in fine)
    numbers = np.zeros((LANES, SYMBOLS), np.float32)
    buffer = np.zeros(math.prod(shape) + numbers.size, np.float32)
    out = buffer[: math.prod(shape)].reshape(shape)
    for name, first in (("the actions within", 0), ("the end of the actions", math.prod(shape) - 1)):
        inside = buffer[first : first + numbers.size].reshape(numbers.shape)
        yield name, lambda a=inside: must_refuse(lambda: envs[0].step(a, out=out), "out: overlaps the actions")
    columns = out[:, :SYMBOLS]
    yield "columns as actions", lambda: must_refuse(lambda: envs[0].step(columns, out=out), "out: overlaps the actions")
    beside = buffer[math.prod(shape) :].reshape(numbers.shape)
    yield "actions just behind", lambda: (envs[0].step(beside, out=out), envs[1].step(numbers), _same(*envs))
    yield from _own_arrays()


def _write(envs: list[BatchTradingEnv], value: Any, good: bool) -> None:
    """Check that observations are written into a value, and nowhere beside it; or that it is refused."""
    env, twin = envs
    numbers = np.full((LANES, SYMBOLS), 0.1, np.float32)
    around = value.base if good and isinstance(value.base, np.ndarray) else None
    must_be(good, lambda: env.step(numbers, out=value), "out")
    if good:
        np.testing.assert_array_equal(value, twin.step(numbers)[0])
        if around is not None and around.ndim == 3:
            assert not around[[0, 2]].any()
    _same(env, twin)
    adapter = TradingVecEnv(BASE, RULES, n_envs=LANES, seed=3)
    adapter.reset()
    adapter.write_into(value)
    must_be(good, lambda: adapter.step(numbers), "out")
    assert np.array_equal(adapter.step(numbers)[0], adapter.batch._engine.observation)


def _own_arrays() -> Iterator[Case]:
    """Arrays of the environment's own, which a step hands out where nothing is copied."""
    for n_symbols, features in ((SYMBOLS, ["momentum_5"]), (1, [])):
        rules = {"features": features, "episode_config": {"length": 7, "random_start": True}}
        bars = BASE.select(BASE.symbols[:n_symbols])
        env, twin = (BatchTradingEnv(bars, rules, n_envs=1, seed=3, copy=copy) for copy in (False, True))
        older, newer = env.reset()[0], None
        twin.reset()
        zeros = np.zeros((1, n_symbols), np.float32)
        newer, reward, *_ = env.step(zeros)
        twin.step(zeros)
        for name, own in (("the last", newer), ("the one before", older)):
            text = f"observation, {name}, of {n_symbols} symbols"
            yield text, lambda e=env, o=own, z=zeros: must_refuse(lambda: e.step(z, out=o), OWN)
            yield f"{text}, as actions", lambda e=env, t=twin, o=own, n=n_symbols: _reuse(e, t, o[:, :n])
        if n_symbols == 1:
            view = reward.view(np.float32).reshape(1, 2)
            yield (
                "a reward",
                lambda e=env, v=view, z=zeros: must_refuse(lambda: e.step(z, out=v), "out: is memory of the env"),
            )
            yield "a reward, as an action", lambda e=env, t=twin, v=view: _reuse(e, t, v[:, :1])
    env = BatchTradingEnv(BASE, RULES, n_envs=LANES)
    for name in ("cash", "holdings", "equity", "bar", "episode"):
        yield f"{name} cannot be written to", lambda n=name: _must_raise(ValueError, lambda: getattr(env, n).fill(0))
    given = BatchTradingEnv(BASE, RULES, n_envs=LANES, lane_parameters={"episode_start": 7})
    start = given.parameters.given["episode_start"]
    yield "parameters cannot be written to", lambda: _must_raise(ValueError, lambda: start.fill(2**40))


def _reuse(env: BatchTradingEnv, twin: BatchTradingEnv, own: np.ndarray) -> None:
    """Take an array of an earlier step for actions: they are those numbers, whatever the step writes."""
    numbers = own.copy()
    must_be(bool(np.isfinite(numbers).all()), lambda: env.step(own), "actions")
    if np.isfinite(numbers).all():
        twin.step(numbers)
    _same(env, twin)


def _must_raise(kind: type[BaseException], call: Any) -> None:
    try:
        call()
    except kind:
        return
    raise AssertionError(f"did not raise {kind.__name__}")


# --- steps that break off ---------------------------------------------------------------------------------------


class _Stop(BaseException):
    """As what interrupts a program."""


def broken_off() -> Iterator[Case]:
    """Errors and interrupts within a step, at the last bar of the data; another thread; parameters replaced."""
    at_the_end = {"features": ["momentum_5"], "episode_config": {"length": None}}

    def fail(step: Any) -> Any:
        if failing:
            raise RuntimeError("broken on purpose")
        return step.equity_after * 0.0

    failing: list[bool] = []
    register_reward("test_broken", fail, replace=True)
    rules = at_the_end | {"reward_config": {"type": "test_broken"}}
    for make, shape in ((BatchTradingEnv, (1, SYMBOLS)), (FastTrainingEnv, (SYMBOLS,))):
        yield f"a reward of {make.__name__}", lambda m=make, s=shape: _break(m(BASE, rules), s, failing)
    for name in ("_end", "_open"):
        yield f"an interrupt in {name}", lambda n=name: _interrupt(BatchTradingEnv(BASE, at_the_end), n)
    for n_threads in (1, 3):
        yield f"an interrupt before the kernel, threads: {n_threads}", lambda n=n_threads: _before_the_kernel(n)
    yield "two threads", _two_threads
    for name in ("episode_start", "episode_length"):
        yield f"{name} replaced", lambda n=name: _replace(n)
    yield "a reward that writes", _writing_reward


def _break(env: Any, shape: tuple[int, ...], failing: list[bool]) -> None:
    zeros = np.zeros(shape, np.float32)
    env.reset()
    for _ in range(BARS - 7):
        env.step(zeros)
    failing.append(True)
    for _ in range(300):
        _must_raise((RuntimeError, EnvironmentStateError), lambda: env.step(zeros))  # type: ignore[arg-type]
    failing.clear()
    must_refuse(lambda: env.step(zeros), "reset()")
    env.reset()
    env.step(zeros)


def _interrupt(env: BatchTradingEnv, name: str) -> None:
    def stop(*_: Any) -> None:
        raise _Stop

    zeros = np.zeros((1, SYMBOLS), np.float32)
    env.reset()
    for _ in range(BARS - 7):
        env.step(zeros)
    setattr(env, name, stop)
    _must_raise(_Stop, lambda: env.step(zeros))
    for _ in range(300):
        must_refuse(lambda: env.step(zeros), "its last step broke off")
    must_refuse(lambda: env.reset(options={"reset_mask": np.array([True])[:0]}), "reset_mask")
    delattr(env, name)
    env.reset()
    env.step(zeros)


def _before_the_kernel(n_threads: int) -> None:
    """After an interrupt and a reset, lanes move by one bar a step."""
    worth, engine._WORTH = engine._WORTH, 0
    try:
        env, twin = (BatchTradingEnv(BASE, RULES, n_envs=300, seed=3, n_threads=n) for n in (n_threads, 1))
    finally:
        engine._WORTH = worth
    zeros, inner, kernel = np.zeros((300, SYMBOLS), np.float32), env._engine, env._engine._advance

    def stop(*_: Any) -> None:
        raise _Stop

    env.reset()
    inner._advance = stop
    _must_raise((_Stop, RuntimeError), lambda: env.step(zeros))  # type: ignore[arg-type]
    inner._advance = kernel
    env.reset(seed=3), twin.reset(seed=3)
    for _ in range(30):
        np.testing.assert_array_equal(env.step(zeros)[0], twin.step(zeros)[0])
        _same(env, twin)
    env.close()


def _two_threads() -> None:
    """Step one environment from two threads: each step is whole, or refused."""
    env = BatchTradingEnv(BASE, RULES | TOGETHER, n_envs=4096, seed=3)
    zeros, wrong = np.zeros((4096, SYMBOLS), np.float32), []

    def run() -> None:
        for _ in range(300):
            try:
                if refusal(lambda: env.step(zeros), "reset()", "another thread") is not None:
                    refusal(env.reset, "another thread")
                bars = np.array(env.bar)
                assert ((bars >= 5) & (bars < BARS)).all()
            except BaseException as error:
                wrong.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong, wrong[0]


def _replace(name: str) -> None:
    """Put other arrays in the place of those that were checked."""
    for value in (10**12, -(10**12), 2**62, BARS):
        env = BatchTradingEnv(BASE, RULES, n_envs=LANES, lane_parameters={name: 7})
        env.parameters.given[name] = np.full(LANES, value, np.int64)
        must_refuse(env.reset, "does not lie within bars")


def _writing_reward() -> None:
    def write(step: Any) -> Any:
        step.equity_after[:] = 1e9
        return step.equity_after

    register_reward("test_writing", write, replace=True)
    env = BatchTradingEnv(BASE, RULES | {"reward_config": {"type": "test_writing"}}, n_envs=LANES)
    env.reset()
    _must_raise(ValueError, lambda: env.step(np.zeros((LANES, SYMBOLS), np.float32)))
    assert (env.equity < 1e6).all()


# --- the compiled update ----------------------------------------------------------------------------------------


def _learn(change: Any) -> None:
    env = TradingVecEnv(BASE, RULES | {"episode_config": {"length": 20}}, n_envs=4, seed=3, copy=False)
    model = FastPPO("MlpPolicy", env, n_steps=16, batch_size=16, n_epochs=1, seed=0, device="cpu")
    model.learn(64)
    change(model)
    model.train()  # on the rollout that is there


def update() -> Iterator[Case]:
    """The compiled update of small minibatches, and policies and buffers that were changed under its hands."""

    def widen(model: Any) -> None:
        model.policy.action_net = torch.nn.Linear(64, 4096)

    def narrow(model: Any) -> None:
        model.policy.value_net = torch.nn.Linear(8, 1)

    def deepen(model: Any) -> None:
        model.policy.mlp_extractor.policy_net[0] = torch.nn.Linear(4096, 64)

    def cut(model: Any) -> None:
        model.rollout_buffer.observations = model.rollout_buffer.observations[:, :, :1]

    def shorten(model: Any) -> None:
        model.rollout_buffer.actions = model.rollout_buffer.actions[:8]

    yield "as it is", lambda: _learn(lambda _: None)
    yield "of another batch size", lambda: _learn(lambda model: setattr(model, "batch_size", np.int8(64)))
    for change in (widen, narrow, deepen, cut, shorten):
        yield change.__name__, lambda c=change: _must_raise(Exception, lambda: _learn(c))
    yield "two threads of the environment", _threads


def _threads() -> None:
    worth, engine._WORTH = engine._WORTH, 0
    try:
        envs = [BatchTradingEnv(BASE, RULES | TOGETHER, n_envs=300, seed=3, n_threads=n) for n in (1, 3)]
        for env in envs:
            env.reset()
        rng = np.random.default_rng(0)
        for _ in range(30):
            numbers = rng.uniform(-1, 1, (300, SYMBOLS)).astype(np.float32)
            for env in envs:
                env.step(numbers)
        _same(*envs)
        for env in envs:
            env.close()
    finally:
        engine._WORTH = worth
