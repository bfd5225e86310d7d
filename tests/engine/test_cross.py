"""Cross interpolation against functions whose tensor trains, or all of whose values, are known."""

import itertools

import numpy as np
import pytest

from qrt_tn.engine import cross, mps
from qrt_tn.engine.cross import interpolate


def run(function, extents, **options):
    options = {"tolerance": 1e-8, "max_bond": 60, "max_evaluations": 10**6} | options
    return interpolate(function, extents, rng=np.random.default_rng(options.pop("seed", 0)), **options)


def all_points(extents):
    return np.array(list(itertools.product(*map(range, extents))))


def held(result, points, vector=False):
    """The tensor train at points by plain products."""
    values = result.cores[0] if vector else np.ones((1, 1, 1))
    for core, column in zip(result.cores[int(vector) :], points.T, strict=True):
        values = values @ core.transpose(1, 0, 2)[column]
    return values[:, :, 0] if vector else values[:, 0, 0]


def random_train(rng, extents, bond, *, complex_values=False, classes=None):
    """A function that is a tensor train of this bond, and a class core before it."""
    bonds = [1 if classes is None else bond] + [bond] * (len(extents) - 1) + [1]
    shapes = [(bonds[i], n, bonds[i + 1]) for i, n in enumerate(extents)]
    cores = [rng.normal(size=s) + (1j * rng.normal(size=s) if complex_values else 0) for s in shapes]
    cores = [core / np.sqrt(bond) for core in cores]
    first = np.ones((1, 1)) if classes is None else rng.normal(size=(classes, bond))

    def function(points):
        values = np.broadcast_to(first, (len(points), *first.shape))
        for core, column in zip(cores, points.T, strict=True):
            values = values @ core.transpose(1, 0, 2)[column]
        return values[:, 0, 0] if classes is None else values[:, :, 0]

    return function


def relative(rest, values):
    return np.linalg.norm(rest) / np.linalg.norm(values)


@pytest.mark.parametrize("classes", [None, 1, 4])
@pytest.mark.parametrize("complex_values", [False, True])
def test_a_tensor_train_is_found_exactly(complex_values, classes):
    rng = np.random.default_rng(0)
    extents = [5, 3, 7, 5, 2, 6, 5, 5, 4, 5]
    function = random_train(rng, extents, 6, complex_values=complex_values, classes=classes)
    result = run(function, extents)
    points = rng.integers(extents, size=(2000, 10))
    values = function(points)
    assert relative(held(result, points, classes is not None) - values, values) < 1e-11
    assert result.error < 1e-11
    assert (result.reason, result.error_at_points) == ("tolerance", None)
    assert max(core.shape[2] for core in result.cores) == 6
    assert [core.shape[1] for core in result.cores] == ([] if classes is None else [classes]) + extents
    assert result.cores[-1].dtype == (np.complex128 if complex_values else np.float64)


@pytest.mark.parametrize("extents", [[7], [4, 5], [3, 4, 5], [1, 4, 1, 3]])
@pytest.mark.parametrize("classes", [None, 3])
def test_any_function_on_a_small_grid(extents, classes):
    table = np.random.default_rng(1).normal(size=(*extents, *([] if classes is None else [classes])))
    result = run(lambda x: table[tuple(x.T)], extents)
    points = all_points(extents)
    assert np.abs(held(result, points, classes is not None) - table[tuple(points.T)]).max() < 1e-12


@pytest.mark.parametrize(("tolerance", "factor"), [(1e-3, 2j), (1e-8, 0.0)])
def test_a_function_that_is_near_low_rank(tolerance, factor):
    w = np.random.default_rng(2).random(30)

    def function(x):
        return np.exp(factor * (x @ w)) / (1 + x @ w) if factor else 1 / (1 + x @ w)

    result = run(function, [31] * 30, tolerance=tolerance, max_evaluations=10**7)
    assert result.reason == "tolerance"
    points = np.random.default_rng(3).integers(31, size=(2000, 30))
    assert relative(held(result, points) - function(points), function(points)) < 1.5 * tolerance
    assert max(core.shape[2] for core in result.cores) <= 20


def network(rng, dim, hidden, outputs):
    inward, bias = rng.normal(size=(dim, hidden)) * 0.5, rng.normal(size=hidden)
    outward = rng.normal(size=(hidden, outputs))
    return lambda x: np.tanh((x / 5 - 1) @ inward + bias) @ outward


