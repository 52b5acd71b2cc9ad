"""Files of market data, CSV, Parquet and Arrow, as pandas frames."""

from __future__ import annotations

import csv
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pandas as pd

from batchenv.config import DataOptions
from batchenv.data.bars import NEAREST_DOUBLE, Origin
from batchenv.data.columns import first_repeated, fold, renamed, resolve_columns
from batchenv.data.csv_format import CsvFormat, csv_format, open_bytes
from batchenv.data.numbers import MISSING_TEXTS, is_number
from batchenv.errors import MarketDataError

_PARSER_FAILURES = (
    OSError,
    ValueError,
    EOFError,
    ImportError,
    NotImplementedError,
    zlib.error,
    zipfile.BadZipFile,
    csv.Error,
    pd.errors.ParserWarning,
)
PARQUET = (".parquet", ".pq", ".parq")
ARROW = (".feather", ".arrow", ".ipc")
_OTHER = {".xlsx": "read_excel", ".xls": "read_excel", ".json": "read_json", ".h5": "read_hdf", ".pkl": "read_pickle"}


def read_file(
    path: str | Path, name: str, options: DataOptions, kind: str | None = None
) -> tuple[pd.DataFrame, Origin]:
    """Read a file by its kind.

    Args:
        path: The file.
        name: Its name in messages.
        options: How it is read.
        kind: "CSV", "Parquet" or "Arrow"; None goes by the end of its name.

    Returns:
        The table, and how to name its rows.

    Raises:
        MarketDataError: The file is missing, unreadable, empty, or of a kind that is not read.
    """
    path = Path(path)
    kind = kind or ("Parquet" if path.suffix in PARQUET else "Arrow" if path.suffix in ARROW else "CSV")
    try:
        if path.is_dir():
            raise MarketDataError(f"{path}: this is a folder; expected a {kind} file of market data")
        if path.suffix in _OTHER:
            raise MarketDataError(
                f"{path}: files of this kind are not read; read it with pandas.{_OTHER[path.suffix]} and use "
                "MarketData.from_frame"
            )
        if kind == "CSV":
            return _read_csv(path, name, options)
        return (pd.read_parquet(path) if kind == "Parquet" else pd.read_feather(path)), Origin(name)
    except MarketDataError:
        raise
    except _PARSER_FAILURES as error:
        raise MarketDataError(_unreadable(path, kind, error)) from error


def _unreadable(path: Path, kind: str, error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{path}: no such file; expected a {kind} file of market data"
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"{path}: cannot be read as {'an' if kind == 'Arrow' else 'a'} {kind} file ({reason})"


# --- CSV ----------------------------------------------------------------------------------------------------


def _read_csv(path: Path, name: str, options: DataOptions) -> tuple[pd.DataFrame, Origin]:
    """Read a CSV file (plain or compressed) without guessing at symbols or dates.

    Tickers stay text (``NA`` and ``000001`` survive), dates stay text until they are checked, and floats are
    parsed to the nearest double.
    """
    if not path.exists():
        raise FileNotFoundError(path)
    origin = Origin(name)
    form = csv_format(path, origin, options)
    origin = Origin(name, form.skip + 1, origin.notes)
    names = list(form.header[0])
    if options.columns is not None and len(form.header) == 1:
        names = renamed(names, options.columns, name)
    if len(form.header) == 1:
        repeated = first_repeated(names)
        if repeated is not None:
            raise MarketDataError(
                f"{path}: column {repeated!r} appears more than once; expected each once, or a header of two rows with "
                "fields and symbols"
            )
    texts, symbol = _text_columns(names, len(form.header), name)
    everything = form.decimal_commas or options.decimal == "," or options.thousands == "."
    frame = _parse(path, form, options, set(range(len(names))) if everything else texts, symbol)
    if not everything and _writes_numbers_as_text(frame, texts):
        frame = _parse(path, form, options, set(range(len(names))), symbol)
    if len(form.header) == 1:
        frame.columns = pd.Index(list(form.header[0]))
        return frame, origin
    frame = frame.set_index(0)
    frame.index.name = "date"
    frame.columns = pd.MultiIndex.from_arrays([list(row[1:]) for row in form.header], names=_level_names(form))
    return frame, origin


def _level_names(form: CsvFormat) -> list[str | None]:
    """Return the names of the levels of the columns, which pandas writes in front of them."""
    return [row[0] or None for row in form.header]


def _text_columns(names: list[str], levels: int, source: str) -> tuple[set[int], bool]:
    """Return which columns stay text, dates, times of day and symbols, and whether there are symbols among them."""
    if levels > 1:
        return {0}, False
    known = resolve_columns(names, source)
    symbol = "symbol" in known and "close" in known
    texts = {known[field] for field in ("date", "symbol") if field in known and (field == "date" or symbol)}
    if "date" in known:
        texts |= {name for name in names if fold(name) == "time"}
    else:
        texts.add(names[0])
    return {i for i, name in enumerate(names) if name in texts}, symbol


def _parse(path: Path, form: CsvFormat, options: DataOptions, texts: set[int], symbol: bool) -> pd.DataFrame:
    width = len(form.header[0])
    none = [*MISSING_TEXTS, *(options.missing or ())]
    # a symbol may be called NA; one list for all columns is quicker where there is no such column
    none_texts: Any = {i: none for i in range(width) if i not in texts} if symbol or len(texts) == width else none
    plain = path.suffix not in (".gz", ".bz2", ".xz", ".zip", ".zst", ".lz4")
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # a row longer than the header is cut off
        source: Any = path if plain else open_bytes(path)
        try:
            frame: pd.DataFrame = pd.read_csv(
                source,
                header=None,
                names=range(width),
                skiprows=form.skip,
                sep=form.separator,
                encoding=form.encoding,
                index_col=False,
                dtype=dict.fromkeys(texts, str),
                keep_default_na=False,
                na_values=none_texts,
                low_memory=False,
                **NEAREST_DOUBLE,
            )
            return frame
        finally:
            if not plain:
                source.close()


def _writes_numbers_as_text(frame: pd.DataFrame, texts: set[int]) -> bool:
    """Return whether a column that is text holds numbers with commas: then all of the table is read by that format."""
    for i, dtype in enumerate(frame.dtypes):
        if i not in texts and not is_number(dtype):
            column = frame.iloc[:, i].dropna().astype(str)
            if column.str.fullmatch(r"\s*[-+$]?[\d.]*\d,[\d.,]*\d\s*").any():
                return True
    return False
