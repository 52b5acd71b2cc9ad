"""What must not change a result, and what must change it in a known way: no expected number is worked out here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest

from batchenv import BatchTradingEnv, EnvConfig, FastTrainingEnv, MarketData
from batchenv.episodes import draw
from stateful import StatefulTradingEnv
from tests.markets import frame, ragged_frame

FILLS = ("next_open", "next_close", "close")
Rows = dict[str, np.ndarray]


def plain_rules(**sections: Any) -> dict[str, Any]:
    """Return a cash account with proportional costs, which the short kernel plays."""
    return {
        "features": ["return_1"],
        "portfolio_config": {"initial_cash": 10_000.0, "trade_limit_percent": 0.6, "bankruptcy_fraction": 0.92},
        "cost_config": {"fee_rate": 0.002, "slippage_rate": 0.001},
        "reward_config": {"reward_scaling": 10.0, "kwargs": {"turnover_penalty": 0.1, "drawdown_penalty": 0.2}},
        "episode_config": {"length": 25, "random_start": True},
        "observation_config": {"unrealized_pnl": True, "time_left": True},
        **sections,
    }


def all_rules(**sections: Any) -> dict[str, Any]:
    """Return a margin account with every rule of the text on."""
    return plain_rules() | {
        "action_config": {"mode": "weights", "max_weight": 2.0},
        "cost_config": {
            "fee_rate": {"*": 0.002, "B": 0.0005},
            "fee_fixed": {"*": 0.5, "C": 1.5},
            "fee_per_share": 0.01,
            "fee_minimum": {"*": 0.0, "A": 3.0},
            "slippage_rate": {"*": 0.001, "D": 0.003},
            "impact_coefficient": 0.05,
        },
        "execution_config": {
            "lot_size": {"*": 0.0, "A": 0.5, "D": 2.0},
            "min_notional": 25.0,
            "participation_limit": 0.01,
            "stop_loss": 0.06,
            "take_profit": 0.09,
            "delisting_haircut": 0.3,
        },
        "margin_config": {"allow_short": True, "leverage": 2.0, "net_limit": 1.2, "maintenance_margin": 0.49},
        "carry_config": {
            "cash_rate": 0.03,
            "margin_rate": 0.07,
            "borrow_rate": {"*": 0.05, "B": 0.2},
            "funding_rate": {"*": 0.01, "C": -0.02},
            "funding_column": "funding",
            "dividends": "cash",
        },
        **sections,
    }


def eventful_frame(seed: int = 0, n_bars: int = 120) -> pd.DataFrame:
    """Return ragged bars with a funding rate, thin volumes, splits and dividends."""
    df = ragged_frame(seed, n_bars)
    rng = np.random.default_rng(seed)
    df["funding"] = rng.normal(0.0, 0.001, len(df))
    df["split"], df["dividend"] = 1.0, 0.0
    for symbol, at, ratio in (("A", 35, 2.0), ("B", 80, 3.0), ("D", 20, 0.5)):
        df = split_from(df, symbol, at, ratio)
    for symbol, at in (("A", 35), ("A", 70), ("C", 50), ("D", 60)):
        date = df["date"].drop_duplicates().sort_values().iloc[at]
        here = (df["symbol"] == symbol) & (df["date"] == date)
        assert here.any()
        df.loc[here, "dividend"] = 0.02 * df.loc[here, "close"]
    return df


def split_from(df: pd.DataFrame, symbol: str, at: int, ratio: float) -> pd.DataFrame:
    """Return the frame as it would be had each share of ``symbol`` become ``ratio`` at bar ``at``."""
    df = df.copy()
    date = df["date"].drop_duplicates().sort_values().iloc[at]
    after = (df["symbol"] == symbol) & (df["date"] >= date)
    assert (after & (df["date"] == date)).sum() == 1
    for column in ("open", "high", "low", "close", *(["dividend"] if "dividend" in df else [])):
        df.loc[after, column] /= ratio
    df.loc[after, "volume"] *= ratio
    if "split" not in df:
        df["split"] = 1.0
    df.loc[after & (df["date"] == date), "split"] *= ratio
    return df


def eventful_market(seed: int = 0, n_bars: int = 120) -> MarketData:
    return MarketData.from_frame(eventful_frame(seed, n_bars))


def draw_actions(steps: int, n_envs: int, n_symbols: int, seed: int = 0) -> np.ndarray:
    """Return actions of all kinds: moderate ones, all or nothing, and some beyond the bounds."""
    rng = np.random.default_rng(seed)
    shape = (steps, n_envs, n_symbols)
    extreme = rng.choice([-1.0, 0.0, 1.0, 2.5], shape)
    use_extreme = rng.random((steps, n_envs, 1)) < 0.3
    return np.where(use_extreme, extreme, rng.uniform(-1, 1, shape)).astype(np.float32)


def play(env: BatchTradingEnv, actions: np.ndarray, seed: int | None = None) -> Rows:
    """Step a batch from a reset; return everything it gives, one row for each step, lanes second.

    ``equity`` and ``last`` (observation) are those of the bar the step ended at, before a lane began anew.
    """
    columns: dict[str, list[np.ndarray]] = {}
    observation, _ = env.reset(seed=seed)
    n = env.num_envs
    nothing = {"reward": np.zeros(n), "terminated": np.zeros(n, bool), "truncated": np.zeros(n, bool)}
    step: dict[str, np.ndarray] = {"returned": observation, "last": observation, "equity": env.equity.copy(), **nothing}
    for action in (None, *actions):
        if action is not None:
            returned, reward, terminated, truncated, infos = env.step(action)
            last, equity = returned.copy(), env.equity.copy()
            for k in np.flatnonzero(terminated | truncated):
                last[k], equity[k] = infos["final_obs"][k], infos["final_info"]["equity"][k]
            step = {"returned": returned, "last": last, "equity": equity, "reward": reward}
            step |= {"terminated": terminated, "truncated": truncated}
        step |= {"cash": env.cash.copy(), "holdings": env.holdings.copy(), "bar": env.bar.copy()}
        for name, values in step.items():
            columns.setdefault(name, []).append(values)
    env.close()
    return {name: np.stack(values) for name, values in columns.items()}


def play_stateful(env: StatefulTradingEnv, actions: np.ndarray, seed: int | None = None) -> Rows:
    """Step one account until the actions are used up; reset where an episode ends."""
    env.reset(seed=seed)
    rows: dict[str, list[Any]] = {"equity": [], "reward": [], "done": [], "holdings": [], "cash": []}
    for action in actions:
        _, reward, terminated, truncated, info = env.step(action)
        done = terminated or truncated
        values = (info["equity"], reward, done, env.holdings, env.cash)
        for name, value in zip(rows, values, strict=True):
            rows[name].append(value)
        if done:
            env.reset()
    return {name: np.array(values) for name, values in rows.items()}


def assert_same(got: Rows, want: Rows, names: tuple[str, ...] | None = None) -> None:
    """Assert that two plays agree bit for bit."""
    for name in names or tuple(want):
        np.testing.assert_array_equal(got[name], want[name], err_msg=name)


def assert_close(got: Rows, want: Rows, tolerance: float, names: tuple[str, ...]) -> None:
    """Assert that two plays agree to a tolerance, relative to the account or to 1, whichever is more."""
    for name in names:
        scale = np.maximum(np.abs(want[name]), 1.0)
        worst = float(np.max(np.abs(got[name] - want[name]) / scale))
        assert worst <= tolerance, f"{name}: {worst:g}"


SETUPS: dict[str, tuple[Callable[..., dict[str, Any]], bool]] = {
    "plain rules": (plain_rules, True),
    "every rule": (all_rules, False),
}


@pytest.fixture(params=SETUPS)
def setup(request: pytest.FixtureRequest) -> tuple[MarketData, Callable[..., dict[str, Any]]]:
    """Market and rules, plain or all of them."""
    make, plain = SETUPS[request.param]
    market = eventful_market()
    env = BatchTradingEnv(market, make(), n_envs=1, seed=0)
    assert env._engine.plain is plain
    return market, make


def test_every_rule_has_its_say() -> None:
    """The setup that the other tests rely on: leave out any one rule and the equity is another."""
    market, base = eventful_market(), all_rules()
    actions = draw_actions(80, 16, 4)
    expected = play(BatchTradingEnv(market, base, n_envs=16), actions, seed=1)
    assert expected["terminated"].any() and expected["truncated"].any()
    assert (expected["cash"] < 0).any() and (expected["holdings"] < 0).any()
    off = {
        "cost_config": ("fee_rate", "fee_fixed", "fee_per_share", "fee_minimum", "slippage_rate", "impact_coefficient"),
        "execution_config": (
            "lot_size",
            "min_notional",
            "participation_limit",
            "stop_loss",
            "take_profit",
            "delisting_haircut",
        ),
        "margin_config": ("allow_short", "leverage", "net_limit", "maintenance_margin"),
        "carry_config": ("cash_rate", "margin_rate", "borrow_rate", "funding_rate", "funding_column", "dividends"),
    }
    zeros = {"fee_rate": 0.0, "slippage_rate": 0.0, "dividends": "reinvest"}
    for section, keys in off.items():
        for key in keys:
            left = {name: value for name, value in base[section].items() if name != key}
            changed = left | ({key: zeros[key]} if key in zeros else {})
            got = play(BatchTradingEnv(market, base | {section: changed}, n_envs=16), actions, seed=1)
            assert (got["equity"] != expected["equity"]).any(), f"{section}.{key} changes nothing"
    bare = eventful_frame()
    for column, none in (("split", 1.0), ("dividend", 0.0)):
        other = MarketData.from_frame(bare.assign(**{column: none}))
        got = play(BatchTradingEnv(other, base, n_envs=16), actions, seed=1)
        assert (got["equity"] != expected["equity"]).any(), f"{column} changes nothing"


# --- lanes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fill", FILLS)
def test_permuting_lanes_permutes_results_bit_for_bit(
    setup: tuple[MarketData, Callable[..., dict[str, Any]]], fill: str
) -> None:
    """A lane's number decides nothing but what is drawn for it; here nothing is drawn, and all is given by lane."""
    market, make = setup
    n, rng = 24, np.random.default_rng(3)
    own = {
        "fee_rate": rng.uniform(0, 0.01, n),
        "slippage_rate": rng.uniform(0, 0.005, n),
        "initial_cash": rng.uniform(5_000, 20_000, n),
        "episode_start": rng.integers(1, 80, n),
        "episode_length": rng.integers(5, 35, n),
    }
    if make is all_rules:
        own |= {
            "leverage": rng.uniform(1.0, 2.0, n),
            "borrow_rate": rng.uniform(0, 0.5, (n, market.n_symbols)),
            "tradable": rng.random((n, market.n_symbols)) < 0.8,
        }
    config = make(fill=fill, episode_config={"length": 25})
    actions = draw_actions(90, n, market.n_symbols)
    order = rng.permutation(n)
    expected = play(BatchTradingEnv(market, config, n_envs=n, lane_parameters=own), actions, seed=1)
    moved = {name: values[order] for name, values in own.items()}
    got = play(BatchTradingEnv(market, config, n_envs=n, lane_parameters=moved), actions[:, order], seed=1)
    assert (expected["terminated"] | expected["truncated"]).sum() > n
    assert_same(got, {name: values[:, order] for name, values in expected.items()})


