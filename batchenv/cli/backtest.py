"""``batchenv backtest`` and ``batchenv replay``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape

from batchenv.cli.screen import (
    ConfigOption,
    OutputOption,
    advance,
    app,
    bars_progress,
    console,
    free,
    print_results,
    required,
)
from batchenv.errors import ConfigError


@app.command()
def backtest(
    run: Annotated[Path | None, typer.Option("--run", "-r", help="Run folder whose agent is to be tested.")] = None,
    config: ConfigOption = None,
    output: OutputOption = None,
    model: Annotated[Literal["best", "final"], typer.Option(help="Which model of the run folder.")] = "best",
    tear_sheet: Annotated[bool, typer.Option(help="Let QuantStats write its tear sheet beside the report.")] = True,
) -> None:
    """Test an agent on the held-out bars, with full accounting, and write a report."""
    if (run is None) == (config is None):
        raise ConfigError("backtest: expected one of --run DIR (a run folder) and --config FILE")
    free(output)
    with console.status("Loading libraries ..."):
        from stateful.command import prepare_config, prepare_run
    plan = prepare_run(run, model) if run is not None else prepare_config(required(config, "backtest"))
    folder = output or plan.default_output
    with bars_progress() as progress:
        task = progress.add_task("Backtest", total=None)
        results = plan.testing.run(lambda done, total: advance(progress, task, done, total))
    with console.status("Writing the report ..."):
        report = plan.write(results, folder, tear_sheet=tear_sheet)
    print_results(results)
    console.print(f"Report: [bold]{escape(str(report))}[/]", soft_wrap=True)


@app.command()
def replay(
    run: Annotated[Path, typer.Option("--run", "-r", help="Run folder whose training is looked into.")],
    lane: Annotated[int, typer.Option("--lane", min=0, help="The lane.")],
    episode: Annotated[int, typer.Option("--episode", min=0, help="The episode of that lane, from 0.")] = 0,
    output: OutputOption = None,
) -> None:
    """Play an episode of a run's training again, alone, with lots, trades and a report."""
    free(output)
    with console.status("Loading libraries ..."):
        from batchenv.runs import free_name
        from stateful.replay import replay_episode
    with bars_progress() as progress:
        task = progress.add_task("Replay", total=None)
        found = replay_episode(run, lane, episode, lambda done, total: advance(progress, task, done, total))
    folder = output or free_name(run / f"replay-lane{lane}-episode{episode}")
    report = found.results.write(folder, title=f"Lane {lane}, episode {episode} of {run.name}")
    equal = "equal bit for bit" if found.shares_equal else f"within {found.worst_shares:.1e} of the account"
    console.print(
        f"{len(found.recorded.actions)} steps played again. Final equity {found.lane_equity:,.2f}, bit for bit what "
        f"training saw; shares of the two tiers are {equal}."
    )
    print_results(found.results, "Training bars")
    console.print(f"Report: [bold]{escape(str(report))}[/]", soft_wrap=True)
