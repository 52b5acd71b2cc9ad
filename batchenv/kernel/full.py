"""The full rules, in the order of ``docs/accounting.md``: margin calls, overnight, fills, stops.

Every rule is a short loop over symbols that the compiler turns into vector instructions: no calls, no branches, results
in rows of ``work``. Whether a rule is on at all is asked outside its loop.
"""

from __future__ import annotations

import math

from batchenv.kernel import accounting, lane
from batchenv.kernel.jit import inlined, padded
from batchenv.kernel.state import CLOSE, F32, F64, NEXT_CLOSE, NIGHT, STOPS, Bool, Lanes, StepOutput, World

ORDER, SIDE, REDUCE, INCREASE, SLIP, FEE_RATE, SLIPPAGE_RATE, BORROW_RATE, EXIT, VALUE = range(10)
"""Rows of the scratch matrix ``work``, float64 ``[ROWS, W]``: signed shares decided (2); of the fill at hand 1 for a
buy and -1 for a sell, the shares of its two parts (3.2), slippage (3.3); the lane's rates; exit prices (5); values of
the positions (6.1)."""
ROWS = 10


@inlined
def spread(values: F64, i: int, row: int, work: F64) -> None:
    """Write lane ``i``'s settings from ``values``, ``[N, W]`` or ``[N, 1]``, into a row of ``work``."""
    if values.shape[1] > 1:
        for s in range(padded(work.shape[1])):
            work[row, s] = values[i, s]
    else:
        value = values[i, 0]
        for s in range(padded(work.shape[1])):
            work[row, s] = value


# --- 2 Decide ---------------------------------------------------------------------------------------------------


@inlined
def decide_orders(i: int, t: int, actions: F32, world: World, lanes: Lanes, work: F64) -> None:
    """Rule 2: the orders decided at ``t``, which a margin call overrules."""
    rules, inverse, equity, holdings = world.rules, world.market.inverse, lanes.equity[i], lanes.holdings
    if lanes.margin_call[i]:
        for s in range(padded(work.shape[1])):
            work[ORDER, s] = -holdings[i, s]
    else:
        leverage = world.parameters.leverage[i]
        lane.size_orders(i, t, actions, inverse, holdings, rules, equity, leverage, work[ORDER])
    for s in range(padded(work.shape[1])):
        work[ORDER, s] = accounting.sizeable(work[ORDER, s], inverse[t, s], equity)


# --- 3 Fill -----------------------------------------------------------------------------------------------------


@inlined
def permit_orders(i: int, t: int, bar: int, world: World, lanes: Lanes, work: F64) -> None:
    """Rules 1.4 and 3.1: cut the orders to what may trade."""
    rules, fill, volume, holdings = world.rules, world.market.fill, world.market.volume, lanes.holdings
    tradable: Bool = world.parameters.tradable
    if tradable.shape[1] > 0:
        for s in range(padded(work.shape[1])):
            work[ORDER, s] = work[ORDER, s] if tradable[i, s] else 0.0
    if not rules.allow_short:
        for s in range(padded(work.shape[1])):
            work[ORDER, s] = accounting.permitted_sale(work[ORDER, s], holdings[i, s])
    if rules.impact > 0.0 or rules.participation > 0.0:
        for s in range(padded(work.shape[1])):
            work[ORDER, s] = accounting.permitted_volume(work[ORDER, s], rules.participation, volume[bar, s])
    for s in range(padded(work.shape[1])):
        work[ORDER, s] = work[ORDER, s] if fill[t, s] > 0.0 else 0.0


@inlined
def part_orders(i: int, t: int, world: World, lanes: Lanes, work: F64) -> None:
    """Rules 3.2, 3.5 and 3.6: part the orders, the reducing parts in their final size."""
    fill, costs, least, holdings = world.market.fill, world.costs, world.rules.min_notional, lanes.holdings
    for s in range(padded(work.shape[1])):
        held = holdings[i, s]
        order = accounting.closing(work[ORDER, s], held)
        reduce = accounting.reducing_part(order, held)
        whole = accounting.whole_lots(reduce, costs.lot[s], costs.per_lot[s])
        in_lots = accounting.large_enough(whole, fill[t, s], least)
        work[SIDE, s] = 1.0 if order > 0.0 else -1.0
        work[INCREASE, s] = abs(order) - reduce
        work[REDUCE, s] = in_lots if reduce < abs(held) else reduce


