"""stable-baselines3's wrappers as tests put them around our environments."""

from __future__ import annotations

from typing import Any

import pytest
from stable_baselines3.common.vec_env import VecEnv, VecMonitor


def monitored(env: VecEnv, **arguments: Any) -> VecMonitor:
    """Wrap an environment in `VecMonitor`, which warns that its statistics replace the environment's own."""
    with pytest.warns(UserWarning, match="already wrapped with a `Monitor` wrapper"):
        return VecMonitor(env, **arguments)
