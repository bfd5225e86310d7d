"""Hidden nodes for the experts of a mixture: of no data, or of the QRT of the task, in three ways."""

from dataclasses import dataclass

import numpy as np
from sklearn.cluster import KMeans

from qrt_tn import QuantumRidgeletTransform, RidgeNodes, filter_nodes
from qrt_tn.engine.arguments import Seed, check_whole, generator
from qrt_tn.field import centred
from qrt_tn.states import MPSState

INITIALISATIONS = ("uniform", "filter", "transform", "clusters", "classes")
POOL = 8  # draws for each node that is wanted, to cluster
STARTS = 4  # of k-means


@dataclass(frozen=True, eq=False)
class InitialExperts:
    """Where the experts of a mixture begin.

    Attributes:
        nodes: m hidden nodes of each of the E experts.
        share: the ridgelet mass of each expert's part, where the initialisation splits the transform into E
            parts, shape (E,); else None.
    """

    nodes: tuple[RidgeNodes, ...]
    share: np.ndarray | None = None


def expert_nodes(
    name: str,
    transform: QuantumRidgeletTransform,
    experts: int,
    nodes: int,
    *,
    smoothing: float,
    seed: Seed = 0,
) -> InitialExperts:
    """The hidden nodes of the experts by an initialisation.

    - "uniform": a uniform over all but 0, b uniform. On a fine grid such nodes have high frequencies, and
      generalise badly;
    - "filter": drawn from the smoothing filter alone (`filter_nodes`), which has the frequencies of the
      smoothed transform and knows no data: the fair random start;
    - "transform": every expert draws from the transform;
    - "clusters": see `cluster_nodes`;
    - "classes": see `class_nodes`.

    Args:
        name: one of INITIALISATIONS.
        transform: of the smoothed data state.
        experts: E.
        nodes: m of each.
        smoothing: the width of the filter.

    Raises:
        ValueError: an unknown name, E or m below 1, or a state that has not what the initialisation needs.
    """
    check_whole("experts", experts)
    check_whole("nodes", nodes)
    if name not in INITIALISATIONS:
        raise ValueError(f"unknown initialisation {name!r}; choose one of {', '.join(INITIALISATIONS)}")
    rng, count = generator(seed), experts * nodes
    if name == "clusters":
        return cluster_nodes(transform, experts, nodes, rng)
    if name == "classes":
        return class_nodes(transform, experts, nodes, rng)
    if name == "transform":
        drawn = transform.sample(count, rng)
    else:
        # a filter that lets everything through: uniform over a != 0
        passed = np.ones((1, transform.modulus)) if name == "uniform" else smoothing
        drawn = filter_nodes(count, transform.dim, transform.ridgelet, passed, rng)
    return InitialExperts(tuple(drawn[start : start + nodes] for start in range(0, count, nodes)))


def cluster_nodes(
    transform: QuantumRidgeletTransform, experts: int, nodes: int, seed: Seed = 0
) -> InitialExperts:
    """One cluster of directions, among POOL E m draws of the transform, for each expert.

    The directions are a / |a|, a the centred representatives, where a and -a are one: k-means runs on the
    projectors a a^T / |a|^2, at which two directions have the squared distance 2 - 2 cos^2. An expert takes
    the first m draws of its cluster; one with fewer is filled with the nearest draws that are left over. Its
    share is that of the draws in its cluster, an unbiased estimate of sum |R[f](a, b)|^2 over it.
    """
    rng = generator(seed)
    pool = transform.sample(POOL * experts * nodes, rng)
    a = centred(pool.a, pool.modulus).astype(np.float64)
    lengths = np.linalg.norm(a, axis=1, keepdims=True)
    a = np.divide(a, lengths, out=np.zeros_like(a), where=lengths > 0)
    gram = np.square(a @ a.T)
    # a direction counts where it comes first
    distinct = int((~np.tril(gram > 1 - 1e-13, -1).any(axis=1)).sum())
    if distinct < experts:
        raise ValueError(
            f"{len(pool)} draws have {distinct} directions, fewer than {experts} experts; give fewer experts"
        )
    # rows with the projectors' inner products, at any D; the diagonal keeps rounding from a negative pivot
    rows = np.linalg.cholesky(gram + 1e-9 * np.eye(len(gram)))
    found = KMeans(experts, n_init=STARTS, random_state=int(rng.integers(2**31))).fit(rows)
    own = [np.flatnonzero(found.labels_ == expert)[:nodes] for expert in range(experts)]
    spare = np.setdiff1d(np.arange(len(pool)), np.concatenate(own))
    distance = found.transform(rows)
    for expert, members in enumerate(own):
        nearest = spare[np.argsort(distance[spare, expert], kind="stable")][: nodes - len(members)]
        own[expert], spare = np.concatenate([members, nearest]), np.setdiff1d(spare, nearest)
    share = np.bincount(found.labels_, minlength=experts) / len(pool)
    return InitialExperts(tuple(pool[members] for members in own), share)


def class_nodes(
    transform: QuantumRidgeletTransform, experts: int, nodes: int, seed: Seed = 0
) -> InitialExperts:
    """One class for each expert: its nodes are drawn from the transform of these outputs alone.

    With E = C, expert e has class e; with fewer experts, the classes e, e + E, ...; with more, the class
    e mod C. The outputs are taken from the state that is held, so that nothing is compressed anew. The
    share of an expert is sum_c ||f_c||^2 / ||f||^2 over its classes, which as R is an isometry is the mass
    of their transform. The state must be a matrix product state with an axis of classes.
    """
    state = transform.state
    if not isinstance(state, MPSState) or not state.vector:
        raise ValueError(
            f"a {type(state).__name__} of {state.outputs} outputs has no classes to part; make it with"
            " states.from_samples(x, one_hot(y), ..., smoothing=w)"
        )
    rng = generator(seed)
    drawn, share = [], []
    for expert in range(experts):
        classes = range(expert % state.outputs, state.outputs, experts)
        cores = [state.cores[0][:, classes], *state.cores[1:]]
        part = MPSState(cores, state.supports, state.modulus, vector=True, log_norm=state.log_norm)
        drawn.append(QuantumRidgeletTransform(part, transform.ridgelet, transform.backend).sample(nodes, rng))
        share.append(np.exp(2 * (part.log_norm - state.log_norm)))
    return InitialExperts(tuple(drawn), np.asarray(share))
