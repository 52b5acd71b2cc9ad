"""How a text file writes its table: encoding, separator, lines above the table, rows of header."""

from __future__ import annotations

import csv
import lzma
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from batchenv.config import DataOptions
from batchenv.data.bars import Origin
from batchenv.data.columns import ALIASES, FIELD_LEVEL, FIELD_NAMES, SYMBOL_LEVEL, fold
from batchenv.errors import MarketDataError

_MARKS = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
_SEPARATORS = (",", ";", "\t", "|")
_LINES = 25
"""Lines that are looked at."""
_HEAD = 1 << 16
_DATE = re.compile(
    r"\d{4}([-/.])\d{1,2}(\1\d{1,2}.*)?|(19|20)\d{6}([T ].*)?|\d{1,2}[-/. ]([A-Za-z]{3,9}|\d{1,2})[-/., ]+\d{2,4}.*"
    r"|[A-Za-z]{3,9} \d{1,2},? \d{4}.*|\d{9,19}(\.\d*)?"
)
"""A date of any format, or a number since 1970."""
_NUMBER = re.compile(r"[-+$]?[\d.,]*\d[\d.,]*(e[-+]?\d+)?", re.IGNORECASE)
KLINE = (
    *("open_time", "open", "high", "low", "close", "volume", "close_time", "quote_volume", "trades"),
    *("taker_buy_volume", "taker_buy_quote_volume", "ignore"),
)
"""The twelve columns of a kline, as Binance and exchanges like it give them; its files have no header."""


@dataclass(frozen=True, slots=True)
class CsvFormat:
    """How a text file writes its table.

    Attributes:
        encoding: Of the text.
        separator: Between the values of a line.
        skip: Lines above the first row of data.
        header: The rows of the header, one list of names for each level of the columns.
        decimal_commas: Whether commas stand in values that are not separated by commas.
    """

    encoding: str
    separator: str
    skip: int
    header: tuple[tuple[str, ...], ...]
    decimal_commas: bool


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file for reading, whether compressed (gz, bz2, xz, zst, lz4, zip) or not."""
    if path.suffix == ".xz":
        return lzma.open(path)
    if path.suffix == ".zip":
        archive = zipfile.ZipFile(path)
        names = archive.namelist()
        if len(names) != 1:
            raise MarketDataError(f"{path}: the archive holds {len(names)} files; expected one")
        return archive.open(names[0])
    import pyarrow as pa

    stream: IO[bytes] = pa.input_stream(str(path), compression="detect")
    return stream


def csv_format(path: Path, origin: Origin, options: DataOptions) -> CsvFormat:
    """Look at the first lines of a text file.

    Raises:
        MarketDataError: The file is empty, no text, or its lines do not make a table; says which option would read it.
    """
    text, encoding, whole = _first_lines(path, options)
    lines = text.splitlines()
    if not whole and len(lines) > 1:
        lines = lines[:-1]
    skip, separator = _above_the_table(lines, origin, options)
    lines = lines[: skip + _LINES]
    if not any(re.search(r"[^\s,;|\"]", line) for line in lines[skip:]):
        raise MarketDataError(f"{path}: cannot be read as a CSV file (it is empty)")
    separator = options.separator or separator or _separator(lines[skip:])
    rows = list(csv.reader(lines[skip:], delimiter=separator))
    if max(map(len, rows)) == 1 and options.header is None:
        raise MarketDataError(
            f"{path}: cannot be read as a CSV file: no comma, semicolon, tab or bar parts its lines (the first holds "
            f"{lines[skip][:40]!r}); state separator="
        )
    blank = next((i for i, row in enumerate(rows) if any(cell.strip() for cell in row)), 0)
    skip, rows = skip + blank, rows[blank:]
    header, n_rows = _header(rows, path, origin, options)
    commented = lines[skip - 1].lstrip("#").split(separator) if skip and lines[skip - 1].startswith("#") else []
    if not header and len(commented) == len(rows[0]):
        header = (tuple(name.strip() for name in commented),)
    if not header:
        header = (_headerless(rows, path, origin, options),)
    header = _as_wide_as_the_rows(header, rows[n_rows:], skip + n_rows + 1, path, separator)
    commas = separator != "," and any("," in cell and _NUMBER.fullmatch(cell.strip()) for row in rows for cell in row)
    return CsvFormat(encoding, separator, skip + n_rows, header, commas)


def _first_lines(path: Path, options: DataOptions) -> tuple[str, str, bool]:
    """Return the first lines, their encoding, and whether they are the whole file."""
    with open_bytes(path) as stream:
        head = stream.read(_HEAD)
        while head and head.count(b"\n") + head.count(b"\r") < 4:
            more = stream.read(len(head) * 3)
            head += more
            if not more:
                break
        whole = not stream.read(1)
    if head[:4] == b"PAR1":
        raise MarketDataError(f"{path}: this is a Parquet file; expected text (MarketData.from_parquet reads it)")
    encoding = options.encoding or next((name for mark, name in _MARKS if head.startswith(mark)), None)
    if encoding is None and b"\x00" in head:
        raise MarketDataError(
            f"{path}: cannot be read as a CSV file (it holds zero bytes); if it is UTF-16 without a byte order mark, "
            "state encoding='utf-16-le'"
        )
    encoding = encoding or "utf-8"
    try:
        text = head.decode(encoding, errors="strict" if whole else "ignore")
    except LookupError:
        raise MarketDataError(f"{path}: encoding {encoding!r} is not known; expected a name such as 'cp1252'") from None
    except UnicodeDecodeError as error:
        raise MarketDataError(
            f"{path}: cannot be read as a CSV file (byte {error.start} is not {encoding}); state encoding= with its "
            "own, such as 'cp1252' or 'utf-16'"
        ) from None
    return text, encoding, whole


def _above_the_table(lines: list[str], origin: Origin, options: DataOptions) -> tuple[int, str | None]:
    """Return how many lines stand above the table, and the separator that Excel's ``sep=`` line names."""
    skip, separator = 0, None
    while skip < len(lines):
        line = lines[skip].strip()
        below = next((text for text in lines[skip + 1 :] if text.strip() and not text.startswith("#")), "")
        named = re.fullmatch(r'"?sep=(.)"?', line)
        if named:
            separator = named[1]
        elif line.startswith("#") or not line:
            pass
        elif _is_alone(line, below, options):
            origin.note(f"line {skip + 1} stands above the table and is left out: {line[:60]!r}")
        else:
            break
        skip += 1
    return skip, separator


