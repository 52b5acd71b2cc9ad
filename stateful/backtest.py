"""A backtest: one account, one agent, all bars of a market, and the baselines that it has to beat."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from batchenv.config import BacktestConfig, EnvConfig
from batchenv.errors import ConfigError, RunError
from batchenv.features import FeatureScaler
from batchenv.market import MarketData
from stateful.acting import Act, Actor, Predictor, Training
from stateful.baselines import Baseline, RandomTurnover, make_baselines
from stateful.env import StatefulTradingEnv
from stateful.evaluation.attribution import Attribution, attribute
from stateful.evaluation.comparable import OrderLog, incomparable, play_rule
from stateful.evaluation.flags import Flag, Span, TrainedOn, red_flags, training_span
from stateful.evaluation.sharpe import Trials
from stateful.evaluation.uncertainty import Uncertainty, measure_uncertainty
from stateful.fitting import Fitted, fit_environment
from stateful.metrics import performance_metrics
from stateful.policies import part_that_fills
from stateful.terms import Terms
from stateful.verdict import Verdict, headlines, no_measure, verdicts

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

__all__ = ["BackTesting", "BacktestResults", "Predictor"]

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class BacktestResults:
    """What a backtest found.

    Attributes:
        metrics: The agent's figures (`stateful.metrics`), JSON as they are. Beside them ``baselines``, the same
            figures for each baseline by name, and ``not_comparable``, why it is no measure of the agent, if it is none
            (`stateful.evaluation.comparable`); ``uncertainty``, what `Uncertainty.as_dict` holds, and ``vectorbt``,
            VectorBT's statistics of the agent's fills under its own names; the last two None when switched off, and
            ``vectorbt`` also where the account is beyond it (`vectorbt_obstacle`).
        history: The agent's account, one row per bar.
        trades: The agent's trades, one row per lot.
        fills: The agent's fills.
        baselines: The account of each baseline by name, one row per bar.
        labels: Name of each baseline in words.
        market: The bars that were traded.
        config: The environment's rules.
        backtest_config: The backtest's settings.
        terms: What the accounts traded under.
        trained_on: First and last timestamp of the bars that the agent was trained and chosen on; None where that is
            not known.
        trials: What else was tried on these bars; None where nobody counted.
        remembered: First and last timestamp of the bars that the agent itself remembers to have been trained on; None
            where it remembers none.
        scaler: What the features were scaled with; None where that is not known.
        fit: What was put right so that the agent sees what it was trained on, and what could not be checked.
        level_features: Features that look ahead, being levels of adjusted prices or volumes.
    """

    metrics: dict[str, Any]
    history: pd.DataFrame
    trades: pd.DataFrame
    fills: pd.DataFrame
    baselines: dict[str, pd.DataFrame]
    labels: dict[str, str]
    market: MarketData
    config: EnvConfig
    backtest_config: BacktestConfig
    terms: Terms
    trained_on: Span | None = None
    trials: Trials | None = None
    remembered: Span | None = None
    scaler: FeatureScaler | None = None
    fit: tuple[Flag, ...] = ()
    level_features: tuple[str, ...] = ()

    @property
    def equity(self) -> pd.Series[float]:
        """The agent's equity at each bar, in money."""
        return self.history["equity"]

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """Whether the agent beat each baseline after costs, in plain words."""
        return verdicts(self.metrics, self.labels)

    @property
    def headlines(self) -> tuple[Verdict, ...]:
        """What to say first: how the agent did against all baselines, then against buy and hold."""
        return headlines(self.metrics, self.labels)

    @cached_property
    def attribution(self) -> Attribution:
        """What each symbol, side, kind of gain or cost, and period contributed to the change of equity."""
        funding = self.config.carry_config.funding_column
        return attribute(self.history, self.fills, self.market, self.terms, funding_column=funding)

    @cached_property
    def uncertainty(self) -> Uncertainty | None:
        """How far luck could have moved the figures; None where switched off (``uncertainty.resamples`` is 0)."""
        config = self.backtest_config
        if not config.uncertainty.resamples:
            return None
        return measure_uncertainty(
            np.asarray(self.equity, np.float64),
            {name: np.asarray(history["equity"], np.float64) for name, history in self.baselines.items()},
            config=config.uncertainty,
            periods_per_year=self.market.periods_per_year,
            risk_free_rate=config.risk_free_rate,
            trials=self.trials,
            left_out=no_measure(self.metrics),
        )

    @cached_property
    def flags(self) -> tuple[Flag, ...]:
        """What makes the figures look better than they are, the gravest first; see `stateful.evaluation.flags`."""
        return red_flags(self)

    @property
    def vectorbt_obstacle(self) -> str | None:
        """Why VectorBT cannot replay the agent's fills, in words; None where it can."""
        from stateful.analysis import obstacle

        return obstacle(self.history, self.fills)

    def to_vectorbt(self) -> Any:
        """Return a `vectorbt.Portfolio` that replays the agent's fills; see `stateful.analysis.replay`.

        Raises:
            RunError: The account did what VectorBT cannot, such as earn interest or receive dividends.
        """
        from stateful.analysis import replay

        return replay(self.market, self.history, self.fills, self.terms)

    def write(
        self,
        directory: str | Path,
        *,
        title: str | None = None,
        learning_curve: pd.DataFrame | None = None,
        run_info: Mapping[str, Any] | None = None,
        tear_sheet: bool = False,
        stress: str | Path | None = None,
    ) -> Path:
        """Write ``report.html``, the figures as PNG, and the data behind them.

        Args:
            directory: Where to; made if it does not exist. It must not hold an earlier report.
            title: Heading of the report.
            learning_curve: Columns ``timesteps`` and one or more of ``total_return``, ``sharpe`` and the like; one
                row per evaluation during training.
            run_info: Facts about the run, shown as a table.
            tear_sheet: Whether QuantStats writes ``quantstats.html`` too, which takes seconds. Where it cannot, the
                report says why.
            stress: Folder of a stress test of the same agent, to be shown and linked.

        Returns:
            The path of ``report.html``.

        Raises:
            RunError: The directory holds one of the files already, or cannot be written. Nothing is left behind.
        """
        from stateful.report import write_report

        return write_report(
            self,
            Path(directory),
            title=title,
            learning_curve=learning_curve,
            run_info=run_info,
            tear_sheet=tear_sheet,
            stress=None if stress is None else Path(stress),
        )


