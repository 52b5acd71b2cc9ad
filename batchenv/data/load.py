"""The one door: from whatever holds bars to validated matrices."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from batchenv.config import DataOptions
from batchenv.data.actions import finish
from batchenv.data.bars import NEAREST_DOUBLE, Bars, Origin
from batchenv.data.columns import EXPECTED_SHAPES, resolve_columns
from batchenv.data.files import read_file
from batchenv.data.frames import as_frame, flat_columns, is_fields_by_name, of_symbols, without_empty_rows
from batchenv.data.shapes import Matrices, is_long, long_matrices, two_level_matrices, wide_matrices
from batchenv.errors import MarketDataError

BUNDLED = "bundled"
"""Name of the data that are shipped with the package."""


def load_bars(source: Any, name: str, options: DataOptions, kind: str | None = None) -> Bars:
    """Return the bars of a source.

    Args:
        source: ``"bundled"``, the path of a file, a frame of any library, or a dict of frames by symbol.
        name: Name of the data in messages.
        options: How they are read, where they do not tell.
        kind: The kind of a file, "CSV", "Parquet" or "Arrow"; None goes by the end of its name.

    Raises:
        MarketDataError: The data are not usable as given; names source, row, symbol, field, value and expectation.
    """
    if isinstance(source, str) and source == BUNDLED and kind is None:
        table, origin = _read_bundled(), Origin(name)
    elif isinstance(source, (str, Path)):
        table, origin = read_file(source, name, options, kind)
    elif isinstance(source, Mapping):
        return _of_mapping(source, Origin(name), options)
    else:
        origin = Origin(name)
        table = as_frame(source, name)
    return _enough(finish(_matrices(table, origin, options), options, origin), name)


def _matrices(frame: pd.DataFrame, origin: Origin, options: DataOptions) -> Matrices:
    """Recognise the shape of a frame."""
    if frame.shape[0] == 0 or frame.shape[1] == 0:
        raise MarketDataError(f"{origin.name}: the table is empty; expected {EXPECTED_SHAPES}")
    if isinstance(frame.columns, pd.MultiIndex):
        return two_level_matrices(frame, origin, options)
    columns = without_empty_rows(flat_columns(frame, origin, options))
    known = resolve_columns(columns, origin.name)
    if is_long(columns, known, origin, options):
        return long_matrices(columns, known, None, origin, options)
    return wide_matrices(columns, known, origin, options)


def _of_mapping(tables: Mapping[Any, Any], origin: Origin, options: DataOptions) -> Bars:
    """Return the bars of frames by symbol, or of wide frames by field."""
    if not tables:
        raise MarketDataError(f"{origin.name}: the dict is empty; expected frames by symbol")
    frames = {key: as_frame(table, f"{origin.name}, symbol {str(key)!r}") for key, table in tables.items()}
    if is_fields_by_name(frames):
        joined = pd.concat(frames, axis="columns", sort=True)
        return _enough(finish(two_level_matrices(joined, origin, options), options, origin), origin.name)
    columns, stamps = of_symbols(frames, origin, options)
    known = resolve_columns(columns, origin.name)
    table = long_matrices(columns, known, stamps, origin, options)
    return _enough(finish(table, options, origin), origin.name)


def _enough(bars: Bars, name: str) -> Bars:
    if len(bars.timestamps) < 2:
        raise MarketDataError(f"{name}: the table has {len(bars.timestamps)} bar; at least 2 are needed")
    return bars


def _read_bundled() -> pd.DataFrame:
    """Read the daily bars shipped with the package; see ``batchenv/data/PROVENANCE.md``."""
    from importlib import resources

    content = resources.files("batchenv.data").joinpath("stocks.csv.gz").read_bytes()
    frame: pd.DataFrame = pd.read_csv(
        io.BytesIO(content), compression="gzip", dtype={"date": str, "symbol": str}, **NEAREST_DOUBLE
    )
    return frame
