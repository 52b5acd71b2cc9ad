"""Comparing runs: their folders read, their accounts put on the bars that all of them have.

A run is a run folder, or the folder of a walk-forward, whose account is the chained one. Each run folder's latest
backtest is taken; a run without one is tested first, as ``batchenv backtest`` would, which its folder counts as a look
at the held-out bars. What cannot be compared is an error where it was named, and left out, with the reason, where it
was found in a folder that was named.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from batchenv.config import RunConfig, read_json
from batchenv.errors import BatchenvError, ConfigError, RunError
from batchenv.runs import RunFolder
from batchenv.train import import_plugins, load_market, split_market
from stateful.baselines import BuyAndHold
from stateful.command import check_unchanged, prepare_run
from stateful.env import StatefulTradingEnv
from stateful.evaluation.compare_results import ComparedRun, Comparison
from stateful.evaluation.sharpe import Trials
from stateful.evaluation.trials import Look, count_trials, looks
from stateful.evaluation.uncertainty import MINIMUM_BARS
from stateful.evaluation.walk_forward import PLAN
from stateful.evaluation.walk_forward import FORMAT as WALK_FORMAT

Progress = Callable[[str, int, int], None]
"""Told the name of a run that is being tested, and its bars done and to do."""
_RUN_FILES = ("run.json", "config.json", "scaler.json")
_T = TypeVar("_T")


@dataclass(frozen=True)
class _Source:
    """A run whose folder has been opened.

    Attributes:
        path: The folder.
        folder: The run folder; None for a walk-forward.
        config: The complete configuration.
        settings: The same as plain values, with those of the walk-forward.
    """

    path: Path
    folder: RunFolder | None
    config: RunConfig
    settings: dict[str, Any]


class _Taken:
    """What can be compared so far; the rest is refused, or left out with its reason."""

    def __init__(self, named: Iterable[Path]) -> None:
        self._named = {path.resolve() for path in named}
        self.left_out: dict[Path, str] = {}

    def attempt(self, path: Path, make: Callable[[], _T]) -> _T | None:
        """Return what ``make`` returns, or None where it fails for a run that nobody named."""
        try:
            return make()
        except BatchenvError as error:
            if path.resolve() in self._named:
                raise
            self.left_out[path] = str(error).removeprefix(f"{path}: ")
            return None


def compare_runs(paths: Sequence[Path], *, model: str = "best", progress: Progress | None = None) -> Comparison:
    """Read runs and put them side by side.

    Args:
        paths: Run folders, folders of walk-forwards, and folders that hold either.
        model: ``best`` or ``final`` model of each run folder.
        progress: Told about backtests that have to be made.

    Raises:
        BatchenvError: Fewer than two runs are left, a named one cannot be compared, or they have no bars in common.
    """
    found = _find(paths)
    taken = _Taken(paths)
    opened = {path: source for path in found if (source := taken.attempt(path, lambda path=path: _open(path)))}
    sources = _each_once(opened, taken)
    _check_two(sources, taken)
    names = _names([source.path for source in sources])
    for source, name in zip(sources, names, strict=True):
        if source.folder is not None and (folder := source.folder):
            taken.attempt(source.path, lambda folder=folder, name=name: _test(folder, name, model, progress))
    runs = [
        run
        for source, name in zip(sources, names, strict=True)
        if source.path not in taken.left_out
        and (run := taken.attempt(source.path, lambda source=source, name=name: _read(source, name, model)))
    ]
    _check_two(runs, taken)
    equity = common_bars({run.name: run.equity for run in runs}, {run.name: run.end for run in runs})
    first = next(source for source in sources if source.path == runs[0].path)
    hold, reason = _buy_and_hold(first)
    hold, reason = _on_bars(hold, equity, reason)
    left_out = {str(path): why for path, why in taken.left_out.items()}
    return Comparison(tuple(runs), equity, hold, reason, left_out)


def common_bars(equities: dict[str, pd.Series[float]], ends: dict[str, pd.Timestamp]) -> pd.DataFrame:
    """Put accounts on the bars that all of them were held out on.

    Args:
        equities: Equity of each account, in money, its first bar first.
        ends: Last held-out bar of each account, which an account that ended early did not reach.

    Returns:
        One row per bar, one column per account, each 100 at the first bar; NaN after an account's own end.

    Raises:
        RunError: The accounts share too few bars, or lie on bars of their own between the same dates.
    """
    start, end = max(equity.index[0] for equity in equities.values()), min(ends.values())
    parts = {name: equity.loc[start:end] for name, equity in equities.items()}
    longest = max(parts, key=lambda name: len(parts[name]))
    index = parts[longest].index
    spans = "; ".join(
        f"{name}: {equity.index[0]:%Y-%m-%d} to {ends[name]:%Y-%m-%d}" for name, equity in equities.items()
    )
    if len(index) - 1 < MINIMUM_BARS:
        raise RunError(
            f"these runs were tested on {max(len(index) - 1, 0)} bars in common, expected at least {MINIMUM_BARS}: "
            f"{spans}"
        )
    for name, part in parts.items():
        if len(part) < 2:
            raise RunError(f"{name}: its account ended on {equities[name].index[-1]:%Y-%m-%d}, before the common bars")
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
            raise RunError(f"{path}: neither a run folder nor a folder of runs; expected one of the two")
        found += inside
    seen: set[Path] = set()
    for path in found:
        if path.resolve() in seen:
            raise RunError(f"{path}: is named twice; expected runs that differ")
        seen.add(path.resolve())
    return found


def _is_run(path: Path) -> bool:
    return any((path / name).is_file() for name in (PLAN, *_RUN_FILES))


def _open(path: Path) -> _Source:
    if (path / PLAN).is_file():
        return _open_walk(path)
    folder = RunFolder.open(path)
    if folder.info.get("status") != "finished":
        raise RunError(f"{path}: training did not finish (its status is {folder.info.get('status')!r})")
    return _Source(path, folder, folder.config, folder.config.model_dump(mode="json"))


def _open_walk(path: Path) -> _Source:
    try:
        plan = read_json(path / PLAN)
        if plan["format"] != WALK_FORMAT:
            raise RunError(f"{path / PLAN}: format {plan['format']!r}, expected {WALK_FORMAT}; another version wrote it")
        config = RunConfig.model_validate(plan["config"])
        walk = {"folds": plan["folds"], "anchored": plan["anchored"], "embargo": plan["embargo"]}
    except (ConfigError, KeyError, TypeError) as error:
        raise RunError(f"{path}: damaged walk-forward: {error}") from None
    return _Source(path, None, config, {**config.model_dump(mode="json"), "walk_forward": walk})


def _each_once(opened: dict[Path, _Source], taken: _Taken) -> list[_Source]:
    """Leave out runs of the same configuration and seed as one before: training is deterministic."""
    kept: list[_Source] = []
    for path, source in opened.items():
        twin = next((other for other in kept if other.settings == source.settings), None)
        if twin is None or taken.attempt(path, lambda path=path, twin=twin: _refuse_twin(path, twin.path)):
            kept.append(source)
    return kept


def _refuse_twin(path: Path, twin: Path) -> bool:
    raise RunError(f"{path}: the same configuration and seed as {twin}, so the same run; expected runs that differ")


def _check_two(runs: Sequence[Any], taken: _Taken) -> None:
    if len(runs) < 2:
        reasons = "".join(f"\n  {path}: {reason}" for path, reason in taken.left_out.items())
        raise RunError(f"compare: expected at least two runs, got {len(runs)}{reasons}")


def _names(paths: Sequence[Path]) -> list[str]:
    """Return the shortest names that tell the folders apart: relative to the folder that holds all of them."""
    resolved = [path.resolve() for path in paths]
    root = os.path.commonpath([path.parent for path in resolved])
    return [path.relative_to(root).as_posix() for path in resolved]


# --- accounts -----------------------------------------------------------------------------------------------


def _test(run: RunFolder, name: str, model: str, progress: Progress | None) -> None:
    """Test a run that was not tested yet, or whose report is gone."""
    if _latest(run, run.chosen_model(model).name) is not None:
        return
    plan = prepare_run(run.path, model)
    results = plan.testing.run(None if progress is None else lambda done, total: progress(name, done, total))
    plan.write(results, plan.default_output)


def _latest(run: RunFolder, model: str) -> Look | None:
    """Return the latest test of a model whose report is there."""
    tests = [look for look in looks(run) if look.model == model and (run.path / look.report).is_dir()]
    return tests[-1] if tests else None


def _read(source: _Source, name: str, model: str) -> ComparedRun:
    return _read_walk(source, name) if source.folder is None else _read_run(source, source.folder, name, model)


def _read_run(source: _Source, run: RunFolder, name: str, model: str) -> ComparedRun:
    chosen = run.chosen_model(model).name
    look = _latest(run, chosen)
    assert look is not None  # tested before
    report = run.path / look.report
    try:
        metrics = read_json(report / "metrics.json")
        equity = pd.read_parquet(report / "history.parquet", columns=["equity"])["equity"]
        curve = pd.read_csv(run.evaluations)[["timesteps", "sharpe"]] if run.evaluations.is_file() else None
        periods = float(metrics["periods_per_year"])
        end, fingerprint = (run.info["data"]["test"][key] for key in ("last", "fingerprint"))
    except (ConfigError, OSError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"{source.path}: damaged run or report ({report}): {_words(error)}") from None
    made = float(equity.iloc[-1] / equity.iloc[0] - 1.0)
    if look.total_return is not None and not math.isclose(made, look.total_return, rel_tol=1e-9, abs_tol=1e-12):
        raise RunError(
            f"{report}: is another report than the run counts: its account made {made:.4%}, expected "
            f"{look.total_return:.4%}; remove the folder to have the run tested again"
        )
    return ComparedRun(
        name=name,
        path=source.path,
        config=source.config,
        settings=source.settings,
        equity=equity,
        end=pd.Timestamp(end),
        periods_per_year=periods,
        model=chosen,
        bars=str(fingerprint),
        report=report / "report.html",
        trials=count_trials(run, chosen),
        learning=curve,
        versions=run.info.get("versions", {}),
    )


def _read_walk(source: _Source, name: str) -> ComparedRun:
    file = source.path / "equity.csv"
    if not file.is_file():
        raise RunError(f"{source.path}: the walk-forward did not finish ({file.name} is missing)")
    equity = _walk_curves(source.path)["agent"].dropna()
    market = load_market(source.config.data)
    return ComparedRun(
        name=name,
        path=source.path,
        config=source.config,
        settings=source.settings,
        equity=equity,
        end=_walk_curves(source.path).index[-1],
        periods_per_year=market.periods_per_year,
        model="each fold's own",
        bars="",
        report=source.path / "walk_forward.html",
        trials=Trials(0),
        learning=None,
        versions={},
    )


def _walk_curves(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path / "equity.csv", index_col="date", parse_dates=["date"], float_precision="round_trip")
    except (OSError, ValueError) as error:
        raise RunError(f"{path / 'equity.csv'}: damaged: {error}") from None


def _words(error: Exception) -> str:
    return f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)


def _buy_and_hold(source: _Source) -> tuple[pd.Series[float] | None, str | None]:
    """Return the account of buy and hold under a run's rules, or why there is none."""
    if source.folder is None:
        curves = _walk_curves(source.path)
        return (curves["buy_and_hold"], None) if "buy_and_hold" in curves else (None, "the walk-forward has none")
    config = source.config
    try:
        import_plugins(config.imports)
        test = split_market(load_market(config.data), config.data).test
        check_unchanged(source.folder, test)
        rules = config.backtest.applied_to(config.env)
        env = StatefulTradingEnv(test, rules, scaler=source.folder.scaler, seed=config.seed)
    except BatchenvError as error:
        return None, str(error)
    rule, over = BuyAndHold(), False
    env.reset()
    while not over:
        _, _, ruined, ended, _ = env.step_orders(rule.orders(env))
        over = ruined or ended
    return env.history["equity"], None


def _on_bars(
    hold: pd.Series[float] | None, equity: pd.DataFrame, reason: str | None
) -> tuple[pd.Series[float] | None, str | None]:
    """Return an account on the common bars, 100 at the first."""
    if hold is None:
        return None, reason
    part = hold.reindex(equity.index)
    return (100.0 * part / part.iloc[0], None) if part.notna().all() else (None, "it ended early")