class BackTesting:
    """Plays an agent, and the baselines after it, through all bars of a market.

    Example:
        results = BackTesting(model, StatefulTradingEnv(test, config)).run()
        results.metrics["sharpe"], results.metrics["baselines"]["buy_and_hold"]["sharpe"]
    """

    def __init__(
        self,
        agent: Predictor,
        env: StatefulTradingEnv,
        backtest_config: BacktestConfig | Mapping[str, Any] | None = None,
        *,
        baselines: Sequence[Baseline] | None = None,
        episode: tuple[int, int] | None = None,
        trained_on: TrainedOn | None = None,
        trials: Trials | None = None,
        vec_normalize: str | Path | VecEnv | None = None,
        frame_stack: int | None = None,
    ) -> None:
        """Prepare a backtest; ``env`` itself is not stepped.

        All accounts play under the same terms: the configuration's and the lane's own. Without ``episode`` nothing is
        drawn (``randomization``), and the lane's own episode gives way to all bars of the market.

        An agent that remembers what it was made for (`batchenv.made_for`) is shown that: symbols and features in the
        training's order, scaled as in training, and through the training's `VecNormalize` and `VecFrameStack`. What
        was put right stands in the flags of the results.

        Args:
            agent: Anything with ``predict(observation, deterministic=...) -> (action, state)``.
            env: Market, rules, features and their scaling.
            backtest_config: Changes for the backtest: `BacktestConfig`, a mapping, or None for none.
            baselines: What to compare with; None takes those that the configuration names.
            episode: A lane and an episode number, to play that episode by the environment's own rules in place of all
                bars by the backtest's.
            trained_on: The bars that the agent was trained and chosen on: a `MarketData`, or their first and last
                timestamp, both included. A test that overlaps them is flagged.
            trials: What else was tried on these bars, where known, for the deflated Sharpe ratio.
            vec_normalize: For a model that was trained under `VecNormalize` and loaded without its environment: the
                file that ``VecNormalize.save`` wrote, or the wrapper; None takes the configuration's.
            frame_stack: Likewise ``n_stack`` of `VecFrameStack`.

        Raises:
            ConfigError: The configuration or ``trained_on`` is not valid, or two baselines share a name.
            RunError: The agent cannot predict, or was made for other observations or actions.
        """
        _check_env(env)
        self.agent = agent
        self.config = _as_backtest_config(backtest_config)
        self.baselines = make_baselines(self.config) if baselines is None else tuple(baselines)
        self._trained_on, self._trials = training_span(trained_on), trials
        for names in ([b.name for b in self.baselines], [b.label for b in self.baselines]):
            if len(set(names)) < len(names):
                raise ConfigError(f"baselines: got {names}, expected names and labels that differ")
        remembering = env.config.portfolio_config.updated(maintain_history=True)
        rules, own = env.config.updated(portfolio_config=remembering.model_dump()), env.parameters.given
        self._episode = {} if episode is None else {"lane": episode[0], "episode": episode[1]}
        if episode is None:
            rules = self.config.applied_to(env.config)
            own = {name: value for name, value in own.items() if not name.startswith("episode_")}
        training = Training.of(agent)
        fitted = fit_environment(env, rules, own, training.made_for)
        self.env = self._baseline_env = _playing(env, rules, fitted)
        if fitted.market is not env.market:  # a baseline may count on the order of symbols that was handed in
            if self._episode and rules.randomization.tradable is not None:
                raise RunError(
                    "episode: which symbols may be traded is drawn by their places, and the agent was trained on "
                    f"another order of them; expected market.select({list(fitted.market.symbols)})"
                )
            self._baseline_env = _playing(env, rules, Fitted(env.market, env.features, env.scaler, own))
        self.actor = Actor.of(
            agent,
            training,
            self.env,
            deterministic=self.config.deterministic,
            vec_normalize=self.config.vec_normalize if vec_normalize is None else vec_normalize,
            frame_stack=self.config.frame_stack if frame_stack is None else frame_stack,
        )
        self._fit = (*fitted.flags, *self.actor.flags)
        self._remembered = None if training.made_for is None else training_span(training.made_for.bars)

    def run(self, progress: Progress | None = None) -> BacktestResults:
        """Run the agent and the baselines.

        Args:
            progress: Called as ``progress(done_bars, total_bars)`` after each of the agent's steps.

        Returns:
            Figures and tables.

        Raises:
            ActionError: The agent returned an action that the environment cannot take.
        """
        env = self.env
        with self.actor.acting_in(env) as act:
            _play(act, env, self._episode, progress)
        history, fills, trades = env.history, env.fills, env.trades
        traded = float(history["turnover"].iloc[1:].mean()) if len(history) > 1 else 0.0
        metrics = self._measure(history, fills, trades)
        baselines: dict[str, pd.DataFrame] = {}
        measured: dict[str, dict[str, Any]] = {}
        other = self._baseline_env
        for baseline in self.baselines:
            ordered = _play_baseline(baseline, other, self._episode, traded)
            account = other.history, other.fills
            baselines[baseline.name] = account[0]
            measured[baseline.name] = self._measure(*account, other.trades)
            measured[baseline.name]["not_comparable"] = incomparable(baseline, ordered, account, fills, other.task)
        metrics |= {"baselines": measured, "vectorbt": None}
        results = BacktestResults(
            metrics=metrics,
            history=history,
            trades=trades,
            fills=fills,
            baselines=baselines,
            labels={baseline.name: baseline.label for baseline in self.baselines},
            market=env.market,
            config=env.config,
            backtest_config=self.config,
            terms=env.portfolio.terms,
            trained_on=self._trained_on,
            trials=self._trials,
            remembered=self._remembered,
            scaler=env.scaler,
            fit=self._fit,
            level_features=env.task.features.levels,
        )
        found = results.uncertainty
        metrics["uncertainty"] = None if found is None else found.as_dict()
        periods = env.market.periods_per_year
        if self.config.vectorbt and results.vectorbt_obstacle is None and periods is not None:
            metrics["vectorbt"] = self._second_opinion(results, periods)
        return results

    def _measure(self, history: pd.DataFrame, fills: pd.DataFrame, trades: pd.DataFrame) -> dict[str, Any]:
        return performance_metrics(
            history,
            fills,
            trades,
            periods_per_year=self.env.market.periods_per_year,
            risk_free_rate=self.config.risk_free_rate,
        )

    def _second_opinion(self, results: BacktestResults, periods_per_year: float) -> dict[str, Any]:
        from stateful.analysis import statistics

        return statistics(
            results.to_vectorbt(),
            periods_per_year=periods_per_year,
            risk_free_rate=self.config.risk_free_rate,
        )


