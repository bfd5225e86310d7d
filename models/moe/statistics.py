"""What one MoE layer does with calibration data: sums over tokens, gathered in one streaming pass.

`summarise` reduces one batch on the device; `LayerStatistics` adds batches up on the host, in float64. The
result does not depend on how the stream is cut into batches (sums up to rounding, counts and sample exactly).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np

from qrt_tn.engine.arguments import check_whole
from qrt_tn.models.moe.layers import Observation
from qrt_tn.models.moe.maps import NO_EXPERT, ExpertMap

SAMPLE_TOKENS = 512

_SUMS = ("gate_sum", "norm_sum", "norm_square_sum", "weighted_norm_sum")
_FLOATS = (*_SUMS, "norm_max")  # one a column


@dataclass(frozen=True, eq=False)
class LayerStatistics:
    """Sums over the calibration tokens of one layer, for each of the C columns of its router.

    An assignment is a pair of a token and a column that it goes to; pairs that are dropped for want of
    capacity, and those of columns without an expert, do not count. g is the weight with which the layer
    combines the expert's output, f the output before that weight, |.| the Euclidean norm.

    Attributes:
        tokens: how many there were.
        count: assignments of each column, shape (C,), int64.
        gate_sum: sum of g, shape (C,), float64 as all that follow.
        norm_sum: sum of |f|.
        norm_square_sum: sum of |f|^2.
        weighted_norm_sum: sum of g |f|.
        norm_max: largest |f|, 0 where there is none.
        logit_gram: sum over all tokens, assigned or not, of l_i l_j, shape (C, C); l are the router's logits
            as they are, not centred, without noise, of which MC-SMoE takes the cosine. Where an ensemble's
            member does not see a token, its logits for that token count as 0.
        sample: inputs of the layer, shape (T, h): the first min(sample_cap, tokens) of the stream. A prefix
            needs no random state and is the same for any cut into batches. It is a fair sample only of a
            stream in random order, so shuffle data that is sorted by class.
        sample_cap: the most tokens that the sample holds.

    Raises:
        ValueError: shapes that do not fit each other, or a sample of another length.
    """

    tokens: int
    count: np.ndarray
    gate_sum: np.ndarray
    norm_sum: np.ndarray
    norm_square_sum: np.ndarray
    weighted_norm_sum: np.ndarray
    norm_max: np.ndarray
    logit_gram: np.ndarray
    sample: np.ndarray
    sample_cap: int = SAMPLE_TOKENS

    def __post_init__(self) -> None:
        check_whole("tokens", self.tokens, 0)
        check_whole("sample_cap", self.sample_cap, 0)
        object.__setattr__(self, "count", np.asarray(self.count, dtype=np.int64))
        for name in (*_FLOATS, "logit_gram"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.float64))
        columns = self.count.shape
        for name, shape in {**dict.fromkeys(_FLOATS, columns), "logit_gram": columns * 2}.items():
            if getattr(self, name).shape != shape:
                raise ValueError(
                    f"{name} has shape {getattr(self, name).shape}; give {shape}, as count has it"
                )
        expected = min(self.sample_cap, self.tokens)
        if self.sample.ndim != 2 or len(self.sample) != expected:
            raise ValueError(
                f"the sample has shape {self.sample.shape}; give the inputs of the first {expected} of"
                f" {self.tokens} tokens, or sample_cap=0 to keep none"
            )

    @classmethod
    def from_summary(
        cls, summary: Mapping[str, jax.Array], sample: np.ndarray, *, sample_cap: int = SAMPLE_TOKENS
    ) -> "LayerStatistics":
        """The statistics of one batch.

        Args:
            summary: what `summarise` gave.
            sample: inputs of the layer, in the order of the stream, shape (N, h): the whole batch, or at
                least its first sample_cap tokens.
            sample_cap: the most tokens that are kept of the whole stream; 0 for none.

        Raises:
            ValueError: entries that are not finite, or a sample that is short.
        """
        held = {name: np.asarray(values) for name, values in summary.items()}
        for name, values in held.items():
            if not np.isfinite(values).all():
                raise ValueError(f"{name} of the calibration pass is not finite; see that the model is sound")
        tokens = int(held.pop("tokens"))
        return cls(tokens=tokens, sample=np.array(sample[:sample_cap]), sample_cap=sample_cap, **held)

    @property
    def columns(self) -> int:
        """C."""
        return len(self.count)

    def __add__(self, other: "LayerStatistics") -> "LayerStatistics":
        """The statistics of two stretches of the stream, this one first.

        Raises:
            ValueError: they are of layers of different width, or keep samples of different length.
        """
        if not isinstance(other, LayerStatistics):
            return NotImplemented
        ours, theirs = ((one.columns, one.sample.shape[1], one.sample_cap) for one in (self, other))
        if ours != theirs:
            raise ValueError(
                f"statistics of {ours[0]} columns, {ours[1]} numbers a token and sample_cap {ours[2]} do not"
                f" add to those of {theirs[0]}, {theirs[1]} and {theirs[2]}; gather both from one layer"
            )
        sums = {name: getattr(self, name) + getattr(other, name) for name in ("count", *_SUMS, "logit_gram")}
        return LayerStatistics(
            tokens=self.tokens + other.tokens,
            norm_max=np.maximum(self.norm_max, other.norm_max),
            sample=np.concatenate([self.sample, other.sample])[: self.sample_cap],
            sample_cap=self.sample_cap,
            **sums,
        )

    def check_map(self, expert_map: ExpertMap, layer: int) -> None:
        """Check that these are statistics of a layer as it is now, as far as they can tell.

        Args:
            expert_map: what became of the layer's experts.
            layer: its number, for the message.

        Raises:
            ValueError: another number of columns, or tokens in columns that have no expert any more.
        """
        if self.columns != expert_map.columns:
            raise ValueError(
                f"the statistics of layer {layer} are of {self.columns} router columns, it has"
                f" {expert_map.columns}; gather them from this model"
            )
        gone = [column for column, expert in enumerate(expert_map.column_to_expert) if expert == NO_EXPERT]
        if self.count[gone].any():
            raise ValueError(
                f"the statistics of layer {layer} count tokens in columns {gone}, whose experts are gone;"
                " calibrate the pruned model again"
            )

    def take(self, columns: Sequence[int]) -> "LayerStatistics":
        """The statistics of some columns, in this order; tokens and sample stay.

        Raises:
            ValueError: a number that is no column, or none.
        """
        chosen = [int(column) for column in columns]
        if not chosen or not all(0 <= column < self.columns for column in chosen):
            raise ValueError(f"columns {chosen} of {self.columns}; name at least one, from 0 on")
        kept = {name: getattr(self, name)[chosen] for name in ("count", *_FLOATS)}
        return replace(self, **kept, logit_gram=self.logit_gram[np.ix_(chosen, chosen)])


def summarise(seen: Observation) -> dict[str, jax.Array]:
    """The sums of one batch by name, as `LayerStatistics` has them, in float32; it can be compiled.

    Assignments that are not valid count nowhere, whatever their gates and outputs.
    """
    columns = seen.logits.shape[1]
    norms = jnp.linalg.norm(seen.outputs.astype(jnp.float32), axis=1)
    gates = seen.gate.astype(jnp.float32)
    # One column too many takes what does not count: a weight of 0 would let infinities and NaN through.
    place = jnp.where(seen.valid, seen.column, columns)

    def total(values: jax.Array) -> jax.Array:
        return jax.ops.segment_sum(values, place, num_segments=columns + 1)[:columns]

    wide = seen.logits.astype(jnp.float32)
    return {
        "tokens": jnp.asarray(len(seen.inputs), jnp.int32),
        "count": total(jnp.ones_like(place, jnp.int32)),
        "gate_sum": total(gates),
        "norm_sum": total(norms),
        "norm_square_sum": total(norms**2),
        "weighted_norm_sum": total(gates * norms),
        "norm_max": jnp.zeros(columns + 1, jnp.float32).at[place].max(norms)[:columns],
        # the accelerator's default would round the logits to fewer bits
        "logit_gram": jnp.matmul(wide.T, wide, precision=jax.lax.Precision.HIGHEST),
    }
