"""Files that people have: what is read as it is, what by an option, and what is refused with the cause named."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from batchenv import MarketData
from batchenv.config import DataConfig
from batchenv.errors import ConfigError, MarketDataError
from batchenv.train import load_market

DAYS = ["2024-01-02", "2024-01-03", "2024-01-04"]
CLOSE = [100.5, 101.25, 99.75]


class File(NamedTuple):
    """One file: its content, the options that it needs, and what comes out.

    Attributes:
        text: What it holds.
        options: Stated by the user.
        refused: Pattern of the message without the options; None where it is read as it is.
        closes: Closes by symbol; None where no option reads the file.
        volume: Volumes of the first symbol, where they are checked.
        times: Times of the bars.
        note: Part of a note, where one is expected.
    """

    text: str | bytes
    options: Mapping[str, Any] = MappingProxyType({})
    refused: str | None = None
    closes: Mapping[str, list[float]] | None = MappingProxyType({"ASSET": CLOSE})
    volume: list[float] | None = None
    times: list[str] = DAYS
    note: str | None = None


def lines(*rows: str) -> str:
    return "\n".join(rows) + "\n"


def rows(form: str) -> list[str]:
    """One line for each bar, with its date ``{d}`` and close ``{c}``."""
    return [form.format(d=d, c=c) for d, c in zip(DAYS, CLOSE, strict=True)]


def epochs(scale: int) -> list[int]:
    return [int(pd.Timestamp(day).timestamp()) * scale for day in DAYS]


def kline(scale: int = 1000, day: int = 0) -> str:
    start = epochs(scale)[day]
    close = CLOSE[day]
    return f"{start},100.0,{close + 2},98.0,{close},12.5,{start + 86400 * scale - 1},1250.0,77,6.0,600.0,0"


YFINANCE = pd.concat(
    {
        "Close": pd.DataFrame({"AAA": CLOSE, "BBB": [9.0, 9.5, 9.25]}),
        "Volume": pd.DataFrame({"AAA": [7, 8, 9], "BBB": [1, 2, 3]}),
    },
    axis=1,
    names=["Price", "Ticker"],
).set_axis(pd.DatetimeIndex(DAYS, name="Date"))
FAILED = YFINANCE.astype(float)
FAILED.loc[:, (slice(None), "BBB")] = np.nan
ONE = YFINANCE.loc[:, (slice(None), ["AAA"])]
TWO = {"AAA": CLOSE, "BBB": [9.0, 9.5, 9.25]}

FILES: dict[str, File] = {
    "plain": File(lines("date,close,volume", *rows("{d},{c},7"))),
    # --- yfinance ---
    "yfinance of several tickers": File(
        YFINANCE.to_csv(), closes=TWO, volume=[7, 8, 9], note="the header takes 3 rows"
    ),
    "yfinance of one ticker": File(ONE.to_csv(), closes={"AAA": CLOSE}, volume=[7, 8, 9]),
    "yfinance grouped by ticker": File(YFINANCE.swaplevel(axis=1).sort_index(axis=1).to_csv(), closes=TWO),
    "yfinance without the name of the index": File(YFINANCE.rename_axis(index=None).to_csv(), closes=TWO),
    "two levels without names": File(YFINANCE.rename_axis(index=None, columns=[None, None]).to_csv(), closes=TWO),
    "two levels with the index reset": File(YFINANCE.reset_index().to_csv(index=False), closes=TWO),
    "yfinance with a numeric ticker": File(
        ONE.rename(columns={"AAA": "7203"}, level=1).to_csv(), closes={"7203": CLOSE}
    ),
    "two rows of header as stated": File(YFINANCE.to_csv(), options={"header": 3}, closes=TWO),
    "a ticker that failed": File(
        FAILED.to_csv(),
        refused=r"symbol 'BBB' has no close at all; a ticker whose download failed looks like this in yfinance",
        options={"drop_empty": True},
        closes={"AAA": CLOSE},
        note="symbols without any close are left out: 'BBB'",
    ),
    # --- order ---
    "newest first": File(
        lines("date,close", *reversed(rows("{d},{c}"))),
        note="rows were newest first",
    ),
    "newest first, wide": File(
        lines("date,A,B", *reversed(rows("{d},{c},5"))),
        closes={"A": CLOSE, "B": [5, 5, 5]},
        note="rows were newest first",
    ),
    "newest first, long": File(
        lines(
            "date,symbol,close",
            *(f"{d},{s},{c}" for d, c in reversed(list(zip(DAYS, CLOSE, strict=True))) for s in "BA"),
        ),
        closes={"A": CLOSE, "B": CLOSE},
        note="rows were newest first",
    ),
    "any order": File(
        lines("date,close", "2024-01-03,101.25", "2024-01-02,100.5", "2024-01-04,99.75"),
        refused=r"line 3, symbol 'ASSET', date 2024-01-02: dates are unsorted.*sort=True",
        options={"sort": True},
    ),
    "newest first, refused as stated": File(
        lines("date,close", "2024-01-04,1", "2024-01-03,1"), options={"sort": False}, closes=None, refused=None
    ),
    # --- dates ---
    **{
        f"epoch {unit}": File(
            lines("timestamp,close", *(f"{t},{c}" for t, c in zip(epochs(scale), CLOSE, strict=True))),
            note=f"{name} since 1970, by their magnitude",
        )
        for unit, scale, name in (
            ("s", 1, "seconds"),
            ("ms", 10**3, "milliseconds"),
            ("us", 10**6, "microseconds"),
            ("ns", 10**9, "nanoseconds"),
        )
    },
    "epoch as stated": File(
        lines("timestamp,close", *(f"{t},{c}" for t, c in zip(epochs(1), CLOSE, strict=True))), options={"dates": "s"}
    ),
    "epoch of the 1960s": File(
        lines("timestamp,close", "-86400,100.5", "0,101.25", "86400,99.75"),
        refused=r"dates in 'timestamp' are numbers \(such as -86400\).*state dates= with a unit",
        options={"dates": "s"},
        times=["1969-12-31", "1970-01-01", "1970-01-02"],
    ),
    "epoch seconds with fractions": File(
        lines("timestamp,close", *(f"{t}.0,{c}" for t, c in zip(epochs(1), CLOSE, strict=True)))
    ),
    "compact dates": File(
        lines("date,close", *(f"{d.replace('-', '')},{c}" for d, c in zip(DAYS, CLOSE, strict=True)))
    ),
    "ISO with T and Z": File(lines("date,close", *rows("{d}T00:00:00Z,{c}"))),
    "ISO and UTC in letters": File(lines("date,close", *rows("{d} 00:00:00 UTC,{c}"))),
    "year first with slashes": File(
        lines("date,close", *(f"{d.replace('-', '/')},{c}" for d, c in zip(DAYS, CLOSE, strict=True)))
    ),
    "month by name": File(lines("date,close", "02-Jan-2024,100.5", "03-Jan-2024,101.25", "04-Jan-2024,99.75")),
    "month by name, American": File(
        lines("date,close", '"Jan 2, 2024",100.5', '"Jan 3, 2024",101.25', '"Jan 4, 2024",99.75')
    ),
    "day and month either way": File(
        lines("date,close", "02/01/2024,100.5", "03/01/2024,101.25", "04/01/2024,99.75"),
        refused=r"line 2: 'date' is '02/01/2024', which is one day to some readers.*dates='%d/%m/%Y'",
        options={"dates": "%d/%m/%Y"},
    ),
    "month first as stated": File(
        lines("date,close", "01/02/2024,100.5", "01/03/2024,101.25", "01/04/2024,99.75"),
        refused=r"one day to some readers.*dates='%m/%d/%Y'",
        options={"dates": "%m/%d/%Y"},
    ),
    "days above 12": File(
        lines("date,close", "11/01/2024,100.5", "12/01/2024,101.25", "15/01/2024,99.75"),
        times=["2024-01-11", "2024-01-12", "2024-01-15"],
        note=r"read as '%d/%m/%Y', since line 4 (15/01/2024) leaves no other reading",
    ),
    "two digits of the year": File(
        lines("date,close", "02-Jan-24,100.5", "03-Jan-24,101.25", "04-Jan-24,99.75"),
        refused=r"line 2: 'date' is '02-Jan-24'; expected a date in ISO 8601.*dates=",
        options={"dates": "%d-%b-%y"},
    ),
    "serial days of a spreadsheet": File(
        lines("date,close", "45293,100.5", "45294,101.25"), refused=r"numbers \(such as 45293\)", closes=None
    ),
    "hours in ten digits": File(
        lines("date,close", "2024010200,100.5", "2024010300,101.25", "2024010400,99.75"),
        refused=r"'2024010200', which may be a time as '%Y%m%d%H' writes it or a number since 1970",
        options={"dates": "%Y%m%d%H"},
    ),
    "minutes in twelve digits": File(
        lines("date,close", "202401020000,100.5", "202401030000,101.25", "202401040000,99.75"),
        refused=r"may be a time as '%Y%m%d%H%M'",
        options={"dates": "%Y%m%d%H%M"},
    ),
    "seconds in fourteen digits": File(
        lines("date,close", "20240102000000,100.5", "20240103000000,101.25", "20240104000000,99.75")
    ),
    # --- date and time in two columns ---
    "date and time": File(
        lines("date,time,close", "2024-01-02,09:30,100.5", "2024-01-02,10:30,101.25", "2024-01-02,11:30:00,99.75"),
        times=["2024-01-02 09:30", "2024-01-02 10:30", "2024-01-02 11:30"],
    ),
    "MetaTrader 5": File(
        "<DATE>\t<TIME>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>\t<TICKVOL>\t<VOL>\t<SPREAD>\r\n"
        "2024.01.02\t09:00:00\t100\t102\t98\t100.5\t11\t7\t2\r\n"
        "2024.01.02\t10:00:00\t100\t102\t98\t101.25\t12\t8\t2\r\n"
        "2024.01.02\t11:00:00\t100\t102\t98\t99.75\t13\t9\t2\r\n",
        volume=[7, 8, 9],
        times=["2024-01-02 09:00", "2024-01-02 10:00", "2024-01-02 11:00"],
    ),
    "stooq, daily": File(
        lines(
            "<TICKER>,<PER>,<DATE>,<TIME>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<VOL>,<OPENINT>",
            *(f"AAA.US,D,{d.replace('-', '')},000000,100,102,98,{c},7,0" for d, c in zip(DAYS, CLOSE, strict=True)),
        ),
        closes={"AAA.US": CLOSE},
        note="column '<PER>' holds text and is not used",
    ),
    "stooq, intraday": File(
        lines(
            "<TICKER>,<PER>,<DATE>,<TIME>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<VOL>,<OPENINT>",
            *(f"AAA.US,60,20240102,{9 + i:02d}0000,100,102,98,{c},7,0" for i, c in enumerate(CLOSE)),
        ),
        closes={"AAA.US": CLOSE},
        times=["2024-01-02 09:00", "2024-01-02 10:00", "2024-01-02 11:00"],
    ),
    # --- klines ---
    "kline, milliseconds": File(
        lines(*(kline(1000, i) for i in range(3))), volume=[12.5] * 3, note="twelve columns of a kline"
    ),
    "kline, microseconds": File(lines(*(kline(10**6, i) for i in range(3)))),
    "kline, milliseconds then microseconds": File(
        lines(kline(1000, 0), kline(10**6, 1), kline(10**6, 2)), note="microseconds since 1970"
    ),
    "kline with a header": File(
        lines(
            "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume,ignore",
            *(kline(1000, i) for i in range(3)),
        )
    ),
    "no header": File(
        lines(*rows("{d},100,102,98,{c},7")),
        refused=r"the file has no header \(its first line holds '2024-01-02, 100, 102, 98'\); name its 6 columns",
        options={"columns": ["date", "open", "high", "low", "close", "volume"]},
        volume=[7, 7, 7],
    ),
    # --- numbers ---
    "decimal commas": File(
        lines(
            "date;open;high;low;close;volume",
            "2024-01-02;100,25;102,5;98,0;100,5;1.000.000",
            "2024-01-03;100,25;102,5;98,0;101,25;2.000",
            "2024-01-04;100,25;102,5;98,0;99,75;3",
        ),
        volume=[1e6, 2000, 3],
        note="numbers have decimal commas",
    ),
    "decimal commas between quotes": File(
        lines("date,close,volume", '2024-01-02,"100,5",1.234', '2024-01-03,"101,25",2.345', '2024-01-04,"99,75",3'),
        volume=[1234, 2345, 3],
        note="numbers have decimal commas",
    ),
    "decimal commas with three digits alone": File(
        lines("date;close", "2024-01-02;100,500", "2024-01-03;101,250", "2024-01-04;99,750"),
        refused=r"'100,500' in 'close' may be a number with a decimal comma or one with thousands",
        options={"decimal": ","},
    ),
    "thousands and points": File(
        lines(
            "date,close,volume", '2024-01-02,100.5,"1,234"', '2024-01-03,101.25,"1,234,567"', '2024-01-04,99.75,"999"'
        ),
        volume=[1234, 1234567, 999],
    ),
    "thousands alone": File(
        lines("date,close", '2024-01-02,"100,500"', '2024-01-03,"101,250"', '2024-01-04,"99,750"'),
        refused=r"'100,500' in 'close' may be",
        options={"thousands": ","},
        closes={"ASSET": [100500, 101250, 99750]},
    ),
    "a price above a thousand in a later line": File(
        lines("date,close", "2024-01-02,998.5", '2024-01-03,"1,001.25"', "2024-01-04,999.75"),
        closes={"ASSET": [998.5, 1001.25, 999.75]},
    ),
    "spaces between thousands": File(
        lines("date;close;volume", "2024-01-02;100,5;1 234 567", "2024-01-03;101,25;1\u00a0234", "2024-01-04;99,75;7"),
        volume=[1234567, 1234, 7],
    ),
    "apostrophes between thousands": File(
        lines("date,close,volume", "2024-01-02,100.5,1'234'567", "2024-01-03,101.25,1'234", "2024-01-04,99.75,7"),
        volume=[1234567, 1234, 7],
    ),
    "dollars": File(
        lines("Date,Last,Volume", "2024-01-02,$100.50,7", "2024-01-03,$101.25,8", "2024-01-04,$99.75,9"),
        refused=r"no 'close' column; found \['Date', 'Last', 'Volume'\].*columns=\{'their name': 'close'\}",
        options={"columns": {"Last": "close"}},
        volume=[7, 8, 9],
    ),
    "Nasdaq": File(
        lines(
            "Date,Close/Last,Volume,Open,High,Low", "01/16/2024,$100.50,7,$1,$101,$1", "01/12/2024,$101.25,8,$1,$102,$1"
        ),
        closes={"ASSET": [101.25, 100.5]},
        volume=[8, 7],
        times=["2024-01-12", "2024-01-16"],
        note="rows were newest first",
    ),
    "both decimal marks": File(
        lines("date;close;volume", "2024-01-02;100,5;7.5", "2024-01-03;101,25;8.5"),
        refused=r"'7.5' in 'volume' has a decimal point, '100,5' in 'close' has a decimal comma",
        closes=None,
    ),
    "one comma among points": File(
        lines("date,close", "2024-01-02,100.5", '2024-01-03,"101,25"'),
        refused=r"'100.5' in 'close' has a decimal point, '101,25' in 'close' has a decimal comma",
        closes=None,
    ),
    "groups that are none": File(
        lines("date,close", '2024-01-02,"1,00,500.5"', "2024-01-03,1.5"),
        refused=r"line 2.*close is '1,00,500.5'; expected a number",
        closes=None,
    ),
    # --- none ---
    **{
        f"{text!r} for none, wide": File(
            lines("date,A,B", "2024-01-02,100.5,5", f"2024-01-03,101.25,{text}", "2024-01-04,99.75,6"),
            closes={"A": CLOSE, "B": [5, np.nan, 6]},
        )
        for text in (".", "-", "null", "NA", "N/A", "nan", "None", "#N/A", "", "--")
    },
    "null rows, as Yahoo wrote holidays": File(
        lines(
            "Date,Open,High,Low,Close,Adj Close,Volume",
            "2024-01-01,null,null,null,null,null,null",
            *rows("{d},100,102,98,{c},{c},7"),
        ),
        note="1 rows without any price are no bars (the first: ",
    ),
    "null rows, refused as stated": File(
        lines("Date,Open,Close", "2024-01-01,null,null", "2024-01-02,1,1"), options={"drop_empty": False}, closes=None
    ),
    "a close that is none": File(
        lines("date,close", "2024-01-01,-", *rows("{d},{c}")),
        refused=r"line 2.*close is nan; expected a positive, finite price; .*drop_empty=True",
        options={"drop_empty": True},
    ),
    "a word for none": File(
        lines("date,A,B", "2024-01-02,100.5,5", "2024-01-03,101.25,closed", "2024-01-04,99.75,6"),
        refused=r"line 3, symbol 'B', date 2024-01-03: close is 'closed'; expected a number",
        options={"missing": ["closed"]},
        closes={"A": CLOSE, "B": [5, np.nan, 6]},
    ),
    # --- separators, encodings, lines above the table ---
    **{
        f"separated by {mark!r}": File(
            lines(
                *(
                    row.replace(",", mark)
                    for row in ("date,open,close", "2024-01-02,1,100.5", "2024-01-03,1,101.25", "2024-01-04,1,99.75")
                )
            )
        )
        for mark in (";", "\t", "|")
    },
    "another separator": File(
        lines("date:close", "2024-01-02:100.5", "2024-01-03:101.25", "2024-01-04:99.75"),
        refused=r"no comma, semicolon, tab or bar parts its lines \(the first holds 'date:close'\); state separator=",
        options={"separator": ":"},
    ),
    "Excel's first line": File("sep=;\r\ndate;close\r\n2024-01-02;100.5\r\n2024-01-03;101.25\r\n2024-01-04;99.75\r\n"),
    "byte order mark": File("\ufeffdate,close\n2024-01-02,100.5\n2024-01-03,101.25\n2024-01-04,99.75\n".encode()),
    "UTF-16": File("date\tclose\n2024-01-02\t100.5\n2024-01-03\t101.25\n2024-01-04\t99.75\n".encode("utf-16")),
    "UTF-16 without a mark": File(
        "date\tclose\n2024-01-02\t100.5\n2024-01-03\t101.25\n2024-01-04\t99.75\n".encode("utf-16-le"),
        refused="it holds zero bytes.*encoding='utf-16-le'",
        options={"encoding": "utf-16-le"},
    ),
    "cp1252": File(
        "date,symbol,close\n2024-01-02,Société,100.5\n2024-01-03,Société,101.25\n2024-01-04,Société,99.75\n".encode(
            "cp1252"
        ),
        refused="byte 33 is not utf-8.*encoding=.*cp1252",
        options={"encoding": "cp1252"},
        closes={"Société": CLOSE},
    ),
    "comments": File(lines("# from a vendor", "# in dollars", "date,close", *rows("{d},{c}"))),
    "a commented header": File(lines("# date,close", *rows("{d},{c}"))),
    "an address above the table": File(
        lines("https://www.vendor.example", "unix,date,symbol,close", *rows("1,{d},A,{c}")),
        closes={"A": CLOSE},
        note="line 1 stands above the table and is left out: 'https://www.vendor.example'",
    ),
    "empty lines": File(
        lines("", "date,close", "2024-01-02,100.5", "", "2024-01-03,101.25", "2024-01-04,99.75", "", ",", ",")
    ),
    "empty columns": File(lines("date,close,,", *rows("{d},{c},,"))),
    "a comma at the end of each row": File(lines("date,close", *rows("{d},{c},"))),
    "row numbers": File(
        lines(",date,close", *(f"{i},{d},{c}" for i, (d, c) in enumerate(zip(DAYS, CLOSE, strict=True))))
    ),
    "row numbers, twice": File(
        lines(
            "Unnamed: 0.1,Unnamed: 0,date,close".replace("0.1", "1"),
            *(f"{i},{i},{d},{c}" for i, (d, c) in enumerate(zip(DAYS, CLOSE, strict=True))),
        )
    ),
    "dates without a name": File(lines("Unnamed: 0,A", *rows("{d},{c}")), closes={"A": CLOSE}),
    "spaces around everything": File(lines(" Date , Symbol , Close ", *rows(" {d} , A , {c} ")), closes={"A": CLOSE}),
    "a header twice": File(
        lines("date,close,close", "2024-01-02,1,1"), refused="column 'close' appears more than once", closes=None
    ),
    "two closes": File(lines("date,close,Close", "2024-01-02,1,1"), refused="keep one of them", closes=None),
    "a decimal comma between commas": File(
        lines("date,close", "2024-01-02,100,5", "2024-01-03,101,25"),
        refused="line 2: .*it has 3 values, and the header 2; with decimal commas, part values by ';'",
        closes=None,
    ),
    # --- symbols ---
    "symbols that look like something else": File(
        lines(
            "date,symbol,close",
            *(f"{d},{s},{c}" for d, c in zip(DAYS, CLOSE, strict=True) for s in ("000001", "1e5", "NA", "NaN", "TRUE")),
        ),
        closes=dict.fromkeys(("000001", "1e5", "NA", "NaN", "TRUE"), CLOSE),
    ),
    "wide symbols that look like something else": File(
        lines("date,000001,600519,NA,TRUE,2024", *rows("{d},{c},{c},{c},{c},{c}")),
        closes=dict.fromkeys(("000001", "600519", "NA", "TRUE", "2024"), CLOSE),
    ),
    "tickers that are names of fields": File(
        lines("date,OPEN,LOW", *rows("{d},{c},{c}")), closes={"OPEN": CLOSE, "LOW": CLOSE}
    ),
    "a ticker CLOSE beside others": File(
        lines("DATE,CLOSE,AAPL", *rows("{d},{c},{c}")),
        refused="column 'CLOSE' may hold closes or be a ticker beside 'AAPL'; state shape='long' or shape='wide'",
        options={"shape": "wide"},
        closes={"CLOSE": CLOSE, "AAPL": CLOSE},
    ),
    # --- columns of the user's own ---
    "a text column": File(
        lines("date,close,sector", *rows("{d},{c},tech")), note="column 'sector' holds text and is not used"
    ),
    "a text column that is mostly numbers": File(
        lines("date,close,signal", "2024-01-02,1,0.5", "2024-01-03,1,0.25", "2024-01-04,1,n.m."),
        refused=r"line 4.*signal is 'n.m.'; expected a number",
        options={"missing": ["n.m."]},
        closes={"ASSET": [1, 1, 1]},
    ),
    # --- further vendors ---
    "Alpha Vantage": File(
        lines(
            "timestamp,open,high,low,close,adjusted_close,volume,dividend_amount,split_coefficient",
            *reversed(rows("{d},100,102,98,{c},{c},7,0.0,1.0")),
        ),
        note="rows were newest first",
    ),
    "Investing.com": File(
        lines(
            '"Date","Price","Open","High","Low","Vol.","Change %"',
            '"01/16/2024","1,100.5","1,000.5","1,200.5","900.5","12.34M","1.2%"',
            '"01/12/2024","1,101.5","1,000.5","1,200.5","900.5","1.5K","-1.2%"',
        ),
        refused="columns under other names are read with columns=",
        options={"columns": {"Price": "close", "Vol.": "volume"}},
        closes={"ASSET": [1101.5, 1100.5]},
        volume=[1500, 12_340_000],
        times=["2024-01-12", "2024-01-16"],
        note="column 'Change %' holds text and is not used",
    ),
    "Dukascopy": File(
        lines(
            "Gmt time,Close", *(f"{d:02d}.01.2024 00:00:00.000,{c}" for d, c in zip((11, 12, 15), CLOSE, strict=True))
        ),
        refused="no 'date' column",
        options={"columns": {"Gmt time": "date"}},
        times=["2024-01-11", "2024-01-12", "2024-01-15"],
    ),
    "HistData": File(
        lines(*(f"20240102 17{m:02d}00;100;102;98;{c};0" for m, c in enumerate(CLOSE))),
        refused="the file has no header",
        options={"columns": ["date", "open", "high", "low", "close", "volume"]},
        times=["2024-01-02 17:00", "2024-01-02 17:01", "2024-01-02 17:02"],
    ),
    "letters for names": File(
        lines("t,o,c", *(f"{t},100,{c}" for t, c in zip(epochs(1000), CLOSE, strict=True))),
        refused="no 'date' column",
        options={"columns": {"t": "date", "o": "open", "c": "close"}},
    ),
    "a header that a spreadsheet merged": File(
        lines("Price,Close,,Volume,", "Ticker,AAA,BBB,AAA,BBB", "Date,,,,", "2024-01-02,1,2,3,4", "2024-01-03,1,2,3,4"),
        refused=r"column 2 is \('', 'BBB'\); expected a name in both levels",
        closes=None,
    ),
    "a column without a name": File(
        lines("date,A,,B", *rows("{d},{c},7,{c}")),
        closes={"A": CLOSE, "B": CLOSE},
        note="column 3 has no name and is not used",
    ),
    "nothing but commas": File(",,,\n,,,\n", refused="it is empty", closes=None),
    "a page in place of a file": File(
        "<html><body>404, not found</body></html>\n<p>a, b</p>\n", refused="no 'date' column", closes=None
    ),
    "a number in brackets": File(lines("date,close", *rows("{d},({c})")), refused="expected a number", closes=None),
    "percents": File(
        lines("date,close,change", *rows("{d},{c},1.5%")), note="column 'change' holds text and is not used"
    ),
    "two formats of dates": File(
        lines("date,close", "2024-01-02,1", "01/03/2024,1"), refused=r"line 3: 'date' is '01/03/2024'", closes=None
    ),
    "quarters and weeks": File(
        lines("date,close", "2024Q1,1", "2024Q2,1"), refused=r"line 2: 'date' is '2024Q1'", closes=None
    ),
    "months": File(
        lines("date,close", "2024-01,1", "2024-02,2"), closes={"ASSET": [1, 2]}, times=["2024-01-01", "2024-02-01"]
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_read_or_refused_with_its_cause(name: str, tmp_path: Path) -> None:
    file = FILES[name]
    path = tmp_path / "bars.csv"
    path.write_bytes(file.text if isinstance(file.text, bytes) else file.text.encode())
    options = dict(file.options)
    if file.refused is not None:
        with pytest.raises(MarketDataError, match=file.refused) as caught:
            MarketData.from_csv(path)
        assert str(path) in str(caught.value)
    if file.closes is None:
        if file.refused is None:
            with pytest.raises(MarketDataError):
                MarketData.from_csv(path, **options)
        return
    market = MarketData.from_csv(path, **options)
    assert set(market.symbols) == set(file.closes)
    for i, symbol in enumerate(market.symbols):
        np.testing.assert_array_equal(market.close[:, i], file.closes[symbol])
    np.testing.assert_array_equal(market.timestamps, pd.DatetimeIndex(file.times).to_numpy())
    if file.volume is not None:
        assert market.volume is not None
        assert market.volume[:, 0].tolist() == file.volume
    if file.note is not None:
        assert any(file.note in note for note in market.notes), market.notes
    else:
        assert market.notes == () or options or not file.refused, market.notes
    config = DataConfig.model_validate({"source": str(path), "train_end": "2024-01-03", **file.options})
    assert load_market(config).fingerprint == market.fingerprint


def test_a_text_that_means_one_thing_leaves_no_note(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(str(FILES["plain"].text))
    assert MarketData.from_csv(tmp_path / "a.csv").notes == ()


PLAIN = str(FILES["plain"].text).encode()


def zipped(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, PLAIN)
    return buffer.getvalue()


COMPRESSED: dict[str, Callable[[], bytes]] = {
    "csv.gz": lambda: gzip.compress(PLAIN),
    "csv.bz2": lambda: bz2.compress(PLAIN),
    "csv.xz": lambda: lzma.compress(PLAIN),
    "zip": lambda: zipped("a.csv"),
    "csv.zst": lambda: bytes(pa.compress(PLAIN, codec="zstd", asbytes=True)),
    "txt": lambda: PLAIN,
}


@pytest.mark.parametrize("ending", COMPRESSED)
def test_compressed_files(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"bars.{ending}"
    path.write_bytes(COMPRESSED[ending]())
    assert MarketData.load(path).close[:, 0].tolist() == CLOSE


def test_no_damage_to_a_file_ends_in_a_traceback(tmp_path: Path) -> None:
    """Bytes of the files above are put in and taken out: each file is read, or refused with one error."""
    rng = np.random.default_rng(12)
    junk = [
        b",",
        b";",
        b'"',
        b"\n",
        b"0",
        b".",
        b"nan",
        b"1,234",
        b"\xff",
        b"\x00",
        b"close",
        b"$",
        b"+05:00",
        b"1e400",
    ]
    names, path, read = list(FILES), tmp_path / "bars.csv", 0
    for _ in range(400):
        file = FILES[names[rng.integers(len(names))]]
        content = bytearray(file.text if isinstance(file.text, bytes) else file.text.encode())
        for _ in range(rng.integers(1, 4)):
            at = int(rng.integers(len(content) + 1))
            content[at : at + int(rng.integers(0, 5))] = junk[rng.integers(len(junk))] if rng.random() < 0.6 else b""
        path.write_bytes(bytes(content))
        try:
            MarketData.from_csv(path, **file.options)
            read += 1
        except MarketDataError as error:
            assert str(path) in str(error)
    assert 20 < read < 380


OTHER_FILES: dict[str, tuple[bytes, str]] = {
    "two.zip": (zipped("a.csv", "b.csv"), "the archive holds 2 files; expected one"),
    "no.zip": (b"PK nothing", "cannot be read as a CSV file"),
    "book.xlsx": (b"PK", r"files of this kind are not read; read it with pandas.read_excel"),
    "parquet.csv": (b"PAR1....PAR1", r"this is a Parquet file; .*MarketData.from_parquet"),
    "noise.feather": (b"noise", "cannot be read as an Arrow file"),
    "words.csv": (b"hello\nworld\n", "no comma, semicolon, tab or bar parts its lines"),
}


@pytest.mark.parametrize("name", OTHER_FILES)
def test_other_files_are_refused_by_name(name: str, tmp_path: Path) -> None:
    content, message = OTHER_FILES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MarketDataError, match=message):
        MarketData.load(tmp_path / name)
    with pytest.raises(MarketDataError, match="this is a folder"):
        MarketData.load(tmp_path)


def test_options_that_contradict_each_other_are_refused() -> None:
    for options, message in (
        ({"decimal": ",", "thousands": ","}, "thousands: should differ"),
        ({"header": -1}, "header: "),
        ({"separator": "ab"}, "separator: "),
        ({"field_level": 2}, "field_level: "),
    ):
        with pytest.raises(ConfigError, match=message):
            MarketData.from_csv("nowhere.csv", **options)  # type: ignore[arg-type]
