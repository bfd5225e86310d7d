"""What a comparison of the QRT with pruning is asked to do, checked before any of it starts."""

from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field

from qrt_tn import Ridgelet
from qrt_tn.models.settings import settings
from qrt_tn.studies.experiments.grid import GridConfig
from qrt_tn.studies.experiments.settings import Count, EachOnce

Share = Annotated[float, Field(gt=0, lt=1)]


@settings
class ShallowConfig:
    """Settings of `compare`.

    All ridge nodes share one activation and one width, so that only the choice of nodes differs. The
    defaults did best, narrowly, on the validation points of the digits: QRT nodes of cosine and triangle
    at widths 0.5 and 0.6, mean over 16, 64 and 256 nodes. The study `risk` chooses anew for each count.

    Raises:
        ValueError: any setting that could not work, by name.
    """

    data: Path | None = None
    """A npz, csv or parquet file, or None for scikit-learn's digits."""
    target: str | None = None
    """The array or column that holds the targets; None for the file's usual place."""
    quantiser: str = "auto"
    """As in `GridConfig`, as are the next two, the activation, the tolerance and the backend."""
    levels: int = 17
    modulus: int = 127
    activation: str = "cosine"
    smoothing: float = 0.6
    """The width w of the filter of all states, and of the prior of pools and over-wide networks."""
    tolerance: float = 0.05
    nodes: Annotated[EachOnce[Count], AfterValidator(lambda nodes: tuple(sorted(nodes)))] = (
        16,
        32,
        64,
        128,
        256,
    )
    """Node counts; the largest is at most half of `wide`."""
    seeds: Count = 3
    """How many; each draws its own split, nodes and training order."""
    epochs: Count = 40
    """Passes over the data of every training: each round of pruning, and the final one."""
    wide: Count = 1024
    """Hidden nodes of the over-wide networks that are pruned."""
    keep: Share = 0.5
    """Share of the nodes that a round of "imp-nodes" keeps."""
    hidden_rate: Share = 0.2
    """Share of its hidden weights that a round of "imp-weights" takes; the next, of its output weights."""
    output_rate: Share = 0.1
    ridge: Annotated[float, Field(ge=0)] = 1e-3
    """Lambda of the state of "qrt-ridge"."""
    teacher_nodes: Count = 256
    """Hidden nodes of the teacher."""
    jitter: Annotated[float, Field(ge=0)] = 1.0
    """Standard deviation, in levels, of one noisy copy of each training point that the teacher labels too."""
    pool: Count = 4096
    """Candidates of "leverage"."""
    leverage_ridges: EachOnce[Annotated[float, Field(gt=0)]] = (1e-5, 1e-4, 1e-3, 1e-2)
    """Penalties of its scores for the validation points to choose from."""
    reference: Count = 1024
    """QRT nodes that overlaps are measured against."""
    rank: Count = 8
    """Of the subspaces whose overlap is measured; a set of fewer directions takes their number."""
    null_draws: Count = 100
    """Random subsets in the null distribution of an overlap."""
    backend: str = "auto"

    def __post_init__(self) -> None:
        if 2 * self.nodes[-1] > self.wide:
            # the null of an overlap draws as many nodes from those that were pruned
            raise ValueError(
                f"nodes {self.nodes[-1]} is above half of wide, {self.wide}; give a larger wide, or fewer"
            )
        if self.pool < self.nodes[-1]:
            raise ValueError(f"pool is {self.pool}, below nodes {self.nodes[-1]}; give a larger pool")
        self.grid  # noqa: B018  (checks what the two share)

    @cached_property
    def grid(self) -> GridConfig:
        """The settings that make folds; made with them, they are checked too."""
        return GridConfig(
            quantiser=self.quantiser,
            levels=self.levels,
            modulus=self.modulus,
            activations=(self.activation,),
            smoothings=(self.smoothing,),
            tolerance=self.tolerance,
            seeds=self.seeds,
            backend=self.backend,
        )

    @property
    def ridgelet(self) -> Ridgelet:
        """The ridgelet of all ridge nodes."""
        return Ridgelet(self.activation, self.modulus)

    @classmethod
    def quick(cls, **changes: Any) -> Self:
        """Settings for a first look, of well under a minute on two cores; `changes` come on top."""
        chosen: dict[str, Any] = {
            "nodes": (16, 64, 256),
            "seeds": 2,
            "epochs": 15,
            "pool": 2048,
            "leverage_ridges": (1e-4, 1e-3, 1e-2),
            "null_draws": 50,
        }
        return cls(**chosen | changes)
