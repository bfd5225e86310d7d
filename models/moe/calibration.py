"""One streaming pass of images through a network, for what its layers of experts do with them."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from qrt_tn.engine.arguments import check_whole
from qrt_tn.models.moe.statistics import SAMPLE_TOKENS, LayerStatistics, summarise
from qrt_tn.models.moe.training import check_points
from qrt_tn.models.moe.vit import VisionMoe


def calibrate(
    network: VisionMoe,
    x: np.ndarray | Iterable[np.ndarray],
    *,
    batch_size: int = 128,
    sample_tokens: int = SAMPLE_TOKENS,
    progress: Callable[[int], None] | None = None,
) -> dict[int, LayerStatistics]:
    """The statistics of every layer of experts over images that need no labels.

    Images are seen once, a batch at a time, and only sums and the first tokens are kept. Where tokens are
    grouped by image (config.group is None) the result does not depend on how the images are batched, sums up
    to rounding. A batch that is not full costs one more compilation.

    Args:
        network: whole or pruned.
        x: images, shape (M, height, width, channels), memory-mapped ones too; or batches of them, one after
            the other, from a stream of any length.
        batch_size: images at once, where x is one array; rounded down to whole groups where tokens are
            grouped over several images, and then the images must make whole groups too.
        sample_tokens: how many of a layer's first inputs are kept, for criteria that rebuild its outputs.
        progress: called with the images seen so far, after each batch.

    Returns:
        By block; empty for a network without experts.

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
        for block, (summary, inputs) in observed.items():
            kept = np.asarray(inputs[:sample_tokens])
            part = LayerStatistics.from_summary(summary, kept, sample_cap=sample_tokens)
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
