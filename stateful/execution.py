"""From orders to the quantities that fill, and what they cost: rules 3.1 to 3.6 of ``docs/accounting.md``.

Every function is one rule, and all of them work on all symbols at once: arrays are float64 ``[symbols]`` and 0
where a symbol has no order. Nothing is changed here; `stateful.portfolio` settles what comes out (3.7).

====  =======================  ===================
rule  what                     where
====  =======================  ===================
3.1   permitted size           `permitted_orders`
3.2   two parts                `split_orders`
3.3   price paid and fee       `slippages`, `prices_paid`, `fees`, `priced`
3.4   common factor            `common_factor`, `fee_bounds`, `net_factor`
3.5   lots                     `in_lots`
3.6   smallest order           `large_enough`
====  =======================  ===================
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from stateful.terms import Terms

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

TOLERANCE = 1e-9
"""Rounding that rules 3.4 to 3.6 forgive, as a fraction."""
EPSILON = 1.001 * 2.0**-22
"""What float32 cannot tell from a whole position, as a fraction of it (rules 2.3 and 3.2)."""
LOT_TOLERANCE = 1e-3
"""Rounding that rule 3.5 forgives at most, in lots."""
RESIDUE = 1e-12
"""What is left over by rounding alone, as a fraction of equity (rules 3.2 and 3.4)."""


class Quotes(NamedTuple):
    """What the fill bar offers. No NaN in here: 0 where a symbol has no bar.

    Attributes:
        prices: Fill prices p (rule 1.3), money per share, float64 ``[symbols]``.
        marks: mark[t], money per share, float64 ``[symbols]``.
        tradable: Rule 1.4, bool ``[symbols]``.
        volumes: V of the fill bar in shares, float64 ``[symbols]``; None where the data have none.
    """

    prices: Floats
    marks: Floats
    tradable: Bools
    volumes: Floats | None = None


class Account(NamedTuple):
    """What an account brings to its fills.

    Attributes:
        cash: Money; may be negative in a margin account.
        shares: Shares held, negative when short, float64 ``[symbols]``.
        equity: equity[t], in money.
    """

    cash: float
    shares: Floats
    equity: float


class Parts(NamedTuple):
    """The two parts of every order (rule 3.2), unsigned.

    Attributes:
        sign: +1 buys, -1 sells, 0 has no order, float64 ``[symbols]``.
        reduce: r, shares that close an opposite position, final, float64 ``[symbols]``.
        increase: i, shares that add exposure, before factor and lots, float64 ``[symbols]``.
    """

    sign: Floats
    reduce: Floats
    increase: Floats


class Priced(NamedTuple):
    """Fills and what they cost (rule 3.3), float64 ``[symbols]``.

    Attributes:
        quantities: Signed shares, 0 where nothing fills.
        prices: p, money per share.
        paid: x, money per share.
        notional: n, in money.
        fees: In money.
        slippage: q p s, in money.
    """

    quantities: Floats
    prices: Floats
    paid: Floats
    notional: Floats
    fees: Floats
    slippage: Floats


def fill_quantities(orders: Floats, account: Account, quotes: Quotes, terms: Terms) -> Floats:
    """Return the signed shares that fill (rules 3.1 to 3.6), float64 ``[symbols]``.

    Args:
        orders: Signed shares ordered, float64 ``[symbols]``, finite.
        account: Cash and shares before the fills.
        quotes: Prices and volumes of the fill bar.
        terms: The account's terms.
    """
    orders = permitted_orders(orders, account.shares, quotes, terms)
    parts = split_orders(orders, account, quotes.prices, terms)
    increase = parts.increase
    if np.count_nonzero(increase):
        increase = increase * common_factor(parts, account, quotes, terms)
        if terms.has_lots:
            increase = in_lots(increase, terms)
        if terms.min_notional > 0:
            increase = np.where(large_enough(increase, quotes.prices, terms), increase, 0.0)
    return parts.sign * (parts.reduce + increase)


def permitted_orders(orders: Floats, shares: Floats, quotes: Quotes, terms: Terms) -> Floats:
    """Limit orders to what may be traded at all (rules 2.3 and 3.1), whatever they are where it may not."""
    orders = np.where(quotes.tradable, orders, 0.0)
    if not terms.allow_short:
        orders = np.maximum(orders, -shares)
    if terms.needs_volume:
        volumes = _known(quotes.volumes)
        orders = np.where(volumes > 0, orders, 0.0)
        if terms.participation_limit is not None:
            most = terms.participation_limit * volumes
            orders = np.clip(orders, -most, most)
    return orders


def split_orders(orders: Floats, account: Account, prices: Floats, terms: Terms) -> Parts:
    """Split orders into what reduces a position and what increases exposure (rule 3.2).

    An order that leaves next to nothing of the position, or passes it by next to nothing, closes it. The reducing
    part comes out final: in lots (3.5) and dropped where it is too small (3.6), unless it closes the whole position.
    """
    sign, size = np.sign(orders), np.abs(orders)
    held = np.maximum(-sign * account.shares, 0.0)  # against the order; 0 where the position has its direction
    rest = np.abs(size - held)
    nothing_left = (rest <= EPSILON * held) | (rest * prices <= RESIDUE * account.equity)
    size = np.where((held > 0) & nothing_left, held, size)
    reduce = np.minimum(size, held)
    increase = size - reduce
    if terms.has_lots or terms.min_notional > 0:
        closes = reduce == held
        if terms.has_lots:  # never more than is held, whatever rounding does
            reduce = np.where(closes, reduce, np.minimum(in_lots(reduce, terms), held))
        if terms.min_notional > 0:
            reduce = np.where(closes | large_enough(reduce, prices, terms), reduce, 0.0)
    return Parts(sign, reduce, increase)


def slippages(quantity: Floats, volumes: Floats | None, terms: Terms) -> Floats:
    """Return s, how much worse than p each fill executes, as a fraction (rule 3.3).

    Args:
        quantity: q, unsigned shares, float64 ``[symbols]``.
        volumes: V, float64 ``[symbols]``; without volume there is no impact.
        terms: The account's terms.
    """
    if terms.impact == 0:
        return terms.slippage_rate  # below 1, as the configuration checks
    volumes = _known(volumes)
    part = np.divide(quantity, volumes, out=np.zeros_like(quantity), where=volumes > 0)
    return np.minimum(terms.slippage_rate + terms.impact * np.sqrt(part), 1.0)


def prices_paid(sign: Floats, prices: Floats, slippage: Floats) -> Floats:
    """Return x: a buy pays more than p, a sell gets less (rule 3.3), money per share."""
    return prices * (1.0 + sign * slippage)


def fees(quantity: Floats, notional: Floats, sign: Floats, shares: Floats, terms: Terms) -> Floats:
    """Return the fee of each fill (rule 3.3), in money.

    Args:
        quantity: q, unsigned shares, float64 ``[symbols]``.
        notional: n = q x, money, float64 ``[symbols]``.
        sign: +1 buys, -1 sells, float64 ``[symbols]``.
        shares: Shares held before, float64 ``[symbols]``.
        terms: The account's terms.
    """
    fee = terms.fee_rate * notional
    if terms.proportional_fees:
        return fee  # a rate is below 1: nothing to limit
    fee = np.maximum(terms.fee_minimum, terms.fee_fixed + fee + terms.fee_per_share * quantity)
    fee = np.where((sign < 0) & (shares > 0), np.minimum(fee, notional), fee)
    return np.where(quantity > 0, fee, 0.0)


def priced(quantities: Floats, prices: Floats, volumes: Floats | None, shares: Floats, terms: Terms) -> Priced:
    """Return what fills cost (rule 3.3).

    Args:
        quantities: Signed shares, 0 where nothing fills, float64 ``[symbols]``.
        prices: p, money per share, float64 ``[symbols]``.
        volumes: V in shares, float64 ``[symbols]``; None where the data have none.
        shares: Shares held before, float64 ``[symbols]``.
        terms: The account's terms.
    """
    sign, size = np.sign(quantities), np.abs(quantities)
    slippage = slippages(size, volumes, terms)
    paid = prices_paid(sign, prices, slippage)
    notional = size * paid
    fee = fees(size, notional, sign, shares, terms)
    return Priced(quantities, prices, paid, notional, fee, size * prices * slippage)


def common_factor(parts: Parts, account: Account, quotes: Quotes, terms: Terms) -> float:
    """Return f, which every increasing part is multiplied by (rule 3.4), in [0, 1]."""
    sign, reduce, increase = parts
    prices, leverage = quotes.prices, terms.leverage
    size = reduce + increase
    slippage = slippages(size, quotes.volumes, terms)  # s̄
    paid = prices_paid(sign, prices, slippage)  # x̄

    # The account after the reducing parts, without any fee.
    closed = sign * reduce
    cash = account.cash - float(closed @ paid)
    long = short = 0.0  # where nothing is borrowed, room is cash, whatever is held
    if not terms.cash_account or terms.net_limit is not None:
        long, short = exposures(account.shares + closed, quotes)
    room = leverage * cash + (leverage - 1.0) * long - (leverage + 1.0) * short  # R

    value = float(increase @ prices)  # I
    slipped = float((increase * prices) @ slippage)  # S
    bound, growing = fee_bounds(parts, paid, terms)  # A, U
    all_fees = bound + growing  # F
    if not terms.proportional_fees:
        all_fees = float(fees(size, size * paid, sign, account.shares, terms).sum())
    fits = value + leverage * (slipped + all_fees) <= room * (1.0 + TOLERANCE)
    if fits and terms.net_limit is None:
        return 1.0

    factor = 1.0
    residue = RESIDUE * account.equity
    if not fits:
        left = room - leverage * bound
        factor = left / (value + leverage * (slipped + growing)) if left > residue else 0.0
    if terms.net_limit is not None:
        direction, costs, net = float((sign * increase) @ prices), slipped + growing, long - short
        factor = min(factor, net_factor(terms.net_limit, direction, costs, net, cash + net - bound, residue))
    if math.isnan(factor):
        return 0.0  # the orders are without measure: their sums overflow
    return min(max(factor, 0.0), 1.0)


def fee_bounds(parts: Parts, paid: Floats, terms: Terms) -> tuple[float, float]:
    """Return fees at their upper bound (rule 3.4): A, whatever f is, and U, in proportion to f; in money.

    Fees in proportion to the notional are what they are bounded by.
    """
    _, reduce, increase = parts
    bound, growing = float((reduce * paid) @ terms.fee_rate), float((increase * paid) @ terms.fee_rate)
    if not terms.proportional_fees:
        per_fill = np.where(reduce + increase > 0, np.maximum(terms.fee_minimum, terms.fee_fixed), 0.0)
        bound += float(per_fill.sum()) + float(reduce @ terms.fee_per_share)
        growing += float(increase @ terms.fee_per_share)
    return bound, growing


def net_factor(limit: float, direction: float, costs: float, net: float, equity: float, residue: float) -> float:
    """Return the factor that keeps the net exposure within its limit on both sides (rule 3.4).

    Args:
        limit: N, as a multiple of equity.
        direction: D, value of the increasing parts, buys positive, in money.
        costs: K, their slippage and fees.
        net: M, net exposure after the reducing parts, in money.
        equity: E₀, equity after the reducing parts and the fees that are due whatever the factor is.
        residue: What is left over by rounding alone, in money.
    """
    factor = 1.0
    for side in (1.0, -1.0):
        pace, left = side * direction + limit * costs, limit * equity - side * net
        if pace > residue:
            factor = min(factor, left / pace) if left > residue else 0.0
    return factor


def in_lots(quantity: Floats, terms: Terms) -> Floats:
    """Round unsigned shares down to whole lots where a symbol has a lot size (rule 3.5)."""
    lot = terms.lot_size
    counted = np.divide(quantity, lot, out=np.zeros_like(quantity), where=lot > 0)
    nearly = np.minimum(TOLERANCE * counted, LOT_TOLERANCE)
    return np.where(lot > 0, lot * np.floor(counted + nearly), quantity)


def large_enough(quantity: Floats, prices: Floats, terms: Terms) -> Bools:
    """Return which unsigned shares are worth the smallest order (rule 3.6), bool ``[symbols]``."""
    enough: Bools = quantity * prices >= terms.min_notional * (1.0 - TOLERANCE)
    return enough


def exposures(shares: Floats, quotes: Quotes) -> tuple[float, float]:
    """Return Long and Short: the value of long and of short positions, in money (rule 3.4)."""
    values = shares * np.where(quotes.tradable, quotes.prices, quotes.marks)
    return float(np.maximum(values, 0.0).sum()), float(np.maximum(-values, 0.0).sum())


def _known(volumes: Floats | None) -> Floats:
    if volumes is None:
        raise ValueError("volumes: got None, expected shares for each symbol, because impact or participation is on")
    return volumes
