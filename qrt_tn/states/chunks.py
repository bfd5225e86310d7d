"""Nodes are drawn a chunk at a time: how many that are, and the memory it takes."""

from qrt_tn.engine.backends import device_memory
from qrt_tn.engine.plan import bytes_text
from qrt_tn.states.base import State

_MOST = 4096  # nodes of a chunk
_VALUES = 2**25  # coordinates, or profile values, of the nodes of a chunk (256 MiB)


def chunk_rows(state: State) -> int:
    """How many nodes a chunk has: by the state alone, so that a seed means the same nodes anywhere."""
    return max(1, min(_MOST, _VALUES // max(state.modulus * state.outputs, state.dim)))


def drawing_bytes(state: State, count: int, harmonics: int) -> float:
    """Bytes of drawing one chunk of `count` nodes for a ridgelet of so many harmonics."""
    return state._drawing(min(count, chunk_rows(state)), harmonics).memory


def node_bytes(state: State, count: int) -> int:
    """Bytes of `count` nodes: weights, thresholds and log-probabilities."""
    return 8 * count * (state.dim + 2)


def check_free(needed: float, backend: str, what: str, advice: str) -> None:
    """Check that so many bytes are free on a backend's device, where it says how many are.

    Raises:
        ValueError: they are not; `what` begins the message, such as "nodes take", and `advice` ends it.
    """
    total, free = device_memory(backend)
    free = total if free is None else free
    if free is not None and needed > free:
        raise ValueError(f"{what} {bytes_text(needed)}, and {bytes_text(free)} are free; {advice}")
