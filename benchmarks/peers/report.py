"""The tables of a report, within 80 columns."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

WIDTH = 80


def print_report(report: dict[str, Any], console: Console) -> None:
    """Print money, steps, training, ratios, and what was not measured.

    Args:
        report: What `run` writes as JSON.
        console: Where to.
    """
    parts = [_money(report["money"]), _steps(report["steps"])]
    titles = {
        "training": "PPO, lane-steps per second with learning",
        "own_training": "The same, as each project sets PPO up by itself",
    }
    parts += [_training(title, report[table]) for table, title in titles.items() if report[table]]
    for part in parts:
        console.print(part, width=WIDTH)
    for name, money in report["money"].items():
        console.print(f"[bold]{escape(name)}[/bold] ({money['rules']}): {escape(money['explanation'])}", width=WIDTH)
    console.print()
    for name, ratio in report["ratios"].items():
        console.print(f"{escape(name)}: {ratio:.1f}x", width=WIDTH)
    for missing in report["not_measured"]:
        console.print(f"Not measured: {escape(missing['name'])}: {escape(missing['reason'])}", width=WIDTH)


def _table(title: str, *columns: str) -> Table:
    return Table(*columns, title=title, width=WIDTH, box=box.SIMPLE_HEAD, padding=0)


def _money(money: dict[str, dict[str, Any]]) -> Table:
    table = _table("Largest difference of equity from StatefulTradingEnv, of 1,000,000", "peer")
    scripts = ["simple", "rotate", "small", "beyond_cash", "random"]
    for title in (*(script.replace("_", " ") for script in scripts), "its fills"):
        table.add_column(title, justify="right")
    for name, found in money.items():
        amounts = [*(found["differences"].get(script) for script in scripts), found["replay_difference"]]
        table.add_row(escape(name), *map(_amount, amounts))
    table.caption = "its fills: ours fills exactly what the peer filled, in all scripts"
    return table


def _amount(difference: float | None) -> str:
    if difference is None:
        return "-"
    return (
        "0"
        if difference < 1e-6
        else f"{difference:,.0f}"
        if difference >= 100
        else f"{difference:.1g}"
        if difference < 1
        else f"{difference:.1f}"
    )


def _steps(rows: list[dict[str, Any]]) -> Table:
    table = _table("Lane-steps per second", "environment")
    for column in ("symbols", "lanes", "median", "spread"):
        table.add_column(column, justify="right")
    for row in rows:
        lanes, median = f"{row['lanes']:,}", f"{row['median']:,.0f}"
        table.add_row(escape(row["environment"]), str(row["symbols"]), lanes, median, f"{row['spread']:.0%}")
    return table


def _training(title: str, rows: list[dict[str, Any]]) -> Table:
    table = _table(title, "algorithm", "environment")
    for column in ("lanes", "steps", "median", "spread"):
        table.add_column(column, justify="right")
    for row in rows:
        numbers = f"{row['lanes']:,}", str(row["n_steps"]), f"{row['median']:,.0f}", f"{row['spread']:.0%}"
        table.add_row(row["algorithm"], escape(row["environment"]), *numbers)
    return table
