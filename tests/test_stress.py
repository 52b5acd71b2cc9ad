"""The robustness surface: every lane against the evaluation tier, the figures by hand, the page and the command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from batchenv import Agent, EnvConfig, MarketData, TradingVecEnv
from batchenv.errors import ConfigError, MarketDataError, RunError
from batchenv.runs import RunFolder
from stateful import BackTesting, StatefulTradingEnv
from stateful.baselines import BuyAndHold
from stateful.evaluation import stress
from stateful.evaluation.stress import Tally, stress_test
from stateful.evaluation.stress_figures import MAPS, build_figures, main_figures
from stateful.evaluation.stress_page import build_page, notes
from stateful.evaluation.stress_results import Scale, StressResults, StressSetting
from stateful.metrics import performance_metrics
from stateful.verify import VerificationError
from tests.markets import frame, market, ragged_market

RULES: dict[str, Any] = {"features": ["momentum_5"], "cost_config": {"fee_rate": 0.001, "slippage_rate": 0.0005}}
TANGLED: dict[str, Any] = {
    "features": ["momentum_5"],
    "cost_config": {
        "fee_rate": {"A": 0.002, "*": 0.0005},
        "slippage_rate": 0.001,
        "fee_minimum": 1.0,
        "impact_coefficient": 0.1,
    },
    "execution_config": {"lot_size": 1.0, "participation_limit": 0.2, "stop_loss": 0.15},
    "action_config": {"mode": "weights"},
    "observation_config": {"time_left": True, "unrealized_pnl": True},
    "portfolio_config": {"initial_cash": 5_000.0},
    "carry_config": {"cash_rate": 0.02},
}


class Rule:
    """Buys what rose and sells what fell: numpy, so that a lane's numbers do not depend on the size of the batch."""

    def __init__(self, size: float = 1.0) -> None:
        self.size, self.shapes = size, []  # type: ignore[var-annotated]

    def predict(self, observation: Any, *, deterministic: bool = True) -> tuple[Any, None]:
        self.shapes.append(np.shape(observation))
        return (self.size * np.sign(observation[..., :4])).astype(np.float32), None


def backtest_of(bars: MarketData, rules: dict[str, Any], agent: Any = None, **changes: Any) -> BackTesting:
    config = EnvConfig.model_validate(rules)
    env = StatefulTradingEnv(bars, config, seed=0, scaler=changes.pop("scaler", None))
    return BackTesting(agent or Rule(), env, {"vectorbt": False, **changes})


@pytest.fixture(scope="module")
def plain() -> StressResults:
    return stress_test(backtest_of(market(3, 200), RULES), lanes=147 * 6, horizon=60)


# --- the pass -----------------------------------------------------------------------------------------------


def test_the_lane_of_all_bars_is_the_backtest() -> None:
    """With a horizon of all bars there is one start date, and its base lane is what `BackTesting` plays."""
    scaler = StatefulTradingEnv(market(9, 30), EnvConfig.model_validate(TANGLED)).scaler  # of other bars
    backtest = backtest_of(ragged_market(1), TANGLED, risk_free_rate=0.03, scaler=scaler)
    bars = ragged_market(1).n_bars - 1 - backtest.env.task.schedule.first
    found = stress_test(backtest, lanes=5_000, horizon=bars)
    assert found.n_starts == 1
    (lane,) = found.base.to_dict("records")
    metrics = backtest.run().metrics
    for name in ("total_return", "cagr", "sharpe", "max_drawdown"):
        assert lane[name] == pytest.approx(metrics[name], rel=1e-9, abs=1e-12), name
    assert lane["bars"] == metrics["bars"]
    assert lane["buy_and_hold"] == pytest.approx(metrics["baselines"]["buy_and_hold"]["cagr"], rel=1e-9)
    assert lane["excess"] == pytest.approx(metrics["cagr"] - metrics["baselines"]["buy_and_hold"]["cagr"], rel=1e-9)


