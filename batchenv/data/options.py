"""The options of every way to load data, as keyword arguments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, TypedDict


class Options(TypedDict, total=False):
    """Keyword arguments of ``MarketData.from_frame`` and its kin; `DataOptions` says what each means."""

    calendar: Literal["daily", "intraday"] | None
    zone: str | Mapping[str, str] | None
    dates: str | None
    sort: bool | None
    drop_empty: bool | None
    shape: Literal["long", "wide"] | None
    field_level: Literal[0, 1] | None
    columns: Mapping[str, str] | Sequence[str] | None
    header: int | None
    separator: str | None
    decimal: Literal[".", ","] | None
    thousands: str | None
    missing: Sequence[str] | None
    encoding: str | None
    delisted: Iterable[str] | None
    periods_per_year: float | None
