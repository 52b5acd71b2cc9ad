"""From a configuration and a market to the arrays and numbers that the kernel reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from batchenv.base import TradingTask
from batchenv.config import EnvConfig, RewardConfig
from batchenv.errors import ConfigError, did_you_mean
from batchenv.kernel import state
from batchenv.market import MarketData
from batchenv.parameters import SYMBOL_PARAMETERS, LaneParameters, LaneValues, per_symbol
from batchenv.rewards import (
    EVALUATION_REWARDS,
    TRAINING_REWARDS,
    RewardFunction,
    registered_reward,
    registered_rewards,
    reward_hint,
)

_MODES = {"trade": state.TRADE, "discrete": state.TRADE, "weights": state.WEIGHTS, "shares": state.SHARES}
_FILLS = {"close": state.CLOSE, "next_open": state.NEXT_OPEN, "next_close": state.NEXT_CLOSE}
_REWARDS = {
    "fast_profit_reward": state.FAST_PROFIT,
    "simple_return": state.SIMPLE_RETURN,
    "log_return": state.LOG_RETURN,
    "differential_sharpe": state.DIFFERENTIAL_SHARPE,
}
_PENALTIES = ("turnover_penalty", "drawdown_penalty")
_DEFAULT_ETA = 0.01
_YEAR = np.timedelta64(365, "D")
_BY_LANE = ("fee_rate", "slippage_rate")
"""Those that ``kernel/plain.py`` reads for each lane, whether they differ or not."""
ADDED_FEES = ("fee_fixed", "fee_per_share", "fee_minimum")


def padded_width(n_symbols: int) -> int:
    """Return W for ``n_symbols``."""
    return -(-n_symbols // state.VECTOR) * state.VECTOR


def _padded(array: npt.NDArray[Any], value: float = 0.0) -> npt.NDArray[Any]:
    """Return a copy of an array ``[..., S]`` as ``[..., W]``, C-contiguous, filled up with ``value``."""
    *others, n_symbols = array.shape
    wide = np.full((*others, padded_width(n_symbols)), value, array.dtype)
    wide[..., :n_symbols] = array
    return wide


def _inverse(array: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return 1 / ``array``, and 0 where it is 0: a product is much faster than a quotient."""
    return np.divide(1.0, array, out=np.zeros_like(array), where=array > 0.0)


def make_market(task: TradingTask, rules: state.Rules) -> state.Market:
    """Rules 1.2 to 1.5 as matrices without NaN; what no rule looks at is left empty."""
    market, n_bars, n_symbols = task.market, task.market.n_bars, task.market.n_symbols
    nothing = np.zeros((0, padded_width(n_symbols)))
    fill = np.zeros((n_bars, n_symbols))
    if rules.fill_time == state.CLOSE:
        fill[:] = market.close
    else:
        fill[:-1] = _given(market.open if rules.fill_time == state.NEXT_OPEN else market.close)[1:]
    fill[np.isnan(fill) | np.isnan(market.mark)] = 0.0
    column = task.config.carry_config.funding_column
    mark = np.where(np.isnan(market.mark), 1.0, market.mark)
    ones, zeros = np.ones((n_bars, n_symbols)), np.zeros((n_bars, n_symbols))
    split = ones if market.splits is None else market.splits
    dividend = zeros if market.dividends is None else market.dividends
    acts = ((split != 1.0) | (dividend > 0.0)).any(axis=1)
    last_bar = _last_bars(market)
    ends = np.isin(np.arange(n_bars), last_bar)
    volume = _padded(np.nan_to_num(_given(market.volume))) if rules.impact or rules.participation else nothing
    return state.Market(
        symbols=n_symbols,
        mark=_padded(mark, 1.0),
        inverse=_padded(1.0 / mark, 1.0),
        fill=_padded(fill),
        features=task.features.values[:, :0] if task.layout.indexed else task.features.values,
        open=_padded(np.nan_to_num(_given(market.open))) if rules.stops else nothing,
        high=_padded(np.nan_to_num(_given(market.high))) if rules.stops else nothing,
        low=_padded(np.nan_to_num(_given(market.low))) if rules.stops else nothing,
        volume=volume,
        per_volume=_inverse(volume),
        split=_padded(split, 1.0) if acts.any() else nothing,
        dividend=_padded(dividend) if acts.any() else nothing,
        funding=nothing if column is None else _padded(np.nan_to_num(market.columns[column])),
        years=np.append(np.diff(market.timestamps) / _YEAR, 0.0),
        last_bar=_padded(last_bar, n_bars),
        acts=acts,
        ends=ends,
        events=np.append(acts[1:], False) | ends,
    )


def _given(prices: npt.NDArray[np.float64] | None) -> npt.NDArray[np.float64]:
    assert prices is not None  # TradingTask.build refuses rules that need what the market has not
    return prices


def _last_bars(market: MarketData) -> npt.NDArray[np.int64]:
    """Rule 4.4: the bar after which each symbol is delisted, int64 ``[S]``; T where it is not delisted in this part."""
    times = market.timestamps
    assert market.delisted is not None
    within = (market.delisted >= times[0]) & (market.delisted < times[-1])
    return np.where(within, np.searchsorted(times, market.delisted), market.n_bars).astype(np.int64)


def make_costs(config: EnvConfig, symbols: tuple[str, ...]) -> state.Costs:
    """Settings by symbol as arrays."""
    lot = _by_symbol(config.execution_config.lot_size, symbols, "execution_config.lot_size")
    return state.Costs(
        lot=lot,
        per_lot=_inverse(lot),
        funding_rate=_by_symbol(config.carry_config.funding_rate, symbols, "carry_config.funding_rate"),
    )


