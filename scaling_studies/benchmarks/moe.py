"""Time of layers of experts: the forms of dispatch, and what removing experts saves.

    python -m qrt_tn.studies.benchmarks.moe [results.json] [--experts 8 32] [--rounds R]

Tokens are noise, and every expert gets its share. The einsum form is that of google-research/vmoe; "bare" are
the matrix products of the experts alone, on tokens that lie in their places already.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from rich.console import Console

from qrt_tn.models.moe import ExpertMap, MoeLayer, RouterConfig
from qrt_tn.models.moe.config import ROUTERS, RouterKind
from qrt_tn.studies.benchmarks.record import record
from qrt_tn.studies.benchmarks.sheets import Sheet, as_rich
from qrt_tn.studies.benchmarks.timing import paired, ratios

FORMS = ("gather", "einsum", "ragged")
# images, tokens of each, tokens that are routed together: a small transformer's images by themselves, eight
# of them together as in vmoe, and longer images
SIZES = ((64, 50, 50), (64, 50, 400), (16, 200, 200))
HIDDEN, MLP = 128, 256
CAPACITY_FACTOR = 1.5
LEAST = 2
LEFT = (8, 6, 4, 2)


def _layer(kind: RouterKind, expert_map: ExpertMap, group: int, form: str) -> tuple[Any, Any]:
    """A layer apart from its weights."""
    router = RouterConfig(kind, LEAST, capacity_factor=CAPACITY_FACTOR)
    options: dict[str, Any] = {"group": group, "dispatch": form, "same": False}
    return nnx.split(MoeLayer(HIDDEN, MLP, router, expert_map, rngs=nnx.Rngs(0), **options))


def _forward(graph: Any) -> Callable[..., Any]:
    return jax.jit(lambda params, x: nnx.merge(graph, params)(x)[0])


def _gradient(graph: Any) -> Callable[..., Any]:
    return jax.jit(jax.grad(lambda params, x: (nnx.merge(graph, params)(x)[0] ** 2).sum()))


def _bare(kind: RouterKind, experts: int, size: tuple[int, int, int]) -> Callable[[], Any]:
    """The experts' products on full slots."""
    images, tokens, group = size
    graph, params = _layer(kind, ExpertMap.whole(experts), group, "gather")
    layer = nnx.merge(graph, params)
    slots = images * tokens // group * layer.router.capacity(group)
    sent = _noise((experts, slots, HIDDEN))
    graph, params = nnx.split(layer.experts)
    return partial(jax.jit(lambda params, x: nnx.merge(graph, params)(x)), params, sent)


def _noise(shape: tuple[int, ...]) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape, dtype=np.float32))


