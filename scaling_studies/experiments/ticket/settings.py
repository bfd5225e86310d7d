"""What a run of the main job is asked to do, checked before any of it starts."""

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from qrt_tn.studies.config.messages import Table

TICKET = "residual"
METHODS = ("residual", "qrt", "filter", "random-features", "random-features-greedy", "dense")
YARDSTICKS = ("linear", "forest", "svm")  # have no nodes
ON_DEMAND = ("uniform", "qrt-unsmoothed", "boosting")
KNOWN = (*METHODS, *YARDSTICKS, *ON_DEMAND)
NODELESS = (*YARDSTICKS, "boosting")
MOST_NODES = 100_000
MOST_SEEDS = 1_000
EPOCHS = 30

Auto = Literal["auto"]


class Ticket(Table):
    """Settings of `qrt-tn ticket`."""

    data: Path | None = None
    """A table or an npz file; None for scikit-learn's digits."""
    target: str | None = None
    """The name or position of the target's column, or the name of its array."""
    task: Literal["classification", "regression"] | None = None
    """None: as the target tells."""
    header: bool | None = None
    """Whether the first line of a table holds names; None: as the lines tell."""
    drop: tuple[str, ...] = ()
    """Columns to leave out, by name or position."""
    encode: Literal["onehot", "ordinal"] | None = None
    """What becomes of columns of text; None refuses them."""
    impute: Literal["mean", "median", "most_frequent"] | None = None
    """What missing numbers become, as the training points have it; None refuses them."""
    methods: tuple[str, ...] | None = None
    """Of `KNOWN`; None: the usual ones, less those that would take too long."""
    nodes: tuple[Annotated[int, Field(ge=1, le=MOST_NODES)], ...] = Field((16, 64, 256), min_length=1)
    """Node counts."""
    seeds: int = Field(5, ge=1, le=MOST_SEEDS)
    """How many; each draws its own split, nodes and training order."""
    epochs: int | None = Field(None, ge=0, le=100_000)
    """Passes over the data when all parameters are trained; 0 for no training, None for `EPOCHS`, or for no
    training where that would take too long."""
    quantizer: Literal["auto", "uniform", "quantile"] = "auto"
    levels: Auto | int = "auto"
    modulus: int = Field(127, ge=3)
    smoothing: Auto | float = "auto"
    beta: Auto | float = "auto"
    """As in `qrt_tn.models.RidgeletClassifier`, as are the four before."""
    backend: Literal["auto", "numpy", "cupy", "cuquantum"] = "auto"
    """Where the state of "qrt" is compressed and sampled."""

    @field_validator("nodes")
    @classmethod
    def _each_once(cls, nodes: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(nodes)) < len(nodes):
            raise ValueError("a count is named twice; give each once")
        return tuple(sorted(nodes))

    @field_validator("levels", "smoothing", "beta", mode="before")
    @classmethod
    def _auto_or_number(cls, value: Any, info: ValidationInfo) -> Any:
        if value == "auto":
            return value
        least = {"levels": 2, "smoothing": 0, "beta": 1}[str(info.field_name)]
        number = isinstance(value, int | float) and math.isfinite(value) and value >= least
        if not number or (info.field_name == "smoothing" and value == 0):
            bound = "above 0" if least == 0 else f"of at least {least}"
            raise ValueError(f"give a finite number {bound}, or auto")
        return value

    @field_validator("modulus")
    @classmethod
    def _prime(cls, modulus: int) -> int:
        from qrt_tn.field import check_prime

        return check_prime(modulus)

    @field_validator("methods")
    @classmethod
    def _known(cls, methods: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if methods is None:
            return None
        unknown = [method for method in methods if method not in KNOWN]
        if unknown:
            raise ValueError(f"unknown method {unknown[0]!r}; choose from {', '.join(KNOWN)}")
        if TICKET not in methods:
            raise ValueError(f"methods leave out {TICKET}, which the others are set against; add it")
        return tuple(dict.fromkeys(methods))

    @model_validator(mode="after")
    def _levels_fit(self) -> "Ticket":
        if self.levels != "auto" and self.levels > self.modulus:
            raise ValueError(f"levels is {self.levels}, above the modulus {self.modulus}; give fewer levels")
        return self
