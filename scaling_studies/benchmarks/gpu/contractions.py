"""Contraction plans on the device: against einsum and NumPy, in batches, and timed."""

import math
import tempfile
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from qrt_tn import engine
from qrt_tn.engine import Plan, Scaled
from qrt_tn.engine.network import Index
from qrt_tn.studies.benchmarks.engine import networks
from qrt_tn.studies.benchmarks.gpu.checks import Checks, Place, UnavailableError
from qrt_tn.studies.benchmarks.sample_mps import random_state

LIMITS = {"float32": 1e-3, "complex64": 1e-3, "float64": 1e-9, "complex128": 1e-9}


def contract(place: Place, checks: Checks) -> None:
    """Random networks, whole and sliced, a long chain, and entries far apart in one operand."""
    _random_networks(place, checks, place.backend)
    rng, count = np.random.default_rng(7), place.size(2000, 60)
    matrices = [(1e-20 * rng.normal(size=(8, 8))).astype("complex64") for _ in range(count)]
    inputs = [(site, site + 1) for site in range(count)]
    structure = inputs, (0, count), dict.fromkeys(range(count + 1), 8)
    plan = engine.plan(structure, dtype="complex64", use_cache=False)
    product, log_scale = np.eye(8, dtype=complex), 0.0
    for matrix in matrices:
        product = product @ matrix
        peak = np.abs(product).max()
        product, log_scale = product / peak, log_scale + math.log(peak)
    name = f"{count} matrices of size 1e-20"
    checks.near(name, lambda: plan.execute(matrices, place.backend), Scaled(product, log_scale), 1e-3)
    for dtype, small in (("float32", 1e-26), ("float64", 1e-174)):
        wide = np.array([[1 / small, small], [small, 1 / small]], dtype)
        pair = engine.plan((("ab", "bc"), "ac", dict.fromkeys("abc", 2)), dtype=dtype)
        call = partial(pair.execute, [wide, np.eye(2, dtype=dtype)], place.backend)
        name = f"small entries beside large ones, {dtype}"
        # each entry by its size
        checks.near(name, call, Scaled(np.ones((2, 2)), np.log(wide)), 1e-5)


def _random_networks(place: Place, checks: Checks, backend: str) -> None:
    """Hyperindices, repeated indices and outer products, by einsum in double precision."""
    for seed in range(place.size(6, 3)):
        rng = np.random.default_rng(seed)
        inputs = [tuple(rng.integers(8, size=rng.integers(1, 5)).tolist()) for _ in range(8)]
        sizes = {index: int(rng.integers(2, 5)) for term in inputs for index in term}
        output = tuple(sizes)[: seed % 3]
        for dtype, limit in LIMITS.items():
            parts = [rng.normal(size=(2, *(sizes[index] for index in term))) for term in inputs]
            arrays = [(a + 1j * b if dtype[0] == "c" else a).astype(dtype) for a, b in parts]
            operands = [part for a, t in zip(arrays, inputs, strict=True) for part in (a.astype(complex), t)]
            wanted = np.einsum(*operands, output, optimize=True)
            plan = engine.plan((inputs, output, sizes), dtype=dtype, use_cache=False)
            for made in (plan, replace(plan, slices=tuple(sizes)[-2:])):
                name = f"network {seed}, {dtype}, {made.slice_count} slices"
                call = partial(made.execute, arrays, backend)
                checks.near(name, call, wanted, limit)


def batches(place: Place, checks: Checks) -> None:
    """`execute_many`: batches of any size, columns on the device, and a run that goes on with less memory."""
    for dtype in ("complex64", "complex128"):
        plan, cores, columns = _chain(12, 7, 8, place.size(3001, 101), dtype)
        vectors = np.ones((len(columns[0]), 1))
        for core, column in zip(cores, columns, strict=True):
            vectors = np.einsum("zl,lxr,zx->zr", vectors, core.astype(complex), column)
        arrays, mixed = [*cores, *columns], [*cores, *place.to_device(columns)]
        for name, given, batch in (
            ("a batch of its choice", arrays, None),
            ("batches of 64", arrays, 64),
            ("one batch", arrays, len(vectors)),
            ("columns on the device", mixed, 64),
        ):
            call = partial(plan.execute_many, given, place.backend, batch=batch)
            checks.near(f"{name}, {dtype}", call, vectors[:, 0], LIMITS[dtype])
        checks.holds(f"the same bits with less memory free, {dtype}", partial(_goes_on, place, plan, arrays))


