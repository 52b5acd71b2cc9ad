"""Does an environment use later bars? Build it on other futures, play the same actions, and compare up to the cut."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from batchenv.causality.cuts import SPREAD, bar_text, checked_bars, choose_cuts, cut_text
from batchenv.causality.feature_check import check_feature
from batchenv.causality.futures import change_after, change_after_open
from batchenv.causality.play import (
    Difference,
    Lanes,
    attribute,
    first_difference,
    observation_names,
    play,
    tells_decisions,
)
from batchenv.causality.target_columns import refuse_targets
from batchenv.errors import CausalityError, CausalityWarning, ConfigError, FeatureError, MarketDataError
from batchenv.features import FeatureScaler, _parse, compute_features
from batchenv.market import MarketData

CUTS = 10
"""How many cuts are made by default."""
FEATURE_CUTS = 20
"""How many cuts, and how many combs, the features of an environment of ours are checked with by default."""
_ATTEMPTS = 20
"""How many episodes may be played in search of one that reaches a given bar."""
_BEYOND = 3
"""How many bars after the cut are played, to see that the environment reacts at all."""

Make = Callable[[MarketData], Any]
Played = tuple[int, int, Lanes]
"""A bar to cut after, the seed of an episode that passes through it, and the episode's moments."""


@dataclass(frozen=True, slots=True)
class EnvironmentCheck:
    """One check of one environment.

    Attributes:
        make: Builds the environment on a market.
        env: The environment on the market as it is.
        market: The market.
        seed: Decides changes, actions and episodes.
        fills_at_open: Whether holdings change at the open of the next bar and at no other time.
        fitted: The last bar that features are scaled with; 0 where the scaling is known beforehand.
        check_columns: Whether columns that serve as features are compared with later prices.
    """

    make: Make
    env: Any
    market: MarketData
    seed: int
    fills_at_open: bool
    fitted: int
    check_columns: bool

    @classmethod
    def build(
        cls,
        make: Make,
        env: Any,
        market: MarketData,
        seed: int,
        fills_at_open: bool | None,
        *,
        check_columns: bool = True,
    ) -> EnvironmentCheck:
        """Find out what the check must know of the environment."""
        fitted = market.fit_bars - (0 if market.history is None else market.history.n_bars) - 1
        if fitted > 0 and _is_fixed(env, make, market, seed):
            fitted = 0
        at_open = _fills_at_open(env) if fills_at_open is None else fills_at_open
        return cls(make, env, market, seed, at_open, max(fitted, 0), check_columns)

    def run(self, bars: Sequence[int] | None, number: int | None) -> None:
        """Check everything.

        Args:
            bars: Bars to cut after; None to choose some.
            number: How many to choose; None for the default.

        Raises:
            CausalityError, ConfigError, MarketDataError: As `assert_causal` says.
        """
        market, env = self.market, self.env
        if bars is None and self.fitted > market.n_bars - 2:
            raise MarketDataError(
                f"{market.source}: features are scaled by all {market.n_bars} bars of this market, so every "
                "observation depends on all of them, and there is no bar to cut after; give the second part of "
                "market.split(date), or build the environment with a fixed scaler"
            )
        plan = self._plan(number or CUTS) if bars is None else self._reach(checked_bars(bars, market))
        reacts = [self._check_cut(played) for played in plan]
        told = self.fills_at_open or tells_decisions(env)
        env.close()
        if not any(reacts):
            raise ConfigError(
                f"{env}: stays the same when the market changes, also after the change; expected a function that "
                "builds the environment on the market it is given"
            )
        self._check_scaler()
        if bars is None:
            self._check_features(number or FEATURE_CUTS)
        if not told:
            warnings.warn(
                f"{env} does not tell what it decides, so a decision by prices of the bar that it fills in cannot be "
                "seen; expected an attribute decided (the orders of the last step), or fills_at_open=True and an "
                "attribute holdings",
                CausalityWarning,
                stacklevel=3,
            )

    # --- what is compared -----------------------------------------------------------------------------------

    def _check_cut(self, played: Played) -> bool:
        """Check one cut; return whether the environment reacted to a change at all."""
        cut, episode_seed, before = played
        reacts = False
        for bars_too in (False, True):
            other = self.make(change_after(self.market, cut, self.seed, bars_too=bars_too, delisting_too=False))
            after = play(other, episode_seed, cut + _BEYOND)
            other.close()
            found = first_difference(before, after, observation_names(self.env))
            if found is not None and found.bar <= cut:
                self._refuse(found, played)
            reacts = reacts or found is not None
        if self.fills_at_open:
            self._check_fills(cut + 1, played)
        return reacts

    def _refuse(self, found: Difference, played: Played) -> None:
        cut, episode_seed, before = played
        env, market = self.env, self.market
        again = first_difference(before, play(env, episode_seed, cut), observation_names(env))
        if again is not None:
            raise ConfigError(
                f"{env}: {again.name} at {bar_text(market, again.bar)} differs from one play to the next; "
                "expected the same after reset(seed=...) with the same actions"
            )
        lane = f" of lane {found.lane}" if len(before) > 1 else ""
        hint = f" (the scaling may be fitted on bars up to {self.fitted}, see fit_bars)" if cut < self.fitted else ""
        raise CausalityError(
            f"{env} uses later bars: {cut_text(market, cut)}, {found.name}{lane} at "
            f"{bar_text(market, found.bar)} went from {found.before} to {found.after}; expected no change{hint}"
        )

    def _check_fills(self, bar: int, played: Played) -> None:
        """Check that what fills at the open of ``bar`` does not depend on the rest of the bar."""
        env, market = self.env, self.market
        if attribute(env, "holdings") is None:
            raise ConfigError(
                f"{env}: does not tell its shares; expected an attribute holdings, or fills_at_open=False"
            )
        _, episode_seed, before = played
        other = self.make(change_after_open(market, bar, self.seed))
        after = play(other, episode_seed, bar)
        other.close()
        for lane, (old, new) in enumerate(zip(before, after, strict=True)):
            was, now = (
                next((moment.values.get("holdings") for moment in moments if moment.bar == bar), None)
                for moments in (old, new)
            )
            if was is None or now is None:  # the lane is elsewhere, or shows the next episode already
                continue
            differs = np.argwhere(np.asarray(was != now))
            if len(differs):
                at = tuple(int(i) for i in differs[0])
                of_lane = f" of lane {lane}" if len(before) > 1 else ""
                place = f"holdings[{', '.join(map(str, at))}]{of_lane}"
                raise CausalityError(
                    f"{env} knows a bar before it fills at its open: when {bar_text(market, bar)} changes in all but "
                    f"its open, {place} at that bar went from {was[at]} to {now[at]}; expected no change"
                )

    def _check_scaler(self) -> None:
        """Check that a fixed scaling is not one that was fitted on bars which may not be fitted on."""
        market, scaler = self.market, getattr(self.env.unwrapped, "scaler", None)
        whole = market.with_history()
        if not isinstance(scaler, FeatureScaler) or not scaler.names or market.fit_bars == whole.n_bars:
            return
        allowed = compute_features(market, scaler.names).scaler
        if _same_scaling(scaler, allowed):
            return
        for what, all_bars in (("of history and part", whole), ("of the part", replace(market, history=None))):
            try:
                by_all = compute_features(replace(all_bars, fit_bars=-1), scaler.names).scaler
            except FeatureError:  # the part alone is too short
                continue
            if _same_scaling(scaler, by_all):
                raise CausalityError(
                    f"{self.env} uses later bars: its scaling (mean {scaler.mean[0]:g} and standard deviation "
                    f"{scaler.std[0]:g} of {scaler.names[0]!r}) is what all {all_bars.n_bars} bars {what} give; "
                    f"expected one fitted on the first {market.fit_bars} of {whole.n_bars} bars, which give "
                    f"{allowed.mean[0]:g} and {allowed.std[0]:g} (fit_bars)"
                )

    def _check_features(self, number: int) -> None:
        """Check the features of an environment of ours more closely than its observations can be."""
        task = getattr(self.env.unwrapped, "task", None)
        if task is None:
            return
        whole = self.market.with_history()
        for name in task.features.names:
            check_feature(_parse(name, whole), whole, None, number, self.seed)
        if self.check_columns:
            refuse_targets(whole, [name for name in task.features.names if name in whole.columns])

    # --- where to cut ---------------------------------------------------------------------------------------

    def _plan(self, number: int) -> list[Played]:
        """Play some episodes, and choose bars to cut after in them."""
        market, plan, episodes = self.market, list[Played](), list[tuple[int, int, Played]]()
        for k in range(SPREAD):
            lanes = play(self.env, self.seed + k, market.n_bars)
            moments = lanes[k % len(lanes)]
            low, high = max(moments[0].bar, self.fitted), min(moments[-1].bar - 1, market.n_bars - 2)
            if low <= high:
                cut = low + (high - low) * (k + 1) // SPREAD
                plan.append((cut, self.seed + k, lanes))
                episodes.append((low, high, plan[-1]))
        if not plan:
            raise ConfigError(
                f"{self.env}: none of {SPREAD} episodes goes beyond bar {self.fitted}, from which on bars can be cut; "
                "name the bars"
            )
        for cut in choose_cuts(market, self.fitted, market.n_bars - 2, number, self.seed):
            through = [played for low, high, played in episodes if low <= cut <= high]
            if through and len(plan) < number and cut not in [done for done, _, _ in plan]:
                plan.append((cut, *through[cut % len(through)][1:]))
        return plan[:number]

    def _reach(self, cuts: Sequence[int]) -> list[Played]:
        """Find an episode that passes through each of ``cuts``."""
        plan = []
        for cut in cuts:
            for k in range(_ATTEMPTS):
                lanes = play(self.env, self.seed + k, cut + _BEYOND)
                if any(moments[0].bar <= cut <= moments[-1].bar for moments in lanes):
                    plan.append((cut, self.seed + k, lanes))
                    break
            else:
                raise ConfigError(f"bars: none of {_ATTEMPTS} episodes passes through {bar_text(self.market, cut)}")
        return plan


def _fills_at_open(env: Any) -> bool:
    """Return whether an environment's rules say that its holdings change at the open of a bar alone."""
    task = getattr(env.unwrapped, "task", None)
    if task is None:
        return False
    execution, costs = task.config.execution_config, task.config.cost_config
    within = (execution.stop_loss, execution.take_profit, execution.participation_limit, costs.impact_coefficient)
    return task.config.fill == "next_open" and not any(within)


def _is_fixed(env: Any, make: Make, market: MarketData, seed: int) -> bool:
    """Return whether the environment's scaling is known to be the same whatever the market."""
    scaler = getattr(env.unwrapped, "scaler", None)
    if not isinstance(scaler, FeatureScaler):
        return False
    other = make(change_after(market, 0, seed, bars_too=False, delisting_too=False))
    same = bool(getattr(other.unwrapped, "scaler", None) == scaler)
    other.close()
    return same


def _same_scaling(one: FeatureScaler, other: FeatureScaler) -> bool:
    """Whether two scalings have the same numbers but for rounding."""
    return np.allclose(one.mean, other.mean, rtol=1e-9, atol=1e-12) and np.allclose(one.std, other.std, rtol=1e-9)
