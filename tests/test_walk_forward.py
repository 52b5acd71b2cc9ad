"""Walk-forward: the arithmetic of the folds, the chain of their curves, and runs that are interrupted or fail."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock, Timeout
from hypothesis import given
from hypothesis import strategies as st

from batchenv.config import DataConfig
from batchenv.errors import BatchenvError, ConfigError, MarketDataError, RunError
from batchenv.features import compute_features
from stateful.evaluation.estimates import Interval
from stateful.evaluation.folds import Fold, default_embargo, divide
from stateful.evaluation.stitching import curve_metrics, stitch
from stateful.evaluation.workers import run_in_processes
from stateful.report_parts import BY_NAME, between
from tests import jobs
from tests.browser import HANGS, browsing, find_browser
from tests.markets import frame, market
from tests.stateful.test_report_browser import DESKTOP, OVERLAPS, PHONE, SPILLS, show
from tests.test_cli import Shell, write

ROOT = Path(__file__).parent.parent
TINY: dict[str, Any] = {
    "agent": {
        "total_timesteps": 512,
        "evaluations": 2,
        "checkpoints": 0,
        "record_megabytes": 0.0,
        "hyperparameters": {"n_steps": 16, "batch_size": 256, "n_epochs": 1},
    },
    "backtest": {"vectorbt": False, "uncertainty": {"resamples": 200}},
}


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Shell:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return Shell(monkeypatch, capsys)


# --- folds --------------------------------------------------------------------------------------------------


def test_folds_by_hand() -> None:
    """100 bars, tests from bar 60 on: 39 steps in 4 windows are 9, 10, 10 and 10."""
    rolling = divide(100, 60, 4, embargo=5)
    assert rolling == (Fold(1, 0, 55, 60, 69), Fold(2, 9, 64, 69, 79), Fold(3, 19, 74, 79, 89), Fold(4, 29, 84, 89, 99))
    anchored = divide(100, 60, 4, embargo=5, anchored=True)
    assert [fold.train_start for fold in anchored] == [0, 0, 0, 0]
    assert [fold.train_stop for fold in anchored] == [55, 64, 74, 84]
    assert [(a.test_start, a.test_end) for a in anchored] == [(r.test_start, r.test_end) for r in rolling]


@given(st.integers(2, 40), st.integers(0, 500), st.integers(2, 800), st.integers(2, 20), st.booleans())
def test_folds_cover_all_test_bars_once_and_keep_their_distance(
    folds: int, surplus: int, known: int, usable: int, anchored: bool
) -> None:
    first_test = known + usable
    n_bars = first_test + 2 * folds + 1 + surplus
    found = divide(n_bars, first_test, folds, embargo=known, anchored=anchored)
    steps = [step for fold in found for step in range(fold.test_start, fold.test_end)]
    assert steps == list(range(first_test, n_bars - 1)), "every step from close to close is in one fold, in order"
    lengths = [fold.test_end - fold.test_start for fold in found]
    assert max(lengths) - min(lengths) <= 1
    for fold in found:
        assert fold.test_start - fold.train_stop == known, "the embargo"
        assert fold.train_start == (0 if anchored else fold.test_start - first_test)


def test_folds_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="folds: got 1, expected at least 2"):
        divide(100, 60, 1, embargo=0)
    assert len(divide(100, 60, 19, embargo=0)) == 19  # 39 steps are 19 times 2
    with pytest.raises(MarketDataError, match="20 folds of 2 steps need 41 held-out bars, and there are 40"):
        divide(100, 60, 20, embargo=0)
    with pytest.raises(MarketDataError, match=r"data\.embargo: 59 of the 60 bars .* leave 1 to train on"):
        divide(100, 60, 2, embargo=59)
    assert (default_embargo(3270), default_embargo(100), default_embargo(7)) == (33, 1, 1)


@pytest.mark.parametrize("anchored", [False, True])
def test_the_configuration_of_a_fold_gives_the_bars_of_the_fold(tmp_path: Path, anchored: bool) -> None:
    """Hourly bars of a part of a file: the dates that are written down must lead back to the same bars."""
    from batchenv.config import RunConfig
    from batchenv.train import load_market, split_market
    from stateful.evaluation.walk_forward import WalkForward

    hours = pd.date_range("2020-01-01", periods=200, freq="h")
    df = frame(n_bars=200)
    df["date"] = np.tile(hours, 4)
    df.to_csv(tmp_path / "hours.csv", index=False)
    data = {
        "source": str(tmp_path / "hours.csv"),
        "start": str(hours[10]),
        "train_end": str(hours[110]),
        "end": str(hours[190]),
        "embargo": 7,
    }
    walk = WalkForward.plan(RunConfig.model_validate({"data": data}), 3, anchored=anchored)
    assert (walk.market.n_bars, walk.folds[0].test_start, walk.folds[-1].test_end) == (180, 100, 179)
    for fold in walk.folds:
        config = walk.fold_config(fold)
        parts = split_market(load_market(config.data), config.data)
        assert parts.validation is not None
        known = np.concatenate([parts.train.timestamps, parts.validation.timestamps])
        np.testing.assert_array_equal(known, hours[10:190][fold.train_start : fold.train_stop])
        np.testing.assert_array_equal(parts.test.timestamps, hours[10:190][fold.test_start : fold.test_end + 1])
        assert config.agent.n_threads == 1


def test_an_embargo_is_in_no_part_and_is_still_looked_back_on() -> None:
    from batchenv.train import split_market

    bars = market(n_bars=40)
    dates = [str(date)[:10] for date in bars.timestamps]

    def split(**settings: Any) -> tuple[list[str], list[str], list[str]]:
        parts = split_market(bars, DataConfig(train_end=dates[30], **settings))
        return tuple(  # type: ignore[return-value]
            [] if part is None else [str(date)[:10] for date in part.timestamps]
            for part in (parts.train, parts.validation, parts.test)
        )

    assert split(embargo=5) == (dates[:20], dates[20:25], dates[30:])  # a fifth of 25 bars is 5
    assert split(embargo=5, validation_fraction=0.0) == (dates[:25], [], dates[30:])
    assert split() == split(embargo=0) == (dates[:24], dates[24:30], dates[30:])
    for fraction, fit_bars in ((0.2, 20), (0.0, 25)):
        data = DataConfig(train_end=dates[30], embargo=5, validation_fraction=fraction)
        test = split_market(bars, data).test
        assert test.fit_bars == fit_bars, "the embargo must not reach the scaling either"
        whole = compute_features(bars, ["momentum_5"], scaling="none")
        np.testing.assert_array_equal(compute_features(test, ["momentum_5"], scaling="none").values, whole.values[30:])
    with pytest.raises(MarketDataError, match=r"data\.embargo: 27 of the 30 bars"):
        split(embargo=27)
    with pytest.raises(MarketDataError, match=r"data\.embargo: 40 of the 30 bars"):
        split(embargo=40, validation_fraction=0.0)


# --- the chain ----------------------------------------------------------------------------------------------


def curve(dates: list[str], **accounts: list[float]) -> pd.DataFrame:
    return pd.DataFrame(accounts, index=pd.DatetimeIndex(dates))


def test_curves_are_chained_by_hand() -> None:
    first = curve(["2020-01-01", "2020-01-02", "2020-01-03"], agent=[100, 110, 99], other=[100, 100, 50])
    second = curve(["2020-01-03", "2020-01-06"], agent=[100, 120], other=[200, 100])
    chained = stitch([first, second])
    assert list(chained.index.strftime("%m-%d")) == ["01-01", "01-02", "01-03", "01-06"]
    np.testing.assert_allclose(chained["agent"], [100, 110, 99, 118.8], rtol=1e-15)
    np.testing.assert_allclose(chained["other"], [100, 100, 50, 25], rtol=1e-15)


def test_an_account_that_ended_keeps_what_it_had_and_one_that_lost_all_stays_so() -> None:
    nan = float("nan")
    first = curve(["2020-01-01", "2020-01-02", "2020-01-03"], half=[100, 50, nan], ruined=[100, -10, nan])
    second = curve(["2020-01-03", "2020-01-06"], half=[100, 120], ruined=[100, 120])
    chained = stitch([first, second])
    np.testing.assert_allclose(chained["half"], [100, 50, 50, 60])
    np.testing.assert_array_equal(chained["ruined"], [100, -10, nan, nan])
    figures = curve_metrics(chained["ruined"], periods_per_year=252, risk_free_rate=0.0)
    assert (figures["bars"], figures["total_return"]) == (1, pytest.approx(-1.1))


def test_figures_of_a_curve_are_those_of_quantstats() -> None:
    import quantstats

    rng = np.random.default_rng(3)
    returns = pd.Series(rng.normal(0.001, 0.02, 300), index=pd.bdate_range("2020-01-01", periods=300))
    equity = pd.Series(np.append(1.0, np.cumprod(1 + returns)), index=pd.bdate_range("2019-12-31", periods=301))
    figures = curve_metrics(equity, periods_per_year=252, risk_free_rate=0.0)
    assert figures["sharpe"] == pytest.approx(quantstats.stats.sharpe(returns, periods=252), rel=1e-9)
    assert figures["max_drawdown"] == pytest.approx(quantstats.stats.max_drawdown(returns), rel=1e-9)


# --- processes ----------------------------------------------------------------------------------------------


def test_jobs_that_fail_fail_alone(capfd: pytest.CaptureFixture[str]) -> None:
    todo: dict[str, Any] = {"a": 1, "b": "error", "c": "defect", "d": "killed", "e": 5}
    heard: dict[str, Any] = {}
    ended: dict[str, str | None] = {}
    run_in_processes(jobs.double, todo, workers=3, heard=heard.__setitem__, ended=ended.__setitem__)
    assert heard == {"a": 2, "e": 10}
    assert ended.pop("d") == "its process was ended by signal 9 (SIGKILL); too little memory does that"
    assert ended == {"a": None, "b": "the disk is full", "c": "KeyError: 'nothing'", "e": None}
    shown = capfd.readouterr().err
    assert shown.count("Traceback") == 1, "of the defect, and of nothing else"


def test_an_exception_ends_the_processes(tmp_path: Path) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    lock = tmp_path / "lock"
    with pytest.raises(KeyboardInterrupt):
        run_in_processes(jobs.hold, {0: lock}, workers=1, heard=interrupt, ended=interrupt)
    with FileLock(lock).acquire(blocking=False):
        pass


def test_processes_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    parent = subprocess.Popen([sys.executable, "-m", "tests.jobs", str(lock)])
    wait_for(lock.with_suffix(".held").is_file, parent)
    with pytest.raises(Timeout):
        FileLock(lock).acquire(blocking=False)
    parent.kill()
    parent.wait()
    with FileLock(lock).acquire(timeout=HANGS):  # waits for the end of the process that holds it
        pass


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + HANGS
    while not condition():
        assert process.poll() is None, "the process ended before its time"
        assert time.monotonic() < end
        time.sleep(0.02)


# --- the whole ----------------------------------------------------------------------------------------------


def one_after_the_other(
    work: Any, todo: Mapping[Any, Any], *, workers: int, heard: Callable[..., None], ended: Callable[..., None]
) -> None:
    """Do as `run_in_processes` does, in this process."""
    for key, job in todo.items():
        try:
            work(job, lambda message, key=key: heard(key, message))
        except BatchenvError as error:
            ended(key, str(error))
        else:
            ended(key, None)


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stateful.evaluation.walk_forward.run_in_processes", one_after_the_other)


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished walk of two folds; tests that change it take a copy."""
    import torch

    from batchenv.cli.screen import read_config
    from stateful.evaluation.walk_forward import WalkForward

    folder = tmp_path_factory.mktemp("walk")
    torch.set_num_threads(1)
    plan = WalkForward.plan(read_config(write(folder / "run.json", TINY)), 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stateful.evaluation.walk_forward.run_in_processes", one_after_the_other)
        plan.run(folder / "walk").write(folder / "walk")
    return folder / "walk"


@pytest.fixture
def copy(walk: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(walk, tmp_path / "walk"))


COMMAND = ("walk-forward", "--config", "run.json", "--folds", "2", "--output", "walk", "--workers", "2")


def test_a_walk_tells_each_fold_and_all_of_them_together(shell: Shell, tmp_path: Path, copy: Path) -> None:
    write(tmp_path / "run.json", TINY)
    before = (copy / "fold-01" / "model.zip").stat().st_mtime_ns
    assert shell.run(*COMMAND) == 0
    assert "2 of them are there already" in " ".join(shell.out.split())
    assert (copy / "fold-01" / "model.zip").stat().st_mtime_ns == before, "a finished fold is kept"
    assert max(map(len, shell.out.splitlines())) <= 80
    results = json.loads((copy / "results.json").read_text())
    first, second = (fold["metrics"] for fold in results["folds"])
    for account in (lambda m: m, lambda m: m["baselines"]["buy_and_hold"]):
        growth = (1 + account(first)["total_return"]) * (1 + account(second)["total_return"])
        assert account(results["metrics"])["total_return"] == pytest.approx(growth - 1, rel=1e-12)
    chained = pd.read_csv(copy / "equity.csv", index_col="date", parse_dates=True)
    assert (str(chained.index[0])[:10], str(chained.index[-1])[:10]) == ("2010-01-04", "2013-03-01")
    assert chained["agent"].iloc[-1] == pytest.approx(results["metrics"]["final_equity"], rel=1e-12)
    won = sum(m["total_return"] > m["baselines"]["buy_and_hold"]["total_return"] for m in (first, second))
    assert f"it beat buy and hold in {won} of 2 folds" in " ".join(shell.out.split())
    assert results["folds_won"]["buy_and_hold"] == won


def test_a_fold_is_a_run_like_any_other(shell: Shell, copy: Path) -> None:
    from batchenv.runs import RunFolder

    run = RunFolder.open(copy / "fold-02")
    test, train, validation = (run.info["data"][name] for name in ("test", "train", "validation"))
    plan = json.loads((copy / "walk_forward.json").read_text())
    window = plan["windows"][1]
    assert plan["embargo"] == 33  # 1% of 3,270 bars, rounded up
    assert train["bars"] + validation["bars"] == window["train_stop"] - window["train_start"]
    assert test["bars"] == window["test_end"] - window["test_start"] + 1
    assert window["test_start"] - window["train_stop"] == 33
    evaluations = pd.read_csv(run.evaluations)
    fold = json.loads((copy / "fold-02" / "fold.json").read_text())
    assert fold["validation"]["sharpe"] == pytest.approx(evaluations["sharpe"].max(), rel=1e-12)
    assert shell.run("backtest", "--run", copy / "fold-02", "--output", "again") == 0
    assert json.loads(Path("again/metrics.json").read_text())["final_equity"] == fold["metrics"]["final_equity"]


def test_the_page_says_what_it_came_to(walk: Path) -> None:
    page = (walk / "walk_forward.html").read_text()
    text = " ".join(re.sub(r"<script.*?</script>|<style.*?</style>", "", page, flags=re.DOTALL).split())
    results = json.loads((walk / "results.json").read_text())
    plain = re.sub(r"<[^>]+>", "", text)
    assert results["summary"] in plain
    assert "On average over the folds, the Sharpe ratio was" in plain
    assert not re.search(r"\b(nan|inf|None)\b", plain)
    for link in re.findall(r'href="(fold[^"]+)"', text):
        assert (walk / link).is_file()
    assert set(re.findall(r'data-figure="(\w+)"', text)) == {"equity", "returns", "sharpe"}
    assert (walk / "walk_forward.png").read_bytes().startswith(b"\x89PNG")
    flags = {fold["fold"]: fold["flags"] for fold in results["folds"]}
    grave = {flag["text"].partition(":")[0] for found in flags.values() for flag in found if flag["severity"] != "note"}
    assert flags[1] == json.loads((walk / "fold-01" / "backtest" / "metrics.json").read_text())["flags"]
    assert grave and all(name in plain for name in grave)
    assert all(flag["text"] not in plain for flag in flags[1])  # that is for the fold's own report
    sure = results["metrics"]["uncertainty"]
    for name in ("total_return", "cagr", "sharpe", "max_drawdown"):
        interval = Interval(**sure["agent"][name])
        assert f"<small>{between(interval, BY_NAME[name].kind) or interval.reason}</small>" in text
    for name, gap in sure["differences"].items():
        assert f'<td data-value="{gap["p_value"]:.10g}">{gap["p_value"]:.3f}</td>' in text, name


@pytest.mark.skipif(find_browser() is None, reason="needs a Chromium or Chrome")
def test_the_page_in_a_browser(walk: Path) -> None:
    legend = "[...document.querySelectorAll('.legend .scrollbar')].every(e => !e.getBoundingClientRect().height)"
    with browsing(str(find_browser())) as tab:
        for size in (DESKTOP, PHONE):
            show(tab, walk / "walk_forward.html", size)
            assert tab.problems == []
            assert tab.run("document.documentElement.scrollWidth") == size[0]
            assert tab.run(OVERLAPS) == [] and tab.run(SPILLS) == []
            assert tab.run(legend), "the names of the accounts do not fit"
            spans = "[...document.querySelectorAll('.scroll')].map(e => e.scrollWidth - e.clientWidth)"
            assert size == PHONE or max(tab.run(spans)) <= 1, "a table is cut off on a desktop"


def test_a_walk_that_was_killed_goes_on_and_comes_to_the_same(
    shell: Shell, tmp_path: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while a fold is made; that fold, made again in a process of its own, is equal to the last bit."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # threads that initial weights are drawn with move their last bits
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    write(tmp_path / "run.json", TINY)
    before = pd.read_parquet(copy / "fold-02" / "curves.parquet")
    kept = (copy / "fold-01" / "model.zip").stat().st_mtime_ns
    shutil.rmtree(copy / "fold-02")
    process = subprocess.Popen([sys.executable, "-m", "batchenv", *COMMAND], stdout=subprocess.DEVNULL)
    wait_for((copy / "fold-02.unfinished").is_dir, process)
    process.kill()
    process.wait()
    assert not (copy / "fold-02").exists()
    assert shell.run(*COMMAND) == 0
    assert "1 of them are there already" in " ".join(shell.out.split())
    assert "Fold 2 " in shell.out
    assert not (copy / "fold-02.unfinished").exists()
    assert (copy / "fold-01" / "model.zip").stat().st_mtime_ns == kept
    again = pd.read_parquet(copy / "fold-02" / "curves.parquet")
    pd.testing.assert_frame_equal(again, before, check_exact=True)


def test_a_fold_that_fails_does_not_lose_the_others(
    shell: Shell, tmp_path: Path, copy: Path, monkeypatch: pytest.MonkeyPatch, in_this_process: None
) -> None:
    def fail(job: Any, tell: Any) -> None:
        raise RunError("the disk is full")

    write(tmp_path / "run.json", TINY)
    shutil.rmtree(copy / "fold-02")
    (copy / "fold-02.unfinished").mkdir()
    monkeypatch.setattr("stateful.evaluation.walk_forward.make_fold", fail)
    message = shell.refuse(*COMMAND)
    assert "1 of 2 folds failed: fold 2: the disk is full" in message
    assert "the same command again makes those that are missing" in message
    assert (copy / "fold-01").is_dir()


def test_an_interruption_says_how_to_go_on(
    shell: Shell, tmp_path: Path, copy: Path, monkeypatch: pytest.MonkeyPatch, in_this_process: None
) -> None:
    def interrupt(job: Any, tell: Any) -> None:
        raise KeyboardInterrupt

    write(tmp_path / "run.json", TINY)
    shutil.rmtree(copy / "fold-02")
    monkeypatch.setattr("stateful.evaluation.walk_forward.make_fold", interrupt)
    assert shell.run(*COMMAND) == 130
    assert "1 of 2 folds are finished and kept. The same command goes on from there." in " ".join(shell.err.split())


def test_a_folder_of_something_else_is_refused_and_left_alone(
    shell: Shell, tmp_path: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing_is_made(*_: Any, **__: Any) -> None:
        raise AssertionError

    monkeypatch.setattr("stateful.evaluation.walk_forward.run_in_processes", nothing_is_made)
    write(tmp_path / "run.json", TINY)
    assert "its config.seed is 0, not 7" in shell.refuse(*COMMAND, "--seed", 7)
    assert "its anchored is false, not true" in shell.refuse(*COMMAND, "--anchored")
    assert "its folds is 2, not 3" in shell.refuse(*COMMAND, "--folds", 3)
    with FileLock(copy / "walk_forward.lock"):
        assert "another process is at work" in shell.refuse(*COMMAND)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    assert "mine: exists already and is no walk-forward" in shell.refuse(*COMMAND, "-o", "mine")
    (tmp_path / "mine" / "walk_forward.json").write_text("{}")
    assert "not the plan of a walk-forward" in shell.refuse(*COMMAND, "-o", "mine")
    assert sorted(p.name for p in (tmp_path / "mine").iterdir()) == [
        "notes.txt",
        "walk_forward.json",
        "walk_forward.lock",
    ]


def test_changed_data_and_changed_folds_are_noticed(
    shell: Shell, tmp_path: Path, in_this_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pretend(job: Any, tell: Any) -> None:
        shutil.copytree(tmp_path / "empty", job.folder)

    (tmp_path / "empty").mkdir()
    df = frame(n_bars=300)
    df.to_csv("mine.csv", index=False)
    write(tmp_path / "run.json", TINY | {"data": {"source": "mine.csv", "train_end": "2020-10-01"}})
    monkeypatch.setattr("stateful.evaluation.walk_forward.make_fold", pretend)
    assert "fold-01: damaged fold" in shell.refuse(*COMMAND)
    df.loc[df.index[-1], "volume"] += 1
    df.to_csv("mine.csv", index=False)
    assert "another walk-forward is here: its data.fingerprint is" in shell.refuse(*COMMAND)


@pytest.mark.parametrize(
    ("changes", "options", "words"),
    [
        ({}, ("--folds", 500), "500 folds of 2 steps need 1001 held-out bars, and there are 795"),
        ({"data": {"embargo": 2475}}, (), "data.embargo: 2475 of the 2475 bars"),
        ({"data": {"embargo": -1}}, (), "data.embargo"),
        ({"env": {"features": ["momentun_20"]}}, (), "did you mean 'momentum"),
        ({"data": {"train_end": "2030-01-01"}}, (), "2013-03-01"),
    ],
)
def test_a_walk_that_cannot_begin_is_one_message_and_leaves_nothing(
    shell: Shell, tmp_path: Path, changes: dict[str, Any], options: tuple[Any, ...], words: str
) -> None:
    write(tmp_path / "run.json", changes)
    assert words in shell.refuse(*COMMAND, *options)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
