"""Turn what the benchmarks wrote into a table of what was to be reached, and charts: ``python -m benchmarks.summary``.

Reads whichever of ``layers.json``, ``learning.json``, ``curves.json`` and ``peers.json`` lie in ``benchmarks/results``
and writes the pictures of ``docs/performance.md``. Every ratio is between figures of one run.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from rich.console import Console
from rich.table import Table

RESULTS, IMAGES = Path("benchmarks/results"), Path("docs/images")
OURS = ("TradingVecEnv",)
BLUE, GREY = "#2a6fbb", "#9aa3ad"


@dataclass(frozen=True)
class Layers:
    """Rates of ``layers.json`` by the case's name."""

    cases: dict[str, dict[str, Any]]

    @classmethod
    def read(cls, path: Path) -> Layers:
        """Read what pytest-benchmark wrote."""
        cases = json.loads(path.read_text(encoding="utf-8"))["benchmarks"]
        return cls({case["name"].removeprefix("test_"): case for case in cases})

    def median(self, name: str) -> float:
        """Return the seconds of the median round."""
        return float(self.cases[name]["stats"]["median"])

    def rate(self, name: str) -> float:
        """Return lane-steps a second, from the median round."""
        facts = self.cases[name]["extra_info"]
        return float(facts["lanes"] * facts["steps"] / self.median(name))

    def spread(self, name: str) -> float:
        """Return the interquartile range as a fraction of the median."""
        stats = self.cases[name]["stats"]
        return float(stats["iqr"] / stats["median"])

    def numbers(self, name: str) -> list[int]:
        """Return the numbers that a case was run for."""
        prefix = f"{name}["
        return sorted(int(case[len(prefix) : -1]) for case in self.cases if case.startswith(prefix))


def layer_ratios(layers: Layers) -> list[tuple[str, str, float, str]]:
    """Return (layer, measured against, ratio, what is to be reached)."""
    rate = layers.rate
    start, imported = (layers.median(f"start[{what}]") for what in ("first training step", "import stable_baselines3"))

    def by_lanes(what: str) -> float:
        rates = [rate(f"{what}_by_lanes[{n}]") for n in layers.numbers(f"{what}_by_lanes") if n >= 256]
        return min(rates) / rates[0]

    def by_symbols(what: str) -> float:
        return 30 / 500 * rate(f"{what}_by_symbols[30]") / rate(f"{what}_by_symbols[500]")

    plain, take = rate("kernel_by_rules[plain]"), rate("take_by_lanes[4096]")
    return [
        ("kernel, plain rules", "np.take of the observation", plain / take, ">= 0.25"),
        ("kernel, every rule", "plain", rate("kernel_by_rules[every rule]") / plain, ">= 0.5"),
        ("kernel, 2 threads", "1 thread", rate("kernel_by_threads[2]") / rate("kernel_by_threads[1]"), ">= 1.7"),
        ("slowest of 256 to 65,536 lanes", "256 lanes", by_lanes("kernel"), ">= 0.8"),
        ("  np.take likewise", "", by_lanes("take"), ""),
        ("time per symbol, 500 symbols", "30 symbols", by_symbols("kernel"), "<= 1.25"),
        ("  np.take likewise", "", by_symbols("take"), ""),
        (
            "TradingVecEnv.step",
            "BatchTradingEnv.step",
            rate("vec_env_step[False]") / rate("batch_step[False]"),
            ">= 0.9",
        ),
        ("first training step", "import stable_baselines3", start / imported, "< 2"),
    ]


def show(console: Console, layers: Layers) -> None:
    """Print rates and ratios."""
    table = Table(title="Lane-steps a second")
    for column in ("case", "lanes", "steps/s", "spread"):
        table.add_column(column, justify="left" if column == "case" else "right")
    for name, case in layers.cases.items():
        if not name.startswith("start"):
            row = f"{case['extra_info']['lanes']:,}", f"{layers.rate(name):,.0f}", f"{layers.spread(name):.0%}"
            table.add_row(name.replace("[", " \\["), *row)
    console.print(table)
    ratios = Table(title="Ratios within this run")
    for column in ("layer", "against", "ratio", "to reach"):
        ratios.add_column(column, justify="left" if column in ("layer", "against") else "right")
    for layer, against, ratio, reach in layer_ratios(layers):
        ratios.add_row(layer, against, f"{ratio:.2f}", reach)
    console.print(ratios)


