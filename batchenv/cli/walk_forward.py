"""``batchenv walk-forward``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from batchenv.cli.screen import ConfigOption, app, console, errors, number, percent, read_config, required

if TYPE_CHECKING:
    from stateful.evaluation.folds import Fold
    from stateful.evaluation.walk_forward_results import FoldResult, WalkForwardResults
    from stateful.verdict import Verdict


@app.command()
def walk_forward(
    config: ConfigOption = None,
    folds: Annotated[int, typer.Option("--folds", "-k", min=2, help="Test windows.")] = 5,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to make, or to go on with after an interruption.")
    ] = None,
    anchored: Annotated[
        bool, typer.Option("--anchored", help="Training windows keep their first bar and grow; else they move on.")
    ] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Folds at once; one for each core by default.")] = None,
    timesteps: Annotated[int | None, typer.Option(min=1, help="Lane-steps to train each fold for.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of everything random.")] = None,
) -> None:
    """Train and test on windows that move through the held-out years, and chain what was made out of sample."""
    path = required(config, "walk-forward")
    run_config = read_config(path, timesteps, seed)
    folder = output or Path("runs") / f"walk-forward-{path.stem}"
    with console.status("Loading libraries ..."):
        from stateful.evaluation.walk_forward import WalkForward
        from stateful.evaluation.workers import available_cores
    walk = WalkForward.plan(run_config, folds, anchored=anchored)
    kept = walk.finished(folder)
    at_once = min(workers or available_cores(), folds)
    console.print(
        f"[bold]{folds} folds[/] of [bold]{escape(run_config.data.source)}[/] data, {at_once} at once, embargo "
        f"{walk.embargo} bars, into [bold]{escape(str(folder))}[/]"
        + (f"; {len(kept)} of them are there already" if kept else "")
    )
    try:
        with _WalkProgress(walk.folds, kept) as reporter:
            results = walk.run(folder, workers=at_once, reporter=reporter)
    except KeyboardInterrupt:
        errors.print(
            f"{len(walk.finished(folder))} of {folds} folds are finished and kept. The same command goes on from there."
        )
        raise
    with console.status("Writing the report ..."):
        report = results.write(folder)
    _print_walk(results)
    console.print(f"Report: [bold]{escape(str(report))}[/]", soft_wrap=True)


class _WalkProgress:
    """A progress bar for each fold, and a line when it ends; without a terminal, the lines alone."""

    def __init__(self, folds: tuple[Fold, ...], kept: tuple[Fold, ...]) -> None:
        self._progress = Progress(
            TextColumn("{task.description:<7}"),
            TextColumn("{task.fields[stage]:<8}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:3.0f}%"),
            TimeRemainingColumn(compact=True),
            console=console,
        )
        self._tasks: dict[Fold, TaskID] = {
            fold: self._progress.add_task(f"Fold {fold.number}", stage="waiting", total=None, start=False)
            for fold in folds
            if fold not in kept
        }
        self._stages: dict[Fold, str] = {}

    def __enter__(self) -> _WalkProgress:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def progress(self, fold: Fold, stage: str, done: int, total: int) -> None:
        task = self._tasks[fold]
        if self._stages.get(fold) != stage:
            self._stages[fold] = stage
            self._progress.reset(task, total=total, stage=stage)
        self._progress.update(task, completed=done)

    def finished(self, result: FoldResult) -> None:
        self._end(
            result.fold,
            f"tested {' to '.join(result.tested)}: return {percent(result.metrics['total_return']):>7}, "
            f"Sharpe {number(result.metrics['sharpe']):>5}",
        )

    def failed(self, fold: Fold, reason: str) -> None:
        self._end(fold, f"[red]failed:[/] {escape(reason)}")

    def _end(self, fold: Fold, text: str) -> None:
        self._progress.remove_task(self._tasks[fold])
        self._progress.console.print(f"  Fold {fold.number:<3} {text}")


def _print_walk(results: WalkForwardResults) -> None:
    """Print a row for each fold, and one for all of them together."""
    table = Table(title="Out of sample, after costs")
    for heading in ("Fold", "Trained on", "Tested on"):
        table.add_column(heading)
    main = [] if results.main is None else [results.main]
    for heading in ("Return", "Sharpe", "Draw-\ndown", *(results.labels[name] for name in main)):
        table.add_column(heading.capitalize(), justify="right", max_width=8)
    for fold in results.folds:
        spans = ("\n".join(fold.trained), "\n".join(fold.tested))
        table.add_row(str(fold.fold.number), *spans, *_row(fold.metrics, fold.verdicts, main))
    table.add_section()
    table.add_row("All", "", "", *_row(results.metrics, results.verdicts, main))
    console.print(table)
    console.print(escape(results.summary))
    found = results.headlines
    for sentence in (*(verdict.detail for verdict in found[-1:]), *map(str, found[:-1]), results.sharpe_sentence):
        console.print(escape(sentence))
    if results.flags_sentence is not None:
        console.print(f"[yellow]{escape(results.flags_sentence)}[/]")


def _row(metrics: Mapping[str, Any], verdicts: tuple[Verdict, ...], main: list[str]) -> list[str]:
    """Return the agent's figures, and beside them the return of the main baseline and who won."""
    outcomes = {verdict.baseline: verdict.outcome for verdict in verdicts}
    row = [percent(metrics["total_return"]), number(metrics["sharpe"]), percent(metrics["max_drawdown"])]
    for name in main:
        row += [percent(metrics["baselines"][name]["total_return"]), outcomes[name].replace("_", " ")]
    return row