@pytest.mark.parametrize("rules", [RULES, TANGLED, {**RULES, "fill": "next_close"}], ids=["plain", "tangled", "close"])
def test_any_lane_is_what_the_evaluation_tier_makes_of_it(rules: dict[str, Any]) -> None:
    bars = ragged_market(2, 160)
    found = stress_test(backtest_of(bars, rules), lanes=147 * 9, horizon=60)
    config = EnvConfig.model_validate(rules)
    recording = config.updated(
        portfolio_config={**config.portfolio_config.model_dump(), "maintain_history": True},
        episode_config={"length": 60},
    )
    fee = rules["cost_config"]["fee_rate"]
    rates = np.array([fee["A"], *[fee["*"]] * 3] if isinstance(fee, dict) else [fee] * 4)
    counts, exact = set(), 0
    for lane in np.random.default_rng(0).choice(len(found.lanes), 12, replace=False):
        row = found.lanes.iloc[lane]
        own = {
            "fee_rate": rates[None] * row["fee_multiple"],
            "slippage_rate": rules["cost_config"]["slippage_rate"] * row["slippage_multiple"],
            "initial_cash": row["initial_cash"],
            "episode_start": int(row["start_bar"]),
        }
        env = StatefulTradingEnv(bars, recording, seed=0, lane_parameters=own)
        rule, hold = Rule(), BuyAndHold()
        observation, _ = env.reset()
        over = False
        while not over:
            observation, _, done, ended, _ = env.step(rule.predict(observation)[0])
            over = done or ended
        metrics = performance_metrics(env.history, env.fills, env.trades, periods_per_year=bars.periods_per_year)
        for name in ("total_return", "cagr", "sharpe", "max_drawdown"):
            assert row[name] == pytest.approx(metrics[name], rel=1e-9, abs=1e-12), name
        env.reset()
        over = False
        while not over:
            *_, done, ended, _ = env.step_orders(hold.orders(env))
            over = done or ended
        growth = env.equity / row["initial_cash"]
        # A purchase that comes later than the first is an action in float32; the others are exact.
        listed = bars.has_bar[: env.start + 1].any(axis=0)
        waits = not bars.has_bar[env.start + (config.fill != "close"), listed].all()
        soon = bars.timestamps <= bars.timestamps[env.start] + np.timedelta64(4, "D")
        waits |= bool(bars.has_bar[soon].any(axis=0).sum() > listed.sum())  # listed within a long weekend
        within = 1e-6 if waits or config.execution_config.participation_limit else 1e-9
        exact += within == 1e-9
        assert row["buy_and_hold"] == pytest.approx(growth ** (bars.periods_per_year / 60) - 1, rel=within)
        assert row["start"] == pd.Timestamp(bars.timestamps[int(row["start_bar"])])
        counts.add(int(bars.has_bar[int(row["start_bar"])].sum()))
    assert exact or config.execution_config.participation_limit
    assert len(counts) > 1  # lanes whose buy and hold buys different numbers of symbols


def test_a_buy_and_hold_that_cannot_buy_is_no_measure(tmp_path: Path) -> None:
    """One share of D costs more than a quarter of the money: it beats nothing to be ahead of the other three."""
    bars = market(3, 200)
    dear = MarketData(
        bars.symbols, bars.timestamps, bars.close * [1, 1, 1, 200], open=bars.open * [1, 1, 1, 200], volume=bars.volume
    )
    rules = {**RULES, "execution_config": {"lot_size": 1.0}, "portfolio_config": {"initial_cash": 20_000.0}}
    found = stress_test(backtest_of(dear, rules), lanes=147 * 3, horizon=60)
    by_cash = found.lanes.groupby("initial_cash")[["buy_and_hold", "excess"]].count()
    assert by_cash.loc[20_000.0].tolist() == [0, 0] and by_cash.loc[200_000.0].tolist() == [147, 147]
    assert "no comparison with buy and hold: under these rules it cannot buy all of its symbols" in found.sentences[2]
    assert found.break_even("excess").multiple is None
    page = found.write(tmp_path / "stress", title="Dear").read_text(encoding="utf-8")
    assert "Beat buy and hold</dt><dd>n/a" in page
    StressResults.load(tmp_path / "stress")


