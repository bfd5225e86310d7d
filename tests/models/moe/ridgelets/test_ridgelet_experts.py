"""Mixtures of ridge experts, against NumPy and the routers of the vision transformers."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from qrt_tn import Ridgelet, RidgeNodes, uniform_nodes
from qrt_tn.models.moe.ridgelets.experts import RidgeExperts, choose
from qrt_tn.models.shallow_training import train

P, D, E, M, C = 11, 5, 4, 3, 2
X = np.random.default_rng(9).integers(P, size=(60, D))


def parts(sizes: tuple[int, ...] = (M,) * E) -> list[RidgeNodes]:
    return [uniform_nodes(size, D, P, place) for place, size in enumerate(sizes)]


def network(experts: list[RidgeNodes] | None = None, **changes: Any) -> RidgeExperts:
    settings: dict[str, Any] = {"selected": 2, "centre": np.full(D, 4.0), "scale": 2.5, **changes}
    made = RidgeExperts(experts or parts(), Ridgelet("relu", P), C, rngs=nnx.Rngs(0), **settings)
    # a router large enough that gates differ
    made.router[...] = jnp.asarray(np.random.default_rng(0).normal(size=made.router.shape), jnp.float32)
    made.bias[...] = jnp.asarray([0.3, -0.7])
    return made


def by_hand(made: RidgeExperts, selected: int, gone: tuple[int, ...] = ()) -> np.ndarray:
    """Point by point and expert by expert; `gone` experts give 0."""
    activation = Ridgelet("relu", P).activation
    table = (activation - activation.mean()) / activation.std()
    router, kernel = np.asarray(made.router[...], float), np.asarray(made.kernel[...], float)
    outputs = np.tile(np.asarray(made.bias[...], float), (len(X), 1))
    for row, point in enumerate(X):
        logits = (point - 4.0) / 2.5 @ router
        for e in np.argsort(-logits)[:selected]:
            gate = np.exp(logits[e]) / np.exp(logits).sum()
            nodes = parts()[e]
            phi = [table[(a @ point - b) % P] for a, b in zip(nodes.a, nodes.b, strict=True)]
            outputs[row] += (e not in gone) * gate * np.array(phi) @ kernel[e * M : (e + 1) * M]
    return outputs


@pytest.mark.parametrize("selected", [1, 2, E])
def test_outputs_are_those_of_the_formula_with_and_without_experts(selected: int) -> None:
    made = network(selected=selected)
    outputs = made.split(X)
    np.testing.assert_allclose(made.predict(X), by_hand(made, selected), atol=2e-5)
    np.testing.assert_allclose(outputs.without([]), by_hand(made, selected), atol=2e-5)
    np.testing.assert_allclose(outputs.without([2, 0]), by_hand(made, selected, gone=(0, 2)), atol=2e-5)


def test_products_have_full_precision_on_any_device() -> None:
    graph, state = nnx.split(network())
    text = str(jax.make_jaxpr(lambda state, x: nnx.merge(graph, state).features(x))(state, X))
    products = [line for line in text.split("= ") if line.startswith("dot_general")]
    assert len(products) >= 3  # of drawn nodes, of offsets, of the router
    assert all("HIGHEST" in line for line in products)


def test_of_equal_logits_the_first_are_chosen() -> None:
    np.testing.assert_array_equal(jax.jit(choose)(np.zeros((1, 4)), 2), [[0.25, 0.25, 0, 0]])


def test_training_learns_and_moves_the_router_alone_of_what_is_before_the_outputs() -> None:
    labels = (X[:, 0] > 5).astype(int)
    made = network()
    router, before = np.asarray(made.router[...]), made.compute_features(X)
    options: dict[str, Any] = {"epochs": 15, "learning_rate": 0.1, "loss": "cross_entropy"}
    history = train(made, X, labels, x_validation=X, y_validation=labels, **options)
    assert history.validation_accuracy.max() > history.validation_accuracy[0] + 0.1
    assert np.abs(np.asarray(made.router[...]) - router).max() > 1e-2
    assert {*nnx.to_pure_dict(nnx.state(made, nnx.Param))} == {"router", "kernel", "bias"}
    made.router[...] = jnp.asarray(router)
    np.testing.assert_allclose(made.compute_features(X), before, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"experts": parts((2, 3))}, r"\[2, 3\] nodes"),
        ({"selected": 0}, "selected is 0"),
        ({"selected": 5}, "selected is 5"),
        ({"centre": np.zeros(2)}, r"shape \(2,\)"),
        ({"centre": np.full(D, np.nan)}, "finite"),
        ({"scale": 0.0}, r"scale is 0\.0"),
    ],
)
def test_bad_settings(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        network(**changes)


def test_bad_pruning() -> None:
    outputs = network().split(X)
    for pruned, message in (
        ([4], r"\[4\].*0 to 3"),
        ([-1], r"\[-1\]"),
        (np.array([False, True]), "True"),
        ([1.9], "1.9"),
        (range(4), "all 4 experts"),
    ):
        with pytest.raises(ValueError, match=message):
            outputs.without(pruned)
