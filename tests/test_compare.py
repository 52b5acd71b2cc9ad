"""Comparing runs: differences that hold together, typical seeds, what can be compared, the page, the command."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from batchenv.config import RunConfig, UncertaintyConfig
from batchenv.errors import RunError
from batchenv.features import FeatureScaler
from batchenv.runs import RunFolder
from batchenv.train import load_market, split_market
from stateful.baselines import BuyAndHold
from stateful.evaluation.compare import common_bars, compare_runs
from stateful.evaluation.compare_page import build_page, runs_table
from stateful.evaluation.compare_results import Comparison
from stateful.evaluation.compare_settings import NOT_SET, flatten, group_names
from stateful.evaluation.compare_words import notes, words_of
from stateful.evaluation.differences import draw_seeds, first_places, simultaneous_differences, typical_seed
from stateful.evaluation.estimates import Figure
from stateful.evaluation.overfitting import probability_of_overfitting
from stateful.evaluation.trials import looks, record_look
from stateful.evaluation.uncertainty import measure_uncertainty, resample_accounts
from tests.browser import browsing, find_browser
from tests.markets import frame

# --- differences that hold together -------------------------------------------------------------------------


@pytest.mark.parametrize("accounts", [2, 4, 8])
def test_of_normal_accounts_the_reach_is_tukeys(accounts: int) -> None:
    """The largest studentised difference of k normal numbers has the studentised range as its distribution."""
    drawn = np.random.default_rng(0).normal(size=(100_000, accounts))
    found = simultaneous_differences(np.vstack([np.arange(accounts, dtype=float), drawn + np.arange(accounts)]), 0.95)
    expected = stats.studentized_range.ppf(0.95, accounts, np.inf)  # in units of one account's deviation
    np.testing.assert_allclose(found.reach[np.triu_indices(accounts, 1)], expected, rtol=0.01)
    assert found.estimate.tolist() == [[float(i - j) for j in range(accounts)] for i in range(accounts)]


def test_differences_that_never_vary_are_certain() -> None:
    values = np.random.default_rng(1).normal(size=(301, 1)) + np.array([0.0, 0.0, 1.0])
    found = simultaneous_differences(values, 0.95)
    np.testing.assert_allclose(found.reach, 0.0, atol=1e-12)
    assert found.estimate[2, 0] == pytest.approx(1.0)
    assert simultaneous_differences(values[:, :1], 0.95).reach.tolist() == [[0.0]]


def test_equal_accounts_are_told_apart_in_about_five_percent_of_worlds() -> None:
    """Of six accounts without any difference some pair leaves 0 out of its interval in 5% of worlds, not in 40%."""
    rng, config = np.random.default_rng(2), UncertaintyConfig(resamples=200)
    together = alone = 0
    worlds = 150
    for _ in range(worlds):
        returns = 0.0005 + rng.normal(0, 0.01, (150, 6))
        equity = np.vstack([np.ones(6), np.cumprod(1 + returns, axis=0)])
        accounts, _ = resample_accounts(list(equity.T), config=config, periods_per_year=252.0)
        found = simultaneous_differences(np.column_stack([a.values["cagr"] for a in accounts]), 0.95)
        together += bool((np.abs(found.estimate) > found.reach).any())
        alone += any(one.less(other).distinguishable for one in accounts for other in accounts if one is not other)
    assert together / worlds < 0.12
    assert alone / worlds > 0.25


def test_first_places_are_shared_by_equals() -> None:
    values = np.array([[1.0, 2.0, 0.0], [3.0, 3.0, 1.0], [0.0, 0.0, 0.0], [5.0, 1.0, 2.0]])
    assert first_places(values).tolist() == pytest.approx([(0.5 + 1 / 3 + 1) / 4, (1 + 0.5 + 1 / 3) / 4, 1 / 3 / 4])


def test_the_typical_seed_is_the_median_of_those_drawn() -> None:
    values = np.array([[1.0, 2.0, 9.0], [10.0, 20.0, 90.0], [100.0, 200.0, 900.0]])
    assert typical_seed(values, np.array([[0, 0, 2], [1, 2, 2]])).tolist() == [2.0, 10.0, 900.0]


def test_two_seeds_vary_as_the_median_of_two_does() -> None:
    """Of two seeds with values 0 and 2 the variance is 2, and that of their mean 1."""
    draws = draw_seeds(2, 20_000, np.random.default_rng(3))
    drawn = typical_seed(np.tile([0.0, 2.0], (20_001, 1)), draws)[1:]
    assert draws.shape == (20_000, 1)
    assert drawn.var() == pytest.approx(1.0, rel=0.02)
    assert draw_seeds(5, 7, np.random.default_rng(3)).shape == (7, 5)


# --- run folders, made by hand ------------------------------------------------------------------------------


@pytest.fixture
def bars(tmp_path: Path) -> Path:
    path = tmp_path / "mine.csv"
    frame(4, 400).to_csv(path, index=False)
    return path


def settings_of(source: Path, **changes: Any) -> dict[str, Any]:
    return {
        "data": {"source": str(source), "train_end": "2020-06-01"},
        "agent": {"hyperparameters": {"learning_rate": 0.001}, **changes.pop("agent", {})},
        "backtest": {"uncertainty": {"resamples": 200}, "vectorbt": False, **changes.pop("backtest", {})},
        **changes,
    }


def run_folder(
    path: Path,
    source: Path,
    growth: float | np.ndarray,
    *,
    status: str = "finished",
    **changes: Any,
) -> RunFolder:
    """Write a run folder, and the account that its backtest found: random returns of the seed, and a growth per bar."""
    config = RunConfig.model_validate(settings_of(source, **changes)).resolved()
    test = split_market(load_market(config.data), config.data).test
    part = {
        "first": str(test.timestamps[0]),
        "last": str(test.timestamps[-1]),
        "bars": test.n_bars,
        "fingerprint": test.fingerprint,
    }
    info = {
        "seed": config.seed,
        "symbols": list(test.symbols),
        "timesteps": 1000,
        "data": {"train": part, "test": part},
    }
    run = RunFolder.create(path, config, FeatureScaler((), (), ()), info)
    run.finish(status)
    run.model.write_bytes(b"")
    returns = growth
    if isinstance(growth, float):
        shocks = np.random.default_rng(config.seed).normal(0, 0.01, test.n_bars - 1)
        returns = growth + shocks - shocks.mean()
    equity = 1e5 * np.concatenate([[1.0], np.cumprod(1.0 + np.asarray(returns))])
    write_report(run, run.path / "backtest", equity, test.timestamps[: len(equity)])
    return run


def write_report(run: RunFolder, report: Path, equity: np.ndarray, stamps: Any) -> None:
    index = pd.DatetimeIndex(stamps, name="timestamp")
    report.mkdir()
    pd.DataFrame({"equity": equity}, index=index).to_parquet(report / "history.parquet")
    made = float(equity[-1] / equity[0] - 1)
    metrics = {"sharpe": 1.0, "periods_per_year": 252.0, "bars": len(equity) - 1, "total_return": made}
    (report / "metrics.json").write_text(json.dumps(metrics))
    record_look(run, "model.zip", report, metrics)


@pytest.fixture
def four(tmp_path: Path, bars: Path) -> Comparison:
    """Two configurations of two seeds each."""
    for name, rate, growth, seed in (
        ("a-0", 1e-3, 1e-3, 0),
        ("a-1", 1e-3, 2e-3, 1),
        ("b-0", 0.01, 0.0, 2),
        ("b-1", 0.01, 0.0, 3),
    ):
        agent = {"hyperparameters": {"learning_rate": rate}}
        run_folder(tmp_path / "runs" / name, bars, growth, seed=seed, agent=agent)
    return compare_runs([tmp_path / "runs"])


def growth_a_year(run: Any) -> float:
    equity = run.equity.to_numpy()
    return float((equity[-1] / equity[0]) ** (252 / (len(equity) - 1)) - 1)


def test_runs_are_grouped_and_shown_by_their_median(four: Comparison) -> None:
    assert [(group.name, [run.name for run in group.runs]) for group in four.groups] == [
        ("a", ["a-0", "a-1"]), ("b", ["b-0", "b-1"]),
    ]  # fmt: skip
    for group in four.groups:
        low, high = sorted(growth_a_year(run) for run in group.runs)
        assert group.figures["cagr"].estimate == pytest.approx((low + high) / 2, rel=1e-9)
        assert (group.across["cagr"].worst, group.across["cagr"].best) == pytest.approx((low, high), rel=1e-9)
        assert group.figures["cagr"].low < low < high < group.figures["cagr"].high
    assert sum(group.first.value for group in four.groups) == pytest.approx(1.0)
    assert four.groups[0].first.value > 0.8
    assert [(gap.one, gap.other) for gap in four.gaps] == [("a", "b"), ("a", None), ("b", None)]
    ahead = four.gaps[0].cagr
    assert ahead.estimate == pytest.approx(four.groups[0].growth - four.groups[1].growth)
    assert ahead.low < ahead.estimate < ahead.high


def test_one_configuration_alone_has_no_place_among_others(tmp_path: Path, bars: Path) -> None:
    for seed, growth in enumerate((1e-3, 1.0001e-3)):
        run_folder(tmp_path / "runs" / f"a-{seed}", bars, growth, seed=seed)
    found = compare_runs([tmp_path / "runs"])
    assert [group.first for group in found.groups] == [Figure(None, "no other has an interval")]
    assert "less than 1% of the variance is the seed's" in words_of(found).luck


def test_spreads_by_hand(four: Comparison) -> None:
    """Pooled over two configurations with one degree of freedom each: the mean of half the squared gaps."""
    growths = [growth_a_year(run) for run in four.runs]
    expected = ((growths[0] - growths[1]) ** 2 / 2 + (growths[2] - growths[3]) ** 2 / 2) / 2
    assert four.seed_spread.value == pytest.approx(expected**0.5)
    drawn = [four.accounts[run.name].values["cagr"][1:] for run in four.runs]
    assert four.market_spread.value == pytest.approx(np.mean([values.var(ddof=1) for values in drawn]) ** 0.5)


def test_a_run_alone_has_the_intervals_of_its_backtest(tmp_path: Path, bars: Path) -> None:
    runs = [run_folder(tmp_path / name, bars, growth, seed=seed, agent={"n_envs": 8 + seed}) for name, growth, seed in (
        ("one", 1e-3, 0), ("two", 0.0, 1),
    )]  # fmt: skip
    found = compare_runs([run.path for run in runs])
    one, two = (run.equity.to_numpy() for run in found.runs)
    expected = measure_uncertainty(
        one,
        {"two": two, "hold": found.hold.to_numpy()},
        config=UncertaintyConfig(resamples=200),
        periods_per_year=252.0,
    )
    group = next(group for group in found.groups if group.name == "one")
    for name, interval in expected.agent.items():
        mine = group.figures[name]
        assert (mine.estimate, mine.low, mine.high) == pytest.approx((interval.estimate, interval.low, interval.high))
    assert group.beats_hold.value == pytest.approx(expected.differences["hold"].probability_better)
    assert found.seed_spread.value is None
    assert "one seed only" in words_of(found).luck


def test_buy_and_hold_is_that_of_the_held_out_bars(four: Comparison) -> None:
    from stateful import BackTesting, StatefulTradingEnv

    class Idle:
        def predict(self, observation: Any, *, deterministic: bool) -> tuple[Any, None]:
            return np.zeros(4, np.float32), None

    run = four.runs[0]
    env = StatefulTradingEnv(split_market(load_market(run.config.data), run.config.data).test, run.config.env)
    results = BackTesting(Idle(), env, run.config.backtest, baselines=[BuyAndHold()]).run()
    expected = results.baselines["buy_and_hold"]["equity"]
    np.testing.assert_allclose(four.hold, 100 * expected / expected.iloc[0], rtol=1e-12)
    metrics = results.metrics["baselines"]["buy_and_hold"]
    for name in ("total_return", "cagr", "sharpe", "max_drawdown"):
        assert four.hold_metrics[name] == pytest.approx(metrics[name], rel=1e-9), name


def test_overfitting_is_measured_over_all_runs(four: Comparison) -> None:
    returns = pd.DataFrame({run.name: run.equity for run in four.runs}).pct_change().iloc[1:].to_numpy()
    assert four.overfitting.probability == pytest.approx(probability_of_overfitting(returns).probability)
    assert "Choosing the best of these 4 runs" in words_of(four).overfitting


@pytest.mark.parametrize("runs", [2, 3, 4, 5])
def test_chance_is_what_noise_comes_to(four: Comparison, runs: int) -> None:
    rng = np.random.default_rng(runs)
    found = [probability_of_overfitting(rng.normal(0, 0.01, (96, runs)), 6).probability for _ in range(400)]
    by_chance = Comparison(four.runs[:1] * runs, four.equity, None, "", {}).overfitting_by_chance
    assert np.mean(found) == pytest.approx(by_chance, abs=0.05)


def test_sharpe_ratios_are_deflated_for_the_runs_compared_or_for_more(tmp_path: Path, four: Comparison) -> None:
    """Bailey & Lopez de Prado 2014, written out."""
    returns = [run.equity.pct_change().iloc[1:].to_numpy() for run in four.runs]
    sharpes = np.array([series.mean() / series.std(ddof=1) for series in returns])
    series, n = returns[0], len(returns[0])
    error = np.sqrt(
        (1 - stats.skew(series) * sharpes[0] + (stats.kurtosis(series) + 2) / 4 * sharpes[0] ** 2) / (n - 1)
    )

    def expected(trials: int) -> float:
        z = stats.norm.ppf
        best = 0.5772156649015329 * z(1 - 1 / (trials * np.e)) + (1 - 0.5772156649015329) * z(1 - 1 / trials)
        return float(stats.norm.cdf((sharpes[0] - sharpes.std(ddof=1) * best) / error))

    proof = four.proofs["a-0"]
    assert proof.probabilistic.value == pytest.approx(stats.norm.cdf(sharpes[0] / error))
    assert (proof.trials, proof.deflated.value) == (4, pytest.approx(expected(4)))
    two = compare_runs([tmp_path / "runs" / "a-0", tmp_path / "runs" / "b-0"])
    assert two.proofs["a-0"].trials == 4  # the other two were tested on the same bars
    assert any("More configurations were tested" in note.text for note in notes(two))


# --- what is said -------------------------------------------------------------------------------------------


def test_a_lead_beyond_luck_is_said_to_be_one(tmp_path: Path, bars: Path) -> None:
    for name, growth, seed in (("good", 8e-3, 0), ("poor", -8e-3, 1), ("fair", 7.9e-3, 2)):
        run_folder(tmp_path / name, bars, growth, seed=seed, agent={"n_envs": 8 + seed})
    found = words_of(compare_runs([tmp_path / "good", tmp_path / "poor"]))
    assert found.ahead.startswith("After costs good is ahead of poor: +")
    assert ": distinguishable from luck. In 100% of the resampled histories it comes first." in found.ahead_luck
    assert "good is better and poor is worse than that by more than luck explains." in found.hold
    assert (found.outcome, found.hold_outcome) == ("beat", "beat")
    three = words_of(compare_runs([tmp_path / name for name in ("good", "poor", "fair")]))
    assert "good is ahead of fair" in three.ahead
    assert ": not distinguishable from luck. Its lead over poor is." in three.ahead_luck
    assert three.outcome == "level"


def test_seeds_of_one_configuration_are_a_range_and_not_the_best(tmp_path: Path, bars: Path) -> None:
    for seed in range(3):
        run_folder(tmp_path / "runs" / f"seed-{seed}", bars, seed * 1e-3, seed=seed)
    found = compare_runs([tmp_path / "runs"])
    low, middle, high = (growth_a_year(run) for run in found.runs)
    words = words_of(found)
    assert [group.name for group in found.groups] == ["seed-0 and 2 more"]
    assert f"between {low:+.1%} and {high:+.1%} a year; their median is {middle:+.1%} a year" in words.ahead
    assert "no other to compare it with" in words.ahead_luck
    assert any("Fewer than 5 seeds" in note.text for note in notes(found))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"env": {"cost_config": {"fee_rate": 0.01}}}, "These runs paid different costs"),
        ({"backtest": {"cost_config": {"slippage_rate": 0.01}}}, "These runs paid different costs"),
        ({"env": {"fill": "close"}}, "fill at different prices"),
        ({"env": {"portfolio_config": {"initial_cash": 5e4}}}, "different amounts of money"),
        ({"env": {"margin_config": {"leverage": 2.0}}}, "different margins"),
        ({"env": {"execution_config": {"lot_size": 1.0}}}, "rules of execution"),
        ({"env": {"carry_config": {"cash_rate": 0.02}}}, "rates for holding"),
        ({"backtest": {"risk_free_rate": 0.02}}, "risk-free rates differ"),
    ],
)
def test_runs_of_another_game_are_called_out(tmp_path: Path, bars: Path, changes: dict[str, Any], message: str) -> None:
    run_folder(tmp_path / "one", bars, 1e-3)
    run_folder(tmp_path / "two", bars, 0.0, seed=1, **changes)
    run_folder(tmp_path / "three", bars, 0.0, seed=2)
    warnings = [note.text for note in notes(compare_runs([tmp_path / "one", tmp_path / "two"])) if note.warning]
    assert any(message in text for text in warnings)
    assert not any(note.warning for note in notes(compare_runs([tmp_path / "one", tmp_path / "three"])))


def test_costs_in_training_alone_are_no_other_game(tmp_path: Path, bars: Path) -> None:
    run_folder(tmp_path / "one", bars, 1e-3, backtest={"cost_config": {"fee_rate": 0.002}})
    run_folder(
        tmp_path / "two", bars, 1e-3, seed=1, env={"cost_config": {"fee_rate": 0.01}},
        backtest={"cost_config": {"fee_rate": 0.002}},
    )  # fmt: skip
    found = compare_runs([tmp_path / "one", tmp_path / "two"])
    assert not any(note.warning for note in notes(found))
    assert list(found.differing) == ["env.cost_config.fee_rate", "seed"]


def test_other_versions_and_other_bars_are_called_out(tmp_path: Path, bars: Path) -> None:
    one, two = run_folder(tmp_path / "one", bars, 1e-3), run_folder(tmp_path / "two", bars, 0.0, seed=1)
    two.info["versions"]["numpy"] = "1.0"
    two.info["data"]["test"]["fingerprint"] = "0" * 64
    two.finish("finished")
    found = [note.text for note in notes(compare_runs([one.path, two.path])) if note.warning]
    assert any(text.startswith("They traded different bars") for text in found)
    assert "They were made with different versions of numpy." in found


def test_settings_that_differ(tmp_path: Path, bars: Path) -> None:
    run_folder(tmp_path / "one", bars, 1e-3, env={"features": ["momentum_5"]})
    run_folder(tmp_path / "two", bars, 0.0, agent={"hyperparameters": {"gamma": 0.9}}, env={"features": []})
    found = compare_runs([tmp_path / "one", tmp_path / "two"])
    assert found.differing == {
        "env.features": (["momentum_5"], []),
        "agent.hyperparameters.learning_rate": (0.001, NOT_SET),
        "agent.hyperparameters.gamma": (NOT_SET, 0.9),
    }
    assert flatten({"a": {"b": 1, "c": {}}, "d": [1]}) == {"a.b": 1, "a.c": {}, "d": [1]}


@pytest.mark.parametrize(
    ("members", "names"),
    [
        ([["a-0", "a-1"], ["b-0", "b-1"]], ["a", "b"]),
        ([["ppo_seed1", "ppo_seed2"], ["wide"]], ["ppo", "wide"]),
        ([["lr-10", "lr-11"]], ["lr"]),
        ([["run1", "run12"], ["run2", "run3"]], ["run1 and 1 more", "run2 and 1 more"]),
        ([["x", "y"], ["z"]], ["x and 1 more", "z"]),
        ([["a-0", "a-1"], ["a"]], ["a-0 and 1 more", "a"]),
        ([["sweep/s 1", "sweep/s 2"]], ["sweep/s"]),
    ],
)
def test_configurations_are_named_after_their_runs(members: list[list[str]], names: list[str]) -> None:
    assert group_names(members) == names


# --- what can be compared -----------------------------------------------------------------------------------


def series(first: str, values: list[float]) -> pd.Series:
    return pd.Series(values, index=pd.bdate_range(first, periods=len(values)), name="equity")


def test_common_bars_by_hand() -> None:
    one = series("2020-01-01", [50.0] * 2 + [100.0] * 70)
    two = series("2020-01-03", [10.0] + [20.0] * 67)  # a Friday, the third bar; two bars fewer at the end
    early = series("2020-01-03", [5.0, 4.0, 1.0])
    ends = {"one": one.index[-1], "two": two.index[-1], "early": one.index[-1]}
    found = common_bars({"one": one, "two": two, "early": early}, ends)
    assert list(found.index) == list(two.index)
    assert found.iloc[:2].to_numpy().tolist() == [[100.0, 100.0, 100.0], [100.0, 200.0, 80.0]]
    assert found["early"].iloc[2] == 20.0
    assert found["early"].iloc[3:].isna().all()


@pytest.mark.parametrize(
    ("one", "two", "message"),
    [
        (
            series("2020-01-01", [1.0] * 70), series("2020-02-03", [1.0] * 70),
            "46 held-out bars in common, expected at least 60: one: 2020-01-01 to 2020-04-07; two: 2020-02-03 to",
        ),
        (series("2020-01-01", [1.0] * 70), series("2021-01-01", [1.0] * 70), "0 held-out bars in common"),
        (series("2020-01-01", [1.0] * 90), series("2020-01-01", [1.0] * 90).iloc[::2], "two: was tested on other bars"),
    ],
)  # fmt: skip
def test_bars_that_runs_do_not_share_are_an_error(one: pd.Series, two: pd.Series, message: str) -> None:
    with pytest.raises(RunError, match=message):
        common_bars({"one": one, "two": two}, {"one": one.index[-1], "two": two.index[-1]})


def test_an_account_that_ended_before_the_common_bars_is_an_error() -> None:
    one, two = series("2020-01-01", [1.0] * 5), series("2020-02-03", [1.0] * 90)
    with pytest.raises(RunError, match="one: its account ended on 2020-01-07, before the common bars"):
        common_bars({"one": one, "two": two}, {"one": two.index[-1], "two": two.index[-1]})


def test_runs_that_start_on_other_bars_are_compared_where_both_are(tmp_path: Path, bars: Path) -> None:
    one, two = run_folder(tmp_path / "one", bars, 1e-3), run_folder(tmp_path / "two", bars, 0.0, seed=1)
    history = pd.read_parquet(two.path / "backtest" / "history.parquet")
    shutil.rmtree(two.path / "backtest")
    write_report(two, two.path / "backtest", history["equity"].to_numpy()[20:], history.index[20:])
    found = compare_runs([one.path, two.path])
    assert found.equity.index.equals(history.index[20:])
    assert (found.equity.iloc[0] == 100.0).all()
    kept = found.runs[0].equity.iloc[20:]
    assert found.metrics["one"]["total_return"] == pytest.approx(kept.iloc[-1] / kept.iloc[0] - 1)
    assert any("Left out of one (20 bars)" in note.text for note in notes(found))


def test_a_seed_that_lost_everything_takes_the_interval_with_it(tmp_path: Path, bars: Path) -> None:
    run_folder(tmp_path / "runs" / "a-0", bars, 1e-3)
    run_folder(tmp_path / "runs" / "a-1", bars, np.array([0.01, -0.5, -0.9]), seed=1)
    run_folder(tmp_path / "runs" / "b", bars, 5e-4, seed=2, agent={"n_envs": 8})
    found = compare_runs([tmp_path / "runs"])
    group = next(group for group in found.groups if group.name == "a")
    total = np.median([found.metrics[name]["total_return"] for name in ("a-0", "a-1")])
    assert found.metrics["a-1"]["total_return"] == pytest.approx(1.01 * 0.5 * 0.1 - 1)
    assert group.figures["total_return"].estimate == pytest.approx(total)
    assert group.figures["cagr"].low is None
    assert group.figures["cagr"].reason == f"a-1: the account ended early, after 3 of {len(found.equity) - 1} bars"
    assert group.first.value is None
    assert "cannot be said" in words_of(found).ahead_luck
    assert found.overfitting.reason == "an account ended early or lost everything"
    assert any("The account of a-1 ended early" in note.text for note in notes(found))
    assert "nan" not in build_page(found, tmp_path / "out").split('id="chart-data"')[0].split("<body>")[1].lower()


def damage(name: str, content: str | None) -> Callable[[RunFolder], None]:
    def do(run: RunFolder) -> None:
        (run.path / name).unlink()
        if content is not None:
            (run.path / name).write_text(content)

    return do


DAMAGES: list[tuple[Callable[[RunFolder], object], str]] = [
    (damage("config.json", None), "not a complete run folder: config.json is missing"),
    (damage("run.json", None), "not a complete run folder: run.json is missing"),
    (damage("scaler.json", "{"), "damaged run folder: .*scaler.json: line 1"),
    (damage("run.json", '{"format": 7}'), "format 7, expected 1; another version wrote it"),
    (damage("looks.jsonl", "no"), "looks.jsonl: damaged record of backtests"),
    (damage("model.zip", None), "no trained model"),
    (damage("backtest/metrics.json", "{}"), "damaged: 'periods_per_year' is missing"),
    (damage("backtest/metrics.json", None), "metrics.json: cannot read the file"),
    (damage("backtest/history.parquet", "no"), "damaged: .*[Pp]arquet"),
    (lambda run: (run.path / "evaluations.csv").write_text("a,b\n1,2\n"), "damaged: .*timesteps"),
    (lambda run: run.finish("interrupted"), r"training did not finish \(its status is 'interrupted'\)"),
]  # fmt: skip


@pytest.mark.parametrize(("harm", "message"), DAMAGES)
def test_what_is_damaged_is_an_error_where_named_and_left_out_where_found(
    tmp_path: Path, bars: Path, harm: Callable[[RunFolder], object], message: str
) -> None:
    folder = tmp_path / "runs"
    for seed in range(3):
        run = run_folder(folder / f"run-{seed}", bars, 1e-3, seed=seed)
    harm(run)
    with pytest.raises(RunError, match=message):
        compare_runs([folder / "run-0", run.path])
    found = compare_runs([folder])
    assert [run.name for run in found.runs] == ["run-0", "run-1"]
    ((path, reason),) = found.left_out.items()
    assert path == str(run.path)
    assert re.search(message, reason)
    assert not reason.startswith(path)
    assert len(looks(RunFolder.open(folder / "run-0"))) == 1  # comparing is no further look


def test_another_report_in_the_place_of_the_runs_own_is_noticed(tmp_path: Path, bars: Path) -> None:
    one, two = run_folder(tmp_path / "one", bars, 1e-3), run_folder(tmp_path / "two", bars, 0.0, seed=1)
    shutil.copy(one.path / "backtest" / "history.parquet", two.path / "backtest")
    with pytest.raises(RunError, match="two/backtest: is not the report that the run counts: its account made"):
        compare_runs([one.path, two.path])


def test_the_same_run_twice(tmp_path: Path, bars: Path) -> None:
    one = run_folder(tmp_path / "runs" / "one", bars, 1e-3)
    run_folder(tmp_path / "runs" / "two", bars, 1e-3, seed=1)
    again = run_folder(tmp_path / "runs" / "one-2", bars, 1e-3)
    with pytest.raises(RunError, match="one: is named twice"):
        compare_runs([one.path, tmp_path / "runs" / ".." / "runs" / "one"])
    with pytest.raises(RunError, match="is named twice"):
        compare_runs([tmp_path / "runs", one.path])
    with pytest.raises(RunError, match=r"one-2: has the configuration and the seed of .*one, so it is the same run"):
        compare_runs([one.path, again.path])
    found = compare_runs([tmp_path / "runs"])
    assert [run.name for run in found.runs] == ["one", "two"]
    assert "the same run" in found.left_out[str(again.path)]


def test_too_few_runs(tmp_path: Path, bars: Path) -> None:
    run = run_folder(tmp_path / "runs" / "one", bars, 1e-3)
    run_folder(tmp_path / "runs" / "two", bars, 1e-3, seed=1, status="training")
    with pytest.raises(RunError, match=r"expected at least two runs, got 1\n.*two: training did not finish"):
        compare_runs([tmp_path / "runs"])
    with pytest.raises(RunError, match=r"expected at least two runs, got 1$"):
        compare_runs([run.path])
    with pytest.raises(RunError, match="neither a run folder nor a folder of runs"):
        compare_runs([tmp_path])
    with pytest.raises(RunError, match="is a file; expected a run folder"):
        compare_runs([bars])
    with pytest.raises(RunError, match="nothing: there is nothing here"):
        compare_runs([tmp_path / "nothing"])


def test_without_the_data_there_is_no_buy_and_hold(tmp_path: Path, bars: Path) -> None:
    runs = [run_folder(tmp_path / str(seed), bars, 1e-3, seed=seed).path for seed in range(2)]
    frame(5, 400).to_csv(bars, index=False)
    changed = compare_runs(runs)
    assert changed.hold is None
    assert "have changed since" in words_of(changed).hold_luck
    bars.unlink()
    gone = compare_runs(runs)
    assert "mine.csv" in gone.hold_reason
    assert gone.gaps == ()
    page = build_page(gone, tmp_path / "out")
    assert "There is no buy and hold to compare with" in page


def test_walk_forwards_are_compared_by_their_chained_account(tmp_path: Path, bars: Path) -> None:
    run = run_folder(tmp_path / "run", bars, 1e-3)
    index = pd.read_parquet(run.path / "backtest" / "history.parquet").index
    walk, rng = tmp_path / "walk", np.random.default_rng(9)
    walk.mkdir()
    curves = pd.DataFrame(
        {name: 1e5 * np.cumprod(1 + rng.normal(0, 0.01, len(index))) for name in ("agent", "buy_and_hold")}, index=index
    )
    curves.to_csv(walk / "equity.csv", index_label="date")
    plan = {"format": 1, "folds": 3, "anchored": False, "embargo": 4, "config": run.config.model_dump(mode="json")}
    (walk / "walk_forward.json").write_text(json.dumps(plan))
    with pytest.raises(RunError, match="the walk-forward did not finish"):
        compare_runs([run.path, walk])
    bars_played = len(index) - 1
    (walk / "results.json").write_text(json.dumps({"metrics": {"bars": bars_played, "years": bars_played / 252}}))
    found = compare_runs([walk, run.path])
    np.testing.assert_allclose(found.equity["walk"], 100 * curves["agent"] / curves["agent"].iloc[0], rtol=1e-12)
    np.testing.assert_allclose(found.hold, 100 * curves["buy_and_hold"] / curves["buy_and_hold"].iloc[0], rtol=1e-12)
    assert found.differing["walk_forward.folds"] == (3, NOT_SET)
    assert found.periods_per_year == pytest.approx(252)
    (walk / "walk_forward.json").write_text(json.dumps({**plan, "format": 9}))
    with pytest.raises(RunError, match="format 9, expected 1; another version wrote it"):
        compare_runs([run.path, walk])
    (walk / "walk_forward.json").write_text("{}")
    with pytest.raises(RunError, match="walk: damaged walk-forward: 'format' is missing"):
        compare_runs([run.path, walk])


# --- the page -----------------------------------------------------------------------------------------------


def test_the_files_of_a_comparison(tmp_path: Path, bars: Path) -> None:
    for seed, name in enumerate(("<b>1", "<b>2", "other")):
        run = run_folder(tmp_path / "runs" / name, bars, 1e-3, seed=seed, agent={"n_envs": 8 + seed // 2})
        run.evaluations.write_text("timesteps,total_return,sharpe,best\n100,0.1,0.5,True\n200,0.1,,False\n")
    found = compare_runs([tmp_path / "runs"])
    page = found.write(tmp_path / "out")
    assert {path.name for path in page.parent.iterdir()} == {
        "compare.html", "compare.json", "runs.csv", "equity.csv", "equity.png", "intervals.png",
    }  # fmt: skip
    text = page.read_text()
    for name in ("equity", "cagr", "sharpe", "gaps", "drawdown", "learning"):
        assert f'data-figure="{name}"' in text
    assert "&lt;b&gt;1" in text
    assert "<b>1" not in text
    assert 'href="../runs/&lt;b&gt;1/backtest/report.html"' in text
    saved = json.loads((page.parent / "compare.json").read_text())
    assert saved["words"]["ahead"] == words_of(found).ahead
    assert saved["configurations"]["<b>"]["runs"] == ["<b>1", "<b>2"]
    assert saved["differing_settings"]["agent.n_envs"] == {"<b>1": 8, "<b>2": 8, "other": 9}
    table = pd.read_csv(page.parent / "runs.csv", index_col="run")
    assert table.loc["<b>2", "cagr"] == pytest.approx(growth_a_year(found.runs[1]))
    assert table.loc["other", "cagr_low"] == pytest.approx(runs_table(found).loc["other", "cagr_low"])
    equity = pd.read_csv(page.parent / "equity.csv", index_col="date")
    assert list(equity) == ["<b>1", "<b>2", "other", "buy and hold"]
    with pytest.raises(RunError, match="exists already"):
        found.write(tmp_path / "out")
    with pytest.raises(RunError, match="cannot write the comparison"):
        found.write(bars / "out")


@pytest.mark.skipif(find_browser() is None, reason="needs a Chromium or Chrome")
def test_the_page_in_a_browser(tmp_path: Path, four: Comparison) -> None:
    page = four.write(tmp_path / "out")
    with browsing(str(find_browser())) as tab:
        for width in (1240, 390):
            tab.resize(width, 900)
            tab.open(page)
            assert tab.run("document.documentElement.scrollWidth") == width
            boxes = tab.run("document.querySelectorAll('[data-figure]').length")
            assert boxes == 5
            for i in range(boxes):
                tab.run(f"document.querySelectorAll('[data-figure]')[{i}].scrollIntoView()")
                tab.wait(f"!!document.querySelectorAll('[data-figure]')[{i}].querySelector('.main-svg')")
        assert tab.problems == []


# --- the command --------------------------------------------------------------------------------------------


def test_the_command_tests_what_was_not_tested(
    tmp_path: Path, bars: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from batchenv.cli import main
    from batchenv.train import train

    config = {
        **settings_of(bars, backtest={"baselines": ["buy_and_hold"]}),
        "env": {"features": ["momentum_5"], "episode_config": {"length": 30, "random_start": True}},
    }
    config["agent"] = {
        "n_envs": 8, "total_timesteps": 128, "evaluations": 0, "checkpoints": 0,
        "hyperparameters": {"n_steps": 16, "batch_size": 64, "n_epochs": 1},
    }  # fmt: skip
    for seed in range(2):
        train(RunConfig.model_validate({**config, "seed": seed}), tmp_path / "runs" / f"run-{seed}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def command(*words: object) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["batchenv", "compare", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return int(left.value.code or 0), out + " ".join(err.split())

    code, out = command("runs")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    found = compare_runs([tmp_path / "runs"])
    said = " ".join(out.split())
    assert words_of(found).ahead in said
    assert words_of(found).overfitting in said
    assert "Backtest of run-1" in out
    assert "runs/compare/compare.html" in out
    assert [len(looks(RunFolder.open(run.path))) for run in found.runs] == [1, 1]
    assert (tmp_path / "runs" / "run-0" / "backtest" / "report.html").is_file()
    code, out = command("runs", "--output", "again")
    assert (code, "Backtest of" in out) == (0, False)
    shutil.rmtree(tmp_path / "runs" / "run-0" / "backtest")  # gone: tested again
    assert command("runs/run-0", "runs/run-1", "--model", "final")[0] == 0
    assert len(looks(RunFolder.open(tmp_path / "runs" / "run-0"))) == 2
    for words, message in (
        (("runs/run-0",), "expected at least two runs, got 1"),
        (("runs", "--output", "again"), "again: exists already"),
        (("runs/run-0", "mine.csv"), "mine.csv: is a file"),
    ):
        code, out = command(*words)
        assert (code, message in out) == (1, True), out
