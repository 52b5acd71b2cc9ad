"""The self-check: its closed form against three other ways to the optimum, and that it can pass and fail."""

from __future__ import annotations

import itertools
import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from batchenv.cli import main
from stateful import StatefulTradingEnv
from stateful.evaluation import selfcheck
from stateful.evaluation.planted import TREND, TrendMarket, TrendRule
from stateful.evaluation.selfcheck import ENOUGH, MARKETS, RULES, Outcome, SelfCheck, Trial, run_selfcheck, run_trial

FEE, SLIPPAGE = 0.001, 0.0005
BUY, SELL = 1 / ((1 + SLIPPAGE) * (1 + FEE)), (1 - SLIPPAGE) * (1 - FEE)
SEVERAL = {
    "the product's": TrendMarket(),
    "patience does not pay": TrendMarket(move=0.01, confirmation=0.8),
    "costs eat it": TrendMarket(move=0.0004),
    "noise": TrendMarket(continuation=0.5, confirmation=0.5),
}
BUDGET = 300_000


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


# --- the optimum ------------------------------------------------------------------------------------------------


def up_probability(market: TrendMarket, before: int, last: int) -> float:
    repeat = market.continuation if before == last else market.confirmation
    return repeat if last > 0 else 1 - repeat


STATES = list(itertools.product((-1, 1), (-1, 1), (0, 1)))
"""The last two moves, and whether the account is in."""


def growth_of_rule(market: TrendMarket, rule: dict[tuple[int, int, int], int]) -> float:
    """Growth per bar of a stationary rule, by the stationary distribution of its eight states."""
    chain, reward = np.zeros((8, 8)), np.zeros(8)
    for i, (before, last, held) in enumerate(STATES):
        hold = rule[before, last, held]
        reward[i] = {(0, 1): np.log(BUY), (1, 0): np.log(SELL)}.get((held, hold), 0.0)
        up = up_probability(market, before, last)
        for move, probability in ((1, up), (-1, 1 - up)):
            chain[i, STATES.index((last, move, hold))] += probability
            reward[i] += probability * hold * np.log1p(market.move * move)
    limit = np.linalg.matrix_power(0.5 * chain + 0.5 * np.eye(8), 2**20)
    return float((limit @ reward).max())


@pytest.mark.parametrize("market", SEVERAL.values(), ids=SEVERAL)
def test_the_closed_form_is_the_best_of_all_256_rules(market: TrendMarket) -> None:
    formula = market.growth(FEE, SLIPPAGE)
    choices = itertools.product((0, 1), repeat=8)
    found = max(growth_of_rule(market, dict(zip(STATES, choice, strict=True))) for choice in choices)
    assert formula.best == pytest.approx(found, abs=1e-12)
    patient = {state: int(state[1] > 0) if state[0] == state[1] else state[2] for state in STATES}
    eager = {state: int(state[1] > 0) for state in STATES}
    assert formula.patient == pytest.approx(growth_of_rule(market, patient), abs=1e-12)
    assert formula.eager == pytest.approx(growth_of_rule(market, eager), abs=1e-12)


def test_which_rule_is_best_depends_on_moves_and_costs() -> None:
    names = {name: market.growth(FEE, SLIPPAGE) for name, market in SEVERAL.items()}
    assert names["the product's"].best == names["the product's"].patient
    assert names["patience does not pay"].best == names["patience does not pay"].eager
    assert names["costs eat it"].best == names["noise"].best == 0
    free = TrendMarket().growth(0.0, 0.0)
    assert free.best == free.eager


