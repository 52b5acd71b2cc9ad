"""Dividends and splits: whether they are possible, and whether the prices have them in already.

Prices as traded fall by a dividend on its ex date and by a split; adjusted prices do not. Data that are adjusted and
come with these columns would pay them twice. yfinance gives such data by default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from batchenv.adjustment import later_splits
from batchenv.config import DataOptions
from batchenv.data.bars import NO_ACTION, Bars, FloatArray, Origin, Where, last_known
from batchenv.data.checks import refuse
from batchenv.data.shapes import Matrices
from batchenv.errors import MarketDataError

ERROR_RATE = 1e-3
"""Most of the tables of one kind that the evidence of prices takes for the other kind."""
_CERTAIN = -np.log(ERROR_RATE)
_FALL = 0.6
"""Least part of a dividend by which prices as traded fall on average on ex dates: taxes take some of it (Elton and
Gruber, "Marginal Stockholder Tax Rates and the Clientele Effect", Review of Economics and Statistics 52(1), 1970)."""
_DEGREES = 3.0
"""Degrees of freedom of Student's t distribution, for daily returns: heavy tails bound what one bar can prove."""
_QUARTILE = 0.7649
"""Upper quartile of that distribution: the median absolute deviation of a variable of scale 1."""
_SMALL_SPLIT = 1.4
"""A split below this ratio cannot be told from a day's move."""
_WHOLE = 0.95
"""A dividend above this part of the price counts as this much: earlier prices that are adjusted may be below it."""
_YAHOO = frozenset({"dividends", "stock_splits"})
"""Names, folded, of the columns of actions in yfinance; without "Adj Close" beside them its prices are adjusted."""
_BY_NAME = "the columns are named as yfinance names them without 'Adj Close', where prices are adjusted already"


class Evidence(NamedTuple):
    """What prices tell about dividends or splits.

    Attributes:
        traded: Log of how much likelier the moves on the ex bars are if the prices are as traded than if they are
            adjusted; 0 where nothing tells.
        events: Dividends or splits that were looked at.
    """

    traded: float
    events: int

    @property
    def says(self) -> bool | None:
        """True for prices as traded, False for adjusted ones, None where it is not certain.

        The ratio of the likelihoods is above 1 / `ERROR_RATE` in no more than `ERROR_RATE` of the cases in which the
        other hypothesis holds (Wald, "Sequential Tests of Statistical Hypotheses", Annals of Mathematical Statistics
        16(2), 1945).
        """
        return None if abs(self.traded) < _CERTAIN else self.traded > 0


def finish(table: Matrices, options: DataOptions, origin: Origin) -> Bars:
    """Adjust the prices where wanted, and decide which dividends and splits are kept.

    Raises:
        MarketDataError: A dividend or split is not possible where it stands, or prices and actions contradict each
            other or what the user states.
    """
    prices = {name: values for name, values in table.fields.items() if name not in (*NO_ACTION, "adj_close")}
    if "adj_close" in table.fields and options.adjusted is not False:
        fields, adjusted = _adjusted(prices, table), True
    else:
        kept, adjusted = _Actions.of(table, options, origin).decide()
        fields = prices | kept
    return Bars(table.symbols, table.timestamps, fields, table.columns, adjusted, tuple(origin.notes))


def _adjusted(prices: dict[str, FloatArray], table: Matrices) -> dict[str, FloatArray]:
    """Return prices adjusted by adj_close / close, and volumes by the later splits that the close shows."""
    close, adj_close, splits = prices["close"], table.fields["adj_close"], table.fields.get("splits")
    result = dict(prices)
    with np.errstate(over="ignore"):  # an infinite price is refused later, like any other
        result |= {name: prices[name] * (adj_close / close) for name in ("open", "high", "low") if name in prices}
    result["close"] = adj_close
    if splits is not None:
        refuse((splits < 0) | np.isinf(splits), splits, "splits", "a finite number >= 0", table.where)
        if "volume" in result:
            result["volume"] = result["volume"] * later_splits(splits, close, adj_close)
    return result


