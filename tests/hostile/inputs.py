"""What a user sets before the first step: parameters by lane, whole numbers, configurations."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np

from batchenv import BatchTradingEnv, EnvConfig, FastTrainingEnv, TradingVecEnv
from batchenv.config import PARAMETER_BOUNDS
from batchenv.parameters import LANE_PARAMETERS
from stateful import StatefulTradingEnv
from tests.hostile.values import (
    FLOATS,
    NUMBERS,
    Case,
    extremes,
    layouts,
    must_be,
    must_refuse,
    no_numbers,
    refusal,
)
from tests.hostile.values import scalars as whole_numbers
from tests.markets import market

LANES, BARS, WARM_UP, LENGTH = 3, 120, 5, 20
RULES: dict[str, Any] = {
    "features": ["momentum_5"],
    "margin_config": {"allow_short": True, "leverage": 2.0},
    "episode_config": {"length": LENGTH},
}
BASE = market(n_bars=BARS)
SYMBOLS = BASE.n_symbols


def play(env: Any, steps: int = 4) -> list[np.ndarray]:
    """Play some steps; return the bars, the first and the last observations, and the equity."""
    first, _ = env.reset(seed=3)
    bars, rng = [np.array(env.bar)], np.random.default_rng(0)
    for _ in range(steps):
        last, *_ = env.step(rng.uniform(-1, 1, (env.num_envs, SYMBOLS)).astype(np.float32))
        bars.append(np.array(env.bar))
    return [np.array(bars), first, last, np.array(env.equity)]


def same(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    """Check that two environments played the same."""
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def batch(name: str, value: Any) -> BatchTradingEnv:
    """Return a batch with a parameter by lane."""
    return BatchTradingEnv(BASE, RULES, n_envs=LANES, seed=3, lane_parameters={name: value})


# --- parameters by lane -----------------------------------------------------------------------------------------


@cache
def _expected(name: str, values: tuple[Any, ...], shape: tuple[int, ...]) -> list[np.ndarray]:
    plain = np.int64 if name.startswith("episode") else np.float64
    return play(batch(name, np.array(values, plain).reshape(shape)))


def _allowed(name: str, numbers: list[Any]) -> bool:
    """Return whether all numbers are in range, by Python's own arithmetic."""
    whole = name.startswith("episode")
    if not all(math.isfinite(x) for x in numbers) or (whole and not all(isinstance(x, int) for x in numbers)):
        return False
    if name == "episode_start":
        return all(WARM_UP <= x <= BARS - 1 - LENGTH for x in numbers)
    if name == "episode_length":
        return all(1 <= x <= BARS - 1 - WARM_UP for x in numbers)
    least, below = PARAMETER_BOUNDS[name]
    return all(least <= x < below and (name != "initial_cash" or x > 0) for x in map(float, numbers))


def _check(name: str, value: Any, numbers: np.ndarray) -> None:
    """Check that a parameter is refused, or plays as the same numbers in the plain type."""
    with np.errstate(over="ignore"):
        exact = [x if isinstance(x, int) else float(x) for x in numbers.ravel().tolist()]
    good = _allowed(name, exact)
    found: list[np.ndarray] = []
    must_be(good, lambda: found.extend(play(batch(name, value))), f"lane_parameters.{name}")
    if good:
        same(found, _expected(name, tuple(exact), numbers.shape))


def parameters() -> Iterator[Case]:
    """Each parameter by lane."""
    for name in (name for name in LANE_PARAMETERS if name != "tradable"):
        good = {"initial_cash": 100, "leverage": 1, "episode_start": 7, "episode_length": 7}.get(name, 0)
        for kind in NUMBERS:
            for x in extremes(kind):
                one, whole = np.full(LANES, good, kind), np.asarray(x)
                one[1] = x
                yield f"{name}: {x!r} of {kind}", lambda n=name, a=one: _check(n, a, a)
                yield f"{name}: {x!r} of {kind} for all", lambda n=name, a=whole: _check(n, a, np.full(LANES, a))
            step = 0 if name in ("leverage", *FRACTIONS) else 1
            array = np.array([good + k * step for k in range(LANES)], kind)
            for layout, value, numbers in layouts(array):
                yield f"{name}: {kind} {layout}", lambda n=name, v=value, a=numbers: _check(n, v, a)
        for layout, value in no_numbers(np.ones(LANES)):
            yield f"{name}: {layout}", lambda n=name, v=value: must_refuse(lambda: batch(n, v), f"lane_parameters.{n}")


