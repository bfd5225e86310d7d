"""Matrix product states as lists of cores (left bond, site, right bond).

Canonical form, sums, compression, sampling and amplitudes, for a whole batch at once and with a log-scale
of its own for every element.

Works on NumPy and CuPy arrays alike. Stock samplers underflow at a few hundred sites; here every row of a
batch is renormalised at every site (Schollwoeck, Annals of Physics 326 (2011) 96, sections 4.4 and 4.5, for
the canonical form and the truncation).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.backends import array_module, to_host
from engine.drawing import draw
from engine.scaled import Scaled

Cores = list[Any]

_GATHERED = 2**18  # elements of the matrices that a batch picks at a site; beyond, equal picks are grouped
_BLOCK = 2**23  # elements of the widest array of one block of a batch (128 MiB in complex128)


def check_cores(cores: Sequence[Any], name: str = "cores") -> Cores:
    """Return the cores in one dtype, single or double precision, if they chain up from bond 1 to bond 1.

    Raises:
        ValueError: no cores, a core that is not three-dimensional, an extent of 0, bonds that do not
            match, or a NaN.
    """
    if not isinstance(cores, Sequence) and not hasattr(cores, "__len__"):
        raise ValueError(f"{name} is a {type(cores).__name__}; give a list of arrays, one per site")
    if len(cores) == 0:
        raise ValueError(f"{name} is empty; give one core of shape (left, site, right) per site")
    xp = array_module(cores[0])
    arrays = [xp.asarray(core) for core in cores]
    dtype = np.result_type(*(array.dtype for array in arrays))
    if dtype.kind not in "biufc":
        raise ValueError(f"{name} have dtype {dtype}; give numbers")
    left = 1
    for number, array in enumerate(arrays):
        if array.ndim != 3 or 0 in array.shape:
            raise ValueError(
                f"core {number} has shape {array.shape}; it must be (left, site, right), none of them 0"
            )
        if array.shape[0] != left:
            raise ValueError(f"core {number} has left bond {array.shape[0]}; the bond before it is {left}")
        if not bool(xp.isfinite(array).all()):
            raise ValueError(f"core {number} holds a NaN or an infinity")
        left = array.shape[2]
    if left != 1:
        raise ValueError(f"the last core has right bond {left}; it must be 1")
    wanted = np.result_type(dtype, np.float32) if dtype.kind in "fc" else np.float64
    return [array.astype(wanted) for array in arrays]


def right_canonical(cores: Cores) -> tuple[Cores, float]:
    """Bring cores to right-canonical form and unit norm.

    Returns:
        (cores, log_norm): every core but the first has orthonormal rows when read as a
        (left) x (site * right) matrix, the first has norm 1, and the state is exp(log_norm) times them.
        A state that is zero, or cancels to rounding, has log_norm -inf.
    """
    xp = array_module(cores[0])
    result = list(cores)
    log_norm = 0.0
    for site in range(len(cores) - 1, -1, -1):
        core = result[site]
        left, extent, right = core.shape
        peak = float(xp.abs(core).max())
        if peak == 0:
            return result, -np.inf
        core = core / peak  # first, so that squares neither overflow nor vanish
        norm = float(xp.linalg.norm(core))
        log_norm += float(np.log(peak) + np.log(norm))
        core = core / norm
        if site == 0:
            result[0] = core
            break
        q, r = xp.linalg.qr(core.reshape(left, extent * right).T)
        result[site] = q.T.reshape(-1, extent, right)
        before = result[site - 1]
        result[site - 1] = xp.tensordot(before, r.T, axes=1)
        # r has norm 1: what is left of a core at rounding is a state that cancels
        rounding = 16 * float(np.finfo(before.dtype).eps)
        if float(xp.abs(result[site - 1]).max()) <= rounding * float(xp.abs(before).max()):
            return result, -np.inf
    return result, log_norm


def add(left: Cores, right: Cores) -> Cores:
    """The sum of two states, with the sum of their bonds."""
    xp = array_module(left[0])
    if len(left) == 1:
        return [left[0] + right[0]]
    result = [xp.concatenate([left[0], right[0]], axis=2)]
    for a, b in zip(left[1:-1], right[1:-1], strict=True):
        core = xp.zeros(
            (a.shape[0] + b.shape[0], a.shape[1], a.shape[2] + b.shape[2]), np.result_type(a.dtype, b.dtype)
        )
        core[: a.shape[0], :, : a.shape[2]] = a
        core[a.shape[0] :, :, a.shape[2] :] = b
        result.append(core)
    result.append(xp.concatenate([left[-1], right[-1]], axis=0))
    return result


def compress(cores: Cores, tolerance: float, max_bond: int | None = None) -> tuple[Cores, float]:
    """Truncate the bonds of a unit-norm, right-canonical state by singular value decomposition.

    Args:
        cores: as `right_canonical` returns them.
        tolerance: the largest relative error ||f - compressed|| / ||f|| to aim at.
        max_bond: the largest bond, whatever the error.

    Returns:
        (cores, error): left-canonical cores, not renormalised, and the relative error actually made. The
        discarded weights of the successive projections add up exactly: error^2 = sum of them.
    """
    xp = array_module(cores[0])
    result = list(cores)
    budget = tolerance**2 / max(1, len(cores) - 1)
    lost = 0.0
    for site in range(len(cores) - 1):
        left, extent, right = result[site].shape
        u, s, vh = xp.linalg.svd(result[site].reshape(left * extent, right), full_matrices=False)
        kept, dropped = truncation(s**2, budget, max_bond)
        lost += dropped
        result[site] = u[:, :kept].reshape(left, extent, kept)
        result[site + 1] = xp.tensordot(s[:kept, None] * vh[:kept], result[site + 1], axes=1)
    return result, float(np.sqrt(lost))


def truncation(weights: Any, budget: float, max_bond: int | None) -> tuple[int, float]:
    """How many of the descending `weights` to keep so that the rest sums to at most `budget`.

    With a budget of 0 or below nothing but zeros is dropped.

    Returns:
        (count, weight dropped); at least one is kept, and at most `max_bond`.
    """
    tails = np.append(np.cumsum(to_host(weights).astype(np.float64)[::-1])[::-1], 0.0)
    kept = max(1, int(np.argmax(tails <= max(budget, 0.0))))
    if max_bond is not None:
        kept = min(kept, max_bond)
    return kept, float(tails[kept])


def sample(cores: Cores, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw sites s ~ |<s|psi>|^2 from a right-canonical state, exactly, all `count` samples together.

    Cost per sample: sum over sites of left * site * right multiply-adds.

    Args:
        cores: right-canonical, as `right_canonical` returns them.
        count: the number of samples N.
        rng: draws N * L uniforms on the host, so that a seed means the same samples on every device.

    Returns:
        (sites, log_probability): int64 of shape (N, L), and float64 of shape (N,).
    """
    xp = array_module(cores[0])
    uniforms = rng.random((count, len(cores)))
    sites = np.empty((count, len(cores)), dtype=np.int64)
    log_probability = np.zeros(count)
    widest = max(core.shape[1] * core.shape[2] for core in cores)
    block = max(1, _BLOCK // widest)
    for start in range(0, count, block):
        rows = slice(start, min(start + block, count))
        size = rows.stop - rows.start
        left = xp.ones((size, 1), dtype=cores[0].dtype)
        each = xp.arange(size)
        for site, core in enumerate(cores):
            branches = (left @ core.reshape(core.shape[0], -1)).reshape(size, core.shape[1], core.shape[2])
            probability = xp.einsum("nsr,nsr->ns", branches, branches.conj()).real.astype(np.float64)
            chosen = draw(probability, xp.asarray(uniforms[rows, site]))
            weight = probability[each, chosen]
            left = branches[each, chosen] / xp.sqrt(weight)[:, None].astype(branches.real.dtype)
            sites[rows, site] = to_host(chosen)
            log_probability[rows] += to_host(xp.log(weight / probability.sum(axis=1)))
    return sites, log_probability


def right_vectors(cores: Cores, sites: np.ndarray) -> Scaled:
    """Contract a chain from the right with one site value picked per row and site.

    Args:
        cores: a chain ending in bond 1; its first left bond may be open.
        sites: int, shape (N, L).

    Returns:
        Scaled of shape (N, left bond), with one log-scale per row, shape (N, 1).
    """
    xp = array_module(cores[0])
    count = len(sites)
    vectors = xp.ones((count, 1), dtype=cores[0].dtype)
    log_scale = xp.zeros((count, 1))
    for core, column in zip(reversed(cores), sites.T[::-1], strict=True):
        if count * core.shape[0] * core.shape[2] <= _GATHERED:
            picked = core.transpose(1, 0, 2)[xp.asarray(column)]
            result = xp.matmul(picked, vectors[:, :, None])[:, :, 0]
        else:
            result = _grouped_product(vectors, core, column)
        peak = xp.abs(result).max(axis=1, keepdims=True)
        peak = xp.where(peak > 0, peak, xp.ones_like(peak))
        vectors = result / peak
        log_scale = log_scale + xp.log(peak.astype(np.float64))
    return Scaled(vectors, log_scale)


def _grouped_product(vectors: Any, core: Any, column: np.ndarray) -> Any:
    """One product for all rows that pick the same site value."""
    order = np.argsort(column, kind="stable")
    values, starts = np.unique(column[order], return_index=True)
    ends = np.append(starts[1:], len(column))
    result = array_module(core).empty((len(column), core.shape[0]), dtype=core.dtype)
    for value, start, end in zip(values, starts, ends, strict=True):
        rows = order[start:end]
        result[rows] = vectors[rows] @ core[:, value, :].T
    return result


def inner(bra: Cores, ket: Cores) -> Scaled:
    """<bra|ket>, conjugating the bra; a scalar with its log-scale."""
    xp = array_module(ket[0])
    environment = xp.ones((1, 1), dtype=np.result_type(bra[0].dtype, ket[0].dtype))
    log_scale = 0.0
    for a, b in zip(bra, ket, strict=True):
        environment = xp.tensordot(environment, b, axes=1)
        environment = xp.tensordot(a.conj(), environment, axes=([0, 1], [0, 1]))
        peak = float(xp.abs(environment).max())
        if peak > 0:
            environment = environment / peak
            log_scale += float(np.log(peak))
    return Scaled(environment[0, 0], log_scale)


def schmidt_values(cores: Cores) -> list[np.ndarray]:
    """The Schmidt coefficients at every bond of a unit-norm, right-canonical state, descending."""
    xp = array_module(cores[0])
    centre = cores[0]
    values = []
    for core in cores[1:]:
        left, extent, right = centre.shape
        _, s, vh = xp.linalg.svd(centre.reshape(left * extent, right), full_matrices=False)
        values.append(to_host(s))
        centre = xp.tensordot(s[:, None] * vh, core, axes=1)
    return values