def _is_alone(line: str, below: str, options: DataOptions) -> bool:
    """Return whether a line is one value, and the line below it several: a title, or the address of a vendor."""
    separators = (options.separator,) if options.separator else _SEPARATORS
    return all(mark not in line for mark in separators) and any(below.count(mark) > 1 for mark in separators)


def _separator(lines: list[str]) -> str:
    """Return the one mark that parts every line into the same number of values; else that of the header."""
    lines = [line for line in lines if line.strip()]
    fits = []
    for mark in _SEPARATORS:
        if all(mark in line for line in lines):
            counts = {len(row) for row in csv.reader(lines, delimiter=mark)}
            if len(counts) == 1 and counts != {1}:
                fits.append(mark)
    in_header = [mark for mark in _SEPARATORS if mark in lines[0]]
    if len(fits) == 1:
        return fits[0]
    both = [mark for mark in fits if mark in in_header]
    return both[0] if both else in_header[0] if in_header else ","


# --- header -------------------------------------------------------------------------------------------------


def _header(
    rows: list[list[str]], path: Path, origin: Origin, options: DataOptions
) -> tuple[tuple[tuple[str, ...], ...], int]:
    """Return the names of the columns, one tuple a level, and how many rows they take; no names without a header."""
    cells = [tuple(cell.strip() for cell in row) for row in rows]
    n_rows = options.header if options.header is not None else _rows_of_header(cells)
    if n_rows > len(cells):
        raise MarketDataError(f"{path}: header={n_rows}, and the file has {len(cells)} lines")
    names = list(cells[:n_rows])
    if n_rows > 1 and names[-1] and names[-1][0] and not any(names[-1][1:]):  # the name of the index alone
        index = names.pop()[0]
        names[0] = (index, *names[0][1:]) if len(names) == 1 else names[0]
    if len(names) > 1 and options.header is None:
        origin.note(f"the header takes {n_rows} rows: {len(names)} levels of names")
    return tuple(names), n_rows


def _rows_of_header(rows: list[tuple[str, ...]]) -> int:
    """Return how many rows the header takes: 0, 1, or more where columns have several levels."""
    if any(_DATE.fullmatch(cell) for cell in rows[0]):
        return 0
    for k in (1, 2, 3):  # pandas writes the name of the index in a row of its own, below the levels of the columns
        if k < len(rows) and len(rows[k]) > 1 and fold(rows[k][0]) in ALIASES["date"] and not any(rows[k][1:]):
            return k + 1
    if len(rows) > 2 and rows[2] and len(rows[1]) > 1 and not any(_DATE.fullmatch(cell) for cell in rows[1]):
        levels = [{fold(cell) for cell in row[1:] if cell} for row in rows[:2]]
        first = fold(rows[1][0])
        names = any("close" in level and level & FIELD_NAMES for level in levels)
        if names and (not first or first in SYMBOL_LEVEL | FIELD_LEVEL) and _DATE.fullmatch(rows[2][0]):
            return 2
    return 1


def _headerless(rows: list[list[str]], path: Path, origin: Origin, options: DataOptions) -> tuple[str, ...]:
    """Return the names of a table without a header: as stated, or those of a kline.

    Raises:
        MarketDataError: It is none.
    """
    width = len(rows[0])
    if options.columns is not None and not isinstance(options.columns, dict):
        return tuple(f"column {i}" for i in range(width))  # named later, with those of every other table
    if width == len(KLINE) and all(_is_kline(row) for row in rows if row):
        origin.note(
            "the file has no header and the twelve columns of a kline: open time, open, high, low, close, volume"
        )
        return KLINE
    raise MarketDataError(
        f"{path}: the file has no header (its first line holds {', '.join(rows[0][:4])[:60]!r}); name its {width} "
        "columns, for example columns=['date', 'open', 'high', 'low', 'close', 'volume']"
    )


def _is_kline(row: list[str]) -> bool:
    try:
        start, first, high, low, last, volume, end = (float(cell) for cell in row[:7])
    except ValueError:
        return False
    return 1e11 <= start < end < start * 1.1 and low <= min(first, last) <= max(first, last) <= high and volume >= 0


def _as_wide_as_the_rows(
    header: tuple[tuple[str, ...], ...], rows: list[list[str]], line: int, path: Path, separator: str
) -> tuple[tuple[str, ...], ...]:
    """Return a header with nameless columns for what is empty at the end of every line.

    Raises:
        MarketDataError: A line has more values than the header.
    """
    width = max(len(names) for names in header)
    filled = [len(row) - next((i for i, cell in enumerate(reversed(row)) if cell.strip()), len(row)) for row in rows]
    for i, used in enumerate(filled):
        if used > width:
            hint = "; with decimal commas, part values by ';'" if separator == "," else ""
            raise MarketDataError(
                f"{path}, line {line + i}: cannot be read as a CSV file: it has {used} values, and the header "
                f"{width}{hint}"
            )
    width = max([width, *map(len, rows)])
    return tuple((*names, *[""] * (width - len(names))) for names in header)
