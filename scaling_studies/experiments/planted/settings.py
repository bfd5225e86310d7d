"""What is asked of one planted ridge."""

from typing import Literal

from pydantic import Field, model_validator

from qrt_tn.studies.experiments.catalogue import Experiment, Metric, Settings, one_row
from qrt_tn.studies.experiments.risk.settings import Prime

MOST_FILLED = 0.7  # share of nonzero entries: of a wider filter the kernel leaves double precision


class Planted(Settings):
    """Parameters of one point.

    The teacher is f(x) = cos(2 pi (a*.x - b*) / P), `support` entries of a* are 1 or -1 at random places, the
    others 0, and b* is uniform on Z_P. The points are uniform on Z_P^D.
    """

    dim: int = Field(32, ge=2, le=10_000)
    points: int = Field(1024, ge=4, le=1_000_000)
    support: int = Field(1, ge=1)
    modulus: Prime = 127
    noise: float = Field(0.0, ge=0, le=1e6)
    """Standard deviation of the noise on the values, whose own is 0.71."""
    nodes: int = Field(64, ge=1, le=100_000)
    sampler: Literal["qrt", "qrt-unsmoothed", "filter", "uniform", "random-features"] = "qrt"
    entries: float | None = Field(None, gt=0)
    """Nonzero entries that a frequency of the smoothing filter has on average; this sets the filter's width.
    None: as many as the teacher's, the choice of one who knows it."""

    @property
    def typical(self) -> float:
        """Nonzero entries that a frequency of the filter has on average."""
        return float(self.support) if self.entries is None else self.entries

    @model_validator(mode="after")
    def _fit_together(self) -> "Planted":
        if self.support > self.dim:
            raise ValueError(f"support is {self.support}, above dim {self.dim}; give at most dim")
        if self.typical > MOST_FILLED * self.dim:
            raise ValueError(
                f"entries is {self.typical:g}, above {MOST_FILLED:g} of dim {self.dim}; give fewer, or a "
                "larger dim"
            )
        return self


EXPERIMENT = Experiment(
    name="planted",
    summary="how often drawn nodes are those of a planted ridge, by dimension and number of points",
    settings=Planted,
    function="qrt_tn.studies.experiments.planted.run:measure",
    tables=one_row(
        {
            "peak_probability": Metric("probability to draw the planted direction"),
            "estimate": Metric("estimate of that probability"),
            "hit_rate": Metric("share of drawn nodes in the planted direction"),
            "test_risk": Metric("test risk over variance"),
            "width": Metric("width of the filter"),
            "state_seconds": Metric("time to make the state", "s", measured=True),
            "draw_seconds": Metric("time to draw nodes", "s", measured=True),
            "fit_seconds": Metric("time to fit", "s", measured=True),
        }
    ),
    labels={
        "dim": "dimension D",
        "points": "data points M",
        "support": "nonzero entries k",
        "modulus": "modulus P",
        "nodes": "hidden nodes N",
    },
)
