"""Powers of two kept apart from the numbers they scale: value = mantissa * 2**exponent.

Multiplying by a power of two changes no digit, and whole exponents add without rounding, so rescaling
costs no accuracy however often it happens, and the order of ranks and slices leaves no trace in them.
"""

import math
from typing import Any

import numpy as np

from qrt_tn.engine.backends import array_module, to_host
from qrt_tn.engine.scaled import Scaled
from qrt_tn.engine.wide import NOTHING, WideArray

MOST_AXES = 64  # of NumPy's arrays
SETTLED = {4: 12, 8: 60}  # bits that a result may be off 1 and is left as it is
REACH = {4: 126, 8: 1022}  # 2**n is a normal number for n up to this, and down to minus this

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
    if array.dtype.kind == "c" and array.ndim == MOST_AXES:
        return np.maximum(peaks(array.real, axes, np), peaks(array.imag, axes, np))
    if array.dtype.kind == "c":
        # a complex number is a pair of real ones: no modulus is needed, and no array of them
        axes = (*axes, array.ndim)
        array = np.ascontiguousarray(array[..., None]).view(array.real.dtype)
    return np.maximum(array.max(axis=axes), -array.min(axis=axes))


def least(array: Any, axes: tuple[int, ...], xp: Any) -> Any:
    """The smallest nonzero real or imaginary part over `axes`; infinity where all are 0.

    Args:
        array: any shape, at least one element.
        axes: what to reduce; the other axes stay.
        xp: the array's namespace.
    """
    if array.dtype.kind == "c":
        return xp.minimum(least(array.real, axes, xp), least(array.imag, axes, xp))
    sizes = xp.abs(array)
    return xp.where(sizes == 0, np.inf, sizes).min(axis=axes)


def powers(peak: Any, xp: Any, small: Any = None, size: int | None = None) -> tuple[Any, Any]:
    """The factors that bring these moduli to [1/2, 1), as exact powers of two, and their exponents undone.

    Args:
        peak: moduli; a zero keeps the factor 1 and the exponent 0.
        xp: their namespace.
        small: numbers, as many, that no factor below 1 may make less than normal; peaks then stay larger.
        size: bytes of a real number in the array that they scale; the peaks' own by default.

    Returns:
        (factor of the peaks' dtype, exponent int): peak * factor lies in [1/2, 1), for the largest numbers
        in [1, 4), and the exponent makes up for it. A denormal number is brought as near as one power can.
    """
    reach = REACH[size or peak.dtype.itemsize]
    exponent = xp.clip(xp.where(peak > 0, xp.frexp(peak)[1], 0), -reach, reach)
    if small is not None:
        room = xp.where(xp.isfinite(small), xp.frexp(small)[1] + (reach - 1), reach)
        exponent = xp.where(exponent > 0, xp.clip(xp.minimum(exponent, room), 0, None), exponent)
    return xp.ldexp(xp.ones_like(peak), -exponent), exponent


def add(left: Part, right: Part, *, entries: bool = True) -> Part:
    """The sum of two scaled arrays, at the scale of the larger one for every element of a batch.

    Where that would lose an entry, the sum has an exponent for every entry.

    Args:
        left: (mantissa, exponent), the exponent of a shape that broadcasts to the mantissa's.
        right: likewise; the mantissas have one shape.
        entries: whether entries count that are negligible beside the largest of their batch element; if not,
            the sum has one exponent for each element in any case.
    """
    if not entries:
        return _add(left, right)[:2]
    if array_module(left[0]) is np:
        try:
            with np.errstate(under="raise"):
                return _add(left, right)[:2]
        except FloatingPointError:
            pass  # perhaps only beside larger terms
    total, exponent, faint = _add(left, right, checked=True)
    if not bool(faint):  # which waits for a device
        return total, exponent
    xp = array_module(total)
    total, exponent, _ = _add(*(entrywise(on_host(part)) for part in (left, right)))
    return xp.asarray(total), xp.asarray(exponent)


