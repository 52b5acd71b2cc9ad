"""Numbers that differ by symbol, lane or episode: which one applies, and what is refused with key and reason."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd
import pytest

from batchenv import BatchTradingEnv, EnvConfig, FastTrainingEnv, MarketData, TradingVecEnv
from batchenv.config import PARAMETER_BOUNDS
from batchenv.episodes import EpisodeSchedule
from batchenv.errors import ConfigError
from batchenv.parameters import LANE_PARAMETERS, LaneParameters, per_symbol
from stateful import StatefulTradingEnv
from tests.markets import frame, market

SYMBOLS = ("A", "B", "C")
SCHEDULE = EpisodeSchedule.build(n_bars=101, first_bar=5, length=20, random_start=False)
"""Start bars 5 to 80, last bar 100."""


def lanes(n: int = 4, given: dict[str, Any] | None = None, **sections: Any) -> LaneParameters:
    return LaneParameters.build(EnvConfig.model_validate(sections), SYMBOLS, SCHEDULE, n, given)


def at(parameters: LaneParameters, *which: int, seed: int = 0, episode: int = 0) -> Any:
    chosen = np.array(which, np.int64)
    return parameters.at(seed, chosen, np.full(len(which), episode, np.int64))


# --- by symbol --------------------------------------------------------------------------------------------------


def test_a_number_is_for_every_symbol_and_a_mapping_names_them() -> None:
    assert per_symbol(0.5, SYMBOLS, "key").tolist() == [0.5, 0.5, 0.5]
    assert per_symbol({"C": 3.0, "A": 1.0, "B": 2.0}, SYMBOLS, "key").tolist() == [1.0, 2.0, 3.0]
    assert per_symbol({"*": 9.0, "B": 2.0}, SYMBOLS, "key").tolist() == [9.0, 2.0, 9.0]
    assert per_symbol({"A": 1.0, "B": 2.0, "C": 3.0, "*": 9.0}, SYMBOLS, "key").tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"A": 1.0, "B": 2.0}, r"cost_config\.fee_rate: no value for symbol 'C'; expected one, or '\*' for the rest"),
        ({}, r"cost_config\.fee_rate: no value for symbol 'A'"),
        ({"*": 0.0, "D": 1.0}, r"cost_config\.fee_rate: unknown symbol 'D'.*expected A, B, C or '\*'"),
    ],
    ids=str,
)
def test_a_mapping_that_does_not_fit_the_symbols_is_refused(value: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        per_symbol(value, SYMBOLS, "cost_config.fee_rate")


BY_SYMBOL = {
    "cost_config": ("fee_rate", "fee_fixed", "fee_per_share", "fee_minimum", "slippage_rate"),
    "execution_config": ("lot_size",),
    "carry_config": ("borrow_rate", "funding_rate"),
}


@pytest.mark.parametrize(("section", "key"), [(section, key) for section, keys in BY_SYMBOL.items() for key in keys])
@pytest.mark.parametrize("make", [BatchTradingEnv, FastTrainingEnv, TradingVecEnv, StatefulTradingEnv])
def test_every_setting_by_symbol_is_checked_against_the_market(make: type[Any], section: str, key: str) -> None:
    margin = {"margin_config": {"allow_short": True}}
    with pytest.raises(ConfigError, match=rf"{section}\.{key}: unknown symbol 'Q'.*expected A, B, C, D or '\*'"):
        make(market(), {section: {key: {"*": 0.1, "Q": 0.2}}, **margin})
    with pytest.raises(ConfigError, match=rf"{section}\.{key}: no value for symbol 'B'"):
        make(market(), {section: {key: {"A": 0.1}}, **margin})
    make(market(), {section: {key: {"*": 0.1, "C": 0.2}}, **margin})


def test_a_fee_by_symbol_is_paid_by_that_symbol() -> None:
    """10 000 split evenly over four symbols; B alone pays 25%."""
    config = {
        "portfolio_config": {"initial_cash": 10_000.0},
        "cost_config": {"fee_rate": {"*": 0.0, "B": 0.25}, "slippage_rate": 0.0},
        "fill": "close",
    }
    for make in (FastTrainingEnv, StatefulTradingEnv):
        env = make(market(), config, seed=0)
        env.reset()
        env.step(np.full(4, 0.5, np.float32))  # 0.5 * 10% of 10 000 in each: 2 000, of which 500 in B
        assert env.cash == pytest.approx(10_000.0 - 4 * 500.0 - 0.25 * 500.0, rel=1e-12)


# --- what applies -----------------------------------------------------------------------------------------------


def test_what_is_not_given_comes_from_the_configuration() -> None:
    values = at(
        lanes(
            cost_config={
                "fee_rate": {"*": 0.01, "C": 0.03},
                "slippage_rate": 0.002,
                "fee_fixed": 3.0,
                "fee_per_share": {"*": 0.0, "B": 0.5},
                "fee_minimum": 4.0,
            },
            carry_config={"borrow_rate": {"*": 0.1, "A": 0.2}},
            margin_config={"leverage": 1.5},
            portfolio_config={"initial_cash": 777.0},
        ),
        2,
        0,
    )
    assert values.fee_rate.tolist() == [[0.01, 0.01, 0.03]] * 2
    assert values.slippage_rate.tolist() == [[0.002] * 3] * 2
    assert values.fee_fixed.tolist() == [[3.0] * 3] * 2
    assert values.fee_per_share.tolist() == [[0.0, 0.5, 0.0]] * 2
    assert values.fee_minimum.tolist() == [[4.0] * 3] * 2
    assert values.borrow_rate.tolist() == [[0.2, 0.1, 0.1]] * 2
    assert values.tradable.tolist() == [[True] * 3] * 2
    assert values.leverage.tolist() == [1.5, 1.5]
    assert values.initial_cash.tolist() == [777.0, 777.0]
    assert (values.start.tolist(), values.end.tolist()) == ([5, 5], [25, 25])


def test_what_is_given_is_the_lanes_own() -> None:
    by_symbol = np.arange(12.0).reshape(4, 3) / 100
    given = {
        "fee_rate": by_symbol,
        "slippage_rate": [0.0, 0.1, 0.2, 0.3],
        "borrow_rate": 0.5,
        "fee_fixed": [1.0, 2.0, 3.0, 4.0],
        "fee_per_share": by_symbol,
        "fee_minimum": 7,
        "leverage": np.array([1, 2, 3, 4]),
        "initial_cash": [1e3, 2e3, 3e3, 4e3],
        "episode_start": [5, 6, 7, 8],
        "episode_length": np.array([10, 20, 30, 40], np.int32),
        "tradable": [True, False, True, True],
    }
    config = {"margin_config": {"leverage": 2.0}, "cost_config": {"fee_rate": {"*": 0.9}}}
    values = at(lanes(given=given, **config), 3, 1)
    assert values.fee_rate.tolist() == by_symbol[[3, 1]].tolist()
    assert values.slippage_rate.tolist() == [[0.3] * 3, [0.1] * 3]
    assert values.borrow_rate.tolist() == [[0.5] * 3] * 2
    assert values.fee_fixed.tolist() == [[4.0] * 3, [2.0] * 3]
    assert values.fee_per_share.tolist() == by_symbol[[3, 1]].tolist()
    assert values.fee_minimum.tolist() == [[7.0] * 3] * 2
    assert values.leverage.tolist() == [4.0, 2.0]
    assert values.initial_cash.tolist() == [4e3, 2e3]
    assert (values.start.tolist(), values.end.tolist()) == ([8, 6], [48, 26])
    assert values.tradable.tolist() == [[True] * 3, [False] * 3]
    assert set(given) == set(LANE_PARAMETERS)


def test_as_many_lanes_as_symbols_are_lanes() -> None:
    """``[3]`` is by lane, also where there are three symbols."""
    values = at(lanes(3, {"fee_rate": [0.1, 0.2, 0.3], "tradable": [True, True, False]}), 0, 1, 2)
    assert values.fee_rate.tolist() == [[0.1] * 3, [0.2] * 3, [0.3] * 3]
    assert values.tradable.tolist() == [[True] * 3, [True] * 3, [False] * 3]


def test_the_callers_array_is_not_kept() -> None:
    fees = np.array([0.1, 0.2, 0.3, 0.4])
    parameters = lanes(given={"fee_rate": fees})
    fees[:] = 0.9
    assert at(parameters, 1).fee_rate.tolist() == [[0.2] * 3]
    values = at(parameters, 1)
    values.fee_rate[:] = 0.8
    assert at(parameters, 1).fee_rate.tolist() == [[0.2] * 3]


def test_a_length_of_its_own_decides_how_late_an_episode_may_start() -> None:
    """With ``random_start`` and 7.4 for that length: lane 0 may start at 5 to 98, lane 1 at 5 and 6 alone."""
    schedule = EpisodeSchedule.build(n_bars=101, first_bar=5, length=20, random_start=True)
    given = {"episode_length": [2, 94]}
    parameters = LaneParameters.build(EnvConfig(), SYMBOLS, schedule, 2, given)
    lane, episode = np.repeat([0, 1], 2000).astype(np.int64), np.tile(np.arange(2000), 2).astype(np.int64)
    values = parameters.at(3, lane, episode)
    assert (values.end - values.start).tolist() == [2] * 2000 + [94] * 2000
    assert set(values.start[:2000].tolist()) == set(range(5, 99))
    assert set(values.start[2000:].tolist()) == {5, 6}


def test_a_start_of_its_own_runs_to_the_end_of_the_data_without_a_length() -> None:
    schedule = EpisodeSchedule.build(n_bars=101, first_bar=5, length=None, random_start=True)
    values = at(LaneParameters.build(EnvConfig(), SYMBOLS, schedule, 2, {"episode_start": [5, 99]}), 0, 1)
    assert (values.start.tolist(), values.end.tolist()) == ([5, 99], [100, 100])


def test_a_scalar_environment_takes_the_first_row_for_whatever_lane_it_plays() -> None:
    for make in (FastTrainingEnv, StatefulTradingEnv):
        env = make(market(), {}, lane=7, lane_parameters={"initial_cash": 123.0, "fee_rate": [[0.1, 0.2, 0.3, 0.4]]})
        env.reset(options={"lane": 11})
        assert env.equity == 123.0
        assert env.values.fee_rate.tolist() == [[0.1, 0.2, 0.3, 0.4]]


def test_a_batch_passes_its_lanes_own_numbers_on() -> None:
    own = {"initial_cash": [100.0, 200.0], "episode_start": [3, 4]}
    config = {"episode_config": {"length": 5}}
    batch = BatchTradingEnv(market(), config, n_envs=2, lane_parameters=own)
    batch.reset()
    assert (batch.cash.tolist(), batch.bar.tolist()) == ([100.0, 200.0], [3, 4])
    wrapped = TradingVecEnv(market(), config, n_envs=2, lane_parameters=own)
    wrapped.reset()
    assert (wrapped.get_attr("cash"), wrapped.get_attr("bar")) == ([100.0, 200.0], [3, 4])


# --- what is refused by lane ------------------------------------------------------------------------------------

MARGIN = {"margin_config": {"leverage": 2.0, "maintenance_margin": 0.25}}
REFUSED_BY_LANE: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "an unknown name": (
        {"fee_rat": 0.1},
        {},
        "lane_parameters: unknown name 'fee_rat' (did you mean 'fee_rate'?); expected fee_rate, slippage_rate, ",
    ),
    "no mapping": ([("fee_rate", 0.1)], {}, "lane_parameters: got list, expected a mapping from names to values"),
    "a rule that lanes share": ({"cash_rate": 0.1}, {}, "lane_parameters: unknown name 'cash_rate'"),
    "too short": (
        {"fee_rate": [0.1, 0.2]},
        {},
        "lane_parameters.fee_rate: got shape [2], expected a number or [4] or [4, 3]",
    ),
    "too long": ({"leverage": [1.0] * 5}, {}, "lane_parameters.leverage: got shape [5], expected a number or [4]"),
    "by symbol, which it is not": (
        {"leverage": np.ones((4, 3))},
        {},
        "lane_parameters.leverage: got shape [4, 3], expected a number or [4]",
    ),
    "by symbol, turned": ({"fee_rate": np.zeros((3, 4))}, {}, "lane_parameters.fee_rate: got shape [3, 4]"),
    "a row of symbols": ({"tradable": [True] * 3}, {}, "lane_parameters.tradable: got shape [3]"),
    "rows that differ in length": ({"fee_rate": [[0.1], [0.1, 0.2]]}, {}, "lane_parameters.fee_rate: rows differ"),
    "text": ({"fee_rate": "0.1"}, {}, "lane_parameters.fee_rate: got dtype <U3, expected numbers"),
    "booleans for numbers": ({"fee_rate": [True] * 4}, {}, "lane_parameters.fee_rate: got dtype bool"),
    "numbers for booleans": ({"tradable": [1, 0, 1, 0]}, {}, "tradable: got dtype int64, expected true or false"),
    "half a bar": ({"episode_length": [1.5] * 4}, {}, "episode_length: got dtype float64, expected whole numbers"),
    "half a start": ({"episode_start": 7.0}, {}, "episode_start: got dtype float64, expected whole numbers"),
    "a negative fee": (
        {"fee_rate": [0.1, 0.1, -0.1, 0.1]},
        {},
        "lane_parameters.fee_rate[lane 2]: got -0.1, expected a number from 0 to below 1",
    ),
    "a fee of all": ({"fee_rate": 1.0}, {}, "lane_parameters.fee_rate[lane 0]: got 1.0"),
    "a negative fee of one symbol": (
        {"slippage_rate": [[0.0, 0.0, 0.0]] * 3 + [[0.0, -0.5, 0.0]]},
        {},
        "lane_parameters.slippage_rate[lane 3, symbol 'B']: got -0.5",
    ),
    "not a number": ({"borrow_rate": [0.1, np.nan, 0.1, 0.1]}, {}, "lane_parameters.borrow_rate[lane 1]: got nan"),
    "infinite": ({"initial_cash": [np.inf] * 4}, {}, "lane_parameters.initial_cash[lane 0]: got inf"),
    "no cash": ({"initial_cash": [1.0, 1.0, 1.0, 0.0]}, {}, "lane_parameters.initial_cash[lane 3]: got 0.0"),
    "leverage below 1": ({"leverage": [1.5, 0.9, 1, 1]}, MARGIN, "leverage[lane 1]: got 0.9, expected a number from 1"),
    "no steps": ({"episode_length": [3, 0, 3, 3]}, {}, "lane_parameters.episode_length[lane 1]: got 0"),
    "a negative start": ({"episode_start": -1}, {}, "lane_parameters.episode_start[lane 0]: got -1"),
    "a start before the first bar": (
        {"episode_start": [5, 4, 5, 5]},
        {},
        "lane_parameters.episode_start: lane 1: an episode of 20 bars from bar 4 does not fit; expected a start of at "
        "least 5 and an end of at most 100",
    ),
    "a start too late": (
        {"episode_start": [5, 5, 81, 5]},
        {},
        "lane 2: an episode of 20 bars from bar 81 does not fit",
    ),
    "a length that does not fit": (
        {"episode_length": [95, 96, 95, 95]},
        {},
        "lane 1: an episode of 96 bars from bar 5",
    ),
    "start and length that fit alone": (
        {"episode_start": [5, 50, 50, 5], "episode_length": [95, 50, 51, 95]},
        {},
        "lane_parameters.episode_start, lane_parameters.episode_length: lane 2: an episode of 51 bars from bar 50",
    ),
    "a start that a drawn length passes": (
        {"episode_start": [5, 91, 5, 5]},
        {"randomization": {"episode_length": [1, 10]}},
        "lane 1: an episode of 10 bars from bar 91 does not fit",
    ),
    "leverage in a cash account": (
        {"leverage": [1.0, 1.0, 1.5, 1.0]},
        {},
        "lane_parameters.leverage: above 1 in a cash account; expected margin_config.leverage above 1 or ",
    ),
    "leverage above what maintenance allows": (
        {"leverage": [1.0, 4.0, 5.0, 1.0]},
        MARGIN,
        "lane_parameters.leverage: up to 5, so an initial margin of 0.2, is below margin_config.maintenance_margin",
    ),
}


@pytest.mark.parametrize("case", REFUSED_BY_LANE)
def test_a_wrong_number_of_a_lane_is_refused_with_its_name_and_place(case: str) -> None:
    given, sections, message = REFUSED_BY_LANE[case]
    with pytest.raises(ConfigError, match=re.escape(message)):
        lanes(4, given, **sections)


@pytest.mark.parametrize("name", PARAMETER_BOUNDS)
def test_a_parameter_is_given_or_drawn_but_not_both(name: str) -> None:
    ranges = {"leverage": [1.0, 2.0], "initial_cash": [1.0, 2.0], "episode_length": [1, 2], "tradable": [1, 2]}
    config = {"randomization": {name: ranges.get(name, [0.1, 0.2])}, **MARGIN}
    with pytest.raises(ConfigError, match=rf"lane_parameters\.{name}: is drawn by randomization too"):
        lanes(4, {name: 1}, **config)
    lanes(4, {}, **config)


def test_what_fits_exactly_is_taken() -> None:
    lanes(4, {"episode_start": 80})
    lanes(4, {"episode_length": 95})
    lanes(4, {"episode_start": [5, 99, 50, 60], "episode_length": [95, 1, 50, 40]})
    lanes(4, {"leverage": 4.0}, **MARGIN)
    lanes(4, {"leverage": 1.0})
    lanes(4, {"leverage": 3.0}, margin_config={"allow_short": True})
    lanes(4, {"fee_rate": 0.0, "slippage_rate": 0, "borrow_rate": 10.0})


@pytest.mark.parametrize("make", [BatchTradingEnv, TradingVecEnv])
def test_a_batch_refuses_an_array_of_the_wrong_length_at_construction(make: type[Any]) -> None:
    with pytest.raises(
        ConfigError, match=re.escape("lane_parameters.fee_rate: got shape [3], expected a number or [2]")
    ):
        make(market(), {}, n_envs=2, lane_parameters={"fee_rate": [0.1, 0.2, 0.3]})


@pytest.mark.parametrize("make", [FastTrainingEnv, StatefulTradingEnv])
def test_a_scalar_environment_refuses_the_numbers_of_a_whole_batch(make: type[Any]) -> None:
    with pytest.raises(
        ConfigError, match=re.escape("lane_parameters.fee_rate: got shape [3], expected a number or [1]")
    ):
        make(market(), {}, lane_parameters={"fee_rate": [0.1, 0.2, 0.3]})


# --- ranges to draw from ----------------------------------------------------------------------------------------

REFUSED_RANGES: dict[str, tuple[dict[str, Any], str]] = {
    "upside down": ({"fee_rate": [0.2, 0.1]}, "fee_rate should be [low, high] with 0 <= low <= high < 1"),
    "lengths upside down": ({"episode_length": [9, 5]}, "episode_length should be [low, high] with 1 <= low <= high"),
    "a negative fee": ({"slippage_rate": [-0.1, 0.1]}, "slippage_rate should be [low, high] with 0 <= low"),
    "a fee of all": ({"fee_rate": [0.1, 1.0]}, "fee_rate should be [low, high] with 0 <= low <= high < 1"),
    "leverage below 1": ({"leverage": [0.5, 2.0]}, "leverage should be [low, high] with 1 <= low"),
    "no steps": ({"episode_length": [0, 5]}, "episode_length should be [low, high] with 1 <= low"),
    "no cash": ({"initial_cash": [0.0, 5.0]}, "initial_cash should be above 0"),
    "negative borrow": ({"borrow_rate": [-1.0, 5.0]}, "borrow_rate should be [low, high] with 0 <= low"),
    "one number": ({"fee_rate": [0.1]}, "randomization.fee_rate"),
    "three numbers": ({"fee_rate": [0.1, 0.2, 0.3]}, "randomization.fee_rate"),
    "not a list": ({"fee_rate": 0.1}, "randomization.fee_rate"),
    "text": ({"fee_rate": ["low", "high"]}, "randomization.fee_rate"),
    "not a number": ({"fee_rate": [0.1, float("nan")]}, "randomization.fee_rate"),
    "an unknown name": ({"fee_rat": [0.1, 0.2]}, "randomization.fee_rat: unknown key (did you mean 'fee_rate'?)"),
    "a negative fixed fee": ({"fee_fixed": [-1.0, 1.0]}, "fee_fixed should be [low, high] with 0 <= low"),
    "no symbols": ({"tradable": [0, 2]}, "tradable should be [low, high] with 1 <= low <= high"),
    "half a symbol": ({"tradable": [1, 2.5]}, "tradable should be whole numbers of symbols, got [1, 2.5]"),
    "a parameter that is not drawn": ({"episode_start": [1, 2]}, "randomization.episode_start: unknown key"),
}


@pytest.mark.parametrize("case", REFUSED_RANGES)
def test_a_range_that_cannot_be_drawn_from_is_refused(case: str) -> None:
    content, message = REFUSED_RANGES[case]
    with pytest.raises(ConfigError, match=re.escape(message)):
        EnvConfig.model_validate({"randomization": content, "margin_config": {"leverage": 2.0}})


def test_a_range_that_the_data_do_not_allow_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"randomization\.episode_length: lane 0: an episode of 96 bars from bar 5"):
        lanes(4, None, randomization={"episode_length": [1, 96]})
    with pytest.raises(ConfigError, match=r"randomization\.tradable: up to 4 symbols, and the market has 3; expected"):
        lanes(4, None, randomization={"tradable": [1, 4]})


def test_as_many_symbols_may_be_traded_as_are_drawn_and_each_as_often() -> None:
    """Rule 8.2: 1 to 3 of 3 symbols, so 2 of them on average, of which each symbol has its two thirds."""
    lane, episode = np.repeat(np.arange(40), 100), np.tile(np.arange(100), 40)
    tradable = lanes(40, randomization={"tradable": [1, 3]}).at(5, lane, episode).tradable
    counts = tradable.sum(axis=1)
    assert set(counts.tolist()) == {1, 2, 3}
    assert np.bincount(counts)[1:] / len(lane) == pytest.approx([1 / 3] * 3, abs=0.03)
    assert tradable.mean(axis=0) == pytest.approx([2 / 3] * 3, abs=0.03)
    for k in (0, 17, 3999):  # the choice of one lane and episode does not depend on what is asked with it
        alone = lanes(40, randomization={"tradable": [1, 3]}).at(5, lane[k : k + 1], episode[k : k + 1])
        assert alone.tradable.tolist() == [tradable[k].tolist()]


def test_a_range_of_one_number_draws_it() -> None:
    drawn = {"fee_rate": [0.25, 0.25], "initial_cash": [500.0, 500.0], "episode_length": [7, 7]}
    values = at(lanes(randomization=drawn), 0, 3, seed=9, episode=4)
    assert values.fee_rate.tolist() == [[0.25] * 3] * 2
    assert values.initial_cash.tolist() == [500.0, 500.0]
    assert (values.end - values.start).tolist() == [7, 7]


# --- impossible rules -------------------------------------------------------------------------------------------

IMPOSSIBLE: dict[str, tuple[dict[str, Any], str]] = {
    "leverage below 1": (
        {"margin_config": {"leverage": 0.5}},
        "margin_config.leverage: should be greater than or equal to 1, got 0.5",
    ),
    "maintenance above the initial margin": (
        {"margin_config": {"leverage": 4.0, "maintenance_margin": 0.3}},
        "margin_config: maintenance_margin 0.3 should be at most the initial margin, which is 1 / leverage = 0.25",
    ),
    "leverage drawn in a cash account": (
        {"randomization": {"leverage": [1.0, 1.5]}},
        "randomization.leverage: above 1 in a cash account; expected margin_config.leverage above 1",
    ),
    "maintenance above the initial margin that is drawn": (
        {"randomization": {"leverage": [1.0, 5.0]}, "margin_config": {"leverage": 2.0, "maintenance_margin": 0.25}},
        "randomization.leverage: up to 5, so an initial margin of 0.2, is below margin_config.maintenance_margin 0.25",
    ),
    "half a bar": (
        {"randomization": {"episode_length": [1.5, 6.0]}},
        "randomization: episode_length should be whole numbers of bars, got [1.5, 6]",
    ),
    "a net limit of nothing": (
        {"margin_config": {"allow_short": True, "net_limit": 0.0}},
        "margin_config.net_limit: should be greater than 0, got 0",
    ),
    "a negative fee rate": (
        {"cost_config": {"fee_rate": -0.001}},
        "cost_config.fee_rate: should be greater than or equal to 0, got -0.001",
    ),
    "a fee rate of one symbol": (
        {"cost_config": {"fee_rate": {"*": 0.001, "B": -0.002}}},
        "cost_config.fee_rate.B: should be greater than or equal to 0, got -0.002",
    ),
    "a fee of all": ({"cost_config": {"fee_rate": 1.0}}, "cost_config.fee_rate: should be less than 1, got 1.0"),
    "a negative fixed fee": (
        {"cost_config": {"fee_fixed": -1.0}},
        "cost_config.fee_fixed: should be greater than or equal to 0, got -1.0",
    ),
    "a negative fee for a share": (
        {"cost_config": {"fee_per_share": {"A": -0.1, "*": 0.0}}},
        "cost_config.fee_per_share.A: should be greater than or equal to 0, got -0.1",
    ),
    "a negative least fee": (
        {"cost_config": {"fee_minimum": -1.0}},
        "cost_config.fee_minimum: should be greater than or equal to 0",
    ),
    "a negative impact": (
        {"cost_config": {"impact_coefficient": -0.1}},
        "cost_config.impact_coefficient: should be greater than or equal to 0",
    ),
    "a fee in words": (
        {"cost_config": {"fee_rate": {"A": "much"}}},
        "cost_config.fee_rate.A: should be a valid number",
    ),
    "a negative lot": ({"execution_config": {"lot_size": -1.0}}, "execution_config.lot_size: should be greater than"),
    "no participation": (
        {"execution_config": {"participation_limit": 0.0}},
        "execution_config.participation_limit: should be greater than 0, got 0",
    ),
    "more than the volume": (
        {"execution_config": {"participation_limit": 1.5}},
        "execution_config.participation_limit: should be less than or equal to 1, got 1.5",
    ),
    "a stop at nothing": (
        {"execution_config": {"stop_loss": 1.0}},
        "execution_config.stop_loss: should be less than 1, got 1.0",
    ),
    "a stop at the entry": (
        {"execution_config": {"stop_loss": 0.0}},
        "execution_config.stop_loss: should be greater than 0, got 0.0",
    ),
    "a haircut of more than all": (
        {"execution_config": {"delisting_haircut": 1.1}},
        "execution_config.delisting_haircut: should be less than or equal to 1, got 1.1",
    ),
    "funding in a cash account": (
        {"carry_config": {"funding_rate": 0.1}},
        "carry_config: funding needs a margin account, since it can take cash below zero; expected "
        "margin_config.allow_short or a margin_config.leverage above 1",
    ),
    "funding of one symbol in a cash account": (
        {"carry_config": {"funding_rate": {"*": 0.0, "A": 0.1}}},
        "carry_config: funding needs a margin account",
    ),
    "a funding column in a cash account": (
        {"carry_config": {"funding_column": "funding"}},
        "carry_config: funding needs a margin account",
    ),
    "a negative borrow rate": (
        {"carry_config": {"borrow_rate": -0.1}},
        "carry_config.borrow_rate: should be greater than or equal to 0, got -0.1",
    ),
    "dividends that are neither": (
        {"carry_config": {"dividends": "keep"}},
        "carry_config.dividends: should be 'cash' or 'reinvest', got 'keep'",
    ),
    "an unknown key": (
        {"margin_config": {"leverege": 2.0}},
        "margin_config.leverege: unknown key (did you mean 'leverage'?)",
    ),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_an_impossible_rule_is_refused_with_key_and_reason(case: str) -> None:
    content, message = IMPOSSIBLE[case]
    with pytest.raises(ConfigError, match=re.escape(message)):
        EnvConfig.model_validate(content)


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_a_mistake_about_one_thing_is_told_in_one_line(case: str) -> None:
    """A setting that is a number or a mapping must not be told off for not being the other one too."""
    with pytest.raises(ConfigError) as caught:
        EnvConfig.model_validate(IMPOSSIBLE[case][0])
    assert len(str(caught.value).strip().splitlines()) == 1, str(caught.value)


def test_rules_at_the_edge_are_taken() -> None:
    EnvConfig.model_validate({"margin_config": {"leverage": 4.0, "maintenance_margin": 0.25}})
    EnvConfig.model_validate({"margin_config": {"leverage": 1.0}, "carry_config": {"funding_rate": 0.0}})
    EnvConfig.model_validate({"margin_config": {"allow_short": True}, "carry_config": {"funding_rate": -0.1}})
    EnvConfig.model_validate({"margin_config": {"leverage": 1.1}, "carry_config": {"funding_column": "c"}})
    EnvConfig.model_validate({"execution_config": {"participation_limit": 1.0, "delisting_haircut": 1.0}})
    assert EnvConfig().margin_config.cash_account
    for margin in ({"leverage": 1.1}, {"allow_short": True}):
        assert not EnvConfig.model_validate({"margin_config": margin}).margin_config.cash_account


def closes_only() -> pd.DataFrame:
    return frame().pivot(index="date", columns="symbol", values="close")


NEEDS: dict[str, tuple[dict[str, Any], str]] = {
    "a stop": (
        {"execution_config": {"stop_loss": 0.1}},
        "execution_config.stop_loss: stops watch the open, high and low of a bar, and these data have closes only",
    ),
    "a target": ({"execution_config": {"take_profit": 0.1}}, "execution_config.take_profit: stops watch the open"),
    "impact": (
        {"cost_config": {"impact_coefficient": 0.1}},
        "cost_config.impact_coefficient: needs volumes, and these data have none",
    ),
    "participation": (
        {"execution_config": {"participation_limit": 0.1}},
        "execution_config.participation_limit: needs volumes, and these data have none",
    ),
    "funding": (
        {"carry_config": {"funding_column": "funding"}, "margin_config": {"allow_short": True}},
        "carry_config.funding_column: the data have no column 'funding'; expected one of: none there",
    ),
}


@pytest.mark.parametrize("case", NEEDS)
@pytest.mark.parametrize("make", [BatchTradingEnv, FastTrainingEnv, TradingVecEnv, StatefulTradingEnv])
def test_a_rule_is_refused_on_data_that_it_cannot_look_at(make: type[Any], case: str) -> None:
    content, message = NEEDS[case]
    with pytest.raises(ConfigError, match=re.escape(message)):
        make(closes_only(), {"fill": "next_close", **content})
    full = frame().assign(funding=0.001)
    make(full, {"fill": "next_close", **content})


@pytest.mark.parametrize("missing", ["open", "high", "low"])
def test_a_stop_needs_all_of_open_high_and_low(missing: str) -> None:
    df = frame().drop(columns=missing)
    with pytest.raises(ConfigError, match=r"execution_config\.stop_loss: stops watch"):
        FastTrainingEnv(df, {"fill": "next_close", "execution_config": {"stop_loss": 0.1}})


def test_a_funding_column_is_suggested_where_one_is_near() -> None:
    df = frame().assign(funding=0.001, mood=1.0)
    config = {"carry_config": {"funding_column": "fundin"}, "margin_config": {"allow_short": True}}
    message = (
        "carry_config.funding_column: the data have no column 'fundin' (did you mean 'funding'?); expected one of: "
    )
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        BatchTradingEnv(MarketData.from_frame(df), config)
    assert "mood" in str(caught.value)


@pytest.mark.parametrize("own", ["given", "drawn"])
def test_8_3_a_chosen_start_keeps_the_lanes_own_length(own: str) -> None:
    drawn = {"randomization": {"episode_length": [10, 10]}} if own == "drawn" else {}
    given = {"episode_length": 10} if own == "given" else None
    env = FastTrainingEnv(market(), EnvConfig.model_validate(drawn), lane_parameters=given)
    env.reset(options={"start": 5})
    assert (env.start, env.end) == (5, 15)
    with pytest.raises(ConfigError, match="from 0 to 109"):
        env.reset(options={"start": 110})