def test_start_dates_without_a_buy_and_hold_are_left_out_by_number() -> None:
    found = made_up(lambda start, fee, slip, cash: 0.08)
    lanes = found.lanes.copy()
    lanes.loc[lanes["start_bar"] == 1, ["buy_and_hold", "excess"]] = np.nan
    some = StressResults(lanes, found.setting)
    assert some.sentences[2].startswith("It beat buy and hold, at the same costs, from 100% of the start dates")
    assert some.sentences[2].endswith("from 1 of 3 start dates, which are left out.")
    assert some.surface("excess", statistic="share").equals(found.surface("excess", statistic="share"))
    assert some.curve("excess").equals(found.curve("excess"))


def test_the_agent_decides_for_all_lanes_at_once(plain: StressResults) -> None:
    agent = Rule()
    told: list[tuple[int, int]] = []
    found = stress_test(
        backtest_of(market(3, 200), RULES, agent), lanes=900, horizon=60, progress=lambda *done: told.append(done)
    )
    assert agent.shapes == [(147 * 6, 9)] * 60
    assert told[-1] == (147 * 6 * 60, 147 * 6 * 60) == (found.lane_steps, found.lane_steps)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    pd.testing.assert_frame_equal(found.lanes, plain.lanes)  # nothing is drawn


def test_lanes_are_every_combination(plain: StressResults) -> None:
    lanes = plain.lanes
    assert not lanes.duplicated(["start_bar", "fee_multiple", "slippage_multiple", "initial_cash"]).any()
    assert sorted(lanes["fee_multiple"].unique()) == sorted(lanes["slippage_multiple"].unique()) == [
        0, 1, 2, 5, 10, 20, 50,
    ]  # fmt: skip
    assert sorted(lanes["initial_cash"].unique()) == [1e4, 1e5, 1e6]
    starts = sorted(lanes["start_bar"].unique())
    assert (starts[0], starts[-1]) == (5, 199 - 60)  # momentum_5 has a value from bar 5 on
    assert np.ptp(np.diff(starts)) <= 1
    assert np.allclose(lanes["fee_rate"], 0.001 * lanes["fee_multiple"])
    assert not plain.depends_on_cash
    assert plain.setting.lanes_checked == 8
    assert plain.setting.worst_difference < 1e-12


def test_a_policy_network_of_indexed_observations() -> None:
    """It looks up the bars of the held-out part, which are others than those it was made on."""
    train, test = market(3, 400).split("2021-03-01")
    rules = EnvConfig.model_validate({**RULES, "observation_config": {"mode": "indexed"}})
    flat = EnvConfig.model_validate(RULES)
    scaler = TradingVecEnv(train, flat, n_envs=1).batch.scaler
    agents = [Agent({"algorithm": "ppo"}, TradingVecEnv(train, config, n_envs=2), seed=0) for config in (rules, flat)]
    for agent, config in zip(agents, (rules, flat), strict=True):
        env = StatefulTradingEnv(test, config, scaler=scaler)
        found = stress_test(BackTesting(agent, env, {"vectorbt": False}), lanes=147 * 2, horizon=60)
        alone = StatefulTradingEnv(
            test, config.updated(episode_config={"length": 60}), scaler=scaler,
            lane_parameters={"episode_start": int(found.lanes["start_bar"].max())},
        )  # fmt: skip
        observation, _ = alone.reset()
        with agent.acting_in(alone):
            for _ in range(60):
                observation, *_ = alone.step(agent.predict(observation)[0])
        # The network's float32 sums depend on the size of the batch.
        assert found.base["total_return"].iloc[-1] == pytest.approx(alone.equity / 1e5 - 1, abs=1e-6)


