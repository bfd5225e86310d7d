"""Norms brought to [1/2, 1) by powers of two, element by element of a batch."""

import itertools

import numpy as np
import pytest

from qrt_tn.engine.balance import NOTHING, Batch, Stack, padded


def batch_of(device, monkeypatch, dtype, indices):
    """On the stand-in, which has no `set`."""

    def put(self, host):
        self.held[...] = host

    monkeypatch.setattr(device.ndarray, "set", put, raising=False)
    return Batch(device, np.dtype(dtype), indices)


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_every_batch_element_has_norm_one(seed, on_device, dtype, device, monkeypatch):
    rng = np.random.default_rng(seed)
    batch = batch_of(device, monkeypatch, dtype, ("m", "n"))
    term = tuple(rng.permutation(["m", "n", "i", "j"]).tolist())
    shape = tuple({"m": 2, "n": 3, "i": 4, "j": 5}[i] for i in term)
    arrays = [rng.normal(size=shape), rng.normal(size=shape)]
    if "complex" in dtype:
        arrays = [array + 1j * rng.normal(size=shape) for array in arrays]
    per_element = tuple(e if i in "mn" else 1 for i, e in zip(term, shape, strict=True))
    arrays = [(a * 10.0 ** rng.integers(-30, 30, size=per_element)).astype(dtype) for a in arrays]
    zero = tuple(1 if i == "m" else slice(None) for i in term)
    arrays[1][zero] = 0
    stack = Stack(batch, (7, 9), term, shape)
    scale = stack.fill([device.asarray(a) if on_device else a for a in arrays]).get()
    assert scale.shape == (2, 3) and scale.dtype == np.int64
    assert (scale[1] <= NOTHING // 2).all() and (scale[0] > -300).all()
    total = np.zeros((2, 3))
    for place, array in enumerate(arrays):
        got = stack.operand(place).get()
        for m, n in itertools.product(range(2), range(3)):
            at = tuple({"m": m, "n": n}.get(i, slice(None)) for i in term)
            norm = np.linalg.norm(got[at].astype(complex))
            if not array[at].any():
                assert norm == 0
                continue
            assert 0.5 <= norm < 1 + 1e-6
            power = np.log2(np.linalg.norm(array[at].astype(complex)) / norm)
            assert np.isclose(power, round(power), atol=1e-4)
            total[m, n] += round(power)
            assert np.array_equal(np.ldexp(got[at].real, round(power)), array[at].real)  # not one digit lost
    assert np.array_equal(scale[0], total[0])


def test_slices_of_a_stack(device, monkeypatch):
    batch = batch_of(device, monkeypatch, "float32", ("n",))
    rng = np.random.default_rng(1)
    arrays = [(rng.normal(size=(3, 4)) * 0.5 ** np.arange(4)).astype("float32") for _ in range(2)]
    whole = Stack(batch, (0, 1), ("n", "s"), (3, 4))
    part = Stack(batch, (0, 1), ("n",), (3,))
    first = whole.fill(arrays)
    for value in range(4):
        scale = (first + part.cut(whole, (slice(None), value))).get()
        product = part.operand(0).get() * part.operand(1).get()
        # powers of two change no rounding
        assert np.array_equal(np.ldexp(product, scale), arrays[0][:, value] * arrays[1][:, value])


def test_results_are_taken_with_their_peaks(device, monkeypatch):
    batch = batch_of(device, monkeypatch, "complex64", ("n",))
    result = np.array([[3 + 4j, 0], [0, -1e-20j], [0, 0]], dtype="complex64")
    stack = Stack(batch, [5], ("n", "i"), (3, 2))
    scale, peak = stack.take(device.asarray(result))
    assert np.array_equal(peak.get(), np.array([4, 1e-20, 0], dtype="float32"))
    assert np.array_equal(batch.peak(device.asarray(result), ("n", "i")).get(), peak.get())
    assert scale.get().tolist() == [3, np.frexp(1e-20)[1], NOTHING]


def test_scales_by_slice_and_by_output(device, monkeypatch):
    batch = batch_of(device, monkeypatch, "float64", ("m", "n"))
    scale = device.asarray(np.array([[1, 2, NOTHING], [4, 5, 6]]))
    assert batch.cut(scale, {"n": 1, "i": 0}).get().tolist() == [[2], [5]]
    assert batch.cut(scale[:1], {"m": 1}).get().tolist() == [[1, 2, NOTHING]]
    assert batch.spread(scale, ("n", "i", "m"), ("n", "i", "m")).get().tolist() == [
        [[1, 4]],
        [[2, 5]],
        [[0, 6]],
    ]
    assert batch.spread(scale[:, :1], ("n", "i", "m"), ("i", "m")).get().tolist() == [[1, 4]]


def test_not_finite_on_the_host(device, monkeypatch):
    batch = batch_of(device, monkeypatch, "float32", ())
    for bad in (np.nan, -np.inf, 1e39):
        with pytest.raises(ValueError, match="array 4 holds NaN, infinity, or more than float32 does"):
            Stack(batch, (3, 4), ("i",), (2,)).fill([np.ones(2), np.array([1.0, bad])])


def test_padded():
    assert [padded(shape, "complex64") for shape in ((), (32,), (33,), (4, 9))] == [32, 32, 64, 64]