@pytest.mark.parametrize("max_bond", [6, 20])
def test_the_error_told_is_the_error_made(max_bond):
    """A network of rank above the bond: on all points of the grid, and near what is best possible."""
    function = network(np.random.default_rng(4), 5, 20, 1)
    points = all_points([11] * 5)
    exact = function(points)[:, 0]
    result = run(lambda x: function(x)[:, 0], [11] * 5, tolerance=1e-4, max_bond=max_bond)
    true = relative(held(result, points) - exact, exact)
    assert 0.8 < result.error / true < 1.25
    assert max(core.shape[2] for core in result.cores) <= max_bond
    cuts = [np.linalg.svd(exact.reshape(11**cut, -1), compute_uv=False) for cut in range(1, 5)]
    best = max(np.linalg.norm(s[max_bond:]) / np.linalg.norm(s) for s in cuts)
    assert result.reason == ("bond" if result.error > 1e-4 else "tolerance")
    assert best <= true < max(5 * best, 1e-4)


def test_outputs_share_their_evaluations():
    function = network(np.random.default_rng(5), 6, 8, 5)
    result = run(function, [7] * 6, tolerance=1e-3)
    points = np.random.default_rng(6).integers(7, size=(4000, 6))
    assert relative(held(result, points, True) - function(points), function(points)) < 1.3e-3
    alone = [run(lambda x, c=c: function(x)[:, c], [7] * 6, tolerance=1e-3).evaluations for c in range(5)]
    assert result.evaluations < sum(alone)


def test_a_function_that_random_points_do_not_see():
    place = np.array([3, 1, 4, 1, 5, 2, 6, 5])
    result = run(lambda x: (x == place).all(axis=1) * 1.0, [7] * 8, points=np.stack([place, place]))
    near = place + np.array([np.zeros(8), np.eye(8)[2], -np.eye(8)[5]], dtype=int)
    assert np.allclose(held(result, near), [1, 0, 0])
    assert result.error_at_points == 0


def test_points_of_the_caller_count_too():
    """A bump too narrow for random points, on a smooth ground."""
    rng = np.random.default_rng(7)

    def function(x):
        return 1 / (1 + x.sum(axis=1)) + np.exp(-((x - 3) ** 2).sum(axis=1))

    near = np.clip(3 + rng.integers(-1, 2, size=(400, 10)), 0, 12)
    alone = run(function, [13] * 10, tolerance=1e-4)
    assert alone.reason == "tolerance"  # as far as random points see
    assert relative(held(alone, near) - function(near), function(near)) > 1e-2
    result = run(function, [13] * 10, tolerance=1e-4, points=near)
    assert result.reason == "tolerance"
    assert max(result.error, result.error_at_points) <= 1e-4
    kept = near[1::2]
    assert np.isclose(result.error_at_points, relative(held(result, kept) - function(kept), function(kept)))


@pytest.mark.parametrize("scale", [1e-300, 1e290])
def test_values_of_any_scale_and_range(scale):
    w = np.linspace(-1, 1, 20)
    result = run(lambda x: scale * np.exp(0.05 * (x @ w)), [31] * 20)
    assert result.reason == "tolerance"
    points = np.random.default_rng(0).integers(31, size=(100, 20))
    assert np.allclose(held(result, points), scale * np.exp(0.05 * (points @ w)), rtol=1e-8, atol=0)
    wide = run(lambda x: np.exp(x @ w), [31] * 20)  # exp(-160) to exp(160)
    assert relative(held(wide, points) - np.exp(points @ w), np.exp(points @ w)) < 1e-8


def test_many_sites():
    result = run(lambda x: np.cos(x.sum(axis=1) * 0.6), [5] * 300, tolerance=1e-6)
    points = np.random.default_rng(0).integers(5, size=(50, 300))
    assert np.abs(held(result, points) - np.cos(points.sum(axis=1) * 0.6)).max() < 1e-6
    assert max(core.shape[2] for core in result.cores) == 2
    assert mps.check_cores(result.cores)


def test_single_precision_is_kept():
    def function(x):
        return (1 / (1 + x.sum(axis=1))).astype(np.float32)

    result = run(function, [11] * 8, tolerance=1e-4)
    assert result.reason == "tolerance"
    assert {core.dtype for core in result.cores} == {np.dtype(np.float32)}
    # whole numbers are exact in double precision
    assert run(lambda x: x.sum(axis=1), [5] * 3).cores[0].dtype == np.float64
    # no rank is spent on rounding noise
    noisy = run(function, [11] * 8, tolerance=1e-12)
    assert noisy.reason == "stagnation"
    assert noisy.error < 1e-5


