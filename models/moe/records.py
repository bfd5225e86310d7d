"""One record a layer of experts, all that pruning and merging look at: router, experts, map, evidence."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from qrt_tn.models.moe.maps import ExpertMap
from qrt_tn.models.moe.statistics import LayerStatistics


@dataclass(frozen=True, eq=False)
class ExpertWeights:
    """The experts of one layer, f_e(x) = gelu(x kernel_in[e] + bias_in[e]) kernel_out[e] + bias_out[e].

    Shapes are (E, h, m), (E, m), (E, m, h) and (E, h).
    """

    kernel_in: np.ndarray
    bias_in: np.ndarray
    kernel_out: np.ndarray
    bias_out: np.ndarray

    def __post_init__(self) -> None:
        first = np.shape(self.kernel_in)
        if len(first) != 3 or 0 in first:
            raise ValueError(f"kernel_in has shape {first}; give (experts, h, m)")
        experts, hidden, units = first
        expected = {"bias_in": (experts, units), "kernel_out": (experts, units, hidden)}
        for name, shape in {**expected, "bias_out": (experts, hidden)}.items():
            if np.shape(getattr(self, name)) != shape:
                raise ValueError(
                    f"{name} has shape {np.shape(getattr(self, name))}; beside kernel_in of {first}"
                    f" it must be {shape}"
                )

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The four arrays, in the order of the attributes."""
        return self.kernel_in, self.bias_in, self.kernel_out, self.bias_out

    @property
    def experts(self) -> int:
        """E."""
        return len(self.kernel_in)

    @property
    def nbytes(self) -> int:
        """Bytes of all experts together."""
        return sum(array.nbytes for array in self.arrays)

    def take(self, indices: Sequence[int]) -> "ExpertWeights":
        """The experts of these numbers, in this order, as new arrays; ValueError for others, or none."""
        chosen = list(indices)
        if not chosen or not all(0 <= index < self.experts for index in chosen):
            raise ValueError(f"experts {chosen} of {self.experts}; name at least one, from 0 on")
        return ExpertWeights(*(array[chosen] for array in self.arrays))

    def apply(self, x: np.ndarray) -> np.ndarray:
        """All experts' outputs (E, T, h) for tokens (T, h); float64 if these or weights are, else float32."""
        double = any(array.dtype == np.float64 for array in (x, *self.arrays))
        dtype = np.dtype(np.float64 if double else np.float32)
        outputs = np.empty((self.experts, *x.shape), dtype)
        for expert in range(self.experts):  # one at a time: hidden units need much more memory than outputs
            kernel_in, bias_in, kernel_out, bias_out = (array[expert].astype(dtype) for array in self.arrays)
            outputs[expert] = _gelu(x.astype(dtype) @ kernel_in + bias_in) @ kernel_out + bias_out
        return outputs


@dataclass(frozen=True, eq=False)
class ExpertLayer:
    """One layer.

    Attributes:
        number: of the encoder block.
        router: shape (h, C); the columns of an ensemble (E3) member after member.
        experts: the E that are left.
        expert_map: which expert answers which column.
        members: ensemble members; each has a contiguous group of C / members columns.
        pretrained: the router before fine-tuning and before any pruning, or None.
        statistics: of the C columns, or None.
    """

    number: int
    router: np.ndarray
    experts: ExpertWeights
    expert_map: ExpertMap
    members: int = 1
    pretrained: np.ndarray | None = None
    statistics: LayerStatistics | None = None

    def __post_init__(self) -> None:
        layer, (hidden, columns), known = self.number, self.router.shape, self.expert_map
        if hidden != self.experts.kernel_in.shape[1]:
            raise ValueError(
                f"the experts of layer {layer} take tokens of {self.experts.kernel_in.shape[1]} numbers, its"
                f" router of {hidden}; take both from one model"
            )
        if (known.columns, known.experts) != (columns, self.experts.experts):
            raise ValueError(
                f"the map of layer {layer} has {known.columns} columns and {known.experts} experts, the tree"
                f" {columns} and {self.experts.experts}; give the maps of this tree"
            )
        if columns % self.members:
            raise ValueError(
                f"{self.members} groups do not divide the {columns} router columns of layer {layer};"
                " give a number that does"
            )
        if self.pretrained is not None and self.pretrained.shape != (hidden, known.capacity_experts):
            raise ValueError(
                f"the router of layer {layer} had {known.capacity_experts} columns before pruning, that of"
                f" the pre-trained model has {self.pretrained.shape[1]}; give the checkpoint it was"
                " fine-tuned from"
            )
        if self.statistics is not None:
            self._check_statistics(self.statistics)

    def _check_statistics(self, statistics: LayerStatistics) -> None:
        known, live = self.expert_map, set(self.expert_map.live_columns)
        if statistics.columns != known.columns:
            raise ValueError(
                f"the statistics of layer {self.number} are of {statistics.columns} router columns, it has"
                f" {known.columns}; gather them from this model"
            )
        gone = [column for column in range(known.columns) if column not in live]
        if statistics.count[gone].any():
            raise ValueError(
                f"the statistics of layer {self.number} count tokens in columns {gone}, whose experts are"
                " gone; calibrate the pruned model again"
            )

    @cached_property
    def columns(self) -> tuple[int, ...]:
        """For each expert, the one column of the router that leads to it; ValueError for merged experts."""
        owner = self.expert_map.column_to_expert
        live = self.expert_map.live_columns
        if len(live) > self.expert_map.experts:
            shared = next(one for one in owner if one >= 0 and owner.count(one) > 1)
            raise ValueError(
                f"the columns {[column for column in live if owner[column] == shared]} of layer"
                f" {self.number} lead to one merged expert; prune before merging, not after"
            )
        return tuple(sorted(live, key=lambda column: owner[column]))

    @property
    def width(self) -> int:
        """Columns of each ensemble member."""
        return self.router.shape[1] // self.members

    @property
    def groups(self) -> list[list[int]]:
        """The places of each ensemble member's experts."""
        owner = [column // self.width for column in self.columns]
        return [[place for place, own in enumerate(owner) if own == group] for group in range(self.members)]

    def evidence(self) -> tuple[np.ndarray | None, np.ndarray, ExpertWeights, LayerStatistics | None]:
        """The pre-trained router, the router, the experts and the statistics, one entry for each expert."""
        columns = list(self.columns)
        before = None
        if self.pretrained is not None:
            before = self.pretrained[:, list(self.expert_map.source_ids)].astype(np.float64)
        statistics = None if self.statistics is None else self.statistics.take(columns)
        return before, self.router[:, columns].astype(np.float64), self.experts, statistics


def _gelu(z: np.ndarray) -> np.ndarray:
    # flax.linen.gelu, the activation of vmoe's MLPs, is this approximation by default
    return 0.5 * z * (1.0 + np.tanh(np.sqrt(2.0 / np.pi).astype(z.dtype) * (z + 0.044715 * z**3)))
