"""What a stress test found: one row per lane, and the surfaces, break-even costs and sentences made from them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from batchenv.errors import ConfigError, RunError, did_you_mean
from stateful.verdict import LEVEL, money, percent

Statistic = Literal["median", "share"]
CostAxis = Literal["costs", "fee", "slippage"]

DIMENSIONS = ("start", "fee_multiple", "slippage_multiple", "initial_cash")
"""What the lanes differ in."""
METRICS = ("total_return", "cagr", "sharpe", "max_drawdown", "buy_and_hold", "excess")
"""What is known of each lane."""
_FORMAT = 1


@dataclass(frozen=True)
class Scale:
    """The costs of one kind that were tried.

    Attributes:
        multiples: What the rates are multiplied by, ascending, 0 first.
        base: The multiple that is the configuration's own cost: 1, or 0 where it has none.
        low: Rate at multiple 1, a fraction; the lowest where symbols differ.
        high: The highest.
    """

    multiples: tuple[float, ...]
    base: float
    low: float
    high: float

    def rate(self, multiple: float) -> str:
        """Return the rate at a multiple as percent, or its range over the symbols."""
        low, high = (f"{100 * multiple * rate:.3g}%" for rate in (self.low, self.high))
        return low if low == high else f"{low} to {high}"


@dataclass(frozen=True)
class StressSetting:
    """What was played.

    Attributes:
        fee: Fees tried.
        slippage: Slippage tried.
        initial_cash: The configuration's initial cash, in money.
        horizon: Bars that every lane plays.
        fill: The fill convention.
        periods_per_year: Bars in a year.
        risk_free_rate: Yearly rate of the Sharpe ratios.
        first_date: First bar that a lane can start at, ISO.
        last_date: Last bar of the data, ISO.
        playable_bars: Steps from the one to the other.
        lanes_checked: Lanes that the evaluation tier played too.
        worst_difference: Largest difference in equity between the tiers in those, relative.
        seconds: Time of the agent's pass.
    """

    fee: Scale
    slippage: Scale
    initial_cash: float
    horizon: int
    fill: str
    periods_per_year: float
    risk_free_rate: float
    first_date: str
    last_date: str
    playable_bars: int
    lanes_checked: int
    worst_difference: float
    seconds: float

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> StressSetting:
        """Return what `dataclasses.asdict` made a dict of."""
        scales = {
            name: Scale(**{**content[name], "multiples": tuple(content[name]["multiples"])})
            for name in ("fee", "slippage")
        }
        return cls(**{**content, **scales})


@dataclass(frozen=True)
class BreakEven:
    """Where a figure that starts above zero reaches it as costs rise.

    Attributes:
        multiple: The multiple of the costs, interpolated between those tried; None where there is none.
        reason: Why there is none, else empty.
    """

    multiple: float | None
    reason: str = ""


@dataclass(frozen=True, eq=False)
class StressResults:
    """What a stress test found.

    Attributes:
        lanes: One row per lane: ``start_bar``; the `DIMENSIONS` (``start`` is a timestamp, ``initial_cash`` money);
            ``fee_rate`` and ``slippage_rate``, fractions, means of the symbols' where those differ; then
            ``total_return``, ``cagr``, ``sharpe`` (NaN where undefined), ``max_drawdown`` (at or below 0), ``bars``
            played, ``buy_and_hold`` (its growth per year in the same lane) and ``excess`` (``cagr`` less that), both
            NaN where buy and hold could not buy all of its symbols.
        setting: What was played.
    """

    lanes: pd.DataFrame
    setting: StressSetting

    @property
    def n_starts(self) -> int:
        """Number of start dates."""
        return int(self.lanes["start_bar"].nunique())

    @property
    def lane_steps(self) -> int:
        """Bars that the agent played, over all lanes."""
        return len(self.lanes) * self.setting.horizon

    @property
    def base(self) -> pd.DataFrame:
        """The lanes with the configuration's own costs and initial cash, one for each start date."""
        return self._where(())

    def surface(
        self,
        metric: str = "cagr",
        x: str = "fee_multiple",
        y: str = "slippage_multiple",
        *,
        statistic: Statistic = "median",
    ) -> pd.DataFrame:
        """Return one number for each pair of values of two dimensions, over all start dates.

        Where a dimension other than the start is neither ``x`` nor ``y``, it is at the configuration's own value.

        Args:
            metric: One of `METRICS`.
            x: The dimension of the columns, one of `DIMENSIONS`.
            y: The dimension of the rows.
            statistic: ``median``, or ``share``: the part of the lanes that are above zero by more than 0.005 points.

        Raises:
            ConfigError: Unknown metric or dimension.
        """
        _known("metric", metric, METRICS)
        for name in (x, y):
            _known("dimension", name, DIMENSIONS)
        lanes = self._where((x, y))
        if statistic == "median":
            return lanes.pivot_table(metric, y, x, aggfunc="median", dropna=False)
        return lanes.assign(above=_above(lanes[metric])).pivot_table("above", y, x, aggfunc="mean", dropna=False)

    def curve(self, metric: str = "cagr", axis: CostAxis = "costs") -> pd.DataFrame:
        """Return the spread of a metric over the start dates as costs rise.

        Args:
            metric: One of `METRICS`.
            axis: ``fee`` or ``slippage`` alone, or ``costs``, both together. Together, a cost that the configuration
                does not have stays at 0, unless it has none at all.

        Returns:
            Index ``multiple``; columns ``low``, ``median``, ``high`` (10%, 50% and 90% of the start dates) and
            ``share``, the part above zero.

        Raises:
            ConfigError: Unknown metric or axis.
        """
        _known("metric", metric, METRICS)
        path = self.path(axis)
        lanes = self._where(("fee_multiple", "slippage_multiple"))
        by_costs = lanes.groupby(["fee_multiple", "slippage_multiple"])[metric]
        rows = {}
        for multiple, costs in path.items():
            values = by_costs.get_group(costs)
            low, median, high = values.quantile([0.1, 0.5, 0.9])
            rows[multiple] = {"low": low, "median": median, "high": high, "share": float(_above(values).mean())}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("multiple")

    def path(self, axis: CostAxis = "costs") -> dict[float, tuple[float, float]]:
        """Return the multiples of fee and slippage along an axis, by its own multiple; see `curve`."""
        _known("axis", axis, ("costs", "fee", "slippage"))
        fee, slippage = self.setting.fee, self.setting.slippage
        if axis == "fee":
            return {m: (m, slippage.base) for m in fee.multiples}
        if axis == "slippage":
            return {m: (fee.base, m) for m in slippage.multiples}
        return {m: self._both(m) for m in fee.multiples if m in slippage.multiples}

    def break_even(self, metric: str = "cagr", axis: CostAxis = "costs") -> BreakEven:
        """Return the multiple of the costs at which the median of a metric over the start dates reaches zero.

        Args:
            metric: ``cagr`` for the return itself, ``excess`` for what is left of it after buy and hold.
            axis: As `curve` has it.
        """
        median = self.curve(metric, axis)["median"]
        multiples, values = median.index.to_numpy(np.float64), median.to_numpy(np.float64)
        if not np.isfinite(values).all():
            return BreakEven(None, "it is not defined at every cost tried")
        if values[0] <= 0:
            return BreakEven(None, "it is not above zero even without these costs")
        below = np.flatnonzero(values <= 0)
        if not len(below):
            return BreakEven(None, f"it is still above zero at {multiples[-1]:g} times these costs, the most tried")
        i = int(below[0])
        part = values[i - 1] / (values[i - 1] - values[i])
        return BreakEven(float(multiples[i - 1] + part * (multiples[i] - multiples[i - 1])))

    @property
    def depends_on_cash(self) -> bool:
        """Whether the size of the account changes what becomes of it, beyond rounding."""
        same = self.lanes.groupby(["start_bar", "fee_multiple", "slippage_multiple"])["total_return"]
        return bool((same.max() - same.min()).max() > LEVEL)

    @property
    def sentences(self) -> tuple[str, ...]:
        """What it comes to, in plain words: up to which costs it makes money, how often, against buy and hold."""
        return (
            self._break_even_sentence(),
            self._base_sentence(),
            self._comparison_sentence(),
            self._cash_sentence(),
        )

    def costs_text(self, multiple: float) -> str:
        """Return the costs at a multiple on the axis ``costs`` of `curve`, such as ``fee 0.1%, slippage 0.05%``."""
        fee, slippage = self._both(multiple)
        return f"fee {self.setting.fee.rate(fee)}, slippage {self.setting.slippage.rate(slippage)}"

    def write(self, directory: str | Path, *, title: str, run_info: Mapping[str, Any] | None = None) -> Path:
        """Write ``stress.html``, ``costs.png``, ``surface.png``, ``stress.json`` and ``stress.parquet``.

        Args:
            directory: A folder that is not there yet.
            title: What was tested.
            run_info: Facts about the run, shown as a table.

        Returns:
            The path of ``stress.html``.

        Raises:
            RunError: The folder is there already, or cannot be written. Nothing is left behind.
        """
        from stateful.evaluation.stress_page import write_stress

        return write_stress(self, Path(directory), title=title, run_info=run_info)

    def save(self, folder: Path) -> None:
        """Write ``stress.json`` and ``stress.parquet`` into a folder that is there.

        Raises:
            OSError: They cannot be written.
        """
        axes: tuple[CostAxis, ...] = ("costs", "fee", "slippage")
        found = {axis: {m: asdict(self.break_even(m, axis)) for m in ("cagr", "excess")} for axis in axes}
        content = {"format": _FORMAT, "sentences": self.sentences, "break_even": found, "setting": asdict(self.setting)}
        text = json.dumps(content, indent=2, allow_nan=False)
        (folder / "stress.json").write_text(text + "\n", encoding="utf-8")
        self.lanes.to_parquet(folder / "stress.parquet", index=False)

    @classmethod
    def load(cls, folder: str | Path) -> StressResults:
        """Read what `save` wrote.

        Raises:
            RunError: A file is missing or damaged, or another version wrote it.
        """
        try:
            content = json.loads((Path(folder) / "stress.json").read_text(encoding="utf-8"))
            if content["format"] != _FORMAT:
                raise RunError(f"{folder}: format {content['format']!r}, expected {_FORMAT}; another version wrote it")
            return cls(pd.read_parquet(Path(folder) / "stress.parquet"), StressSetting.from_dict(content["setting"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{folder}: not a usable stress test: {error}") from None

    def _where(self, free: tuple[str, ...]) -> pd.DataFrame:
        """Return the lanes that have the configuration's own costs and cash but for the dimensions in ``free``."""
        setting, lanes = self.setting, self.lanes
        own = {
            "fee_multiple": setting.fee.base,
            "slippage_multiple": setting.slippage.base,
            "initial_cash": setting.initial_cash,
        }
        keep = np.ones(len(lanes), bool)
        for name, value in own.items():
            if name not in free:
                keep &= (lanes[name] == value).to_numpy()
        return lanes[keep]

    @property
    def _is_free(self) -> bool:
        """Whether the configuration has neither fees nor slippage."""
        return self.setting.fee.base == self.setting.slippage.base == 0.0

    def _both(self, multiple: float) -> tuple[float, float]:
        """Return the multiples of fee and slippage that stand for a multiple of the costs; see `curve`."""
        fee, slippage = self.setting.fee.base, self.setting.slippage.base
        return (multiple if fee or self._is_free else 0.0, multiple if slippage or self._is_free else 0.0)

    def _costs_in_words(self, multiple: float) -> str:
        multiple = float(f"{multiple:.2g}")
        text = self.costs_text(multiple)
        return text if self._is_free else f"{multiple:g} times the costs of the backtest ({text})"

    def _break_even_sentence(self) -> str:
        found, most = self.break_even(), max(self.path())
        if found.multiple is not None:
            costs = f"up to about {self._costs_in_words(found.multiple)}"
        elif self.curve()["median"].iloc[0] > 0:
            costs = f"all costs tried, up to {self._costs_in_words(most)}"
        else:
            return "Even without costs the agent makes no money from half of the start dates or more."
        return f"From at least half of the start dates the agent makes money at {costs}."

    def _base_sentence(self) -> str:
        base, bars = self.base, self.setting.horizon
        share = percent(float((base["total_return"] > LEVEL).mean()), digits=0)
        costs = "Without costs, as in the backtest," if self._is_free else "At the costs of the backtest"
        return (
            f"{costs} it made money from {share} of {self.n_starts:,} start dates; the median return is "
            f"{percent(float(base['cagr'].median()), sign=True)} a year, over {bars:,} bars from each."
        )

    def _comparison_sentence(self) -> str:
        excess, missing = self.base["excess"].dropna(), int(self.base["excess"].isna().sum())
        if excess.empty:
            return (
                "There is no comparison with buy and hold: under these rules it cannot buy all of its symbols from "
                "any start date."
            )
        left_out = (
            f" Buy and hold could not buy all of its symbols from {missing:,} of {self.n_starts:,} start dates, which "
            "are left out."
        )  # fmt: skip
        share, gap = percent(float((excess > LEVEL).mean()), digits=0), round(100 * float(excess.median()), 1) + 0.0
        found = self.break_even("excess").multiple
        ahead = f" In the median it is ahead at up to about {found or 0:.2g} times those costs."
        until = "" if found is None or self._is_free else ahead
        return (
            f"It beat buy and hold, at the same costs, from {share} of the start dates; the median difference is "
            f"{gap:+.1f} points a year.{until}{left_out if missing else ''}"
        )

    def _cash_sentence(self) -> str:
        if not self.depends_on_cash:
            return "The size of the account makes no difference under these rules."
        median = self._where(("initial_cash",)).groupby("initial_cash")["cagr"].median()
        ends = [f"{percent(median.iloc[i], sign=True)} a year with {money(median.index[i])}" for i in (0, -1)]
        return f"The size of the account matters: the median return is {ends[0]} of initial cash and {ends[1]}."


def _above(values: pd.Series[float]) -> pd.Series[float]:
    """Return 1 where a number is above zero, else 0; NaN where there is no comparison with buy and hold."""
    above = (values > LEVEL).astype(float)
    return above.where(values.notna()) if values.name in ("buy_and_hold", "excess") else above


def _known(what: str, name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        raise ConfigError(f"{what}: unknown {name!r}{did_you_mean(name, known)}; expected one of: {', '.join(known)}")
