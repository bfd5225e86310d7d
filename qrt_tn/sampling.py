"""Draw nodes in chunks, and resume a sampling run from the chunks that are on disk.

Chunk k depends on the seed and on k alone, and its size on the state alone. So a run that was killed draws
the chunks that are missing or damaged, and ends with the same nodes as one that was not. A checkpoint knows
its run by a hash of the state's arrays, the ridgelet's values, N and the seed.
"""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from qrt_tn.engine.arguments import Seed, generator
from qrt_tn.engine.checkpoints import claim, identity
from qrt_tn.engine.drawing import draw_running
from qrt_tn.engine.progress import Progress, shown
from qrt_tn.nodes import RidgeNodes
from qrt_tn.ridgelet import Ridgelet
from qrt_tn.states.base import State
from qrt_tn.states.chunks import check_free, chunk_rows, drawing_bytes, node_bytes

KIND = "qrt-tn.sampling 2"
MANIFEST = "sampling.json"


def sample_chunks(
    state: State,
    ridgelet: Ridgelet,
    count: int,
    seed: Seed,
    checkpoint: str | Path | None,
    progress: Progress | None,
) -> Iterator[RidgeNodes]:
    """Draw `count` nodes chunk by chunk, as `QuantumRidgeletTransform.sample_chunks`.

    The state is on its backend; the seed and the checkpoint are checked before the first chunk.

    Raises:
        ValueError: a checkpoint with a generator for a seed, or one that holds another run.
    """
    starts = range(0, count, chunk_rows(state))
    first = generator(seed)
    folder = None if checkpoint is None else Path(checkpoint)
    if folder is not None:
        if isinstance(seed, np.random.Generator):
            raise ValueError("a checkpoint needs an int seed: a generator cannot be taken up again")
        settings = {
            "nodes": (count, starts.step, int(seed)),
            "state": (type(state).__name__, state.modulus, state.dim, state.outputs, state.vector),
        }
        run = identity(settings, dict(enumerate([ridgelet.values, *state.arrays()])))
        claim(folder, run, KIND, MANIFEST, lambda: {"chunks": len(starts)})

    def chunks() -> Iterator[RidgeNodes]:
        with shown(progress, count, "nodes") as report:
            for number, start in enumerate(starts):
                size = min(starts.step, count - start)
                nodes = None if folder is None else _load(folder, number)
                if nodes is None:
                    # the first chunk is drawn from the seed's own stream, the others from streams beside it
                    rng = first
                    if number and not isinstance(seed, np.random.Generator):
                        rng = np.random.default_rng([int(seed), number])
                    nodes = _draw(state, ridgelet, size, rng)
                    if folder is not None:
                        nodes.save(_path(folder, number))
                report(start + size, count)
                yield nodes

    return chunks()


def joined_chunks(chunks: Iterator[RidgeNodes], count: int, dim: int) -> RidgeNodes:
    """All `count` nodes in D = `dim` dimensions in one, of which no chunk is kept beside its copy."""
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


def check_memory(state: State, ridgelet: Ridgelet, count: int, *, whole: bool) -> None:
    """Check that `count` nodes, all at once if `whole`, and the drawing of a chunk fit in memory.

    Raises:
        ValueError: they do not; the message gives the bytes and what to do instead.
    """
    drawing = drawing_bytes(state, count, int(np.count_nonzero(ridgelet.spectrum)))
    advice = "draw fewer nodes at once, or hold the state with fewer points or a smaller bond"
    rows = min(count, chunk_rows(state))
    check_free(drawing, state.backend, f"drawing {rows} nodes takes about", advice)
    # nodes are on the host, beside what draws them there
    nodes = node_bytes(state, count) if whole else 0
    needed = nodes + (drawing if state.backend == "numpy" else 0)
    advice = "take them chunk by chunk from sample_chunks(n, seed, checkpoint=folder)"
    check_free(needed, "numpy", f"{count} nodes in {state.dim} dimensions take", advice)


def check_profile_memory(state: State, count: int) -> None:
    """Check that the profiles of `count` weights fit in memory.

    Raises:
        ValueError: they do not.
    """
    needed = 2 * 16 * count * state.modulus * state.outputs  # half of it while blocks are joined
    check_free(needed, "numpy", f"profiles of {count} weights take", "ask for fewer at once")


def load_chunks(folder: str | Path) -> Iterator[RidgeNodes]:
    """The nodes of a finished sampling run, chunk by chunk.

    Args:
        folder: what was given as `checkpoint`.

    Raises:
        ValueError: no such run, or one with chunks missing or damaged.

    Example:
        >>> import numpy as np, tempfile
        >>> from qrt_tn import QuantumRidgeletTransform, Ridgelet, load_chunks, states
        >>> transform = QuantumRidgeletTransform(states.from_dense(np.eye(5)), Ridgelet("relu", 5), "numpy")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     nodes = transform.sample(10, checkpoint=folder)
        ...     [len(chunk) for chunk in load_chunks(folder)]
        [10]
    """
    folder = Path(folder)
    try:
        total = json.loads((folder / MANIFEST).read_text())["chunks"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder} holds no sampling run; name the folder given as checkpoint") from error
    advice = "run the same sampling again to finish it"
    for number in range(total):
        if not _path(folder, number).is_file():
            raise ValueError(f"chunk {number} of {total} is missing in {folder}; {advice}")

    def chunks() -> Iterator[RidgeNodes]:
        for number in range(total):
            nodes = _load(folder, number)
            if nodes is None:
                raise ValueError(f"chunk {number} of {total} is damaged in {folder}; {advice}")
            yield nodes

    return chunks()


def _draw(state: State, ridgelet: Ridgelet, count: int, rng: np.random.Generator) -> RidgeNodes:
    harmonics = np.abs(ridgelet.spectrum) ** 2
    v = draw_running(np.cumsum(harmonics), rng.random(count))
    a, b, log_probability = state.draw(v, ridgelet, rng)
    return RidgeNodes(a, b, log_probability, state.modulus)


def _load(folder: Path, number: int) -> RidgeNodes | None:
    """A chunk on disk; None where there is none, or a damaged one."""
    try:
        return RidgeNodes.load(_path(folder, number))
    except ValueError:
        return None


def _path(folder: Path, number: int) -> Path:
    return folder / f"nodes-{number:08d}.safetensors"
