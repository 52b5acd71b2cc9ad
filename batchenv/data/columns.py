"""Which column of a table is which field: names and their aliases."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from batchenv.data.bars import NO_ACTION, listing
from batchenv.errors import MarketDataError

ALIASES: Mapping[str, tuple[str, ...]] = {
    "date": ("date", "datetime", "timestamp", "time", "open_time"),
    "symbol": ("symbol", "ticker", "tic", "asset"),
    "open": ("open",),
    "high": ("high",),
    "low": ("low",),
    "close": ("close", "close/last"),
    "volume": ("volume",),
    "adj_close": ("adj_close", "adjclose", "adjusted_close"),
    "dividends": ("dividends", "dividend", "dividend_amount", "divcash", "ex-dividend"),
    "splits": ("splits", "split", "stock_splits", "stock_split", "split_coefficient", "splitfactor", "split_ratio"),
}
"""Spellings of each field, folded by :func:`fold`; the first that a table has is used."""
FIELD_NAMES = frozenset(
    alias for field, aliases in ALIASES.items() if field not in ("date", "symbol") for alias in aliases
)
SYMBOL_LEVEL = frozenset({*ALIASES["symbol"], "symbols", "tickers", "assets"})
"""Names of a level of columns or of the index that holds symbols."""
FIELD_LEVEL = frozenset({"price", "field", "fields", "attribute", "attributes"})
"""Names of a level of columns that holds field names, in yfinance and pandas_datareader among others."""
EXPECTED_SHAPES = (
    "a long frame (date, symbol, open, high, low, close, volume[, adj_close, dividend, split]; date, symbol and "
    "close are required), a wide frame of closes (index = dates, columns = symbols), or a frame with 2-level columns "
    "(field, symbol)"
)
_NAMELESS = re.compile(r"(Unnamed: \d+(_level_\d+)?)?")


def fold(name: object) -> str:
    """Return a name without case, punctuation and the ``<>`` of MetaTrader and stooq."""
    text = str(name).strip()
    if text.startswith("<") and text.endswith(">"):
        text = {"<vol>": "volume", "<dtyyyymmdd>": "date"}.get(text.lower(), text[1:-1])
    return "_".join(text.lower().replace(".", " ").split())


def nameless(name: object) -> bool:
    """Return whether a column has no name of its own: none at all, or the one that pandas gives to such a column."""
    return bool(_NAMELESS.fullmatch(str(name).strip()))


def first_repeated(names: Iterable[str]) -> str | None:
    """Return the first name, by the alphabet, that stands more than once; nameless columns do not count."""
    return min((name for name, n in Counter(names).items() if n > 1 and not nameless(name)), default=None)


def resolve_columns(names: Iterable[str], source: str) -> dict[str, str]:
    """Map each field of a table to the column that holds it; case and common aliases do not matter.

    Args:
        names: Column names as the user spells them.
        source: Name of the table, for the message.

    Raises:
        MarketDataError: Two columns are spelled alike, so that either could be the field.
    """
    folded: dict[str, list[str]] = {}
    for name in names:
        folded.setdefault(fold(name), []).append(name)
    known: dict[str, str] = {}
    for field, aliases in ALIASES.items():
        spelled = [folded[alias] for alias in aliases if alias in folded]
        if field not in NO_ACTION:
            spelled = spelled[:1]  # a second date or close under another name stays the user's own column
        candidates = [name for names in spelled for name in names]
        if len(candidates) > 1:
            raise MarketDataError(f"{source}: columns {candidates} all mean {field!r}; keep one of them")
        if candidates:
            known[field] = candidates[0]
    return known


def require_columns(required: Iterable[str], known: Mapping[str, str], found: Iterable[object], source: str) -> None:
    """Check that a table has the fields that its shape needs.

    Raises:
        MarketDataError: It has not; names the field and the columns that were found.
    """
    missing = [field for field in required if field not in known]
    if missing:
        raise MarketDataError(
            f"{source}: no {missing[0]!r} column; found [{listing(list(map(str, found)), 20)}], expected "
            f"{EXPECTED_SHAPES}; columns under other names are read with columns={{'their name': {missing[0]!r}}}"
        )


def renamed(names: list[str], columns: Mapping[str, str] | tuple[str, ...], source: str) -> list[str]:
    """Return column names after the option ``columns``: new names for some, or names for all in order.

    Raises:
        MarketDataError: A name is not there, or the number of names is another.
    """
    if not isinstance(columns, Mapping):
        if len(columns) != len(names):
            raise MarketDataError(f"{source}: columns names {len(columns)} columns, and the table has {len(names)}")
        return list(columns)
    unknown = [name for name in columns if name not in names]
    if unknown:
        raise MarketDataError(
            f"{source}: columns renames {unknown[0]!r}, which the table does not have; found "
            f"[{listing(list(map(str, names)), 20)}]"
        )
    return [columns.get(name, name) for name in names]
