import contextlib
import signal
import subprocess
import sys
import textwrap
import types
from typing import ClassVar

import numpy as np
import pytest

from qrt_tn import engine
from qrt_tn.engine import batches, execute
from qrt_tn.engine.exponents import real_bytes


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


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
def test_every_element_is_right_whatever_the_batch(dtype):
    plan, arrays = chain(np.random.default_rng(0), dtype=dtype)
    wanted = one_by_one(plan, arrays)
    rounding = 2e-5 if real_bytes(dtype) == 4 else 1e-12
    for batch in (None, 1, 5, 36, 37, 1000):
        result = plan.execute_many(arrays, "numpy", batch=batch)
        assert result.dtype == dtype
        assert result.shape == (37,)
        np.testing.assert_allclose(result.value(), wanted, rtol=rounding, atol=rounding * abs(wanted).max())


def test_an_output_comes_behind_the_elements():
    rng = np.random.default_rng(1)
    plan = engine.plan(([("i", "j"), ("j", "k"), ("k",)], ("k", "i"), {"i": 2, "j": 3, "k": 4}))
    arrays = [rng.normal(size=(9, 2, 3)), rng.normal(size=(3, 4)), rng.normal(size=(9, 4))]
    result = plan.execute_many(arrays, "numpy", batch=4)
    assert result.shape == (9, 4, 2)
    np.testing.assert_allclose(result.value(), one_by_one(plan, arrays), rtol=1e-12)


def test_one_varying_tensor_has_a_scale_for_each_element_too():
    rng = np.random.default_rng(2)
    plan = engine.plan(([("i", "j"), ("j",)], ("i",), {"i": 3, "j": 4}), dtype="complex64")
    vectors = numbers(rng, (6, 4), "complex64")
    # far more than single precision spans
    factors = 10.0 ** np.array([-36, -20, 0, 10, 25, 36])
    matrix = numbers(rng, (3, 4), "complex64")
    result = plan.execute_many([matrix, (vectors * factors[:, None]).astype("complex64")], "numpy")
    wanted = vectors.astype(complex) @ matrix.astype(complex).T
    np.testing.assert_allclose(result.value() / factors[:, None], wanted, rtol=2e-5, atol=1e-5)


def test_elements_far_apart_keep_their_digits():
    rng = np.random.default_rng(3)
    plan, arrays = chain(rng, sites=40, count=11, dtype="complex64")
    wanted = plan.execute_many([array.astype(complex) for array in arrays], "numpy").log_abs()
    shifts = rng.uniform(-30, 30, size=(40, 11, 1))
    moved = [
        *arrays[:40],
        *((a * 10.0**s).astype("complex64") for a, s in zip(arrays[40:], shifts, strict=True)),
    ]
    result = plan.execute_many(moved, "numpy", batch=4)
    np.testing.assert_allclose(
        result.log_abs(), wanted + np.log(10) * shifts.sum(axis=0)[:, 0], rtol=0, atol=1e-3
    )
    assert np.ptp(result.log_scale) > 200  # beyond one scale for all


def test_memory_mapped_operands_are_read_in_batches(tmp_path):
    plan, arrays = chain(np.random.default_rng(4), dtype="float64")
    for place in range(6, 12):
        np.save(tmp_path / f"{place}.npy", arrays[place])
    mapped = [
        np.load(tmp_path / f"{place}.npy", mmap_mode="r") if place >= 6 else array
        for place, array in enumerate(arrays)
    ]
    np.testing.assert_array_equal(
        plan.execute_many(mapped, "numpy", batch=8).value(),
        plan.execute_many(arrays, "numpy", batch=8).value(),
    )


def test_constant_parts_are_contracted_once(monkeypatch):
    rng = np.random.default_rng(5)
    plan = engine.plan(
        ([("i", "j"), ("j", "k"), ("k",)], ("i",), {"i": 5, "j": 6, "k": 7}), optimizer=[(0, 1), (0, 1)]
    )
    arrays = [rng.normal(size=(5, 6)), rng.normal(size=(6, 7)), rng.normal(size=(40, 7))]
    done = []
    run = execute.run_steps
    monkeypatch.setattr(
        execute, "run_steps", lambda steps, *rest: done.append(len(steps)) or run(steps, *rest)
    )
    result = plan.execute_many(arrays, "numpy", batch=10)
    assert done == [1, 1, 1, 1, 1]  # the product of the two matrices, then one product for each batch
    np.testing.assert_allclose(result.value(), one_by_one(plan, arrays), rtol=1e-12)


