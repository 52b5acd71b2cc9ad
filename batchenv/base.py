"""What every environment is built from, and what the two scalar environments have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from batchenv.arrays import LARGEST_INT, whole
from batchenv.config import EnvConfig, as_env_config
from batchenv.episodes import EpisodeSchedule, check_seed
from batchenv.errors import ConfigError, EnvironmentStateError, FeatureError, MarketDataError, did_you_mean, shown
from batchenv.features import FeatureMatrix, FeatureScaler, compute_features
from batchenv.made_for import MadeFor
from batchenv.market import MarketData
from batchenv.parameters import LaneParameters, LaneValues, per_symbol
from batchenv.spaces import ActionSpec, Observation, ObservationLayout


@dataclass(frozen=True)
class TradingTask:
    """A market, the rules, and all that follows from them before the first step.

    Attributes:
        market: The bars.
        config: The rules.
        features: Precomputed features, float32 ``[bars, features * symbols]``.
        actions: The action of one lane.
        layout: The observation of one lane.
        schedule: Where episodes start and end.
        scaler_given: Whether the feature scaling was handed in; else it was fitted on bars of this market.
    """

    market: MarketData
    config: EnvConfig
    features: FeatureMatrix
    actions: ActionSpec
    layout: ObservationLayout
    schedule: EpisodeSchedule
    scaler_given: bool = False

    @classmethod
    def build(
        cls,
        market: Any,
        config: EnvConfig | Mapping[str, Any] | str | Path,
        features: Sequence[str] | None = None,
        scaler: FeatureScaler | None = None,
    ) -> TradingTask:
        """Put a task together and check that its parts fit.

        Args:
            market: `MarketData`, or a DataFrame that `MarketData.from_frame` takes.
            config: The rules: `EnvConfig`, a mapping, or the path of a JSON file.
            features: Feature names; None takes ``config.features``.
            scaler: Feature scaling of an earlier run; None fits it on the training part of the market.

        Raises:
            ConfigError: The configuration is not valid, or asks for what the market does not have.
            MarketDataError: The history is too short.
            FeatureError: A feature is unknown or cannot be computed.
        """
        rules = as_env_config(config)
        bars = market if isinstance(market, MarketData) else MarketData.from_frame(market)
        if isinstance(features, str):
            raise FeatureError(f"features: got the string {features!r}, expected a list of names")
        names = rules.features if features is None else tuple(features)
        if rules.fill == "next_open" and bars.open is None:
            raise ConfigError(
                "fill: 'next_open' needs open prices, and these data have closes only; "
                "expected 'next_close' (or 'close', which is optimistic)"
            )
        matrix = compute_features(bars, names, scaler=scaler, scaling=rules.feature_scaling)
        episodes = rules.episode_config
        schedule = EpisodeSchedule.build(
            bars.n_bars, matrix.first_bar, episodes.length, episodes.random_start, episodes.desynchronize
        )
        _check_market(bars, rules)
        borrows = not rules.margin_config.cash_account
        layout = ObservationLayout(
            matrix.names, bars.symbols, rules.observation_config, matrix.scaler.clip, bars.n_bars, borrows
        )
        actions = ActionSpec(rules.action_config, bars.symbols)
        return cls(bars, rules, matrix, actions, layout, schedule, scaler is not None)

    @property
    def made_for(self) -> MadeFor:
        """What a model that is trained on this task remembers of it."""
        return MadeFor.from_parts(self.market, self.config, self.features)

    @property
    def observation_space(self) -> spaces.Space[Any]:
        """The space of one lane's observation, which remembers what it was made for."""
        return self.made_for.remembered_by(self.layout.space)

    @property
    def action_space(self) -> spaces.Space[Any]:
        """The space of one lane's action, which remembers what it was made for."""
        return self.made_for.remembered_by(self.actions.space)


def _check_market(market: MarketData, rules: EnvConfig) -> None:
    """Check that the market has what the rules look at, and that settings by symbol name its symbols.

    Raises:
        ConfigError: It has not; names the key.
    """
    execution, costs, carry = rules.execution_config, rules.cost_config, rules.carry_config
    for key in ("stop_loss", "take_profit"):
        if getattr(execution, key) is not None and any(x is None for x in (market.open, market.high, market.low)):
            raise ConfigError(
                f"execution_config.{key}: stops watch the open, high and low of a bar, and these data have closes "
                "only; expected null, or data with all four prices"
            )
    for section, key, active in (
        ("execution_config", "participation_limit", execution.participation_limit is not None),
        ("cost_config", "impact_coefficient", costs.impact_coefficient > 0),
    ):
        if active and market.volume is None:
            raise ConfigError(f"{section}.{key}: needs volumes, and these data have none")
    column = carry.funding_column
    if column is not None and column not in market.columns:
        known = tuple(market.columns)
        raise ConfigError(
            f"carry_config.funding_column: the data have no column {column!r}{did_you_mean(column, known)}; "
            f"expected one of: {', '.join(known) or 'none there'}"
        )
    for model, name in ((costs, "cost_config"), (execution, "execution_config"), (carry, "carry_config")):
        for field, value in model:
            if isinstance(value, dict):
                per_symbol(value, market.symbols, f"{name}.{field}")