FRACTIONS = tuple(name for name, (_, below) in PARAMETER_BOUNDS.items() if below == 1.0)


def tables() -> Iterator[Case]:
    """Parameters by lane and symbol, and which symbols may be traded."""
    table = np.linspace(0.0, 0.25, LANES * SYMBOLS).reshape(LANES, SYMBOLS)
    for kind in FLOATS:
        for layout, value, numbers in layouts(table.astype(kind)):
            yield f"fee_rate by symbol: {kind} {layout}", lambda v=value, a=numbers: _check("fee_rate", v, a)
    for layout, value, flags in layouts(table > 0.1):
        yield (
            f"tradable: {layout}",
            lambda v=value, a=flags: same(play(batch("tradable", v)), play(batch("tradable", a.copy()))),
        )
    for kind in NUMBERS:
        ones = np.ones((LANES, SYMBOLS), kind)
        yield f"tradable: {kind}", lambda v=ones: must_refuse(lambda: batch("tradable", v), "lane_parameters.tradable")


# --- whole numbers ----------------------------------------------------------------------------------------------

RANDOM = RULES | {"episode_config": {"length": LENGTH, "random_start": True}}
MOST = 2**63 - 1


def _one(make: Any, **rest: Any) -> Any:
    return make(BASE, RANDOM, **rest)


def _seeded(value: Any, number: int | None) -> None:
    """Check a seed wherever one can be given, and that the same number in another type draws the same."""
    good = number is not None and 0 <= number <= MOST
    found = []
    for make in (BatchTradingEnv, FastTrainingEnv, StatefulTradingEnv, TradingVecEnv):
        must_be(good, lambda m=make: _one(m, seed=value), "seed")
        env = _one(make, seed=0)
        if make is TradingVecEnv:
            must_be(good, lambda e=env: (e.seed(value), e.reset()), "seed")
            found.append(env.get_attr("bar")[0])
        else:
            must_be(good, lambda e=env: e.reset(seed=value), "seed")
            found.append(int(np.ravel(env.bar)[0]))
    if good:
        plain = _one(FastTrainingEnv, seed=0)
        plain.reset(seed=number)
        assert found == [plain.bar] * 4


def scalars() -> Iterator[Case]:
    """Numbers of lanes and threads, seeds, and the options of a reset."""
    alone = {make: _one(make, seed=0) for make in (FastTrainingEnv, StatefulTradingEnv)}

    def within(number: int | None, least: int, most: int) -> bool:
        return number is not None and least <= number <= most

    for text, value, number in whole_numbers():
        if value is not None:
            yield f"seed: {text}", lambda v=value, n=number: _seeded(v, n)
        for make in (BatchTradingEnv, TradingVecEnv):
            yield (
                f"{make.__name__} n_envs: {text}",
                lambda m=make, v=value, n=number: must_be(
                    within(n, 1, 2**20), lambda: _one(m, n_envs=v).reset(), "n_envs"
                ),
            )
        yield (
            f"n_threads: {text}",
            lambda v=value, n=number: must_be(
                within(n, 1, 1024), lambda: _one(BatchTradingEnv, n_threads=v).reset(), "n_threads"
            ),
        )
        for make, env in alone.items():
            for key, least, most in (("lane", 0, MOST), ("episode", 0, MOST), ("start", WARM_UP, BARS - 1 - LENGTH)):
                good = within(number, least, most)
                yield (
                    f"{make.__name__} {key}: {text}",
                    lambda e=env, k=key, v=value, g=good: must_be(g, lambda: e.reset(options={"episode": 0, k: v}), k),
                )
            yield (
                f"{make.__name__} of lane: {text}",
                lambda m=make, v=value, n=number: must_be(within(n, 0, MOST), lambda: _one(m, lane=v).reset(), "lane"),
            )
    for make, env in alone.items():
        name = f"{make.__name__}, the episode after the last"
        yield name, lambda e=env: must_refuse(lambda: (e.reset(options={"episode": MOST}), e.reset()), "episode")
    for make, env in (*alone.items(), (BatchTradingEnv, _one(BatchTradingEnv))):
        for options in ([1], 5, {5: 1}, np.ones(2), "lane", {"lanes": 1}):
            name = f"{make.__name__} options: {options!r}"
            yield name, lambda e=env, o=options: must_refuse(lambda: e.reset(options=o), "options")


