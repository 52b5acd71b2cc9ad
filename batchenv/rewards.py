"""Names of the training rewards, and the user's own.

The arithmetic lives in ``batchenv/kernel/rewards.py`` and, written again, in ``stateful/rewards.py``. Rule 7 of
``docs/accounting.md``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from batchenv.errors import ConfigError, did_you_mean
from batchenv.registry import REWARDS

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


def register_reward(name: str, function: RewardFunction, *, replace: bool = False) -> None:
    """Make ``function`` usable as ``reward_config.type``.

    Args:
        name: The name to use in configurations.
        function: Called as ``function(step, **kwargs)`` with a `RewardStep` and ``reward_config.kwargs`` (without
            the two penalties); returns the reward before penalties and scaling. Written with numpy functions it
            serves both tiers: arrays over lanes in training, numbers in evaluation. It travels to other processes
            with a `MarketData` or `EnvConfig`.
        replace: Allow a name that is registered already. A function from the same place, as when a notebook's cell
            runs again, replaces the one before in any case.

    Raises:
        ConfigError: The name is taken by a built-in or by a function from another place, or ``function`` cannot be
            called.
    """
    if name in TRAINING_REWARDS + EVALUATION_REWARDS:
        raise ConfigError(f"reward {name!r} is built in; register yours under another name")
    REWARDS.register(name, function, replace=replace)


def registered_reward(name: str) -> RewardFunction | None:
    """Return the user's reward function of that name, or None."""
    return REWARDS.get(name)


def registered_rewards() -> tuple[str, ...]:
    """Return the names of all registered rewards."""
    return REWARDS.names()


def reward_hint(name: str, known: tuple[str, ...]) -> str:
    """Return what may help where the reward ``name`` is not among the ``known`` ones."""
    return did_you_mean(name, known) + REWARDS.hint()