def test_the_number_of_lanes_and_threads_changes_nothing(
    setup: tuple[MarketData, Callable[..., dict[str, Any]]],
) -> None:
    """Lane k is the same, bit for bit, among 1, 7 or 4096 lanes, on one thread or two."""
    market, make = setup
    drawn = {"slippage_rate": [0.0, 0.003], "initial_cash": [8_000.0, 12_000.0], "episode_length": [5, 30]}
    config = make(randomization=drawn)
    actions = draw_actions(45, 4096, market.n_symbols)
    expected = play(BatchTradingEnv(market, config, n_envs=4096), actions, seed=11)
    assert len(np.unique(expected["equity"][-1])) > 4000, "lanes differ"
    for n_envs, n_threads in ((1, 1), (1, 2), (7, 1), (7, 2), (4096, 2)):
        got = play(BatchTradingEnv(market, config, n_envs=n_envs, n_threads=n_threads), actions[:, :n_envs], seed=11)
        assert_same(got, {name: values[:, :n_envs] for name, values in expected.items()})


@pytest.mark.parametrize("mode", ["trade", "weights", "shares"])
@pytest.mark.parametrize("reward", ["log_return", "differential_sharpe", "fast_profit_reward"])
def test_a_lane_is_the_same_wherever_it_stands_in_a_block(
    setup: tuple[MarketData, Callable[..., dict[str, Any]]], mode: str, reward: str
) -> None:
    """Lanes are taken by the block, and what is left over by another loop: that must not change a bit."""
    market, make = setup
    config = make(action_config={"mode": mode, "max_shares": 100.0}, reward_config={"type": reward})
    actions = draw_actions(30, 40, market.n_symbols)
    expected = play(BatchTradingEnv(market, config, n_envs=40), actions, seed=3)
    for n_envs in range(1, 36):
        got = play(BatchTradingEnv(market, config, n_envs=n_envs), actions[:, :n_envs], seed=3)
        assert_same(got, {name: values[:, :n_envs] for name, values in expected.items()})


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("mode", ["trade", "weights", "shares"])
def test_later_events_change_no_bit_of_what_comes_before(
    setup: tuple[MarketData, Callable[..., dict[str, Any]]], mode: str, fill: str
) -> None:
    """Splits, dividends and delistings from bar 61 on, or none at all: until bar 60 all is the same, bit for bit."""
    _, make = setup
    quiet = frame().assign(split=1.0, dividend=0.0, funding=0.001)
    dates = quiet["date"].drop_duplicates().sort_values()
    busy = split_from(quiet, "A", 64, 2.0)
    busy.loc[(busy["symbol"] == "C") & (busy["date"] == dates.iloc[66]), "dividend"] = 0.5
    busy = busy[~((busy["symbol"] == "B") & (busy["date"] > dates.iloc[70]))].reset_index(drop=True)
    rows = []
    for df in (quiet, busy):
        given = {"features": [], "fill": fill, "action_config": {"mode": mode, "max_shares": 100.0}}
        config = make(**given, episode_config={"length": 58, "random_start": False})
        env = BatchTradingEnv(MarketData.from_frame(df), config, n_envs=20)
        rows.append(play(env, draw_actions(58, 20, 4), seed=1))
    assert len(np.unique(rows[0]["equity"][-1])) > 5
    assert_same(*rows)


