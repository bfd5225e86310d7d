import copy
import importlib
import json
import pickle
import re
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest

from qrt_tn import engine
from qrt_tn.engine import Plan
from qrt_tn.engine.plan import bytes_text

module = importlib.import_module("qrt_tn.engine.plan")  # engine.plan itself is the function

PRODUCT = Plan((("i", "j"), ("j", "k")), ("i", "k"), {"i": 2, "j": 3, "k": 5}, ((0, 1),))
A, B = np.ones((2, 3)), np.ones((3, 5))


def grid_network(rng, rows=3, columns=3, extent=4, batch=None):
    """A grid of tensors, with a hyperindex `batch` on all of them if named."""
    inputs, arrays = [], []
    sizes = {} if batch is None else {batch: 3}
    for i in range(rows):
        for j in range(columns):
            names = [f"r{i}{j}", f"r{i}{j + 1}", f"c{i}{j}", f"c{i + 1}{j}"]
            there = (j > 0, j < columns - 1, i > 0, i < rows - 1)
            names = [name for name, keep in zip(names, there, strict=True) if keep]
            names += [] if batch is None else [batch]
            sizes |= {name: extent for name in names if name != batch}
            inputs.append(tuple(names))
            arrays.append(rng.normal(size=[sizes[name] for name in names]))
    return inputs, sizes, arrays


def test_what_is_given_is_kept_as_tuples():
    made = Plan(["ij", ["j", "k"]], ["i", "k"], {"i": 2, "j": 3, "k": 5, "z": 9}, ((0, 1),))
    assert made == PRODUCT
    assert made.inputs == (("i", "j"), ("j", "k"))
    assert made.sizes == {"i": 2, "j": 3, "k": 5}
    with pytest.raises(FrozenInstanceError):
        made.path = ()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"path": ()}, "2 tensors"),
        ({"path": ((0, 2),)}, r"\(0, 2\)"),
        ({"output": ("z",)}, "'z'"),
        ({"sizes": {"i": 2, "j": 3}}, "'k' is on tensor 1"),
        ({"slices": ("z",)}, "'z'"),
        ({"slices": ("j", "j")}, "'j' twice"),
        ({"batch": ("j",)}, "'j'"),
        ({"dtype": "int32"}, "'int32'"),
    ],
)
def test_refusals_of_plans(change, named):
    with pytest.raises(ValueError, match=named):
        replace(PRODUCT, **change)


@pytest.mark.parametrize(
    ("arrays", "settings", "named"),
    [
        ([A], {}, "got 1 arrays .* 2 tensors"),
        ([A, A], {}, r"array 1 .*\(2, 3\).*\(3, 5\)"),
        ([A, B], {"backend": "gpu"}, "'gpu'"),
        ([A, B], {"compute": "TF32"}, "'TF32'"),
        ([A.astype(np.float32), B], {}, "tensor 0 is float32 and tensor 1 is float64"),
        ([A, B.astype(np.float16)], {}, "tensor 1 .* float16"),
        ([A, B.astype(object)], {}, "tensor 1 .* object"),
        ([A, B.astype(np.longdouble)], {}, "tensor 1 .* (longdouble|float128)"),
        ([A, B * [np.nan, 1, 1, 1, 1]], {}, "array 1 holds NaN"),
    ],
)
def test_refusals_of_arrays(arrays, settings, named):
    with pytest.raises(ValueError, match=named):
        PRODUCT.execute(arrays, **{"backend": "numpy"} | settings)


def test_the_batch_comes_in_the_outputs_order():
    """Whatever the order it is named in: log-scales have the output's axes."""
    rng = np.random.default_rng(0)
    a = rng.uniform(1, 2, size=(2, 3)) * 10.0 ** rng.integers(-200, 200, size=(2, 3))
    b = rng.uniform(1, 2, size=(2, 3))
    made = Plan((("i", "k"), ("i", "k")), ("i", "k"), {"i": 2, "k": 3}, ((0, 1),), batch=("k", "i", "k"))
    assert made.batch == ("i", "k")
    assert np.allclose(made.execute([a, b], "numpy").log_abs(), np.log(a) + np.log(b), rtol=1e-14)


