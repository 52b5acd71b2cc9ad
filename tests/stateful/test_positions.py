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
    positions.fill(0, 10, 100.0, fee=1.0, bar=1)
    positions.fill(0, 20, 110.0, fee=4.0, bar=2)
    positions.fill(0, -15, 120.0, fee=3.0, bar=5)

    assert positions.lots(0) == (Lot(15.0, 110.0, 0.2, 2),)
    assert positions.trades == [
        Trade("A", 1, 5, "long", 10.0, 100.0, 120.0, entry_fee=1.0, exit_fee=2.0, reason="order"),
        Trade("A", 2, 5, "long", 5.0, 110.0, 120.0, entry_fee=1.0, exit_fee=1.0, reason="order"),
    ]
    assert [trade.pnl for trade in positions.trades] == [200 - 3, 50 - 2]
    assert positions.realized_gross == 250
    assert positions.realized_net == 245
    assert positions.n_closed == 2


def test_a_purchase_closes_the_oldest_short_lots() -> None:
    positions = PositionManager(("A",))
    positions.fill(0, -10, 100.0, fee=1.0, bar=1)
    positions.fill(0, -20, 110.0, fee=4.0, bar=2)
    positions.fill(0, 15, 90.0, fee=3.0, bar=5, kind="take_profit")

    assert positions.lots(0) == (Lot(-15.0, 110.0, 0.2, 2),)
    assert positions.trades == [
        Trade("A", 1, 5, "short", 10.0, 100.0, 90.0, entry_fee=1.0, exit_fee=2.0, reason="take_profit"),
        Trade("A", 2, 5, "short", 5.0, 110.0, 90.0, entry_fee=1.0, exit_fee=1.0, reason="take_profit"),
    ]
    assert [trade.pnl for trade in positions.trades] == [100 - 3, 100 - 2]
    assert positions.unrealized(np.array([120.0])).tolist() == [-150.0]
    assert (positions.shares[0], positions.realized_gross) == (-15.0, 200.0)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_fill_that_turns_the_position_closes_all_and_opens_the_rest_with_one_fee(sign: int) -> None:
    positions = PositionManager(("A",))
    positions.fill(0, sign * 4, 100.0, fee=0.0, bar=1)
    positions.fill(0, sign * -10, 110.0, fee=5.0, bar=2)

    (closed,) = positions.trades
    assert (closed.shares, closed.exit_fee, closed.gross_pnl) == (4.0, 2.0, sign * 40.0)
    assert positions.lots(0) == (Lot(sign * -6.0, 110.0, 0.5, 2),)
    assert (positions.shares[0], positions.average_price[0]) == (sign * -6.0, 110.0)  # 6.5


def test_open_lots_are_trades_that_end_at_the_mark() -> None:
    positions = PositionManager(("A", "B", "C"))
    positions.fill(1, 4, 50.0, fee=2.0, bar=3)
    positions.fill(2, -4, 50.0, fee=2.0, bar=3)
    marks = np.array([np.nan, 60.0, 60.0])

    long, short = positions.open_trades(marks, 9)
    assert long == Trade("B", 3, 9, "long", 4.0, 50.0, 60.0, 2.0, 0.0, "open")
    assert short == Trade("C", 3, 9, "short", 4.0, 50.0, 60.0, 2.0, 0.0, "open")
    assert (long.is_open, long.pnl, short.pnl) == (True, 38.0, -42.0)
    assert positions.unrealized(marks).tolist() == [0.0, 40.0, -40.0]


def test_symbols_do_not_touch_each_other() -> None:
    positions = PositionManager(("A", "B"))
    positions.fill(0, 1, 10.0, fee=0.0, bar=0)
    positions.fill(1, 2, 20.0, fee=0.0, bar=0)
    positions.fill(0, -1, 11.0, fee=0.0, bar=1)

    assert positions.shares.tolist() == [0.0, 2.0]
    assert positions.average_price.tolist() == [0.0, 20.0]
    assert positions.lots(1) == (Lot(2, 20.0, 0.0, 0),)


@pytest.mark.parametrize("sign", [1, -1])
def test_6_5_average_entry_price_is_moved_by_adding_left_by_reducing_and_forgotten_at_zero(sign: int) -> None:
    positions = PositionManager(("A",))
    positions.fill(0, sign * 10, 100.0, fee=5.0, bar=0)
    positions.fill(0, sign * 30, 120.0, fee=5.0, bar=1)
    assert positions.average_price[0] == 115.0
    positions.fill(0, sign * -39, 90.0, fee=5.0, bar=2)
    assert positions.average_price[0] == 115.0
    positions.fill(0, sign * -1, 90.0, fee=5.0, bar=3)
    assert positions.average_price[0] == 0.0
    positions.fill(0, sign * 2, 7.0, fee=0.0, bar=4)
    assert positions.average_price[0] == 7.0


def test_a_split_scales_lots_and_keeps_what_was_paid() -> None:
    positions = PositionManager(("A", "B"))
    positions.fill(0, 10, 100.0, fee=4.0, bar=0)
    positions.fill(1, -10, 100.0, fee=4.0, bar=0)
    positions.scale(0, 4.0)
    positions.scale(1, 0.5)
    assert positions.lots(0) == (Lot(40.0, 25.0, 0.1, 0),)
    assert positions.lots(1) == (Lot(-5.0, 200.0, 0.8, 0),)
    assert positions.average_price.tolist() == [25.0, 200.0]
    positions.fill(0, -40, 30.0, fee=0.0, bar=1)
    (trade,) = positions.trades
    assert (trade.shares, trade.entry_price, trade.entry_fee, trade.gross_pnl) == (40.0, 25.0, 4.0, 200.0)


