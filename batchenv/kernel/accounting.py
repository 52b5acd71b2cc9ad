"""The money arithmetic of the training tier: scalars in, scalars out. Numbers refer to ``docs/accounting.md``.

Most of it runs within loops over symbols that the compiler turns into vector instructions. It can where a formula
chooses between values instead of leaving early, and calls nothing but square roots and ``np.floor`` (``math.floor``
makes an integer).
"""

from __future__ import annotations

import math

import numpy as np

from batchenv.kernel.jit import inlined

ROUNDING = 1e-9
SAME = 1.001 * 2.0**-22
"""Rules 2.3 and 3.2: an action in float32 cannot tell a position from one that differs by this fraction of it."""
RESIDUE = 1e-12
LOT_ROUNDING = 1e-3


@inlined
def clip(value: float, low: float, high: float) -> float:
    """Return ``value`` limited to ``low`` and ``high``."""
    at_least = value if value > low else low
    return at_least if at_least < high else high


@inlined
def positive(value: float) -> float:
    """Return ``value`` where it is above 0, else 0."""
    return value if value > 0.0 else 0.0


@inlined
def negative(value: float) -> float:
    """Return ``value`` where it is below 0, else 0."""
    return value if value < 0.0 else 0.0


# --- 2 Decide ---------------------------------------------------------------------------------------------------


@inlined
def value_order(value: float, inverse: float) -> float:
    """Rule 2.2, `trade`: shares worth ``value`` at the mark; ``inverse`` is 1 / mark."""
    return value * inverse


@inlined
def wanted_weight(action: float, max_weight: float, allow_short: bool) -> float:
    """Rule 2.2, `weights`: p, the weight asked for."""
    return max_weight * clip(action, -1.0 if allow_short else 0.0, 1.0)


@inlined
def weight_scale(gross: float, leverage: float) -> float:
    """Rule 2.2, `weights`: the factor that brings the weights' gross sum down to the leverage when it is above."""
    return 1.0 / max(1.0, gross / leverage)


@inlined
def target_order(value: float, inverse: float, held: float) -> float:
    """Rules 2.2 and 2.3, `weights`: shares that take a position from ``held`` to ``value`` at the mark."""
    order = value * inverse - held
    return order if abs(order) > SAME * abs(held) else 0.0


# --- 3 Fill -----------------------------------------------------------------------------------------------------


@inlined
def permitted_sale(order: float, held: float) -> float:
    """Rule 3.1: without shorts a sell is limited to the shares held."""
    return order if order > -held else -held


@inlined
def permitted_volume(order: float, participation: float, volume: float) -> float:
    """Rule 3.1: an order within its part of the bar's volume; no limit where ``participation`` is 0."""
    limit = participation * volume if participation > 0.0 else math.inf
    return clip(order, -limit, limit) if volume > 0.0 else 0.0


@inlined
def sizeable(order: float, inverse: float, equity: float) -> float:
    """Rule 2.3: the order, or 0 when it is of no size; ``inverse`` is 1 / mark."""
    return order if abs(order) > RESIDUE * equity * inverse else 0.0


@inlined
def closing(order: float, held: float, price: float, tiny: float) -> float:
    """Rule 3.2: the order, made to close the position where it leaves next to nothing; ``tiny`` is money of no size."""
    rest = abs(order + held)
    nothing_left = rest <= SAME * abs(held) or rest * price <= tiny
    return -held if order * held < 0.0 and nothing_left else order


@inlined
def sale_of_held(order: float, held: float, price: float, tiny: float) -> float:
    """Rules 3.1 and 3.2 at once for an account without shorts: `permitted_sale`, then `closing`."""
    rest = order + held
    nothing_left = rest <= SAME * held or rest * price <= tiny
    return -held if order < 0.0 and nothing_left else order


@inlined
def reducing_part(order: float, held: float) -> float:
    """Rule 3.2: r, the shares by which an order reduces a position."""
    return min(abs(order), abs(held)) if order * held < 0.0 else 0.0


@inlined
def whole_lots(quantity: float, lot: float, per_lot: float) -> float:
    """Rule 3.5: the quantity in whole lots, or as it is where fractions are allowed; ``per_lot`` is 1 / lot or 0."""
    lots = quantity * per_lot
    whole: float = lot * np.floor(lots + min(ROUNDING * lots, LOT_ROUNDING))
    return whole if lot > 0.0 else quantity


@inlined
def large_enough(quantity: float, price: float, least: float) -> float:
    """Rule 3.6: the quantity, or 0 when it is worth too little."""
    return 0.0 if quantity * price < least * (1.0 - ROUNDING) else quantity


@inlined
def impact_slippage(impact: float, quantity: float, per_volume: float) -> float:
    """Rule 3.3: the slippage that grows with the order, as a fraction of the fill price; 1 / volume or 0 is given."""
    return impact * math.sqrt(quantity * per_volume)


@inlined
def slippage(rate: float, root: float) -> float:
    """Rule 3.3: s, as a fraction of the fill price; ``root`` is the part that grows with the order."""
    return min(rate + root, 1.0)