def _by_symbol(*setting: Any) -> npt.NDArray[np.float64]:
    return _padded(per_symbol(*setting))


def make_parameters(given: LaneParameters, values: LaneValues) -> state.Parameters:
    """Settings by lane, as wide as they differ by symbol, and as many as can differ by lane."""
    arrays = {}
    for name in SYMBOL_PARAMETERS:
        value = getattr(values, name)
        value = value if given.varies(name) or name in _BY_LANE else value[:1]
        differs = bool((value != value[:, :1]).any())
        arrays[name] = _padded(value) if differs else np.array(value[:, :1], order="C")
    tradable = _padded(values.tradable)
    return state.Parameters(
        **arrays,
        tradable=tradable if given.varies("tradable") else tradable[:, :0].copy(),
        leverage=values.leverage.copy(),
        initial_cash=values.initial_cash.copy(),
    )


def make_work(block: int, width: int) -> state.Work:
    """Scratch for ``block`` lanes of ``width`` symbols."""
    names = state.Work._fields
    shapes = dict.fromkeys(names[: names.index("factor")], (block, width)) | dict.fromkeys(ADDED_FEES, (width,))
    return state.Work(**{name: np.zeros(shapes.get(name, block)) for name in names})


def is_plain(world: state.World, given: LaneParameters) -> bool:
    """Whether ``kernel/plain.py`` gives the same numbers as ``kernel/full.py``, but for their last digits.

    The rules alone decide, never a bar: which of the two serves must not depend on what the market will do.
    """
    market, rules, costs, parameters = world
    off = (rules.impact, rules.participation, rules.min_notional, rules.stops)
    no_carry = rules.cash_rate == 0.0 and not costs.funding_rate.any() and market.funding.shape[0] == 0
    one_rate = parameters.fee_rate.shape[1] == parameters.slippage_rate.shape[1] == 1
    return bool(
        rules.cash_account
        and rules.net_limit == 0.0
        and not any(off)
        and no_carry
        and one_rate
        and not any(given.varies(name) or getattr(parameters, name).any() for name in ADDED_FEES)
        and not costs.lot.any()
        and parameters.tradable.shape[1] == 0
    )


def make_rules(config: EnvConfig) -> tuple[state.Rules, RewardFunction | None, dict[str, Any]]:
    """The rules as numbers, the user's reward function if the reward is one, and its settings.

    Raises:
        ConfigError: The reward is not one that training can compute.
    """
    execution, margin, carry = config.execution_config, config.margin_config, config.carry_config
    kind, custom, kwargs = _reward(config.reward_config)
    penalties = {key: float(kwargs.pop(key, 0.0)) for key in _PENALTIES}
    stops = execution.stop_loss is not None or execution.take_profit is not None
    rules = state.Rules(
        mode=_MODES[config.action_config.mode],
        fill_time=_FILLS[config.fill],
        stops=stops,
        trade_limit=config.portfolio_config.trade_limit_percent,
        max_shares=config.action_config.max_shares,
        max_weight=config.action_config.max_weight,
        cash_account=margin.cash_account,
        allow_short=margin.allow_short,
        net_limit=margin.net_limit or 0.0,
        maintenance_margin=margin.maintenance_margin,
        impact=config.cost_config.impact_coefficient,
        participation=execution.participation_limit or 0.0,
        min_notional=execution.min_notional,
        stop_loss=execution.stop_loss or 0.0,
        take_profit=execution.take_profit or 0.0,
        haircut=execution.delisting_haircut,
        cash_rate=carry.cash_rate,
        margin_rate=carry.margin_rate,
        reinvest=carry.dividends == "reinvest",
        bankruptcy_fraction=config.portfolio_config.bankruptcy_fraction,
        reward=kind,
        reward_scaling=config.reward_config.reward_scaling,
        **penalties,
        eta=float(kwargs.get("eta", _DEFAULT_ETA)),
        unrealized_pnl=config.observation_config.unrealized_pnl,
        time_left=config.observation_config.time_left,
        track_entry=stops or config.observation_config.unrealized_pnl,
    )
    return rules, custom, kwargs


def _reward(config: RewardConfig) -> tuple[int, RewardFunction | None, dict[str, Any]]:
    """Check a reward's type and settings; return its code, the user's function if it is one, and its settings."""
    kwargs = dict(config.kwargs)
    custom = registered_reward(config.type)
    if custom is None and config.type not in _REWARDS:
        known = TRAINING_REWARDS + registered_rewards()
        if config.type in EVALUATION_REWARDS:
            why = "it looks at the account's history, which only the evaluation tier keeps"
        else:
            why = f"unknown reward{reward_hint(config.type, known)}"
        raise ConfigError(
            f"reward_config.type: {config.type!r} cannot train: {why}; expected one of {', '.join(known)}"
        )
    allowed = _PENALTIES + (("eta",) if config.type == "differential_sharpe" else ())
    for key, value in kwargs.items():
        if custom is None and key not in allowed:
            raise ConfigError(
                f"reward_config.kwargs.{key}: unknown setting of {config.type!r}{did_you_mean(key, allowed)}; "
                f"expected {', '.join(allowed)}"
            )
        if key in allowed and (
            isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e300
        ):
            raise ConfigError(f"reward_config.kwargs.{key}: got {value!r}, expected a number from 0 upwards")
    if config.type == "differential_sharpe" and not 0 < kwargs.get("eta", _DEFAULT_ETA) <= 1:
        raise ConfigError(f"reward_config.kwargs.eta: got {kwargs['eta']!r}, expected a number above 0, at most 1")
    return (state.CUSTOM if custom else _REWARDS[config.type]), custom, kwargs