def test_positions_between_all_and_nothing_do_not_help() -> None:
    """Relative value iteration over the last two moves and 41 weights, each weight reachable from each at its cost."""
    market, grid = TrendMarket(), np.linspace(0, 1, 41)
    now, then = grid[:, None], grid[None, :]
    bought = np.maximum(then - now, 0) / (1 + then * (1 / BUY - 1))
    sold = np.maximum(now - then, 0) / (1 - then * (1 - SELL))
    cost = np.log(1 - bought * (1 / BUY - 1) - sold * (1 - SELL))  # [weight now, weight then]
    moves = list(itertools.product((-1, 1), (-1, 1)))
    value = {pair: np.zeros(len(grid)) for pair in moves}
    growth = np.inf
    for _ in range(3000):
        after = {}
        for before, last in moves:
            up = up_probability(market, before, last)
            gain = np.zeros(len(grid))
            for move, probability in ((1, up), (-1, 1 - up)):
                factor = 1 + grid * market.move * move
                drifted = grid * (1 + market.move * move) / factor
                gain += probability * (np.log(factor) + np.interp(drifted, grid, value[last, move]))
            after[before, last] = (cost + gain).max(axis=1)
        change = np.concatenate([after[pair] - value[pair] for pair in moves])
        growth, value = float(change.max()), {pair: after[pair] - after[1, 1][0] for pair in moves}
        if np.ptp(change) < 1e-12:
            break
    assert growth == pytest.approx(market.growth(FEE, SLIPPAGE).best, abs=1e-10)


def play(market: Any, rule: Any) -> float:
    env = StatefulTradingEnv(market, RULES.updated(episode_config={}))
    env.reset()
    over = False
    while not over:
        *_, over, info = env.step_orders(rule.orders(env))
    return float(np.log(info["equity"] / env.portfolio.initial_cash))


@pytest.mark.parametrize("patient", [True, False])
def test_an_account_that_follows_the_rule_grows_as_the_formula_says(patient: bool) -> None:
    planted, n_bars = TrendMarket(), 12_000
    market = planted.market(n_bars, seed=11)
    grown = play(market, TrendRule(patient))

    moves = np.sign(np.diff(market.close[:, TREND]))
    first = int(StatefulTradingEnv(market, RULES).task.features.first_bar)
    held, expected = 0, 0.0
    for bar in range(first, n_bars - 1):  # moves[bar] comes after bar
        before, last = moves[bar - 2], moves[bar - 1]
        hold = int(last > 0) if before == last or not patient else held
        expected += {1: np.log(BUY), -1: np.log(SELL)}.get(hold - held, 0.0)
        expected += hold * np.log1p(planted.move * moves[bar])
        held = hold
    assert grown == pytest.approx(expected, abs=1e-9)

    formula = planted.growth(FEE, SLIPPAGE)
    rate, steps = formula.patient if patient else formula.eager, n_bars - 1 - first
    # Runs of moves last 1 / (1 - q) bars or so: that many times the variance of independent moves.
    error = planted.move * np.sqrt(0.5 / (1 - planted.continuation) / steps)
    assert abs(grown / steps - rate) < 3 * error < 0.4 * rate


# --- the market -------------------------------------------------------------------------------------------------


def test_the_market_moves_as_it_says() -> None:
    planted = TrendMarket()
    market = planted.market(100_000, seed=3)
    assert market.open is not None
    np.testing.assert_array_equal(market.open[1:], market.close[:-1])
    returns = market.close[1:] / market.close[:-1] - 1
    np.testing.assert_allclose(np.abs(returns), planted.move, rtol=1e-9)
    moves = returns > 0
    repeats = moves[1:] == moves[:-1]
    again, turned = repeats[1:][repeats[:-1][:, TREND], TREND], repeats[1:][~repeats[:-1][:, TREND], TREND]
    assert again.mean() == pytest.approx(planted.continuation, abs=0.005)
    assert turned.mean() == pytest.approx(planted.confirmation, abs=0.015)
    for coin in {0, 1, 2} - {TREND}:
        assert moves[:, coin].mean() == pytest.approx(0.5, abs=0.007)
        assert repeats[:, coin].mean() == pytest.approx(0.5, abs=0.007)
    assert market.symbols[TREND] == "TREND"
    assert planted.market(50, 3).fingerprint == planted.market(50, 3).fingerprint
    assert planted.market(50, 3).fingerprint != planted.market(50, 4).fingerprint


def test_noise_has_no_trend() -> None:
    closes = MARKETS["noise"].market(100_000, seed=3).close
    moves = np.diff(closes, axis=0) > 0
    for lag in (1, 2, 3):
        assert np.abs((moves[lag:] == moves[:-lag]).mean(axis=0) - 0.5).max() < 0.007


# --- the check --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planted() -> Outcome:
    return run_trial(Trial("planted", 0, BUDGET))


@pytest.fixture(scope="module")
def noise() -> Outcome:
    return run_trial(Trial("noise", 0, 40_000))


