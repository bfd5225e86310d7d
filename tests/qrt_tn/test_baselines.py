import numpy as np
import pytest

from qrt_tn import Ridgelet, filter_nodes, uniform_nodes


def test_uniform_nodes(oracle):
    nodes = uniform_nodes(20000, 2, 5, seed=1)
    assert oracle.p_value(np.column_stack([nodes.a, nodes.b]), np.full((5, 5, 5), 1 / 125)) > 1e-4
    assert np.allclose(nodes.log_probability, -3 * np.log(5))
    assert uniform_nodes(2, 10_000, 127).log_probability[0] == pytest.approx(-10_001 * np.log(127))


@pytest.mark.parametrize("modulus", [2, 3, 7])
@pytest.mark.parametrize("widths", [0.6, 2.0, [0.4, 3.0]])
@pytest.mark.parametrize("activation", ["relu", "triangle"])
def test_filter_nodes_follow_their_distribution(modulus, widths, activation, oracle):
    ridgelet = Ridgelet(activation, modulus)
    u = np.minimum(np.arange(modulus), modulus - np.arange(modulus))
    first, second = (np.exp(-(u**2) / w**2) for w in np.broadcast_to(widths, (2,)))
    weights = np.outer(first, second)
    weights[0, 0] = 0
    weights /= weights.sum()
    # p(a) = sum_v |r^(v)|^2 w(v a)
    a = np.arange(modulus)
    exact = sum(
        abs(ridgelet.spectrum[v]) ** 2 * weights[np.ix_((v * a) % modulus, (v * a) % modulus)]
        for v in range(1, modulus)
    )
    exact = np.repeat(exact[:, :, None], modulus, axis=2) / modulus
    nodes = filter_nodes(20000, 2, ridgelet, widths, seed=2)
    drawn = np.column_stack([nodes.a, nodes.b])
    assert not (nodes.a == 0).all(axis=1).any()
    assert oracle.p_value(drawn, exact) > 1e-4
    assert np.abs(nodes.log_probability - np.log(exact[tuple(drawn.T)])).max() < 1e-9


def test_filter_nodes_of_a_table():
    ridgelet = Ridgelet("relu", 7)
    u = np.minimum(np.arange(7), 7 - np.arange(7))
    same = [filter_nodes(50, 3, ridgelet, f, seed=0) for f in (1.2, np.exp(-(u[None] ** 2) / (2 * 1.2**2)))]
    assert (same[0].a == same[1].a).all()
    assert np.allclose(same[0].log_probability, same[1].log_probability)
    band = np.zeros((1, 7), dtype=complex)
    band[0, [2, 5]] = 1j  # u = +-2 alone, at every coordinate
    nodes = filter_nodes(200, 3, Ridgelet("cosine", 7), band, seed=0)
    assert set(np.unique(nodes.a)) == {2, 5}


def test_filter_nodes_with_a_narrow_filter(oracle):
    # u = 0 has all but 1e-9 of the weight; no draw may be wasted on it
    ridgelet = Ridgelet("cosine", 5)
    nodes = filter_nodes(1000, 3, ridgelet, 0.22, seed=0)
    assert ((nodes.a != 0).sum(axis=1) == 1).all()
    assert np.isfinite(nodes.log_probability).all()


def test_filter_nodes_at_large_dimension():
    for width in (0.1, 1.0, 50.0):
        nodes = filter_nodes(8, 10_000, Ridgelet("cosine", 127), width, seed=0)
        assert np.isfinite(nodes.log_probability).all()
        assert (nodes.a != 0).any(axis=1).all()


def test_seeds():
    ridgelet = Ridgelet("relu", 7)
    for draw in (
        lambda seed: filter_nodes(30, 3, ridgelet, 1.0, seed=seed),
        lambda seed: uniform_nodes(30, 3, 7, seed=seed),
    ):
        first = draw(5)
        for again in (draw(5), draw(np.random.default_rng(5))):
            assert (first.a == again.a).all()
            assert (first.b == again.b).all()
        assert (first.a != draw(6).a).any()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: uniform_nodes(0, 2, 5), "number of samples is 0"),
        (lambda: uniform_nodes(3, 0, 5), "dim is 0"),
        (lambda: uniform_nodes(3, 2, 6), "6 is not prime"),
        (lambda: uniform_nodes(3, 2, 5, seed=-1), "seed is -1"),
        (lambda: filter_nodes(0, 2, Ridgelet("relu", 5), 1.0), "number of samples is 0"),
        (lambda: filter_nodes(3, 0, Ridgelet("relu", 5), 1.0), "dim is 0"),
        (lambda: filter_nodes(3, 2, Ridgelet("relu", 5), 0.0), "smoothing holds 0.0"),
        (lambda: filter_nodes(3, 2, Ridgelet("relu", 5), [1.0, -2.0]), "smoothing holds -2.0"),
        (lambda: filter_nodes(3, 2, Ridgelet("relu", 5), [1.0] * 3), r"shape \(2,\)"),
        (lambda: filter_nodes(3, 2, Ridgelet("relu", 5), 1e-3), "no frequency but 0; take a larger width"),
        (lambda: filter_nodes(3, 2, Ridgelet("relu", 5), 1e-300), "no frequency but 0"),
    ],
)
def test_refusals(call, says):
    with pytest.raises(ValueError, match=says):
        call()