def _add(left: Part, right: Part, *, checked: bool = False) -> tuple[Any, Any, Any]:
    """The sum as (mantissa, exponent), and, if that is checked, whether an entry may have lost digits."""
    xp = array_module(left[0])
    reach = REACH[real_bytes(left[0].dtype)]
    shapes = [(1,) * (left[0].ndim - xp.ndim(exponent)) + xp.shape(exponent) for _, exponent in (left, right)]
    # the axes along which neither has more than one exponent
    axes = tuple(axis for axis, extents in enumerate(zip(*shapes, strict=True)) if max(extents) == 1)
    scales = []
    for mantissa, exponent in (left, right):
        # with the mantissa's own scale, which may be far from 1
        peak = xp.abs(mantissa).max(axis=axes, keepdims=True)
        # a zero has any scale, and must not drown a sum of tiny values
        scales.append(xp.where(peak == 0, NOTHING, xp.clip(xp.frexp(peak)[1], -reach, None) + exponent))
    top = xp.maximum(*scales)
    top = xp.where(top == NOTHING, 0, top)
    total: Any = None
    faint = xp.asarray(False)
    tiny = float(np.finfo(left[0].dtype).tiny)
    with np.errstate() if not checked else np.errstate(under="ignore"):
        for (mantissa, exponent), scale in zip((left, right), scales, strict=True):
            # what lies deeper than twice the reach is nothing beside the other
            shift = xp.where(scale == NOTHING, 0, xp.clip(exponent - top, -2 * reach, reach))
            term = mantissa * xp.ldexp(xp.ones(shift.shape, dtype=mantissa.real.dtype), shift)
            if checked:
                faint = xp.logical_or(faint, xp.logical_and(xp.abs(term) < tiny, mantissa != 0))
            if total is None:
                total = term
            else:
                total += term  # one array less than total + term
    if checked:
        small = xp.abs(total) < 4 * tiny / float(np.finfo(total.dtype).eps)
        faint = xp.logical_and(faint, small).any()
    return xp.asarray(total), xp.asarray(top), faint


def settled(part: Part, spread: tuple[int, ...], dtype: Any, *, entries: bool = True) -> Part:
    """The same values at a scale that depends on nothing else.

    Exponents are 0 where that leaves all batch elements near 1; else they bring each one's peak to [1/2, 1);
    where that would lose entries, each entry has an exponent.

    Args:
        part: (mantissa, exponent), on the host.
        spread: the shape of exponents, with one for each batch element; () where there is one for all.
        dtype: of the result.
        entries: as `add`.
    """
    mantissa, exponent = part
    bits, reach = SETTLED[real_bytes(dtype)], REACH[real_bytes(mantissa.dtype)]
    extents = spread or (1,) * mantissa.ndim
    axes = tuple(axis for axis, extent in enumerate(extents) if extent == 1)
    if np.size(exponent) == math.prod(extents) == 1:  # in plain numbers, which are faster
        peak, only = float(peaks(mantissa, axes, np).item()), int(np.asarray(exponent).item())
        top = np.full(extents, math.frexp(peak)[1] + only if peak else 0)
    elif np.size(exponent) <= math.prod(extents):
        peak = peaks(mantissa, axes, np).reshape(extents)
        top = np.where(peak == 0, 0, np.frexp(peak)[1] + exponent)
    else:
        peak = peaks(mantissa, (), np)
        top = np.where(peak == 0, NOTHING, np.frexp(peak)[1] + exponent).max(axis=axes, keepdims=True)
        top = np.where(top == NOTHING, 0, top)
    if top.min() >= -bits and top.max() <= bits + 1:
        top = np.zeros_like(top)
    shift = exponent - top
    try:
        with np.errstate(under="raise" if entries else "ignore"):
            if shift.any():
                small = np.abs(shift).max() <= reach  # one product then does it
                factor = np.ldexp(np.ones((), mantissa.real.dtype), shift) if small else 1
                mantissa = mantissa * factor if small else _shifted(mantissa, shift)
            return np.asarray(mantissa, dtype), top.reshape(spread)
    except FloatingPointError:
        mantissa, exponent = entrywise(part)
        return mantissa.astype(dtype), exponent


def _shifted(mantissa: Any, shift: Any) -> Any:
    """Mantissa * 2**shift, for shifts of any size."""
    if mantissa.dtype.kind != "c":
        return np.ldexp(mantissa, shift)
    made = np.empty_like(mantissa)
    made.real, made.imag = np.ldexp(mantissa.real, shift), np.ldexp(mantissa.imag, shift)
    return made


def entrywise(part: Part) -> Part:
    """The same values on the host, with an exponent for every entry."""
    wide = WideArray.of(part[0], part[1])
    return wide.mantissa.astype(part[0].dtype), np.where(wide.mantissa == 0, 0, wide.exponent)


def scaled(part: Part) -> Scaled:
    """The same values with a natural logarithm for a scale."""
    mantissa, exponent = part
    xp = array_module(mantissa)
    return Scaled(mantissa, xp.asarray(exponent, dtype=np.float64) * math.log(2.0))


def on_host(part: Part) -> Part:
    """The same values as NumPy arrays."""
    return to_host(part[0]), to_host(part[1]) if hasattr(part[1], "dtype") else np.asarray(part[1])
