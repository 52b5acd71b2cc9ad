"""Measure peers beside batchenv: ``python -m benchmarks.peers.run [--quick]``, from the repository's root.

First the money, then steps per second, then PPO from end to end. Writes one JSON file and prints its tables.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import warnings
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.peers import elegantrl, finrl, gym_trading, ours, torchtrade, training
from benchmarks.peers.adapter import SB3_ENVS, Peer, PeerUnavailableError
from benchmarks.peers.market import CASH, EPISODE, FEE, MAX_SHARES, N_BARS, N_FEATURES, N_SYMBOLS
from benchmarks.peers.measure import Rate, steps_per_second
from benchmarks.peers.money import check
from benchmarks.peers.report import print_report

PEERS: tuple[Peer, ...] = (
    ours.PEER,
    *finrl.PEERS,
    gym_trading.PEER,
    *elegantrl.PEERS,
    *torchtrade.PEERS,
)
RATIOS = ((ours.FAST, finrl.NUMPY), (ours.STATEFUL, finrl.PANDAS))
"""Ours over theirs, one environment each."""


class Recorder:
    """Collects results, and the reason wherever there is none."""

    def __init__(self, console: Console) -> None:
        self.results: dict[str, Any] = {
            "money": {},
            "steps": [],
            "training": [],
            "own_training": [],
            "not_measured": [],
        }
        self._console = console

    def attempt(self, name: str, measure: Callable[[], None]) -> None:
        """Run one measurement; a peer may fail in any way, which is a result too."""
        with self._console.status(name):
            try:
                measure()
            except PeerUnavailableError as error:
                self._missing(name, str(error))
            except Exception as error:
                self._missing(name, f"{type(error).__name__}: {error}")

    def _missing(self, name: str, reason: str) -> None:
        self.results["not_measured"].append({"name": name, "reason": reason})

    def money(self, peer: Peer) -> None:
        """Compare a peer's money with ours."""
        if peer.money is not None:
            self.results["money"][peer.name] = asdict(check(peer.money()))

    def steps(self, peer: Peer, seconds: float) -> None:
        """Time everything that a peer offers."""
        for case in peer.cases():
            key = {"peer": peer.name, "environment": case.environment, "lanes": case.lanes, "symbols": case.symbols}
            name = f"{case.environment}, {case.lanes} lanes"
            self.attempt(name, lambda k=key, c=case: self._add("steps", k, steps_per_second(c, seconds)))

    def train(self, table: str, plan: training.Training, repetitions: int) -> None:
        """Time one training."""
        key = {name: getattr(plan, name) for name in ("algorithm", "environment", "lanes", "n_steps")}
        key["hyperparameters"] = plan.hyperparameters
        self._add(table, key, training.learning_rate(plan, repetitions))

    def _add(self, table: str, key: dict[str, Any], rate: Rate) -> None:
        self.results[table].append({**key, **asdict(rate), "spread": rate.spread})


def ratios(steps: list[dict[str, Any]]) -> dict[str, float]:
    """Return how many times faster ours is, for the pairs of `RATIOS` that were measured."""
    alone = {row["environment"]: row["median"] for row in steps if row["lanes"] == 1}
    return {
        f"{mine} / {theirs}": alone[mine] / alone[theirs] for mine, theirs in RATIOS if {mine, theirs} <= set(alone)
    }


def machine() -> dict[str, Any]:
    """Return the processor, its cores, the system and the load before."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "os": platform.platform(),
        "python": platform.python_version(),
        "load_average_at_start": load_average(),
    }


def load_average() -> float | None:
    """Return the load of the last minute, which tells whether others were at work; None where it is not known."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def settings() -> dict[str, Any]:
    """Return what all environments were given."""
    return {
        "symbols": N_SYMBOLS,
        "bars": N_BARS,
        "features": N_FEATURES,
        "cash": CASH,
        "fee_rate": FEE,
        "max_shares": MAX_SHARES,
        "episode_length_where_random_starts": EPISODE,
        "sb3_environments": SB3_ENVS,
        "torch_threads": torch.get_num_threads(),
    }


def main() -> None:
    """Parse the options, measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/peers.json"))
    parser.add_argument("--quick", action="store_true", help="shorter repetitions and no PPO: a check, not a result")
    options = parser.parse_args()
    if options.output.suffix != ".json":
        parser.error(f"--output: got {str(options.output)!r}, expected a path that ends in .json")
    warnings.simplefilter("ignore")  # the peers' own: deprecated calls, read-only arrays
    torch.set_num_threads(1)
    console = Console()
    report: dict[str, Any] = {"quick": options.quick, "machine": machine(), "settings": settings()}
    report["versions"] = {d.name: d.version for d in sorted(distributions(), key=lambda d: d.name.lower())}
    recorder = Recorder(console)
    for peer in PEERS:
        recorder.attempt(f"{peer.name}, money", lambda p=peer: recorder.money(p))
    for peer in PEERS:
        recorder.attempt(peer.name, lambda p=peer: recorder.steps(p, 0.05 if options.quick else 0.5))
    if not options.quick:
        for plan in training.trainings():
            recorder.attempt(plan.name, lambda p=plan: recorder.train("training", p, 5))
        for plan in training.own_trainings():
            recorder.attempt(plan.name, lambda p=plan: recorder.train("own_training", p, 3))
    report["machine"]["load_average_at_end"] = load_average()
    report |= recorder.results
    report["ratios"] = ratios(report["steps"])
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print_report(report, console)
    console.print(f"Written to {options.output}")


if __name__ == "__main__":
    main()