def test_a_policy_that_explores_is_repeatable() -> None:
    train, test = market(3, 200).split("2020-05-01")
    agent = Agent({"algorithm": "ppo"}, TradingVecEnv(train, RULES, n_envs=2), seed=0)
    env = StatefulTradingEnv(test, EnvConfig.model_validate(RULES), seed=5)
    loud = BackTesting(agent, env, {"deterministic": False, "vectorbt": False})
    first, second = (stress_test(loud, lanes=147, horizon=60).lanes for _ in range(2))
    pd.testing.assert_frame_equal(first, second)
    quiet = stress_test(BackTesting(agent, env, {"vectorbt": False}), lanes=147, horizon=60).lanes
    assert not np.allclose(quiet["cagr"], first["cagr"])


def test_a_bankrupt_lane_keeps_its_own_end() -> None:
    """Twice the equity in a symbol that falls to a fifth within ten bars; what the lane plays next does not count."""
    dates = pd.bdate_range("2024-01-01", periods=100)
    closes = pd.DataFrame({"A": np.r_[np.full(15, 100.0), np.linspace(95, 20, 10), np.full(75, 20.0)]}, index=dates)
    rules = {
        "fill": "close",
        "cost_config": {"fee_rate": 0.0, "slippage_rate": 0.0},
        "margin_config": {"leverage": 2.0},
        "action_config": {"mode": "weights", "max_weight": 2.0},
    }

    class Twice:
        def predict(self, observation: Any, *, deterministic: bool = True) -> tuple[Any, None]:
            return np.ones((*np.shape(observation)[:-1], 1), np.float32), None

    found = stress_test(backtest_of(MarketData.from_frame(closes), rules, Twice()), lanes=147 * 3, horizon=64)
    assert set(found.lanes["start_bar"]) == {0, 18, 35}
    by_start = found.base.set_index("start_bar")
    assert by_start.loc[0, "total_return"] < -0.9
    assert by_start.loc[35, "total_return"] == 0.0
    assert by_start.loc[35, "bars"] == 64
    ruined = stress_test(
        backtest_of(
            MarketData.from_frame(closes), {**rules, "portfolio_config": {"bankruptcy_fraction": 0.5}}, Twice()
        ),
        lanes=147 * 3,
        horizon=64,
    )
    lane = ruined.base.set_index("start_bar").loc[0]
    # Twice the equity is held from each close to the next, so twice the fall of each bar is lost.
    equity, price, bars = 1.0, 100.0, 14
    for following in np.linspace(95, 20, 10):
        equity *= 1 + 2 * (following / price - 1)
        price, bars = following, bars + 1
        if equity <= 0.5:
            break
    assert lane["total_return"] == pytest.approx(equity - 1, rel=1e-9)
    assert lane["bars"] == bars
    assert lane["cagr"] == pytest.approx(equity ** (ruined.setting.periods_per_year / 64) - 1, rel=1e-9)
    assert any("ended early" in note.text and note.warning for note in notes(ruined))


def test_the_tiers_must_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    def dearer(bars: MarketData, config: EnvConfig, **given: Any) -> StatefulTradingEnv:
        own = {**given["lane_parameters"], "slippage_rate": given["lane_parameters"]["slippage_rate"] + 1e-6}
        return StatefulTradingEnv(bars, config, **{**given, "lane_parameters": own})

    monkeypatch.setattr(stress, "StatefulTradingEnv", dearer)
    with pytest.raises(VerificationError, match=r"disagree on lane \d+ at bar \d+ .*equity of the batch"):
        stress_test(backtest_of(market(3), RULES), lanes=147, horizon=60)


