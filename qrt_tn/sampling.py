"""Nodes drawn in chunks: of a size that no machine changes, each from a stream of its own, kept if asked.

Chunk k of a run depends on the seed and on k alone, so a job that was killed goes on with the chunks that
are missing and ends with the same nodes as one that never was.
"""

import hashlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from qrt_tn.engine.arguments import Seed, generator
from qrt_tn.engine.backends import device_memory
from qrt_tn.engine.drawing import draw_running
from qrt_tn.engine.plan import bytes_text
from qrt_tn.engine.progress import Progress, shown
from qrt_tn.engine.resume import claim, of_another_run
from qrt_tn.engine.scaled import Scaled
from qrt_tn.nodes import RidgeNodes
from qrt_tn.ridgelet import Ridgelet
from qrt_tn.states.base import State
from qrt_tn.states.chunks import chunk_rows, drawing_bytes, node_bytes

KIND = "qrt-tn.sampling"
MANIFEST = "sampling.json"
_FINGERPRINTS = 16  # draws that tell one state from another
# relative, of their amplitudes, by precision; two machines, or numbers of threads, round differently
_ALIKE = {"complex64": 1e-4, "complex128": 1e-6}


def sample_chunks(
    state: State,
    ridgelet: Ridgelet,
    count: int,
    seed: Seed,
    checkpoint: Path | None,
    progress: Progress | None,
) -> Iterator[RidgeNodes]:
    """Draw `count` nodes, a chunk after the other; what is wrong is told before the first.

    Args:
        state: f, on its backend.
        ridgelet: of the same modulus.
        count: the number of nodes N.
        seed: an int, or a generator where there is no checkpoint.
        checkpoint: a folder that chunks are kept in, and read from where they are there.
        progress: called with (nodes done, N); left out, a bar appears after two seconds in a terminal.

    Raises:
        ValueError: a checkpoint with a generator for a seed, or one that holds another run.
    """
    starts = range(0, count, chunk_rows(state))
    shared = generator(seed)
    if checkpoint is not None:
        if isinstance(seed, np.random.Generator):
            raise ValueError("a checkpoint needs an int seed: a generator cannot be taken up again")
        settings = [count, starts.step, int(seed), state.modulus, state.dim, state.outputs]
        _claim(checkpoint, state, ridgelet, settings, len(starts))

    def chunks() -> Iterator[RidgeNodes]:
        with shown(progress, count, "nodes") as tell:
            for number, start in enumerate(starts):
                size = min(starts.step, count - start)
                nodes = None if checkpoint is None else _kept(checkpoint, number)
                if nodes is None:
                    # the first chunk is the seed's own stream, the others streams beside it
                    rng = shared
                    if number and not isinstance(seed, np.random.Generator):
                        rng = np.random.default_rng([int(seed), number])
                    nodes = _drawn(state, ridgelet, size, rng)
                    if checkpoint is not None:
                        nodes.save(_path(checkpoint, number))
                tell(start + size, count)
                yield nodes

    return chunks()


def together(chunks: Iterator[RidgeNodes], count: int, dim: int) -> RidgeNodes:
    """Nodes of all chunks in one, of which each is held no longer than it takes to copy it.

    Args:
        chunks: of `count` nodes.
        count: N.
        dim: D.
    """
    first = next(chunks)
    if len(first) == count:
        return first
    a = np.empty((count, dim), dtype=np.int64)
    b = np.empty(count, dtype=np.int64)
    log_probability = np.empty(count)
    start = 0
    for part in itertools.chain([first], chunks):
        rows = slice(start, start + len(part))
        a[rows], b[rows], log_probability[rows] = part.a, part.b, part.log_probability
        start = rows.stop
    return RidgeNodes(a, b, log_probability, first.modulus)


def check_room(state: State, ridgelet: Ridgelet, count: int, *, whole: bool) -> None:
    """See before any work that the nodes, and what drawing a chunk of them takes, fit in memory.

    Args:
        state: f.
        ridgelet: tells the harmonics.
        count: the number of nodes N.
        whole: whether all nodes are held at once.

    Raises:
        ValueError: they do not; the message says how much they take and what to do instead.
    """
    drawing = drawing_bytes(state, count, int(np.count_nonzero(ridgelet.spectrum)))
    free = device_memory(state.backend)[1]
    if free is not None and drawing > free:
        rows = min(count, chunk_rows(state))
        raise ValueError(
            f"drawing {rows} nodes takes about {bytes_text(drawing)}, and {bytes_text(free)} are free; "
            "draw fewer nodes at once, or hold the state with fewer points or a smaller bond"
        )
    # nodes are held on the host, beside what draws them there
    held = node_bytes(state, count) if whole else 0
    free = device_memory("numpy")[1]
    if free is not None and held + (drawing if state.backend == "numpy" else 0) > free:
        raise ValueError(
            f"{count} nodes in {state.dim} dimensions take {bytes_text(held)}, and {bytes_text(free)} are "
            "free; take them chunk by chunk from sample_chunks(n, seed, checkpoint=folder)"
        )


