"""Differential fuzz: hypothesis draws a world, and every lane of the batch must equal one stateful run.

A small budget, the same every time. ``make proof`` runs ten million lane-steps of the same worlds.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stateful.verify import VerificationError, compare
from tests.proof.scenarios import scenario

QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=QUIET, database=None)
@given(st.randoms(use_true_random=False))
def test_both_tiers_agree_in_every_small_world(r: random.Random) -> None:
    world = scenario(r, n_bars=12, n_symbols=2, n_envs=2, steps=10)
    compare(
        world.market,
        world.config,
        lambda step, _: world.actions[step],
        n_envs=2,
        steps=10,
        seed=world.seed,
        lane_parameters=world.lane_parameters,
    )


@pytest.mark.parametrize("seed", range(60))
def test_both_tiers_agree_in_larger_worlds(seed: int) -> None:
    r = random.Random(seed)
    world = scenario(r, n_bars=60, n_symbols=r.randrange(1, 5), n_envs=4, steps=80)
    certificate = compare(
        world.market,
        world.config,
        lambda step, _: world.actions[step],
        n_envs=4,
        steps=80,
        seed=world.seed,
        lane_parameters=world.lane_parameters,
    )
    assert certificate.lane_steps == 320


def test_a_disagreement_is_told_with_both_accounts() -> None:
    """The comparison itself must be able to fail: two different rule sets are told apart, with where and what."""
    world = scenario(random.Random(4), n_bars=30, n_symbols=2, n_envs=2, steps=20)
    free = world.config.updated(cost_config={"fee_rate": 0.0, "slippage_rate": 0.0})
    costly = world.config.updated(cost_config={"fee_rate": 0.05, "slippage_rate": 0.0})

    import stateful.verify as verify

    original = verify.StatefulTradingEnv
    try:
        verify.StatefulTradingEnv = lambda market, _, **rest: original(market, costly, **rest)  # type: ignore
        with pytest.raises(VerificationError, match=r"lane \d, episode \d+ from bar \d+"):
            compare(world.market, free, lambda step, _: world.actions[step], n_envs=2, steps=20, seed=1)
    finally:
        verify.StatefulTradingEnv = original  # type: ignore


def test_scenarios_cover_every_rule() -> None:
    """The generator reaches every rule, mode and fault within the budget of this file."""
    from tests.proof.scenarios import FAULTS

    seen: set[str] = set()
    for seed in range(400):
        r = random.Random(seed)
        seen |= set(scenario(r, n_bars=12, n_symbols=2, n_envs=1, steps=1).covered)
    for name in (*(f"market: {fault}" for fault in FAULTS), "short", "lots", "funding column", "drawn leverage"):
        assert name in seen
    assert len(seen) >= 48, sorted(seen)
