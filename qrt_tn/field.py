"""The prime field Z_P: representatives, inverses, Fourier tables, and checks of what claims to live on it.

Conventions (shared by every file above): omega = exp(2 pi i / P) and
F_1[h](v) = P^{-1/2} sum_b h(b) omega^{-vb}, a unitary transform.
"""

from functools import cache
from itertools import accumulate, repeat
from typing import Any

import numpy as np
import scipy.fft

from qrt_tn.engine.arguments import as_array
from qrt_tn.engine.backends import array_module

_TABLED = 512  # P up to which a table of all shifts correlates faster than Fourier transforms (measured)
_LARGEST_MATRIX = 4096  # P up to which a Fourier matrix is made (256 MiB)


def check_prime(modulus: Any) -> int:
    """Return `modulus` as an int if it is prime.

    Primality is what makes every v != 0 invertible, and so the ridgelet transform an isometry.

    Raises:
        ValueError: not an integer, or composite; the message names the nearest prime above.
    """
    if isinstance(modulus, bool) or not isinstance(modulus, int | np.integer):
        raise ValueError(f"modulus is {modulus!r}; give a prime int such as 127")
    value = int(modulus)
    if not 2 <= value < 2**20:
        raise ValueError(f"modulus is {value}; give a prime between 2 and {2**20}")
    if not _is_prime(value):
        raise ValueError(f"modulus {value} is not prime; the next prime is {next_prime(value)}")
    return value


def next_prime(value: int) -> int:
    """The smallest prime at or above `value`."""
    candidate = max(2, int(value))
    while not _is_prime(candidate):
        candidate += 1
    return candidate


def _is_prime(value: int) -> bool:
    return value >= 2 and all(value % divisor for divisor in range(2, int(value**0.5) + 1))


def check_grid(values: Any, modulus: int, name: str, shape: tuple[int | None, ...]) -> np.ndarray:
    """Return `values` as an int64 array of points of Z_P, themselves where they are one.

    Args:
        values: integers in 0 .. P-1.
        modulus: the prime P.
        name: what to call the array in an error.
        shape: the expected shape, None where any extent of at least one will do.

    Raises:
        ValueError: not integers, of another shape, empty, or outside Z_P.
    """
    array = as_array(values, name)
    check_levels(array, modulus, name, shape)
    return array.astype(np.int64, copy=False)


def check_levels(
    array: np.ndarray, modulus: int, name: str, shape: tuple[int | None, ...]
) -> tuple[int, int]:
    """The smallest and the largest value of points of Z_P, checked as by `check_grid`, without a copy."""
    letters = iter("NDKL")  # for the extents that are free
    extents = [next(letters) if extent is None else str(extent) for extent in shape]
    wanted = f"({', '.join(extents)}{',' if len(extents) == 1 else ''})"
    fits = array.ndim == len(shape) and all(
        extent is None or extent == got for extent, got in zip(shape, array.shape, strict=True)
    )
    if not fits:
        raise ValueError(f"{name} has shape {array.shape}; it must have shape {wanted}")
    if array.size == 0:
        raise ValueError(f"{name} is empty (shape {array.shape}); give at least one entry")
    if array.dtype.kind not in "iu":
        raise ValueError(
            f"{name} has dtype {array.dtype}; give integers in 0..{modulus - 1} (quantise first)"
        )
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= modulus:
        outside, place = (low, array.argmin()) if low < 0 else (high, array.argmax())
        raise ValueError(
            f"{name} holds {outside}, outside Z_{modulus}, in row {place * len(array) // array.size}; "
            f"its values must lie in 0..{modulus - 1}"
        )
    return low, high


def check_numbers(values: Any, name: str, *, single: bool = False) -> np.ndarray:
    """`values` as float64 or complex128; where `single`, single precision stays.

    Raises:
        ValueError: no numbers, or a NaN or an infinity; the message names the array by `name`.
    """
    array = as_array(values, name)
    if array.dtype.kind not in "biufc":
        raise ValueError(f"{name} has dtype {array.dtype}; give numbers")
    if not (single and array.dtype in (np.float32, np.complex64)):
        with np.errstate(over="ignore"):  # a long double beyond float64 is refused below
            array = array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds {array[~np.isfinite(array)][0]}; every value must be finite")
    return array


