"""The report in a real browser: no errors, no overlap, usable by keyboard."""

from __future__ import annotations

import re
from importlib.resources import files

import numpy as np
import pandas as pd
import pytest

from tests.browser import browsing, find_browser
from tests.markets import market
from tests.stateful.policies import RandomAgent
from tests.stateful.reports import backtest
from tests.test_stress import made_up

DESKTOP, PHONE = (1240, 900), (390, 844)

OVERLAPS = """(() => {
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, parent = node.parentElement;
    if (!node.data.trim() || parent.closest('script, style, .scroll, .skip') || !parent.checkVisibility()) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    for (const r of range.getClientRects()) {
      const space = 0.2 * r.height; // above and below the letters
      if (r.width > 1 && r.height > 1) found.push([r.left, r.right, r.top + space, r.bottom - space, node]);
    }
  }
  found.sort((a, b) => a[2] - b[2]);
  const bad = [];
  for (let i = 0; i < found.length; i++)
    for (let j = i + 1; j < found.length && found[j][2] < found[i][3]; j++)
      if (found[i][4] !== found[j][4] && found[i][0] + 1 < found[j][1] && found[j][0] + 1 < found[i][1])
        bad.push(found[i][4].data.trim().slice(0, 40) + ' | ' + found[j][4].data.trim().slice(0, 40));
  return bad;
})()"""
SPILLS = """[...document.querySelectorAll('h1, h2, h3, p, li, dt, dd, small, button, summary, figcaption, td, th')]
  .filter(e => e.checkVisibility() && e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).display !== 'inline')
  .map(e => e.tagName + ' ' + e.textContent.trim().slice(0, 60))"""