def test_a_small_budget_already_learns_most(planted: Outcome) -> None:
    assert planted.share() > 0.8
    assert planted.share("eager") < ENOUGH
    assert planted.share("buy_and_hold") < 0.5
    assert planted.share("patient") == 1
    assert planted.distinguishable
    assert "distinguishable from luck" in planted.verdict


def test_without_the_signal_the_same_budget_fails(planted: Outcome) -> None:
    blind = RULES.updated(features=["volume_zscore_20", "volatility_20"])
    outcome = run_trial(Trial("planted", 0, BUDGET, blind))
    np.testing.assert_array_equal(outcome.equity["buy_and_hold"], planted.equity["buy_and_hold"])
    assert outcome.share() < 0.5


def test_the_report_finds_nothing_in_noise(planted: Outcome, noise: Outcome) -> None:
    assert "not distinguishable from luck" in noise.verdict
    assert noise.growth() <= noise.growth_before_costs
    good = replace(planted, equity=planted.equity | {"agent": planted.equity["patient"]})
    check = SelfCheck((noise, good), BUDGET)
    assert check.silent
    assert check.passed
    assert check.conclusion == (
        "Your installation learns: 1 of 1 seeds reached at least 90% of what is possible (worst 100.0%). "
        "On noise it found nothing, as it should."
    )


def test_profit_before_costs_on_noise_fails(planted: Outcome) -> None:
    check = SelfCheck((planted, replace(planted, kind="noise")), BUDGET)
    assert not check.silent
    assert "look ahead" in check.conclusion


def test_the_interval_on_noise_is_that_of_the_mean(noise: Outcome) -> None:
    from scipy import stats

    other = replace(noise, before_costs=noise.equity["eager"], seed=1)
    found = SelfCheck((noise, other), 0).luck["before"]
    growth = np.concatenate([np.diff(np.log(o.before_costs)) for o in (noise, other)])
    low, high = stats.norm.interval(0.999, growth.mean(), stats.sem(growth))
    assert (found.estimate, found.low, found.high) == pytest.approx((growth.mean(), low, high), rel=1e-9)


def test_a_trial_and_its_outcome_can_go_to_another_process(noise: Outcome) -> None:
    assert pickle.loads(pickle.dumps(Trial("noise", 3))) == Trial("noise", 3)
    assert pickle.loads(pickle.dumps(noise)).growth() == noise.growth()


def test_every_seed_plays_both_markets(monkeypatch: pytest.MonkeyPatch, noise: Outcome) -> None:
    monkeypatch.setattr(selfcheck, "run_trial", lambda trial: replace(noise, kind=trial.kind, seed=trial.seed))
    told: list[tuple[int, int]] = []
    check = run_selfcheck([4, 2], 7, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [outcome.seed for outcome in check.of("planted")] == [2, 4] == [o.seed for o in check.of("noise")]
    assert check.timesteps == 7


# --- the command ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("good", [True, False])
def test_the_command(
    good: bool,
    planted: Outcome,
    noise: Outcome,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    agent = planted.equity["patient" if good else "eager"]
    trend = replace(planted, equity=planted.equity | {"agent": agent})
    seeds = [replace(outcome, seed=seed) for seed in range(6) for outcome in (trend, noise)]
    monkeypatch.setattr(selfcheck, "run_selfcheck", lambda *_, **__: SelfCheck(tuple(seeds), BUDGET))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.argv", ["batchenv", "selfcheck", "--seeds", "6", "--output", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as left:
        main()
    text = capsys.readouterr().out
    assert left.value.code in ((0, None) if good else (1,))
    assert max(map(len, text.splitlines())) <= max(80, len(f"Picture: {tmp_path}/out/selfcheck.png"))
    assert ("What to look at" in text) is not good
    words = " ".join(text.split())
    assert ("Your installation learns: 6 of 6 seeds" if good else "does not learn as it should: 0 of 6") in words
    content = json.loads((tmp_path / "out" / "selfcheck.json").read_text())
    assert content["passed"] is content["learns"] is good
    assert content["trials"][0]["share"] == pytest.approx(trend.share())
    assert content["expected_growth"]["best"] == pytest.approx(TrendMarket().growth(FEE, SLIPPAGE).patient)
    assert (tmp_path / "out" / "selfcheck.png").read_bytes().startswith(b"\x89PNG")
