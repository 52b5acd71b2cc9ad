"""Comparing runs: their folders read, their accounts put on the bars that all of them have.

A run is a run folder, or the folder of a walk-forward, whose account is the chained one. Of each run folder the latest
backtest is taken; a run without one is tested first, as ``batchenv backtest`` would, which its folder counts as a look
at the held-out bars. What cannot be compared is an error where it was named, and left out, with the reason, where it
was only found in a folder that was named.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from batchenv.config import RunConfig, read_json
from batchenv.errors import BatchenvError, ConfigError, RunError
from batchenv.runs import RunFolder
from batchenv.train import import_plugins, load_market, split_market
from stateful.baselines import BuyAndHold
from stateful.command import prepare_run
from stateful.env import StatefulTradingEnv
from stateful.evaluation.comparable import incomparable, play_rule
from stateful.evaluation.compare_results import ComparedRun, Comparison
from stateful.evaluation.trials import Look, count_trials, looks
from stateful.evaluation.uncertainty import MINIMUM_BARS
from stateful.evaluation.walk_forward import FORMAT as WALK_FORMAT
from stateful.evaluation.walk_forward import PLAN
from stateful.history import FILL_COLUMNS

Progress = Callable[[str, int, int], None]
"""Told the name of a run that is being tested, and its bars done and to do."""
_RUN_FILES = ("run.json", "config.json", "scaler.json")
_UNUSABLE = (ConfigError, OSError, KeyError, TypeError, ValueError)


@dataclass(frozen=True)
class _Source:
    """A run whose folder has been opened.

    Attributes:
        path: The folder.
        folder: The run folder; None for a walk-forward.
        config: The complete configuration.
        settings: The same as plain values, and with them those of the walk-forward.
    """

    path: Path
    folder: RunFolder | None
    config: RunConfig
    settings: dict[str, Any]


def compare_runs(paths: Sequence[Path], *, model: str = "best", progress: Progress | None = None) -> Comparison:
    """Read runs and put them side by side.

    Args:
        paths: Run folders, folders of walk-forwards, and folders that hold either.
        model: ``best`` or ``final`` model of each run folder.
        progress: Told about backtests that have to be made.

    Raises:
        BatchenvError: A named run cannot be compared, fewer than two are left, or they have too few bars in common.
    """
    left_out: dict[Path, str] = {}
    sources: list[_Source] = []
    for path in _find(paths):
        with _named_or_left_out(path, paths, left_out):
            source = _open(path)
            _refuse_twin(source, sources)
            sources.append(source)
    _check_two(sources, left_out)
    names = _names([source.path for source in sources])
    for source, name in zip(sources, names, strict=True):
        with _named_or_left_out(source.path, paths, left_out):
            if source.folder is not None:
                _test(source.folder, name, model, progress)
    runs: dict[str, ComparedRun] = {}
    for source, name in zip(sources, names, strict=True):
        if source.path not in left_out:
            with _named_or_left_out(source.path, paths, left_out):
                runs[name] = _read(source, name, model)
    _check_two(runs, left_out)
    equity = common_bars({name: run.equity for name, run in runs.items()}, {name: r.end for name, r in runs.items()})
    hold, reason = _buy_and_hold(next(source for source in sources if source.path not in left_out), model)
    if hold is not None:
        hold = hold.reindex(equity.index)
        hold, reason = (100.0 * hold / hold.iloc[0], None) if hold.notna().all() else (None, "it ended early")
    return Comparison(tuple(runs.values()), equity, hold, reason, {str(path): why for path, why in left_out.items()})


def common_bars(equities: Mapping[str, pd.Series[float]], ends: Mapping[str, pd.Timestamp]) -> pd.DataFrame:
    """Put accounts on the bars that all of them were held out on.

    Args:
        equities: Equity of each account, in money, one value per bar.
        ends: Last held-out bar of each account; one that ended early did not reach it.

    Returns:
        One row per bar, one column per account, each 100 at the first bar; NaN after an account's own end.

    Raises:
        RunError: The accounts share too few bars, or lie on bars of their own between the same dates.
    """
    start, end = max(equity.index[0] for equity in equities.values()), min(ends.values())
    parts = {name: equity.loc[start:end] for name, equity in equities.items()}
    longest = max(parts, key=lambda name: len(parts[name]))
    index = parts[longest].index
    spans = "; ".join(f"{name}: {_date(equity.index[0])} to {_date(ends[name])}" for name, equity in equities.items())
    if len(index) - 1 < MINIMUM_BARS:
        bars = max(len(index) - 1, 0)
        raise RunError(f"these runs have {bars} held-out bars in common, expected at least {MINIMUM_BARS}: {spans}")
    for name, part in parts.items():
        if len(part) < 2:
            raise RunError(f"{name}: its account ended on {_date(equities[name].index[-1])}, before the common bars")
        if not part.index.equals(index[: len(part)]):
            raise RunError(f"{name}: was tested on other bars than {longest}, between the same dates ({spans})")
    return pd.DataFrame({name: 100.0 * part / part.iloc[0] for name, part in parts.items()}, index=index)


# --- finding and opening ------------------------------------------------------------------------------------


def _find(paths: Sequence[Path]) -> list[Path]:
    """Return the folders of runs that are named, and those in the folders that are named."""
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            what = "is a file" if path.exists() else "there is nothing here"
            raise RunError(f"{path}: {what}; expected a run folder, or a folder of runs")
        inside = [path] if _is_run(path) else [child for child in sorted(path.iterdir()) if _is_run(child)]
        if not inside:
            raise RunError(f"{path}: neither a run folder nor a folder of runs")
        found += inside
    resolved = [path.resolve() for path in found]
    for i, path in enumerate(found):
        if resolved[i] in resolved[:i]:
            raise RunError(f"{path}: is named twice; expected runs that differ")
    return found


def _is_run(path: Path) -> bool:
    return any((path / name).is_file() for name in (PLAN, *_RUN_FILES))


@contextmanager
def _named_or_left_out(path: Path, named: Sequence[Path], left_out: dict[Path, str]) -> Iterator[None]:
    """Let an error pass for a run that was named, and note it for one that was found."""
    try:
        yield
    except BatchenvError as error:
        if path in named:
            raise
        left_out[path] = str(error).removeprefix(f"{path}: ").removeprefix(f"{path}/")


def _open(path: Path) -> _Source:
    if (path / PLAN).is_file():
        return _open_walk(path)
    run = RunFolder.open(path)
    status = run.info.get("status")
    if status != "finished":
        raise RunError(f"{path}: training did not finish (its status is {status!r}); expected a finished run")
    return _Source(path, run, run.config, run.config.model_dump(mode="json"))


def _open_walk(path: Path) -> _Source:
    try:
        plan = read_json(path / PLAN)
        if plan["format"] != WALK_FORMAT:
            found = plan["format"]
            raise RunError(f"{path / PLAN}: format {found!r}, expected {WALK_FORMAT}; another version wrote it")
        config = RunConfig.model_validate(plan["config"])
        walk = {key: plan[key] for key in ("folds", "anchored", "embargo")}
    except _UNUSABLE as error:
        raise RunError(f"{path}: damaged walk-forward: {_words(error)}") from None
    return _Source(path, None, config, {**config.model_dump(mode="json"), "walk_forward": walk})


def _refuse_twin(source: _Source, others: Sequence[_Source]) -> None:
    for other in others:
        if source.settings == other.settings:
            raise RunError(
                f"{source.path}: has the configuration and the seed of {other.path}, so it is the same run; expected "
                "runs that differ"
            )


def _check_two(runs: Sequence[_Source] | Mapping[str, ComparedRun], left_out: Mapping[Path, str]) -> None:
    if len(runs) < 2:
        reasons = "".join(f"\n  {path}: {reason}" for path, reason in left_out.items())
        raise RunError(f"compare: expected at least two runs, got {len(runs)}{reasons}")


def _names(paths: Sequence[Path]) -> list[str]:
    """Return names that tell the folders apart: relative to the folder that holds all of them."""
    resolved = [path.resolve() for path in paths]
    root = os.path.commonpath([path.parent for path in resolved])
    return [path.relative_to(root).as_posix() for path in resolved]


# --- accounts -----------------------------------------------------------------------------------------------


def _test(run: RunFolder, name: str, model: str, progress: Progress | None) -> None:
    """Test a run that was not tested yet, or whose report is gone."""
    if _latest(run, run.chosen_model(model).name) is None:
        plan = prepare_run(run.path, model)
        results = plan.testing.run(None if progress is None else lambda done, total: progress(name, done, total))
        plan.write(results, plan.default_output)


def _latest(run: RunFolder, model: str) -> Look | None:
    """Return the latest test of a model whose report is there."""
    tests = [look for look in looks(run) if look.model == model and (run.path / look.report).is_dir()]
    return tests[-1] if tests else None


def _read(source: _Source, name: str, model: str) -> ComparedRun:
    known: dict[str, Any] = {
        "name": name, "path": source.path, "config": source.config, "settings": source.settings,
    }  # fmt: skip
    try:
        found = _walk(source.path) if source.folder is None else _tested(source.folder, model)
    except _UNUSABLE as error:
        raise RunError(f"{source.path}: damaged: {_words(error)}") from None
    return ComparedRun(**known, **found)


def _tested(run: RunFolder, model: str) -> dict[str, Any]:
    """Return what a run's latest backtest says of it."""
    chosen = run.chosen_model(model).name
    look = _latest(run, chosen)
    assert look is not None  # `_test` came first
    report = run.path / look.report
    metrics = read_json(report / "metrics.json")
    equity = pd.read_parquet(report / "history.parquet", columns=["equity"])["equity"]
    made = float(equity.iloc[-1] / equity.iloc[0] - 1.0)
    if look.total_return is not None and not math.isclose(made, look.total_return, rel_tol=1e-9, abs_tol=1e-12):
        raise RunError(
            f"{report}: is not the report that the run counts: its account made {made:.4%}, expected "
            f"{look.total_return:.4%}; remove the folder to have the run tested again"
        )
    if metrics["periods_per_year"] is None:
        raise RunError(f"{report}: its figures are not per year; state data.periods_per_year and test the run again")
    return {
        "equity": equity,
        "end": pd.Timestamp(run.info["data"]["test"]["last"]),
        "periods_per_year": float(metrics["periods_per_year"]),
        "model": chosen,
        "fingerprint": run.info["data"]["test"]["fingerprint"],
        "report": report / "report.html",
        "tried": count_trials(run, chosen).others,
        "learning": pd.read_csv(run.evaluations)[["timesteps", "sharpe"]] if run.evaluations.is_file() else None,
        "versions": run.info["versions"],
    }


