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
from stateful.evaluation.comparable import lost_to_costs
from stateful.evaluation.folds import Fold
from stateful.evaluation.stitching import curve_metrics, stitch
from stateful.evaluation.uncertainty import Uncertainty, measure_uncertainty
from stateful.verdict import LEVEL, Outcome, Verdict, headlines, percent, verdicts


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
        agent, found = figures.pop("agent"), self.uncertainty
        for name, own in figures.items():
            own["not_comparable"] = self.not_comparable[str(name)]
        return {
            **agent,
            "baselines": figures,
            "uncertainty": None if found is None else found.as_dict(),
        }

    @cached_property
    def not_comparable(self) -> dict[str, dict[str, str] | None]:
        """Why each baseline is no measure out of sample; None where it is one.

        It is none if it was none in one of the folds. Whether it lost its money to costs is asked of all of them.
        """
        found: dict[str, dict[str, str] | None] = {}
        for name in self.labels:
            figures = [fold.metrics["baselines"][name] for fold in self.folds]
            reasons = [
                (fold.fold.number, own.get("not_comparable")) for fold, own in zip(self.folds, figures, strict=True)
            ]
            first = next(((i, why) for i, why in reasons if why and why["kind"] != "lost_to_costs"), None)
            if first is not None:
                found[name] = {**first[1], "reason": f"{first[1]['reason']} (fold {first[0]})"}
                continue
            equity = self.equity[name].ffill()
            starts = [float(equity.loc[fold.curves.index[0]]) for fold in self.folds]
            costs = sum(
                start * own["costs"] / own["initial_equity"] for start, own in zip(starts, figures, strict=True)
            )
            found[name] = lost_to_costs(starts[0], float(equity.iloc[-1]), costs)
        return found

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
            left_out=[name for name, why in self.not_comparable.items() if why],
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
        return {name: sum(fold[name] == "beat" for fold in self._outcomes) for name in self.labels}

    @property
    def compared(self) -> dict[str, int]:
        """In how many folds the agent can be compared with each baseline."""
        return {name: sum(fold[name] != "not_compared" for fold in self._outcomes) for name in self.labels}

    @property
    def _outcomes(self) -> list[dict[str, Outcome]]:
        """The outcome against each baseline, fold by fold."""
        return [{verdict.baseline: verdict.outcome for verdict in fold.verdicts} for fold in self.folds]

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
        label, why, compared = self.labels[name], self.not_comparable[name], self.compared[name]
        if why is not None:
            return f"{period}, the agent {made}, after costs. It is not compared with {label}, which {why['reason']}."
        theirs = percent(metrics["baselines"][name]["total_return"], sign=True)
        which = f"{folds} folds" if compared == folds else f"the {compared} folds in which they can be compared"
        return (
            f"{period}, the agent {made} against {theirs} of {label}, after costs; it beat {label} in "
            f"{self.won[name]} of {which}."
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
