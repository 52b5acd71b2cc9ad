"""Walks over lanes. A range of lanes is independent of every other, so threads share nothing but the market."""

from __future__ import annotations

from typing import Any

from batchenv.kernel import full, lane, plain
from batchenv.kernel.jit import LINE_F32, LINE_F64, compiled, inlined, pinned, prefetch_row
from batchenv.kernel.state import F32, F64, I64, Lanes, StepOutput, World

AHEAD = 4
"""How many lanes ahead memory is fetched: lanes are at bars all over the market, which no processor foresees."""


@inlined
def fetch_lane(i: int, world: World, lanes: Lanes, out: StepOutput) -> None:
    """Ask for what the step of lane ``i`` reads and writes."""
    t = lanes.bar[i]
    prefetch_row(world.market.inverse, t, LINE_F64)
    prefetch_row(world.market.fill, t, LINE_F64)
    prefetch_row(world.market.mark, t + 1, LINE_F64)
    prefetch_row(world.market.features, t + 1, LINE_F32)
    prefetch_row(lanes.holdings, i, LINE_F64)
    prefetch_row(out.observation, i, LINE_F32)


@compiled
def advance_plain(first: int, stop: int, actions: F32, memory: Any, work: F64) -> None:
    """Take lanes ``first`` to ``stop - 1`` over one bar by the plain rules.

    Args:
        first: First lane.
        stop: The lane after the last.
        actions: Action numbers, float32 ``[N, S]``.
        memory: The pinned `State`; its lanes and results are changed in place.
        work: Scratch, float64 ``[ROWS, W]``, one for each thread.
    """
    world, lanes, out = pinned(memory)
    order = work[0]
    for i in range(first, stop):
        if i + AHEAD < stop:
            fetch_lane(i + AHEAD, world, lanes, out)
        plain.advance_lane(i, actions, world, lanes, out, order)
    lane.reward_lanes(first, stop, world.rules, lanes, out)


@compiled
def advance_full(first: int, stop: int, actions: F32, memory: Any, work: F64) -> None:
    """Take lanes ``first`` to ``stop - 1`` over one bar by the full rules; arguments as `advance_plain`."""
    world, lanes, out = pinned(memory)
    for i in range(first, stop):
        if i + AHEAD < stop:
            fetch_lane(i + AHEAD, world, lanes, out)
        full.advance_lane(i, actions, world, lanes, out, work)
    lane.reward_lanes(first, stop, world.rules, lanes, out)


@compiled
def open_lanes(which: I64, starts: I64, ends: I64, memory: Any) -> None:
    """Start new episodes for the lanes listed in ``which`` and write their rows of the observation."""
    world, lanes, out = pinned(memory)
    for k in range(which.shape[0]):
        i = which[k]
        lane.open_lane(i, starts[k], ends[k], world.parameters.initial_cash[i], lanes)
        lane.observe_lane(i, world.market, world.rules, lanes, out.observation)
