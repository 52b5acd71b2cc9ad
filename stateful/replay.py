"""Playing an episode of a training run again, alone, with everything remembered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from batchenv.errors import RunError
from batchenv.fast import FastTrainingEnv
from batchenv.record import RecordedEpisode, read_episode
from batchenv.runs import RunFolder
from batchenv.train import import_plugins, load_market, split_market
from stateful.backtest import BackTesting, BacktestResults
from stateful.env import StatefulTradingEnv
from stateful.verify import TOLERANCE


@dataclass(frozen=True)
class Replay:
    """An episode played again.

    Attributes:
        results: Lots, trades, fills and report, from the evaluation tier.
        recorded: What was recorded in training.
        lane_equity: Final equity of the same lane of the training tier, played alone: the recorded, bit for bit.
        worst_shares: Largest difference in a symbol's shares between the tiers at any bar: their value, as a fraction
            of cash and positions without signs.
        shares_equal: Whether the shares of both tiers were equal bit for bit at every bar.
    """

    results: BacktestResults
    recorded: RecordedEpisode
    lane_equity: float
    worst_shares: float
    shares_equal: bool


class _Script:
    """An agent that does what was recorded."""

    def __init__(self, actions: npt.NDArray[Any]) -> None:
        self._actions = actions
        self._at = 0

    def predict(self, observation: Any, *, deterministic: bool = True) -> tuple[Any, None]:
        """Return the next recorded action."""
        action = self._actions[self._at]
        self._at += 1
        return action, None


def replay_episode(path: Path, lane: int, episode: int, progress: Callable[[int, int], None] | None = None) -> Replay:
    """Play an episode of a run's training again in both tiers.

    Args:
        path: The run folder.
        lane: The lane.
        episode: The episode's number, from 0.
        progress: Told bars done and in all.

    Raises:
        RunError: The run was not recorded, does not hold the episode, its data have changed, or the recorded equity
            does not come out again, or the tiers disagree about the shares.
    """
    run = RunFolder.open(path)
    import_plugins(run.config.imports)
    market = split_market(load_market(run.config.data), run.config.data).train
    known = run.info["data"]["train"]["fingerprint"]
    if market.fingerprint != known:
        raise RunError(
            f"{path}: the training bars of {run.config.data.source!r} have changed since training: their "
            f"fingerprint is {market.fingerprint[:12]}..., expected {known[:12]}..."
        )
    rules = run.config.env
    fast = FastTrainingEnv(market, rules, scaler=run.scaler, seed=run.config.seed)
    recorded = read_episode(run.recording, lane, episode, run.config.agent.n_envs, fast.action_space)
    exact = StatefulTradingEnv(market, rules, scaler=run.scaler, seed=run.config.seed)
    worst, equal = _follow(path, fast, exact, recorded)
    if fast.equity != recorded.final_equity:
        raise RunError(
            f"{path}: lane {lane}, episode {episode} ended with {recorded.final_equity!r} in training and with "
            f"{fast.equity!r} now; another machine or other package versions? ({run.info['versions']})"
        )
    testing = BackTesting(_Script(recorded.actions), exact, {"vectorbt": False}, episode=(lane, episode))
    return Replay(testing.run(progress), recorded, fast.equity, worst, equal)


def _follow(
    path: Path, fast: FastTrainingEnv, exact: StatefulTradingEnv, recorded: RecordedEpisode
) -> tuple[float, bool]:
    """Play both tiers side by side; return how far apart their shares were, and whether they were equal."""
    where = {"lane": recorded.lane, "episode": recorded.episode}
    fast.reset(options=where)
    exact.reset(options=where)
    worst, equal = 0.0, True
    for action in recorded.actions:
        fast.step(action)
        exact.step(action)
        mark = np.nan_to_num(exact.market.mark[exact.bar])
        apart = np.abs(fast.holdings - exact.holdings) * mark
        gross = abs(exact.cash) + np.abs(exact.holdings) @ mark
        equal &= bool((fast.holdings == exact.holdings).all())
        worst = max(worst, float(apart.max() / max(gross, 1e-3 * exact.values.initial_cash[0])))
        if not worst <= TOLERANCE:
            symbol, held = int(apart.argmax()), (fast.holdings, exact.holdings)
            raise RunError(
                f"{path}: lane {recorded.lane}, episode {recorded.episode}, bar {exact.bar}: the training tier holds "
                f"{held[0][symbol]!r} shares of {exact.market.symbols[symbol]}, the evaluation tier {held[1][symbol]!r}"
                f", which should agree to {TOLERANCE:g} of the account: a mistake of batchenv's, please report it"
            )
    return worst, equal
