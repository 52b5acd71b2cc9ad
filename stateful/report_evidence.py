"""What the report says about the result itself: how sure it is, where it came from, and how far it carries."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from batchenv.errors import RunError
from stateful.attribution_figures import KIND_NAMES, kinds_booked, rows_shown, symbol_parts
from stateful.evaluation.attribution import ACCOUNT, Attribution
from stateful.evaluation.uncertainty import drawdown_words
from stateful.report_parts import chart_box, missing, scroll_box, text
from stateful.report_tables import differences_table
from stateful.verdict import limits, money, no_measure, percent, sharpe_sentence

if TYPE_CHECKING:
    from stateful.backtest import BacktestResults
    from stateful.evaluation.stress_results import StressResults


# --- how sure -----------------------------------------------------------------------------------------------


def certainty_section(results: BacktestResults) -> str:
    """How far luck could have moved the comparison, and what the Sharpe ratio proves."""
    found = results.uncertainty
    if found is None:
        return "<p>Uncertainty was switched off (uncertainty.resamples is 0).</p>"
    if found.mean_block_length is None:
        return missing("Intervals", found.agent["total_return"].reason or "no account could be resampled")
    level, length = percent(found.level, digits=0), round(found.mean_block_length)
    intro = (
        f"<p>The intervals are the middle {level} of {found.resamples:,} histories of {found.bars:,} bars, drawn from "
        f"this one in blocks of {length} bar{'' if length == 1 else 's'} on average, the same for every account. The "
        "agent is ahead in the part of them in which it ends with more. A difference is told from luck where the "
        "interval of growth leaves out 0; the p-value says how often luck alone brings the two at least this far "
        f"apart. {drawdown_words(found.level)}</p>"
    )
    left_out = no_measure(results.metrics)
    table = differences_table(found.differences, results.labels, left_out) if found.differences else ""
    return f"{intro}{table}<p>{text(sharpe_sentence(results.metrics))}</p>{_record_words(results)}"


def _record_words(results: BacktestResults) -> str:
    """Say how long a record the Sharpe ratio needs."""
    found = results.uncertainty
    if found is None:
        return ""
    needed, level = found.minimum_track_record, percent(found.level, digits=0)
    if needed.value is None:
        return missing(f"A record long enough to be {level} sure of that", str(needed.reason))
    more = found.dependent["minimum_track_record"].value or needed.value
    has = "enough" if more <= found.bars else "not enough"
    return (
        f"<p>A record like this takes {needed.value:,.0f} bars to be {level} sure that its Sharpe ratio is above 0, if "
        f"bars are independent of each other, and {more:,.0f} with their dependence counted; this one has "
        f"{found.bars:,}: {has}.</p>"
    )


def limits_section(results: BacktestResults) -> str:
    """What could not be checked, and what no backtest shows."""
    notes = [flag.text for flag in results.flags if flag.severity == "note"]
    notes += [note.text for note in limits(results.metrics, results.config, results.market) if not note.warning]
    return f"<ul class=notes>{''.join(f'<li>{text(note)}</li>' for note in notes)}</ul>"


# --- where it came from -------------------------------------------------------------------------------------


def attribution_section(results: BacktestResults) -> str:
    """What each symbol, side, kind of gain and cost, and year contributed."""
    found = results.attribution
    if not len(found.parts):
        return "<p>There is nothing to say: nothing was traded, and cash earned nothing.</p>"
    exact = "exactly" if found.residual == 0 else f"up to rounding (at most {found.residual:.0e})"
    intro = (
        f"<p>Equity changed by {money(found.change)}. What the symbols contributed adds up to that, {exact}, in every "
        "bar and over the whole.</p>"
    )
    by_symbol = (
        "Contribution of each symbol in money, largest first, split by where it came from; the number beside the name "
        "is the sum. What lies right of 0 earned, what lies left of it cost."
    )
    by_kind = "From what prices brought to what was kept: each bar starts where the one above it ended."
    parts = symbol_parts(found)
    told = "; ".join(f"{name} {money(total)}" for name, total in parts["Total"].head(5).items())
    kinds = "; ".join(f"{KIND_NAMES[str(name)]} {money(total)}" for name, total in kinds_booked(found).items())
    height = 5.5 + 1.9 * rows_shown(found)
    return (
        f"{intro}<div class=stack><section><h3>By symbol</h3>"
        f"{chart_box('by_symbol', by_symbol, told=f'Bars. Largest: {told}.', rem=height)}"
        f"<details><summary>The same as a table</summary>{_symbols_table(parts)}</details></section>"
        f"<section><h3>From gross to net</h3>"
        f"{chart_box('by_kind', by_kind, told=f'Steps. {kinds}.', rem=4.5 + 2.2 * (1 + len(kinds_booked(found))))}"
        f"</section><section><h3>By year</h3>{_years_table(found)}</section></div>"
    )


def _symbols_table(parts: pd.DataFrame) -> str:
    named = parts.rename(index={ACCOUNT: "Cash"})
    return _money_table(named, "Symbol", "Contribution of each symbol")


def _years_table(found: Attribution) -> str:
    table = found.by("year")
    kinds = list(kinds_booked(found).index)
    shown = table[[*kinds, "total"]].rename(columns={**KIND_NAMES, "total": "Total"})
    return _money_table(shown, "Year", "Contribution of each year")


def _money_table(table: pd.DataFrame, corner: str, label: str) -> str:
    """Return amounts of money, with their sums below; columns without any are left out."""
    columns = [name for name in table if table[name].any() or name == "Total"]
    heads = "".join(f"<th scope=col>{text(name)}</th>" for name in columns)
    values = table[columns]
    rows = [(str(name), row) for name, row in zip(values.index, values.to_numpy(np.float64), strict=True)]
    if len(rows) > 1:
        rows.append(("All", values.sum().to_numpy(np.float64)))
    body = "".join(
        f"<tr{' class=sum' if name == 'All' and i == len(table) else ''}><th scope=row>{text(name)}</th>"
        f"{''.join(f'<td>{money(amount)}</td>' for amount in row)}</tr>"
        for i, (name, row) in enumerate(rows)
    )
    head = f"<thead><tr><th scope=col>{corner}</th>{heads}</tr></thead>"
    return scroll_box(f"<table class=compare>{head}<tbody>{body}</tbody></table>", label)


# --- how far it carries -------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Stress:
    """The stress test of the same agent, for its report.

    Attributes:
        results: What it found; None where there is none.
        link: Its page, relative to the report.
        reason: Why it could not be read.
    """

    results: StressResults | None = None
    link: str = ""
    reason: str | None = None

    @classmethod
    def find(cls, folder: Path | None, report: Path) -> Stress:
        """Read the stress test in a folder; a broken one is no reason not to write a report.

        Args:
            folder: Where it is; None for nowhere.
            report: Folder of the report.
        """
        if folder is None or not (folder / "stress.json").is_file():
            return cls()
        from stateful.evaluation.stress_results import StressResults

        link = Path(os.path.relpath(folder / "stress.html", report)).as_posix()
        try:
            return cls(StressResults.load(folder), link)
        except RunError as error:
            return cls(None, link, str(error))

    def figures(self) -> dict[str, Any]:
        """Return its main charts by name."""
        if self.results is None:
            return {}
        from stateful.evaluation.stress_figures import main_figures

        return {f"stress-{name}": figure for name, figure in main_figures(self.results).items()}


def robustness_section(stress: Stress) -> str:
    """What other costs, start dates and sizes of account make of it."""
    if stress.results is None:
        how = (
            "<p>Not tested here: other start dates, costs and sizes of account. <code>batchenv stress --run DIR</code> "
            "plays them all; a report written after that shows what it found.</p>"
        )
        return how if stress.reason is None else missing("The stress test cannot be read", stress.reason)
    from stateful.evaluation.stress_figures import MAPS

    said = "".join(f"<li>{text(words)}</li>" for words in stress.results.sentences)
    maps = "".join(
        f"<section><h3>{MAPS[name.removeprefix('stress-')].title}</h3>"
        f"{chart_box(name, MAPS[name.removeprefix('stress-')].caption)}</section>"
        for name in stress.figures()
    )
    return (
        f"<ul class=notes>{said}</ul><p>Fees from left to right, slippage upwards, those of the backtest in bold. Blue "
        "is above zero or half, orange below.</p>"
        f'<div class=columns>{maps}</div><p><a href="{text(stress.link)}">All of the stress test</a></p>'
    )
