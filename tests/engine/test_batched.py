import contextlib
import itertools
import os
import re
import signal
import subprocess
import sys
import textwrap
import types
from typing import ClassVar

import numpy as np
import pytest

from qrt_tn import engine
from qrt_tn.engine import batched
from qrt_tn.engine.exponents import real_bytes
from qrt_tn.engine.files import load_tensors, save_tensors


def chain(rng, sites=6, extent=3, bond=4, count=37, dtype=np.complex128):
    """An MPS with constant cores and one selector per site and element: (plan, arrays)."""
    inputs, arrays, sizes = [], [], {}
    for site in range(sites):
        term, shape = [f"x{site}"], [extent]
        if site:
            term, shape = [f"k{site}", *term], [bond, *shape]
        if site < sites - 1:
            term, shape = [*term, f"k{site + 1}"], [*shape, bond]
        inputs.append(tuple(term))
        arrays.append(numbers(rng, shape, dtype))
        sizes |= dict(zip(term, shape, strict=True))
    for site in range(sites):
        inputs.append((f"x{site}",))
        arrays.append(numbers(rng, (count, extent), dtype))
    return engine.plan((inputs, (), sizes), dtype=dtype), arrays


def numbers(rng, shape, dtype):
    made = rng.normal(size=shape)
    if np.dtype(dtype).kind == "c":
        made = made + 1j * rng.normal(size=shape)
    return made.astype(dtype)


def one_by_one(plan, arrays):
    """The oracle: every element alone, by one einsum in double precision."""
    names = {index: place for place, index in enumerate(plan.sizes)}
    count = next(len(a) for a, term in zip(arrays, plan.inputs, strict=True) if np.ndim(a) > len(term))
    results = []
    for element in range(count):
        pairs = []
        for array, term in zip(arrays, plan.inputs, strict=True):
            chosen = array[element] if np.ndim(array) > len(term) else array
            pairs += [np.asarray(chosen, dtype=np.complex128), [names[index] for index in term]]
        results.append(np.einsum(*pairs, [names[index] for index in plan.output]))
    return np.array(results)


