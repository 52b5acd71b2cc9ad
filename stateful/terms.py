"""What one account trades under: every number of rules 3 to 6 that applies to it in one episode.

A number can come from the configuration, differ by symbol, belong to the lane, or be drawn for the episode
(rule 8). `Terms` is where that question is settled; the rules read it and nothing else. It also says which
groups of rules are off, so that a plain cash account does not pay for them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from batchenv.config import EnvConfig
from batchenv.parameters import LaneValues, per_symbol

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False, slots=True)
class Terms:
    """The terms of one account.

    Attributes:
        cash_account: Whether nothing can be borrowed.
        allow_short: Whether positions may be negative.
        leverage: G, largest gross exposure that orders may bring about, as a multiple of equity.
        net_limit: N, largest net exposure, as a multiple of equity; None for none.
        maintenance_margin: Below this fraction of gross exposure, equity brings a margin call.
        slippage_rate: σ, float64 ``[symbols]``.
        impact: κ, slippage per square root of the part of the bar's volume.
        fee_rate: φ, fraction of the notional, float64 ``[symbols]``.
        fee_fixed: Money per fill, float64 ``[symbols]``.
        fee_per_share: Money per share, float64 ``[symbols]``.
        fee_minimum: Least money per fill, float64 ``[symbols]``.
        proportional_fees: Whether the last three are 0 everywhere, so that a fee is φ times the notional.
        participation_limit: Largest part of the bar's volume that an order may take; None for no limit.
        needs_volume: Whether impact or a participation limit is on.
        lot_size: Shares, 0 for fractions, float64 ``[symbols]``.
        has_lots: Whether any lot size is above 0.
        min_notional: Money below which a part of an order is dropped.
        cash_rate: Yearly interest on cash.
        margin_rate: Yearly interest on borrowed cash.
        borrow_rate: Yearly cost of borrowed shares, float64 ``[symbols]``.
        funding_rate: Yearly funding paid by longs, float64 ``[symbols]``.
        has_carry: Whether any of the four, or a funding column, is on.
        reinvest: Whether dividends buy shares instead of being paid out.
        delisting_haircut: What a delisted position loses, as a fraction.
        stop_loss: Loss on the average entry price that closes a position, as a fraction; None for never.
        take_profit: Gain that closes it; None for never.
    """

    cash_account: bool
    allow_short: bool
    leverage: float
    net_limit: float | None
    maintenance_margin: float
    slippage_rate: Floats
    impact: float
    fee_rate: Floats
    fee_fixed: Floats
    fee_per_share: Floats
    fee_minimum: Floats
    proportional_fees: bool
    participation_limit: float | None
    needs_volume: bool
    lot_size: Floats
    has_lots: bool
    min_notional: float
    cash_rate: float
    margin_rate: float
    borrow_rate: Floats
    funding_rate: Floats
    has_carry: bool
    reinvest: bool
    delisting_haircut: float
    stop_loss: float | None
    take_profit: float | None

    @classmethod
    def build(cls, config: EnvConfig, symbols: tuple[str, ...], values: LaneValues) -> Terms:
        """Put together what applies to the first lane of ``values``.

        Args:
            config: The rules.
            symbols: Symbol names.
            values: What the lane has of its own, or was drawn for the episode.
        """
        costs, execution = config.cost_config, config.execution_config
        margin, carry = config.margin_config, config.carry_config
        fee_fixed, fee_per_share, fee_minimum = values.fee_fixed[0], values.fee_per_share[0], values.fee_minimum[0]
        lot_size = per_symbol(execution.lot_size, symbols, "execution_config.lot_size")
        funding_rate = per_symbol(carry.funding_rate, symbols, "carry_config.funding_rate")
        borrow_rate = values.borrow_rate[0]
        rates = (carry.cash_rate, carry.margin_rate, carry.funding_column is not None)
        return cls(
            cash_account=margin.cash_account,
            allow_short=margin.allow_short,
            leverage=float(values.leverage[0]),
            net_limit=margin.net_limit,
            maintenance_margin=margin.maintenance_margin,
            slippage_rate=values.slippage_rate[0],
            impact=costs.impact_coefficient,
            fee_rate=values.fee_rate[0],
            fee_fixed=fee_fixed,
            fee_per_share=fee_per_share,
            fee_minimum=fee_minimum,
            proportional_fees=not (fee_fixed.any() or fee_per_share.any() or fee_minimum.any()),
            participation_limit=execution.participation_limit,
            needs_volume=costs.impact_coefficient > 0 or execution.participation_limit is not None,
            lot_size=lot_size,
            has_lots=bool(lot_size.any()),
            min_notional=execution.min_notional,
            cash_rate=carry.cash_rate,
            margin_rate=carry.margin_rate,
            borrow_rate=borrow_rate,
            funding_rate=funding_rate,
            has_carry=any(rates) or bool(borrow_rate.any() or funding_rate.any()),
            reinvest=carry.dividends == "reinvest",
            delisting_haircut=execution.delisting_haircut,
            stop_loss=execution.stop_loss,
            take_profit=execution.take_profit,
        )

    @property
    def has_stops(self) -> bool:
        """Whether positions are watched for stops or targets (rule 5)."""
        return self.stop_loss is not None or self.take_profit is not None
