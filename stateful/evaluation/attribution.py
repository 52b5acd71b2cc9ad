"""Attribution: what each symbol, side, kind of gain or cost, and period contributed to the change of equity.

Every bar of an account is played once more from its tables: the shares are carried from fill to fill, through splits
and reinvested dividends (rules 3 to 6 of ``docs/accounting.md``), and what a position gained between two moments is
booked on the side that it had between them. With h the shares held and p the price at each moment of a step (mark[t],
the fills in their order, mark[t+1]), the gains h' p' - h p add up to the change of the positions' value less what was
paid for them at the fill price. Fees and slippage are booked on the fill's symbol; borrow cost, funding, dividends and
delistings on the symbol that brought them; interest on the account. That is all that can change equity, so the parts
sum to its change in every bar, up to rounding; `attribute` checks that they do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from batchenv.errors import RunError
from batchenv.market import MarketData
from stateful.overnight import Nights
from stateful.terms import Terms

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

KINDS = (
    "price", "fees", "slippage", "interest", "margin_interest", "borrow", "funding", "dividends", "delisting",
)  # fmt: skip
"""What changes equity: prices (reinvested dividends included), costs of trading, and rule 4."""
SIDES = ("long", "short", "cash")
ACCOUNT = "(cash)"
"""In place of a symbol, for interest on cash and on margin, which belong to the account."""
KEYS = ("timestamp", "month", "year", "symbol", "side", "kind")
ROUNDING = 1e-9
"""Rounding that is forgiven, as a fraction of the money handled; rule 3.4 forgives an order as much."""


@dataclass(frozen=True, eq=False)
class Attribution:
    """Where a change of equity came from.

    Attributes:
        parts: One row for each contribution that is not 0: ``bar`` and ``timestamp`` of the bar in whose equity it
            shows, ``symbol`` (or `ACCOUNT`), ``side`` (`SIDES`), ``kind`` (`KINDS`) and ``amount`` in money, above
            0 where it earned and below 0 where it cost.
        timestamps: Every bar but the first.
        initial_equity: Equity at the first bar, in money.
        change: Equity at the last bar less that at the first, in money.
        residual: Largest difference, in money, between a sum of parts and the change of equity that it explains, over
            every bar and the whole: rounding.
    """

    parts: pd.DataFrame
    timestamps: pd.DatetimeIndex
    initial_equity: float
    change: float
    residual: float

    def by(self, *keys: str) -> pd.DataFrame:
        """Add the parts up.

        Args:
            *keys: One or more of `KEYS`: what the rows stand for.

        Returns:
            A column for each kind, unless ``kind`` is a key; then ``total``, in money, and ``return``, the total as a
            fraction of the initial equity. With one key there is a row for each of its values, also where nothing was
            contributed; with several, for each combination that occurs. ``total`` sums to `change`.

        Raises:
            ValueError: No key, an unknown one, or one given twice.
        """
        if not keys or len(set(keys)) < len(keys) or not set(keys) <= set(KEYS):
            raise ValueError(f"keys: got {list(keys)}, expected one or more of {', '.join(KEYS)}, each once")
        rows = self.parts.assign(month=_periods(self.parts, "M"), year=_periods(self.parts, "Y"))
        if "kind" in keys:
            table = rows.groupby(list(keys), observed=True)["amount"].sum().to_frame("total")
        else:
            sums = rows.groupby([*keys, "kind"], observed=True)["amount"].sum()
            table = sums.unstack("kind").reindex(columns=pd.Index(KINDS))
            table["total"] = table.sum(axis=1)
        if len(keys) == 1:
            table = table.reindex(pd.Index(self._values(keys[0]), name=keys[0]))
        table = table.fillna(0.0)
        table["return"] = table["total"] / self.initial_equity
        return table

    def as_dict(self) -> dict[str, Any]:
        """Return the sums as JSON has them: by kind, side, symbol, year and month, in money."""
        tables = {key: self.by(key) for key in KEYS[1:]}
        plain: dict[str, Any] = {"change": self.change, "residual": self.residual}
        for key in ("kind", "year", "month"):
            plain[f"by_{key}"] = {str(name): float(total) for name, total in tables[key]["total"].items()}
        for key in ("side", "symbol"):
            plain[f"by_{key}"] = {str(name): _floats(row) for name, row in tables[key].iterrows()}
        return plain

    def _values(self, key: str) -> Any:
        """Return every value that a key can have, in order."""
        if key == "timestamp":
            return self.timestamps
        if key in ("month", "year"):
            return self.timestamps.to_period("M" if key == "month" else "Y").unique()
        return self.parts[key].cat.categories


def attribute(
    history: pd.DataFrame,
    fills: pd.DataFrame,
    market: MarketData,
    terms: Terms,
    *,
    funding_column: str | None = None,
) -> Attribution:
    """Explain an account's change of equity.

    Args:
        history: One row per bar, start bar first; see `StatefulTradingEnv.history`.
        fills: Its fills; see `StatefulTradingEnv.fills`.
        market: The bars.
        terms: What the account traded under.
        funding_column: Column of the market with funding rates (rule 4.1); None for none.

    Raises:
        RunError: The tables, market and terms do not belong to one account: the parts do not sum to the change.
    """
    nights = Nights(market, funding_column)
    book = _Book(history, nights.marks, market.symbols)
    late = fills["fill_bar"].to_numpy() > fills["decision_bar"].to_numpy()
    for fill in _moments(fills[~late], book):
        book.trade(fill)
    _pass_nights(book, nights, market, terms)
    for fill in _moments(fills[late], book):
        book.trade(fill)
    book.mark()
    _book_interest(book, history, fills[~late], terms)
    residual = book.check(history["equity"].to_numpy(np.float64), fills)
    equity = history["equity"]
    return Attribution(
        parts=book.table(history),
        timestamps=pd.DatetimeIndex(history.index[1:]),
        initial_equity=float(equity.iloc[0]),
        change=float(equity.iloc[-1] - equity.iloc[0]),
        residual=residual,
    )


@dataclass(frozen=True)
class _Moment:
    """Fills of which no two are of one symbol and step; arrays ``[fills]``."""

    steps: Integers
    columns: Integers
    shares: Floats
    prices: Floats
    fees: Floats
    slippage: Floats
    delisting: npt.NDArray[np.bool_]


class _Book:
    """All steps of an account at once: what is held at the present moment of each, and what has been booked.

    Attributes:
        bars: Bar t of each step, int64 ``[steps]``.
        held: Shares, float64 ``[steps, symbols]``.
        worth: Their value at the last price that was booked, in money, float64 ``[steps, symbols]``.
        booked: Amounts by kind and side, in money, float64 ``[steps, symbols]``; ``[steps, 1]`` for the account.
    """

    def __init__(self, history: pd.DataFrame, marks: Floats, symbols: tuple[str, ...]) -> None:
        self.symbols, self.marks = symbols, marks
        shares = history[[f"shares[{symbol}]" for symbol in symbols]].to_numpy(np.float64)
        self.bars = history["bar"].to_numpy(np.int64)[:-1]
        self.held, self._after = shares[:-1].copy(), shares[1:]
        self.worth = self.held * marks[self.bars]
        self.booked: dict[tuple[str, str], Floats] = {}

    def post(self, kind: str, amounts: Floats) -> None:
        """Book amounts on the side that each position has now; ``[steps, symbols]``."""
        self._add(kind, "long", np.where(self.held > 0, amounts, 0.0))
        self._add(kind, "short", np.where(self.held < 0, amounts, 0.0))

    def post_account(self, kind: str, amounts: Floats) -> None:
        """Book amounts on the account, ``[steps]``."""
        self._room(kind, "cash", (len(amounts), 1))[:] += amounts[:, None]

    def trade(self, fill: _Moment) -> None:
        """Book what positions gained up to their fills, and the fills."""
        at = fill.steps, fill.columns
        held, sides = self.held[at], np.sign(self.held[at])
        gain = held * fill.prices - self.worth[at]
        self._post_at(at, "price", sides, np.where(fill.delisting, 0.0, gain))
        self._post_at(at, "delisting", sides, np.where(fill.delisting, gain, 0.0))
        # A fill that turns a position over costs both sides, each for its shares.
        size = np.abs(fill.shares)
        against = np.where(held * fill.shares < 0, np.minimum(size, np.abs(held)) / size, 0.0)
        for kind, costs in (("fees", fill.fees), ("slippage", fill.slippage)):
            closing = -costs * against
            self._post_at(at, kind, sides, closing)
            self._post_at(at, kind, np.sign(fill.shares), -costs - closing)
        self.held[at] = held + fill.shares
        self.worth[at] = self.held[at] * fill.prices

    def mark(self) -> None:
        """Book what positions gained up to mark[t+1]."""
        self.post("price", self.held * self.marks[self.bars + 1] - self.worth)

    def check(self, equity: Floats, fills: pd.DataFrame) -> float:
        """Return the residual (`Attribution.residual`).

        Raises:
            RunError: It is more than rounding, or the shares are not those of the history.
        """
        apart = np.abs(self.held - self._after)
        if (apart > ROUNDING * np.abs(self._after)).any():
            step, column = np.unravel_index(int(apart.argmax()), apart.shape)
            raise RunError(
                f"attribution: bar {self.bars[step] + 1}, symbol {self.symbols[column]!r}: fills, splits and "
                f"dividends make {self.held[step, column]!r} shares, expected {self._after[step, column]!r} as in the "
                "history; the tables are not of one account on this market"
            )
        change = np.diff(equity)
        gaps = np.abs(sum((amounts.sum(axis=1) for amounts in self.booked.values()), np.zeros(len(change))) - change)
        whole = math.fsum(amount for amounts in self.booked.values() for amount in amounts.ravel().tolist())
        residual = max(float(gaps.max(initial=0.0)), abs(whole - float(equity[-1] - equity[0])))
        handled = float(np.abs(equity).max()) + float(np.abs(self.worth).sum(axis=1).max(initial=0.0))
        handled = max(handled, float(fills["notional"].sum()))
        if residual > ROUNDING * handled:
            raise RunError(
                f"attribution: the parts differ from the change of equity by {residual!r}, most at bar "
                f"{self.bars[int(gaps.argmax())] + 1}; the tables are not of one account on this market and terms"
            )
        return residual

    def table(self, history: pd.DataFrame) -> pd.DataFrame:
        """Return all that is not 0 as `Attribution.parts`."""
        blocks = []
        for (kind, side), amounts in self.booked.items():
            steps, columns = amounts.nonzero()
            symbol = np.full_like(columns, len(self.symbols)) if side == "cash" else columns
            codes = {"symbol": symbol, "side": SIDES.index(side), "kind": KINDS.index(kind)}
            blocks.append(pd.DataFrame({"step": steps, **codes, "amount": amounts[steps, columns]}))
        rows = pd.concat(blocks, ignore_index=True).sort_values(["step", "symbol", "side", "kind"], ignore_index=True)
        steps = rows["step"].to_numpy(np.int64)
        names = {"symbol": [*self.symbols, ACCOUNT], "side": list(SIDES), "kind": list(KINDS)}
        return pd.DataFrame(
            {
                "bar": self.bars[steps] + 1,
                "timestamp": pd.DatetimeIndex(history.index[1:])[steps],
                **{key: pd.Categorical.from_codes(rows[key], pd.Index(names[key])) for key in names},
                "amount": rows["amount"],
            }
        )

    def _post_at(self, at: tuple[Integers, Integers], kind: str, sides: Floats, amounts: Floats) -> None:
        for side, sign in (("long", 1.0), ("short", -1.0)):
            mine = np.where(sides == sign, amounts, 0.0)
            if mine.any():
                self._room(kind, side, self.held.shape)[at] += mine

    def _add(self, kind: str, side: str, amounts: Floats) -> None:
        if amounts.any():
            self._room(kind, side, amounts.shape)[:] += amounts

    def _room(self, kind: str, side: str, shape: tuple[int, ...]) -> Floats:
        return self.booked.setdefault((kind, side), np.zeros(shape))


def _moments(fills: pd.DataFrame, book: _Book) -> Iterator[_Moment]:
    """Yield fills so that those of one symbol and step come one after another, in the order of execution."""
    turns = fills.groupby(["decision_bar", "symbol"]).cumcount().to_numpy()
    places = {symbol: column for column, symbol in enumerate(book.symbols)}
    for turn in range(int(turns.max(initial=-1)) + 1):
        now = fills[turns == turn]
        yield _Moment(
            steps=now["decision_bar"].to_numpy(np.int64) - book.bars[0],
            columns=now["symbol"].map(places).to_numpy(np.int64),
            shares=now["shares"].to_numpy(np.float64),
            prices=now["fill_price"].to_numpy(np.float64),
            fees=now["fee"].to_numpy(np.float64),
            slippage=now["slippage"].to_numpy(np.float64),
            delisting=(now["kind"] == "delisting").to_numpy(bool),
        )


def _pass_nights(book: _Book, nights: Nights, market: MarketData, terms: Terms) -> None:
    """Book borrow cost, funding and dividends, and multiply shares by splits and reinvested dividends (rule 4)."""
    after = book.bars + 1
    marks, years = book.marks[book.bars], nights.years[book.bars][:, None]
    values = book.held * marks
    book.post("borrow", -np.maximum(-values, 0.0) * terms.borrow_rate * years)
    rates = terms.funding_rate * years + (0.0 if nights.funding is None else nights.funding[after])
    book.post("funding", -values * rates)
    splits = np.ones_like(values) if market.splits is None else market.splits[after]
    book.held *= splits
    if market.dividends is None:
        return
    dividends = market.dividends[after]
    if terms.reinvest:
        closes = marks / splits
        left = np.where(closes > 0, closes - dividends, 1.0)
        book.held *= np.where(closes > 0, closes / left, 1.0)
    else:
        book.post("dividends", book.held * dividends)


def _book_interest(book: _Book, history: pd.DataFrame, early: pd.DataFrame, terms: Terms) -> None:
    """Book interest on the account: margin interest where cash was below 0 that night."""
    cash = history["cash"].to_numpy(np.float64)[:-1].copy()
    paid = early["shares"] * early["price"] + early["fee"]
    np.subtract.at(cash, early["decision_bar"].to_numpy(np.int64) - book.bars[:1], paid.to_numpy(np.float64))
    borrowed = (cash < 0) & (not terms.cash_account)
    interest = history["interest"].to_numpy(np.float64)[1:]
    book.post_account("interest", np.where(borrowed, 0.0, interest))
    book.post_account("margin_interest", np.where(borrowed, interest, 0.0))


def _periods(parts: pd.DataFrame, frequency: str) -> pd.PeriodIndex:
    return pd.DatetimeIndex(parts["timestamp"]).to_period(frequency)


def _floats(row: pd.Series[Any]) -> dict[str, float]:
    return {str(name): float(value) for name, value in row.items()}