@inlined
def price_paid(fill: float, side: float, slip: float) -> float:
    """Rule 3.3: x; ``side`` is 1 for a buy and -1 for a sell."""
    return fill * (1.0 + side * slip)


@inlined
def variable_fee(quantity: float, notional: float, rate: float, per_share: float) -> float:
    """Rule 3.3: the part of a fee that grows with the order."""
    return rate * notional + per_share * quantity


@inlined
def order_fee(variable: float, fixed: float, minimum: float, most: float) -> float:
    """Rule 3.3: the fee of an order; ``most`` is its notional when it sells from a long position, else infinity."""
    return min(max(minimum, fixed + variable), most)


@inlined
def room(cash: float, long: float, short: float, leverage: float) -> float:
    """Rule 3.4: R, the gross exposure that may still be added."""
    return leverage * cash + (leverage - 1.0) * long - (leverage + 1.0) * short


@inlined
def scarce_factor(left: float, bound: float, equity: float) -> float:
    """Rule 3.4: f when not everything can be bought; ``left`` is R less the fees reserved, ``equity`` that of bar t."""
    return clip(left / bound, 0.0, 1.0) if bound > 0.0 and left > RESIDUE * equity else 0.0


@inlined
def net_factor(factor: float, left: float, pace: float, equity: float) -> float:
    """Rule 3.4: f kept within the net limit on one side, of which ``left`` is left, and which f uses at ``pace``."""
    binding, room_left = pace > RESIDUE * equity, left > RESIDUE * equity
    most = left / pace if binding and room_left else 0.0
    return min(factor, most) if binding else factor


@inlined
def scaled(order: float, factor: float) -> float:
    """Rule 3.4 in a cash account: a buy times the common factor; a sell as it is."""
    return order * factor if order > 0.0 else order


@inlined
def average_entry(average: float, held: float, added: float, paid: float) -> float:
    """Rule 6.5: average entry price after adding shares bought or sold short at ``paid``; both counts positive."""
    total = held + added
    return (held * average + added * paid) / total if total > 0.0 else 0.0


# --- 4 Overnight ------------------------------------------------------------------------------------------------


@inlined
def interest(cash: float, cash_rate: float, margin_rate: float, years: float) -> float:
    """Rule 4.1: interest earned, or paid on borrowed cash."""
    return cash * (max(cash_rate * years, -1.0) if cash > 0.0 else margin_rate * years)


@inlined
def borrow_cost(value: float, rate: float, years: float) -> float:
    """Rule 4.1: cost of borrowing shares; ``value`` is the signed value of the position."""
    return positive(-value) * rate * years


@inlined
def funding_cost(value: float, yearly: float, years: float, at_bar: float) -> float:
    """Rule 4.1: funding that a position of signed ``value`` pays."""
    return value * (yearly * years + at_bar)


@inlined
def reinvested(mark: float, split: float, dividend: float) -> float:
    """Rule 4.3: the factor by which reinvesting a dividend multiplies the shares."""
    close = mark / split
    return close / (close - dividend)


# --- 5 Stops ----------------------------------------------------------------------------------------------------


@inlined
def stop_price(entry: float, stop_loss: float, side: float) -> float:
    """Rule 5.1: the stop of a position; ``side`` is 1 for a long one and -1 for a short one; a loss of 0 is none."""
    return entry * (1.0 - side * stop_loss) if stop_loss > 0.0 else -side * math.inf


@inlined
def target_price(entry: float, take_profit: float, side: float) -> float:
    """Rule 5.1: the target of a position; a profit of 0 is none."""
    return entry * (1.0 + side * take_profit) if take_profit > 0.0 else side * math.inf


@inlined
def exit_price(side: float, stop: float, target: float, first: float, best: float, worst: float) -> float:
    """Rule 5.2: price at which a position leaves the bar, 0 when it stays.

    A short position is the mirror image of a long one: where prices are compared they are multiplied by ``side``.

    Args:
        side: 1 for a long position, -1 for a short one.
        stop: Price of the stop.
        target: Price of the target.
        first: Open.
        best: High for a long position, low for a short one.
        worst: Low for a long position, high for a short one.
    """
    below, above = side * stop * (1.0 + side * ROUNDING), side * target * (1.0 - side * ROUNDING)
    within = target if side * best >= above else 0.0
    within = stop if side * worst <= below else within
    return first if side * first <= below or side * first >= above else within


# --- 6 Mark and observe -----------------------------------------------------------------------------------------


@inlined
def called(equity: float, gross: float, maintenance: float) -> bool:
    """Rule 6.3: whether a margin call stands."""
    return gross > 0.0 and equity < maintenance * gross * (1.0 - ROUNDING)


@inlined
def ruined(equity: float, fraction: float, initial_cash: float, peak: float) -> bool:
    """Rule 7.1: whether the account is bankrupt."""
    return equity <= fraction * (1.0 + ROUNDING) * initial_cash + RESIDUE * peak


@inlined
def unrealized(mark: float, average: float, held: float) -> float:
    """Rule 6.4: profit of a position relative to its average entry price; 0 without a position."""
    if average <= 0.0:
        return 0.0
    return mark / average - 1.0 if held > 0.0 else 1.0 - mark / average
