"""Agents for tests: objects with the `predict` of a stable-baselines3 model."""

from __future__ import annotations

from typing import Any

import numpy as np


class RandomAgent:
    """Uniform actions from a seed, the same in every run of one object that is reset."""

    def __init__(self, n: int, low: float = -1.0, seed: int = 0) -> None:
        self.n, self.low = n, low
        self.rng = np.random.default_rng(seed)
        self.calls: list[dict[str, Any]] = []

    def predict(self, observation: Any, deterministic: bool = False, **extra: Any) -> tuple[Any, Any]:
        self.calls.append({"observation": observation, "deterministic": deterministic, **extra})
        return self.rng.uniform(self.low, 1.0, self.n).astype(np.float32), None


class ConstantAgent:
    """The same action at every bar."""

    def __init__(self, action: Any) -> None:
        self.action = np.asarray(action, np.float32)

    def predict(self, observation: Any, deterministic: bool = False) -> tuple[Any, Any]:
        return self.action, None