@dataclass(frozen=True)
class _Actions:
    """The dividends and splits of a table, and what is known about its prices.

    Attributes:
        table: The table.
        dividends: float64 [bars, symbols], 0.0 for none; None where the table has none at all.
        splits: float64 [bars, symbols], 1.0 for none; None where the table has none at all.
        stated: What the user says: True for adjusted prices, False for prices as traded.
        yahoo: Whether the columns are named as in yfinance's adjusted data.
        origin: Names the table, and takes notes.
    """

    table: Matrices
    dividends: FloatArray | None
    splits: FloatArray | None
    stated: bool | None
    yahoo: bool
    origin: Origin

    @classmethod
    def of(cls, table: Matrices, options: DataOptions, origin: Origin) -> _Actions:
        """Check that the actions of a table are possible, and leave out those that say "none" throughout."""
        close = table.fields["close"]
        given = {name: table.fields[name] for name in NO_ACTION if name in table.fields}
        clean = clean_actions(given, close, _close_before(close), table.where) if given else {}
        some = {name: values for name, values in clean.items() if (values != NO_ACTION[name]).any()}
        yahoo = table.signature >= _YAHOO and "adj_close" not in table.fields
        return cls(table, some.get("dividends"), some.get("splits"), options.adjusted, yahoo, origin)

    def decide(self) -> tuple[dict[str, FloatArray], bool]:
        """Return the actions that are kept, and whether the prices are known to be adjusted."""
        shown = self._splits_shown()
        if not self.yahoo and self.stated is None:
            self._check_payable()
        splits = self._keeps_splits(shown)
        dividends = self._keeps_dividends(shown)
        kept: dict[str, FloatArray] = {}
        if dividends and self.dividends is not None:
            self._check_payable()
            kept["dividends"] = self.dividends
        if splits and self.splits is not None:
            kept["splits"] = self.splits
        left_out = (self.dividends is not None and not dividends) or (self.splits is not None and not splits)
        return kept, left_out or self.stated is True

    def _check_payable(self) -> None:
        if self.dividends is not None:
            before = _close_before(self.table.fields["close"])
            check_payable(self.dividends, self.splits, before, self.table.where)

    def _splits_shown(self) -> bool | None:
        """Return whether closes fall by the splits; None where they do not tell.

        Raises:
            MarketDataError: Some fall and some do not, or the user says that the prices are adjusted and they fall.
        """
        if self.splits is None:
            return None
        ratio = split_evidence(self.table.fields["close"], self.splits)
        large = np.abs(np.log(self.splits)) > np.log(_SMALL_SPLIT)
        if not large.any():
            return Evidence(float(ratio.sum()), int((self.splits != 1.0).sum())).says
        by_symbol = np.where(large, ratio, 0.0).sum(axis=0)[large.any(axis=0)]
        if (by_symbol > 0).all():
            if self.stated:
                expected = "no split that the close falls by, since adjusted=True says that prices are adjusted"
                refuse(large, self.splits, "splits", expected, self.table.where)
            return True
        if (by_symbol < -_CERTAIN).all():
            return False
        hidden = large & (np.where(large, ratio, 0.0).sum(axis=0) <= 0)
        expected = (
            "a close that falls with it; these prices are adjusted for splits already, as Yahoo's are: drop the column "
            "of splits (and that of dividends, where the prices are adjusted for them too), or state adjusted=True"
        )
        refuse(hidden, self.splits, "splits", expected, self.table.where)
        return False

    def _keeps_splits(self, shown: bool | None) -> bool:
        if self.splits is None or self.stated:
            return False
        if shown is False:
            self.origin.note("splits are left out: closes do not fall by them, so they are adjusted for splits already")
        elif shown is None and self.yahoo and self.stated is None:
            self.origin.note(f"splits are left out: {_BY_NAME}")
            return False
        elif shown is None and self.stated is None:
            self.origin.note("splits are taken as for prices as traded; they are too small for the closes to tell")
        return shown is not False

    def _keeps_dividends(self, shown: bool | None) -> bool:
        """Return whether dividends are paid beside the prices, and note why.

        Raises:
            MarketDataError: Columns and prices contradict each other, or the prices do not tell.
        """
        if self.dividends is None:
            return False
        if self.stated is not None:
            return not self.stated
        if shown:
            return True  # prices that are adjusted for dividends are adjusted for splits too
        found = dividend_evidence(self.table.fields, self.dividends, self.splits if shown is not False else None)
        if found.says is False or (self.yahoo and found.says is None):
            why = _BY_NAME
            if not self.yahoo:
                why = f"on the {found.events:,} ex dates prices do not fall by them, so they are adjusted already"
            self.origin.note(f"dividends are left out: {why} (adjusted=False pays them)")
            return False
        if self.yahoo:
            self._refuse(
                "dividends",
                "the columns are named as in yfinance's adjusted data, and prices fall by the dividends, as prices as "
                "traded do",
            )
        if shown is False and found.says is None:
            self._refuse(
                "splits",
                f"the prices are adjusted for splits already, and {found.events} ex dates do not tell whether they are "
                "for dividends too",
            )
        if found.says is None:
            self.origin.note(
                f"dividends are paid in cash, as for prices as traded; {found.events:,} ex dates do not tell whether "
                "prices are adjusted (adjusted=True leaves dividends out)"
            )
        return True

    def _refuse(self, field: str, why: str) -> None:
        values = self.dividends if field == "dividends" else self.splits
        assert values is not None
        t, s = (int(i) for i in np.argwhere(values != NO_ACTION[field])[0])
        raise MarketDataError(
            f"{self.table.where((t, s))}: {field} is {values[t, s]}; {why}. State adjusted=True (dividends are in the "
            "prices and are left out) or adjusted=False (they are paid in cash), or drop the columns"
        )


