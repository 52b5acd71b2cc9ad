"""Worked scenarios, played by the exact account, the scalar tier and the compiled kernel.

Both float tiers must reproduce the exact rational numbers: money to within `ULPS` units in the last place of the
largest amount of money the account has seen so far, shares likewise, for each step played; flags exactly. The numbers
that ``docs/accounting.md`` prints must come out of all three, to the printed digits.

In mode `shares` (the default here) actions are written as shares, and ``max_shares`` is a power of two, so that orders
are exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from batchenv import EnvConfig, FastTrainingEnv, MarketData
from stateful import StatefulTradingEnv
from tests.proof.exact import ExactAccount

ULPS = 4
"""Error allowed for each step played, in units of 2**-53 of the largest amount seen."""
MAX_SHARES = 4096.0
NAN = float("nan")


@dataclass(frozen=True)
class Scenario:
    """A small market, rules, actions, and what must come out.

    Attributes:
        bars: By symbol, one entry for each bar: a price, (open, high, low, close), or None without a bar.
        actions: One action for each step.
        rules: Sections of `EnvConfig`; what is not given is free of cost.
        checks: (bar, quantity) to the number in print. Quantities: ``cash``, ``equity``, ``fees``, ``slipped``,
            ``notional``, ``turnover``, ``factor``, or a symbol for its shares.
        ends: Bar at which the account terminates; None if it does not.
        volume: By symbol; a million shares where it is not given.
        dates: Time of every bar; days from Monday, 2024-01-01 on where not given.
        splits: (bar, symbol) to k.
        dividends: (bar, symbol) to d.
        funding: By symbol, the column `funding`.
        forbidden: Symbols that the lane may not trade.
        history: So many of the first bars belong to an earlier part of the market.
        gone: Symbols that are delisted after their last bar; None lets rule 4.4 decide.
    """

    bars: dict[str, list[Any]]
    actions: list[Any]
    rules: dict[str, Any] = field(default_factory=dict)
    checks: dict[tuple[int, str], str] = field(default_factory=dict)
    ends: int | None = None
    volume: dict[str, list[float]] = field(default_factory=dict)
    dates: list[str] | None = None
    splits: dict[tuple[int, str], float] = field(default_factory=dict)
    dividends: dict[tuple[int, str], float] = field(default_factory=dict)
    funding: dict[str, list[float]] = field(default_factory=dict)
    forbidden: str = ""
    history: int = 0
    gone: str | None = None

    def market(self) -> MarketData:
        symbols = tuple(self.bars)
        n = len(self.bars[symbols[0]])
        rows = [[_four(self.bars[s][t]) for s in symbols] for t in range(n)]
        prices = np.moveaxis(np.array(rows), 2, 0)
        volume = np.array([self.volume.get(s, [1e6] * n) for s in symbols]).T

        def events(given: dict[tuple[int, str], float], none: float) -> np.ndarray:
            table = np.full((n, len(symbols)), none)
            for (bar, symbol), value in given.items():
                table[bar, symbols.index(symbol)] = value
            return table

        start = np.datetime64("2024-01-01")
        dates = np.array(self.dates, "M8[ns]") if self.dates else start + np.arange(n)
        columns = {"funding": np.array([self.funding[s] for s in symbols]).T} if self.funding else {}
        delisted = np.full(len(symbols), np.datetime64("NaT", "ns"))
        for s, symbol in enumerate(symbols):
            if symbol in (self.gone or ""):
                delisted[s] = dates[max(t for t in range(n) if self.bars[symbol][t] is not None)]
        whole = MarketData(
            symbols,
            dates,
            prices[3],
            prices[0],
            prices[1],
            prices[2],
            np.where(np.isnan(prices[3]), NAN, volume),
            events(self.dividends, 0.0),
            events(self.splits, 1.0),
            columns,
            delisted=None if self.gone is None else delisted,
        )
        return whole if not self.history else whole.split(str(dates[self.history]))[1]

    def config(self) -> EnvConfig:
        rules = {"cost_config": {}, "action_config": {}, **self.rules}
        rules["cost_config"] = {"fee_rate": 0.0, "slippage_rate": 0.0, **rules["cost_config"]}
        rules["action_config"] = {"mode": "shares", "max_shares": MAX_SHARES, **rules["action_config"]}
        return EnvConfig.model_validate(rules)

    def played_actions(self) -> list[Any]:
        mode = self.config().action_config.mode
        if mode == "discrete":
            return self.actions
        factor = 1.0 / MAX_SHARES if mode == "shares" else 1.0
        return [np.array(row, np.float32) * np.float32(factor) for row in self.actions]

    def allowed(self) -> list[bool]:
        return [symbol not in self.forbidden for symbol in self.bars]

    def exact(self) -> ExactAccount:
        return ExactAccount(self.market(), self.config(), self.allowed())

    def env(self, tier: Callable[..., Any]) -> Any:
        given = {"tradable": np.array([self.allowed()])} if self.forbidden else None
        return tier(self.market(), self.config(), lane_parameters=given)


def _four(bar: Any) -> tuple[float, float, float, float]:
    if bar is None:
        return (NAN,) * 4
    return bar if isinstance(bar, tuple) else (float(bar),) * 4


def cash(amount: float, **more: Any) -> dict[str, Any]:
    return {"portfolio_config": {"initial_cash": float(amount), **more}}


MARGIN = {"allow_short": True, "leverage": 2.0}
WEEKEND = ["2024-01-05", "2024-01-08", "2024-01-09"]

# --- the examples of docs/accounting.md, by rule ------------------------------------------------------------------

TEXT: dict[str, Scenario] = {
    "1.4 dropped before the first close": Scenario(
        {"A": [50.0] * 8, "B": [None] * 5 + [20.0] * 3},
        [[0, 0]] * 3 + [[0, 10]] * 3 + [[0, 0]],
        cash(10_000),
        {(5, "B"): "0", (6, "B"): "10", (6, "cash"): "9800.00"},
    ),
    "1.5 an hour": Scenario(
        {"A": [50.0] * 2},
        [[0]],
        cash(876_000) | {"carry_config": {"cash_rate": 0.5}},
        {(1, "cash"): "876050.000"},
        dates=["2024-01-02T10:00", "2024-01-02T11:00"],
    ),
    "2.2 trade": Scenario(
        {"A": [100.0] * 6},
        [[1], [1], [1], [1 / 3], [0.5]],
        cash(15_000) | {"action_config": {"mode": "trade"}},
        {(4, "A"): "50.0000", (4, "cash"): "10000.000", (5, "A"): "57.5000"},
    ),
    "2.2 weights": Scenario(
        {"A": [100.0] * 3},
        [[1 / 3], [0.4]],
        cash(15_000) | {"action_config": {"mode": "weights"}},
        {(1, "A"): "50.0000", (2, "A"): "60.0000"},
    ),
    "2.2 weights exactly": Scenario(
        {"A": [100.0] * 3, "B": [40.0] * 3},
        [[0.5, 0.25], [1, 1]],
        cash(8_000) | {"action_config": {"mode": "weights"}},
        {(1, "A"): "40", (1, "B"): "50", (1, "cash"): "2000", (2, "A"): "40", (2, "B"): "100"},
    ),
    "2.2 weights at leverage 1.5": Scenario(
        {"A": [100.0] * 3, "B": [40.0] * 3},
        [[1, -1], [0, 0]],
        cash(8_000) | {"action_config": {"mode": "weights"}, "margin_config": {"allow_short": True, "leverage": 1.5}},
        {(1, "A"): "60", (1, "B"): "-150"},
    ),
    "3.3 a fee": Scenario(
        {"A": [50.0] * 3},
        [[300], [-300]],
        cash(100_000)
        | {
            "cost_config": {
                "slippage_rate": 0.001,
                "impact_coefficient": 0.1,
                "fee_rate": 0.001,
                "fee_fixed": 1.0,
                "fee_per_share": 0.005,
            }
        },
        {(2, "notional"): "14835.00", (2, "fees"): "17.335"},
        volume={"A": [30_000.0] * 3},
    ),
    "3.3 the least fee": Scenario(
        {"A": [50.0] * 3},
        [[300], [-300]],
        cash(100_000)
        | {
            "cost_config": {
                "slippage_rate": 0.001,
                "impact_coefficient": 0.1,
                "fee_rate": 0.001,
                "fee_fixed": 1.0,
                "fee_per_share": 0.005,
                "fee_minimum": 20.0,
            }
        },
        {(2, "notional"): "14835.00", (2, "fees"): "20.000"},
        volume={"A": [30_000.0] * 3},
    ),
    "3.4 cash account": Scenario(
        {"A": [100.0] * 2, "B": [200.0] * 2},
        [[6, 4]],
        cash(1_000) | {"cost_config": {"fee_rate": 0.01, "slippage_rate": 0.01}},
        {(1, "factor"): "0.700211", (1, "A"): "4.2013", (1, "B"): "2.8008", (1, "cash"): "0.0000"},
    ),
    "3.4 margin account": Scenario(
        {"A": [100.0] * 3, "B": [50.0] * 3},
        [[-5, 0], [0, 10]],
        cash(500) | {"margin_config": MARGIN},
        {(1, "cash"): "1000", (2, "factor"): "1", (2, "B"): "10", (2, "cash"): "500", (2, "equity"): "500"},
    ),
    "3.5 buying 27 in tens": Scenario(
        {"A": [10.0] * 2}, [[27]], cash(1_000) | {"execution_config": {"lot_size": 10.0}}, {(1, "A"): "20"}
    ),
    "3.5 selling 35 of 35": Scenario(
        {"A": [10.0] * 4},
        [[20], [0], [-35]],
        cash(1_000) | {"execution_config": {"lot_size": 10.0}},
        {(2, "A"): "35", (3, "A"): "0"},
        splits={(2, "A"): 1.75},
    ),
    "3.5 selling 34 of 35": Scenario(
        {"A": [10.0] * 4},
        [[20], [0], [-34]],
        cash(1_000) | {"execution_config": {"lot_size": 10.0}},
        {(2, "A"): "35", (3, "A"): "5"},
        splits={(2, "A"): 1.75},
    ),
    "4.1 interest over a weekend": Scenario(
        {"A": [50.0] * 3},
        [[0], [0]],
        cash(10_000) | {"carry_config": {"cash_rate": 0.04}},
        {(1, "cash"): "10003.2877"},
        dates=WEEKEND,
    ),
    "4.1 borrow over a weekend": Scenario(
        {"A": [20.0] * 3},
        [[-100], [0]],
        cash(8_000) | {"margin_config": MARGIN, "carry_config": {"borrow_rate": 0.1}, "fill": "close"},
        {(1, "cash"): "9998.3562"},  # 8 000 + 2 000 - 1.6438
        dates=WEEKEND,
    ),
    "4.3 split and dividend": Scenario(
        {"A": [50.0, 50.0, 24.5]},
        [[100], [0]],
        cash(5_000),
        {(2, "A"): "200", (2, "cash"): "100"},
        splits={(2, "A"): 2.0},
        dividends={(2, "A"): 0.5},
    ),
    "4.3 reinvested": Scenario(
        {"A": [50.0, 50.0, 24.5]},
        [[100], [0]],
        cash(5_000) | {"carry_config": {"dividends": "reinvest"}},
        {(2, "A"): "204.0816", (2, "cash"): "0"},
        splits={(2, "A"): 2.0},
        dividends={(2, "A"): 0.5},
    ),
    "4.4 delisting": Scenario(
        {"A": [8.0, 8.0, None, None], "B": [1.0] * 4},
        [[10, 0], [0, 0], [5, 0]],
        cash(80) | {"execution_config": {"delisting_haircut": 0.3}},
        {(2, "A"): "0", (2, "cash"): "56", (3, "A"): "0"},
        gone="A",
    ),
    "4.4 a weekend is no delisting": Scenario(
        {"A": [10.0] * 10, "B": [100.0, None, None, *[100.0] * 5, None, None]},
        [*[[0, 0]] * 7, [0, 5], [0, 0]],
        cash(1_000) | {"fill": "close", "execution_config": {"delisting_haircut": 0.3}},
        {(9, "B"): "5", (9, "cash"): "500", (9, "equity"): "1000"},
        dates=[f"2024-03-{day:02}" for day in range(1, 11)],
    ),
    "4.4 nine days without a bar are a delisting": Scenario(
        {"A": [10.0] * 10, "B": [100.0, *[None] * 9]},
        [[0, 5], [0, 0]],
        cash(1_000) | {"fill": "close", "execution_config": {"delisting_haircut": 0.3}},
        {(1, "B"): "0", (1, "cash"): "850"},
        dates=[f"2024-03-{day:02}" for day in range(1, 11)],
    ),
    "5.2 the stop wins the tie": Scenario(
        {"A": [100.0, 100.0, (97.0, 106.0, 94.0, 100.0)]},
        [[10], [0]],
        cash(1_000) | {"execution_config": {"stop_loss": 0.05, "take_profit": 0.05}},
        {(1, "A"): "10", (2, "A"): "0", (2, "cash"): "950.00"},
    ),
    "5.2 a gap": Scenario(
        {"A": [100.0, 100.0, (90.0, 106.0, 89.0, 100.0)]},
        [[10], [0]],
        cash(1_000) | {"execution_config": {"stop_loss": 0.05, "take_profit": 0.05}},
        {(2, "A"): "0", (2, "cash"): "900.00"},
    ),
    "6.3 a margin call too late": Scenario(
        {"A": [100.0, 100.0, 82.0, 61.5, 61.5]},
        [[40], [0], [1], [1]],
        cash(1_000) | {"margin_config": {"leverage": 4.0, "maintenance_margin": 0.1}},
        {(2, "equity"): "280.00", (3, "A"): "0", (3, "cash"): "-540.00", (3, "equity"): "-540.00"},
        ends=3,
    ),
    "1.3 at the next open": Scenario(
        {"A": [100.0, (101.0, 103.0, 101.0, 103.0)]},
        [[2]],
        cash(1_000),
        {(1, "cash"): "798", (1, "equity"): "1004"},  # 6.1 too
    ),
    "1.3 at the next close": Scenario(
        {"A": [100.0, (101.0, 103.0, 101.0, 103.0)]}, [[2]], cash(1_000) | {"fill": "next_close"}, {(1, "cash"): "794"}
    ),
    "1.3 at the close": Scenario(
        {"A": [100.0, (101.0, 103.0, 101.0, 103.0)]}, [[2]], cash(1_000) | {"fill": "close"}, {(1, "cash"): "800"}
    ),
    "2.1 sizes know no later price": Scenario(
        {"A": [100.0, 125.0]},
        [[1]],
        cash(1_000, trade_limit_percent=0.1) | {"action_config": {"mode": "trade"}},
        {(1, "A"): "1.0000000", (1, "cash"): "875.0000"},
    ),
    "3.7 settled, 3.8 counted": Scenario(
        {"A": [100.0] * 3},
        [[10], [-10]],
        cash(2_000) | {"cost_config": {"fee_rate": 0.01, "slippage_rate": 0.01}},
        {
            (1, "cash"): "979.90",
            (1, "notional"): "1010.00",
            (1, "turnover"): "0.505",
            (1, "fees"): "10.10",
            (1, "slipped"): "10.00",
            (2, "notional"): "990.00",
            (2, "fees"): "9.90",
            (2, "cash"): "1960.00",
        },
    ),
    "6.2 the last mark": Scenario(
        {"A": [10.0, 10.0, None, 12.0]}, [[3], [0]], cash(1_000), {(2, "cash"): "970", (2, "equity"): "1000"}
    ),
    "2.2 joint": Scenario(
        {"A": [10.0] * 4, "B": [20.0] * 4},
        [2 + 3 * 1, 0 + 3 * 2, 1 + 3 * 0],
        cash(1_000, trade_limit_percent=0.25) | {"action_config": {"mode": "discrete", "joint": True}},
        {(1, "A"): "25", (2, "A"): "0", (2, "B"): "12.5", (3, "B"): "0"},
    ),
    "2.3 an order of no size": Scenario(
        {"A": [10.0] * 3},
        [[2.0**-34], [2.0**-32]],
        cash(1_000) | {"cost_config": {"fee_minimum": 1.0}, "margin_config": MARGIN},
        {(1, "cash"): "1000", (2, "cash"): "999.0000"},  # 5.8e-10 and 2.3e-9, where 1e-9 is nothing
    ),
    "2.3 the weight held": Scenario(
        {"A": [100.0] * 5},
        [[0.5], [0.5 + 2.0**-24], [0.5 + 2.0**-23], [0.5 + 2.0**-22]],
        cash(16_000) | {"action_config": {"mode": "weights"}},
        # 2^-23, 2^-22 and 2^-21 of what is held
        {(1, "A"): "80", (2, "A"): "80", (3, "A"): "80", (4, "A"): "80.00003814697265625"},
    ),
    "2.4 a position of no size is not sold": Scenario(
        {"A": [100.0, 100.0, 82.0, 82.0], "B": [10.0, 10.0, 2.0, 2.0], "C": [10.0, 10.0, 1.0, 1.0]},
        [[40, 2.0**-32, 2.0**-32], [0, 0, 0], [1, 1, 1]],
        cash(1_000) | {"margin_config": {"leverage": 4.0, "maintenance_margin": 0.1}},
        {(2, "equity"): "280.00", (3, "A"): "0", (3, "B"): "0", (3, "C"): "0.00000000023283"},
    ),
    "3.1 a sell is limited to what is held": Scenario(
        {"A": [10.0] * 3}, [[5], [-9]], cash(1_000), {(2, "A"): "0", (2, "cash"): "1000"}
    ),
    "3.1 participation": Scenario(
        {"A": [10.0] * 5},
        [[60], [60], [-60], [-60]],
        cash(10_000) | {"execution_config": {"participation_limit": 0.25}},
        {(1, "A"): "25", (2, "A"): "25", (3, "A"): "15", (4, "A"): "0"},
        volume={"A": [0.0, 100.0, 0.0, 40.0, 1e6]},
    ),
    "3.2 turned over with one fee": Scenario(
        {"A": [10.0] * 4},
        [[10], [-30], [25]],
        cash(1_000) | {"cost_config": {"fee_fixed": 2.0, "fee_minimum": 3.0}, "margin_config": MARGIN},
        {(1, "cash"): "897", (2, "A"): "-20", (2, "cash"): "1194", (3, "A"): "5", (3, "cash"): "941"},
    ),
    "3.2 next to all is all": Scenario(
        {"A": [10.0] * 3, "B": [10.0] * 3, "C": [10.0] * 3, "D": [10.0] * 3},
        [[64] * 4, [-64 + 2.0**-16, -64 - 2.0**-16, -64 + 2.0**-15, -64 - 2.0**-15]],
        cash(4_000) | {"cost_config": {"fee_minimum": 1.0}, "margin_config": MARGIN},
        {
            (1, "cash"): "1436",
            (2, "A"): "0",
            (2, "B"): "0",
            (2, "C"): "0.0000305",
            (2, "D"): "-0.0000305",
            (2, "cash"): "3992.00",
        },
    ),
    "3.2 a rest of no size": Scenario(
        {"A": [10.0] * 3, "B": [10.0] * 3},
        [[2.0**-31] * 2, [-0.75 * 2.0**-31, -0.8125 * 2.0**-31]],
        cash(1_000) | {"margin_config": MARGIN},
        {(2, "A"): "0.00000000011642", (2, "B"): "0"},
    ),
    "3.2 a rest of no size, under plain rules": Scenario(
        {"A": [10.0] * 3, "B": [10.0] * 3},
        [[2.0**-31] * 2, [-0.75 * 2.0**-31, -0.8125 * 2.0**-31]],
        cash(1_000),
        {(2, "A"): "0.00000000011642", (2, "B"): "0"},
    ),
    "3.2 a purchase of no size at its fill price is one": Scenario(
        {"A": [10.0, (1.0, 10.0, 1.0, 10.0), 10.0, (1.0, 10.0, 1.0, 10.0)]},
        [[2.0**-33 + 2.0**-34], [0], [2.0**-33 + 2.0**-34]],
        cash(1_000),
        {(1, "A"): "0.00000000017462", (3, "A"): "0.00000000034925"},
    ),
    "3.4 net limit of a cash account": Scenario(
        {"A": [10.0] * 3},
        [[100], [10]],
        cash(1_000) | {"margin_config": {"net_limit": 0.5}},
        {(1, "A"): "50", (2, "A"): "50", (2, "factor"): "0"},
    ),
    "3.6 too small": Scenario(
        {"A": [10.0] * 6},
        [[9], [10], [-9], [-5], [-1]],
        cash(1_000) | {"execution_config": {"min_notional": 100.0}},
        {(1, "A"): "0", (2, "A"): "10", (3, "A"): "10", (4, "A"): "10", (5, "A"): "10"},
    ),
    "3.6 except to close": Scenario(
        {"A": [10.0, 10.0, 5.0, 5.0]},
        [[12], [-11], [-12]],
        cash(1_000) | {"execution_config": {"min_notional": 100.0}},
        {(1, "A"): "12", (2, "A"): "12", (3, "A"): "0"},
    ),
    "4.1 interest of a margin account": Scenario(
        {"A": [50.0] * 3},
        [[300], [0]],
        cash(10_000) | {"margin_config": MARGIN, "carry_config": {"margin_rate": 0.073}, "fill": "close"},
        {(1, "cash"): "-5003.00", (2, "cash"): "-5004.0006"},
        dates=WEEKEND,
    ),
    "4.1 funding": Scenario(
        {"A": [50.0] * 4, "B": [20.0] * 4},
        [[100, -100], [0, 0], [0, 0]],
        cash(10_000)
        | {
            "margin_config": MARGIN,
            "carry_config": {"funding_rate": {"A": 0.365, "B": 0.0}, "funding_column": "funding"},
            "fill": "close",
        },
        {(1, "cash"): "7005.00", (2, "cash"): "7000.00", (3, "cash"): "6995.00"},
        funding={"A": [0.5, 0.0, NAN, 0.004], "B": [0.5, 0.005, 0.0, 0.01]},
    ),
    "4.2 a pending order splits too": Scenario(
        {"A": [50.0, 50.0, 25.0, 25.0]},
        [[10], [10], [0]],
        cash(5_000) | {"fill": "next_close"},
        {(1, "A"): "10", (2, "A"): "40", (2, "cash"): "4000"},
        splits={(2, "A"): 2.0},
    ),
    "5.2 targets": Scenario(
        {"A": [100.0, 100.0, (101.0, 111.0, 96.0, 99.0), 100.0], "B": [10.0, 10.0, (12.0, 13.0, 9.0, 10.0), 10.0]},
        [[4, 10], [0, 0], [0, 0]],
        cash(1_000) | {"execution_config": {"stop_loss": 0.05, "take_profit": 0.1}},
        {(1, "cash"): "500", (2, "A"): "0", (2, "B"): "0", (2, "cash"): "1060.00"},
    ),
    "5.1 in the bar of its own fill": Scenario(
        {"A": [100.0, (100.0, 101.0, 94.0, 97.0), 97.0]},
        [[10], [0]],
        cash(2_000) | {"execution_config": {"stop_loss": 0.05}},
        {(1, "A"): "0", (1, "cash"): "1950.00"},
    ),
    "5.3 next_close drops the pending order": Scenario(
        {"A": [100.0, 100.0, (99.0, 99.0, 90.0, 92.0), 92.0]},
        [[10], [5], [5]],
        cash(2_000) | {"execution_config": {"stop_loss": 0.05}, "fill": "next_close"},
        {(1, "A"): "10", (2, "A"): "0", (2, "cash"): "1950.00", (3, "A"): "5"},
    ),
    "6.5 averages": Scenario(
        {"A": [10.0, 10.0, 14.0, (14.0, 14.0, 11.5, 12.0), (13.0, 13.0, 10.5, 11.0)]},
        [[10], [30], [-15], [0]],
        cash(1_000) | {"execution_config": {"stop_loss": 0.125}},
        {(2, "A"): "40", (3, "A"): "25", (4, "A"): "0", (4, "cash"): "974.375"},  # a = 13 from bar 2 on, stop 11.375
    ),
    "7.1 a fraction of the initial cash": Scenario(
        {"A": [10.0, 10.0, 7.0, 5.0, 4.0, 4.0]},
        [[100], [0], [0], [0], [0]],
        cash(1_000, bankruptcy_fraction=0.5),
        {(3, "equity"): "500"},
        ends=3,
    ),
}

# --- the corners --------------------------------------------------------------------------------------------------

ALL_FEES = {"fee_rate": 0.002, "fee_fixed": 0.75, "fee_per_share": 0.01, "fee_minimum": 1.5, "slippage_rate": 0.003}
BUSY = {
    "A": [(10.0, 11.0, 9.5, 10.5), (10.7, 11.5, 10.0, 11.0), (11.5, 12.0, 9.0, 9.25), (9.0, 9.9, 8.5, 9.7),
          (9.6, 10.2, 9.1, 10.1), (10.2, 12.9, 10.0, 12.5), (12.4, 12.6, 11.0, 11.3), (11.2, 11.9, 10.8, 11.8)],
    "B": [(40.0, 41.0, 39.0, 40.5), (40.1, 43.0, 40.0, 42.7), None, (43.3, 44.0, 41.2, 41.9),
          (41.7, 42.2, 36.0, 37.1), (37.7, 38.0, 36.5, 37.9), (38.3, 39.9, 38.1, 39.3), (39.1, 39.2, 37.0, 37.3)],
    "C": [None, (7.0, 7.2, 6.6, 6.9), (6.8, 7.9, 6.8, 7.7), (7.7, 8.3, 7.1, 7.3),
          (7.2, 7.4, 6.0, 6.3), (6.4, 6.6, 6.1, 6.2), None, None],
}  # fmt: skip
BUSY_TRADES = [[30, 5, 9], [-12, -3, 20], [-25, 2, 11], [40, -9, -60], [-70, 12, 33], [3, 3, 3], [20, -2, 8]]
BUSY_WEIGHTS = [
    [0.7, 0.5, 0.1],
    [0.2, -0.6, 0.5],
    [-0.3, 0.4, 0.6],
    [0.9, -0.9, 0.9],
    [0, 0.3, -1],
    [-1, 0, 0],
    [1] * 3,
]


def busy(fill: str, actions: list[Any] | None = None, **rules: Any) -> Scenario:
    """Three symbols, one late, one with a gap and one delisted, under every cost."""
    return Scenario(
        BUSY,
        BUSY_TRADES if actions is None else actions,
        {"cost_config": ALL_FEES, "fill": fill, **cash(700), **rules},
        gone="C",
    )


CORNERS: dict[str, Scenario] = {
    "1.2 a mark from before the part": Scenario(
        {"A": [10.0] * 5, "B": [20.0, None, None, 21.0, 22.0]},
        [[0, 3], [0, 3]],
        cash(100),
        {(1, "B"): "3", (1, "cash"): "37"},
        history=2,
    ),
    "3.5 lots finer than a billionth of the order": Scenario(
        {"A": [10.0] * 2}, [[3]], cash(1_000) | {"execution_config": {"lot_size": 2.0**-30}}, {(1, "A"): "3.0000000000"}
    ),
    "4.1 a rate that would take more than there is": Scenario(
        {"A": [100.0] * 2},
        [[5]],
        cash(1_000) | {"carry_config": {"cash_rate": -0.9}, "fill": "close"},
        {(1, "cash"): "0", (1, "equity"): "500"},
        dates=["2020-01-01", "2021-06-01"],
    ),
    "1.4 no bar to fill in": Scenario(
        {"A": [10.0, 10.0, None, 12.0, 12.0]},
        [[3], [4], [5], [6]],
        cash(1_000),
        {(1, "A"): "3", (2, "A"): "3", (3, "A"): "8", (4, "A"): "14"},
    ),
    "2.2 beyond the bounds": Scenario(
        {"A": [10.0] * 2, "B": [10.0] * 2},
        [[7.5, -3.0]],
        cash(1_000) | {"action_config": {"mode": "trade"}},
        {(1, "A"): "10.0000", (1, "B"): "0"},
    ),
    "2.2 max_weight, a symbol without a mark counts": Scenario(
        {"A": [10.0] * 3, "B": [None, None, 10.0]},
        [[1, 1], [1, 1]],
        cash(1_000) | {"action_config": {"mode": "weights", "max_weight": 1.5}},
        {(1, "A"): "50", (1, "B"): "0", (2, "A"): "50"},
    ),
    "2.2 discrete": Scenario(
        {"A": [10.0] * 4, "B": [20.0] * 4},
        [[2, 1], [0, 2], [1, 0]],
        cash(1_000, trade_limit_percent=0.25) | {"action_config": {"mode": "discrete"}},
        {(1, "A"): "25", (2, "A"): "0", (2, "B"): "12.5", (3, "B"): "0"},
    ),
    "3.2 nearly all is all, from below": Scenario(
        {"A": [10.0] * 4},
        [[10], [2.0**-20], [-10]],
        cash(1_000) | {"margin_config": MARGIN},
        {(2, "A"): "10.00000095", (3, "A"): "0", (3, "cash"): "1000"},
    ),
    "3.2 nearly all is all, from above": Scenario(
        {"A": [10.0] * 4},
        [[-10], [2.0**-20], [10]],
        cash(1_000) | {"margin_config": MARGIN},
        {(2, "A"): "-9.99999905", (3, "A"): "0", (3, "cash"): "1000"},
    ),
    "3.2 less than nearly is not": Scenario(
        {"A": [10.0] * 5},
        [[10], [-10 - 3 * 2.0**-20], [-10], [10 - 2.0**-18]],
        cash(1_000) | {"margin_config": MARGIN},
        {(2, "A"): "-0.00000286", (4, "A"): "-0.00000668"},
    ),
    "3.2 nearly all of a cash account's shares": Scenario(
        {"A": [10.0] * 4, "B": [10.0] * 4},
        [[64, 64], [-64 + 2.0**-16, -64 + 2.0**-15], [0, -1]],
        cash(2_000) | {"cost_config": {"fee_minimum": 1.0}},  # the smallest fee keeps it from the plain kernel
        {(2, "A"): "0", (2, "B"): "0.0000305", (3, "B"): "0", (3, "cash"): "1995.9997"},
    ),
    "3.2 nearly all, under plain rules": Scenario(
        {"A": [10.0] * 4, "B": [10.0] * 4},
        [[64, 64], [-64 + 2.0**-16, -64 + 2.0**-15], [0, -1]],
        cash(2_000),
        {(2, "A"): "0", (2, "B"): "0.0000305", (3, "B"): "0", (3, "cash"): "2000"},
    ),
    "3.2 nearly all by trade": Scenario(
        {"A": [10.0] * 4},
        [[0.5], [-0.5 + 2.0**-24], [-0.5 + 2.0**-22]],
        cash(1_280, trade_limit_percent=0.5) | {"action_config": {"mode": "trade"}, "margin_config": MARGIN},
        {(1, "A"): "32", (2, "A"): "0", (3, "A"): "-31.99998"},
    ),
    "3.2 nearly no weight is none": Scenario(
        {"A": [10.0] * 4, "B": [10.0] * 4},
        [[0.5, 0.5], [2.0**-24, 2.0**-22], [0.0, 0.0]],
        cash(1_280) | {"action_config": {"mode": "weights"}},
        {(2, "A"): "0", (2, "B"): "0.0000305", (3, "B"): "0"},
    ),
    "3.2 nearly all in lots and below the smallest order": Scenario(
        {"A": [1.0] * 4},
        [[64], [-64 + 2.0**-16], [0]],
        cash(1_000) | {"execution_config": {"lot_size": 0.5, "min_notional": 60.0}, "margin_config": MARGIN},
        {(1, "A"): "64", (2, "A"): "0", (2, "cash"): "1000"},
    ),
    "3.2 the limit on participation may be passed by that much": Scenario(
        {"A": [10.0] * 4, "B": [10.0] * 4},
        [[64, 64], [-64, -65], [0, 0]],
        cash(2_000) | {"execution_config": {"participation_limit": 0.5}, "margin_config": MARGIN},
        {(2, "A"): "0", (2, "B"): "0.0000305"},
        volume={"A": [1e6, 1e6, 128 - 2.0**-15, 1e6], "B": [1e6, 1e6, 128 - 2.0**-14, 1e6]},
    ),
    "3.2 nearly all of what a split has made": Scenario(
        {"A": [50.0, 50.0, 25.0, 25.0]},
        [[64], [-64 + 2.0**-16], [0]],
        cash(5_000) | {"fill": "next_close"},
        {(2, "A"): "0", (2, "cash"): "5000"},
        splits={(2, "A"): 2.0},
    ),
    "3.3 the fee of a sell is at most its notional": Scenario(
        {"A": [10.0, 10.0, 0.5, 0.5]},
        [[8], [-2], [-6]],
        cash(100) | {"cost_config": {"fee_fixed": 5.0}},
        {(1, "cash"): "15", (2, "cash"): "15", (2, "fees"): "1.0", (3, "cash"): "15", (3, "A"): "0"},
    ),
    "3.3 a sell cannot lose more than all": Scenario(
        {"A": [10.0] * 3},
        [[64], [-64]],
        cash(1_000) | {"cost_config": {"impact_coefficient": 1.5}},
        {(2, "A"): "0", (2, "notional"): "0"},
        volume={"A": [1e6, 1e6, 64.0]},
    ),
    "3.4 the alphabet decides nothing": Scenario(
        {"A": [10.0] * 3, "B": [20.0] * 3, "C": [10.0] * 3},
        [[0, 40, 0], [60, -10, 60]],
        cash(1_000),
        {(2, "A"): "20", (2, "B"): "30", (2, "C"): "20", (2, "cash"): "0"},
    ),
    "3.4 fees at their upper bound": Scenario(
        {"A": [10.0] * 3, "B": [25.0] * 3},
        [[50, 20], [-10, 12]],
        cash(1_000) | {"cost_config": ALL_FEES},
    ),
    "3.4 room at an unknown price": Scenario(
        {"A": [10.0, 10.0, None, 10.0], "B": [5.0] * 4},
        [[150, 0], [0, 300], [0, 0]],
        cash(1_000) | {"margin_config": MARGIN},
        {(1, "A"): "150", (2, "B"): "100", (2, "cash"): "-1000"},
    ),
    "3.4 net limit": Scenario(
        {"A": [10.0] * 4, "B": [20.0] * 4},
        [[100, 0], [0, -20], [-200, 5]],
        cash(1_000) | {"cost_config": ALL_FEES, "margin_config": {**MARGIN, "net_limit": 0.25}},
    ),
    "3.4 no room is no order": Scenario(
        {"A": [10.0, 10.0, 6.0, 6.0], "B": [5.0] * 4},
        [[200, 0], [0, 10], [-20, 10]],
        cash(1_000) | {"margin_config": {"leverage": 2.0}},
        {(2, "B"): "0", (2, "factor"): "0", (3, "A"): "180", (3, "B"): "0"},
    ),
    "3.1 no volume, no impact": Scenario(
        {"A": [10.0] * 3},
        [[5], [5]],
        cash(1_000) | {"cost_config": {"impact_coefficient": 0.1}},
        {(1, "A"): "0", (2, "A"): "5"},
        volume={"A": [1e6, 0.0, 1e6]},
    ),
    "3.3 the fee of other orders can exceed their notional": Scenario(
        {"A": [2.0] * 4},
        [[1], [-2], [1]],
        cash(100) | {"cost_config": {"fee_fixed": 5.0}, "margin_config": MARGIN},
        {(1, "cash"): "93", (2, "cash"): "93", (2, "fees"): "4", (3, "cash"): "86", (3, "A"): "0"},
    ),
    "3.4 slippage and fee of the whole order": Scenario(
        {"A": [10.0] * 3},
        [[10], [-30]],
        cash(235) | {"cost_config": {"fee_rate": 0.1}, "margin_config": {"allow_short": True}},
        {(1, "cash"): "125", (2, "factor"): "0.977273", (2, "A"): "-19.54545"},  # 215 / 220
    ),
    "3.4 impact of the whole order": Scenario(
        {"A": [10.0] * 3},
        [[64], [-200]],
        cash(1_200) | {"cost_config": {"impact_coefficient": 0.25}, "margin_config": {"allow_short": True}},
        volume={"A": [1e6, 1024.0, 1024.0]},
    ),
    "3.4 a fixed fee above the least": Scenario(
        {"A": [10.0] * 2}, [[20]], cash(103) | {"cost_config": {"fee_fixed": 3.0, "fee_minimum": 1.0}}, {(1, "A"): "10"}
    ),
    "3.4 costs count by the leverage": Scenario(
        {"A": [10.0] * 2},
        [[195]],
        cash(1_000) | {"cost_config": {"slippage_rate": 0.02}, "margin_config": {"leverage": 2.0}},
        {(1, "factor"): "0.986193", (1, "equity"): "961.54"},  # 2 000 / 2 028
    ),
    "3.4 rounding is forgiven": Scenario(
        {"A": [10.0000000001] * 2}, [[100]], cash(1_000), {(1, "factor"): "1", (1, "A"): "100.0000000000"}
    ),
    "3.4 more than rounding is not": Scenario(
        {"A": [10.0000001] * 2}, [[100]], cash(1_000), {(1, "A"): "99.9999990000", (1, "cash"): "0"}
    ),
    "3.4 dust is nothing": Scenario(
        {"A": [10.0] * 3}, [[10], [4_000]], cash(100 + 2.0**-34), {(1, "A"): "10", (2, "A"): "10", (2, "factor"): "0"}
    ),
    "3.4 more than dust": Scenario(
        {"A": [10.0] * 3}, [[10], [4_000]], cash(100 + 2.0**-30), {(2, "A"): "10.00000000009", (2, "cash"): "0"}
    ),
    "3.4 dust below the net limit": Scenario(
        {"A": [10.0] * 3},
        [[10], [4_000]],
        cash(1_000 + 2.0**-28) | {"margin_config": {**MARGIN, "net_limit": 0.1}},
        {(2, "factor"): "0", (2, "A"): "10"},
    ),
    "3.4 more than dust below the net limit": Scenario(
        {"A": [10.0] * 3},
        [[10], [4_000]],
        cash(1_000 + 2.0**-20) | {"margin_config": {**MARGIN, "net_limit": 0.1}},
        {(2, "A"): "10.0000000095"},
    ),
    "3.4 costs alone pass the net limit": Scenario(
        {"A": [10.0, 10.0, 14.0], "B": [20.0] * 3, "C": [20.0] * 3},
        [[25, 0, 0], [0, 10, -11]],
        cash(1_000) | {"cost_config": {"fee_rate": 0.2}, "margin_config": {**MARGIN, "net_limit": 0.25}},
        {(2, "factor"): "0", (2, "B"): "0", (2, "C"): "0"},
    ),
    "3.5 lots forgive rounding": Scenario(
        {"A": [10.0] * 3},
        [[3], [-0.75]],
        cash(1_000) | {"execution_config": {"lot_size": 0.1}},
        {(1, "A"): "3.0000", (2, "A"): "2.3000"},
    ),
    "3.6 the smallest order forgives rounding": Scenario(
        {"A": [9.9999999999, 9.9999999999, 9.99999]},
        [[10], [10]],
        cash(1_000) | {"execution_config": {"min_notional": 100.0}},
        {(1, "A"): "10", (2, "A"): "10"},
    ),
    "3.5 lots of both parts": Scenario(
        {"A": [10.0] * 4},
        [[27], [-47], [33]],
        cash(1_000) | {"execution_config": {"lot_size": {"A": 5.0}}, "margin_config": MARGIN},
        {(1, "A"): "25", (2, "A"): "-20", (3, "A"): "10"},
    ),
    "3.7 no cash below zero": Scenario(
        {"A": [0.3, 0.3, 0.1, 0.7], "B": [0.7, 0.7, 0.9, 0.3]},
        [[0.3, 0.9], [1, 0.1], [0.1, 0.8]],
        cash(0.1) | {"action_config": {"mode": "weights"}},
        {(1, "cash"): "0.0000"},
    ),
    "4.2 a filled order splits once": Scenario(
        {"A": [50.0, 50.0, 25.0, 25.0]},
        [[10], [10], [0]],
        cash(5_000) | {"fill": "close"},
        {(2, "A"): "40", (2, "cash"): "4000"},
        splits={(2, "A"): 2.0},
    ),
    "4.2 the average price splits": Scenario(
        {"A": [50.0, 50.0, (24.0, 26.0, 23.8, 25.0), (25.0, 25.0, 23.0, 24.0)]},
        [[10], [0], [0]],
        cash(5_000) | {"execution_config": {"stop_loss": 0.05}},
        {(2, "A"): "20", (3, "A"): "0", (3, "cash"): "4975.00"},
        splits={(2, "A"): 2.0},
    ),
    "4.3 a short pays": Scenario(
        {"A": [50.0, 50.0, 48.0]},
        [[-10], [0]],
        cash(1_000) | {"margin_config": MARGIN},
        {(1, "cash"): "1500", (2, "cash"): "1480"},
        dividends={(2, "A"): 2.0},
    ),
    "4.3 reinvested into a pending order": Scenario(
        {"A": [50.0, 50.0, 40.0]},
        [[10], [-5]],
        cash(1_000) | {"carry_config": {"dividends": "reinvest"}},
        {(2, "A"): "6.25", (2, "cash"): "750"},
        dividends={(2, "A"): 10.0},
    ),
    "4.4 a short is delisted": Scenario(
        {"A": [8.0, 8.0, None], "B": [1.0] * 3},
        [[-10, 0], [-5, 0]],
        cash(80) | {"margin_config": MARGIN, "execution_config": {"delisting_haircut": 0.5}},
        {(1, "cash"): "160", (2, "A"): "0", (2, "cash"): "120"},
        gone="A",
    ),
    "4.4 bought at the last close": Scenario(
        {"A": [8.0, 9.0, None], "B": [1.0] * 3},
        [[0, 0], [4, 0]],
        cash(80) | {"fill": "close"},
        {(2, "A"): "0", (2, "cash"): "80"},
        gone="A",
    ),
    "5.2 rounding decides nothing": Scenario(
        {
            "A": [100.0, 100.0, (100.0, 100.0, 95.00000009, 98.0)],
            "B": [15.0, 15.0, (15.0, 15.7499999998, 15.0, 15.0)],
            "C": [100.0, 100.0, (95.00000009, 100.0, 90.0, 98.0)],
            "D": [100.0, 100.0, (104.9999999, 105.0, 90.0, 98.0)],
        },
        [[1] * 4, [0] * 4],
        cash(1_000) | {"execution_config": {"stop_loss": 0.05, "take_profit": 0.05}},
        {(1, "cash"): "685", (2, "A"): "0", (2, "B"): "0", (2, "C"): "0", (2, "D"): "0", (2, "cash"): "995.7500"},
    ),
    "5.2 rounding decides nothing for shorts": Scenario(
        {
            "A": [100.0, 100.0, (100.0, 104.9999999, 100.0, 98.0)],
            "B": [100.0, 100.0, (100.0, 100.0, 95.00000009, 98.0)],
            "C": [100.0, 100.0, (104.9999999, 106.0, 90.0, 98.0)],
            "D": [100.0, 100.0, (95.00000009, 106.0, 90.0, 98.0)],
        },
        [[-1] * 4, [0] * 4],
        cash(1_000)
        | {"execution_config": {"stop_loss": 0.05, "take_profit": 0.05}, "margin_config": {"allow_short": True}},
        {(2, "A"): "0", (2, "B"): "0", (2, "C"): "0", (2, "D"): "0", (2, "cash"): "1000.0000"},
    ),
    "5.2 a price that is not reached": Scenario(
        {
            "A": [100.0, 100.0, (100.0, 104.999999, 95.000001, 98.0)],
            "B": [100.0, 100.0, (95.000001, 104.999999, 95.000001, 98.0)],
        },
        [[1, -1], [0, 0]],
        cash(1_000)
        | {"execution_config": {"stop_loss": 0.05, "take_profit": 0.05}, "margin_config": {"allow_short": True}},
        {(2, "A"): "1", (2, "B"): "-1"},
    ),
    "5.2 shorts mirrored": Scenario(
        {
            "A": [100.0, 100.0, (103.0, 106.0, 94.0, 100.0), 100.0],  # both reached: the stop, at 105
            "B": [10.0, 10.0, (11.0, 12.0, 9.0, 10.0), 10.0],  # a gap above the stop: 11
            "C": [20.0, 20.0, (19.5, 20.5, 18.5, 20.0), 20.0],  # the target: 19
        },
        [[-2, -10, -5], [0, 0, 0], [0, 0, 0]],
        cash(1_000) | {"execution_config": {"stop_loss": 0.05, "take_profit": 0.05}, "margin_config": MARGIN},
        {(1, "cash"): "1400", (2, "A"): "0", (2, "B"): "0", (2, "C"): "0", (2, "cash"): "985.00"},
    ),
    "5.2 short target by gap": Scenario(
        {"A": [100.0, 100.0, (90.0, 106.0, 89.0, 100.0)]},
        [[-2], [0]],
        cash(1_000) | {"execution_config": {"stop_loss": 0.05, "take_profit": 0.05}, "margin_config": MARGIN},
        {(2, "cash"): "1020"},
    ),
    "5.3 a stop pays, whatever the lots and the volume": Scenario(
        {"A": [100.0, 100.0, (99.0, 99.0, 90.0, 92.0), 92.0]},
        [[10], [0], [0]],
        cash(2_000)
        | {
            "cost_config": {"fee_rate": 0.01, "fee_fixed": 1.0, "slippage_rate": 0.02},
            "execution_config": {"stop_loss": 0.05, "participation_limit": 0.01, "min_notional": 1e3, "lot_size": 10.0},
        },
        {(1, "A"): "10", (2, "A"): "0"},  # the stop is 5% below the 102 that were paid
        volume={"A": [1e4, 1e4, 0.0, 0.0]},
    ),
    "6.3 a call is met and lifted": Scenario(
        {"A": [100.0, 100.0, 80.0, 80.0, 80.0, 80.0]},
        [[30], [0], [25], [5], [0]],
        cash(1_000) | {"margin_config": {"leverage": 3.0, "maintenance_margin": 0.25}},
        {(2, "equity"): "400", (3, "A"): "0", (3, "cash"): "400", (4, "A"): "5"},
    ),
    "6.3 liquidation of a short, limited by volume": Scenario(
        {"A": [100.0, 100.0, 140.0, 140.0, 140.0]},
        [[-10], [-1], [-1], [-1]],
        cash(1_000)
        | {
            "margin_config": {**MARGIN, "maintenance_margin": 0.45},
            "execution_config": {"participation_limit": 0.5},
        },
        {(1, "A"): "-10", (2, "A"): "-10", (3, "A"): "-6", (4, "A"): "-7"},
        volume={"A": [1e6, 1e6, 1e6, 8.0, 1e6]},
    ),
    "6.3 at the margin": Scenario(
        {"A": [100.0, 100.0, 99.99999999, 99.9999998, 100.0]},
        [[20], [0], [-1], [1]],
        cash(1_000) | {"margin_config": {"leverage": 2.0, "maintenance_margin": 0.5}},
        {(3, "A"): "19", (4, "A"): "20"},
    ),
    "6.3 below the margin": Scenario(
        {"A": [100.0, 100.0, 99.9999998, 100.0]},
        [[20], [0], [1]],
        cash(1_000) | {"margin_config": {"leverage": 2.0, "maintenance_margin": 0.5}},
        {(2, "A"): "20", (3, "A"): "0"},
    ),
    "7.1 at the edge": Scenario(
        {"A": [10.0, 10.0, 5.0000001, 5.000000004]}, [[100], [0], [0]], cash(1_000, bankruptcy_fraction=0.5), ends=3
    ),
    "7.1 next to nothing of what there was": Scenario(
        {"A": [10.0, 10.0, 10_000.0, 0.99e-8, 0.99e-8]},
        [[100], [0], [0]],
        cash(1_000),
        {(2, "equity"): "1000000"},
        ends=3,
    ),
    "7.1 more than nothing of what there was": Scenario(
        {"A": [10.0, 10.0, 10_000.0, 1.01e-8, 10.0]}, [[100], [0], [0], [0]], cash(1_000), {(4, "equity"): "1000"}
    ),
    "8.1 a symbol that the lane may not trade": Scenario(
        {"A": [10.0] * 3, "B": [10.0] * 3},
        [[1, 1], [0.5, 1]],
        cash(1_000) | {"action_config": {"mode": "weights"}},
        {(1, "A"): "50", (1, "B"): "0", (2, "A"): "33.3333", (2, "B"): "0"},
        forbidden="B",
    ),
    "everything, next open": busy("next_open", margin_config=MARGIN),
    "everything, next close": busy("next_close", margin_config=MARGIN),
    "everything, close": busy("close", margin_config=MARGIN),
    "everything with stops": busy(
        "next_open", margin_config=MARGIN, execution_config={"stop_loss": 0.07, "take_profit": 0.09}
    ),
    "everything in lots": busy("next_open", execution_config={"lot_size": {"A": 4.0, "*": 0.5}, "min_notional": 15.0}),
    "everything in a cash account": busy("close", carry_config={"cash_rate": 0.05}),
    "everything by weight": busy("next_open", BUSY_WEIGHTS, action_config={"mode": "weights"}),
    "everything by weight, short": busy(
        "next_close",
        BUSY_WEIGHTS,
        action_config={"mode": "weights", "max_weight": 2.0},
        margin_config={**MARGIN, "net_limit": 0.8, "maintenance_margin": 0.3},
        carry_config={"cash_rate": 0.05, "margin_rate": 0.08, "borrow_rate": {"A": 0.02, "*": 0.3}},
    ),
}

SCENARIOS = TEXT | CORNERS
TIERS = {"stateful": StatefulTradingEnv, "kernel": FastTrainingEnv}


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("name", SCENARIOS)
def test_tier_equals_exact_account(name: str, tier: str) -> None:
    scenario = SCENARIOS[name]
    compare(scenario, TIERS[tier])


@pytest.mark.parametrize("name", [name for name, scenario in SCENARIOS.items() if scenario.checks])
def test_printed_numbers(name: str) -> None:
    """The exact account, and with it both tiers, comes to the numbers that are printed."""
    scenario = SCENARIOS[name]
    account, asked = scenario.exact(), dict(scenario.checks)
    for action in scenario.played_actions():
        account.step(action)
        for bar, quantity in [key for key in asked if key[0] == account.t]:
            printed = asked.pop((bar, quantity))
            digits = len(printed.partition(".")[2])
            assert f"{_quantity(account, scenario, quantity):.{digits}f}" == printed, f"bar {bar}, {quantity}"
        if account.terminated:
            break
    assert not asked, "the scenario ends before its last number"
    assert scenario.ends == (account.t if account.terminated else None)


@pytest.mark.parametrize("tier", TIERS)
def test_a_difference_is_noticed(tier: str) -> None:
    """One part in ten thousand million of one fee is more than rounding."""
    scenario = CORNERS["everything, next open"]
    fees = {**ALL_FEES, "fee_rate": ALL_FEES["fee_rate"] * (1 + 1e-10)}

    def other(market: MarketData, config: EnvConfig, **more: Any) -> Any:
        return TIERS[tier](market, config.updated(cost_config=fees), **more)

    with pytest.raises(AssertionError, match="bar 1: cash is"):
        compare(scenario, other)


def _quantity(account: ExactAccount, scenario: Scenario, name: str) -> float:
    exact = account.shares[list(scenario.bars).index(name)] if name in scenario.bars else getattr(account, name)
    return float(exact) + 0.0


def compare(scenario: Scenario, tier: Callable[..., Any]) -> float:
    """Play a scenario in both, and return the largest error in units of what is allowed.

    Raises:
        AssertionError: They differ.
    """
    account, env = scenario.exact(), scenario.env(tier)
    env.reset(seed=0)
    money, most, worst = float(account.equity), 1.0, 0.0

    def check(what: str, found: float, expected: Fraction, scale: float) -> None:
        nonlocal worst
        allowed = ULPS * 2.0**-53 * account.t * scale
        error = abs(Fraction(found) - expected)
        worst = max(worst, float(error) / allowed)
        assert error <= allowed, f"bar {account.t}: {what} is {found!r}, exactly {float(expected)!r}"

    for action in scenario.played_actions():
        account.step(action)
        _, _, terminated, truncated, info = env.step(action)
        held = [float(abs(h)) for h in account.shares]
        marks = [float(mark or 0) for mark in account.mark[account.t]]
        positions = sum(h * mark for h, mark in zip(held, marks, strict=True))
        money = max(money, abs(float(account.cash)) + positions + float(account.notional))
        most = max(most, *held)
        check("cash", env.cash, account.cash, money)
        check("equity", env.equity, account.equity, money)
        for symbol, h, expected in zip(scenario.bars, env.holdings.tolist(), account.shares, strict=True):
            check(f"shares of {symbol}", h, expected, most)
            assert (h == 0) == (expected == 0), f"bar {account.t}: selling everything leaves exactly zero {symbol}"
        assert (terminated, truncated) == (account.terminated, account.truncated)
        assert not account.cash_account or env.cash >= 0
        if tier is StatefulTradingEnv:
            assert info["margin_call"] == account.margin_call
            check("fees", info["fees"], account.fees, money)
            check("costs", info["costs"], account.fees + account.slipped, money)
            check("turnover", info["turnover"], account.turnover, max(1.0, float(account.turnover)))
        if terminated or truncated:
            break
    return worst
