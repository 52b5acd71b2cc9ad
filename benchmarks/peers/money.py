"""The same trades in a peer and in `StatefulTradingEnv`: where does the money differ, and why?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.peers.market import EPISODE, MAX_SHARES, N_SYMBOLS, Floats

if TYPE_CHECKING:
    from benchmarks.peers.ours import Closest

TOLERANCE = 1e-6
"""Money that is taken for rounding, out of an account of a million."""


@dataclass(frozen=True)
class Ledger:
    """Equity, cash and shares ``[steps, symbols]`` after each step of a script."""

    equity: Floats
    cash: Floats
    shares: Floats


@dataclass(frozen=True)
class MoneyCheck:
    """How a peer plays scripts.

    Attributes:
        scripts: One row per step, by name: orders in shares, or target weights with NaN for "leave it".
        theirs: Plays a script in the peer.
        closest: Our rules that come closest.
        reasons: Why the money of a script differs, by script, from the peer's source.
    """

    scripts: Mapping[str, Floats]
    theirs: Callable[[Floats], Ledger]
    closest: Closest
    reasons: Mapping[str, str]


@dataclass(frozen=True)
class Money:
    """What a check found.

    Attributes:
        equal: Whether no script differs by more than `TOLERANCE`.
        largest_difference: Of equity, in money, over all scripts.
        explanation: Why, from the peer's source, and what was observed besides.
        rules: Ours that were closest.
        differences: The largest difference of each script.
        replay_difference: The same over all scripts when ours is told to fill what the peer filled. It leaves out
            how orders are sized: what remains is arithmetic, or fills that a cash account cannot have.
        lowest_cash: In any script, the peer's.
        lowest_shares: The smallest holding in any script, the peer's; none is asked to be negative.
    """

    equal: bool
    largest_difference: float
    explanation: str
    rules: str
    differences: dict[str, float]
    replay_difference: float
    lowest_cash: float
    lowest_shares: float


def ledger(entries: Sequence[tuple[Any, Any, Any]]) -> Ledger:
    """Return a ledger from equity, cash and shares of every step."""
    equity, cash, shares = (np.array(column, np.float64) for column in zip(*entries, strict=True))
    return Ledger(equity, cash, shares.reshape(len(entries), -1))


def share_scripts() -> dict[str, Floats]:
    """Return orders in shares, ``[steps, symbols]``, that environments for many symbols play.

    ``simple`` buys, holds and sells; ``rotate`` sells one symbol and buys another in the same step; ``small`` buys
    and sells 5 shares; ``beyond_cash`` wants more than there is money for; ``random`` plays a year of random orders,
    more of them buys.
    """
    scripts = {name: np.zeros((12, N_SYMBOLS)) for name in ("simple", "rotate", "small", "beyond_cash")}
    simple = scripts["simple"]
    simple[0, :2], simple[4, 0], simple[8, :2] = (50, 25), -25, -25
    rotate = scripts["rotate"]
    rotate[0, 0], rotate[3, :2], rotate[6, 1:3] = 50, (-25, 50), (-50, 75)
    small = scripts["small"]
    small[0, 0], small[6, 0] = 5, -5
    scripts["beyond_cash"][:8] = MAX_SHARES
    scripts["random"] = np.random.default_rng(2).choice([-25.0, 25.0, 50.0], (EPISODE, N_SYMBOLS))
    return scripts


def weight_scripts() -> dict[str, Floats]:
    """Return target weights, ``[steps, 1]``, that environments for one symbol play.

    ``simple`` goes to half, holds, and leaves; ``beyond_cash`` puts everything in,
    which leaves nothing for the fee, and takes half of it out again.
    """
    scripts = {name: np.full((12, 1), np.nan) for name in ("simple", "beyond_cash")}
    scripts["simple"][[0, 8]] = [[0.5], [0.0]]
    scripts["beyond_cash"][[0, 4, 8]] = [[1.0], [0.5], [0.0]]
    return scripts


def check(money: MoneyCheck) -> Money:
    """Play every script on both sides, and the peer's fills in ours, and compare equity step by step."""
    differences: dict[str, float] = {}
    replayed, cash, shares = 0.0, np.inf, np.inf
    for name, script in money.scripts.items():
        theirs = money.theirs(script)
        fills = np.diff(theirs.shares, axis=0, prepend=np.zeros((1, theirs.shares.shape[1])))
        differences[name] = _difference(theirs, money.closest.play(script))
        replayed = max(replayed, _difference(theirs, money.closest.replay(fills)))
        cash, shares = min(cash, float(theirs.cash.min())), min(shares, float(theirs.shares.min()))
    differing = [name for name, difference in differences.items() if difference > TOLERANCE]
    return Money(
        equal=not differing,
        largest_difference=max(differences.values()),
        explanation=_explanation(money, differing, cash, shares),
        rules=str(money.closest),
        differences=differences,
        replay_difference=replayed,
        lowest_cash=cash,
        lowest_shares=shares,
    )


def _difference(theirs: Ledger, ours: Ledger) -> float:
    return float(np.abs(theirs.equity - ours.equity).max())


def _explanation(money: MoneyCheck, differing: list[str], cash: float, shares: float) -> str:
    """Join the reasons of the scripts that differ, each once, with what went below zero."""
    by_reason: dict[str, list[str]] = {}
    for name in differing:
        by_reason.setdefault(money.reasons.get(name, "no reason was found yet"), []).append(name)
    parts = [f"{', '.join(names)}: {reason}" for reason, names in by_reason.items()]
    if cash < -TOLERANCE:
        parts.append(f"cash fell to {cash:,.2f}")
    if shares < -TOLERANCE:
        parts.append(f"a holding fell to {shares:,.0f} shares")
    return "; ".join(parts) or "no difference in any script"
