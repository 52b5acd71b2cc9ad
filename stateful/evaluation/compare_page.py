"""The page of a comparison: one self-contained HTML file, figures as PNG, and the data behind them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from batchenv.errors import RunError
from stateful.evaluation.compare_figures import build_figures, write_plots
from stateful.evaluation.compare_results import HOLD, Comparison, Group
from stateful.evaluation.compare_settings import setting_text
from stateful.evaluation.compare_words import notes, period, words_of
from stateful.evaluation.estimates import Figure, Interval
from stateful.evaluation.page import Page, tiles
from stateful.evaluation.uncertainty import FIGURES, drawdown_words
from stateful.report_parts import between, chart_box, formatted, plain_table, scroll_box, sentence, text
from stateful.verdict import percent

_KINDS = {"total_return": "percent", "cagr": "percent", "sharpe": "ratio", "max_drawdown": "percent"}
_LABELS = {
    "total_return": "Return",
    "cagr": "Growth a year",
    "sharpe": "Sharpe ratio",
    "max_drawdown": "Largest drawdown",
}


def write_comparison(results: Comparison, directory: Path) -> Path:
    """Write the files of `Comparison.write`, or nothing.

    Raises:
        RunError: ``directory`` is there already, or cannot be written.
    """
    if directory.exists():
        raise RunError(f"{directory}: exists already; expected a new folder")
    staging = directory.parent / f".{directory.name}.unfinished-{os.getpid()}"
    try:
        staging.mkdir(parents=True)
        content = json.dumps(as_dict(results), indent=2, allow_nan=False)
        (staging / "compare.json").write_text(content + "\n", encoding="utf-8")
        runs_table(results).to_csv(staging / "runs.csv", index_label="run")
        equity = results.equity if results.hold is None else results.equity.assign(**{HOLD: results.hold})
        equity.to_csv(staging / "equity.csv", index_label="date")
        write_plots(results, staging)
        (staging / "compare.html").write_text(build_page(results, directory), encoding="utf-8")
        staging.rename(directory)
    except OSError as error:
        raise RunError(f"{directory}: cannot write the comparison: {error.strerror or error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return directory / "compare.html"


def runs_table(results: Comparison) -> pd.DataFrame:
    """Return one row per run: configuration, seed, figures on the common bars with the ends of their intervals."""
    rows = {}
    for group in results.groups:
        for run in group.runs:
            found, proof = results.accounts[run.name].intervals(), results.proofs[run.name]
            row: dict[str, Any] = {"configuration": group.name, "seed": run.config.seed, "model": run.model}
            for name in FIGURES:
                row |= {name: results.metrics[run.name][name]}
                row |= {f"{name}_low": found[name].low, f"{name}_high": found[name].high}
            row |= {"probabilistic_sharpe": proof.probabilistic.value, "deflated_sharpe": proof.deflated.value}
            names = ("probabilistic_sharpe_dependent", "deflated_sharpe_dependent")
            row |= {name: figure.value for name, figure in zip(names, proof.dependent, strict=True)}
            rows[run.name] = row
    return pd.DataFrame.from_dict(rows, orient="index")


def as_dict(results: Comparison) -> dict[str, Any]:
    """Return all findings as JSON has them."""
    first, last = period(results)
    return {
        "words": asdict(words_of(results)),
        "notes": [asdict(note) for note in notes(results)],
        "first_date": first,
        "last_date": last,
        "bars": len(results.equity) - 1,
        "uncertainty": {**results.uncertainty.model_dump(), "mean_block_length": results.mean_block_length},
        "configurations": {group.name: _group_dict(group) for group in results.groups},
        "differences": [{**asdict(gap), "distinguishable": gap.distinguishable} for gap in results.gaps],
        "buy_and_hold": {"metrics": results.hold_metrics, "reason": results.hold_reason},
        "overfitting": {
            "probability": results.overfitting.probability,
            "reason": results.overfitting.reason,
            "by_chance": results.overfitting_by_chance,
        },
        "spread": {"seeds": asdict(results.seed_spread), "market": asdict(results.market_spread)},
        "runs": {
            run.name: {
                "path": str(run.path),
                "model": run.model,
                "metrics": results.metrics[run.name],
                "intervals": {name: asdict(found) for name, found in results.accounts[run.name].intervals().items()},
                "sharpe": asdict(results.proofs[run.name]),
            }
            for run in results.runs
        },
        "differing_settings": {
            key: {run.name: value for run, value in zip(results.runs, values, strict=True)}
            for key, values in results.differing.items()
        },
        "left_out": dict(results.left_out),
    }


def _group_dict(group: Group) -> dict[str, Any]:
    return {
        "runs": [run.name for run in group.runs],
        "figures": {name: asdict(found) for name, found in group.figures.items()},
        "across_seeds": {name: asdict(found) for name, found in group.across.items()},
        "first": asdict(group.first),
        "beats_buy_and_hold": asdict(group.beats_hold),
    }


def build_page(results: Comparison, directory: Path) -> str:
    """Return the page as text that needs nothing else; links to reports are relative to ``directory``."""
    charts = build_figures(results)
    first, last = period(results)
    title = f"{len(results.runs)} runs compared"
    sections = {
        "What differs": _settings_section(results),
        "Equity": _equity_section(results),
        "Figures": _figures_section(results),
        "Differences": _gaps_section(results),
        "Drawdown": chart_box("drawdown", _per_seed("How far each account lay below its highest equity", results)),
        "Learning": _learning_section("learning" in charts),
        "Seeds": _seeds_section(results),
        "Runs": _runs_section(results, directory),
        "What this does not show": _notes_section(results),
    }
    return Page(
        title=title,
        eyebrow=f"<strong>{title}</strong> · {_count(len(results.groups), 'configuration')} · "
        f"<time>{first}</time> to <time>{last}</time>",
        verdict=_verdict(results),
        sections=sections,
        charts=charts,
        footer="Made by batchenv. The same figures are in <code>compare.json</code>, <code>runs.csv</code> and "
        "<code>equity.csv</code> beside this page.",
    ).html()


# --- parts --------------------------------------------------------------------------------------------------


def _verdict(results: Comparison) -> str:
    words = words_of(results)
    parts = [
        f'<div class="verdict {words.outcome}"><h1>{sentence(words.ahead)}</h1><p>{text(words.ahead_luck)}</p></div>',
        f'<div class="verdict {words.hold_outcome}"><h2>{text(words.hold)}</h2><p>{text(words.hold_luck)}</p></div>',
        f"<p class=facts>{text(words.luck)}</p>",
        f"<p>{text(words.overfitting)}</p>",
        *(f"<p class=warn>{text(note.text)}</p>" for note in notes(results) if note.warning),
        _tiles(results),
    ]
    return "\n".join(parts)


def _tiles(results: Comparison) -> str:
    best = results.groups[0]
    cagr, sharpe = best.figures["cagr"], best.figures["sharpe"]
    return tiles([
        ("Ahead", best.name, "by growth a year"),
        ("Its growth a year", _shown(cagr.estimate, "percent"), between(cagr, "percent") or "no interval"),
        ("Its Sharpe ratio", formatted(sharpe.estimate, "ratio"), between(sharpe, "ratio") or "no interval"),
        ("It comes first", _share(best.first), best.first.reason or "of the resampled histories"),
        ("Luck of the seed", _points(results.seed_spread), "points, standard deviation"),
        ("Luck of the market", _points(results.market_spread), "points, standard deviation"),
    ])  # fmt: skip


def _share(figure: Figure) -> str:
    return "n/a" if figure.value is None else percent(figure.value, digits=0)


def _points(figure: Figure) -> str:
    return "n/a" if figure.value is None else f"±{100 * figure.value:.1f}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], label: str, style: str = "compare") -> str:
    """Return a table of HTML cells; the first of each row is its heading."""
    side = " class=text" if "info" in style else ""
    head = "".join(f"<th scope=col{side}>{cell}</th>" for cell in heads)
    body = "".join(
        f"<tr><th scope=row>{first}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>" for first, *cells in rows
    )
    table = f'<table class="{style}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return scroll_box(table, label)


def _settings_section(results: Comparison) -> str:
    differing = results.differing
    places = {run.name: i for i, run in enumerate(results.runs)}
    rows = []
    for key, values in differing.items():
        cells = []
        for group in results.groups:
            own = dict.fromkeys(setting_text(values[places[run.name]]) for run in group.runs)
            cells.append(text(", ".join(own)))
        rows.append([f"<code>{text(key).replace('.', '.<wbr>')}</code>", *cells])
    heads = ["Setting", *(text(group.name) for group in results.groups)]
    return (
        "<p>Settings that are not the same in all runs; all others are. Runs that differ in nothing but the seed are "
        f"one configuration.</p>{_table(heads, rows, 'Settings that differ', style='compare info')}"
    )


def _per_seed(caption: str, results: Comparison) -> str:
    several = any(len(group.runs) > 1 for group in results.groups)
    seeds = " Thin lines are seeds, thick ones the median of the seeds at each bar." if several else ""
    return f"{caption}.{seeds}"


def _equity_section(results: Comparison) -> str:
    caption = "Cash plus positions after costs, 100 at the first bar that all runs have"
    button = '<p><button type="button" data-log="equity-chart" aria-pressed="false">Logarithmic scale</button></p>'
    return chart_box("equity", _per_seed(caption, results), "tall", tools=button)


def _figures_section(results: Comparison) -> str:
    level, config = percent(results.uncertainty.level, digits=0), results.uncertainty
    blocks = results.mean_block_length
    several = any(len(group.runs) > 1 for group in results.groups)
    method = f"<p>{'Medians of the seeds' if several else 'Figures on the common bars'}"
    if blocks is not None:
        method += (
            f"; below them the middle {level} of {config.resamples:,} resampled histories, the same for all, in blocks "
            f"of {blocks:.0f} bars on average{', with seeds drawn anew in each' if several else ''}. The last columns: "
            "the part of them in which it grows most of all configurations, and in which it beats buy and hold. "
            + drawdown_words(config.level).removesuffix(".")
        )
    heads = ["Configuration", "Seeds", *_LABELS.values(), "First", "Beats holding"]
    rows = [
        [text(group.name), str(len(group.runs)), *_cells(group.figures), _share(group.first), _share(group.beats_hold)]
        for group in results.groups
    ]
    if results.hold_account is not None:
        rows.append(["Buy and hold", "", *_cells(results.hold_account.intervals()), "", ""])
    missing = [(group.name, group.figures["cagr"].reason) for group in results.groups if group.figures["cagr"].reason]
    footnotes = "".join(f"<li>{text(name)}: no interval, {text(reason)}.</li>" for name, reason in missing)
    rem = 3.5 + 2.6 * len(rows)
    names = {"cagr": "Growth a year", "sharpe": "Sharpe ratio"}
    charts = "".join(
        f"<section><h3>{title}</h3>"
        + chart_box(name, f"{title} with its interval. Upright marks are seeds.", rem=rem)
        + "</section>"
        for name, title in names.items()
    )
    return (
        f"{method}.</p>{_table(heads, rows, 'Figures with intervals')}"
        + (f"<ul class=footnotes>{footnotes}</ul>" if footnotes else "")
        + f"<div class=columns>{charts}</div>"
    )


def _cells(figures: Mapping[str, Interval]) -> list[str]:
    return [_interval(figures[name], _KINDS[name]) for name in _LABELS]


def _interval(interval: Interval, kind: str) -> str:
    ends = between(interval, kind)
    return _shown(interval.estimate, kind) + (f"<br><small>{ends}</small>" if ends else "")


def _shown(value: float | None, kind: str) -> str:
    """Return a figure with no more digits than its interval."""
    return percent(value) if kind == "percent" and value is not None else formatted(value, kind)


def _gaps_section(results: Comparison) -> str:
    level = percent(results.uncertainty.level, digits=0)
    rows = [
        [
            text(f"{gap.one} less {gap.other or HOLD}"),
            _interval(gap.cagr, "points") if gap.cagr.estimate is not None else f"n/a: {text(gap.cagr.reason)}",
            _interval(gap.sharpe, "ratio"),
            {True: "distinguishable", False: "not distinguishable", None: "n/a"}[gap.distinguishable],
        ]
        for gap in results.gaps
    ]
    caption = (
        "Difference of the growth a year, in the same resampled histories. Where 0 lies inside, luck may be all of it."
    )
    return (
        f"<p>With {level} confidence all of these intervals hold at once, those of all other pairs too: the one ahead "
        "was picked for being ahead, and an interval made for one difference alone would be too narrow for it.</p>"
        + chart_box("gaps", caption, rem=3.5 + 3.0 * len(rows))
        + _table(["Difference", "Growth a year, points", "Sharpe ratio", "From luck"], rows, "Differences")
    )


def _learning_section(drawn: bool) -> str:
    if not drawn:
        return "<p>No run was judged on a validation part during training.</p>"
    caption = "Sharpe ratio on the validation part during training: the median of the seeds, and their range as a band."
    return chart_box("learning", caption)


def _seeds_section(results: Comparison) -> str:
    rows = []
    for group in results.groups:
        for name in ("cagr", "sharpe"):
            found, kind = group.across[name], _KINDS[name]
            rows.append([
                f"{text(group.name)}, {_LABELS[name].lower() if name == 'cagr' else _LABELS[name]}",
                str(found.seeds),
                *(_shown(value, kind) for value in (found.worst, found.median, found.iqm, found.best)),
                _interval(found.mean, kind),
            ])  # fmt: skip
    heads = ["Over the seeds", "Seeds", "Worst", "Median", "Middle half", "Best", "Mean"]
    return (
        f"<p>{text(words_of(results).luck)}</p><p>The figures below are those of the history that happened; under the "
        f"mean stands Student's t interval, where the mean of many more seeds would lie.</p>"
        f"{_table(heads, rows, 'Over the seeds')}"
    )


def _runs_section(results: Comparison, directory: Path) -> str:
    heads = ["Run", "Seed", *_LABELS.values(), "PSR", "DSR"]
    rows = []
    for group in results.groups:
        for run in group.runs:
            link = os.path.relpath(run.report.resolve(), directory.resolve())
            proof = results.proofs[run.name]
            rows.append([
                f'<a href="{text(link)}">{text(run.name)}</a>',
                str(run.config.seed),
                *_cells(_own(results, run.name)),
                *(
                    f"{_share(plain)}<br><small>{_share(counted)}</small>"
                    for plain, counted in zip((proof.probabilistic, proof.deflated), proof.dependent, strict=True)
                ),
            ])  # fmt: skip
    most = max(proof.trials for proof in results.proofs.values())
    intro = (
        "<p>Each run by itself, with the luck of the market alone in the interval. The last two columns are the "
        "probability that the true Sharpe ratio is above 0: taken by itself (PSR, probabilistic Sharpe ratio), and "
        f"given that it may be the best of the {most:,} configurations known to have been tried on these bars (DSR, "
        "deflated Sharpe ratio). Both take bars as independent of each other; small below them is what is left with "
        "their dependence counted.</p>"
    )
    left_out = ""
    if results.left_out:
        left_out = f"<section><h3>Left out</h3>{plain_table(results.left_out.items(), 'Left out')}</section>"
    return intro + _table(heads, rows, "Runs") + left_out


def _own(results: Comparison, name: str) -> dict[str, Interval]:
    """Return a run's figures: those of the common bars, with the intervals there are."""
    found, metrics = results.accounts[name].intervals(), results.metrics[name]
    return {
        figure: Interval(metrics[figure], found[figure].low, found[figure].high, found[figure].reason)
        for figure in FIGURES
    }


def _notes_section(results: Comparison) -> str:
    items = "".join(f"<li{' class=warn' if note.warning else ''}>{text(note.text)}</li>" for note in notes(results))
    return f"<ul class=notes>{items}</ul>"