@pytest.mark.parametrize(
    ("batch", "output"), [(None, ()), (None, ("r01", "c10")), ("v", ()), ("v", ("c10", "r01")), ("v", ("v",))]
)
def test_a_memory_limit_slices_and_changes_nothing(batch, output):
    dtype, share = ("complex128", 0.65) if batch else ("complex64", 0.75)
    inputs, sizes, arrays = grid_network(np.random.default_rng(0), batch=batch, extent=6)
    arrays = [(array * np.exp(2j)).astype(dtype) for array in arrays]
    whole = engine.plan((inputs, output, sizes), dtype=dtype)
    limit = int(share * whole.peak_bytes)
    sliced = engine.plan((inputs, output, sizes), memory_limit=limit, dtype=dtype)
    assert sliced.peak_bytes <= limit < whole.peak_bytes
    assert sliced.slice_count == np.prod([sizes[i] for i in sliced.slices]) > 1
    expected, got = whole.execute(arrays, "numpy"), sliced.execute(arrays, "numpy")
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype == dtype
    peak = np.abs(expected.value()).max()
    assert np.abs(got.value() - expected.value()).max() < (1e-12 if dtype == "complex128" else 1e-5) * peak


def test_a_limit_that_cannot_be_met():
    inputs, sizes, arrays = grid_network(np.random.default_rng(0))
    operands = 16 * sum(array.size for array in arrays)
    for limit in (100, operands - 1):
        with pytest.raises(ValueError, match=f"{limit} bytes is below the operands .* {operands}"):
            engine.plan((inputs, (), sizes), memory_limit=limit)
    with pytest.raises(ValueError, match=rf"{operands} bytes .* is \d+ bytes") as error:
        engine.plan((inputs, (), sizes), memory_limit=operands)
    least = int(str(error.value).split(" is ")[-1].split()[0])
    assert engine.plan((inputs, (), sizes), memory_limit=least).peak_bytes <= least
    with pytest.raises(ValueError, match=f"{least} bytes"):
        engine.plan((inputs, (), sizes), memory_limit=least - 1)


def test_a_plan_is_used_again_with_operands_of_any_kind():
    rng = np.random.default_rng(2)
    for kind in (float, complex, np.float32, float):
        a, b = rng.normal(size=(2, 3)).astype(kind), rng.normal(size=(3, 5)).astype(kind)
        result = PRODUCT.execute([a, b], "numpy")
        assert result.dtype == np.result_type(kind)
        assert np.allclose(result.value(), a @ b, rtol=1e-5)
    # a real array of the same precision as a complex one is cast
    assert PRODUCT.execute([A.astype(np.float32), B.astype(np.complex64)], "numpy").dtype == np.complex64
    made = Plan((("a", "b"),), ("a",), {"a": 2, "b": 2}, ((0,),))
    for given, dtype in (
        ([[1, 2], [3, 4]], float),
        (np.array([[1, 2], [3, 4]]), float),
        (np.eye(2, dtype=bool), float),
        ([[1j, 2], [3, 4]], complex),
    ):
        result = made.execute([given], "numpy")
        assert result.dtype == dtype
        assert np.allclose(result.value(), np.sum(given, axis=1))


def saved_plan():
    inputs, sizes, _ = grid_network(np.random.default_rng(3), extent=3)
    return replace(engine.plan((inputs, ("r01",), sizes), seed=1), slices=("c10",), dtype="complex64")


@pytest.mark.parametrize("names", ["strings", "integers"])
def test_round_trip(tmp_path, names):
    made = saved_plan()
    if names == "integers":
        number = {index: k for k, index in enumerate(made.sizes)}
        terms = tuple(tuple(number[i] for i in term) for term in made.inputs)
        sizes = {number[i]: size for i, size in made.sizes.items()}
        made = Plan(terms, (number["r01"],), sizes, made.path, (number["c10"],), "float32")
    rng = np.random.default_rng(0)
    shapes = [[made.sizes[i] for i in term] for term in made.inputs]
    arrays = [rng.normal(size=shape).astype(made.dtype) for shape in shapes]
    result = made.execute(arrays, "numpy")
    path = tmp_path / "plan.json"
    made.save(path)
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]
    # (what an executed plan holds besides stays in this process)
    for other in (Plan.load(path), pickle.loads(pickle.dumps(made)), copy.deepcopy(made)):
        assert other == made
        costs = [(plan.flops, plan.largest, plan.peak_bytes) for plan in (other, made)]
        assert costs[0] == costs[1]
        assert (other.execute(arrays, "numpy").value() == result.value()).all()


