"""Whether what pruning leaves lies nearer to QRT nodes than chance has it."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from qrt_tn import RidgeNodes
from qrt_tn.field import centred
from qrt_tn.models.tickets import direction_overlap, subspace_overlap
from qrt_tn.ridgelet import Ridgelet

Row = dict[str, Any]
BAND = (2.5, 97.5)  # percentiles of the null


def frequencies(nodes: RidgeNodes, ridgelet: Ridgelet) -> np.ndarray:
    """The frequency u = v a mod P, centred, that a node most likely stands for; shape (N, D).

    v is the harmonic in 1 .. (P-1)/2 at which |r^(v)| is largest: 1 for the cosine and the triangle. Its
    negative gives -u, the same direction. Nodes with a = 0 have no direction and are left out.
    """
    modulus = nodes.modulus
    half = np.abs(ridgelet.spectrum[1 : modulus // 2 + 1])
    u = centred((int(half.argmax()) + 1) * nodes.a % modulus, modulus)
    return u[u.any(axis=1)]


def masked_columns(kept: np.ndarray, wide: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Random directions of the over-wide network, each with as many random entries as one that was kept.

    Sparse directions have other cosines than full ones; this null shares their sparsity.

    Args:
        kept: shape (N, D), 0 where pruned.
        wide: shape (W, D), W at least N.
        rng: draws.
    """
    rows = wide[rng.choice(len(wide), len(kept), replace=False)]
    counts = (kept != 0).sum(axis=1, keepdims=True)
    places = rng.random(kept.shape).argsort(axis=1).argsort(axis=1)
    return np.where(places < counts, rows, 0.0)


def random_rows(pool: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` of a pool's directions, without replacement."""
    return pool[rng.choice(len(pool), count, replace=False)]


def overlap_rows(
    groups: Mapping[str, np.ndarray],
    reference: np.ndarray,
    null: Callable[[np.random.Generator], np.ndarray],
    *,
    nodes: int,
    seed: int,
    rank: int,
    draws: int,
) -> list[Row]:
    """Both overlaps of directions with a reference, beside the same for draws of a null.

    Args:
        groups: by the name of a group, its directions, shape (N, D).
        reference: shape (R, D).
        null: draws directions of shape (N, D) that chance could have left.
        nodes: the node count they are compared at.
        seed: of the fold, and of the null.
        rank: of the subspaces; taken lower where a set has fewer directions.
        draws: of the null.

    Returns:
        Rows of measure ("directions" or "subspace"), group, nodes, seed, value, null_low and null_high, the
        band of 95 % of the null's draws.
    """
    rng = np.random.default_rng([seed, nodes])
    chance = [null(rng) for _ in range(draws)]
    # the triangular factor of a large reference has its right singular vectors, and few rows
    spanning = np.asarray(np.linalg.qr(reference, mode="r"))
    sets: list[np.ndarray] = [*groups.values(), spanning, *chance]
    common = min(rank, *map(_rank, sets))
    measures: dict[str, Callable[[np.ndarray], float]] = {
        "directions": lambda one: direction_overlap(one[one.any(axis=1)], reference),
        "subspace": lambda one: subspace_overlap(one, spanning, common),
    }
    rows = []
    for measure, value in measures.items():
        low, high = np.percentile([value(one) for one in chance], BAND)
        rows += [
            {
                "measure": measure,
                "group": group,
                "nodes": nodes,
                "seed": seed,
                "value": value(found),
                "null_low": float(low),
                "null_high": float(high),
            }
            for group, found in groups.items()
        ]
    return rows


def _rank(directions: np.ndarray) -> int:
    """The rank of directions, from their small D x D Gram matrix."""
    return int(np.linalg.matrix_rank((directions.T @ directions).astype(np.float64), hermitian=True))
