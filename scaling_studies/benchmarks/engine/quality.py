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
from qrt_tn.engine.network import by_position, numbered
from qrt_tn.studies.benchmarks.engine import finder
from qrt_tn.studies.benchmarks.engine.networks import Case, long_chain, matrix_chain

Path = Sequence[Sequence[int]]
REPEATS = 10**6  # trials of cotengra's hyper-optimiser; its time ends before
# as it comes, and with the reconfiguration of subtrees that a user would turn on for a hard network
HYPER: tuple[dict[str, Any], ...] = ({}, {"reconf_opts": {}})


def warm_up() -> None:
    """Let every finder compile and load what it needs, so that no search pays for it."""
    small = matrix_chain(12, 2)
    engine.plan(small.structure, optimizer="auto", use_cache=False)
    for settings in HYPER:
        _hyper(small, 0.1, settings)
    _opt_einsum(small)


def compare(
    found: Case, *, optimizers: Sequence[str] = ("auto",), limit: float = 20.0, seed: int = 0
) -> Iterator[dict[str, Any]]:
    """Flops and seconds of every finder on one network, one mapping at a time.

    cotengra's hyper-optimiser searches for as long as ours did, in both settings of `HYPER`; the better one
    counts. Flops are `Plan.flops` of every path: a multiply and an add are two.

    Args:
        found: the network.
        optimizers: ours.
        limit: seconds for cuTensorNet's finder; where it is not installed it does not take part.
        seed: of our searches.
    """

    def row(method: str, path: Path | None, seconds: float, note: str = "") -> dict[str, Any]:
        flops = None if path is None else engine.plan(found.structure, optimizer=path).flops
        return {
            "network": found.name,
            "batch": found.count,
            "tensors": len(found.inputs),
            "method": method,
            "log10_flops": None if flops is None else float(np.log10(float(flops))),
            "seconds": seconds,
            "note": note,
        }

    for name in optimizers:
        search = partial(engine.plan, found.structure, optimizer=name, seed=seed, use_cache=False)
        plan, seconds = _timed(search)
        yield row(f"qrt-tn {name}", plan.path, seconds)
        tries = [_timed(partial(_hyper, found, seconds, settings)) for settings in HYPER]
        costs = [engine.plan(found.structure, optimizer=path).flops for path, _ in tries]
        path, spent = tries[int(np.argmin(costs))]
        yield row(f"cotengra, as long as {name}", path, spent)
    path, seconds = _timed(partial(_opt_einsum, found))
    yield row("opt_einsum auto", path, seconds)
    if finder.is_installed():
        own, seconds, note = finder.find(*found.structure, limit)
        yield row("cuTensorNet", own, seconds, note)


def chains(dim: int) -> Iterator[dict[str, Any]]:
    """Seconds to plan chains of many sites: plain matrices, and a batch of amplitudes of a transform.

    Args:
        dim: how many sites.
    """
    amplitudes = long_chain(dim, 31, 16, 64)
    plain = tuple((f"k{place}", f"k{place + 1}") for place in range(dim))
    matrices = plain, ("k0", f"k{dim}"), {f"k{place}": 8 for place in range(dim + 1)}
    for name, structure in ((f"{dim} matrices", matrices), (f"amplitudes, D={dim}", amplitudes)):
        plan, seconds = _timed(partial(engine.plan, structure, use_cache=False))
        yield {
            "network": name,
            "tensors": len(structure[0]),
            "method": "qrt-tn auto",
            "log10_flops": float(np.log10(float(plan.flops))),
            "seconds": seconds,
            "note": "",
        }


def _timed(search: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    found = search()
    return found, time.perf_counter() - started


def _hyper(found: Case, seconds: float, settings: dict[str, Any]) -> Path:
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
        # cotengra's partitioners take strings only
        names = numbered(found.inputs)
        tree = optimizer.search(
            [[oe.get_symbol(names[index]) for index in term] for term in found.inputs],
            [oe.get_symbol(names[index]) for index in found.output],
            {oe.get_symbol(names[index]): size for index, size in found.sizes.items()},
        )
    return tree.get_path()


def _opt_einsum(found: Case) -> Path:
    names = numbered(found.inputs)
    terms = [frozenset(term) for term in by_position(found.inputs, names)]
    output = frozenset(names[index] for index in found.output)
    return oe.paths.auto(terms, output, {names[index]: size for index, size in found.sizes.items()}, None)