# --- evidence -----------------------------------------------------------------------------------------------


def split_evidence(close: FloatArray, splits: FloatArray) -> FloatArray:
    """Return for each split how much likelier its close is as traded than adjusted, as a log; 0 where there is none."""
    move = np.log(close / _close_before(close))
    ratio = _log_ratio(move, -np.log(splits), _scales(np.where(splits != 1.0, np.nan, move)))
    return np.where((splits != 1.0) & ~np.isnan(ratio), ratio, 0.0)


def dividend_evidence(
    fields: Mapping[str, FloatArray], dividends: FloatArray, splits: FloatArray | None = None
) -> Evidence:
    """Return what prices tell about their dividends.

    The move from the close before to the open of the ex bar (its close, where there are no opens) is compared with that
    of other bars of the symbol, less the median move of the other symbols. As traded it is lower by the dividend.

    Args:
        fields: Prices by field, float64 [bars, symbols].
        dividends: float64 [bars, symbols], 0.0 for none.
        splits: Splits that the closes show, float64 [bars, symbols]; None for none.
    """
    before = _close_before(fields["close"]) / (1.0 if splits is None else splits)
    move = np.log(fields.get("open", fields["close"]) / before)
    paid = (dividends > 0) & ~np.isnan(move)
    other = np.where(paid, np.nan, move)
    if move.shape[1] > 2:
        common = np.where((~np.isnan(other)).sum(axis=1) > 2, _median(other, axis=1), 0.0)
        move, other = move - common[:, None], other - common[:, None]
    centre = _median(other, axis=0)
    fall = np.log1p(-np.where(paid, np.minimum(dividends / before, _WHOLE), 0.0))
    ratio = _log_ratio(move - centre, _FALL * fall, _scales(other))
    return Evidence(float(np.where(paid & ~np.isnan(ratio), ratio, 0.0).sum()), int(paid.sum()))


