import pickle

import numpy as np
import pytest

from qrt_tn.states.samples import rows
from qrt_tn.states.samples.rows import Points, check_points, small_type


def mapped(tmp_path, array):
    path = tmp_path / "points.npy"
    np.save(path, array)
    return np.load(path, mmap_mode="r")


def test_points_are_checked_without_a_copy(tmp_path, monkeypatch):
    array = np.random.default_rng(0).integers(3, 9, size=(100, 7)).astype(np.uint8)
    for held in (array, mapped(tmp_path, array)):
        checked, low, high = check_points(held, 11)
        assert checked is held
        assert (low, high) == (array.min(), array.max())
    monkeypatch.setattr(rows, "BLOCK", 21)  # three rows
    assert check_points(array, 11)[1:] == (low, high)
    assert check_points([[0, 1], [2, 2]], 3)[1:] == (0, 2)


@pytest.mark.parametrize(("row", "value"), [(0, -1), (4, 11), (99, 200)])
def test_the_row_outside_is_named(row, value, monkeypatch):
    monkeypatch.setattr(rows, "BLOCK", 21)
    array = np.random.default_rng(0).integers(11, size=(100, 7))
    array[row, 3] = value
    with pytest.raises(ValueError, match=f"x holds {value}, outside Z_11, in row {row}"):
        check_points(array, 11)


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros(3, dtype=int), r"x has shape \(3,\); it must have shape \(N, D\)"),
        (np.zeros((0, 3), dtype=int), "x is empty"),
        (np.zeros((3, 0), dtype=int), "x is empty"),
        (np.zeros((3, 2)), "x has dtype float64; give integers in 0..10"),
        (np.zeros((3, 2), dtype=bool), "x has dtype bool"),
        ([[1], [1, 2]], "rows of unequal lengths"),
    ],
)
def test_refusals(array, says):
    with pytest.raises(ValueError, match=says):
        check_points(array, 11)


def test_rows_of_an_array(tmp_path):
    array = np.random.default_rng(0).integers(200, size=(50, 4))
    chosen = np.array([1, 3, 4, 30])
    for held in (array, mapped(tmp_path, array)):
        points = Points(held, chosen)
        assert len(points) == 4
        assert (points[1:3] == array[[3, 4]]).all()
        assert (points[np.array([3, 0])] == array[[30, 1]]).all()
        compact = points.compact(250)
        assert (compact[:] == array[chosen]).all()
        assert (compact is points) == isinstance(held, np.memmap)
        copied = pickle.loads(pickle.dumps(points))
        assert not copied.on_disk
        assert (copied[:] == array[chosen]).all()
    assert Points(array).compact(255).array.dtype == np.uint8
    assert Points(array).compact(256).array.dtype == np.uint16
    for modulus, dtype in ((2, np.uint8), (251, np.uint8), (257, np.uint16), (65537, np.uint32)):
        assert small_type(modulus) == dtype
    # a copy, so that the caller may write into the array
    same = array.astype(np.uint8)
    assert not np.shares_memory(Points(same).compact(255).array, same)
