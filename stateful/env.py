"""The evaluation environment: one account, every bar, fill and trade remembered, as a `gymnasium.Env`.

The order of events in a step is that of the table at the top of ``docs/accounting.md``:
`StatefulTradingEnv._play_bar` is that table. Around it come decide (2), mark and observe (6), end and reward (7).
"""

from __future__ import annotations

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
from batchenv.spaces import PORTFOLIO_LIMIT, Observation
from stateful.execution import Quotes
from stateful.history import History, fills_frame, trades_frame
from stateful.orders import FillRule, check_orders, size_orders, sizeable_orders
from stateful.overnight import Nights, pass_night
from stateful.portfolio import Portfolio
from stateful.positions import Kind
from stateful.rewards import make_reward
from stateful.stops import Watch
from stateful.terms import Terms

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.float64]
ROUNDING = 1e-12
"""What is left of an account by rounding alone, as a fraction of its highest equity (rules 6.4 and 7.1)."""
StepResult = tuple[Observation, float, bool, bool, dict[str, Any]]


class StatefulTradingEnv(BaseTradingEnv):
    """One lane with a full memory: the oracle of the batch tier, and what agents are judged in.

    ``portfolio_config.maintain_history`` decides whether bars, fills and trades are recorded. Everything else
    is the same without it.

    ``info`` holds ``bar``, ``timestamp``, ``equity`` and ``cash`` (money), ``turnover``, ``costs``, ``fees`` and
    ``carry`` of the step, and ``margin_call``, whether one stands. On the last step it also holds ``return`` (sum of
    rewards) and ``length`` (steps). The key ``episode`` is left to gymnasium's `RecordEpisodeStatistics`.
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
        lane_parameters: Mapping[str, Any] | None = None,
    ) -> None:
        """Build the environment; `reset` opens the account.

        Args:
            market: `MarketData`, or a DataFrame that `MarketData.from_frame` takes.
            config: `EnvConfig`, a mapping, or the path of a JSON file.
            features: Feature names; None takes ``config.features``.
            scaler: Feature scaling of an earlier run; None fits it on the training part of the market.
            seed: Seed of the episode starts; None draws one.
            lane: Which lane of a batch this environment repeats.
            lane_parameters: That lane's own parameters (rule 8.1); see `BaseTradingEnv`.

        Raises:
            BatchenvError: As `BaseTradingEnv` says, or the reward is unknown or misconfigured.
        """
        super().__init__(market, config, features, scaler=scaler, seed=seed, lane=lane, lane_parameters=lane_parameters)
        self._fill_rule = FillRule(self.market, self.config.fill)
        self._nights = Nights(self.market, self.config.carry_config.funding_column)
        self._watch = Watch.build(self.market, self.config.execution_config)
        self._marks: Floats = self._nights.marks
        self._reward = make_reward(self.config.reward_config, self.market.periods_per_year)
        self._parts, self._size = self.task.layout.parts, self.task.layout.size
        self._history: History | None = None
        self._decided: Floats = np.zeros(self.market.n_symbols)
        self._ruin = self._turnover = 0.0
        self._peak = self._max_drawdown = self._reward_sum = self._turnover_sum = 0.0
        self._open_account()

    # --- gymnasium ------------------------------------------------------------------------------------------

    def step(self, action: Any) -> StepResult:
        """Play one bar.

        Args:
            action: One number per symbol, float32 ``[symbols]``; in `discrete` mode integers, and one integer
                when ``joint``. Numbers outside the bounds of the mode are clipped. When a margin call stands, the
                account is liquidated instead (rule 2.4).

        Returns:
            Observation float32 ``[size]`` or a dict (`batchenv.spaces.Observation`), reward, terminated, truncated,
            info.

        Raises:
            ActionError: Wrong shape or kind, NaN or infinity; nothing has changed then.
            EnvironmentStateError: The episode is over or has not begun.
        """
        self._check_running()
        actions = self.task.actions
        numbers = actions.of_one(action)[0].clip(actions.low, actions.high).astype(np.float64)  # 2.2
        account, marks = self._portfolio, self.market.mark[self.bar]
        leverage = account.terms.leverage
        orders = size_orders(numbers, account.equity, account.positions.shares, marks, self.config, leverage)
        return self._advance(orders, numbers)

    def step_orders(self, orders: npt.ArrayLike) -> StepResult:
        """Play one bar with orders in shares, in place of an action; rules 1.4, 2.4 and 3 apply as ever.

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
        quotes = self._fill_rule.quotes(bar, self._allowed)
        kind: Kind = "order"
        if account.margin_call:
            orders, kind = -account.positions.shares, "margin_call"  # 2.4
        orders = sizeable_orders(orders, self._marks[bar], equity_before)
        self._decided = orders.copy()
        account.open_step(bar)
        self._play_bar(orders, quotes, kind)
        self._turnover = account.turnover

        self.bar = bar + 1
        equity = account.mark(self._marks[self.bar])
        self._peak = max(self._peak, equity)
        self._max_drawdown = max(self._max_drawdown, 1.0 - equity / self._peak)

        terminated = equity <= self._ruin + ROUNDING * self._peak  # 7.1
        truncated = self.bar == self.end  # 7.2
        self._running = not (terminated or truncated)
        reward = self._reward(RewardStep(equity_before, equity, self._peak, self._turnover, account.step.costs))
        self._reward_sum += reward
        self._turnover_sum += self._turnover
        if self._history is not None:
            self._history.record(account, reward, self._turnover, action)
        return self._observe(), reward, terminated, truncated, self._info()

    def _play_bar(self, orders: Floats, quotes: Quotes, kind: Kind) -> None:
        """Let fill, night and stops happen in the order that the fill convention gives them."""
        account, bar = self._portfolio, self.bar
        if self.config.fill == "close":
            account.execute(orders, quotes, bar, kind)
            pass_night(account, self._nights, bar, None)
            self._stop(bar + 1)
        elif self.config.fill == "next_open":
            pass_night(account, self._nights, bar, orders)
            account.execute(orders, quotes, bar + 1, kind)
            self._stop(bar + 1)
        else:
            pass_night(account, self._nights, bar, orders)
            orders[self._stop(bar + 1)] = 0.0  # 5.3
            account.execute(orders, quotes, bar + 1, kind)

    def _stop(self, bar: int) -> list[int]:
        """Close what reaches its stop or target in ``bar``, and return those columns."""
        return [] if self._watch is None else self._watch.close_positions(self._portfolio, bar)

    def _begin(self) -> Observation:
        self._open_account()
        return self._observe()

    def _open_account(self) -> None:
        """Open a fresh account at the start bar (rule 7.5)."""
        settings, values = self.config.portfolio_config, self.values
        record, cash = settings.maintain_history, float(values.initial_cash[0])
        terms = Terms.build(self.config, self.market.symbols, values)
        account = Portfolio(self.market.symbols, cash, terms, record=record)
        self._portfolio = account
        self._allowed = values.tradable[0]
        self._ruin = settings.bankruptcy_fraction * (1 + 1e-9) * cash
        self._peak = cash
        self._turnover = self._max_drawdown = self._reward_sum = self._turnover_sum = 0.0
        self._reward.reset(cash)
        self._history = History(self.start, self.end, self.market.n_symbols) if record else None
        if self._history is not None:
            self._history.record(account, 0.0, 0.0, 0.0)

    def _observe(self) -> Observation:
        """Return the observation of the current bar (rule 6.4), in new arrays."""
        account, parts, bar = self._portfolio, self._parts, self.bar
        shares, marks, equity = account.positions.shares, self._marks[bar], account.equity
        observation = np.zeros(self._size, np.float32)
        if "features" in parts:
            observation[parts["features"]] = self.task.features.values[bar]
        if equity > ROUNDING * self._peak:
            observation[parts["weights"]] = _limited(shares * marks / equity)
            observation[parts["cash"]] = min(max(account.cash / equity, -PORTFOLIO_LIMIT), PORTFOLIO_LIMIT)
        if "unrealized_pnl" in parts:
            average, ratio = account.positions.average_price, np.ones_like(marks)
            np.divide(marks, average, out=ratio, where=average > 0)
            observation[parts["unrealized_pnl"]] = _limited(np.sign(shares) * (ratio - 1.0))
        if "time_left" in parts:
            observation[parts["time_left"]] = (self.end - bar) / (self.end - self.start)
        return self.task.layout.observation(observation, np.array([bar], np.int64))

    def _info(self) -> dict[str, Any]:
        account = self._portfolio
        info = {
            "bar": self.bar,
            "timestamp": self.market.timestamps[self.bar],
            "equity": account.equity,
            "cash": account.cash,
            "turnover": self._turnover,
            "costs": account.step.costs,
            "fees": account.step.fees,
            "carry": account.step.carry,
            "margin_call": account.margin_call,
        }
        if not self._running:
            info |= {"return": self._reward_sum, "length": self.bar - self.start}
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
        """Cash, in money; negative where it is borrowed."""
        return self._portfolio.cash

    @property
    def holdings(self) -> Floats:
        """Shares held, negative when short, float64 ``[symbols]``, a copy."""
        return self._portfolio.holdings

    @property
    def decided(self) -> Floats:
        """Orders that the last step decided at the bar before, in shares (rule 2), float64 ``[symbols]``, a copy."""
        return self._decided.copy()

    @property
    def history(self) -> pd.DataFrame:
        """The episode so far, one row per bar from the start bar on, with index ``timestamp``.

        Columns: ``bar, equity, cash, reward, turnover, fees, slippage, costs``; ``interest, borrow, funding,
        dividends, delisting`` as changes of cash in the step (rule 4); ``margin_call``, whether one stands at this
        bar; then ``shares[SYM]``, ``weight[SYM]`` and ``action[SYM]`` of every symbol. The action is the clipped
        number that was decided at the bar before: 0 in the first row, NaN for `step_orders`.

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
            ``turnover`` (sum of the steps'), ``fees``, ``slippage`` and ``costs``, ``interest``, ``borrow``,
            ``funding``, ``dividends`` and ``delisting`` as changes of cash, ``n_fills`` (orders and stops),
            ``n_closed_trades``, ``realized_pnl`` (net of fees) and ``unrealized_pnl`` (before fees), money where
            nothing else is said.
        """
        account, total = self._portfolio, self._portfolio.total
        return {
            "steps": self.bar - self.start,
            "equity": account.equity,
            "total_return": account.equity / account.initial_cash - 1.0,
            "max_drawdown": self._max_drawdown,
            "reward": self._reward_sum,
            "turnover": self._turnover_sum,
            "fees": total.fees,
            "slippage": total.slippage,
            "costs": total.costs,
            "interest": total.interest,
            "borrow": total.borrow,
            "funding": total.funding,
            "dividends": total.dividends,
            "delisting": total.delisting,
            "n_fills": total.n_fills,
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
        lane_parameters: Mapping[str, Any] | None = None,
    ) -> None:
        """Build the environment.

        Args:
            data: `MarketData`, or a DataFrame that `MarketData.from_frame` takes.
            cfg: `EnvConfig`, a mapping, or the path of a JSON file.
            features: Feature names; None takes ``cfg``'s.
            scaler: Feature scaling of an earlier run; None fits it on the training part of the market.
            seed: Seed of the episode starts; None draws one.
            lane: Which lane of a batch this environment repeats.
            lane_parameters: That lane's own parameters (rule 8.1).

        Raises:
            BatchenvError: As `StatefulTradingEnv` says.
        """
        super().__init__(data, cfg, features, scaler=scaler, seed=seed, lane=lane, lane_parameters=lane_parameters)


def _limited(values: Floats) -> Floats:
    """Return values within the bounds of an observation (rule 6.4)."""
    return np.minimum(np.maximum(values, -PORTFOLIO_LIMIT), PORTFOLIO_LIMIT)
