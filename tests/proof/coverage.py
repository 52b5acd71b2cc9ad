"""How often the intervals cover the truth: ``python -m tests.proof.coverage [--bars N ...] [--simulations N]``.

Draws worlds whose truth is known, two accounts in each, measures them as a backtest does, and counts how often the
95% intervals hold the truth; a gap is the difference of the two accounts. The drawdown's interval is held against the
drawdown of a fresh draw of the same world.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from batchenv.config import UncertaintyConfig
from stateful.evaluation import uncertainty
from stateful.evaluation.uncertainty import measure_uncertainty

FloatArray = npt.NDArray[np.float64]

MEAN, DEVIATION, YEAR = 0.0005, 0.01, 252
BURN = 300
WORLDS = ("independent", "heavy tails", "AR(1) 0.2", "AR(1) 0.4", "GARCH")
FIGURES = ("growth", "sharpe", "growth gap", "sharpe gap", "drawdown")


def noise(world: str, n: int, bars: int, rng: np.random.Generator) -> FloatArray:
    """Series of mean 0 and variance 1 with the world's dependence, ``[bars, n]``."""
    if world == "heavy tails":
        return rng.standard_t(4, (bars, n)) / np.sqrt(2.0)
    shocks = rng.standard_normal((bars + BURN, n))
    if world.startswith("AR(1)"):
        rho = float(world.split()[1])
        for t in range(1, len(shocks)):
            shocks[t] = rho * shocks[t - 1] + np.sqrt(1.0 - rho * rho) * shocks[t]
    elif world == "GARCH":
        variance = np.ones(n)
        for t in range(len(shocks)):
            shocks[t] *= np.sqrt(variance)
            variance = 0.02 + 0.08 * shocks[t] ** 2 + 0.9 * variance
    return shocks[BURN:]


def returns(world: str, simulations: int, bars: int, rng: np.random.Generator) -> FloatArray:
    """Two accounts that share most of their noise, ``[bars, simulations, 2]``."""
    common, own = noise(world, simulations, bars, rng), noise(world, 2 * simulations, bars, rng)
    mixed = 0.9 * common[:, :, np.newaxis] + np.sqrt(1.0 - 0.81) * own.reshape(bars, simulations, 2)
    return MEAN + DEVIATION * mixed


@dataclass(frozen=True)
class Coverage:
    """Part of the simulations in which each interval held the truth, and the median mean block length."""

    parts: dict[str, float]
    block: float


def coverage(world: str, bars: int, simulations: int, resamples: int, seed: int = 0) -> Coverage:
    """Simulate."""
    rng = np.random.default_rng(seed)
    # The mean of the logarithm has no closed form in every world; its error here is a hundredth of an interval.
    growth = float(np.log1p(returns(world, 400, 5000, np.random.default_rng(1))).mean())
    drawn, fresh = (returns(world, simulations, bars, rng) for _ in range(2))
    equity = np.concatenate([np.ones((1, simulations, 2)), np.cumprod(1.0 + drawn, axis=0)])
    paths = np.concatenate([np.ones((1, simulations)), np.cumprod(1.0 + fresh[:, :, 0], axis=0)])
    drawdowns = (paths / np.maximum.accumulate(paths, axis=0) - 1.0).min(axis=0)
    hits, blocks = [], []
    for i in range(simulations):
        found = measure_uncertainty(
            equity[:, i, 0],
            {"other": equity[:, i, 1]},
            config=UncertaintyConfig(resamples=resamples, seed=i),
            periods_per_year=YEAR,
        )
        gap = found.differences["other"]
        truths = (
            (found.agent["cagr"], np.expm1(growth * YEAR)),
            (found.agent["sharpe"], MEAN / DEVIATION * np.sqrt(YEAR)),
            (gap.cagr, 0.0),
            (gap.sharpe, 0.0),
            (found.agent["max_drawdown"], drawdowns[i]),
        )
        hits.append([interval.low <= truth <= interval.high for interval, truth in truths])
        blocks.append(found.mean_block_length)
    return Coverage(dict(zip(FIGURES, np.mean(hits, axis=0).tolist(), strict=True)), float(np.median(blocks)))


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bars", type=int, nargs="+", default=[60, 252, 795])
    parser.add_argument("--simulations", type=int, default=1000)
    parser.add_argument("--resamples", type=int, default=1000)
    options = parser.parse_args()
    uncertainty.MINIMUM_BARS = min(options.bars)  # to see why it is what it is
    table = Table(box=SIMPLE, title=f"Coverage of 95% intervals, {options.simulations:,} simulations each")
    for heading in ("World", "Bars", "Block", *FIGURES):
        table.add_column(heading, justify="left" if heading == "World" else "right", no_wrap=True)
    for world in WORLDS:
        for bars in options.bars:
            found = coverage(world, bars, options.simulations, options.resamples)
            parts = [f"{100 * found.parts[name]:.1f}%" for name in FIGURES]
            table.add_row(world, f"{bars:,}", f"{found.block:.1f}", *parts)
    Console().print(table)


if __name__ == "__main__":
    main()