# --- symbols ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fill", FILLS)
def test_permuting_symbols_permutes_results(setup: tuple[MarketData, Callable[..., dict[str, Any]]], fill: str) -> None:
    """No symbol comes first: only the order of a sum changes with the order of the columns."""
    market, make = setup
    s = market.n_symbols
    order = np.array([2, 0, 3, 1]) if s == 4 else np.array([2, 0, 1])
    other = market.select(market.symbols[k] for k in order)
    n, actions = 12, draw_actions(80, 12, s)
    fees = np.random.default_rng(0).uniform(0, 0.01, (n, s))
    for own, moved in ((None, None), ({"fee_rate": fees}, {"fee_rate": fees[:, order]})):
        want = play(BatchTradingEnv(market, make(fill=fill), n_envs=n, lane_parameters=own), actions, seed=5)
        permuted = BatchTradingEnv(other, make(fill=fill), n_envs=n, lane_parameters=moved)
        got = play(permuted, actions[:, :, order], seed=5)
        want["holdings"] = want["holdings"][:, :, order]
        assert_close(got, want, 1e-9, ("equity", "cash", "reward", "holdings"))
        assert_same(got, want, ("terminated", "truncated", "bar"))
    scalar, scalar_other = (StatefulTradingEnv(m, make(fill=fill), lane=3) for m in (market, other))
    want, got = play_stateful(scalar, actions[:, 3], 5), play_stateful(scalar_other, actions[:, 3][:, order], 5)
    want["holdings"] = want["holdings"][:, order]
    assert_close(got, want, 1e-9, ("equity", "cash", "reward", "holdings"))


