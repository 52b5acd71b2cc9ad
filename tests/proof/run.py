"""The long proof: ``python -m tests.proof.run [--lane-steps N] [--seed N] [--workers N]``.

Plays random worlds in both tiers until the budget is used, and prints what was covered and the largest difference.
A world is known by its number: ``--world N`` plays one again.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from batchenv.errors import BatchenvError
from stateful.verify import Certificate, compare
from tests.proof.scenarios import FAULTS, scenario

N_ENVS, STEPS, N_BARS = 16, 250, 120
MODES = ("trade", "weights", "shares", "discrete")


def play(number: int) -> tuple[int, Certificate, tuple[str, ...], str]:
    """Play one world; return its number, what was compared, what it covered, and the disagreement if there was one."""
    r = random.Random(number)
    world = scenario(r, n_bars=N_BARS, n_symbols=r.randrange(1, 5), n_envs=N_ENVS, steps=STEPS)
    try:
        certificate = compare(
            world.market,
            world.config,
            world.action,
            n_envs=N_ENVS,
            steps=STEPS,
            seed=world.seed,
            lane_parameters=world.lane_parameters,
        )
    except (BatchenvError, IndexError) as error:  # an index beyond an array: see tests.proof.bounds
        return number, Certificate(), world.covered, f"world {number}: {error}"
    return number, certificate, world.covered, ""


def run(lane_steps: int, seed: int, workers: int, console: Console) -> tuple[Certificate, Counter[str], list[str]]:
    """Play worlds until the budget is used or one fails."""
    total, covered, failures = Certificate(), Counter[str](), list[str]()
    columns = (TextColumn("Proof"), BarColumn(), TextColumn("{task.completed:,.0f} lane-steps"), TimeRemainingColumn())
    number = seed * 10_000_000
    with Progress(*columns, console=console) as progress, ProcessPoolExecutor(workers) as pool:
        task = progress.add_task("", total=lane_steps)
        pending: set[Future[tuple[int, Certificate, tuple[str, ...], str]]] = set()
        while (total.lane_steps < lane_steps and not failures) or pending:
            while len(pending) < 2 * workers and total.lane_steps < lane_steps and not failures:
                pending.add(pool.submit(play, number))
                number += 1
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                _, certificate, names, failure = future.result()
                total.add(certificate)
                mode = next(name for name in names if name.startswith("mode "))
                covered.update({(name, mode): certificate.lane_steps for name in {*names, "everything"}})
                failures += [failure] if failure else []
            progress.update(task, completed=min(total.lane_steps, lane_steps))
    return total, covered, failures


def show(total: Certificate, covered: Counter[str], seconds: float, console: Console) -> None:
    """Print the table of what was covered, and the certificate."""
    table = Table(title="Lane-steps compared, by rule, fault and action mode")
    table.add_column("rule or fault")
    for mode in MODES:
        table.add_column(mode, justify="right")
    names = sorted({name for name, _ in covered if not name.startswith("mode ")})
    for name in names:
        table.add_row(name, *(f"{covered[name, f'mode {mode}']:,}" for mode in MODES))
    console.print(table)
    console.print(
        f"{total.lane_steps:,} lane-steps, {total.episodes:,} episodes ({total.terminated:,} bankrupt), "
        f"{total.fills:,} fills, in {seconds:,.0f} s."
    )
    for name, worst in total.worst.items():
        console.print(f"Largest relative difference, {name}: {worst:.2e}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lane-steps", type=int, default=10_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--world", type=int, help="play this world alone")
    options = parser.parse_args()
    console = Console(width=100, highlight=False)
    if options.world is not None:
        *_, failure = play(options.world)
        console.print(failure or f"world {options.world}: both tiers agree")
        return bool(failure)
    play(0)  # compiles the kernel once, before the workers need it
    began = time.perf_counter()
    total, covered, failures = run(options.lane_steps, options.seed, options.workers, console)
    for failure in failures:
        console.print(f"[red]{failure}[/]", markup=True)
        console.print(f"Play it again: python -m tests.proof.run --world {failure.split(':')[0].split()[-1]}")
    show(total, covered, time.perf_counter() - began, console)
    missing = [
        f"market: {fault}" for fault in FAULTS if not any((f"market: {fault}", f"mode {m}") in covered for m in MODES)
    ]
    return bool(failures or missing)


if __name__ == "__main__":
    sys.exit(main())
