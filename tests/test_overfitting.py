"""The probability of backtest overfitting: by hand, by the paper's recipe in plain loops, and in known worlds."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import rankdata

from batchenv.errors import ConfigError
from stateful.evaluation.overfitting import probability_of_overfitting


def blocks_of(means, bars=10):
    """Returns of a fluctuation that is the same everywhere, on top of a mean for each block and configuration."""
    wave = np.tile([1.0, -1.0], bars // 2)[:, np.newaxis]
    return np.vstack([wave + 0.01 * np.asarray(mean) for mean in zip(*means, strict=True)])


def test_by_hand():
    """Three configurations in four blocks; the sums of a pair of blocks are its order of Sharpe ratios.

    pair chosen on   A    B    C      chosen   the other pair   A    B    C      rank   logit
    1, 2             4    3    4.5    C        3, 4             0    0    3      3      log 3
    1, 3             4    0    3.5    A        2, 4             0    3    4      1      -log 3
    1, 4             4    0    3.5    A        2, 3             0    3    4      1      -log 3
    2, 3             0    3    4      C        1, 4             4    0    3.5    2      0
    2, 4             0    3    4      C        1, 3             4    0    3.5    2      0
    3, 4             0    0    3      C        1, 2             4    3    4.5    3      log 3
    """
    found = probability_of_overfitting(blocks_of([[4, 0, 0, 0], [0, 3, 0, 0], [2, 2.5, 1.5, 1.5]]), blocks=4)
    np.testing.assert_allclose(found.logits, np.log(3) * np.array([1, -1, -1, 0, 0, 1]), atol=1e-12)
    assert found.probability == pytest.approx(4 / 6)
    assert (found.configurations, found.blocks, found.reason) == (3, 4, None)


def test_equals_share_the_mean_of_their_ranks():
    """Chosen on 1: A, which on 2 is the worst together with its double: rank 1.5 of 3. Chosen on 2: C."""
    found = probability_of_overfitting(blocks_of([[4, 0], [4, 0], [1, 2]]), blocks=2)
    np.testing.assert_allclose(found.logits, np.log([1.5 / 2.5, 1 / 3]), atol=1e-9)


def naive(returns, blocks):
    parts = np.array_split(np.arange(len(returns)), blocks)
    logits = []
    for chosen in combinations(range(blocks), blocks // 2):
        inside = np.concatenate([parts[i] for i in chosen])
        outside = np.setdiff1d(np.arange(len(returns)), inside)
        first, second = (returns[rows].mean(axis=0) / returns[rows].std(axis=0) for rows in (inside, outside))
        relative = rankdata(second)[first.argmax()] / (returns.shape[1] + 1)
        logits.append(np.log(relative / (1 - relative)))
    return np.array(logits)


@pytest.mark.parametrize(("bars", "configurations", "blocks"), [(240, 5, 6), (251, 12, 8), (130, 3, 10)])
def test_the_recipe_in_plain_loops_gives_the_same(bars, configurations, blocks):
    rng = np.random.default_rng(bars)
    returns = 0.001 + rng.normal(0.0, 0.01, (bars, configurations)) * rng.uniform(0.5, 3.0, configurations)
    found, expected = probability_of_overfitting(returns, blocks).logits, naive(returns, blocks)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_pure_noise_is_a_coin_toss_on_average():
    rng = np.random.default_rng(3)
    found = [probability_of_overfitting(rng.normal(0, 0.01, (160, 20)), 8).probability for _ in range(300)]
    assert np.mean(found) == pytest.approx(0.5, abs=0.04)


def test_a_configuration_that_is_really_better_is_found():
    returns = np.random.default_rng(4).normal(0, 0.01, (800, 20))
    returns[:, 7] += 0.003
    assert probability_of_overfitting(returns).probability < 0.01


def test_configurations_that_only_fit_their_half_are_found_out():
    found = probability_of_overfitting(blocks_of([[3, -3], [-3, 3]]), blocks=2)
    assert found.probability == 1.0


def test_accounts_that_never_moved_rank_at_zero():
    returns = np.random.default_rng(5).normal(0.002, 0.01, (200, 3))
    returns[:, 2] = 0.0
    assert probability_of_overfitting(returns, 4).probability == 0.0


def test_too_little_gives_a_reason_and_no_number():
    noise = np.random.default_rng(6).normal(0, 0.01, (127, 4))
    short, alone = probability_of_overfitting(noise), probability_of_overfitting(noise[:, :1], 4)
    assert (short.probability, short.reason) == (None, "not enough data (needs 128 bars, has 127)")
    assert (alone.probability, alone.reason) == (None, "not enough data (needs 2 configurations, has 1)")
    assert len(short.logits) == 0


@pytest.mark.parametrize(
    ("returns", "blocks", "message"),
    [
        (np.zeros((100, 3)), 5, "blocks: got 5, expected an even number from 2 to 20"),
        (np.zeros((100, 3)), 22, "blocks: got 22"),
        (np.zeros(100), 4, "expected a matrix"),
        (np.full((100, 3), np.nan), 4, "expected a matrix"),
    ],
)
def test_what_makes_no_sense_is_refused(returns, blocks, message):
    with pytest.raises(ConfigError, match=message):
        probability_of_overfitting(returns, blocks)
