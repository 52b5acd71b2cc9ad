"""VectorBT as the referee: it replays the order log of the scalar tier, and must come to the same account.

``python -m tests.proof.referee --orders 1000000`` plays random worlds until that many orders were replayed and prints
a table. A world is a random market (some symbols list late, pause, or are delisted), an account, a fill convention, an
action mode, costs by symbol, and random actions.

VectorBT is told what was ordered: symbol, signed shares, and the bar. It finds out by itself at what price each order
executes (fill price and slippage), its fee, and cash, shares and value after every bar. Fill prices are taken from the
market, not from the log, except for stops, whose price is the log's and must lie within the bar.

What VectorBT 1.x can represent, and what it cannot:

* A bar becomes four of its rows: three for what happens one after the other (delisting, orders, stops; in the order of
  the fill convention), then one without orders, in which the account is valued at the marks. An order of mode `close`
  stands in the rows of the next bar, at the price of the bar before.
* It knows no debt. A margin account gets a loan on top of its cash, large enough never to run out, which is taken off
  again before comparing. A cash account gets none: there VectorBT fills less than was asked if cash is short, so
  equal fills mean that all of them were affordable.
* It has fees by rate and by order, not by share, and no least fee. Those are left out, as are impact, interest, borrow
  cost, funding, splits and dividends, which it does not have. `tests.proof.exact` has all of them.
* The fee of a sell from a long position is at most its notional (rule 3.3): such orders are replayed at a rate of 1.
* It refuses a sell that brings less than its fee. With a fee by order there is therefore a smallest order.
* A delisting is an order without costs at the last close less the haircut.
* It does not size orders: lots, smallest order, participation and the common factor are in the log's shares.
* It takes an order below 1e-12 shares for none, and two amounts within 1e-9 of each other, or 1e-12, for equal.
  Orders below `DUST` shares are therefore not compared one by one; the account after them is.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from batchenv import EnvConfig, MarketData
from batchenv.parameters import per_symbol
from stateful import StatefulTradingEnv
from tests import markets

SYMBOLS = tuple("ABCDEFGHIJ")
ROWS = 4
"""Rows of VectorBT for one bar: three for orders, one to value the account."""
DUST = 1e-9
PHASES = {
    "close": {"order": 0, "delisting": 1, "stop": 2},
    "next_open": {"delisting": 0, "order": 1, "stop": 2},
    "next_close": {"delisting": 0, "stop": 1, "order": 2},
}
"""Row of each event within its bar, by fill convention."""
ROLES = {"order": "order", "margin_call": "order", "stop_loss": "stop", "take_profit": "stop", "delisting": "delisting"}
FILLS, ACCOUNTS = tuple(PHASES), ("cash", "short", "leverage", "both")
COMPARED = ("price", "fee", "size", "cash", "shares", "value", "profit")
Floats = np.ndarray


class RefereeError(AssertionError):
    """The referee and the log do not even have the same orders."""


def run_referee(orders: int, seed: int, progress: Callable[[int], None] | None = None) -> dict[str, Any]:
    """Replay random worlds until at least ``orders`` orders were replayed.

    Args:
        orders: How many.
        seed: Names the worlds.
        progress: Called after each world with the orders so far.

    Returns:
        ``orders``, ``worlds``, ``bars``, ``seconds``; ``dust``, orders too small to be compared one by one; ``kinds``,
        orders by kind of fill, ``played``, orders by what was played; and ``worst``, the largest relative difference of
        each of `COMPARED`. Prices, fees and sizes are relative to themselves; cash, value and profit to cash and
        positions of the bar, all counted positive; shares to the most that was held.
    """
    found: dict[str, Any] = {"orders": 0, "worlds": 0, "bars": 0, "dust": 0, "kinds": Counter(), "played": Counter()}
    worst = dict.fromkeys(COMPARED, 0.0)
    start = time.perf_counter()
    while found["orders"] < orders:
        rng = np.random.default_rng([seed, found["worlds"]])
        env, names = play(rng, found["worlds"])
        fills = env.fills
        for name, difference in differences(env.market, env.config, env.history, fills).items():
            worst[name] = max(worst[name], difference)
        found["orders"] += len(fills)
        found["worlds"] += 1
        found["bars"] += env.bar - env.start
        found["dust"] += int((fills["shares"].abs() <= DUST).sum())
        found["kinds"].update(fills["kind"].astype(str))
        found["played"].update(dict.fromkeys(names, len(fills)))
        if progress is not None:
            progress(found["orders"])
    return found | {"worst": worst, "seconds": time.perf_counter() - start}


# --- random worlds ------------------------------------------------------------------------------------------------


def play(rng: np.random.Generator, number: int) -> tuple[StatefulTradingEnv, tuple[str, ...]]:
    """Play one world to its end; return the environment and what was played.

    Args:
        rng: Draws the world.
        number: Chooses fill convention and account, each in turn.
    """
    market, shape = make_market(rng)
    config, names = make_rules(rng, FILLS[number % 3], ACCOUNTS[number // 3 % 4])
    env = StatefulTradingEnv(market, config)
    env.reset(seed=0)
    over = False
    while not over:
        _, _, terminated, truncated, _ = env.step(_action(rng, config.action_config.mode, market.n_symbols))
        over = terminated or truncated
    return env, (shape, *names)


def make_market(rng: np.random.Generator) -> tuple[MarketData, str]:
    """Draw a market; half of them have symbols that list late, pause, or are delisted."""
    n_bars, n_symbols = int(rng.integers(120, 250)), int(rng.integers(6, len(SYMBOLS) + 1))
    df = markets.frame(int(rng.integers(2**31)), n_bars, SYMBOLS[:n_symbols])
    if rng.random() < 0.5:
        return MarketData.from_frame(df), "full"
    present = np.ones((n_symbols, n_bars), bool)
    for row in present[1:]:
        if rng.random() < 0.4:
            row[: rng.integers(1, n_bars // 2)] = False
        if rng.random() < 0.4:
            row[n_bars - rng.integers(1, n_bars // 3) :] = False
        if rng.random() < 0.4:
            row[rng.random(n_bars) < 0.1] = False
    return MarketData.from_frame(df[present.ravel()].reset_index(drop=True)), "ragged"


def make_rules(rng: np.random.Generator, fill: str, account: str) -> tuple[EnvConfig, tuple[str, ...]]:
    """Draw rules that VectorBT can follow."""
    mode = str(rng.choice(["weights", "trade", "shares", "discrete"], p=[0.4, 0.25, 0.25, 0.1]))
    leverage = float(rng.uniform(1.5, 3.0))
    margin = {
        "cash": {},
        "short": {"allow_short": True},
        "leverage": {"leverage": leverage, "maintenance_margin": 0.95 / leverage},
        "both": {"leverage": 2.0, "allow_short": True, "maintenance_margin": 0.475, "net_limit": 1.5},
    }[account]
    stops = rng.random() < 0.4
    execution: dict[str, Any] = {"delisting_haircut": float(rng.choice([0.0, 0.3, 0.9]))}
    if stops:
        execution |= {"stop_loss": float(rng.uniform(0.02, 0.1)), "take_profit": float(rng.uniform(0.02, 0.2))}
    if rng.random() < 0.3:
        execution["lot_size"] = {"A": 1.0, "B": 10.0, "*": 0.01}
    if rng.random() < 0.2:
        execution["participation_limit"] = 0.01
    some = SYMBOLS[:6]  # every market has these
    costs: dict[str, Any] = {
        "fee_rate": {"*": 0.001, **{symbol: float(rng.uniform(0.0, 0.004)) for symbol in some}},
        "slippage_rate": {"*": 0.0005, **{symbol: float(rng.uniform(0.0, 0.002)) for symbol in some}},
        "fee_fixed": float(rng.choice([0.0, 0.5])),
    }
    if costs["fee_fixed"] > 0 or rng.random() < 0.2:
        execution["min_notional"] = float(rng.choice([1.0, 100.0]))
    initial_cash = float(rng.choice([10_000.0, 100_000.0, 123_456.78]))
    config = {
        "cost_config": costs,
        "execution_config": execution,
        "margin_config": margin,
        "portfolio_config": {
            "initial_cash": initial_cash,
            "maintain_history": True,
            "trade_limit_percent": float(rng.choice([0.05, 0.1, 0.3])),
            "bankruptcy_fraction": 0.05,
        },
        "action_config": {"mode": mode, "max_shares": initial_cash / 500.0},
        "fill": fill,
    }
    names = (fill, mode, f"{account} account", *(["stops"] if stops else []))
    return EnvConfig.model_validate(config), names


def _action(rng: np.random.Generator, mode: str, n_symbols: int) -> Floats:
    if mode == "discrete":
        return rng.integers(0, 3, n_symbols)
    spread = float(rng.choice([0.3, 1.0, 2.0]))
    return (spread * rng.uniform(-1.0, 1.0, n_symbols)).astype(np.float32)


# --- the replay ---------------------------------------------------------------------------------------------------


def differences(market: MarketData, config: EnvConfig, history: pd.DataFrame, fills: pd.DataFrame) -> dict[str, float]:
    """Return how far VectorBT's account is from that of a run, as `run_referee` says.

    Args:
        market: The bars.
        config: The rules.
        history: One row per bar, as `StatefulTradingEnv.history`.
        fills: The order log, as `StatefulTradingEnv.fills`.

    Raises:
        RefereeError: A fill price is not the market's, or VectorBT executed other orders.
    """
    sheet = order_sheet(market, config, history["bar"].to_numpy(), fills)
    loan = 0.0
    if not config.margin_config.cash_account:
        largest = float(history["equity"].abs().max() + history["cash"].abs().max())
        loan = 4.0 * config.margin_config.leverage * largest
    portfolio = replay(sheet, float(history["equity"].iloc[0]) + loan)
    found = _compare_orders(portfolio.orders.records_arr, fills, sheet)

    last = slice(ROWS - 1, None, ROWS)  # the rows that value the account
    shares = portfolio.assets().to_numpy()[last]
    ours = history[[f"shares[{symbol}]" for symbol in market.symbols]].to_numpy()
    marks = np.nan_to_num(market.mark[history["bar"]])
    cash, equity = history["cash"].to_numpy(), history["equity"].to_numpy()
    scale = np.abs(cash) + np.sum(np.abs(ours * marks), axis=1)
    found["shares"] = float(np.max(np.abs(shares - ours) / np.maximum(np.abs(ours).max(axis=0), DUST)))
    found["cash"] = float(np.max(np.abs(portfolio.cash().to_numpy()[last] - loan - cash) / scale))
    found["value"] = float(np.max(np.abs(portfolio.value().to_numpy()[last] - loan - equity) / scale))
    found["profit"] = float(abs(portfolio.total_profit() - (equity[-1] - equity[0])) / scale[-1])
    return found


class OrderSheet:
    """What VectorBT is given; arrays are float64 ``[rows, symbols]``.

    Attributes:
        sizes: Signed shares; NaN where there is no order.
        prices: Fill prices, money per share.
        rates: Fees as a fraction of the notional.
        fixed: Fees of an order, in money.
        slippage: As a fraction.
        closes: Marks to value positions at; 1 before a listing, when nothing can be held.
        rows: Row of each fill, int64 ``[fills]``.
        columns: Symbol of each fill, int64 ``[fills]``.
    """

    def __init__(self, closes: Floats) -> None:
        self.sizes, self.prices = np.full(closes.shape, np.nan), closes.copy()
        self.rates, self.fixed, self.slippage = (np.zeros(closes.shape) for _ in range(3))
        self.closes = closes
        self.rows = self.columns = np.zeros(0, np.int64)


def order_sheet(market: MarketData, config: EnvConfig, bars: Floats, fills: pd.DataFrame) -> OrderSheet:
    """Lay out the fills of a run in rows.

    Raises:
        RefereeError: A fill price is not the market's.
    """
    marks = np.nan_to_num(market.mark[bars], nan=1.0)
    sheet = OrderSheet(np.repeat(marks, ROWS, axis=0))

    roles = fills["kind"].astype(str).map(ROLES).to_numpy(dtype=object)
    phase = np.array([PHASES[config.fill][role] for role in roles], np.int64)
    steps = fills["decision_bar"].to_numpy(np.int64) + 1 - bars[0]
    symbols = {symbol: i for i, symbol in enumerate(market.symbols)}
    sheet.rows = rows = steps * ROWS + phase
    sheet.columns = columns = np.array([symbols[name] for name in fills["symbol"]], np.int64)
    if len(np.unique(rows * len(symbols) + columns)) < len(fills):
        raise RefereeError("two fills of one symbol in one phase of a bar")

    shares, prices = fills["shares"].to_numpy(), _fill_prices(market, config, fills, roles, columns)
    costs = config.cost_config
    free = roles == "delisting"
    sheet.sizes[rows, columns], sheet.prices[rows, columns] = shares, prices
    for target, setting in (
        (sheet.rates, costs.fee_rate),
        (sheet.fixed, costs.fee_fixed),
        (sheet.slippage, costs.slippage_rate),
    ):
        by_symbol = per_symbol(setting, market.symbols, "costs")
        target[rows, columns] = np.where(free, 0.0, by_symbol[columns])

    # Rule 3.3: a sell from a long position pays at most what it brings.
    sizes = np.nan_to_num(sheet.sizes)
    before = np.cumsum(sizes, axis=0) - sizes
    notional = np.abs(sizes) * sheet.prices * (1.0 - sheet.slippage)
    capped = (sizes < 0) & (before > DUST) & (sheet.fixed + sheet.rates * notional > notional)
    sheet.rates[capped], sheet.fixed[capped] = 1.0, 0.0
    return sheet


def _fill_prices(market: MarketData, config: EnvConfig, fills: pd.DataFrame, roles: Floats, columns: Floats) -> Floats:
    """Return the market's price of every fill, float64 ``[fills]``."""
    fill = config.fill
    decided, given = fills["decision_bar"].to_numpy(np.int64), fills["fill_price"].to_numpy()
    assert market.open is not None and market.high is not None and market.low is not None
    filled = decided + (fill != "close")
    ordered = (market.open if fill == "next_open" else market.close)[filled, columns]
    delisted = market.close[decided, columns] * (1.0 - config.execution_config.delisting_haircut)
    bar = decided + 1
    low, high = (np.minimum(market.low, market.open), np.maximum(market.high, market.open))
    within = (given >= low[bar, columns]) & (given <= high[bar, columns])
    stopped = np.where(within, given, np.nan)
    prices = np.select([roles == "order", roles == "delisting"], [ordered, delisted], stopped)
    wrong = np.flatnonzero(~(np.abs(given - prices) <= 1e-12 * np.abs(given)))
    if len(wrong):
        one = fills.iloc[wrong[0]]
        raise RefereeError(f"fill price {one.fill_price!r}, the market has {prices[wrong[0]]!r}: {dict(one)}")
    return prices