def _goes_on(place: Place, plan: Plan, arrays: list[Any]) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        first = plan.execute_many(arrays, place.backend, checkpoint=folder).value()
        free = 2**21 if place.small else engine.backends()[place.backend].free or 2**34
        held = place.xp.empty(free // 2, dtype="uint8")
        # a copy of the plan remembers no batch size
        again = replace(plan).execute_many(arrays, place.backend, checkpoint=folder).value()
        del held
    return np.array_equal(first, again)


def contract_speed(place: Place, checks: Checks) -> None:
    """A batch of elements of a chain, and one network again and again."""
    _batch_speed(place, checks, place.backend)
    found = networks.case("", networks.regular(place.size(60, 20), 3, 3), dtype="complex64")
    plan = engine.plan(found.structure, dtype="complex64")
    with plan.expression(place.backend) as expression, plan.expression("numpy") as on_host:
        arrays = place.to_device(found.arrays)
        checks.timed(
            place,
            "a random regular network",
            lambda: expression(arrays),
            flops=plan.flops,
            host=lambda: on_host(found.arrays),
            tensors=len(found.inputs),
        )


def cuquantum(place: Place, checks: Checks) -> None:
    """Our paths and slices by cuTensorNet: random networks, and a batch with each of its products."""
    library = engine.backends()["cuquantum"]
    if not library.available or place.backend == "numpy":
        raise UnavailableError(library.reason or "this is not a run on a GPU")
    _random_networks(place, checks, "cuquantum")
    plan, cores, columns = _chain(100, 31, 16, 64, "complex64")
    call = partial(plan.execute_many, [*cores, *columns])
    for compute, limit in ((None, 1e-3), ("3XTF32", 1e-3), ("TF32", 0.3)):
        there = partial(call, "cuquantum", compute=compute)
        checks.near(f"a batch, {compute or 'float32'}", there, partial(call, "numpy"), limit)
        _batch_speed(place, checks, "cuquantum", compute)


def _batch_speed(place: Place, checks: Checks, backend: str, compute: str | None = None) -> None:
    sites, count, share = place.size(100, 12), place.size(4096, 64), 8
    plan, cores, columns = _chain(sites, 31, 16, count, "complex64")
    some = [*cores, *(column[: count // share] for column in columns)]
    checks.timed(
        place,
        f"execute_many of a chain, {compute or backend}",
        lambda: plan.execute_many([*cores, *columns], backend, compute=compute),
        flops=count * plan.flops,
        moved=sum(column.nbytes for column in columns),
        host=lambda: plan.execute_many(some, "numpy"),
        share=share,
        dim=sites,
        modulus=31,
        bond=16,
        nodes=count,
    )


def _chain(
    sites: int, extent: int, bond: int, count: int, dtype: str
) -> tuple[Plan, list[np.ndarray], list[np.ndarray]]:
    """(plan, cores, columns): a chain whose every site meets one vector, and `count` such vectors a site."""
    inputs = [(f"k{s}", f"x{s}", f"k{s + 1}") for s in range(sites)] + [(f"x{s}",) for s in range(sites)]
    cores = random_state(sites, extent, bond, dtype)
    sizes: dict[Index, int] = {}
    for term, core in zip(inputs, cores, strict=False):
        sizes.update(zip(term, core.shape, strict=True))
    rng = np.random.default_rng(0)
    columns = [rng.normal(size=(count, extent)).astype(dtype) for _ in range(sites)]
    optimizer = "auto" if sites > 12 else "greedy"  # a search takes longer than all else at small sizes
    plan = engine.plan((inputs, (), sizes), dtype=dtype, optimizer=optimizer, use_cache=False)
    return plan, cores, columns
