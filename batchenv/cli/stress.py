"""``batchenv stress``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from batchenv.cli.screen import OutputOption, advance, app, bars_progress, console, free, percent

if TYPE_CHECKING:
    from stateful.evaluation.stress_results import StressResults


@app.command()
def stress(
    run: Annotated[Path, typer.Option("--run", "-r", help="Run folder whose agent is tested.")],
    output: OutputOption = None,
    model: Annotated[Literal["best", "final"], typer.Option(help="Which model of the run folder.")] = "best",
    lanes: Annotated[int, typer.Option(min=1, help="Most accounts to play at once.")] = 8192,
    horizon: Annotated[
        int | None, typer.Option(min=1, help="Bars that each account plays, 60 or more; a year by default.")
    ] = None,
) -> None:
    """Find where an agent stops making money: other start dates, costs and sizes of account, all at once."""
    free(output)
    with console.status("Loading libraries ..."):
        from batchenv.runs import free_name
        from stateful.command import prepare_run
        from stateful.evaluation.stress import stress_test
    plan = prepare_run(run, model)
    folder = output or free_name(run / "stress")
    with bars_progress() as progress:
        task = progress.add_task("Stress test", total=None)
        results = stress_test(
            plan.testing,
            lanes=lanes,
            horizon=horizon,
            progress=lambda done, total: advance(progress, task, done, total),
        )
    with console.status("Writing the page ..."):
        page = results.write(folder, title=plan.title, run_info=plan.facts)
    _print_stress(results)
    console.print(f"Page: [bold]{escape(str(page))}[/]", soft_wrap=True)


def _print_stress(results: StressResults) -> None:
    from stateful.evaluation.stress_figures import tick_labels

    setting, surface = results.setting, results.surface()
    speed = results.lane_steps / max(setting.seconds, 1e-9)
    console.print(
        f"{len(results.lanes):,} lanes of {setting.horizon:,} bars: {results.lane_steps:,} lane-steps in "
        f"{setting.seconds:,.1f} s ({speed:,.0f}/s, the agent included)."
    )
    console.print(
        f"Checked {setting.lanes_checked} lanes against the evaluation tier, worst difference "
        f"{setting.worst_difference:.1e}."
    )
    title = f"Growth a year, median of {results.n_starts:,} start dates"
    table = Table(title=title, caption="Fees across, slippage down.", box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("", justify="right")
    for label, multiple in zip(tick_labels(setting.fee), setting.fee.multiples, strict=True):
        table.add_column(f"[cyan]{label}[/]" if multiple == setting.fee.base else label, justify="right")
    rows = zip(tick_labels(setting.slippage), surface.to_numpy().tolist(), setting.slippage.multiples, strict=True)
    for label, values, multiple in rows:
        own = multiple == setting.slippage.base
        table.add_row(f"[bold cyan]{label}[/]" if own else f"[bold]{label}[/]", *(percent(value) for value in values))
    console.print(table)
    for sentence in results.sentences:
        console.print(escape(sentence))
