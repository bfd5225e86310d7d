"""What a comparison of the QRT with pruning is asked to do, checked before any of it starts."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from qrt_tn import Ridgelet
from qrt_tn.engine.arguments import check_whole, is_real
from qrt_tn.studies.experiments.grid import GridConfig


@dataclass(frozen=True)
class ShallowConfig:
    """Settings of `compare`.

    All ridge nodes share one activation and one width, so that only the choice of nodes differs. The
    defaults did best, narrowly, on the validation points of the digits: QRT nodes of cosine and triangle
    at widths 0.5 and 0.6, mean over 16, 64 and 256 nodes. The study `risk` chooses anew for each count.

    Attributes:
        data: a npz, csv or parquet file, or None for scikit-learn's digits.
        target: the array or column that holds the targets; None for the file's usual place.
        quantiser: as in `GridConfig`.
        levels: the number of levels L of a feature.
        modulus: the prime P.
        activation: of all ridge nodes.
        smoothing: the width w of the filter of all states, and of the prior of pools and over-wide networks.
        tolerance: relative error allowed to a state's compression.
        nodes: node counts; the largest is at most half of `wide`.
        seeds: how many; each draws its own split, nodes and training order.
        epochs: passes over the data of every training: each round of pruning, and the final one.
        wide: hidden nodes of the over-wide networks that are pruned.
        keep: share of the nodes that a round of "imp-nodes" keeps.
        hidden_rate: share of its hidden weights that a round of "imp-weights" takes.
        output_rate: likewise of its output weights.
        ridge: lambda of the state of "qrt-ridge".
        teacher_nodes: hidden nodes of the teacher.
        jitter: standard deviation, in levels, of one noisy copy of each training point that the teacher
            labels too; 0 for none.
        pool: candidates of "leverage".
        leverage_ridges: penalties of its scores for the validation points to choose from.
        reference: QRT nodes that overlaps are measured against.
        rank: of the subspaces whose overlap is measured; a set of fewer directions takes their number.
        null_draws: random subsets in the null distribution of an overlap.
        backend: "numpy", "cupy", "cuquantum" or "auto".

    Raises:
        ValueError: any setting that could not work, by name.
    """

    data: Path | None = None
    target: str | None = None
    quantiser: str = "auto"
    levels: int = 17
    modulus: int = 127
    activation: str = "cosine"
    smoothing: float = 0.6
    tolerance: float = 0.05
    nodes: tuple[int, ...] = (16, 32, 64, 128, 256)
    seeds: int = 3
    epochs: int = 40
    wide: int = 1024
    keep: float = 0.5
    hidden_rate: float = 0.2
    output_rate: float = 0.1
    ridge: float = 1e-3
    teacher_nodes: int = 256
    jitter: float = 1.0
    pool: int = 4096
    leverage_ridges: tuple[float, ...] = (1e-5, 1e-4, 1e-3, 1e-2)
    reference: int = 1024
    rank: int = 8
    null_draws: int = 100
    backend: str = "auto"

    def __post_init__(self) -> None:
        for name in ("seeds", "epochs", "wide", "teacher_nodes", "pool", "reference", "rank", "null_draws"):
            check_whole(name, getattr(self, name))
        if not isinstance(self.nodes, list | tuple) or not 0 < len(self.nodes) == len(set(self.nodes)):
            raise ValueError(f"nodes is {self.nodes!r}; give a tuple of counts, at least one and none twice")
        for count in self.nodes:
            check_whole("a count of nodes", count)
        object.__setattr__(self, "nodes", tuple(sorted(self.nodes)))
        for name in ("keep", "hidden_rate", "output_rate"):
            share = getattr(self, name)
            if not (is_real(share) and 0 < share < 1):
                raise ValueError(f"{name} is {share!r}; give a share above 0 and below 1")
        for name in ("ridge", "jitter"):
            if not (is_real(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"{name} is {getattr(self, name)!r}; give a finite number, at least 0")
        if not isinstance(self.leverage_ridges, list | tuple) or not self.leverage_ridges:
            raise ValueError(f"leverage_ridges is {self.leverage_ridges!r}; give at least one, as a tuple")
        object.__setattr__(self, "leverage_ridges", tuple(self.leverage_ridges))
        for penalty in self.leverage_ridges:
            if not (is_real(penalty) and penalty > 0):
                raise ValueError(f"leverage_ridges holds {penalty!r}; give penalties above 0")
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
        settings: dict[str, Any] = {
            "nodes": (16, 64, 256),
            "seeds": 2,
            "epochs": 15,
            "pool": 2048,
            "leverage_ridges": (1e-4, 1e-3, 1e-2),
            "null_draws": 50,
        }
        return cls(**settings | changes)
