"""Which network is contracted, and on what."""

from typing import Literal

from pydantic import Field, model_validator

from qrt_tn.studies.experiments.catalogue import Experiment, Metric, Settings, one_row
from qrt_tn.studies.experiments.growth.settings import Modulus

BATCHED = ("qrt-chain", "qrt-grid")


class Contraction(Settings):
    """Parameters of one contraction."""

    network: Literal["mps-overlap", "grid", "regular", "circuit", "qrt-chain", "qrt-grid"] = "grid"
    """mps-overlap: of two random matrix product states. grid: random tensors on a square grid. regular: on
    a random 3-regular graph. circuit: an amplitude of a random circuit of qubits on a square grid.
    qrt-chain and qrt-grid: amplitudes of the ridgelet transform of a random matrix product state, and of a
    random state on a square grid."""
    size: int = Field(6, ge=2, le=10_000)
    """Sites of a chain, vertices of a graph, or tensors or qubits along a side of a grid."""
    bond: int = Field(4, ge=1, le=4096)
    """Of all networks but circuit."""
    depth: int = Field(8, ge=1, le=1000)
    """Layers of a circuit."""
    modulus: Modulus = 7
    """Values of a site: of mps-overlap, qrt-chain and qrt-grid."""
    batch: int = Field(1, ge=1, le=10**7)
    """How many amplitudes of a qrt network."""
    backend: Literal["numpy", "cupy", "cuquantum"] = "numpy"
    gpus: int = Field(0, ge=0, le=1)
    """GPUs of each rank, what a study's [resources] take; cupy and cuquantum need one."""
    dtype: Literal["complex64", "complex128"] = "complex128"
    compute: Literal["default", "TF32", "3XTF32"] = "default"
    """How cuTensorNet multiplies single precision."""
    ranks: int = Field(1, ge=1, le=4096)
    slices: int = Field(1, ge=1, le=10**6)
    """So many at least: what ranks share. A batch is divided first, then the bonds that cost least."""
    rounds: int = Field(5, ge=1, le=1000)
    reference: bool = True
    """Whether to contract in complex128 by NumPy as well, for the error; without it the error is missing."""

    @model_validator(mode="after")
    def _fits(self) -> "Contraction":
        if self.batch > 1 and self.network not in BATCHED:
            raise ValueError(
                f"batch is {self.batch}; {self.network} has one result, so leave batch out "
                f"or take one of {', '.join(BATCHED)}"
            )
        if self.compute != "default" and (self.backend, self.dtype) != ("cuquantum", "complex64"):
            raise ValueError(
                f"compute is {self.compute!r}, which is cuTensorNet's for single precision; "
                "take backend = 'cuquantum' and dtype = 'complex64', or compute = 'default'"
            )
        if self.backend in ("cupy", "cuquantum") and self.gpus == 0:
            raise ValueError(f"backend is {self.backend!r} and gpus is 0; give gpus = 1")
        if self.backend == "numpy" and self.gpus:
            raise ValueError(f"backend is 'numpy' and gpus is {self.gpus}; give gpus = 0")
        if self.network == "regular" and (self.size < 4 or self.size % 2):
            raise ValueError(
                f"size is {self.size}; a 3-regular graph has an even number of vertices, 4 or more"
            )
        if self.ranks > 1 and self.slices < self.ranks:
            raise ValueError(
                f"ranks is {self.ranks} and slices is {self.slices}; ask for as many slices at least, "
                "better 64 times as many"
            )
        return self


EXPERIMENT = Experiment(
    name="contraction",
    summary="plans a tensor network and contracts it: seconds, rates and accuracy",
    settings=Contraction,
    function="qrt_tn.studies.experiments.contraction.run:contract",
    tables=one_row(
        {
            "flops": Metric("operations of one contraction", "flop"),
            "bytes_moved": Metric("bytes read and written by its products", "B"),
            "plan_bytes": Metric("memory that the plan holds at most", "B"),
            "slice_count": Metric("slices"),
            "log_abs": Metric("log of the norm of the result"),
            "plan_seconds": Metric("time to plan", "s", measured=True),
            "seconds": Metric("time to contract", "s", measured=True),
            "rate": Metric("rate", "flop/s", measured=True),
            "peak_flops": Metric("peak rate of matrix products", "flop/s", measured=True),
            "bandwidth": Metric("peak rate of copies", "B/s", measured=True),
            # a GPU's library may choose its kernels by the clock, and with them the last bits
            "error": Metric("relative error", measured=True),
        }
    ),
    labels={
        "size": "size",
        "bond": "bond dimension",
        "modulus": "modulus P",
        "batch": "amplitudes",
        "dtype": "precision",
        "compute": "products",
        "ranks": "MPI ranks",
    },
)
