"""The full rules, in the order of ``docs/accounting.md``: margin calls, overnight, fills, stops.

Every rule is a short loop over symbols that the compiler turns into vector instructions: no calls, no branches, results
in rows of ``work``. Whether a rule is on at all is asked outside its loop. Lanes are taken by the block, each step of
the way for all of them before the next: while one lane waits for a sum the processor works at another.
"""

from __future__ import annotations

import math

from batchenv.kernel import accounting, lane, night
from batchenv.kernel.jit import LINE_F32, LINE_F64, inlined, padded, place, prefetch_row
from batchenv.kernel.state import CLOSE, F32, F64, NEXT_CLOSE, NIGHT, STOPS, Bool, Lanes, StepOutput, Work, World

BLOCK = 8
"""Lanes in a block; few enough for their rows of ``work`` to stay in the first cache."""


@inlined
def fetch_lane(i: int, actions: F32, world: World, lanes: Lanes) -> None:
    """Ask for what the step of lane ``i`` reads beyond `lane.fetch_lane`."""
    market, bar = world.market, lanes.bar[i]
    prefetch_row(market.mark, bar, LINE_F64)
    prefetch_row(market.open, bar + 1, LINE_F64)
    prefetch_row(market.high, bar + 1, LINE_F64)
    prefetch_row(market.low, bar + 1, LINE_F64)
    prefetch_row(market.volume, bar + 1, LINE_F64)
    prefetch_row(market.per_volume, bar + 1, LINE_F64)
    prefetch_row(lanes.entry, i, LINE_F64)
    prefetch_row(actions, i, LINE_F32)


@inlined
def share_settings(world: World, work: Work) -> None:
    """Write the settings that all lanes share into ``work``, once for all of them."""
    settings = world.parameters
    spread_fees(0, world, work, True)
    if settings.borrow_rate.shape[0] == 1:
        for row in range(work.order.shape[0]):
            spread(settings.borrow_rate, 0, work.borrow_rate[row])


@inlined
def spread_settings(first: int, size: int, world: World, work: Work) -> None:
    """Write the settings of the lanes from ``first`` into the rows of ``work``."""
    settings = world.parameters
    for row in range(size):
        spread(settings.fee_rate, first + row, work.fee_rate[row])
        spread(settings.slippage_rate, first + row, work.slippage_rate[row])
    if settings.borrow_rate.shape[0] > 1:
        for row in range(size):
            spread(settings.borrow_rate, first + row, work.borrow_rate[row])


@inlined
def spread_fees(i: int, world: World, work: Work, shared: bool) -> None:
    """Write the fees beside the rate into ``work``: those all share, or those of lane ``i``.

    One row serves all lanes: a row for each costs every account a tenth more time, this only those that differ.
    """
    settings = world.parameters
    if shared == (settings.fee_fixed.shape[0] == 1):
        spread(settings.fee_fixed, i, work.fee_fixed)
    if shared == (settings.fee_per_share.shape[0] == 1):
        spread(settings.fee_per_share, i, work.fee_per_share)
    if shared == (settings.fee_minimum.shape[0] == 1):
        spread(settings.fee_minimum, i, work.fee_minimum)


@inlined
def spread(values: F64, i: int, row: F64) -> None:
    """Write a setting of lane ``i``, one of ``[M, W]`` or ``[M, 1]``, into ``row``."""
    if values.shape[1] > 1:
        for s in range(padded(row.shape[0])):
            row[s] = values[i, s]
    else:
        value = values[i, 0]
        for s in range(padded(row.shape[0])):
            row[s] = value


# --- 2 Decide ---------------------------------------------------------------------------------------------------


@inlined
def decide_orders(i: int, row: int, t: int, actions: F32, world: World, lanes: Lanes, work: Work) -> None:
    """Rule 2: the orders decided at ``t``, which a margin call overrules."""
    rules, inverse, equity, holdings = world.rules, world.market.inverse, lanes.equity[i], lanes.holdings
    if lanes.margin_call[i]:
        for s in range(padded(work.order.shape[1])):
            work.order[row, s] = accounting.sizeable(-holdings[i, s], inverse[t, s], equity)
    else:
        leverage = world.parameters.leverage[i]
        lane.size_orders(i, t, actions, inverse, holdings, rules, equity, leverage, work.order[row])


# --- 3 Fill -----------------------------------------------------------------------------------------------------


