"""What a run of the main job is asked to do, checked before any of it starts."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qrt_tn import Quantizer, Ridgelet
from qrt_tn.engine.backends import namespace
from qrt_tn.states.filters import checked_widths
from qrt_tn.states.smoothing import checked_tolerance
from qrt_tn.studies.folders import check_new

METHODS = ("qrt-smoothed", "qrt-unsmoothed", "filter", "uniform", "random-features", "dense")


@dataclass(frozen=True)
class TicketConfig:
    """Settings of `qrt-tn ticket`.

    Attributes:
        data: a npz, csv or parquet file, or None for scikit-learn's digits.
        target: the array or column that holds the targets; None for the file's usual place.
        quantiser: "uniform", "quantile", "pca-quantile", or "auto": uniform for images, else quantile.
        levels: the number of levels L of a feature.
        modulus: the prime P; P / L is the guard band.
        components: principal components kept by "pca-quantile"; None for all.
        activations: names tried on the validation points.
        smoothings: widths tried on the validation points.
        tolerance: relative error allowed to a smoothed state's compression.
        broad: the width at which the transform is set against its own filter; None to leave that out.
        broad_tolerance: the tolerance of that state, whose bond is much larger.
        nodes: node counts.
        seeds: how many seeds; each draws its own split, nodes and training order.
        epochs: passes over the data when all parameters are trained; 0 to leave training out.
        methods: which of `METHODS` to compare.
        backend: "numpy", "cupy", "cuquantum" or "auto".
        out: the output folder, which must not exist or be empty.

    Raises:
        ValueError: any setting that could not work, by name.
    """

    data: Path | None = None
    target: str | None = None
    quantiser: str = "auto"
    levels: int = 17
    modulus: int = 127
    components: int | None = None
    activations: tuple[str, ...] = ("cosine", "triangle", "gaussian")
    smoothings: tuple[float, ...] = (0.4, 0.5, 0.6, 0.8)
    tolerance: float = 0.05
    broad: float | None = 2.0
    broad_tolerance: float = 0.25
    nodes: tuple[int, ...] = (16, 32, 64, 128, 256, 512, 1024)
    seeds: int = 3
    epochs: int = 40
    methods: tuple[str, ...] = METHODS
    backend: str = "auto"
    out: Path = Path("runs/ticket")

    def __post_init__(self) -> None:
        self._check_grid()
        self._check_comparison()
        object.__setattr__(self, "nodes", tuple(sorted(self.nodes)))
        check_new(self.out)

    def _check_grid(self) -> None:
        """What makes states: quantiser, modulus, activations, widths and tolerances."""
        kind = "uniform" if self.quantiser == "auto" else self.quantiser
        Quantizer(kind, self.levels, self.modulus, self.components).check()
        for name in ("activations", "smoothings", "nodes"):
            if not getattr(self, name):
                raise ValueError(f"no {name} given; give at least one")
        for activation in self.activations:
            Ridgelet(activation, self.modulus)
        for width in (*self.smoothings, *(() if self.broad is None else (self.broad,))):
            checked_widths(width, 1)
        for tolerance in (self.tolerance, self.broad_tolerance):
            checked_tolerance(tolerance)

    def _check_comparison(self) -> None:
        """What is compared, how often, and where it runs."""
        namespace(self.backend)  # refuses what holds no arrays, or is not here
        if min(self.nodes) < 1:
            raise ValueError(f"the number of nodes is {min(self.nodes)}; give at least 1")
        if len(set(self.nodes)) < len(self.nodes):
            raise ValueError(f"nodes {self.nodes} name a count twice; give each once")
        if self.seeds < 1:
            raise ValueError(f"the number of seeds is {self.seeds}; give at least 1")
        if self.epochs < 0:
            raise ValueError(f"epochs is {self.epochs}; give 0 (no training) or more")
        unknown = [method for method in self.methods if method not in METHODS]
        if unknown:
            raise ValueError(f"unknown method {unknown[0]!r}; choose from {', '.join(METHODS)}")
        if "qrt-smoothed" not in self.methods:
            raise ValueError("methods leave out qrt-smoothed, which the others are set against; add it")

    def plain(self) -> dict[str, Any]:
        """The settings as JSON can hold them."""
        return {
            name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()
        }
