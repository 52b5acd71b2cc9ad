"""What every lane does, whatever its rules: decide, mark, end, be rewarded, observe, begin.

Arrays are indexed with the lane in place of being sliced: a slice is a counted reference, and counting costs more than
the arithmetic.
"""

from __future__ import annotations

from batchenv.kernel import accounting, rewards
from batchenv.kernel.jit import inlined, padded
from batchenv.kernel.state import F32, F64, SHARES, TRADE, Lanes, Market, Rules, StepOutput
from batchenv.spaces import PORTFOLIO_LIMIT


@inlined
def size_orders(
    i: int, t: int, actions: F32, inverse: F64, holdings: F64, rules: Rules, equity: float, leverage: float, order: F64
) -> None:
    """Rule 2.2: write the wanted signed shares of every symbol into ``order``, float64 ``[W]``.

    ``inverse`` is 1 / mark: a product is much faster than a quotient.
    """
    for s in range(actions.shape[1]):
        order[s] = actions[i, s]
    for s in range(actions.shape[1], order.shape[0]):
        order[s] = 0.0
    n = padded(order.shape[0])
    if rules.mode == TRADE:
        value = rules.trade_limit * equity
        for s in range(n):
            order[s] = accounting.value_order(accounting.clip(order[s], -1.0, 1.0) * value, inverse[t, s])
    elif rules.mode == SHARES:
        for s in range(n):
            order[s] = accounting.clip(order[s], -1.0, 1.0) * rules.max_shares
    else:
        gross = 0.0
        for s in range(n):
            gross += abs(accounting.wanted_weight(order[s], rules.max_weight, rules.allow_short))
        value = accounting.weight_scale(gross, leverage) * equity
        for s in range(n):
            target = accounting.wanted_weight(order[s], rules.max_weight, rules.allow_short) * value
            order[s] = accounting.target_order(target, inverse[t, s], holdings[i, s])


@inlined
def finish_lane(
    i: int, before: float, after: float, turnover: float, costs: float, lanes: Lanes, out: StepOutput
) -> None:
    """Rules 6.1 and 7.2: keep the new equity, say how the step went, and whether it was the last."""
    lanes.equity[i] = after
    lanes.peak[i] = max(lanes.peak[i], after)
    out.truncated[i] = lanes.bar[i] >= lanes.end[i]
    out.equity_before[i] = before
    out.turnover[i] = turnover
    out.costs[i] = costs


@inlined
def reward_lanes(first: int, stop: int, rules: Rules, lanes: Lanes, out: StepOutput) -> None:
    """Rule 7.6, after all lanes have moved: between their vectors a call of the C library costs thrice as much."""
    for i in range(first, stop):
        before, after = out.equity_before[i], lanes.equity[i]
        base = rewards.base_reward(i, rules, before, after, lanes.moments)
        out.reward[i] = rewards.finished_reward(rules, base, out.turnover[i], 1.0 - after / lanes.peak[i])


@inlined
def observe_lane(i: int, market: Market, rules: Rules, lanes: Lanes, observation: F32) -> None:
    """Rule 6.4: write row ``i`` of ``observation``."""
    t, equity = lanes.bar[i], lanes.equity[i]
    features, mark, holdings = market.features, market.mark, lanes.holdings
    n_features, n = features.shape[1], max(market.symbols, 0)  # known not to be negative: no index wraps around
    for k in range(n_features):
        observation[i, k] = features[t, k]
    scale = 1.0 / equity if equity > 0.0 else 0.0
    for s in range(n):
        weight = holdings[i, s] * mark[t, s] * scale
        observation[i, n_features + s] = accounting.clip(weight, -PORTFOLIO_LIMIT, PORTFOLIO_LIMIT)
    at = n_features + n
    observation[i, at] = accounting.clip(lanes.cash[i] * scale, -PORTFOLIO_LIMIT, PORTFOLIO_LIMIT)
    at += 1
    if rules.unrealized_pnl:
        entry = lanes.entry
        for s in range(n):
            profit = accounting.unrealized(mark[t, s], entry[i, s], holdings[i, s])
            observation[i, at + s] = accounting.clip(profit, -PORTFOLIO_LIMIT, PORTFOLIO_LIMIT)
        at += n
    if rules.time_left:
        observation[i, at] = (lanes.end[i] - t) / (lanes.end[i] - lanes.start[i])


@inlined
def open_lane(i: int, start: int, end: int, initial_cash: float, lanes: Lanes) -> None:
    """Rule 7.5: a fresh account at the start bar."""
    lanes.cash[i] = initial_cash
    lanes.holdings[i, :] = 0.0
    lanes.equity[i] = initial_cash
    lanes.peak[i] = initial_cash
    lanes.entry[i, :] = 0.0
    lanes.moments[i, :] = 0.0
    lanes.margin_call[i] = False
    lanes.bar[i] = start
    lanes.start[i] = start
    lanes.end[i] = end