def centred(values: np.ndarray, modulus: int) -> np.ndarray:
    """Centred representatives: b for b <= P/2, else b - P; so -(P-1)/2 .. (P-1)/2 for odd P."""
    return np.where(values <= modulus // 2, values, values - modulus)


@cache
def powers(modulus: int) -> np.ndarray:
    """g^0 .. g^{P-2} mod P of the smallest primitive root g: every nonzero element once, int64, (P - 1,)."""
    order = modulus - 1
    primes = [q for q in range(2, order + 1) if order % q == 0 and _is_prime(q)]
    root = next(g for g in range(1, modulus) if all(pow(g, order // q, modulus) != 1 for q in primes))
    steps = accumulate(repeat(root, order), lambda power, factor: power * factor % modulus)
    return _frozen(np.roll(np.fromiter(steps, dtype=np.int64, count=order), 1))


@cache
def inverses(modulus: int) -> np.ndarray:
    """Multiplicative inverses on Z_P, shape (P,); entry 0, which has none, is 0."""
    table = np.zeros(modulus, dtype=np.int64)
    table[powers(modulus)] = np.roll(powers(modulus)[::-1], 1)  # the inverse of g^k is g^(P-1-k)
    return _frozen(table)


@cache
def roots_of_unity(modulus: int) -> np.ndarray:
    """omega^k = exp(2 pi i k / P) for k = 0 .. P-1, shape (P,), complex128."""
    return _frozen(np.exp(2j * np.pi * np.arange(modulus) / modulus))


def _frozen(table: np.ndarray) -> np.ndarray:
    table.flags.writeable = False
    return table


def fourier(values: Any, axis: int = -1) -> Any:
    """F_1 along `axis` of a NumPy or CuPy array: P^{-1/2} sum_b h(b) omega^{-vb}."""
    return _transforms(values).fft(values, axis=axis, norm="ortho")


def inverse_fourier(values: Any, axis: int = -1) -> Any:
    """F_1^{-1} along `axis` of a NumPy or CuPy array: P^{-1/2} sum_v h(v) omega^{vb}."""
    return _transforms(values).ifft(values, axis=axis, norm="ortho")


def _transforms(values: Any) -> Any:
    # SciPy keeps what it prepares for a large prime length, NumPy does not
    xp = array_module(values)
    return scipy.fft if xp is np else xp.fft


def fourier_matrix(modulus: int) -> np.ndarray:
    """F_1 as a matrix, shape (P, P), rows v and columns b.

    Raises:
        ValueError: P^2 entries are too many; `fourier` needs no matrix.
    """
    if modulus > _LARGEST_MATRIX:
        raise ValueError(
            f"a {modulus} x {modulus} Fourier matrix is too large; matrices end at P = {_LARGEST_MATRIX}"
        )
    k = np.arange(modulus)
    return roots_of_unity(modulus)[(-np.outer(k, k)) % modulus] / np.sqrt(modulus)


def correlated(values: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """sum_k h(k) conj r((k - b) mod P) for each row h and every b, shape (N, P).

    Args:
        values: rows h, shape (N, P).
        kernel: r, shape (P,).
    """
    modulus = len(kernel)
    if modulus <= _TABLED:
        k = np.arange(modulus)
        return values @ kernel.conj()[(k[:, None] - k) % modulus]
    # a prime length is slow to transform: shifts are laid out on one that is not
    length = scipy.fft.next_fast_len(2 * modulus - 1)
    wrapped = np.zeros(length, dtype=kernel.dtype)
    wrapped[:modulus], wrapped[length - modulus + 1 :] = kernel, kernel[1:]
    if np.iscomplexobj(values) or np.iscomplexobj(kernel):
        product = scipy.fft.fft(values, length) * scipy.fft.fft(wrapped).conj()
        return scipy.fft.ifft(product, overwrite_x=True)[:, :modulus]
    product = scipy.fft.rfft(values, length) * scipy.fft.rfft(wrapped).conj()
    return scipy.fft.irfft(product, length, overwrite_x=True)[:, :modulus]