def _timed(calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    return paired({name: partial(_wait, call) for name, call in calls.items()}, rounds)


def _wait(call: Callable[[], Any]) -> None:
    jax.block_until_ready(call())


def measure_forms(kind: RouterKind, experts: int, size: tuple[int, int, int], rounds: int) -> dict[str, Any]:
    """One row: every form of dispatch, forwards and with its gradient, against the einsum form.

    Args:
        kind: of the router.
        experts: in the layer.
        size: images, tokens of each, tokens routed together.
        rounds: how often each is timed.
    """
    images, tokens, group = size
    x = _noise((images, tokens, HIDDEN))
    forward, gradient = {}, {}
    for form in FORMS:
        graph, params = _layer(kind, ExpertMap.whole(experts), group, form)
        forward[form] = partial(_forward(graph), params, x)
        gradient[form] = partial(_gradient(graph), params, x)
    bare = _bare(kind, experts, size)
    # apart from ragged products: what follows their large buffers pays for them
    seconds = _timed({"bare": bare, "gather": forward["gather"], "einsum": forward["einsum"]}, rounds)
    slopes = _timed({form: gradient[form] for form in ("gather", "einsum")}, rounds)
    ragged = _timed({form: forward[form] for form in ("einsum", "ragged")}, rounds)
    every = {**seconds, **{f"{name}, gradient": found for name, found in slopes.items()}}
    every["ragged"] = ragged["ragged"]
    samples = {name: [1e3 * second for second in found] for name, found in every.items()}
    return {
        "measured": "forms",
        "router": kind,
        "experts": experts,
        "images": images,
        "tokens": tokens,
        "group": group,
        "milliseconds": {name: float(np.median(found)) for name, found in samples.items()},
        "samples": {"milliseconds": samples},
        "einsum_over_gather": ratios(seconds["einsum"], seconds["gather"]),
        "einsum_over_gather_gradient": ratios(slopes["einsum"], slopes["gather"]),
        "einsum_over_ragged": ratios(ragged["einsum"], ragged["ragged"]),
        "gather_over_bare": ratios(seconds["gather"], seconds["bare"]),
    }


def measure_removal(kind: RouterKind, mode: str, rounds: int) -> list[dict[str, Any]]:
    """Rows: the time of a layer of 8 experts with some removed, against the whole one.

    Args:
        kind: of the router.
        mode: "keep-router", where columns of removed experts stay, or "drop-router".
        rounds: how often each is timed.
    """
    most = max(LEFT)
    images, tokens, group = SIZES[0]
    x = _noise((images, tokens, HIDDEN))
    calls = {}
    for left in LEFT:
        kept = tuple(range(left))
        columns = kept + (-1,) * (most - left) * (mode == "keep-router")
        graph, params = _layer(kind, ExpertMap(columns, kept, most), group, "gather")
        calls[f"{left}"] = partial(_forward(graph), params, x)
    seconds = _timed(calls, rounds)
    return [
        {
            "measured": "removal",
            "router": kind,
            "mode": mode,
            "experts": most,
            "left": left,
            "milliseconds": 1e3 * float(np.median(seconds[f"{left}"])),
            "samples": {"milliseconds": [1e3 * second for second in seconds[f"{left}"]]},
            "over_whole": ratios(seconds[f"{left}"], seconds[f"{most}"]),
        }
        for left in LEFT
    ]


def _middle(found: Mapping[str, Any]) -> str:
    return f"{found['median']:.2f} ({found['min']:.2f}-{found['max']:.2f})"


def sheets(rows: Sequence[dict[str, Any]]) -> list[Sheet]:
    """The rows as tables for people."""
    forms = [row for row in rows if row["measured"] == "forms"]
    removal = [row for row in rows if row["measured"] == "removal"]
    keys = ("einsum_over_gather", "einsum_over_gather_gradient", "einsum_over_ragged", "gather_over_bare")
    sizes = f"Tokens of {HIDDEN}, experts of {MLP} hidden units, capacity factor {CAPACITY_FACTOR}."
    note = f"{sizes} Medians over paired rounds, least and greatest beside them."
    return [
        Sheet(
            "Forms of dispatch",
            note,
            (
                *("router", "experts", "images x tokens", "group", "gather, ms"),
                *("einsum / gather", "with gradient", "einsum / ragged", "gather / bare products"),
            ),
            tuple(
                (
                    row["router"],
                    f"{row['experts']}",
                    f"{row['images']} x {row['tokens']}",
                    f"{row['group']}",
                    f"{row['milliseconds']['gather']:.2f}",
                    *(_middle(row[key]) for key in keys),
                )
                for row in forms
            ),
        ),
        Sheet(
            "Experts removed",
            note,
            ("router", "mode", "experts left", "ms", "over the whole layer"),
            tuple(
                (
                    row["router"],
                    row["mode"],
                    f"{row['left']} of {row['experts']}",
                    f"{row['milliseconds']:.2f}",
                    _middle(row["over_whole"]),
                )
                for row in removal
            ),
        ),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write JSON where a path is given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", nargs="?", type=Path)
    parser.add_argument("--experts", nargs="+", type=int, default=[8, 32])
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args(arguments)
    for experts in options.experts:
        if experts < LEAST:
            raise ValueError(f"experts is {experts}; give at least {LEAST}, the experts that a token goes to")
    if options.out is not None and not options.out.parent.is_dir():
        raise ValueError(f"folder {options.out.parent} does not exist; make it first")
    console = Console(stderr=True)
    rows = []
    for kind in ROUTERS:
        for experts in options.experts:
            for size in SIZES:
                console.print(f"{kind}, {experts} experts, {size[0]} x {size[1]} tokens ...", highlight=False)
                rows.append(measure_forms(kind, experts, size, options.rounds))
        for mode in ("keep-router", "drop-router"):
            console.print(f"{kind}, experts removed, {mode} ...", highlight=False)
            rows += measure_removal(kind, mode, options.rounds)
    for sheet in sheets(rows):
        Console().print(as_rich(sheet))
    record(options.out, "moe", rows, device=jax.devices()[0].device_kind)


if __name__ == "__main__":
    main()
