"""The mutation check: ``python -m tests.proof.mutate [--workers N] [NAME ...]``.

Breaks the kernel in one place at a time, in a copy, and runs the proof's tests on it: they must fail every time. A
mutant that survives is a hole in the proof. Kernels run as plain Python here (NUMBA_DISABLE_JIT), which needs no compiling.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parent.parent.parent
SUITE = [
    "tests/test_differential.py",
    "tests/proof/test_exact.py",
    "tests/proof/test_examples.py",
    "tests/proof/test_fuzz.py",
    "-k",
    "not small_world and not cover",
]


class Mutant(NamedTuple):
    name: str
    file: str
    old: str
    new: str


MUTANTS = [
    Mutant("fee added to a sale's proceeds", "plain", "sales - accounting.variable_fee", "sales + accounting.variable_fee"),
    Mutant("fee left out of affordability", "plain", "need = purchases + accounting.variable_fee(0.0, purchases, fee_rate, 0.0)", "need = purchases"),
    Mutant("orders of no size open positions", "accounting", "return order if abs(order) > RESIDUE * equity * inverse else 0.0", "return order"),
    Mutant("buys never scaled", "plain", "factor = accounting.scarce_factor(cash, need, before)", "factor = 1.0"),
    Mutant("slippage helps the buyer", "accounting", "return fill * (1.0 + side * slip)", "return fill * (1.0 - side * slip)"),
    Mutant("slippage on one side only", "accounting", "return fill * (1.0 + side * slip)", "return fill * (1.0 + max(side, 0.0) * slip)"),
    Mutant("marked a bar too early", "plain", "settle_orders(i, t + 1, row, market.mark", "settle_orders(i, t, row, market.mark"),
    Mutant("marked a bar too early (full)", "full", "holdings[i, s] * mark[bar, s]", "holdings[i, s] * mark[bar - 1, s]"),
    Mutant("fill a bar too late", "setup", "[1:]\n    fill[np.isnan", "[:-1]\n    fill[np.isnan"),
    Mutant("sells not limited to holdings", "accounting", "return order if order > -held else -held", "return order"),
    Mutant("sells limited to half", "accounting", "return order if order > -held else -held", "return order if order > -held else -0.5 * held"),
    Mutant("no clipping of actions", "accounting", "return at_least if at_least < high else high", "return at_least"),
    Mutant("trade limit ignored", "lane", "value = rules.trade_limit * equity", "value = equity"),
    Mutant("weights not scaled down", "accounting", "return 1.0 / max(1.0, gross / leverage)", "return 1.0"),
    Mutant("weights always scaled to one", "accounting", "return 1.0 / max(1.0, gross / leverage)", "return 1.0 / gross if gross > 0.0 else 1.0"),
    Mutant("the weight held is no hold", "accounting", "return order if abs(order) > SAME * abs(held) else 0.0", "return order"),
    Mutant("weights forget what is held", "accounting", "order = value * inverse - held", "order = value * inverse"),
    Mutant("minimum fee taken as a maximum", "accounting", "min(max(minimum, fixed + variable), most)", "min(min(minimum, fixed + variable), most)"),
    Mutant("fixed fee forgotten", "accounting", "max(minimum, fixed + variable)", "max(minimum, variable)"),
    Mutant("fee per share forgotten", "accounting", "rate * notional + per_share * quantity", "rate * notional"),
    Mutant("fee of a sale not limited", "full", "most = notional if held > 0.0 and work.side[row, s] < 0.0 else math.inf", "most = math.inf"),
    Mutant("impact without the root", "accounting", "impact * math.sqrt(quantity * per_volume)", "impact * (quantity * per_volume)"),
    Mutant("participation of the wrong bar", "full", "rules.participation, volume[bar, s])", "rules.participation, volume[t, s])"),
    Mutant("zero volume trades", "accounting", "return clip(order, -limit, limit) if volume > 0.0 else 0.0", "return clip(order, -limit, limit) if volume > 0.0 else order"),
    Mutant("lots rounded up", "accounting", "lot * np.floor(lots + min(ROUNDING * lots, LOT_ROUNDING))", "lot * np.ceil(lots)"),
    Mutant("fine lots for nothing", "accounting", "lots + min(ROUNDING * lots, LOT_ROUNDING)", "lots + ROUNDING * lots"),
    Mutant("closing an odd lot refused", "full", "in_lots if reduce < abs(held) else reduce", "in_lots"),
    Mutant("smallest order ignored", "accounting", "return 0.0 if quantity * price < least * (1.0 - ROUNDING) else quantity", "return quantity"),
    Mutant("short sales count as room", "accounting", "(leverage + 1.0) * short", "(leverage - 1.0) * short"),
    Mutant("leverage ignores what is held", "accounting", "leverage * cash + (leverage - 1.0) * long", "leverage * cash + leverage * long"),
    Mutant("leverage without slippage and fees", "full", "wanted + leverage * (slipped + work.fees[row])", "wanted + (slipped + work.fees[row])"),
    Mutant("fees not reserved", "full", "available - leverage * upper", "available"),
    Mutant("net limit on one side only", "full", "factor = accounting.net_factor(factor, most + net, pace - net_added, before)", "pass"),
    Mutant("interest a year too often", "accounting", "(max(cash_rate * years, -1.0) if cash > 0.0 else margin_rate * years)", "(max(cash_rate, -1.0) if cash > 0.0 else margin_rate)"),
    Mutant("borrowed cash earns interest", "accounting", "max(cash_rate * years, -1.0) if cash > 0.0 else margin_rate * years", "max(cash_rate * years, -1.0)"),
    Mutant("interest takes more than there is", "accounting", "max(cash_rate * years, -1.0)", "cash_rate * years"),
    Mutant("borrow charged to longs", "accounting", "return positive(-value) * rate * years", "return positive(value) * rate * years"),
    Mutant("funding paid by shorts", "accounting", "return value * (yearly * years + at_bar)", "return -value * (yearly * years + at_bar)"),
    Mutant("funding of the bar before", "night", "funding[t + 1, s]", "funding[t, s]"),
    Mutant("split forgets the pending order", "night", "            work.order[row, s] *= multiple\n", ""),
    Mutant("split forgets the entry price", "night", "entry[i, s] /= multiple", "entry[i, s] *= 1.0"),
    Mutant("dividend on old shares", "night", "paid += held * split[t + 1, s] * dividend[t + 1, s]", "paid += held * dividend[t + 1, s]"),
    Mutant("reinvested at the full close", "accounting", "return close / (close - dividend)", "return close / close + dividend / close"),
    Mutant("delisted without haircut", "night", " * (1.0 - rules.haircut)", ""),
    Mutant("delisted symbols stay", "night", "if world.market.ends[t]:", "if world.market.ends[t - 1]:"),
    Mutant("plain rules: no night before a fill", "plain", "if eventful and not at_close:", "if False:"),
    Mutant("plain rules: no night after a fill", "plain", "if eventful and at_close:", "if False:"),
    Mutant("plain rules: valued before the night", "plain", "        value_positions(first, size, world, lanes, work)\n", ""),
    Mutant("events a night too late", "setup", "np.append(acts[1:], False) | ends", "acts | ends"),
    Mutant("delistings are no events", "setup", "np.append(acts[1:], False) | ends", "np.append(acts[1:], False)"),
    Mutant("target before stop", "accounting", "    within = target if side * best >= above else 0.0\n    within = stop if side * worst <= below else within", "    within = stop if side * worst <= below else 0.0\n    within = target if side * best >= above else within"),
    Mutant("gap filled at the stop", "accounting", "return first if side * first <= below or side * first >= above else within", "return within"),
    Mutant("short stop on the wrong side", "accounting", "entry * (1.0 - side * stop_loss)", "entry * (1.0 - stop_loss)"),
    Mutant("stops leave the pending order", "full", "        work.order[row, s] = work.order[row, s] if stays else 0.0\n", ""),
    Mutant("margin call ignored", "full", "if lanes.margin_call[i]:", "if lanes.margin_call[i] and t < 0:"),
    Mutant("maintenance on net exposure", "full", "gross += abs(value)", "gross += value"),
    Mutant("average entry without the old", "accounting", "(held * average + added * paid) / total", "paid"),
    Mutant("flip keeps the old entry", "full", "kept = 0.0 if reduce == size else size", "kept = size"),
    Mutant("short profit has the wrong sign", "accounting", "1.0 - mark / average", "mark / average - 1.0"),
    Mutant("bankrupt lanes play on", "accounting", "return equity <= fraction * (1.0 + ROUNDING) * initial_cash + RESIDUE * peak", "return equity < 0.0 * initial_cash"),
    Mutant("bankruptcy of the wrong lane", "lane", "world.parameters.initial_cash[i]\n", "world.parameters.initial_cash[0]\n"),
    Mutant("rounding measured by the initial cash", "accounting", "+ RESIDUE * peak", "+ RESIDUE * initial_cash"),
    Mutant("next to all is not all", "accounting", "nothing_left = rest <= SAME * abs(held) or", "nothing_left = rest <= ROUNDING * abs(held) or"),
    Mutant("a rest of no size stays", "accounting", "SAME * abs(held) or rest * price <= tiny", "SAME * abs(held)"),
    Mutant("a little more than all turns the position over", "accounting", "if order * held < 0.0 and nothing_left else", "if order * held < 0.0 and nothing_left and abs(order) <= abs(held) else"),
    Mutant("a little less than all leaves a rest", "accounting", "if order * held < 0.0 and nothing_left else", "if order * held < 0.0 and nothing_left and abs(order) >= abs(held) else"),
    Mutant("a little with the position closes it", "accounting", "if order * held < 0.0 and nothing_left else", "if nothing_left else"),
    Mutant("plain rules: next to all is not all", "accounting", "nothing_left = rest <= SAME * held or", "nothing_left = rest <= 0.0 or"),
    Mutant("plain rules: a rest of no size stays", "accounting", "SAME * held or rest * price <= tiny", "SAME * held"),
    Mutant("plain rules: sells not limited to holdings", "accounting", "if order < 0.0 and nothing_left else order", "if order < 0.0 and nothing_left and rest >= 0.0 else order"),
    Mutant("plain rules: a purchase of no size is a sale", "accounting", "if order < 0.0 and nothing_left else order", "if nothing_left else order"),
    Mutant("float32 is taken for finer than it is", "accounting", "SAME = 1.001 * 2.0**-22", "SAME = 2.0**-23"),
    Mutant("float32 is taken for coarser than it is", "accounting", "SAME = 1.001 * 2.0**-22", "SAME = 2.0**-20"),
    Mutant("liquidation of no size", "full", "work.order[row, s] = accounting.sizeable(-holdings[i, s], inverse[t, s], equity)", "work.order[row, s] = -holdings[i, s]"),
    Mutant("variance below rounding counts", "rewards", "if variance <= _LEAST_VARIANCE * (1.0 + mean * mean + variance):", "if variance <= 0.0:"),
    Mutant("variance measured by 1 alone", "rewards", "if variance <= _LEAST_VARIANCE * (1.0 + mean * mean + variance):", "if variance <= _LEAST_VARIANCE:"),
    Mutant("variance without the decay of its own", "rewards", "(1.0 - eta) * (variance + eta * change * change)", "variance + eta * (change * change - variance)"),
    Mutant("episode a bar too long", "lane", "lanes.bar[i] >= lanes.end[i]", "lanes.bar[i] > lanes.end[i]"),
    Mutant("reward of the wrong base", "rewards", "return after / before - 1.0", "return 1.0 - before / after"),
    Mutant("turnover of the initial cash", "full", "traded / lanes.equity[i]", "traded / world.parameters.initial_cash[i]"),
    Mutant("peak forgotten", "lane", "lanes.peak[i] = max(lanes.peak[i], after)", "lanes.peak[i] = after"),
    Mutant("holdings survive a reset", "lane", "    lanes.holdings[i, :] = 0.0\n", ""),
    Mutant("margin call survives a reset", "lane", "    lanes.margin_call[i] = False\n", ""),
    Mutant("cash below zero", "full", "lanes.cash[i] = accounting.positive(lanes.cash[i])", "lanes.cash[i] = lanes.cash[i] - 1e-6"),
]  # fmt: skip


def run(mutant: Mutant | None, folder: Path) -> tuple[bool, float]:
    """Run the suite on a copy with a mutant in it, or without one; return whether it passed, and the seconds."""
    for package in ("batchenv", "stateful", "tests", "docs", "setup.cfg"):
        source = ROOT / package
        if source.is_dir():
            shutil.copytree(source, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / package)
    if mutant is not None:
        path = folder / "batchenv" / "kernel" / f"{mutant.file}.py"
        text = path.read_text()
        if text.count(mutant.old) != 1:
            raise ValueError(
                f"{mutant.name}: {mutant.old!r} stands {text.count(mutant.old)} times in {path.name}, expected once"
            )
        path.write_text(text.replace(mutant.old, mutant.new))
    began = time.perf_counter()
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *SUITE]
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1", "PYTHONPATH": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"pytest could not run:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.returncode == 0, time.perf_counter() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("names", nargs="*", help="mutants to run; all without any")
    options = parser.parse_args()
    chosen = [mutant for mutant in MUTANTS if not options.names or mutant.name in options.names]
    console = Console(width=100, highlight=False)

    def check(mutant: Mutant | None) -> tuple[Mutant | None, bool, float]:
        with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
            return mutant, *run(mutant, Path(folder))

    _, passed, seconds = check(None)
    console.print(f"without a mutant: {'passes' if passed else 'FAILS'} in {seconds:.0f} s")
    if not passed:
        return 1
    table = Table(title=f"{len(chosen)} mutants of the kernel")
    for heading in ("file", "what was broken", "found", "seconds"):
        table.add_column(heading)
    survivors = []
    with ThreadPoolExecutor(options.workers) as pool:
        for mutant, alive, seconds in pool.map(check, chosen):
            assert mutant is not None
            survivors += [mutant.name] if alive else []
            table.add_row(mutant.file, mutant.name, "[red]SURVIVED[/]" if alive else "yes", f"{seconds:.0f}")
            console.print(f"{'SURVIVED' if alive else 'found':<9}{mutant.name}")
    console.print(table)
    console.print(f"Survivors: {survivors or 'none'}")
    return bool(survivors)


if __name__ == "__main__":
    sys.exit(main())
