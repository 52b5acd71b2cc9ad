"""Probabilistic and deflated Sharpe ratio, and track record length: the papers' own numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from batchenv.config import UncertaintyConfig
from stateful.evaluation.sharpe import (
    Record,
    Trials,
    deflated_sharpe,
    expected_maximum_sharpe,
    minimum_track_record,
    probabilistic_sharpe,
    variance_of_trials,
)
from stateful.evaluation.uncertainty import measure_uncertainty


@pytest.mark.parametrize(("skewness", "kurtosis", "published"), [(0.0, 3.0, 0.982), (-2.448, 10.164, 0.913)])
def test_the_probabilistic_sharpe_ratio_of_the_paper(skewness, kurtosis, published):
    """Bailey & Lopez de Prado 2012, section 4: 24 months with a monthly ratio of 0.458."""
    found = probabilistic_sharpe(Record(24, 0.458, skewness, kurtosis))
    assert found == pytest.approx(published, abs=0.0005)


@pytest.mark.parametrize(
    ("periods", "skewness", "kurtosis", "years"),
    [(252, 0.0, 3.0, 2.73), (52, 0.0, 3.0, 2.83), (12, 0.0, 3.0, 3.24), (12, -0.72, 5.78, 4.99)],
)
def test_the_minimum_track_record_of_the_paper(periods, skewness, kurtosis, years):
    """2012, section 5: a yearly ratio of 2 against 1, at 95%; the last with the skew and kurtosis of hedge funds."""
    record = Record(100, 2 / math.sqrt(periods), skewness, kurtosis)
    found = minimum_track_record(record, benchmark=1 / math.sqrt(periods))
    assert found / periods == pytest.approx(years, abs=0.005)
    enough = Record(math.ceil(found), record.sharpe, skewness, kurtosis)
    short = Record(math.floor(found), record.sharpe, skewness, kurtosis)
    assert (
        probabilistic_sharpe(short, 1 / math.sqrt(periods))
        < 0.95
        <= probabilistic_sharpe(enough, 1 / math.sqrt(periods))
    )


def test_the_deflated_sharpe_ratio_of_the_paper():
    """Bailey & Lopez de Prado 2014, numerical example: five years of 250 days, a yearly ratio of 2.5."""
    skewed, normal = Record(1250, 2.5 / math.sqrt(250), -3.0, 10.0), Record(1250, 2.5 / math.sqrt(250))
    variance = 0.5 / 250
    assert expected_maximum_sharpe(100, variance) == pytest.approx(0.1132, abs=5e-5)
    assert deflated_sharpe(skewed, 100, variance) == pytest.approx(0.9004, abs=5e-5)
    assert deflated_sharpe(skewed, 46, variance) == pytest.approx(0.9505, abs=5e-5)
    assert deflated_sharpe(normal, 88, variance) == pytest.approx(0.9505, abs=5e-5)


@pytest.mark.parametrize("trials", [5, 20, 100])
def test_the_expected_maximum_is_that_of_as_many_draws(trials):
    drawn = np.random.default_rng(0).normal(0.0, 0.3, (40_000, trials)).max(axis=1)
    assert expected_maximum_sharpe(trials, 0.09) == pytest.approx(drawn.mean(), rel=0.03)


def test_a_record_has_the_moments_of_scipy():
    returns = np.random.default_rng(1).gamma(2.0, 0.01, 400) - 0.015
    found = Record.of(returns, risk_free=0.0002)
    excess = returns - 0.0002
    assert found.sharpe == pytest.approx(excess.mean() / excess.std(ddof=1), rel=1e-12)
    assert found.skewness == pytest.approx(stats.skew(excess), rel=1e-9)
    assert found.kurtosis == pytest.approx(stats.kurtosis(excess, fisher=False), rel=1e-9)


def test_two_valued_returns_have_an_error_and_not_a_division_by_zero():
    record = Record.of(np.tile([0.02, -0.01, 0.02], 30))
    assert 0.0 <= probabilistic_sharpe(record) <= 1.0
    assert 0.0 <= probabilistic_sharpe(Record(90, 1.0, 2.0, 5.0)) <= 1.0


def found(returns, trials):
    equity = np.concatenate([[1.0], np.cumprod(1.0 + returns)])
    config = UncertaintyConfig(resamples=200)
    return measure_uncertainty(equity, {}, config=config, periods_per_year=252.0, trials=trials)


def test_a_backtest_is_deflated_by_what_else_was_tried():
    returns = np.random.default_rng(2).normal(0.001, 0.01, 300)
    record = Record.of(returns)
    others = (0.01, -0.05, 0.04)
    result = found(returns, Trials(4, others))
    variance = np.var([record.sharpe, *others], ddof=1)
    assert variance_of_trials(record, Trials(4, others)) == pytest.approx(variance)
    assert result.trials == 5
    assert result.deflated_sharpe.value == pytest.approx(deflated_sharpe(record, 5, variance), rel=1e-12)
    assert result.probabilistic_sharpe.value == pytest.approx(probabilistic_sharpe(record), rel=1e-12)
    assert result.minimum_track_record.value == pytest.approx(minimum_track_record(record), rel=1e-12)


def test_without_other_trials_there_is_a_reason_and_no_number():
    returns = np.random.default_rng(2).normal(-0.001, 0.01, 300)
    for trials, reason in (
        (None, "is not known"),
        (Trials(0), "only one configuration is known to have been tried"),
        (Trials(3), "4 configurations were tried, but no other Sharpe ratio"),
    ):
        figure = found(returns, trials).deflated_sharpe
        assert figure.value is None and reason in figure.reason
    assert found(returns, None).minimum_track_record.reason == "the Sharpe ratio is not above 0, so no length is enough"
