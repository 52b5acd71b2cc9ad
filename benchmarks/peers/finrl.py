"""FinRL's two stock environments: the one on pandas and the one on numpy."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import pandas as pd
from stable_baselines3.common.vec_env import VecEnv

from benchmarks.peers import ours
from benchmarks.peers.adapter import Peer, dummy, gym_case, load_file, sb3_cases, subproc
from benchmarks.peers.market import CASH, FEE, MAX_SHARES, N_FEATURES, N_SYMBOLS, Floats, prices, random_actions
from benchmarks.peers.measure import Case
from benchmarks.peers.money import Ledger, MoneyCheck, ledger, share_scripts

PANDAS, NUMPY = "FinRL StockTradingEnv", "FinRL StockTradingEnv (numpy)"
FOLDER = "finrl/meta/env_stock_trading"

PANDAS_QUEUE = (
    "where orders exceed cash, the largest order is served first with all the whole shares that cash pays for, fee "
    "included, and the last get nothing; ours scales all orders by one factor"
)
PANDAS_REASONS = dict.fromkeys(("beyond_cash", "random"), PANDAS_QUEUE)
NUMPY_QUEUE = (
    "where orders exceed cash, symbols are served by their position, and the fee is left out of what cash can pay for: "
    "cash can fall below zero within a step, and the next buy order is then for cash // price = -1 share, a sale"
)
NUMPY_REASONS = {
    **dict.fromkeys(("simple", "rotate"), "prices are rounded to float32"),
    "small": "orders of up to a tenth of max_stock are dropped (min_stock_rate, 0.1 by default)",
    **dict.fromkeys(("beyond_cash", "random"), NUMPY_QUEUE),
}


@cache
def _frame() -> pd.DataFrame:
    """Return the long frame that the pandas environment wants: indexed by day number, sorted by symbol."""
    market = prices()
    indicators = market.features.reshape(-1, N_FEATURES)
    return pd.DataFrame(
        {
            "date": np.repeat(market.dates.strftime("%Y-%m-%d"), N_SYMBOLS),
            "tic": np.tile(market.symbols, len(market.dates)),
            "close": market.close.ravel(),
            **{name: indicators[:, k] for k, name in enumerate(ours.FEATURES)},
        },
        index=np.repeat(np.arange(len(market.dates)), N_SYMBOLS),
    )


def pandas_env() -> Any:
    """Return the environment on pandas; it prints nothing."""
    module = load_file("finrl", f"{FOLDER}/env_stocktrading.py")
    return module.StockTradingEnv(
        df=_frame(),
        stock_dim=N_SYMBOLS,
        hmax=MAX_SHARES,
        initial_amount=CASH,
        num_stock_shares=[0] * N_SYMBOLS,
        buy_cost_pct=[FEE] * N_SYMBOLS,
        sell_cost_pct=[FEE] * N_SYMBOLS,
        reward_scaling=1e-4,
        state_space=1 + (2 + N_FEATURES) * N_SYMBOLS,
        action_space=N_SYMBOLS,
        tech_indicator_list=ours.FEATURES,
        print_verbosity=10**9,
    )


def numpy_env() -> Any:
    """Return the environment on numpy, without its random starting cash and shares."""
    module = load_file("finrl", f"{FOLDER}/env_stocktrading_np.py")
    market = prices()
    arrays = {
        "price_array": market.close,
        "tech_array": market.features.reshape(len(market.dates), -1),
        "turbulence_array": np.zeros(len(market.dates)),
        "if_train": False,
    }
    return module.StockTradingEnv(
        arrays, initial_capital=CASH, max_stock=MAX_SHARES, buy_cost_pct=FEE, sell_cost_pct=FEE
    )


def _play_pandas(script: Floats) -> Ledger:
    env = pandas_env()
    env.reset()
    entries = []
    for orders in script:
        env.step(orders / MAX_SHARES)
        shares = np.array(env.state[1 + N_SYMBOLS : 1 + 2 * N_SYMBOLS], np.float64)
        entries.append((env.asset_memory[-1], env.state[0], shares))
    return ledger(entries)


def _play_numpy(script: Floats) -> Ledger:
    env = numpy_env()
    env.reset()
    entries = []
    for orders in (script / MAX_SHARES).astype(np.float32):
        env.step(orders)
        entries.append((env.total_asset, env.amount, env.stocks.copy()))
    return ledger(entries)


def _cases(name: str, make: Callable[[], Any]) -> list[Case]:
    draw = random_actions
    return [gym_case(name, N_SYMBOLS, make, draw()), *sb3_cases(name, N_SYMBOLS, make, draw)]


def _vec_envs(make: Callable[[], Any]) -> dict[str, Callable[[], VecEnv]]:
    return {"DummyVecEnv": lambda: dummy(make), "SubprocVecEnv": lambda: subproc(make)}


PEERS = (
    Peer(
        PANDAS,
        "finrl",
        partial(_cases, PANDAS, pandas_env),
        lambda: MoneyCheck(share_scripts(), _play_pandas, ours.Closest("close"), PANDAS_REASONS),
        _vec_envs(pandas_env),
    ),
    Peer(
        NUMPY,
        "finrl",
        partial(_cases, NUMPY, numpy_env),
        lambda: MoneyCheck(share_scripts(), _play_numpy, ours.Closest("next_close"), NUMPY_REASONS),
        _vec_envs(numpy_env),
    ),
)