def check_values(state: State, count: int) -> None:
    """See before any work that the profiles of so many weights fit in memory.

    Raises:
        ValueError: they do not.
    """
    free = device_memory("numpy")[1]
    # the values, and as much again while blocks are put together
    needed = 2 * 16 * count * state.modulus * state.outputs
    if free is not None and needed > free:
        raise ValueError(
            f"profiles of {count} weights take {bytes_text(needed)}, and {bytes_text(free)} are free; "
            "ask for fewer at once"
        )


def load_chunks(folder: str | Path) -> Iterator[RidgeNodes]:
    """The nodes of a finished job, a chunk after the other.

    Args:
        folder: what was given as `checkpoint`.

    Raises:
        ValueError: no such job, or one with chunks missing.
    """
    folder = Path(folder)
    try:
        total = json.loads((folder / MANIFEST).read_text())["chunks"]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{folder} holds no sampling job; name the folder given as checkpoint") from error
    for number in range(total):
        if not _path(folder, number).is_file():
            raise ValueError(_missing(folder, number, total))

    def chunks() -> Iterator[RidgeNodes]:
        for number in range(total):
            nodes = _kept(folder, number)
            if nodes is None:  # there, but damaged
                raise ValueError(_missing(folder, number, total))
            yield nodes

    return chunks()


def _missing(folder: Path, number: int, total: int) -> str:
    return f"chunk {number} of {total} is missing in {folder}; run the same sampling again to finish it"


def _drawn(state: State, ridgelet: Ridgelet, count: int, rng: np.random.Generator) -> RidgeNodes:
    harmonics = np.abs(ridgelet.spectrum) ** 2
    v = draw_running(np.cumsum(harmonics), rng.random(count))
    a, b, log_probability = state.draw(v, ridgelet, rng)
    return RidgeNodes(a, b, log_probability, state.modulus)


def _kept(folder: Path, number: int) -> RidgeNodes | None:
    try:
        return RidgeNodes.load(_path(folder, number))
    except ValueError:
        return None  # not there, or damaged: drawn again


def _path(folder: Path, number: int) -> Path:
    return folder / f"nodes-{number:08d}.safetensors"


def _claim(folder: Path, state: State, ridgelet: Ridgelet, settings: list[int], chunks: int) -> None:
    """Make a folder the checkpoint of this run, or see that it is.

    A state is known by some draws and how likely they are. Rounding may move a draw, so a run that goes on
    looks at the draws of the one that began.

    Raises:
        ValueError: it is another run's.
    """
    described = json.dumps([type(state).__name__, *settings])
    values = [ridgelet.values.real.tolist(), ridgelet.values.imag.tolist()]

    def facts() -> dict[str, Any]:
        drawn = state.sample_spectrum(_FINGERPRINTS, seed=0)
        logs, directions, _ = _amplitudes(state, drawn)
        return {
            "chunks": chunks,
            "ridgelet": values,
            "drawn": drawn.tolist(),
            "log_amplitudes": logs.tolist(),
            "directions": directions.tolist(),
        }

    identity = hashlib.blake2b(described.encode(), digest_size=20).hexdigest()
    known = claim(folder, identity, KIND, MANIFEST, facts)
    try:
        drawn = np.array(known["drawn"], dtype=np.int64).reshape(-1, state.dim)
        told = [np.array(known[name]) for name in ("ridgelet", "log_amplitudes", "directions")]
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{folder / MANIFEST} is not whole; delete the folder {folder}") from error
    logs, directions, alike = _amplitudes(state, drawn)
    ours = [np.array(values), logs, directions]
    for own, there, most in zip(ours, told, (1e-9, alike, alike), strict=True):
        if own.shape != there.shape or not np.allclose(own, there, rtol=0, atol=most):
            raise ValueError(of_another_run(folder))


def _amplitudes(state: State, u: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """f^(u) over all classes: what tells one f from another.

    Phases count: a shifted f has the same moduli, and other thresholds b.

    Returns:
        (logs, directions, alike): the modulus with the norm of f, log -1e300 where it is 0; real and
        imaginary parts of the unit vector over the classes; and how far rounding may move either.
    """
    values = state.spectrum(u)
    columns = Scaled(values.mantissa.reshape(len(u), -1), values.log_scale.reshape(len(u), -1)).rescaled(1)
    mantissa = columns.mantissa.astype(np.complex128)
    size = np.linalg.norm(mantissa, axis=1, keepdims=True)
    there = size > 0
    unit = np.where(there, mantissa / np.where(there, size, 1.0), 0.0)
    logs = np.log(np.where(there, size, 1.0)) + columns.log_scale + state.log_norm
    alike = _ALIKE[columns.mantissa.dtype.name]
    return np.where(there, logs, -1e300)[:, 0], np.stack([unit.real, unit.imag]), alike
