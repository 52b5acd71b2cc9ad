"""Rule 4 of ``docs/accounting.md``: what happens to an account between the close of bar t and the open of bar t+1.

Splits, dividends and delistings are rare. Whether a bar has any is asked first, and a market that has none at all takes
the same instructions as the other bars of one that has some: nothing that comes later may change a bit of a result.
"""

from __future__ import annotations

from batchenv.kernel import accounting
from batchenv.kernel.jit import inlined, padded
from batchenv.kernel.state import Lanes, Work, World


@inlined
def carry_positions(i: int, row: int, t: int, world: World, lanes: Lanes, work: Work) -> float:
    """Rule 4.1: what borrow and funding cost between ``t`` and t+1, in money."""
    mark, funding, holdings, yearly = world.market.mark, world.market.funding, lanes.holdings, world.costs.funding_rate
    years, borrowed, funded = world.market.years[t], 0.0, 0.0
    for s in range(padded(work.order.shape[1])):
        value = holdings[i, s] * mark[t, s]
        borrowed += accounting.borrow_cost(value, work.borrow_rate[row, s], years)
        funded += accounting.funding_cost(value, yearly[s], years, 0.0)
    if funding.shape[0] > 0:
        for s in range(padded(work.order.shape[1])):
            value = holdings[i, s] * mark[t, s]
            funded += accounting.funding_cost(value, 0.0, years, funding[t + 1, s])
    return borrowed + funded


@inlined
def split_positions(i: int, row: int, t: int, world: World, lanes: Lanes, work: Work) -> float:
    """Rules 4.2 and 4.3: splits and dividends at t+1; return the dividends paid, in money."""
    mark, split, dividend = world.market.mark, world.market.split, world.market.dividend
    holdings, entry, rules, paid = lanes.holdings, lanes.entry, world.rules, 0.0
    if world.market.acts[t + 1]:
        for s in range(padded(work.order.shape[1])):
            held, multiple = holdings[i, s], split[t + 1, s]
            if dividend[t + 1, s] > 0.0 and rules.reinvest:
                multiple *= accounting.reinvested(mark[t, s], split[t + 1, s], dividend[t + 1, s])
            elif dividend[t + 1, s] > 0.0:
                paid += held * split[t + 1, s] * dividend[t + 1, s]
            holdings[i, s] = held * multiple
            work.order[row, s] *= multiple
            if rules.track_entry:
                entry[i, s] /= multiple
    return paid


@inlined
def delist_positions(i: int, t: int, world: World, lanes: Lanes) -> float:
    """Rule 4.4: give up the symbols that end at ``t``; return what they bring, in money."""
    mark, last_bar, rules = world.market.mark, world.market.last_bar, world.rules
    paid = 0.0
    if world.market.ends[t]:
        for s in range(padded(last_bar.shape[0])):
            if t == last_bar[s]:
                paid += lanes.holdings[i, s] * mark[t, s] * (1.0 - rules.haircut)
                lanes.holdings[i, s] = 0.0
                if rules.track_entry:
                    lanes.entry[i, s] = 0.0
    return paid


@inlined
def pass_events(i: int, row: int, t: int, world: World, lanes: Lanes, work: Work) -> float:
    """Rules 4.2 to 4.4: splits, dividends and delistings between ``t`` and t+1; return what they pay, in money."""
    return split_positions(i, row, t, world, lanes, work) + delist_positions(i, t, world, lanes)


@inlined
def pass_night(i: int, row: int, world: World, lanes: Lanes, work: Work) -> None:
    """Rule 4: interest, borrow, funding, splits, dividends and delistings between t and t+1."""
    rules, cash, t = world.rules, lanes.cash[i], lanes.bar[i]
    change = accounting.interest(cash, rules.cash_rate, rules.margin_rate, world.market.years[t])
    if not rules.cash_account:  # which has no shorts and no funding
        change -= carry_positions(i, row, t, world, lanes, work)
    change += pass_events(i, row, t, world, lanes, work)
    lanes.cash[i] = cash + change
