import numpy as np
import pytest

from qrt_tn.engine.maxvol import maxvol, spanning_rows


def orthonormal(rng, rows, columns, complex_values):
    matrix = rng.normal(size=(rows, columns))
    if complex_values:
        matrix = matrix + 1j * rng.normal(size=(rows, columns))
    return np.linalg.qr(matrix)[0]


@pytest.mark.parametrize("complex_values", [False, True])
@pytest.mark.parametrize(("size", "columns"), [(1, 1), (7, 7), (50, 1), (200, 13)])
def test_the_rows_are_dominant(size, columns, complex_values):
    q = orthonormal(np.random.default_rng(size), size, columns, complex_values)
    rows, coefficients = maxvol(q)
    assert len(set(rows.tolist())) == columns
    assert np.abs(coefficients).max() <= 1.05
    assert np.abs(coefficients @ q[rows] - q).max() < 1e-12
    assert np.abs(coefficients[rows] - np.eye(columns)).max() < 1e-12


def test_the_volume_is_the_largest_or_near_it():
    rng = np.random.default_rng(0)
    for _ in range(20):
        q = orthonormal(rng, 12, 2, False)
        volumes = [abs(np.linalg.det(q[[i, j]])) for i in range(12) for j in range(i)]
        assert abs(np.linalg.det(q[maxvol(q)[0]])) > 0.8 * max(volumes)


@pytest.mark.parametrize("complex_values", [False, True])
def test_more_rows_by_least_squares(complex_values):
    rng = np.random.default_rng(1)
    q = orthonormal(rng, 300, 10, complex_values)
    rows, coefficients = spanning_rows(q, 0.5, rng)
    assert len(set(rows.tolist())) == 15
    assert np.abs(coefficients @ q[rows] - q).max() < 1e-12
    # what the columns lack is averaged, where 10 rows would take it for true
    noise = rng.normal(size=(300, 100))
    fitted = [np.linalg.norm(c @ noise[r]) for r, c in (maxvol(q), (rows, coefficients))]
    assert fitted[1] < 0.95 * fitted[0]


def test_no_more_rows_than_there_are():
    q = orthonormal(np.random.default_rng(3), 6, 5, False)
    rows, coefficients = spanning_rows(q, 0.5, np.random.default_rng(0))
    assert sorted(rows.tolist()) == list(range(6))
    assert np.abs(coefficients @ q[rows] - q).max() < 1e-12
