"""Checks of prices and volumes, and of the order of rows."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from batchenv.data.bars import PRICE_FIELDS, BoolArray, FloatArray, IntArray, Origin, TimeArray, Where, format_time
from batchenv.errors import MarketDataError


def refuse(bad: BoolArray, values: FloatArray, field: str, expected: str, where: Where) -> None:
    """Raise for the first bad element, if there is one.

    Args:
        bad: Which elements are bad.
        values: What they are.
        field: Name of the field.
        expected: What was expected, for the message.
        where: Names the element at an index.

    Raises:
        MarketDataError: An element is bad.
    """
    if bad.any():
        position = tuple(int(i) for i in np.unravel_index(int(np.argmax(bad)), bad.shape))
        raise MarketDataError(f"{where(position)}: {field} is {values[position]}; expected {expected}")


def check_bars(fields: Mapping[str, FloatArray], where: Where, *, gaps: bool) -> None:
    """Check prices and volumes, elementwise.

    Args:
        fields: float64 arrays of one shape, by field name: any of ``PRICE_FIELDS`` and ``volume``.
        where: Names the element at an index, for the message.
        gaps: Whether NaN in all price fields at once means "no bar" (else it is an error).

    Raises:
        MarketDataError: A price is not positive and finite, high is below low, or a volume is negative or
            infinite.
    """
    prices = {field: fields[field] for field in PRICE_FIELDS if field in fields}
    absent = no_price(prices) if gaps else np.False_
    expected = "a positive, finite price" + (" (or no value in any price field: no bar)" if gaps else "")
    for field, values in prices.items():
        bad = ~((values > 0) & (values < np.inf)) & ~absent
        lone = len(prices) == 1 and not gaps and bool(np.isnan(values[bad][:1]).any())
        hint = "; leave out the row where there is no bar, or state drop_empty=True" if lone else ""
        refuse(bad, values, field, expected + hint, where)
    if "high" in prices and "low" in prices:
        low, high = prices["low"], prices["high"]
        refuse(high < low * (1 - 1e-9), high, "high", "a value not below low", where)
    if "volume" in fields:
        volume = fields["volume"]
        refuse((volume < 0) | np.isinf(volume), volume, "volume", "a finite number >= 0", where)


def no_price(fields: Mapping[str, FloatArray]) -> BoolArray:
    """Return which elements have no value in any price field."""
    absent = [np.isnan(fields[field]) for field in PRICE_FIELDS if field in fields]
    return np.asarray(np.logical_and.reduce(absent), dtype=np.bool_)


def long_order(
    utc: TimeArray, codes: IntArray, where: Where, origin: Origin, *, has_symbols: bool, sort: bool | None
) -> IntArray:
    """Return the rows of a long table, symbol after symbol, each in the order of time.

    Args:
        utc: Instants, datetime64[ns] [rows].
        codes: Numbers of the symbols [rows].
        where: Names a row, for the message.
        origin: Takes the note that a table is newest first.
        has_symbols: Whether the table names its symbols.
        sort: Whether rows may stand in any order; None takes a table that is newest first throughout.

    Raises:
        MarketDataError: Two rows are for one symbol and time, or times go backwards.
    """
    order = np.argsort(codes.astype(np.int16) if codes.max(initial=0) < 2**15 else codes, kind="stable")
    forward, same = _steps(utc, codes, order)
    if not (forward | ~same).all():
        newest_first = not forward[same].any()
        backwards = order[1:][same & ~forward]
        order = np.lexsort((utc, codes))
        _, same = _steps(utc, codes, order)
        repeated = same & (utc[order][1:] == utc[order][:-1])
        if repeated.any():
            row = int(order[1:][repeated].min())
            hint = "" if has_symbols else "; there is no symbol column, so all rows count as one symbol"
            raise MarketDataError(f"{where((row,))}: duplicated date; expected one row per date and symbol" + hint)
        if sort is False or (sort is None and not newest_first):
            raise MarketDataError(
                f"{where((int(backwards.min()),))}: dates are unsorted (an earlier row of this symbol has a later "
                "date); sort the table first, frame.sort_values(['date', 'symbol']), or state sort=True"
            )
        if sort is None:
            origin.note("rows were newest first")
    return order


def _steps(utc: TimeArray, codes: IntArray, order: IntArray) -> tuple[BoolArray, BoolArray]:
    """Return for each row but the first whether its time is later than that of the row before, and of one symbol."""
    times, symbols = utc[order], codes[order]
    return times[1:] > times[:-1], symbols[1:] == symbols[:-1]


def wide_order(times: TimeArray, origin: Origin, sort: bool | None) -> IntArray:
    """Return the rows of a wide table in the order of time; see :func:`long_order`.

    Raises:
        MarketDataError: A time stands twice, or times are unsorted.
    """
    order = np.arange(len(times))
    step = np.diff(times)
    if sort or (sort is None and len(times) > 1 and (step < np.timedelta64(0)).all()):
        if (step < np.timedelta64(0)).any() and not sort:
            origin.note("rows were newest first")
        order = np.argsort(times, kind="stable")
        step = np.diff(times[order])
    for bad, fault in (
        (step == np.timedelta64(0), "duplicated date"),
        (step < np.timedelta64(0), "unsorted dates"),
    ):
        if bad.any():
            row = int(order[int(np.argmax(bad)) + 1])
            raise MarketDataError(
                f"{origin.at(row)}, date {format_time(times[row])}: {fault}; expected "
                "strictly increasing dates (sort with frame.sort_index() or sort=True, drop repeats with "
                "frame[~frame.index.duplicated()])"
            )
    return order


def repeated_columns(names: list[tuple[str, str]]) -> tuple[str, str] | None:
    """Return the first pair of labels that stands more than once."""
    again = pd.Series(names, dtype=object).duplicated()
    return names[int(np.argmax(again))] if again.any() else None
