"""Judging an agent during training: the validation part, played by the evaluation tier."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from batchenv.config import BacktestConfig, EnvConfig
from batchenv.features import FeatureScaler
from batchenv.market import MarketData
from stateful.backtest import BackTesting
from stateful.env import StatefulTradingEnv

_FIGURES = ("total_return", "sharpe", "max_drawdown", "turnover_per_year", "total_reward")


def make_judge(
    validation: MarketData, config: EnvConfig, scaler: FeatureScaler, backtest_config: BacktestConfig
) -> Callable[[Any], dict[str, float | None]]:
    """Return a function that plays an agent over all bars of ``validation`` and returns its figures.

    Args:
        validation: Bars that the agent was not trained on.
        config: The environment's rules.
        scaler: The feature scaling of the training part.
        backtest_config: Changes that the backtest makes, so that an agent is chosen by what it will be judged by.

    Returns:
        A function of the agent; its result holds ``total_return``, ``sharpe``, ``max_drawdown``,
        ``turnover_per_year`` and ``total_reward``, None where a figure is not defined.

    Raises:
        BatchenvError: The validation part cannot be played, for example because it is too short; or it does not tell
            how many bars a year has, and then it has no Sharpe ratio to choose by.
    """
    validation.require_year("the Sharpe ratio of the validation part, which chooses the best model,")
    own = {"vec_normalize": None, "frame_stack": None}  # those are of another model: backtest.model
    settings = backtest_config.updated(vectorbt=False, uncertainty={"resamples": 0}, **own)
    env = StatefulTradingEnv(validation, settings.applied_to(config), scaler=scaler, seed=0)

    def judge(agent: Any) -> dict[str, float | None]:
        metrics = BackTesting(agent, env, settings, baselines=()).run().metrics
        return {name: metrics[name] for name in _FIGURES}

    return judge
