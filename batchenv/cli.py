"""The ``batchenv`` command: ``train``, ``backtest``, ``replay``, ``verify``. The only place that prints."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from batchenv.errors import BatchenvError, ConfigError, RunError

if TYPE_CHECKING:
    from batchenv.config import RunConfig
    from batchenv.runs import RunFolder
    from stateful.backtest import BacktestResults

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train trading agents in one batch environment; judge them in another, written on its own.",
)
console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)

ConfigOption = Annotated[Path | None, typer.Option("--config", "-c", help="JSON file with the run's configuration.")]
OutputOption = Annotated[Path | None, typer.Option("--output", "-o", help="Folder to make; it must not exist.")]


def main() -> None:
    """Run the command line; errors raised on purpose become one message and exit code 1."""
    try:
        app()
    except BatchenvError as error:
        errors.print(f"[bold red]Error:[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        errors.print("[yellow]Interrupted.[/]")
        sys.exit(130)


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.", is_eager=True)] = False,
) -> None:
    if version:
        from batchenv import __version__

        console.print(__version__)
        raise typer.Exit


@app.command()
def train(
    config: ConfigOption = None,
    output: OutputOption = None,
    timesteps: Annotated[int | None, typer.Option(min=1, help="Lane-steps to train for.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of everything random.")] = None,
) -> None:
    """Train an agent; everything about it is kept in a run folder."""
    run_config = _read_config(_required(config, "train"), timesteps, seed)
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


@app.command()
def backtest(
    run: Annotated[Path | None, typer.Option("--run", "-r", help="Run folder whose agent is to be tested.")] = None,
    config: ConfigOption = None,
    output: OutputOption = None,
    model: Annotated[Literal["best", "final"], typer.Option(help="Which model of the run folder.")] = "best",
) -> None:
    """Test an agent on the held-out bars, with full accounting, and write a report."""
    if (run is None) == (config is None):
        raise ConfigError("backtest: expected one of --run DIR (a run folder) and --config FILE")
    if output is not None and output.exists():
        raise RunError(f"{output}: exists already; expected a new folder")
    with console.status("Loading libraries ..."):
        from stateful.command import prepare_config, prepare_run
    plan = prepare_run(run, model) if run is not None else prepare_config(_required(config, "backtest"))
    folder = output or plan.default_output
    with _bars_progress() as progress:
        task = progress.add_task("Backtest", total=None)
        results = plan.testing.run(lambda done, total: _advance(progress, task, done, total))
    with console.status("Writing the report ..."):
        report = plan.write(results, folder)
    _print_results(results)
    console.print(f"Report: [bold]{escape(str(report))}[/]", soft_wrap=True)


@app.command()
def replay(
    run: Annotated[Path, typer.Option("--run", "-r", help="Run folder whose training is looked into.")],
    lane: Annotated[int, typer.Option("--lane", min=0, help="The lane.")],
    episode: Annotated[int, typer.Option("--episode", min=0, help="The episode of that lane, from 0.")] = 0,
    output: OutputOption = None,
) -> None:
    """Play an episode of a run's training again, alone, with lots, trades and a report."""
    if output is not None and output.exists():
        raise RunError(f"{output}: exists already; expected a new folder")
    with console.status("Loading libraries ..."):
        from batchenv.runs import free_name
        from stateful.replay import replay_episode
    with _bars_progress() as progress:
        task = progress.add_task("Replay", total=None)
        found = replay_episode(run, lane, episode, lambda done, total: _advance(progress, task, done, total))
    folder = output or free_name(run / f"replay-lane{lane}-episode{episode}")
    report = found.results.write(folder, title=f"Lane {lane}, episode {episode} of {run.name}")
    equal = "equal bit for bit" if found.shares_equal else f"within {found.worst_shares:.1e} of each other"
    console.print(
        f"{len(found.recorded.actions)} steps played again. Final equity {found.lane_equity:,.2f}, bit for bit what "
        f"training saw; shares of the two tiers are {equal}."
    )
    _print_results(found.results, "Training bars")
    console.print(f"Report: [bold]{escape(str(report))}[/]", soft_wrap=True)


