"""Whether a matrix product on the host lost entries: by the flags of the hardware, or by its entries.

IEEE 754 arithmetic raises a flag when a result is too large, or so small that it loses digits. NumPy reads
the flags of its own thread after each product. Where BLAS may have used threads of its own, the entries tell.
"""

from functools import cache
from typing import Any

import numpy as np

from qrt_tn.engine.compiled import compiled

# multiply-adds of a product from which on a BLAS may use threads: of matrices, of a matrix and a vector
THREADED, THREADED_VECTOR = 2**18, 2**12


@cache
def flags_work() -> bool:
    """Whether NumPy sees the underflow of its matrix products here; not every BLAS raises flags."""
    for dtype in (np.float32, np.float64, np.complex64, np.complex128):
        small = np.finfo(dtype).tiny * np.ones((7, 7), dtype)
        for left, right in ((small, small), (small[:1], small), (small[0], small[0]), (small[None],) * 2):
            try:
                with np.errstate(under="raise"):
                    np.matmul(left, right)
            except FloatingPointError:
                continue
            return False
    return True


def checked_matmul(left: Any, right: Any) -> Any:
    """The product of two arrays, as `numpy.matmul`, whose flags threads may have kept to themselves.

    Raises:
        FloatingPointError: an entry left the range, or may have lost digits to underflow.
    """
    product = np.matmul(left, right)
    span = _span(product)
    if not span[2] < np.inf:  # not so for NaN
        raise FloatingPointError("a product is not finite")
    if not _is_whole(product, span, left, right):
        raise FloatingPointError("a product may have lost entries")
    return product


def flagged_matmul(left: Any, right: Any) -> Any:
    """As `checked_matmul`, but entries that may have lost digits raise this thread's underflow flag."""
    product = np.matmul(left, right)
    if not _is_whole(product, _span(product), left, right):
        np.square(np.finfo(np.float64).tiny)  # NumPy now does what `numpy.errstate` says
    return product


def has_digits(product: Any, terms: int) -> bool:
    """Whether what underflow takes from sums of so many terms is below the rounding of every entry."""
    smallest, with_zeros, _ = _span(product)
    info = np.finfo(product.dtype)
    return not with_zeros and smallest >= 4 * terms * float(info.tiny) / float(info.eps)


def _is_whole(product: Any, span: tuple[float, bool, float], left: Any, right: Any) -> bool:
    smallest, with_zeros, _ = span
    info = np.finfo(product.dtype)
    if smallest < 4 * left.shape[-1] * float(info.tiny) / float(info.eps):
        return False
    # no product of two nonzero entries is too small
    sizes = np.log2([_span(left)[0], _span(right)[0], float(info.tiny)]) if with_zeros else np.zeros(3)
    return bool(sizes[0] + sizes[1] >= sizes[2])


def _span(array: Any) -> tuple[float, bool, float]:
    """(the smallest nonzero modulus, whether there are zeros, the largest) among real and imaginary parts."""
    flat = np.ascontiguousarray(array).reshape(-1)
    parts = flat.view(flat.real.dtype)
    whole = np.dtype(f"u{parts.dtype.itemsize}")
    # without its sign, the bits of a number are in the order of its size
    mask = whole.type(np.iinfo(whole).max >> 1)
    least, least_but_one, most = _extremes(parts.view(whole), mask, whole.type(1))
    smallest, largest = np.array([least_but_one, most], whole).view(parts.dtype)
    return np.inf if least_but_one == mask else float(smallest), bool(least == 0), float(largest)


@compiled
def _extremes(bits: Any, mask: Any, one: Any) -> Any:
    """The least of the masked bits, the least nonzero one (the mask if there is none), and the largest."""
    least, nonzero, most = mask, mask - one, bits[0] & mask
    for place in range(bits.size):
        value = bits[place] & mask
        most = value if value > most else most
        least = value if value < least else least
        lower = value - one  # a zero becomes the largest of all
        nonzero = lower if lower < nonzero else nonzero
    return least, nonzero + one, most
