"""What layers of experts do with calibration data: sums over tokens, gathered in one streaming pass.

Batches are summed on the device in float32 and added up on the host in float64, so that the result does not
depend on how the stream is cut into batches (sums up to rounding, counts and sample exactly).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from qrt_tn.engine.arguments import check_whole
from qrt_tn.models.moe.layers import Observation
from qrt_tn.models.moe.training import check_points
from qrt_tn.models.moe.vit import VisionMoe

SAMPLE_TOKENS = 512

_SUMS = ("count", "gate_sum", "norm_sum", "weighted_norm_sum")  # one a column


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
        weighted_norm_sum: sum of g |f|.
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
    weighted_norm_sum: np.ndarray
    logit_gram: np.ndarray
    sample: np.ndarray
    sample_cap: int = SAMPLE_TOKENS

    def __post_init__(self) -> None:
        columns = np.shape(self.count)
        for name, shape in {**dict.fromkeys(_SUMS, columns), "logit_gram": columns * 2}.items():
            values = np.asarray(getattr(self, name), np.int64 if name == "count" else np.float64)
            object.__setattr__(self, name, values)
            if values.shape != shape:
                raise ValueError(f"{name} has shape {values.shape}; give {shape}, as count has it")
        expected = min(self.sample_cap, self.tokens)
        if self.sample.ndim != 2 or len(self.sample) != expected:
            raise ValueError(
                f"the sample has shape {self.sample.shape}; give the inputs of the first {expected} of"
                f" {self.tokens} tokens, or sample_cap=0 to keep none"
            )

    @property
    def columns(self) -> int:
        """C."""
        return len(self.count)

    def __add__(self, other: "LayerStatistics") -> "LayerStatistics":
        """The statistics of two stretches of the stream, this one first; ValueError if not of one layer."""
        if not isinstance(other, LayerStatistics):
            return NotImplemented
        ours, theirs = ((one.columns, one.sample.shape[1], one.sample_cap) for one in (self, other))
        if ours != theirs:
            raise ValueError(
                f"statistics of {ours[0]} columns, {ours[1]} numbers a token and sample_cap {ours[2]} do not"
                f" add to those of {theirs[0]}, {theirs[1]} and {theirs[2]}; gather both from one layer"
            )
        return LayerStatistics(
            tokens=self.tokens + other.tokens,
            sample=np.concatenate([self.sample, other.sample])[: self.sample_cap],
            sample_cap=self.sample_cap,
            **{name: getattr(self, name) + getattr(other, name) for name in (*_SUMS, "logit_gram")},
        )

    def take(self, columns: Sequence[int]) -> "LayerStatistics":
        """The statistics of some columns, in this order; tokens and sample stay."""
        chosen = list(columns)
        kept = {name: getattr(self, name)[chosen] for name in _SUMS}
        return replace(self, **kept, logit_gram=self.logit_gram[np.ix_(chosen, chosen)])


def calibrate(
    network: VisionMoe,
    x: np.ndarray | Iterable[np.ndarray],
    *,
    batch_size: int = 128,
    sample_tokens: int = SAMPLE_TOKENS,
    progress: Callable[[int], None] | None = None,
) -> dict[int, LayerStatistics]:
    """The statistics of every layer of experts over images that need no labels, by block.

    Images are seen once, a batch at a time, and only sums and the first `sample_tokens` inputs of a layer are
    kept, for criteria that rebuild its outputs. A batch that is not full costs one more compilation.

    Args:
        network: whole or pruned.
        x: images, shape (M, height, width, channels), memory-mapped ones too; or batches of them, one after
            the other, from a stream of any length.
        batch_size: images at once, where x is one array; rounded down to whole groups where tokens are
            grouped over several images, and then the images must make whole groups too.
        progress: called with the images seen so far, after each batch.

    Raises:
        ValueError: no images, images of another shape, or activations that are not finite.
    """
    check_whole("batch_size", batch_size, 1)
    check_whole("sample_tokens", sample_tokens, 0)
    whole = network.config.images_together
    if hasattr(x, "shape"):  # one array, of JAX too
        points = np.asarray(x)
        check_points(network.config, points, None)
        if len(points) % whole:
            raise ValueError(
                f"{len(points)} images do not make groups of {whole}, whose tokens are routed together;"
                f" give a multiple of {whole}"
            )
        size = max(whole, batch_size // whole * whole)
        batches: Iterable[np.ndarray] = (points[at : at + size] for at in range(0, len(points), size))
    else:
        batches = (np.asarray(batch) for batch in x)
    graph, params, *rest = nnx.split(network, nnx.Param, ...)
    found: dict[int, LayerStatistics] = {}
    seen = 0
    for batch in batches:
        check_points(network.config, batch, None)
        observed = _observe(graph, params, rest, jnp.asarray(batch))
        for block, (sums, inputs) in observed.items():
            part = of_batch(sums, np.asarray(inputs), sample_tokens)
            found[block] = found[block] + part if block in found else part
        seen += len(batch)
        if progress is not None:
            progress(seen)
    if seen == 0:
        raise ValueError("no images to calibrate with; give at least one")
    return found


@partial(jax.jit, static_argnums=0)
def _observe(
    graph: nnx.GraphDef, params: Any, rest: list[Any], x: jax.Array
) -> dict[int, tuple[dict[str, jax.Array], jax.Array]]:
    _, observed = nnx.merge(graph, params, *rest).observe(x)
    return {block: (summarise(seen), seen.inputs) for block, seen in observed.items()}


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
        "count": total(jnp.ones_like(place, jnp.int32)),
        "gate_sum": total(gates),
        "norm_sum": total(norms),
        "weighted_norm_sum": total(gates * norms),
        # the accelerator's default would round the logits to fewer bits
        "logit_gram": jnp.matmul(wide.T, wide, precision=jax.lax.Precision.HIGHEST),
    }


def of_batch(sums: Mapping[str, jax.Array], inputs: np.ndarray, sample_cap: int) -> LayerStatistics:
    """The statistics of one batch from its sums and its inputs, shape (N, h); ValueError if not finite."""
    held = {name: np.asarray(values) for name, values in sums.items()}
    for name, values in held.items():
        if not np.isfinite(values).all():
            raise ValueError(f"{name} of the calibration pass is not finite; see that the model is sound")
    return LayerStatistics(len(inputs), sample=np.array(inputs[:sample_cap]), sample_cap=sample_cap, **held)
