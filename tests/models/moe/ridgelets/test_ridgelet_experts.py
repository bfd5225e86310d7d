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
from qrt_tn.models.training import train

P, D, E, M, C = 11, 5, 4, 3, 2


def parts(seed: int = 0, sizes: tuple[int, ...] = (M,) * E) -> list[RidgeNodes]:
    return [uniform_nodes(size, D, P, seed + place) for place, size in enumerate(sizes)]


def network(seed: int = 0, **changes: Any) -> RidgeExperts:
    settings: dict[str, Any] = {"selected": 2, "centre": np.full(D, 4.0), "scale": 2.5, **changes}
    experts = settings.pop("experts", None) or parts(seed)
    made = RidgeExperts(experts, Ridgelet("relu", P), C, rngs=nnx.Rngs(seed), **settings)
    # a router large enough that gates differ
    made.router[...] = jnp.asarray(np.random.default_rng(seed).normal(size=(D, E)), jnp.float32)
    made.bias[...] = jnp.asarray([0.3, -0.7])
    return made


def points(count: int = 40, seed: int = 9) -> np.ndarray:
    return np.random.default_rng(seed).integers(P, size=(count, D))


def by_hand(made: RidgeExperts, experts: list[RidgeNodes], x: np.ndarray, selected: int) -> np.ndarray:
    """Point by point and expert by expert."""
    activation = Ridgelet("relu", P).activation
    table = (activation - activation.mean()) / activation.std()
    router, kernel = np.asarray(made.router[...], float), np.asarray(made.kernel[...], float)
    outputs = np.tile(np.asarray(made.bias[...], float), (len(x), 1))
    for row, point in enumerate(x):
        logits = (point - 4.0) / 2.5 @ router
        gates = np.exp(logits) / np.exp(logits).sum()
        for e in np.argsort(-gates)[:selected]:
            phi = [table[(a @ point - b) % P] for a, b in zip(experts[e].a, experts[e].b, strict=True)]
            outputs[row] += gates[e] * np.array(phi) @ kernel[e * M : (e + 1) * M]
    return outputs


@pytest.mark.parametrize("selected", [1, 2, E])
def test_outputs_are_those_of_the_formula(selected: int) -> None:
    made, x = network(selected=selected), points()
    np.testing.assert_allclose(made.predict(x), by_hand(made, parts(), x, selected), atol=2e-5)


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
    made, x = network(), points(60)
    y = np.random.default_rng(1).normal(size=(60, C))
    phi = made.compute_features(x).astype(np.float64)
    made.fit(x, y, 1e-6)
    design = np.column_stack([phi, np.ones(60)])
    best = design @ np.linalg.lstsq(design, y)[0]
    np.testing.assert_allclose(made.predict(x), best, atol=1e-3)


def test_outputs_without_experts() -> None:
    made, x = network(), points()
    outputs = made.take_apart(x)
    np.testing.assert_allclose(outputs.without([]), made.predict(x), atol=2e-5)
    np.testing.assert_allclose(outputs.without([], "drop-router"), made.predict(x), atol=2e-5)
    pruned = [0, 2]
    emptied = network()
    emptied.kernel[...] = emptied.kernel[...].reshape(E, M, C).at[jnp.array(pruned)].set(0).reshape(-1, C)
    np.testing.assert_allclose(outputs.without(pruned), emptied.predict(x), atol=2e-5)
    # the mixture of the experts that stay, with their columns alone
    kept = [1, 3]
    small = RidgeExperts(
        [parts()[e] for e in kept],
        Ridgelet("relu", P),
        C,
        selected=2,
        centre=np.full(D, 4.0),
        scale=2.5,
        rngs=nnx.Rngs(0),
    )
    small.router[...] = made.router[...][:, jnp.array(kept)]
    small.set_output_weights(
        np.asarray(made.kernel[...]).reshape(E, M, C)[kept].reshape(-1, C), made.bias[...]
    )
    np.testing.assert_allclose(outputs.without(pruned, "drop-router"), small.predict(x), atol=2e-5)
    assert np.abs(outputs.without(pruned, "drop-router") - outputs.without(pruned)).max() > 1e-2


@pytest.mark.parametrize("train_nodes", [False, True])
def test_training_learns_and_moves_the_nodes_only_if_asked(train_nodes: bool) -> None:
    x = points(120)
    labels = (x[:, 0] > 5).astype(int)
    made = network(train_nodes=train_nodes)
    router = np.asarray(made.router[...])
    history = train(
        made,
        x,
        labels,
        x_validation=x,
        y_validation=labels,
        epochs=15,
        learning_rate=0.1,
        loss="cross_entropy",
    )
    assert history.validation_accuracy.max() > history.validation_accuracy[0] + 0.1
    assert np.abs(np.asarray(made.router[...]) - router).max() > 1e-2
    assert (np.abs(np.asarray(made.a_offset[...])).max() > 0) == train_nodes
    assert (np.abs(np.asarray(made.b_offset[...])).max() > 0) == train_nodes


@pytest.mark.parametrize("train_nodes", [True, False])
def test_a_saved_mixture_trains_what_it_trained_before(train_nodes: bool, tmp_path: Path) -> None:
    made = network(train_nodes=train_nodes)
    made.save(tmp_path / "mixture.safetensors")
    again = RidgeExperts.load(tmp_path / "mixture.safetensors")
    assert isinstance(again.a_offset, nnx.Param) == isinstance(made.a_offset, nnx.Param) == train_nodes


@pytest.mark.parametrize("pruned", [np.asarray([False, False, True, False]), [1.9]])
def test_masks_and_floats_are_no_numbers_of_experts(pruned: Any) -> None:
    with pytest.raises(ValueError, match="give the numbers of experts"):
        network().take_apart(points()).without(pruned)


def test_a_saved_mixture_is_the_same(tmp_path: Path) -> None:
    made = network(selected=3)
    made.save(tmp_path / "mixture.safetensors")
    read = RidgeExperts.load(tmp_path / "mixture.safetensors")
    np.testing.assert_array_equal(read.predict(points()), made.predict(points()))
    outputs = read.take_apart(points())
    assert (outputs.selected, read.experts) == (3, E)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"experts": parts(sizes=(2, 3))}, r"\[2, 3\] nodes"),
        ({"selected": 0}, "selected is 0"),
        ({"selected": 5}, "there are 4 experts"),
        ({"centre": np.zeros(2)}, r"shape \(2,\)"),
        ({"centre": np.full(D, np.nan)}, "finite"),
        ({"scale": 0.0}, r"scale is 0\.0"),
    ],
)
def test_bad_settings(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        network(**changes)


@pytest.mark.parametrize(
    ("pruned", "mode", "said"),
    [
        ([4], "keep-router", "0 to 3"),
        ([-1], "keep-router", "0 to 3"),
        (range(4), "keep-router", "0 of 4 experts would be left"),
        ([0, 1, 2], "drop-router", "1 of 4 experts would be left"),
        ([0], "drop", "mode is 'drop'"),
    ],
)
def test_bad_pruning(pruned: Any, mode: str, said: str) -> None:
    outputs = network().take_apart(points())
    with pytest.raises(ValueError, match=said):
        outputs.without(list(pruned), mode)