class BaseTradingEnv(gymnasium.Env[Observation, Any]):
    """One lane as a `gymnasium.Env`: spaces, seeding and the clock; the money is left to the subclass.

    Attributes:
        task: Market, rules, features and layout.
        seed_value: The seed in force.
        lane: The lane this environment plays.
        episode: Number of the current episode, counted from 0 since seeding; -1 before the first reset.
        start: First bar of the episode.
        end: Last bar of the episode.
        bar: The current bar.
        parameters: What is given or drawn for this lane.
        values: What applies to the current episode.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012

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
        """Build the environment.

        Args:
            market: `MarketData`, or a DataFrame that `MarketData.from_frame` takes.
            config: `EnvConfig`, a mapping, or the path of a JSON file.
            features: Feature names; None takes ``config.features``.
            scaler: Feature scaling of an earlier run; None fits it on the training part of the market.
            seed: Seed of the episode starts; None draws one.
            lane: Which lane of a batch this environment repeats.
            lane_parameters: Parameters of this lane in place of the configuration's (rule 8.1), numbers by name;
                arrays ``[1, symbols]`` where they differ by symbol.

        Raises:
            BatchenvError: As `TradingTask.build` and `LaneParameters.build` say.
        """
        self.task = TradingTask.build(market, config, features, scaler)
        self.market = self.task.market
        self.config = self.task.config
        self.observation_space = self.task.observation_space
        self.action_space = self.task.action_space
        self.render_mode = None
        self.seed_value = check_seed(seed)
        self.lane = whole(lane, "lane", 0, LARGEST_INT)
        self.episode = -1
        self.start = self.end = self.bar = 0
        self.parameters = LaneParameters.build(self.config, self.market.symbols, self.task.schedule, 1, lane_parameters)
        self.values = self._values(self.seed_value, self.lane, 0)
        self._running = False

    @property
    def features(self) -> tuple[str, ...]:
        """Feature names, in the order of the observation."""
        return self.task.features.names

    @property
    def scaler(self) -> FeatureScaler:
        """Feature scaling in force."""
        return self.task.features.scaler

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start the next episode.

        Args:
            seed: A new seed, which also counts episodes from 0 again; None goes on with the next episode.
            options: ``lane`` and ``episode`` choose which episode of which lane to play; ``start`` chooses the
                start bar outright.

        Returns:
            The first observation, float32 ``[size]`` or a dict (`batchenv.spaces.Observation`), and an info dict.

        Raises:
            ConfigError: Wrong seed or options; nothing has changed then.
        """
        chosen = _chosen(options)
        seed_value = self.seed_value if seed is None else check_seed(seed)
        lane = chosen.get("lane", self.lane)
        following = 0 if seed is not None else self.episode + 1
        episode = whole(chosen.get("episode", following), "episode", 0, LARGEST_INT)
        values = self._values(seed_value, lane, episode)
        start, end = int(values.start[0]), int(values.end[0])
        if "start" in chosen:
            schedule, steps = self.task.schedule, end - start
            last = schedule.final_bar - (steps if self.parameters.has_length else 1)
            start = whole(chosen["start"], "options['start']", schedule.first, last)
            end = start + steps if self.parameters.has_length else schedule.final_bar
        super().reset(seed=None if seed is None else seed_value)
        self.seed_value, self.lane, self.episode, self.values = seed_value, lane, episode, values
        self.start, self.end, self.bar = start, end, start
        self._running = True
        return self._begin(), self._info()

    def _values(self, seed: int, lane: int, episode: int) -> LaneValues:
        """Return what applies to an episode."""
        lanes, episodes = np.array([lane], np.int64), np.array([episode], np.int64)
        return self.parameters.at(seed, lanes, episodes, np.zeros(1, np.int64))

    def _check_running(self) -> None:
        if not self._running:
            raise EnvironmentStateError("step: the episode is over or has not begun; expected a call of reset() first")

    def _begin(self) -> Observation:
        """Open the account at ``self.start`` and return the first observation."""
        raise NotImplementedError

    def _info(self) -> dict[str, Any]:
        """Return the info dict of the current bar."""
        raise NotImplementedError


def _chosen(options: Any) -> dict[str, int]:
    """Return the reset options, checked.

    Raises:
        ConfigError: Not a mapping, an unknown key, or a value that is no whole number from 0 on.
    """
    known = ("lane", "episode", "start")
    if options is not None and not isinstance(options, Mapping):
        raise ConfigError(f"options: got {shown(options)}, expected a mapping with any of {', '.join(known)}")
    for key in options or {}:
        if key not in known:
            raise ConfigError(f"options: unknown key {key!r}{did_you_mean(key, known)}; expected {', '.join(known)}")
    return {key: whole(value, f"options[{key!r}]", 0, LARGEST_INT) for key, value in (options or {}).items()}


__all__ = ["BaseTradingEnv", "MarketDataError", "TradingTask"]
