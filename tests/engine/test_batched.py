import os
import re
import signal
import subprocess
import sys
import textwrap
import types
from itertools import chain as chained
from typing import ClassVar

import numpy as np
import pytest

from qrt_tn import engine
from qrt_tn.engine import batched


def chain(rng, sites=6, extent=3, bond=4, count=37, dtype=np.complex128):
    """An MPS with constant cores and one selector per site and element: (plan, arrays)."""
    terms, shapes = [], []
    for site in range(sites):
        ends = [*([(f"k{site}", bond)] if site else []), (f"x{site}", extent)]
        ends += [(f"k{site + 1}", bond)] if site < sites - 1 else []
        terms.append(tuple(index for index, _ in ends))
        shapes.append(dict(ends))
    plan = engine.plan(
        (terms + [(f"x{site}",) for site in range(sites)], (), dict(chained(*map(dict.items, shapes)))),
        dtype=dtype,
    )
    arrays = [rng.normal(size=list(shape.values())) for shape in shapes]
    arrays += [rng.normal(size=(count, extent)) for _ in range(sites)]
    return plan, [array.astype(dtype) for array in arrays]


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
def test_every_element_is_right(dtype, networks, tmp_path):
    """Whatever varies, and whatever the batch, path, slices and output."""
    rng = np.random.default_rng(0)
    rounding = 1e-4 if np.finfo(dtype).bits == 32 else 1e-11
    for number in range(30):
        inputs, output, sizes = networks.draw(rng, largest=3)
        count = int(rng.integers(1, 40))
        varying = rng.random(len(inputs)) < rng.random()
        varying[rng.integers(len(inputs))] = True
        terms = [("n", *term) if varies else term for term, varies in zip(inputs, varying, strict=True)]
        arrays = networks.arrays(rng, terms, {**sizes, "n": count}, dtype)
        wanted = networks.einsum(arrays, terms, ("n", *output), {"n": count, **sizes})
        np.save(tmp_path / f"{number}.npy", arrays[0])
        arrays[0] = np.load(tmp_path / f"{number}.npy", mmap_mode="r")  # read in batches
        slices = tuple(index for index in sizes if rng.random() < 0.2)
        plan = engine.Plan(inputs, output, sizes, networks.path(rng, len(inputs)), slices, dtype)
        batch = [None, 1, 5, 1000][number % 4]
        told = []
        result = plan.execute_many(
            arrays, "numpy", batch=batch, progress=lambda *done, told=told: told.append(done)
        )
        assert (result.dtype, result.shape) == (dtype, wanted.shape)
        size = abs(wanted).max()
        np.testing.assert_allclose(result.value(), wanted, rtol=rounding, atol=rounding * size)
        assert told[-1] == (count, count)
        assert len(told) == -(-count // min(count, batch or count))


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


def test_results_of_up_to_64_axes():
    for count in (33, 63):
        network = (
            tuple((i,) for i in range(count)),
            tuple(range(count)),
            {i: 1 + (i == 5) for i in range(count)},
        )
        arrays = [np.ones(1 + (i == 5)) for i in range(count)]
        arrays[0] = np.array([[1.0], [2.0], [3.0]])
        result = engine.plan(network).execute_many(arrays, "numpy", batch=2)
        assert result.ndim == count + 1
        assert np.array_equal(result.value().reshape(3, 2), [[1, 1], [2, 2], [3, 3]])


def test_the_batch_follows_the_memory_limit_and_constants_are_contracted_once(monkeypatch):
    plan, arrays = chain(np.random.default_rng(7), bond=16, count=500)
    made = []
    built = batched.Expression
    monkeypatch.setattr(batched, "Expression", lambda *a, **k: made.append((a[0], k)) or built(*a, **k))
    wanted = plan.execute_many(arrays, "numpy").value()
    whole = made[-1][0].peak_bytes
    for part in (2, 5, 9):
        result = plan.execute_many(arrays, "numpy", memory_limit=whole // part)
        assert whole // part // 4 < made[-1][0].peak_bytes <= whole // part
        np.testing.assert_allclose(result.value(), wanted, rtol=1e-10)
    assert made[-1][0].sizes[batched.ELEMENT] < 100
    assert all(sorted(options["constants"]) == [*range(6)] for _, options in made)
    assert len(made) == 4
    for free, wanted in ((2**39, batched.DEVICE_BYTES), (2**28, 2**27)):
        monkeypatch.setattr(batched, "device_memory", lambda backend, free=free: (2**40, free))
        assert batched.batch_bytes("cupy") == wanted <= 2**31


def test_a_limit_below_one_element_slices_it_or_says_what_it_takes():
    rng = np.random.default_rng(8)
    sizes = dict.fromkeys("abcdef", 8)
    inputs = [("a", "b", "c"), ("c", "d", "e"), ("e", "f", "a"), ("b", "d", "f")]
    plan = engine.plan((inputs, (), sizes), dtype="float64")
    arrays = [rng.normal(size=(8, 8, 8)) for _ in inputs]
    arrays[0] = rng.normal(size=(3, 8, 8, 8))
    # one element takes this much; most of it the operands
    tight = int(1.8 * 8 * (4 + batched.BESIDE) * 8**3)
    result = plan.execute_many(arrays, "numpy", memory_limit=tight)
    wanted = np.einsum("nabc,cde,efa,bdf->n", *arrays)
    np.testing.assert_allclose(result.value(), wanted, rtol=1e-10)
    with pytest.raises(ValueError, match=r"memory_limit of 1000 bytes .*operands"):
        plan.execute_many(arrays, "numpy", memory_limit=1000)


# --- checkpoints


def same_bits(one, other):
    np.testing.assert_array_equal(one.mantissa, other.mantissa)
    np.testing.assert_array_equal(one.log_scale, other.log_scale)


def test_missing_and_damaged_batches_are_done_again_and_no_others(tmp_path):
    plan, arrays = chain(np.random.default_rng(11))
    straight = plan.execute_many(arrays, "numpy", batch=5)
    same_bits(plan.execute_many(arrays, "numpy", batch=5, checkpoint=tmp_path), straight)
    first, second, third, *others = sorted(tmp_path.glob("batch-*"))
    assert len(others) == 5
    times = [path.stat().st_mtime_ns for path in others]
    first.unlink()
    second.write_bytes(second.read_bytes()[:40])
    changed = bytearray(third.read_bytes())
    changed[-20] ^= 1  # a digit of a number
    third.write_bytes(changed)
    # the batches stay as they began, whatever would be chosen now
    same_bits(plan.execute_many(arrays, "numpy", checkpoint=tmp_path), straight)
    assert [path.stat().st_mtime_ns for path in others] == times
    assert first.is_file()


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


@pytest.mark.parametrize("name", ["batch", "memory_limit"])
@pytest.mark.parametrize("value", [0, -1, True, 2.5, "5"])
def test_wrong_options_are_named(name, value):
    plan, arrays = chain(np.random.default_rng(15))
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
    np.testing.assert_allclose(result.value(), plan.execute_many(arrays, "numpy").value(), rtol=1e-11)
    log = StandInStream.log
    assert log[0] == "use"  # a new thread is on the first device, this rank may be on another
    assert log.count("sent") == log.count("waited") == 4