@inlined
def permit_orders(i: int, row: int, bar: int, world: World, lanes: Lanes, work: Work) -> None:
    """Rules 1.4 and 3.1: cut the orders to what may trade at most."""
    rules, volume, holdings = world.rules, world.market.volume, lanes.holdings
    tradable: Bool = world.parameters.tradable
    if tradable.shape[1] > 0:
        for s in range(padded(work.order.shape[1])):
            work.order[row, s] = work.order[row, s] if tradable[i, s] else 0.0
    if not rules.allow_short:
        for s in range(padded(work.order.shape[1])):
            work.order[row, s] = accounting.permitted_sale(work.order[row, s], holdings[i, s])
    if rules.impact > 0.0 or rules.participation > 0.0:
        for s in range(padded(work.order.shape[1])):
            work.order[row, s] = accounting.permitted_volume(work.order[row, s], rules.participation, volume[bar, s])


@inlined
def part_orders(i: int, row: int, t: int, world: World, lanes: Lanes, work: Work) -> None:
    """Rules 1.4, 3.2, 3.5 and 3.6: part the orders, the reducing parts in their final size."""
    fill, costs, least, holdings = world.market.fill, world.costs, world.rules.min_notional, lanes.holdings
    tiny = accounting.RESIDUE * lanes.equity[i]
    for s in range(padded(work.order.shape[1])):
        held, price = holdings[i, s], fill[t, s]
        order = accounting.closing(work.order[row, s] if price > 0.0 else 0.0, held, price, tiny)
        reduce = accounting.reducing_part(order, held)
        whole = accounting.whole_lots(reduce, costs.lot[s], costs.per_lot[s])
        in_lots = accounting.large_enough(whole, price, least)
        work.price[row, s] = price
        work.side[row, s] = 1.0 if order > 0.0 else -1.0
        work.increase[row, s] = abs(order) - reduce
        work.reduce[row, s] = in_lots if reduce < abs(held) else reduce


@inlined
def slip_orders(row: int, bar: int, world: World, work: Work) -> None:
    """Rule 3.3: the slippage of the fills at hand, in ``bar``."""
    impact, per_volume = world.rules.impact, world.market.per_volume
    if impact > 0.0:
        for s in range(padded(work.order.shape[1])):
            root = accounting.impact_slippage(impact, work.reduce[row, s] + work.increase[row, s], per_volume[bar, s])
            work.slip[row, s] = accounting.slippage(work.slippage_rate[row, s], root)
    else:
        for s in range(padded(work.order.shape[1])):
            work.slip[row, s] = accounting.slippage(work.slippage_rate[row, s], 0.0)


@inlined
def fee_of(row: int, s: int, held: float, work: Work) -> float:
    """Rule 3.3: the fee of a fill."""
    quantity = work.reduce[row, s] + work.increase[row, s]
    notional = quantity * accounting.price_paid(work.price[row, s], work.side[row, s], work.slip[row, s])
    variable = accounting.variable_fee(quantity, notional, work.fee_rate[row, s], work.fee_per_share[s])
    most = notional if held > 0.0 and work.side[row, s] < 0.0 else math.inf
    fee = accounting.order_fee(variable, work.fee_fixed[s], work.fee_minimum[s], most)
    return fee if quantity > 0.0 else 0.0


@inlined
def sum_orders(i: int, row: int, world: World, lanes: Lanes, work: Work) -> None:
    """Rule 3.4: the sums over symbols that the common factor is made of."""
    mark, holdings, t = world.market.mark, lanes.holdings, lanes.bar[i]
    cash, long, short, wanted, slipped, fees = lanes.cash[i], 0.0, 0.0, 0.0, 0.0, 0.0
    upper, growing, net_added = 0.0, 0.0, 0.0
    spread_fees(i, world, work, False)
    for s in range(padded(work.order.shape[1])):
        price, side, slip, held = work.price[row, s], work.side[row, s], work.slip[row, s], holdings[i, s]
        reduce, increase = work.reduce[row, s], work.increase[row, s]
        rate, per_share = work.fee_rate[row, s], work.fee_per_share[s]
        least = max(work.fee_minimum[s], work.fee_fixed[s])
        paid = accounting.price_paid(price, side, slip)
        value = (held + side * reduce) * (price if price > 0.0 else mark[t, s])
        cash -= side * reduce * paid
        long += accounting.positive(value)
        short += accounting.positive(-value)
        wanted += increase * price
        slipped += increase * price * slip
        fees += fee_of(row, s, held, work)
        upper += least if reduce + increase > 0.0 else 0.0
        upper += accounting.variable_fee(reduce, reduce * paid, rate, per_share)
        growing += accounting.variable_fee(increase, increase * paid, rate, per_share)
        net_added += side * increase * price
    work.cash[row], work.long[row], work.short[row] = cash, long, short
    work.wanted[row], work.slipped[row], work.fees[row] = wanted, slipped, fees
    work.upper[row], work.growing[row], work.net_added[row] = upper, growing, net_added