def test_calls_are_bounded_and_counted(monkeypatch):
    monkeypatch.setattr(cross, "_ROWS", 100)
    seen, told = [], []

    def function(x):
        assert x.dtype == np.int64
        assert x.min() >= 0
        assert (x < [5, 7, 11, 5]).all()
        seen.append(len(x))
        values = np.cos(x.sum(axis=1))
        x[:] = 0  # its own copy
        return values

    result = run(function, [5, 7, 11, 5], progress=lambda done, total: told.append((done, total)))
    assert result.reason == "tolerance"
    assert max(seen) <= 100
    assert sum(seen) == result.evaluations
    assert told == sorted(told)
    assert told[-1][1] == 10**6


def test_the_budget():
    function = network(np.random.default_rng(8), 8, 30, 1)
    result = run(lambda x: function(x)[:, 0], [13] * 8, max_evaluations=50_000)
    assert result.reason == "evaluations"
    assert result.evaluations <= 50_000 + 4096
    assert 1e-8 < result.error < 1
    more = run(lambda x: function(x)[:, 0], [13] * 8, max_evaluations=800_000)
    assert more.error < 0.5 * result.error
    with pytest.raises(ValueError, match="1200 evaluations do not suffice"):
        run(lambda x: function(x)[:, 0], [13] * 8, max_evaluations=1200)


def test_the_best_sweep_is_returned(monkeypatch):
    """Errors made up for the sweeps; the second is the best."""
    swept, told = [], iter([0.5, 0.1, 0.3, 0.2, *[0.9] * 20])

    def scripted(self, cores, size):
        swept.append((self, cores))
        return next(told), self.uniform(2)

    monkeypatch.setattr(cross._Search, "_test", scripted)
    table = np.random.default_rng(0).normal(size=(3,) * 4)
    assert run(lambda x: table[tuple(x.T)], [3] * 4).reason == "stagnation"
    assert len(swept) > 4
    assert all((a == b).all() for a, b in zip(swept[0][0].best, swept[1][1], strict=True))


def test_places_that_few_points_see():
    """1 but on 1 in 343 points; the pivots of the first sweep are all elsewhere."""
    result = run(lambda x: 1.0 - (x[:, [1, 4, 8]] == 2).all(axis=1), [7] * 10, tolerance=1e-3)
    assert (result.reason, max(core.shape[2] for core in result.cores)) == ("tolerance", 2)
    assert result.error < 1e-10


def test_a_cut_that_was_too_coarse_is_refined(monkeypatch):
    monkeypatch.setattr(cross, "_CUT", 30.0)
    w = np.linspace(0.2, 1, 10)
    assert run(lambda x: 1 / (1 + x @ w), [13] * 10).reason == "tolerance"


def test_seeds():
    function = network(np.random.default_rng(9), 5, 10, 2)
    first, again, other = (run(function, [7] * 5, tolerance=1e-2, seed=seed) for seed in (3, 3, 4))
    assert first.error == again.error
    assert all((a == b).all() for a, b in zip(first.cores, again.cores, strict=True))
    assert first.error != other.error


def changing(first, then):
    shapes = iter([first])
    return lambda x: np.ones((len(x), *next(shapes, then)))


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda x: 1.0, r"shape \(\) for 1024 points"),
        (lambda x: np.ones(3), r"shape \(3,\) for 1024 points"),
        (lambda x: np.ones((len(x), 0)), r"shape \(1024, 0\)"),
        (lambda x: np.ones((len(x), 1, 1)), r"shape \(1024, 1, 1\)"),
        (lambda x: ["a"] * len(x), "<U1"),
        (lambda x: np.ones(len(x), np.longdouble), "float128"),
        (lambda x: np.ma.masked_equal(x[:, 0], 0), "masked"),
        (lambda x: np.where(np.arange(len(x)) == 7, np.nan, 1.0), r"nan at \[\d, \d, \d\]"),
        (lambda x: np.ones((len(x), 2)) * [1, np.inf], r"\[ 1. inf\] at"),
        (lambda x: np.zeros(len(x)), "0 at all 1024 points"),
        (changing((2,), (3,)), r"\(2,\) before"),
        (changing((), (1,)), r"\(\) before"),
    ],
)
def test_refusals(function, says):
    with pytest.raises(ValueError, match=says):
        run(function, [5, 5, 5])