def _log_ratio(move: FloatArray, shift: FloatArray, scale: FloatArray) -> FloatArray:
    """Return the log of how much likelier a move is around a shift than around 0, by Student's t distribution."""
    with np.errstate(invalid="ignore", divide="ignore"):
        around = [np.log1p(((move - centre) / scale) ** 2 / _DEGREES) for centre in (shift, np.zeros_like(shift))]
    return (_DEGREES + 1.0) / 2.0 * (around[1] - around[0])


def _scales(move: FloatArray) -> FloatArray:
    """Return the scale of each symbol's moves, float64 [symbols]; that of 5% a bar where there are too few."""
    deviation = _median(np.abs(move - _median(move, axis=0)), axis=0) / _QUARTILE
    few = (~np.isnan(move)).sum(axis=0) < 20
    return np.where(few | np.isnan(deviation), 0.05, np.maximum(deviation, 1e-6))


def _median(values: FloatArray, axis: int) -> FloatArray:
    """Return the median of what is a number along an axis; NaN where there is none."""
    known = ~np.isnan(values).all(axis=axis)
    result = np.full(known.shape, np.nan)
    kept = values[:, known] if axis == 0 else values[known]
    if known.any():
        result[known] = np.nanmedian(kept, axis=axis)
    return result


def _close_before(close: FloatArray) -> FloatArray:
    """Return the last known close before each bar, NaN where there is none."""
    before = np.full_like(close, np.nan)
    before[1:] = last_known(close)[:-1]
    return before


# --- possible at all ------------------------------------------------------------------------------------------


def check_actions(
    actions: Mapping[str, FloatArray], close: FloatArray, before: FloatArray, where: Where
) -> dict[str, FloatArray]:
    """Check dividends and splits; return them with the value of "none" wherever nothing happens.

    NaN means none, and so does 0 new shares for one old, which is how Yahoo writes it. On the first bar of a
    symbol there is nobody to receive anything: what stands there is taken out.

    Args:
        actions: float64 [bars, symbols] by name, any of ``NO_ACTION``.
        close: float64 [bars, symbols], NaN where the symbol has no bar.
        before: float64 [bars, symbols], last known close before the bar, NaN where there is none.
        where: Names the element at an index, for the message.

    Raises:
        MarketDataError: A value is not a finite number >= 0, stands where the symbol has no bar, or a dividend
            is not below the previous close (in new shares).
    """
    result = clean_actions(actions, close, before, where)
    if "dividends" in result:
        check_payable(result["dividends"], result.get("splits"), before, where)
    return result


def clean_actions(
    actions: Mapping[str, FloatArray], close: FloatArray, before: FloatArray, where: Where
) -> dict[str, FloatArray]:
    """Do as :func:`check_actions`, but for the size of dividends."""
    result = {}
    for field, none in NO_ACTION.items():
        if field not in actions:
            continue
        values = actions[field]
        refuse((values < 0) | np.isinf(values), values, field, "a finite number >= 0", where)
        values = np.where(np.isnan(values) | ((values == 0) & (field == "splits")), none, values)
        refuse((values != none) & np.isnan(close), values, field, f"{none}: the symbol has no bar there", where)
        result[field] = np.where(np.isnan(before), none, values)
    return result


def check_payable(dividends: FloatArray, splits: FloatArray | None, before: FloatArray, where: Where) -> None:
    """Check that a dividend is below the close before it, in new shares.

    Raises:
        MarketDataError: One is not.
    """
    ratio = np.ones_like(before) if splits is None else splits
    bad = (dividends > 0) & ~(dividends < before / ratio)
    if bad.any():
        at = tuple(int(i) for i in np.argwhere(bad)[0])
        split = f" / {ratio[at]} new shares for one old" if ratio[at] != 1 else ""
        refuse(bad, dividends, "dividends", f"less than the close before it, {before[at]}{split}", where)
