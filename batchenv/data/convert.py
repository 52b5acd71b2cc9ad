"""Make ``stocks.csv.gz`` from the sample data of bokeh: ``python -m batchenv.data.convert SOURCE_CSV_GZ``.

Values are carried over as text, digit by digit; only the column names and the order of rows change. The
result is the same bytes on every run with the same zlib.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import io
import sys
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
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(rows)
    # mtime=0 and no file name: a gzip header that says nothing about when and where it was written
    return gzip.compress(text.getvalue().encode("ascii"), compresslevel=9, mtime=0)


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
