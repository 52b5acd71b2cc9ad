"""How many configurations were tried on the same held-out bars: run folders count the looks taken at them.

Every backtest of a run folder writes a line into the folder's ``looks.jsonl``. Models that were tested on bars of the
same period and symbols, in this folder and those beside it, are the trials that the deflated Sharpe ratio counts. What
was tried elsewhere, or deleted, is not known here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from batchenv.errors import RunError
from batchenv.runs import RunFolder
from stateful.evaluation.sharpe import Trials

LOOKS = "looks.jsonl"
"""File of a run folder with a line for each of its backtests."""


@dataclass(frozen=True)
class Look:
    """One backtest of a run folder's model on the held-out bars.

    Attributes:
        time: When, as ISO text.
        model: File name of the model.
        report: Folder of the report; relative to the run folder where it lies inside.
        bars: Steps played.
        total_return: Its total return.
        sharpe_per_bar: Its Sharpe ratio, not annualised; None where it has none.
    """

    time: str
    model: str
    report: str
    bars: int
    total_return: float | None
    sharpe_per_bar: float | None


def record_look(run: RunFolder, model: str, report: Path, metrics: Mapping[str, Any]) -> Look:
    """Write down that a model of a run folder was tested on the held-out bars.

    Args:
        run: The run folder.
        model: File name of the model.
        report: Folder of the report.
        metrics: `BacktestResults.metrics`.

    Raises:
        RunError: The folder cannot be written to.
    """
    sharpe, folder = metrics["sharpe"], report.resolve()
    inside = folder.is_relative_to(run.path.resolve())
    look = Look(
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        model=model,
        report=str(folder.relative_to(run.path.resolve()) if inside else folder),
        bars=metrics["bars"],
        total_return=metrics["total_return"],
        sharpe_per_bar=None if sharpe is None else sharpe / math.sqrt(metrics["periods_per_year"]),
    )
    try:
        with (run.path / LOOKS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(look), allow_nan=False) + "\n")
    except OSError as error:
        raise RunError(
            f"{run.path / LOOKS}: cannot write down that these bars were looked at: {error.strerror}; the report is "
            f"in {report}"
        ) from None
    return look


def looks(run: RunFolder) -> tuple[Look, ...]:
    """Return the backtests that a run folder counts, the first one first.

    Raises:
        RunError: Its record is damaged.
    """
    path = run.path / LOOKS
    if not path.is_file():
        return ()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return tuple(Look(**json.loads(line)) for line in lines)
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"{path}: damaged record of backtests: {error}; mend or remove the line that is none") from None


def count_trials(run: RunFolder, model: str, *, root: Path | None = None) -> Trials:
    """Count what else was tried on bars that a run is tested on.

    A trial is a configuration, seed included, and which of its models was tested; testing it again, or training the
    same again, is no further trial. Another folder that cannot be read counts as one trial with an unknown result.

    Args:
        run: The run folder whose test is in question.
        model: File name of its model.
        root: Folder that holds the run folders, at any of two depths; None takes the one that ``run`` lies in.

    Raises:
        RunError: The run's own record of backtests is damaged.
    """
    looks(run)
    tried: dict[str, float | None] = {}
    for path in _run_folders(run.path.resolve().parent if root is None else root):
        try:
            other = RunFolder.open(path)
            if _share_bars(run.info, other.info):
                tried |= {_identity(other, look.model): look.sharpe_per_bar for look in looks(other)}
        except (RunError, KeyError, TypeError):
            if (path / LOOKS).exists():
                tried[str(path)] = None
    tried.pop(_identity(run, model), None)
    return Trials(len(tried), tuple(sharpe for sharpe in tried.values() if sharpe is not None))


def by_configuration(runs: Iterable[RunFolder]) -> list[list[RunFolder]]:
    """Group runs that differ in their seed only, in the order given."""
    groups: dict[str, list[RunFolder]] = {}
    for run in runs:
        groups.setdefault(run.config.model_dump_json(exclude={"seed"}), []).append(run)
    return list(groups.values())


def held_out_returns(runs: Sequence[RunFolder]) -> pd.DataFrame:
    """Return what each run's latest backtest made of the held-out bars, for `probability_of_overfitting`.

    Returns:
        Simple returns: one row per bar, one column per run folder's path.

    Raises:
        RunError: A run was not tested, its report is gone, or the runs were tested on different bars.
    """
    returns = {}
    for run in runs:
        taken = looks(run)
        if not taken:
            raise RunError(f"{run.path}: was not tested on its held-out bars; expected 'batchenv backtest' before")
        path = run.path / taken[-1].report / "history.parquet"
        if not path.is_file():
            raise RunError(f"{path}: the account of the latest backtest is missing; test the run again")
        equity = pd.read_parquet(path, columns=["equity"])["equity"]
        returns[str(run.path)] = equity.pct_change().iloc[1:]
    first, *others = returns.items()
    for name, series in others:
        if not series.index.equals(first[1].index):
            raise RunError(f"{name}: was tested on other bars than {first[0]}, or its account ended early")
    return pd.DataFrame(returns)


def _run_folders(root: Path) -> Iterator[Path]:
    """Yield what looks like a run folder within ``root``, or within the folders in it (as a walk-forward has them)."""
    for pattern in ("*/run.json", "*/*/run.json"):
        yield from sorted(path.parent for path in root.glob(pattern))


def _share_bars(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Tell whether the held-out parts of two runs have a symbol and a period in common.

    Neighbours in a walk-forward share a bar, which ends one and begins the other, and no return.
    """
    mine, theirs = one["data"]["test"], other["data"]["test"]
    overlap = mine["first"] < theirs["last"] and theirs["first"] < mine["last"]  # ISO text sorts by time
    return overlap and not set(one["symbols"]).isdisjoint(other["symbols"])


def _identity(run: RunFolder, model: str) -> str:
    return f"{model} of {run.config.model_dump_json()}"
