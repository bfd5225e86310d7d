"""Mixtures of ridge experts, against NumPy and the routers of the vision transformers."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from qrt_tn import Ridgelet, RidgeNodes, uniform_nodes
from qrt_tn.models.moe.ridgelets.experts import RidgeExperts, choose
from qrt_tn.models.moe.routers import choose_experts
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


def by_hand(
    made: RidgeExperts, selected: int, gone: tuple[int, ...] = (), seen: Any = range(E)
) -> np.ndarray:
    """Point by point and expert by expert: `seen` are the columns of the router, `gone` experts give 0."""
    activation = Ridgelet("relu", P).activation
    table = (activation - activation.mean()) / activation.std()
    router, kernel = np.asarray(made.router[...], float), np.asarray(made.kernel[...], float)
    outputs = np.tile(np.asarray(made.bias[...], float), (len(X), 1))
    for row, point in enumerate(X):
        logits = {e: float((point - 4.0) / 2.5 @ router[:, e]) for e in seen}
        for e in sorted(logits, key=lambda e: -logits[e])[:selected]:
            gate = np.exp(logits[e]) / sum(np.exp(list(logits.values())))
            nodes = parts()[e]
            phi = [table[(a @ point - b) % P] for a, b in zip(nodes.a, nodes.b, strict=True)]
            outputs[row] += (e not in gone) * gate * np.array(phi) @ kernel[e * M : (e + 1) * M]
    return outputs


@pytest.mark.parametrize("selected", [1, 2, E])
def test_outputs_are_those_of_the_formula_with_and_without_experts(selected: int) -> None:
    made = network(selected=selected)
    np.testing.assert_allclose(made.predict(X), by_hand(made, selected), atol=2e-5)
    outputs = made.split(X)
    for mode in ("keep-router", "drop-router"):
        np.testing.assert_allclose(outputs.without([], mode), made.predict(X), atol=2e-5)
    np.testing.assert_allclose(outputs.without([2, 0]), by_hand(made, selected, gone=(0, 2)), atol=2e-5)
    if selected <= 2:
        left = by_hand(made, selected, seen=(1, 3))
        np.testing.assert_allclose(outputs.without([2, 0], "drop-router"), left, atol=2e-5)
        assert np.abs(left - outputs.without([2, 0])).max() > 1e-2


def test_products_have_full_precision_on_any_device() -> None:
    graph, state = nnx.split(network())
    text = str(jax.make_jaxpr(lambda state, x: nnx.merge(graph, state).features(x))(state, X))
    products = [line for line in text.split("= ") if line.startswith("dot_general")]
    assert len(products) >= 3  # of drawn nodes, of offsets, of the router
    assert all("HIGHEST" in line for line in products)


def test_choice_is_that_of_the_vision_router() -> None:
    logits = np.random.default_rng(0).normal(size=(30, 6)).astype(np.float32)
    logits[3] = 0  # a point of equal logits

    @jax.jit
    def both(logits: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        return choose(logits, 2), choose_experts(jax.nn.softmax(logits), 2, 30)

    found, (token, column, gate, _, valid) = both(logits)
    assert np.asarray(valid).all()
    expected = np.zeros((30, 6))
    expected[np.asarray(token), np.asarray(column)] = np.asarray(gate)
    np.testing.assert_allclose(np.asarray(found), expected, atol=1e-7)


def test_fit_is_least_squares_on_gated_features() -> None:
    made = network()
    y = np.random.default_rng(1).normal(size=(60, C))
    design = np.column_stack([made.compute_features(X).astype(np.float64), np.ones(60)])
    made.fit(X, y, 1e-6)
    np.testing.assert_allclose(made.predict(X), design @ np.linalg.lstsq(design, y)[0], atol=1e-3)


def test_training_learns_and_moves_router_and_nodes() -> None:
    labels = (X[:, 0] > 5).astype(int)
    made = network()
    router = np.asarray(made.router[...])
    history = train(
        made,
        X,
        labels,
        x_validation=X,
        y_validation=labels,
        epochs=15,
        learning_rate=0.1,
        loss="cross_entropy",
    )
    assert history.validation_accuracy.max() > history.validation_accuracy[0] + 0.1
    assert np.abs(np.asarray(made.router[...]) - router).max() > 1e-2
    for offset in (made.a_offset, made.b_offset):
        assert np.abs(np.asarray(offset[...])).max() > 0


@pytest.mark.parametrize("train_nodes", [True, False])
def test_nodes_are_parameters_only_if_asked_before_and_after_saving(
    train_nodes: bool, tmp_path: Path
) -> None:
    made = network(train_nodes=train_nodes)
    made.save(tmp_path / "mixture.safetensors")
    for each in (made, RidgeExperts.load(tmp_path / "mixture.safetensors")):
        trained = {str(name) for name in nnx.to_pure_dict(nnx.state(each, nnx.Param))}
        assert trained == {"router", "kernel", "bias"} | ({"a_offset", "b_offset"} if train_nodes else set())


def test_a_saved_mixture_is_the_same(tmp_path: Path) -> None:
    made = network(selected=3)
    made.save(tmp_path / "mixture.safetensors")
    read = RidgeExperts.load(tmp_path / "mixture.safetensors")
    np.testing.assert_array_equal(read.predict(X), made.predict(X))
    assert (read.split(X).selected, read.experts) == (3, E)


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
    refused: list[tuple[Any, str, str]] = [
        ([4], "keep-router", r"\[4\].*0 to 3"),
        ([-1], "keep-router", r"\[-1\].*0 to 3"),
        (np.array([False, True]), "keep-router", "True.*numbers of experts"),
        ([1.9], "keep-router", "1.9.*numbers of experts"),
        (range(4), "keep-router", "0 of 4 experts would be left"),
        ([0, 1, 2], "drop-router", "1 of 4 experts would be left"),
        ([0], "drop", "mode is 'drop'"),
    ]
    for pruned, mode, message in refused:
        with pytest.raises(ValueError, match=message):
            outputs.without(pruned, mode)