@inlined
def slip_orders(bar: int, world: World, work: F64) -> None:
    """Rule 3.3: the slippage of the fills at hand, in ``bar``."""
    impact, per_volume = world.rules.impact, world.market.per_volume
    if impact > 0.0:
        for s in range(padded(work.shape[1])):
            root = accounting.impact_slippage(impact, work[REDUCE, s] + work[INCREASE, s], per_volume[bar, s])
            work[SLIP, s] = accounting.slippage(work[SLIPPAGE_RATE, s], root)
    else:
        for s in range(padded(work.shape[1])):
            work[SLIP, s] = accounting.slippage(work[SLIPPAGE_RATE, s], 0.0)


@inlined
def fee_of(s: int, held: float, price: float, world: World, work: F64) -> float:
    """Rule 3.3: the fee of a fill."""
    costs, quantity = world.costs, work[REDUCE, s] + work[INCREASE, s]
    notional = quantity * accounting.price_paid(price, work[SIDE, s], work[SLIP, s])
    variable = accounting.variable_fee(quantity, notional, work[FEE_RATE, s], costs.per_share[s])
    most = notional if held > 0.0 and work[SIDE, s] < 0.0 else math.inf
    fee = accounting.order_fee(variable, costs.fixed[s], costs.minimum[s], most)
    return fee if quantity > 0.0 else 0.0


@inlined
def common_factor(i: int, t: int, world: World, lanes: Lanes, work: F64) -> float:
    """Rule 3.4: the factor of all increasing parts."""
    mark, fill, holdings = world.market.mark, world.market.fill, lanes.holdings
    leverage, before, limit = world.parameters.leverage[i], lanes.equity[i], world.rules.net_limit
    cash, long, short, wanted, slipped, fees = lanes.cash[i], 0.0, 0.0, 0.0, 0.0, 0.0
    for s in range(padded(work.shape[1])):
        price, held, reduced = fill[t, s], holdings[i, s], work[SIDE, s] * work[REDUCE, s]
        cash -= reduced * accounting.price_paid(price, work[SIDE, s], work[SLIP, s])
        value = (held + reduced) * (price if price > 0.0 else mark[t, s])
        long += accounting.positive(value)
        short += accounting.positive(-value)
        wanted += work[INCREASE, s] * price
        slipped += work[INCREASE, s] * price * work[SLIP, s]
        fees += fee_of(s, held, price, world, work)
    available = accounting.room(cash, long, short, leverage)
    scarce = wanted + leverage * (slipped + fees) > available * (1.0 + accounting.ROUNDING)
    if not scarce and limit <= 0.0:
        return 1.0
    upper, growing, net_added = bound_fees(t, world, work)
    factor = 1.0
    if scarce:
        bound = wanted + leverage * (slipped + growing)
        factor = accounting.scarce_factor(available - leverage * upper, bound, before)
    if limit > 0.0:
        net, most, pace = long - short, limit * (cash + long - short - upper), limit * (slipped + growing)
        factor = accounting.net_factor(factor, most - net, pace + net_added, before)
        factor = accounting.net_factor(factor, most + net, pace - net_added, before)
    return factor


@inlined
def bound_fees(t: int, world: World, work: F64) -> tuple[float, float, float]:
    """Rule 3.4: A and U, which bound the fees, and D, the net value of the increasing parts."""
    costs, fill = world.costs, world.market.fill
    upper, growing, net_added = 0.0, 0.0, 0.0
    for s in range(padded(work.shape[1])):
        reduce, increase, rate, per_share = work[REDUCE, s], work[INCREASE, s], work[FEE_RATE, s], costs.per_share[s]
        paid = accounting.price_paid(fill[t, s], work[SIDE, s], work[SLIP, s])
        least = max(costs.minimum[s], costs.fixed[s])
        upper += least if reduce + increase > 0.0 else 0.0
        upper += accounting.variable_fee(reduce, reduce * paid, rate, per_share)
        growing += accounting.variable_fee(increase, increase * paid, rate, per_share)
        net_added += work[SIDE, s] * increase * fill[t, s]
    return upper, growing, net_added


@inlined
def scale_orders(t: int, factor: float, world: World, work: F64) -> None:
    """Rules 3.4 to 3.6: the increasing parts in their final size."""
    fill, costs, least = world.market.fill, world.costs, world.rules.min_notional
    for s in range(padded(work.shape[1])):
        added = accounting.whole_lots(factor * work[INCREASE, s], costs.lot[s], costs.per_lot[s])
        work[INCREASE, s] = accounting.large_enough(added, fill[t, s], least)


