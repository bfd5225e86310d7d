import copy
import pickle

import numpy as np
import pytest
import scipy.sparse

from qrt_tn.engine import Plan
from qrt_tn.engine.backends import to_host
from qrt_tn.engine.expression import Expression

MATRICES = Plan((("i", "j"), ("j", "k")), ("i", "k"), {"i": 2, "j": 3, "k": 5}, ((0, 1),), (), "float64")
A, B = np.random.default_rng(0).normal(size=(2, 3)), np.random.default_rng(1).normal(size=(3, 5))


def test_constants_are_worked_in_once(monkeypatch):
    inputs, sizes = (("a", "b"), ("b", "c"), ("c", "d")), dict.fromkeys("abcd", 3)
    made = Plan(inputs, ("a", "d"), sizes, ((0, 1), (0, 1)), (), "float64")
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(3, 3)) for _ in range(3)]
    calls, matmul = [], np.matmul
    monkeypatch.setattr(np, "matmul", lambda *operands: calls.append(operands) or matmul(*operands))
    with made.expression("numpy", constants={1: arrays[1], np.int64(0): arrays[0].tolist()}) as expression:
        del calls[:]
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
    wanted = np.arange(6).reshape(2, 3) @ np.arange(15).reshape(3, 5)
    for given in (
        np.arange(6).reshape(2, 3),
        [[0, 1, 2], [3, 4, 5]],
        np.arange(6, dtype=np.int8).reshape(2, 3),
    ):
        result = MATRICES.expression("numpy", dtype=dtype)([given, np.arange(15).reshape(3, 5)])
        assert result.dtype == dtype
        assert np.allclose(result.value(), wanted, rtol=1e-6)
    if dtype == "complex128":  # real operands beside complex ones
        assert np.allclose(MATRICES.expression("numpy", dtype=dtype)([A, 1j * B]).value(), 1j * (A @ B))


@pytest.mark.parametrize(
    ("settings", "arrays", "error", "named"),
    [
        ({}, [A], ValueError, "got 1 arrays for 2 tensors"),
        ({"constants": {0: A}}, [A, B], ValueError, "got 2 arrays for 1 tensors"),
        ({"constants": {2: A}}, [], ValueError, "constant 2 .* 2 tensors"),
        ({"constants": {"a": A}}, [], ValueError, "constant a"),
        ({"constants": {0: B}}, [], ValueError, r"array 0 .*\(3, 5\).*\(2, 3\)"),
        ({"constants": {0: A * np.nan}}, [B], ValueError, "array 0 holds NaN"),
        ({"constants": {0: A * np.nan, 1: B}}, [], ValueError, "array 0 holds NaN"),
        ({"constants": {0: A}}, [B * np.inf], ValueError, "array 1 holds NaN or infinity"),
        ({}, [A, B.T], ValueError, r"array 1 .*\(5, 3\).*\(3, 5\)"),
        ({}, [A.astype(np.float32), B], ValueError, "array 0 is float32 .* float64"),
        ({"dtype": "complex64"}, [A.astype(np.float32), B], ValueError, "array 1 is float64"),
        ({}, [A, 1j * B], ValueError, "array 1 is complex128 .* float64"),
        ({}, [A.astype(np.float16), B], ValueError, "float16"),
        ({}, [A.astype(object), B], ValueError, "object"),
        ({}, [A.astype(np.longdouble), B], ValueError, "(longdouble|float128)"),
        ({}, [A, np.ma.masked_less(B, 0)], TypeError, "array 1 is a masked array"),
        ({}, [scipy.sparse.csr_array(A), B], TypeError, "array 0 is a sparse csr_array"),
        ({"constants": {1: scipy.sparse.eye(3, 5)}}, [A], TypeError, "array 1 is a sparse"),
        ({"constants": 5}, [], TypeError, "constants is 5"),
        ({"constants": {True: B}}, [A], ValueError, "constant True"),
        ({"dtype": "int32"}, [], ValueError, "int32"),
        ({"dtype": "wide"}, [], ValueError, "'wide'"),
        ({"compute": "TF32"}, [], ValueError, "'TF32'"),
        ({"backend": "gpu"}, [], ValueError, "'gpu'"),
        ({"backend": "jax"}, [], ValueError, "'jax'.*cotengra"),
    ],
)
def test_refusals(settings, arrays, error, named):
    with pytest.raises(error, match=named):
        MATRICES.expression(**{"backend": "numpy"} | settings)(arrays)


def test_a_part_has_an_exponent_of_two():
    arrays = [1e-200 * A, 1e-200 * B]
    mantissa, exponent = MATRICES.expression("numpy").part(arrays)
    assert exponent.dtype.kind == "i"
    logs = MATRICES.expression("numpy")(arrays).log_abs()
    assert np.allclose(np.log2(np.abs(mantissa)) + exponent, logs / np.log(2), rtol=1e-14)


@pytest.mark.parametrize("backend", ["numpy", "cupy"])
def test_single_plans_run_in_double_precision_and_back(backend, device):
    count = 40
    for planned, run in (("complex128", "float32"), ("float32", "complex128")):
        made = Plan((("v",),) * count, ("v",), {"v": 2}, ((0, 1),) * (count - 1), (), planned)
        result = made.expression(backend, dtype=run)([np.full(2, 2.0**-30, run)] * count)
        assert result.dtype == run
        assert np.allclose(to_host(result.log_abs()), -30 * count * np.log(2), rtol=1e-14)


def test_expressions_are_copied():
    """With constants, before and after calls, and after one that needed exponents for all entries."""
    far = np.diag([1e300, 1e-300, 1.0])[:2]
    for settings in ({}, {"entrywise": False}):
        expression = Expression(MATRICES, "numpy", constants={1: B}, **settings)
        for array in (A, far, A):
            wanted = expression.part([array])
            for other in (pickle.loads(pickle.dumps(expression)), copy.deepcopy(expression)):
                for ours, theirs in zip(other.part([array]), wanted, strict=True):
                    assert np.array_equal(ours, theirs)
    with pytest.raises(TypeError, match="MPI"):
        expression._comm = object()
        pickle.dumps(expression)
