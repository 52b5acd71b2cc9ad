"""The accounting a third time, in exact rational arithmetic: slow, short, and read against the text line by line.

Every number of a market or configuration is taken as the rational number that its float is, and nothing is rounded
after that. The only exception is the square root of rule 3.3, which is good to 60 digits. Written from
``docs/accounting.md`` alone: sections 1 to 5, and 6.1, 6.3, 6.5, 7.1 and 7.2. Rewards and observations are not here.

What is unknown (the close of a symbol without a bar, the mark before its first bar) is None.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from batchenv import MarketData
from batchenv.config import EnvConfig

Row = list[Fraction]
ONE, ZERO = Fraction(1), Fraction(0)
TOLERANCE = Fraction(1, 10**9)  # 3.4, 3.5, 3.6, 5.2, 6.3, 7.1
EPSILON = Fraction(1001, 1000) / 2**22  # 2.3, 3.2
LOT_TOLERANCE = Fraction(1, 10**3)  # 3.5
RESIDUE = Fraction(1, 10**12)  # 2.3, 3.2, 3.4, 7.1
NANOSECONDS_PER_YEAR = 365 * 24 * 60 * 60 * 10**9  # 1.5


class ExactAccount:
    """One account in one market.

    Attributes:
        t: The current bar.
        cash: Money.
        shares: h, by symbol.
        average: a, the average entry price by symbol (6.5).
        equity: Money, at the current bar (6.1).
        peak: The highest equity so far (7.1).
        margin_call: Whether one stands (6.3).
        terminated: Rule 7.1.
        truncated: Rule 7.2.
        factor: f of the last fills (3.4).
        fees: Fees of the last step, money.
        slipped: Slippage of the last step, money.
        notional: Sum of the notionals of the last step, money.
        turnover: That over equity[t] (3.8).
    """

    def __init__(
        self, market: MarketData, rules: EnvConfig, allowed: Sequence[bool] | None = None, start: int = 0
    ) -> None:
        n = len(market.symbols)
        self.rules, self.t, self.end = rules, start, market.n_bars - 1
        if rules.episode_config.length is not None:
            self.end = start + rules.episode_config.length
        self.symbols = range(n)
        self.allowed = [True] * n if allowed is None else list(allowed)  # 8.1

        self.time = [int(stamp) for stamp in market.timestamps.astype("datetime64[ns]").astype(np.int64)]
        self.close, self.open = table(market.close), table(market.open)
        self.high, self.low, self.volume = table(market.high), table(market.low), table(market.volume)
        self.splits, self.dividends = table(market.splits), table(market.dividends)
        column = rules.carry_config.funding_column
        self.funding = table(None if column is None else market.columns[column])
        gone = market.delisted.tolist()  # 4.4; of the whole data, None for a symbol that goes on
        self.last_bar = [self.time.index(gone[s]) if gone[s] in self.time else None for s in range(n)]
        known = [None] * n  # 1.2
        for row in table(None if market.history is None else market.history.close) or []:
            known = [last if close is None else close for last, close in zip(known, row, strict=True)]
        self.mark: list[list[Any]] = []
        for row in self.close:
            known = [last if close is None else close for last, close in zip(known, row, strict=True)]
            self.mark.append(known)

        def by_symbol(value: float | Mapping[str, float]) -> Row:
            if not isinstance(value, Mapping):
                return [Fraction(value)] * n
            return [Fraction(value[name] if name in value else value["*"]) for name in market.symbols]

        costs, execution, margin, carry = (
            rules.cost_config,
            rules.execution_config,
            rules.margin_config,
            rules.carry_config,
        )
        self.fee_rate, self.slippage_rate = by_symbol(costs.fee_rate), by_symbol(costs.slippage_rate)
        self.fee_fixed, self.fee_per_share = by_symbol(costs.fee_fixed), by_symbol(costs.fee_per_share)
        self.fee_minimum, self.impact = by_symbol(costs.fee_minimum), Fraction(costs.impact_coefficient)
        self.lot_size, self.min_notional = by_symbol(execution.lot_size), Fraction(execution.min_notional)
        self.participation_limit = optional(execution.participation_limit)
        self.stop_loss, self.take_profit = optional(execution.stop_loss), optional(execution.take_profit)
        self.haircut = Fraction(execution.delisting_haircut)
        self.allow_short, self.leverage = margin.allow_short, Fraction(margin.leverage)
        self.net_limit, self.maintenance = optional(margin.net_limit), Fraction(margin.maintenance_margin)
        self.cash_account = margin.leverage == 1 and not margin.allow_short
        self.cash_rate, self.margin_rate = Fraction(carry.cash_rate), Fraction(carry.margin_rate)
        self.borrow_rate, self.funding_rate = by_symbol(carry.borrow_rate), by_symbol(carry.funding_rate)

        self.cash = self.equity = self.peak = self.initial_cash = Fraction(rules.portfolio_config.initial_cash)  # 7.5
        self.shares, self.average = [ZERO] * n, [ZERO] * n
        self.margin_call = self.terminated = self.truncated = False
        self.factor = ONE
        self.fees = self.slipped = self.notional = self.turnover = ZERO

    # --- a step in order ------------------------------------------------------------------------------------

    def step(self, action: Any) -> None:
        """Go from bar t to bar t+1."""
        t, fill = self.t, self.rules.fill
        self.fees = self.slipped = self.notional = ZERO
        self.factor = ONE
        tradable = self.tradable(t if fill == "close" else t + 1)
        orders = self.decide(action, tradable)
        if fill == "close":
            self.fill(orders, tradable, self.close[t], t)
            self.overnight([ZERO] * len(orders))
            self.stops()
        elif fill == "next_open":
            self.overnight(orders)
            self.fill(orders, tradable, self.open[t + 1], t + 1)
            self.stops()
        else:
            self.overnight(orders)
            for s in self.stops():
                orders[s] = ZERO  # 5.3
            self.fill(orders, tradable, self.close[t + 1], t + 1)
        self.turnover = self.notional / self.equity  # 3.8, still equity[t]
        self.t = t + 1
        value = [h * mark if h else ZERO for h, mark in zip(self.shares, self.mark[t + 1], strict=True)]
        self.equity = self.cash + sum(value)  # 6.1
        exposure = sum(abs(v) for v in value)
        self.margin_call = exposure > 0 and self.equity < self.maintenance * exposure * (1 - TOLERANCE)  # 6.3
        ruin = Fraction(self.rules.portfolio_config.bankruptcy_fraction) * self.initial_cash
        self.peak = max(self.peak, self.equity)
        self.terminated = self.equity <= ruin * (1 + TOLERANCE) + RESIDUE * self.peak  # 7.1
        self.truncated = self.t == self.end

    def tradable(self, fill_bar: int) -> list[bool]:
        """1.4."""
        mark, close = self.mark[self.t], self.close[fill_bar]
        return [mark[s] is not None and close[s] is not None and self.allowed[s] for s in self.symbols]

    # --- 2. decide ------------------------------------------------------------------------------------------

    def decide(self, action: Any, tradable: list[bool]) -> Row:
        config, equity, mark = self.rules.action_config, self.equity, self.mark[self.t]
        limit = Fraction(self.rules.portfolio_config.trade_limit_percent)
        if config.mode == "discrete":
            choices = [int(action) // 3**s % 3 for s in self.symbols] if config.joint else [int(k) for k in action]
            a = [Fraction(choice - 1) for choice in choices]
        else:
            a = [min(max(Fraction(float(np.float32(x))), -ONE), ONE) for x in action]
        wanted = [Fraction(config.max_weight) * (x if self.allow_short else max(x, ZERO)) for x in a]
        total = sum(abs(p) for p in wanted)
        orders = [ZERO] * len(mark)
        for s in self.symbols:
            if not tradable[s]:  # 2.3
                continue
            if self.margin_call:  # 2.4
                o = -self.shares[s]
            elif config.mode == "shares":  # 2.2
                o = a[s] * Fraction(config.max_shares)
            elif config.mode == "weights":
                w = wanted[s] / max(ONE, total / self.leverage)
                o = w * equity / mark[s] - self.shares[s]
                if abs(o) <= EPSILON * abs(self.shares[s]):  # 2.3
                    o = ZERO
            else:
                o = a[s] * limit * equity / mark[s]
            if abs(o) * mark[s] > RESIDUE * equity:  # 2.3
                orders[s] = o
        return orders

    # --- 3. fill --------------------------------------------------------------------------------------------

    def fill(self, orders: Row, tradable: list[bool], price: list[Any], bar: int) -> None:
        volume = self.volume[bar] if self.volume else [None] * len(orders)
        sign, reduce, increase = [ZERO] * len(orders), [ZERO] * len(orders), [ZERO] * len(orders)
        for s in self.symbols:
            if not tradable[s]:  # 3.1
                continue
            o, h = orders[s], self.shares[s]
            if not self.allow_short:
                o = max(o, -h)
            if (self.impact > 0 or self.participation_limit is not None) and volume[s] == 0:
                o = ZERO
            if self.participation_limit is not None:
                most = self.participation_limit * volume[s]
                o = min(max(o, -most), most)
            rest = abs(o + h)
            if h * o < 0 and (rest <= EPSILON * abs(h) or rest * price[s] <= RESIDUE * self.equity):  # 3.2
                o = -h
            sign[s] = Fraction((o > 0) - (o < 0))
            reduce[s] = r = min(abs(o), abs(h)) if h * o < 0 else ZERO  # 3.2
            increase[s] = abs(o) - r
            if r != abs(h):
                reduce[s] = self.enough(self.lots(s, r), price[s])
        f = self.factor = self.common_factor(sign, reduce, increase, tradable, price, volume)
        for s in self.symbols:
            if tradable[s]:
                q = reduce[s] + self.enough(self.lots(s, f * increase[s]), price[s])
                self.settle(s, sign[s], q, price[s], volume[s])
        self.forgive_residue()

    def slippage(self, s: int, q: Fraction, volume: Fraction | None) -> Fraction:
        """3.3."""
        impact = ZERO
        if self.impact > 0 and volume:
            impact = self.impact * square_root(q / volume)
        return min(self.slippage_rate[s] + impact, ONE)

    def fee(self, s: int, sign: Fraction, q: Fraction, x: Fraction) -> Fraction:
        """3.3."""
        if q == 0:
            return ZERO
        n = q * x
        fee = max(self.fee_minimum[s], self.fee_fixed[s] + self.fee_rate[s] * n + self.fee_per_share[s] * q)
        return min(fee, n) if sign < 0 and self.shares[s] > 0 else fee

    def common_factor(
        self, sign: Row, reduce: Row, increase: Row, tradable: list[bool], price: list[Any], volume: list[Any]
    ) -> Fraction:
        """3.4, with the letters of the text."""
        if not any(increase):
            return ONE  # there is nothing to multiply
        G, h = self.leverage, self.shares
        cash0, Long, Short, I, S, F, A, U, D = self.cash, *[ZERO] * 8  # noqa: E741
        for s in self.symbols:
            left = h[s] + sign[s] * reduce[s]
            if left:
                v = price[s] if tradable[s] else self.mark[self.t][s]
                Long += max(left, ZERO) * v
                Short += max(-left, ZERO) * v
            r, i = reduce[s], increase[s]
            if r + i == 0:
                continue
            p, slip = price[s], self.slippage(s, r + i, volume[s])
            x = p * (1 + sign[s] * slip)
            cash0 -= sign[s] * r * x
            I += i * p  # noqa: E741
            S += i * p * slip
            F += self.fee(s, sign[s], r + i, x)
            A += max(self.fee_minimum[s], self.fee_fixed[s]) + self.fee_rate[s] * r * x + self.fee_per_share[s] * r
            U += self.fee_rate[s] * i * x + self.fee_per_share[s] * i
            D += sign[s] * i * p
        R = G * cash0 + (G - 1) * Long - (G + 1) * Short
        need = I + G * (S + F)
        f, residue = ONE, RESIDUE * self.equity
        if need > R * (1 + TOLERANCE):
            left = R - G * A
            f = min(left / (I + G * (S + U)), ONE) if left > residue else ZERO
        if self.net_limit is not None:
            N, M, K = self.net_limit, Long - Short, S + U
            E0 = cash0 + M - A
            for g in (1, -1):
                pace, left = g * D + N * K, max(N * E0 - g * M, ZERO)
                if pace > residue and left / pace < f:
                    f = left / pace if left > residue else ZERO
        return f

    def lots(self, s: int, q: Fraction) -> Fraction:
        """3.5."""
        lot = self.lot_size[s]
        return lot * math.floor(q / lot + min(TOLERANCE * (q / lot), LOT_TOLERANCE)) if lot > 0 else q

    def enough(self, q: Fraction, price: Fraction) -> Fraction:
        """3.6."""
        return ZERO if q * price < self.min_notional * (1 - TOLERANCE) else q

    def settle(self, s: int, sign: Fraction, q: Fraction, price: Fraction, volume: Fraction | None) -> None:
        """3.7, 3.8 and 6.5."""
        if q == 0:
            return
        slip, h, a = self.slippage(s, q, volume), self.shares[s], self.average[s]
        x = price * (1 + sign * slip)
        fee = self.fee(s, sign, q, x)
        self.cash -= sign * q * x + fee
        self.fees += fee
        self.slipped += q * price * slip
        self.notional += q * x
        after = self.shares[s] = h + sign * q
        if after == 0:
            self.average[s] = ZERO
        elif h * after < 0:
            self.average[s] = x
        elif abs(after) > abs(h):
            self.average[s] = (abs(h) * a + q * x) / (abs(h) + q)

    def forgive_residue(self) -> None:
        """3.7: in a cash account what is forgiven is rounding, never a loan."""
        if self.cash_account and self.cash < 0:
            assert -self.cash <= TOLERANCE * (self.notional + self.fees), "a cash account spent more than it has"
            self.cash = ZERO

    # --- 4. overnight ---------------------------------------------------------------------------------------

    def overnight(self, pending: Row) -> None:
        """From bar t to bar t+1; the pending orders are changed."""
        t, cash = self.t, self.cash
        years = Fraction(self.time[t + 1] - self.time[t], NANOSECONDS_PER_YEAR)
        self.cash += cash * (max(self.cash_rate * years, -1) if cash > 0 else self.margin_rate * years)  # 4.1
        for s in self.symbols:
            h, mark = self.shares[s], self.mark[t][s]
            if h:
                rate = ((self.funding[t + 1][s] or ZERO) if self.funding else ZERO) + self.funding_rate[s] * years
                self.cash -= max(-h, ZERO) * mark * self.borrow_rate[s] * years + h * mark * rate
        for s in self.symbols:
            k = self.splits[t + 1][s] if self.splits else ONE
            d = self.dividends[t + 1][s] if self.dividends else ZERO
            if k != 1:
                self.scale(s, k, pending)  # 4.2
            if d and self.rules.carry_config.dividends == "cash":
                self.cash += self.shares[s] * d  # 4.3
            elif d:
                c = self.mark[t][s] / k
                self.scale(s, c / (c - d), pending)
            if self.last_bar[s] == t and self.shares[s]:
                self.cash += self.shares[s] * self.mark[t][s] * (1 - self.haircut)  # 4.4
                self.shares[s] = self.average[s] = ZERO

    def scale(self, s: int, k: Fraction, pending: Row) -> None:
        self.shares[s] *= k
        pending[s] *= k
        self.average[s] /= k

    # --- 5. stops -------------------------------------------------------------------------------------------

    def stops(self) -> list[int]:
        """Look at bar t+1; return the symbols that were closed."""
        closed = []
        for s in self.symbols:
            h, bar = self.shares[s], self.t + 1
            if h == 0 or self.close[bar][s] is None or (self.stop_loss is None and self.take_profit is None):
                continue
            price = self.exit_price(s, bar)
            if price is not None:
                self.settle(
                    s, Fraction(-1 if h > 0 else 1), abs(h), price, self.volume[bar][s] if self.volume else None
                )
                closed.append(s)
        self.forgive_residue()
        return closed

    def exit_price(self, s: int, bar: int) -> Fraction | None:
        """5.2; a short is the mirror image, so its prices are compared with the opposite sign."""
        side = 1 if self.shares[s] > 0 else -1
        a, first = self.average[s], self.open[bar][s]
        worst, best = (self.low, self.high) if side > 0 else (self.high, self.low)
        stop = None if self.stop_loss is None else a * (1 - side * self.stop_loss)
        target = None if self.take_profit is None else a * (1 + side * self.take_profit)

        def reaches_stop(price: Fraction) -> bool:
            return stop is not None and side * price <= side * stop * (1 + side * TOLERANCE)

        def reaches_target(price: Fraction) -> bool:
            return target is not None and side * price >= side * target * (1 - side * TOLERANCE)

        if reaches_stop(first) or reaches_target(first):
            return first
        if reaches_stop(worst[bar][s]):
            return stop
        return target if reaches_target(best[bar][s]) else None


def table(values: Any) -> list[list[Any]]:
    """Return the rational numbers that floats are, None for NaN; nothing for nothing."""
    if values is None:
        return []
    return [[None if math.isnan(x) else Fraction(x) for x in row] for row in np.asarray(values).tolist()]


def optional(value: float | None) -> Fraction | None:
    return None if value is None else Fraction(value)


def square_root(x: Fraction) -> Fraction:
    """Return the root to 60 digits after the point."""
    return Fraction(math.isqrt(x.numerator * 10**120 // x.denominator), 10**60)
