"""Does a feature, or an environment, use bars that are not known yet? Change them, and see what changes before.

For a cut at bar t everything after t is made different: prices, volumes, dividends, splits, the user's columns,
and in a second variant also which bars there are. What belongs to bars <= t must stay the same, to the last bit.

========================  =====================================================================================
``futures``               other futures of a market, and other bars within it
``cuts``                  which bars to cut after
``feature_check``         features
``play``                  plays an environment and compares two plays
``environment_check``     environments
``target_columns``        columns that hold what is to be predicted
========================  =====================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from batchenv.causality.cuts import checked_number
from batchenv.causality.environment_check import EnvironmentCheck
from batchenv.causality.feature_check import CUTS, check_feature
from batchenv.causality.target_columns import Target, find_targets, refuse_targets
from batchenv.features import _Feature, _parse, _Request
from batchenv.market import MarketData

__all__ = ["Target", "assert_causal", "find_targets"]


def assert_causal(
    subject: str | Callable[[MarketData], Any],
    market: MarketData,
    *,
    bars: Sequence[int] | None = None,
    cuts: int | None = None,
    seed: int = 0,
    fills_at_open: bool | None = None,
    check_columns: bool = True,
) -> None:
    """Check that nothing which belongs to bars <= t depends on bars after t, for many t.

    A *feature* is computed on history and part together. Its rows <= t must not change when the bars after t do. Two
    ways are tried, ``cuts`` (50) times each:

    * *Cuts*: all bars after t change. Some t are spread evenly; up to half stand where a symbol lists, pauses, comes
      back, ends, splits or pays; the seed draws the others. For some of them the market also ends at t.
    * *Combs*: every m-th bar of the data changes, and the rows before each of these bars must stay. m is 6 more than
      the number of bars for which the feature shows a change, which is tried out.

    Combs find a value that looks up to 5 bars ahead with probability p = min(1, ``cuts`` / m), and one of k such values
    far apart with 1 - (1 - p)^k. With 50 combs p is 1, even for a single value, where the feature shows a change for up
    to 44 bars; for five values of `rsi_14`, where m is about 140, it is 89%. A feature that shows a change for ever (an
    expanding mean) leaves only the cuts: one of k values that look h bars ahead, in N bars, is found with at least 1 -
    (1 - k h / N)^(``cuts`` / 2 - 5). That is 10% for five values that look one bar ahead in 1,000 bars, and 99% with
    ``cuts=2000``.

    An *environment* is built from the changed market and played with the same random actions, for ``cuts`` (10) bars t
    in five episodes. A step that takes it from bar u to bar u + 1 gives the observation, reward, flags, info, equity,
    cash and holdings of bar u + 1: all of these must be the same where u + 1 <= t. What the step decided belongs to bar
    u. Environments tell it as the attribute ``decided``: ours do, and so does what is built on them. It must be the
    same where u <= t. So an order may be filled at the next open or close, but no decision sees it; an observation of
    bar t sees bars <= t; and a reward of the step to bar t knows no later price. The features of an environment of ours
    are checked as features are, with 20 cuts.

    Environments scale their features with numbers that are fitted on the first ``market.fit_bars`` rows of history and
    part. That is known before the test part begins, so cuts are made from the end of these rows on, and the changed
    market has the same ``fit_bars``: a scaler that was fitted on more is caught. So is a fixed ``scaler=`` with the
    numbers that all bars give. A market that was never split is fitted on as a whole, and leaves no bar to cut at: give
    a part, ``market.split(date)[1]``, or build the environment with a fixed ``scaler=``. Bars that are named are cut
    after in any case.

    Which bars a symbol has after t changes too, with one exception for environments: a symbol that pauses at t still
    comes back, or still does not, and what is delisted by t stays so (rule 4.4 of ``docs/accounting.md``): a delisting
    is announced at the time.

    Where orders fill at the open of bar t + 1, the holdings after the step may depend on that open, but not on the
    high, low, close or volume of the bar. All of these are changed while the open stays as it is, and the holdings of
    that bar must stay the same.

    A column of the user's that serves as a feature is compared with later prices (`find_targets`).

    What cannot be found this way:

    * a decision by the bar that it fills in, in an environment that neither tells what it decides nor fills at the open
      (a `CausalityWarning` says so);
    * a feature that was computed outside, unless it goes nearly perfectly with a later return;
    * a fixed scaler that was fitted on other bars than those handed in;
    * data that were revised, or adjusted, later;
    * symbols, features or settings that were chosen by looking at the bars.

    Args:
        subject: The name of a feature, as in a configuration; a function market -> [bars, symbols]; or a function
            market -> environment. Environments are `gymnasium.Env` or `gymnasium.vector.VectorEnv` that tell their
            current bar as the attribute ``bar`` or as ``info["bar"]``.
        market: The bars to check with.
        bars: Bars to cut after: for a feature counted in history and part together, for an environment in the
            part. These alone are tried. None chooses some.
        cuts: How many bars to cut after; None for 50 with a feature, 10 with an environment and 20 with its features.
        seed: Seed of the cuts, the changes, the actions and the episodes.
        fills_at_open: Whether holdings change at the open of the next bar and at no other time. None asks an
            environment of ours for its rules (`next_open`, without stops, impact and participation limit), and
            takes any other not to; say True for your own. It must tell its shares as the attribute ``holdings``.
        check_columns: Whether columns that serve as features are compared with later prices.

    Raises:
        CausalityError: Something depends on later bars, or a fill at the open on what follows in its bar, or a column
            goes with later prices; names it, the cut, the first bar, the column and both values.
        ConfigError: A bar to cut after is out of range or is not reached; an environment does not tell its bar, or
            its holdings where they are to be checked, plays differently each time, or does not react to the market
            it is given.
        MarketDataError: There is no bar to cut at, because the scaling is fitted on all of them.
        FeatureError: The feature is unknown, or computes something unusable or no value at all.

    Warns:
        CausalityWarning: The environment does not tell what it decides.
    """
    whole = market.with_history()
    if isinstance(subject, str):
        check_feature(_parse(subject, whole), whole, bars, checked_number(cuts, CUTS), seed)
        if check_columns and subject in whole.columns:
            refuse_targets(whole, [subject])
        return
    found = subject(market)
    if hasattr(found, "reset") and hasattr(found, "step"):
        check = EnvironmentCheck.build(subject, found, market, seed, fills_at_open, check_columns=check_columns)
        return check.run(bars, None if cuts is None else checked_number(cuts, 1))
    name = getattr(subject, "__name__", type(subject).__name__)
    check_feature(_Request(name, _Feature(subject)), whole, bars, checked_number(cuts, CUTS), seed)