FOCUSED = """(() => {
  const e = document.activeElement, style = getComputedStyle(e), box = e.getBoundingClientRect();
  const name = (e.getAttribute('aria-label') || e.textContent).trim().slice(0, 50);
  return [e === document.body ? '' : e.tagName + ' ' + name,
          style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2, box.right > 0 && box.bottom > 0];
})()"""
REACHABLE = """[...document.querySelectorAll('a[href], button, select, summary, [tabindex="0"]')]
  .filter(e => e.checkVisibility()).length"""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report with everything in it: severe flags, stress test, learning curve, many fills."""
    folder = tmp_path_factory.mktemp("browser")
    bars = market(0, n_bars=400)
    results = backtest(bars, RandomAgent(4), trained_on=bars)
    made_up(lambda start, fee, slip, cash: 0.1 - 0.02 * fee - 0.01 * slip).write(folder / "stress", title="x")
    curve = pd.DataFrame({"timesteps": [1000, 2000, 3000], "sharpe": [0.1, 0.5, 0.4]})
    return results.write(folder / "backtest", title="PPO", learning_curve=curve, stress=folder / "stress")


@pytest.fixture(scope="module")
def browser():
    found = find_browser()
    if found is None:
        pytest.skip("there is no Chromium or Chrome on this machine")
    pytest.importorskip("websockets")
    return found


@pytest.fixture(scope="module")
def tab(browser):
    with browsing(browser) as found:
        yield found


def show(tab, report, size=DESKTOP, scheme="light"):
    """Open the report with every chart drawn."""
    tab.resize(*size)
    tab.prefer(scheme)
    tab.problems.clear()
    tab.open(report)
    tab.wait("performance.getEntriesByName('ready').length === 1")
    tab.run("window.dispatchEvent(new Event('beforeprint'))")
    tab.wait("[...document.querySelectorAll('[data-figure]')].every(box => box.querySelector('.main-svg'))")


@pytest.mark.parametrize(("size", "scheme"), [(DESKTOP, "light"), (DESKTOP, "dark"), (PHONE, "light")])
def test_no_errors_no_overlap_no_sideways_scrolling(tab, report, size, scheme):
    show(tab, report, size, scheme)
    assert tab.problems == []
    assert tab.run("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
    assert tab.run("innerWidth") == size[0]
    assert tab.run(OVERLAPS) == []
    assert tab.run(SPILLS) == []
    # What is wider than its box scrolls inside it, and the keyboard can scroll it.
    seen = "[...document.querySelectorAll('main *')].filter(e => e.checkVisibility())"
    scrolled = f"{seen}.filter(e => e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX === 'auto')"
    assert tab.run(f"{scrolled}.every(e => e.tabIndex === 0)")
    assert (tab.run(f"{scrolled}.length") > 0) == (size == PHONE)


def test_every_control_is_reached_by_keyboard_and_seen(tab, report):
    show(tab, report)
    names = []
    tab.press("Tab")
    name, outlined, inside = tab.run(FOCUSED)
    assert name == "A Skip to the results" and outlined and inside
    while name and len(names) < 300:
        assert outlined, f"{name}: the focus cannot be seen"
        names.append(name)
        tab.press("Tab")
        name, outlined, inside = tab.run(FOCUSED)
    assert len(names) == tab.run(REACHABLE)
    for wanted in ("BUTTON Logarithmic scale", "BUTTON Other baselines", "DIV Trades", "SUMMARY Environment"):
        assert wanted in names
    assert any(name.startswith("SELECT") for name in names)


def test_the_controls_do_what_they_say(tab, report):
    show(tab, report)
    tab.run("document.querySelector('button[data-log]').focus()")
    tab.press("Enter")
    assert tab.run("document.getElementById('equity-chart')._fullLayout.yaxis.type") == "log"
    tab.run("document.querySelector('button[data-group]').focus()")
    tab.press("Enter")
    shown = "document.getElementById('{}')._fullData.filter(t => t.legendgroup === 'others').map(t => t.visible)"
    assert set(tab.run(shown.format("equity-chart"))) == {"legendonly"}
    assert tab.run("document.getElementById('equity-chart')._fullLayout.yaxis.type") == "log"
    tab.press("Enter")
    assert set(tab.run(shown.format("equity-chart"))) == {True}
    assert set(tab.run(shown.format("costs-chart"))) == {"legendonly"}  # as it was drawn
    column = "[...document.querySelectorAll('#against-the-baselines tbody tr')].map(row => row.cells[3].dataset.value)"
    tab.run("document.querySelector('#against-the-baselines th:nth-child(4) button').focus()")
    tab.press("Enter")
    ratios = [float(value) for value in tab.run(column) if value]
    assert ratios == sorted(ratios, reverse=True) and tab.run(column)[-1] == ""  # cash has none, and comes last
    tab.press("Enter")
    assert [float(value) for value in tab.run(column) if value] == sorted(ratios) and tab.run(column)[-1] == ""
    before = tab.run("document.getElementById('price-0-chart')._fullData[0].y[0]")
    tab.run("document.getElementById('symbol').focus()")
    tab.press("ArrowDown")
    assert tab.run("document.getElementById('symbol').value") == "price-1"
    assert tab.run("document.getElementById('price-0-chart')._fullData[0].y[0]") != before


def test_charts_are_drawn_when_they_come_near(tab, report):
    tab.resize(*DESKTOP)
    tab.open(report)
    tab.wait("performance.getEntriesByName('ready').length === 1")
    last = "document.getElementById('learning_sharpe-chart')"
    assert not tab.run(f"!!{last}.querySelector('.main-svg')")
    tab.run(f"{last}.scrollIntoView()")
    tab.wait(f"!!{last}.querySelector('.main-svg')")
    assert tab.problems == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_background(scheme):
    """At least 4.5 to 1 (WCAG 2.2, success criterion 1.4.3), by the colours of the style sheet."""
    style = (files("stateful") / "templates" / "report.css").read_text(encoding="utf-8")
    light, dark = style.split("@media (prefers-color-scheme: dark)")[:2]
    colours = dict(re.findall(r"--(\w[\w-]*): (#[0-9a-f]{6})", light))
    if scheme == "dark":
        colours |= dict(re.findall(r"--(\w[\w-]*): (#[0-9a-f]{6})", dark))
    for text in ("text", "muted", "accent", "lost", "beat"):
        for ground in ("page", "surface"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    for text in ("text", "lost"):
        assert contrast(colours[text], colours["lost-wash"]) >= 4.5


def contrast(one, other):
    """Contrast ratio of two colours, as WCAG defines it."""

    def luminance(colour):
        parts = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
