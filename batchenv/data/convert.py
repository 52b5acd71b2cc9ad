"""Make ``stocks.csv.gz`` from the sample data of bokeh: ``python -m batchenv.data.convert SOURCE_CSV_GZ``.

The source's values are carried over as text, digit by digit; the column names and the order of rows change, and
two columns are added that follow from close and adj_close, ``dividend`` and ``split``. The result is the same
bytes on every run with the same zlib.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import io
import sys
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

from batchenv.errors import BatchenvError, MarketDataError

SOURCE_SHA256 = "5abadf99b2d394f920120a27de6f0df129859d71d4cfb0bf661bcc99446ab1fd"
COLUMNS = {
    "date": "Date",
    "symbol": "Ticker",
    "open": "Open",
    "high": "High",
    "low": "Low",
    "close": "Close",
    "volume": "Volume",
    "adj_close": "Adj Close",
}
"""Our column names, in order, and the source's."""

NOISE = 1e-6
"""A smaller relative change of adj_close / close is rounding: that stays below 1e-13, and dividends begin at 1e-3."""

SPLITS = sorted({Fraction(new, old) for new in range(1, 11) for old in range(1, 11)} - {Fraction(1)})
"""The ratios that count as splits, in new shares for one old."""


def convert(source: bytes) -> bytes:
    """Return the shipped file for the content of the source file.

    Args:
        source: Content of ``bokeh_sampledata/_data/stocks.csv.gz`` as in bokeh-sampledata 2026.1.

    Raises:
        MarketDataError: ``source`` is another file.
    """
    found = hashlib.sha256(source).hexdigest()
    if found != SOURCE_SHA256:
        raise MarketDataError(f"source has sha256 {found}; expected {SOURCE_SHA256} (bokeh-sampledata 2026.1)")
    table = csv.DictReader(io.StringIO(gzip.decompress(source).decode("ascii"), newline=""))
    rows = sorted(([row[name] for name in COLUMNS.values()] for row in table), key=lambda row: (row[0], row[1]))
    close, adj_close = (list(COLUMNS).index(name) for name in ("close", "adj_close"))
    for symbol in {row[1] for row in rows}:
        of_symbol = [row for row in rows if row[1] == symbol]
        actions = corporate_actions([(float(row[close]), float(row[adj_close])) for row in of_symbol])
        for row, (dividend, split) in zip(of_symbol, actions, strict=True):
            row += [f"{dividend:.12g}", str(split)]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, "dividend", "split"])
    writer.writerows(rows)
    # mtime=0 and no file name: a gzip header that says nothing about when and where it was written
    return gzip.compress(text.getvalue().encode("ascii"), compresslevel=9, mtime=0)


def corporate_actions(closes: Sequence[tuple[float, float]]) -> list[tuple[float, Fraction]]:
    """Return the dividend and the split of every bar of one symbol, as its adjusted prices imply them.

    With a = adj_close / close, the factor j = a[t] / a[t - 1] is what one share became by the corporate actions of
    bar t. It is a split of k new shares for one old where it is a ratio of whole numbers up to 10. (A split and a
    dividend on one bar, which the source does not have, would not be told apart.) What is left is a dividend d,
    reinvested at the close before, c = close[t - 1] / k: j / k = c / (c - d), so d = c * (1 - k / j).

    Args:
        closes: Pairs of close and adj_close, in currency per share, in the order of time.

    Returns:
        Pairs of dividend (currency per new share, 0 where none) and split (new shares for one old, 1 where none).
    """
    result = [(0.0, Fraction(1))]
    for (before, adjusted_before), (now, adjusted_now) in pairwise(closes):
        j = (adjusted_now / now) / (adjusted_before / before)
        split = next((ratio for ratio in SPLITS if abs(j / ratio - 1) < NOISE), Fraction(1))
        paid = abs(j / split - 1) > NOISE
        result.append((before / split * (1 - split / j) if paid else 0.0, split))
    return result


def main(arguments: list[str] | None = None) -> int:
    """Convert a file and write the sha256 of the result to stdout; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m batchenv.data.convert", description=__doc__)
    parser.add_argument("source", type=Path, metavar="SOURCE_CSV_GZ")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("stocks.csv.gz"))
    options = parser.parse_args(arguments)
    try:
        result = convert(options.source.read_bytes())
        options.output.write_bytes(result)
    except (BatchenvError, OSError) as error:
        sys.stderr.write(f"{options.source}: {error}\n")
        return 1
    sys.stdout.write(f"{hashlib.sha256(result).hexdigest()}  {options.output}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
