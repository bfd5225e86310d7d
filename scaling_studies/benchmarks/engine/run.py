"""The whole comparison, and the folder that it writes."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qrt_tn import engine
from qrt_tn.studies.benchmarks.engine import gpu, networks, overhead, quality, report, speed
from qrt_tn.studies.benchmarks.engine.networks import Case
from qrt_tn.studies.benchmarks.record import origin
from qrt_tn.studies.folders import check_new, whole_folder, write_json
from qrt_tn.studies.progress import Stage, StageTimer

FORMAT = "qrt-tn.bench-engine"
VERSION = 1
Maker = Callable[[], Case]


@dataclass(frozen=True)
class Sizes:
    """What is run.

    Attributes:
        planned: makes the networks that are planned.
        contracted: makes those that are contracted.
        chain: sites of the long chains.
        compared: sites of the chain that cotengra plans too.
        extents: of the small matrices.
        rounds: how often each contender is timed.
        limit: seconds for cuTensorNet's finder.
    """

    planned: tuple[Maker, ...]
    contracted: tuple[Maker, ...]
    chain: int
    compared: int
    extents: tuple[int, ...]
    rounds: int
    limit: float


def quick() -> Sizes:
    """About two minutes on two cores."""
    mps, tree, grid = _mps(32, 13, 8, 16), _tree(5, 7, 4, 16), _grid(4, 4, 5, 2, 16)
    planned = (mps, _mps(32, 13, 8, 16, opened=2), tree, grid, _regular(100, 2), _circuit(4, 4, 12))
    contracted = (mps, tree, grid, _regular(60, 3), _circuit(4, 4, 12), _chain(100, 16, 64))
    return Sizes(planned, contracted, 10_000, 1000, (4, 8, 16, 32), 5, 10.0)


def full() -> Sizes:
    """Larger networks too, and more rounds."""
    small = quick()
    larger = (
        _mps(64, 31, 16, 64),
        _mps(100, 31, 16, 64, opened=2),
        _tree(6, 13, 6, 64),
        _grid(6, 6, 7, 3, 16),
        _regular(50, 4),
        _circuit(5, 6, 16),
    )
    heavy = (_mps(64, 31, 16, 64), _tree(6, 13, 6, 64), _regular(50, 4), _chain(200, 16, 1024))
    return Sizes(
        (*small.planned, *larger),
        (*small.contracted, *heavy),
        small.chain,
        small.compared,
        (2, 4, 8, 16, 32, 64),
        15,
        60.0,
    )


def run(folder: Path, sizes: Sizes, command: str, timer: StageTimer) -> dict[str, Any]:
    """Run the comparison and write engine.json, engine.md and engine.svg, whole or not at all.

    Args:
        folder: a new or empty folder.
        sizes: what to run.
        command: what the user typed.
        timer: shows the stages.

    Returns:
        What engine.json holds.

    Raises:
        ValueError: the folder exists and is not empty, or cannot be made.
        RuntimeError: two results that should agree do not; nothing is written.
    """
    check_new(folder)
    with whole_folder(folder) as partial, warnings.catch_warnings():
        # rivals warn of what they do without, such as other optimisers
        warnings.simplefilter("ignore")
        result = measure(sizes, command, timer)
        write_json(partial / "engine.json", result)
        (partial / "engine.md").write_text(report.as_markdown(result), encoding="utf-8")
        report.draw(result, partial / "engine.svg")
    return result


def measure(sizes: Sizes, command: str, timer: StageTimer) -> dict[str, Any]:
    """Every figure of the comparison.

    Args:
        sizes: what to run.
        command: what the user typed.
        timer: shows the stages.
    """
    found = engine.backends()
    with timer.stage("calibrating", 1):
        device = engine.calibrate("numpy")
        card = engine.calibrate("cupy") if found["cupy"].available else None
    quality_rows: list[dict[str, Any]] = []
    with timer.stage("planning", len(sizes.planned) + 3) as stage:
        quality.warm_up()
        stage.advance()
        for case in _made(sizes.planned, stage):
            quality_rows += quality.compare(case, limit=sizes.limit)
        quality_rows += quality.compare_long(sizes.compared)
        stage.advance()
        chain_rows = list(quality.chains(sizes.chain))
        stage.advance()
    speed_rows: list[dict[str, Any]] = []
    with timer.stage("contracting on the CPU", len(sizes.contracted)) as stage:
        for case in _made(sizes.contracted, stage):
            speed_rows.append(speed.compare(case, device, rounds=sizes.rounds))
            if case.varying:
                speed_rows.append(speed.compare(case, device, rounds=sizes.rounds, constants=True))
                speed_rows.append(speed.compare_many(case, device, rounds=sizes.rounds))
    if card is not None:
        cuquantum = found["cuquantum"].available
        with timer.stage("contracting on the GPU", len(sizes.contracted)) as stage:
            for case in _made(sizes.contracted, stage):
                speed_rows += gpu.compare(
                    case, card, rounds=sizes.rounds, limit=sizes.limit, cuquantum=cuquantum
                )
    overhead_rows = []
    with timer.stage("overhead of small steps", len(sizes.extents)) as stage:
        for extent in sizes.extents:
            overhead_rows.append(overhead.compare(extent, device, rounds=sizes.rounds))
            stage.advance()
    about = origin()
    return {
        "format": FORMAT,
        "version": VERSION,
        "command": command,
        **about,
        "versions": about["versions"]
        | {name: one.version for name, one in found.items() if one.available and one.version},
        "devices": {one.backend: asdict(one) for one in (device, card) if one is not None},
        "settings": {
            "rounds": sizes.rounds,
            "finder_limit": sizes.limit,
            "extents": list(sizes.extents),
        },
        "quality": quality_rows,
        "chains": chain_rows,
        "speed": speed_rows,
        "overhead": overhead_rows,
        "seconds": dict(timer.seconds),
    }


def _made(makers: tuple[Maker, ...], stage: Stage) -> Iterator[Case]:
    for make in makers:
        yield make()
        stage.advance()


def _mps(dim: int, modulus: int, bond: int, count: int, opened: int = 0) -> Maker:
    more = f", {opened} sites open" if opened else ""
    name = f"MPS, D={dim}, P={modulus}, bond {bond}{more}"
    return lambda: networks.amplitudes(name, networks.mps_state(dim, modulus, bond), count, opened=opened)


def _tree(levels: int, modulus: int, bond: int, count: int) -> Maker:
    name = f"tree, D={2**levels - 1}, P={modulus}, bond {bond}"
    return lambda: networks.amplitudes(name, networks.tree_state(levels, modulus, bond), count)


def _grid(rows: int, columns: int, modulus: int, bond: int, count: int) -> Maker:
    name = f"{rows} × {columns} grid, P={modulus}, bond {bond}"
    return lambda: networks.amplitudes(name, networks.grid_state(rows, columns, modulus, bond), count)


def _regular(count: int, bond: int) -> Maker:
    name = f"3-regular, {count} tensors, bond {bond}"
    return lambda: networks.case(name, networks.regular(count, 3, bond))


def _circuit(rows: int, columns: int, depth: int) -> Maker:
    name = f"circuit, {rows} × {columns}, depth {depth}"
    return lambda: networks.case(name, networks.circuit(rows, columns, depth))


def _chain(dim: int, bond: int, count: int) -> Maker:
    return lambda: networks.batched_chain(dim, bond, count)