def test_closing_all_leaves_exactly_nothing_although_the_lots_round() -> None:
    positions = PositionManager(("A",))
    for shares in (0.1, 0.2, 0.3, 1e-9):
        positions.fill(0, shares, 10.0, fee=0.01, bar=0)
    positions.fill(0, -0.15, 10.0, fee=0.0, bar=1)
    positions.fill(0, -float(positions.shares[0]), 10.0, fee=0.0, bar=2)

    assert positions.shares[0] == 0
    assert positions.lots(0) == ()
    assert math.isclose(positions.realized_fees, 0.04)


def test_without_a_record_only_the_trades_are_missing() -> None:
    positions = PositionManager(("A",), record_trades=False)
    positions.fill(0, 2, 10.0, fee=1.0, bar=0)
    positions.fill(0, -2, 15.0, fee=1.0, bar=1)

    assert positions.trades == []
    assert (positions.n_closed, positions.realized_net) == (1, 8.0)


@pytest.mark.parametrize("shares", [0.0, math.nan])
def test_a_fill_of_nothing_is_refused_and_changes_nothing(shares: float) -> None:
    positions = PositionManager(("A",))
    positions.fill(0, 3, 10.0, fee=0.0, bar=0)
    with pytest.raises(ValueError, match="fill of 'A'"):
        positions.fill(0, shares, 10.0, fee=0.0, bar=1)
    assert positions.lots(0) == (Lot(3, 10.0, 0.0, 0),)


class SingleShares:
    """The naive account: one list entry per share, long or short, in order of the fills."""

    def __init__(self) -> None:
        self.held: list[tuple[int, int, float, float]] = []  # number of the fill, side, price, fee
        self.profit = self.fees = 0.0

    def fill(self, number: int, side: int, shares: int, price: float, fee: float) -> None:
        for _ in range(shares):
            if self.held and self.held[0][1] == -side:
                _, opened, entry, entry_fee = self.held.pop(0)
                self.profit += opened * (price - entry)
                self.fees += entry_fee + fee / shares
            else:
                self.held.append((number, side, price, fee / shares))

    def lots(self) -> list[tuple[int, int, float]]:
        groups = itertools.groupby(self.held, key=lambda share: share[:3])
        return [(number, side * len(list(shares)), price) for (number, side, price), shares in groups]


prices = st.floats(0.5, 500.0)
moves = st.lists(st.tuples(st.sampled_from([1, -1]), st.integers(1, 12), prices, st.floats(0.0, 3.0)), max_size=40)


@given(moves)
def test_whole_shares_agree_with_a_list_of_single_shares(moves: list[tuple[int, int, float, float]]) -> None:
    positions, naive = PositionManager(("A",)), SingleShares()
    for number, (side, shares, price, fee) in enumerate(moves):
        positions.fill(0, side * shares, price, fee, number)
        naive.fill(number, side, shares, price, fee)
        assert [(lot.bar, lot.shares, lot.price) for lot in positions.lots(0)] == naive.lots()
        assert positions.shares[0] == sum(share[1] for share in naive.held)
    assert positions.realized_gross == pytest.approx(naive.profit, rel=1e-9, abs=1e-9)
    assert positions.realized_fees == pytest.approx(naive.fees, rel=1e-9, abs=1e-9)
    assert sum(trade.pnl for trade in positions.trades) == pytest.approx(naive.profit - naive.fees, rel=1e-9, abs=1e-8)
    assert sum(trade.gross_pnl for trade in positions.trades) == pytest.approx(naive.profit, rel=1e-9, abs=1e-8)


fractions = st.lists(
    st.tuples(st.sampled_from(["add", "reduce", "turn", "split"]), st.floats(1e-6, 1.0), prices),
    min_size=1,
    max_size=40,
)


@given(fractions)
def test_fractions_of_shares_are_neither_lost_nor_made(moves: list[tuple[str, float, float]]) -> None:
    positions = PositionManager(("A",))
    spent = 0.0  # at today's count of shares
    mark = 100.0
    for bar, (what, size, price) in enumerate(moves):
        held = float(positions.shares[0])
        if what == "split":
            positions.scale(0, 1.0 + size)
            continue
        change = {"add": size if held >= 0 else -size, "reduce": -held * size, "turn": -held * (1.0 + size)}[what]
        if change != 0:
            positions.fill(0, change, price, 0.0, bar)
            spent += change * price
        largest = max(abs(held), abs(change))
        held = float(positions.shares[0])
        assert sum(lot.shares for lot in positions.lots(0)) == pytest.approx(held, abs=1e-9 * largest)
        worth = held * mark - spent
        profit = positions.realized_gross + positions.unrealized(np.array([mark]))[0]
        assert profit == pytest.approx(worth, rel=1e-9, abs=1e-7 * (1 + largest))
    if positions.shares[0] != 0:
        positions.fill(0, -float(positions.shares[0]), mark, 0.0, 99)
    assert (positions.shares[0], positions.lots(0)) == (0.0, ())
