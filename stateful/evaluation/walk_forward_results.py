"""What a walk-forward found: each fold by itself, and the out-of-sample curve of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from batchenv.config import RunConfig
from stateful.evaluation.folds import Fold
from stateful.evaluation.stitching import curve_metrics, stitch
from stateful.evaluation.uncertainty import Uncertainty, measure_uncertainty
from stateful.verdict import LEVEL, Verdict, headlines, percent, verdicts


@dataclass(frozen=True, eq=False)
class FoldResult:
    """One fold, trained and tested.

    Attributes:
        fold: Its bars.
        folder: Its run folder.
        data: First and last date, number of bars and fingerprint of ``train``, ``validation`` and ``test``.
        labels: Name of each baseline in words.
        metrics: Figures of its backtest, those of each baseline under ``baselines``.
        validation: Figures of the tested model on the validation part, which it was chosen by; None where there were
            none.
        curves: Equity of ``agent`` and of each baseline, one row per test bar, NaN after the end of an account.
        flags: Red flags of its backtest, as ``metrics.json`` has them.
    """

    fold: Fold
    folder: Path
    data: Mapping[str, Mapping[str, Any]]
    labels: Mapping[str, str]
    metrics: Mapping[str, Any]
    validation: Mapping[str, float | None] | None
    curves: pd.DataFrame
    flags: Sequence[Mapping[str, str]] = ()

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """Whether the agent beat each baseline in this fold."""
        return verdicts(self.metrics, self.labels)

    @property
    def trained(self) -> tuple[str, str]:
        """First and last date of the training bars, validation included."""
        parts = [self.data[name] for name in ("train", "validation") if name in self.data]
        return parts[0]["first"][:10], parts[-1]["last"][:10]

    @property
    def tested(self) -> tuple[str, str]:
        """First and last date of the test bars."""
        return self.data["test"]["first"][:10], self.data["test"]["last"][:10]


@dataclass(frozen=True, eq=False)
class WalkForwardResults:
    """All folds of a walk-forward, and the curve that they make together.

    Attributes:
        config: The configuration of the walk.
        folds: The folds, in order.
        symbols: What was traded.
        embargo: Bars left out between training and test.
        anchored: Whether the training windows grow; else they move on.
        periods_per_year: Bars in a year.
    """

    config: RunConfig
    folds: tuple[FoldResult, ...]
    symbols: tuple[str, ...]
    embargo: int
    anchored: bool
    periods_per_year: float

    @cached_property
    def equity(self) -> pd.DataFrame:
        """Out-of-sample equity of ``agent`` and of each baseline, in money, one row per bar; see `stitch`."""
        return stitch([fold.curves for fold in self.folds])

    @property
    def labels(self) -> Mapping[str, str]:
        """Name of each baseline in words."""
        return self.folds[0].labels

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """Figures of the agent's out-of-sample curve, and under ``baselines`` those of each baseline's."""
        figures = {
            name: curve_metrics(
                self.equity[name],
                periods_per_year=self.periods_per_year,
                risk_free_rate=self.config.backtest.risk_free_rate,
            )
            for name in self.equity
        }
        found = self.uncertainty
        return {
            **figures.pop("agent"),
            "baselines": figures,
            "uncertainty": None if found is None else found.as_dict(),
        }

    @cached_property
    def uncertainty(self) -> Uncertainty | None:
        """How far luck could have moved the out-of-sample figures; None where switched off."""
        settings = self.config.backtest
        if not settings.uncertainty.resamples:
            return None
        curves = {name: self.equity[name].dropna().to_numpy(np.float64) for name in ("agent", *self.labels)}
        return measure_uncertainty(
            curves.pop("agent"),
            curves,
            config=settings.uncertainty,
            periods_per_year=self.periods_per_year,
            risk_free_rate=settings.risk_free_rate,
        )

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """Whether the agent beat each baseline out of sample."""
        return verdicts(self.metrics, self.labels)

    @property
    def headlines(self) -> tuple[Verdict, ...]:
        """What to say first, out of sample: against all baselines, and last against the main one."""
        return headlines(self.metrics, self.labels)

    @property
    def main(self) -> str | None:
        """Name of the baseline that the folds are held against: buy and hold, else the first; None without any."""
        return self.headlines[-1].baseline if self.labels else None

    @property
    def won(self) -> dict[str, int]:
        """In how many folds the agent beat each baseline."""
        outcomes = [{verdict.baseline: verdict.outcome for verdict in fold.verdicts} for fold in self.folds]
        return {name: sum(fold[name] == "beat" for fold in outcomes) for name in self.labels}

    @property
    def mean_sharpe(self) -> tuple[float, float] | None:
        """Mean Sharpe ratio of the folds on validation and out of sample; None where no fold has both."""
        pairs = [
            (fold.validation["sharpe"], fold.metrics["sharpe"])
            for fold in self.folds
            if fold.validation is not None and None not in (fold.validation["sharpe"], fold.metrics["sharpe"])
        ]
        if not pairs:
            return None
        chosen, tested = (float(np.mean(values)) for values in zip(*pairs, strict=True))
        return chosen, tested

    @property
    def summary(self) -> str:
        """What it comes to against the main baseline, in one sentence."""
        metrics, folds = self.metrics, len(self.folds)
        period = f"Out of sample, over {folds} folds from {metrics['first_date']} to {self.folds[-1].tested[1]}"
        made = _made(metrics["total_return"])
        name = self.main
        if name is None:
            return f"{period}, the agent {made}, after costs."
        label = self.labels[name]
        theirs = percent(metrics["baselines"][name]["total_return"], sign=True)
        return (
            f"{period}, the agent {made} against {theirs} of {label}, after costs; it beat {label} in "
            f"{self.won[name]} of {folds} folds."
        )

    @property
    def sharpe_sentence(self) -> str:
        """How the models did on the bars that they were chosen by, and on those that came after."""
        means = self.mean_sharpe
        if means is None:
            return "No model was chosen on a validation part, so there is nothing to compare the test with."
        chosen, tested = means
        return (
            f"On average over the folds, the Sharpe ratio was {chosen:.2f} on the validation bars, which the models "
            f"were chosen by, and {tested:.2f} on the test bars that followed."
        )

    @property
    def flags_sentence(self) -> str | None:
        """The red flags of the folds by name, and which folds have them; None without any."""
        found: dict[str, list[str]] = {}
        for fold in self.folds:
            for flag in fold.flags:
                if flag["severity"] != "note":
                    found.setdefault(flag["text"].partition(":")[0], []).append(str(fold.fold.number))
        names = [f"{name} (fold {', '.join(numbers)})" for name, numbers in found.items()]
        return f"Red flags, explained in the reports of the folds: {'; '.join(names)}." if names else None

    def as_dict(self) -> dict[str, Any]:
        """Return all figures as JSON has them."""
        return {
            "summary": self.summary,
            "verdict": [str(verdict) for verdict in self.verdicts],
            "labels": dict(self.labels),
            "folds_won": self.won,
            "embargo": self.embargo,
            "anchored": self.anchored,
            "metrics": self.metrics,
            "folds": [
                {
                    "fold": fold.fold.number,
                    "folder": fold.folder.name,
                    "data": fold.data,
                    "validation": fold.validation,
                    "metrics": fold.metrics,
                    "flags": list(fold.flags),
                }
                for fold in self.folds
            ],
        }

    def write(self, directory: Path) -> Path:
        """Write ``walk_forward.html`` and ``.png``, ``results.json`` and ``equity.csv``, over those of an earlier time.

        Args:
            directory: The walk's own folder: the page links to the reports of its folds.

        Returns:
            The path of the page.

        Raises:
            RunError: A file cannot be written.
        """
        from stateful.evaluation.walk_forward_page import write_walk_forward

        return write_walk_forward(self, directory)


def _made(change: float | None) -> str:
    if change is None:
        return "took no step"
    if change <= -1:
        return "lost everything"
    return f"{'lost' if change < -LEVEL else 'made'} {percent(change, sign=True)}"