def _check_env(env: Any) -> None:
    """Check that an environment is the one that backtests play in.

    Raises:
        ConfigError: It is another, is wrapped, or is a subclass, whose changes the backtest would leave out.
    """
    if type(env).__module__.partition(".")[0] == "stateful" and isinstance(env, StatefulTradingEnv):
        return
    if isinstance(env, StatefulTradingEnv):
        raise ConfigError(
            f"env: got {type(env).__name__}, a subclass of StatefulTradingEnv; a backtest plays in StatefulTradingEnv "
            "itself and would leave out what the subclass changes; expected a StatefulTradingEnv"
        )
    wrapped = isinstance(getattr(env, "unwrapped", None), StatefulTradingEnv)
    hint = "; what a wrapper does belongs into the agent's predict" if wrapped else ""
    raise ConfigError(f"env: got {type(env).__name__}, expected a StatefulTradingEnv{hint}")


def _playing(env: StatefulTradingEnv, rules: EnvConfig, fitted: Fitted) -> StatefulTradingEnv:
    """Return an environment like ``env``, made of other parts."""
    return StatefulTradingEnv(
        fitted.market,
        rules,
        fitted.features,
        scaler=fitted.scaler,
        seed=env.seed_value,
        lane=env.lane,
        lane_parameters=fitted.lane_parameters,
    )


