"""``batchenv train``."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from batchenv.cli.screen import (
    ConfigOption,
    OutputOption,
    app,
    bars_progress,
    console,
    number,
    percent,
    read_config,
    required,
)

if TYPE_CHECKING:
    from batchenv.config import RunConfig
    from batchenv.runs import RunFolder


@app.command()
def train(
    config: ConfigOption = None,
    output: OutputOption = None,
    timesteps: Annotated[int | None, typer.Option(min=1, help="Lane-steps to train for.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of everything random.")] = None,
) -> None:
    """Train an agent; everything about it is kept in a run folder."""
    run_config = read_config(required(config, "train"), timesteps, seed)
    folder = output or _default_output(run_config)
    from batchenv.runs import RunFolder

    RunFolder.check_free(folder)
    with console.status("Loading libraries, and compiling the kernel if this is its first run (about 10 s) ..."):
        from batchenv.train import train as run_training
        from stateful.judge import make_judge
    settings = run_config.agent
    console.print(
        f"Training [bold]{settings.algorithm.upper()}[/] on [bold]{escape(run_config.data.source)}[/] data, "
        f"{settings.n_envs} lanes, seed {run_config.seed}, into [bold]{escape(str(folder))}[/]"
    )
    with _TrainingProgress(settings.total_timesteps) as reporter:
        run = run_training(run_config, folder, make_judge=make_judge, reporter=reporter)
    _print_trained(run)


def _default_output(config: RunConfig) -> Path:
    from batchenv.runs import free_name

    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    return free_name(Path("runs") / f"{stamp}-{config.agent.algorithm}-seed{config.seed}")


class _TrainingProgress:
    """A progress bar, and a line for each evaluation; without a terminal, the lines alone."""

    def __init__(self, total: int) -> None:
        self._progress = bars_progress()
        self._task = self._progress.add_task("Training", total=total)

    def __enter__(self) -> _TrainingProgress:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def progress(self, done: int, total: int) -> None:
        self._progress.update(self._task, completed=min(done, total), total=total)

    def evaluated(self, row: dict[str, Any]) -> None:
        mark = "  [green]best so far[/]" if row["best"] else ""
        self._progress.console.print(
            f"  validation at {row['timesteps']:>11,} steps: return {percent(row['total_return']):>8}, "
            f"Sharpe {number(row['sharpe']):>6}{mark}"
        )


def _print_trained(run: RunFolder) -> None:
    seconds, steps = run.info["seconds"], run.info["timesteps"]
    console.print(
        f"Trained {steps:,} steps in {seconds:,.1f} s ({steps / seconds:,.0f} steps/s, learning and validation "
        f"included)."
    )
    console.print(f"Next: [bold]batchenv backtest --run {escape(str(run.path))}[/]", soft_wrap=True)