def test_refusals() -> None:
    backtest = backtest_of(market(3), RULES)
    with pytest.raises(ConfigError, match="lanes: got 146, expected at least 147: 7 fees, 7 slippages and 3 sizes"):
        stress_test(backtest, lanes=146)
    for horizon in (0, 59):
        with pytest.raises(ConfigError, match=rf"horizon: not enough data \(needs 60 bars, has {horizon}\)"):
            stress_test(backtest, horizon=horizon)
    with pytest.raises(MarketDataError, match=r"held-out bars .*: not enough data \(needs 60 bars, has 54\)"):
        stress_test(backtest_of(market(3, 60), RULES))
    message = "horizon: 115 bars need 121 held-out bars .* there are 120; expected a horizon of at most 114"
    with pytest.raises(MarketDataError, match=message):
        stress_test(backtest, horizon=115)
    assert stress_test(backtest, lanes=147).setting.horizon == 60  # half of what there is would be 57
    assert stress_test(backtest_of(market(3, 200), RULES), lanes=147).setting.horizon == 97


@pytest.mark.parametrize(
    ("fee", "slippage", "base", "path"),
    [
        (0.0, 0.0, (0.0, 0.0), {2.0: (2.0, 2.0)}),
        (0.001, 0.0, (1.0, 0.0), {2.0: (2.0, 0.0)}),
        (0.0, {"A": 0.3, "*": 0.1}, (0.0, 1.0), {2.0: (0.0, 2.0)}),
    ],
)
def test_costs_that_the_configuration_does_not_have(fee: Any, slippage: Any, base: Any, path: Any) -> None:
    rules = {**RULES, "cost_config": {"fee_rate": fee, "slippage_rate": slippage}}
    found = stress_test(backtest_of(market(3), rules), lanes=147, horizon=60)
    setting = found.setting
    assert (setting.fee.base, setting.slippage.base) == base
    assert path.items() <= found.path().items()
    assert 0.0 < setting.fee.high <= 0.001
    # A rate of 1 and more does not exist, so 0.3 is tried twofold at most.
    assert setting.slippage.multiples[-1] == (2.0 if isinstance(slippage, dict) else 50.0)
    own = found.base.iloc[0]
    assert own["fee_rate"] == pytest.approx(fee)
    assert own["slippage_rate"] == pytest.approx(0.15 if isinstance(slippage, dict) else slippage)
    assert len(found.sentences) == 4
    assert set(build_figures(found)) >= set(MAPS)


# --- figures of a lane --------------------------------------------------------------------------------------


def test_tally_by_hand() -> None:
    """100, 110, 99, 108.9, 98.01 in the first lane; the second ends at the second bar with 40."""
    tally = Tally(np.array([100.0, 80.0, 50.0]))
    first, second = [110.0, 99.0, 108.9, 98.01], [60.0, 40.0, 1e6, 1e7]
    for bar, equity in enumerate(zip(first, second, [50.0] * 4, strict=True)):
        tally.add(np.array(equity), np.array([bar == 3, bar == 1, bar == 3]))
    assert not tally.running.any()
    figures = tally.figures(252.0, 0.0, 4)
    assert figures["total_return"] == pytest.approx([-0.0199, -0.5, 0.0])
    assert figures["cagr"] == pytest.approx([0.9801**63 - 1, 0.5**63 - 1, 0.0])
    assert figures["max_drawdown"] == pytest.approx([98.01 / 110 - 1, -0.5, 0.0])
    assert figures["bars"].tolist() == [4, 2, 4]
    # Returns +10%, -10%, +10%, -10%: mean 0. Then -25% and -33.3%: mean -7/24, deviation sqrt(2) / 24.
    assert figures["sharpe"][:2] == pytest.approx([0.0, -7 / np.sqrt(2) * np.sqrt(252)], abs=1e-9)
    assert np.isnan(figures["sharpe"][2])


