"""The plain rules: a cash account with proportional costs and no interest, which most training runs use.

A shorter way to the same numbers as ``full``: sums over symbols are kept at fill prices and charged once. Lanes are
taken by the block: what is one number per lane becomes a short loop over the block, for which the compiler uses vector
instructions as it does for loops over symbols, and which no lane's chain of sums, quotients and choices holds up.
"""

from __future__ import annotations

from batchenv.kernel import accounting, lane, night
from batchenv.kernel.jit import inlined, padded, place
from batchenv.kernel.state import CLOSE, F32, F64, VECTOR, Lanes, StepOutput, Work, World

BLOCK = VECTOR
"""Lanes in a block; few enough for their orders to stay in the first cache."""


@inlined
def permit_orders(i: int, t: int, row: int, fill: F64, holdings: F64, equity: float, work: Work) -> None:
    """Rules 1.4, 3.1 and 3.2: cut the orders in ``row`` to what may trade, and add up what they sell and buy."""
    sold = 0.0
    bought = 0.0
    for s in range(padded(work.order.shape[1])):
        held, price = holdings[i, s], fill[t, s]
        kept = accounting.closing(accounting.permitted_sale(work.order[row, s], held), held, price, equity)
        order = kept if price > 0.0 else 0.0
        value = order * price
        work.order[row, s] = order
        sold += accounting.positive(-value)
        bought += accounting.positive(value)
    work.sold[row] = sold
    work.bought[row] = bought


@inlined
def pay_orders(first: int, size: int, world: World, lanes: Lanes, out: StepOutput, work: Work) -> None:
    """Rules 3.3 and 3.4: the factor of the buys, and the cash that the orders of the block leave."""
    fee_rates, slippage_rates = world.parameters.fee_rate, world.parameters.slippage_rate
    for row in range(size):
        i = place(first + row)
        fee_rate, slippage_rate, before = fee_rates[i, 0], slippage_rates[i, 0], lanes.equity[i]
        sold, bought = work.sold[row], work.bought[row]
        sales = accounting.price_paid(sold, -1.0, slippage_rate)
        purchases = accounting.price_paid(bought, 1.0, slippage_rate)
        cash = lanes.cash[i] + sales - accounting.variable_fee(0.0, sales, fee_rate, 0.0)
        need = purchases + accounting.variable_fee(0.0, purchases, fee_rate, 0.0)
        factor = accounting.scarce_factor(cash, need, before)
        factor = factor if need > cash * (1.0 + accounting.ROUNDING) else 1.0
        lanes.cash[i] = accounting.positive(cash - factor * need)
        traded = sales + factor * purchases
        work.factor[row] = factor
        out.equity_before[i] = before
        out.turnover[i] = traded / before
        out.costs[i] = fee_rate * traded + slippage_rate * (sold + factor * bought)


@inlined
def enter_positions(i: int, t: int, row: int, fill: F64, slippage_rate: float, lanes: Lanes, work: Work) -> None:
    """Rule 6.5: update the average entry prices; call before the holdings change."""
    entry, holdings, factor = lanes.entry, lanes.holdings, work.factor[row]
    for s in range(padded(work.order.shape[1])):
        held, order = holdings[i, s], work.order[row, s]
        if order > 0.0:
            paid = accounting.price_paid(fill[t, s], 1.0, slippage_rate)
            entry[i, s] = accounting.average_entry(entry[i, s], held, order * factor, paid)
        elif held + order <= 0.0:
            entry[i, s] = 0.0


@inlined
def settle_orders(i: int, t: int, row: int, mark: F64, holdings: F64, work: Work) -> float:
    """Rules 3.7 and 6.1: move the shares; leave the positions' values at the mark of ``t`` in place of the orders.

    Returns:
        The sum of the values.
    """
    positions, factor = 0.0, work.factor[row]
    for s in range(padded(work.order.shape[1])):
        held = holdings[i, s] + accounting.scaled(work.order[row, s], factor)
        value = held * mark[t, s]
        holdings[i, s] = held
        work.order[row, s] = value
        positions += value
    return positions


@inlined
def value_positions(i: int, t: int, row: int, mark: F64, holdings: F64, work: Work) -> float:
    """Rule 6.1: write the positions' values at the mark of ``t`` into ``row``, and return their sum."""
    positions = 0.0
    for s in range(padded(work.order.shape[1])):
        value = holdings[i, s] * mark[t, s]
        work.order[row, s] = value
        positions += value
    return positions


@inlined
def advance_block(
    first: int,
    stop: int,
    actions: F32,
    observation: F32,
    world: World,
    lanes: Lanes,
    out: StepOutput,
    work: Work,
) -> None:
    """Take the lanes from ``first``, a block of them or as many as there are before ``stop``, from bar t to t+1."""
    market, rules, size = world.market, world.rules, min(work.order.shape[0], stop - first)
    at_close = rules.fill_time == CLOSE
    for row in range(size):
        i = first + row
        if i + lane.AHEAD < stop:
            lane.fetch_lane(i + lane.AHEAD, world, lanes, observation)
        t = lanes.bar[i]
        lane.size_orders(i, t, actions, market.inverse, lanes.holdings, rules, lanes.equity[i], 1.0, work.order[row])
        if market.events[t] and not at_close:
            lanes.cash[i] += night.pass_events(i, row, t, world, lanes, work)
        permit_orders(i, t, row, market.fill, lanes.holdings, lanes.equity[i], work)
    pay_orders(first, size, world, lanes, out, work)
    for row in range(size):
        i = first + row
        t = lanes.bar[i]
        if rules.track_entry:
            enter_positions(i, t, row, market.fill, world.parameters.slippage_rate[i, 0], lanes, work)
        positions = settle_orders(i, t + 1, row, market.mark, lanes.holdings, work)
        if market.events[t] and at_close:
            lanes.cash[i] += night.pass_events(i, row, t, world, lanes, work)
            positions = value_positions(i, t + 1, row, market.mark, lanes.holdings, work)
        lanes.equity[i] = lanes.cash[i] + positions
        lanes.bar[i] = t + 1
    for row in range(size):
        lane.finish_lane(place(first + row), world, lanes, out)
    lane.reward_lanes(first, first + size, rules, lanes, out)
    for row in range(size):
        lane.observe_lane(first + row, work.order[row], market, rules, lanes, observation)