def replay(sheet: OrderSheet, cash: float) -> Any:
    """Return the `vectorbt.Portfolio` of an order sheet."""
    import vectorbt as vbt

    return vbt.Portfolio.from_orders(
        pd.DataFrame(sheet.closes),
        size=sheet.sizes,
        price=sheet.prices,
        fees=sheet.rates,
        fixed_fees=sheet.fixed,
        slippage=sheet.slippage,
        size_type="amount",
        direction="both",
        lock_cash=False,
        allow_partial=True,
        init_cash=cash,
        cash_sharing=True,
        group_by=True,
        call_seq=np.argsort(sheet.sizes > 0, axis=1, kind="stable"),  # sells first (rule 3.2)
        freq="D",
    )


def _compare_orders(records: Any, fills: pd.DataFrame, sheet: OrderSheet) -> dict[str, float]:
    """Compare VectorBT's orders one by one with the log."""
    ours = pd.DataFrame(
        {
            "row": sheet.rows,
            "column": sheet.columns,
            "size": fills["shares"].to_numpy(),
            "price": fills["price"].to_numpy(),
            "fee": fills["fee"].to_numpy(),
        }
    )
    theirs = pd.DataFrame(
        {
            "row": records["idx"],
            "column": records["col"],
            "size": np.where(records["side"] == 0, records["size"], -records["size"]),
            "price": records["price"],
            "fee": records["fees"],
        }
    )
    ours, theirs = (table[table["size"].abs() > DUST].sort_values(["row", "column"]) for table in (ours, theirs))
    places = [table[["row", "column"]].to_numpy() for table in (ours, theirs)]
    if places[0].shape != places[1].shape or (places[0] != places[1]).any():
        raise RefereeError(f"the log has {len(ours)} orders, VectorBT executed {len(theirs)}, or others")
    found = {}
    for name in ("size", "price", "fee"):
        a, b = ours[name].to_numpy(), theirs[name].to_numpy()
        found[name] = float(np.max(np.abs(a - b) / np.maximum(np.maximum(np.abs(a), np.abs(b)), 1e-300), initial=0.0))
    return found


# --- the long run -------------------------------------------------------------------------------------------------


def table(found: dict[str, Any]) -> str:
    """Return a result as text."""
    lines = [
        f"{found['orders']:,} orders in {found['bars']:,} bars of {found['worlds']:,} worlds, {found['seconds']:.0f} s",
        f"{found['dust']:,} of them too small to be compared one by one",
        "",
        "largest relative difference",
        *(f"  {name:<10} {found['worst'][name]:.1e}" for name in COMPARED),
        "",
        "orders by kind",
        *(f"  {name:<18} {count:>10,}" for name, count in found["kinds"].most_common()),
        "",
        "orders by world",
        *(f"  {name:<18} {count:>10,}" for name, count in sorted(found["played"].items())),
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--orders", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    shown = 0

    def progress(orders: int) -> None:
        nonlocal shown
        if orders >= shown + given.orders // 20:
            shown = orders
            sys.stderr.write(f"{orders:,} orders\n")

    found = run_referee(given.orders, given.seed, progress)
    sys.stdout.write(table(found) + "\n")
    if max(found["worst"].values()) > 1e-9:
        sys.exit("the referee disagrees")


if __name__ == "__main__":
    main()
