"""Sums over points: by phase, by bin, over runs, by key.

Phase sums and histograms over all points and the columns of a tile are compiled for the host, so that nothing
of size M x W is written; what `tiles` does array by array on a device they do in one go.
"""

from typing import Any, NamedTuple

import numpy as np

from qrt_tn.engine.backends import array_module
from qrt_tn.engine.compiled import compiled

ALL = np.empty(0, dtype=np.int64)  # stands for all points where some could be named


class Columns(NamedTuple):
    """Points and frequencies of a tile as the compiled passes take them.

    Attributes:
        residues: u . x_m mod P without the hashed coordinates, shape (M, W).
        hashes: of the points, shape (M, t).
        tail: hashed coordinates to add, shape (j, W), j <= t; float32 where sums are exact in it, or float64.
        coefficients: real, shape (M, C).
        classes: of the columns, shape (W,).
    """

    residues: np.ndarray
    hashes: np.ndarray
    tail: np.ndarray
    coefficients: np.ndarray
    classes: np.ndarray


def phase_sums(columns: Columns, table: np.ndarray, places: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """sum_m c_m omega^{-u.x_m} over runs of points, of the type of the table of omega^{-k}; shape (G, W).

    `places` are the points that lie in runs, increasing, or `ALL`; `ends` says where each run starts among
    them, and the end of the last, shape (G + 1,), on the host.
    """
    total = np.empty((len(ends) - 1, columns.residues.shape[1]), dtype=table.dtype)
    real, imaginary = np.ascontiguousarray(table.real), np.ascontiguousarray(table.imag)
    _phase_sums(*columns, real, imaginary, places, ends, total)
    return total


def histograms(columns: Columns, modulus: int) -> np.ndarray:
    """sum_m c_m [u . x_m = k mod P] by column and k, float64 of shape (W, P)."""
    counted = np.zeros((columns.residues.shape[1], modulus))
    _histograms(*columns, counted)
    return counted


@compiled
def _keys(residues: Any, hashes: Any, tail: Any, modulus: Any, sums: Any, keys: Any) -> None:
    """Of one point: residues + hashes . tail mod P, into keys (W,); integers in floating point, exactly."""
    if tail.shape[0] == 0:
        for column in range(keys.size):
            keys[column] = residues[column]
        return
    inverse = 1 / modulus
    for column in range(keys.size):
        sums[column] = residues[column]
    for number in range(tail.shape[0]):
        hashed = tail.dtype.type(hashes[number])
        for column in range(keys.size):
            sums[column] += hashed * tail[number, column]
    for column in range(keys.size):
        # division by a product, which is at most one off
        rest = sums[column] - np.floor(sums[column] * inverse) * modulus
        rest = rest + modulus if rest < 0 else rest
        rest = rest - modulus if rest >= modulus else rest
        keys[column] = np.int32(rest)


@compiled
def _phase_sums(
    residues: Any,
    hashes: Any,
    tail: Any,
    coefficients: Any,
    classes: Any,
    real: Any,
    imaginary: Any,
    places: Any,
    ends: Any,
    total: Any,
) -> None:
    width = residues.shape[1]
    keys, sums = np.empty(width, np.int32), np.empty(width, tail.dtype)
    cosines, sines = np.empty(width, real.dtype), np.empty(width, real.dtype)
    modulus = tail.dtype.type(real.size)
    for run in range(ends.size - 1):
        cosines[:] = 0
        sines[:] = 0
        for number in range(ends[run], ends[run + 1]):
            place = places[number] if places.size else number
            _keys(residues[place], hashes[place], tail, modulus, sums, keys)
            if coefficients.shape[1] == 1:
                weight = coefficients[place, 0]
                for column in range(width):
                    cosines[column] += weight * real[keys[column]]
                    sines[column] += weight * imaginary[keys[column]]
            else:
                for column in range(width):
                    weight = coefficients[place, classes[column]]
                    cosines[column] += weight * real[keys[column]]
                    sines[column] += weight * imaginary[keys[column]]
        for column in range(width):
            total[run, column] = complex(cosines[column], sines[column])


@compiled
def _histograms(residues: Any, hashes: Any, tail: Any, coefficients: Any, classes: Any, counted: Any) -> None:
    width = counted.shape[0]
    keys, sums = np.empty(width, np.int32), np.empty(width, tail.dtype)
    modulus = tail.dtype.type(counted.shape[1])
    for place in range(residues.shape[0]):
        _keys(residues[place], hashes[place], tail, modulus, sums, keys)
        if coefficients.shape[1] == 1:
            for column in range(width):
                counted[column, keys[column]] += coefficients[place, 0]
        else:
            for column in range(width):
                counted[column, keys[column]] += coefficients[place, classes[column]]


def run_sums(terms: Any, ends: np.ndarray) -> Any:
    """Sums of terms (K, W) over runs of their rows, `ends` as in `phase_sums`; (G, W), of the same type."""
    xp, width = array_module(terms), terms.shape[1]
    if xp is np:
        total = np.zeros((len(ends) - 1, width), dtype=terms.dtype)
        _run_sums(terms, ends, total)
        return total
    labels = xp.asarray(np.repeat(np.arange(len(ends) - 1), np.diff(ends)))
    keys = labels[:, None] * width + xp.arange(width)
    return binned(keys, terms, (len(ends) - 1) * width).reshape(-1, width)


@compiled
def _run_sums(terms: Any, ends: Any, total: Any) -> None:
    for run in range(ends.size - 1):
        for row in range(ends[run], ends[run + 1]):
            for column in range(terms.shape[1]):
                total[run, column] += terms[row, column]


def binned(keys: Any, values: Any, size: int) -> Any:
    """Sums of values by key, shape (size,), of the values' type."""
    xp = array_module(values)
    if values.dtype.kind == "c":
        both = binned(keys, values.real, size) + 1j * binned(keys, values.imag, size)
        return both.astype(values.dtype)
    counted = xp.bincount(keys.reshape(-1), weights=values.reshape(-1), minlength=size)
    return counted.astype(values.dtype)


def squares(values: Any) -> Any:
    """|z|^2, without the square root that abs takes."""
    return values.real**2 + values.imag**2 if values.dtype.kind == "c" else values**2
