import json
import os
import subprocess
import sys

import numpy as np
import opt_einsum as oe
import pytest
import quimb.tensor as qtn

import engine
from engine import Plan


def grid_network(rng, rows=3, columns=3, extent=4, batch=None):
    """A grid of tensors, with a hyperindex `batch` on all of them if named."""
    inputs, arrays = [], []
    sizes = {} if batch is None else {batch: 3}
    for i in range(rows):
        for j in range(columns):
            names = [f"r{i}{j}", f"r{i}{j + 1}", f"c{i}{j}", f"c{i + 1}{j}"]
            names = [
                n
                for n, keep in zip(names, (j > 0, j < columns - 1, i > 0, i < rows - 1), strict=True)
                if keep
            ]
            names += [] if batch is None else [batch]
            sizes |= {name: extent for name in names if name != batch}
            inputs.append(tuple(names))
            arrays.append(rng.normal(size=[sizes[name] for name in names]))
    return inputs, sizes, arrays


def oe_equation(inputs, output, sizes):
    symbols = {index: oe.get_symbol(number) for number, index in enumerate(sizes)}
    left = ",".join("".join(symbols[index] for index in term) for term in inputs)
    return f"{left}->{''.join(symbols[index] for index in output)}"


@pytest.mark.parametrize("seed", range(25))
def test_flops_and_sizes_as_opt_einsum_counts_them(seed):
    rng = np.random.default_rng(seed)
    sizes = {f"i{k}": int(rng.integers(2, 6)) for k in range(8)}
    # every index at most once a tensor: opt_einsum's cost knows no diagonals
    inputs = [tuple(rng.permutation(list(sizes))[: rng.integers(1, 5)].tolist()) for _ in range(6)]
    used = list(dict.fromkeys(i for term in inputs for i in term))
    # and none lonely: opt_einsum sums a lone index within its pair, here it is summed beforehand
    output = tuple(i for i in used if rng.random() < 0.3 or sum(i in term for term in inputs) == 1)
    found = engine.plan((inputs, output, sizes), optimizer="greedy")
    shapes = [tuple(sizes[i] for i in term) for term in inputs]
    _, info = oe.contract_path(
        oe_equation(inputs, output, sizes), *shapes, shapes=True, optimize=list(found.path)
    )
    assert found.flops == info.opt_cost
    assert found.largest == info.largest_intermediate


def test_flops_by_hand():
    # (2x3)(3x5): 2*2*3*5; the outer product of 2 and 3: 6
    assert engine.plan(([("i", "j"), ("j", "k")], ("i", "k"), {"i": 2, "j": 3, "k": 5})).flops == 60
    assert engine.plan(([("i",), ("j",)], ("i", "j"), {"i": 2, "j": 3})).flops == 6
    made = engine.plan(([("i", "j"), ("j", "k")], ("i", "k"), {"i": 2, "j": 3, "k": 5}), dtype="complex64")
    assert made.largest == 10
    assert made.peak_bytes == (6 + 15 + 10) * 8
    assert made.slice_count == 1
    assert str(made) == "2 tensors, 60 flops, 1 slices, largest intermediate 10 elements, peak 0.000237 MiB"


@pytest.mark.parametrize(
    ("batch", "output"), [(None, ()), (None, ("r01", "c10")), ("v", ()), ("v", ("c10", "r01")), ("v", ("v",))]
)
@pytest.mark.parametrize("share", [0.7, 0.4])
@pytest.mark.parametrize("dtype", [np.complex128, np.complex64])
def test_a_memory_limit_slices_and_changes_nothing(batch, output, share, dtype):
    rng = np.random.default_rng(0)
    inputs, sizes, arrays = grid_network(rng, batch=batch)
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
    assert np.abs(got.value() - expected.value()).max() < (1e-12 if dtype == np.complex128 else 1e-5) * peak


def test_slices_of_very_different_scales():
    """Parts that differ by more than the range of doubles are put together at scales of their own."""
    inputs, output, sizes = [("i", "j"), ("j",)], ("i",), {"i": 3, "j": 2}
    array = np.array([[1e-250, 2e-250], [1.0, 2.0], [1e250, 2e250]])
    other = np.array([1e-200, 3e-200])
    for slices in ((), ("i",), ("j",), ("i", "j"), ("j", "i")):
        made = Plan(tuple(inputs), output, sizes, ((0, 1),), slices)
        logs = made.execute([array, other], "numpy").log_abs()
        wanted = np.log(7) + np.log(10) * (np.array([-250, 0, 250]) - 200)
        kept = slice(None) if "i" in slices else slice(2, 3)  # one scale for all flushes the smaller ones
        assert np.allclose(logs[kept], wanted[kept])


