"""Canonical forms, truncation and Schmidt values of chains of cores (left bond, site, right bond).

Orthonormal factors and singular values are found in double precision, one core at a time, and cast back to
the precision of the cores: a chain in complex64 stays accurate over ten thousand sites, and no more than one
core is ever held twice (Schollwoeck, Annals of Physics 326 (2011) 96, sections 4.4 and 4.5).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from qrt_tn.engine.backends import array_module, to_host
from qrt_tn.engine.progress import shown

Cores = list[Any]
_NOTHING = -(2**40)  # the exponent of zero
_REACH = 2200  # shifts beyond the floating range of every number


def check_cores(cores: Sequence[Any], name: str = "cores") -> Cores:
    """Return the cores in one dtype, single or double precision, if they chain up from bond 1 to bond 1.

    Raises:
        ValueError: no cores, a core that is not three-dimensional or holds no numbers, an extent of 0, bonds
            that do not match, a NaN or an infinity.
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
    return [array.astype(wanted, copy=False) for array in arrays]


def right_canonical(cores: Cores) -> tuple[Cores, float]:
    """Bring cores to right-canonical form and unit norm.

    Returns:
        (cores, log_norm): every core but the first has orthonormal rows when read as a
        (left) x (site * right) matrix, the first has norm 1, and the state is exp(log_norm) times them.
        A state that is zero, or cancels to rounding, has log_norm -inf.
    """
    return canonical(cores, 0)


def left_canonical(cores: Cores) -> tuple[Cores, float]:
    """As `right_canonical`, with orthonormal columns of (left * site) x (right) in all cores but the last."""
    return canonical(cores, len(cores) - 1)


def canonical(cores: Cores, centre: int) -> tuple[Cores, float]:
    """Bring cores to unit norm and mixed-canonical form: left-canonical before `centre`, right after it.

    Returns:
        (cores, log_norm), as `right_canonical`; the core at `centre` has norm 1.

    Raises:
        ValueError: no such centre.
    """
    if not 0 <= centre < len(cores):
        raise ValueError(f"the centre is {centre}; it must lie in 0..{len(cores) - 1}")
    xp = array_module(cores[0])
    dtype = np.result_type(*(core.dtype for core in cores))
    head, left, rows, log_left = _orthonormal_rows(_mirrored(cores[:centre]), cores[0], dtype)
    tail, right, columns, log_right = _orthonormal_rows(cores[centre + 1 :], cores[0], dtype)
    if -np.inf in (log_left, log_right):
        return list(cores), -np.inf
    core, own, top = balanced(cores[centre], columns)
    scales = own + rows - (own + rows).max()
    half = _absorbed(core, right, dtype, scales)
    core = None
    if half is not None:
        half = half * xp.ldexp(xp.ones(len(half)), scales)[:, None, None]
        core = _absorbed(half.transpose(2, 1, 0), left, dtype)
    if core is None:
        return list(cores), -np.inf
    core, log_norm = _normalised(core.transpose(2, 1, 0))
    result = [*_mirrored(head), core.astype(dtype), *tail]
    exponent = top + int((own + rows).max())
    return result, log_left + log_norm + log_right + exponent * math.log(2.0)


def balanced(core: Any, columns: Any) -> tuple[Any, Any, int]:
    """A core whose rows have their largest entry in [1/2, 1), by powers of two that the core before it takes.

    Numbers anywhere in the floating range, subnormal ones among them, go along a chain so without a loss.

    Args:
        core: (left, site, right).
        columns: a power of two that multiplies each right index, int, shape (right,).

    Returns:
        (core, rows, exponent): in double precision; the core given is 2**exponent times its rows with
        2**rows, int of shape (left,), the largest 0.
    """
    xp = array_module(core)
    wide = xp.ascontiguousarray(_double(core))
    parts = wide.view(np.float64).reshape(*wide.shape, -1)
    peak = xp.abs(parts).max(axis=(1, 3))
    rows = xp.where(peak > 0, xp.frexp(peak)[1] + columns, _NOTHING).max(axis=1)
    shift = xp.clip(columns - rows[:, None], -_REACH, _REACH)
    parts = xp.ldexp(parts, shift[:, None, :, None])
    top = int(rows.max())
    return parts.reshape(*wide.shape[:2], -1).view(wide.dtype), xp.maximum(rows - top, _NOTHING), top


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
    dtype = np.result_type(*(core.dtype for core in cores))
    result = []
    lost = 0.0
    centre = _double(cores[0])
    for place, core in enumerate(cores[1:], 1):
        # what earlier bonds left of their shares is the later ones' to spend
        budget = (tolerance**2 - lost) / (len(cores) - place)
        left, extent, right = centre.shape
        u, s, vh = xp.linalg.svd(centre.reshape(left * extent, right), full_matrices=False)
        kept, dropped = truncation(s**2, budget, max_bond)
        lost += dropped
        result.append(u[:, :kept].reshape(left, extent, kept).astype(dtype))
        centre = xp.tensordot(s[:kept, None] * vh[:kept], _double(core), axes=1)
    result.append(centre.astype(dtype))
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


