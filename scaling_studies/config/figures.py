"""The figures that a study asks for."""

from typing import Any, Literal

from pydantic import Field, model_validator

from qrt_tn.studies.config.messages import Table, unknown
from qrt_tn.studies.experiments.catalogue import Experiment

RECORDED = ("wall_seconds", "peak_bytes", "seed")  # of every point, whatever the experiment


class Figure(Table):
    """One figure of the report.

    Four kinds. "lines": medians of `y` over points that share `x`, a band around them. "ratio": `y` of the
    point where the parameters of `reference` have those values over that of each other point, else alike:
    speed-ups. "reach": the smallest value of the parameter `of` at which the median of `y` reaches `level`,
    against `x`. "roofline": rates against arithmetic intensity under the ceilings of the device.
    """

    title: str = Field(min_length=1)
    kind: Literal["lines", "ratio", "reach", "roofline"] = "lines"
    x: str = ""
    y: str = ""
    table: str | None = None
    """Whose rows are drawn; left out, the experiment's first. Its keys count as parameters."""
    series: str | None = None
    """One line for each value of this parameter."""
    panels: str | None = None
    """One panel for each value of this parameter."""
    where: dict[str, Any] = Field(default_factory=dict)
    """Only points whose parameters have these values, each one value or a list."""
    scale: Literal["linear", "log-x", "log-y", "log-log"] = "linear"
    band: Literal["range", "quartiles"] = "range"
    fit: Literal["none", "power"] = "none"
    """"power": y ~ x^p by least squares in the logarithms, with a 95 % interval."""
    ideal: Literal["none", "one", "x"] = "none"
    """A dashed guide of ratios: 1, or as large as x."""
    reference: dict[str, Any] = Field(default_factory=dict)
    of: str | None = None
    level: float | None = None
    goal: Literal["above", "below"] = "above"
    note: str = ""
    """Added to the caption."""

    @model_validator(mode="after")
    def _complete(self) -> "Figure":
        if self.kind != "roofline" and not (self.x and self.y):
            raise ValueError(f"a figure of kind {self.kind!r} needs x and y")
        if self.kind == "ratio" and not self.reference:
            raise ValueError("a figure of kind 'ratio' needs reference, such as reference = {ranks = 1}")
        if self.kind == "reach" and (self.of is None or self.level is None):
            raise ValueError("a figure of kind 'reach' needs of (a parameter) and level")
        return self

    def check_names(self, experiment: Experiment, place: str) -> None:
        """Raise ValueError where a figure names a table or a column that the experiment does not give."""
        if self.table is not None and self.table not in experiment.tables:
            raise ValueError(f"{place}.table: {unknown('table', self.table, experiment.tables)}")
        table = experiment.table(self.table)
        parameters = [*experiment.settings.model_fields, *table.keys]
        figures = [*parameters, *table.metrics, *RECORDED]
        needed = {"x": figures, "y": figures, "series": [*parameters, "seed"], "panels": parameters}
        for key, known in {**needed, "of": parameters}.items():
            name = getattr(self, key)
            if name and name not in known:
                raise ValueError(f"{place}.{key}: {unknown('name', name, known)}")
        for key in ("where", "reference"):
            for name in getattr(self, key):
                if name not in parameters:
                    raise ValueError(f"{place}.{key}: {unknown('parameter', name, parameters)}")
        roofline = ("flops", "bytes_moved", "seconds", "peak_flops", "bandwidth")
        lacking = [name for name in roofline if name not in table.metrics]
        if self.kind == "roofline" and lacking:
            raise ValueError(
                f"{place}: experiment {experiment.name!r} does not measure {lacking[0]}, which a roofline "
                "needs; leave this figure out"
            )