def _walk(path: Path) -> dict[str, Any]:
    """Return what a walk-forward made out of sample."""
    if not (path / "results.json").is_file():
        raise RunError(f"{path}: the walk-forward did not finish (results.json is missing)")
    metrics = read_json(path / "results.json")["metrics"]
    curves = _walk_curves(path)
    return {
        "equity": curves["agent"].dropna(),
        "end": curves.index[-1],
        "periods_per_year": metrics["bars"] / metrics["years"],
        "model": "that of each fold",
        "report": path / "walk_forward.html",
    }


def _walk_curves(path: Path) -> pd.DataFrame:
    curves = pd.read_csv(path / "equity.csv", index_col="date", parse_dates=["date"])
    return curves.set_index(pd.DatetimeIndex(curves.index).as_unit("ns"))


def _buy_and_hold(source: _Source, model: str) -> tuple[pd.Series[float] | None, str | None]:
    """Return the account of buy and hold on a run's held-out bars and under its rules, or why there is none."""
    if source.folder is None:
        curves = _walk_curves(source.path)
        if "buy_and_hold" not in curves:
            return None, "the walk-forward has none"
        figures = read_json(source.path / "results.json")["metrics"].get("baselines", {})
        why = figures.get("buy_and_hold", {}).get("not_comparable")
        return (curves["buy_and_hold"], None) if why is None else (None, f"buy and hold {why['reason']}")
    config, known = source.config, source.folder.info["data"]["test"]["fingerprint"]
    try:
        import_plugins(config.imports)
        test = split_market(load_market(config.data), config.data).test
        if test.fingerprint != known:
            return None, f"the held-out bars of {config.data.source!r} have changed since {source.path} was trained"
        rules = config.backtest.applied_to(config.env)
        env = StatefulTradingEnv(test, rules, scaler=source.folder.scaler, seed=config.seed)
    except BatchenvError as error:
        return None, str(error)
    rule, fills = BuyAndHold(), _fills(source.folder, model)
    env.reset()
    ordered, history = play_rule(rule, env), env.history
    why = incomparable(rule, ordered, (history, env.fills), fills, env.task)
    return (history["equity"], None) if why is None else (None, f"buy and hold {why['reason']}")


def _fills(run: RunFolder, model: str) -> pd.DataFrame:
    """Return the fills of a run's latest backtest; none where its report does not have them."""
    tested = _latest(run, run.chosen_model(model).name)
    assert tested is not None  # `_test` came first
    table = run.path / tested.report / "fills.csv"
    if not table.is_file():
        return pd.DataFrame(columns=FILL_COLUMNS)
    return pd.read_csv(table, parse_dates=["timestamp"])


def _date(when: pd.Timestamp) -> str:
    return f"{when:%Y-%m-%d}"


def _words(error: Exception) -> str:
    return f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
