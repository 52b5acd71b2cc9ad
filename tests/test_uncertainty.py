"""Bootstrap intervals, held to arch, to closed forms and to worlds whose truth is known; seeds; and their words."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
from arch.bootstrap import StationaryBootstrap, optimal_block_length
from scipy import stats

from batchenv.config import BacktestConfig, EnvConfig, UncertaintyConfig
from batchenv.errors import ConfigError
from batchenv.features import FeatureScaler
from stateful import BackTesting, StatefulTradingEnv
from stateful import backtest as backtest_module
from stateful.evaluation import uncertainty as uncertainty_module
from stateful.evaluation.bootstrap import common_block_length, mean_block_length, resample, stationary_positions
from stateful.evaluation.estimates import Interval
from stateful.evaluation.seeds import across_seeds
from stateful.evaluation.sharpe import Trials
from stateful.evaluation.uncertainty import FIGURES, MINIMUM_BARS, Difference, hold_together, measure_uncertainty
from stateful.judge import make_judge
from stateful.verdict import headlines, sharpe_sentence, verdicts
from tests.markets import market
from tests.proof.coverage import coverage
from tests.stateful.policies import ConstantAgent, RandomAgent

FEW = UncertaintyConfig(resamples=200)


def returns_of(seed: int, bars: int = 250, accounts: int = 1, rho: float = 0.0) -> np.ndarray:
    shocks = np.random.default_rng(seed).standard_normal((bars, accounts))
    for t in range(1, bars):
        shocks[t] = rho * shocks[t - 1] + math.sqrt(1 - rho * rho) * shocks[t]
    return 0.0005 + 0.01 * shocks


def equity_of(returns: np.ndarray) -> np.ndarray:
    return 1000.0 * np.concatenate([[1.0], np.cumprod(1.0 + returns)])


def measured(agent, baselines=None, config=FEW, **settings):
    settings = {"periods_per_year": 252.0, **settings}
    return measure_uncertainty(agent, baselines or {}, config=config, **settings)


# --- the bootstrap ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bars", [60, 253, 1000])
@pytest.mark.parametrize("rho", [-0.5, 0.0, 0.2, 0.6, 0.95])
def test_block_length_is_that_of_arch(bars, rho):
    for seed in range(3):
        series = returns_of(seed, bars, rho=rho)[:, 0]
        for values in (series, series**2):
            expected = optimal_block_length(values)["stationary"].iloc[0]
            assert mean_block_length(values) == pytest.approx(max(expected, 1.0), rel=1e-9)


def test_the_common_block_length_is_the_longest_of_all_accounts_and_their_squares():
    calm, rough = returns_of(0, 500), returns_of(1, 500, rho=0.7)
    assert common_block_length(np.hstack([calm, rough, np.zeros((500, 1))])) == mean_block_length(rough[:, 0])
    clustered = returns_of(2, 1000) * np.where(np.arange(1000) // 100 % 2, 4.0, 1.0)[:, np.newaxis]
    assert mean_block_length(clustered[:, 0]) < 5 < common_block_length(clustered)


def test_resampled_figures_are_those_of_the_same_bars_drawn_by_arch():
    returns = returns_of(3, 120, accounts=2)
    drawn, growth, sharpe, drawdown = [], [], [], []
    for data, _ in StationaryBootstrap(8, returns, seed=5).bootstrap(50):
        table = pd.DataFrame(data[0])
        wealth = pd.concat([pd.DataFrame([[1.0, 1.0]]), (1 + table).cumprod()])
        growth.append(np.log(wealth.iloc[-1]))
        sharpe.append((table - 0.0001).mean() / table.std())
        drawdown.append((wealth / wealth.cummax() - 1).min())
    bootstrap = StationaryBootstrap(8, returns, seed=5)
    drawn = [bootstrap.index for _ in bootstrap.bootstrap(50)]
    found = resample(returns, np.array(drawn).T, risk_free=0.0001)
    np.testing.assert_allclose(found.growth, growth, rtol=1e-9)
    np.testing.assert_allclose(found.sharpe, sharpe, rtol=1e-9)
    np.testing.assert_allclose(found.drawdown, drawdown, rtol=1e-9)


def test_the_mean_of_resampled_histories_varies_as_the_theory_says():
    """Politis & Romano 1994, lemma 1: the bootstrap variance of the mean in closed form."""
    n, length = 60, 4.0
    series = returns_of(4, n, rho=0.5)
    positions = np.array(list(stationary_positions(n, length, 20_000, np.random.default_rng(0))))
    centred, p = series[:, 0] - series.mean(), 1.0 / length
    covariance = np.array([centred[i:] @ centred[: n - i] / n for i in range(n)])
    lag = np.arange(1, n)
    weight = (1 - lag / n) * (1 - p) ** lag + lag / n * (1 - p) ** (n - lag)
    expected = (covariance[0] + 2 * weight @ covariance[1:]) / n
    assert series[positions, 0].mean(axis=0).var() == pytest.approx(expected, rel=0.04)
    breaks = (np.diff(positions, axis=0) % n != 1).mean()
    assert breaks == pytest.approx(p * (1 - 1 / n), rel=0.02)  # a jump may land on the next bar


# --- intervals ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results():
    env = StatefulTradingEnv(market(0, 160), {"fill": "next_open"}, ["momentum_5"], seed=0)
    settings = {"vectorbt": False, "risk_free_rate": 0.02, "uncertainty": {"resamples": 400}}
    return BackTesting(RandomAgent(4), env, settings, trials=Trials(2, (0.01, 0.02))).run()


def test_the_estimates_are_the_headline_figures(results):
    found = results.uncertainty
    accounts = {"agent": (found.agent, results.metrics)} | {
        name: (found.baselines[name], figures) for name, figures in results.metrics["baselines"].items()
    }
    assert set(found.baselines) == set(found.differences) == set(results.metrics["baselines"])
    for name, (intervals, figures) in accounts.items():
        assert tuple(intervals) == FIGURES
        for figure in FIGURES:
            expected = None if figures[figure] is None else pytest.approx(figures[figure], rel=1e-9, abs=1e-12)
            assert intervals[figure].estimate == expected, name
    difference = found.differences["buy_and_hold"]
    plain = results.metrics["baselines"]["buy_and_hold"]
    for figure in ("total_return", "cagr", "sharpe"):
        expected = results.metrics[figure] - plain[figure]
        assert getattr(difference, figure).estimate == pytest.approx(expected, rel=1e-9)
    assert found.trials == 3 and 0 < found.deflated_sharpe.value < found.probabilistic_sharpe.value < 1


def test_the_metrics_hold_it_as_json(results):
    text = json.dumps(results.metrics["uncertainty"], allow_nan=False)
    found = json.loads(text)
    assert found == results.uncertainty.as_dict()
    assert found["agent"]["sharpe"]["low"] < found["agent"]["sharpe"]["estimate"] < found["agent"]["sharpe"]["high"]
    assert found["level"] == 0.95 and found["resamples"] == 400 and found["bars"] == results.metrics["bars"]


def test_intervals_of_independent_normal_returns_are_those_of_the_textbook():
    """Sharpe: A. Lo, "The statistics of Sharpe ratios", Financial Analysts Journal 58(4), 2002."""
    returns = returns_of(11, 1500)[:, 0]
    found = measured(equity_of(returns), config=UncertaintyConfig(resamples=4000))
    logs, z = np.log1p(returns), stats.norm.ppf(0.975)
    reach = z * logs.std() * math.sqrt(len(logs))
    growth = np.log1p([found.agent["total_return"].low, found.agent["total_return"].high])
    np.testing.assert_allclose(growth, logs.sum() + np.array([-reach, reach]), atol=0.12 * reach)
    ratio = returns.mean() / returns.std(ddof=1)
    reach = z * math.sqrt((1 + ratio**2 / 2) / len(returns) * 252)
    sharpe = found.agent["sharpe"]
    np.testing.assert_allclose([sharpe.low, sharpe.high], ratio * math.sqrt(252) + np.array([-reach, reach]), atol=0.12)


def test_a_difference_is_measured_history_by_history():
    """An agent that is the baseline less a fee at every bar is worse for certain, though both intervals overlap."""
    market_returns = returns_of(5, 300)[:, 0]
    agent = equity_of((1 + market_returns) * (1 - 0.0002) - 1)
    found = measured(agent, {"index": equity_of(market_returns)})
    gap = found.differences["index"]
    assert found.agent["cagr"].high > found.baselines["index"]["cagr"].estimate
    assert gap.distinguishable and gap.cagr.high < 0 and gap.probability_better == 0.0
    assert gap.p_value == pytest.approx(2 / 201)


def test_an_agent_that_is_the_baseline_is_not_told_from_it():
    equity = equity_of(returns_of(6)[:, 0])
    gap = measured(equity, {"same": equity}).differences["same"]
    assert (gap.cagr.low, gap.cagr.estimate, gap.cagr.high) == (0.0, 0.0, 0.0)
    assert gap.probability_better == 0.5 and gap.p_value == 1.0 and gap.distinguishable is False


def test_the_seed_decides_and_nothing_else():
    equity = equity_of(returns_of(7)[:, 0])
    first, again, other = (measured(equity, config=UncertaintyConfig(resamples=200, seed=s)).agent for s in (1, 1, 2))
    assert first == again
    assert first["sharpe"] != other["sharpe"] and first["sharpe"].estimate == other["sharpe"].estimate


@pytest.mark.parametrize("world", ["independent", "AR(1) 0.2", "GARCH"])
def test_intervals_cover_the_truth(world):
    """Nominal 95%; the long run of the same is ``python -m tests.proof.coverage``."""
    found = coverage(world, bars=200, simulations=150, resamples=200).parts
    for figure in ("growth", "sharpe", "growth gap", "sharpe gap"):
        assert 0.90 <= found[figure] <= 0.99, (figure, found)
    assert found["drawdown"] >= 0.75  # takes drift and volatility as known, and says so


def test_the_check_of_coverage_notices_intervals_that_ignore_dependence(monkeypatch):
    monkeypatch.setattr(uncertainty_module, "common_block_length", lambda returns: 1.0)
    assert coverage("AR(1) 0.4", bars=200, simulations=150, resamples=200).parts["growth"] < 0.88


# --- what cannot be had -------------------------------------------------------------------------------------


def test_too_few_bars_give_a_reason_and_no_number():
    equity = equity_of(returns_of(8, 12)[:, 0])
    found = measured(equity, {"index": equity}, trials=Trials(1, (0.1,)))
    reason = f"not enough data (needs {MINIMUM_BARS} bars, has 12)"
    gap = found.differences["index"]
    for interval in (*found.agent.values(), *found.baselines["index"].values(), gap.cagr, gap.sharpe):
        assert (interval.estimate, interval.low, interval.high, interval.reason) == (None, None, None, reason)
    for figure in (found.probabilistic_sharpe, found.deflated_sharpe, found.minimum_track_record):
        assert figure.value is None and figure.reason == reason
    assert gap.distinguishable is gap.probability_better is gap.p_value is found.mean_block_length is None


def test_an_account_that_ended_early_or_lost_everything_has_a_reason_and_the_others_their_intervals():
    returns = returns_of(9, 100, accounts=2)
    whole, ended = equity_of(returns[:, 0]), equity_of(returns[:40, 1])
    found = measured(ended, {"whole": whole, "ruin": np.append(whole[:-1], 0.0)})
    assert found.agent["cagr"].reason == "the account ended early, after 40 of 100 bars"
    assert found.baselines["ruin"]["sharpe"].reason == "the account lost everything"
    assert found.baselines["whole"] == measured(whole).agent
    assert found.differences["whole"].cagr.reason == found.agent["cagr"].reason == found.deflated_sharpe.reason
    turned = measured(whole, {"ended": ended}).differences["ended"]
    assert turned.cagr.reason == "of the baseline, the account ended early, after 40 of 100 bars"


def test_an_account_that_hardly_moves_has_growth_but_no_sharpe_interval():
    returns = returns_of(10, 100)[:, 0]
    once = np.zeros(100)
    once[50] = 0.01
    found = measured(equity_of(returns), {"cash": np.full(101, 5.0), "once": equity_of(once)})
    cash, single = found.baselines["cash"], found.baselines["once"]
    assert (cash["cagr"].low, cash["max_drawdown"].high) == (0.0, 0.0)
    assert cash["sharpe"].reason == "needs at least two returns that differ"
    assert single["sharpe"].estimate is not None and single["sharpe"].low is None
    assert "too few bars" in single["sharpe"].reason
    assert found.differences["cash"].distinguishable is not None
    assert measured(np.full(101, 5.0)).probabilistic_sharpe.reason == "needs at least two returns that differ"


def test_a_year_made_of_minutes_does_not_overflow():
    found = measured(equity_of(np.full(80, 0.01) + returns_of(1, 80)[:, 0]), periods_per_year=525_600.0)
    assert found.agent["cagr"].low is None and "beyond any number" in found.agent["cagr"].reason
    assert found.agent["total_return"].low > 0
    json.dumps(found.as_dict(), allow_nan=False)


def test_it_can_be_switched_off_and_the_judge_of_training_does_so(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("resampled")

    monkeypatch.setattr(backtest_module, "measure_uncertainty", refuse)
    config = EnvConfig(features=("momentum_5",))
    scaler = FeatureScaler(("momentum_5",), (0.0,), (1.0,))
    judged = make_judge(market(0, 100), config, scaler, BacktestConfig())(RandomAgent(4))
    assert judged["total_return"] is not None
    env = StatefulTradingEnv(market(0, 100), config, seed=0)
    off = BackTesting(RandomAgent(4), env, {"vectorbt": False, "uncertainty": {"resamples": 0}}).run()
    assert off.uncertainty is None and off.metrics["uncertainty"] is None
    assert "luck" not in " ".join(map(str, off.headlines))
    with pytest.raises(AssertionError, match="resampled"):
        BackTesting(ConstantAgent(np.zeros(4)), env, {"vectorbt": False}).run()


@pytest.mark.parametrize("wrong", [{"resamples": 50}, {"resamples": -1}, {"level": 1.0}, {"level": 0.2}, {"seed": -1}])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ConfigError, match=rf"uncertainty.*{next(iter(wrong))}"):
        BacktestConfig.model_validate({"uncertainty": wrong})


# --- seeds --------------------------------------------------------------------------------------------------


def test_seeds_are_summarised_as_scipy_does():
    values = [0.9, 0.4, 0.55, 1.3, 0.2, 0.75, 0.6, 0.5, -0.4]
    found = across_seeds([*values, None])
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    assert found.seeds == 9 and (found.worst, found.median, found.best) == (-0.4, 0.55, 1.3)
    np.testing.assert_allclose([found.mean.low, found.mean.estimate, found.mean.high], [low, np.mean(values), high])
    assert found.iqm == pytest.approx(stats.trim_mean(values, 0.25), rel=1e-12)


def test_one_seed_has_no_interval():
    one, none = across_seeds([0.7]), across_seeds([None])
    assert (one.mean.estimate, one.mean.low, one.iqm) == (0.7, None, 0.7)
    assert one.mean.reason == "not enough data (needs 2 seeds, has 1)"
    assert none.median is None and none.mean.reason == "not enough data (needs 2 seeds, has 0)"


# --- words --------------------------------------------------------------------------------------------------


def account(total_return, sharpe=1.0):
    return {"total_return": total_return, "sharpe": sharpe, "max_drawdown": -0.1, "bars": 252}


def told(agent, others, clear=(), alone=(), reason=None):
    """Metrics with baselines ``b0``, ``b1`` ..., of which those in ``clear`` are distinguishable, ``alone`` or not."""
    differences = {}
    for i, other in enumerate(others):
        gap = agent - other
        low, high = (gap - 0.02, gap + 0.02) if i in (*clear, *alone) else (gap - 9, gap + 9)
        yearly = {"low": None if reason else low, "high": None if reason else high, "reason": reason}
        differences[f"b{i}"] = {
            "cagr": yearly,
            "distinguishable": None if reason else i in (*clear, *alone),
            "distinguishable_together": None if reason else i in clear,
        }
    figure = {"value": None, "reason": reason or "nobody counted"}
    uncertainty = {
        "level": 0.95, "differences": differences, "trials": None,
        "probabilistic_sharpe": figure if reason else {"value": 0.934, "reason": None}, "deflated_sharpe": figure,
    }  # fmt: skip
    baselines = {f"b{i}": account(other) for i, other in enumerate(others)}
    labels = {f"b{i}": f"rule {i}" for i in range(len(others))}
    return {**account(agent), "baselines": baselines, "uncertainty": uncertainty}, labels


def test_a_comparison_says_whether_luck_explains_it():
    metrics, labels = told(0.3, [0.2, 0.5], clear=[1])
    luck, skill = verdicts(metrics, labels)
    assert luck.distinguishable is False and skill.distinguishable is True
    assert str(luck).startswith("The agent beat rule 0: +30.0% against +20.0% (+10.0 points) after costs. With 95%")
    assert "lies between -890.0 and +910.0 points: not distinguishable from luck." in luck.detail
    assert "lies between -22.0 and -18.0 points: distinguishable from luck." in skill.detail
    assert "Sharpe ratio is the same" in luck.detail


def test_what_holds_by_itself_alone_is_said_to():
    metrics, labels = told(0.3, [0.2, 0.5], alone=[1])
    summary = headlines(metrics, labels)[0]
    assert (
        summary.detail
        == "With 95% confidence in all of them together none of the 2 differences is distinguishable from luck."
    )
    assert (
        "points: distinguishable from luck, taken by itself, and not among all baselines."
        in verdicts(metrics, labels)[1].detail
    )


def test_holm_counts_the_comparisons():
    """By hand: of three p-values at 95% the least must reach 0.05 / 3, the next 0.05 / 2, the last 0.05."""
    some = Interval(0.1, 0.05, 0.15)

    def decided(*p_values):
        gaps = {f"b{k}": Difference(some, some, some, 0.99, p, True) for k, p in enumerate(p_values)}
        return [gap.distinguishable_together for gap in hold_together(gaps, 0.95).values()]

    assert decided(0.01, 0.02, 0.04) == [True, True, True]
    assert decided(0.06, 0.02, 0.001) == [False, True, True]
    assert decided(0.017, 0.001, 0.026) == [True, True, True]
    assert decided(0.04, 0.03, 0.02) == [False, False, False]
    assert decided(0.0502) == [True], "a comparison that stands alone is what its interval says"
    missing = Difference(some, some, some, None, None, None)
    assert hold_together({"gone": missing}, 0.95)["gone"].distinguishable_together is None


def test_the_first_lines_sum_up_all_baselines():
    metrics, labels = told(0.3, [0.1, 0.2, 0.5, 0.0], clear=[2, 3])
    summary, plain = headlines(metrics, labels)
    assert summary.headline == (
        "After costs the agent beat 3 of 4 baselines, but not the best of them, rule 2 (+50.0% against its +30.0%)."
    )
    assert summary.outcome == "level" and plain.baseline == "b0"
    assert summary.detail == (
        "With 95% confidence in all of them together 2 of the 4 differences are distinguishable from luck: "
        "better than rule 3 and worse than "
        "rule 2."
    )
    won, lost = (headlines(*told(agent, [0.1, 0.2]))[0] for agent in (0.3, 0.0))
    assert (
        won.headline
        == "After costs the agent beat all 2 baselines; the best of them was rule 1 (+20.0% against its +30.0%)."
    )
    assert (won.outcome, lost.outcome) == ("beat", "lost")
    assert lost.headline.startswith("After costs the agent beat none of the 2 baselines; the best of them was rule 1 (")
    assert (
        lost.detail
        == "With 95% confidence in all of them together none of the 2 differences is distinguishable from luck."
    )
    everything = headlines(*told(0.9, [0.1, 0.2], clear=[0, 1]))[0].detail
    assert everything.endswith("all of the 2 differences are distinguishable from luck: better than rule 0 and rule 1.")


def test_buy_and_hold_comes_second_and_a_single_baseline_needs_no_summary():
    metrics, labels = told(0.3, [0.1, 0.2])
    for table in (metrics["baselines"], metrics["uncertainty"]["differences"], labels):
        table["buy_and_hold"] = table.pop("b1")
    assert [verdict.baseline for verdict in headlines(metrics, labels)] == ["all", "buy_and_hold"]
    assert [verdict.baseline for verdict in headlines(*told(0.3, [0.1]))] == ["b0"]
    assert headlines({**account(0.3), "baselines": {}, "uncertainty": None}, {}) == ()


def test_what_cannot_be_said_is_said_with_its_reason():
    metrics, labels = told(0.3, [0.1, 0.2], reason="not enough data (needs 60 bars, has 12)")
    summary, plain = headlines(metrics, labels)
    assert (
        summary.detail
        == "Whether luck explains the differences cannot be said: not enough data (needs 60 bars, has 12)."
    )
    assert plain.detail.startswith(
        "Whether luck explains the difference cannot be said: not enough data (needs 60 bars,"
    )
    assert sharpe_sentence(metrics) == (
        "What the Sharpe ratio proves cannot be said: not enough data (needs 60 bars, has 12)."
    )


def test_the_sharpe_ratio_is_said_to_be_one_of_so_many():
    metrics, _ = told(0.3, [0.1])
    start = "The true Sharpe ratio is above 0 with a probability of 93.4% if bars are independent of each other"
    assert sharpe_sentence(metrics) == f"{start}, taken by itself; nobody counted."
    dependent = {"probabilistic_sharpe": {"value": 0.88, "reason": None}, "deflated_sharpe": {"value": 0.55}}
    metrics["uncertainty"]["dependent"] = dependent
    start += ", and of 88.0% with their dependence counted, taken by itself"
    assert sharpe_sentence(metrics) == f"{start}; nobody counted."
    metrics["uncertainty"] |= {"trials": 12, "deflated_sharpe": {"value": 0.61, "reason": None}}
    assert sharpe_sentence(metrics) == (
        f"{start}, and of 61.0% and 55.0% once the 12 configurations known to have been tried on these bars are "
        "counted."
    )
    assert sharpe_sentence({"uncertainty": None}) is None
