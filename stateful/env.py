"""The evaluation environment: one account, every bar, fill and trade remembered, as a `gymnasium.Env`.

The order of events in a step is that of ``docs/accounting.md``: decide (2), fill (3), mark (4), end (6),
reward (7), observe (5). `StatefulTradingEnv._advance` is that list.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from batchenv.base import BaseTradingEnv
from batchenv.config import EnvConfig
from batchenv.errors import EnvironmentStateError
from batchenv.features import FeatureScaler
from batchenv.rewards import RewardStep
from batchenv.spaces import UNREALIZED_LIMIT
from stateful.history import History, fills_frame, trades_frame
from stateful.orders import FillRule, admit_orders, check_orders, size_orders
from stateful.portfolio import NO_EXECUTION, Portfolio
from stateful.rewards import make_reward

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.float64]
Observation = npt.NDArray[np.float32]
StepResult = tuple[Observation, float, bool, bool, dict[str, Any]]


class StatefulTradingEnv(BaseTradingEnv):
    """One lane with a full memory: the oracle of the batch tier, and what agents are judged in.

    ``portfolio_config.maintain_history`` decides whether bars, fills and trades are recorded. Everything else
    is the same without it.
    """

    def __init__(
        self,
        market: Any,
        config: EnvConfig | Mapping[str, Any] | str | Path,
        features: Sequence[str] | None = None,
        *,
        scaler: FeatureScaler | None = None,
        seed: int | None = None,
        lane: int = 0,
    ) -> None:
        """Build the environment; `reset` opens the account.

        Args:
            market: `MarketData`, or a DataFrame that `MarketData.from_frame` takes.
            config: `EnvConfig`, a mapping, or the path of a JSON file.
            features: Feature names; None takes ``config.features``.
            scaler: Feature scaling of an earlier run; None fits it on the training part of the market.
            seed: Seed of the episode starts; None draws one.
            lane: Which lane of a batch this environment repeats.

        Raises:
            BatchenvError: As `TradingTask.build` says, or the reward is unknown or misconfigured.
        """
        super().__init__(market, config, features, scaler=scaler, seed=seed, lane=lane)
        self._born = time.perf_counter()
        self._fill_rule = FillRule(self.market, self.config.fill)
        self._marks: Floats = np.nan_to_num(self.market.mark, nan=0.0)
        self._reward = make_reward(self.config.reward_config, self.market.periods_per_year)
        self._parts, self._size = self.task.layout.parts, self.task.layout.size
        settings = self.config.portfolio_config
        self._ruin = settings.bankruptcy_fraction * settings.initial_cash
        self._history: History | None = None
        self._execution = NO_EXECUTION
        self._peak = self._max_drawdown = self._reward_sum = self._turnover_sum = 0.0
        self._open_account()

    # --- gymnasium ------------------------------------------------------------------------------------------

    def step(self, action: Any) -> StepResult:
        """Play one bar.

        Args:
            action: One number per symbol, float32 ``[symbols]``; in `discrete` mode integers, and one integer
                when ``joint``. Numbers outside the bounds of the mode are clipped.

        Returns:
            Observation float32 ``[size]``, reward, terminated, truncated, info.

        Raises:
            ActionError: Wrong shape or kind, NaN or infinity; nothing has changed then.
            EnvironmentStateError: The episode is over or has not begun.
        """
        self._check_running()
        actions = self.task.actions
        numbers = actions.numbers([action], 1)[0].clip(actions.low, actions.high).astype(np.float64)  # 2.2
        account, marks = self._portfolio, self.market.mark[self.bar]
        orders = size_orders(numbers, account.equity, account.positions.shares, marks, self.config)
        return self._advance(orders, numbers)

    def step_orders(self, orders: npt.ArrayLike) -> StepResult:
        """Play one bar with orders in shares, in place of an action; rules 1.4 and 3 apply as ever.

        Args:
            orders: Signed shares, positive to buy, float64 ``[symbols]``.

        Returns:
            As `step`.

        Raises:
            ActionError: Wrong shape or kind, NaN or infinity; nothing has changed then.
            EnvironmentStateError: The episode is over or has not begun.
        """
        self._check_running()
        return self._advance(check_orders(orders, self.market.symbols), np.nan)

    def _advance(self, orders: Floats, action: Floats | float) -> StepResult:
        """Take the account from bar t to bar t+1."""
        account, bar = self._portfolio, self.bar
        equity_before = account.equity
        orders = admit_orders(orders, self._fill_rule.tradable(bar))
        fill_bar = bar + self._fill_rule.delay
        self._execution = account.execute(orders, self._fill_rule.prices[fill_bar], bar, fill_bar)

        self.bar = bar + 1
        equity = account.mark(self._marks[self.bar])
        self._peak = max(self._peak, equity)
        self._max_drawdown = max(self._max_drawdown, 1.0 - equity / self._peak)

        terminated = equity <= self._ruin  # 6.1
        truncated = self.bar == self.end  # 6.2
        self._running = not (terminated or truncated)
        reward = self._reward(
            RewardStep(equity_before, equity, self._peak, self._execution.turnover, self._execution.costs)
        )
        self._reward_sum += reward
        self._turnover_sum += self._execution.turnover
        if self._history is not None:
            self._history.record(account, reward, self._execution, action)
        return self._observe(), reward, terminated, truncated, self._info()

    def _begin(self) -> Observation:
        self._open_account()
        return self._observe()

    def _open_account(self) -> None:
        """Open a fresh account at the start bar (rule 6.5)."""
        settings = self.config.portfolio_config
        record = settings.maintain_history
        costs = self.config.cost_config
        account = Portfolio(self.market.symbols, settings.initial_cash, costs, record=record)
        self._portfolio = account
        self._execution = NO_EXECUTION
        self._peak = account.equity
        self._max_drawdown = self._reward_sum = self._turnover_sum = 0.0
        self._reward.reset(account.equity)
        self._history = History(self.start, self.end, self.market.n_symbols) if record else None
        if self._history is not None:
            self._history.record(account, 0.0, NO_EXECUTION, 0.0)

    def _observe(self) -> Observation:
        """Return the observation of the current bar (rule 5.1), a new array."""
        account, parts, bar = self._portfolio, self._parts, self.bar
        observation = np.zeros(self._size, np.float32)
        observation[parts["features"]] = self.task.features.values[bar]
        if account.equity > 0:
            shares, marks = account.positions.shares, self._marks[bar]
            observation[parts["weights"]] = shares * marks / account.equity
            observation[parts["cash"]] = account.cash / account.equity
            if "unrealized_pnl" in parts:
                average = account.positions.average_price  # 0 without a position
                gain = np.divide(marks, average, out=np.ones_like(marks), where=average > 0) - 1.0
                observation[parts["unrealized_pnl"]] = np.clip(gain, -UNREALIZED_LIMIT, UNREALIZED_LIMIT)
        if "time_left" in parts:
            observation[parts["time_left"]] = (self.end - bar) / (self.end - self.start)
        return observation

    def _info(self) -> dict[str, Any]:
        account = self._portfolio
        info = {
            "bar": self.bar,
            "timestamp": self.market.timestamps[self.bar],
            "equity": account.equity,
            "cash": account.cash,
            "turnover": self._execution.turnover,
            "costs": self._execution.costs,
            "fees": self._execution.fees,
        }
        if not self._running:
            elapsed = time.perf_counter() - self._born
            info["episode"] = {"r": self._reward_sum, "l": self.bar - self.start, "t": elapsed}
        return info

    # --- the account ----------------------------------------------------------------------------------------

    @property
    def portfolio(self) -> Portfolio:
        """The account."""
        return self._portfolio

    @property
    def equity(self) -> float:
        """Cash and positions at the mark of the current bar, in money."""
        return self._portfolio.equity

    @property
    def cash(self) -> float:
        """Cash, in money."""
        return self._portfolio.cash

    @property
    def holdings(self) -> Floats:
        """Shares held, float64 ``[symbols]``, a copy."""
        return self._portfolio.holdings

    @property
    def history(self) -> pd.DataFrame:
        """The episode so far, one row per bar from the start bar on, with index ``timestamp``.

        Columns: ``bar, equity, cash, reward, turnover, fees, slippage, costs``, then ``shares[SYM]``,
        ``weight[SYM]`` and ``action[SYM]`` of every symbol. The action is the clipped number that was decided
        at the bar before: 0 in the first row, NaN for `step_orders`.

        Raises:
            EnvironmentStateError: ``maintain_history`` is off.
        """
        history = self._recorded("history")
        return history.frame(self.market.symbols, self.market.timestamps, self._marks)

    @property
    def fills(self) -> pd.DataFrame:
        """Every fill of the episode so far, as `stateful.portfolio.Fill`; ``timestamp`` is of the fill bar.

        Raises:
            EnvironmentStateError: ``maintain_history`` is off.
        """
        self._recorded("fills")
        return fills_frame(self._portfolio.fills, self.market.timestamps)

    @property
    def trades(self) -> pd.DataFrame:
        """Closed trades first in, first out, then the open lots at the current mark; see `stateful.history`.

        Raises:
            EnvironmentStateError: ``maintain_history`` is off.
        """
        self._recorded("trades")
        positions = self._portfolio.positions
        still_open = positions.open_trades(self._marks[self.bar], self.bar)
        return trades_frame([*positions.trades, *still_open], self.market.timestamps)

    def statistics(self) -> dict[str, float]:
        """Return totals of the episode so far; they need no history.

        Returns:
            ``steps``, ``equity``, ``total_return`` and ``max_drawdown`` as fractions, ``reward`` (sum),
            ``turnover`` (sum of the steps'), ``fees``, ``slippage`` and ``costs``, ``n_fills``,
            ``n_closed_trades``, ``realized_pnl`` (net of fees) and ``unrealized_pnl`` (before fees), money
            where nothing else is said.
        """
        account = self._portfolio
        return {
            "steps": self.bar - self.start,
            "equity": account.equity,
            "total_return": account.equity / account.initial_cash - 1.0,
            "max_drawdown": self._max_drawdown,
            "reward": self._reward_sum,
            "turnover": self._turnover_sum,
            "fees": account.total_fees,
            "slippage": account.total_slippage,
            "costs": account.total_fees + account.total_slippage,
            "n_fills": account.n_fills,
            "n_closed_trades": account.positions.n_closed,
            "realized_pnl": account.positions.realized_net,
            "unrealized_pnl": float(account.positions.unrealized(self._marks[self.bar]).sum()),
        }

    def _recorded(self, what: str) -> History:
        if self._history is None:
            raise EnvironmentStateError(
                f"{what}: nothing was recorded; expected portfolio_config.maintain_history = true"
            )
        return self._history


class TradingEnv(StatefulTradingEnv):
    """`StatefulTradingEnv` under its old name and with its old parameters."""

    def __init__(
        self,
        data: Any,
        cfg: EnvConfig | Mapping[str, Any] | str | Path,
        features: Sequence[str] | None = None,
        *,
        scaler: FeatureScaler | None = None,
        seed: int | None = None,
        lane: int = 0,
    ) -> None:
        """Build the environment.

        Args:
            data: `MarketData`, or a DataFrame that `MarketData.from_frame` takes.
            cfg: `EnvConfig`, a mapping, or the path of a JSON file.
            features: Feature names; None takes ``cfg``'s.
            scaler: Feature scaling of an earlier run; None fits it on the training part of the market.
            seed: Seed of the episode starts; None draws one.
            lane: Which lane of a batch this environment repeats.

        Raises:
            BatchenvError: As `StatefulTradingEnv` says.
        """
        super().__init__(data, cfg, features, scaler=scaler, seed=seed, lane=lane)
