from dataclasses import replace
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from qrt_tn.models.moe.config import RouterConfig, VisionMoeConfig
from qrt_tn.models.moe.costs import flops_per_image, parameter_bytes, parameter_count
from qrt_tn.models.moe.maps import NO_EXPERT, ExpertMap
from qrt_tn.models.moe.vit import VisionMoe

TOKEN = RouterConfig(selected=2, capacity_factor=1.0, multiple_of=2)
EXPERT = RouterConfig(kind="expert-choice", capacity_factor=1.5, multiple_of=1)
MERGED = ExpertMap((0, 1, 0, 1), (0, 2), 4)
KEPT = ExpertMap((0, 1, NO_EXPERT, NO_EXPERT), (3, 1), 4)
BASE = VisionMoeConfig(
    (8, 8, 1), 5, patch=2, hidden=12, layers=2, mlp=20, heads=3, moe_layers=(1,), experts=4
)
CONFIGS = [
    BASE,
    replace(BASE, router=TOKEN, moe_layers=(0, 1), maps={0: KEPT, 1: MERGED}, classifier="gap"),
    replace(BASE, router=EXPERT, maps={1: ExpertMap((0, 1), (3, 1), 4)}, representation=7),
    replace(BASE, router=EXPERT, maps={1: KEPT}, group=17 * 4),
    replace(BASE, moe_layers=(), image_shape=(6, 4, 3)),
]


def products(jaxpr: Any) -> int:
    """Twice the multiply-adds of every matrix product in a program and in the programs inside it."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += 2 * prod(equation.outvars[0].aval.shape) * prod(shape[axis] for axis in contracted)
        for value in equation.params.values():
            for inner in value if isinstance(value, list | tuple) else (value,):
                held = getattr(inner, "jaxpr", inner)
                if hasattr(held, "eqns"):
                    total += products(held)
    return total


@pytest.mark.parametrize("config", CONFIGS)
def test_counts_are_those_of_the_network_itself(config: VisionMoeConfig) -> None:
    # traced only: nothing is computed, nor compiled
    traced = nnx.eval_shape(lambda: VisionMoe(config, rngs=nnx.Rngs(0), dispatch="gather"))
    graph, state = nnx.split(traced)
    sizes = [leaf.size for leaf in jax.tree.leaves(state)]
    assert parameter_count(config) == sum(sizes)
    assert parameter_bytes(config) == 4 * sum(sizes)
    images = 4  # a whole group
    x = jnp.zeros((images, *config.image_shape))
    program = jax.make_jaxpr(lambda state, x: nnx.merge(graph, state)(x)[0])(state, x)
    assert flops_per_image(config) * images == products(program.jaxpr)


def test_the_compiler_counts_somewhat_more() -> None:
    # it counts the gelus, softmaxes and norms that are left out here: a fifth at this size
    config = replace(BASE, hidden=48, mlp=96, router=EXPERT)
    traced = nnx.eval_shape(lambda: VisionMoe(config, rngs=nnx.Rngs(0), dispatch="gather"))
    graph, state = nnx.split(traced)
    x = jnp.zeros((4, *config.image_shape))
    compiled = jax.jit(lambda state, x: nnx.merge(graph, state)(x)[0]).lower(state, x).compile()
    found = compiled.cost_analysis()
    known = found[0] if isinstance(found, list) else found
    assert known is not None
    assert 1.0 <= known["flops"] / (4 * flops_per_image(config)) < 1.25
