from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import stateful.report as report_module
from batchenv.errors import RunError
from batchenv.market import MarketData
from stateful.report import REPORT_FILES
from tests.markets import frame, market, ragged_market
from tests.pages import Page, unpacked
from tests.stateful.policies import ConstantAgent, RandomAgent
from tests.stateful.reports import backtest, page_of


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
    for link in page.links:
        if link.startswith("#"):
            assert link[1:] in page.ids
        else:
            assert link == "data:," or (written / link).is_file(), link
    assert "http" not in page.body
    library = unpacked(text, "chart-library")
    assert "plotly.js v" in library[:300] and len(text) < 0.6 * len(library)
    assert set(page.charts) == {
        "equity", "drawdown", "weights", "turnover", "costs", "by_symbol", "by_kind", "learning_total_return",
        "learning_sharpe", "price-0", "price-1", "price-2", "price-3",
    }  # fmt: skip
    assert set(page.boxes) == set(page.charts) - {"price-1", "price-2", "price-3"}
    labels = re.findall(r'role=img aria-label="([^"]*)"', text)
    assert len(labels) == len(page.boxes) and all(len(label) > 20 for label in labels)


def test_the_same_array_is_in_the_page_once(written):
    page = Page((written / "report.html").read_text(encoding="utf-8"))
    arrays = [json.dumps(array) for array in page.content["arrays"]]
    assert len(arrays) == len(set(arrays))
    references = json.dumps(page.content["charts"]).count('"$"')
    assert references > len(arrays)


def test_the_first_lines_say_who_won(written, results):
    page = Page((written / "report.html").read_text(encoding="utf-8"))
    first, second = results.headlines
    assert page.head.index(f"<h1>{first.headline}</h1>") < page.head.index(f"<h2>{second.headline}</h2>")
    for verdict in (first, second):
        assert f"<p>{verdict.detail}</p>" in page.head
    assert f"{results.metrics['fills']:,} orders were filled" in page.head


@pytest.mark.parametrize("wins", [True, False])
def test_winning_and_losing_are_called_so(wins):
    bars = market(0)
    relatives = bars.close[-1] / bars.close[6]
    weights = np.eye(4)[relatives.argmax() if wins else relatives.argmin()]
    results = backtest(bars, ConstantAgent(weights), {"action_config": {"mode": "weights"}})
    said = page_of(results).said()
    word, other = ("beat", "lost to") if wins else ("lost to", "beat")
    assert any(text.startswith(f"The agent {word} buy and hold: ") for text in said)
    assert not any(text.startswith(f"The agent {other} ") for text in said)


def test_outside_text_is_escaped(tmp_path):
    bars = MarketData.from_frame(frame(symbols=("<b>x", "</script><img src=y>", "$q_$")))
    results = backtest(bars, RandomAgent(3))
    path = results.write(tmp_path / "r", title="<u>t", run_info={"<s>k": "<s>v"})
    page = Page(path.read_text(encoding="utf-8"))
    for raw in ("<b>x", "<img", "<u>", "<s>"):
        assert raw not in page.body
    assert "&lt;b&gt;x" in page.body
    names = [label for trace in page.charts["by_symbol"]["data"] for label in trace["y"]]
    assert any("&lt;b&gt;x" in name for name in names) and not any("<img" in name for name in names)


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


def test_an_agent_that_never_trades():
    results = backtest(market(0), ConstantAgent(np.zeros(4)))
    page = page_of(results)
    assert "The agent never traded" in page.head
    assert "n/a: Sharpe ratio needs at least two returns that differ." in page.said("li")
    assert "There are none: the agent never traded." in page.said("p")
    assert "NaN" not in unpacked(page.source, "chart-data")


@pytest.mark.parametrize("end", ["2020-01-03", "2020-01-10"])
def test_a_period_of_days_and_one_symbol(end):
    bars = replace(market(0).select(["A"]).between("2020-01-01", end), stated_periods=252.0)
    results = backtest(bars, ConstantAgent([1.0]), features=())
    page = page_of(results)
    assert any(text.startswith("Only one symbol") for text in page.said("li"))
    bars_played = len(results.history) - 1
    for what, needs in (("Intervals", 60), ("Rolling Sharpe ratio", 126)):
        assert f"{what}: not enough data (needs {needs} bars, has {bars_played})." in page.said("p")
    assert page.source.count(f"not enough data (needs 60 bars, has {bars_played})") >= 4  # the tiles say it too
    assert not re.search(r"\b(nan|inf)\b", page.body, re.IGNORECASE)


def test_many_symbols_are_folded_and_many_trades_cut():
    names = tuple(f"S{i:02d}" for i in range(45))
    results = backtest(MarketData.from_frame(frame(n_bars=60, symbols=names)), RandomAgent(45), features=())
    page = page_of(results)
    charts = page.charts
    assert sum(name.startswith("price-") for name in charts) == 40
    assert "5 further symbols are not shown" in page.body
    weights = [trace["name"] for trace in charts["weights"]["data"]]
    assert len(weights) == 9 and weights[-2:] == ["Others", "Cash"]
    assert f"The 250 of {len(results.trades):,} that gained or lost most" in page.body
    rows = page.tables["Trades"][1:]
    shown = sorted(abs(float(row[7].replace(",", ""))) for row in rows)
    assert len(rows) == 250
    assert shown[0] == pytest.approx(results.trades["pnl"].abs().sort_values().iloc[-250], abs=0.005)
    assert len(charts["by_symbol"]["data"][0]["y"]) == 20 and "26 others" in charts["by_symbol"]["data"][0]["y"][-1]


def test_months_and_years_compound_to_the_whole():
    from stateful.report_tables import _period_returns

    bars = MarketData.bundled().between("2011-11-15", "2013-02-10")
    equity = backtest(bars, RandomAgent(5)).equity
    for frequency in ("M", "Y"):
        total = np.prod(1 + _period_returns(equity, frequency).to_numpy()) - 1
        assert total == pytest.approx(equity.iloc[-1] / equity.iloc[0] - 1, rel=1e-12)


def test_vectorbt_stands_beside_our_figures():
    results = backtest(market(0), RandomAgent(4), vectorbt=True)
    page = page_of(results)
    table = page.tables["Metrics of Agent, Buy and hold"]
    assert table[0][-1] == "VectorBT, of the agent"
    row = next(row for row in table if row[0] == "Sharpe ratio")
    assert row[1] == row[3] == f"{results.metrics['sharpe']:.2f}"
    assert any(row[0] == "Omega Ratio" for row in page.tables["Statistics of VectorBT"])


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
