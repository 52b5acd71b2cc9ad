"""The money arithmetic of the training tier: scalars in, scalars out. Numbers refer to ``docs/accounting.md``."""

from __future__ import annotations

from batchenv.kernel.jit import inlined


@inlined
def clip(value: float, low: float, high: float) -> float:
    """Rule 2.2: an action number within the bounds of its mode."""
    at_least = value if value > low else low
    return at_least if at_least < high else high


@inlined
def positive(value: float) -> float:
    """Return ``value`` where it is above 0, else 0."""
    return value if value > 0.0 else 0.0


@inlined
def value_order(value: float, mark: float) -> float:
    """Rule 2.2, `trade`: shares worth ``value`` at the mark."""
    return value / mark


@inlined
def target_order(value: float, mark: float, held: float) -> float:
    """Rule 2.2, `weights`: shares that take a position from ``held`` to ``value`` at the mark."""
    return value / mark - held


@inlined
def weight_scale(gross: float) -> float:
    """Rule 2.2, `weights`: the factor that brings the weights' sum down to 1 when it is above."""
    return 1.0 / max(1.0, gross)


@inlined
def permitted(order: float, held: float, fill: float) -> float:
    """Rules 1.4 and 3.2: no order without a fill price; a sell is limited to the shares held."""
    kept = order if order > -held else -held
    return kept if fill > 0.0 else 0.0


@inlined
def sale_notional(quantity_at_price: float, slippage_rate: float) -> float:
    """Rules 3.1 and 3.2: what selling brings, before the fee; ``quantity_at_price`` is shares times fill price."""
    return quantity_at_price * (1.0 - slippage_rate)


@inlined
def purchase_notional(quantity_at_price: float, slippage_rate: float) -> float:
    """Rules 3.1 and 3.3: what buying takes, before the fee; ``quantity_at_price`` is shares times fill price."""
    return quantity_at_price * (1.0 + slippage_rate)


@inlined
def sale_proceeds(notional: float, fee_rate: float) -> float:
    """Rule 3.2: what a sale adds to cash."""
    return notional * (1.0 - fee_rate)


@inlined
def purchase_cost(notional: float, fee_rate: float) -> float:
    """Rule 3.3: what a purchase takes from cash."""
    return notional * (1.0 + fee_rate)


@inlined
def buy_factor(cost: float, cash: float) -> float:
    """Rule 3.3: the factor common to all buys, 1 when cash covers them."""
    return cash / cost if cost > cash else 1.0


@inlined
def cash_after_buys(cash: float, cost: float) -> float:
    """Rules 3.3 and 3.4: cash left, exactly 0 when the buys take it all."""
    return cash - cost if cost <= cash else 0.0


@inlined
def scaled(order: float, factor: float) -> float:
    """Rule 3.3: a buy times the common factor; a sell as it is."""
    return order * factor if order > 0.0 else order


@inlined
def costs(traded: float, traded_at_fill: float, fee_rate: float, slippage_rate: float) -> float:
    """Rule 3.5: fees on the notional ``traded``, and slippage on the same shares at fill prices."""
    return fee_rate * traded + slippage_rate * traded_at_fill


@inlined
def average_entry(average: float, held: float, bought: float, paid: float) -> float:
    """Rule 5.2: average entry price after buying ``bought`` shares at ``paid`` each."""
    total = held + bought
    return (held * average + bought * paid) / total if total > 0.0 else 0.0


@inlined
def unrealized(mark: float, average: float, limit: float) -> float:
    """Rule 5.1: profit of a position relative to its average entry price, limited; 0 without a position."""
    return clip(mark / average - 1.0, -limit, limit) if average > 0.0 else 0.0
