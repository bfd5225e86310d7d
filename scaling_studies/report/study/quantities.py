"""What the numbers of a study are called and how they are written: labels, units, parameter values."""

import json
import math
import re
from dataclasses import dataclass
from typing import Any

from qrt_tn.studies.experiments.catalogue import Experiment
from qrt_tn.studies.report.html import MISSING, amount, number
from qrt_tn.studies.report.style import plain

LONGEST = 60  # characters of a parameter's value that are shown
_PREFIXED = ("B", "B/s", "flop", "flop/s")
_TIMES = ((86_400.0, 3.0, "days"), (3600.0, 2.0, "h"), (60.0, 2.0, "min"))
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True)
class Quantity:
    """A number that points have.

    Attributes:
        name: as records have it.
        label: for axes and tables.
        unit: "s", "B", "flop/s", "%" or "".
        measured: whether it depends on machine and moment.
    """

    name: str
    label: str
    unit: str = ""
    measured: bool = False

    @property
    def axis(self) -> str:
        """Label and unit."""
        return f"{self.label} ({self.unit})" if self.unit else self.label


_RECORDED = {
    "wall_seconds": Quantity("wall_seconds", "wall time", "s", True),
    "peak_bytes": Quantity("peak_bytes", "peak memory", "B", True),
    "seed": Quantity("seed", "seed"),
}


def quantity(experiment: Experiment, name: str) -> Quantity:
    """What a metric, a parameter or a figure that every record has is called."""
    if name in experiment.metrics:
        metric = experiment.metrics[name]
        return Quantity(name, clean(metric.label), clean(metric.unit), metric.measured)
    label = experiment.labels.get(name, name.replace("_", " "))
    return _RECORDED.get(name, Quantity(name, clean(label)))


def with_unit(value: float | None, unit: str) -> str:
    """A number with its unit, to three or four digits: 12.3 ms, 3.5 h, 1.23 GB, 96.1 %, 0.9612."""
    if value is None or not math.isfinite(value):
        return MISSING
    if unit == "s":
        for length, least, name in _TIMES:
            if abs(value) >= least * length:
                return f"{value / length:.3g} {name}"
        if abs(value) >= 1:
            return f"{value:.3g} s"
    if unit in {"", "%"}:
        whole = float(value).is_integer() and abs(value) < 1e6
        text = number(int(value)) if whole else _pure(value)
        return f"{text} %" if unit else text
    return amount(value, unit)


def _pure(value: float) -> str:
    return f"{value:.4g}".replace("-", "−") if 1e-4 <= abs(value) < 1e6 else plain(value)


def tick(value: float, unit: str) -> str:
    """A number at a tick of an axis whose label has the unit; prefixes where they are usual: 10 M."""
    if unit in _PREFIXED:
        return amount(value, "").strip()
    whole = 1 <= abs(value) < 1e5
    return f"{value:,.6g}".replace("-", "−") if whole else plain(value)


def said(value: Any, longest: int = LONGEST) -> str:
    """A parameter's value as plain text on one line, its middle left out where it is long."""
    if value is None:
        text = "none"
    elif isinstance(value, float):
        text = f"{value:.6g}"
    elif isinstance(value, str):
        text = value if value.strip() else f'"{value}"'
    else:
        text = json.dumps(value, ensure_ascii=False)
    text = clean(text)
    half = longest // 2
    return text if len(text) <= longest else f"{text[:half]}…{text[-(longest - half - 1) :]}"


def clean(text: str) -> str:
    """A text without line ends and what neither SVG nor HTML can hold."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", " ".join(text.splitlines()) if text else text)


def chosen(conditions: dict[str, Any]) -> str:
    """Conditions on parameters in words: P = 7, kind = mps or dense."""
    parts = []
    for name, value in conditions.items():
        values = value if isinstance(value, list) else [value]
        parts.append(f"{name} = {' or '.join(said(one, 24) for one in values) or 'nothing'}")
    return ", ".join(parts)
