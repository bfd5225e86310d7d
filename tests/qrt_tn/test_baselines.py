"""Nodes drawn without data: their distributions, at any size, and refusals."""

import numpy as np
import pytest

from qrt_tn import Ridgelet, filter_nodes, uniform_nodes


def test_uniform_nodes(oracle):
    nodes = uniform_nodes(20000, 2, 5, seed=1)
    assert oracle.p_value(np.column_stack([nodes.a, nodes.b]), np.full((5, 5, 5), 1 / 125)) > 1e-4
    assert np.allclose(nodes.log_probability, -3 * np.log(5))


@pytest.mark.parametrize("modulus", [2, 3, 7])
@pytest.mark.parametrize("widths", [0.6, [0.4, 3.0], "table"])
@pytest.mark.parametrize("activation", ["relu", "triangle"])
def test_filter_nodes_follow_their_distribution(modulus, widths, activation, oracle):
    ridgelet = Ridgelet(activation, modulus)
    u = np.minimum(np.arange(modulus), modulus - np.arange(modulus))
    if isinstance(widths, str):
        smoothing = np.random.default_rng(0).normal(size=(2, modulus)) * np.array([[1], [1j]])
        smoothing[:, 0] = 0
        weights = np.outer(*np.abs(smoothing) ** 2)
    else:
        smoothing = widths
        weights = np.outer(*(np.exp(-(u**2) / w**2) for w in np.broadcast_to(widths, (2,))))
        weights[0, 0] = 0
    weights /= weights.sum()
    # p(a) = sum_v |r^(v)|^2 w(v a)
    multiples = np.outer(np.arange(modulus), np.arange(modulus)) % modulus
    exact = sum(abs(ridgelet.spectrum[v]) ** 2 * weights[np.ix_(row, row)] for v, row in enumerate(multiples))
    exact = np.repeat(exact[:, :, None], modulus, axis=2) / modulus
    nodes = filter_nodes(20000, 2, ridgelet, smoothing, seed=2)
    drawn = np.column_stack([nodes.a, nodes.b])
    assert not (nodes.a == 0).all(axis=1).any()
    assert oracle.p_value(drawn, exact) > 1e-4
    assert np.abs(nodes.log_probability - np.log(exact[tuple(drawn.T)])).max() < 1e-9


@pytest.mark.parametrize(("dim", "width"), [(3, 0.22), (10_000, 0.1), (10_000, 1.0), (10_000, 50.0)])
def test_no_node_is_zero_however_narrow_the_filter(dim, width):
    # at 0.22, u = 0 has all but 1e-9 of the weight
    nodes = filter_nodes(8, dim, Ridgelet("cosine", 127), width, seed=0)
    assert np.isfinite(nodes.log_probability).all()
    assert (nodes.a != 0).any(axis=1).all()


@pytest.mark.parametrize(
    "draw",
    [
        lambda seed: filter_nodes(30, 3, Ridgelet("relu", 7), 1.0, seed=seed),
        lambda seed: uniform_nodes(30, 3, 7, seed=seed),
    ],
)
def test_seeds(draw):
    first = draw(5)
    for again in (draw(5), draw(np.random.default_rng(5))):
        assert (first.a == again.a).all()
        assert (first.b == again.b).all()
    assert (first.a != draw(6).a).any()


@pytest.mark.parametrize(
    ("call", "arguments", "shown"),
    [
        (uniform_nodes, (0, 2, 5), "number of samples is 0"),
        (uniform_nodes, (3, 0, 5), "dim is 0"),
        (uniform_nodes, (3, 2, 6), "6 is not prime"),
        (uniform_nodes, (3, 2, 5, -1), "seed is -1"),
        (filter_nodes, (0, 2, Ridgelet("relu", 5), 1.0), "number of samples is 0"),
        (filter_nodes, (3, 0, Ridgelet("relu", 5), 1.0), "dim is 0"),
        (filter_nodes, (3, 2, Ridgelet("relu", 5), [1.0, -2.0]), "-2.0"),
        (filter_nodes, (3, 2, Ridgelet("relu", 5), [1.0] * 3), r"shape \(2,\)"),
        (filter_nodes, (3, 2, Ridgelet("relu", 5), 1e-300), "1e-300"),
    ],
)
def test_refusals(call, arguments, shown):
    with pytest.raises(ValueError, match=shown):
        call(*arguments)
