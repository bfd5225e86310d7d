"""Small networks, trees and layers with experts whose weights are all at random, biases and heads too."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from qrt_tn.models.moe.config import RouterConfig, VisionMoeConfig
from qrt_tn.models.moe.statistics import LayerStatistics
from qrt_tn.models.moe.trees import read_layers
from qrt_tn.models.moe.vit import VisionMoe

HIDDEN, UNITS = 5, 3  # of the trees


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


def random_network(config, seed=3, **options):
    """A network without a zero in it, as initial biases and heads are; the default has no idle expert."""
    rng = np.random.default_rng(seed)
    # of shapes only: drawing initial weights would compile for seconds
    network = nnx.eval_shape(lambda: VisionMoe(config, rngs=nnx.Rngs(0), **options))
    for path, param in nnx.to_flat_state(nnx.state(network, nnx.Param)):
        weights = (path[-1] == "scale") + 0.4 * rng.normal(size=param.shape)
        param.set_value(jnp.asarray(weights, jnp.float32))
    return network


def random_tree(seed=0, layers=(1, 3), experts=6, members=None, hidden=HIDDEN):
    """Parameters named as vmoe does, with `members` as the middle axis of the routers if given."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return rng.normal(size=shape).astype(np.float32)

    encoder = {"posembed_input": {"pos_embedding": draw(1, 9, hidden)}}
    for block in range(max(layers) + 1):
        mlp = {
            "Dense_0": {"kernel": draw(experts, hidden, UNITS), "bias": draw(experts, UNITS)},
            "Dense_1": {"kernel": draw(experts, UNITS, hidden), "bias": draw(experts, hidden)},
        }
        columns = (experts,) if members is None else (members, experts // members)
        moe = {"Router": {"dense": {"kernel": draw(hidden, *columns)}}, "Mlp": mlp}
        encoder[f"encoderblock_{block}"] = {"Moe": moe} if block in layers else {"Mlp": {"bias": draw(2)}}
    return {"cls": draw(1, 1, hidden), "Encoder": encoder, "head": {"kernel": draw(hidden, 2)}}


def random_layer(seed=0, **options):
    """One record of a random tree."""
    return read_layers(random_tree(seed, layers=(1,), **options))[1]


def gathered(count, logits=None, sample=None):
    """Statistics of which only these matter; logits have shape (T, C), the sample (T, h)."""
    columns = len(count)
    gram = np.eye(columns) if logits is None else np.asarray(logits).T @ np.asarray(logits)
    sample = np.zeros((0, HIDDEN)) if sample is None else sample
    zeros = [np.zeros(columns)] * 3
    return LayerStatistics(len(sample), np.array(count), *zeros, gram, sample, sample_cap=len(sample))


@pytest.fixture
def images():
    rng = np.random.default_rng(7)
    return rng.normal(size=(12, 6, 6, 1)).astype(np.float32), rng.integers(0, 3, 12)
