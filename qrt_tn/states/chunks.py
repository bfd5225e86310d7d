"""Nodes are drawn a chunk at a time: how many that are, and the memory it takes."""

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