def triangle(rng, output=("k", "i"), **varying):
    """Three matrices around a ring: (plan, arrays); those named vary."""
    sizes = {"i": 2, "j": 3, "k": 4}
    terms = {"a": ("i", "j"), "b": ("j", "k"), "c": ("k", "i")}
    plan = engine.plan((list(terms.values()), output, sizes))
    shapes = [[*([9] if name in varying else []), *(sizes[i] for i in term)] for name, term in terms.items()]
    return plan, [rng.normal(size=shape) for shape in shapes]


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
def test_every_element_is_right_whatever_the_batch(dtype, tmp_path):
    plan, arrays = chain(np.random.default_rng(0), dtype=dtype)
    wanted = one_by_one(plan, arrays)
    rounding = 2e-5 if real_bytes(dtype) == 4 else 1e-12
    for place in range(6, 12):  # read in batches
        np.save(tmp_path / f"{place}.npy", arrays[place])
        arrays[place] = np.load(tmp_path / f"{place}.npy", mmap_mode="r")
    for batch in (None, 1, 5, 36, 37, 1000):
        told = []
        result = plan.execute_many(
            arrays, "numpy", batch=batch, progress=lambda *done, t=told: t.append(done)
        )
        assert (result.dtype, result.shape, result.log_scale.shape) == (dtype, (37,), (37,))
        np.testing.assert_allclose(result.value(), wanted, rtol=rounding, atol=rounding * abs(wanted).max())
        assert told[-1] == (37, 37)
        assert len(told) == (1 if batch is None else -(-37 // batch))


@pytest.mark.parametrize("names", [n for r in (1, 2, 3) for n in itertools.combinations("abc", r)])
def test_outputs_and_slices_come_behind_the_elements(names):
    for output in ((), ("k", "i")):
        plan, arrays = triangle(np.random.default_rng(1), output, **dict.fromkeys(names))
        sliced = type(plan)(plan.inputs, plan.output, plan.sizes, plan.path, ("j",), plan.dtype)
        for made in (plan, sliced):
            result = made.execute_many([array.tolist() for array in arrays], "numpy", batch=4)
            np.testing.assert_allclose(result.value(), one_by_one(plan, arrays), rtol=1e-11)


def test_elements_far_apart_keep_their_digits():
    rng = np.random.default_rng(3)
    plan, arrays = chain(rng, sites=40, count=11, dtype="complex64")
    wanted = plan.execute_many([array.astype(complex) for array in arrays], "numpy").log_abs()
    shifts = rng.uniform(-30, 30, size=(40, 11, 1))
    moved = [(a * 10.0**s).astype("complex64") for a, s in zip(arrays[40:], shifts, strict=True)]
    result = plan.execute_many([*arrays[:40], *moved], "numpy", batch=4)
    wanted = wanted + np.log(10) * shifts.sum(axis=0)[:, 0]
    np.testing.assert_allclose(result.log_abs(), wanted, rtol=0, atol=1e-3)
    assert np.ptp(result.log_abs()) > 200  # beyond one scale for all
    # one varying tensor has a scale for each element too
    plan = engine.plan(([("i", "j"), ("j",)], ("i",), {"i": 3, "j": 4}), dtype="complex64")
    vectors, matrix = numbers(rng, (6, 4), "complex64"), numbers(rng, (3, 4), "complex64")
    factors = 10.0 ** np.array([-36, -20, 0, 10, 25, 36])
    result = plan.execute_many([matrix, (vectors * factors[:, None]).astype("complex64")], "numpy")
    wanted = vectors.astype(complex) @ matrix.astype(complex).T
    np.testing.assert_allclose(result.value() / factors[:, None], wanted, rtol=2e-5, atol=1e-5)


def test_constant_parts_are_contracted_once(monkeypatch):
    rng = np.random.default_rng(5)
    network = ([("i", "j"), ("j", "k"), ("k",)], ("i",), {"i": 5, "j": 6, "k": 7})
    plan = engine.plan(network, optimizer=[(0, 1), (0, 1)])
    arrays = [rng.normal(size=(5, 6)), rng.normal(size=(6, 7)), rng.normal(size=(40, 7))]
    made = []
    built = batched.Expression
    monkeypatch.setattr(batched, "Expression", lambda *a, **k: made.append((a, k)) or built(*a, **k))
    result = plan.execute_many(arrays, "numpy", batch=10)
    ((_, options),) = made
    assert sorted(options["constants"]) == [0, 1]
    np.testing.assert_allclose(result.value(), one_by_one(plan, arrays), rtol=1e-12)


def test_the_batch_follows_the_memory_limit(monkeypatch):
    plan, arrays = chain(np.random.default_rng(7), bond=16, count=500)
    made = []
    built = batched.Expression
    monkeypatch.setattr(
        batched, "Expression", lambda plan, *a, **k: made.append(plan) or built(plan, *a, **k)
    )
    wanted = plan.execute_many(arrays, "numpy").value()
    whole = made[-1].peak_bytes
    for part in (2, 5, 9):
        result = plan.execute_many(arrays, "numpy", memory_limit=whole // part)
        assert whole // part // 4 < made[-1].peak_bytes <= whole // part
        np.testing.assert_allclose(result.value(), wanted, rtol=1e-10)
    assert made[-1].sizes[batched.ELEMENT] < 100
    monkeypatch.setattr(batched, "device_memory", lambda backend: (2**40, 2**39))
    assert batched.batch_bytes("cupy") == batched.DEVICE_BYTES <= 2**31
    monkeypatch.setattr(batched, "device_memory", lambda backend: (2**31, 2**28))
    assert batched.batch_bytes("cupy") == 2**27


def test_a_limit_below_one_element_slices_it_or_says_what_it_takes():
    rng = np.random.default_rng(8)
    sizes = dict.fromkeys("abcdef", 8)
    inputs = [("a", "b", "c"), ("c", "d", "e"), ("e", "f", "a"), ("b", "d", "f")]
    plan = engine.plan((inputs, (), sizes), dtype="float64")
    arrays = [rng.normal(size=(8, 8, 8)) for _ in inputs]
    arrays[0] = rng.normal(size=(3, 8, 8, 8))
    # one element takes this much; most of it the operands
    tight = int(1.7 * 8 * (4 + batched.BESIDE) * 8**3)
    result = plan.execute_many(arrays, "numpy", memory_limit=tight)
    np.testing.assert_allclose(result.value(), one_by_one(plan, arrays).real, rtol=1e-10)
    with pytest.raises(ValueError, match=r"memory_limit of 1000 bytes .*operands"):
        plan.execute_many(arrays, "numpy", memory_limit=1000)


# --- checkpoints


def same_bits(one, other):
    np.testing.assert_array_equal(one.mantissa, other.mantissa)
    np.testing.assert_array_equal(one.log_scale, other.log_scale)


def test_a_run_goes_on_where_it_was_with_the_same_bits(tmp_path):
    plan, arrays = chain(np.random.default_rng(11))
    folder = tmp_path / "run"

    class EnoughError(Exception):
        pass

    def stop(done, total):
        if done >= 20:
            raise EnoughError

    with pytest.raises(EnoughError):
        plan.execute_many(arrays, "numpy", batch=5, checkpoint=folder, progress=stop)
    kept = sorted(folder.glob("batch-*"))
    assert 0 < len(kept) < 8
    times = [path.stat().st_mtime_ns for path in kept]
    # the batches stay as they began, whatever would be chosen now
    result = plan.execute_many(arrays, "numpy", checkpoint=folder)
    assert [path.stat().st_mtime_ns for path in kept] == times  # none was done again
    straight = plan.execute_many(arrays, "numpy", batch=5)
    same_bits(result, straight)
    # damaged parts are done again: cut short, or with another number inside
    first, second, *_ = sorted(folder.glob("batch-*"))
    first.write_bytes(first.read_bytes()[:40])
    changed = bytearray(second.read_bytes())
    changed[-20] ^= 1
    second.write_bytes(changed)
    same_bits(plan.execute_many(arrays, "numpy", batch=5, checkpoint=folder), straight)
    # and a part that was put together by hand is used, so the last result was not computed from scratch
    tensors, metadata = load_tensors(first, batched.KIND)
    save_tensors(first, {**tensors, "mantissa": tensors["mantissa"] * 2}, metadata)
    doubled = plan.execute_many(arrays, "numpy", checkpoint=folder)
    assert (doubled.mantissa[:5] == 2 * straight.mantissa[:5]).all()


def test_folders_that_are_refused(tmp_path):
    plan, arrays = chain(np.random.default_rng(13))
    folder = tmp_path / "run"
    wanted = plan.execute_many(arrays, "numpy", batch=5, checkpoint=folder)
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("")
    single = [array.astype("complex64") for array in arrays]
    for told, given, name, options in (
        ("of other operands", [*arrays[:-1], arrays[-1] * 2], "run", {}),
        ("another run's results", [arrays[0] * 2, *arrays[1:]], "run", {}),
        ("another run's results", single, "run", {}),
        ("goes on with batches of 5 elements", arrays, "run", {"memory_limit": 8000}),
        ("is a file", arrays, "file", {}),
        ("holds other files", arrays, "full", {}),
    ):
        with pytest.raises(ValueError, match=f"{re.escape(str(tmp_path / name))}.* {told}"):
            plan.execute_many(given, "numpy", checkpoint=tmp_path / name, **options)
    manifest = folder / batched.MANIFEST
    text = manifest.read_text()
    for damaged in (text[:50], text.replace('"batch": 5', '"batch": "5"'), text.replace("path", "paths")):
        assert damaged != text
        manifest.write_text(damaged)
        with pytest.raises(ValueError, match="is not whole"):
            plan.execute_many(arrays, "numpy", checkpoint=folder)
    manifest.write_text(text)
    same_bits(plan.execute_many(arrays, "numpy", checkpoint=folder), wanted)


PROGRAM = """
    import os, signal, sys
    import numpy as np, quimb.tensor as qtn
    from qrt_tn import engine
    import qrt_tn.engine.batched as batched
    rng = np.random.default_rng(0)
    cores = [rng.normal(size=shape) for shape in ((3, 4), (4, 3, 4), (4, 3))]
    network = qtn.MatrixProductState(cores, shape="lpr") & qtn.TensorNetwork(
        [qtn.Tensor(rng.normal(size=3), (f"k{site}",)) for site in range(3)]
    )
    batched.HOST_BYTES = int(sys.argv[2])
    plan = engine.plan(network, output_inds=())
    arrays = [*(tensor.data for tensor in network)]
    arrays[3:] = [rng.normal(size=(600, 3)) for _ in range(3)]
    def tell(done, total):
        if sys.argv[3:] and done >= 300:
            os.kill(os.getpid(), signal.SIGKILL)
    result = plan.execute_many(arrays, "numpy", checkpoint=sys.argv[1], progress=tell)
    print(result.value().tobytes().hex())
"""


def test_a_killed_run_of_a_quimb_network_goes_on_in_another_process(tmp_path):
    """quimb names indices at random; and the memory that batches are sized to may differ."""
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM))

    def run(folder, *arguments, check=True):
        command = [sys.executable, str(program), str(tmp_path / folder), *arguments]
        environment = os.environ | {"QRT_TN_CACHE": "off"}
        return subprocess.run(
            command, capture_output=True, text=True, timeout=120, check=check, env=environment
        )

    assert run("run", "30000", "kill", check=False).returncode == -signal.SIGKILL
    kept = len(list((tmp_path / "run").glob("batch-*")))
    again, fresh = run("run", "60000"), run("fresh", "30000")
    assert again.stdout == fresh.stdout != ""
    assert 1 < kept < len(list((tmp_path / "run").glob("batch-*")))
    assert not list((tmp_path / "run").glob(".*"))


# --- wrong input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays: arrays[:-1], "got 11 arrays for a plan of 12 tensors"),
        (lambda arrays: [*arrays[:-1], arrays[-1][:5]], "array 6 holds 37 elements and array 11 holds 5"),
        (lambda arrays: [*arrays[:-1], arrays[-1][:, :2]], r"array 11 has shape \(37, 2\)"),
        (lambda arrays: [*arrays[:6], *(array[0] for array in arrays[6:])], "use execute for one element"),
        (lambda arrays: [*arrays[:6], *(array[:0] for array in arrays[6:])], "holds no elements"),
        (lambda arrays: [*arrays[:-1], arrays[-1].astype("complex64")], "mixed dtypes: tensor 11"),
        (lambda arrays: [*arrays[:-1], arrays[-1] * np.nan], "array 11 holds NaN or infinity"),
    ],
)
def test_wrong_operands_are_named(change, message):
    plan, arrays = chain(np.random.default_rng(14))
    with pytest.raises(ValueError, match=message):
        plan.execute_many(change(arrays), "numpy")


