"""Walks over lanes. A range of lanes is independent of every other, so threads share nothing but the market."""

from __future__ import annotations

from typing import Any

from batchenv.kernel import full, lane, plain
from batchenv.kernel.jit import compiled, pinned
from batchenv.kernel.state import F32, I64


@compiled
def advance_plain(first: int, stop: int, actions: F32, observation: F32, memory: Any) -> None:
    """Take lanes ``first`` to ``stop - 1`` over one bar by the plain rules.

    Args:
        first: First lane.
        stop: The lane after the last.
        actions: Action numbers, float32 ``[N, S]``.
        observation: Where the observations go, float32 ``[N, D]``.
        memory: The pinned `State` of the thread; lanes and results are changed in place.
    """
    world, lanes, out, work = pinned(memory)
    for i in range(max(first, 0), stop, work.order.shape[0]):  # known not to be negative: no index wraps around
        plain.advance_block(i, stop, actions, observation, world, lanes, out, work)


@compiled
def advance_full(first: int, stop: int, actions: F32, observation: F32, memory: Any) -> None:
    """Take lanes ``first`` to ``stop - 1`` over one bar by the full rules; as `advance_plain`."""
    world, lanes, out, work = pinned(memory)
    full.share_settings(world, work)
    for i in range(max(first, 0), stop, work.order.shape[0]):
        full.advance_block(i, stop, actions, observation, world, lanes, out, work)


@compiled
def open_lanes(which: I64, starts: I64, ends: I64, observation: F32, memory: Any) -> None:
    """Start new episodes for the lanes listed in ``which`` and write their rows of the observation."""
    world, lanes, _, _ = pinned(memory)
    for k in range(which.shape[0]):
        i = which[k]
        lane.open_lane(i, starts[k], ends[k], world.parameters.initial_cash[i], lanes)
        # There are no positions yet, and so no values.
        lane.observe_lane(i, lanes.holdings[i], world.market, world.rules, lanes, observation)