def schmidt_values(cores: Cores) -> list[np.ndarray]:
    """The Schmidt coefficients at every bond of a unit-norm, right-canonical state, descending, float64."""
    xp = array_module(cores[0])
    centre = _double(cores[0])
    values = []
    for core in cores[1:]:
        left, extent, right = centre.shape
        _, s, vh = xp.linalg.svd(centre.reshape(left * extent, right), full_matrices=False)
        values.append(to_host(s))
        centre = xp.tensordot(s[:, None] * vh, _double(core), axes=1)
    return values


def _double(core: Any) -> Any:
    return core.astype(np.result_type(core.dtype, np.float64), copy=False)


def _mirrored(cores: Cores) -> Cores:
    return [core.transpose(2, 1, 0) for core in reversed(cores)]


def _orthonormal_rows(cores: Cores, like: Any, dtype: np.dtype) -> tuple[Cores, Any, Any, float]:
    """Make the rows of all cores orthonormal, the last first, on the device of `like`.

    Returns:
        (cores, factor, rows, log_scale): the state is exp(log_scale) times the chain of 2**rows, `factor` of
        norm 1 and shape (left bond, new left bond), and the cores. A state that is zero has log_scale -inf.
    """
    xp = array_module(like)
    factor, rows = xp.ones((1, 1), dtype=np.float64), xp.zeros(1, dtype=np.int64)
    log_scale = 0.0
    result: Cores = []
    with shown(None, len(cores), "sites") as progress:
        for core in reversed(cores):
            even, rows, exponent = balanced(core, rows)
            wide = _absorbed(even, factor, core.dtype, rows)
            if wide is None:
                return cores, factor, rows, -np.inf
            wide, log_norm = _normalised(wide)
            log_scale += log_norm + exponent * math.log(2.0)
            q, r = xp.linalg.qr(wide.reshape(len(wide), -1).T)
            result.append(q.T.reshape(-1, *wide.shape[1:]).astype(dtype))
            factor = r.T
            progress(len(result), len(cores))
    result.reverse()
    return result, factor, rows, log_scale


def _absorbed(core: Any, factor: Any, dtype: np.dtype, rows: Any = None) -> Any:
    """Core @ factor in double precision; None where its terms cancel to the rounding of the core's own dtype.

    Terms are compared with what they would add up to without signs, not with the largest core or factor,
    which depends on the gauge: a weak bond may lie between strong ones. Row i counts 2**rows[i] times.
    """
    xp = array_module(core)
    wide = xp.tensordot(core, factor, axes=1)
    unsigned = xp.tensordot(xp.abs(core), xp.linalg.norm(factor, axis=1), axes=1)
    weights = xp.ldexp(xp.ones(len(core)), 0 * xp.arange(len(core)) if rows is None else rows)
    left, most = (
        (xp.abs(each).max(axis=tuple(range(1, each.ndim))) * weights).max() for each in (wide, unsigned)
    )
    return None if float(left) <= 16 * float(np.finfo(dtype).eps) * float(most) else wide


def _normalised(core: Any) -> tuple[Any, float]:
    """A core of norm 1 and the log of the norm it had."""
    xp = array_module(core)
    peak = float(xp.abs(core).max())
    core = core / peak  # first, so that squares neither overflow nor vanish
    norm = float(xp.linalg.norm(core))
    return core / norm, float(np.log(peak) + np.log(norm))