def test_wrong_options_are_named():
    plan, arrays = chain(np.random.default_rng(15))
    for name in ("batch", "memory_limit"):
        for value in (0, -1, True, 2.5, "5"):
            with pytest.raises(ValueError, match=f"{name} is {value!r}"):
                plan.execute_many(arrays, "numpy", **{name: value})


# --- on a device, by the stand-in


class StandInStream:
    """Enough of a CUDA stream to see that uploads are waited for."""

    log: ClassVar[list] = []

    def __init__(self, non_blocking=False):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def record(self):
        self.log.append("sent")
        return object()

    def wait_event(self, event):
        self.log.append("waited")


def test_operands_go_to_the_device_ahead(device, monkeypatch):
    monkeypatch.setattr(StandInStream, "log", [])
    rank_device = types.SimpleNamespace(mem_info=(2**30, 2**30), use=lambda: StandInStream.log.append("use"))
    device.cuda = types.SimpleNamespace(
        Stream=StandInStream,
        Device=lambda *number: rank_device,
        get_current_stream=StandInStream,
    )
    plan, arrays = chain(np.random.default_rng(16), count=20)
    result = plan.execute_many(arrays, "cupy", batch=5)
    assert isinstance(result.mantissa, np.ndarray)
    np.testing.assert_allclose(result.value(), one_by_one(plan, arrays), rtol=1e-11)
    log = StandInStream.log
    assert log[0] == "use"  # a new thread is on the first device, this rank may be on another
    assert log.count("sent") == log.count("waited") == 4
    with contextlib.suppress(ValueError):
        assert log.index("waited") > 1
