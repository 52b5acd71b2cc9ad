"""ElegantRL's stock environments: a scalar one, and two on batches of torch tensors."""

from __future__ import annotations

import contextlib
import io
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.peers import ours
from benchmarks.peers.adapter import Peer, load_file
from benchmarks.peers.market import CASH, FEE, MAX_SHARES, N_BARS, N_SYMBOLS, Floats, prices, random_actions
from benchmarks.peers.measure import Case, Running
from benchmarks.peers.money import Ledger, MoneyCheck, ledger, share_scripts

SCALAR, VECTOR, VMAP = "ElegantRL StockTradingEnv", "ElegantRL StockTradingVecEnv", "ElegantRL StockTradingVmapEnv"
FILES = {SCALAR: "StockTradingEnv", VECTOR: "StockTradingEnv", VMAP: "StockTradingVmapEnv"}
LANES = (64, 1_024)

QUEUE = (
    "where orders exceed cash, symbols are served by their position, and the fee is left out of what cash can pay for: "
    "cash can fall below zero, and the next buy order is then for cash // price = -1 share, a sale"
)
REASONS = {
    "small": "actions within 0.1 of zero are dropped",
    **dict.fromkeys(("beyond_cash", "random"), QUEUE),
}
IGNORED = "step() replaces the actions by ones, so every symbol is bought by max_stock in every step; money is float32"
CROSSED = (
    "the rows that sell are taken from all symbols together, so a lane that sells one symbol also 'sells' its buy "
    "orders in others: it buys them twice, the second time without a limit by cash and at the price less the fee"
)


def make(name: str, **settings: Any) -> Any:
    """Return an environment on our prices, without its random starting cash and shares."""
    module = load_file("elegantrl", f"elegantrl/envs/{FILES[name]}.py")

    def load(self: Any, tech_id_list: Any = None) -> tuple[Floats, Floats]:
        market = prices()
        return market.close, market.features.reshape(N_BARS, -1)

    original = getattr(module, name.split()[1])
    ours_inside = type(original.__name__, (original,), {"load_data_from_disk": load})
    fees = {"buy_cost_pct": FEE, "sell_cost_pct": FEE} if name == VMAP else {"cost_pct": FEE}
    with contextlib.redirect_stdout(io.StringIO()):
        env = ours_inside(initial_amount=CASH, max_stock=MAX_SHARES, beg_idx=0, end_idx=N_BARS, **fees, **settings)
    env.if_random_reset = False
    return env


def _batch(name: str, lanes: int) -> Any:
    return make(name, num_envs=lanes, gpu_id=-1)


def _case(name: str, lanes: int | None) -> Case:
    """Return a case for the scalar environment (no lanes) or a batched one."""

    def start() -> Running:
        env = make(name) if lanes is None else _batch(name, lanes)
        actions = random_actions() if lanes is None else torch.from_numpy(random_actions(lanes))
        env.reset()

        def step(k: int) -> None:
            _, _, done, _ = env.step(actions[k % len(actions)])
            if name != VECTOR and (done if lanes is None else done[0]):
                env.reset()

        return Running(step)

    return Case(name, lanes or 1, N_SYMBOLS, start)


def _play(name: str, script: Floats) -> Ledger:
    scalar = name == SCALAR
    env = make(name) if scalar else _batch(name, 1)
    env.reset()
    entries = []
    for orders in (script / MAX_SHARES).astype(np.float32):
        env.step(orders if scalar else torch.from_numpy(orders)[None])
        shares = np.array(env.shares, np.float64)  # a copy: the environment goes on writing into its own
        entries.append((float(env.total_asset), float(env.amount), shares))
    return ledger(entries)


def _check(name: str, reasons: dict[str, str]) -> MoneyCheck:
    return MoneyCheck(share_scripts(), partial(_play, name), ours.Closest("next_close"), reasons)


def _peer(name: str, reasons: dict[str, str]) -> Peer:
    lanes = (None,) if name == SCALAR else LANES
    return Peer(name, "elegantrl", lambda: [_case(name, n) for n in lanes], lambda: _check(name, reasons))


PEERS = (
    _peer(SCALAR, REASONS),
    _peer(VECTOR, dict.fromkeys(share_scripts(), IGNORED)),
    _peer(VMAP, REASONS | {"simple": "money and prices are float32", "rotate": CROSSED, "random": CROSSED}),
)
