"""Networks with entries from the whole range of a dtype, and their values in whole numbers, not rounded."""

import itertools
from fractions import Fraction

import numpy as np

from qrt_tn.engine.backends import to_host

DTYPES = ("float32", "complex64", "float64", "complex128")
_BITS = 1074  # every float is a multiple of 2**-1074


def network(rng):
    """(inputs, output, sizes, slices, batch): hyperindices, repeated and lone indices, scalars."""
    names = list("abcdef"[: rng.integers(1, 6)])
    sizes = {name: int(rng.integers(1, 4)) for name in names}
    count = int(rng.integers(2, 7))
    inputs = [tuple(rng.choice(names, size=rng.integers(0, 4)).tolist()) for _ in range(count)]
    used = list(dict.fromkeys(index for term in inputs for index in term))
    kept = rng.random()
    output = tuple(index for index in rng.permutation(used).tolist() if rng.random() < kept)
    slices = tuple(index for index in rng.permutation(used).tolist() if rng.random() < 0.25)
    batch = tuple(i for i in output if rng.random() < 0.5) if rng.random() < 0.7 else None
    return tuple(inputs), output, {index: sizes[index] for index in used}, slices, batch


def entries(rng, shape, dtype, *, signed, style=None):
    """An array with exponents from all over the range, or a part of it; the sum of many may well overflow."""
    real = np.zeros((), dtype).real.dtype
    info, count = np.finfo(real), int(np.prod(shape))
    low, high = info.minexp - info.nmant, info.maxexp  # the smallest denormal number; one above the largest
    style = int(rng.integers(6)) if style is None else style

    def part():
        if style == 0:
            bits = rng.choice([low, low // 2, low // 4, 0, high // 4, high // 2, high - 1], size=count)
        elif style == 1:
            bits = rng.integers(low // 2, high // 2) + rng.integers(-2, 3, size=count)
        else:
            share = (1, 4, 8, 40)[style - 2]
            bits = rng.integers(low // share, high // share, size=count)
        digits = np.where(rng.random(count) < 0.4, 1.0, rng.uniform(1, 2, size=count))
        found = np.minimum(np.ldexp(digits, bits), float(info.max)).astype(real)
        found[rng.random(count) < rng.choice([0, 0.2, 0.5])] = 0
        return (found * rng.choice([-1, 1], size=count) if signed else found).astype(real).reshape(shape)

    if np.dtype(dtype).kind != "c":
        return part()
    array = np.zeros(shape, dtype)
    if signed:
        array.real, array.imag = part(), part()
    else:  # one phase for all entries, so that no sum cancels
        array = (part() * np.asarray(rng.choice([1, -1]), dtype)).astype(dtype)
        array = array * np.asarray(1j, dtype) if rng.random() < 0.5 else array
    return array


def contract(arrays, inputs, output, sizes):
    """{place: (real part, imaginary part, sum of the terms' moduli)} in units of 2**(-1074 * tensors)."""
    whole = [_whole(array) for array in arrays]
    result = {place: [0, 0, 0] for place in itertools.product(*(range(sizes[i]) for i in output))}
    for values in itertools.product(*map(range, sizes.values())):
        at = dict(zip(sizes, values, strict=True))
        real, imaginary, size = 1, 0, 1
        for array, term in zip(whole, inputs, strict=True):
            a, b = array[tuple(at[index] for index in term)]
            real, imaginary, size = (
                real * a - imaginary * b,
                real * b + imaginary * a,
                size * (abs(a) + abs(b)),
            )
        total = result[tuple(at[index] for index in output)]
        total[:] = total[0] + real, total[1] + imaginary, total[2] + size
    return result


def _whole(array):
    found = np.empty(array.size, object)
    for place, value in enumerate(array.reshape(-1)):
        pairs = (float(part).as_integer_ratio() for part in (value.real, value.imag))
        found[place] = tuple(above * (2**_BITS // below) for above, below in pairs)
    return found.reshape(array.shape)


def misfits(part, wanted, tensors, roundings):
    """The places where a (mantissa, exponent) is not right to rounding beside the sum of its terms.

    An entry whose terms are all zero must be zero; if no terms cancel, all entries are right to their last
    digits, however small they are.
    """
    mantissa, exponent = map(to_host, part)
    exponent = np.broadcast_to(exponent, mantissa.shape)
    share = Fraction(float(np.finfo(mantissa.dtype).eps)) * roundings
    found = []
    for place, (real, imaginary, size) in wanted.items():
        value, unit = mantissa[place], Fraction(2) ** (int(exponent[place]) + _BITS * tensors)
        if not np.isfinite(value):
            found.append((place, value))
            continue
        off = [
            abs(Fraction(float(value.real)) * unit - real),
            abs(Fraction(float(value.imag)) * unit - imaginary),
        ]
        if sum(off) > share * size:
            found.append((place, value, int(exponent[place])))
    return found