@inlined
def enter_positions(i: int, prices: F64, row: int, lanes: Lanes, work: F64) -> None:
    """Rule 6.5: the average entry prices after the fills at hand; call before the holdings change."""
    entry, holdings = lanes.entry, lanes.holdings
    for s in range(padded(work.shape[1])):
        size, reduce, added = abs(holdings[i, s]), work[REDUCE, s], work[INCREASE, s]
        paid = accounting.price_paid(prices[row, s], work[SIDE, s], work[SLIP, s])
        kept = 0.0 if reduce == size else size
        grown = accounting.average_entry(entry[i, s], kept, added, paid)
        entry[i, s] = grown if added > 0.0 or kept == 0.0 else entry[i, s]


@inlined
def settle(i: int, prices: F64, row: int, bar: int, world: World, lanes: Lanes, work: F64) -> tuple[float, float]:
    """Rules 3.3, 3.7 and 6.5: settle the fills at hand; return their notional and their costs, in money.

    Args:
        i: Lane.
        prices: Fill prices, in one of the rows.
        row: That row.
        bar: Bar that they fill in.
        world: Market and rules.
        lanes: State, changed in place.
        work: Scratch: the fills at hand.
    """
    slip_orders(bar, world, work)
    if world.rules.track_entry:
        enter_positions(i, prices, row, lanes, work)
    holdings = lanes.holdings
    received, traded, slipped, fees = 0.0, 0.0, 0.0, 0.0
    for s in range(padded(work.shape[1])):
        held, side, reduce, added = holdings[i, s], work[SIDE, s], work[REDUCE, s], work[INCREASE, s]
        notional = (reduce + added) * accounting.price_paid(prices[row, s], side, work[SLIP, s])
        fees += fee_of(s, held, prices[row, s], world, work)
        received -= side * notional
        traded += notional
        slipped += (reduce + added) * prices[row, s] * work[SLIP, s]
        left = 0.0 if reduce == abs(held) else held + side * reduce
        holdings[i, s] = left + side * added
    lanes.cash[i] += received - fees
    return traded, fees + slipped


@inlined
def fill_orders(i: int, t: int, bar: int, world: World, lanes: Lanes, work: F64) -> tuple[float, float]:
    """Rule 3: fill the orders decided at ``t`` in ``bar``; return notional traded and costs, in money."""
    permit_orders(i, t, bar, world, lanes, work)
    part_orders(i, t, world, lanes, work)
    slip_orders(bar, world, work)
    factor = common_factor(i, t, world, lanes, work)
    scale_orders(t, factor, world, work)
    traded, costs = settle(i, world.market.fill, t, bar, world, lanes, work)
    if world.rules.cash_account:
        lanes.cash[i] = accounting.positive(lanes.cash[i])
    return traded, costs


# --- 4 Overnight ------------------------------------------------------------------------------------------------


@inlined
def carry_positions(i: int, t: int, world: World, lanes: Lanes, work: F64) -> float:
    """Rule 4.1: what borrow and funding cost between ``t`` and t+1, in money."""
    mark, funding, holdings, yearly = world.market.mark, world.market.funding, lanes.holdings, world.costs.funding_rate
    years, borrowed, funded = world.market.years[t], 0.0, 0.0
    spread(world.parameters.borrow_rate, i, BORROW_RATE, work)
    for s in range(padded(work.shape[1])):
        value = holdings[i, s] * mark[t, s]
        borrowed += accounting.borrow_cost(value, work[BORROW_RATE, s], years)
        funded += accounting.funding_cost(value, yearly[s], years, 0.0)
    if funding.shape[0] > 0:
        for s in range(padded(work.shape[1])):
            value = holdings[i, s] * mark[t, s]
            funded += accounting.funding_cost(value, 0.0, years, funding[t + 1, s])
    return borrowed + funded


@inlined
def split_positions(i: int, t: int, world: World, lanes: Lanes, work: F64) -> float:
    """Rules 4.2 and 4.3: splits and dividends at t+1; return the dividends paid, in money."""
    mark, split, dividend = world.market.mark, world.market.split, world.market.dividend
    holdings, entry, rules, changed, paid = lanes.holdings, lanes.entry, world.rules, 0, 0.0
    for s in range(padded(work.shape[1])):
        changed += 1 if split[t + 1, s] != 1.0 or dividend[t + 1, s] > 0.0 else 0
    if changed > 0:
        for s in range(padded(work.shape[1])):
            held, multiple = holdings[i, s], split[t + 1, s]
            if dividend[t + 1, s] > 0.0 and rules.reinvest:
                multiple *= accounting.reinvested(mark[t, s], split[t + 1, s], dividend[t + 1, s])
            elif dividend[t + 1, s] > 0.0:
                paid += held * split[t + 1, s] * dividend[t + 1, s]
            holdings[i, s] = held * multiple
            work[ORDER, s] *= multiple
            if rules.track_entry:
                entry[i, s] /= multiple
    return paid