# --- units ------------------------------------------------------------------------------------------------------

MONEY = ("fee_fixed", "fee_per_share", "fee_minimum", "min_notional", "initial_cash")


def in_other_money(config: Mapping[str, Any], factor: float) -> dict[str, Any]:
    """Return the configuration in a currency of which ``factor`` units are one of before."""

    def times(value: Any) -> Any:
        return {name: v * factor for name, v in value.items()} if isinstance(value, dict) else value * factor

    return {
        section: {key: times(value) if key in MONEY else value for key, value in content.items()}
        if isinstance(content, dict)
        else content
        for section, content in config.items()
    }


@pytest.mark.parametrize("factor", [4.0, 2.0**-20, 3.7, 0.001], ids=str)
@pytest.mark.parametrize("fill", FILLS)
def test_money_has_no_unit(fill: str, factor: float) -> None:
    """In another currency everything but the amounts is the same: exactly for a power of two, else to rounding."""
    df = eventful_frame()
    scaled = df.copy()
    scaled[["open", "high", "low", "close", "dividend"]] *= factor
    exact = np.log2(factor) == round(np.log2(factor))
    for make in (plain_rules, all_rules):
        config = make(fill=fill, features=[])
        actions = draw_actions(80, 10, 4)
        market, other = MarketData.from_frame(df), MarketData.from_frame(scaled)
        want = play(BatchTradingEnv(market, config, n_envs=10), actions, seed=2)
        got = play(BatchTradingEnv(other, in_other_money(config, factor), n_envs=10), actions, seed=2)
        compare_money(got, want, factor, exact)
        assert_same(got, want, ("terminated", "truncated", "bar"))
        scalar = StatefulTradingEnv(market, config, lane=4)
        other_scalar = StatefulTradingEnv(other, in_other_money(config, factor), lane=4)
        one, two = play_stateful(scalar, actions[:, 4], 2), play_stateful(other_scalar, actions[:, 4], 2)
        compare_money(two, one, factor, exact)


def compare_money(got: Rows, want: Rows, factor: float, exact: bool) -> None:
    """Assert that amounts differ by the factor, and that shares and rewards do not differ."""
    back = {name: values / factor if name in ("equity", "cash") else values for name, values in got.items()}
    names = ("equity", "cash", "holdings", "reward")
    if exact:
        assert_same(back, want, names)
    else:
        assert_close(back, want, 1e-9, names)


