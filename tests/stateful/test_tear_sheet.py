from __future__ import annotations

import random
import re

import matplotlib
import numpy as np
import pytest

import stateful.tear_sheet as tear_sheet
from stateful.tear_sheet import FILE, TearSheetProcess
from tests.markets import market
from tests.stateful.policies import ConstantAgent, RandomAgent
from tests.stateful.reports import backtest, page_of


@pytest.fixture(scope="module")
def results():
    return backtest(market(0, n_bars=300), RandomAgent(4))


def test_quantstats_writes_its_tear_sheet_and_leaves_no_trace(results, tmp_path, capfd):
    style, state = dict(matplotlib.rcParams), random.getstate()
    theirs = np.random.get_state()[1].copy()  # noqa: NPY002  # that the global generator stays as it is, is tested
    page = results.write(tmp_path / "r", title="a <rule>", tear_sheet=True)
    assert '<a href="quantstats.html">' in page.read_text()
    assert not list(page.parent.glob(".*"))
    text = (page.parent / FILE).read_text(encoding="utf-8")
    assert "a &lt;rule&gt;" in text and "<rule>" not in text
    outside = [url for url in re.findall(r'(?:src|href)="(http[^"]*)"', text) if "quantstats.io" not in url]
    assert outside == [] and "onload" not in text
    row = re.search(r"<td>Sharpe</td><td>([^<]*)</td><td>([^<]*)</td>", text.replace("\n", "").replace("> <", "><"))
    both = results.metrics["sharpe"], results.metrics["baselines"]["buy_and_hold"]["sharpe"]
    assert row and sorted(map(float, row.groups())) == pytest.approx(sorted(both), abs=0.0051)
    assert capfd.readouterr() == ("", "")
    assert dict(matplotlib.rcParams) == style and random.getstate() == state
    assert (np.random.get_state()[1] == theirs).all()  # noqa: NPY002


@pytest.mark.parametrize(
    ("program", "reason"), [("/bin/false", "QuantStats failed: without a word"), ("/bin/sleep", "more than")]
)
def test_a_tear_sheet_that_fails_is_no_reason_to_fail(results, tmp_path, monkeypatch, program, reason):
    monkeypatch.setattr(tear_sheet.sys, "executable", program)
    if "sleep" in program:
        script = tmp_path / "slow"
        script.write_text("#!/bin/sh\nexec sleep 60\n")
        script.chmod(0o700)
        monkeypatch.setattr(tear_sheet.sys, "executable", str(script))
        monkeypatch.setattr(tear_sheet, "_SECONDS", 0.2)
    found = TearSheetProcess(results, tmp_path, "x").finish()
    assert reason in str(found.reason)
    assert not (tmp_path / FILE).exists() and not list(tmp_path.glob(".*"))
    said = page_of(results, sheet=found).said("p")
    assert f"QuantStats' tear sheet: {found.reason}." in said


def test_one_is_not_made_where_there_is_too_little(tmp_path):
    idle = backtest(market(0), ConstantAgent([0.0] * 4))
    assert TearSheetProcess(idle, tmp_path, "x").finish().reason == "the agent never traded"
    short = backtest(market(0, n_bars=40), RandomAgent(4))
    bars = len(short.equity) - 1
    assert TearSheetProcess(short, tmp_path, "x").finish().reason == f"not enough data (needs 60 bars, has {bars})"
    assert page_of(short).said("p").count("QuantStats' tear sheet was not asked for.") == 1
    assert not list(tmp_path.iterdir())
