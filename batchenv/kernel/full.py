"""The full rules, in the order of ``docs/accounting.md``: margin calls, overnight, fills, stops."""

from __future__ import annotations

import math

from batchenv.kernel import accounting, lane
from batchenv.kernel.jit import inlined
from batchenv.kernel.state import CLOSE, F32, F64, NEXT_CLOSE, NIGHT, STOPS, Lanes, StepOutput, World

ORDER, REDUCE, INCREASE = 0, 1, 2
"""Rows of the scratch matrix ``work``, float64 ``[3, S]``: signed shares, and the two parts of rule 3.2."""


@inlined
def by_symbol(values: F64, i: int, s: int) -> float:
    """Return lane ``i``'s setting for symbol ``s`` from ``[N, S]`` or ``[N, 1]``."""
    found: float = values[i, s if values.shape[1] > 1 else 0]
    return found


@inlined
def bar_volume(world: World, bar: int, s: int) -> float:
    """Return the volume of a bar, 1 where no rule looks at volumes."""
    volume: float = world.market.volume[bar, s] if world.market.volume.shape[0] > 0 else 1.0
    return volume


@inlined
def permit_order(i: int, t: int, bar: int, s: int, world: World, lanes: Lanes, work: F64) -> None:
    """Rules 1.4, 3.1 and 3.2: cut an order to what may trade, and part it."""
    rules, fill, held = world.rules, world.market.fill[t, s], lanes.holdings[i, s]
    order, reduce, increase = work[ORDER, s], 0.0, 0.0
    barred = world.parameters.tradable.shape[1] > 0 and not world.parameters.tradable[i, s]
    if fill > 0.0 and not barred:
        if not rules.allow_short:
            order = accounting.permitted_sale(order, held)
        if rules.impact > 0.0 or rules.participation > 0.0:
            order = accounting.permitted_volume(order, rules.participation, bar_volume(world, bar, s))
        order = accounting.closing(order, held)
        reduce = accounting.reducing_part(order, held)
        increase = abs(order) - reduce
        if reduce < abs(held):
            reduce = accounting.whole_lots(reduce, world.costs.lot[s])
            reduce = accounting.large_enough(reduce, fill, rules.min_notional)
    else:
        order = 0.0
    work[ORDER, s] = order
    work[REDUCE, s] = reduce
    work[INCREASE, s] = increase


@inlined
def fee_of(i: int, s: int, quantity: float, paid: float, sale_of_long: bool, world: World) -> float:
    """Rule 3.3: the fee of an order."""
    if quantity <= 0.0:
        return 0.0
    costs, notional = world.costs, quantity * paid
    rate = by_symbol(world.parameters.fee_rate, i, s)
    variable = accounting.variable_fee(quantity, notional, rate, costs.per_share[s])
    most = notional if sale_of_long else math.inf
    return accounting.order_fee(variable, costs.fixed[s], costs.minimum[s], most)


@inlined
def common_factor(i: int, t: int, bar: int, world: World, lanes: Lanes, work: F64) -> float:
    """Rule 3.4: the factor of all increasing parts; leaves each order's parts in ``work``."""
    market, rules, costs, parameters = world.market, world.rules, world.costs, world.parameters
    leverage = parameters.leverage[i]
    cash, long, short = lanes.cash[i], 0.0, 0.0
    wanted, slipped, fees, upper, growing, net_added = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for s in range(work.shape[1]):
        permit_order(i, t, bar, s, world, lanes, work)
        held, fill = lanes.holdings[i, s], market.fill[t, s]
        reduce, increase = work[REDUCE, s], work[INCREASE, s]
        quantity = reduce + increase
        value_at = fill if fill > 0.0 else market.mark[t, s]
        if quantity > 0.0:
            side = 1.0 if work[ORDER, s] > 0.0 else -1.0
            rate = by_symbol(parameters.slippage_rate, i, s)
            slip = accounting.slippage(rate, rules.impact, quantity, bar_volume(world, bar, s))
            paid = accounting.price_paid(fill, side, slip)
            cash -= side * reduce * paid
            fees += fee_of(i, s, quantity, paid, held > 0.0 and side < 0.0, world)
            fee_rate, per_share = by_symbol(parameters.fee_rate, i, s), costs.per_share[s]
            upper += max(costs.minimum[s], costs.fixed[s])
            upper += accounting.variable_fee(reduce, reduce * paid, fee_rate, per_share)
            growing += accounting.variable_fee(increase, increase * paid, fee_rate, per_share)
            wanted += increase * fill
            slipped += increase * fill * slip
            net_added += side * increase * fill
            held += side * reduce
        long += accounting.positive(held) * value_at
        short += accounting.positive(-held) * value_at
    available = accounting.room(cash, long, short, leverage)
    factor, before = 1.0, lanes.equity[i]
    if wanted + leverage * (slipped + fees) > available * (1.0 + accounting.ROUNDING):
        bound = wanted + leverage * (slipped + growing)
        factor = accounting.scarce_factor(available - leverage * upper, bound, before)
    limit = rules.net_limit
    if limit > 0.0:
        net, most, pace = long - short, limit * (cash + long - short - upper), limit * (slipped + growing)
        factor = accounting.net_factor(factor, most - net, pace + net_added, before)
        factor = accounting.net_factor(factor, most + net, pace - net_added, before)
    return factor


