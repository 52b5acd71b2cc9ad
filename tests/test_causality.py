"""assert_causal passes what is causal, and finds every leak that is planted here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from batchenv import MarketData
from batchenv.causality import assert_causal
from batchenv.causality.cuts import choose_cuts, telling_bars
from batchenv.causality.futures import change_after, change_bars, cut_off
from batchenv.errors import CausalityError, ConfigError, FeatureError
from batchenv.features import _evaluate, _parse, available_features, register_feature
from tests import markets
from tests.markets import later_part, rich_market

FEATURES = ["return", "rsi_5", "volume_zscore_5"]
FILLS = ("close", "next_open", "next_close")


def names_all(text: str, *parts: str) -> bool:
    missing = [part for part in parts if part not in text]
    assert not missing, f"{missing} not in {text!r}"
    return True


# --- the change ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bars_too", [False, True])
@pytest.mark.parametrize("cut", [0, 30, 100, 118])
def test_a_change_leaves_everything_up_to_the_cut_and_nothing_after_it(cut: int, bars_too: bool) -> None:
    market = rich_market()
    other = change_after(market, cut, 0, bars_too=bars_too, delisting_too=True)
    again = change_after(market, cut, 0, bars_too=bars_too, delisting_too=True)
    assert other.fingerprint == again.fingerprint != market.fingerprint
    assert (other.fit_bars, other.symbols) == (market.fit_bars, market.symbols)
    both = market.has_bar & other.has_bar
    both[: cut + 1] = False
    for name in ("open", "high", "low", "close", "volume"):
        old, new = getattr(market, name), getattr(other, name)
        np.testing.assert_array_equal(new[: cut + 1], old[: cut + 1])
        assert (new[both] != old[both]).all(), name
    np.testing.assert_array_equal(other.columns["signal"][: cut + 1], market.columns["signal"][: cut + 1])
    assert (other.high >= np.fmax(other.open, other.close))[other.has_bar].all()
    assert (other.low <= np.fmin(other.open, other.close))[other.has_bar].all()
    assert np.array_equal(other.has_bar, market.has_bar) != bars_too
    for name in ("dividends", "splits"):
        none = {"dividends": 0.0, "splits": 1.0}[name]
        old, new = (
            np.full(market.close.shape, none) if x is None else x for x in (getattr(market, name), getattr(other, name))
        )
        np.testing.assert_array_equal(new[: cut + 1], old[: cut + 1])
    assert market.fingerprint == rich_market().fingerprint


def test_bars_here_and_there_change_and_no_others() -> None:
    market = rich_market()
    teeth = np.arange(market.n_bars) % 7 == 3
    other = change_bars(market, teeth, 0)
    assert other.fingerprint == change_bars(market, teeth, 0).fingerprint
    for name in ("open", "high", "low", "close", "volume"):
        old, new = getattr(market, name), getattr(other, name)
        np.testing.assert_array_equal(new[~teeth], old[~teeth])
        assert (new[teeth] != old[teeth])[market.has_bar[teeth]].all(), name
    signal = ~np.isnan(market.columns["signal"][teeth])
    assert (other.columns["signal"][teeth] != market.columns["signal"][teeth])[signal].all()
    fewer = change_bars(market, teeth & (np.arange(market.n_bars) < 60), 0)
    np.testing.assert_array_equal(fewer.close[:60], other.close[:60])
    np.testing.assert_array_equal(fewer.close[60:], market.close[60:])


def test_a_symbol_that_pauses_comes_back_or_does_not_as_it_did() -> None:
    market = markets.ragged_market()
    paused = int(np.flatnonzero(~market.has_bar[:, 2])[0])
    gone = 110  # D has stopped
    for seed in range(20):
        other = change_after(market, paused, seed, bars_too=True, delisting_too=False)
        assert other.has_bar[paused + 1 :, 2].any()
        assert not change_after(market, gone, seed, bars_too=True, delisting_too=False).has_bar[gone:, 3].any()


def test_a_market_of_closes_alone_can_be_changed() -> None:
    times = pd.bdate_range("2020-01-01", periods=20)
    market = MarketData.from_frame(pd.DataFrame({"A": np.arange(1.0, 21.0), "B": [np.nan] * 19 + [1.0]}, index=times))
    other = change_after(market, 3, 0, bars_too=True, delisting_too=True)
    assert (other.open, other.volume, other.splits, other.dividends) == (None, None, None, None)


# --- features -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*available_features(), "rsi_3", "macd_3_6_4", "signal"])
def test_built_in_features_are_causal(name: str) -> None:
    assert_causal("turbulence_12" if name == "turbulence" else name, rich_market())
    assert_causal("turbulence_12" if name == "turbulence" else name, later_part(), bars=[0, 60, 118], seed=3)


def frame(market: MarketData) -> pd.DataFrame:
    return pd.DataFrame(market.mark)


LEAKS: dict[str, Callable[[MarketData], Any]] = {
    "centred window": lambda m: frame(m).rolling(5, center=True).mean(),
    "z-score of the whole sample": lambda m: (m.mark - np.nanmean(m.mark, axis=0)) / np.nanstd(m.mark, axis=0),
    "shift(-1)": lambda m: frame(m).pct_change(fill_method=None).shift(-1),
    "filled from later": lambda m: pd.DataFrame(m.close).bfill(),
    "the last bar": lambda m: m.mark - m.close[-1][None],
    "tomorrow's range alone": lambda m: np.append(m.high[1:] / m.low[1:], np.full((1, m.n_symbols), np.nan), axis=0),
    "tomorrow's volume": lambda m: np.roll(np.nan_to_num(m.volume), -1, axis=0),
    "tomorrow's own column": lambda m: np.roll(np.nan_to_num(m.columns["signal"]), -1, axis=0),
    "tomorrow's dividend": lambda m: np.roll(m.dividends, -1, axis=0),
    "tomorrow's split": lambda m: np.roll(m.splits, -1, axis=0),
    "who survives": lambda m: np.where(m.has_bar[-5:].any(axis=0), m.mark, 0.0),
    "whether there is a next bar": lambda m: np.roll(m.has_bar.astype(float), -1, axis=0),
    "only at one bar of a late symbol": lambda m: np.where(np.arange(m.n_bars)[:, None] == 80, m.close[81], m.mark),
}


@pytest.mark.parametrize("leak", LEAKS)
@pytest.mark.parametrize("seed", [0, 1])
def test_planted_leak_of_a_feature_is_found(leak: str, seed: int) -> None:
    bars = [80] if leak.startswith("only") else None
    with pytest.raises(CausalityError, match="expected no change"):
        assert_causal(LEAKS[leak], rich_market(), bars=bars, seed=seed)


def test_message_names_feature_cut_bar_symbol_and_both_values() -> None:
    market = rich_market()
    register_feature("ahead", lambda m, n: np.append(m.close[n:, :], m.close[:n, :], axis=0))
    with pytest.raises(CausalityError) as caught:
        assert_causal("ahead_2", market, bars=[50])
    dates = [str(market.timestamps[bar])[:10] for bar in (49, 50)]
    assert names_all(
        str(caught.value), "feature 'ahead_2'", f"after bar 50 ({dates[1]})", f"bar 49 ({dates[0]})", "'A'"
    )
    assert f"went from {market.close[51, 0]} to " in str(caught.value)
    assert isinstance(caught.value, AssertionError)


def test_a_function_may_return_a_frame_by_symbol_and_know_the_history() -> None:
    part = later_part()
    assert_causal(lambda m: pd.DataFrame(m.mark, columns=list(m.symbols)).rolling(50).mean(), part, bars=[118])
    with pytest.raises(ConfigError, match=r"bars: got 119, expected bars from 0 to 118"):
        assert_causal("rsi", part, bars=[119])
    with pytest.raises(ConfigError, match="got none"):
        assert_causal("rsi", part, bars=[])
    with pytest.raises(FeatureError, match="no value"):
        assert_causal(lambda m: np.full_like(m.close, np.nan), part)
    with pytest.raises(FeatureError, match="unknown feature 'rsj'"):
        assert_causal("rsj", part)


# --- where look-ahead hides ---------------------------------------------------------------------------------


def long_market(n_bars: int = 1000, gaps: int = 2) -> MarketData:
    """Return bars of which one symbol lacks ``gaps``, in places that nobody would cut at by chance."""
    df = markets.frame(3, n_bars, ("A", "B"))
    lacking = np.random.default_rng(9).choice(np.arange(300, n_bars - 20), gaps, replace=False)
    bar = df.groupby("symbol").cumcount()
    return MarketData.from_frame(df[~((df["symbol"] == "B") & bar.isin(lacking))].reset_index(drop=True))


def leak_at(bars: list[int], ahead: int = 1, base: Callable[[MarketData], np.ndarray] = lambda m: m.mark) -> Any:
    """Return a feature that looks ``ahead`` bars ahead at a few bars, and is honest elsewhere."""

    def feature(market: MarketData) -> np.ndarray:
        values = np.array(base(market))
        for bar in bars:
            values[bar] = market.mark[min(bar + ahead, market.n_bars - 1)]
        return values

    return feature


def mean_so_far(market: MarketData) -> np.ndarray:
    """Remembers every bar for ever, so that no comb can be used."""
    return frame(market).expanding().mean().to_numpy()


@pytest.mark.parametrize("seed", range(4))
def test_filling_backwards_over_rare_gaps_is_found(seed: int) -> None:
    """Two bars of a thousand: by the combs, and where a feature never forgets by the cut at the end of each gap."""
    market = long_market()
    with pytest.raises(CausalityError, match="expected no change"):
        assert_causal(lambda m: pd.DataFrame(m.close).bfill(), market, seed=seed)
    with pytest.raises(CausalityError, match="when the bars after bar"):
        assert_causal(lambda m: pd.DataFrame(m.close).bfill().expanding().mean(), market, seed=seed)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("bars", [[217], [100, 250, 371, 502, 777]])
def test_a_leak_in_few_bars_is_found_where_the_feature_forgets_within_the_combs(bars: list[int], seed: int) -> None:
    market = long_market()
    with pytest.raises(CausalityError, match="expected no change"):
        assert_causal(leak_at(bars), market, seed=seed)
    smoothed = lambda m: frame(m).rolling(20).mean().to_numpy()  # noqa: E731
    with pytest.raises(CausalityError, match="expected no change"):
        assert_causal(leak_at(bars, 5, smoothed), market, seed=seed)


def test_leaks_are_found_as_often_as_the_documentation_says() -> None:
    """With n combs of m bars a value that looks ahead is found with n / m; m is 6 where nothing is remembered."""
    market, places = markets.market(n_bars=300), np.random.default_rng(0).integers(20, 290, 60)

    def found(feature: Any, cuts: int, seed: int) -> bool:
        try:
            assert_causal(feature, market, cuts=cuts, seed=seed)
        except CausalityError:
            return True
        return False

    assert all(found(leak_at([int(bar)]), 6, k) for k, bar in enumerate(places))
    half = sum(found(leak_at([int(bar)]), 3, k) for k, bar in enumerate(places))
    assert 0.3 * len(places) < half < 0.8 * len(places)
    # Five values that look 3 bars ahead, where every change is remembered: at least 1 - (1 - 15 / 300)^15 of them.
    groups = np.random.default_rng(1).permutation(np.arange(20, 290, 4))[:60].reshape(12, 5)
    often = sum(found(leak_at(group.tolist(), 3, mean_so_far), 40, k) for k, group in enumerate(groups))
    assert often >= 0.5 * len(groups)


def test_what_depends_on_how_many_bars_follow_is_found() -> None:
    share_of_the_sample = lambda m: np.linspace(0, 1, m.n_bars)[:, None] + 0 * m.mark  # noqa: E731
    with pytest.raises(CausalityError, match=r"when the market ends after bar \d+"):
        assert_causal(share_of_the_sample, rich_market())
    assert_causal(lambda m: np.arange(m.n_bars, dtype=float)[:, None] + 0 * m.mark, rich_market())


@pytest.mark.parametrize("seed", range(3))
def test_honest_features_that_remember_unevenly_raise_no_alarm(seed: int) -> None:
    """A memory that is longer in one place than where it was tried out, and one that never ends."""
    market = long_market()
    bars_of_its_own = lambda m: pd.DataFrame(m.close).apply(lambda x: x.dropna().rolling(5).mean())  # noqa: E731
    assert_causal(lambda m: bars_of_its_own(m).reindex(range(m.n_bars)), market, seed=seed)
    longer_later = lambda m: np.where(  # noqa: E731
        np.arange(m.n_bars)[:, None] > 700, frame(m).rolling(90).mean(), frame(m).rolling(3).mean()
    )
    assert_causal(longer_later, market, seed=seed)
    assert_causal(mean_so_far, market, seed=seed)
    assert_causal(lambda m: frame(m).ewm(span=60).mean(), market, seed=seed)


@pytest.mark.parametrize("cuts", [0, -1, True, 2.5, "all"])
def test_a_number_of_cuts_is_a_whole_number(cuts: Any) -> None:
    with pytest.raises(ConfigError, match=r"cuts: got .*, expected a whole number"):
        assert_causal("rsi", rich_market(), cuts=cuts)


def test_cuts_stand_where_something_begins_pauses_or_ends() -> None:
    market = markets.ragged_market()
    telling = set(telling_bars(market))
    listed, stopped = (int(np.flatnonzero(market.has_bar[:, s])[end]) for s, end in ((1, 0), (3, -1)))
    assert {listed - 1, stopped} <= telling
    gap = np.flatnonzero(~market.has_bar[:, 2])
    assert gap[-1] in telling and gap[0] - 1 in telling
    chosen = choose_cuts(market, 0, market.n_bars - 2, 30, 0)
    assert telling <= set(chosen) and len(set(chosen)) == 30
    assert choose_cuts(market, 0, market.n_bars - 2, 30, 1) != chosen
    assert choose_cuts(market, 50, 60, 500, 0) and set(choose_cuts(market, 50, 60, 500, 0)) <= set(range(50, 61))


@pytest.mark.parametrize("name", [*sorted({*available_features()} - {"turbulence"}), "turbulence_12", "macd_3_6_4"])
def test_no_bit_of_a_feature_depends_on_how_many_bars_follow(name: str) -> None:
    """Sums in another order would be no look-ahead, but would let the check of an environment fail."""
    market = rich_market(300)
    request = _parse(name, market)
    whole = _evaluate(request, market)
    for cut in (41, 97, 128, 200, 255):
        np.testing.assert_array_equal(_evaluate(request, cut_off(market, cut)), whole[: cut + 1])
