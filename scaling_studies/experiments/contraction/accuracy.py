"""Sizes and errors of results that no float can hold: mantissas with powers of two beside them."""

import math

import numpy as np

from qrt_tn.engine.exponents import Part


def log_norm(part: Part) -> float | None:
    """The natural logarithm of the root of the sum of all squared moduli.

    Summed exactly, so that the order of the elements leaves no trace.

    Args:
        part: (mantissa, exponent), NumPy arrays, the values being mantissa * 2**exponent.

    Returns:
        The logarithm; None where all values are 0.
    """
    top = _top(part)
    norm = _norm(_at(part, top))
    return math.log(norm) + top * math.log(2) if norm > 0 else None


def relative_error(part: Part, reference: Part) -> float | None:
    """||part - reference|| / ||reference||.

    Args:
        part: as in `log_norm`.
        reference: likewise, of the same shape.

    Returns:
        The error; None where the reference is 0.
    """
    top = _top(reference)
    wanted = _at(reference, top)
    norm = _norm(wanted)
    return _norm(_at(part, top) - wanted) / norm if norm > 0 else None


def _top(part: Part) -> int:
    """The largest power of two that any value reaches."""
    mantissa, exponent = np.broadcast_arrays(*part)
    sizes = np.abs(mantissa.astype(np.complex128))
    reached = exponent + np.frexp(sizes)[1]
    return int(reached[sizes > 0].max(initial=-(2**40))) if (sizes > 0).any() else 0


def _at(part: Part, top: int) -> np.ndarray:
    """The values divided by 2**top; what is then below 2**-1000 is nothing beside the largest one."""
    mantissa, exponent = part
    factor = np.ldexp(1.0, np.clip(np.asarray(exponent) - top, -1000, 1000))
    return np.asarray(mantissa.astype(np.complex128) * factor)


def _norm(values: np.ndarray) -> float:
    parts = np.concatenate([values.real.ravel(), values.imag.ravel()])
    return math.sqrt(math.fsum((parts**2).tolist()))
