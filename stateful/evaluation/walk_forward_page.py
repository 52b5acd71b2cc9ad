"""The page of a walk-forward: one self-contained HTML file, a figure as PNG, and the data behind them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import comb
from pathlib import Path
from typing import Any

from batchenv.errors import RunError
from stateful.evaluation.page import Page, chart, tiles
from stateful.evaluation.stitching import CURVE_METRICS
from stateful.evaluation.uncertainty import DRAWDOWN_HOLDS
from stateful.evaluation.walk_forward_figures import build_figures, write_plot
from stateful.evaluation.walk_forward_results import FoldResult, WalkForwardResults
from stateful.metrics import METRICS, Metric, missing_reason
from stateful.report_parts import BY_NAME, between, formatted, plain_table, scroll_box, sentence, text
from stateful.report_tables import differences_table
from stateful.verdict import LEVEL, Note, no_measure, percent

_FOLD_FIGURES = {"sharpe": "Sharpe ratio", "max_drawdown": "Drawdown", "costs": "Costs"}
_HEADLINES = {
    "total_return": "Total return",
    "cagr": "Growth a year",
    "sharpe": "Sharpe ratio",
    "max_drawdown": "Largest drawdown",
}
_PAGE, _PLOT, _FIGURES, _CURVE = "walk_forward.html", "walk_forward.png", "results.json", "equity.csv"


def write_walk_forward(results: WalkForwardResults, directory: Path) -> Path:
    """Write the files of `WalkForwardResults.write`.

    Raises:
        RunError: One of them cannot be written.
    """
    try:
        content = json.dumps(results.as_dict(), indent=2, allow_nan=False)
        (directory / _FIGURES).write_text(content + "\n", encoding="utf-8")
        results.equity.to_csv(directory / _CURVE, index_label="date")
        write_plot(results, directory / _PLOT)
        (directory / _PAGE).write_text(build_page(results), encoding="utf-8")
    except OSError as error:
        raise RunError(f"{directory}: cannot write the report: {error.strerror or error}") from error
    return directory / _PAGE


def build_page(results: WalkForwardResults) -> str:
    """Return the page as text that needs nothing else."""
    charts = build_figures(results)
    title = f"Walk-forward of {results.config.agent.algorithm.upper()} on {results.config.data.source}"
    sections = {
        "Equity out of sample": _equity_section(results),
        "Folds": _folds_section(results),
        "Chosen and tested": _sharpe_section(results, "sharpe" in charts),
        "How sure": _uncertainty_section(results),
        "Metrics": _metrics_section(results),
        "What this does not show": _notes_section(results),
        "Configuration": _configuration_section(results),
    }
    return Page(
        title=title,
        eyebrow=f"<strong>{text(title)}</strong> · {len(results.folds)} folds · "
        f"<time>{results.folds[0].tested[0]}</time> to <time>{results.folds[-1].tested[1]}</time>",
        verdict=_verdict(results),
        sections=sections,
        charts=charts,
        footer=f"Made by batchenv. The same figures are in <code>{_FIGURES}</code> and <code>{_CURVE}</code> beside "
        "this page.",
    ).html()


def notes(results: WalkForwardResults) -> tuple[Note, ...]:
    """List what a walk-forward does not show, the gravest first."""
    config, folds, n = results.config, len(results.folds), len(results.symbols)
    found = []
    if config.env.fill == "close":
        found.append(Note(
            "Optimistic fills: orders fill at the very close that they were decided on (fill = 'close'). Nobody can "
            "trade like that.", True,
        ))  # fmt: skip
    early = [str(fold.fold.number) for fold in results.folds if fold.curves["agent"].isna().any()]
    if early:
        found.append(Note(
            f"The agent's account ended early, bankrupt, in fold {', '.join(early)}. It keeps what was left to the end "
            "of the fold.", True,
        ))  # fmt: skip
    if results.flags_sentence is not None:
        found.append(Note(results.flags_sentence, True))
    won = 0 if results.main is None else results.won[results.main]
    if results.main is not None and won:
        folds = results.compared[results.main]
        chance = sum(comb(folds, k) for k in range(won, folds + 1)) / 2**folds
        found.append(Note(
            f"Folds are few: an agent no better and no worse than {results.labels[results.main]} wins {won} or more of "
            f"{folds} in {percent(chance, digits=0)} of cases."
        ))  # fmt: skip
    found += [
        Note(
            "One seed: another would have trained other agents. All folds saw the same rules and hyperparameters; if "
            "those were chosen by looking at these years, the years are no longer out of sample."
        ),
        Note(
            "Every fold starts with cash alone, and what is held at its end counts at the last close, without the cost "
            "of selling it. The baselines go the same way, so they too buy anew in every fold."
        ),
        Note(
            f"{'Only one symbol' if n == 1 else f'Only {n:,} symbols'}, chosen before the test. If they were chosen "
            "because they did well, the agent and the baselines all look better than they would have."
        ),
    ]
    return tuple(found)


# --- parts --------------------------------------------------------------------------------------------------


def _verdict(results: WalkForwardResults) -> str:
    found = results.headlines
    outcome, detail = (found[-1].outcome, found[-1].detail) if found else ("level", "")
    parts = [
        f'<div class="verdict {outcome}"><h1>{sentence(results.summary)}</h1><p>{text(detail)}</p></div>',
        *(
            f'<div class="verdict {verdict.outcome}"><h2>{text(verdict.headline)}</h2>'
            f"<p>{text(verdict.detail)}</p></div>"
            for verdict in found[:-1]
        ),
        f"<p class=facts>{text(results.sharpe_sentence)}</p>",
        f"<p>{text(_method(results))}</p>",
        *(f"<p class=warn>{text(note.text)}</p>" for note in notes(results) if note.warning),
        _tiles(results),
    ]
    return "\n".join(parts)


def _method(results: WalkForwardResults) -> str:
    window = "all bars before it" if results.anchored else "a window of the same length that moves with it"
    validation = results.config.data.validation_fraction
    chosen = f", whose last {percent(validation, digits=0)} chose the model" if validation else ""
    return (
        f"Each fold was tested on bars that its agent had not seen, and trained on {window}{chosen}; "
        f"{results.embargo:,} bars between the two were left out."
    )


def _tiles(results: WalkForwardResults) -> str:
    metrics, folds = results.metrics, results.folds
    gains = sum((fold.metrics["total_return"] or 0.0) > LEVEL for fold in folds)
    found = {} if results.uncertainty is None else results.uncertainty.agent
    rows = []
    for name, label in _HEADLINES.items():
        kind = BY_NAME[name].kind
        sure = between(found[name], kind) or found[name].reason if name in found else None
        rows.append((label, formatted(metrics[name], kind), sure or "out of sample"))
    rows.append(("Folds with a gain", f"{gains} of {len(folds)}", "after costs"))
    if results.main is not None:
        compared = results.compared[results.main]
        note = "folds" if compared == len(folds) else "folds that can be compared"
        rows.append((f"Beat {results.labels[results.main]}", f"{results.won[results.main]} of {compared}", note))
    small = "" if results.uncertainty is None else percent(results.uncertainty.level, digits=0)
    drawdown = f"that of the drawdown holds in {DRAWDOWN_HOLDS} of cases"
    note = f"<p class=under>Small: the middle {small} of resampled histories; {drawdown}.</p>" if small else ""
    return tiles(rows) + note


def _equity_section(results: WalkForwardResults) -> str:
    caption = (
        "Equity over the test windows, one after the other, after costs: what money would have become that was moved "
        "to the next agent at each dotted line. Press a name to show or hide it."
    )
    return (
        '<p><button type="button" data-log="equity-chart" aria-pressed="false">Logarithmic scale</button></p>'
        + chart("equity", caption, "tall")
    )


def _folds_section(results: WalkForwardResults) -> str:
    main = [] if results.main is None else [results.main]
    labels = [_capital(results.labels[name]) for name in main]
    heads = "".join(f"<th scope=col class=text>{head}</th>" for head in ("Fold", "Trained on", "Tested on"))
    heads += "".join(f"<th scope=col>{text(head)}</th>" for head in ("Return", *labels, *_FOLD_FIGURES.values()))
    rows = "".join(_fold_row(fold, main) for fold in results.folds)
    table = f"<table class=compare><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
    return chart("returns", "Return of each fold, after costs.", "short") + scroll_box(table, "Folds")


def _fold_row(fold: FoldResult, main: list[str]) -> str:
    metrics = fold.metrics
    won = {verdict.baseline: verdict.outcome == "beat" for verdict in fold.verdicts}
    link = f'<a href="{text(fold.folder.name)}/backtest/report.html">Fold {fold.fold.number}</a>'
    cells = [
        *(f"<td class=text>{sentence(' to '.join(span))}</td>" for span in (fold.trained, fold.tested)),
        f"<td class=agent>{formatted(metrics['total_return'], 'percent')}</td>",
        *(
            f"<td>{'<small>beaten</small> ' if won[name] else ''}"
            f"{formatted(metrics['baselines'][name]['total_return'], 'percent')}</td>"
            for name in main
        ),
        *(_cell(metric, metrics) for metric in METRICS if metric.name in _FOLD_FIGURES),
    ]
    return f"<tr><th scope=row>{link}</th>{''.join(cells)}</tr>"


def _cell(metric: Metric, found: Mapping[str, Any]) -> str:
    if found[metric.name] is None:
        return f'<td class=na title="{text(missing_reason(metric, dict(found)))}">n/a</td>'
    return f"<td>{formatted(found[metric.name], metric.kind)}</td>"


def _sharpe_section(results: WalkForwardResults, drawn: bool) -> str:
    if not drawn:
        return f"<p>{text(results.sharpe_sentence)}</p>"
    return (
        f"<p>{text(results.sharpe_sentence)} The validation figure is the best of "
        f"{results.config.agent.evaluations} that were measured during training, and so higher than it would "
        "be on bars that chose nothing.</p>"
        + chart("sharpe", "Sharpe ratio of each fold's model on its validation bars and on its test bars.", "short")
    )


def _metrics_section(results: WalkForwardResults) -> str:
    columns = {"Agent": results.metrics} | {
        _capital(label): results.metrics["baselines"][name] for name, label in results.labels.items()
    }
    heads = "".join(f"<th scope=col>{text(name)}</th>" for name in columns)
    body = "".join(
        f"<tr><th scope=row>{metric.label}</th>" + "".join(_cell(metric, found) for found in columns.values()) + "</tr>"
        for metric in CURVE_METRICS
    )
    table = f'<table class="compare wide"><thead><tr><th></th>{heads}</tr></thead><tbody>{body}</tbody></table>'
    return (
        f"<p>Of the curves above, annualised with {results.periods_per_year:g} bars a year and a risk-free rate of "
        f"{results.config.backtest.risk_free_rate:.2%}.</p>{scroll_box(table, 'Metrics out of sample')}"
    )


def _uncertainty_section(results: WalkForwardResults) -> str:
    found = results.uncertainty
    if found is None:
        return "<p>How far luck could have moved these figures was not measured: uncertainty.resamples is 0.</p>"
    if found.mean_block_length is None:
        return f"<p>No interval: {text(found.agent['cagr'].reason)}.</p>"
    return (
        f"<p>The middle {percent(found.level, digits=0)} of {found.resamples:,} histories resampled from the curve "
        f"above in blocks of {found.mean_block_length:.0f} bars on average. No agent is trained anew "
        "for them: what other training years or seeds would have done is not in here.</p>"
        + differences_table(found.differences, results.labels, no_measure(results.metrics))
    )


def _notes_section(results: WalkForwardResults) -> str:
    items = "".join(f"<li{' class=warn' if note.warning else ''}>{text(note.text)}</li>" for note in notes(results))
    return f"<ul class=notes>{items}</ul>"


def _configuration_section(results: WalkForwardResults) -> str:
    training = [fold.fold.train_stop - fold.fold.train_start for fold in results.folds]
    testing = [fold.fold.test_end - fold.fold.test_start for fold in results.folds]
    facts = {
        "Folds": len(results.folds),
        "Training windows": f"{_between(training)} bars, {'anchored' if results.anchored else 'rolling'}",
        "Embargo": f"{results.embargo:,} bars",
        "Test windows": f"{_between(testing)} steps",
        "Seed": results.config.seed,
        "Symbols": ", ".join(results.symbols),
        "Trained for": f"{results.config.agent.total_timesteps:,} steps in each fold",
    }
    return (
        plain_table(facts.items(), "About this walk-forward")
        + f"<details><summary>Configuration</summary><pre tabindex=0>{text(results.config.model_dump_json(indent=2))}"
        "</pre></details>"
    )


def _capital(label: str) -> str:
    return label[:1].upper() + label[1:]


def _between(numbers: list[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