# --- configurations ---------------------------------------------------------------------------------------------

WHOLE = (0, -1, 1, 20, 114, 115, 2**31, 2**62, 2**63 - 1, 2**63, 2**64, 10**400, 10**5000, True, 1.0, None, np.int64(5))
REAL = (0.0, -1.0, 5e-324, 1e-300, 1e-100, 1.0, 1e99, 1e100, 1e308, 1.7e308, math.inf, math.nan, 10**400, None, "1")
KEYS = {
    "portfolio_config": ("initial_cash", "trade_limit_percent", "bankruptcy_fraction"),
    "cost_config": ("fee_rate", "fee_fixed", "fee_per_share", "fee_minimum", "slippage_rate", "impact_coefficient"),
    "execution_config": ("lot_size", "min_notional", "participation_limit", "stop_loss", "take_profit"),
    "margin_config": ("leverage", "net_limit", "maintenance_margin"),
    "carry_config": ("cash_rate", "margin_rate", "borrow_rate", "funding_rate"),
    "reward_config": ("reward_scaling",),
}


def _plays(rules: dict[str, Any], *names: str) -> None:
    """Check that rules are refused, or play with observations and bars in range."""
    made: list[BatchTradingEnv] = []
    if refusal(lambda: made.append(BatchTradingEnv(BASE, rules, n_envs=LANES, seed=3)), *names) is not None:
        return
    with np.errstate(all="ignore"):
        bars, *_ = play(made[0], steps=30)
    assert ((bars >= WARM_UP) & (bars < BARS)).all()


def configurations() -> Iterator[Case]:
    """Numbers of a configuration; what they do to the money is another matter."""
    for value in WHOLE:
        text = "10**5000" if value == 10**5000 else repr(value)
        for random_start, desynchronize in ((False, False), (True, False), (True, True)):
            episodes = {"length": value, "random_start": random_start, "desynchronize": desynchronize}
            rules = RULES | {"episode_config": episodes}
            yield f"episodes {text} {random_start}", lambda r=rules: _plays(r, "episode_config.length", "too short")
        for name in ("episode_length", "tradable"):
            for pair in ([1, value], [value, value]):
                rules = RANDOM | {"randomization": {name: pair}}
                yield f"drawn {name} {text}", lambda r=rules, n=name: _plays(r, n, "does not fit", "randomization")
    for big in (1e18, 1e300, 2.0**31, 2.0**63):
        for name in ("episode_length", "tradable", "initial_cash", "fee_fixed"):
            rules = RANDOM | {"randomization": {name: [1, big]}}
            yield f"drawn {name} up to {big}", lambda r=rules, n=name: _plays(r, n, "does not fit")
    for section, keys in KEYS.items():
        for key in keys:
            for number in REAL:
                rules = RULES | {section: (RULES.get(section) or {}) | {key: number}}
                yield f"{section}.{key} {str(number)[:20]}", lambda r=rules, s=section: _plays(r, s)
    for mode, key in (("shares", "max_shares"), ("weights", "max_weight")):
        for number in REAL:
            rules = RULES | {"action_config": {"mode": mode, key: number}}
            yield f"{key} {str(number)[:20]}", lambda r=rules: _plays(r, "action_config")
    yield "a configuration that was checked", lambda: _plays(EnvConfig.model_validate(RULES).model_dump(), "nothing")