@inlined
def find_factors(first: int, size: int, world: World, lanes: Lanes, work: Work) -> None:
    """Rule 3.4: the common factor of each lane's increasing parts."""
    limit, leverages = world.rules.net_limit, world.parameters.leverage
    for row in range(size):
        leverage, before = leverages[first + row], lanes.equity[first + row]
        wanted, slipped, upper, growing = work.wanted[row], work.slipped[row], work.upper[row], work.growing[row]
        available = accounting.room(work.cash[row], work.long[row], work.short[row], leverage)
        scarce = wanted + leverage * (slipped + work.fees[row]) > available * (1.0 + accounting.ROUNDING)
        bound = wanted + leverage * (slipped + growing)
        factor = accounting.scarce_factor(available - leverage * upper, bound, before)
        work.factor[row] = factor if scarce else 1.0
    if limit > 0.0:
        for row in range(size):
            before, net_added = lanes.equity[first + row], work.net_added[row]
            net, pace = work.long[row] - work.short[row], limit * (work.slipped[row] + work.growing[row])
            most = limit * (work.cash[row] + net - work.upper[row])
            factor = accounting.net_factor(work.factor[row], most - net, pace + net_added, before)
            factor = accounting.net_factor(factor, most + net, pace - net_added, before)
            work.factor[row] = factor


@inlined
def scale_orders(row: int, world: World, work: Work) -> None:
    """Rules 3.4 to 3.6: the increasing parts in their final size."""
    costs, least = world.costs, world.rules.min_notional
    for s in range(padded(work.order.shape[1])):
        added = accounting.whole_lots(work.factor[row] * work.increase[row, s], costs.lot[s], costs.per_lot[s])
        work.increase[row, s] = accounting.large_enough(added, work.price[row, s], least)


@inlined
def enter_positions(i: int, row: int, lanes: Lanes, work: Work) -> None:
    """Rule 6.5: the average entry prices after the fills at hand; call before the holdings change."""
    entry, holdings = lanes.entry, lanes.holdings
    for s in range(padded(work.order.shape[1])):
        size, reduce, added = abs(holdings[i, s]), work.reduce[row, s], work.increase[row, s]
        paid = accounting.price_paid(work.price[row, s], work.side[row, s], work.slip[row, s])
        kept = 0.0 if reduce == size else size
        grown = accounting.average_entry(entry[i, s], kept, added, paid)
        entry[i, s] = grown if added > 0.0 or kept == 0.0 else entry[i, s]


@inlined
def settle(i: int, row: int, bar: int, world: World, lanes: Lanes, out: StepOutput, work: Work) -> None:
    """Rules 3.3, 3.7, 3.8 and 6.5: settle the fills at hand, which are of ``bar``."""
    slip_orders(row, bar, world, work)
    spread_fees(i, world, work, False)
    if world.rules.track_entry:
        enter_positions(i, row, lanes, work)
    holdings = lanes.holdings
    received, traded, slipped, fees = 0.0, 0.0, 0.0, 0.0
    for s in range(padded(work.order.shape[1])):
        held, side, reduce, added = holdings[i, s], work.side[row, s], work.reduce[row, s], work.increase[row, s]
        notional = (reduce + added) * accounting.price_paid(work.price[row, s], side, work.slip[row, s])
        fees += fee_of(row, s, held, work)
        received -= side * notional
        traded += notional
        slipped += (reduce + added) * work.price[row, s] * work.slip[row, s]
        left = 0.0 if reduce == abs(held) else held + side * reduce
        holdings[i, s] = left + side * added
    lanes.cash[i] += received - fees
    out.turnover[i] += traded / lanes.equity[i]
    out.costs[i] += fees + slipped