@app.command()
def verify(
    config: ConfigOption = None,
    steps: Annotated[int, typer.Option(min=1, help="Lane-steps to compare.")] = 100_000,
    lanes: Annotated[int, typer.Option(min=1, help="Lanes to compare at once.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Seed of actions and episodes.")] = 0,
) -> None:
    """Prove the money on your own configuration and data: both tiers play the same episodes, every number compared."""
    run_config = _read_config(_required(config, "verify"), None, None)
    with console.status("Loading libraries, and compiling the kernel if this is its first run (about 20 s) ..."):
        from stateful.command import verify_config
    bars = -(-steps // lanes)
    with _bars_progress() as progress:
        task = progress.add_task("Verify", total=bars * lanes)
        certificate = verify_config(
            run_config, lanes, bars, seed, lambda done: _advance(progress, task, done, bars * lanes)
        )
    table = Table(title="Certificate: batch tier against evaluation tier", show_header=False)
    table.add_row("Configuration", escape(str(config)))
    table.add_row("Lane-steps compared", f"{certificate.lane_steps:,}")
    table.add_row("Episodes ended", f"{certificate.episodes:,} ({certificate.terminated:,} in bankruptcy)")
    table.add_row("Fills", f"{certificate.fills:,}")
    for name, worst in certificate.worst.items():
        table.add_row(f"Largest difference, {name}", f"{worst:.1e} (allowed 1e-09)")
    table.add_row("Done flags, observations", "equal")
    console.print(table)


def _advance(progress: Progress, task: TaskID, done: int, total: int) -> None:
    progress.update(task, completed=done, total=total)


def _required(config: Path | None, command: str) -> Path:
    if config is None:
        raise ConfigError(f"{command}: expected --config FILE, for example configs/fast_training_ppo.json")
    return config


def _read_config(path: Path, timesteps: int | None, seed: int | None) -> RunConfig:
    from batchenv.config import RunConfig

    config = RunConfig.from_json(path)
    if timesteps is not None:
        config = config.updated(agent=config.agent.updated(total_timesteps=timesteps).model_dump(exclude_unset=True))
    return config if seed is None else config.updated(seed=seed)


def _default_output(config: RunConfig) -> Path:
    from batchenv.runs import free_name

    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    return free_name(Path("runs") / f"{stamp}-{config.agent.algorithm}-seed{config.seed}")


class _Speed(ProgressColumn):
    """Lane-steps per second so far."""

    def render(self, task: Task) -> Text:
        """Return the speed as text."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f} steps/s" if speed else "", style="cyan")


def _bars_progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:3.0f}%"),
        _Speed(),
        TimeRemainingColumn(compact=True),
        console=console,
    )


class _TrainingProgress:
    """A progress bar, and a line for each evaluation; without a terminal, the lines alone."""

    def __init__(self, total: int) -> None:
        self._progress = _bars_progress()
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
            f"  validation at {row['timesteps']:>11,} steps: return {_percent(row['total_return']):>8}, "
            f"Sharpe {_number(row['sharpe']):>6}{mark}"
        )


def _print_trained(run: RunFolder) -> None:
    seconds, steps = run.info["seconds"], run.info["timesteps"]
    console.print(
        f"Trained {steps:,} steps in {seconds:,.1f} s ({steps / seconds:,.0f} steps/s, learning and validation "
        f"included)."
    )
    console.print(f"Next: [bold]batchenv backtest --run {escape(str(run.path))}[/]", soft_wrap=True)


def _print_results(results: BacktestResults, bars: str = "Held-out bars") -> None:
    metrics = results.metrics
    table = Table(title=f"{bars} {metrics['first_date']} to {metrics['last_date']}, after costs")
    table.add_column("")
    for heading in ("Return", "CAGR", "Sharpe", "Drawdown", "Costs"):
        table.add_column(heading, justify="right")
    rows = {"Agent": metrics} | {results.labels[name]: figures for name, figures in metrics["baselines"].items()}
    for name, figures in rows.items():
        table.add_row(
            name,
            _percent(figures["total_return"]),
            _percent(figures["cagr"]),
            _number(figures["sharpe"]),
            _percent(figures["max_drawdown"]),
            f"{figures['costs']:,.0f}",
        )
    console.print(table)
    for verdict in results.verdicts:
        console.print(escape(str(verdict)))


def _percent(value: float | None) -> str:
    return "n/a" if value is None else f"{100 * value:+.1f}%"


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.2f}"
