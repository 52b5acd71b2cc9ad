from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

import stateful.report as report_module
from batchenv.errors import RunError
from batchenv.market import MarketData
from stateful import BackTesting, StatefulTradingEnv
from stateful.report import REPORT_FILES
from tests.markets import frame, market, ragged_market
from tests.stateful.policies import ConstantAgent, RandomAgent

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """Checks that elements nest, and collects headings and scripts."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.scripts, self.urls = [], [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        found = dict(attrs)
        self.ids += [found["id"]] if "id" in found else []
        self.urls += [found[name] for name in ("src", "href") if name in found]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)


def backtest(bars, agent, config=None, features=("momentum_5",), **settings):
    env = StatefulTradingEnv(bars, config or {}, features, seed=0)
    return BackTesting(agent, env, {"vectorbt": False, **settings}).run()


@pytest.fixture(scope="module")
def results():
    return backtest(ragged_market(0), RandomAgent(4))


@pytest.fixture(scope="module")
def written(results, tmp_path_factory):
    directory = tmp_path_factory.mktemp("report") / "new" / "folder"
    curve = pd.DataFrame({"timesteps": [1000, 2000], "total_return": [0.1, 0.2], "sharpe": [0.5, np.nan]})
    path = results.write(directory, title="A & B", learning_curve=curve, run_info={"seed": 7, "note": "<i>x</i>"})
    assert path == directory / "report.html"
    return directory


def above_the_plots(page):
    return page[: page.index('id="chart-data"')]


def test_every_file_is_there_and_reads_back(written, results):
    assert sorted(path.name for path in written.iterdir()) == sorted(REPORT_FILES)
    summary = json.loads((written / "metrics.json").read_text())
    assert summary["final_equity"] == results.metrics["final_equity"]
    assert summary["baselines"]["buy_and_hold"] == results.metrics["baselines"]["buy_and_hold"]
    assert summary["verdict"] == [str(verdict) for verdict in results.headlines]
    assert summary["uncertainty"] == results.uncertainty.as_dict()
    assert len(pd.read_csv(written / "trades.csv")) == len(results.trades)
    assert pd.read_csv(written / "fills.csv")["fee"].sum() == pytest.approx(results.metrics["fees"], rel=1e-12)
    back = pd.read_parquet(written / "history.parquet")
    pd.testing.assert_frame_equal(back, results.history, check_freq=False)
    for name in ("equity", "drawdown", "weights"):
        assert (written / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert not list(written.parent.glob(".*"))


def test_the_page_is_one_well_formed_file(written):
    text = (written / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.tags.count("h1") == 1
    assert len(page.ids) == len(set(page.ids))
    assert all(url.startswith(("#", "data:")) for url in page.urls)
    assert "cdn.plot.ly" not in above_the_plots(text)
    assert text.count("plotly.js v") == 1
    data = json.loads(page.scripts[0])
    assert set(data["charts"]) == {
        "equity", "drawdown", "weights", "turnover", "costs", "learning_total_return", "learning_sharpe",
    }  # fmt: skip
    assert len(data["prices"]) == 4
    for target in re.findall(r'href="#([a-z]+)"', text):
        assert target in page.ids


def test_the_first_lines_say_who_won(written, results):
    text = above_the_plots((written / "report.html").read_text(encoding="utf-8"))
    body = text[text.index("<body>") :]
    first, second = results.headlines
    assert f"<h1>{first.headline}</h1>" in body
    assert f"<h2>{second.headline}</h2>" in body
    assert body.index("<h1>") < body.index("<main")
    assert f"{results.metrics['fills']:,} orders were filled" in body


@pytest.mark.parametrize("wins", [True, False])
def test_winning_and_losing_are_called_so(wins):
    bars = market(0)
    relatives = bars.close[-1] / bars.close[6]
    weights = np.eye(4)[relatives.argmax() if wins else relatives.argmin()]
    results = backtest(bars, ConstantAgent(weights), {"action_config": {"mode": "weights"}})
    text = above_the_plots(report_module.build_page(results))
    word, other = ("beat", "lost to") if wins else ("lost to", "beat")
    assert "<h1>After costs the agent beat " in text
    assert f"<h2>The agent {word} buy and hold: " in text
    assert f"The agent {other} " not in text


def test_outside_text_is_escaped(tmp_path):
    bars = MarketData.from_frame(frame(symbols=("<b>x", "</script><img src=y>", "$q_$")))
    results = backtest(bars, RandomAgent(3))
    path = results.write(tmp_path / "r", title="<u>t", run_info={"<s>k": "<s>v"})
    text = path.read_text(encoding="utf-8")
    ours = above_the_plots(text) + text[text.index('id="chart-data"') : text.index("plotly.js v")]
    for raw in ("<b>x", "<img", "<u>", "<s>"):
        assert raw not in ours
    assert "&lt;b&gt;x" in ours
    Page(text)


def test_nothing_is_written_over(results, tmp_path):
    (tmp_path / "keep.txt").write_text("mine")
    (tmp_path / "metrics.json").write_text("mine")
    with pytest.raises(RunError, match=r"metrics\.json: exists already"):
        results.write(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["keep.txt", "metrics.json"]
    assert (tmp_path / "metrics.json").read_text() == "mine"


def test_an_existing_folder_keeps_its_files(results, tmp_path):
    (tmp_path / "model.zip").write_text("mine")
    results.write(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*REPORT_FILES, "model.zip"}
    with pytest.raises(RunError, match=r"report\.html"):
        results.write(tmp_path)


def test_a_file_in_place_of_the_folder_is_refused(results, tmp_path):
    (tmp_path / "r").write_text("mine")
    with pytest.raises(RunError, match="is a file"):
        results.write(tmp_path / "r")


@pytest.mark.parametrize("existing", [True, False])
def test_a_failure_half_way_leaves_nothing_behind(results, tmp_path, monkeypatch, existing):
    target = tmp_path / "r"
    if existing:
        target.mkdir()
    monkeypatch.setattr(report_module, "build_page", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        results.write(target)
    assert [path.name for path in tmp_path.rglob("*")] == (["r"] if existing else [])


def test_a_failure_while_moving_takes_back_what_was_moved(results, tmp_path, monkeypatch):
    from pathlib import Path

    rename, count = Path.rename, []

    def fail_on_third(self, target):
        count.append(self)
        if len(count) == 3:
            raise OSError(28, "No space left on device")
        return rename(self, target)

    (tmp_path / "r").mkdir()
    monkeypatch.setattr(Path, "rename", fail_on_third)
    with pytest.raises(RunError, match="No space left"):
        results.write(tmp_path / "r")
    assert [path.name for path in tmp_path.rglob("*")] == ["r"]


def test_optimistic_fills_free_trading_and_short_periods_are_flagged():
    config = {"fill": "close", "cost_config": {"fee_rate": 0.0, "slippage_rate": 0.0}}
    text = above_the_plots(report_module.build_page(backtest(market(0), RandomAgent(4), config)))
    head = text[: text.index("<main")]
    for words in ("Optimistic fills", "Trading was free", "less than a year"):
        assert f"<p class=warn>{words}" in head or words in head
    honest = above_the_plots(report_module.build_page(backtest(market(0), RandomAgent(4))))
    assert "Optimistic fills" not in honest
    assert "Not in them: another seed in training" in honest


def test_an_early_end_is_flagged():
    config = {"portfolio_config": {"bankruptcy_fraction": 0.97}, "action_config": {"mode": "weights"}}
    results = backtest(market(0), ConstantAgent([1, 0, 0, 0]), config)
    assert "The account ended early" in above_the_plots(report_module.build_page(results))


def test_an_agent_that_never_trades(tmp_path):
    results = backtest(market(0), ConstantAgent(np.zeros(4)))
    text = above_the_plots(results.write(tmp_path / "r").read_text(encoding="utf-8"))
    assert "The agent never traded" in text
    assert "Sharpe ratio needs at least two returns that differ" in text


@pytest.mark.parametrize("end", ["2020-01-03", "2020-01-10"])
def test_a_period_of_days_and_one_symbol(tmp_path, end):
    bars = market(0).select(["A"]).between("2020-01-01", end)
    results = backtest(bars, ConstantAgent([1.0]), features=())
    text = above_the_plots(results.write(tmp_path / "r").read_text(encoding="utf-8"))
    assert "Only one symbol" in text


def test_many_symbols_are_folded_and_many_trades_cut(tmp_path):
    names = tuple(f"S{i:02d}" for i in range(45))
    results = backtest(MarketData.from_frame(frame(n_bars=60, symbols=names)), RandomAgent(45), features=())
    text = results.write(tmp_path / "r").read_text(encoding="utf-8")
    data = json.loads(Page(text).scripts[0])
    assert len(data["prices"]) == 40
    assert "5 further symbols are not shown" in text
    weights = [trace["name"] for trace in data["charts"]["weights"]["data"]]
    assert len(weights) == 9 and weights[-2:] == ["Others", "Cash"]
    assert f"The first 500 of {len(results.trades):,}" in text
    assert text.count("data-number") > 5


def test_months_and_years_compound_to_the_whole():
    from stateful.report_parts import _period_returns

    bars = MarketData.bundled().between("2011-11-15", "2013-02-10")
    equity = backtest(bars, RandomAgent(5)).equity
    for frequency in ("M", "Y"):
        total = np.prod(1 + _period_returns(equity, frequency).to_numpy()) - 1
        assert total == pytest.approx(equity.iloc[-1] / equity.iloc[0] - 1, rel=1e-12)


def test_vectorbt_stands_beside_our_figures(tmp_path):
    results = backtest(market(0), RandomAgent(4), vectorbt=True)
    text = results.write(tmp_path / "r").read_text(encoding="utf-8")
    assert "VectorBT, of the agent" in text
    assert "All of VectorBT&#x27;s statistics" in text or "All of VectorBT's statistics" in text
    assert "Omega Ratio" in text


def test_an_account_with_shorts_carry_and_stops(tmp_path):
    config = {
        "margin_config": {"allow_short": True, "leverage": 2.0, "maintenance_margin": 0.2},
        "carry_config": {"cash_rate": 0.03, "margin_rate": 0.05, "borrow_rate": {"A": 0.2, "*": 0.01}},
        "cost_config": {"fee_rate": {"A": 0.01, "*": 0.001}, "fee_minimum": 1.0, "impact_coefficient": 0.05},
        "execution_config": {"stop_loss": 0.05, "take_profit": 0.05},
        "action_config": {"mode": "weights", "max_weight": 2.0},
    }
    results = backtest(ragged_market(1), RandomAgent(4), config, vectorbt=True)
    assert {"stop_loss", "take_profit", "delisting"} <= set(results.trades["reason"])
    assert results.metrics["interest"] != 0 > results.metrics["borrow"]
    page = results.write(tmp_path / "report").read_text()
    assert "VectorBT&#x27;s statistics: n/a. VectorBT knows no interest on cash" in page
    assert "Holding brought" in page
    assert "0.100% to 1.000% of each order in fees" in page
    assert "stop loss" in page and ">short<" in page
    charts = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert charts["interest"] == results.metrics["interest"]


def test_an_account_that_ends_below_nothing(tmp_path):
    bars = market(0, 40)
    crash = bars.close.copy()
    crash[20:] *= 0.2
    bars = dataclasses.replace(bars, close=crash, open=crash, high=crash, low=crash)
    config = {"margin_config": {"leverage": 4.0}, "action_config": {"mode": "weights", "max_weight": 4.0}}
    results = backtest(bars, ConstantAgent([1.0, 1.0, 1.0, 1.0]), config)
    assert results.metrics["final_equity"] < 0
    assert results.metrics["cagr"] is None
    results.write(tmp_path / "report")