def test_a_limit_that_cannot_be_met():
    inputs, sizes, _ = grid_network(np.random.default_rng(0))
    with pytest.raises(
        ValueError, match=r"memory_limit of 100 bytes cannot be met .*; the least .* is \d+ bytes"
    ) as error:
        engine.plan((inputs, (), sizes), memory_limit=100)
    least = int(str(error.value).split()[-2])
    assert engine.plan((inputs, (), sizes), memory_limit=least).peak_bytes <= least


def test_contract_a_quimb_network():
    rng = np.random.default_rng(1)
    a, b, c = rng.normal(size=(2, 3, 4)), rng.normal(size=(4, 5)), rng.normal(size=(4,))
    network = qtn.TensorNetwork([qtn.Tensor(a, "ijk"), qtn.Tensor(b, "kl"), qtn.Tensor(c, "k")])
    full = np.einsum("ijk,kl,k->ijl", a, b, c)
    assert np.isclose(engine.contract(network, backend="numpy").value(), full.sum())
    kept = engine.contract(network, output_inds=["l", "i"], backend="numpy")
    assert np.allclose(kept.value(), full.sum(1).T)
    # a hyperindex on three tensors is summed unless it is named
    assert np.allclose(
        engine.contract(network, output_inds=["k"], backend="numpy").value(),
        np.einsum("ijk,kl,k->k", a, b, c),
    )
    assert engine.plan(network).output == tuple(network.outer_inds())
    limited = engine.contract(network, output_inds=["l", "i"], backend="numpy", memory_limit=400)
    assert np.allclose(limited.value(), full.sum(1).T)


def test_a_plan_is_used_again():
    rng = np.random.default_rng(2)
    made = engine.plan(([("i", "j"), ("j", "k")], ("i", "k"), {"i": 2, "j": 3, "k": 5}))
    for _ in range(3):
        a, b = rng.normal(size=(2, 3)), rng.normal(size=(3, 5))
        assert np.allclose(made.execute([a, b], "numpy").value(), a @ b)


