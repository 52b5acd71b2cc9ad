"""How much a Sharpe ratio proves, given the length and shape of the record and how much else was tried.

All Sharpe ratios here are per bar, not per year. The published formulas take bars as independent of each other. Where
neighbouring bars are alike they claim too much: with an autocorrelation of 0.3, an error of 5% is one of 11%.
`Record.dependence` is what that does to the variance of the estimate, and `Record.dependent` counts it.

Sources:
    D. Bailey & M. Lopez de Prado, "The Sharpe ratio efficient frontier", Journal of Risk 15(2), 2012, 3-44.
    D. Bailey & M. Lopez de Prado, "The deflated Sharpe ratio: correcting for selection bias, backtest overfitting, and
    non-normality", Journal of Portfolio Management 40(5), 2014, 94-107.
    A. Lo, "The statistics of Sharpe ratios", Financial Analysts Journal 58(4), 2002, 36-52: the variance of the
    estimate where bars depend on each other, by a long-run variance.
    D. Andrews & J. Monahan, "An improved heteroskedasticity and autocorrelation consistent covariance matrix
    estimator", Econometrica 60(4), 1992, 953-966: an autoregression first, then Bartlett weights on what it leaves.
    W. Newey & K. West, "Automatic lag selection in covariance matrix estimation", Review of Economic Studies 61(4),
    1994, 631-653: 4 (n / 100)^(2/9) lags.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import NormalDist, variance

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

EULER_MASCHERONI = 0.5772156649015329
_NORMAL = NormalDist()
_MOST = 0.97  # Andrews & Monahan: an autoregression closer to 1 is taken for this one
_LEAST_VARIANCE = 1e-300  # a record of two values only can have an error of 0: keeps the quotient defined


@dataclass(frozen=True)
class Record:
    """What a series of excess returns says about its Sharpe ratio.

    Attributes:
        bars: How many returns.
        sharpe: Mean over standard deviation (ddof = 1), per bar.
        skewness: Third standardised moment.
        kurtosis: Fourth standardised moment; 3 for normal returns.
        dependence: Variance of the estimated Sharpe ratio over what it would be if bars were independent, at least 1.
        autocorrelation: Correlation of neighbouring returns.
        counted: Whether ``dependence`` is counted in what the record proves.
    """

    bars: int
    sharpe: float
    skewness: float = 0.0
    kurtosis: float = 3.0
    dependence: float = 1.0
    autocorrelation: float = 0.0
    counted: bool = False

    @classmethod
    def of(cls, returns: FloatArray, risk_free: float = 0.0) -> Record:
        """Measure a series; its values must differ.

        Args:
            returns: Simple returns, float64 ``[bars]``.
            risk_free: Risk-free return of a bar.
        """
        mean = float(returns.mean())
        scaled = (returns - mean) / returns.std()
        sharpe = (mean - risk_free) / float(returns.std(ddof=1))
        # What each bar adds to the error of the estimate: that of the mean, less that of the deviation.
        errors = scaled - sharpe / 2.0 * (scaled**2 - 1.0)
        return cls(
            bars=len(returns),
            sharpe=sharpe,
            skewness=float((scaled**3).mean()),
            kurtosis=float((scaled**4).mean()),
            dependence=max(long_run_ratio(errors), 1.0),
            autocorrelation=float(scaled[1:] @ scaled[:-1]) / len(scaled),
        )

    @property
    def dependent(self) -> Record:
        """The same record, with the dependence between bars counted."""
        return replace(self, counted=True)

    @property
    def unit_variance(self) -> float:
        """Variance of the Sharpe ratio's estimate times (bars - 1): Bailey & Lopez de Prado 2012, section 3.

        Times `dependence` (Lo 2002), where that is counted.
        """
        spread = 1.0 - self.skewness * self.sharpe + (self.kurtosis - 1.0) / 4.0 * self.sharpe**2
        return max(spread, _LEAST_VARIANCE) * (self.dependence if self.counted else 1.0)


def long_run_ratio(series: FloatArray) -> float:
    """Return the variance of a series' mean over what it would be if its values were independent.

    For a first-order autoregression that is (1 + r) / (1 - r) (Andrews & Monahan 1992; Newey & West 1994).

    Args:
        series: float64 ``[n]``, at least 10 values.

    Returns:
        1 for a series that does not vary.
    """
    centred = series - series.mean()
    variance = float(centred @ centred) / len(centred)
    if variance <= 0.0:
        return 1.0
    slope = float(centred[1:] @ centred[:-1]) / (variance * len(centred))
    slope = min(max(slope, -_MOST), _MOST)
    left = centred[1:] - slope * centred[:-1]
    n, lags = len(left), int(4.0 * (len(left) / 100.0) ** (2.0 / 9.0))
    total = float(left @ left) / n
    for lag in range(1, lags + 1):
        total += 2.0 * (1.0 - lag / (lags + 1.0)) * float(left[lag:] @ left[:-lag]) / n
    return total / (1.0 - slope) ** 2 / variance


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
