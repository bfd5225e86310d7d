"""What a run's grid points, states and ridgelets are made with, checked before any of it starts."""

from dataclasses import dataclass

from qrt_tn import Quantizer, Ridgelet
from qrt_tn.engine.backends import namespace
from qrt_tn.states.filters import checked_widths
from qrt_tn.states.smoothing import checked_tolerance


@dataclass(frozen=True)
class GridConfig:
    """Settings that the folds and sources of a run share.

    Attributes:
        quantiser: "uniform", "quantile", "pca-quantile", or "auto": uniform for images, else quantile.
        levels: the number of levels L of a feature.
        modulus: the prime P; P / L is the guard band.
        components: principal components kept by "pca-quantile"; None for all.
        activations: names to choose from.
        smoothings: filter widths to choose from.
        tolerance: relative error allowed to a smoothed state's compression.
        seeds: how many seeds; each draws its own split, nodes and training order.
        backend: "numpy", "cupy", "cuquantum" or "auto".

    Raises:
        ValueError: any setting that could not work, by name.
    """

    quantiser: str = "auto"
    levels: int = 17
    modulus: int = 127
    components: int | None = None
    activations: tuple[str, ...] = ("cosine", "triangle", "gaussian")
    smoothings: tuple[float, ...] = (0.4, 0.5, 0.6, 0.8)
    tolerance: float = 0.05
    seeds: int = 3
    backend: str = "auto"

    def __post_init__(self) -> None:
        kind = "uniform" if self.quantiser == "auto" else self.quantiser
        Quantizer(kind, self.levels, self.modulus, self.components).check()
        for name in ("activations", "smoothings"):
            if not getattr(self, name):
                raise ValueError(f"no {name} given; give at least one")
        for activation in self.activations:
            Ridgelet(activation, self.modulus)
        for width in self.smoothings:
            checked_widths(width, 1)
        checked_tolerance(self.tolerance)
        namespace(self.backend)  # refuses what holds no arrays, or is not here
        if self.seeds < 1:
            raise ValueError(f"the number of seeds is {self.seeds}; give at least 1")