@inlined
def settle(
    i: int, s: int, quantity: float, closed: bool, added: float, fill: float, side: float, volume: float,
    world: World, lanes: Lanes,
) -> tuple[float, float]:  # fmt: skip
    """Rules 3.3, 3.7 and 6.5: one fill; return its notional and its costs, in money.

    Args:
        i: Lane.
        s: Symbol.
        quantity: Shares filled.
        closed: Whether the fill closes the old position, or there was none.
        added: Shares of it that increase exposure.
        fill: Fill price.
        side: 1 for a buy, -1 for a sell.
        volume: Volume of the fill bar.
        world: Market and rules.
        lanes: State, changed in place.
    """
    held = lanes.holdings[i, s]
    slip = accounting.slippage(by_symbol(world.parameters.slippage_rate, i, s), world.rules.impact, quantity, volume)
    paid = accounting.price_paid(fill, side, slip)
    fee = fee_of(i, s, quantity, paid, held > 0.0 and side < 0.0, world)
    lanes.cash[i] -= side * quantity * paid + fee
    left = 0.0 if closed else held
    lanes.holdings[i, s] = left + side * (added if closed else quantity)
    if world.rules.track_entry and added > 0.0:
        kept = 0.0 if closed else abs(held)
        lanes.entry[i, s] = accounting.average_entry(lanes.entry[i, s], kept, added, paid)
    elif world.rules.track_entry and closed:
        lanes.entry[i, s] = 0.0
    return quantity * paid, fee + quantity * fill * slip


@inlined
def fill_orders(i: int, t: int, bar: int, world: World, lanes: Lanes, work: F64) -> tuple[float, float]:
    """Rule 3: fill the orders decided at ``t`` in ``bar``; return notional traded and costs, in money."""
    traded, costs = 0.0, 0.0
    factor = common_factor(i, t, bar, world, lanes, work)
    for s in range(work.shape[1]):
        fill, reduce, held = world.market.fill[t, s], work[REDUCE, s], lanes.holdings[i, s]
        added = accounting.whole_lots(factor * work[INCREASE, s], world.costs.lot[s])
        added = accounting.large_enough(added, fill, world.rules.min_notional)
        if reduce + added > 0.0:
            side = 1.0 if work[ORDER, s] > 0.0 else -1.0
            notional, cost = settle(
                i, s, reduce + added, reduce == abs(held), added, fill, side, bar_volume(world, bar, s), world, lanes
            )
            traded += notional
            costs += cost
    if world.rules.cash_account:
        lanes.cash[i] = accounting.positive(lanes.cash[i])
    return traded, costs


