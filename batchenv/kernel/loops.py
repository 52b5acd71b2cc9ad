"""Walks over lanes. A range of lanes is independent of every other, so threads share nothing but the market."""

from __future__ import annotations

from batchenv.kernel import full, lane, plain
from batchenv.kernel.jit import compiled
from batchenv.kernel.state import F32, F64, I64, Lanes, StepOutput, World


@compiled
def advance_plain(first: int, stop: int, actions: F32, world: World, lanes: Lanes, out: StepOutput, work: F64) -> None:
    """Take lanes ``first`` to ``stop - 1`` over one bar by the plain rules.

    Args:
        first: First lane.
        stop: The lane after the last.
        actions: Action numbers, float32 ``[N, S]``.
        world: Market and rules.
        lanes: State, changed in place.
        out: Results, written in place.
        work: Scratch, float64 ``[3, S]``, one for each thread.
    """
    order = work[0]
    for i in range(first, stop):
        plain.advance_lane(i, actions, world, lanes, out, order)


@compiled
def advance_full(first: int, stop: int, actions: F32, world: World, lanes: Lanes, out: StepOutput, work: F64) -> None:
    """Take lanes ``first`` to ``stop - 1`` over one bar by the full rules; arguments as `advance_plain`."""
    for i in range(first, stop):
        full.advance_lane(i, actions, world, lanes, out, work)


@compiled
def open_lanes(which: I64, starts: I64, ends: I64, world: World, lanes: Lanes, observation: F32) -> None:
    """Start new episodes for the lanes listed in ``which`` and write their rows of ``observation``."""
    for k in range(which.shape[0]):
        i = which[k]
        lane.open_lane(i, starts[k], ends[k], world.parameters.initial_cash[i], lanes)
        lane.observe_lane(i, world.market, world.rules, lanes, observation)
