"""Walks over lanes. A range of lanes is independent of every other, so threads share nothing but the market.

Threads take ranges until none is left: whoever is free takes the next. Tickets are numbered through all steps, N of
them a step, so a thread that the system wakes too late finds that those of its step are gone.
"""

from __future__ import annotations

from typing import Any

from batchenv.kernel import full, lane, plain
from batchenv.kernel.jit import add, compiled, look, pinned
from batchenv.kernel.state import DONE, F32, I64, TAKEN


@compiled
def advance_plain(limit: int, size: int, actions: F32, observation: F32, memory: Any) -> None:
    """Take lanes over one bar by the plain rules, ``size`` at a time, until all are taken.

    Args:
        limit: The tickets of this step and all before it.
        size: Lanes in a range.
        actions: Action numbers, float32 ``[N, S]``.
        observation: Where the observations go, float32 ``[N, D]``.
        memory: The pinned `State` of the thread; lanes and results are changed in place.
    """
    world, lanes, out, work, counter = pinned(memory)
    n = lanes.cash.shape[0]
    while True:
        ticket = add(counter, TAKEN, size, limit)
        if ticket == limit:
            return
        first = max(ticket - (limit - n), 0)  # known not to be negative: no index wraps around
        stop = min(first + size, n)
        for i in range(first, stop, work.order.shape[0]):
            plain.advance_block(i, stop, actions, observation, world, lanes, out, work)
        add(counter, DONE, stop - first, limit)


@compiled
def advance_full(limit: int, size: int, actions: F32, observation: F32, memory: Any) -> None:
    """Take lanes over one bar by the full rules; as `advance_plain`."""
    world, lanes, out, work, counter = pinned(memory)
    n = lanes.cash.shape[0]
    full.share_settings(world, work)
    while True:
        ticket = add(counter, TAKEN, size, limit)
        if ticket == limit:
            return
        first = max(ticket - (limit - n), 0)
        stop = min(first + size, n)
        for i in range(first, stop, work.order.shape[0]):
            full.advance_block(i, stop, actions, observation, world, lanes, out, work)
        add(counter, DONE, stop - first, limit)


@compiled
def is_done(counter: I64, limit: int, looks: int) -> bool:
    """Return whether all lanes are done, after at most so many looks; a look takes about a nanosecond."""
    left = looks
    while left > 0 and look(counter, DONE) < limit:
        left -= 1
    return left > 0


@compiled
def open_lanes(which: I64, starts: I64, ends: I64, observation: F32, memory: Any) -> None:
    """Start new episodes for the lanes listed in ``which`` and write their rows of the observation."""
    world, lanes, _, _, _ = pinned(memory)
    for k in range(which.shape[0]):
        i = which[k]
        lane.open_lane(i, starts[k], ends[k], world.parameters.initial_cash[i], lanes)
        # There are no positions yet, and so no values.
        lane.observe_lane(i, lanes.holdings[i], world.market, world.rules, lanes, observation)