@inlined
def pass_night(i: int, t: int, world: World, lanes: Lanes, work: F64) -> None:
    """Rule 4: interest, borrow, funding, splits, dividends and delistings between ``t`` and t+1."""
    market, rules, costs = world.market, world.rules, world.costs
    years, cash = market.years[t], lanes.cash[i]
    change = accounting.interest(cash, rules.cash_rate, rules.margin_rate, years)
    for s in range(work.shape[1]):
        held = lanes.holdings[i, s]
        value = held * market.mark[t, s]
        change -= accounting.borrow_cost(value, by_symbol(world.parameters.borrow_rate, i, s), years)
        at_bar = market.funding[t + 1, s] if market.funding.shape[0] > 0 else 0.0
        change -= accounting.funding_cost(value, costs.funding_rate[s], years, at_bar)
        if market.split.shape[0] > 0:
            split, dividend = market.split[t + 1, s], market.dividend[t + 1, s]
            multiple = split
            if dividend > 0.0 and rules.reinvest:
                multiple *= accounting.reinvested(market.mark[t, s], split, dividend)
            elif dividend > 0.0:
                change += held * split * dividend
            lanes.holdings[i, s] = held * multiple
            work[ORDER, s] *= multiple
            if rules.track_entry:
                lanes.entry[i, s] /= multiple
        if t == market.last_bar[s]:
            change += value * (1.0 - rules.haircut)
            lanes.holdings[i, s] = 0.0
            if rules.track_entry:
                lanes.entry[i, s] = 0.0
    lanes.cash[i] = cash + change


@inlined
def watch_stops(i: int, bar: int, world: World, lanes: Lanes, work: F64) -> tuple[float, float]:
    """Rule 5: close the positions whose stop or target ``bar`` reaches; return notional traded and costs, in money."""
    market, rules = world.market, world.rules
    traded, costs = 0.0, 0.0
    for s in range(work.shape[1]):
        held = lanes.holdings[i, s]
        prices = (market.open[bar, s], market.high[bar, s], market.low[bar, s])
        price = 0.0
        if prices[0] > 0.0 and held > 0.0:
            price = accounting.long_exit(lanes.entry[i, s], rules.stop_loss, rules.take_profit, prices)
        elif prices[0] > 0.0 and held < 0.0:
            price = accounting.short_exit(lanes.entry[i, s], rules.stop_loss, rules.take_profit, prices)
        if price > 0.0:
            side = -1.0 if held > 0.0 else 1.0
            volume = bar_volume(world, bar, s)
            notional, cost = settle(i, s, abs(held), True, 0.0, price, side, volume, world, lanes)
            traded += notional
            costs += cost
            work[ORDER, s] = 0.0
    return traded, costs


@inlined
def advance_lane(i: int, actions: F32, world: World, lanes: Lanes, out: StepOutput, work: F64) -> None:
    """Take lane ``i`` from its bar t to t+1; ``work`` is scratch, float64 ``[3, S]``."""
    market, rules = world.market, world.rules
    t, before, n = lanes.bar[i], lanes.equity[i], work.shape[1]
    leverage = world.parameters.leverage[i]
    lane.size_orders(i, t, actions, market.mark, lanes.holdings, rules, before, leverage, work[ORDER])
    for s in range(n):
        order = -lanes.holdings[i, s] if lanes.margin_call[i] else work[ORDER, s]
        work[ORDER, s] = accounting.sizeable(order, market.mark[t, s], before)

    traded, costs = 0.0, 0.0
    for event in range(CLOSE, NEXT_CLOSE + 1):
        if event == rules.fill_time:
            notional, cost = fill_orders(i, t, t if event == CLOSE else t + 1, world, lanes, work)
            traded += notional
            costs += cost
        elif event == NIGHT:
            pass_night(i, t, world, lanes, work)
        elif event == STOPS and rules.stops:
            notional, cost = watch_stops(i, t + 1, world, lanes, work)
            traded += notional
            costs += cost

    positions, gross = 0.0, 0.0
    for s in range(n):
        value = lanes.holdings[i, s] * market.mark[t + 1, s]
        positions += value
        gross += abs(value)
    after = lanes.cash[i] + positions
    lanes.bar[i] = t + 1
    lanes.margin_call[i] = accounting.called(after, gross, rules.maintenance_margin)
    lane.finish_lane(i, before, after, traded / before, costs, rules, lanes, out)
    out.terminated[i] = accounting.ruined(after, rules.bankruptcy_fraction, world.parameters.initial_cash[i])
    lane.observe_lane(i, market, rules, lanes, out.observation)
