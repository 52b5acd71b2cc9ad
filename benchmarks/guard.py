"""Fail where a layer has become much slower than the layer below it: ``python -m benchmarks.guard``.

Ratios within one run, of the fastest of many short repetitions taken in turn, with margins of a factor of two and more
below what a quiet machine shows: a busy machine slows both sides down.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np
from rich.console import Console

from batchenv import TradingVecEnv
from benchmarks import worlds

LANES, SYMBOLS, REPETITIONS, STEPS = 4096, 30, 30, 8


def fastest(*plays: Callable[[], object]) -> list[float]:
    """Return the seconds of each play's fastest repetition; they take turns."""
    best = [float("inf")] * len(plays)
    for _ in range(REPETITIONS):
        for k, play in enumerate(plays):
            began = time.perf_counter()
            for _ in range(STEPS):
                play()
            best[k] = min(best[k], time.perf_counter() - began)
    return best


def main() -> int:
    """Measure, print, and return 1 if a ratio is below its margin."""
    plain, full = (worlds.batch(SYMBOLS, LANES, rules, copy=False) for rules in worlds.RULES.values())
    adapter = TradingVecEnv(worlds.market(SYMBOLS), worlds.config(worlds.PLAIN), n_envs=LANES, seed=0, copy=False)
    adapter.reset()
    numbers = worlds.actions(SYMBOLS, LANES, count=1)[0]
    rows, table = plain.bar.copy(), plain.task.features.values
    out = np.empty((LANES, table.shape[1]), np.float32)
    full_rows = full.bar.copy()

    def kernel() -> None:
        plain._engine.advance(numbers)
        plain._engine.lanes.bar[:] = rows

    def every_rule() -> None:
        full._engine.advance(numbers)
        full._engine.lanes.bar[:] = full_rows

    moved, plainly, fully, stepped = fastest(
        lambda: np.take(table, rows, axis=0, out=out, mode="clip"), kernel, every_rule, lambda: adapter.step(numbers)
    )
    ratios = (
        ("kernel against np.take of the observation", moved / plainly, 0.11),
        ("every rule against plain rules", plainly / fully, 0.12),
        ("TradingVecEnv.step against the kernel", plainly / stepped, 0.4),
    )
    console, slow = Console(width=80), 0
    for name, ratio, least in ratios:
        slow += ratio < least
        console.print(f"{name:<45}{ratio:>6.2f}  expected at least {least:.2f}{'  TOO SLOW' if ratio < least else ''}")
    return int(slow > 0)


if __name__ == "__main__":
    sys.exit(main())