def test_tally_agrees_with_quantstats() -> None:
    import quantstats.stats as qs

    rng = np.random.default_rng(1)
    returns = rng.normal(0.0005, 0.02, (300, 3))
    equity = 1e5 * np.cumprod(1 + returns, axis=0)
    tally = Tally(np.full(3, 1e5))
    for row in equity:
        tally.add(row, np.zeros(3, bool))
    figures = tally.figures(252.0, 0.02, 300)
    for lane in range(3):
        series = pd.Series(returns[:, lane], index=pd.bdate_range("2020-01-01", periods=300))
        sharpe = qs.sharpe(series, rf=0.02, periods=252)
        assert figures["sharpe"][lane] == pytest.approx(sharpe, rel=1e-9)
        assert figures["max_drawdown"][lane] == pytest.approx(qs.max_drawdown(series), rel=1e-9)


def test_an_account_below_nothing_grows_by_minus_one_hundred_percent() -> None:
    tally = Tally(np.array([100.0]))
    tally.add(np.array([-20.0]), np.array([True]))
    figures = tally.figures(252.0, 0.0, 10)
    assert (figures["total_return"][0], figures["cagr"][0]) == (-1.2, -1.0)


# --- surfaces and break-even costs --------------------------------------------------------------------------


def made_up(growth: Any, held: float = 0.05, multiples: tuple[float, ...] = (0.0, 1.0, 2.0, 5.0)) -> StressResults:
    """Results of three start dates whose growth is ``growth(start, fee multiple, slippage multiple, cash)``."""
    names = ["start_bar", "fee_multiple", "slippage_multiple", "initial_cash"]
    lanes = pd.MultiIndex.from_product([(0, 1, 2), multiples, multiples, (10.0, 100.0)], names=names).to_frame(
        index=False
    )
    lanes["cagr"] = [growth(*row) for row in lanes.itertuples(index=False)]
    lanes = lanes.assign(
        start=pd.Timestamp("2024-01-01") + pd.to_timedelta(lanes["start_bar"], unit="D"),
        fee_rate=0.001 * lanes["fee_multiple"],
        slippage_rate=0.0005 * lanes["slippage_multiple"],
        total_return=lanes["cagr"],
        sharpe=np.nan,
        max_drawdown=-0.1,
        bars=252,
        buy_and_hold=held,
        excess=lanes["cagr"] - held,
    )
    setting = StressSetting(
        fee=Scale(multiples, 1.0, 0.001, 0.001),
        slippage=Scale(multiples, 1.0, 0.0005, 0.0005),
        initial_cash=100.0,
        horizon=252,
        fill="next_open",
        periods_per_year=252.0,
        risk_free_rate=0.0,
        first_date="2024-01-01",
        last_date="2025-01-01",
        playable_bars=254,
        lanes_checked=8,
        worst_difference=0.0,
        seconds=1.0,
    )
    return StressResults(lanes, setting)


def test_break_even_is_interpolated_by_hand() -> None:
    found = made_up(lambda start, fee, slip, cash: 0.08 + 0.01 * (start - 1) - 0.02 * fee - 0.01 * slip)
    # Medians along both: 0.08, 0.05, 0.02, -0.07: zero at 2 + 3 * 0.02 / 0.09. Fee alone: .07, .05, .03, -.03.
    assert found.break_even().multiple == pytest.approx(2 + 3 * 2 / 9)
    assert found.break_even(axis="fee").multiple == pytest.approx(3.5)
    assert found.break_even("excess").multiple == pytest.approx(1.0)
    unreached = found.break_even(axis="slippage")  # 0.06, 0.05, 0.04, 0.01
    assert (unreached.multiple, unreached.reason) == (
        None, "it is still above zero at 5 times these costs, the most tried",
    )  # fmt: skip
    assert found.break_even("excess", "fee").multiple == pytest.approx(1.0)
    assert "even without" in made_up(lambda *_: -0.1).break_even().reason
    assert "not defined" in found.break_even("sharpe").reason
    curve = found.curve()
    assert curve["median"].tolist() == pytest.approx([0.08, 0.05, 0.02, -0.07])
    assert curve.loc[1.0, ["low", "high"]].tolist() == pytest.approx([0.042, 0.058])
    assert curve["share"].tolist() == [1.0, 1.0, 1.0, 0.0]


