"""What a run's grid points, states and ridgelets are made with, checked before any of it starts."""

from typing import Annotated

from pydantic import Field

from qrt_tn import Quantizer, Ridgelet
from qrt_tn.engine.backends import namespace
from qrt_tn.models.settings import settings
from qrt_tn.states.filters import checked_widths
from qrt_tn.states.smoothing import checked_tolerance
from qrt_tn.studies.experiments.settings import EachOnce


@settings
class GridConfig:
    """Settings that the folds and sources of a run share.

    Raises:
        ValueError: any setting that could not work, by name.
    """

    quantiser: str = "auto"
    """"uniform", "quantile", "pca-quantile", or "auto": uniform for images, else quantile."""
    levels: int = 17
    """The number of levels L of a feature."""
    modulus: int = 127
    """The prime P; P / L is the guard band."""
    components: int | None = None
    """Principal components kept by "pca-quantile"; None for all."""
    activations: EachOnce[str] = ("cosine", "triangle", "gaussian")
    """Names to choose from; the next, filter widths to choose from."""
    smoothings: EachOnce[float] = (0.4, 0.5, 0.6, 0.8)
    tolerance: float = 0.05
    """Relative error allowed to a smoothed state's compression."""
    seeds: Annotated[int, Field(ge=1)] = 3
    """How many; each draws its own split, nodes and training order."""
    backend: str = "auto"
    """"numpy", "cupy", "cuquantum" or "auto"."""

    def __post_init__(self) -> None:
        kind = "uniform" if self.quantiser == "auto" else self.quantiser
        Quantizer(kind, self.levels, self.modulus, self.components).check()
        for activation in self.activations:
            Ridgelet(activation, self.modulus)
        for width in self.smoothings:
            checked_widths(width, 1)
        checked_tolerance(self.tolerance)
        namespace(self.backend)  # refuses what holds no arrays, or is not here
