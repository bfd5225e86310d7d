"""Carries out a contraction path pair by pair on NumPy or CuPy arrays, rescaling as it goes.

Every pair is one matmul: indices shared and kept become batch axes, so a hyperindex such as the
transform's v costs nothing beyond its extent. Intermediates are divided by a power of two where they
drift from 1, exactly, and the exponents add up in a log-scale: a chain of 10,000 tensors neither
underflows nor overflows in complex64.
"""

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from engine.backends import array_module

Index = Hashable
Term = tuple[Index, ...]

_FAR = 2.0**20  # mantissas this far from 1 are rescaled; complex64 keeps 2**100 in hand either way
_REACH = 120  # the largest exponent whose power of two is a normal float32,
_LONG_REACH = 1000  # and float64


def contract_path(
    arrays: Sequence[Any], inputs: Sequence[Term], output: Term, path: Sequence[Sequence[int]]
) -> tuple[Any, Any]:
    """Contract a network along a linear path.

    Args:
        arrays: one array per tensor, all in one namespace.
        inputs: its indices per tensor, one per axis.
        output: the indices of the result, in order; an index absent here is summed over.
        path: positions per step, as `engine.paths.find_path` gives them.

    Returns:
        (mantissa with axes `output`, log_scale), the value being mantissa * exp(log_scale).
    """
    uses = Counter(index for term in inputs for index in set(term))
    uses.update(output)
    live = []
    log_scale: Any = 0.0
    for array, term in zip(arrays, inputs, strict=True):
        scaled, shift = _rescaled(array)
        live.append((scaled, tuple(term)))
        log_scale = log_scale + shift
    for step in path:
        chosen = [live[position] for position in step]
        for position in sorted(step, reverse=True):
            del live[position]
        array, term = _reduced(*chosen[0], uses)
        for other, other_term in chosen[1:]:
            array, term = contract_pair(array, term, *_reduced(other, other_term, uses), uses)
            array, shift = _rescaled(array)
            log_scale = log_scale + shift
        live.append((array, term))
    array, term = _reduced(*live[0], uses)
    return array.transpose([term.index(index) for index in output]), log_scale


def contract_pair(
    left: Any, left_term: Term, right: Any, right_term: Term, uses: Counter
) -> tuple[Any, Term]:
    """Contract two arrays, each without repeated indices, into one.

    `uses` counts the tensors (and the output) that still hold each index; it is brought up to date.
    """
    shared = [index for index in left_term if index in right_term]
    summed = [index for index in shared if uses[index] == 2]
    batch = [index for index in shared if uses[index] > 2]
    for index in summed:
        del uses[index]
    for index in batch:
        uses[index] -= 1
    left_only = [index for index in left_term if index not in shared]
    right_only = [index for index in right_term if index not in shared]
    a = left.transpose([left_term.index(index) for index in (*batch, *left_only, *summed)])
    b = right.transpose([right_term.index(index) for index in (*batch, *summed, *right_only)])
    count = len(batch)
    batch_shape = a.shape[:count]
    left_shape = a.shape[count : count + len(left_only)]
    right_shape = b.shape[count + len(summed) :]
    term = (*batch, *left_only, *right_only)
    if summed:
        inner = math.prod(a.shape[count + len(left_only) :])
        a = a.reshape((*batch_shape, math.prod(left_shape), inner))
        b = b.reshape((*batch_shape, inner, math.prod(right_shape)))
        product = array_module(a).matmul(a, b)
    else:
        a = a.reshape((*batch_shape, math.prod(left_shape), 1))
        b = b.reshape((*batch_shape, 1, math.prod(right_shape)))
        product = a * b
    return product.reshape((*batch_shape, *left_shape, *right_shape)), term


def _reduced(array: Any, term: Term, uses: Counter) -> tuple[Any, Term]:
    """Take the diagonal of repeated indices and sum the ones that nothing else holds."""
    xp = array_module(array)
    for index in [index for index, count in Counter(term).items() if count > 1]:
        while term.count(index) > 1:
            first = term.index(index)
            second = term.index(index, first + 1)
            array = xp.diagonal(array, axis1=first, axis2=second)
            term = (*(name for axis, name in enumerate(term) if axis not in (first, second)), index)
    alone = tuple(axis for axis, index in enumerate(term) if uses[index] == 1)
    if alone:
        for axis in alone:
            del uses[term[axis]]
        array = xp.asarray(array.sum(axis=alone))
        term = tuple(index for axis, index in enumerate(term) if axis not in alone)
    return array, term


def _rescaled(array: Any) -> tuple[Any, Any]:
    xp = array_module(array)
    if array.size == 0 or array.dtype.kind not in "fc":
        return array, 0.0
    peak = xp.abs(array).max()
    if xp is np and (peak == 0 or 1 / _FAR < peak < _FAR):
        return array, 0.0
    reach = _REACH if peak.dtype.itemsize <= 4 else _LONG_REACH
    # A power of two changes no digit of the mantissa; on a device no value is fetched to decide.
    exponent = xp.clip(xp.where(peak > 0, xp.frexp(peak)[1], 0), -reach, reach)
    factor = xp.ldexp(xp.asarray(1.0, dtype=peak.dtype), -exponent)
    return array * factor, exponent * math.log(2.0)
