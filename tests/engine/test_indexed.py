import copy
import pickle

import numpy as np
import pytest

from qrt_tn.engine.indexed import IndexedContraction

TERMS = ["ua", "vab", "wbch", "xch", "cd", "hw"]
SIZES = {"u": 3, "v": 4, "w": 5, "x": 2, "a": 2, "b": 3, "c": 2, "d": 3, "h": 2}


def network(rng, dtype=np.complex128):
    arrays = []
    for term in TERMS:
        shape = [SIZES[index] for index in term]
        arrays.append((rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(dtype))
    return [tuple(term) for term in TERMS], arrays


def rows(rng, count, picked="uvwx"):
    return np.stack([rng.integers(SIZES[index], size=count) for index in picked], axis=1)


@pytest.mark.parametrize("path", [None, [(0, 1)] * 5])
@pytest.mark.parametrize(("picked", "output"), [("uvwx", ""), ("xw", "du"), ("v", "d"), ("uvwxh", "")])
def test_values_of_every_element(picked, output, path, device):
    rng = np.random.default_rng(0)
    terms, arrays = network(rng)
    made = IndexedContraction(terms, tuple(output), SIZES, arrays, tuple(picked), path=path)
    assert made.to("numpy") is made
    values = rows(rng, 40, picked)
    dense = np.einsum(",".join(TERMS) + "->" + picked + output, *arrays)
    for contraction in (made, made.to("cupy")):
        found = contraction(values)
        assert found.shape == (40, *(SIZES[index] for index in output))
        assert found.log_scale.shape[0] == 40
        assert np.allclose(found.value(), dense[tuple(values.T)], rtol=1e-11)
        assert isinstance(found.mantissa, np.ndarray)
    for copied in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert (copied(values).mantissa == made(values).mantissa).all()


def test_batches_of_a_size_that_fits(monkeypatch):
    rng = np.random.default_rng(0)
    terms, arrays = network(rng)
    values = rows(rng, 103)
    whole = IndexedContraction(terms, ("d",), SIZES, arrays, "uvwx")(values)
    small = IndexedContraction(terms, ("d",), SIZES, arrays, "uvwx", memory_limit=20_000)
    size, plan = small.fitted(103)
    assert 1 < size < 60
    assert plan.peak_bytes <= 20_000
    assert np.allclose(small(values).value(), whole.value(), rtol=1e-12)
    assert np.allclose(small(values[:1]).value(), whole[:1].value(), rtol=1e-12)
    monkeypatch.setattr("qrt_tn.engine.batched.HOST_BYTES", 20_000)
    assert 1 < IndexedContraction(terms, ("d",), SIZES, arrays, "uvwx").fitted(103)[0] < 60


def test_what_all_elements_share_is_done_once():
    # a costly part that holds no picked index
    rng = np.random.default_rng(0)
    matrices = [rng.normal(size=(60, 60)) for _ in range(3)]
    terms = [("u", "a"), ("a", "b"), ("b", "c"), ("c", "d"), ("d", "v")]
    sizes = {"u": 3, "v": 3} | dict.fromkeys("abcd", 60)
    arrays = [rng.normal(size=(3, 60)), *matrices, rng.normal(size=(60, 3))]
    made = IndexedContraction(terms, (), sizes, arrays, "uv", path=[(1, 2), (1, 3), (0, 2), (0, 1)])
    # the three matrices beforehand; then one matrix times a vector, and a product of two vectors
    assert made.multiply_adds(1000) == 1000 * (60**2 + 60)
    values = rng.integers(3, size=(20, 2))
    dense = arrays[0] @ matrices[0] @ matrices[1] @ matrices[2] @ arrays[4]
    assert np.allclose(made(values).value(), dense[tuple(values.T)])


def test_a_long_chain_does_not_underflow():
    rng = np.random.default_rng(0)
    cores = [(1e-3 * rng.normal(size=(2, 5, 2))).astype(np.float32) for _ in range(400)]
    terms = [(site, ("u", site), (site + 1) % 400) for site in range(400)]
    sizes = {("u", site): 5 for site in range(400)} | dict.fromkeys(range(400), 2)
    values = rng.integers(5, size=(7, 400))
    found = IndexedContraction(terms, (), sizes, cores, [("u", site) for site in range(400)])(values)
    for row in range(7):
        product, log = np.eye(2), 0.0
        for core, value in zip(cores, values[row], strict=True):
            product = product @ core[:, value].astype(float)
            peak = np.abs(product).max()
            product, log = product / peak, log + np.log(peak)
        assert np.isclose(found.log_abs()[row], log + np.log(abs(np.trace(product))), atol=1e-3)
    assert (found.log_abs() < -2000).all()


def test_refusals():
    terms, arrays = network(np.random.default_rng(0))
    made = IndexedContraction(terms, (), SIZES, arrays, "ux")
    for told, call in (
        ("'q' is in the output, or on no", lambda: IndexedContraction(terms, (), SIZES, arrays, "uq")),
        ("'d' is in the output", lambda: IndexedContraction(terms, ("d",), SIZES, arrays, "ud")),
        (r"\(2, 2\)", lambda: IndexedContraction(terms, (), SIZES, [arrays[0][:2], *arrays[1:]], "u")),
        ("5 arrays", lambda: IndexedContraction(terms, (), SIZES, arrays[1:], "u")),
        ("limit is True", lambda: IndexedContraction(terms, (), SIZES, arrays, "u", memory_limit=True)),
        ("memory_limit", lambda: IndexedContraction(terms, (), SIZES, arrays, "u", memory_limit=9)([[0]])),
        ("float64", lambda: made([[0.5, 1]])),
        ("bool", lambda: made([[True, False]])),
        (r"\(1, 3\)", lambda: made([[0, 1, 1]])),
        (r"\(2,\)", lambda: made([0, 1])),
        (r"\(0, 2\)", lambda: made(np.zeros((0, 2), dtype=int))),
        ("3 for index 'u'", lambda: made([[0, 0], [3, 1]])),
        ("-1 for index 'x'", lambda: made([[0, -1]])),
    ):
        with pytest.raises(ValueError, match=told):
            call()
