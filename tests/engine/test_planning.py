import importlib
import os
import subprocess
import sys

import numpy as np
import opt_einsum as oe
import pytest
import quimb.tensor as qtn

from qrt_tn import engine
from qrt_tn.engine import cache

room = importlib.import_module("qrt_tn.engine.planning")


def ring(sites=24, extent=4, prefix=""):
    """A ring with random chords, on enough tensors that its plan is kept."""
    other = np.random.default_rng(0).permutation(sites).reshape(-1, 2)
    chord = {int(site): number for number, pair in enumerate(other) for site in pair}
    inputs = [(f"{prefix}a{i}", f"{prefix}a{(i + 1) % sites}", f"{prefix}b{chord[i]}") for i in range(sites)]
    sizes = {index: extent for term in inputs for index in term}
    return inputs, (f"{prefix}a0",), sizes


@pytest.fixture
def folder(monkeypatch, tmp_path):
    monkeypatch.setenv("QRT_TN_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture
def searches(monkeypatch):
    """How often a path was searched."""
    made = []
    find = room.find_path
    monkeypatch.setattr(room, "find_path", lambda *given: made.append(given) or find(*given))
    return made


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("optimizer", ["auto", "greedy", "cotengra-greedy", "random-greedy", "optimal", "dp"])
def test_random_networks_against_einsum(seed, optimizer, networks):
    rng = np.random.default_rng(seed)
    inputs, output, sizes = networks.draw(rng, tensors=5)
    arrays = networks.arrays(rng, inputs, sizes)
    made = engine.plan((inputs, output, sizes), optimizer=optimizer)
    expected = networks.einsum(arrays, inputs, output, sizes)
    assert np.allclose(made.execute(arrays, "numpy").value(), expected, atol=1e-10)


def test_a_quimb_network_is_contracted_as_quimb_does():
    rng = np.random.default_rng(0)
    network = qtn.TN_rand_reg(14, 3, 5, dtype="complex128", seed=1)
    inner = network.inner_inds()
    assert np.isclose(complex(engine.contract(network, backend="numpy").value()), network.contract())
    kept = [inner[3], inner[0]]
    expected = network.contract(output_inds=kept).transpose(*kept).data
    found = engine.contract(network, output_inds=kept, backend="numpy", memory_limit=2**20)
    assert np.allclose(found.value(), expected)
    mps = qtn.MPS_rand_state(12, 4, dtype="complex64", seed=2)
    assert np.isclose(complex(engine.contract(mps.H & mps, backend="numpy").value()), 1, atol=1e-5)
    a, b, c = rng.normal(size=(2, 3, 4)), rng.normal(size=(4, 5)), rng.normal(size=4)
    network = qtn.TensorNetwork([qtn.Tensor(a, "ijk"), qtn.Tensor(b, "kl"), qtn.Tensor(c, "k")])
    # a hyperindex on three tensors is summed unless it is named
    assert engine.plan(network).output == tuple(network.outer_inds())
    found = engine.contract(network, output_inds=["k"], backend="numpy")
    assert np.allclose(found.value(), np.einsum("ijk,kl,k->k", a, b, c))
    assert found.log_scale.shape == (4,)


def test_what_the_optimizer_may_be():
    inputs, output, sizes = ring(18)
    path = engine.plan((inputs, output, sizes)).path
    assert engine.plan((inputs, output, sizes), optimizer=path).path == path
    assert engine.plan((inputs, output, sizes), optimizer=oe.RandomGreedy(max_repeats=4)).flops > 0
    with pytest.raises(ValueError, match="unknown optimizer 'magic'; choose one of auto"):
        engine.plan((inputs, output, sizes), optimizer="magic")
    with pytest.raises(ValueError, match=r"step 1 of the path is \(0, 17\), but 17 tensors are left"):
        engine.plan((inputs, output, sizes), optimizer=[(0, 1), (0, 17)])
    # a path of one's own is kept, whatever the limit
    limit = engine.plan((inputs, output, sizes)).peak_bytes * 9 // 10
    limited = engine.plan((inputs, output, sizes), optimizer=path, memory_limit=limit)
    assert limited.path == path
    assert limited.peak_bytes <= limit


def test_the_second_plan_is_read_from_disk(folder, searches):
    network = ring()
    limit = engine.plan(network).peak_bytes * 2 // 3
    first = [engine.plan(network), engine.plan(network, memory_limit=limit)]
    count = len(searches)
    assert count == 2
    assert len(list((folder / "plan").iterdir())) == 2
    again = [engine.plan(network), engine.plan(network, memory_limit=limit)]
    assert again == first
    assert first[1].slices
    # networks that differ in the names of their indices share an entry
    inputs, output, sizes = ring(prefix="other")
    renamed = engine.plan((inputs, output, sizes), memory_limit=limit)
    assert renamed.path == first[1].path
    assert renamed.slices == tuple(f"other{index}" for index in first[1].slices)
    assert len(searches) == count
    # what the plan depends on is part of the key
    for change in ({"seed": 1}, {"optimizer": "greedy"}, {"dtype": "float32"}, {"memory_limit": 2 * limit}):
        engine.plan(network, **change)
    assert len(searches) == count + 4
    engine.plan(network, use_cache=False)
    assert len(searches) == count + 5


def test_small_networks_and_own_optimizers_are_not_kept(folder):
    engine.plan(ring(8))
    engine.plan(ring(), optimizer=oe.RandomGreedy(max_repeats=2))
    engine.plan(ring(), use_cache=False)
    assert list(folder.iterdir()) == []


def test_a_damaged_entry_is_passed_over(folder, monkeypatch):
    network = ring()
    limit = engine.plan(network, use_cache=False).peak_bytes * 2 // 3
    first = engine.plan(network, memory_limit=limit)
    (entry,) = (folder / "plan").iterdir()
    whole, searched = entry.read_bytes(), []
    monkeypatch.setattr(room, "_searched", lambda *given: searched.append(given) or first)
    assert engine.plan(network, memory_limit=limit) == first
    assert not searched
    bodies = [
        {"path": [[0, 1]], "slices": []},
        {"path": first.path, "slices": [1000]},
        {"path": first.path, "slices": []},  # over the limit
        {"slices": []},
        {"path": 3, "slices": []},
    ]
    for number, damage in enumerate([b"\x00{garbage", b"", whole[:-40], *bodies], 1):
        if isinstance(damage, dict):
            cache.write("plan", entry.stem, damage)
        else:
            entry.write_bytes(damage)
        assert engine.plan(network, memory_limit=limit) == first
        assert len(searched) == number
        assert entry.read_bytes() == whole  # it is replaced


def test_plans_do_not_depend_on_the_order_of_hashes():
    """Python seeds the hashes of strings anew in every process; plans must not notice."""
    code = (
        "import numpy as np\n"
        "from qrt_tn import engine\n"
        "inputs = [(f'a{i}', f'a{(i + 1) % 12}', f'b{i}', f'b{(i + 5) % 12}') for i in range(12)]\n"
        "sizes = {index: 3 + n % 3 for n, index in enumerate(dict.fromkeys(sum(inputs, ())))}\n"
        "limit = engine.plan((inputs, (), sizes)).peak_bytes * 4 // 5\n"
        "for settings in ({}, {'optimizer': 'random-greedy', 'memory_limit': limit}):\n"
        "    made = engine.plan((inputs, (), sizes), **settings)\n"
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
    assert "('" in outputs.pop()


def test_the_same_seed_gives_the_same_plan():
    network = ring(18, extent=4)
    limit = engine.plan(network).peak_bytes * 2 // 3

    def made(seed):
        return engine.plan(network, optimizer="random-greedy", memory_limit=limit, seed=seed)

    assert made(3) == made(np.int64(3))
    drawn = [engine.plan(network, seed=np.random.default_rng(3)) for _ in range(2)]
    assert drawn[0] == drawn[1]
    for wrong in ("a", -1, 1.5, True, None):
        with pytest.raises(ValueError, match=f"seed is {wrong!r}"):
            made(wrong)


def test_bytes_are_those_of_the_networks_own_dtype():
    tensors = [qtn.Tensor(np.ones((4, 4), dtype=np.float32), inds=inds) for inds in ("ab", "bc")]
    network = qtn.TensorNetwork(tensors)
    single, double = engine.plan(network), engine.plan(network, dtype="float64")
    assert (single.dtype, double.dtype) == ("float32", "float64")
    assert double.peak_bytes == 2 * single.peak_bytes
    assert engine.plan(ring(4)).dtype == "complex128"


def test_batch_indices_by_name():
    network = ([("n", "i"), ("i", "j")], ("n", "j"), {"n": 3, "i": 2, "j": 4})
    assert engine.plan(network).batch == ()
    assert engine.plan(network, batch_inds=["n"]).batch == ("n",)
    with pytest.raises(ValueError, match="batch index 'i' is not in the output"):
        engine.plan(network, batch_inds=["i"])


@pytest.mark.parametrize(
    ("network", "options", "says"),
    [
        (
            qtn.TensorNetwork([qtn.Tensor(np.ones(2, np.float32), "i"), qtn.Tensor(np.ones(2), "i")]),
            {},
            "mixed dtypes: tensor 0 is float32 and tensor 1 is float64",
        ),
        (None, {}, "got a NoneType"),
        (
            ([("a",)], ("a",), {"a": 2}),
            {"memory_limit": "1GB"},
            "memory_limit is '1GB'; give a number of bytes",
        ),
        (([("a",)], ("a",), {"a": 2}), {"memory_limit": float("nan")}, "memory_limit is nan"),
        (([("a",)], ("a",), {"a": 2}), {"memory_limit": float("inf")}, "memory_limit is inf"),
        (([("a",)], ("a",), {"a": 2}), {"memory_limit": -5}, "memory_limit is -5"),
        (([("a",)], ("a",), {"a": 2}), {"memory_limit": True}, "memory_limit is True"),
        (([("a",)], ("a",), {"a": 2}), {"output_inds": "ab"}, "output_inds is 'ab'"),
        (([("a",)], ("a",), {"a": 2}), {"dtype": "float16"}, "dtype is float16; choose one of"),
        (([("a",)], ("a",), {"a": 2}), {"dtype": "wide"}, "dtype is 'wide'; choose one of"),
    ],
)
def test_what_is_wrong_is_named(network, options, says):
    with pytest.raises(ValueError, match=says):
        engine.plan(network, **options)


def test_a_tuple_holds_nothing_to_contract():
    with pytest.raises(ValueError, match=r"a tuple holds no arrays; give a quimb TensorNetwork, or plan\(\)"):
        engine.contract(([("a",)], ("a",), {"a": 2}))


def test_a_long_chain_is_planned_and_run():
    sites = 2000
    inputs = [(f"k{i}", f"k{i + 1}", f"x{i}") for i in range(sites)] + [(f"x{i}", "v") for i in range(sites)]
    sizes = {index: 2 for term in inputs for index in term}
    rng = np.random.default_rng(0)
    matrices, vectors = rng.normal(size=(sites, 2, 2, 2)), rng.normal(size=(sites, 2, 2))
    made = engine.plan((inputs, ("v",), sizes), dtype="float64")
    assert made.largest <= 64
    assert made.batch == ("v",)
    result = made.execute([*matrices, *vectors], "numpy")
    expected = []
    for v in range(2):
        row, log = np.ones(2), 0.0
        for matrix, vector in zip(matrices, vectors, strict=True):
            row = row @ (matrix @ vector[:, v])
            log += np.log(np.abs(row).max())
            row = row / np.abs(row).max()
        expected.append(log + np.log(abs(row.sum())))
    assert np.allclose(result.log_abs(), expected, atol=1e-6)


def test_the_exponent_of_a_network_counts():
    network = qtn.TN_rand_reg(8, 3, 2, seed=1)
    expected = network.contract(output_inds=())
    network.equalize_norms_(1.0)
    assert network.exponent != 0
    assert np.isclose(engine.contract(network).value(), expected)
    network.exponent = np.nan
    with pytest.raises(ValueError, match="exponent is nan"):
        engine.contract(network)


def test_tensors_that_quimb_does_not_simplify():
    matrix = np.arange(4.0).reshape(2, 2)
    for data, wrong in (
        (matrix.astype(">f8"), None),
        (matrix.astype(np.float16), "dtype float16"),
        (matrix.astype(object), "dtype object"),
        (np.ma.masked_less(matrix, 1), "tensor 0 is a masked array"),
    ):
        network = qtn.TensorNetwork([qtn.Tensor(data, ("a", "b")), qtn.Tensor(matrix, ("b", "c"))])
        if wrong is None:
            assert np.array_equal(engine.contract(network, output_inds=("a", "c")).value(), matrix @ matrix)
        else:
            with pytest.raises((TypeError, ValueError), match=wrong):
                engine.contract(network)
