"""The plain rules: a cash account with proportional costs and nothing overnight, which most training runs use.

A shorter way to the same numbers as ``full``: sums over symbols are kept at fill prices and charged once.
"""

from __future__ import annotations

from batchenv.kernel import accounting, lane
from batchenv.kernel.jit import inlined, padded
from batchenv.kernel.state import F32, F64, Lanes, StepOutput, World


@inlined
def permit_orders(i: int, t: int, fill: F64, holdings: F64, order: F64) -> tuple[float, float]:
    """Rules 1.4 and 3.1: cut ``order`` to what may trade; return the sales and purchases at fill prices, in money."""
    sold = 0.0
    bought = 0.0
    for s in range(padded(order.shape[0])):
        kept = accounting.permitted_sale(order[s], holdings[i, s])
        order[s] = kept if fill[t, s] > 0.0 else 0.0
        value = order[s] * fill[t, s]
        sold += accounting.positive(-value)
        bought += accounting.positive(value)
    return sold, bought


@inlined
def enter_positions(
    i: int, t: int, fill: F64, holdings: F64, entry: F64, slippage_rate: float, factor: float, order: F64
) -> None:
    """Rule 6.5: update the average entry prices; call before the holdings change."""
    for s in range(padded(order.shape[0])):
        held = holdings[i, s]
        if order[s] > 0.0:
            paid = accounting.price_paid(fill[t, s], 1.0, slippage_rate)
            entry[i, s] = accounting.average_entry(entry[i, s], held, order[s] * factor, paid)
        elif held + order[s] <= 0.0:
            entry[i, s] = 0.0


@inlined
def settle_orders(i: int, t: int, mark: F64, holdings: F64, factor: float, order: F64) -> float:
    """Rules 3.7 and 6.1: move the shares; return the value of the positions at the mark of bar ``t``."""
    positions = 0.0
    for s in range(padded(order.shape[0])):
        held = holdings[i, s] + accounting.scaled(order[s], factor)
        holdings[i, s] = held
        positions += held * mark[t, s]
    return positions


@inlined
def advance_lane(i: int, actions: F32, world: World, lanes: Lanes, out: StepOutput, order: F64) -> None:
    """Take lane ``i`` from its bar t to t+1; ``order`` is scratch, float64 ``[W]``."""
    market, rules = world.market, world.rules
    fee_rate, slippage_rate = world.parameters.fee_rate[i, 0], world.parameters.slippage_rate[i, 0]
    t, before = lanes.bar[i], lanes.equity[i]
    lane.size_orders(i, t, actions, market.inverse, lanes.holdings, rules, before, 1.0, order)
    sold, bought = permit_orders(i, t, market.fill, lanes.holdings, order)

    sales = accounting.price_paid(sold, -1.0, slippage_rate)
    purchases = accounting.price_paid(bought, 1.0, slippage_rate)
    cash = lanes.cash[i] + sales - accounting.variable_fee(0.0, sales, fee_rate, 0.0)
    need = purchases + accounting.variable_fee(0.0, purchases, fee_rate, 0.0)
    factor = 1.0
    if need > cash * (1.0 + accounting.ROUNDING):
        factor = accounting.scarce_factor(cash, need, before)
    lanes.cash[i] = accounting.positive(cash - factor * need)
    if rules.track_entry:
        enter_positions(i, t, market.fill, lanes.holdings, lanes.entry, slippage_rate, factor, order)
    after = lanes.cash[i] + settle_orders(i, t + 1, market.mark, lanes.holdings, factor, order)

    lanes.bar[i] = t + 1
    traded = sales + factor * purchases
    costs = fee_rate * traded + slippage_rate * (sold + factor * bought)
    lane.finish_lane(i, before, after, traded / before, costs, lanes, out)
    out.terminated[i] = accounting.ruined(after, rules.bankruptcy_fraction, world.parameters.initial_cash[i])
    lane.observe_lane(i, market, rules, lanes, out.observation)
