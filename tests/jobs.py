"""What the processes of `test_walk_forward` and `test_registry` do; it imports little, so that they start fast."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from filelock import FileLock

from batchenv.errors import RunError
from stateful.evaluation.workers import Tell, run_in_processes


def double(job: Any, tell: Tell) -> None:
    """Tell twice the number; some jobs fail, in each of the ways there are."""
    if job == "error":
        raise RunError("the disk is full")
    if job == "defect":
        raise KeyError("nothing")
    if job == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    tell(2 * job)


def hold(lock: Path, tell: Tell) -> None:
    """Hold a lock, which ends with this process, and tell so for ever."""
    with FileLock(lock):
        lock.with_suffix(".held").touch()
        while True:
            tell("alive")
            time.sleep(0.02)


def features_and_reward(job: Any, tell: Tell) -> None:
    """Tell the sum of the features of what was sent, and what the reward makes of a step."""
    from batchenv import MarketData
    from batchenv.features import compute_features
    from batchenv.rewards import RewardStep, registered_reward
    from tests.markets import market

    names, sent = job
    bars = sent if isinstance(sent, MarketData) else market()
    reward = registered_reward("registry_gain")
    step = RewardStep(100.0, 103.0, 103.0, 0.0, 0.0)
    tell((float(compute_features(bars, names, scaling="none").values.sum()), reward and reward(step)))


if __name__ == "__main__":  # a parent that only a signal ends
    run_in_processes(hold, {0: Path(sys.argv[1])}, workers=1, heard=lambda *_: None, ended=lambda *_: None)
