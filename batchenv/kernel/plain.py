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
    sold, bought, tiny = 0.0, 0.0, accounting.RESIDUE * equity
    for s in range(padded(work.order.shape[1])):
        price = fill[t, s]
        kept = accounting.sale_of_held(work.order[row, s], holdings[i, s], price, tiny)
        order = kept if price > 0.0 else 0.0
        value = order * price
        work.order[row, s] = order
        sold += accounting.negative(value)
        bought += accounting.positive(value)
    work.sold[row] = -sold
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
def pass_events(first: int, size: int, world: World, lanes: Lanes, work: Work) -> None:
    """Rules 4.2 to 4.4: the lanes of the block whose bar is followed by a split, a dividend or a delisting."""
    for row in range(size):
        i = first + row
        t = lanes.bar[i]
        if world.market.events[t]:
            lanes.cash[i] += night.pass_events(i, row, t, world, lanes, work)


@inlined
def value_positions(first: int, size: int, world: World, lanes: Lanes, work: Work) -> None:
    """Rule 6.1: value the positions of the same lanes again, after the night that followed their fills."""
    mark, holdings = world.market.mark, lanes.holdings
    for row in range(size):
        i = first + row
        t, positions = lanes.bar[i], 0.0
        if world.market.events[t]:
            for s in range(padded(work.order.shape[1])):
                value = holdings[i, s] * mark[t + 1, s]
                work.order[row, s] = value
                positions += value
            lanes.equity[i] = lanes.cash[i] + positions


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
    at_close, eventful = rules.fill_time == CLOSE, False
    for row in range(size):
        i = first + row
        if i + lane.AHEAD < stop:
            lane.fetch_lane(i + lane.AHEAD, world, lanes)
        t = lanes.bar[i]
        lane.size_orders(i, t, actions, market.inverse, lanes.holdings, rules, lanes.equity[i], 1.0, work.order[row])
        eventful = eventful or market.events[t]
    if eventful and not at_close:
        pass_events(first, size, world, lanes, work)
    for row in range(size):
        i = first + row
        lane.fetch_observation(i, world, lanes, observation)
        permit_orders(i, lanes.bar[i], row, market.fill, lanes.holdings, lanes.equity[i], work)
    pay_orders(first, size, world, lanes, out, work)
    for row in range(size):
        i = first + row
        t = lanes.bar[i]
        if rules.track_entry:
            enter_positions(i, t, row, market.fill, world.parameters.slippage_rate[i, 0], lanes, work)
        lanes.equity[i] = lanes.cash[i] + settle_orders(i, t + 1, row, market.mark, lanes.holdings, work)
    if eventful and at_close:
        pass_events(first, size, world, lanes, work)
        value_positions(first, size, world, lanes, work)
    for row in range(size):
        lanes.bar[first + row] += 1
    for row in range(size):
        lane.finish_lane(place(first + row), world, lanes, out)
    lane.reward_lanes(first, first + size, rules, lanes, out)
    for row in range(size):
        lane.observe_lane(first + row, work.order[row], market, rules, lanes, observation)
