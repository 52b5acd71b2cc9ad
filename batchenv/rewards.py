"""Names of the training rewards, and the registry of a user's own.

The arithmetic lives in ``batchenv/kernel/rewards.py`` and, written again, in ``stateful/rewards.py``. Rule 7 of
``docs/accounting.md``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from batchenv.errors import ConfigError

TRAINING_REWARDS = ("fast_profit_reward", "simple_return", "log_return", "differential_sharpe")
"""Built-in rewards that need one step only; both tiers know them."""

EVALUATION_REWARDS = ("sharpe_ratio", "sortino_ratio", "calmar_ratio")
"""Built-in rewards that look at the account's history; only the evaluation tier knows them."""


class RewardStep(NamedTuple):
    """What a registered reward may look at: float64 ``[n_envs]`` in the batch tier, floats in the evaluation tier.

    Attributes:
        equity_before: Equity at the close of bar t, in money.
        equity_after: Equity at the close of bar t+1, in money.
        peak_equity: Highest equity of the episode so far, bar t+1 included, in money.
        turnover: Traded notional of the step as a fraction of ``equity_before``.
        costs: Fees and slippage paid in the step, in money.
    """

    equity_before: Any
    equity_after: Any
    peak_equity: Any
    turnover: Any
    costs: Any


RewardFunction = Callable[..., Any]
_REGISTERED: dict[str, RewardFunction] = {}


def register_reward(name: str, function: RewardFunction, *, replace: bool = False) -> None:
    """Make ``function`` usable as ``reward_config.type``.

    Args:
        name: The name to use in configurations.
        function: Called as ``function(step, **kwargs)`` with a `RewardStep` and ``reward_config.kwargs`` (without
            the two penalties); returns the reward before penalties and scaling. Written with numpy functions it
            serves both tiers: arrays over lanes in training, numbers in evaluation.
        replace: Allow a name that is already registered.

    Raises:
        ConfigError: The name is taken by a built-in, or registered already.
    """
    if name in TRAINING_REWARDS + EVALUATION_REWARDS:
        raise ConfigError(f"reward {name!r} is built in; register yours under another name")
    if name in _REGISTERED and not replace:
        raise ConfigError(f"reward {name!r} is registered already; pass replace=True to replace it")
    _REGISTERED[name] = function


def registered_reward(name: str) -> RewardFunction | None:
    """Return the user's reward function of that name, or None."""
    return _REGISTERED.get(name)


def registered_rewards() -> tuple[str, ...]:
    """Return the names of all registered rewards."""
    return tuple(_REGISTERED)
