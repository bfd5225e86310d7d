"""Power laws fitted to medians, with an interval of the exponent."""

from dataclasses import dataclass

import numpy as np
from scipy import special

FEWEST = 3  # distinct x of a fit: with two, a line leaves nothing to judge it by


@dataclass(frozen=True)
class PowerLaw:
    """y = factor x^exponent.

    Attributes:
        exponent: by least squares in the logarithms.
        low: lower end of its 95 % interval.
        high: upper end.
        log_factor: natural logarithm of the factor.
        count: how many x it was fitted to.
    """

    exponent: float
    low: float
    high: float
    log_factor: float
    count: int

    def at(self, x: np.ndarray) -> np.ndarray:
        """The fitted y at positive x."""
        return np.asarray(np.exp(self.log_factor + self.exponent * np.log(x)))

    @property
    def digits(self) -> int:
        """Decimals of the exponent: two, or as many more as tell the ends of a narrow interval apart."""
        width = self.high - self.low
        return 2 if width > 0.02 else 3 if width > 0.002 else 4 if width > 1e-6 else 2

    @property
    def power(self) -> str:
        """The exponent alone."""
        return self._said(self.exponent)

    def __str__(self) -> str:
        return f"{self.power} ({self._said(self.low)} to {self._said(self.high)})"

    def _said(self, value: float) -> str:
        return f"{value:.{self.digits}f}".replace("-", "−")


def fit_power(x: np.ndarray, y: np.ndarray) -> PowerLaw:
    """Fit a power law to one y at each x, by least squares of log y on log x.

    The y are medians, and each x counts once: points that share an x share what is off the law there, so to
    count all of them would make the interval too narrow. The interval is Student's t with count - 2 degrees
    of freedom, exact if the logarithms scatter about the line independently, normally and with one width
    (Draper and Smith, Applied Regression Analysis, section 1.4).

    Args:
        x: distinct, above 0, shape (n,) with n >= 3.
        y: above 0, (n,).

    Raises:
        ValueError: fewer than three x, one twice, or a value that is not positive and finite.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    for name, values in (("x", x), ("y", y)):
        bad = values[~(np.isfinite(values) & (values > 0))]
        if bad.size:
            raise ValueError(f"{name} has the value {bad[0]}; a power law needs finite numbers above 0")
    if x.shape != y.shape or len(np.unique(x)) < max(FEWEST, len(x)):
        raise ValueError(f"x is {x.tolist()}; give at least {FEWEST} distinct ones, and one y for each")
    u, v = np.log(x), np.log(y)
    centred = u - u.mean()
    square = float(centred @ centred)
    slope = float(centred @ (v - v.mean()) / square)
    rest = v - v.mean() - slope * centred
    free = len(x) - 2
    error = float(np.sqrt(rest @ rest / free / square))
    margin = float(special.stdtrit(free, 0.975)) * error
    intercept = float(v.mean() - slope * u.mean())
    return PowerLaw(slope, slope - margin, slope + margin, intercept, len(x))
