"""Small networks with experts whose weights are all at random, biases and heads too."""

import jax
import numpy as np
import pytest
from flax import nnx

from qrt_tn.models.moe.config import RouterConfig, VisionMoeConfig
from qrt_tn.models.moe.trees import from_tree, to_tree
from qrt_tn.models.moe.vit import VisionMoe


def small_config(**changes):
    router = RouterConfig(**changes.pop("router", {}))
    settings = {
        "image_shape": (6, 6, 1),
        "classes": 3,
        "patch": 2,
        "hidden": 8,
        "layers": 2,
        "mlp": 12,
        "heads": 2,
        "moe_layers": (1,),
        "experts": 4,
        "same_experts": False,
    }
    return VisionMoeConfig(**{**settings, **changes}, router=router)


def random_network(config, seed=0, **options):
    """A network without a zero in it: initial biases and heads are 0 and would hide mistakes."""
    rng = np.random.default_rng(seed)
    tree = to_tree(VisionMoe(config, rngs=nnx.Rngs(seed)))
    tree = jax.tree.map(lambda leaf: leaf + 0.3 * rng.normal(size=leaf.shape).astype(np.float32), tree)
    return from_tree(tree, config, **options)


@pytest.fixture
def images():
    rng = np.random.default_rng(7)
    return rng.normal(size=(12, 6, 6, 1)).astype(np.float32), rng.integers(0, 3, 12)
