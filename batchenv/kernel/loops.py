"""Walks over lanes. A range of lanes is independent of every other, so threads share nothing but the market."""

from __future__ import annotations

from batchenv.kernel import lane
from batchenv.kernel.jit import compiled
from batchenv.kernel.state import F32, F64, I64, Lanes, Market, Rules, StepOutput


@compiled
def advance_lanes(
    first: int, stop: int, actions: F32, market: Market, rules: Rules, lanes: Lanes, out: StepOutput, order: F64
) -> None:
    """Take lanes ``first`` to ``stop - 1`` over one bar.

    Args:
        first: First lane.
        stop: The lane after the last.
        actions: Action numbers, float32 ``[N, S]``.
        market: The market.
        rules: The rules.
        lanes: State, changed in place.
        out: Results, written in place.
        order: Scratch, float64 ``[S]``, one for each thread.
    """
    for i in range(first, stop):
        lane.advance_lane(i, actions, market, rules, lanes, out, order)


@compiled
def open_lanes(
    which: I64, starts: I64, ends: I64, market: Market, rules: Rules, lanes: Lanes, observation: F32
) -> None:
    """Start new episodes for the lanes listed in ``which`` and write their rows of ``observation``."""
    for k in range(which.shape[0]):
        lane.open_lane(which[k], starts[k], ends[k], rules, lanes)
        lane.observe_lane(which[k], market, rules, lanes, observation)
