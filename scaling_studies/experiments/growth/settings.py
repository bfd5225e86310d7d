"""What a state is asked to be when its growth is measured."""

import math
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from qrt_tn.studies.experiments.catalogue import Experiment, Metric, Settings, one_row

DENSE_LIMIT = 2**26  # values of a dense state: 1 GiB in complex128


def _prime(number: int) -> int:
    if number < 2 or any(number % divisor == 0 for divisor in range(2, math.isqrt(number) + 1)):
        raise ValueError("the modulus must be a prime number; take one such as 7, 31 or 127")
    return number


Modulus = Annotated[int, Field(ge=2, le=65_521), AfterValidator(_prime)]


class Growth(Settings):
    """Parameters of one state and of the nodes drawn from its transform."""

    kind: Literal["samples", "smoothed", "mps", "ridges", "dense"] = "samples"
    dim: int = Field(100, ge=1, le=10**6)
    modulus: Modulus = 127
    bond: int = Field(4, ge=1, le=4096)
    """Of mps; the bond of smoothed comes out of its compression."""
    points: int = Field(2000, ge=2, le=10**7)
    """Of samples and smoothed; ridges has so many hidden nodes."""
    nodes: int = Field(256, ge=1, le=10**7)
    activation: Literal[
        "relu",
        "triangle",
        "sawtooth",
        "step",
        "cosine",
        "sine",
        "tanh",
        "sigmoid",
        "softplus",
        "gaussian",
    ] = "triangle"
    backend: Literal["numpy", "cupy"] = "numpy"
    gpus: int = Field(0, ge=0, le=1)
    """What a study's [resources] take: 1 for cupy."""
    dtype: Literal["complex64", "complex128"] = "complex64"
    """Of samples, smoothed and mps; ridges and dense compute in complex128."""
    rounds: int = Field(3, ge=1, le=1000)

    @model_validator(mode="after")
    def _fits(self) -> "Growth":
        if self.kind == "dense" and self.dim * math.log(self.modulus) > math.log(DENSE_LIMIT):
            raise ValueError(
                f"a dense state has modulus^dim = {self.modulus}^{self.dim} values, above {DENSE_LIMIT}; "
                "lower dim or modulus"
            )
        if (self.backend == "cupy") != (self.gpus == 1):
            raise ValueError(
                f"backend is {self.backend!r} and gpus is {self.gpus}; cupy takes gpus = 1, numpy gpus = 0"
            )
        return self


EXPERIMENT = Experiment(
    name="states",
    summary="builds a state and draws nodes from its ridgelet transform: seconds and bytes",
    settings=Growth,
    function="qrt_tn.studies.experiments.growth.run:grow",
    tables=one_row(
        {
            "build_seconds": Metric("time to build the state", "s", measured=True),
            "seconds": Metric("time to draw the nodes", "s", measured=True),
            "total_seconds": Metric("time to build and draw", "s", measured=True),
            "bytes": Metric("peak memory of data, state and drawing", "B", measured=True),
            "mean_log_probability": Metric("mean log-probability of the nodes drawn"),
            "bond_reached": Metric("largest bond of the state"),
            "truncation_error": Metric("relative error of the compression"),
        }
    ),
    labels={
        "kind": "state",
        "dim": "dimension D",
        "modulus": "modulus P",
        "bond": "bond dimension",
        "points": "data points M",
        "nodes": "nodes drawn N",
    },
)
