import numpy as np
import pytest
import quimb.tensor as qtn

from qrt_tn import engine
from qrt_tn.engine import Plan

MATRICES = Plan((("i", "j"), ("j", "k")), ("i", "k"), {"i": 2, "j": 3, "k": 5}, ((0, 1),), (), "float64")
A, B = np.random.default_rng(0).normal(size=(2, 3)), np.random.default_rng(1).normal(size=(3, 5))


def test_constants_are_worked_in_once(monkeypatch):
    inputs, sizes = (("a", "b"), ("b", "c"), ("c", "d")), dict.fromkeys("abcd", 3)
    made = Plan(inputs, ("a", "d"), sizes, ((0, 1), (0, 1)), (), "float64")
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(3, 3)) for _ in range(3)]
    with made.expression("numpy", constants={1: arrays[1], np.int64(0): arrays[0].tolist()}) as expression:
        calls = []
        dot = np.dot
        monkeypatch.setattr(np, "dot", lambda *operands: calls.append(operands) or dot(*operands))
        for _ in range(2):
            arrays[2] = rng.normal(size=(3, 3))
            assert np.allclose(expression([arrays[2]]).value(), arrays[0] @ arrays[1] @ arrays[2])
    assert len(calls) == 2


def test_everything_constant():
    expression = MATRICES.expression("numpy", constants={0: A, 1: B})
    first = expression([])
    first.mantissa[...] = 0
    assert np.allclose(expression([]).value(), A @ B)


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
def test_operands_are_cast_to_the_expressions_dtype(dtype):
    for given in (np.arange(6).reshape(2, 3), np.ones((2, 3), bool), [[1, 2, 3], [4, 5, 6]]):
        result = MATRICES.expression("numpy", dtype=dtype)([given, np.arange(15).reshape(3, 5)])
        assert result.dtype == dtype
        assert np.allclose(result.value(), np.asarray(given, float) @ np.arange(15).reshape(3, 5), rtol=1e-6)


def test_real_operands_join_complex_ones():
    result = MATRICES.expression("numpy", dtype=np.complex128)([A, 1j * B])
    assert result.dtype == np.complex128
    assert np.allclose(result.value(), 1j * (A @ B))


@pytest.mark.parametrize(
    ("settings", "arrays", "message"),
    [
        ({}, [A], "got 1 arrays for 2 tensors that are not constant"),
        ({"constants": {0: A}}, [A, B], "got 2 arrays for 1 tensors"),
        ({"constants": {2: A}}, [], "constant 2 is no tensor of a plan of 2 tensors"),
        ({"constants": {"a": A}}, [], "constant a is no tensor"),
        ({"constants": {0: B}}, [], r"array 0 has shape \(3, 5\); the plan wants \(2, 3\)"),
        ({"constants": {0: A * np.nan}}, [B], "array 0 holds NaN or infinity"),
        ({}, [A, B.T], r"array 1 has shape \(5, 3\); the plan wants \(3, 5\)"),
        ({}, [A.astype(np.float32), B], "mixed dtypes: array 0 is float32 and the expression float64; cast"),
        ({"dtype": "complex64"}, [A.astype(np.float32), B], "mixed dtypes: array 1 is float64"),
        ({}, [A, 1j * B], "array 1 is complex128 and the expression float64; make the expression with a"),
        ({}, [A.astype(np.float16), B], "has dtype float16; give one of float32"),
        ({}, [A.astype(object), B], "has dtype object"),
        ({}, [A.astype(np.longdouble), B], "has dtype (longdouble|float128)"),
        ({"dtype": "int32"}, [], "dtype is int32; choose one of float32"),
        ({"dtype": "wide"}, [], "dtype is 'wide'; choose one of"),
        ({"compute": "TF32"}, [], "compute 'TF32' is cuTensorNet's; backend 'numpy' has no choice"),
    ],
)
def test_what_is_wrong_is_named(settings, arrays, message):
    with pytest.raises(ValueError, match=message):
        MATRICES.expression("numpy", **settings)(arrays)


def test_unknown_backends():
    with pytest.raises(ValueError, match="unknown backend 'gpu'; choose one of auto, numpy, cupy, jax"):
        MATRICES.expression("gpu")


def test_diagonals_that_were_promised_are_checked():
    rng = np.random.default_rng(0)
    gate, a, b = np.diag(rng.normal(size=3)), rng.normal(size=(2, 3)), rng.normal(size=(3, 2))
    network = qtn.TensorNetwork([qtn.Tensor(a, "ij"), qtn.Tensor(gate, "jk"), qtn.Tensor(b, "kl")])
    made = engine.plan(network, output_inds="il", diagonals=True)
    assert made.merged == {"k": "j"}
    assert made.claims == ((1, "j", "k"),)
    assert np.allclose(made.execute([a, 2 * gate, b], "numpy").value(), 2 * a @ gate @ b)
    wrong = gate + 1e-300
    for call in (
        lambda: made.execute([a, wrong, b], "numpy"),
        lambda: made.expression("numpy", constants={1: wrong}, dtype="float64"),
        lambda: made.expression("numpy", constants={0: a}, dtype="float64")([wrong, b]),
    ):
        with pytest.raises(
            ValueError, match="array 1 is not diagonal in 'j' and 'k', as it was when planned"
        ):
            call()


def test_a_part_has_an_exponent_of_two():
    arrays = [1e-200 * A, 1e-200 * B]
    mantissa, exponent = MATRICES.expression("numpy").part(arrays)
    assert exponent.dtype.kind == "i"
    logs = MATRICES.expression("numpy")(arrays).log_abs()
    assert np.allclose(np.log2(np.abs(mantissa)) + exponent, logs / np.log(2), rtol=1e-14)


@pytest.mark.parametrize("backend", ["numpy", "cupy"])
def test_single_plans_run_in_double_precision_and_back(backend, device):
    """The plan's own dtype decides how often scales are measured; the expression's may differ."""
    count = 40
    inputs = (("v",),) * count
    for planned, run in (("complex128", "float32"), ("float32", "complex128")):
        made = Plan(inputs, ("v",), {"v": 2}, ((0, 1),) * (count - 1), (), planned)
        arrays = [np.full(2, 2.0**-30, run)] * count
        result = made.expression(backend, dtype=run)(arrays)
        assert result.dtype == run
        logs = result.log_abs()
        logs = logs.get() if hasattr(logs, "get") else logs
        assert np.allclose(logs, -30 * count * np.log(2), rtol=1e-14)
