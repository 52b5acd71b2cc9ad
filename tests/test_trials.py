"""Run folders count how often their held-out bars were looked at, and how many configurations looked."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from batchenv.config import RunConfig
from batchenv.errors import RunError
from batchenv.features import FeatureScaler
from batchenv.runs import RunFolder
from stateful import BackTesting, StatefulTradingEnv
from stateful.command import BacktestPlan
from stateful.evaluation.overfitting import probability_of_overfitting
from stateful.evaluation.sharpe import Trials
from stateful.evaluation.trials import by_configuration, count_trials, held_out_returns, looks, record_look
from tests.markets import market
from tests.stateful.policies import RandomAgent

BEST, FINAL = "best_model.zip", "model.zip"


def run_folder(path, seed=0, first="2020-01-01", last="2020-12-31", symbols=("A", "B"), **settings):
    config = RunConfig.model_validate({"data": {"train_end": "2020-01-01"}, "seed": seed, "agent": settings})
    test = {"first": first, "last": last, "bars": 250, "fingerprint": "0"}
    info = {"seed": seed, "symbols": list(symbols), "data": {"train": test, "test": test}}
    return RunFolder.create(path, config, FeatureScaler((), (), ()), info)


def look_at(run, sharpe=0.16, model=BEST, report=None):
    metrics = {"sharpe": sharpe, "periods_per_year": 256.0, "bars": 250, "total_return": 0.1}
    return record_look(run, model, report or run.path / "backtest", metrics)


def test_a_look_is_written_down_and_read_back(tmp_path):
    run = run_folder(tmp_path / "a")
    assert looks(run) == ()
    first, second = look_at(run), look_at(run, None, FINAL, tmp_path / "elsewhere")
    assert looks(run) == (first, second)
    assert (first.model, first.report, first.bars, first.total_return) == (BEST, "backtest", 250, 0.1)
    assert first.sharpe_per_bar == pytest.approx(0.01)  # 0.16 a year of 256 bars
    assert (second.sharpe_per_bar, second.report) == (None, str(tmp_path / "elsewhere"))


def test_trials_are_the_other_configurations_that_were_tested_on_these_bars(tmp_path):
    run = run_folder(tmp_path / "a")
    assert count_trials(run, BEST) == Trials(0)
    look_at(run)
    look_at(run)  # again
    look_at(run_folder(tmp_path / "b", seed=1), 0.32)
    look_at(run_folder(tmp_path / "c", seed=1, n_envs=8), None)
    run_folder(tmp_path / "untested", seed=2)
    look_at(run_folder(tmp_path / "other bars", seed=3, first="2021-01-01", last="2021-06-30"))
    look_at(run_folder(tmp_path / "the next fold", seed=6, first="2020-12-31", last="2021-06-30"))  # shares no return
    look_at(run_folder(tmp_path / "other symbols", seed=4, symbols=("C", "D")))
    assert count_trials(run, BEST) == Trials(2, (0.02,))
    assert count_trials(run, FINAL) == Trials(3, (0.01, 0.02))
    look_at(run_folder(tmp_path / "part of the bars", seed=5, first="2020-12-30", last="2021-06-30"), 0.48)
    assert count_trials(run, BEST).others == 3


def test_the_same_trained_again_is_no_further_trial(tmp_path):
    run = run_folder(tmp_path / "a")
    look_at(run)
    shutil.copytree(run.path, tmp_path / "copy")
    look_at(run_folder(tmp_path / "again"))
    assert count_trials(run, BEST).count == 1


def test_folds_are_found_in_the_folders_beside(tmp_path):
    run = run_folder(tmp_path / "a")
    look_at(run_folder(tmp_path / "walk-forward" / "fold-01", seed=1, last="2020-03-31"), 0.16)
    look_at(run_folder(tmp_path / "walk-forward" / "fold-02", seed=1, first="2020-04-01", n_envs=8), 0.16)
    assert count_trials(run, BEST).others == 2
    fold = RunFolder.open(tmp_path / "walk-forward" / "fold-01")
    look_at(run)
    assert count_trials(fold, BEST) == Trials(0)
    assert count_trials(fold, BEST, root=tmp_path).others == 1


@pytest.mark.parametrize("damage", ["run.json", "looks.jsonl"])
def test_a_damaged_folder_counts_as_tried_with_an_unknown_result(tmp_path, damage):
    run, other = run_folder(tmp_path / "a"), run_folder(tmp_path / "b", seed=1)
    look_at(other)
    (other.path / damage).write_text("{}\nnot json")
    assert count_trials(run, BEST) == Trials(1)
    if damage == "looks.jsonl":
        with pytest.raises(RunError, match=r"looks.jsonl: damaged record of backtests"):
            looks(other)


def test_runs_are_grouped_by_what_they_share_besides_the_seed(tmp_path):
    runs = [run_folder(tmp_path / "a"), run_folder(tmp_path / "b", n_envs=8), run_folder(tmp_path / "c", seed=1)]
    assert by_configuration(runs) == [[runs[0], runs[2]], [runs[1]]]


def test_a_report_counts_as_a_look_and_the_next_backtest_knows_of_it(tmp_path):
    run, other = run_folder(tmp_path / "a"), run_folder(tmp_path / "b", seed=1)
    env = StatefulTradingEnv(market(0, 100), {}, seed=0)
    for each in (run, other):
        testing = BackTesting(
            RandomAgent(4), env, {"vectorbt": False, "baselines": ["cash"]}, trials=count_trials(each, BEST)
        )
        results = testing.run()
        plan = BacktestPlan(testing, each.path / "backtest", "title", {}, None, (each, BEST))
        plan.write(results, plan.default_output)
    (look,) = looks(run)
    assert look.sharpe_per_bar * np.sqrt(252) == pytest.approx(results.metrics["sharpe"])
    found = json.loads((other.path / "backtest" / "metrics.json").read_text())["uncertainty"]
    assert found["trials"] == 2 and 0 < found["deflated_sharpe"]["value"] < 1
    matrix = held_out_returns([run, other])
    assert list(matrix) == [str(run.path), str(other.path)]
    expected = results.equity.pct_change().iloc[1:]
    pd.testing.assert_series_equal(matrix[str(other.path)], expected, check_names=False, check_freq=False)
    assert probability_of_overfitting(matrix.to_numpy(), blocks=4).reason is None


def test_returns_need_tests_on_the_same_bars(tmp_path):
    run, other = run_folder(tmp_path / "a"), run_folder(tmp_path / "b", seed=1)
    with pytest.raises(RunError, match=r"a: was not tested on its held-out bars"):
        held_out_returns([run])
    look_at(run)
    with pytest.raises(RunError, match=r"history.parquet: the account of the latest backtest is missing"):
        held_out_returns([run])
    look_at(other)
    for each, start in ((run, "2020-01-01"), (other, "2020-01-02")):
        (each.path / "backtest").mkdir()
        index = pd.date_range(start, periods=5, name="timestamp")
        pd.DataFrame({"equity": np.arange(1.0, 6.0)}, index=index).to_parquet(
            each.path / "backtest" / "history.parquet"
        )
    with pytest.raises(RunError, match=r"b: was tested on other bars than .*a, or its account ended early"):
        held_out_returns([run, other])


def test_a_folder_that_cannot_be_written_says_so(tmp_path):
    run = run_folder(tmp_path / "a")
    (run.path / "looks.jsonl").mkdir()
    with pytest.raises(RunError, match=r"cannot write down that these bars were looked at.*the report is in"):
        look_at(run)