def _as_backtest_config(config: BacktestConfig | Mapping[str, Any] | None) -> BacktestConfig:
    if config is None:
        config = {}
    if isinstance(config, BacktestConfig):
        return config
    if isinstance(config, Mapping):
        return BacktestConfig.model_validate(dict(config))
    raise ConfigError(f"backtest_config: got {type(config).__name__}, expected BacktestConfig, a mapping or None")


def _play(act: Act, env: StatefulTradingEnv, episode: dict[str, int], progress: Progress | None) -> None:
    """Play one episode; the tables are left in ``env``."""
    observation, _ = env.reset(options=episode)
    total = env.end - env.start
    done = over = False
    while not (done or over):
        observation, _, done, over, _ = env.step(act(observation))
        if progress is not None:
            progress(env.bar - env.start, total)


def _play_baseline(
    baseline: Baseline, env: StatefulTradingEnv, episode: dict[str, int], turnover_per_bar: float
) -> OrderLog:
    """Play one episode by a rule, after an agent with this mean turnover; the tables are left in ``env``."""
    env.reset(options=episode)
    if isinstance(baseline, RandomTurnover) and baseline.turnover_per_bar is None:
        ordered = turnover_per_bar / part_that_fills(env.task, env.start, env.end)
        baseline = replace(baseline, turnover_per_bar=ordered)
    return play_rule(baseline, env)
