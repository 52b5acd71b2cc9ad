"""``batchenv compare``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from batchenv.cli.screen import OutputOption, advance, app, bars_progress, console, free, number, percent

if TYPE_CHECKING:
    from stateful.evaluation.compare_results import Comparison
    from stateful.evaluation.estimates import Interval


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, walk-forwards, or folders that hold them.")],
    output: OutputOption = None,
    model: Annotated[Literal["best", "final"], typer.Option(help="Which model of each run folder.")] = "best",
) -> None:
    """Put several runs side by side: what differs, who is ahead, and whether that is more than luck."""
    free(output)
    with console.status("Loading libraries ..."):
        from batchenv.runs import free_name
        from stateful.evaluation.compare import compare_runs
    with bars_progress() as progress:
        tasks = {}

        def tell(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = progress.add_task(f"Backtest of {escape(name)}", total=total)
            advance(progress, tasks[name], done, total)

        results = compare_runs(runs, model=model, progress=tell)
    with console.status("Computing intervals and writing the page ..."):
        page = results.write(output or free_name(Path("runs") / "compare"))
    _print_comparison(results)
    console.print(f"Page: [bold]{escape(str(page))}[/]", soft_wrap=True)


def _print_comparison(results: Comparison) -> None:
    from stateful.evaluation.compare_words import notes, words_of

    for path, reason in results.left_out.items():
        console.print(f"[yellow]Left out:[/] {escape(path)}: {escape(reason)}")
    _print_settings(results)
    console.print(_figures(results))
    words = words_of(results)
    for sentence in (
        f"{words.ahead} {words.ahead_luck}",
        f"{words.hold} {words.hold_luck}",
        words.luck,
        words.overfitting,
    ):
        console.print(escape(sentence))
    for note in notes(results):
        if note.warning:
            console.print(f"[yellow]{escape(note.text)}[/]")


def _print_settings(results: Comparison) -> None:
    """Print each setting that differs, with the configurations by its values."""
    from stateful.evaluation.compare_settings import setting_text

    table = Table(title="What differs", box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("Setting", no_wrap=True)
    for heading in ("Value", "Runs"):
        table.add_column(heading, overflow="fold")
    for key, values in results.differing.items():
        if key == "seed":
            continue
        by_value: dict[str, list[str]] = {}
        for run, value in zip(results.runs, values, strict=True):
            by_value.setdefault(setting_text(value), []).append(results.group_of(run.name))
        for i, (value, groups) in enumerate(by_value.items()):
            table.add_row(escape(key) if i == 0 else "", escape(value), escape(", ".join(dict.fromkeys(groups))))
    if table.row_count:
        console.print(table)


def _figures(results: Comparison) -> Table:
    """Return a row for each configuration, the one ahead first, and one for buy and hold."""
    bars = results.equity.index
    level = f"{100 * results.uncertainty.level:g}%"
    table = Table(
        title=f"Held-out bars {bars[0]:%Y-%m-%d} to {bars[-1]:%Y-%m-%d}, after costs",
        caption=f"Medians of the seeds, and {level} intervals. First: share of resampled histories.",
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
    )
    table.add_column("", overflow="fold")
    for heading in ("Seeds", "Return", "CAGR", "Sharpe", "Drawdown", "First"):
        table.add_column(heading, justify="right")
    for group in results.groups:
        table.add_row(escape(group.name), str(len(group.runs)), *_row(group.figures), _share(group.first.value))
    if results.hold_account is not None:
        table.add_section()
        table.add_row("buy and hold", "", *_row(results.hold_account.intervals()), "")
    return table


def _row(figures: dict[str, Interval]) -> list[str]:
    cagr, sharpe = figures["cagr"], figures["sharpe"]
    return [
        percent(figures["total_return"].estimate),
        _interval(percent(cagr.estimate), cagr, 100.0, "+.0f"),
        _interval(number(sharpe.estimate), sharpe, 1.0, ".1f"),
        percent(figures["max_drawdown"].estimate),
    ]


def _interval(estimate: str, interval: Interval, scale: float, form: str) -> str:
    if interval.low is None or interval.high is None:
        return estimate
    low, high = (format(scale * end, form) for end in (interval.low, interval.high))
    return f"{estimate}\n[dim]{low} to {high}[/]"


def _share(value: float | None) -> str:
    return "n/a" if value is None else f"{100 * value:.0f}%"