@pytest.mark.parametrize("ratio", [2.0, 3.0, 0.5], ids=str)
@pytest.mark.parametrize("fill", FILLS)
def test_a_split_changes_nothing(fill: str, ratio: float) -> None:
    """Twice the shares at half the price are the same money: positions, orders that wait, stops, volumes, dividends.

    Costs by the share and whole lots do change with a split, so they are off. 2 and 1/2 are exact in binary.
    """
    df = eventful_frame()
    rules = all_rules(fill=fill, features=[])
    rules["cost_config"] = {**rules["cost_config"], "fee_per_share": 0.0}
    rules["execution_config"] = {**rules["execution_config"], "lot_size": 0.0}
    whole = MarketData.from_frame(df)
    for dividends in ("cash", "reinvest"):
        config = rules | {"carry_config": {**rules["carry_config"], "dividends": dividends}}
        parted = MarketData.from_frame(split_from(split_from(df, "C", 45, ratio), "A", 70, ratio))
        actions = draw_actions(100, 12, 4)
        own = {"episode_start": np.arange(12) * 4, "episode_length": 60}
        want = play(BatchTradingEnv(whole, config, n_envs=12, lane_parameters=own), actions, seed=3)
        got = play(BatchTradingEnv(parted, config, n_envs=12, lane_parameters=own), actions, seed=3)
        assert (got["holdings"][:, :, [0, 2]] != want["holdings"][:, :, [0, 2]]).any(), "a position went through it"
        names = ("equity", "cash", "reward")
        if ratio == 3.0:
            assert_close(got, want, 1e-9, names)
        else:
            assert_same(got, want, names)
        np.testing.assert_array_equal(got["terminated"], want["terminated"])
        for lane in (0, 7):
            start, length = 4 * lane, 60
            given = {"episode_start": start, "episode_length": length}
            one, two = (
                play_stateful(StatefulTradingEnv(m, config, seed=3, lane_parameters=given), actions[:, lane])
                for m in (whole, parted)
            )
            assert_close(two, one, 1e-12 if ratio != 3.0 else 1e-9, names)


@pytest.mark.parametrize("fill", ["close", "next_close"])
@pytest.mark.parametrize("symbol", ["AAPL", "GOOG", "IBM", "MSFT"])
def test_reinvested_dividends_give_the_return_of_adjusted_prices(symbol: str, fill: str) -> None:
    """A buy-and-hold of traded prices with splits and reinvested dividends earns what adjusted prices say, bar by bar.

    The dividends of the bundled data state twelve digits, and so does what they are compared with.
    """
    config = {
        "features": [],
        "portfolio_config": {"initial_cash": 10_000.0, "trade_limit_percent": 1.0},
        "cost_config": {"fee_rate": 0.0, "slippage_rate": 0.0},
        "carry_config": {"dividends": "reinvest"},
        "reward_config": {"type": "simple_return"},
        "fill": fill,
    }
    traded, adjusted = (MarketData.bundled(adjusted=flag).select(symbol) for flag in (False, True))
    assert (traded.dividends is None) == (symbol == "GOOG")
    assert adjusted.dividends is None and adjusted.splits is None
    first = 1 + int(np.flatnonzero(~np.isnan(adjusted.mark[:, 0]))[0])
    buy = np.ones((1, 1), np.float32)
    for make in (FastTrainingEnv, StatefulTradingEnv):
        equity = []
        for market in (traded, adjusted):
            env = make(market, config, seed=0)
            env.reset(options={"start": first})
            path = [env.step(buy[0])[4]["equity"]]
            assert env.cash == pytest.approx(0.0, abs=1e-6), "all is invested"
            truncated = False
            while not truncated:
                *_, truncated, info = env.step(0.0 * buy[0])
                path.append(info["equity"])
            equity.append(np.array(path))
        np.testing.assert_allclose(equity[0], equity[1], rtol=1e-10)
        bought = adjusted.close[first + (fill == "next_close"), 0]
        assert equity[0][-1] == pytest.approx(10_000.0 * adjusted.close[-1, 0] / bought, rel=1e-10)
        assert traded.close[-1, 0] / traded.close[first, 0] != pytest.approx(equity[0][-1] / 10_000.0, rel=0.01) or (
            symbol == "GOOG"
        ), "without splits and dividends the return would be another"


# --- parameters by lane -----------------------------------------------------------------------------------------

BY_LANE: dict[str, tuple[Any, Callable[[Any], tuple[str, str, Any]]]] = {
    "fee_rate": ([0.0, 0.004, 0.02], lambda value: ("cost_config", "fee_rate", value)),
    "slippage_rate": ([0.0, 0.004, 0.02], lambda value: ("cost_config", "slippage_rate", value)),
    "borrow_rate": ([0.0, 0.3, 2.0], lambda value: ("carry_config", "borrow_rate", value)),
    "leverage": ([1.0, 1.3, 1.9], lambda value: ("margin_config", "leverage", value)),
    "initial_cash": ([900.0, 12_345.6, 5e6], lambda value: ("portfolio_config", "initial_cash", value)),
    "episode_length": ([3, 17, 40], lambda value: ("episode_config", "length", value)),
}


