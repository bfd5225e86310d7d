import copy
import importlib
import json
import pickle
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest

from qrt_tn import engine
from qrt_tn.engine import Plan
from qrt_tn.engine.plan import bytes_text

room = importlib.import_module("qrt_tn.engine.plan")  # engine.plan itself is the function

PRODUCT = Plan((("i", "j"), ("j", "k")), ("i", "k"), {"i": 2, "j": 3, "k": 5}, ((0, 1),))


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
    ("change", "message"),
    [
        ({"path": ()}, "the path leaves 2 tensors"),
        ({"path": ((0, 2),)}, r"step 0 of the path is \(0, 2\), but 2 tensors are left"),
        ({"output": ("z",)}, "output index 'z' is on no tensor"),
        ({"sizes": {"i": 2, "j": 3}}, "index 'k' is on tensor 1 but has no size"),
        ({"slices": ("z",)}, "slices .* name 'z' twice, or no tensor of the network does"),
        ({"slices": ("j", "j")}, "name 'j' twice"),
        ({"batch": ("j",)}, "batch index 'j' is not in the output"),
        ({"dtype": "int32"}, "dtype is 'int32'; choose one of float32"),
        ({"merged": {"k": "i"}, "slices": ("k",)}, "'k'"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        replace(PRODUCT, **change)


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
    dtype, share = ("complex128", 0.6) if batch else ("complex64", 0.75)
    rng = np.random.default_rng(0)
    inputs, sizes, arrays = grid_network(rng, batch=batch, extent=6)
    arrays = [(array * np.exp(2j)).astype(dtype) for array in arrays]
    whole = engine.plan((inputs, output, sizes), dtype=dtype)
    limit = int(share * whole.peak_bytes)
    sliced = engine.plan((inputs, output, sizes), memory_limit=limit, dtype=dtype)
    assert sliced.slices
    assert sliced.peak_bytes <= limit < whole.peak_bytes
    assert sliced.slice_count == np.prod([sizes[i] for i in sliced.slices])
    expected, got = whole.execute(arrays, "numpy"), sliced.execute(arrays, "numpy")
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype == dtype
    peak = np.abs(expected.value()).max()
    assert np.abs(got.value() - expected.value()).max() < (1e-12 if dtype == "complex128" else 1e-5) * peak


def test_a_limit_that_cannot_be_met():
    inputs, sizes, arrays = grid_network(np.random.default_rng(0))
    operands = 16 * sum(array.size for array in arrays)
    for limit in (100, operands - 1):
        with pytest.raises(
            ValueError, match=f"memory_limit of {limit} bytes is below the operands .* {operands}"
        ):
            engine.plan((inputs, (), sizes), memory_limit=limit)
    with pytest.raises(
        ValueError, match=rf"memory_limit of {operands} bytes cannot be met; the least .* is \d+ bytes"
    ) as error:
        engine.plan((inputs, (), sizes), memory_limit=operands)
    least = int(str(error.value).split(" is ")[-1].split()[0])
    made = engine.plan((inputs, (), sizes), memory_limit=least)
    assert made.peak_bytes <= least
    with pytest.raises(ValueError, match=f"the least that slicing reaches is {least} bytes"):
        engine.plan((inputs, (), sizes), memory_limit=least - 1)


def test_a_plan_is_used_again():
    rng = np.random.default_rng(2)
    for kind in (float, complex, np.float32, float):
        a, b = rng.normal(size=(2, 3)).astype(kind), rng.normal(size=(3, 5)).astype(kind)
        result = PRODUCT.execute([a, b], "numpy")
        assert result.dtype == np.result_type(kind)
        assert np.allclose(result.value(), a @ b, rtol=1e-5)


def test_lists_and_whole_numbers_are_operands():
    made = Plan((("a", "b"),), ("a",), {"a": 2, "b": 2}, ((0,),))
    assert np.allclose(made.execute([[[1, 2], [3, 4]]], "numpy").value(), [3, 7])
    assert made.execute([np.array([[1, 2], [3, 4]])], "numpy").dtype == np.float64
    assert made.execute([np.eye(2, dtype=bool)], "numpy").dtype == np.float64
    assert np.allclose(made.execute([[[1j, 2], [3, 4]]], "numpy").value(), [2 + 1j, 7])


def test_arrays_that_do_not_fit():
    with pytest.raises(ValueError, match="got 1 arrays for a plan of 2 tensors"):
        PRODUCT.execute([np.ones((2, 3))])
    with pytest.raises(ValueError, match=r"array 1 has shape \(3, 4\); the plan wants \(3, 5\)"):
        PRODUCT.execute([np.ones((2, 3)), np.ones((3, 4))])
    arrays = [np.ones((2, 3)), np.ones((3, 5))]
    with pytest.raises(ValueError, match="unknown backend 'gpu'"):
        PRODUCT.execute(arrays, "gpu")
    with pytest.raises(
        ValueError, match="mixed dtypes: tensor 0 is float32 and tensor 1 is float64; cast all"
    ):
        PRODUCT.execute([arrays[0].astype(np.float32), arrays[1]])
    with pytest.raises(ValueError, match="tensor 1 has dtype float16"):
        PRODUCT.execute([arrays[0], arrays[1].astype(np.float16)])
    with pytest.raises(ValueError, match="compute 'TF32' is cuTensorNet's"):
        PRODUCT.execute(arrays, "numpy", compute="TF32")
    # a real array of the same precision as a complex one is cast
    assert (
        PRODUCT.execute([arrays[0].astype(np.float32), arrays[1].astype(np.complex64)]).dtype == np.complex64
    )


def saved_plan():
    inputs, sizes, _ = grid_network(np.random.default_rng(3))
    sizes = dict.fromkeys(sizes, 3)
    made = engine.plan((inputs, ("r01",), sizes), seed=1)
    return replace(made, slices=("c10",), dtype="complex64", claims=((0, "r01", "c10"),))


@pytest.mark.parametrize("names", ["strings", "integers"])
def test_round_trip(tmp_path, names):
    made = saved_plan()
    if names == "integers":
        number = {index: k for k, index in enumerate(made.sizes)}
        terms = tuple(tuple(number[i] for i in term) for term in made.inputs)
        sizes = {number[i]: size for i, size in made.sizes.items()}
        made = Plan(terms, (number["r01"],), sizes, made.path, (number["c10"],), "float32", {7: 1})
    path = tmp_path / "plan.json"
    made.save(path)
    loaded = Plan.load(path)
    assert loaded == made
    assert (loaded.flops, loaded.largest, loaded.peak_bytes) == (made.flops, made.largest, made.peak_bytes)
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]
    rng = np.random.default_rng(0)
    shapes = [[made.sizes[i] for i in term] for term in made.inputs]
    arrays = [rng.normal(size=shape).astype(made.dtype) for shape in shapes]
    for other in (pickle.loads(pickle.dumps(made)), copy.deepcopy(made)):
        assert other == made
    if not made.claims:
        result = made.execute(arrays, "numpy")
        assert (loaded.execute(arrays, "numpy").value() == result.value()).all()
        # what an executed plan holds besides stays in this process
        assert (pickle.loads(pickle.dumps(made)).execute(arrays, "numpy").value() == result.value()).all()


def test_truncated_and_damaged_files_are_refused(tmp_path):
    path = tmp_path / "plan.json"
    saved_plan().save(path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    broken = [whole[:length] for length in range(len(whole) - 1)]
    for _ in range(400):
        flipped = bytearray(whole)
        for place in rng.integers(len(whole) - 1, size=rng.integers(1, 4)):
            flipped[place] ^= 1 << int(rng.integers(8))
        broken.append(bytes(flipped))
    broken += [b"", b"[]", b"3", b'{"format": "other"}', b"\x00\x01", b"\xff\xfe\x00", b"[" * 100_000]
    made = saved_plan()
    for content in broken:
        if content == whole:
            continue
        path.write_bytes(content)
        try:
            assert Plan.load(path) == made  # a flip may only have changed a space
            assert json.loads(content) == json.loads(whole)
        except ValueError as error:
            assert str(path) in str(error)
            assert "does not hold a whole plan" in str(error)


def test_files_that_are_no_plans(tmp_path):
    path = tmp_path / "plan.json"
    with pytest.raises(ValueError, match=r"no file .*plan\.json"):
        Plan.load(path)
    PRODUCT.save(path)
    whole = json.loads(path.read_text())
    for change, says in (
        ({"format": "other"}, "its format is 'other', version 1"),
        ({"version": 2}, "version 2"),
        ({"checksum": "0" * 64}, "its checksum does not fit its content"),
        ({"plan": {**whole["plan"], "path": [[1, 0]]}}, "its checksum"),
        ({"plan": None}, "checksum"),
    ):
        path.write_text(json.dumps(whole | change))
        with pytest.raises(ValueError, match=says) as error:
            Plan.load(path)
        assert str(path) in str(error.value)
    strange = Plan(((("i", 1), "j"),), (), {("i", 1): 2, "j": 3}, ((0,),))
    with pytest.raises(ValueError, match=r"index \('i', 1\) is neither a string nor an int"):
        strange.save(tmp_path / "other.json")
    with pytest.raises(ValueError, match=r"folder .* does not exist"):
        PRODUCT.save(tmp_path / "nowhere" / "plan.json")
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def test_a_plan_prints_as_a_table():
    text = str(saved_plan())
    rows = dict(line.split("  ", 1) for line in text.splitlines()[:8])
    values = {name: value.strip() for name, value in rows.items()}
    assert values["tensors"] == "9, on 12 indices"
    assert values["output"] == "r01 3"
    assert values["batch"] == "r01"
    assert values["dtype"] == "complex64"
    assert values["slices"] == "3 (c10 3)"
    assert values["peak memory"].endswith("KiB")
    header, *steps = text.splitlines()[9:]
    assert header.split() == ["costliest", "steps", "batch", "rows", "inner", "columns", "flops", "repeats"]
    assert len(steps) == 5
    flops = [float(line.split()[-2]) for line in steps]
    assert flops == sorted(flops, reverse=True)
    assert max(map(len, text.splitlines())) <= 80
    wide = Plan(
        tuple((f"i{k}",) for k in range(40)),
        tuple(f"i{k}" for k in range(40)),
        {f"i{k}": 1 for k in range(40)},
        (tuple(range(40)),),
    )
    assert max(map(len, str(wide).splitlines())) <= 84
    assert repr(PRODUCT) == f"Plan(2 tensors, 60 flops, 1 slices, peak {PRODUCT.peak_bytes} B)"
    assert bytes_text(1536) == "1.5 KiB"
    assert bytes_text(2.0**52) == "4096 TiB"


def test_prediction(monkeypatch):
    class Device:
        def seconds(self, batch, *rest):
            return np.ones_like(batch)

    monkeypatch.setattr(room, "find_device", lambda name: Device() if name == "mine" else None)
    assert PRODUCT.predict("mine") == 1.0
    assert replace(PRODUCT, slices=("j",)).predict("mine") == 3.0
