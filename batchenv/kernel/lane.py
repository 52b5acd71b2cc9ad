"""One lane over one bar: decide, fill, mark, end, reward, observe, in the order of ``docs/accounting.md``.

Arrays are indexed with the lane in place of being sliced: a slice is a counted reference, and counting costs more than
the arithmetic.
"""

from __future__ import annotations

from batchenv.kernel import accounting, rewards
from batchenv.kernel.jit import inlined
from batchenv.kernel.state import F32, F64, SHARES, TRADE, Lanes, Market, Rules, StepOutput
from batchenv.spaces import UNREALIZED_LIMIT


@inlined
def size_orders(
    i: int, t: int, actions: F32, mark: F64, holdings: F64, rules: Rules, equity: float, order: F64
) -> None:
    """Rule 2.2: write the wanted signed shares of every symbol into ``order``, float64 ``[S]``."""
    n = order.shape[0]
    if rules.mode == TRADE:
        value = rules.trade_limit * equity
        for s in range(n):
            order[s] = accounting.value_order(accounting.clip(actions[i, s], -1.0, 1.0) * value, mark[t, s])
    elif rules.mode == SHARES:
        for s in range(n):
            order[s] = accounting.clip(actions[i, s], -1.0, 1.0) * rules.max_shares
    else:
        gross = 0.0
        for s in range(n):
            gross += accounting.clip(actions[i, s], 0.0, 1.0)
        value = accounting.weight_scale(gross) * equity
        for s in range(n):
            target = accounting.clip(actions[i, s], 0.0, 1.0) * value
            order[s] = accounting.target_order(target, mark[t, s], holdings[i, s])


@inlined
def permit_orders(i: int, t: int, fill: F64, holdings: F64, order: F64) -> tuple[float, float]:
    """Rules 1.4 and 3.2: cut ``order`` to what may trade; return the sales and purchases at fill prices, in money."""
    sold = 0.0
    bought = 0.0
    for s in range(order.shape[0]):
        order[s] = accounting.permitted(order[s], holdings[i, s], fill[t, s])
        value = order[s] * fill[t, s]
        sold += accounting.positive(-value)
        bought += accounting.positive(value)
    return sold, bought


@inlined
def enter_positions(
    i: int, t: int, fill: F64, holdings: F64, entry: F64, slippage_rate: float, factor: float, order: F64
) -> None:
    """Rule 5.2: update the average entry prices; call before the holdings change."""
    for s in range(order.shape[0]):
        held = holdings[i, s]
        if order[s] > 0.0:
            paid = accounting.purchase_notional(fill[t, s], slippage_rate)
            entry[i, s] = accounting.average_entry(entry[i, s], held, order[s] * factor, paid)
        elif held + order[s] <= 0.0:
            entry[i, s] = 0.0


@inlined
def settle_orders(i: int, t: int, mark: F64, holdings: F64, factor: float, order: F64) -> float:
    """Rules 3.3 and 4.1: move the shares; return the value of the positions at the mark of bar ``t``."""
    positions = 0.0
    for s in range(order.shape[0]):
        held = holdings[i, s] + accounting.scaled(order[s], factor)
        holdings[i, s] = held
        positions += held * mark[t, s]
    return positions


@inlined
def observe_lane(i: int, market: Market, rules: Rules, lanes: Lanes, observation: F32) -> None:
    """Rule 5.1: write row ``i`` of ``observation``."""
    t, equity = lanes.bar[i], lanes.equity[i]
    features, mark, holdings = market.features, market.mark, lanes.holdings
    n_features, n = features.shape[1], mark.shape[1]
    for k in range(n_features):
        observation[i, k] = features[t, k]
    scale = 1.0 / equity if equity > 0.0 else 0.0
    for s in range(n):
        observation[i, n_features + s] = holdings[i, s] * mark[t, s] * scale
    at = n_features + n
    observation[i, at] = lanes.cash[i] * scale
    at += 1
    if rules.unrealized_pnl:
        entry = lanes.entry
        for s in range(n):
            observation[i, at + s] = accounting.unrealized(mark[t, s], entry[i, s], UNREALIZED_LIMIT)
        at += n
    if rules.time_left:
        observation[i, at] = (lanes.end[i] - t) / (lanes.end[i] - lanes.start[i])


@inlined
def advance_lane(i: int, actions: F32, market: Market, rules: Rules, lanes: Lanes, out: StepOutput, order: F64) -> None:
    """Take lane ``i`` from its bar t to t+1; ``order`` is scratch, float64 ``[S]``."""
    t, before = lanes.bar[i], lanes.equity[i]
    size_orders(i, t, actions, market.mark, lanes.holdings, rules, before, order)
    sold, bought = permit_orders(i, t, market.fill, lanes.holdings, order)

    sales = accounting.sale_notional(sold, rules.slippage_rate)
    cash = lanes.cash[i] + accounting.sale_proceeds(sales, rules.fee_rate)
    purchases = accounting.purchase_notional(bought, rules.slippage_rate)
    cost = accounting.purchase_cost(purchases, rules.fee_rate)
    factor = accounting.buy_factor(cost, cash)
    cash = accounting.cash_after_buys(cash, cost)
    if rules.unrealized_pnl:
        enter_positions(i, t, market.fill, lanes.holdings, lanes.entry, rules.slippage_rate, factor, order)
    after = cash + settle_orders(i, t + 1, market.mark, lanes.holdings, factor, order)

    peak = max(lanes.peak[i], after)
    lanes.cash[i] = cash
    lanes.equity[i] = after
    lanes.peak[i] = peak
    lanes.bar[i] = t + 1
    turnover = (sales + factor * purchases) / before
    base = rewards.base_reward(i, rules, before, after, lanes.moments)
    out.reward[i] = rewards.finished_reward(rules, base, turnover, 1.0 - after / peak)
    out.terminated[i] = after <= rules.bankrupt_equity
    out.truncated[i] = t + 1 >= lanes.end[i]
    out.equity_before[i] = before
    out.turnover[i] = turnover
    traded_at_fill = sold + factor * bought
    out.costs[i] = accounting.costs(sales + factor * purchases, traded_at_fill, rules.fee_rate, rules.slippage_rate)
    observe_lane(i, market, rules, lanes, out.observation)


@inlined
def open_lane(i: int, start: int, end: int, rules: Rules, lanes: Lanes) -> None:
    """Rule 6.5: a fresh account at the start bar."""
    lanes.cash[i] = rules.initial_cash
    lanes.holdings[i, :] = 0.0
    lanes.equity[i] = rules.initial_cash
    lanes.peak[i] = rules.initial_cash
    lanes.entry[i, :] = 0.0
    lanes.moments[i, :] = 0.0
    lanes.bar[i] = start
    lanes.start[i] = start
    lanes.end[i] = end