def plot_scaling(layers: Layers, path: Path) -> None:
    """Draw steps a second by lanes and time by symbols, beside `np.take`."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    lanes, symbols = layers.numbers("kernel_by_lanes"), layers.numbers("kernel_by_symbols")
    lines = {"kernel": (BLUE, "-", "kernel, plain rules"), "take": (GREY, "--", "np.take: only moving the observation")}
    for what, (color, style, label) in lines.items():
        rates = [layers.rate(f"{what}_by_lanes[{n}]") / 1e6 for n in lanes]
        left.plot(lanes, rates, "o", ls=style, color=color, label=label)
        cost = [1e9 / layers.rate(f"{what}_by_symbols[{n}]") for n in symbols]
        right.plot(symbols, cost, "o", ls=style, color=color, label=label)
    left.set(
        xscale="log", xlabel="lanes (30 symbols x 8 features)", ylabel="million lane-steps a second", ylim=(0, None)
    )
    right.set(xlabel="symbols (8 features each, 1,024 lanes)", ylabel="nanoseconds per lane-step", ylim=(0, None))
    right.legend(frameon=False)
    finish(figure, (left, right), path)


def plot_rules(layers: Layers, path: Path) -> None:
    """Draw what a lane-step costs by rules."""
    rows = [("plain rules", "kernel_by_rules[plain]"), ("every rule", "kernel_by_rules[every rule]")]
    names = [name for name in layers.cases if name.startswith("kernel_without[")]
    rows += [(f"every rule but {name[len('kernel_without[') : -1]}", name) for name in names]
    bars = [(label, 1e9 / layers.rate(name), label == "plain rules") for label, name in rows]
    plot_bars("What a lane-step costs, 30 symbols, 4,096 lanes, one thread", "nanoseconds", bars, path, log=False)


def plot_learning(report: dict[str, Any], path: Path) -> None:
    """Draw where the time of an update goes, stock PPO and `FastPPO`."""
    models, parts = report["models"], report["parts"]
    lane_steps = report["options"]["lanes"] * report["options"]["steps"]
    names = list(dict.fromkeys(part for shares in parts.values() for part in shares))
    figure, axes = plt.subplots(figsize=(9, 2.6), layout="constrained")
    colors = plt.get_cmap("tab20").colors
    labels = {"stock": "stock PPO", "fast": "FastPPO"}
    ends = dict.fromkeys(labels, 0.0)
    for k, part in enumerate(names):
        widths = {name: models[name]["total"] / lane_steps * 1e6 * parts[name].get(part, 0.0) for name in labels}
        axes.barh(list(labels.values()), list(widths.values()), left=list(ends.values()), color=colors[k], label=part)
        ends = {name: ends[name] + widths[name] for name in labels}
    axes.invert_yaxis()
    axes.set(xlabel="microseconds per lane-step, rollout and learning")
    axes.legend(frameon=False, ncols=6, fontsize=8, loc="upper center", bbox_to_anchor=(0.45, 1.35))
    finish(figure, (axes,), path)


def plot_curves(report: dict[str, Any], path: Path) -> None:
    """Draw learning curves by steps and by time: the mean over seeds, and their range."""
    figure, panels = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained", sharey=True)
    for (name, runs), color in zip(report["curves"].items(), (GREY, BLUE, "#d98324"), strict=False):
        rewards = np.array([[point["reward"] for point in run] for run in runs])
        for axes, key in zip(panels, ("steps", "seconds"), strict=True):
            along = np.mean([[point[key] for point in run] for run in runs], axis=0)
            axes.plot(along, rewards.mean(axis=0), color=color, label=name)
            axes.fill_between(along, rewards.min(axis=0), rewards.max(axis=0), color=color, alpha=0.2, lw=0)
    panels[0].set(xlabel="lane-steps", ylabel="mean reward of a step")
    panels[1].set(xlabel="seconds")
    panels[0].legend(frameon=False, loc="lower right", title=f"{len(runs)} seeds: mean and range")
    finish(figure, panels, path)


def finish(figure: Any, panels: Iterable[Any], path: Path) -> None:
    """Take away what says nothing, and write the picture."""
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    save(figure, path)


def plot_bars(title: str, unit: str, rows: list[tuple[str, float, bool]], path: Path, *, log: bool) -> None:
    """Draw (label, value, whether it is ours), largest last."""
    rows = sorted(rows, key=lambda row: row[1])
    figure, axes = plt.subplots(figsize=(9, 0.34 * len(rows) + 1.1), layout="constrained")
    bars = axes.barh(
        [row[0] for row in rows], [row[1] for row in rows], color=[BLUE if row[2] else GREY for row in rows]
    )
    axes.bar_label(bars, [f"{row[1]:,.0f}" for row in rows], padding=4, fontsize=9)
    axes.set(xscale="log" if log else "linear", xlabel=unit)
    axes.set_title(title, loc="left", fontsize=11)
    axes.margins(x=0.15)
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)


def save(figure: Any, path: Path) -> None:
    """Write a picture and close it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def plot_peers(report: dict[str, Any], folder: Path) -> None:
    """Draw steps a second of every environment with 30 symbols, and of PPO."""
    steps = [
        (f"{row['environment']} ({row['lanes']:,})", row["median"], row["peer"] == "batchenv")
        for row in report["steps"]
        if row["symbols"] == report["settings"]["symbols"]
    ]
    plot_bars(
        "Environment steps a second, 30 symbols (lanes)", "lane-steps a second", steps, folder / "peers.png", log=True
    )
    own = [
        (f"{row['algorithm']} on {row['environment']} ({row['lanes']:,})", row["median"], row["environment"] in OURS)
        for row in report.get("own_training", ())
    ]
    if own:
        title = "PPO from end to end, as each project sets it up (lanes)"
        plot_bars(title, "lane-steps a second, rollout and learning", own, folder / "peers_ppo.png", log=True)


def main() -> None:
    """Print and draw what there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--images", type=Path, default=IMAGES)
    options = parser.parse_args()
    console = Console(width=80)
    layers, peers = options.results / "layers.json", options.results / "peers.json"
    if layers.exists():
        found = Layers.read(layers)
        show(console, found)
        plot_scaling(found, options.images / "scaling.png")
        plot_rules(found, options.images / "rules.png")
    for name, plot in (("learning", plot_learning), ("curves", plot_curves)):
        if (path := options.results / f"{name}.json").exists():
            plot(json.loads(path.read_text(encoding="utf-8")), options.images / f"{name}.png")
    if peers.exists():
        plot_peers(json.loads(peers.read_text(encoding="utf-8")), options.images)


if __name__ == "__main__":
    main()
