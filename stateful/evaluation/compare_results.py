"""What a comparison of runs found: configurations side by side, each by its typical seed, with intervals.

Runs whose configuration differs in the seed only are one configuration. Its figures are the medians of its seeds, and
never those of the best one. Their intervals hold two kinds of luck: other histories of the same market, resampled by
the same draws for all accounts, and other seeds, drawn anew for every history. Differences between configurations have
intervals that hold all together (`stateful.evaluation.differences`), since the one ahead was picked for being ahead.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean, variance
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from numpy.random import default_rng

from batchenv.config import RunConfig, UncertaintyConfig
from stateful.evaluation.compare_settings import differing_settings, group_names
from stateful.evaluation.differences import draw_seeds, first_places, simultaneous_differences, typical_seed
from stateful.evaluation.estimates import Figure, Interval, not_enough
from stateful.evaluation.overfitting import Overfitting, probability_of_overfitting
from stateful.evaluation.seeds import AcrossSeeds, across_seeds
from stateful.evaluation.sharpe import Record, Trials, deflated_sharpe, probabilistic_sharpe, variance_of_trials
from stateful.evaluation.stitching import curve_metrics
from stateful.evaluation.uncertainty import FIGURES, Account, bar_rate, resample_accounts
from stateful.metrics import bar_returns

FloatArray = npt.NDArray[np.float64]
HOLD = "buy and hold"


@dataclass(frozen=True, eq=False)
class ComparedRun:
    """One run and its account on the held-out bars.

    Attributes:
        name: A short name that no other run of the comparison has.
        path: Its folder.
        config: Its complete configuration.
        settings: The same as plain values, and what a walk-forward adds.
        equity: Its account, one value per bar, in money.
        end: Its last held-out bar.
        periods_per_year: Bars in a year.
        model: Which model was tested.
        report: The page of its backtest.
        fingerprint: Of its held-out bars; None for a walk-forward.
        tried: How many other configurations its folder's neighbours count on these bars.
        learning: Columns ``timesteps`` and ``sharpe``, of the validation part during training; None without any.
        versions: Versions of the packages that it was trained with.
    """

    name: str
    path: Path
    config: RunConfig
    settings: Mapping[str, Any]
    equity: pd.Series[float]
    end: pd.Timestamp
    periods_per_year: float
    model: str
    report: Path
    fingerprint: str | None = None
    tried: int = 0
    learning: pd.DataFrame | None = None
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SharpeProof:
    """What the Sharpe ratio of a run proves; see `stateful.evaluation.sharpe`.

    Attributes:
        probabilistic: Probability that the true ratio is above 0, if bars are independent of each other.
        deflated: The same, given that it may be the best of all that were tried.
        trials: How many that is: the runs compared, or those counted on these bars where that is more.
        dependent: Both with the dependence between bars counted, in the same order.
    """

    probabilistic: Figure
    deflated: Figure
    trials: int
    dependent: tuple[Figure, Figure]


@dataclass(frozen=True, eq=False)
class Group:
    """One configuration: a run, or several that differ in their seed.

    Attributes:
        name: What the names of its runs have in common, or the first of them.
        runs: Its runs.
        figures: Median of the seeds and its interval, by the names of `FIGURES`.
        across: The same figures over the seeds, in the history that happened.
        first: Part of the resampled histories in which its yearly growth is the highest of all configurations; None
            where there is no other.
        beats_hold: Part of the resampled histories in which it ends with more than buy and hold.
    """

    name: str
    runs: tuple[ComparedRun, ...]
    figures: dict[str, Interval]
    across: dict[str, AcrossSeeds]
    first: Figure
    beats_hold: Figure

    @property
    def growth(self) -> float:
        """Yearly growth, minus infinity where there is none: what configurations are ranked by."""
        estimate = self.figures["cagr"].estimate
        return -math.inf if estimate is None else estimate


@dataclass(frozen=True)
class Gap:
    """One configuration less another; all intervals of a comparison hold together.

    Attributes:
        one: Name of the first.
        other: Name of the second; None is buy and hold.
        cagr: Difference of the yearly growth.
        sharpe: Difference of the yearly Sharpe ratios.
    """

    one: str
    other: str | None
    cagr: Interval
    sharpe: Interval

    @property
    def distinguishable(self) -> bool | None:
        """Whether the difference of the yearly growth is more than luck explains; None where that is not known."""
        return self.cagr.excludes_zero


@dataclass(frozen=True, eq=False)
class Comparison:
    """Several runs on the bars that all of them have.

    Attributes:
        runs: The runs, in the order given.
        equity: Their accounts by name, one row per common bar, 100 at the first; NaN after an early end.
        hold: Buy and hold on the same bars under the rules of the first run, likewise; None where it cannot be had.
        hold_reason: Why there is none.
        left_out: Folders that were found but could not be compared, and why.
    """

    runs: tuple[ComparedRun, ...]
    equity: pd.DataFrame
    hold: pd.Series[float] | None
    hold_reason: str | None
    left_out: Mapping[str, str]

    @property
    def uncertainty(self) -> UncertaintyConfig:
        """How intervals are computed: as the first run's backtest says; by default where it computes none."""
        own = self.runs[0].config.backtest.uncertainty
        return own if own.resamples else UncertaintyConfig()

    @property
    def risk_free_rate(self) -> float:
        """Yearly rate of all Sharpe ratios: that of the first run."""
        return self.runs[0].config.backtest.risk_free_rate

    @property
    def periods_per_year(self) -> float:
        """Bars in a year."""
        return self.runs[0].periods_per_year

    @cached_property
    def differing(self) -> dict[str, tuple[Any, ...]]:
        """The settings that are not the same in all runs, by dotted key: the value of each run, in order."""
        return differing_settings([run.settings for run in self.runs])

    @cached_property
    def metrics(self) -> dict[str, dict[str, Any]]:
        """Figures of each run on the common bars by its name; what an account ended early with, it keeps."""
        return {run.name: self._measure(self.equity[run.name].ffill()) for run in self.runs}

    @cached_property
    def hold_metrics(self) -> dict[str, Any] | None:
        """Figures of buy and hold."""
        return None if self.hold is None else self._measure(self.hold)

    def _measure(self, curve: pd.Series[float]) -> dict[str, Any]:
        return curve_metrics(curve, periods_per_year=self.periods_per_year, risk_free_rate=self.risk_free_rate)

    @cached_property
    def _resampled(self) -> tuple[list[Account], float | None]:
        """All runs, and buy and hold after them, in the same resampled histories."""
        curves = [self.equity[run.name].dropna() for run in self.runs]
        return resample_accounts(
            [curve.to_numpy(np.float64) for curve in [*curves, *([] if self.hold is None else [self.hold])]],
            config=self.uncertainty,
            periods_per_year=self.periods_per_year,
            risk_free_rate=self.risk_free_rate,
        )

    @property
    def accounts(self) -> dict[str, Account]:
        """Each run in all resampled histories, by its name."""
        return {run.name: account for run, account in zip(self.runs, self._resampled[0], strict=False)}

    @property
    def hold_account(self) -> Account | None:
        """Buy and hold in all resampled histories."""
        return None if self.hold is None else self._resampled[0][-1]

    @property
    def mean_block_length(self) -> float | None:
        """Mean length of the resampled blocks, in bars; None where nothing could be resampled."""
        return self._resampled[1]

    @cached_property
    def _members(self) -> dict[str, tuple[ComparedRun, ...]]:
        """The runs of each configuration by its name, in the order given."""
        found: dict[str, list[ComparedRun]] = {}
        for run in self.runs:
            same = {key: value for key, value in run.settings.items() if key != "seed"}
            found.setdefault(json.dumps(same, sort_keys=True), []).append(run)
        names = group_names([[run.name for run in runs] for runs in found.values()])
        return {name: tuple(runs) for name, runs in zip(names, found.values(), strict=True)}

    @cached_property
    def _typical(self) -> dict[str, Account]:
        """The typical seed of each configuration in all resampled histories."""
        config, accounts, found = self.uncertainty, self.accounts, {}
        generator = default_rng([config.seed, 1])
        for name, runs in self._members.items():
            draws = draw_seeds(len(runs), config.resamples, generator)
            reasons = [(run.name, accounts[run.name].obstacle) for run in runs]
            obstacle = next((why if len(runs) == 1 else f"{run}: {why}" for run, why in reasons if why), None)
            values = {} if obstacle else {
                figure: typical_seed(np.column_stack([accounts[run.name].values[figure] for run in runs]), draws)
                for figure in FIGURES
            }  # fmt: skip
            found[name] = Account(config.level, obstacle, values)
        return found

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """The configurations, the one with the highest yearly growth first."""
        able = {name: account.values["cagr"][1:] for name, account in self._typical.items() if not account.obstacle}
        first: dict[str, float] = {}
        if len(able) > 1:  # alone, a configuration would come first always, which says nothing
            first = dict(zip(able, first_places(np.column_stack(list(able.values()))).tolist(), strict=True))
        found = [self._group(name, runs, first.get(name)) for name, runs in self._members.items()]
        return tuple(sorted(found, key=lambda group: -group.growth))

    def group_of(self, run: str) -> str:
        """Return the name of the configuration that a run belongs to."""
        return next(name for name, runs in self._members.items() if run in [member.name for member in runs])

    def _group(self, name: str, runs: Sequence[ComparedRun], first: float | None) -> Group:
        typical, hold = self._typical[name], self.hold_account
        across = {figure: across_seeds([self.metrics[run.name][figure] for run in runs]) for figure in FIGURES}
        figures = typical.intervals()
        if typical.obstacle:  # the history that happened still has its figures, where every seed has
            known = {figure: found.median if found.seeds == len(runs) else None for figure, found in across.items()}
            figures = {figure: Interval(value, None, None, typical.obstacle) for figure, value in known.items()}
        beats = None if hold is None else typical.less(hold).probability_better
        reason = self.hold_reason or typical.obstacle
        alone = None if first is not None else "no other has an interval"
        place = Figure(first, typical.obstacle or alone)
        return Group(name, tuple(runs), figures, across, place, Figure(beats, reason))

    @cached_property
    def gaps(self) -> tuple[Gap, ...]:
        """The configuration ahead less each of the others, then each configuration less buy and hold."""
        names = [group.name for group in self.groups]
        pairs: list[tuple[str, str | None]] = [(names[0], other) for other in names[1:]]
        pairs += [(name, None) for name in names if self.hold is not None]
        cagr, sharpe = (self._differences(figure) for figure in ("cagr", "sharpe"))
        return tuple(Gap(one, other, cagr(one, other), sharpe(one, other)) for one, other in pairs)

    def _differences(self, figure: str) -> Callable[[str | None, str | None], Interval]:
        """Return what tells the difference of a figure between two configurations, None being buy and hold."""
        accounts: dict[str | None, Account] = dict(self._typical.items())
        if self.hold_account is not None:
            accounts[None] = self.hold_account
        values = {key: account.values[figure] for key, account in accounts.items() if not account.obstacle}
        places = {key: i for i, key in enumerate(key for key in values if np.isfinite(values[key]).all())}
        usable = np.column_stack([values[key] for key in places]) if places else np.empty((2, 0))
        found = simultaneous_differences(usable, self.uncertainty.level)

        def interval(one: str | None, other: str | None) -> Interval:
            for key in (one, other):
                if key not in places:
                    reason = accounts[key].obstacle or f"{key or HOLD} has none in some resampled histories"
                    return Interval(None, None, None, reason)
            estimate, reach = (float(part[places[one], places[other]]) for part in (found.estimate, found.reach))
            return Interval(estimate, estimate - reach, estimate + reach)

        return interval

    @cached_property
    def proofs(self) -> dict[str, SharpeProof]:
        """What the Sharpe ratio of each run proves, by its name."""
        rate = bar_rate(self.risk_free_rate, self.periods_per_year)
        accounts = {name: account for name, account in self.accounts.items() if not account.obstacle}
        records = {
            name: Record.of(bar_returns(self.equity[name].to_numpy(np.float64)), rate)
            for name, account in accounts.items()
            if np.isfinite(account.values["sharpe"][0])
        }
        return {run.name: self._proof(run, records) for run in self.runs}

    def _proof(self, run: ComparedRun, records: Mapping[str, Record]) -> SharpeProof:
        others = max(len(self.runs) - 1, run.tried)
        record = records.get(run.name)
        if record is None:
            missing = Figure(None, self.accounts[run.name].obstacle or "needs at least two returns that differ")
            return SharpeProof(missing, missing, others + 1, (missing, missing))
        trials = Trials(others, tuple(other.sharpe for name, other in records.items() if name != run.name))
        spread = variance_of_trials(record, trials)

        def deflated(record: Record) -> Figure:
            if spread is None:
                return Figure(None, "no other run has a Sharpe ratio")
            return Figure(deflated_sharpe(record, trials.count, spread))

        counted = record.dependent
        both = Figure(probabilistic_sharpe(counted)), deflated(counted)
        return SharpeProof(Figure(probabilistic_sharpe(record)), deflated(record), trials.count, both)

    @cached_property
    def overfitting(self) -> Overfitting:
        """How often choosing the best run by half of the bars led to a poor one in the other half."""
        values = self.equity.to_numpy(np.float64)
        if not (values > 0).all():  # NaN, where an account ended early, is not
            return Overfitting(None, "an account ended early or lost everything", len(self.runs), 0, np.empty(0))
        return probability_of_overfitting(values[1:] / values[:-1] - 1.0)

    @property
    def overfitting_by_chance(self) -> float:
        """What `overfitting` comes to where choosing is worth nothing: half, and more for an odd number of runs."""
        return (len(self.runs) + 1) // 2 / len(self.runs)

    @cached_property
    def seed_spread(self) -> Figure:
        """Standard deviation of the yearly growth between seeds of one configuration, all of them pooled."""
        growths = [[self.metrics[run.name]["cagr"] for run in group.runs] for group in self.groups]
        several = [known for known in growths if len(known) > 1 and None not in known]
        if not several:
            return Figure(None, not_enough(2, 1, "seeds of one configuration"))
        degrees = sum(len(known) - 1 for known in several)
        return Figure(math.sqrt(sum((len(known) - 1) * variance(known) for known in several) / degrees))

    @cached_property
    def market_spread(self) -> Figure:
        """Standard deviation of a run's yearly growth between resampled histories, the runs' mean."""
        drawn = [account.values["cagr"][1:] for account in self.accounts.values() if not account.obstacle]
        if not drawn:
            return Figure(None, next(iter(self.accounts.values())).obstacle)
        return Figure(math.sqrt(fmean(float(values.var(ddof=1)) for values in drawn)))

    def write(self, directory: Path) -> Path:
        """Write ``compare.html``, the figures as PNG, and the data behind them into a new folder.

        Returns:
            The path of the page.

        Raises:
            RunError: ``directory`` is there already, or cannot be written.
        """
        from stateful.evaluation.compare_page import write_comparison

        return write_comparison(self, directory)
