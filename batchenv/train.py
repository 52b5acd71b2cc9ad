"""Training: a configuration in, a run folder out. Judging during training is left to a function given by the caller."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from stable_baselines3.common.callbacks import BaseCallback

from batchenv.agent import Agent
from batchenv.config import DataConfig, EnvConfig, RunConfig
from batchenv.errors import ConfigError, MarketDataError
from batchenv.features import FeatureScaler
from batchenv.market import DateLike, MarketData
from batchenv.record import ActionRecorder
from batchenv.registry import load_file
from batchenv.runs import RunFolder
from batchenv.sb3 import TradingVecEnv

Judge = Callable[[Agent], dict[str, float | None]]
"""Plays an agent on the validation part and returns named figures; ``sharpe`` and ``total_return`` must be there."""


class Reporter(Protocol):
    """Told how training goes."""

    def progress(self, done: int, total: int) -> None:
        """Lane-steps done so far, and to do in all."""

    def evaluated(self, row: dict[str, Any]) -> None:
        """One evaluation on the validation part."""


@dataclass(frozen=True)
class MarketParts:
    """The market divided for one run.

    Attributes:
        train: Bars to learn from.
        validation: Bars to choose the best model by; None when there are none.
        test: Held-out bars.
    """

    train: MarketData
    validation: MarketData | None
    test: MarketData


def import_plugins(names: tuple[str, ...]) -> None:
    """Import the modules or Python files that register a user's features and rewards.

    Raises:
        ConfigError: One of them cannot be imported.
    """
    for name in names:
        try:
            if name.endswith(".py"):
                load_file(Path(name))
            else:
                importlib.import_module(name)
        except Exception as error:  # a user's module may raise anything
            raise ConfigError(f"imports: cannot import {name!r}: {type(error).__name__}: {error}") from error


def load_market(data: DataConfig) -> MarketData:
    """Read the bars that a configuration names.

    Raises:
        MarketDataError: The source cannot be used, or holds none of the symbols or dates asked for.
    """
    market = MarketData.load(data.source, **data.options)
    if data.symbols is not None:
        market = market.select(data.symbols)
    return market if data.start is None and data.end is None else market.between(data.start, data.end)


def split_market(market: MarketData, data: DataConfig) -> MarketParts:
    """Divide the bars into training, validation and test; scaling is fitted on the training part only.

    The embargo's bars are in no part, yet the test part's features look back on them.

    Raises:
        MarketDataError: A part would be empty.
    """
    before, _ = market.split(data.train_end)
    usable = before.n_bars - (data.embargo or 0)
    first = round(usable * (1.0 - data.validation_fraction))
    if first < 2 or (data.validation_fraction and usable - first < 2):
        embargo = f" and data.embargo: {data.embargo}" if data.embargo else ""
        raise MarketDataError(
            f"data.validation_fraction: {data.validation_fraction}{embargo} of the {before.n_bars} bars before "
            f"{data.train_end} leaves no training or validation part; expected at least 2 bars in each"
        )

    def begin(bar: int) -> DateLike:
        return before.timestamps[bar] if bar < before.n_bars else data.train_end

    train, rest = market.split(begin(first))
    validation = rest.between(end=begin(usable)) if data.validation_fraction else None
    return MarketParts(train, validation, rest.between(start=data.train_end))


def train(
    config: RunConfig, output: Path, *, make_judge: Callable[..., Judge] | None = None, reporter: Reporter | None = None
) -> RunFolder:
    """Train an agent and keep everything about it in a new folder.

    Nothing is written before the configuration, the data and the model have been found usable.

    Args:
        config: The complete configuration.
        output: The run folder to make.
        make_judge: Called as ``make_judge(validation, env_config, scaler, backtest_config)``; the `Judge` it returns
            is asked ``config.agent.evaluations`` times during training. None trains without judging.
        reporter: Told about progress.

    Returns:
        The finished run folder.

    Raises:
        BatchenvError: The configuration or the data are not usable, or ``output`` exists.
    """
    RunFolder.check_free(output)
    config = config.resolved()
    import_plugins(config.imports)
    parts = split_market(load_market(config.data), config.data)
    settings = config.agent
    env = TradingVecEnv(
        parts.train,
        config.env,
        n_envs=settings.n_envs,
        seed=config.seed,
        n_threads=settings.n_threads,
        copy=False,
    )
    scaler = env.batch.scaler
    recorder = ActionRecorder(env, int(settings.record_megabytes * 2**20))
    agent = Agent(settings, recorder, seed=config.seed, tensorboard_log=output / "tensorboard")
    judge = None
    if make_judge is not None and parts.validation is not None and settings.evaluations:
        judge = make_judge(parts.validation, config.env, scaler, config.backtest)
    _check_test_part(parts.test, config.env, scaler)
    run = RunFolder.create(output, config, scaler, _facts(config, parts, agent))
    if settings.record_megabytes:
        recorder.start(run.recording)
    callbacks: list[BaseCallback] = [_Progress(settings.total_timesteps, reporter)]
    if settings.checkpoints:
        callbacks.append(_Checkpoints(settings.total_timesteps, settings.checkpoints, run))
    evaluation = None
    if judge is not None:
        evaluation = _Evaluation(settings.total_timesteps, settings.evaluations, agent, judge, run, reporter)
        callbacks.append(evaluation)
    began = time.perf_counter()
    try:
        agent.learn(callback=callbacks)
    except KeyboardInterrupt:
        agent.save(run.model)
        run.finish("interrupted", timesteps=agent.model.num_timesteps)
        raise
    except BaseException as error:
        run.finish("failed", error=f"{type(error).__name__}: {error}", timesteps=agent.model.num_timesteps)
        raise
    finally:
        recorder.close()
    seconds = time.perf_counter() - began
    agent.save(run.model)
    facts = {} if evaluation is None else {"best_timesteps": evaluation.best_timesteps}
    run.finish("finished", timesteps=agent.model.num_timesteps, seconds=round(seconds, 3), **facts)
    return run


def _check_test_part(test: MarketData, config: EnvConfig, scaler: FeatureScaler) -> None:
    """Find out now, and not after training, whether the held-out part can be played."""
    from batchenv.base import TradingTask

    whole = config.updated(episode_config={"length": None, "random_start": False})
    TradingTask.build(test, whole, scaler=scaler)


def _facts(config: RunConfig, parts: MarketParts, agent: Agent) -> dict[str, Any]:
    described = {"train": parts.train, "validation": parts.validation, "test": parts.test}
    return {
        "seed": config.seed,
        "algorithm": config.agent.algorithm,
        "symbols": list(parts.train.symbols),
        "market": parts.test.with_history().decisions,
        "parameters": sum(p.numel() for p in agent.model.policy.parameters()),
        "data": {
            name: {
                "first": str(part.timestamps[0]),
                "last": str(part.timestamps[-1]),
                "bars": part.n_bars,
                "fingerprint": part.fingerprint,
            }
            for name, part in described.items()
            if part is not None
        },
    }


class _Progress(BaseCallback):
    """Tells the reporter how many lane-steps are done, ten times a second at most."""

    def __init__(self, total: int, reporter: Reporter | None) -> None:
        super().__init__()
        self._total, self._reporter, self._told = total, reporter, 0.0

    def _on_step(self) -> bool:
        if self._reporter is not None and time.perf_counter() - self._told > 0.1:
            self._told = time.perf_counter()
            self._reporter.progress(self.num_timesteps, self._total)
        return True

    def _on_training_end(self) -> None:
        if self._reporter is not None:
            self._reporter.progress(self.num_timesteps, self._total)


class _Every(BaseCallback):
    """Acts ``times`` times during training, evenly, the last time at its end."""

    def __init__(self, total: int, times: int) -> None:
        super().__init__()
        self._interval, self._next, self._acted_at = total / times, total / times, 0

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        # Before a rollout the policy has learned from all steps so far, and no step is waiting for its result.
        if self.num_timesteps >= self._next:
            while self._next <= self.num_timesteps:
                self._next += self._interval
            self._acted_at = self.num_timesteps
            self.act()

    def _on_training_end(self) -> None:
        if self._acted_at != self.num_timesteps:
            self.act()

    def act(self) -> None:
        """Do it."""
        raise NotImplementedError


class _Checkpoints(_Every):
    """Keeps intermediate models."""

    def __init__(self, total: int, times: int, run: RunFolder) -> None:
        super().__init__(total, times)
        self._run = run

    def act(self) -> None:
        self.model.save(str(self._run.checkpoints / f"model_{self.num_timesteps}.zip"))


class _Evaluation(_Every):
    """Judges the agent on the validation part and keeps the best model, by Sharpe ratio."""

    def __init__(
        self, total: int, times: int, agent: Agent, judge: Judge, run: RunFolder, reporter: Reporter | None
    ) -> None:
        super().__init__(total, times)
        self._agent, self._judge, self._run, self._reporter = agent, judge, run, reporter
        self._best = float("-inf")
        self.best_timesteps: int | None = None

    def act(self) -> None:
        figures = self._judge(self._agent)
        sharpe = figures.get("sharpe")
        score = float("-inf") if sharpe is None else sharpe
        best = self.best_timesteps is None or score > self._best
        if best:
            self._best, self.best_timesteps = score, self.num_timesteps
            self._agent.save(self._run.best_model)
        row = {"timesteps": self.num_timesteps, **figures, "best": best}
        for name, value in figures.items():
            if value is not None:
                self.logger.record(f"validation/{name}", value)
        self._append(row)
        if self._reporter is not None:
            self._reporter.evaluated(row)

    def _append(self, row: dict[str, Any]) -> None:
        new = not self._run.evaluations.exists()
        with self._run.evaluations.open("a", encoding="utf-8") as file:
            if new:
                file.write(",".join(row) + "\n")
            file.write(",".join("" if value is None else str(value) for value in row.values()) + "\n")
