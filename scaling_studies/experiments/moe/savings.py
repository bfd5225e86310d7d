"""What pruning experts saves on this machine: parameters, bytes, counted operations and measured latency.

Trained networks of the study are too small for this: calling them costs as much as their products. So it is
measured on a network of the same kind, of random weights, in which the experts dominate, and on random
images. Which experts go makes no difference to the time, only how many.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from qrt_tn.models.moe.config import VisionMoeConfig
from qrt_tn.models.moe.costs import flops_per_image, parameter_bytes, parameter_count
from qrt_tn.models.moe.maps import NO_EXPERT, ExpertMap
from qrt_tn.models.moe.vit import VisionMoe
from qrt_tn.studies.benchmarks.timing import paired
from qrt_tn.studies.experiments.moe.config import MoeStudyConfig
from qrt_tn.studies.progress import StageTimer

SHARES = (0.25, 0.5, 0.75)  # of the experts, pruned
MODES = ("keep-router", "drop-router")
BAND = (10, 90)  # percentiles of the rounds
Row = dict[str, Any]


def bench_config(config: MoeStudyConfig, router: str, experts: int) -> VisionMoeConfig:
    """The network whose latency is measured: two blocks of experts on images of 32 x 32 pixels."""
    return VisionMoeConfig(
        image_shape=(32, 32, 3),
        classes=10,
        patch=4,
        hidden=config.savings_hidden,
        layers=2,
        mlp=config.savings_mlp,
        heads=4,
        moe_layers=(0, 1),
        experts=experts,
        router=config.router(router),
        classifier="gap",
    )


def pruned_map(mode: str, experts: int, prune: int) -> ExpertMap:
    """The map of a layer that has lost its last experts."""
    left = tuple(range(experts - prune))
    columns = left + (NO_EXPERT,) * prune if mode == "keep-router" else left
    return ExpertMap(columns, left, experts)


def measure_savings(config: MoeStudyConfig, timer: StageTimer) -> list[Row]:
    """Rows of the table "savings".

    Args:
        config: sizes, kinds of routers and rounds.
        timer: shows the work.

    Returns:
        For each kind of router, number of experts, mode and number of pruned experts (0 too): parameters,
        bytes, operations of an image, milliseconds of a batch (median, and 10th and 90th percentile of the
        rounds), and the ratio to the whole network, round by round, likewise.
    """
    kinds = [(router, experts) for router in config.routers for experts in config.savings_experts]
    rows: list[Row] = []
    with timer.stage("Latency of whole and pruned networks", len(kinds)) as stage:
        for router, experts in kinds:
            rows += _of_kind(config, router, experts)
            stage.advance()
    return rows


def _of_kind(config: MoeStudyConfig, router: str, experts: int) -> list[Row]:
    whole = bench_config(config, router, experts)
    least = config.selected if router == "token-choice" else 1
    shapes = {("whole", 0): whole}
    for share in SHARES:
        prune = int(share * experts)
        for mode in MODES:
            if mode == "keep-router" or experts - prune >= least:
                expert_map = pruned_map(mode, experts, prune)
                shapes[mode, prune] = replace(whole, maps=dict.fromkeys(whole.moe_layers, expert_map))
    calls = {f"{mode} {prune}": _call(shape, config.savings_batch) for (mode, prune), shape in shapes.items()}
    seconds = paired(calls, config.savings_rounds)
    rows = []
    for mode in MODES:
        for (own, prune), shape in shapes.items():
            if own in (mode, "whole"):
                taken = seconds[f"{own} {prune}"]
                rows.append(
                    {
                        "router": router,
                        "experts": experts,
                        "mode": mode,
                        "pruned": prune,
                        "parameters": parameter_count(shape),
                        "bytes": parameter_bytes(shape),
                        "flops": flops_per_image(shape),
                        **_figures("latency", [1e3 * one for one in taken], "latency_ms"),
                        **_figures(
                            "ratio",
                            [one / all_ for one, all_ in zip(taken, seconds["whole 0"], strict=True)],
                            "ratio",
                        ),
                    }
                )
    return rows


def _figures(name: str, values: Sequence[float], median: str) -> Row:
    low, high = np.percentile(values, BAND)
    return {median: float(np.median(values)), f"{name}_low": float(low), f"{name}_high": float(high)}


def _call(config: VisionMoeConfig, batch: int) -> Callable[[], Any]:
    """Runs a network of this shape, of random weights, on a batch of random images, and waits for it."""
    drawn = np.random.default_rng(0)
    graph, shapes = nnx.split(nnx.eval_shape(lambda: VisionMoe(config, rngs=nnx.Rngs(0), dispatch="gather")))
    state = jax.tree.map(
        lambda leaf: jnp.asarray(drawn.normal(scale=0.1, size=leaf.shape), leaf.dtype), shapes
    )
    x = jnp.asarray(drawn.normal(size=(batch, *config.image_shape)), jnp.float32)

    @jax.jit
    def logits(state: Any, x: jax.Array) -> jax.Array:
        made: jax.Array = nnx.merge(graph, state)(x)[0]
        return made

    return lambda: jax.block_until_ready(logits(state, x))
