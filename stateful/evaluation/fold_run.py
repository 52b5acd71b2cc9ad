"""One fold of a walk-forward: an ordinary run folder with an ordinary backtest in it, and what is read of both."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from batchenv.config import RunConfig, read_json
from batchenv.errors import ConfigError, RunError
from batchenv.runs import RunFolder, write_json
from batchenv.train import train
from stateful.command import prepare_run
from stateful.evaluation.folds import Fold
from stateful.evaluation.walk_forward_results import FoldResult
from stateful.evaluation.workers import Tell
from stateful.judge import make_judge

_FACTS, _CURVES = "fold.json", "curves.parquet"


@dataclass(frozen=True)
class FoldJob:
    """A fold to make.

    Attributes:
        config: Its configuration.
        folder: Where it will be.
        scratch: Where it is made.
        title: What its report calls it.
    """

    config: RunConfig
    folder: Path
    scratch: Path
    title: str


def make_fold(job: FoldJob, tell: Tell) -> None:
    """Train and test one fold in a scratch folder, and rename it when it is complete."""
    scratch = job.scratch
    teller = _Teller(tell)
    run = train(job.config, scratch, make_judge=make_judge, reporter=teller)
    plan = prepare_run(scratch)
    results = plan.testing.run(lambda done, total: teller.tell("testing", done, total))
    named = replace(plan, title=f"{plan.title}, {job.title}", facts={**plan.facts, "Run folder": str(job.folder)})
    named.write(results, scratch / "backtest")
    accounts = {"agent": results.history, **results.baselines}
    curves = pd.DataFrame({name: history["equity"] for name, history in accounts.items()})
    curves.reindex(pd.DatetimeIndex(results.market.timestamps)).to_parquet(scratch / _CURVES)
    write_json(scratch / _FACTS, {
        "data": run.info["data"],
        "labels": results.labels,
        "metrics": results.metrics,
        "validation": _chosen_by(run),
        "flags": [asdict(flag) for flag in results.flags],
    })  # fmt: skip
    scratch.rename(job.folder)


class _Teller:
    """Tells the parent how a fold goes, ten times a second at most."""

    def __init__(self, tell: Tell) -> None:
        self._tell, self._told = tell, 0.0

    def tell(self, stage: str, done: int, total: int) -> None:
        if done >= total or time.perf_counter() - self._told > 0.1:
            self._told = time.perf_counter()
            self._tell((stage, done, total))

    def progress(self, done: int, total: int) -> None:
        self.tell("training", min(done, total), total)

    def evaluated(self, row: dict[str, Any]) -> None:
        """Nothing: what validation found stands in the fold's folder."""


def _chosen_by(run: RunFolder) -> dict[str, float | None] | None:
    """Return the figures on the validation part that the tested model was chosen by; None where there were none."""
    if not run.best_model.is_file():
        return None
    curve = pd.read_csv(run.evaluations)
    row = curve[curve["best"]].iloc[-1]
    return {str(name): None if pd.isna(row[name]) else float(row[name]) for name in curve.columns.drop(["best"])}


def read_fold(folder: Path, fold: Fold) -> FoldResult:
    """Read what `make_fold` left.

    Raises:
        RunError: Something is missing or damaged.
    """
    try:
        return FoldResult(
            fold=fold, folder=folder, curves=pd.read_parquet(folder / _CURVES), **read_json(folder / _FACTS)
        )
    except (ConfigError, OSError, TypeError, ValueError) as error:
        raise RunError(f"{folder}: damaged fold: {error}; remove the folder to have it made again") from None