def test_progress_is_told():
    plan, arrays = chain(np.random.default_rng(6))
    told = []
    plan.execute_many(arrays, "numpy", batch=10, progress=lambda done, total: told.append((done, total)))
    assert told == [(10, 37), (20, 37), (30, 37), (37, 37)]


def test_the_batch_follows_the_memory_limit(monkeypatch):
    plan, arrays = chain(np.random.default_rng(7), bond=16, count=500)
    made = []
    built = batches.Expression
    monkeypatch.setattr(
        batches, "Expression", lambda plan, *a, **k: made.append(plan) or built(plan, *a, **k)
    )
    wanted = plan.execute_many(arrays, "numpy").value()
    whole = made[-1].peak_bytes
    for part in (2, 5, 9):
        result = plan.execute_many(arrays, "numpy", memory_limit=whole // part)
        assert made[-1].peak_bytes <= whole // part
        np.testing.assert_allclose(result.value(), wanted, rtol=1e-10)
    assert made[-1].sizes[batches.ELEMENT] < 100


def test_a_limit_below_one_element_slices_it_or_says_what_it_takes():
    rng = np.random.default_rng(8)
    sizes = dict.fromkeys("abcdef", 8)
    inputs = [("a", "b", "c"), ("c", "d", "e"), ("e", "f", "a"), ("b", "d", "f")]
    plan = engine.plan((inputs, (), sizes), dtype="float64")
    arrays = [rng.normal(size=(8, 8, 8)) for _ in inputs]
    arrays[0] = rng.normal(size=(3, 8, 8, 8))
    wanted = one_by_one(plan, arrays).real
    # one element takes this much; most of it the operands
    tight = int(1.7 * 8 * (4 + batches.BESIDE) * 8**3)
    result = plan.execute_many(arrays, "numpy", memory_limit=tight)
    np.testing.assert_allclose(result.value(), wanted, rtol=1e-10)
    with pytest.raises(ValueError, match=r"memory_limit of 1000 bytes .*operands"):
        plan.execute_many(arrays, "numpy", memory_limit=1000)


def test_sliced_plans_stay_sliced():
    rng = np.random.default_rng(9)
    plan = engine.plan(([("i", "j"), ("j", "k"), ("k", "i")], (), dict.fromkeys("ijk", 5)))
    sliced = type(plan)(plan.inputs, plan.output, plan.sizes, plan.path, ("j",), plan.dtype)
    arrays = [rng.normal(size=(4, 5, 5)), rng.normal(size=(5, 5)), rng.normal(size=(4, 5, 5))]
    np.testing.assert_allclose(
        sliced.execute_many(arrays, "numpy").value(), one_by_one(plan, arrays), rtol=1e-12
    )


def test_jax_agrees():
    plan, arrays = chain(np.random.default_rng(10), sites=4, count=8, dtype="complex64")
    np.testing.assert_allclose(
        plan.execute_many(arrays, "jax", batch=4).value(), one_by_one(plan, arrays), rtol=1e-4, atol=1e-4
    )


# --- checkpoints


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
    result = plan.execute_many(arrays, "numpy", batch=5, checkpoint=folder)
    assert [path.stat().st_mtime_ns for path in kept] == times  # none was done again
    straight = plan.execute_many(arrays, "numpy", batch=5)
    np.testing.assert_array_equal(result.mantissa, straight.mantissa)
    np.testing.assert_array_equal(result.log_scale, straight.log_scale)


def test_a_damaged_batch_is_done_again(tmp_path):
    plan, arrays = chain(np.random.default_rng(12))
    wanted = plan.execute_many(arrays, "numpy", batch=5, checkpoint=tmp_path / "run").value()
    for path in (tmp_path / "run").glob("batch-*"):
        path.write_bytes(path.read_bytes()[:40])
    np.testing.assert_array_equal(
        plan.execute_many(arrays, "numpy", batch=5, checkpoint=tmp_path / "run").value(), wanted
    )


def test_another_runs_folder_is_refused(tmp_path):
    plan, arrays = chain(np.random.default_rng(13))
    plan.execute_many(arrays, "numpy", batch=5, checkpoint=tmp_path / "run")
    other = [*arrays[:-1], arrays[-1] * 2]
    with pytest.raises(ValueError, match="holds the results of other operands"):
        plan.execute_many(other, "numpy", batch=5, checkpoint=tmp_path / "run")
    with pytest.raises(ValueError, match="holds another run's results"):
        plan.execute_many([arrays[0] * 2, *arrays[1:]], "numpy", batch=5, checkpoint=tmp_path / "run")
    with pytest.raises(ValueError, match="holds another run's results"):
        plan.execute_many(arrays, "numpy", batch=9, checkpoint=tmp_path / "run")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        plan.execute_many(arrays, "numpy", checkpoint=tmp_path / "file")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("")
    with pytest.raises(ValueError, match="holds other files"):
        plan.execute_many(arrays, "numpy", checkpoint=tmp_path / "full")


def test_a_killed_run_leaves_whole_files_only(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent("""
            import os, signal, sys
            import numpy as np
            from qrt_tn import engine
            rng = np.random.default_rng(0)
            plan = engine.plan(([("i", "j"), ("j",)], ("i",), {"i": 3, "j": 4}))
            arrays = [rng.normal(size=(3, 4)), rng.normal(size=(60, 4))]
            kill = len(sys.argv) > 2
            def tell(done, total):
                if kill and done >= 30:
                    os.kill(os.getpid(), signal.SIGKILL)
            result = plan.execute_many(arrays, "numpy", batch=6, checkpoint=sys.argv[1], progress=tell)
            print(result.value().tobytes().hex())
        """)
    )
    run = [sys.executable, str(program), str(tmp_path / "run")]
    killed = subprocess.run([*run, "kill"], capture_output=True, text=True, timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(list((tmp_path / "run").glob("batch-*"))) == 5
    again = subprocess.run(run, capture_output=True, text=True, timeout=120, check=True)
    fresh = subprocess.run([*run[:2], str(tmp_path / "fresh")], capture_output=True, text=True, check=True)
    assert again.stdout == fresh.stdout != ""
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


def test_a_batch_of_none_is_refused():
    plan, arrays = chain(np.random.default_rng(15))
    with pytest.raises(ValueError, match="batch is 0"):
        plan.execute_many(arrays, "numpy", batch=0)


# --- the device's road, on the stand-in


class StandInStream:
    """Enough of a CUDA stream to see that uploads are waited for."""

    log: ClassVar[list] = []

    def __init__(self, non_blocking=False):
        self.non_blocking = non_blocking

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def synchronize(self):
        self.log.append("free")

    def record(self):
        self.log.append("sent")
        return object()

    def wait_event(self, event):
        self.log.append("waited")


def test_operands_go_to_the_device_ahead(device, monkeypatch):
    monkeypatch.setattr(StandInStream, "log", [])
    device.cuda = types.SimpleNamespace(
        Stream=StandInStream,
        Device=lambda *number: contextlib.nullcontext(types.SimpleNamespace(mem_info=(2**30, 2**30))),
        get_current_stream=StandInStream,
    )
    monkeypatch.setattr(
        device.ndarray,
        "set",
        lambda self, host, stream=None: self.held.__setitem__(slice(None), host),
        raising=False,
    )
    monkeypatch.setattr(
        device, "empty", lambda shape, dtype: device.ndarray(np.empty(shape, dtype)), raising=False
    )
    pinned = types.ModuleType("cupyx")
    pinned.empty_pinned = np.empty
    monkeypatch.setitem(sys.modules, "cupyx", pinned)
    monkeypatch.setattr(batches, "device_memory", lambda backend: (2**30, 2**29))
    plan, arrays = chain(np.random.default_rng(16), count=20)
    result = plan.execute_many(arrays, "cupy", batch=5)
    assert isinstance(result.mantissa, np.ndarray)
    np.testing.assert_allclose(result.value(), one_by_one(plan, arrays), rtol=1e-11)
    log = StandInStream.log
    assert log.count("sent") == log.count("waited") == 4
    # the second batch is on its way before the first is waited for
    assert log.index("waited") > 1