@inlined
def fill_orders(first: int, size: int, world: World, lanes: Lanes, out: StepOutput, work: Work) -> None:
    """Rule 3: fill the orders of the block."""
    at_close = world.rules.fill_time == CLOSE
    for row in range(size):
        i = first + row
        t = lanes.bar[i]
        bar = t if at_close else t + 1
        permit_orders(i, row, bar, world, lanes, work)
        part_orders(i, row, t, world, lanes, work)
        slip_orders(row, bar, world, work)
    for row in range(size):
        sum_orders(first + row, row, world, lanes, work)
    find_factors(first, size, world, lanes, work)
    for row in range(size):
        i = first + row
        t = lanes.bar[i]
        scale_orders(row, world, work)
        settle(i, row, t if at_close else t + 1, world, lanes, out, work)
        if world.rules.cash_account:
            lanes.cash[i] = accounting.positive(lanes.cash[i])


# --- 5 Stops ----------------------------------------------------------------------------------------------------


@inlined
def watch_stops(i: int, row: int, world: World, lanes: Lanes, out: StepOutput, work: Work) -> None:
    """Rule 5: close the positions whose stop or target bar t+1 reaches."""
    market, rules, holdings, entry, bar = world.market, world.rules, lanes.holdings, lanes.entry, lanes.bar[i] + 1
    opens, highs, lows, reached = market.open, market.high, market.low, 0.0
    for s in range(padded(work.order.shape[1])):
        held, average, first, high, low = holdings[i, s], entry[i, s], opens[bar, s], highs[bar, s], lows[bar, s]
        side = 1.0 if held > 0.0 else -1.0
        stop = accounting.stop_price(average, rules.stop_loss, side)
        target = accounting.target_price(average, rules.take_profit, side)
        best, worst = (high, low) if held > 0.0 else (low, high)
        price = accounting.exit_price(side, stop, target, first, best, worst)
        price = price if first > 0.0 and held != 0.0 else 0.0
        work.price[row, s] = price
        reached += price
    if reached <= 0.0:
        return
    for s in range(padded(work.order.shape[1])):
        held, stays = holdings[i, s], work.price[row, s] <= 0.0
        work.side[row, s] = -1.0 if held > 0.0 else 1.0
        work.reduce[row, s] = 0.0 if stays else abs(held)
        work.increase[row, s] = 0.0
        work.order[row, s] = work.order[row, s] if stays else 0.0
    settle(i, row, bar, world, lanes, out, work)


# --- 6 Mark -----------------------------------------------------------------------------------------------------


@inlined
def mark_positions(i: int, row: int, world: World, lanes: Lanes, work: Work) -> None:
    """Rules 6.1 and 6.3: move the clock, mark the positions, and look for a margin call."""
    mark, holdings, bar, positions, gross = world.market.mark, lanes.holdings, lanes.bar[i] + 1, 0.0, 0.0
    for s in range(padded(work.order.shape[1])):
        value = holdings[i, s] * mark[bar, s]
        work.value[row, s] = value
        positions += value
        gross += abs(value)
    after = lanes.cash[i] + positions
    lanes.bar[i] = bar
    lanes.equity[i] = after
    lanes.margin_call[i] = accounting.called(after, gross, world.rules.maintenance_margin)


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
    market, rules = world.market, world.rules
    size = min(work.order.shape[0], stop - first)
    spread_settings(first, size, world, work)
    for row in range(size):
        i = first + row
        if i + work.order.shape[0] < stop:
            lane.fetch_lane(i + work.order.shape[0], world, lanes)
            lane.fetch_observation(i + work.order.shape[0], world, lanes, observation)
            fetch_lane(i + work.order.shape[0], actions, world, lanes)
        decide_orders(i, row, lanes.bar[i], actions, world, lanes, work)
        out.equity_before[i] = lanes.equity[i]
        out.turnover[i] = 0.0
        out.costs[i] = 0.0
    for event in range(CLOSE, NEXT_CLOSE + 1):
        if event == rules.fill_time:
            fill_orders(first, size, world, lanes, out, work)
        elif event == NIGHT:
            for row in range(size):
                night.pass_night(first + row, row, world, lanes, work)
        elif event == STOPS and rules.stops:
            for row in range(size):
                watch_stops(first + row, row, world, lanes, out, work)
    for row in range(size):
        mark_positions(first + row, row, world, lanes, work)
    for row in range(size):
        lane.finish_lane(place(first + row), world, lanes, out)
    lane.reward_lanes(first, first + size, rules, lanes, out)
    for row in range(size):
        lane.observe_lane(first + row, work.value[row], market, rules, lanes, observation)
