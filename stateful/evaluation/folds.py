"""How a walk-forward divides the bars: test windows one after the other, each with the training bars before it.

The held-out part, from ``data.train_end`` to the end of the data, is divided into K test windows of equal length. The
first fold trains on what a single run would train on. The later folds' training windows move on with their test
windows (rolling, of fixed length), or keep their first bar and grow (anchored).

A test window has a bar more than it has steps: its last bar, at which the account is valued, is the first bar of the
next window, at whose close the next agent decides. So every return from close to close belongs to exactly one fold.

Features look back as far as they need to, also before a window, and their scaling is fitted on all bars up to the end
of training, those before a rolling window included.

Between training and test lies an embargo, 1% of all bars by default. What training learns from, the reward of its last
bar, ends before the test without it, and features look back only, so neither sees a test bar. The embargo guards
against what is not causal by mistake, such as data stamped a few bars before they were known, and against serial
correlation across the border. Purging and embargo: M. Lopez de Prado, "Advances in Financial Machine Learning" (2018),
section 7.4, which also gives the 1%; walk-forward: R. Pardo, "The Evaluation and Optimization of Trading Strategies"
(2008), chapter 11.
"""

from __future__ import annotations

from dataclasses import dataclass

from batchenv.errors import ConfigError, MarketDataError

EMBARGO = 0.01
"""Embargo as a fraction of all bars where the configuration names none."""
_FEWEST_STEPS = 2


@dataclass(frozen=True)
class Fold:
    """One training window and the test window after it, as indices of bars.

    Attributes:
        number: Which fold, from 1.
        train_start: First training bar.
        train_stop: The bar after the last training bar; validation bars count as training bars here.
        test_start: First test bar, at whose close the agent first decides.
        test_end: Last test bar, at whose close the account is valued; the next fold's ``test_start``.
    """

    number: int
    train_start: int
    train_stop: int
    test_start: int
    test_end: int

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"fold-{self.number:02d}"


def default_embargo(n_bars: int) -> int:
    """Return 1% of the bars, rounded up."""
    return -(-n_bars * round(EMBARGO * 100) // 100)


def divide(n_bars: int, first_test: int, folds: int, *, embargo: int, anchored: bool = False) -> tuple[Fold, ...]:
    """Lay out the folds.

    Args:
        n_bars: Bars in all.
        first_test: The first test bar; all bars from here to the last are tested on.
        folds: How many folds; at least 2.
        embargo: Bars left out between training and test.
        anchored: Whether every training window starts at bar 0 and grows; else they keep their length and move on.

    Raises:
        ConfigError: ``folds`` is below 2.
        MarketDataError: There are too few bars to test or to train on.
    """
    if folds < 2:
        raise ConfigError(f"folds: got {folds}, expected at least 2; one fold is 'batchenv train' and 'backtest'")
    steps = n_bars - 1 - first_test
    if steps < _FEWEST_STEPS * folds:
        raise MarketDataError(
            f"folds: {folds} folds of {_FEWEST_STEPS} steps need {_FEWEST_STEPS * folds + 1} held-out bars, and there "
            f"are {steps + 1} from data.train_end on; expected fewer folds, more bars or an earlier data.train_end"
        )
    if first_test - embargo < 2:
        raise MarketDataError(
            f"data.embargo: {embargo} of the {first_test} bars before data.train_end leave {first_test - embargo} to "
            "train on; expected at least 2"
        )
    edges = [first_test + steps * i // folds for i in range(folds + 1)]
    return tuple(
        Fold(i + 1, 0 if anchored else edges[i] - first_test, edges[i] - embargo, edges[i], edges[i + 1])
        for i in range(folds)
    )
