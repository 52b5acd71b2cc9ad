"""The page of a stress test: one self-contained HTML file, figures as PNG, and the data behind them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np

from batchenv.errors import RunError
from stateful.evaluation.stress_figures import MAPS, Map, build_figures, cell_texts, tick_labels, write_plots
from stateful.evaluation.stress_results import StressResults
from stateful.report_parts import embedded_json, formatted, plain_table, scroll_box, sentence, text
from stateful.verdict import LEVEL, Note, percent

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


def write_stress(
    results: StressResults, directory: Path, *, title: str, run_info: Mapping[str, Any] | None = None
) -> Path:
    """Write ``stress.html``, its figures and data into a new folder; see `StressResults.write`.

    Raises:
        RunError: ``directory`` is there already, or cannot be written.
    """
    if directory.exists():
        raise RunError(f"{directory}: exists already; expected a new folder")
    staging = directory.parent / f".{directory.name}.unfinished-{os.getpid()}"
    try:
        staging.mkdir(parents=True)
        results.save(staging)
        write_plots(results, staging)
        (staging / "stress.html").write_text(build_page(results, title=title, run_info=run_info), encoding="utf-8")
        staging.rename(directory)
    except OSError as error:
        raise RunError(f"{directory}: cannot write the stress test: {error.strerror or error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return directory / "stress.html"


def build_page(results: StressResults, *, title: str, run_info: Mapping[str, Any] | None = None) -> str:
    """Return the page as text that needs nothing else."""
    from plotly.offline import get_plotlyjs

    charts, setting = build_figures(results), results.setting
    return Template(_template("report.html")).substitute(
        title=text(f"Stress test: {title}"),
        eyebrow=f"<strong>Stress test: {text(title)}</strong> · {len(results.lanes):,} lanes · "
        f"<time>{setting.first_date}</time> to <time>{setting.last_date}</time>",
        verdict=_verdict(results),
        content="\n".join(_sections(results, charts, run_info)),
        footer="Made by batchenv. The lanes are in <code>stress.parquet</code>, one row each, and the findings in "
        "<code>stress.json</code>, beside this page.",
        figures=_figures_json(charts),
        plotly=get_plotlyjs(),
        style=_template("report.css"),
        script=_template("report.js"),
    )


def notes(results: StressResults) -> tuple[Note, ...]:
    """List what a stress test does not show, the gravest first."""
    setting, lanes = results.setting, results.lanes
    found = []
    if setting.fill == "close":
        found.append(Note(
            "Optimistic fills: orders fill at the very close that they were decided on (fill = 'close'). Nobody can "
            "trade like that.", True,
        ))  # fmt: skip
    if setting.horizon < 0.9 * setting.periods_per_year:
        found.append(Note(
            f"Short: {setting.horizon:,} bars are less than a year, so every figure a year is stretched from less.",
            True,
        ))  # fmt: skip
    early = int((lanes["bars"] < setting.horizon).sum())
    if early:
        found.append(Note(
            f"{early:,} of {len(lanes):,} lanes ended early, bankrupt. They keep what they ended with to the horizon.",
            True,
        ))  # fmt: skip
    apart = setting.playable_bars / setting.horizon
    found += [
        Note(
            f"The start dates share bars: {results.n_starts:,} of them, with {setting.horizon:,} bars each, lie in "
            f"{setting.playable_bars:,} bars, which is room for {apart:.1f} periods that do not overlap. A share of "
            "start dates is not a probability."
        ),
        Note("The agent is the same in every lane. One that had been trained at other costs would trade otherwise."),
        Note("Fee and slippage rates are scaled; fixed fees, least fees and market impact are the configuration's."),
    ]
    return tuple(found)


# --- parts --------------------------------------------------------------------------------------------------


def _template(name: str) -> str:
    return (files("stateful") / "templates" / name).read_text(encoding="utf-8")


def _figures_json(charts: Mapping[str, Figure]) -> str:
    named = ",".join(f"{json.dumps(name)}:{figure.to_json(validate=False)}" for name, figure in charts.items())
    return embedded_json(f'{{"charts":{{{named}}},"prices":[]}}')


def _verdict(results: StressResults) -> str:
    costs, base, comparison, cash = (sentence(words) for words in results.sentences)
    gain, gap = float(results.base["cagr"].median()), float(results.base["excess"].median())
    parts = [
        f'<div class="verdict {_outcome(gain)}"><h1>{costs}</h1><p>{base}</p></div>',
        f'<div class="verdict {_outcome(gap)}"><h2>{comparison}</h2></div>',
        f"<p class=facts>{cash}</p>",
        *(f"<p class=warn>{text(note.text)}</p>" for note in notes(results) if note.warning),
        _tiles(results),
    ]
    return "\n".join(parts)


def _outcome(value: float) -> str:
    return "beat" if value > LEVEL else "lost" if value < -LEVEL else "level"  # NaN is neither


def _tiles(results: StressResults) -> str:
    base = results.base
    gains, excess = float((base["total_return"] > LEVEL).mean()), base["excess"].dropna()
    wins = "n/a" if excess.empty else percent(float((excess > LEVEL).mean()), digits=0)
    sharpe, found, curve = base["sharpe"].dropna().median(), results.break_even().multiple, results.curve()["median"]
    until = "0×" if curve.iloc[0] <= 0 else f"> {curve.index[-1]:g}×"
    tiles = [
        ("Return a year", percent(base["cagr"].median(), sign=True), "median of the start dates"),
        ("Made money", percent(gains, digits=0), f"of {results.n_starts:,} start dates"),
        ("Beat buy and hold", wins, "of the start dates"),
        ("No profit at", until if found is None else f"{found:.2g}×", "the costs, in the median"),
        ("Sharpe ratio", formatted(sharpe if np.isfinite(sharpe) else None, "ratio"), "median"),
        ("Largest drawdown", percent(base["max_drawdown"].median()), "median"),
    ]
    items = "".join(f"<div><dt>{name}</dt><dd>{value} <small>{note}</small></dd></div>" for name, value, note in tiles)
    return f"<dl class=tiles>{items}</dl>"


def _sections(results: StressResults, charts: Mapping[str, Figure], run_info: Mapping[str, Any] | None) -> list[str]:
    bars = results.setting.horizon
    line = f"Growth a year over the {bars:,} bars from each start date, at the costs of the backtest."
    steps = "Share of the start dates whose return is at most that: further right is better."
    sections = {
        "costs": ("Where it stops making money", _costs_section(results)),
        "return": ("Return", _maps(results, "return", "gains")),
        "excess": ("Against buy and hold", _maps(results, "excess", "wins")),
        "risk": ("Risk", _maps(results, "sharpe", "drawdown")),
        "starts": ("Start dates", _chart("starts", line)),
        "distribution": ("Distribution", _chart("distribution", steps)),
        "cash": ("Size of the account", _cash_section(results, "cash" in charts)),
        "limits": ("What this does not show", _limits_section(results)),
        "lanes": ("What was played", _lanes_section(results, run_info)),
    }
    links = "".join(f'<li><a href="#{name}">{title}</a></li>' for name, (title, _) in sections.items())
    return [
        f'<nav aria-label="Sections"><ul>{links}</ul></nav>',
        *(
            f'<section id="{name}" aria-labelledby="{name}-head"><h2 id="{name}-head">{title}</h2>{body}</section>'
            for name, (title, body) in sections.items()
        ),
    ]


def _chart(name: str, caption: str, size: str = "") -> str:
    return (
        f'<figure class=box><div class="chart {size}" id="{name}-chart" data-figure="{name}" role=img '
        f'aria-label="{text(caption)}"></div><figcaption>{text(caption)}</figcaption></figure>'
    )


def _costs_section(results: StressResults) -> str:
    caption = (
        f"Growth a year over {results.setting.horizon:,} bars as fees and slippage rise together; 1× is "
        f"{results.costs_text(1.0)}. Buy and hold pays the same costs."
    )
    return _chart("costs", caption, "tall")


def _maps(results: StressResults, *names: str) -> str:
    own = results.setting
    intro = (
        f"<p>Fees from left to right, slippage upwards; in bold those of the backtest. Blue is above "
        f"{'zero or half' if names[0] != 'sharpe' else 'zero'}, orange below.</p>"
    )
    charts = "".join(
        f"<section><h3>{MAPS[name].title}</h3>{_chart(name, MAPS[name].caption)}</section>" for name in names
    )
    tables = "".join(_table(results, MAPS[name]) for name in names)
    return (
        f"{intro}<div class=columns>{charts}</div>"
        f"<details><summary>The same as tables, with initial cash {own.initial_cash:,.0f}</summary>{tables}</details>"
    )


def _table(results: StressResults, one: Map) -> str:
    fee, slippage = results.setting.fee, results.setting.slippage
    texts = cell_texts(results.surface(one.metric, statistic=one.statistic).to_numpy(np.float64), one.kind)
    heads = "".join(f"<th scope=col>fee {text(label)}</th>" for label in tick_labels(fee))
    body = "".join(
        f"<tr><th scope=row>slippage {text(label)}</th>{''.join(f'<td>{text(cell)}</td>' for cell in row)}</tr>"
        for label, row in zip(tick_labels(slippage), texts, strict=True)
    )
    caption = f'<caption style="padding:1rem 0.8rem 0.3rem;text-align:left">{text(one.caption)}</caption>'
    table = f"<table>{caption}<thead><tr><th></th>{heads}</tr></thead><tbody>{body}</tbody></table>"
    return scroll_box(table, one.caption).replace("box scroll", "scroll")


def _cash_section(results: StressResults, drawn: bool) -> str:
    if not drawn:
        sizes = ", ".join(f"{cash:,.0f}" for cash in sorted(results.lanes["initial_cash"].unique()))
        return (
            f"<p>Accounts of {sizes} came to the same return: without lots, least fees, impact or limits on "
            "volume, money only scales.</p>"
        )
    return _chart("cash", "Median growth a year over the start dates, by initial cash.")


def _limits_section(results: StressResults) -> str:
    items = "".join(f"<li{' class=warn' if n.warning else ''}>{text(n.text)}</li>" for n in notes(results))
    return f"<ul class=notes>{items}</ul>"


def _lanes_section(results: StressResults, run_info: Mapping[str, Any] | None) -> str:
    setting, lanes = results.setting, results.lanes
    facts = {
        **(run_info or {}),
        "Lanes": f"{len(lanes):,}: {results.n_starts:,} start dates, {len(setting.fee.multiples)} fees, "
        f"{len(setting.slippage.multiples)} slippages, {lanes['initial_cash'].nunique()} sizes of initial cash",
        "Horizon": f"{setting.horizon:,} bars, of {setting.periods_per_year:g} a year",
        "Start dates": f"{lanes['start'].min():%Y-%m-%d} to {lanes['start'].max():%Y-%m-%d}",
        "Fill": setting.fill,
        "Agent's pass": f"{results.lane_steps:,} lane-steps in {setting.seconds:,.1f} s",
        "Checked": f"{setting.lanes_checked} lanes against the evaluation tier; largest difference in equity "
        f"{setting.worst_difference:.1e}",
    }
    return plain_table(facts.items(), "What was played")
