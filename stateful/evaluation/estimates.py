"""What an estimate is written down as: a number, or the reason why there is none."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """A number that may be missing.

    Attributes:
        value: The number; None where there is none.
        reason: Why there is none.
    """

    value: float | None
    reason: str | None = None


@dataclass(frozen=True)
class Interval:
    """An estimate and the interval around it.

    Attributes:
        estimate: The figure itself; None where there is none.
        low: Lower end of the interval; None where there is none.
        high: Upper end.
        reason: Why something is missing.
    """

    estimate: float | None
    low: float | None
    high: float | None
    reason: str | None = None

    @property
    def excludes_zero(self) -> bool | None:
        """Whether all of the interval lies on one side of 0; None where there is no interval."""
        return None if self.low is None or self.high is None else self.low > 0 or self.high < 0


def not_enough(needs: int, has: int, what: str = "bars") -> str:
    """Say that there are too few observations for a statistic."""
    return f"not enough data (needs {needs} {what}, has {has})"
