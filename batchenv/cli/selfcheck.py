"""``batchenv selfcheck``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from batchenv.cli.screen import OutputOption, app, console, free

if TYPE_CHECKING:
    from stateful.evaluation.selfcheck import SelfCheck

_ADVICE = """What to look at:
  1. Does the money agree? Run: batchenv verify --config FILE
  2. Are the packages those that this version was tested with? constraints.txt
  3. Does it learn when given longer? batchenv selfcheck --timesteps 2000000"""


@app.command()
def selfcheck(
    seeds: Annotated[int, typer.Option(min=1, help="Agents to train on each market.")] = 5,
    timesteps: Annotated[
        int | None, typer.Option(min=1, help="Lane-steps to train each for; 800,000 by default.")
    ] = None,
    output: OutputOption = None,
) -> None:
    """Does it learn at all? Train on a market with a known optimum and on pure noise, and compare."""
    free(output)
    with console.status("Loading libraries, and compiling the kernel if this is its first run (about 10 s) ..."):
        from stateful.evaluation.selfcheck import TIMESTEPS, run_selfcheck
        from stateful.evaluation.workers import available_cores
    columns = (TextColumn("Training"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=2 * seeds)
        check = run_selfcheck(
            range(seeds),
            timesteps or TIMESTEPS,
            workers=min(available_cores(), 2 * seeds),
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    _print_planted(check)
    _print_noise(check)
    console.print(f"[bold {'green' if check.passed else 'red'}]{escape(check.conclusion)}[/]")
    if not check.passed:
        console.print(_ADVICE, soft_wrap=True)
    if output is not None:
        console.print(f"Picture: [bold]{escape(str(check.write(output)))}[/]", soft_wrap=True)
    if not check.passed:
        raise typer.Exit(1)


def _print_planted(check: SelfCheck) -> None:
    table = _table("Planted trend: growth in basis points a bar, after costs", "Agent", "Optimum", "Share")
    for heading in ("Ignoring\ncosts", "Buy and\nhold", "Training"):
        table.add_column(heading, justify="right")
    for outcome in check.of("planted"):
        growth = [_points(outcome.growth(name)) for name in ("agent", outcome.optimum)]
        shares = [f"{outcome.share(name):.1%}" for name in ("agent", "eager", "buy_and_hold")]
        table.add_row(str(outcome.seed), *growth, *shares, f"{outcome.seconds:.1f} s")
    table.add_section()
    table.caption = "Optimum: the rule that is best on average, on the same bars. Luck may lift an agent above it."
    expected = check.expected
    table.add_row("Formula", "", _points(expected.best), "", f"{expected.eager / expected.best:.1%}", "", "")
    console.print(table)


def _print_noise(check: SelfCheck) -> None:
    table = _table("Pure noise: growth in basis points a bar", "Agent", "Before\ncosts", "Orders")
    table.add_column("The report")
    words = {True: "more than luck", False: "not distinguishable from luck", None: "no statement"}
    for outcome in check.of("noise"):
        row = (_points(outcome.growth()), _points(outcome.growth_before_costs), str(outcome.orders))
        table.add_row(str(outcome.seed), *row, words[outcome.distinguishable])
    table.add_section()
    after, before = check.luck["after"], check.luck["before"]
    estimates = (_points(after.estimate), _points(before.estimate))
    interval = f"before costs {_points(before.low)} to {_points(before.high)}"
    table.add_row("All", *estimates, str(sum(o.orders for o in check.of("noise"))), interval)
    console.print(table)


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title)
    table.add_column("Seed")
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _points(growth: float | None) -> str:
    """Return a growth in basis points."""
    return "n/a" if growth is None else f"{1e4 * growth:+.2f}"
