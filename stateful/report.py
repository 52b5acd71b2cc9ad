"""The report: one self-contained HTML page, figures as PNG, and the data behind them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from batchenv.errors import RunError
from stateful.metrics import METRICS
from stateful.plots import write_plots
from stateful.report_evidence import Stress
from stateful.report_page import Beside, build_page
from stateful.report_parts import reported
from stateful.tear_sheet import FILE, TearSheetProcess

if TYPE_CHECKING:
    from stateful.backtest import BacktestResults

REPORT_FILES = (
    "report.html", "metrics.json", "trades.csv", "fills.csv", "history.parquet", "equity.png", "drawdown.png",
    "weights.png",
)  # fmt: skip
"""Every file of a report but QuantStats' tear sheet, which is there where it was asked for and could be made."""


def write_report(
    results: BacktestResults,
    directory: Path,
    *,
    title: str | None = None,
    learning_curve: pd.DataFrame | None = None,
    run_info: Mapping[str, Any] | None = None,
    tear_sheet: bool = False,
    stress: Path | None = None,
) -> Path:
    """Write all of `REPORT_FILES`, or nothing; see `BacktestResults.write`.

    Raises:
        RunError: One of the files is there already, or cannot be written.
    """
    _refuse_earlier_report(directory)
    staging = directory.parent / f".{directory.name}.unfinished-{os.getpid()}"
    sheet: TearSheetProcess | None = None
    try:
        staging.mkdir(parents=True)
        sheet = TearSheetProcess(results, staging, title or "Backtest") if tear_sheet else None
        _write_data(results, staging)
        write_plots(results, staging)
        beside = Beside(
            title=title,
            learning_curve=learning_curve,
            run_info=run_info,
            sheet=None if sheet is None else sheet.finish(),
            stress=Stress.find(stress, directory),
        )
        (staging / "report.html").write_text(build_page(results, beside), encoding="utf-8")
        _move_into_place(staging, directory)
    except OSError as error:
        raise RunError(f"{directory}: cannot write the report: {error.strerror or error}") from error
    finally:
        if sheet is not None:
            sheet.stop()
        shutil.rmtree(staging, ignore_errors=True)
    return directory / "report.html"


def _refuse_earlier_report(directory: Path) -> None:
    if directory.exists() and not directory.is_dir():
        raise RunError(f"{directory}: is a file, expected a directory for the report")
    for name in (*REPORT_FILES, FILE):
        if (directory / name).exists():
            raise RunError(f"{directory / name}: exists already; expected a directory without an earlier report")


def _write_data(results: BacktestResults, directory: Path) -> None:
    metrics = results.metrics
    summary = {
        "verdict": [str(verdict) for verdict in results.headlines],
        "flags": [asdict(flag) for flag in results.flags],
        **_supported(metrics),
        "baselines": {name: _supported(found) for name, found in metrics["baselines"].items()},
        "missing": _reasons(metrics),
        "attribution": results.attribution.as_dict(),
    }
    content = json.dumps(summary, indent=2, allow_nan=False)
    (directory / "metrics.json").write_text(content + "\n", encoding="utf-8")
    results.trades.to_csv(directory / "trades.csv", index=False)
    results.fills.to_csv(directory / "fills.csv", index=False)
    results.history.to_parquet(directory / "history.parquet")


def _supported(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return an account's figures, None where there are too few bars for one."""
    found = {metric.name: reported(metrics, metric)[0] for metric in METRICS if metric.name in metrics}
    return {**metrics, **found}


def _reasons(metrics: Mapping[str, Any]) -> dict[str, str]:
    """Return why figures of the agent are None, by their names."""
    found = {metric.name: reported(metrics, metric)[1] for metric in METRICS if metric.name in metrics}
    return {name: reason for name, reason in found.items() if reason is not None}


def _move_into_place(staging: Path, directory: Path) -> None:
    """Rename the finished files into ``directory``; take back those already moved if one fails."""
    if not directory.exists():
        staging.rename(directory)
        return
    moved: list[Path] = []
    try:
        for path in sorted(staging.iterdir()):
            path.rename(directory / path.name)
            moved.append(directory / path.name)
    except OSError:
        for path in moved:
            path.unlink(missing_ok=True)
        raise
