"""What the commands share: the console, options, progress bars and how numbers are written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from batchenv.errors import ConfigError, RunError

if TYPE_CHECKING:
    from batchenv.config import RunConfig
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


def required(config: Path | None, command: str) -> Path:
    """Return ``config``, or say that the command needs it."""
    if config is None:
        raise ConfigError(f"{command}: expected --config FILE, for example configs/fast_training_ppo.json")
    return config


def free(output: Path | None) -> Path | None:
    """Return ``output``, or say before anything is computed that no folder can be made there."""
    if output is None:
        return None
    if output.exists():
        raise RunError(f"{output}: exists already; expected a new folder")
    above = next(folder for folder in output.absolute().parents if folder.exists())
    if not above.is_dir():
        raise RunError(f"{output}: no folder can be made here, since {above} is a file")
    return output


def read_config(path: Path, timesteps: int | None = None, seed: int | None = None) -> RunConfig:
    """Read a run's configuration, with the options given on the command line in place of its own."""
    from batchenv.config import RunConfig

    config = RunConfig.from_json(path)
    if timesteps is not None:
        config = config.updated(agent=config.agent.updated(total_timesteps=timesteps).model_dump(exclude_unset=True))
    return config if seed is None else config.updated(seed=seed)


class _Speed(ProgressColumn):
    """Lane-steps per second so far."""

    def render(self, task: Task) -> Text:
        """Return the speed as text."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f} steps/s" if speed else "", style="cyan")


def bars_progress() -> Progress:
    """Return a progress bar that counts steps."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:3.0f}%"),
        _Speed(),
        TimeRemainingColumn(compact=True),
        console=console,
    )


def advance(progress: Progress, task: TaskID, done: int, total: int) -> None:
    """Show that ``done`` of ``total`` are done."""
    progress.update(task, completed=done, total=total)


def print_results(results: BacktestResults, bars: str | None = None) -> None:
    """Print what a backtest found: figures, what they come to in words, and why not to believe them.

    Args:
        results: What it found.
        bars: Which bars these are; None says whether they were held out, where that is known.
    """
    from stateful.verdict import sharpe_sentence

    metrics, flags = results.metrics, results.flags
    if bars is None:
        seen = any(flag.name in ("seen_in_training", "scaled_by_tested_bars") for flag in flags)
        bars = "Not held out:" if seen else "Tested bars" if results.trained_on is None else "Held-out bars"
    console.print(_results_table(results, f"{bars} {metrics['first_date']} to {metrics['last_date']}, after costs"))
    for flag in flags:
        if flag.severity == "severe":
            console.print(f"[bold red]{escape(flag.text)}[/]")
    for verdict in results.headlines:
        console.print(escape(str(verdict)))
    proof = sharpe_sentence(metrics)
    if proof is not None:
        console.print(escape(proof))
    warnings = [flag.text.partition(":")[0] for flag in flags if flag.severity == "warning"]
    if warnings:
        console.print(f"[yellow]Red flags, explained in the report: {escape('; '.join(warnings))}.[/]")


def _results_table(results: BacktestResults, title: str) -> Table:
    """Return the main figures of every account, with the intervals of the agent's."""
    from stateful.evaluation.uncertainty import DRAWDOWN_HOLDS
    from stateful.verdict import no_measure

    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("", min_width=18)
    for heading in ("Return", "CAGR", "Sharpe", "Drawdown", "Costs"):
        table.add_column(heading, justify="right")
    table.add_row("[bold]Agent[/]", *(f"[bold]{cell}[/]" for cell in _figures(results.metrics)))
    found = results.uncertainty
    intervals = () if found is None else [found.agent[name] for name, _ in _SHOWN]
    if found is not None and any(interval.low is not None for interval in intervals):
        for end, word in (("low", "from"), ("high", "to")):
            ends = [getattr(interval, end) for interval in intervals]
            cells = ["" if value is None else show(value) for value, (_, show) in zip(ends, _SHOWN, strict=True)]
            table.add_row(f"[dim]  {100 * found.level:g}% {word}[/]", *(f"[dim]{cell}[/]" for cell in cells), "")
        table.caption = f"The drawdown's interval holds in {DRAWDOWN_HOLDS} of cases."
    for name, figures in results.metrics["baselines"].items():
        mark = " *" if figures.get("not_comparable") else ""
        table.add_row(escape(results.labels[name]) + mark, *_figures(figures))
    if no_measure(results.metrics):
        table.caption = "\n".join(filter(None, (str(table.caption or ""), "* not compared: no measure of the agent.")))
    return table


def percent(value: float | None) -> str:
    """Return a fraction as percent, such as ``+12.3%``."""
    return "n/a" if value is None else f"{100 * value:+.1f}%"


def number(value: float | None) -> str:
    """Return a ratio with two digits."""
    return "n/a" if value is None else f"{value:.2f}"


_SHOWN = (("total_return", percent), ("cagr", percent), ("sharpe", number), ("max_drawdown", percent))


def _figures(metrics: dict[str, Any]) -> list[str]:
    from stateful.report_parts import BY_NAME, reported

    shown = (show(reported(metrics, BY_NAME[name])[0]) for name, show in _SHOWN)
    return [*shown, f"{metrics['costs']:,.0f}"]