def test_surfaces_by_hand() -> None:
    found = made_up(lambda start, fee, slip, cash: (start - 1) + 0.1 * fee + 0.01 * slip + (0.5 if cash == 10 else 0))
    median = found.surface()
    assert median.loc[2.0, 5.0] == pytest.approx(0.52)
    assert (median.index.name, median.columns.name) == ("slippage_multiple", "fee_multiple")
    assert found.surface(statistic="share").loc[2.0, 5.0] == pytest.approx(2 / 3)
    assert found.surface("excess", statistic="share").loc[0.0, 0.0] == pytest.approx(1 / 3)  # -1.05, -0.05, 0.95
    by_cash = found.surface("cagr", "initial_cash", "start")
    assert by_cash.iloc[2].tolist() == pytest.approx([1.61, 1.11])
    assert found.depends_on_cash
    assert found.surface("sharpe").isna().all(axis=None)
    with pytest.raises(ConfigError, match=r"metric: unknown 'sharp' \(did you mean 'sharpe'\?\)"):
        found.surface("sharp")
    with pytest.raises(ConfigError, match="dimension: unknown 'fee'"):
        found.surface("cagr", "fee")
    with pytest.raises(ConfigError, match="axis: unknown 'tax'"):
        found.curve("cagr", "tax")  # type: ignore[arg-type]


def test_sentences() -> None:
    found = made_up(lambda start, fee, slip, cash: 0.08 + 0.06 * (start - 1) - 0.02 * fee - 0.01 * slip)
    assert found.sentences == (
        "From at least half of the start dates the agent makes money at up to about 2.7 times the costs of the "
        "backtest (fee 0.27%, slippage 0.135%).",
        "At the costs of the backtest it made money from 67% of 3 start dates; the median return is +5.0% a year, over "
        "252 bars from each.",
        "It beat buy and hold, at the same costs, from 33% of the start dates; the median difference is +0.0 points a "
        "year. In the median it is ahead at up to about 1 times those costs.",
        "The size of the account makes no difference under these rules.",
    )
    assert made_up(lambda *_: 0.2).sentences[0] == (
        "From at least half of the start dates the agent makes money at all costs tried, up to 5 times the costs of "
        "the backtest (fee 0.5%, slippage 0.25%)."
    )
    assert "Even without costs the agent makes no money" in made_up(lambda *_: 0.0).sentences[0]
    sizes = made_up(lambda start, fee, slip, cash: 0.1 if cash > 50 else -0.1).sentences[3]
    assert sizes == (
        "The size of the account matters: the median return is -10.0% a year with 10.00 of initial cash and +10.0% a "
        "year with 100.00."
    )


# --- files --------------------------------------------------------------------------------------------------


def test_the_page_and_the_way_back(plain: StressResults, tmp_path: Path) -> None:
    page = plain.write(tmp_path / "stress", title="a <rule>", run_info={"Model": "best & only"})
    assert {path.name for path in page.parent.iterdir()} == {
        "stress.html", "costs.png", "surface.png", "stress.json", "stress.parquet",
    }  # fmt: skip
    text = page.read_text()
    assert "a &lt;rule&gt;" in text
    assert "best &amp; only" in text
    for name in build_figures(plain):
        assert f'data-figure="{name}"' in text
    data = text.split('id="chart-data">')[1].split("</script>")[0]
    charts = json.loads(data)["charts"]
    assert list(charts) == list(build_figures(plain))
    assert "cash" not in charts
    assert [row[0] for row in charts["return"]["data"][0]["text"]] == [
        f"{100 * value:.1f}" for value in plain.surface()[0.0]
    ]
    again = StressResults.load(tmp_path / "stress")
    pd.testing.assert_frame_equal(again.lanes, plain.lanes)
    assert (again.setting, again.sentences) == (plain.setting, plain.sentences)
    assert set(main_figures(again)) == {"return", "wins"}
    saved = json.loads((tmp_path / "stress" / "stress.json").read_text())
    assert tuple(saved["sentences"]) == plain.sentences
    assert saved["break_even"]["costs"]["cagr"]["multiple"] == plain.break_even().multiple
    with pytest.raises(RunError, match="exists already"):
        plain.write(tmp_path / "stress", title="again")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write"):
        plain.write(tmp_path / "file" / "stress", title="below a file")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "stress"]


