"""What is asked of one method on one set of data."""

from typing import Literal

from pydantic import Field, model_validator

from qrt_tn.studies.experiments.catalogue import Experiment, Metric, Settings, one_row

YARDSTICKS = ("linear", "forest", "boosting", "svm")  # have no nodes


class Tickets(Settings):
    """Parameters of one point."""

    data: Literal[
        "digits",
        "fashion-5000",
        "fashion",
        "friedman1",
        "friedman2",
        "friedman3",
        "classification",
        "wine",
        "breast-cancer",
        "diabetes",
        "california-like",
        "large",
    ] = "digits"
    method: Literal[
        "random-features",
        "random-features-greedy",
        "random-features-tempered",
        "swim",
        "filter-greedy",
        "filter",
        "qrt",
        "residual",
        "residual-trained",
        "dense-trained",
        "linear",
        "forest",
        "boosting",
        "svm",
    ] = "residual"
    """"residual", "qrt" and "filter" are this package's estimators with their defaults. In the two networks
    "-trained" all parameters learn, on the training points alone. The last four are yardsticks, which have no
    nodes."""
    nodes: int = Field(64, ge=0, le=100_000)
    """0 for yardsticks."""

    @model_validator(mode="after")
    def _fit_together(self) -> "Tickets":
        if (self.method in YARDSTICKS) != (self.nodes == 0):
            mend = "give nodes = 0" if self.method in YARDSTICKS else "give nodes of at least 1"
            raise ValueError(f"method {self.method!r} with nodes = {self.nodes}; {mend}")
        return self


EXPERIMENT = Experiment(
    name="tickets",
    summary="test score of tempered residual tickets, other drawn nodes, and yardsticks without nodes",
    settings=Tickets,
    function="qrt_tn.studies.experiments.tickets.run:measure",
    tables=one_row(
        {
            "score": Metric("accuracy, or squared error over variance"),
            "error": Metric("share of errors, or squared error over variance"),
            "width": Metric("width chosen: of the filter, or of frequencies times the root of their number"),
            "beta": Metric("inverse temperature chosen"),
            "seconds": Metric("time to choose settings and fit", "s", measured=True),
            "fit_seconds": Metric("time of the one last fit", "s", measured=True),
        }
    ),
    labels={"nodes": "hidden nodes N"},
)