def test_files_that_are_no_plans(tmp_path):
    path, made = tmp_path / "plan.json", saved_plan()
    with pytest.raises(ValueError, match=r"no file .*plan\.json"):
        Plan.load(path)
    made.save(path)
    text = path.read_bytes()
    whole, rng = json.loads(text), np.random.default_rng(0)
    broken = [text[:length] for length in range(0, len(text) - 1, 3)]
    for _ in range(300):
        flipped = bytearray(text)
        for place in rng.integers(len(text) - 1, size=rng.integers(1, 4)):
            flipped[place] ^= 1 << int(rng.integers(8))
        broken.append(bytes(flipped))
    broken += [b"", b"[]", b"3", b'{"format": "other"}', b"\x00\x01", b"\xff\xfe\x00", b"[" * 100_000]
    for content in broken:
        path.write_bytes(content)
        try:
            assert Plan.load(path) == made  # a flip may only have changed a space
            assert json.loads(content) == whole
        except ValueError as error:
            assert f"{path} does not hold a whole plan" in str(error)
    for change, named in (
        ({"format": "other"}, "'other'"),
        ({"version": module.VERSION + 1}, f"version {module.VERSION + 1}"),
        ({"plan": {**whole["plan"], "path": [[1, 0]]}}, "checksum"),
    ):
        path.write_text(json.dumps(whole | change))
        with pytest.raises(ValueError, match=rf"plan\.json .*{named}"):
            Plan.load(path)
    strange = Plan(((("i", 1), "j"),), (), {("i", 1): 2, "j": 3}, ((0,),))
    for plan, place, named in (
        (strange, "other.json", r"\('i', 1\)"),
        (made, "nowhere/plan.json", "nowhere"),
    ):
        with pytest.raises(ValueError, match=named):
            plan.save(tmp_path / place)
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def test_a_plan_prints_as_a_table():
    text = str(saved_plan())
    for row in (
        "tensors +9, on 12 indices",
        "output +r01 3",
        "batch +r01",
        r"slices +3 \(c10 3\)",
        "peak .* KiB",
    ):
        assert re.search(f"(?m)^{row}$", text)
    header, *steps = text.splitlines()[9:]
    assert header.split() == ["costliest", "steps", "batch", "rows", "inner", "columns", "flops", "repeats"]
    flops = [float(line.split()[-2]) for line in steps]
    assert flops == sorted(flops, reverse=True)
    names = tuple(f"i{k}" for k in range(40))
    many = Plan(tuple((name,) for name in names), names, dict.fromkeys(names, 1), (tuple(range(40)),))
    assert max(map(len, (*text.splitlines(), *str(many).splitlines()))) <= 84
    peak = bytes_text(PRODUCT.peak_bytes)
    assert repr(PRODUCT) == f"Plan(2 tensors, 60 flops, 1 slices, peak {peak})"
    assert [bytes_text(1536), bytes_text(2.0**52)] == ["1.5 KiB", "4096 TiB"]


def test_prediction(monkeypatch):
    class Device:
        def seconds(self, batch, *rest):
            return np.ones_like(batch)

    monkeypatch.setattr(module, "find_device", lambda name: Device() if name == "mine" else None)
    assert PRODUCT.predict("mine") == 1.0
    assert replace(PRODUCT, slices=("j",)).predict("mine") == 3.0


@pytest.mark.parametrize("arrays", [None, 5])
def test_what_is_no_sequence_of_arrays_is_named(arrays):
    with pytest.raises(TypeError, match=f"arrays is {arrays}"):
        PRODUCT.execute(arrays)
    with pytest.raises(TypeError, match=f"arrays is {arrays}"):
        PRODUCT.execute_many(arrays)


def test_equal_plans_are_one_key():
    assert len({PRODUCT, replace(PRODUCT), replace(PRODUCT, path=((1, 0),))}) == 2
