"""Lots, first in, first out, against a deliberately naive count of single shares."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stateful.positions import Lot, PositionManager, Trade


def test_a_sale_closes_the_oldest_lots_and_splits_the_last_one() -> None:
    positions = PositionManager(("A",))
    positions.buy(0, 10, 100.0, fee=1.0, bar=1)
    positions.buy(0, 20, 110.0, fee=4.0, bar=2)
    positions.sell(0, 15, 120.0, fee=3.0, bar=5)

    assert positions.lots(0) == (Lot(15.0, 110.0, 0.2, 2),)
    assert positions.trades == [
        Trade("A", 1, 5, 10.0, 100.0, 120.0, entry_fee=1.0, exit_fee=2.0),
        Trade("A", 2, 5, 5.0, 110.0, 120.0, entry_fee=1.0, exit_fee=1.0),
    ]
    assert [trade.pnl for trade in positions.trades] == [200 - 3, 50 - 2]
    assert positions.realized_gross == 250
    assert positions.realized_net == 245
    assert positions.n_closed == 2


def test_open_lots_are_trades_that_end_at_the_mark() -> None:
    positions = PositionManager(("A", "B"))
    positions.buy(1, 4, 50.0, fee=2.0, bar=3)
    marks = np.array([np.nan, 60.0])

    assert list(positions.open_trades(marks, 9)) == [Trade("B", 3, 9, 4.0, 50.0, 60.0, 2.0, 0.0, is_open=True)]
    assert positions.unrealized(marks).tolist() == [0.0, 40.0]


def test_symbols_do_not_touch_each_other() -> None:
    positions = PositionManager(("A", "B"))
    positions.buy(0, 1, 10.0, fee=0.0, bar=0)
    positions.buy(1, 2, 20.0, fee=0.0, bar=0)
    positions.sell(0, 1, 11.0, fee=0.0, bar=1)

    assert positions.shares.tolist() == [0.0, 2.0]
    assert positions.average_price.tolist() == [0.0, 20.0]
    assert positions.lots(1) == (Lot(2, 20.0, 0.0, 0),)


def test_average_entry_price_is_moved_by_buys_left_by_sells_and_forgotten_at_zero() -> None:  # 5.2
    positions = PositionManager(("A",))
    positions.buy(0, 10, 100.0, fee=5.0, bar=0)
    positions.buy(0, 30, 120.0, fee=5.0, bar=1)
    assert positions.average_price[0] == 115.0
    positions.sell(0, 39, 90.0, fee=5.0, bar=2)
    assert positions.average_price[0] == 115.0
    positions.sell(0, 1, 90.0, fee=5.0, bar=3)
    assert positions.average_price[0] == 0.0
    positions.buy(0, 2, 7.0, fee=0.0, bar=4)
    assert positions.average_price[0] == 7.0


def test_selling_all_leaves_exactly_nothing_although_the_lots_round() -> None:
    positions = PositionManager(("A",))
    for shares in (0.1, 0.2, 0.3, 1e-9):
        positions.buy(0, shares, 10.0, fee=0.01, bar=0)
    positions.sell(0, 0.15, 10.0, fee=0.0, bar=1)
    positions.sell(0, float(positions.shares[0]), 10.0, fee=0.0, bar=2)

    assert positions.shares[0] == 0
    assert positions.lots(0) == ()
    assert math.isclose(positions.realized_fees, 0.04)


def test_without_a_record_only_the_trades_are_missing() -> None:
    positions = PositionManager(("A",), record_trades=False)
    positions.buy(0, 2, 10.0, fee=1.0, bar=0)
    positions.sell(0, 2, 15.0, fee=1.0, bar=1)

    assert positions.trades == []
    assert (positions.n_closed, positions.realized_net) == (1, 8.0)


@pytest.mark.parametrize("shares", [0.0, -1.0, math.nan])
def test_a_purchase_of_nothing_is_refused(shares: float) -> None:
    with pytest.raises(ValueError, match="buy 'A'"):
        PositionManager(("A",)).buy(0, shares, 10.0, fee=0.0, bar=0)


@pytest.mark.parametrize("shares", [0.0, -1.0, 3.5, math.nan])
def test_a_sale_of_nothing_or_of_more_than_is_held_is_refused_and_changes_nothing(shares: float) -> None:
    positions = PositionManager(("A",))
    positions.buy(0, 3, 10.0, fee=0.0, bar=0)
    with pytest.raises(ValueError, match=r"sell 'A'.*up to 3.0"):
        positions.sell(0, shares, 10.0, fee=0.0, bar=1)
    assert positions.lots(0) == (Lot(3, 10.0, 0.0, 0),)


class SingleShares:
    """The naive account: one list entry per share, in order of purchase."""

    def __init__(self) -> None:
        self.held: list[tuple[int, float, float]] = []  # number of the purchase, price, fee
        self.profit = self.fees = 0.0

    def buy(self, number: int, shares: int, price: float, fee: float) -> None:
        self.held += [(number, price, fee / shares)] * shares

    def sell(self, shares: int, price: float, fee: float) -> None:
        sold, self.held = self.held[:shares], self.held[shares:]
        self.profit += sum(price - bought_at for _, bought_at, _ in sold)
        self.fees += sum(entry_fee + fee / shares for _, _, entry_fee in sold)

    def lots(self) -> list[tuple[int, int, float]]:
        groups = itertools.groupby(self.held, key=lambda share: share[:2])
        return [(number, len(list(shares)), price) for (number, price), shares in groups]


prices = st.floats(0.5, 500.0)
moves = st.lists(st.tuples(st.booleans(), st.integers(1, 12), prices, st.floats(0.0, 3.0)), max_size=40)


@given(moves)
def test_whole_shares_agree_with_a_list_of_single_shares(moves: list[tuple[bool, int, float, float]]) -> None:
    positions, naive = PositionManager(("A",)), SingleShares()
    for number, (is_buy, shares, price, fee) in enumerate(moves):
        if is_buy:
            positions.buy(0, shares, price, fee, number)
            naive.buy(number, shares, price, fee)
        elif naive.held:
            shares = min(shares, len(naive.held))
            positions.sell(0, shares, price, fee, number)
            naive.sell(shares, price, fee)
        assert [(lot.bar, lot.shares, lot.price) for lot in positions.lots(0)] == naive.lots()
        assert positions.shares[0] == len(naive.held)
    assert positions.realized_gross == pytest.approx(naive.profit, rel=1e-9, abs=1e-9)
    assert positions.realized_fees == pytest.approx(naive.fees, rel=1e-9, abs=1e-9)
    assert sum(trade.pnl for trade in positions.trades) == pytest.approx(naive.profit - naive.fees, rel=1e-9, abs=1e-8)


fractions = st.lists(st.tuples(st.booleans(), st.floats(1e-6, 1.0), prices), min_size=1, max_size=40)


@given(fractions)
def test_fractions_of_shares_are_neither_lost_nor_made(moves: list[tuple[bool, float, float]]) -> None:
    positions = PositionManager(("A",))
    spent = 0.0
    for bar, (is_buy, size, price) in enumerate(moves):
        if is_buy:
            positions.buy(0, size, price, 0.0, bar)
            spent += size * price
        elif (shares := float(positions.shares[0]) * size) > 0:
            positions.sell(0, shares, price, 0.0, bar)
            spent -= shares * price
        assert sum(lot.shares for lot in positions.lots(0)) == pytest.approx(positions.shares[0], abs=1e-12)
    mark = 100.0
    worth = float(positions.shares[0]) * mark - spent
    profit = positions.realized_gross + positions.unrealized(np.array([mark]))[0]
    assert profit == pytest.approx(worth, rel=1e-9, abs=1e-8)
    if positions.shares[0] > 0:
        positions.sell(0, float(positions.shares[0]), mark, 0.0, 99)
    assert (positions.shares[0], positions.lots(0)) == (0.0, ())
