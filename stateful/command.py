"""What ``batchenv backtest`` does between reading its options and printing: agent, bars and rules put together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from batchenv.agent import Agent
from batchenv.config import RunConfig
from batchenv.errors import ConfigError, RunError
from batchenv.features import FeatureScaler
from batchenv.market import MarketData
from batchenv.runs import RunFolder, free_name
from batchenv.train import import_plugins, load_market, split_market
from stateful.backtest import BackTesting, BacktestResults
from stateful.env import StatefulTradingEnv
from stateful.evaluation.trials import count_trials, record_look
from stateful.verify import Certificate, compare, hostile_actions


@dataclass(frozen=True)
class BacktestPlan:
    """A backtest ready to run.

    Attributes:
        testing: Agent and environment.
        default_output: Folder of the report when none is named.
        title: Heading of the report.
        facts: Facts about the run, for the report.
        learning_curve: Evaluations during training, where there were any.
        tested: Run folder and model file that are tested, where there is a run folder: it counts its tests.
    """

    testing: BackTesting
    default_output: Path
    title: str
    facts: dict[str, Any]
    learning_curve: pd.DataFrame | None
    tested: tuple[RunFolder, str] | None = None

    def write(self, results: BacktestResults, folder: Path, *, tear_sheet: bool = False) -> Path:
        """Write the report, count the test in the run folder, and return the path of the report's page.

        Args:
            results: What the backtest found.
            folder: Where to.
            tear_sheet: Whether QuantStats writes its tear sheet too.

        Raises:
            RunError: ``folder`` cannot be written or holds a report already, or the run folder cannot be written.
        """
        page = results.write(
            folder,
            title=self.title,
            learning_curve=self.learning_curve,
            run_info=self.facts,
            tear_sheet=tear_sheet,
            stress=None if self.tested is None else _latest_stress(self.tested[0].path),
        )
        if self.tested is not None:
            record_look(*self.tested, folder, results.metrics)
        return page


def prepare_run(path: Path, which: str = "best") -> BacktestPlan:
    """Plan the backtest of a run folder's agent on the run's held-out bars.

    Args:
        path: The run folder.
        which: ``best`` or ``final`` model.

    Raises:
        BatchenvError: The folder, its model or its data are not usable, or the data have changed since training.
    """
    run = RunFolder.open(path)
    model = run.chosen_model(which)
    import_plugins(run.config.imports)
    test = split_market(load_market(run.config.data), run.config.data).test
    _check_unchanged(run, test)
    agent = Agent.load(model, run.config.agent)
    facts = {
        "Run folder": str(path),
        "Model": model.name,
        "Algorithm": run.config.agent.algorithm.upper(),
        "Seed": run.config.seed,
        "Trained for": _trained_for(run.info),
        "Trained on": _span(run.info, "train"),
        "Chosen on": _span(run.info, "validation"),
        "Tested on": _span(run.info, "test"),
        "Versions": ", ".join(f"{name} {number}" for name, number in run.info["versions"].items()),
    }
    title = f"{run.config.agent.algorithm.upper()} on {run.config.data.source}"
    trials = count_trials(run, model.name)
    own = run.config.backtest.updated(vec_normalize=None, frame_stack=None)  # those are of backtest.model
    config = run.config.updated(backtest=own.model_dump(exclude_unset=True))
    testing = _testing(agent, test, config, run.scaler, trained_on=_trained_on(run.info), trials=trials)
    return BacktestPlan(testing, free_name(path / "backtest"), title, facts, _learning_curve(run), (run, model.name))


def prepare_config(path: Path) -> BacktestPlan:
    """Plan the backtest of the model that a configuration names, on the configuration's held-out bars.

    Raises:
        BatchenvError: The configuration, its model or its data are not usable.
    """
    config = RunConfig.from_json(path)
    if config.backtest.model is None:
        raise ConfigError(
            f"{path}: backtest.model: this key is missing; expected the path of a trained model, or use "
            "--run DIR to test a run folder"
        )
    import_plugins(config.imports)
    agent = Agent.load(config.backtest.model, config.agent)
    test = split_market(load_market(config.data), config.data).test
    facts = {"Configuration": str(path), "Model": config.backtest.model, "Algorithm": config.agent.algorithm.upper()}
    info = _info_beside(Path(config.backtest.model))
    if info is not None:
        facts |= {"Trained on": _span(info, "train"), "Chosen on": _span(info, "validation")}
    title = f"{config.agent.algorithm.upper()} on {config.data.source}"
    testing = _testing(agent, test, config, None, trained_on=None if info is None else _trained_on(info))
    return BacktestPlan(testing, free_name(Path("runs") / f"backtest-{path.stem}"), title, facts, None)


def verify_config(
    config: RunConfig, n_envs: int, steps: int, seed: int, progress: Callable[[int], None] | None = None
) -> Certificate:
    """Compare both tiers on a configuration's rules and training bars, under hostile actions.

    Args:
        config: The configuration.
        n_envs: Lanes.
        steps: Bars that each lane plays.
        seed: Seed of actions and episodes.
        progress: Told the lane-steps done.

    Raises:
        VerificationError: The tiers disagree.
        BatchenvError: The configuration or its data are not usable.
    """
    import_plugins(config.imports)
    market = split_market(load_market(config.data), config.data).train
    return compare(market, config.env, hostile_actions(seed), n_envs=n_envs, steps=steps, seed=seed, progress=progress)


def _latest_stress(run: Path) -> Path | None:
    """Return the folder of the latest stress test in a run folder, or None where there is none."""
    found = run.glob("stress*/stress.json")
    latest = max(found, key=lambda file: file.stat().st_mtime, default=None)
    return None if latest is None else latest.parent


def _testing(
    agent: Agent, test: MarketData, config: RunConfig, scaler: FeatureScaler | None, **known: Any
) -> BackTesting:
    env = StatefulTradingEnv(test, config.backtest.applied_to(config.env), scaler=scaler, seed=config.seed)
    return BackTesting(agent, env, config.backtest, **known)


def _check_unchanged(run: RunFolder, test: MarketData) -> None:
    known = run.info["data"]["test"]["fingerprint"]
    if test.fingerprint != known:
        raise RunError(
            f"{run.path}: the held-out bars of {run.config.data.source!r} have changed since training: their "
            f"fingerprint is {test.fingerprint[:12]}..., expected {known[:12]}...; restore the data, or train again"
        )


def _info_beside(model: Path) -> dict[str, Any] | None:
    """Return what ``run.json`` says of the run that a model belongs to; None for a model outside a run folder."""
    for folder in (model.parent, model.parent.parent):  # checkpoints have a folder of their own
        if (folder / "run.json").is_file():
            return RunFolder.open(folder).info
    return None


def _learning_curve(run: RunFolder) -> pd.DataFrame | None:
    """Return the evaluations during training; None where there were none.

    Raises:
        RunError: Their file is damaged.
    """
    if not run.evaluations.is_file():
        return None
    try:
        return pd.read_csv(run.evaluations).set_index("timesteps").drop(columns="best").astype(float).reset_index()
    except (KeyError, ValueError) as error:
        raise RunError(f"{run.evaluations}: damaged: {error}; remove the file to do without learning curves") from None


def _trained_for(info: dict[str, Any]) -> str:
    """Say how long an agent was trained, and how that ended where it did not finish."""
    steps = f"{info['timesteps']:,} steps" if "timesteps" in info else "a number of steps that is not known"
    return f"{steps} in {info['seconds']:,.1f} s" if "seconds" in info else f"{steps}; status {info.get('status')!r}"


def _trained_on(info: dict[str, Any]) -> tuple[str, str]:
    """Return the first and the last timestamp of a run's training and validation bars."""
    parts = [info["data"][name] for name in ("train", "validation") if name in info["data"]]
    return min(part["first"] for part in parts), max(part["last"] for part in parts)


def _span(info: dict[str, Any], part: str) -> str:
    facts = info["data"].get(part)
    return "nothing" if facts is None else f"{facts['first'][:10]} to {facts['last'][:10]} ({facts['bars']:,} bars)"