@pytest.mark.parametrize(
    ("make", "name"),
    [(all_rules, name) for name in BY_LANE]
    + [(plain_rules, name) for name in BY_LANE if name not in ("borrow_rate", "leverage")],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_a_lane_with_its_own_number_is_an_environment_configured_with_it(
    make: Callable[..., dict[str, Any]], name: str
) -> None:
    """Bit for bit, of all that is returned, for every lane; and the scalar environment takes the same number."""
    market, base = eventful_market(), make()
    numbers, place = BY_LANE[name]
    if make is all_rules:
        numbers = [value for value in numbers if value != 5e6]
    actions = draw_actions(60, len(numbers), 4, seed=4)
    together = play(BatchTradingEnv(market, base, n_envs=len(numbers), lane_parameters={name: numbers}), actions, 7)
    finals = set()
    for lane, number in enumerate(numbers):
        section, key, value = place(number)
        config = base | {section: {**base.get(section, {}), key: value}}
        alone = play_fast(FastTrainingEnv(market, config, lane=lane), actions[:, lane], 7)
        assert_same({k: v[1:, lane] for k, v in together.items() if k in alone}, alone)
        configured = play_stateful(StatefulTradingEnv(market, config, lane=lane), actions[:, lane], 7)
        given = StatefulTradingEnv(market, base, lane=lane, lane_parameters={name: number})
        assert_same(play_stateful(given, actions[:, lane], 7), configured)
        assert_close({k: v[1:, lane] for k, v in together.items()}, configured, 1e-9, ("equity", "reward"))
        finals.add(tuple(configured["equity"].tolist()))
    assert len(finals) == len(numbers), "the parameter matters"


def play_fast(env: FastTrainingEnv, actions: np.ndarray, seed: int) -> Rows:
    """Step one lane of the batch tier alone; reset where an episode ends."""
    env.reset(seed=seed)
    rows: dict[str, list[Any]] = {"last": [], "equity": [], "reward": [], "terminated": [], "truncated": []}
    for action in actions:
        observation, reward, terminated, truncated, info = env.step(action)
        values = (observation, info["equity"], reward, terminated, truncated)
        for name, value in zip(rows, values, strict=True):
            rows[name].append(value)
        if terminated or truncated:
            env.reset()
    return {name: np.array(values) for name, values in rows.items()}


def test_a_lanes_own_start_is_its_start_bar_in_every_episode() -> None:
    market, starts = eventful_market(), np.array([1, 30, 95])
    config = all_rules(episode_config={"length": 10, "random_start": True})
    env = BatchTradingEnv(market, config, n_envs=3, seed=0, lane_parameters={"episode_start": starts})
    actions = draw_actions(20, 3, 4)
    for _ in range(2):
        env.reset()
        np.testing.assert_array_equal(env.bar, starts)
    for lane, start in enumerate(starts.tolist()):
        given = StatefulTradingEnv(market, config, lane=lane, lane_parameters={"episode_start": start})
        chosen = StatefulTradingEnv(market, config, lane=lane)
        given.reset(seed=0)
        chosen.reset(seed=0, options={"start": start})
        for step in range(10):
            one, two = given.step(actions[step, lane]), chosen.step(actions[step, lane])
            assert one[1:4] == two[1:4]
            assert (given.bar, given.equity) == (chosen.bar, chosen.equity)
            if one[2] or one[3]:
                break


def test_a_symbol_that_a_lane_may_not_trade_is_one_that_it_never_orders() -> None:
    """In `trade` mode an action of 0 orders nothing, which is what a lane without the symbol does."""
    market, config = eventful_market(), all_rules(action_config={"mode": "trade"})
    tradable = np.array([[True, True, True, True], [True, False, True, False], [False, False, False, True]])
    actions = draw_actions(60, 3, 4)
    barred = BatchTradingEnv(market, config, n_envs=3, lane_parameters={"tradable": tradable})
    got = play(barred, actions, seed=2)
    want = play(BatchTradingEnv(market, config, n_envs=3), np.where(tradable, actions, np.float32(0)), seed=2)
    assert_same(got, want)
    assert (got["holdings"][:, ~tradable] == 0).all() and (got["holdings"][:, tradable] != 0).any(axis=0).all()
    for lane in range(3):
        own = {"tradable": tradable[lane : lane + 1]}
        env = StatefulTradingEnv(market, config, lane=lane, lane_parameters=own)
        one = play_stateful(env, actions[:, lane], 2)
        two = play_stateful(StatefulTradingEnv(market, config, lane=lane), actions[:, lane] * tradable[lane], 2)
        assert_same(one, two)


# --- randomisation ----------------------------------------------------------------------------------------------

RANGES: dict[str, tuple[float, float]] = {
    "fee_rate": (0.001, 0.01),
    "slippage_rate": (0.002, 0.02),
    "borrow_rate": (0.1, 0.5),
    "leverage": (1.1, 1.9),
    "initial_cash": (5_000.0, 20_000.0),
    "episode_length": (6, 9),
}
"""In the order that rule 8.2 numbers the draws from 1."""


def randomised() -> EnvConfig:
    content = all_rules(randomization={name: list(given) for name, given in RANGES.items()})
    return EnvConfig.model_validate(content)


def test_draws_lie_in_their_ranges_and_differ_by_lane_episode_and_parameter() -> None:
    env = BatchTradingEnv(eventful_market(), randomised(), n_envs=400, seed=8)
    lanes = np.arange(400, dtype=np.int64)
    episodes = [env.parameters.at(8, lanes, np.full(400, e, np.int64)) for e in range(3)]
    parts = {}
    for name, (low, high) in RANGES.items():
        if name == "episode_length":
            values = np.stack([e.end - e.start for e in episodes]).astype(np.float64)
            assert set(values.ravel().tolist()) == {6.0, 7.0, 8.0, 9.0}, "both ends are drawn"
            counts = np.bincount(values.astype(int).ravel())[6:]
            assert (np.abs(counts - 300) < 90).all(), "six standard deviations"
        else:
            values = np.stack([getattr(e, name).reshape(400, -1)[:, 0] for e in episodes])
            assert len(np.unique(values)) == 1200, f"{name}: every lane and episode has its own"
        assert ((low <= values) & (values <= high)).all(), name
        parts[name] = (values - low) / (high - low)
        assert abs(parts[name].mean() - 0.5) < 0.05, "six standard deviations of a uniform mean"
        assert parts[name].min() < 0.02 and parts[name].max() > 0.98, name
    names = list(parts)
    for k, one in enumerate(names):
        for other in names[k + 1 :]:
            correlation = np.corrcoef(parts[one].ravel(), parts[other].ravel())[0, 1]
            assert abs(correlation) < 0.17, f"{one} and {other} are drawn from one number"
    for e in episodes:
        assert (e.fee_rate == e.fee_rate[:, :1]).all(), "a drawn rate holds for all symbols"


def test_draws_are_those_of_the_text() -> None:
    """Rule 8.2, with the hash taken as given: which stream is whose, and how a number becomes a value."""
    config, seed = randomised(), 12345
    for lane, episode in ((0, 0), (3, 7), (100_000, 2)):
        env = StatefulTradingEnv(eventful_market(), config, seed=seed)
        env.reset(options={"lane": lane, "episode": episode})
        for stream, (name, (low, high)) in enumerate(RANGES.items(), start=1):
            u = draw(seed, lane, episode, stream)
            if name == "episode_length":
                assert env.end - env.start == low + u * (high - low + 1) // 2**32
                first, last = env.task.schedule.first, env.market.n_bars - 1 - (env.end - env.start)
                assert env.start == first + draw(seed, lane, episode, 0) * (last - first + 1) // 2**32
            else:
                drawn = np.asarray(getattr(env.values, name)).ravel()[0]
                assert drawn == pytest.approx(low + (high - low) * u / 2**32, rel=1e-15)


def test_the_same_lane_and_episode_draw_the_same() -> None:
    """In a batch of any size and alone, in both tiers, again and again; another seed draws otherwise."""
    market, config = eventful_market(), randomised()
    actions = draw_actions(40, 6, 4, seed=9)
    six = play(BatchTradingEnv(market, config, n_envs=6), actions, seed=21)
    assert (six["terminated"] | six["truncated"]).sum() >= 6 * 4, "several episodes"
    again = BatchTradingEnv(market, config, n_envs=6, seed=5)
    play(again, actions, seed=4)
    assert_same(play(again, actions, seed=21), six)
    other = play(BatchTradingEnv(market, config, n_envs=6), actions, seed=22)
    assert (other["equity"][0] != six["equity"][0]).all(), "initial cash is drawn by the seed too"
    for lane in range(6):
        alone = play_fast(FastTrainingEnv(market, config, lane=lane), actions[:, lane], 21)
        assert_same({k: v[1:, lane] for k, v in six.items() if k in alone}, alone)
        scalar = play_stateful(StatefulTradingEnv(market, config, lane=lane), actions[:, lane], 21)
        assert_close({k: v[1:, lane] for k, v in six.items()}, scalar, 1e-9, ("equity", "reward"))


# --- two ways to the same numbers -------------------------------------------------------------------------------

NEUTRAL: dict[str, dict[str, Any]] = {
    "fees by symbol that hardly differ": {"cost_config": {"fee_rate": {"*": 0.002, "A": 0.002 + 1e-17}}},
    "slippages by symbol that hardly differ": {"cost_config": {"slippage_rate": {"*": 0.001, "A": 0.001 + 1e-17}}},
    "a fixed fee of nearly nothing": {"cost_config": {"fee_fixed": 1e-14, "fee_minimum": 0.0}},
    "a least fee below every fee": {"cost_config": {"fee_minimum": 1e-14}},
    "a fee for a share of nearly nothing": {"cost_config": {"fee_per_share": 1e-17}},
    "hardly any impact": {"cost_config": {"impact_coefficient": 1e-17}},
    "lots far below a share": {"execution_config": {"lot_size": 1e-13}},
    "a least order far below a cent": {"execution_config": {"min_notional": 1e-12}},
    "a volume limit that no order reaches": {"execution_config": {"participation_limit": 1.0}},
    "a stop that no price reaches": {"execution_config": {"stop_loss": 0.999}},
    "a target that no price reaches": {"execution_config": {"take_profit": 1e6}},
    "interest of nearly nothing": {"carry_config": {"cash_rate": 1e-17}},
    "a net limit above the leverage": {"margin_config": {"net_limit": 5.0}},
    "a margin account that borrows nothing": {"margin_config": {"allow_short": True}},
    "a margin account with a call that never comes": {
        "margin_config": {"allow_short": True, "maintenance_margin": 0.5},
        "carry_config": {"margin_rate": 0.5, "borrow_rate": 0.5, "funding_rate": 1e-17},
    },
}


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("case", NEUTRAL)
def test_a_neutral_rule_changes_nothing_but_the_way(case: str, fill: str) -> None:
    """The full kernel gives the plain kernel's numbers where its rules have nothing to say."""
    market = eventful_market()
    mode = {"mode": "weights"} if "margin account" in case else {"mode": "trade"}
    base = plain_rules(fill=fill, action_config=mode)
    changes = NEUTRAL[case]
    config = base | {section: {**base.get(section, {}), **content} for section, content in changes.items()}
    n, actions = 16, draw_actions(80, 16, 4)
    if "margin account" in case:
        actions = np.abs(actions)
    short, long = BatchTradingEnv(market, base, n_envs=n), BatchTradingEnv(market, config, n_envs=n)
    assert short._engine.plain and not long._engine.plain
    want, got = play(short, actions, seed=6), play(long, actions, seed=6)
    assert want["terminated"].any() and want["truncated"].any()
    assert_same(got, want, ("terminated", "truncated", "bar"))
    # Rule 3.5 forgives rounding of 1e-9 of an order, and tiny lots use all of it; the reward is 1000 times as steep.
    tolerance, names = 1e-12, ("equity", "holdings", "reward")
    if "lots" in case:
        tolerance, names = 1e-6, ("equity", "holdings")
    assert_close(got, want, tolerance, names)
    assert np.abs(got["cash"] - want["cash"]).max() <= tolerance * 10_000.0
    np.testing.assert_allclose(got["last"], want["last"], rtol=0, atol=1e-6)


def test_a_market_event_that_means_nothing_changes_nothing() -> None:
    """A symbol that is delisted before it can be held; and every symbol tradable for every lane, by the full rules."""
    df = eventful_frame()
    df = df[df["symbol"] != "D"].reset_index(drop=True)
    gone = frame(9, 3, ("Z",))
    gone["date"] = df["date"].drop_duplicates().sort_values().iloc[:3].to_numpy()
    market, wider = MarketData.from_frame(df), MarketData.from_frame(pd.concat([df, gone], ignore_index=True))
    config = plain_rules(episode_config={"length": 25}, features=[])
    n, starts = 16, np.arange(16) * 5 + 5
    actions = draw_actions(60, n, 3)
    with_gone = np.concatenate([actions, np.ones((60, n, 1), np.float32)], axis=2)
    short = BatchTradingEnv(market, config, n_envs=n, lane_parameters={"episode_start": starts})
    own = {"episode_start": starts, "tradable": True}
    assert short._engine.plain
    want = play(short, actions, seed=6)
    for other, given, moves in ((wider, {"episode_start": starts}, with_gone), (market, own, actions)):
        long = BatchTradingEnv(other, config, n_envs=n, lane_parameters=given)
        assert long._engine.plain == (other is wider)
        got = play(long, moves, seed=6)
        got["holdings"] = got["holdings"][:, :, :3]
        assert_close(got, want, 1e-12, ("equity", "reward", "holdings"))
        assert_same(got, want, ("terminated", "truncated", "bar"))
