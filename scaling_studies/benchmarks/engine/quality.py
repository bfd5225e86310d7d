"""How good plans are: flops and search seconds of ours and of other finders, for the same network."""

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import cotengra as ctg
import numpy as np
import opt_einsum as oe

from qrt_tn import engine
from qrt_tn.engine.network import Term
from qrt_tn.studies.benchmarks.engine import finder
from qrt_tn.studies.benchmarks.engine.networks import Case, Structure, long_chain, matrix_chain, symbols

Path = Sequence[Sequence[int]]
REPEATS = 10**6  # trials of cotengra's hyper-optimiser; its time ends before
# as it comes, and with the reconfiguration of subtrees that a user would turn on for a hard network
HYPER: tuple[dict[str, Any], ...] = ({}, {"reconf_opts": {}})
SUBTREES = (8, 10)  # tensors; 8 is cotengra's default


def warm_up() -> None:
    """Let every finder compile and load what it needs, so that no search pays for it."""
    small = matrix_chain(12, 2).structure
    engine.plan(small, use_cache=False)
    for settings in HYPER:
        _hyper(small, 0.1, settings)
    _opt_einsum(small)


def compare(found: Case, *, limit: float = 20.0, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Flops and seconds of every finder on one network, one mapping at a time.

    cotengra's hyper-optimiser searches for as long as ours did, in both settings of `HYPER`; the better one
    counts. Flops are `Plan.flops` of every path: a multiply and an add are two.

    Args:
        found: the network.
        limit: seconds for cuTensorNet's finder; where it is not installed it does not take part.
        seed: of our search.
    """
    row = partial(_row, found.structure, network=found.name, batch=found.count)
    plan, seconds = _timed(partial(engine.plan, found.structure, seed=seed, use_cache=False))
    yield row("qrt-tn", plan.path, seconds)
    tries = [_timed(partial(_hyper, found.structure, seconds, settings)) for settings in HYPER]
    costs = [engine.plan(found.structure, optimizer=path).flops for path, _ in tries]
    yield row("cotengra, as long", *tries[int(np.argmin(costs))])
    yield row("opt_einsum auto", *_timed(partial(_opt_einsum, found.structure)))
    if finder.is_installed():
        own, seconds, note = finder.find(*found.structure, limit)
        yield row("cuTensorNet", own, seconds, note)


def compare_long(dim: int, *, modulus: int = 31, bond: int = 16, count: int = 64) -> Iterator[dict[str, Any]]:
    """A batch of amplitudes of a transform over many sites: ours, and cotengra's ways for large networks.

    Those are its greedy path, alone and with subtrees reconfigured: of 8 tensors, its default, and of 10.
    `subtree_reconfigure` takes the greedy path as it comes, and its seconds include those of finding that.

    Args:
        dim: how many sites.
        modulus: the values of a site.
        bond: of the matrix product state.
        count: how many amplitudes.
    """
    structure = long_chain(dim, modulus, bond, count)
    row = partial(_row, structure, network=f"amplitudes, D={dim}", batch=count)
    plan, seconds = _timed(partial(engine.plan, structure, use_cache=False))
    yield row("qrt-tn", plan.path, seconds)
    greedy, taken = _timed(partial(ctg.array_contract_tree, *symbols(structure), optimize="greedy"))
    yield row("cotengra greedy", greedy.get_path(), taken)
    for size in SUBTREES:
        tree, seconds = _timed(partial(greedy.subtree_reconfigure, subtree_size=size))
        yield row(f"reconfigured, {size}", tree.get_path(), taken + seconds)


def chains(dim: int) -> Iterator[dict[str, Any]]:
    """Seconds to plan chains of many sites: plain matrices, and a batch of amplitudes of a transform.

    Args:
        dim: how many sites.
    """
    plain: list[Term] = [(f"k{place}", f"k{place + 1}") for place in range(dim)]
    matrices: Structure = plain, ("k0", f"k{dim}"), {f"k{place}": 8 for place in range(dim + 1)}
    amplitudes = long_chain(dim, 31, 16, 64)
    named: dict[str, Structure] = {f"{dim} matrices": matrices, f"amplitudes, D={dim}": amplitudes}
    for name, structure in named.items():
        plan, seconds = _timed(partial(engine.plan, structure, use_cache=False))
        yield _row(structure, "qrt-tn", plan.path, seconds, network=name)


def _row(
    structure: Structure, method: str, path: Path | None, seconds: float, note: str = "", **about: Any
) -> dict[str, Any]:
    flops = None if path is None else engine.plan(structure, optimizer=path).flops
    return {
        **about,
        "tensors": len(structure[0]),
        "method": method,
        "log10_flops": None if flops is None else float(np.log10(float(flops))),
        "seconds": seconds,
        "note": note,
    }


def _timed(search: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    found = search()
    return found, time.perf_counter() - started


def _hyper(structure: Structure, seconds: float, settings: dict[str, Any]) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer = ctg.HyperOptimizer(
            minimize="flops",
            max_repeats=REPEATS,
            max_time=seconds,
            parallel=False,
            on_trial_error="ignore",
            progbar=False,
            **settings,
        )
        tree = optimizer.search(*symbols(structure))
    return tree.get_path()


def _opt_einsum(structure: Structure) -> Path:
    inputs, output, sizes = symbols(structure)
    return oe.paths.auto([frozenset(term) for term in inputs], frozenset(output), sizes, None)
