"""Numbers, however a table writes them: floats, decimals, text with thousands separators or decimal commas."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from batchenv.config import DataOptions
from batchenv.data.bars import BoolArray, FloatArray, Origin, Where
from batchenv.errors import MarketDataError

MISSING_TEXTS = (
    *("", "NA", "N/A", "n/a", "na", "#N/A", "#N/A N/A", "<NA>", "NaN", "nan", "-NaN", "-nan", "NaT", "NULL", "Null"),
    *("null", "None", "none", ".", "-", "--", "\N{EN DASH}", "\N{EM DASH}"),
)
"""Texts that say that there is no value."""
_MONEY = re.compile("[$\N{EURO SIGN}\N{POUND SIGN}\N{YEN SIGN}\N{INDIAN RUPEE SIGN}]")
_SPACES = "[ \N{NO-BREAK SPACE}\N{NARROW NO-BREAK SPACE}'\N{RIGHT SINGLE QUOTATION MARK}]"
"""Marks between thousands that no language uses as a decimal mark."""
_MULTIPLES = {"K": 1e3, "M": 1e6, "B": 1e9}
"""Letters after a number, as vendors write volumes."""
_ENOUGH = 10_000
"""Texts of a column that are looked at once the decimal mark is known."""
_MOSTLY = 0.5
"""A text column with more numbers than this is taken for one of numbers, in which some are written wrongly."""


@dataclass(frozen=True, slots=True)
class NumberFormat:
    """How text writes numbers.

    Attributes:
        decimal: The decimal mark.
        thousands: The mark between thousands; empty for none.
        missing: Texts that say that there is no value.
    """

    decimal: str = "."
    thousands: str = ""
    missing: frozenset[str] = frozenset(MISSING_TEXTS)

    def parse(self, text: pd.Series[Any]) -> pd.Series[Any]:
        """Return numbers, NaN for what is none.

        Args:
            text: Stripped text without missing values.
        """
        if self.decimal == "." and not self.thousands:
            plain = pd.to_numeric(text, errors="coerce")
            if not plain.isna().any():
                return plain
        bare = text.str.replace(_MONEY, "", regex=True).str.strip().str.replace("\N{MINUS SIGN}", "-")
        times = bare.str[-1:].map(_MULTIPLES).fillna(1.0)
        bare = bare.where(times == 1.0, bare.str[:-1])
        marks = rf"{_SPACES}|{re.escape(self.thousands)}" if self.thousands else _SPACES
        whole = rf"(?:\d+|\d{{1,3}}(?:(?:{marks})\d{{3}})+)"
        number = rf"[+-]?(?:{whole}(?:{re.escape(self.decimal)}\d*)?|{re.escape(self.decimal)}\d+)(?:[eE][+-]?\d+)?"
        digits = bare.str.replace(marks, "", regex=True).str.replace(self.decimal, ".", regex=False)
        return pd.to_numeric(digits.where(bare.str.fullmatch(number)), errors="coerce") * times


def is_number(dtype: Any) -> bool:
    """Return whether a dtype holds numbers that a float64 can: no text, times, objects or complex numbers."""
    return bool(pd.api.types.is_numeric_dtype(dtype)) and dtype.kind != "c"


def is_text(series: pd.Series[Any]) -> bool:
    """Return whether a column is all text, but for missing values."""
    return pd.api.types.infer_dtype(series, skipna=True) == "string"


def number_format(columns: Iterable[tuple[str, pd.Series[Any]]], options: DataOptions, origin: Origin) -> NumberFormat:
    """Return how the text columns of a table write numbers.

    One table has one decimal mark. ``1,234.50`` and ``1,234,567`` show that it is a point, ``12,5`` and ``1.234,5``
    that it is a comma. ``1,234`` alone shows neither.

    Args:
        columns: Names and values of the columns that are text and should hold numbers.
        options: What the user states.
        origin: Names the table in messages.

    Raises:
        MarketDataError: Two numbers show different marks, or a comma stands where it may be either.
    """
    missing = frozenset((*MISSING_TEXTS, *(options.missing or ())))
    if options.decimal is not None or options.thousands is not None:
        decimal = options.decimal or ("," if options.thousands == "." else ".")
        other = "." if decimal == "," else ""  # with a decimal comma, a point can only stand between thousands
        return NumberFormat(decimal, options.thousands or other, missing)
    shown: dict[str, str] = {}
    unclear: dict[str, str] = {}
    for name, column in columns:
        texts = column.dropna().drop_duplicates().astype(str).str.strip()
        texts = texts[texts.str.contains(r"[.,]") & texts.str.contains(r"\d")]
        bare = texts.str.replace(_MONEY, "", regex=True).str.replace(_SPACES, "", regex=True)
        for i, text in enumerate(bare):
            if shown and i > _ENOUGH:
                break  # what is written otherwise further down is no number then, and is refused
            mark, certain = _decimal_mark(text)
            if certain:
                shown.setdefault(mark, f"{text!r} in {name!r}")
            elif mark:
                unclear.setdefault(mark, f"{text!r} in {name!r}")
        if len(shown) > 1:
            break
    if len(shown) > 1:
        raise MarketDataError(
            f"{origin.name}: {shown['.']} has a decimal point, {shown[',']} has a decimal comma; expected one decimal "
            "mark in a table"
        )
    if not shown and "," in unclear:
        raise MarketDataError(
            f"{origin.name}: {unclear[',']} may be a number with a decimal comma or one with thousands; state "
            "decimal=',' or thousands=','"
        )
    if "," in shown:
        origin.note(f"numbers have decimal commas, as {shown[',']} shows")
        return NumberFormat(",", ".", missing)
    return NumberFormat(".", "," if shown or "," in unclear else "", missing)


def _decimal_mark(text: str) -> tuple[str, bool]:
    """Return the decimal mark that a number shows, and whether it is certain; no mark where it is no number."""
    marks = re.sub(r"[^.,]", "", text)
    if len(set(marks)) == 2:
        thousands, decimal = marks[0], marks[-1]
        return (decimal, True) if _grouped(thousands, rf"\{decimal}\d*", text) else ("", False)
    if len(marks) > 1:
        return ("." if marks[0] == "," else ",", True) if _grouped(marks[0], "", text) else ("", False)
    if not re.fullmatch(r"[+-]?(\d+[.,]\d*|[.,]\d+)([eE][+-]?\d+)?", text):
        return "", False
    return marks, not _grouped(marks, "", text) or text.lstrip("+-").startswith("0")


def _grouped(thousands: str, end: str, text: str) -> bool:
    return bool(re.fullmatch(rf"[+-]?\d{{1,3}}(\{thousands}\d{{3}})+{end}", text))


def read_numbers(
    series: pd.Series[Any], field: str, written: NumberFormat, where: Where, column: int | None = None
) -> FloatArray:
    """Return a column as float64 [rows], NaN for missing values.

    Args:
        series: Numbers of any kind, or text.
        field: Name of the field, for the message.
        written: How text writes numbers.
        where: Names the element at an index, for the message.
        column: The second index of the elements; None where there is one index.

    Raises:
        MarketDataError: A value is no number: text, a date, a truth value or another object.
    """
    if series.dtype.kind == "f" and isinstance(series.dtype, np.dtype):
        return np.asarray(series.to_numpy(dtype=np.float64))
    values, bad = _convert(series, written)
    if bad.any():
        row = int(np.argmax(bad))
        value = series.iloc[row]
        comma = isinstance(value, str) and re.search(r"\d,\d", value)
        hint = " (state decimal=',' or thousands=',' if it is one)" if comma else ""
        place = where((row,) if column is None else (row, column))
        raise MarketDataError(f"{place}: {field} is {value!r}; expected a number{hint}")
    return values


def _convert(series: pd.Series[Any], written: NumberFormat) -> tuple[FloatArray, BoolArray]:
    """Return float64 [rows], and which values are there and are no numbers, bool [rows]."""
    if is_number(series.dtype) and series.dtype.kind != "b":
        return np.asarray(series.to_numpy(dtype=np.float64, na_value=np.nan)), np.zeros(len(series), np.bool_)
    present = series.notna().to_numpy()
    if series.dtype.kind in "mMb":  # these would convert, to nonsense
        return np.full(len(series), np.nan), present
    if series.dtype.kind == "c":
        complexes = series.to_numpy()
        values = np.where(complexes.imag == 0, complexes.real, np.nan)
        return values, present & np.isnan(values)
    if isinstance(series.dtype, pd.CategoricalDtype) or is_text(series):
        codes, distinct = pd.factorize(series)  # texts repeat, in a column that is none of numbers above all
        values, wrong = _convert_objects(pd.Series(distinct, dtype=object), written)
        return np.append(values, np.nan)[codes], np.append(wrong, False)[codes]
    return _convert_objects(series.astype(object), written)


def _convert_objects(series: pd.Series[Any], written: NumberFormat) -> tuple[FloatArray, BoolArray]:
    present = series.notna().to_numpy()
    text = present & np.fromiter((isinstance(value, str) for value in series), np.bool_, len(series))
    values = np.full(len(series), np.nan)
    values[present & ~text] = [_float_of(value) for value in series[present & ~text]]
    wrong = present & np.isnan(values)
    stripped = series[text].astype(str).str.strip()
    none = stripped.isin(written.missing).to_numpy()
    spelled = np.flatnonzero(text)[~none]
    values[spelled] = written.parse(stripped[~none]).to_numpy(dtype=np.float64, na_value=np.nan)
    wrong[text] = ~none & np.isnan(values[text])
    return values, wrong


def _float_of(value: Any) -> float:
    """Return a Decimal, Fraction or number of any library as a float; NaN where it is no number."""
    if isinstance(value, (bool, np.bool_)):
        return float("nan")
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return float("nan")


def extra_numbers(
    series: pd.Series[Any], name: str, written: NumberFormat, where: Where, origin: Origin, column: int | None = None
) -> FloatArray | None:
    """Return one of the user's own columns as float64 [rows]; None, with a note, where it does not hold numbers.

    Raises:
        MarketDataError: Most values are numbers, and some are not.
    """
    if is_number(series.dtype):
        return np.asarray(series.to_numpy(dtype=np.float64, na_value=np.nan))
    values, wrong = _convert(series, written)
    numbers = int((~np.isnan(values)).sum())
    if not wrong.any() and (numbers or series.isna().all()):
        return values
    if numbers > _MOSTLY * (numbers + int(wrong.sum())):
        read_numbers(series, name, written, where, column)  # raises, naming the first that is no number
    origin.note(f"column {name!r} holds {_kind(series)} and is not used")
    return None


def _kind(series: pd.Series[Any]) -> str:
    if series.dtype.kind in "mM":
        return "times"
    return "text" if is_text(series) or isinstance(series.dtype, pd.CategoricalDtype) else "no numbers"


def texts_among(columns: Iterable[tuple[str, pd.Series[Any]]]) -> Sequence[tuple[str, pd.Series[Any]]]:
    """Return those columns that are text; a categorical column by its categories."""
    found = []
    for name, column in columns:
        series = pd.Series(column.cat.categories) if isinstance(column.dtype, pd.CategoricalDtype) else column
        if not is_number(series.dtype) and series.dtype.kind not in "mM" and is_text(series):
            found.append((name, series))
    return found
