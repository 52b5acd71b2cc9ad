"""Planted markets: a trend that can be traded, of which the best achievable growth is known in closed form.

Moves
-----
Every bar a price moves by the fraction m, up or down: close[t + 1] = close[t] * (1 + m d[t + 1]) with d = +1 or -1, and
opens at the close before. A move d[t + 1] repeats d[t] with probability

* q (``continuation``) where d[t] repeated the move before it: the trend goes on;
* u (``confirmation``) where d[t] reversed it: the trend turns with probability u, and else it was a false alarm.

So whether a move repeats the one before is a Markov chain of its own, with the stationary probability
A = u / (u + 1 - q) of a repetition and B = 1 - A of a reversal. The last two moves are all that can be known about the
next one. With q = u = 1/2 they say nothing: every move is a fair coin, the price is a martingale.

The best growth
---------------
An account goes all in and all out. Buying turns money 1 into a position of 1 / ((1 + s) (1 + f)) with slippage s and
fee f, selling turns it back into (1 - s) (1 - f) of its value (rules 3.3 and 3.4), so each round trip costs

    K = ln((1 + s) (1 + f)) - ln((1 - s) (1 - f))

of log equity, whatever its size, and a bar adds g = ln(1 + m) or l = ln(1 - m) while invested. Maximal growth per bar
is thus an average-reward Markov decision process of finitely many states (the last two moves, in or out), which a
stationary rule solves (Puterman, Markov Decision Processes, 1994, section 8.4). By the symmetry of up and down three
rules come into question. An order decided at the close of bar t earns d[t + 1] first. Write E(p) = p g + (1 - p) l.

*Cash* grows by 0.

*Eager* is in after every up move and out after every down move. It is in for half of the bars; half of the reversals,
B / 2 per bar, are a round trip:

    G(eager) = 1/2 (A E(q) + B E(u) - B K)

*Patient* turns only when two moves in the same direction confirm each other. Let R be the frequency of moves against
the last confirmed direction, and S that of moves back into it, which undo one of the former. A reversal is one or the
other, and S = (1 - u) R, so R = B / (2 - u) and S = B - R. A confirmed turn follows a move against with probability
u, and two turns are a round trip:

    G(patient) = 1/2 (A E(q) + R E(1 - u) + S E(u) - u R K)

Patience costs the moves that follow a reversal and saves the round trips of false alarms. Without costs eager is
best, so an agent that ignores costs becomes eager. Positions between all and nothing never help as long as the edge
of a bar is far above its variance (Kelly 1956), that is 2q - 1 and 2u - 1 far above m. Symbols that are fair coins do
not help either: E[ln(X + Y)] <= E[ln X] where Y has mean 0 given X (Jensen), and trading them costs. The tests
compare all this with policy iteration, with dynamic programming over positions in between, and with accounts of the
evaluation tier.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from numpy.random import PCG64, Generator

from batchenv.market import MarketData
from stateful.env import StatefulTradingEnv

SYMBOLS = ("COIN_A", "TREND", "COIN_B")
"""The planted trend between two fair coins, which an agent has to leave alone."""
TREND = SYMBOLS.index("TREND")


@dataclass(frozen=True)
class Growth:
    """Expected growth of the rules of this module, log equity per bar after costs.

    Attributes:
        patient: Of `TrendRule` (patient).
        eager: Of `TrendRule` (not patient).
        cash: Of doing nothing.
    """

    patient: float
    eager: float
    cash: float = 0.0

    @property
    def best(self) -> float:
        """The best that any policy can achieve."""
        return max(self.patient, self.eager, self.cash)


@dataclass(frozen=True)
class TrendMarket:
    """How the prices of a planted market move; see the top of this module.

    Attributes:
        move: Size of every move, as a fraction.
        continuation: Probability that a repeated move is repeated again.
        confirmation: Probability that a reversal is followed by a move in its direction.
    """

    move: float = 0.0025
    continuation: float = 0.85
    confirmation: float = 0.55

    def growth(self, fee_rate: float, slippage_rate: float) -> Growth:
        """Return what the rules achieve in expectation, by the formulas at the top of this module."""
        q, u = self.continuation, self.confirmation
        round_trip = math.log((1 + slippage_rate) * (1 + fee_rate) / ((1 - slippage_rate) * (1 - fee_rate)))
        repeated = u / (u + 1 - q)
        reversed_ = 1 - repeated
        against = reversed_ / (2 - u)
        back = reversed_ - against
        eager = repeated * self._gain(q) + reversed_ * self._gain(u) - reversed_ * round_trip
        patient = (
            repeated * self._gain(q) + against * self._gain(1 - u) + back * self._gain(u) - u * against * round_trip
        )
        return Growth(patient / 2, eager / 2)

    def _gain(self, up: float) -> float:
        """Expected log return of a bar that goes up with probability ``up``."""
        return up * math.log1p(self.move) + (1 - up) * math.log1p(-self.move)

    def market(self, n_bars: int, seed: int) -> MarketData:
        """Draw hourly bars of `SYMBOLS`, with volumes that mean nothing.

        Args:
            n_bars: Number of bars.
            seed: The same seed draws the same bars.
        """
        random = Generator(PCG64(seed))
        signs = np.where(random.random((n_bars, len(SYMBOLS))) < 0.5, 1.0, -1.0)
        signs[:, TREND] = signs[0, TREND] * np.cumprod(self._repetitions(random.random(n_bars)))
        close = 100.0 * np.cumprod(1.0 + self.move * signs, axis=0)
        opens = np.concatenate([np.full((1, len(SYMBOLS)), 100.0), close[:-1]])
        return MarketData(
            symbols=SYMBOLS,
            timestamps=np.datetime64("2020-01-01T00", "ns") + np.arange(n_bars) * np.timedelta64(1, "h"),
            close=close.astype(np.float64),
            open=opens,
            high=np.maximum(opens, close),
            low=np.minimum(opens, close),
            volume=random.integers(1_000, 10_000, close.shape).astype(np.float64),
            source="<planted>",
        )

    def _repetitions(self, uniform: npt.NDArray[np.float64]) -> list[float]:
        """Return 1 where a move repeats the one before and -1 where it reverses it, from numbers in [0, 1)."""
        repeats, found = True, []
        for number in uniform.tolist():
            repeats = number < (self.continuation if repeats else self.confirmation)
            found.append(1.0 if repeats else -1.0)
        return found


@dataclass(frozen=True)
class TrendRule:
    """All in or all out of the trend, by its last two moves; a `stateful.baselines.Baseline`.

    Attributes:
        patient: Whether two moves in the same direction are needed, and not just one.
    """

    patient: bool
    waits: ClassVar[bool] = True
    """Out of the market until the trend shows; an agent may be in it before."""

    @property
    def name(self) -> str:
        """Key in results."""
        return "patient" if self.patient else "eager"

    @property
    def label(self) -> str:
        """Name in words."""
        return "the rule that waits for a second move" if self.patient else "the rule that follows every move"

    def orders(self, env: StatefulTradingEnv) -> npt.NDArray[np.float64]:
        """Buy with all money or sell everything; see `Baseline.orders`."""
        closes = env.market.with_history().close[:, TREND]
        now = env.bar + len(closes) - env.market.n_bars
        moves = np.sign(np.diff(closes[max(now - 2, 0) : now + 1]))
        orders = np.zeros(env.market.n_symbols)
        if len(moves) == 2 and (moves[0] == moves[1] or not self.patient):
            held = env.holdings[TREND]
            if moves[1] > 0 and held == 0:
                orders[TREND] = env.equity / closes[now]
            elif moves[1] < 0:
                orders[TREND] = -held
        return orders