@pytest.mark.parametrize("names", ["strings", "integers"])
def test_round_trip(tmp_path, names):
    inputs, sizes, arrays = grid_network(np.random.default_rng(3))
    output = ("r01",)
    if names == "integers":
        number = {index: k for k, index in enumerate(sizes)}
        inputs = [tuple(number[i] for i in term) for term in inputs]
        sizes, output = {number[i]: size for i, size in sizes.items()}, (number["r01"],)
    whole = engine.plan((inputs, output, sizes))
    made = engine.plan((inputs, output, sizes), memory_limit=whole.peak_bytes // 2, dtype="complex64")
    made = Plan(made.inputs, made.output, made.sizes, made.path, (next(iter(sizes)),), 8)
    path = tmp_path / "plan.json"
    made.save(path)
    loaded = Plan.load(path)
    assert loaded == made
    assert (loaded.flops, loaded.largest, loaded.peak_bytes) == (made.flops, made.largest, made.peak_bytes)
    assert (loaded.execute(arrays, "numpy").value() == made.execute(arrays, "numpy").value()).all()
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def test_bad_files(tmp_path):
    path = tmp_path / "plan.json"
    with pytest.raises(ValueError, match="no file"):
        Plan.load(path)
    made = engine.plan(([("i", "j"), ("j", "k")], ("i", "k"), {"i": 2, "j": 3, "k": 5}))
    made.save(path)
    text = path.read_text()
    whole = json.loads(text)
    broken = [text[:-5], "", "[]", "3", '{"format": "other"}', "\x00\x01"]
    changes = {
        "format": "other",
        "inputs": [["i", "q"], ["j", "k"]],
        "output": ["z"],
        "sizes": [["i", 2], ["j", 3]],
        "path": [[0, 2]],
        "slices": ["z"],
        "itemsize": "wide",
    }
    broken += [json.dumps(whole | {key: value}) for key, value in changes.items()]
    broken += [
        json.dumps(whole | {"slices": ["j", "j"]}),
        json.dumps(whole | {"sizes": [["i", 0], ["j", 3], ["k", 5]]}),
    ]
    broken += [json.dumps({k: v for k, v in whole.items() if k != key}) for key in whole]
    for content in broken:
        path.write_text(content)
        with pytest.raises(ValueError, match=r"does not hold a whole plan .*; save it again"):
            Plan.load(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="does not hold a whole plan"):
        Plan.load(path)
    strange = engine.plan(([(("i", 1), "j")], (), {("i", 1): 2, "j": 3}))
    with pytest.raises(ValueError, match=r"index \('i', 1\) is neither a string nor an int"):
        strange.save(tmp_path / "other.json")
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


@pytest.mark.parametrize(
    ("network", "options", "says"),
    [
        (([], (), {}), {}, "no tensors"),
        (([("i", "j")], ("z",), {"i": 2, "j": 2}), {}, "output index 'z' is on no tensor"),
        (([("i", "j")], ("i", "i"), {"i": 2, "j": 2}), {}, "names an index twice"),
        (([("i", "j")], (), {"i": 2}), {}, "index 'j' is on a tensor but has no size"),
        (([("i", "j")], (), {"i": 2, "j": 0}), {}, "index 'j' has size 0"),
        (([("i", "j")], (), {"i": 2, "j": 2}), {"optimizer": "magic"}, "unknown optimizer 'magic'"),
        (
            qtn.TensorNetwork([qtn.Tensor(np.ones(2), "i"), qtn.Tensor(np.ones((3, 2)), "ij")]),
            {},
            "index 'i' has size 2 on one tensor and 3 on another",
        ),
    ],
)
def test_refusals(network, options, says):
    with pytest.raises(ValueError, match=says):
        engine.plan(network, **options)


def test_arrays_that_do_not_fit():
    made = engine.plan(([("i", "j"), ("j", "k")], ("i", "k"), {"i": 2, "j": 3, "k": 5}))
    with pytest.raises(ValueError, match="got 1 arrays for a plan of 2 tensors"):
        made.execute([np.ones((2, 3))])
    with pytest.raises(ValueError, match=r"array 1 has shape \(3, 4\); the plan wants \(3, 5\)"):
        made.execute([np.ones((2, 3)), np.ones((3, 4))])
    with pytest.raises(ValueError, match="unknown backend 'gpu'"):
        made.execute([np.ones((2, 3)), np.ones((3, 5))], "gpu")


def test_plans_do_not_depend_on_the_order_of_hashes():
    """Python seeds the hashes of strings anew in every process; plans must not notice."""
    code = (
        "import engine, numpy as np\n"
        "inputs = [(f'a{i}', f'a{(i + 1) % 16}', f'b{i}', f'b{(i + 5) % 16}') for i in range(16)]\n"
        "sizes = {index: 2 + n % 3 for n, index in enumerate(dict.fromkeys(sum(inputs, ())))}\n"
        "limit = engine.plan((inputs, (), sizes)).peak_bytes // 3\n"
        "for optimizer in ('auto', 'random-greedy'):\n"
        "    made = engine.plan((inputs, (), sizes), optimizer=optimizer, memory_limit=limit)\n"
        "    print(made.path, made.slices)\n"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
    assert "(" in outputs.pop()


def test_a_generator_seeds_searches_and_slicing():
    inputs = [("a", "b"), ("b", "c"), ("c", "d"), ("d", "e")]
    sizes = dict.fromkeys("abcde", 8)
    made = [
        engine.plan(
            (inputs, ("a", "e"), sizes),
            optimizer="random-greedy",
            memory_limit=6000,
            seed=np.random.default_rng(3),
        )
        for _ in range(2)
    ]
    assert made[0] == made[1]
    with pytest.raises(ValueError, match="seed is 'a'"):
        engine.plan((inputs, ("a", "e"), sizes), seed="a")


def test_bytes_are_those_of_the_networks_own_dtype():
    tensors = [qtn.Tensor(np.ones((4, 4), dtype=np.float32), inds=inds) for inds in ("ab", "bc")]
    network = qtn.TensorNetwork(tensors)
    single, double = engine.plan(network), engine.plan(network, dtype="float64")
    assert single.itemsize == 4
    assert double.peak_bytes == 2 * single.peak_bytes


def test_nested_lists_are_operands():
    made = engine.plan(([("a", "b")], ("a",), {"a": 2, "b": 2}))
    assert np.allclose(made.execute([[[1, 2], [3, 4]]], "numpy").value(), [3, 7])


@pytest.mark.parametrize(
    ("network", "options", "message"),
    [
        (None, {}, "NoneType"),
        (([("a",)], ("a",)), {}, "tuple of 2"),
        (([("a",)], ("a",), {"a": 2}), {"memory_limit": "1GB"}, "'1GB'"),
    ],
)
def test_what_is_no_network_is_refused(network, options, message):
    with pytest.raises(ValueError, match=message):
        engine.plan(network, **options)