@inlined
def delist_positions(i: int, t: int, world: World, lanes: Lanes) -> float:
    """Rule 4.4: give up the symbols that end at ``t``; return what they bring, in money."""
    mark, last_bar, rules = world.market.mark, world.market.last_bar, world.rules
    ended, paid = 0, 0.0
    for s in range(padded(last_bar.shape[0])):
        ended += 1 if last_bar[s] == t else 0
    if ended > 0:
        for s in range(padded(last_bar.shape[0])):
            if t == last_bar[s]:
                paid += lanes.holdings[i, s] * mark[t, s] * (1.0 - rules.haircut)
                lanes.holdings[i, s] = 0.0
                if rules.track_entry:
                    lanes.entry[i, s] = 0.0
    return paid


@inlined
def pass_night(i: int, t: int, world: World, lanes: Lanes, work: F64) -> None:
    """Rule 4: interest, borrow, funding, splits, dividends and delistings between ``t`` and t+1."""
    rules, cash = world.rules, lanes.cash[i]
    change = accounting.interest(cash, rules.cash_rate, rules.margin_rate, world.market.years[t])
    if not rules.cash_account:  # which has no shorts and no funding
        change -= carry_positions(i, t, world, lanes, work)
    if world.market.split.shape[0] > 0:
        change += split_positions(i, t, world, lanes, work)
    change += delist_positions(i, t, world, lanes)
    lanes.cash[i] = cash + change


# --- 5 Stops ----------------------------------------------------------------------------------------------------


@inlined
def watch_stops(i: int, bar: int, world: World, lanes: Lanes, work: F64) -> tuple[float, float]:
    """Rule 5: close the positions whose stop or target ``bar`` reaches; return notional traded and costs, in money."""
    market, rules, holdings, entry = world.market, world.rules, lanes.holdings, lanes.entry
    opens, highs, lows, reached = market.open, market.high, market.low, 0
    for s in range(padded(work.shape[1])):
        held, average, first, high, low = holdings[i, s], entry[i, s], opens[bar, s], highs[bar, s], lows[bar, s]
        side = 1.0 if held > 0.0 else -1.0
        stop = accounting.stop_price(average, rules.stop_loss, side)
        target = accounting.target_price(average, rules.take_profit, side)
        best, worst = (high, low) if held > 0.0 else (low, high)
        price = accounting.exit_price(side, stop, target, first, best, worst)
        price = price if first > 0.0 and held != 0.0 else 0.0
        work[EXIT, s] = price
        reached += 1 if price > 0.0 else 0
    if reached == 0:
        return 0.0, 0.0
    for s in range(padded(work.shape[1])):
        held, stays = holdings[i, s], work[EXIT, s] <= 0.0
        work[SIDE, s] = -1.0 if held > 0.0 else 1.0
        work[REDUCE, s] = 0.0 if stays else abs(held)
        work[INCREASE, s] = 0.0
        work[ORDER, s] = work[ORDER, s] if stays else 0.0
    return settle(i, work, EXIT, bar, world, lanes, work)


@inlined
def advance_lane(i: int, actions: F32, world: World, lanes: Lanes, out: StepOutput, work: F64) -> None:
    """Take lane ``i`` from its bar t to t+1; ``work`` is scratch, float64 ``[ROWS, W]``."""
    market, rules = world.market, world.rules
    t, before = lanes.bar[i], lanes.equity[i]
    decide_orders(i, t, actions, world, lanes, work)
    spread(world.parameters.fee_rate, i, FEE_RATE, work)
    spread(world.parameters.slippage_rate, i, SLIPPAGE_RATE, work)

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

    mark, holdings, positions, gross = market.mark, lanes.holdings, 0.0, 0.0
    for s in range(padded(work.shape[1])):
        value = holdings[i, s] * mark[t + 1, s]
        work[VALUE, s] = value
        positions += value
        gross += abs(value)
    after = lanes.cash[i] + positions
    lanes.bar[i] = t + 1
    lanes.margin_call[i] = accounting.called(after, gross, rules.maintenance_margin)
    out.equity_before[i] = before
    out.turnover[i] = traded / before
    out.costs[i] = costs
    lane.finish_lane(i, after, world, lanes, out)
    lane.observe_lane(i, work[VALUE], market, rules, lanes, out.observation)