def test_an_agent_that_never_trades() -> None:
    found = stress_test(backtest_of(market(3), RULES, Rule(0.0)), lanes=147, horizon=60)
    assert found.lanes["sharpe"].isna().all()
    page = build_page(found, title="idle")
    assert "n/a" in page
    assert "NaN" not in page.split('id="chart-data">')[1].split("</script>")[0]


@pytest.mark.parametrize(
    ("file", "content"),
    [("stress.json", "{"), ("stress.json", '{"format": 2}'), ("stress.json", '{"format": 1}'), ("stress.parquet", "")],
)
def test_a_damaged_folder_is_refused(tmp_path: Path, file: str, content: str) -> None:
    made_up(lambda *_: 0.1).save(tmp_path)
    (tmp_path / file).write_text(content)
    with pytest.raises(RunError, match=str(tmp_path)):
        StressResults.load(tmp_path)


# --- the command --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from batchenv import RunConfig
    from batchenv.train import train

    folder = tmp_path_factory.mktemp("stress")
    frame(4, 400).to_csv(folder / "mine.csv", index=False)
    config = {
        "data": {"source": str(folder / "mine.csv"), "train_end": "2021-01-01"},
        "env": {**RULES, "episode_config": {"length": 60, "random_start": True}},
        "agent": {
            "n_envs": 8,
            "total_timesteps": 128,
            "evaluations": 0,
            "checkpoints": 0,
            "hyperparameters": {"n_steps": 16, "batch_size": 64, "n_epochs": 1},
        },
    }
    return train(RunConfig.model_validate(config), folder / "run").path


def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    """Run ``batchenv stress`` in this process; return its exit code and what it printed."""
    from batchenv.cli import main

    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.argv", ["batchenv", "stress", *map(str, words)])
    with pytest.raises(SystemExit) as left:
        main()
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    return int(left.value.code or 0), out + " ".join(err.split())


def test_the_command(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(run_folder.parent)
    code, out = command(monkeypatch, capsys, "--run", "run", "--lanes", 300, "--horizon", 60)
    assert code == 0
    assert "294 lanes of 60 bars: 17,640 lane-steps" in out
    assert "Checked 8 lanes against the evaluation tier, worst difference" in out
    assert "run/stress/stress.html" in out
    assert max(map(len, out.splitlines())) <= 80
    found = StressResults.load(run_folder / "stress")
    assert all(" ".join(sentence.split()) in " ".join(out.split()) for sentence in found.sentences)
    for words, message in (
        (("--output", tmp_path), "exists already"),
        (("--lanes", 10), "lanes: got 10, expected at least 147"),
        (("--horizon", 5000), "horizon: 5,000 bars need"),
    ):
        code, out = command(monkeypatch, capsys, "--run", "run", *words)
        assert (code, message in out) == (1, True), out


def test_the_command_refuses_a_changed_market(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run_folder, tmp_path / "run")
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    info["data"]["test"]["fingerprint"] = "0" * 64
    (tmp_path / "run" / "run.json").write_text(json.dumps(info))
    code, out = command(monkeypatch, capsys, "--run", tmp_path / "run")
    assert (code, "have changed since training" in out) == (1, True)
    (tmp_path / "run" / "model.zip").unlink()
    assert "no trained model" in command(monkeypatch, capsys, "--run", tmp_path / "run")[1]
    assert not RunFolder.open(run_folder).path.joinpath("stress-2").exists()
