import numpy as np
import pytest

from qrt_tn.products import ModularProduct
from qrt_tn.states.samples import hashing, rows
from qrt_tn.states.samples.hashing import hash_points
from qrt_tn.states.samples.rows import Points


def hashed(points, modulus, coordinates=None):
    return hash_points(Points(points), modulus, ModularProduct(modulus, points.shape[1]), coordinates)


@pytest.mark.parametrize(
    ("modulus", "count", "dim"), [(2, 300, 40), (3, 200, 25), (127, 400, 64), (2, 64, 6), (1048573, 50, 3)]
)
def test_points_that_share_a_hash_are_equal(modulus, count, dim):
    rng = np.random.default_rng(modulus)
    points = rng.integers(min(modulus, 4), size=(count, dim))
    points = np.concatenate([points, points[: count // 3]])[rng.permutation(count + count // 3)]
    hashes = hashed(points, modulus)
    exact = (points.astype(object) @ hashes.functionals.T.astype(object)) % modulus
    assert (exact[hashes.order] == hashes.values).all()
    assert (hashes.functionals[:, hashes.pivots] == np.eye(len(hashes.pivots))).all()
    assert sorted(hashes.order) == list(range(len(points)))
    # sorted by the last functional, then the one before it
    values = [tuple(row[::-1]) for row in hashes.values.tolist()]
    assert values == sorted(values)
    firsts = np.flatnonzero(hashes.depth >= 0)
    assert len(firsts) == len(np.unique(points, axis=0))
    for start, stop in zip(firsts, [*firsts[1:], len(points)], strict=True):
        group = hashes.order[start:stop]
        assert (points[group] == points[group[0]]).all()
        assert (np.diff(group) > 0).all()
    for place in range(1, len(points)):
        differ = np.flatnonzero(hashes.values[place] != hashes.values[place - 1])
        assert hashes.depth[place] == (differ[-1] if len(differ) else -1)
    assert hashes.depth[0] == len(hashes.functionals)


def test_few_functionals_tell_points_apart():
    # 2,000 points that differ in their first three coordinates of 784 only
    rng = np.random.default_rng(0)
    points = np.zeros((2000, 784), dtype=np.uint8)
    points[:, :3] = np.stack(np.unravel_index(rng.permutation(17**3)[:2000], (17, 17, 17)), axis=1)
    hashes = hashed(points, 127)
    assert (hashes.depth >= 0).all()
    fewest = hashes.distinct(np.arange(2000), hashes.order)
    assert len(fewest.functionals) <= 4
    assert fewest.values.shape == (2000, len(fewest.functionals))
    assert len(np.unique(fewest.values, axis=0)) == 2000
    alone = hashes.distinct(np.array([7]), np.zeros(1, dtype=int))
    assert alone.values.shape == (1, 1)
    # one functional fewer would not do
    assert len(np.unique(fewest.values[:, 1:], axis=0)) < 2000
    assert fewest.depth[1:].min() == 0
    assert fewest.depth[0] == len(fewest.functionals)


def test_different_points_that_share_a_hash_ask_for_more_functionals(monkeypatch):
    monkeypatch.setattr(hashing, "_SPARE", -15)  # so few that some agree by chance
    rng = np.random.default_rng(0)
    points = np.unique(rng.integers(5, size=(400, 9)), axis=0)
    hashes = hashed(points, 5)
    assert (hashes.depth >= 0).all()
    # as many bits as at first would have been 2
    assert len(hashes.functionals) > 2


@pytest.mark.parametrize("coordinates", [[0, 3], [2], [0, 1, 2, 3, 4]])
def test_some_coordinates_alone(coordinates):
    points = np.random.default_rng(0).integers(3, size=(200, 5))
    hashes = hashed(points, 3, np.array(coordinates))
    firsts = np.flatnonzero(hashes.depth >= 0)
    groups = [points[group][:, coordinates] for group in np.split(hashes.order, firsts[1:])]
    assert len(groups) == len(np.unique(points[:, coordinates], axis=0))
    assert all((group == group[0]).all() for group in groups)


def test_hashes_do_not_depend_on_blocks(monkeypatch):
    points = np.random.default_rng(0).integers(127, size=(500, 30))
    whole = hashed(points, 127)
    monkeypatch.setattr(rows, "BLOCK", 700)
    for ours, theirs in zip(whole, hashed(points, 127), strict=True):
        assert (ours == theirs).all()


@pytest.mark.parametrize("t", [40, 90])
def test_hashes_too_long_for_one_number(t):
    values = np.random.default_rng(1).integers(2, size=(300, t)).astype(np.uint8)
    expected = sorted(range(300), key=lambda i: (tuple(values[i][::-1]), i))
    assert (hashing._sorted(values, 2) == expected).all()
