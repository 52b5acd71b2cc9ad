"""What every lane does, whatever its rules: decide, mark, end, be rewarded, observe, begin.

Arrays are indexed with the lane in place of being sliced: a slice is a counted reference, and counting costs more than
the arithmetic.
"""

from __future__ import annotations

from batchenv.kernel import accounting, rewards
from batchenv.kernel.jit import LINE_F32, LINE_F64, inlined, padded, place, prefetch_row
from batchenv.kernel.state import (
    DIFFERENTIAL_SHARPE,
    F32,
    F64,
    FAST_PROFIT,
    LOG_RETURN,
    SHARES,
    TRADE,
    Lanes,
    Market,
    Rules,
    StepOutput,
    World,
)
from batchenv.spaces import PORTFOLIO_LIMIT

AHEAD = 4
"""How many lanes ahead memory is fetched: lanes are at bars all over the market, which no processor foresees."""


@inlined
def fetch_lane(i: int, world: World, lanes: Lanes) -> None:
    """Ask for the prices and shares that the step of lane ``i`` reads."""
    t = lanes.bar[i]
    prefetch_row(world.market.inverse, t, LINE_F64)
    prefetch_row(world.market.fill, t, LINE_F64)
    prefetch_row(world.market.mark, t + 1, LINE_F64)
    prefetch_row(lanes.holdings, i, LINE_F64)


@inlined
def fetch_observation(i: int, world: World, lanes: Lanes, observation: F32) -> None:
    """Ask for what the observation of lane ``i`` after its step is copied from and to."""
    prefetch_row(world.market.features, lanes.bar[i] + 1, LINE_F32)
    prefetch_row(observation, i, LINE_F32)


@inlined
def size_orders(
    i: int, t: int, actions: F32, inverse: F64, holdings: F64, rules: Rules, equity: float, leverage: float, order: F64
) -> None:
    """Rules 2.2 and 2.3: write the wanted signed shares of every symbol into ``order``, float64 ``[W]``.

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
            wanted = accounting.value_order(accounting.clip(order[s], -1.0, 1.0) * value, inverse[t, s])
            order[s] = accounting.sizeable(wanted, inverse[t, s], equity)
    elif rules.mode == SHARES:
        for s in range(n):
            wanted = accounting.clip(order[s], -1.0, 1.0) * rules.max_shares
            order[s] = accounting.sizeable(wanted, inverse[t, s], equity)
    else:
        gross = 0.0
        for s in range(n):
            gross += abs(accounting.wanted_weight(order[s], rules.max_weight, rules.allow_short))
        value = accounting.weight_scale(gross, leverage) * equity
        for s in range(n):
            target = accounting.wanted_weight(order[s], rules.max_weight, rules.allow_short) * value
            wanted = accounting.target_order(target, inverse[t, s], holdings[i, s])
            order[s] = accounting.sizeable(wanted, inverse[t, s], equity)


@inlined
def finish_lane(i: int, world: World, lanes: Lanes, out: StepOutput) -> None:
    """Rules 7.1 and 7.2: say whether the step was the last."""
    after = lanes.equity[i]
    lanes.peak[i] = max(lanes.peak[i], after)
    fraction, initial_cash = world.rules.bankruptcy_fraction, world.parameters.initial_cash[i]
    out.terminated[i] = accounting.ruined(after, fraction, initial_cash, lanes.peak[i])
    out.truncated[i] = lanes.bar[i] >= lanes.end[i]


@inlined
def reward_lanes(first: int, stop: int, rules: Rules, lanes: Lanes, out: StepOutput) -> None:
    """Rule 7.6, after these lanes have moved."""
    before, after, reward, count = out.equity_before, lanes.equity, out.reward, stop - first
    if rules.reward == FAST_PROFIT:
        for k in range(count):
            i = place(first + k)
            reward[i] = rewards.fast_profit(rewards.simple_return(before[i], after[i]))
    elif rules.reward == LOG_RETURN:
        for k in range(count):
            i = place(first + k)
            reward[i] = rewards.log_return(before[i], after[i])
    elif rules.reward == DIFFERENTIAL_SHARPE:
        for k in range(count):
            i = place(first + k)
            simple_return = rewards.simple_return(before[i], after[i])
            reward[i] = rewards.differential_sharpe(i, simple_return, lanes.moments, rules.eta)
    else:  # a reward of the user's takes its place
        for k in range(count):
            i = place(first + k)
            reward[i] = rewards.simple_return(before[i], after[i])
    for k in range(count):
        i = place(first + k)
        drawdown = 1.0 - after[i] / lanes.peak[i]
        reward[i] = rewards.finished_reward(rules, reward[i], out.turnover[i], drawdown)


@inlined
def observe_lane(i: int, values: F64, market: Market, rules: Rules, lanes: Lanes, observation: F32) -> None:
    """Rule 6.4: write row ``i`` of ``observation``; ``values`` of the positions at the mark, in money, ``[W]``."""
    t, equity = lanes.bar[i], lanes.equity[i]
    features = market.features
    n_features, n = max(features.shape[1], 0), max(market.symbols, 0)  # known not to be negative: no index wraps around
    for k in range(n_features):
        observation[i, k] = features[t, k]
    scale = 1.0 / equity if equity > accounting.RESIDUE * lanes.peak[i] else 0.0
    for s in range(n):
        observation[i, n_features + s] = accounting.clip(values[s] * scale, -PORTFOLIO_LIMIT, PORTFOLIO_LIMIT)
    at = n_features + n
    observation[i, at] = accounting.clip(lanes.cash[i] * scale, -PORTFOLIO_LIMIT, PORTFOLIO_LIMIT)
    at += 1
    if rules.unrealized_pnl:
        entry, mark, holdings = lanes.entry, market.mark, lanes.holdings
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
