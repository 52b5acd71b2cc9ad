"""How much a Sharpe ratio proves, given the length and shape of the record and how much else was tried.

All Sharpe ratios here are per bar, not per year. The formulas take bars as independent of each other; where
neighbouring bars are alike, they claim too much, and the bootstrap interval of the Sharpe ratio is the safer guide.

Sources:
    D. Bailey & M. Lopez de Prado, "The Sharpe ratio efficient frontier", Journal of Risk 15(2), 2012, 3-44.
    D. Bailey & M. Lopez de Prado, "The deflated Sharpe ratio: correcting for selection bias, backtest overfitting, and
    non-normality", Journal of Portfolio Management 40(5), 2014, 94-107.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist, variance

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

EULER_MASCHERONI = 0.5772156649015329
_NORMAL = NormalDist()
_LEAST_VARIANCE = 1e-300  # a record of two values only can have an error of 0: keeps the quotient defined


@dataclass(frozen=True)
class Record:
    """What a series of excess returns says about its Sharpe ratio.

    Attributes:
        bars: How many returns.
        sharpe: Mean over standard deviation (ddof = 1), per bar.
        skewness: Third standardised moment.
        kurtosis: Fourth standardised moment; 3 for normal returns.
    """

    bars: int
    sharpe: float
    skewness: float = 0.0
    kurtosis: float = 3.0

    @classmethod
    def of(cls, returns: FloatArray, risk_free: float = 0.0) -> Record:
        """Measure a series; its values must differ.

        Args:
            returns: Simple returns, float64 ``[bars]``.
            risk_free: Risk-free return of a bar.
        """
        mean = float(returns.mean())
        scaled = (returns - mean) / returns.std()
        return cls(
            bars=len(returns),
            sharpe=(mean - risk_free) / float(returns.std(ddof=1)),
            skewness=float((scaled**3).mean()),
            kurtosis=float((scaled**4).mean()),
        )

    @property
    def unit_variance(self) -> float:
        """Variance of the Sharpe ratio's estimate times (bars - 1): Bailey & Lopez de Prado 2012, section 3."""
        spread = 1.0 - self.skewness * self.sharpe + (self.kurtosis - 1.0) / 4.0 * self.sharpe**2
        return max(spread, _LEAST_VARIANCE)


@dataclass(frozen=True)
class Trials:
    """What else was tried on the same bars.

    Attributes:
        others: How many other configurations.
        sharpes: Sharpe ratios per bar of those of them whose ratio is known.
    """

    others: int
    sharpes: tuple[float, ...] = ()

    @property
    def count(self) -> int:
        """How many configurations were tried, this one included."""
        return self.others + 1


def probabilistic_sharpe(record: Record, benchmark: float = 0.0) -> float:
    """Return the probability that the true Sharpe ratio is above ``benchmark`` (2012, equation 11).

    Phi((SR - SR*) sqrt(n - 1) / sqrt(1 - skewness SR + (kurtosis - 1) / 4 SR^2)).
    """
    error = math.sqrt(record.unit_variance / (record.bars - 1))
    return _NORMAL.cdf((record.sharpe - benchmark) / error)


def minimum_track_record(record: Record, benchmark: float = 0.0, confidence: float = 0.95) -> float | None:
    """Return how many bars are needed to be confident that the true Sharpe ratio is above ``benchmark``.

    1 + (1 - skewness SR + (kurtosis - 1) / 4 SR^2) (z / (SR - SR*))^2 (2012, equation 13); None where the ratio is not
    above ``benchmark``.
    """
    if record.sharpe <= benchmark:
        return None
    return 1.0 + record.unit_variance * (_NORMAL.inv_cdf(confidence) / (record.sharpe - benchmark)) ** 2


def expected_maximum_sharpe(trials: int, variance: float) -> float:
    """Return the Sharpe ratio that the best of several worthless configurations is expected to show.

    sqrt(V) ((1 - g) z(1 - 1 / N) + g z(1 - 1 / (N e))) with Euler-Mascheroni's g (2014, equation 1).

    Args:
        trials: How many configurations, at least 2.
        variance: Variance of their Sharpe ratios.
    """
    typical, extreme = _NORMAL.inv_cdf(1.0 - 1.0 / trials), _NORMAL.inv_cdf(1.0 - 1.0 / (trials * math.e))
    return math.sqrt(variance) * ((1.0 - EULER_MASCHERONI) * typical + EULER_MASCHERONI * extreme)


def deflated_sharpe(record: Record, trials: int, variance: float) -> float:
    """Return the probability that the true Sharpe ratio is above 0, given that it is the best of several (2014).

    The probabilistic Sharpe ratio against `expected_maximum_sharpe`. Where this record is not the best of them, it
    claims too little.

    Args:
        record: The record in question.
        trials: How many configurations were tried, this one included; at least 2.
        variance: Variance of their Sharpe ratios, per bar.
    """
    return probabilistic_sharpe(record, expected_maximum_sharpe(trials, variance))


def variance_of_trials(record: Record, trials: Trials) -> float | None:
    """Return the variance of the Sharpe ratios tried, this one included; None where only this one is known."""
    return variance([record.sharpe, *trials.sharpes]) if trials.sharpes else None
