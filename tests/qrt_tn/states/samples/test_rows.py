import pickle

import numpy as np

from qrt_tn.states.samples.rows import Points, small_type


def mapped(tmp_path, array):
    path = tmp_path / "points.npy"
    np.save(path, array)
    return np.load(path, mmap_mode="r")


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
