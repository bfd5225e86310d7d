"""The formats that cuTensorNet wants, and how its networks are used."""

import numpy as np
import pytest

from qrt_tn.engine.tensornet import Library, compute_name, interleaved


def test_indices_become_integers_in_the_order_of_the_axes():
    inputs = [("x", "y"), ("y", 7), ()]
    arrays = [np.ones((2, 3)), np.ones((3, 4)), np.ones(())]
    arguments = interleaved(arrays, inputs, (7, "x"))
    assert arguments[0] is arrays[0]
    assert arguments[1::2] == [[0, 1], [1, 2], [5]]
    assert arguments[4].shape == (1,)
    assert arguments[6] == [2, 0]


def test_unknown_compute_types_and_dtypes():
    assert compute_name("complex128", "64F") == "64F"
    for dtype, compute in (("complex64", "64F"), ("complex128", "TF32"), ("float32", "tf32")):
        with pytest.raises(ValueError, match=f"'{compute}'; for {dtype} choose None or one of"):
            compute_name(dtype, compute)
    with pytest.raises(ValueError, match="int64; choose one of float32"):
        compute_name("int64", None)


def test_a_network_of_the_library(device, cutensornet):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 3)), rng.normal(size=(3, 4))
    held = [device.asarray(a.copy()), device.asarray(b)]
    library = Library("float64", "64F")
    inputs, path = [("i", "j"), ("j", "k")], [(0, 1)]
    net = library.network(held, inputs, ("k", "i"), path, ("j",), None, 0)
    (made,) = cutensornet.live
    assert made.optimize == {"path": path, "slicing": [(1, 1)]} and int(made.options.compute_type) == 16
    assert made.options.memory_limit == "80%"
    for run in range(3):
        held[0][...] = held[0] * 2  # a run takes the values of that moment
        assert np.allclose(net.run(release=bool(run % 2)).get(), 2 ** (run + 1) * (a @ b).T)
        assert made.autotuned == (run > 0) and made.holding != run % 2
    with pytest.raises(
        ValueError, match="memory_limit of 70 bytes is too small: operands and results take 60"
    ):
        library.network(held, inputs, ("k", "i"), path, (), 10, 60)
    net.free()
    library.close()
    assert not cutensornet.live and not cutensornet.handles
