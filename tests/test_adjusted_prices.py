"""Dividends and splits that the prices have in already are left out; where nothing tells, they are refused or noted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from batchenv import MarketData
from batchenv.config import DataConfig
from batchenv.data.actions import ERROR_RATE, dividend_evidence
from batchenv.errors import MarketDataError
from batchenv.train import load_market
from stateful import BackTesting, StatefulTradingEnv
from tests.stateful.policies import ConstantAgent

BARS, QUARTER = 1260, 63
FREE = {
    "fill": "next_close",
    "action_config": {"mode": "weights"},
    "cost_config": {"fee_rate": 0.0, "slippage_rate": 0.0},
    "portfolio_config": {"initial_cash": 1e6},
}


def traded_prices(
    seed: int = 0, symbols: int = 6, bars: int = BARS, paid: float = 0.01, fall: float = 1.0
) -> pd.DataFrame:
    """Long frame of prices as traded, which pay a part of the price each quarter and fall by it at the open."""
    rng = np.random.default_rng(seed)
    dates = pd.bdate_range("2015-01-01", periods=bars)
    parts = []
    for s in range(symbols):
        night, day = rng.standard_t(4, (2, bars)) * 0.006
        close, opens, closes, dividends = 100.0, np.empty(bars), np.empty(bars), np.zeros(bars)
        for t in range(bars):
            dividends[t] = close * paid if t % QUARTER == 10 * s + 5 else 0.0
            opens[t] = (close - fall * dividends[t]) * np.exp(night[t])
            closes[t] = close = opens[t] * np.exp(day[t])
        columns = {"open": opens, "high": np.maximum(opens, closes), "low": np.minimum(opens, closes), "close": closes}
        parts.append(pd.DataFrame({"date": dates, "symbol": f"S{s}", **columns, "volume": 1e6, "dividend": dividends}))
    return pd.concat(parts, ignore_index=True)


def adjust(frame: pd.DataFrame) -> pd.DataFrame:
    """Prices adjusted for the dividends, which stand beside them unchanged."""

    def of_symbol(own: pd.DataFrame) -> pd.DataFrame:
        before = own["close"].shift().fillna(own["close"].iloc[0])
        kept = 1.0 - own["dividend"] / before
        later = kept[::-1].cumprod()[::-1].shift(-1).fillna(1.0)
        return own.assign(**{name: own[name] * later for name in ("open", "high", "low", "close")})

    return pd.concat([of_symbol(own) for _, own in frame.groupby("symbol")], ignore_index=True)


def as_yfinance(frame: pd.DataFrame, splits: float | pd.Series[Any] = 0.0) -> pd.DataFrame:
    """The columns of `yfinance.Ticker.history`, stacked."""
    names = {name: name.title() for name in ("date", "open", "high", "low", "close", "volume")}
    return frame.rename(columns={**names, "dividend": "Dividends"}).assign(**{"Stock Splits": splits})


def growth(market: MarketData) -> float:
    """What holding the first symbol from the first to the last bar brings, dividends in cash."""
    env = StatefulTradingEnv(market.select(market.symbols[:1]), FREE)
    return float(BackTesting(ConstantAgent([1.0]), env, {"vectorbt": False}).run().metrics["total_return"])


def test_adjusted_prices_of_yfinance_pay_no_dividend_a_second_time() -> None:
    """4% a year in dividends: paid twice, a holder has about 4% a year too much."""
    frame = adjust(traded_prices())
    market = MarketData.from_frame(as_yfinance(frame))
    assert market.dividends is None and market.splits is None
    assert market.notes == (
        "dividends are left out: the columns are named as yfinance names them without 'Adj Close', where prices are "
        "adjusted already (adjusted=False pays them)",
    )
    held = market.close[-1, 0] / market.close[1, 0] - 1.0
    assert growth(market) == pytest.approx(held, rel=1e-6)
    twice = growth(MarketData.from_frame(as_yfinance(frame), adjusted=False))
    assert ((1 + twice) / (1 + held)) ** (252 / BARS) - 1 == pytest.approx(0.042, abs=0.005)


SPELLINGS: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "as given": lambda f: f,
    "lower case": lambda f: f.rename(columns=str.lower),
    "snake case": lambda f: f.rename(columns=lambda name: name.lower().replace(" ", "_")),
    "capital gains": lambda f: f.assign(**{"Capital Gains": 0.0}),
    "two levels": lambda f: f.pivot(index="Date", columns="symbol"),
    "three dividends": lambda f: f.assign(Dividends=f["Dividends"].where(f["Dividends"].cumsum() < 4, 0.0)),
    "twenty bars": lambda f: f.groupby("symbol").head(20),
    "one symbol": lambda f: f[f["symbol"] == "S0"].drop(columns="symbol"),
    "dict of histories": lambda f: {
        str(s): own.drop(columns="symbol").set_index("Date") for s, own in f.groupby("symbol")
    },
    "no opens": lambda f: f.drop(columns=["Open", "High", "Low"]),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_columns_of_yfinance_are_recognised(spelling: str) -> None:
    market = MarketData.from_frame(SPELLINGS[spelling](as_yfinance(adjust(traded_prices()))))
    assert market.dividends is None and "yfinance" in market.notes[0]


def test_an_old_dividend_above_the_adjusted_price_is_no_fault_of_the_data() -> None:
    """Decades of adjustment bring the first prices below the dividends that were paid then."""
    frame = as_yfinance(adjust(traded_prices())).assign(Dividends=lambda f: f["Dividends"] * 200)
    assert MarketData.from_frame(frame).dividends is None


@pytest.mark.parametrize("symbols", [1, 6])
def test_other_data_are_recognised_by_the_prices_on_ex_dates(symbols: int) -> None:
    traded = traded_prices(symbols=symbols)
    market = MarketData.from_frame(traded)
    assert market.dividends is not None and market.notes == ()
    market = MarketData.from_frame(adjust(traded))
    assert market.dividends is None
    assert "prices do not fall by them, so they are adjusted already (adjusted=False pays them)" in market.notes[0]


@pytest.mark.parametrize("adjusted", [True, False])
@pytest.mark.parametrize("prices", [traded_prices, lambda: adjust(traded_prices())])
def test_what_is_stated_holds(adjusted: bool, prices: Callable[[], pd.DataFrame]) -> None:
    frame = prices()
    for table in (frame, as_yfinance(frame)):
        market = MarketData.from_frame(table, adjusted=adjusted)
        assert (market.dividends is None) == adjusted and market.notes == ()


def test_too_few_dividends_to_tell_are_paid_and_noted() -> None:
    frame = traded_prices(symbols=1, bars=100, paid=0.002)
    market = MarketData.from_frame(frame)
    assert market.dividends is not None
    assert market.notes == (
        "dividends are paid in cash, as for prices as traded; 2 ex dates do not tell whether prices are adjusted "
        "(adjusted=True leaves dividends out)",
    )


def test_names_of_yfinance_with_prices_as_traded_are_a_contradiction() -> None:
    with pytest.raises(
        MarketDataError, match=r"dividends is .*named as in yfinance.*State adjusted=True.*adjusted=False"
    ):
        MarketData.from_frame(as_yfinance(traded_prices()))


def test_nothing_is_to_be_decided_where_nothing_was_paid() -> None:
    frame = as_yfinance(traded_prices()).assign(Dividends=0.0)
    assert MarketData.from_frame(frame).notes == ()


def test_adj_close_decides_before_any_evidence() -> None:
    traded = traded_prices()
    both = as_yfinance(traded).assign(**{"Adj Close": adjust(traded)["close"]})
    market = MarketData.from_frame(both)
    np.testing.assert_array_equal(market.close, MarketData.from_frame(adjust(traded), adjusted=True).close)
    assert market.dividends is None and market.notes == ()
    kept = MarketData.from_frame(both, adjusted=False)
    assert kept.dividends is not None


# --- splits -------------------------------------------------------------------------------------------------


def split(frame: pd.DataFrame, ratio: float, bar: int = 600, *, shown: bool, symbol: str = "S0") -> pd.DataFrame:
    """Split one symbol on a bar; its earlier prices show it or are adjusted."""
    frame = frame.assign(split=1.0)
    rows = np.flatnonzero(frame["symbol"] == symbol)
    frame.loc[rows[bar], "split"] = ratio
    if shown:
        frame.loc[rows[bar:], ["open", "high", "low", "close", "dividend"]] /= ratio
    return frame


@pytest.mark.parametrize("ratio", [2.0, 4.0, 0.1, 1.5])
def test_splits_that_closes_do_not_show_are_left_out(ratio: float) -> None:
    plain = traded_prices().assign(dividend=0.0)
    hidden = MarketData.from_frame(split(plain, ratio, shown=False))
    assert hidden.splits is None
    assert hidden.notes == ("splits are left out: closes do not fall by them, so they are adjusted for splits already",)
    shown = MarketData.from_frame(split(plain, ratio, shown=True))
    assert shown.splits is not None and shown.notes == ()


def test_yahoos_closes_without_adj_close_keep_their_dividends_and_leave_out_their_splits() -> None:
    """With ``auto_adjust=False``, closes are adjusted for splits and not for dividends."""
    market = MarketData.from_frame(split(traded_prices(), 4.0, shown=False))
    assert market.splits is None and market.dividends is not None and "splits are left out" in market.notes[0]
    stated = MarketData.from_frame(
        as_yfinance(traded_prices(), split(traded_prices(), 4.0, shown=False)["split"]), adjusted=False
    )
    assert stated.splits is None and stated.dividends is not None


def test_prices_adjusted_for_both_leave_out_both() -> None:
    frame = split(adjust(traded_prices()), 4.0, shown=False)
    for table in (frame, as_yfinance(frame.drop(columns="split"), frame["split"])):
        market = MarketData.from_frame(table)
        assert market.splits is None and market.dividends is None and len(market.notes) == 2


def test_dividends_beside_hidden_splits_are_refused_where_nothing_tells() -> None:
    frame = split(traded_prices(symbols=1, bars=100, paid=0.002), 4.0, bar=50, shown=False)
    with pytest.raises(
        MarketDataError, match=r"splits is 4.0; .*2 ex dates do not tell.*adjusted=True.*adjusted=False"
    ):
        MarketData.from_frame(frame)
    assert MarketData.from_frame(frame, adjusted=True).dividends is None
    assert MarketData.from_frame(frame, adjusted=False).dividends is not None


def test_splits_of_one_symbol_shown_and_of_another_hidden_are_refused() -> None:
    frame = split(split(traded_prices().assign(dividend=0.0), 4.0, shown=True), 1.0, shown=False)
    frame = split(traded_prices().assign(dividend=0.0), 4.0, shown=True)
    row = np.flatnonzero(frame["symbol"] == "S1")[700]
    frame.loc[row, "split"] = 3.0
    with pytest.raises(MarketDataError, match=rf"row {row}, symbol 'S1'.*splits is 3.0.*adjusted for splits already"):
        MarketData.from_frame(frame)


def test_adjusted_prices_that_fall_by_a_split_contradict_what_is_stated() -> None:
    frame = split(traded_prices().assign(dividend=0.0), 4.0, shown=True)
    with pytest.raises(
        MarketDataError, match=r"splits is 4.0; expected no split that the close falls by, since adjusted=True"
    ):
        MarketData.from_frame(frame, adjusted=True)


def test_small_splits_are_left_out_by_the_names_of_yfinance_only() -> None:
    frame = split(traded_prices(symbols=1, bars=100).assign(dividend=0.0), 1.01, bar=50, shown=False)
    market = MarketData.from_frame(frame)
    assert market.splits is not None and "too small for the closes to tell" in market.notes[0]
    named = MarketData.from_frame(as_yfinance(frame.drop(columns="split"), frame["split"]))
    assert named.splits is None and "yfinance" in named.notes[0]


# --- how often the evidence errs ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["traded, falling by the dividend", "traded, falling by 0.6 of it", "adjusted"])
def test_the_evidence_errs_in_no_more_tables_than_it_says(kind: str) -> None:
    """At an error rate of 1 in 1,000, more than 3 errors in 100 tables have a probability of 4 in a million."""
    assert ERROR_RATE == 0.001
    said = []
    for seed in range(100):
        frame = traded_prices(seed, symbols=2, bars=500, fall=0.6 if "0.6" in kind else 1.0)
        frame = adjust(frame) if kind == "adjusted" else frame
        fields = {n: frame.pivot(index="date", columns="symbol", values=n).to_numpy() for n in ("open", "close")}
        paid = frame.pivot(index="date", columns="symbol", values="dividend").to_numpy()
        said.append(dividend_evidence(fields, paid).says)
    assert said.count(kind == "adjusted") <= 3
    assert said.count(None) < 80  # and it does decide


def test_the_bundled_prices_are_told_apart() -> None:
    traded, adjusted = MarketData.bundled(adjusted=False), MarketData.bundled()
    assert traded.dividends is not None
    fields = {"open": traded.open, "close": traded.close}
    assert dividend_evidence(fields, traded.dividends, traded.splits).says is True
    assert dividend_evidence({"open": adjusted.open, "close": adjusted.close}, traded.dividends).says is False


def test_adjusted_is_a_key_of_a_configuration(tmp_path: Any) -> None:
    adjust(traded_prices()).to_csv(tmp_path / "bars.csv", index=False)
    data = {"source": str(tmp_path / "bars.csv"), "train_end": "2018-01-01"}
    kept = {
        stated: load_market(DataConfig.model_validate(data | {"adjusted": stated})).dividends
        for stated in (None, True, False)
    }
    assert [values is None for values in kept.values()] == [True, True, False]
