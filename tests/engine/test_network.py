import numpy as np
import pytest
import quimb.tensor as qtn

from qrt_tn.engine.network import (
    DTYPES,
    batch_indices,
    by_position,
    common_dtype,
    dtype_name,
    network_dtype,
    numbered,
    read_structure,
)


def test_a_tuple_is_read_as_it_is():
    inputs, output, sizes = read_structure(
        (["ij", ["j", "k"], ()], ["k", "i"], {"i": 2, "j": 3.0, "k": np.int64(5)})
    )
    assert inputs == (("i", "j"), ("j", "k"), ())
    assert output == ("k", "i")
    assert sizes == {"i": 2, "j": 3, "k": 5}
    assert all(type(size) is int for size in sizes.values())
    assert read_structure((inputs, output, sizes), ("j",))[1] == ("j",)
    # sizes of indices that no tensor holds are dropped
    assert read_structure(((("i",),), (), {"i": 2, "z": 0}))[2] == {"i": 2}


def test_a_quimb_network_keeps_its_outer_indices():
    network = qtn.TensorNetwork(
        [qtn.Tensor(np.ones((2, 3)), "ij"), qtn.Tensor(np.ones((3, 4)), "jk"), qtn.Tensor(np.ones(3), "j")]
    )
    inputs, output, sizes = read_structure(network)
    assert inputs == (("i", "j"), ("j", "k"), ("j",))
    assert set(output) == {"i", "k"}
    assert sizes == {"i": 2, "j": 3, "k": 4}
    assert read_structure(network, ["j", "k"])[1] == ("j", "k")


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (([], (), {}), "no tensors"),
        (([("i", "j")], (), {"i": 2}), "index 'j' is on tensor 0 but has no size; add it to sizes"),
        (([("i",), ("j",)], (), {"i": 2}), "index 'j' is on tensor 1"),
        (([("i",)], ("z",), {"i": 2}), "output index 'z' is on no tensor"),
        (([("i",)], ("i", "i"), {"i": 2}), "output index 'i' is named twice"),
        (([("i",)], (), {"i": 0}), "index 'i' has size 0; every size must be at least 1"),
        (([("i",)], (), {"i": -3}), "index 'i' has size -3"),
        (([("i",)], (), {"i": 2.5}), "index 'i' has size 2.5; sizes are whole numbers"),
        (([("i",)], (), {"i": "x"}), "index 'i' has size 'x'"),
        (([("i",)], (), {"i": None}), "index 'i' has size None"),
        (([("i",)], (), {"i": float("inf")}), "index 'i' has size inf"),
        (([("i",)], (), {"i": 2**70}), "index 'i' has size of 71 bits"),
        (([("i",)], (), {"i": 10**5000}), "index 'i' has size of 16610 bits"),
        (([("i",)], "ik", {"i": 2}), "output is 'ik'"),
        (([("i",)], ("i",)), "tuple of 2"),
        ("ij,jk->ik", "got a str; give a quimb TensorNetwork"),
        (qtn.Tensor(np.ones(2), "i"), "got a Tensor"),
        (
            qtn.TensorNetwork([qtn.Tensor(np.ones(2), "i"), qtn.Tensor(np.ones((3, 2)), "ij")]),
            "index 'i' has size 2 on tensor 0 and 3 on tensor 1; an index has one size",
        ),
    ],
)
def test_what_is_wrong_is_named(network, message):
    with pytest.raises(ValueError, match=message):
        read_structure(network)


def test_what_is_no_list_of_indices_is_named():
    for network, message in [
        ((3, (), {}), "inputs is 3"),
        (([3], (), {}), r"inputs\[0\] is 3"),
        (([[["i"]]], (), {}), r"inputs\[0\] is \[\['i'\]\]"),
        (([("i",)], 5, {"i": 2}), "output is 5"),
        (([("i",)], (), [2]), "sizes is a list"),
    ]:
        with pytest.raises(TypeError, match=message):
            read_structure(network)


def test_batch_indices_are_kept_and_shared():
    inputs = [("i", "v"), ("v", "j"), ("j", "w", "w"), ("x",)]
    # w is twice on one tensor, which makes no batch of it
    assert batch_indices(inputs, ("w", "j", "x", "v")) == ("j", "v")
    assert batch_indices(inputs, ()) == ()


@pytest.mark.parametrize(
    ("dtypes", "common"),
    [
        (["float32", "float32"], "float32"),
        (["float32", "complex64"], "complex64"),
        (["complex128", "float64"], "complex128"),
        (["int8", "bool"], "float64"),
        (["int64", "float32"], "float32"),
        (["uint8", "complex64", "bool"], "complex64"),
        ([">f8", "float64"], "float64"),
    ],
)
def test_the_dtype_that_holds_all(dtypes, common):
    assert common_dtype(dtypes) == common
    assert common_dtype(list(map(np.dtype, dtypes[::-1]))) == common


@pytest.mark.parametrize(
    ("dtypes", "message"),
    [
        (["int8", "float32", "float64"], "mixed dtypes: tensor 1 is float32 and tensor 2 is float64"),
        (["complex128", "float32"], "mixed dtypes: tensor 1 is float32 and tensor 0 is complex128"),
        (["float64", "float16"], "tensor 1 has dtype float16; give one of float32"),
        ([np.longdouble], "tensor 0 has dtype longdouble|tensor 0 has dtype float128"),
        ([object], "tensor 0 has dtype object"),
        (["U3"], "tensor 0 has dtype str"),
    ],
)
def test_dtypes_that_do_not_go_together(dtypes, message):
    with pytest.raises(ValueError, match=message):
        common_dtype(dtypes)


def test_the_dtype_of_a_network():
    assert network_dtype(([("i",)], (), {"i": 2})) == "complex128"
    single = qtn.Tensor(np.ones(2, np.float32), "i")
    assert (
        network_dtype(qtn.TensorNetwork([single, qtn.Tensor(np.ones(2, np.complex64), "i")])) == "complex64"
    )
    with pytest.raises(ValueError, match="mixed dtypes"):
        network_dtype(qtn.TensorNetwork([single, qtn.Tensor(np.ones(2), "i")]))


def test_names_of_dtypes():
    for name in DTYPES:
        assert dtype_name(name) == dtype_name(np.dtype(name)) == dtype_name(np.dtype(name).type) == name
    assert dtype_name(float) == "float64"
    for wrong in ("abc", np.int64, "float16", [], object()):
        with pytest.raises(ValueError, match=r"dtype is .*; choose one of float32"):
            dtype_name(wrong)


def test_indices_by_number():
    inputs = [("b", "a"), (), ("a", ("c", 1))]
    numbers = numbered(inputs)
    assert numbers == {"b": 0, "a": 1, ("c", 1): 2}
    assert by_position(inputs, numbers) == [[0, 1], [], [1, 2]]
