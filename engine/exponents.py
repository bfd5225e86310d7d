"""Powers of two kept apart from the numbers they scale: value = mantissa * 2**exponent.

Multiplying by a power of two changes no digit, and whole exponents add without rounding, so rescaling
costs no accuracy however often it happens, and the order of ranks and slices leaves no trace in them.
"""

import math
from typing import Any

import numpy as np

from qrt_tn.engine.backends import array_module, to_host
from qrt_tn.engine.scaled import Scaled

# How far scales may drift, in bits, before they are brought back; `qrt_tn.engine.program` proves the bounds.
SLACK = 5
MULTIPLIED = {4: 4, 8: 17}  # factors between two measurements, by bytes of the real type
GROWTH = {4: 40.0, 8: 300.0}  # bits that sums may add in between
# a peak that is measured in here shows that nothing was lost on the way
SAFE = {4: (2.0**-40, 2.0**100), 8: (2.0**-500, 2.0**1000)}
_REACH = {4: 126, 8: 1022}  # 2**n is a normal number for n up to this, and down to minus this

Part = tuple[Any, Any]


def real_bytes(dtype: Any) -> int:
    """Bytes of the real type under a floating or complex dtype."""
    dtype = np.dtype(dtype)
    return dtype.itemsize // (2 if dtype.kind == "c" else 1)


def peaks(array: Any, axes: tuple[int, ...], xp: Any) -> Any:
    """The largest modulus over `axes`, up to a factor of sqrt(2) for complex numbers; float.

    Args:
        array: any shape, at least one element.
        axes: what to reduce; the other axes stay.
        xp: the array's namespace.
    """
    if xp is not np:
        if array.dtype.kind != "c":
            return xp.abs(array).max(axis=axes)
        return xp.maximum(xp.abs(array.real), xp.abs(array.imag)).max(axis=axes)
    if array.dtype.kind == "c":
        # a complex number is a pair of real ones: no modulus is needed, and no array of them
        axes = (*axes, array.ndim)
        array = np.ascontiguousarray(array[..., None]).view(array.real.dtype)
    return np.maximum(array.max(axis=axes), -array.min(axis=axes))


def powers(peak: Any, xp: Any) -> tuple[Any, Any]:
    """The factors that bring these moduli to [1/2, 1), as exact powers of two, and their exponents undone.

    Returns:
        (factor of the peaks' dtype, exponent int): peak * factor lies in [1/2, 1), for the largest numbers
        in [1, 4), and the exponent makes up for it. A denormal number is brought as near as one power can.
        A zero keeps the factor 1 and the exponent 0.
    """
    reach = _REACH[peak.dtype.itemsize]
    exponent = xp.clip(xp.where(peak > 0, xp.frexp(peak)[1], 0), -reach, reach)
    return xp.ldexp(xp.ones_like(peak), -exponent), exponent


def add(left: Part, right: Part) -> Part:
    """The sum of two scaled arrays, at the scale of the larger one for every element of a batch.

    Args:
        left: (mantissa, exponent), the exponent of a shape that broadcasts to the mantissa's.
        right: likewise; the mantissas have one shape.
    """
    xp = array_module(left[0])
    shape = np.broadcast_shapes(xp.shape(left[1]), xp.shape(right[1]))
    shape = (1,) * (left[0].ndim - len(shape)) + tuple(shape)
    axes = tuple(axis for axis, extent in enumerate(shape) if extent == 1)

    def scale(mantissa: Any, exponent: Any) -> Any:
        # with the mantissa's own scale, which may be far from 1
        peak = xp.abs(mantissa).max(axis=axes, keepdims=True)
        # a zero has any scale, and must not drown a sum of tiny values
        return xp.where(peak == 0, _NOTHING, xp.frexp(peak)[1] + exponent)

    top = xp.maximum(scale(*left), scale(*right))
    top = xp.where(top == _NOTHING, 0, top)
    total = None
    for mantissa, exponent in (left, right):
        # what lies deeper than twice the reach is nothing beside the other
        reach = _REACH[real_bytes(mantissa.dtype)]
        shift = xp.clip(exponent - top, -2 * reach, reach)
        term = mantissa * xp.ldexp(xp.ones(shift.shape, dtype=mantissa.real.dtype), shift)
        if total is None:
            total = term
        else:
            total += term  # one array less than total + term
    return total, top


_NOTHING = -(2**40)  # the exponent of zero


def scaled(part: Part) -> Scaled:
    """The same values with a natural logarithm for a scale."""
    mantissa, exponent = part
    xp = array_module(mantissa)
    return Scaled(mantissa, xp.asarray(exponent, dtype=np.float64) * math.log(2.0))


def on_host(part: Part) -> Part:
    """The same values as NumPy arrays."""
    return to_host(part[0]), to_host(part[1]) if hasattr(part[1], "dtype") else np.asarray(part[1])
