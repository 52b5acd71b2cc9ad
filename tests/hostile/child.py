"""Processes of their own: what becomes of one is the result of a trial."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
CHECKED = {"NUMBA_BOUNDSCHECK": "1"}
"""What makes the kernel check every index."""


def child(*arguments: str, **environment: str) -> tuple[int, str]:
    """Run Python in a process of its own; return its exit code and its output."""
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def try_group(group: str, **environment: str) -> tuple[str, str]:
    """Try the hostile inputs of a group; return what went wrong, empty where nothing did, and how many were tried."""
    code, output = child("-m", "tests.hostile", group, **environment)
    lines = output.splitlines()
    if code not in (0, 1) or not lines:
        last = next((line for line in reversed(lines) if line.startswith("try")), "before anything was tried")
        return f"exit code {code} at: {last}", ""
    wrong = "\n".join(line for line in lines if not line.startswith("try"))[-3000:]
    return (wrong if code else ""), next(line for line in lines if line.startswith("tried"))


PLANTED = """
import sys
import numpy as np
from batchenv import BatchTradingEnv
from batchenv.kernel.jit import BOUNDS_CHECKED
from tests.markets import market

place, rules = sys.argv[1], {"cost_config": {"fee_fixed": float(sys.argv[2])}}
env = BatchTradingEnv(market(), rules, n_envs=20, seed=0)
env.reset()
assert BOUNDS_CHECKED and env._engine.plain == (sys.argv[2] == "0"), "not the kernel that is meant"
env.step(np.zeros((20, 4), np.float32))
if place == "a bar":
    env._engine.lanes.bar[7] = env.market.n_bars - 1
elif place == "a bar far away":
    env._engine.lanes.bar[7] = 2**62
elif place == "a lane":
    env._engine.open(np.array([20]), env.parameters.at(0, np.array([3]), np.array([0])))
elif place == "actions for fewer lanes":
    env._engine.advance(np.zeros((19, 4), np.float32))
elif place == "memory for fewer lanes":
    env._engine.advance(np.zeros((20, 4), np.float32), np.zeros((19, 5), np.float32))
env.step(np.zeros((20, 4), np.float32))
print("nothing was noticed")
"""
PLACES = ("a bar", "a bar far away", "a lane", "actions for fewer lanes", "memory for fewer lanes")
KERNELS = {"plain": "0", "full": "1"}


def plant(place: str, kernel: str) -> tuple[int, str]:
    """Put an index beyond an array into the kernel that checks bounds; return the exit code and the output."""
    return child("-c", PLANTED, place, KERNELS[kernel], **CHECKED)
